//! A netlink socket (netlink(7)): the only calls that need `unsafe` for it are here.
//!
//! The kernel handles a netfilter request within `send`: when it returns, every reply is in the receive queue already.
//! So [`Socket::receive`] never waits; [`Socket::wait`] is for notifications and for dumps of several parts.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An `AF_NETLINK` socket of the network namespace it was made in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
}

impl Socket {
    /// Opens and binds a socket to netfilter, as [`Self::open`] does.
    ///
    /// # Errors
    /// The system's.
    pub fn netfilter(buffer: i32) -> io::Result<Self> {
        Self::open(libc::NETLINK_NETFILTER, buffer)
    }

    /// Opens and binds a socket of a netlink protocol, with extended acknowledgements that don't repeat the request.
    /// `buffer` octets of send and receive buffer are asked for; without CAP_NET_ADMIN the system's limits stay.
    ///
    /// # Errors
    /// The system's.
    pub fn open(protocol: i32, buffer: i32) -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let raw = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol)
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut socket = Self { fd, port: 0 };
        socket.bind()?;
        // Both are of kernel 4.12; without them an acknowledgement is longer and says less, nothing else.
        let _ignored = socket.set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        let _ignored = socket.set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        socket.grow(buffer);
        Ok(socket)
    }

    /// Asks for larger buffers; what can't be had is seen as an error of the send that needs it.
    pub fn grow(&self, buffer: i32) {
        let _ignored = self.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, buffer);
        let _ignored = self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer);
    }

    /// The socket's netlink port: the kernel writes it into what this socket caused.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Subscribes to a multicast group.
    ///
    /// # Errors
    /// The system's.
    pub fn join(&self, group: i32) -> io::Result<()> {
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Has the kernel dump only what a request's fixed part names, where it can (Linux 4.20).
    pub fn strict(&self) {
        let _ignored = self.set(libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1);
    }

    /// Has the kernel drop what `port` caused before it is queued here.
    ///
    /// # Errors
    /// The system's.
    pub fn ignore_port(&self, port: u32) -> io::Result<()> {
        // BPF loads words in network order; the header's port (octet 12) is in host order.
        let seen = u32::from_be_bytes(port.to_ne_bytes());
        self.attach(&mut [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, seen),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        ])
    }

    /// Has the kernel drop changes of routes that others than `protocols` made, before they are queued here.
    ///
    /// # Errors
    /// The system's.
    pub fn ignore_routes_but_of(&self, protocols: &[u8]) -> io::Result<()> {
        let (equal, back) = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET | libc::BPF_K);
        // Types are in host order, and BPF loads them in network order.
        let seen = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
        let mut program = vec![
            step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4),
            step(equal, 2, 0, seen(libc::RTM_NEWROUTE)),
            step(equal, 1, 0, seen(libc::RTM_DELROUTE)),
            step(back, 0, 0, u32::MAX),
            // `rtm_protocol`, behind the header of 16 octets.
            step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 16 + 5),
        ];
        for protocol in protocols {
            program.push(step(equal, 0, 1, u32::from(*protocol)));
            program.push(step(back, 0, 0, u32::MAX));
        }
        program.push(step(back, 0, 0, 0));
        self.attach(&mut program)
    }

    fn attach(&self, program: &mut [libc::sock_filter]) -> io::Result<()> {
        let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
        // SAFETY: `filter` points to `program`, so many instructions that live across the call; the kernel copies them.
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                length_of::<libc::sock_fprog>(),
            )
        };
        check(done)
    }

    /// Sends one datagram to the kernel.
    ///
    /// # Errors
    /// The system's; `ENOBUFS` or `EMSGSIZE` when it doesn't fit the send buffer.
    pub fn send(&self, octets: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), octets.as_ptr().cast(), octets.len(), 0) };
        match usize::try_from(sent) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(count) if count == octets.len() => Ok(()),
            Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
        }
    }

    /// Takes one datagram from the queue; `None` when it is empty. A datagram longer than `buffer` is an error.
    ///
    /// # Errors
    /// The system's; `ENOBUFS` once after notifications were lost.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        loop {
            // SAFETY: the pointer and length are those of a live, exclusively borrowed slice.
            let got =
                unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_TRUNC) };
            let Ok(count) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                }
            };
            return match buffer.get(..count) {
                Some(octets) => Ok(Some(octets)),
                None => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
            };
        }
    }

    /// Waits until something is queued; false when `millis` passed first.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, millis: i32) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, count one.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        match ready {
            0 => Ok(false),
            1.. => Ok(true),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hands the socket to the calling tokio runtime, to wait for notifications.
    ///
    /// # Errors
    /// The system's.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by the socket, never changes and is closed only when the socket is dropped, after
        // its registration.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    fn bind(&mut self) -> io::Result<()> {
        // SAFETY: sockaddr_nl is plain data for which zero octets are a valid value.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = u16::try_from(libc::AF_NETLINK).unwrap_or(0);
        // SAFETY: the address lives across the call and the length is its own.
        check(unsafe {
            libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_nl>())
        })?;
        let mut length = length_of::<libc::sockaddr_nl>();
        // SAFETY: both out-pointers are live and exclusively ours; `length` holds the address's size.
        check(unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) })?;
        self.port = address.nl_pid;
        Ok(())
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the value is a live i32 and the length is its own.
        check(unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), length_of::<i32>())
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The number of an interface of the calling thread's network namespace; `None`: there is none of this name.
#[must_use]
pub fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the pointer is that of a live, zero-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// One instruction of BPF.
fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).unwrap_or(0)
}
