//! TCP-AO (RFC 5925, algorithms of RFC 5926) as Linux has it since 6.7, where the kernel was built with CONFIG_TCP_AO. Whether it has it is found
//! out by setting a key; there is no way to do without.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Socket, Type};

use crate::config::{AoAlgorithm, TcpAo};

/// `TCP_AO_ADD_KEY` of linux/tcp.h.
const ADD_KEY: libc::c_int = 38;
/// Longest master key, octets (`TCP_AO_MAXKEYLEN`).
pub const MAX_KEY: usize = 80;
/// Octets of a message authentication code: both algorithms are cut to 96 bits.
const CODE: u8 = 12;

/// `struct tcp_ao_add` of linux/tcp.h. All but what is set here stays zero: any interface, TCP options covered by the code. The bits that choose
/// the current key must be zero on listening sockets, and with one key there is nothing to choose.
#[repr(C, align(8))]
#[derive(Clone)]
struct Add {
    /// The peer's address, as `struct sockaddr_storage`.
    address: [u8; 128],
    algorithm: [u8; 64],
    interface: i32,
    /// `set_current`, `set_rnext`, and 30 bits that must be zero.
    bits: u32,
    reserved: u16,
    prefix_length: u8,
    send_id: u8,
    recv_id: u8,
    code_length: u8,
    flags: u8,
    key_length: u8,
    key: [u8; MAX_KEY],
}

impl Add {
    /// `None` for a key that is too long.
    fn new(peer: IpAddr, ao: &TcpAo, secret: &[u8]) -> Option<Self> {
        let key_length = u8::try_from(secret.len()).ok().filter(|length| usize::from(*length) <= MAX_KEY)?;
        let (address, prefix_length) = storage(peer);
        Some(Self {
            address,
            algorithm: padded(match ao.algorithm {
                AoAlgorithm::HmacSha1 => b"hmac(sha1)",
                // The name under which the kernel derives the key as RFC 5926 section 3.1.1.2 says.
                AoAlgorithm::Aes128Cmac => b"cmac(aes128)",
            }),
            interface: 0,
            bits: 0,
            reserved: 0,
            prefix_length,
            send_id: ao.send_id,
            recv_id: ao.recv_id,
            code_length: CODE,
            flags: 0,
            key_length,
            key: padded(secret),
        })
    }
}

fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(octets) {
        *to = *from;
    }
    out
}

/// `struct sockaddr_in` or `sockaddr_in6` without a port (the kernel wants none), and the length of the prefix that is this address alone.
fn storage(address: IpAddr) -> ([u8; 128], u8) {
    let (family, at, octets, bits) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, 4, v4.octets().to_vec(), 32),
        // Behind the port and the flow label.
        IpAddr::V6(v6) => (libc::AF_INET6, 8, v6.octets().to_vec(), 128),
    };
    let family = u16::try_from(family).unwrap_or_default().to_ne_bytes();
    let mut all = family.to_vec();
    all.resize(at, 0);
    all.extend(octets);
    (padded(&all), bits)
}

/// Sets the key that segments from and to `peer` must be authenticated with, on a socket that isn't connected or on a listener: from then on nothing
/// without it gets through.
pub fn set_key(socket: &Socket, peer: IpAddr, ao: &TcpAo, secret: &[u8]) -> io::Result<()> {
    let Some(add) = Add::new(peer, ao, secret) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "TCP-AO: a key of more than 80 octets"));
    };
    super::set(socket.as_fd(), libc::IPPROTO_TCP, ADD_KEY, &add).map_err(|error| {
        let cause = match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) => {
                "this kernel has no TCP-AO (it takes Linux 6.7 or later, built with CONFIG_TCP_AO)".to_owned()
            }
            Some(libc::ENOENT) => {
                format!("this kernel's crypto doesn't have {}", ao.algorithm)
            }
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("TCP-AO can't be set: {cause}"))
    })
}

/// Whether this kernel knows TCP-AO, asked without setting a key: an option of four octets is too short for
/// those that know it (and one of less for all).
///
/// # Errors
/// No socket to ask with.
pub fn known() -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let answer = super::set(socket.as_fd(), libc::IPPROTO_TCP, ADD_KEY, &0u32);
    Ok(answer.err().and_then(|error| error.raw_os_error()) != Some(libc::ENOPROTOOPT))
}

#[cfg(test)]
mod tests {
    use std::mem::{align_of, offset_of, size_of};

    use super::*;

    const AO: TcpAo = TcpAo { algorithm: AoAlgorithm::HmacSha1, send_id: 3, recv_id: 7 };

    /// Offsets as the C compiler makes them of include/uapi/linux/tcp.h.
    #[test]
    fn the_structure_is_the_kernels() {
        let offsets = [
            (offset_of!(Add, address), 0),
            (offset_of!(Add, algorithm), 128),
            (offset_of!(Add, interface), 192),
            (offset_of!(Add, bits), 196),
            (offset_of!(Add, reserved), 200),
            (offset_of!(Add, prefix_length), 202),
            (offset_of!(Add, send_id), 203),
            (offset_of!(Add, recv_id), 204),
            (offset_of!(Add, code_length), 205),
            (offset_of!(Add, flags), 206),
            (offset_of!(Add, key_length), 207),
            (offset_of!(Add, key), 208),
        ];
        for (at, wanted) in offsets {
            assert_eq!(at, wanted);
        }
        assert_eq!((size_of::<Add>(), align_of::<Add>()), (288, 8));
        assert_eq!(size_of::<libc::sockaddr_storage>(), 128);
    }

    #[test]
    fn keys_are_written_as_the_kernel_reads_them() {
        let add = Add::new(IpAddr::from([192, 0, 2, 1]), &AO, b"secret").unwrap();
        assert_eq!(add.address[..8], [2, 0, 0, 0, 192, 0, 2, 1]);
        assert_eq!(add.address[8..], [0; 120]);
        assert_eq!(&add.algorithm[..12], b"hmac(sha1)\0\0");
        assert_eq!((add.prefix_length, add.send_id, add.recv_id, add.code_length), (32, 3, 7, 12));
        assert_eq!((add.interface, add.bits, add.reserved, add.flags), (0, 0, 0, 0));
        assert_eq!((add.key_length, &add.key[..7]), (6, &b"secret\0"[..]));

        let six: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let cmac = TcpAo { algorithm: AoAlgorithm::Aes128Cmac, ..AO };
        let add = Add::new(six.into(), &cmac, &[9; 80]).unwrap();
        assert_eq!(add.address[..8], [10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(add.address[8..24], six.octets());
        assert_eq!(add.address[24..], [0; 104]);
        assert_eq!(&add.algorithm[..13], b"cmac(aes128)\0");
        assert_eq!((add.prefix_length, add.key_length, add.key), (128, 80, [9; 80]));
        assert!(Add::new(six.into(), &cmac, &[9; 81]).is_none());
    }

    /// Both ways of asking the kernel agree, in both families and for both algorithms; and a kernel without it is named as the cause.
    #[test]
    fn a_key_is_set_or_the_kernel_is_named() {
        for (domain, peer) in [(Domain::IPV4, "192.0.2.1"), (Domain::IPV6, "2001:db8::1")] {
            for algorithm in [AoAlgorithm::HmacSha1, AoAlgorithm::Aes128Cmac] {
                let socket = Socket::new(domain, Type::STREAM, None).unwrap();
                let set = set_key(&socket, peer.parse().unwrap(), &TcpAo { algorithm, ..AO }, b"secret");
                if known().unwrap() {
                    set.unwrap();
                    // The same ids again are refused: the first key is really there.
                    assert!(set_key(&socket, peer.parse().unwrap(), &AO, b"other").is_err());
                } else {
                    let said = set.unwrap_err().to_string();
                    let wanted = "TCP-AO can't be set: this kernel has no TCP-AO (it takes Linux 6.7 or later, built with CONFIG_TCP_AO)";
                    assert_eq!(said, wanted);
                }
            }
        }
    }
}
