//! What the kernel says of this process (proc(5)).
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

/// What the process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of the user and the system.
    pub cpu: Duration,
    /// Octets in memory.
    pub resident: u64,
    /// Octets of address space.
    pub virtual_memory: u64,
    /// Descriptors that the process has open, sockets among them.
    pub open_files: u64,
    /// The soft limit of them.
    pub most_files: u64,
    /// Time since its start.
    pub age: Duration,
}

/// As of now.
///
/// # Errors
/// /proc can't be read.
pub fn usage() -> io::Result<Usage> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat has another form");
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(") ").ok_or_else(broken)?;
    let fields: Vec<u64> = fields.split_whitespace().skip(1).map(|field| field.parse().unwrap_or_default()).collect();
    // Of proc(5), numbered from 1: utime 14, stime 15, starttime 22, vsize 23, rss 24; here from the fourth on.
    let field = |number: usize| number.checked_sub(4).and_then(|place| fields.get(place)).copied().ok_or_else(broken);
    let ticks = setting(libc::_SC_CLK_TCK)?;
    let span = |count: u64| Duration::from_secs(count / ticks) + Duration::from_secs(count % ticks) / divisor(ticks);
    Ok(Usage {
        cpu: span(field(14)?.saturating_add(field(15)?)),
        resident: field(24)?.saturating_mul(setting(libc::_SC_PAGESIZE)?),
        virtual_memory: field(23)?,
        open_files: u64::try_from(std::fs::read_dir("/proc/self/fd")?.count()).unwrap_or(u64::MAX),
        most_files: super::descriptors::limit()?,
        age: super::clock::since_boot().saturating_sub(span(field(22)?)),
    })
}

fn divisor(ticks: u64) -> u32 {
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// A value of the system, asked by sysconf(3).
fn setting(name: libc::c_int) -> io::Result<u64> {
    // SAFETY: a number goes in, a number comes out.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_plausible() {
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(50) {}
        let usage = usage().unwrap();
        assert!(usage.cpu >= Duration::from_millis(20), "{usage:?}");
        assert!(usage.resident > 1 << 20 && usage.virtual_memory > usage.resident, "{usage:?}");
        assert!(usage.open_files >= 3 && usage.most_files >= usage.open_files, "{usage:?}");
        assert!(usage.age < Duration::from_secs(3600 * 6), "{usage:?}");
    }
}
