//! The question as it goes to an upstream, and the check of what comes back.

use std::io;
use std::net::SocketAddr;

use rand::Rng;

use crate::core::client::Claim;
use crate::core::name::Name;
use crate::dns::codec::wire::{self, HEADER, UDP_REPLY, flag, put_u16, rcode, rtype, type_name, u16_at};

/// Flags and counts of a query: RD, one question, one OPT.
const HEAD: [u8; HEADER] = [0, 0, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 1];

/// A question to be asked. The client's ECS, cookies, padding and unknown options have no place in it.
#[derive(Clone, Debug)]
pub struct Query {
    /// Name in lower case.
    pub name: Name,
    /// The question's type as a number.
    pub qtype: u16,
    /// Whether DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Whether the upstream is to give what it finds bogus too (CD): only when the guard itself validates (RFC 6840 section 5.9).
    pub checking_disabled: bool,
    /// Without EDNS, for a server that refused it.
    pub plain: bool,
    /// In whose parts of the upstreams' streams it is counted.
    pub whose: Claim,
}

impl Query {
    /// The message under `id`. With `mix` the case of each letter of the name is random ("0x20"): a forger has to guess it too.
    #[must_use]
    pub fn message(&self, id: u16, mix: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER.saturating_add(self.name.wire().len()).saturating_add(15));
        self.write(id, mix, &mut out);
        out
    }

    /// Appends what [`Query::message`] returns.
    pub fn write(&self, id: u16, mix: bool, out: &mut Vec<u8>) {
        let name = self.name.wire();
        let mut head = HEAD;
        put_u16(&mut head, 0, id);
        if self.checking_disabled {
            put_u16(&mut head, 2, flag::RD | flag::CD);
        }
        if self.plain {
            put_u16(&mut head, 10, 0);
        }
        out.extend_from_slice(&head);
        if mix {
            let mut random = [0u8; 32];
            rand::rng().fill_bytes(&mut random);
            // Length octets are below 64, so that they aren't letters.
            out.extend(name.iter().enumerate().map(|(at, octet)| {
                let bit = random.get(at / 8).map_or(0, |bits| bits >> (at % 8) & 1);
                if octet.is_ascii_lowercase() && bit == 1 { octet.to_ascii_uppercase() } else { *octet }
            }));
        } else {
            out.extend_from_slice(name);
        }
        out.extend_from_slice(&self.qtype.to_be_bytes());
        out.extend_from_slice(&1u16.to_be_bytes());
        if !self.plain {
            opt(self.dnssec_ok, None, out);
        }
    }

    /// The message for an encrypted transport: padded to a multiple of 128 octets (RFC 8467 section 4.1), so that its length doesn't tell the name.
    #[must_use]
    pub fn padded(&self, id: u16) -> Vec<u8> {
        const BLOCK: usize = 128;
        const EMPTY_OPT: usize = 11;
        let mut out = self.message(id, false);
        if self.plain {
            // A server without EDNS has no padding either.
            return out;
        }
        out.truncate(out.len().saturating_sub(EMPTY_OPT));
        let bare = out.len().saturating_add(EMPTY_OPT + 4);
        let padding = bare.next_multiple_of(BLOCK).saturating_sub(bare);
        opt(self.dnssec_ok, u16::try_from(padding).ok(), &mut out);
        out
    }

    /// Name, type and class in wire form, the name in lower case.
    #[must_use]
    pub fn question(&self) -> Vec<u8> {
        [self.name.wire(), &self.qtype.to_be_bytes(), &[0, 1]].concat()
    }
}

/// The OPT pseudo-record of a query, `padding` octets of RFC 7830 in it where there are any to be.
fn opt(dnssec_ok: bool, padding: Option<u16>, out: &mut Vec<u8>) {
    const PADDING: u16 = 12;
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&(UDP_REPLY as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0]);
    match padding {
        None => out.extend_from_slice(&[0, 0]),
        Some(padding) => {
            out.extend_from_slice(&padding.saturating_add(4).to_be_bytes());
            out.extend_from_slice(&PADDING.to_be_bytes());
            out.extend_from_slice(&padding.to_be_bytes());
            out.resize(out.len().saturating_add(usize::from(padding)), 0);
        }
    }
}

/// The question of a query made by [`Query::message`].
#[must_use]
pub fn question_of(query: &[u8]) -> &[u8] {
    let end = wire::skip_name(query, HEADER).map_or(HEADER, |at| at.saturating_add(4));
    query.get(HEADER..end).unwrap_or_default()
}

/// Puts the name of a response's question into lower case: names in its records may point there, and the case of letters was ours, which is
/// nobody else's business.
pub fn lower_question(response: &mut [u8]) {
    let end = wire::skip_name(response, HEADER).unwrap_or(HEADER);
    // Length octets are below 64, so that they aren't letters.
    response.get_mut(HEADER..end).unwrap_or_default().make_ascii_lowercase();
}

/// The response code, the extended bits of EDNS included (RFC 6891 section 6.1.3) where there is no answer: a code beside data is looked at with the data.
/// SERVFAIL for what has no header.
#[must_use]
pub fn code_of(message: &[u8]) -> u16 {
    let Some(flags) = u16_at(message, 2) else { return rcode::SERVFAIL };
    let extended = if u16_at(message, 6) == Some(0) { extended(message).unwrap_or(0) } else { 0 };
    flags & 0x0f | u16::from(extended) << 4
}

/// The EXTENDED-RCODE of a message without answers; `None`: it has no OPT, or ends early.
fn extended(message: &[u8]) -> Option<u8> {
    let mut at = HEADER;
    for _ in 0..u16_at(message, 4)? {
        at = wire::skip_name(message, at)?.checked_add(4)?;
    }
    let authority = u16_at(message, 8)?;
    for place in 0..u32::from(authority).saturating_add(u32::from(u16_at(message, 10)?)) {
        at = wire::skip_name(message, at)?;
        if place >= u32::from(authority) && u16_at(message, at)? == rtype::OPT {
            return message.get(at.checked_add(4)?).copied();
        }
        at = at.checked_add(10)?.checked_add(usize::from(u16_at(message, at.checked_add(8)?)?))?;
    }
    None
}

/// Whether a server that was asked with EDNS says that it can't: by FORMERR (RFC 6891 section 7 wants it without OPT, but old servers copy what they
/// were sent), by NOTIMP without OPT, or that it doesn't know the version, which was the lowest (section 6.1.3).
#[must_use]
pub fn knows_no_edns(message: &[u8]) -> bool {
    match code_of(message) {
        rcode::FORMERR => true,
        rcode::NOTIMP => u16_at(message, 10) == Some(0),
        code => code == rcode::BADVERS,
    }
}

/// How a response fits the question that bears its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It answers it.
    Exact,
    /// It does but for the case of letters: a forger's, or an upstream's that doesn't keep case. Asked again over TCP.
    OtherCase,
    /// A header without question that says an error. It carries no data.
    Bare,
    /// It answers something else.
    No,
}

/// Whether `response` answers `question` (wire form: name, type, class). The id was compared before.
#[must_use]
pub fn fit(response: &[u8], question: &[u8]) -> Fit {
    let flags = u16_at(response, 2).unwrap_or(0);
    // RFC 1035 section 4.1.1 asks for no more of an error. That there is no such name needs a name.
    let error = !matches!(flags & 0x0f, rcode::NOERROR | rcode::NXDOMAIN);
    if flags & (flag::QR | flag::OPCODE) == flag::QR && error && response.get(4..) == Some(&[0; 8]) {
        return Fit::Bare;
    }
    if flags & flag::QR == 0 || flags & flag::OPCODE != 0 || u16_at(response, 4) != Some(1) {
        return Fit::No;
    }
    match response.get(HEADER..HEADER.saturating_add(question.len())) {
        Some(echoed) if echoed == question => Fit::Exact,
        // Type and class hold no letters that matter here: each is below 0x41 in its high octet or compared alike.
        Some(echoed) if same_but_for_case(echoed, question) => Fit::OtherCase,
        _ => Fit::No,
    }
}

/// In words: who was asked what, and what came instead.
#[must_use]
pub fn misfit(peer: SocketAddr, response: &[u8], question: &[u8]) -> io::Error {
    let flags = u16_at(response, 2).unwrap_or(0);
    let came = if flags & flag::QR == 0 {
        "sent a question back".to_owned()
    } else if flags & flag::OPCODE != 0 {
        format!("replied with opcode {}", (flags & flag::OPCODE) >> 11)
    } else {
        match u16_at(response, 4) {
            Some(1) => format!("answered {}", words_of(question_of(response))),
            count => format!("replied with {} questions", count.unwrap_or(0)),
        }
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("{peer} was asked {} and {came}", words_of(question)))
}

/// A question (name, type, class) in words.
fn words_of(question: &[u8]) -> String {
    let split = question.len().saturating_sub(4);
    let name = question.get(..split).and_then(|name| Name::from_wire(name).ok());
    let (Some(name), Some(qtype), Some(class)) = (name, u16_at(question, split), u16_at(question, split + 2)) else {
        return "a question that can't be read".to_owned();
    };
    let class = if class == 1 { String::new() } else { format!(" of class {class}") };
    format!("{name} {}{class}", type_name(qtype))
}

fn same_but_for_case(one: &[u8], other: &[u8]) -> bool {
    let split = one.len().saturating_sub(4);
    let (Some((name, tail)), Some((other_name, other_tail))) =
        (one.split_at_checked(split), other.split_at_checked(split))
    else {
        return false;
    };
    tail == other_tail && name.eq_ignore_ascii_case(other_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Query {
        Query {
            name: "a-long-name-with-many-letters.example".parse().unwrap(),
            qtype: 1,
            dnssec_ok: true,
            checking_disabled: false,
            plain: false,
            whose: Claim::NOBODY,
        }
    }

    #[test]
    fn the_case_of_the_name_is_random_and_nothing_else_is() {
        let plain = query().message(7, false);
        let mixed: Vec<_> = (0..20).map(|_| query().message(7, true)).collect();
        assert!(mixed.iter().any(|message| *message != plain));
        for message in mixed {
            assert!(message.eq_ignore_ascii_case(&plain));
        }
    }

    #[test]
    fn padding_hides_the_length_of_the_name() {
        for name in ["a.example", "a-much-longer-name-than-the-other-one.example"] {
            let query = Query {
                name: name.parse().unwrap(),
                qtype: 1,
                dnssec_ok: true,
                checking_disabled: false,
                plain: false,
                whose: Claim::NOBODY,
            };
            let padded = query.padded(7);
            assert_eq!(padded.len(), 128);
            let plain = query.message(7, false);
            assert_eq!(padded[..plain.len() - 2], plain[..plain.len() - 2], "alike up to the options");
            assert_eq!(question_of(&plain), query.question());
            let read = hickory_proto::op::Message::from_vec(&padded).unwrap();
            assert!(read.edns.is_some());
        }
    }

    #[test]
    fn the_extended_code_is_read_wherever_the_opt_stands() {
        let mut sent = query().message(7, false);
        put_u16(&mut sent, 2, 0x8180);
        assert_eq!(code_of(&sent), rcode::NOERROR);
        let extended = sent.len() - 6;
        sent[extended] = 1;
        assert_eq!(code_of(&sent), rcode::BADVERS);
        assert!(knows_no_edns(&sent));
        // Behind a record of AUTHORITY whose data looks like an OPT.
        let opt = sent.split_off(sent.len() - 11);
        sent.extend_from_slice(b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x05\x00\x0b");
        sent.extend_from_slice(b"\x00\x00\x29\x04\xd0\x07\x00\x00\x00\x00\x00");
        sent.extend_from_slice(&opt);
        put_u16(&mut sent, 8, 1);
        assert_eq!(code_of(&sent), rcode::BADVERS);
        put_u16(&mut sent, 2, 0x8181);
        assert_eq!(code_of(&sent), 17, "the low bits are the header's");
        for end in 0..sent.len() {
            assert!(code_of(&sent[..end]) < 4096);
        }
    }

    #[test]
    fn only_the_own_question_fits() {
        let sent = query().message(7, true);
        let mut response = sent.clone();
        assert_eq!(fit(&response, question_of(&sent)), Fit::No, "a query is no response");
        put_u16(&mut response, 2, 0x8180);
        assert_eq!(fit(&response, question_of(&sent)), Fit::Exact);
        let letter = response.iter().rposition(u8::is_ascii_alphabetic).unwrap();
        response[letter] ^= 0x20;
        assert_eq!(fit(&response, question_of(&sent)), Fit::OtherCase);
        response[letter] = b'-';
        assert_eq!(fit(&response, question_of(&sent)), Fit::No);
        assert_eq!(fit(&response[..14], question_of(&sent)), Fit::No);
    }

    #[test]
    fn a_misfit_is_told_in_words() {
        let peer = "192.0.2.53:853".parse().unwrap();
        let sent = query();
        let words = |message: &[u8]| misfit(peer, message, &sent.question()).to_string();
        let asked = "192.0.2.53:853 was asked a-long-name-with-many-letters.example A and ";
        let mut other = Query { name: "b\\010.example".parse().unwrap(), qtype: 28, ..query() }.message(7, false);
        assert_eq!(words(&other), format!("{asked}sent a question back"));
        put_u16(&mut other, 2, 0x8180);
        assert_eq!(words(&other), format!("{asked}answered b\\010.example AAAA"));
        put_u16(&mut other, 2, 0xa980);
        assert_eq!(words(&other), format!("{asked}replied with opcode 5"));
        put_u16(&mut other, 2, 0x8180);
        put_u16(&mut other, 4, 2);
        assert_eq!(words(&other), format!("{asked}replied with 2 questions"));
        put_u16(&mut other, 4, 1);
        assert_eq!(words(&other[..14]), format!("{asked}answered a question that can't be read"));
        for len in 0..other.len() {
            assert!(words(&other[..len]).starts_with(asked));
        }
    }
}
