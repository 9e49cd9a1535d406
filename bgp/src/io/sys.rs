//! Socket options and calls that no safe crate offers. The only file of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive, Type};
use tokio::io::unix::AsyncFd;

use crate::config::{PeerConfig, Role};

pub mod tcp_ao;

/// Longest TCP-MD5 key, octets (`TCP_MD5SIG_MAXKEYLEN`).
pub const MAX_MD5_KEY: usize = 80;
/// Octets the kernel may hold unsent: few, so that a fresh route isn't behind a long replay in there.
const NOT_SENT: libc::c_int = 256 * 1024;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MAX_MD5_KEY],
}

fn set<T>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: `value` points to `length` readable octets for the whole call; the kernel copies them and keeps no pointer.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn set_int(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set(fd, level, name, &value)
}

/// Names what could not be set, so that an operator knows which line of the configuration it comes from.
fn named(what: &str, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}

/// Sets the TCP-MD5 key (RFC 2385) that segments from and to `peer` must bear.
pub fn set_md5(socket: &Socket, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    let length = u16::try_from(key.len()).ok().filter(|length| usize::from(*length) <= MAX_MD5_KEY);
    let Some(key_length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "TCP-MD5: a password of more than 80 octets"));
    };
    let mut octets = [0; MAX_MD5_KEY];
    for (to, from) in octets.iter_mut().zip(key) {
        *to = *from;
    }
    let address = socket2::SockAddr::from(SocketAddr::new(peer, 0));
    // SAFETY: all octets zero is a valid `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let count = usize::try_from(address.len()).unwrap_or(0).min(size_of::<libc::sockaddr_storage>());
    // SAFETY: source and target are distinct objects, each of at least `count` octets.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            std::ptr::from_mut(&mut storage).cast::<u8>(),
            count,
        );
    }
    let signature = TcpMd5Sig { address: storage, flags: 0, prefix_length: 0, key_length, interface: 0, key: octets };
    named("TCP-MD5 can't be set", set(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_MD5SIG, &signature))
}

/// Sets what proves that segments are the peer's: TCP-AO where that is configured, else TCP-MD5.
fn set_password(socket: &Socket, peer: &PeerConfig) -> io::Result<()> {
    match (&peer.password, &peer.tcp_ao) {
        (Some(password), Some(ao)) => tcp_ao::set_key(socket, peer.address, ao, password.octets()),
        (Some(password), None) => set_md5(socket, peer.address, password.octets()),
        (None, Some(_)) => Err(io::Error::new(io::ErrorKind::InvalidInput, "TCP-AO can't be set: it has no password")),
        (None, None) => Ok(()),
    }
}

/// The TTL that packets to the peer leave with, and the least that its packets may arrive with.
fn ttl(peer: &PeerConfig, internal: bool) -> (Option<u8>, Option<u8>) {
    let hops = peer.multihop.unwrap_or(1).max(1);
    match (peer.ttl_security, peer.multihop) {
        // RFC 5082 section 3.
        (true, _) => (Some(255), Some(u8::MAX - (hops - 1))),
        (false, Some(hops)) => (Some(hops.max(1)), None),
        // An external peer is adjacent unless the configuration says otherwise.
        (false, None) if !internal => (Some(1), None),
        (false, None) => (None, None),
    }
}

fn set_ttl(socket: &Socket, address: IpAddr, value: u8) -> io::Result<()> {
    if address.is_ipv4() { socket.set_ttl_v4(value.into()) } else { socket.set_unicast_hops_v6(value.into()) }
}

/// Everything that a connection to or from this peer needs; `key` is false on an accepted socket, which has the key from its listener.
pub fn configure(socket: &Socket, peer: &PeerConfig, internal: bool, key: bool, mark: Option<u32>) -> io::Result<()> {
    if key {
        set_password(socket, peer)?;
    }
    if let Some(mark) = mark {
        named("the firewall mark can't be set", socket.set_mark(mark))?;
    }
    let (leave, arrive) = ttl(peer, internal);
    if let Some(value) = leave {
        named("the TTL can't be set", set_ttl(socket, peer.address, value))?;
    }
    if let Some(least) = arrive {
        let (level, name) = if peer.address.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MINTTL)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)
        };
        named("ttl_security can't be set", set_int(socket.as_fd(), level, name, least.into()))?;
    }
    let tcp = libc::IPPROTO_TCP;
    named("TCP_NODELAY", set_int(socket.as_fd(), tcp, libc::TCP_NODELAY, 1))?;
    named("TCP_NOTSENT_LOWAT", set_int(socket.as_fd(), tcp, libc::TCP_NOTSENT_LOWAT, NOT_SENT))?;
    if !peer.hold_time.is_zero() {
        let millis = libc::c_int::try_from(peer.hold_time.as_millis()).unwrap_or(libc::c_int::MAX);
        named("TCP_USER_TIMEOUT", set_int(socket.as_fd(), tcp, libc::TCP_USER_TIMEOUT, millis))?;
    }
    named("SO_KEEPALIVE", socket.set_tcp_keepalive(&probes(peer.hold_time)))
}

/// Probes of a connection on which nothing comes: while a session has no KEEPALIVEs, they alone find a peer that forgot it and whose resets
/// are lost, as resets with an ordinary TTL are under GTSM. Within the hold time, or two minutes where there is none (RFC 1122, section 4.2.3.6).
fn probes(hold_time: Duration) -> TcpKeepalive {
    let between =
        if hold_time.is_zero() { Duration::from_secs(20) } else { (hold_time / 3).max(Duration::from_secs(1)) };
    let first = if hold_time.is_zero() { Duration::from_secs(60) } else { between };
    TcpKeepalive::new().with_time(first).with_interval(between).with_retries(3)
}

/// The number of an interface now.
pub fn index(zone: &str) -> io::Result<u32> {
    let missing = || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("there is no interface {zone} now"));
    let name = std::ffi::CString::new(zone).map_err(|_| missing())?;
    // SAFETY: the pointer is that of a live, zero-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let by_number = || zone.parse().ok().filter(|number| *number > 0);
    if index != 0 { Ok(index) } else { by_number().ok_or_else(missing) }
}

/// An address as a socket takes it: of a zone where it is link-local.
pub fn here(ip: IpAddr, port: u16, zone: Option<&str>) -> io::Result<SocketAddr> {
    match (ip, zone) {
        (IpAddr::V6(v6), Some(zone)) if v6.is_unicast_link_local() => {
            Ok(SocketAddrV6::new(v6, port, 0, index(zone)?).into())
        }
        _ => Ok(SocketAddr::new(ip, port)),
    }
}

/// A socket to connect to this peer with, bound where the configuration says.
pub fn outgoing(peer: &PeerConfig, internal: bool, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(peer.address, 0)), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    configure(&socket, peer, internal, true, mark)?;
    if let Some(local) = peer.local_address {
        let result = here(local, 0, peer.zone.as_deref()).and_then(|local| socket.bind(&local.into()));
        named(&format!("can't connect from local_address {local}"), result)?;
    }
    Ok(socket)
}

/// A listener that bears the keys of all peers of its family.
pub fn listener(address: SocketAddr, peers: &[PeerConfig], mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(mark) = mark {
        named("the firewall mark can't be set", socket.set_mark(mark))?;
    }
    let connects = |peer: &&PeerConfig| {
        !matches!(peer.role, Role::Edge | Role::Gone) && peer.address.is_ipv4() == address.is_ipv4()
    };
    let ours = || peers.iter().filter(connects);
    for (at, peer) in ours().enumerate() {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("peer {}: {error}", peer.name));
        // The kernel knows keys by the other end's address: two sessions to one router have one here.
        let key = |peer: &PeerConfig| (peer.password.clone(), peer.tcp_ao);
        let mut before = ours().take(at).filter(|other| other.address == peer.address);
        let clash = before.clone().find(|other| (other.passive || peer.passive) && key(other) != key(peer));
        // Who connects itself has its own key for that.
        if clash.is_none() && before.any(|other| other.password.is_some()) {
            continue;
        }
        if let Some(first) = clash {
            let cause = format!("its password or tcp_ao differs from that of {}, with the same address", first.name);
            return Err(named(io::Error::new(io::ErrorKind::InvalidInput, cause)));
        }
        set_password(&socket, peer).map_err(named)?;
    }
    // The handshake's answer leaves before the connection has its own options.
    if ours().any(|peer| peer.ttl_security) {
        named("the TTL can't be set", set_ttl(&socket, address.ip(), 255))?;
    }
    // The address may come later. A kernel that can't wait for it says so in a moment.
    let ahead = if address.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) };
    if let Err(error) = ahead {
        tracing::debug!(%address, %error, "IP_FREEBIND");
    }
    socket.bind(&address.into())?;
    socket.listen(64)?;
    Ok(socket)
}

/// Asks for immediate acknowledgements; the kernel forgets it after a while. It is only a wish, so a failure is of no matter.
pub fn quick_ack(fd: BorrowedFd<'_>) {
    if let Err(error) = set_int(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1) {
        tracing::trace!(%error, "TCP_QUICKACK");
    }
}

/// Octets that were written and that the peer's TCP has not acknowledged (`SIOCOUTQ`).
pub fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut octets: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int to the pointer, which is valid for the whole call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, std::ptr::from_mut(&mut octets)) };
    if result == 0 { Ok(u64::try_from(octets).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Where BFD packets of one kind are received; the kernel tells each packet's TTL and destination. `address` may come up later.
pub fn bfd_receiver(address: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = bfd_socket(address.ip(), mark)?;
    let options = if address.is_ipv4() {
        [(libc::IPPROTO_IP, libc::IP_RECVTTL), (libc::IPPROTO_IP, libc::IP_PKTINFO)]
    } else {
        [(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT), (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)]
    };
    for (level, name) in options {
        named("the TTL of BFD packets can't be had", set_int(socket.as_fd(), level, name, 1))?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What BFD packets are sent through: TTL 255 (RFC 5881 section 5), the class of network control.
pub fn bfd_sender(address: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = bfd_socket(address.ip(), mark)?;
    named("the TTL can't be set", set_ttl(&socket, address.ip(), u8::MAX))?;
    const CS6: u32 = 0xc0;
    let class = if address.is_ipv4() { socket.set_tos_v4(CS6) } else { socket.set_tclass_v6(CS6) };
    named("the traffic class can't be set", class)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bfd_socket(address: IpAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(address, 0)), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    let free = if address.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) };
    named("IP_FREEBIND", free)?;
    if let Some(mark) = mark {
        named("the firewall mark can't be set", socket.set_mark(mark))?;
    }
    Ok(socket)
}

/// A datagram, and what the kernel says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Octets that it had; more than the buffer holds means that its end was cut off.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address it came to.
    pub to: Option<IpAddr>,
    /// The TTL or hop limit that it arrived with.
    pub ttl: Option<u8>,
}

/// Room for the kernel's words, aligned as `cmsghdr` needs it.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Reads one datagram from a socket of [`bfd_receiver`].
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all octets zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: name, buffer and control point to writable memory of the lengths that stand beside them and outlive the call; the kernel sets the
    // name's length to what it wrote.
    let (length, from) = unsafe {
        socket2::SockAddr::try_init(|storage, size| {
            message.msg_name = storage.cast();
            message.msg_namelen = *size;
            let length = libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_TRUNC);
            let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
            *size = message.msg_namelen;
            Ok(length)
        })
    }?;
    let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    let (mut to, mut ttl) = (None, None);
    // SAFETY: `message` and `control` are as the kernel left them; the macros stay within `msg_controllen`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: `header` was given by the macros, so a whole `cmsghdr` is there, with the data that the kernel wrote for its kind behind it;
        // that data may be unaligned for the type.
        unsafe {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    ttl = u8::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    to = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    to = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Datagram { length, from, to, ttl })
}

/// Lets a raw ICMP socket hear Time Exceeded alone.
pub fn only_time_exceeded(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    /// The option's number in linux/icmp.h.
    const ICMP_FILTER: libc::c_int = 1;
    const SOL_RAW: libc::c_int = 255;
    /// The option's number in linux/icmpv6.h.
    const ICMPV6_FILTER: libc::c_int = 1;
    // A set bit blocks that type.
    if ipv6 {
        let mut blocked = [u32::MAX; 8];
        blocked[0] = !(1 << 3);
        set(fd, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &blocked)
    } else {
        set(fd, SOL_RAW, ICMP_FILTER, &!(1u32 << 11))
    }
}

/// Hands an IP packet to the neighbour with this hardware address by a packet socket.
pub fn send_on_link(fd: BorrowedFd<'_>, interface: i32, hardware: &[u8], ipv4: bool, packet: &[u8]) -> io::Result<()> {
    let protocol = if ipv4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
    let mut address = [0; 8];
    for (to, from) in address.iter_mut().zip(hardware) {
        *to = *from;
    }
    let to = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: u16::try_from(protocol).map_err(io::Error::other)?.to_be(),
        sll_ifindex: interface,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: u8::try_from(hardware.len().min(8)).map_err(io::Error::other)?,
        sll_addr: address,
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: packet and address are valid for the lengths given for the whole call; the kernel keeps no pointer.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            libc::MSG_DONTWAIT,
            std::ptr::from_ref(&to).cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A timer finer than the runtime's millisecond, to look for acknowledgements with.
pub struct FineTimer(AsyncFd<OwnedFd>);

impl FineTimer {
    /// A timer that isn't set. Must be called on the runtime.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made, is open, and nobody else has it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the descriptor stays open and the same until the `AsyncFd` that owns it is dropped.
        let registered = unsafe { AsyncFd::register(owned) };
        Ok(Self(registered.map_err(|error| error.into_parts().1)?))
    }

    /// Fires once, `after` from now; replaces what was set before.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(i32::try_from(after.subsec_nanos().max(1)).unwrap_or(1)),
        };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: `spec` is valid for the whole call; the old value isn't asked for.
        let result =
            unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, std::ptr::from_ref(&spec), std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until it fires.
    pub async fn fired(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut count = [0u8; 8];
            let read = guard.try_io(|fd| {
                // SAFETY: the buffer has the eight octets that are asked for.
                let read = unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
                if read < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
            if let Ok(result) = read {
                return result;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_follows_the_configuration() {
        let mut peer = PeerConfig::new("p", IpAddr::from([192, 0, 2, 1]), 64512);
        assert_eq!(ttl(&peer, false), (Some(1), None));
        assert_eq!(ttl(&peer, true), (None, None));
        peer.multihop = Some(3);
        assert_eq!(ttl(&peer, false), (Some(3), None));
        peer.ttl_security = true;
        assert_eq!(ttl(&peer, false), (Some(255), Some(253)));
        peer.multihop = None;
        assert_eq!(ttl(&peer, true), (Some(255), Some(255)));
    }

    #[test]
    fn a_password_that_cannot_be_set_is_an_error() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address = IpAddr::from([127, 0, 0, 1]);
        assert!(set_md5(&socket, address, &[b'x'; 81]).is_err());
        set_md5(&socket, address, b"secret").unwrap();
    }

    #[tokio::test]
    async fn the_fine_timer_fires() {
        let timer = FineTimer::new().unwrap();
        for _ in 0..3 {
            timer.set(Duration::from_micros(100)).unwrap();
            tokio::time::timeout(Duration::from_secs(5), timer.fired()).await.unwrap().unwrap();
        }
    }
}
