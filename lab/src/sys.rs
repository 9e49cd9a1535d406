//! The system calls that std does not offer: entering a namespace, a netlink socket, signals.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Moves the calling thread into the network namespace that `file` (below `/run/netns`) stands for.
///
/// # Errors
/// The kernel's.
pub fn enter_network(file: &File) -> io::Result<()> {
    // SAFETY: setns takes a descriptor that `file` keeps open and a flag; it touches no memory of ours.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Moves the calling thread into a fresh network namespace.
///
/// # Errors
/// The kernel's.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: unshare takes a flag; only the calling thread changes its namespace.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Lets this process open as many files as it may.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: likewise.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// Lets another process open no more files than this, or than it may at most.
///
/// # Errors
/// The kernel's, ESRCH when it is gone.
pub fn limit_open_files(pid: u32, most: Option<u64>) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to nothing, and to a local that outlives the call.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) })?;
    limit.rlim_cur = most.map_or(limit.rlim_max, |most| most.min(limit.rlim_max));
    // SAFETY: likewise, the other way round.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) }).map(drop)
}

/// Sends a signal to one process.
///
/// # Errors
/// The kernel's, ESRCH when it is gone.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill takes two numbers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// How many segments of a connection were sent again so far, its SYN included.
///
/// # Errors
/// The kernel's.
pub fn sent_again(stream: &std::net::TcpStream) -> io::Result<u32> {
    // SAFETY: tcp_info is plain numbers, for which all zeros is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets into `info`, which outlives the call.
    check(unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    })?;
    Ok(info.tcpi_total_retrans)
}

/// Whether the process may make namespaces.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// A socket that hears of every route added or removed in the calling thread's network namespace. `recv` gives up after
/// 100 ms.
///
/// # Errors
/// The kernel's.
pub fn route_events() -> io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers; the descriptor it returns is owned by nobody else.
    let socket = unsafe {
        let fd = check(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE))?;
        OwnedFd::from_raw_fd(fd)
    };
    let room: libc::c_int = 32 << 20;
    let wait = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    // SAFETY: sockaddr_nl is plain numbers, for which all zeros is valid.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = (libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE) as u32;
    // SAFETY: each pointer is to a local that outlives the call, with its own size.
    unsafe {
        check(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const room).cast(),
            size_of_val(&room) as libc::socklen_t,
        ))?;
        check(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const wait).cast(),
            size_of_val(&wait) as libc::socklen_t,
        ))?;
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t))?;
    }
    Ok(socket)
}

/// Reads one datagram.
///
/// # Errors
/// `WouldBlock` when none came in time; the kernel's.
pub fn receive(socket: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` octets into `into`.
    let length = unsafe { libc::recv(socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), 0) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
