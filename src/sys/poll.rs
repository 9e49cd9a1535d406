//! Waiting for many sockets at once (`epoll`), and a bell that another thread rings (`eventfd`).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is told at once; what is ready beyond it is told the next time.
const EVENTS: usize = 64;

/// Sockets that are waited for. A socket that is closed is not waited for any more.
pub struct Poll {
    epoll: OwnedFd,
    events: [libc::epoll_event; EVENTS],
    ready: usize,
}

impl Poll {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        Ok(Self { epoll: owned(fd)?, events: [libc::epoll_event { events: 0, u64: 0 }; EVENTS], ready: 0 })
    }

    /// Has `token` told whenever something can be read from `fd`, or an error is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: both descriptors are open, the event lives until after the call.
        let done = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for it no longer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: both descriptors are open, the event lives until after the call.
        let done = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), &mut event) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Lets a task wait until something is ready. Must be called within the runtime; it is told once of what is ready until all of it was taken.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watched(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let epoll = self.epoll.try_clone()?;
        // SAFETY: the descriptor is its own, and is closed when it is dropped, not before.
        unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }.map_err(Into::into)
    }

    /// Waits until something is ready, at most so long (in whole milliseconds).
    ///
    /// # Errors
    /// The kernel's; `Interrupted` on a signal.
    pub fn wait(&mut self, most: Duration) -> io::Result<()> {
        self.ready = 0;
        let most = libc::c_int::try_from(most.as_millis()).unwrap_or(libc::c_int::MAX);
        let room = libc::c_int::try_from(EVENTS).unwrap_or(1);
        // SAFETY: `events` has room for EVENTS entries and lives until after the call.
        let got = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), room, most) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        self.ready = usize::try_from(got).unwrap_or(0);
        Ok(())
    }

    /// The token at this place among those that the last [`Poll::wait`] found ready.
    #[must_use]
    pub fn ready(&self, place: usize) -> Option<u64> {
        self.events.get(..self.ready)?.get(place).map(|event| event.u64)
    }
}

/// Wakes a thread that waits in [`Poll::wait`].
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// Silent.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        owned(fd).map(Self)
    }

    /// Rings; it rings on until [`Bell::silence`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn ring(&self) -> io::Result<()> {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight octets that live until after the call.
        let done = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        let error = io::Error::last_os_error();
        // A counter that is full has been ringing for long.
        if done < 0 && error.kind() != io::ErrorKind::WouldBlock { Err(error) } else { Ok(()) }
    }

    /// Makes it silent until it is rung again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn silence(&self) -> io::Result<()> {
        let mut count = [0u8; 8];
        // SAFETY: reads into eight octets that live until after the call.
        let done = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        let error = io::Error::last_os_error();
        if done < 0 && error.kind() != io::ErrorKind::WouldBlock { Err(error) } else { Ok(()) }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given out this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_wakes_until_it_is_silenced() {
        let mut poll = Poll::new().unwrap();
        let bell = Bell::new().unwrap();
        poll.add(bell.as_fd(), 7).unwrap();
        poll.wait(Duration::ZERO).unwrap();
        assert_eq!(poll.ready(0), None);
        bell.ring().unwrap();
        bell.ring().unwrap();
        for _ in 0..2 {
            poll.wait(Duration::from_secs(10)).unwrap();
            assert_eq!((poll.ready(0), poll.ready(1)), (Some(7), None));
        }
        bell.silence().unwrap();
        bell.silence().unwrap();
        poll.wait(Duration::ZERO).unwrap();
        assert_eq!(poll.ready(0), None);
    }
}
