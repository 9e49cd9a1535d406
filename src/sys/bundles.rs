//! Many datagrams in one system call (`sendmmsg`). Neighbours that are alike, of one length and to one peer, go to the kernel as one, which takes them
//! apart where they leave (UDP_SEGMENT, udp(7); since Linux 4.18): on the wire nothing differs, and the way there is gone once for all.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Ancillary data, aligned as `cmsghdr` asks: room for a local address and the length of segments.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Control(pub [u8; 64]);

impl Control {
    /// Nothing in it.
    pub const EMPTY: Self = Self([0; 64]);
}

/// One datagram to be sent.
pub trait Part {
    /// Where its octets are.
    fn range(&self) -> Range<usize>;
    /// Whether it goes where the other goes, from the same address.
    fn same_way(&self, other: &Self) -> bool;
}

impl Part for Range<usize> {
    fn range(&self) -> Self {
        self.clone()
    }

    fn same_way(&self, _: &Self) -> bool {
        true
    }
}

fn alike<P: Part>(one: &P, other: &P) -> bool {
    one.range().len() == other.range().len() && one.same_way(other)
}

/// How many of `parts`, from the first on, go as one.
pub fn first_bundle<P: Part>(parts: &[P]) -> usize {
    parts.chunk_by(alike).next().map_or(0, <[P]>::len)
}

/// Sends the first `N` of `parts` at most, without waiting; returns how many. `bundled`: those that are alike as one. `address` sets the peer
/// and the ancillary data of the message at a place, for the part that it begins with.
///
/// # Errors
/// The kernel's, when it took none. What an earlier datagram met is told here too. Where the first is a bundle, also that the way there can't take
/// datagrams apart.
pub fn send<const N: usize, P: Part>(
    socket: BorrowedFd<'_>,
    octets: &[u8],
    parts: &[P],
    bundled: bool,
    controls: &mut [Control],
    mut address: impl FnMut(usize, &P, &mut libc::msghdr, &mut Control),
) -> io::Result<usize> {
    // SAFETY: all-zero is a valid value of these plain C structures.
    let mut heads: [libc::mmsghdr; N] = unsafe { mem::zeroed() };
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; N];
    let mut counts = [0usize; N];
    let mut count: libc::c_uint = 0;
    let parts = parts.get(..N).unwrap_or(parts);
    let mut free = vectors.as_mut_slice();
    let bundles = parts.chunk_by(|one, other| bundled && alike(one, other));
    for ((((place, bundle), head), control), size) in
        bundles.enumerate().zip(&mut heads).zip(&mut *controls).zip(&mut counts)
    {
        let Some(first) = bundle.first() else { continue };
        address(place, first, &mut head.msg_hdr, control);
        if bundle.len() > 1 {
            put_segments(&mut head.msg_hdr, control, first.range().len());
        }
        let mut used = 0usize;
        // What lies side by side needs one vector.
        for run in bundle.chunk_by(|one, other| one.range().end == other.range().start) {
            let range = run.first().map_or(0, |part| part.range().start)..run.last().map_or(0, |part| part.range().end);
            let payload = octets.get(range).unwrap_or_default();
            if let Some(vector) = free.get_mut(used) {
                // The kernel only reads from it; iovec has one pointer type for both directions.
                vector.iov_base = payload.as_ptr().cast_mut().cast();
                vector.iov_len = payload.len();
                used += 1;
            }
        }
        let (own, rest) = free.split_at_mut(used);
        head.msg_hdr.msg_iov = own.as_mut_ptr();
        head.msg_hdr.msg_iovlen = used as _;
        *size = bundle.len();
        free = rest;
        count += 1;
    }
    // SAFETY: the first `count` messages are set up; all they point to lives until after the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), heads.as_mut_ptr(), count, libc::MSG_DONTWAIT as _) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(counts.iter().take(usize::try_from(sent).unwrap_or(0)).sum())
}

/// Adds to the ancillary data of a message that its payload is to leave in datagrams of `length` octets each. `control` holds what `head` has already,
/// if anything.
fn put_segments(head: &mut libc::msghdr, control: &mut Control, length: usize) {
    let Ok(length) = u16::try_from(length) else { return };
    let used = if head.msg_control.is_null() { 0 } else { head.msg_controllen };
    let size = mem::size_of::<u16>() as u32;
    // SAFETY: takes no pointer.
    let space = unsafe { libc::CMSG_SPACE(size) } as usize;
    let Some(room) = control.0.get_mut(used..).filter(|room| room.len() >= space) else { return };
    let at = room.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: `at` lies within the buffer, with room for a header and its payload. What is there already has the length of CMSG_SPACE, so that `at` is
    // aligned like the buffer.
    unsafe {
        (*at).cmsg_level = libc::SOL_UDP;
        (*at).cmsg_type = libc::UDP_SEGMENT;
        (*at).cmsg_len = libc::CMSG_LEN(size) as _;
        std::ptr::write_unaligned(libc::CMSG_DATA(at).cast(), length);
    }
    head.msg_control = std::ptr::from_mut(control).cast();
    head.msg_controllen = (used + space) as _;
}
