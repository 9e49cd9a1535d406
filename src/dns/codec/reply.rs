//! Writes replies: error replies, the bodies that the cache keeps, and a client's own reply from such a body.

use std::borrow::Cow;

use smallvec::{SmallVec, smallvec};

use crate::core::name::Name;
use crate::dns::codec::cookie;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::query::ClientEdns;
use crate::dns::codec::wire::{self, HEADER, UDP_REPLY, flag, put_u16, put_u32, rcode, rtype, u32_at};

/// Names that later owner names may point to. More aren't remembered: compression is a kindness, not a duty, and the work per record
/// stays bounded whatever the upstream sent.
const POINTERS: usize = 20;
/// Pointers reach only so far (RFC 1035 section 4.1.4).
const POINTER_MAX: usize = 0x4000;
/// TTL of the guard's own negative answers, in seconds: short, so that a changed policy bites soon.
pub const OWN_TTL: u32 = 60;

/// What a client's reply needs to know of its question.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    /// The message id of the client's query.
    pub id: u16,
    /// Header bits as the client sent them.
    pub flags: u16,
    /// Name, type and class as the client wrote them.
    pub octets: Box<[u8]>,
    /// EDNS, if the client speaks it.
    pub edns: Option<ClientEdns>,
    /// Most octets of the reply.
    pub limit: usize,
}

/// Most octets of a reply over UDP.
#[must_use]
pub fn udp_limit(edns: Option<ClientEdns>) -> usize {
    edns.map_or(512, |edns| usize::from(edns.size).clamp(512, UDP_REPLY))
}

/// The same for a reply on the hot path, without a copy of the question.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead<'a> {
    /// The message id of the client's query.
    pub id: u16,
    /// Header bits as the client sent them.
    pub flags: u16,
    /// Name, type and class as the client wrote them; empty where they couldn't be read.
    pub octets: &'a [u8],
    /// EDNS, if the client speaks it.
    pub edns: Option<ClientEdns>,
    /// Most octets of the reply.
    pub limit: usize,
}

impl ReplyTo {
    /// The same, borrowed for one reply.
    #[must_use]
    pub fn head(&self) -> ReplyHead<'_> {
        ReplyHead { id: self.id, flags: self.flags, octets: &self.octets, edns: self.edns, limit: self.limit }
    }
}

/// A finished message without id, client bits and OPT.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Header, question, ANSWER, AUTHORITY.
    pub octets: Vec<u8>,
    /// Offsets of the TTLs.
    pub ttls: Vec<u16>,
}

/// The message would be longer than 65,535 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply is too long")]
pub struct TooLong;

/// Which section a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The record is part of the ANSWER section.
    Answer,
    /// The record is part of the AUTHORITY section.
    Authority,
}

/// Writes a [`Body`], sections in order.
#[derive(Debug)]
pub struct BodyWriter {
    body: Body,
    names: SmallVec<[(u16, Name); 4]>,
    answers: u16,
    authorities: u16,
}

impl BodyWriter {
    /// Begins a reply. `question` is its wire form: `name`, type, class.
    #[must_use]
    pub fn new(name: &Name, qtype: u16, code: u16) -> Self {
        let mut octets = Vec::with_capacity(256);
        octets.extend_from_slice(&[0; HEADER]);
        put_u16(&mut octets, 2, flag::QR | flag::RA | (code & 0x0f));
        put_u16(&mut octets, 4, 1);
        octets.extend_from_slice(name.wire());
        octets.extend_from_slice(&qtype.to_be_bytes());
        octets.extend_from_slice(&1u16.to_be_bytes());
        let names = smallvec![(HEADER as u16, name.clone())];
        Self { body: Body { octets, ttls: Vec::new() }, names, answers: 0, authorities: 0 }
    }

    /// Adds a record of class IN. `target` is the name that `rdata` consists of, if it does (CNAME): later owners may point to it.
    pub fn record(&mut self, section: Section, owner: &Name, kind: u16, ttl: u32, rdata: &[u8], target: Option<&Name>) {
        self.owner(owner);
        let octets = &mut self.body.octets;
        octets.extend_from_slice(&kind.to_be_bytes());
        octets.extend_from_slice(&1u16.to_be_bytes());
        // Beyond 65,535 the body is refused as a whole by `finish`.
        self.body.ttls.push(u16::try_from(octets.len()).unwrap_or(u16::MAX));
        octets.extend_from_slice(&ttl.to_be_bytes());
        octets.extend_from_slice(&u16::try_from(rdata.len()).unwrap_or(u16::MAX).to_be_bytes());
        let data = octets.len();
        octets.extend_from_slice(rdata);
        if let Some(target) = target {
            self.remember(data, target);
        }
        match section {
            Section::Answer => self.answers = self.answers.saturating_add(1),
            Section::Authority => self.authorities = self.authorities.saturating_add(1),
        }
    }

    /// Sets AD: everything in it was validated.
    pub fn authentic(&mut self) {
        let flags = wire::u16_at(&self.body.octets, 2).unwrap_or(0);
        put_u16(&mut self.body.octets, 2, flags | flag::AD);
    }

    fn remember(&mut self, at: usize, name: &Name) {
        if at < POINTER_MAX && self.names.len() < POINTERS && name.wire().len() > 1 {
            self.names.push((u16::try_from(at).unwrap_or(0), name.clone()));
        }
    }

    fn owner(&mut self, owner: &Name) {
        let wire = owner.wire();
        let found = self.names.iter().filter(|_| wire.len() > 1).find_map(|(at, name)| {
            let above = name.wire().len().checked_sub(wire.len())?;
            // The tail must begin at a label, not within one.
            let is_suffix = name.wire().ends_with(wire) && name.suffixes().any(|tail| tail.len() == wire.len());
            let target = usize::from(*at).checked_add(above)?;
            (is_suffix && target < POINTER_MAX).then_some(target)
        });
        match found {
            Some(target) => {
                let pointer = 0xc000 | u16::try_from(target).unwrap_or(0);
                self.body.octets.extend_from_slice(&pointer.to_be_bytes());
            }
            None => {
                let at = self.body.octets.len();
                self.body.octets.extend_from_slice(wire);
                self.remember(at, owner);
            }
        }
    }

    /// The body.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn finish(mut self) -> Result<Body, TooLong> {
        if self.body.octets.len() > usize::from(u16::MAX) {
            return Err(TooLong);
        }
        put_u16(&mut self.body.octets, 6, self.answers);
        put_u16(&mut self.body.octets, 8, self.authorities);
        Ok(self.body)
    }
}

/// A negative body of the guard's own, with a made-up SOA so that it is cached for [`OWN_TTL`] seconds and no longer (RFC 2308 section 5).
#[must_use]
pub fn own_negative(name: &Name, qtype: u16, code: u16) -> Body {
    let mut writer = BodyWriter::new(name, qtype, code);
    let mut rdata = Vec::with_capacity(64);
    rdata.extend_from_slice(b"\x09destguard\x07invalid\x00");
    rdata.extend_from_slice(b"\x06nobody\x07invalid\x00");
    for number in [1, 3600, 600, 86_400, OWN_TTL] {
        rdata.extend_from_slice(&number.to_be_bytes());
    }
    writer.record(Section::Authority, name, rtype::SOA, OWN_TTL, &rdata, None);
    // Its length is bounded by that of a name.
    writer.finish().unwrap_or_default()
}

/// Lowers every TTL to at most `cap`.
pub fn cap_ttls(body: &mut Body, cap: u32) {
    for at in &body.ttls {
        let at = usize::from(*at);
        if u32_at(&body.octets, at).is_some_and(|ttl| ttl > cap) {
            put_u32(&mut body.octets, at, cap);
        }
    }
}

/// Sets every TTL.
pub fn set_ttls(body: &mut Body, ttl: u32) {
    for at in &body.ttls {
        put_u32(&mut body.octets, usize::from(*at), ttl);
    }
}

/// Takes AD back.
pub fn unauthentic(body: &mut Body) {
    let flags = wire::u16_at(&body.octets, 2).unwrap_or(0);
    put_u16(&mut body.octets, 2, flags & !flag::AD);
}

/// Lowers every TTL by `age` seconds.
pub fn age_ttls(body: &mut Body, age: u32) {
    for at in &body.ttls {
        let at = usize::from(*at);
        if let Some(ttl) = u32_at(&body.octets, at) {
            put_u32(&mut body.octets, at, ttl.saturating_sub(age));
        }
    }
}

/// What is said of an answer that no message can hold.
#[must_use]
pub fn too_long() -> Ede {
    Ede::new(code::INVALID_DATA, "the answer is too long")
}

/// Appends a client's reply: `octets` (a [`Body`]'s) with the client's id, bits and question case, TTLs lowered by `age` seconds, and OPT if the client
/// speaks EDNS. What is too long for the client becomes an empty reply with TC, which sends it to TCP; there the words about an answer go before the
/// answer does (RFC 8914 section 3), and what even then is longer than a message can be is a failure: then this is `false`.
pub fn render(
    octets: &[u8],
    ttls: impl IntoIterator<Item = u16>,
    age: u32,
    to: &ReplyHead<'_>,
    ede: Option<&Ede>,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    let question_end = HEADER.saturating_add(to.octets.len());
    let fits = |ede| octets.len().saturating_add(opt_len(to, ede)) <= to.limit;
    let stream = to.limit >= usize::from(u16::MAX);
    let ede = ede.filter(|ede| !stream || fits(Some(ede)));
    let fits = fits(ede);
    if stream && !fits {
        error(rcode::SERVFAIL, to, Some(&too_long()), out);
        return false;
    }
    out.extend_from_slice(if fits { octets } else { octets.get(..question_end).unwrap_or(octets) });
    let Some(reply) = out.get_mut(start..) else { return true };
    let mut flags = wire::u16_at(reply, 2).unwrap_or(0) | (to.flags & (flag::RD | flag::CD));
    // RFC 6840 section 5.8: only to who asked for it, by AD or DO.
    if to.flags & flag::AD == 0 && !to.edns.is_some_and(|edns| edns.dnssec_ok) {
        flags &= !flag::AD;
    }
    if !fits {
        flags = flags & !flag::AD | flag::TC;
        put_u16(reply, 6, 0);
        put_u16(reply, 8, 0);
    }
    put_u16(reply, 0, to.id);
    put_u16(reply, 2, flags);
    put_u16(reply, 10, u16::from(to.edns.is_some()));
    if let Some(question) = reply.get_mut(HEADER..question_end) {
        question.copy_from_slice(to.octets);
    }
    if fits && age > 0 {
        for at in ttls {
            let at = usize::from(at);
            if let Some(ttl) = u32_at(reply, at) {
                put_u32(reply, at, ttl.saturating_sub(age));
            }
        }
    }
    append_opt(to, 0, ede, out);
    true
}

/// Appends a reply without records.
pub fn error(code: u16, to: &ReplyHead<'_>, ede: Option<&Ede>, out: &mut Vec<u8>) {
    let flags = flag::QR | flag::RA | (to.flags & (flag::OPCODE | flag::RD | flag::CD)) | (code & 0x0f);
    header(to, flags, 0, out);
    append_opt(to, code >> 4, ede, out);
}

/// Appends an empty reply with TC, which sends the client to TCP.
pub fn truncated(to: &ReplyHead<'_>, ede: Option<&Ede>, out: &mut Vec<u8>) {
    header(to, flag::QR | flag::RA | flag::TC | (to.flags & (flag::RD | flag::CD)), 0, out);
    append_opt(to, 0, ede, out);
}

/// Appends the answer to a question of type ANY: RFC 8482 section 4.2.
pub fn any(to: &ReplyHead<'_>, out: &mut Vec<u8>) {
    header(to, flag::QR | flag::RA | (to.flags & (flag::RD | flag::CD)), 1, out);
    out.extend_from_slice(&[0xc0, HEADER as u8]);
    out.extend_from_slice(&rtype::HINFO.to_be_bytes());
    out.extend_from_slice(&1u16.to_be_bytes());
    out.extend_from_slice(&3600u32.to_be_bytes());
    out.extend_from_slice(b"\x00\x09\x07RFC8482\x00");
    append_opt(to, 0, None, out);
}

fn header(to: &ReplyHead<'_>, flags: u16, answers: u16, out: &mut Vec<u8>) {
    for part in [to.id, flags, u16::from(!to.octets.is_empty()), answers, 0, u16::from(to.edns.is_some())] {
        out.extend_from_slice(&part.to_be_bytes());
    }
    out.extend_from_slice(to.octets);
}

fn opt_len(to: &ReplyHead<'_>, ede: Option<&Ede>) -> usize {
    if to.edns.is_none() {
        return 0;
    }
    let cookie = if server_cookie(to).is_some() { COOKIE_OPTION } else { 0 };
    11usize.saturating_add(cookie).saturating_add(ede.map_or(0, |ede| ede.text.len().saturating_add(6)))
}

/// Octets of a COOKIE option.
const COOKIE_OPTION: usize = 4 + cookie::CLIENT + cookie::SERVER;

/// Both parts of the cookie that the reply bears.
fn server_cookie(to: &ReplyHead<'_>) -> Option<([u8; cookie::CLIENT], [u8; cookie::SERVER])> {
    let cookie = to.edns?.cookie?;
    Some((cookie.client, cookie.server?))
}

fn append_opt(to: &ReplyHead<'_>, extended_code: u16, ede: Option<&Ede>, out: &mut Vec<u8>) {
    const EDE: u16 = 15;
    const COOKIE: u16 = 10;
    let Some(edns) = to.edns else { return };
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&(UDP_REPLY as u16).to_be_bytes());
    let dnssec_ok = if edns.dnssec_ok { 0x8000u32 } else { 0 };
    out.extend_from_slice(&(u32::from(extended_code) << 24 | dnssec_ok).to_be_bytes());
    let options = opt_len(to, ede).saturating_sub(11);
    out.extend_from_slice(&u16::try_from(options).unwrap_or(0).to_be_bytes());
    if let Some(Ede { code, text }) = ede {
        let text: &Cow<'static, str> = text;
        let len = u16::try_from(text.len()).unwrap_or(0);
        out.extend_from_slice(&EDE.to_be_bytes());
        out.extend_from_slice(&len.saturating_add(2).to_be_bytes());
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    if let Some((client, server)) = server_cookie(to) {
        out.extend_from_slice(&COOKIE.to_be_bytes());
        out.extend_from_slice(&((cookie::CLIENT + cookie::SERVER) as u16).to_be_bytes());
        out.extend_from_slice(&client);
        out.extend_from_slice(&server);
    }
}

/// Whether a response code is one that a question may be asked again for at another upstream.
#[must_use]
pub fn is_failure(code: u16) -> bool {
    !matches!(code, rcode::NOERROR | rcode::NXDOMAIN | rcode::YXDOMAIN)
}

#[cfg(test)]
mod tests;
