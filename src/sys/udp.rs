//! Datagrams in batches (`recvmmsg`, `sendmmsg`), each with the local address it was sent to (`IP_PKTINFO`, `IPV6_RECVPKTINFO`), so that
//! a reply leaves from the address that was asked. Also the limit of open files.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::bundles::{self, Control, Part};

/// Datagrams per system call.
pub const BATCH: usize = 32;
/// Octets kept of one datagram. A question needs less than 600; whatever is longer is marked as cut.
pub const DATAGRAM: usize = 2048;

/// The local address a datagram was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address; IPv4-mapped where an IPv6 socket received IPv4.
    pub ip: IpAddr,
    /// Interface, for link-local addresses; else 0.
    pub interface: u32,
}

/// What came with one datagram.
#[derive(Clone, Copy)]
struct Meta {
    len: usize,
    peer: Option<SocketAddr>,
    local: Option<Local>,
    cut: bool,
}

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The octets of the datagram, without its headers.
    pub payload: &'a [u8],
    /// Who sent it.
    pub peer: SocketAddr,
    /// Where it was sent to, if the kernel said so.
    pub local: Option<Local>,
    /// Whether it was longer than [`DATAGRAM`].
    pub cut: bool,
}

/// Names and ancillary data of one batch, kept from call to call so that they needn't be cleared each time: whoever uses a place writes all of it that
/// counts.
struct Envelopes<const N: usize> {
    names: [libc::sockaddr_storage; N],
    controls: [Control; N],
}

impl<const N: usize> Envelopes<N> {
    fn new() -> Self {
        // SAFETY: all-zero is a valid value of this plain C structure.
        let names = unsafe { mem::zeroed() };
        Self { names, controls: [Control::EMPTY; N] }
    }
}

/// Room for one batch of received datagrams.
pub struct Received {
    buffers: Box<[[u8; DATAGRAM]; BATCH]>,
    envelopes: Box<Envelopes<BATCH>>,
    meta: [Meta; BATCH],
    count: usize,
}

impl Default for Received {
    fn default() -> Self {
        let meta = Meta { len: 0, peer: None, local: None, cut: false };
        Self {
            buffers: Box::new([[0; DATAGRAM]; BATCH]),
            envelopes: Box::new(Envelopes::new()),
            meta: [meta; BATCH],
            count: 0,
        }
    }
}

impl Received {
    /// Takes what has arrived, without waiting.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` where nothing has.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.count = 0;
        let Envelopes { names, controls } = &mut *self.envelopes;
        // SAFETY: all-zero is a valid value of this plain C structure; every pointer that the kernel follows is set below.
        let mut heads: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        for ((((head, vector), buffer), name), control) in
            heads.iter_mut().zip(&mut vectors).zip(self.buffers.iter_mut()).zip(&mut *names).zip(controls)
        {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = DATAGRAM;
            head.msg_hdr.msg_iov = vector;
            head.msg_hdr.msg_iovlen = 1;
            head.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            head.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
            head.msg_hdr.msg_control = std::ptr::from_mut(control).cast();
            head.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        // SAFETY: `heads` holds BATCH messages whose buffers, names and controls live until after the call and have the stated lengths.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                heads.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let count = usize::try_from(got).unwrap_or(0).min(BATCH);
        for ((meta, head), name) in self.meta.iter_mut().zip(&heads).zip(&*names).take(count) {
            meta.len = usize::try_from(head.msg_len).unwrap_or(0).min(DATAGRAM);
            meta.peer = if head.msg_hdr.msg_namelen > 0 { peer_of(name) } else { None };
            meta.local = local_of(&head.msg_hdr);
            meta.cut = head.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        }
        self.count = count;
        Ok(count)
    }

    /// The datagrams of the last [`Received::receive`].
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.meta.iter().zip(self.buffers.iter()).take(self.count).filter_map(|(meta, buffer)| {
            Some(Datagram { payload: buffer.get(..meta.len)?, peer: meta.peer?, local: meta.local, cut: meta.cut })
        })
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).unwrap_or(0)
}

/// The sender, from the kernel's form.
fn peer_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, which is smaller than it and no stricter aligned.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: likewise for sockaddr_in6.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

/// The local address, from the ancillary data.
fn local_of(head: &libc::msghdr) -> Option<Local> {
    // SAFETY: `head` was filled by the kernel; its control buffer outlives this call and CMSG_* stay within msg_controllen.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(head);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = std::ptr::read_unaligned(data.cast::<libc::in_pktinfo>());
                    let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    return Some(Local { ip: IpAddr::V4(ip), interface: 0 });
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = std::ptr::read_unaligned(data.cast::<libc::in6_pktinfo>());
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    // Only a link-local address needs its interface; any other may be answered by whichever route leads back.
                    let interface = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                    return Some(Local { ip: IpAddr::V6(ip), interface });
                }
                _ => at = libc::CMSG_NXTHDR(head, at),
            }
        }
    }
    None
}

/// One datagram to be sent.
struct Pending {
    start: usize,
    end: usize,
    peer: SocketAddr,
    local: Option<Local>,
}

impl Part for Pending {
    fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    fn same_way(&self, other: &Self) -> bool {
        self.peer == other.peer && self.local == other.local
    }
}

/// Datagrams to be sent in one system call.
pub struct Sending {
    octets: Vec<u8>,
    pending: Vec<Pending>,
    envelopes: Box<Envelopes<BATCH>>,
}

impl Default for Sending {
    fn default() -> Self {
        Self { octets: Vec::new(), pending: Vec::new(), envelopes: Box::new(Envelopes::new()) }
    }
}

impl Sending {
    /// Adds a datagram that `write` appends to the buffer; nothing is added when it appends nothing.
    pub fn push(&mut self, peer: SocketAddr, local: Option<Local>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.octets.len();
        write(&mut self.octets);
        let end = self.octets.len();
        if end > start {
            self.pending.push(Pending { start, end, peer, local });
        }
    }

    /// What is to be sent, to whom and from where.
    pub fn messages(&self) -> impl Iterator<Item = (&[u8], SocketAddr, Option<Local>)> {
        let whole =
            |pending: &Pending| Some((self.octets.get(pending.start..pending.end)?, pending.peer, pending.local));
        self.pending.iter().filter_map(whole)
    }

    /// Sends everything; what goes to one peer not always in order. A datagram that the kernel refuses (no route, no room) is skipped: to its client it
    /// is a lost packet. Returns how many were sent and how many skipped.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> (usize, usize) {
        let (mut sent, mut skipped, mut from) = (0usize, 0usize, 0usize);
        // Up to here each goes by itself.
        let mut single = 0usize;
        // Other resolvers ask much from few ports: what is alike and side by side goes as one. To each peer in the order in which it was pushed.
        self.pending.sort_unstable_by_key(|pending| (pending.peer, pending.start));
        while let Some(rest) = self.pending.get(from..).filter(|rest| !rest.is_empty()) {
            let bundled = from >= single;
            let most = if bundled { BATCH } else { single.saturating_sub(from).min(BATCH) };
            let part = rest.get(..rest.len().min(most)).unwrap_or(rest);
            let result = match part {
                [_] => send_batch::<1, _>(socket, &self.octets, part, false, &mut self.envelopes),
                _ => send_batch::<BATCH, _>(socket, &self.octets, part, bundled, &mut self.envelopes),
            };
            match result {
                Ok(count) if count > 0 => {
                    sent += count;
                    from += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Not every way can take datagrams apart.
                Err(_) if bundled && bundles::first_bundle(part) > 1 => single = from + bundles::first_bundle(part),
                Ok(_) | Err(_) => {
                    skipped += 1;
                    from += 1;
                }
            }
        }
        self.pending.clear();
        self.octets.clear();
        (sent, skipped)
    }
}

/// Sends the first `N` of `part` at most (`M` must not be less). What is set up is as large as `N`, so that one datagram doesn't pay for a whole batch.
fn send_batch<const N: usize, const M: usize>(
    socket: BorrowedFd<'_>,
    octets: &[u8],
    part: &[Pending],
    bundled: bool,
    envelopes: &mut Envelopes<M>,
) -> io::Result<usize> {
    let Envelopes { names, controls } = envelopes;
    bundles::send::<N, _>(socket, octets, part, bundled, controls, |place, datagram, head, control| {
        if let Some(name) = names.get_mut(place) {
            head.msg_namelen = write_name(name, datagram.peer);
            head.msg_name = std::ptr::from_mut(name).cast();
        }
        write_local(head, control, datagram.local);
    })
}

/// Writes `peer` in the kernel's form and returns its length.
fn write_name(name: &mut libc::sockaddr_storage, peer: SocketAddr) -> libc::socklen_t {
    match peer {
        SocketAddr::V4(v4) => {
            // SAFETY: sockaddr_in fits into the storage and all-zero is valid.
            let to = unsafe { &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            socklen::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: likewise for sockaddr_in6.
            let to = unsafe { &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_flowinfo = 0;
            to.sin6_addr.s6_addr = v6.ip().octets();
            to.sin6_scope_id = v6.scope_id();
            socklen::<libc::sockaddr_in6>()
        }
    }
}

/// Asks the kernel to send from `local`. Whatever `control` held before, all that the kernel reads is written.
fn write_local(head: &mut libc::msghdr, control: &mut Control, local: Option<Local>) {
    let Some(local) = local else { return };
    head.msg_control = std::ptr::from_mut(control).cast();
    head.msg_controllen = mem::size_of::<Control>() as _;
    // SAFETY: the control buffer is initialised, aligned and large enough for one header with either payload; the payload is written
    // unaligned within it, and msg_controllen is then set to just that message.
    unsafe {
        let at = libc::CMSG_FIRSTHDR(head);
        if at.is_null() {
            head.msg_control = std::ptr::null_mut();
            head.msg_controllen = 0;
            return;
        }
        match local.ip {
            IpAddr::V4(ip) => {
                let mut info: libc::in_pktinfo = MaybeUninit::zeroed().assume_init();
                info.ipi_spec_dst.s_addr = u32::from(ip).to_be();
                let len = mem::size_of::<libc::in_pktinfo>() as u32;
                (*at).cmsg_level = libc::IPPROTO_IP;
                (*at).cmsg_type = libc::IP_PKTINFO;
                (*at).cmsg_len = libc::CMSG_LEN(len) as _;
                std::ptr::write_unaligned(libc::CMSG_DATA(at).cast(), info);
                head.msg_controllen = libc::CMSG_SPACE(len) as _;
            }
            IpAddr::V6(ip) => {
                let mut info: libc::in6_pktinfo = MaybeUninit::zeroed().assume_init();
                info.ipi6_addr.s6_addr = ip.octets();
                info.ipi6_ifindex = local.interface as _;
                let len = mem::size_of::<libc::in6_pktinfo>() as u32;
                (*at).cmsg_level = libc::IPPROTO_IPV6;
                (*at).cmsg_type = libc::IPV6_PKTINFO;
                (*at).cmsg_len = libc::CMSG_LEN(len) as _;
                std::ptr::write_unaligned(libc::CMSG_DATA(at).cast(), info);
                head.msg_controllen = libc::CMSG_SPACE(len) as _;
            }
        }
    }
}

/// Sends one datagram without waiting.
///
/// # Errors
/// The kernel's.
pub fn send_one(socket: BorrowedFd<'_>, payload: &[u8], peer: SocketAddr, local: Option<Local>) -> io::Result<()> {
    let one = [Pending { start: 0, end: payload.len(), peer, local }];
    let mut envelopes = Envelopes::<1>::new();
    loop {
        match send_batch::<1, _>(socket, payload, &one, false, &mut envelopes) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Asks the kernel to tell the local address of each datagram.
///
/// # Errors
/// The kernel's.
pub fn want_local_address(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which lives until after the call.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&on).cast(), socklen::<libc::c_int>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks for room for `octets` of datagrams that nobody has read yet: beyond the system's limit where the process may (CAP_NET_ADMIN), else
/// up to it.
///
/// # Errors
/// The kernel's.
pub fn want_receive_buffer(socket: BorrowedFd<'_>, octets: libc::c_int) -> io::Result<()> {
    for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
        // SAFETY: the option takes an int, which lives until after the call.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(&octets).cast(),
                socklen::<libc::c_int>(),
            )
        };
        if done == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    fn reply_source(bind: &str, ask: SocketAddr, from: &str) -> SocketAddr {
        let server = UdpSocket::bind(bind).unwrap();
        want_local_address(server.as_fd(), bind.starts_with('[')).unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind(from).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for text in [b"one", b"two"] {
            client.send_to(text, SocketAddr::new(ask.ip(), port)).unwrap();
        }
        let mut received = Received::default();
        let mut sending = Sending::default();
        let mut seen = 0;
        while seen < 2 {
            seen += received.receive(server.as_fd()).unwrap();
            for datagram in received.iter() {
                assert_eq!(datagram.local.unwrap().ip, ask.ip());
                assert!(!datagram.cut);
                sending.push(datagram.peer, datagram.local, |out| out.extend_from_slice(datagram.payload));
            }
            sending.flush(server.as_fd());
        }
        let mut buffer = [0; 16];
        let (len, source) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"one");
        source
    }

    #[test]
    fn replies_leave_from_the_address_that_was_asked() {
        let asked = "127.0.0.77:0".parse().unwrap();
        assert_eq!(reply_source("0.0.0.0:0", asked, "127.0.0.1:0").ip(), asked.ip());
        let asked = "[::1]:0".parse().unwrap();
        assert_eq!(reply_source("[::]:0", asked, "[::1]:0").ip(), asked.ip());
    }

    #[test]
    fn many_replies_reach_each_their_client_from_the_address_that_was_asked() {
        for host in ["127.0.0.78", "::1"] {
            let host: IpAddr = host.parse().unwrap();
            let server = UdpSocket::bind((host, 0)).unwrap();
            let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind((host, 0)).unwrap()).collect();
            let mut sending = Sending::default();
            let mut expected = vec![Vec::new(); clients.len()];
            for number in 0..100usize {
                let client = number * 7 % clients.len();
                let text = format!("{}{number}", "x".repeat(number % 4 * 9));
                let local = Some(Local { ip: host, interface: 0 });
                sending
                    .push(clients[client].local_addr().unwrap(), local, |out| out.extend_from_slice(text.as_bytes()));
                expected[client].push(text);
            }
            assert_eq!(sending.flush(server.as_fd()), (100, 0));
            for (client, expected) in clients.iter().zip(&mut expected) {
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut seen = Vec::new();
                while seen.len() < expected.len() {
                    let mut buffer = [0; 64];
                    let (len, source) = client.recv_from(&mut buffer).unwrap();
                    assert_eq!(source, server.local_addr().unwrap());
                    seen.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
                }
                seen.sort();
                expected.sort();
                assert_eq!(seen, *expected);
            }
        }
    }

    #[test]
    fn where_datagrams_cant_be_taken_apart_each_goes_by_itself() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Without checksums the kernel takes nothing apart.
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, which lives until after the call.
        let done = unsafe {
            let value = std::ptr::from_ref(&on).cast();
            libc::setsockopt(server.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, value, socklen::<libc::c_int>())
        };
        assert_eq!(done, 0);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut sending = Sending::default();
        for number in 0..BATCH + 9 {
            sending.push(client.local_addr().unwrap(), None, |out| out.extend_from_slice(&[number as u8; 20]));
        }
        assert_eq!(sending.flush(server.as_fd()), (BATCH + 9, 0));
        let mut seen: Vec<u8> = Vec::new();
        while seen.len() < BATCH + 9 {
            let mut buffer = [0; 64];
            assert_eq!(client.recv(&mut buffer).unwrap(), 20);
            seen.push(buffer[0]);
        }
        seen.sort();
        assert!(seen.into_iter().eq(0..BATCH as u8 + 9));
    }

    #[test]
    fn a_long_datagram_is_marked_as_cut() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[7; DATAGRAM + 1], server.local_addr().unwrap()).unwrap();
        let mut received = Received::default();
        received.receive(server.as_fd()).unwrap();
        let datagram = received.iter().next().unwrap();
        assert!(datagram.cut);
        assert_eq!(datagram.payload.len(), DATAGRAM);
    }
}
