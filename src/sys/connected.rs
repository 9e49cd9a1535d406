//! Datagrams in batches on a connected socket: whom they go to and come from is known, so that the kernel needs no names.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::bundles::{self, Control};

/// Datagrams per system call.
pub const BATCH: usize = 32;
/// Octets kept of one datagram; one that fills them may have been longer.
pub const DATAGRAM: usize = 4096;

/// Room for one batch.
pub struct Received {
    buffers: Box<[[u8; DATAGRAM]]>,
    lengths: [usize; BATCH],
    count: usize,
}

impl Default for Received {
    fn default() -> Self {
        Self { buffers: vec![[0; DATAGRAM]; BATCH].into(), lengths: [0; BATCH], count: 0 }
    }
}

impl Received {
    /// Takes what has arrived, without waiting.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` where nothing has. What an earlier datagram met (its port is closed) is told here too.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.count = 0;
        // SAFETY: all-zero is a valid value of these plain C structures; every pointer that the kernel follows is set below.
        let mut heads: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut room: libc::c_uint = 0;
        for ((head, vector), buffer) in heads.iter_mut().zip(&mut vectors).zip(self.buffers.iter_mut()) {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = DATAGRAM;
            head.msg_hdr.msg_iov = vector;
            head.msg_hdr.msg_iovlen = 1;
            room += 1;
        }
        // SAFETY: the first `room` of `heads` point to buffers of the stated length that live until after the call.
        let got = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), heads.as_mut_ptr(), room, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let count = usize::try_from(got).unwrap_or(0).min(BATCH);
        for (length, head) in self.lengths.iter_mut().zip(&heads).take(count) {
            *length = usize::try_from(head.msg_len).unwrap_or(0).min(DATAGRAM);
        }
        self.count = count;
        Ok(count)
    }

    /// One datagram of the last [`Received::receive`].
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&[u8]> {
        let length = self.lengths.get(..self.count)?.get(place)?;
        self.buffers.get(place)?.get(..*length)
    }

    /// The same, to be changed in place.
    #[must_use]
    pub fn get_mut(&mut self, place: usize) -> Option<&mut [u8]> {
        let length = self.lengths.get(..self.count)?.get(place)?;
        self.buffers.get_mut(place)?.get_mut(..*length)
    }
}

/// Sends the first of `parts`, ranges of `octets`, without waiting; returns how many, [`BATCH`] at most. With `bundled`, neighbours of the same
/// length go as one ([`bundles`]).
///
/// # Errors
/// As [`bundles::send`].
pub fn send(socket: BorrowedFd<'_>, octets: &[u8], parts: &[Range<usize>], bundled: bool) -> io::Result<usize> {
    match parts {
        [_] => bundles::send::<1, _>(socket, octets, parts, false, &mut [Control::EMPTY; 1], |_, _, _, _| {}),
        _ => bundles::send::<BATCH, _>(socket, octets, parts, bundled, &mut [Control::EMPTY; BATCH], |_, _, _, _| {}),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_batch_arrives_as_it_was_sent() {
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        other.connect(one.local_addr().unwrap()).unwrap();
        let mut received = Received::default();
        assert_eq!(received.receive(other.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send(one.as_fd(), b"abcdef", &[0..1, 1..3, 3..6], false).unwrap(), 3);
        assert_eq!(received.receive(other.as_fd()).unwrap(), 3);
        let seen: Vec<&[u8]> = (0..4).map_while(|place| received.get(place)).collect();
        assert_eq!(seen, [&b"a"[..], b"bc", b"def"]);
        let many: Vec<Range<usize>> = (0..BATCH + 3).map(|_| 0..2).collect();
        for segmented in [false, true] {
            assert_eq!(send(one.as_fd(), b"xy", &many, segmented).unwrap(), BATCH);
            assert_eq!(received.receive(other.as_fd()).unwrap(), BATCH);
            assert!((0..BATCH).all(|place| received.get(place) == Some(b"xy")));
        }
    }

    #[test]
    fn a_segmented_batch_arrives_as_single_datagrams() {
        let (one, other) = (UdpSocket::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        let parts = [0..2, 2..4, 6..8, 4..6, 0..3, 3..4, 4..5, 0..1];
        assert_eq!(send(one.as_fd(), b"abcdefgh", &parts, true).unwrap(), parts.len());
        let mut received = Received::default();
        assert_eq!(received.receive(other.as_fd()).unwrap(), parts.len());
        let seen: Vec<&[u8]> = (0..=parts.len()).map_while(|place| received.get(place)).collect();
        assert_eq!(seen, [&b"ab"[..], b"cd", b"gh", b"ef", b"abc", b"d", b"e", b"a"]);
    }
}
