//! What a reply is worth: judged once, for every transport, before anything else looks at it.
//!
//! | what came | over UDP | over a stream |
//! |---|---|---|
//! | data, no such name, or no such data, readable and bound to the question | useful | useful |
//! | TC is set; it is longer than was offered | useful otherwise: over a stream | useful elsewhere |
//! | it ends early, counts more than it holds, or can't be read | useful otherwise: over a stream | useful elsewhere |
//! | the question in other letters' case than it was asked in | useful otherwise: over a stream, else without mixed case | as the rest says |
//! | FORMERR (whatever else it bears), NOTIMP without OPT, BADVERS, to a query with OPT | useful otherwise: without EDNS | the same |
//! | a bare header with an error code, to a query with OPT | useful otherwise: without EDNS | the same |
//! | another error code | useful elsewhere | useful elsewhere |
//! | an alias to itself, aliases in a ring, two aliases of one name, an address of five octets | useful elsewhere, else over a stream | useful elsewhere |
//! | a referral (no answer, no SOA, NS) without RA: this server asks nobody | useful elsewhere | useful elsewhere |
//! | another question, another id, no response | useless | useless |
//!
//! *Elsewhere* is the next upstream. What is useful otherwise or elsewhere is kept, and is the last word only where no way is left. What is useless
//! changes nothing: who waits waits on. An alias beside other data of its owner is useful: [`answer::bind`] follows the alias and drops the rest.

use super::query::{Fit, code_of, knows_no_edns};
use crate::core::answer::{self, CLASS_IN, Question, RecordData};
use crate::core::name::Name;
use crate::dns::codec::reply::is_failure;
use crate::dns::codec::response::{self, Response};
use crate::dns::codec::wire::{HEADER, flag, rcode, rtype, skip_name, u16_at};
use crate::sys::connected::DATAGRAM;

#[cfg(test)]
mod tests;

/// How a query goes out: a set of departures from the usual one, which is UDP with EDNS and letters of mixed case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Manner(u8);

impl Manner {
    /// UDP, EDNS, mixed case.
    pub const USUAL: Self = Self(0);
    /// Over TCP, or whatever stream the server has.
    pub const STREAM: Self = Self(1);
    /// Without EDNS, as some old servers need it.
    pub const PLAIN: Self = Self(2);
    /// All letters in lower case.
    pub const LOWER: Self = Self(4);

    /// The manner with the departures of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This one but for `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it has all of `other`.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why a reply isn't useful, the worst first: of two that are kept the later in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// In other letters' case. Nothing of it may be used: a forger may have sent it.
    OtherCase,
    /// It refers to other servers.
    Referral,
    /// It can't be read.
    Unreadable,
    /// Its records can't be bound to the question.
    Unbound,
    /// The server knows no EDNS.
    NoEdns,
    /// An error code.
    Code(u16),
    /// It is cut.
    Cut,
}

/// What a reply is worth.
#[derive(Clone, Debug)]
pub enum Judgement {
    /// It answers the question.
    Useful(Response),
    /// The same server may answer when asked in this manner as well.
    Otherwise(Manner, Fault),
    /// Another server may answer.
    Elsewhere(Fault),
    /// It answers nothing.
    Useless,
}

/// A query as far as its reply is judged by it.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The name, in lower case.
    pub name: &'a Name,
    /// The question's type as a number.
    pub qtype: u16,
    /// In which manner it went out.
    pub manner: Manner,
}

/// Judges a reply. `fit`: how its question is that of the query. The name in its question is in lower case ([`super::query::lower_question`]).
#[must_use]
pub fn judge(reply: &[u8], fit: Fit, sent: Sent<'_>) -> Judgement {
    let stream = sent.manner.has(Manner::STREAM);
    let on_a_stream = |fault| {
        if stream { Judgement::Elsewhere(fault) } else { Judgement::Otherwise(Manner::STREAM, fault) }
    };
    match fit {
        Fit::No => return Judgement::Useless,
        Fit::OtherCase if !stream && !sent.manner.has(Manner::LOWER) => {
            return Judgement::Otherwise(Manner::STREAM, Fault::OtherCase);
        }
        Fit::Exact | Fit::OtherCase | Fit::Bare => {}
    }
    if u16_at(reply, 2).is_some_and(|flags| flags & flag::TC != 0) || (!stream && reply.len() >= DATAGRAM) {
        return on_a_stream(Fault::Cut);
    }
    let code = code_of(reply);
    if is_failure(code) {
        return match sent.manner.has(Manner::PLAIN) {
            false if fit == Fit::Bare || knows_no_edns(reply) => Judgement::Otherwise(Manner::PLAIN, Fault::NoEdns),
            _ => Judgement::Elsewhere(Fault::Code(code)),
        };
    }
    let Ok(response) = response::read(reply) else { return on_a_stream(Fault::Unreadable) };
    // Beside data the extended bits of the code are known only now.
    if is_failure(response.rcode) {
        return Judgement::Elsewhere(Fault::Code(response.rcode));
    }
    if !is_bound(&response, sent) {
        return Judgement::Elsewhere(Fault::Unbound);
    }
    if is_referral(reply, &response) {
        return Judgement::Elsewhere(Fault::Referral);
    }
    Judgement::Useful(response)
}

/// Whether the records can be bound to the question. What binding would say of an answer without alias is seen at a glance.
fn is_bound(response: &Response, sent: Sent<'_>) -> bool {
    let opens = matches!(sent.qtype, rtype::A | rtype::AAAA | rtype::SVCB | rtype::HTTPS);
    let is_alias = |kind: u16| matches!(kind, rtype::CNAME | rtype::DNAME);
    if !response.answers.iter().any(|record| is_alias(record.rtype)) {
        return !opens
            || response.answers.iter().all(|record| {
                record.rtype != sent.qtype
                    || record.class != CLASS_IN
                    || !matches!(record.data, RecordData::Other)
                    || record.owner != *sent.name
            });
    }
    let question = &Question { name: sent.name.clone(), qtype: sent.qtype, qclass: CLASS_IN };
    let bound = match response.rcode {
        rcode::NOERROR => answer::bind(question, &response.answers),
        _ => answer::bind_aliases(question, &response.answers),
    };
    bound.is_ok()
}

/// Whether a server that isn't asked for others only names them: no answer, no SOA, NS records, and RA is clear.
fn is_referral(reply: &[u8], response: &Response) -> bool {
    let asks_nobody = u16_at(reply, 2).is_some_and(|flags| flags & (flag::RA | flag::AA) == 0);
    if !asks_nobody || response.rcode != rcode::NOERROR || !response.answers.is_empty() {
        return false;
    }
    if response.authority.iter().any(|record| record.rtype == rtype::SOA) {
        return false;
    }
    names_servers(reply).unwrap_or(false)
}

/// Whether AUTHORITY of a message without answers holds an NS record.
fn names_servers(reply: &[u8]) -> Option<bool> {
    let mut at = HEADER;
    for _ in 0..u16_at(reply, 4)? {
        at = skip_name(reply, at)?.checked_add(4)?;
    }
    for _ in 0..u16_at(reply, 8)? {
        at = skip_name(reply, at)?;
        if u16_at(reply, at)? == rtype::NS {
            return Some(true);
        }
        at = at.checked_add(10)?.checked_add(usize::from(u16_at(reply, at.checked_add(8)?)?))?;
    }
    Some(false)
}
