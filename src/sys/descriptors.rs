//! Descriptors are for many things, and who may have many must not take the last ones.
//!
//! A new descriptor has the lowest free number. So one of a high number says by itself how many there are, and nothing need be counted:
//!
//! ```text
//!   0 .......................... | ............ | ............ | ............ limit
//!     connections of clients       upstreams      HTTP           control socket, files, nft
//! ```
//! Whoever gets one beyond its part gives it back, or waits until there is room.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::{AtomicU64, Ordering};

/// The limit, once it is known.
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);

/// What a descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A connection of a client that asks.
    Client,
    /// A way to an upstream.
    Upstream,
    /// A connection to `http.listen`.
    Http,
}

impl Use {
    /// How many it leaves to others.
    fn leaves(self, limit: u64) -> u64 {
        match self {
            Self::Client => (limit / 4).min(512),
            Self::Upstream => (limit / 8).min(128),
            Self::Http => (limit / 16).min(32),
        }
    }

    fn may_be(self, number: u64, limit: u64) -> bool {
        number < limit.saturating_sub(self.leaves(limit))
    }

    /// Passes on what is within its part.
    ///
    /// # Errors
    /// `EMFILE`, as from the kernel; it is closed.
    pub fn within<T: AsFd>(self, one: T) -> io::Result<T> {
        if self.fits(&one) { Ok(one) } else { Err(io::Error::from_raw_os_error(libc::EMFILE)) }
    }

    /// Whether it is within its part.
    #[must_use]
    pub fn fits(self, one: &impl AsFd) -> bool {
        let number = u64::try_from(one.as_fd().as_raw_fd()).unwrap_or(u64::MAX);
        self.may_be(number, LIMIT.load(Ordering::Relaxed))
    }
}

/// Raises the soft limit of open files to the hard limit and returns it.
///
/// # Errors
/// The kernel's.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid structure.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) < 0 {
            return Err(io::Error::last_os_error());
        }
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    LIMIT.store(limit.rlim_cur, Ordering::Relaxed);
    Ok(limit.rlim_cur)
}

/// The soft limit of open files.
///
/// # Errors
/// The kernel's.
pub fn limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call gets a valid structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leaves_some_to_those_behind_it() {
        for limit in [64, 200, 1024, 65_536, u64::MAX] {
            let most = |what: Use| limit - what.leaves(limit);
            assert!(most(Use::Client) < most(Use::Upstream) && most(Use::Upstream) < most(Use::Http));
            assert!(most(Use::Http) < limit && most(Use::Client) >= limit / 4 * 3, "{limit}");
            let last = most(Use::Client) - 1;
            assert!(Use::Client.may_be(last, limit) && !Use::Client.may_be(last + 1, limit));
        }
    }
}
