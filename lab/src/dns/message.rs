//! The wire form of DNS messages (RFC 1035 section 4), as little of it as the lab needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{A, AAAA, CNAME, DNAME, OPT};

/// What is asked. Names have no dot at the end; the case is as on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name asked for (QNAME).
    pub name: String,
    /// The type asked for (QTYPE).
    pub rtype: u16,
    /// QCLASS, 1 = IN.
    pub class: u16,
}

/// A resource record of class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner's name.
    pub name: String,
    /// The time to live, in seconds.
    pub ttl: u32,
    /// Type and content.
    pub data: Data,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address, of type A.
    A(Ipv4Addr),
    /// An IPv6 address, of type AAAA.
    Aaaa(Ipv6Addr),
    /// The target of an alias, of type CNAME.
    Cname(String),
    /// The target of a subtree's alias, of type DNAME.
    Dname(String),
    /// Any other type, octets as on the wire (names in it uncompressed).
    Other(u16, Vec<u8>),
}

impl Data {
    /// The record's TYPE.
    #[must_use]
    pub fn rtype(&self) -> u16 {
        match self {
            Self::A(_) => A,
            Self::Aaaa(_) => AAAA,
            Self::Cname(_) => CNAME,
            Self::Dname(_) => DNAME,
            Self::Other(rtype, _) => *rtype,
        }
    }
}

impl Record {
    /// An address record of the address's own type.
    #[must_use]
    pub fn address(name: &str, ttl: u32, address: impl Into<IpAddr>) -> Self {
        let data = match address.into() {
            IpAddr::V4(v4) => Data::A(v4),
            IpAddr::V6(v6) => Data::Aaaa(v6),
        };
        Self { name: name.to_owned(), ttl, data }
    }

    /// A CNAME record.
    #[must_use]
    pub fn cname(name: &str, ttl: u32, target: &str) -> Self {
        Self { name: name.to_owned(), ttl, data: Data::Cname(target.to_owned()) }
    }
}

/// A whole message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The message id, by which a reply is matched.
    pub id: u16,
    /// The 16 bits after the ID: QR, OPCODE, AA, TC, RD, RA, AD, CD, RCODE.
    pub flags: u16,
    /// QUESTION; the lab sends one.
    pub questions: Vec<Question>,
    /// The records of the ANSWER section.
    pub answers: Vec<Record>,
    /// The records of the AUTHORITY section.
    pub authority: Vec<Record>,
    /// ADDITIONAL without OPT.
    pub additional: Vec<Record>,
    /// The OPT record's UDP size and options, when there is one.
    pub edns: Option<Edns>,
}

/// An OPT record, RFC 6891.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP message the sender takes.
    pub size: u16,
    /// DO, RFC 4035.
    pub dnssec_ok: bool,
    /// Code and content.
    pub options: Vec<(u16, Vec<u8>)>,
}

/// The message is a response (QR).
pub const RESPONSE: u16 = 0x8000;
/// The answer comes from who owns the zone (AA).
pub const AUTHORITATIVE: u16 = 0x0400;
/// The message was cut to fit a datagram (TC).
pub const TRUNCATED: u16 = 0x0200;
/// The client wants the answer and no referral (RD).
pub const RECURSION_DESIRED: u16 = 0x0100;

impl Message {
    /// The low four bits of the flags.
    #[must_use]
    pub fn rcode(&self) -> u8 {
        (self.flags & 0x000f) as u8
    }

    /// Whether TC is set.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.flags & TRUNCATED != 0
    }

    /// Extended DNS Error codes (RFC 8914), in order.
    #[must_use]
    pub fn extended_errors(&self) -> Vec<u16> {
        let options = self.edns.iter().flat_map(|edns| &edns.options);
        options
            .filter(|(code, _)| *code == 15)
            .filter_map(|(_, content)| content.first_chunk().map(|two| u16::from_be_bytes(*two)))
            .collect()
    }

    /// The octets, names uncompressed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let count = |section: usize| u16::try_from(section).unwrap_or(u16::MAX);
        for word in [
            self.id,
            self.flags,
            count(self.questions.len()),
            count(self.answers.len()),
            count(self.authority.len()),
            count(self.additional.len() + usize::from(self.edns.is_some())),
        ] {
            out.extend(word.to_be_bytes());
        }
        for question in &self.questions {
            put_name(&mut out, &question.name);
            out.extend(question.rtype.to_be_bytes());
            out.extend(question.class.to_be_bytes());
        }
        for record in self.answers.iter().chain(&self.authority).chain(&self.additional) {
            put_record(&mut out, record);
        }
        if let Some(edns) = &self.edns {
            out.push(0);
            out.extend(OPT.to_be_bytes());
            out.extend(edns.size.to_be_bytes());
            out.extend(if edns.dnssec_ok { 0x8000_u32 } else { 0 }.to_be_bytes());
            let mut content = Vec::new();
            for (code, value) in &edns.options {
                content.extend(code.to_be_bytes());
                put_with_length(&mut content, value);
            }
            put_with_length(&mut out, &content);
        }
        out
    }

    /// Reads a message; `None` when it is cut short or a name loops.
    #[must_use]
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let mut at = Reader { octets, position: 0 };
        let mut message = Self { id: at.u16()?, flags: at.u16()?, ..Self::default() };
        let counts = [at.u16()?, at.u16()?, at.u16()?, at.u16()?];
        for _ in 0..counts[0] {
            message.questions.push(Question { name: at.name()?, rtype: at.u16()?, class: at.u16()? });
        }
        for (section, count) in counts.iter().enumerate().skip(1) {
            for _ in 0..*count {
                let name = at.name()?;
                let (rtype, class, ttl) = (at.u16()?, at.u16()?, at.u32()?);
                let length = usize::from(at.u16()?);
                let end = at.position.checked_add(length)?;
                if rtype == OPT {
                    message.edns = Some(edns(class, ttl, at.octets.get(at.position..end)?)?);
                } else {
                    let record = Record { name, ttl, data: at.data(rtype, end)? };
                    match section {
                        1 => message.answers.push(record),
                        2 => message.authority.push(record),
                        _ => message.additional.push(record),
                    }
                }
                at.position = end;
            }
        }
        Some(message)
    }
}

fn edns(size: u16, ttl: u32, content: &[u8]) -> Option<Edns> {
    let mut at = Reader { octets: content, position: 0 };
    let mut options = Vec::new();
    while at.position < content.len() {
        let (code, length) = (at.u16()?, usize::from(at.u16()?));
        options.push((code, at.take(length)?.to_vec()));
    }
    Some(Edns { size, dnssec_ok: ttl & 0x8000 != 0, options })
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    put_name(out, &record.name);
    out.extend(record.data.rtype().to_be_bytes());
    out.extend(1_u16.to_be_bytes());
    out.extend(record.ttl.to_be_bytes());
    let mut content = Vec::new();
    match &record.data {
        Data::A(address) => content.extend(address.octets()),
        Data::Aaaa(address) => content.extend(address.octets()),
        Data::Cname(name) | Data::Dname(name) => put_name(&mut content, name),
        Data::Other(_, octets) => content.extend(octets),
    }
    put_with_length(out, &content);
}

/// Labels are cut at 63 octets, so that any text gives a well-formed name.
pub fn put_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = label.as_bytes();
        let length = label.len().min(63);
        out.push(length as u8);
        out.extend(label.iter().take(length));
    }
    out.push(0);
}

fn put_with_length(out: &mut Vec<u8>, content: &[u8]) {
    let content = content.get(..usize::from(u16::MAX)).unwrap_or(content);
    out.extend((content.len() as u16).to_be_bytes());
    out.extend(content);
}

struct Reader<'a> {
    octets: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.position.checked_add(count)?;
        let taken = self.octets.get(self.position..end)?;
        self.position = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|two| u16::from_be_bytes(*two))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|four| u32::from_be_bytes(*four))
    }

    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut at = self.position;
        let mut after = None;
        // 255 octets of name can hold at most 127 labels; more steps are a loop.
        for _ in 0..256 {
            let length = usize::from(*self.octets.get(at)?);
            if length == 0 {
                self.position = after.unwrap_or(at + 1);
                return Some(name);
            }
            if length >= 0xc0 {
                let low = usize::from(*self.octets.get(at + 1)?);
                after.get_or_insert(at + 2);
                at = (length & 0x3f) << 8 | low;
                continue;
            }
            let label = self.octets.get(at + 1..at + 1 + length)?;
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&String::from_utf8_lossy(label));
            at += 1 + length;
        }
        None
    }

    fn data(&mut self, rtype: u16, end: usize) -> Option<Data> {
        let content = self.octets.get(self.position..end)?;
        Some(match rtype {
            A => Data::A(Ipv4Addr::from(<[u8; 4]>::try_from(content).ok()?)),
            AAAA => Data::Aaaa(Ipv6Addr::from(<[u8; 16]>::try_from(content).ok()?)),
            CNAME => Data::Cname(self.name()?),
            DNAME => Data::Dname(self.name()?),
            other => Data::Other(other, content.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let message = Message {
            id: 7,
            flags: RESPONSE | TRUNCATED | 3,
            questions: vec![Question { name: "wWw.example.test".into(), rtype: A, class: 1 }],
            answers: vec![
                Record::cname("www.example.test", 5, "a.example.test"),
                Record::address("a.example.test", 6, Ipv4Addr::new(203, 0, 113, 7)),
                Record::address("a.example.test", 6, Ipv6Addr::LOCALHOST),
            ],
            authority: vec![Record { name: "test".into(), ttl: 1, data: Data::Other(2, vec![0]) }],
            additional: vec![Record { name: "d.test".into(), ttl: 1, data: Data::Dname("e.test".into()) }],
            edns: Some(Edns { size: 1232, dnssec_ok: true, options: vec![(15, vec![0, 17, b'x'])] }),
        };
        let back = Message::decode(&message.encode()).unwrap();
        assert_eq!(back, message);
        assert_eq!((back.rcode(), back.truncated(), back.extended_errors()), (3, true, vec![17]));
    }

    #[test]
    fn compressed_names_are_read_and_loops_refused() {
        let mut octets =
            Message { questions: vec![Question { name: "a.test".into(), rtype: A, class: 1 }], ..Message::default() }
                .encode();
        octets[7] = 1;
        octets.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 9]);
        let message = Message::decode(&octets).unwrap();
        assert_eq!(message.answers, [Record::address("a.test", 9, Ipv4Addr::new(203, 0, 113, 9))]);
        octets[12] = 0xc0;
        octets[13] = 12;
        assert_eq!(Message::decode(&octets), None);
        for cut in 0..octets.len() {
            assert_eq!(Message::decode(&octets[..cut]), None);
        }
    }
}
