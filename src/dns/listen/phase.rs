//! How long a listener serves, and how it ends.
//!
//! ```text
//!   Serve --> Pause --> Stop     a restart: what waits in the kernel is the next process's; questions that were read are answered
//!         \-> Leave              a reload: nothing new comes to it; what waits is answered, then it ends by itself. Its connections
//!                                end too, unless another listener has their address
//! ```

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::sys::poll::Bell;

/// The port of nobody (discard).
const NOBODY: u16 = 9;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It takes questions.
    Serve,
    /// It takes none any more, and leaves them in the kernel.
    Pause,
    /// It takes those that have come.
    Leave,
    /// It ends, and its sockets close.
    Stop,
}

/// Where a listener is in its life. One for all its threads and tasks.
pub struct Phase {
    mode: AtomicU8,
    bell: Bell,
    quiet: AtomicUsize,
    over: watch::Sender<bool>,
    closed: watch::Sender<bool>,
}

impl Phase {
    /// It serves.
    ///
    /// # Errors
    /// The kernel has no descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            mode: AtomicU8::new(0),
            bell: Bell::new()?,
            quiet: AtomicUsize::new(0),
            over: watch::Sender::new(false),
            closed: watch::Sender::new(false),
        })
    }

    /// The phase at this moment.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            0 => Mode::Serve,
            1 => Mode::Pause,
            2 => Mode::Leave,
            _ => Mode::Stop,
        }
    }

    /// Goes on to another mode; there is no way back.
    pub fn enter(&self, mode: Mode) {
        let number = match mode {
            Mode::Serve => 0,
            Mode::Pause => 1,
            Mode::Leave => 2,
            Mode::Stop => 3,
        };
        self.mode.fetch_max(number, Ordering::AcqRel);
        // Without it they see the mode a little later.
        if let Err(error) = self.bell.ring() {
            tracing::debug!(%error, "waking a DNS worker");
        }
        self.over.send_replace(true);
        if mode != Mode::Leave {
            self.close();
        }
    }

    /// Ends the connections, once what was asked is answered.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Rings from the first change of the mode on.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Tells when connections are to end.
    #[must_use]
    pub fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Tells when no more is to be taken.
    #[must_use]
    pub fn over(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// A worker reads no more.
    pub fn note_quiet(&self) {
        self.quiet.fetch_add(1, Ordering::AcqRel);
    }

    /// How many don't.
    #[must_use]
    pub fn quiet(&self) -> usize {
        self.quiet.load(Ordering::Acquire)
    }
}

/// Nothing new comes to this socket from now on, while others on its address go on; what has come stays in it. A connected socket is none of its group
/// (SO_REUSEPORT), and takes datagrams of its peer alone; this peer is nobody.
///
/// # Errors
/// The kernel's.
pub fn close_to_new(socket: &UdpSocket) -> io::Result<()> {
    let ip = match socket.local_addr()? {
        SocketAddr::V4(own) if own.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(own) if own.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V6(mut own) => {
            own.set_port(NOBODY);
            return socket.connect(own);
        }
        SocketAddr::V4(own) => (*own.ip()).into(),
    };
    socket.connect(SocketAddr::new(ip, NOBODY))
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn member(at: SocketAddr) -> UdpSocket {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&at.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.into()
    }

    fn count(socket: &UdpSocket) -> usize {
        let mut buffer = [0; 16];
        std::iter::from_fn(|| socket.recv_from(&mut buffer).ok()).count()
    }

    #[test]
    fn nothing_new_comes_to_a_socket_on_its_way_out_and_nothing_is_lost() {
        for at in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let first = member(at.parse().unwrap());
            let own = first.local_addr().unwrap();
            let second = member(own);
            let to = if own.ip().is_unspecified() {
                SocketAddr::new(
                    if own.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() },
                    own.port(),
                )
            } else {
                own
            };
            let send = |times: usize| {
                for _ in 0..times {
                    UdpSocket::bind((to.ip(), 0)).unwrap().send_to(b"x", to).unwrap();
                }
            };
            send(60);
            close_to_new(&second).unwrap();
            send(60);
            let (one, two) = (count(&first), count(&second));
            assert_eq!(one + two, 120, "{at}");
            assert!(two > 0 && two <= 60, "{at}: {two} of the first sixty");
            send(20);
            assert_eq!((count(&first), count(&second)), (20, 0), "{at}");
        }
    }
}
