//! What the kernel tells of a table of the legacy iptables in one call (linux/netfilter_ipv4/ip_tables.h): cheaper by far than its rules.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The kernel's `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`: they load and describe a table.
const GET_INFO: i32 = 64;
/// Octets of a table's name.
const NAME: usize = 32;
/// Octets of `struct ipt_getinfo`: the name, hooks, their rules, number and size.
const INFO: usize = NAME + 4 * 13;

/// Changes whenever the number or size of the rules of table `filter` does, or the place of a built-in chain. Needs CAP_NET_RAW and CAP_NET_ADMIN.
///
/// # Errors
/// The kernel's: the table may not be there.
pub fn filter_info(ipv4: bool) -> io::Result<[u8; INFO]> {
    let (family, level) = if ipv4 { (libc::AF_INET, libc::SOL_IP) } else { (libc::AF_INET6, libc::SOL_IPV6) };
    // SAFETY: no pointers; the result is checked.
    let raw = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` is a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut info = [0u8; INFO];
    if let Some(name) = info.get_mut(..6) {
        name.copy_from_slice(b"filter");
    }
    let mut length = libc::socklen_t::try_from(INFO).unwrap_or(0);
    // SAFETY: `info` and `length` are live and exclusively ours; `length` holds the size of `info`.
    let got =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, GET_INFO, info.as_mut_ptr().cast(), &raw mut length) };
    if got == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}
