//! A strict reader of its own: it shares no code with the guard, and refuses what a stub resolver would refuse.

use std::collections::{BTreeMap, BTreeSet};

/// A record without its TTL: owner (lower case), type, class, RDATA in hexadecimal with names decompressed and in lower case.
pub type Rr = (String, u16, u16, String);

/// A reply as a client sees it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The 16 bits behind the id.
    pub flags: u16,
    /// With the extended bits of EDNS.
    pub rcode: u16,
    /// Question section, case kept.
    pub questions: Vec<(String, u16, u16)>,
    /// Each record with its TTL.
    pub answers: BTreeMap<Rr, u32>,
    /// Records of ANSWER, repeated ones too.
    pub answer_count: usize,
    pub authority: BTreeMap<Rr, u32>,
    /// Types in ADDITIONAL but OPT.
    pub additional: BTreeSet<u16>,
    pub edns: Option<Edns>,
    pub length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    pub version: u8,
    pub dnssec_ok: bool,
}

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let taken = self.octets.get(self.at..self.at + count).ok_or("it ends early")?;
        self.at += count;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().unwrap()))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().unwrap()))
    }

    /// Octets that are no letters, digits, hyphens or underscores as \DDD.
    fn name(&mut self) -> Result<String, String> {
        let (mut text, mut at, mut after, mut length) = (String::new(), self.at, None, 0);
        loop {
            let octet = *self.octets.get(at).ok_or("a name runs out of the message")?;
            match usize::from(octet) {
                0 => {
                    self.at = after.unwrap_or(at + 1);
                    return Ok(if text.is_empty() { ".".to_owned() } else { text });
                }
                label @ 1..=63 => {
                    length += label + 1;
                    if length > 254 {
                        return Err("a name is too long".to_owned());
                    }
                    for octet in self.octets.get(at + 1..at + 1 + label).ok_or("a label runs out of the message")? {
                        if octet.is_ascii_alphanumeric() || b"-_".contains(octet) {
                            text.push(char::from(*octet));
                        } else {
                            text.push_str(&format!("\\{octet:03}"));
                        }
                    }
                    text.push('.');
                    at += 1 + label;
                }
                high @ 192.. => {
                    let target = (high & 63) << 8 | usize::from(*self.octets.get(at + 1).ok_or("half a pointer")?);
                    if target >= at {
                        return Err("a pointer doesn't point back".to_owned());
                    }
                    after.get_or_insert(at + 2);
                    at = target;
                }
                _ => return Err("a label of an unknown kind".to_owned()),
            }
        }
    }

    fn rdata(&mut self, kind: u16, end: usize) -> Result<String, String> {
        // Octets before the names, number of names (RFC 3597 section 4 and the types whose names must not be compressed).
        let (before, names) = match kind {
            2 | 5 | 12 | 39 | 47 => (0, 1),
            6 | 14 | 17 => (0, 2),
            15 | 18 => (2, 1),
            33 => (6, 1),
            46 => (18, 1),
            _ => (0, 0),
        };
        let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        let mut text = hex(self.take(before.min(end.saturating_sub(self.at)))?);
        for _ in 0..names {
            text.push_str(&format!(" {} ", self.name()?.to_lowercase()));
        }
        let rest = end.checked_sub(self.at).ok_or("a name runs out of its record")?;
        text.push_str(&hex(self.take(rest)?));
        Ok(text)
    }
}

/// Reads a whole message.
pub fn read(octets: &[u8]) -> Result<Seen, String> {
    let mut reader = Reader { octets, at: 2 };
    let flags = reader.u16()?;
    let mut seen = Seen { flags, rcode: flags & 15, length: octets.len(), ..Seen::default() };
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    for _ in 0..counts[0] {
        seen.questions.push((reader.name()?, reader.u16()?, reader.u16()?));
    }
    for (section, count) in counts.iter().enumerate().skip(1) {
        for _ in 0..*count {
            let owner = reader.name()?.to_lowercase();
            let (kind, class, ttl) = (reader.u16()?, reader.u16()?, reader.u32()?);
            let length = usize::from(reader.u16()?);
            let end = reader.at + length;
            if kind == 41 {
                if section != 3 || seen.edns.is_some() || owner != "." {
                    return Err("a misplaced OPT".to_owned());
                }
                seen.rcode |= ((ttl >> 24) as u16) << 4;
                seen.edns = Some(Edns { version: (ttl >> 16) as u8, dnssec_ok: ttl & 0x8000 != 0 });
                reader.take(length)?;
                continue;
            }
            let rdata = reader.rdata(kind, end)?;
            match section {
                1 => {
                    seen.answer_count += 1;
                    seen.answers.insert((owner, kind, class, rdata), ttl);
                }
                2 => {
                    seen.authority.insert((owner, kind, class, rdata), ttl);
                }
                _ => {
                    seen.additional.insert(kind);
                }
            }
        }
    }
    if reader.at != octets.len() {
        return Err("octets behind the message".to_owned());
    }
    Ok(seen)
}
