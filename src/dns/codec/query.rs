//! What clients send (RFC 1035 section 4, RFC 6891), read without allocation: every packet passes through here, and
//! whatever isn't a plain question gets its defined answer here.

use super::wire::{HEADER, NAME_MAX, flag, rcode, rtype, skip_name, u16_at, u32_at};

/// A name in lower case and uncompressed wire form, on the stack.
#[derive(Clone, Copy)]
pub struct LowerName {
    octets: [u8; NAME_MAX],
    len: u8,
}

impl LowerName {
    /// The wire form, root label included.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl std::fmt::Debug for LowerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.wire())
    }
}

/// What the client says about EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEdns {
    /// Largest UDP reply it takes.
    pub size: u16,
    /// Whether it wants DNSSEC records.
    pub dnssec_ok: bool,
    /// The DNS cookie, if there is one.
    pub cookie: Option<Cookie>,
}

/// A DNS cookie (RFC 7873 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The client's part.
    pub client: [u8; super::cookie::CLIENT],
    /// Ours, as the client sent it (zeros for one of another length), and then the one that the reply is to bear.
    pub server: Option<[u8; super::cookie::SERVER]>,
}

/// A question that can be answered.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The message id, which the reply must repeat.
    pub id: u16,
    /// Header bits as the client sent them.
    pub flags: u16,
    /// Name, type and class as the client wrote them.
    pub octets: &'a [u8],
    /// The name in lower case.
    pub name: LowerName,
    /// The question's type as a number.
    pub qtype: u16,
    /// EDNS, if the client speaks it.
    pub edns: Option<ClientEdns>,
}

/// What becomes of a packet. Lives on the stack for one packet, so that a box would only cost.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug)]
pub enum Parsed<'a> {
    /// To be answered by cache or upstream.
    Question(Question<'a>),
    /// Answered at once with an error (or, for ANY, with RFC 8482's HINFO; or with a cookie alone).
    Reject(Reject<'a>),
    /// No answer: shorter than a header, or itself a response (answering those makes loops, RUSTSEC-2023-0041).
    Drop,
}

/// An error reply.
#[derive(Clone, Copy, Debug)]
pub struct Reject<'a> {
    /// The message id, which the reply must repeat.
    pub id: u16,
    /// Header bits as the client sent them.
    pub flags: u16,
    /// The question's octets where they could be read; else empty, and the reply has no question.
    pub octets: &'a [u8],
    /// The question's type; 0 where unread.
    pub qtype: u16,
    /// The (extended) response code.
    pub rcode: u16,
    /// EDNS, if the client speaks it.
    pub edns: Option<ClientEdns>,
}

impl Reject<'_> {
    /// Whether it bears no question and no error, but a COOKIE option (RFC 7873 section 5.4).
    #[must_use]
    pub fn asks_for_cookie(&self) -> bool {
        self.octets.is_empty() && self.rcode == rcode::NOERROR
    }
}

/// Reads a client's packet.
#[must_use]
pub fn parse(packet: &[u8]) -> Parsed<'_> {
    let (Some(id), Some(flags)) = (u16_at(packet, 0), u16_at(packet, 2)) else { return Parsed::Drop };
    if packet.len() < HEADER || flags & flag::QR != 0 {
        return Parsed::Drop;
    }
    let mut reject = Reject { id, flags, octets: &[], qtype: 0, rcode: rcode::FORMERR, edns: None };
    if flags & flag::OPCODE != 0 {
        reject.rcode = rcode::NOTIMP;
        return Parsed::Reject(reject);
    }
    let records_before =
        u32::from(u16_at(packet, 6).unwrap_or(0)).saturating_add(u32::from(u16_at(packet, 8).unwrap_or(0)));
    let additional = u32::from(u16_at(packet, 10).unwrap_or(0));
    if u16_at(packet, 4) == Some(0) {
        return Parsed::Reject(without_question(packet, records_before, additional, reject));
    }
    // RFC 9619: exactly one question.
    if u16_at(packet, 4) != Some(1) {
        return Parsed::Reject(reject);
    }
    let Some((name, after_name)) = question_name(packet) else { return Parsed::Reject(reject) };
    let (Some(qtype), Some(class)) = (u16_at(packet, after_name), u16_at(packet, after_name.saturating_add(2))) else {
        return Parsed::Reject(reject);
    };
    let end = after_name.saturating_add(4);
    reject.octets = packet.get(HEADER..end).unwrap_or_default();
    reject.qtype = qtype;
    // EDNS in the question brings EDNS in the reply, an error's too (RFC 6891 section 6.1.1); without, the client would take the guard for one
    // that knows no EDNS.
    if let Err(code) = read_additional(packet, end, records_before, additional, &mut reject.edns) {
        reject.rcode = code;
        return Parsed::Reject(reject);
    }
    const IN: u16 = 1;
    reject.rcode = match qtype {
        _ if class != IN => rcode::REFUSED,
        // The one answer of this kind that isn't an error: the caller writes the HINFO.
        rtype::ANY => rcode::NOERROR,
        rtype::OPT => rcode::FORMERR,
        // Zone transfers, and the other types that only questions have (128 to 254).
        0 | 128..=254 => rcode::REFUSED,
        // A question bears no records; only zone transfers (refused above) and updates do.
        _ if records_before != 0 => rcode::FORMERR,
        // Without RD the guard would have to answer from its cache alone, which shows strangers what others asked.
        _ if flags & flag::RD == 0 => rcode::REFUSED,
        _ => {
            let edns = reject.edns;
            return Parsed::Question(Question { id, flags, octets: reject.octets, name, qtype, edns });
        }
    };
    Parsed::Reject(reject)
}

/// A message without question: a client that asks for a server cookie alone (RFC 7873 section 5.4), or nonsense.
fn without_question<'a>(packet: &[u8], before: u32, additional: u32, mut reject: Reject<'a>) -> Reject<'a> {
    let read = read_additional(packet, HEADER, before, additional, &mut reject.edns);
    let asks = before == 0 && reject.edns.is_some_and(|edns| edns.cookie.is_some());
    reject.rcode = match read {
        Ok(()) if asks => rcode::NOERROR,
        Ok(()) => rcode::FORMERR,
        Err(code) => code,
    };
    reject
}

/// The question's name in lower case and the offset behind it. Compression is not allowed: there is nothing to point to.
fn question_name(packet: &[u8]) -> Option<(LowerName, usize)> {
    let mut name = LowerName { octets: [0; NAME_MAX], len: 0 };
    let mut at = HEADER;
    loop {
        let len = usize::from(*packet.get(at)?);
        if len > 63 {
            return None;
        }
        let next = at.checked_add(1)?.checked_add(len)?;
        let from = at.checked_sub(HEADER)?;
        let to = next.checked_sub(HEADER)?;
        let target = name.octets.get_mut(from..to)?;
        // Length octets are below 64, so that lower-casing can't touch them.
        for (to, octet) in target.iter_mut().zip(packet.get(at..next)?) {
            *to = octet.to_ascii_lowercase();
        }
        at = next;
        if len == 0 {
            name.len = u8::try_from(to).ok()?;
            return Some((name, at));
        }
    }
}

/// Walks the records behind the question: at most one OPT at the root, well-formed options, no transaction signature. `edns` becomes what could be
/// read of OPT, on errors too.
fn read_additional(
    packet: &[u8],
    mut at: usize,
    before: u32,
    additional: u32,
    edns: &mut Option<ClientEdns>,
) -> Result<(), u16> {
    let mut result = Ok(());
    for index in 0..before.saturating_add(additional) {
        let owner = at;
        at = skip_name(packet, at).ok_or(rcode::FORMERR)?;
        let (Some(kind), Some(class), Some(ttl), Some(len)) = (
            u16_at(packet, at),
            u16_at(packet, at.saturating_add(2)),
            u32_at(packet, at.saturating_add(4)),
            u16_at(packet, at.saturating_add(8)),
        ) else {
            return Err(rcode::FORMERR);
        };
        let data = at.saturating_add(10);
        at = data.saturating_add(usize::from(len));
        let rdata = packet.get(data..at).ok_or(rcode::FORMERR)?;
        if index < before {
            continue;
        }
        match kind {
            rtype::OPT => {
                if edns.is_some() || packet.get(owner) != Some(&0) {
                    return Err(rcode::FORMERR);
                }
                let known = edns.insert(ClientEdns { size: class, dnssec_ok: ttl & 0x8000 != 0, cookie: None });
                // What options look like in another version isn't known here.
                if (ttl >> 16) & 0xff != 0 {
                    result = Err(rcode::BADVERS);
                    continue;
                }
                known.cookie = read_options(rdata).ok_or(rcode::FORMERR)?;
            }
            rtype::TSIG => return Err(rcode::NOTAUTH),
            _ => {}
        }
    }
    result
}

/// The cookie among the options of an OPT (the first one, RFC 7873 section 5.2); `None`: they are not well formed.
fn read_options(mut rdata: &[u8]) -> Option<Option<Cookie>> {
    const COOKIE: u16 = 10;
    let mut cookie = None;
    while !rdata.is_empty() {
        let end = usize::from(u16_at(rdata, 2)?).saturating_add(4);
        let value = rdata.get(4..end)?;
        if u16_at(rdata, 0) == Some(COOKIE) && cookie.is_none() {
            // Section 4: eight octets, or eight and another eight to 32.
            if !matches!(value.len(), 8 | 16..=40) {
                return None;
            }
            let (client, server) = value.split_first_chunk()?;
            // One of another length can't be ours. The RFC's version is never 0, so that this one isn't either.
            let server = (!server.is_empty()).then(|| server.try_into().unwrap_or_default());
            cookie = Some(Cookie { client: *client, server });
        }
        rdata = rdata.get(end..)?;
    }
    Some(cookie)
}

#[cfg(test)]
mod tests;
