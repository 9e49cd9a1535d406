//! The parts of every message (RFC 1035 section 4, RFC 6891): header, numbers of types and codes, octets at their place.

/// Octets of a message header.
pub const HEADER: usize = 12;
/// Most octets of a name (RFC 1035 section 3.1).
pub const NAME_MAX: usize = 255;
/// The largest reply over UDP, whatever the client offers (DNS flag day 2020).
pub const UDP_REPLY: usize = 1232;

/// The bits of a message's header.
pub mod flag {
    /// The message is a response (QR).
    pub const QR: u16 = 0x8000;
    /// The answer comes from who owns the zone (AA).
    pub const AA: u16 = 0x0400;
    /// The message was cut to fit a datagram (TC).
    pub const TC: u16 = 0x0200;
    /// The client wants the answer and no referral (RD).
    pub const RD: u16 = 0x0100;
    /// The server asks others itself (RA).
    pub const RA: u16 = 0x0080;
    /// Authentic data: validated (RFC 4035 section 3.2.3).
    pub const AD: u16 = 0x0020;
    /// The client checks signatures itself (CD).
    pub const CD: u16 = 0x0010;
    /// The opcode's bits.
    pub const OPCODE: u16 = 0x7800;
}

/// The EDNS option by which a server says how long a TCP connection may be idle (RFC 7828).
pub const TCP_KEEPALIVE: u16 = 11;

/// Record types that are treated apart (IANA "DNS parameters").
pub mod rtype {
    /// The type of IPv4 addresses.
    pub const A: u16 = 1;
    /// The type of an alias for one name.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Host information, RFC 8482.
    pub const HINFO: u16 = 13;
    /// The type of IPv6 addresses.
    pub const AAAA: u16 = 28;
    /// Servers of a zone.
    pub const NS: u16 = 2;
    /// The type of an alias for all names below another.
    pub const DNAME: u16 = 39;
    /// The type of the record that EDNS travels in.
    pub const OPT: u16 = 41;
    /// Digest of a child zone's key.
    pub const DS: u16 = 43;
    /// The type of DNSSEC's signatures over a set of records.
    pub const RRSIG: u16 = 46;
    /// Denial of existence.
    pub const NSEC: u16 = 47;
    /// Key of a zone.
    pub const DNSKEY: u16 = 48;
    /// Hashed denial of existence.
    pub const NSEC3: u16 = 50;
    /// The type of a service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Service binding for HTTPS.
    pub const HTTPS: u16 = 65;
    /// The type of a message's own signature, which is no data of a zone.
    pub const TSIG: u16 = 250;
    /// The question for every type, which gets HINFO (RFC 8482).
    pub const ANY: u16 = 255;
}

/// Response codes, the extended ones included.
pub mod rcode {
    /// The answer is good, empty as it may be.
    pub const NOERROR: u16 = 0;
    /// The question isn't well formed.
    pub const FORMERR: u16 = 1;
    /// The answer can't be had or can't be released.
    pub const SERVFAIL: u16 = 2;
    /// No such name.
    pub const NXDOMAIN: u16 = 3;
    /// The server doesn't do what the message asks for.
    pub const NOTIMP: u16 = 4;
    /// Not for this client or not by this server.
    pub const REFUSED: u16 = 5;
    /// A DNAME makes a name that is too long (RFC 6672 section 2.2).
    pub const YXDOMAIN: u16 = 6;
    /// No key for this transaction signature.
    pub const NOTAUTH: u16 = 9;
    /// Unknown EDNS version.
    pub const BADVERS: u16 = 16;
    /// The server cookie is missing or wrong; another comes with the reply.
    pub const BADCOOKIE: u16 = 23;
}

/// Big-endian 16 bits at `at`.
#[must_use]
pub fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    let bytes = octets.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Big-endian 32 bits at `at`.
#[must_use]
pub fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    let bytes = octets.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Overwrites 16 bits at `at`, if they exist.
pub fn put_u16(octets: &mut [u8], at: usize, value: u16) {
    if let Some(to) = octets.get_mut(at..at.saturating_add(2)) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

/// Overwrites 32 bits at `at`, if they exist.
pub fn put_u32(octets: &mut [u8], at: usize, value: u32) {
    if let Some(to) = octets.get_mut(at..at.saturating_add(4)) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

/// The offset behind the name at `at`, which may end in a compression pointer. Doesn't follow it.
#[must_use]
pub fn skip_name(octets: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let len = *octets.get(at)?;
        match len {
            0 => return at.checked_add(1),
            1..=63 => at = at.checked_add(1)?.checked_add(usize::from(len))?,
            192.. => return at.checked_add(2).filter(|end| *end <= octets.len()),
            _ => return None,
        }
    }
}

/// Types as people know them.
#[must_use]
pub fn type_name(kind: u16) -> String {
    hickory_proto::rr::RecordType::from(kind).to_string()
}

/// Whether an OPT record of a message, query or response, bears this option. `false` where it ends before that is known.
#[must_use]
pub fn bears_option(message: &[u8], option: u16) -> bool {
    find_option(message, option).is_some()
}

fn find_option(message: &[u8], option: u16) -> Option<()> {
    let mut at = HEADER;
    for _ in 0..u16_at(message, 4)? {
        at = skip_name(message, at)?.checked_add(4)?;
    }
    let before = u32::from(u16_at(message, 6)?).saturating_add(u32::from(u16_at(message, 8)?));
    for index in 0..before.saturating_add(u32::from(u16_at(message, 10)?)) {
        let fixed = skip_name(message, at)?;
        let data = fixed.checked_add(10)?;
        at = data.checked_add(usize::from(u16_at(message, fixed.checked_add(8)?)?))?;
        if index < before || u16_at(message, fixed)? != rtype::OPT {
            continue;
        }
        let mut options = message.get(data..at)?;
        while let (Some(code), Some(len)) = (u16_at(options, 0), u16_at(options, 2)) {
            if code == option {
                return Some(());
            }
            options = options.get(usize::from(len).checked_add(4)?..)?;
        }
    }
    None
}
