//! How routes get into gobgpd: a whole table as an MRT dump, one route by a gRPC connection that stays.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use super::sink::host;

/// TABLE_DUMP_V2 (RFC 6396 section 4.3).
const TABLE_DUMP_V2: u16 = 13;

fn record(out: &mut Vec<u8>, subtype: u16, body: &[u8]) {
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&TABLE_DUMP_V2.to_be_bytes());
    out.extend_from_slice(&subtype.to_be_bytes());
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(body);
}

/// `gobgp mrt inject` ends before all that it sent last is taken in: so many routes stand in the dump once more, at its end.
const TAIL: u32 = 5000;

/// Writes the table as an MRT dump: ORIGIN, an empty AS_PATH, the next hop and one community.
///
/// # Errors
/// The file's.
pub fn write_mrt(path: &Path, routes: u32, ipv6: bool, community: [u8; 4]) -> io::Result<()> {
    let mut out = Vec::new();
    // The collector, no view name, one peer with IPv4 address and 4-octet AS.
    record(&mut out, 1, &[192, 0, 2, 1, 0, 0, 0, 1, 2, 192, 0, 2, 1, 192, 0, 2, 1, 0, 0, 0xfc, 0]);
    for number in (0..routes).chain(0..routes.min(TAIL)) {
        let mut prefix = Vec::new();
        let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0];
        match host(number, ipv6) {
            IpAddr::V4(address) => {
                prefix.push(32);
                prefix.extend_from_slice(&address.octets());
                attributes.extend_from_slice(&[0x40, 3, 4, 192, 0, 2, 1]);
            }
            IpAddr::V6(address) => {
                prefix.push(128);
                prefix.extend_from_slice(&address.octets());
                // RFC 6396 section 4.3.4 wants the next hop alone; gobgp reads the whole attribute.
                attributes.extend_from_slice(&[0x80, 14, 38, 0, 2, 1, 16]);
                attributes.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                attributes.push(0);
                attributes.extend_from_slice(&prefix);
            }
        }
        attributes.extend_from_slice(&[0xc0, 8, 4]);
        attributes.extend_from_slice(&community);
        let mut body = number.to_be_bytes().to_vec();
        body.extend_from_slice(&prefix);
        // One entry: peer 0, its time, the attributes.
        body.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&u16::try_from(attributes.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(&attributes);
        record(&mut out, if ipv6 { 4 } else { 2 }, &body);
    }
    std::fs::write(path, out)
}

/// A gRPC connection to gobgpd (HTTP/2 without TLS, RFC 9113; no header is compressed, RFC 7541).
pub struct Grpc {
    stream: TcpStream,
    next: u32,
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let mut octets = length.to_vec();
    octets.extend_from_slice(&[kind, flags]);
    octets.extend_from_slice(&stream.to_be_bytes());
    octets.extend_from_slice(body);
    octets
}

/// A protobuf field of a length-delimited type.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    // Everything here is shorter than what two octets of varint hold.
    let mut octets = vec![number << 3 | 2];
    match u8::try_from(value.len()) {
        Ok(short @ ..0x80) => octets.push(short),
        _ => octets.extend_from_slice(&[0x80 | (value.len() & 0x7f) as u8, (value.len() >> 7) as u8]),
    }
    octets.extend_from_slice(value);
    octets
}

/// A protobuf field that is a number.
fn number(number: u8, mut value: u32) -> Vec<u8> {
    let mut octets = vec![number << 3];
    while value >= 0x80 {
        octets.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    octets.push(value as u8);
    octets
}

fn any(name: &str, value: &[u8]) -> Vec<u8> {
    [field(1, format!("type.googleapis.com/apipb.{name}").as_bytes()), field(2, value)].concat()
}

impl Grpc {
    /// # Errors
    /// The kernel's.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        stream.write_all(&frame(4, 0, 0, &[]))?;
        let mut reader = stream.try_clone()?;
        std::thread::spawn(move || {
            let mut header = [0; 9];
            while reader.read_exact(&mut header).is_ok() {
                let [a, b, c, kind, flags, ..] = header;
                let mut body = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(0)];
                if reader.read_exact(&mut body).is_err() {
                    return;
                }
                let answer = match (kind, flags & 1) {
                    (4, 0) => frame(4, 1, 0, &[]),
                    (6, 0) => frame(6, 1, 0, &body),
                    _ => continue,
                };
                if reader.write_all(&answer).is_err() {
                    return;
                }
            }
        });
        Ok(Self { stream, next: 1 })
    }

    /// Adds an IPv4 host route to the global table (GobgpApi.AddPath). Its arrival at the sink is what tells that it worked.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&mut self, address: Ipv4Addr, community: [u8; 4]) -> io::Result<()> {
        let prefix = [number(1, 32), field(2, address.to_string().as_bytes())].concat();
        let mut communities = Vec::new();
        let mut value = u32::from_be_bytes(community);
        while value >= 0x80 {
            communities.push(0x80 | (value & 0x7f) as u8);
            value >>= 7;
        }
        communities.push(value as u8);
        let path = [
            field(1, &any("IPAddressPrefix", &prefix)),
            field(2, &any("OriginAttribute", &number(1, 0))),
            field(2, &any("NextHopAttribute", &field(1, b"192.0.2.1"))),
            field(2, &any("CommunitiesAttribute", &field(1, &communities))),
            field(9, &[number(1, 1), number(2, 1)].concat()),
        ]
        .concat();
        let request = field(3, &path);
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(request.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(&request);

        let mut headers = vec![0x83, 0x86];
        let mut literal = |name: &[u8], value: &str| {
            headers.extend_from_slice(name);
            headers.push(u8::try_from(value.len()).unwrap_or(0));
            headers.extend_from_slice(value.as_bytes());
        };
        // By their place in the static table: :path, :authority, content-type; then one with its name.
        literal(&[0x04], "/apipb.GobgpApi/AddPath");
        literal(&[0x01], "localhost");
        literal(&[0x0f, 0x10], "application/grpc");
        literal(b"\x00\x02te", "trailers");
        let mut octets = frame(1, 4, self.next, &headers);
        octets.extend(frame(0, 1, self.next, &body));
        self.next += 2;
        self.stream.write_all(&octets)
    }
}
