//! From an upstream's response to a reply that waits for its addresses: judged by the core, built once, TTLs lowered later.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::core::address::Reason;
use crate::core::answer::{Kept, Question, Record, RecordData, effective_ttl, svcparam};
use crate::core::event::{Grant, Grants, LeaseHandles, Refusal};
use crate::core::name::Name;
use crate::core::policy::list::LocalData;
use crate::core::policy::view::ViewId;
use crate::core::policy::{Effect, Policy};
use crate::core::verdict::{self, Answer, Family, HintEdit, Judged, Removed};
use crate::dns::Rules;
use crate::dns::cache::{Key, Readmission};
use crate::dns::checked::Checked;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::reply::{self, Body, BodyWriter, OWN_TTL, Section};
use crate::dns::codec::response::{self, Authority};
use crate::dns::codec::wire::{rcode, rtype, u16_at, u32_at};
use crate::dns::upstream::AskError;
use crate::dns::upstream::query::Query;
use crate::dns::validate;
use crate::dns::would::Would;

/// Longest that a negative answer is kept and given, in seconds (RFC 2308 section 5 suggests one to three hours).
const NEGATIVE_MAX: u32 = 3600;
/// How long a failure is kept, in seconds: RFC 9520 section 3.2 wants one to five minutes at most, one second at least.
const FAILURE_TTL: u32 = 2;
/// The same of one that cost too much: it will again.
const TOO_MUCH_TTL: u32 = 30;

/// What a draft counts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes out once its addresses are in force.
    Answer,
    /// Refused by policy or filter; the label and the words for `denied`.
    Denied(&'static str, String),
    /// Likewise by policy, and no reply goes out.
    Dropped(String),
    /// No usable response; likewise.
    Failed(&'static str, String),
    /// Cut, and the whole can't be had: TC to UDP clients, SERVFAIL to others.
    Truncated,
}

/// For whom an answer is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience {
    /// By whose policy.
    pub view: ViewId,
    /// The family of the addresses that may be opened; `None`: both.
    pub only: Option<Family>,
}

impl From<ViewId> for Audience {
    fn from(view: ViewId) -> Self {
        Self { view, only: None }
    }
}

impl From<&Key> for Audience {
    fn from(key: &Key) -> Self {
        Self { view: key.view(), only: key.family() }
    }
}

/// A reply that waits for its addresses.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The message, before what is each client's own is put in.
    pub body: Body,
    /// Seconds it may be kept; 0: not at all.
    pub keep: u32,
    /// What must be opened first; `None`: nothing.
    pub again: Option<Readmission>,
    /// The extended error that the client is told, where there is one.
    pub ede: Option<Ede>,
    /// What it counts as.
    pub kind: Kind,
    /// Records that the question didn't reach.
    pub unrelated: usize,
    /// In audit: what enforcement would have made of it.
    pub would: Option<Box<Would>>,
}

impl Draft {
    /// What audit notes, where this is what enforcement would give; `None`: it is what the upstream gave, or its upstream failed.
    #[must_use]
    pub fn would_be(&self) -> Option<Would> {
        let (reason, words) = match &self.kind {
            Kind::Denied(reason, words) => (*reason, words.clone()),
            Kind::Dropped(words) => ("policy", words.clone()),
            Kind::Failed(reason @ "unbound", words) => (*reason, words.clone()),
            Kind::Answer => {
                let ede = self.ede.as_ref().filter(|ede| ede.code == code::FILTERED)?;
                ("filtered", ede.text.clone().into_owned())
            }
            Kind::Failed(..) | Kind::Truncated => return None,
        };
        let ede = self.ede.clone().unwrap_or_else(|| Ede::new(code::BLOCKED, words.clone()));
        Some(Would { reason, words, ede })
    }

    /// A draft of SERVFAIL, with the label that metrics count it by.
    #[must_use]
    pub fn failure(query: &Query, label: &'static str, ede: Ede) -> Self {
        let text = ede.text.clone().into_owned();
        let body = BodyWriter::new(&query.name, query.qtype, rcode::SERVFAIL).finish().unwrap_or_default();
        let kind = Kind::Failed(label, text);
        Self { body, keep: FAILURE_TTL, again: None, ede: Some(ede), kind, unrelated: 0, would: None }
    }

    /// What came must not be used.
    fn unchecked(query: &Query, label: &'static str, ede: Ede) -> Self {
        let keep = match label {
            validate::TOO_MUCH => TOO_MUCH_TTL,
            // That was the moment's fault.
            validate::BUSY => 0,
            _ => FAILURE_TTL,
        };
        Self { keep, ..Self::failure(query, label, ede) }
    }

    /// No upstream gave a response.
    #[must_use]
    pub fn unanswered(query: &Query, error: AskError) -> Self {
        let (code, text) = match error {
            AskError::NoServer => (code::NO_REACHABLE_AUTHORITY, "no upstream is configured for this name"),
            AskError::TimeOut => (code::NO_REACHABLE_AUTHORITY, "no upstream answered in time"),
            AskError::Network => (code::NETWORK_ERROR, "no upstream can be reached"),
            AskError::Referral => {
                (code::NO_REACHABLE_AUTHORITY, "the upstream asks nobody, it refers to other servers")
            }
        };
        Self::failure(query, "upstream", Ede::new(code, text))
    }

    /// The same with fewer addresses: only those that are open; `words` say why.
    #[must_use]
    pub fn only(&self, query: &Query, leases: &LeaseHandles, words: String) -> Self {
        let Some(again) = &self.again else { return self.clone() };
        let is_open = |address: IpAddr| leases.iter().any(|lease| lease.address() == address);
        let grants: Grants = again.grants.iter().copied().filter(|grant| is_open(grant.address)).collect();
        let left = |address: IpAddr| grants.iter().any(|grant| grant.address == address);
        // What it was built from is in it.
        let body = response::read(&self.body.octets).ok().and_then(|response| {
            let asked_for = |address: IpAddr| again.grants.iter().any(|grant| grant.address == address);
            leave_out(query, &response, |address| asked_for(address) && !left(address))
        });
        let Some(body) = body else {
            return Self::failure(query, "internal", Ede::new(code::OTHER, "an error within the guard"));
        };
        let again = Readmission { grants, ..again.clone() };
        let ede = self.ede.clone().or(Some(Ede::new(code::OTHER, words)));
        Self { body, again: Some(again), ede, kind: self.kind.clone(), would: self.would.clone(), ..*self }
    }

    /// NXDOMAIN for a denied name, or what else its rule wants.
    #[must_use]
    pub fn denied(query: &Query, effect: Effect, words: String) -> Self {
        let code = if effect == Effect::NoData { rcode::NOERROR } else { rcode::NXDOMAIN };
        let body = reply::own_negative(&query.name, query.qtype, code);
        if effect == Effect::Drop {
            return Self {
                body,
                keep: 0,
                again: None,
                ede: None,
                kind: Kind::Dropped(words),
                unrelated: 0,
                would: None,
            };
        }
        Self {
            body,
            keep: OWN_TTL,
            again: None,
            ede: Some(Ede::new(code::BLOCKED, words.clone())),
            kind: Kind::Denied("policy", words),
            unrelated: 0,
            would: None,
        }
    }
}

/// Reads, judges and builds.
#[must_use]
pub fn draft(query: &Query, message: &[u8], rules: &Rules, whom: Audience) -> Draft {
    draft_checked(query, Checked::read(message), rules, whom)
}

/// Judges and builds what was read, and validated where that is wanted.
#[must_use]
pub fn draft_checked(query: &Query, checked: Checked, rules: &Rules, whom: Audience) -> Draft {
    let policy = rules.views.policy(whom.view);
    let mut draft = match checked {
        Checked::Response(response) if rules.audit => audit(query, &response, policy, rules, whom.only),
        Checked::Response(response) => judge(query, &response, policy, rules, whom.only),
        Checked::Malformed => malformed(query),
        Checked::Refused(label, ede) => Draft::unchecked(query, label, ede),
    };
    if !rules.audit && policy.effect(policy.judge(&query.name)) == Effect::TcpOnly {
        // A kept answer would be served over UDP as well.
        draft.keep = 0;
    }
    draft
}

/// What a list answers itself: its records, or its alias with the upstream's response to the question for that.
#[must_use]
pub fn local(query: &Query, data: &[LocalData], checked: Option<Checked>, rules: &Rules, whom: Audience) -> Draft {
    let policy = rules.views.policy(whom.view);
    let mut response = match checked {
        None => response::Response::default(),
        Some(Checked::Response(response)) => response,
        Some(Checked::Malformed) => return malformed(query),
        Some(Checked::Refused(label, ede)) => return Draft::unchecked(query, label, ede),
    };
    // Whatever comes, it won't be what the zone's owner signed.
    response.authentic = false;
    let mut own: Vec<(u16, RecordData, Box<[u8]>)> = Vec::new();
    match alias(data) {
        Some(target) => own.push((rtype::CNAME, RecordData::Cname(target.clone()), target.wire().into())),
        None => own.extend(data.iter().filter_map(|data| match data {
            LocalData::Address(IpAddr::V4(ip)) => Some((rtype::A, RecordData::A(*ip), ip.octets().into())),
            LocalData::Address(IpAddr::V6(ip)) => Some((rtype::AAAA, RecordData::Aaaa(*ip), ip.octets().into())),
            LocalData::Record(number, rdata) => Some((*number, RecordData::Other, rdata.clone())),
            LocalData::Alias(_) => None,
        })),
    }
    own.retain(|(rtype, ..)| *rtype == query.qtype || *rtype == rtype::CNAME);
    if own.is_empty() {
        let body = reply::own_negative(&query.name, query.qtype, rcode::NOERROR);
        return Draft { body, keep: OWN_TTL, again: None, ede: None, kind: Kind::Answer, unrelated: 0, would: None };
    }
    for (place, (rtype, data, rdata)) in own.into_iter().enumerate() {
        let record = Record { owner: query.name.clone(), rtype, class: 1, ttl: OWN_TTL, data };
        response.answers.insert(place, record);
        response.rdata.insert(place, rdata.into_vec().into());
    }
    let mut draft = judge(query, &response, policy, rules, whom.only);
    if draft.kind == Kind::Answer && draft.ede.is_none() {
        draft.ede = Some(Ede::new(code::FORGED, policy.words(policy.judge(&query.name))));
    }
    draft
}

/// The alias among a list's own data; it stands for all of them.
#[must_use]
pub fn alias(data: &[LocalData]) -> Option<&Name> {
    data.iter().find_map(|data| match data {
        LocalData::Alias(target) => Some(target),
        LocalData::Address(_) | LocalData::Record(..) => None,
    })
}

fn malformed(query: &Query) -> Draft {
    Draft::failure(query, "malformed", Ede::new(code::INVALID_DATA, "the upstream's response is malformed"))
}

fn judge(query: &Query, response: &response::Response, policy: &Policy, rules: &Rules, only: Option<Family>) -> Draft {
    if response.truncated {
        let mut draft =
            Draft::failure(query, "truncated", Ede::new(code::NETWORK_ERROR, "the whole answer can't be had"));
        draft.kind = Kind::Truncated;
        draft.keep = 0;
        return draft;
    }
    if reply::is_failure(response.rcode) {
        let words = format!("the upstream answered with code {}", response.rcode);
        return Draft::failure(query, "upstream_code", Ede::new(code::OTHER, words));
    }
    let question = Question { name: query.name.clone(), qtype: query.qtype, qclass: 1 };
    let judged = verdict::judge_for(
        policy,
        &rules.filter,
        verdict::Response {
            question: &question,
            records: &response.answers,
            noerror: response.rcode == rcode::NOERROR,
            dnssec_ok: query.dnssec_ok,
        },
        only,
    );
    match judged {
        Judged::Denied { name, effect, rule } => {
            let rule = rule.map_or_else(|| "policy.default".to_owned(), |rule| rule.to_string());
            Draft::denied(query, effect, if name == query.name { rule } else { format!("{rule}, through {name}") })
        }
        Judged::Filtered { removed, dropped, .. } => {
            let words = words_for(&removed);
            // Nothing is wrong with these: the client asks for the other family as well.
            let refused = removed.iter().any(|removed| removed.reason != Reason::OtherFamily);
            Draft {
                body: reply::own_negative(&query.name, query.qtype, rcode::NOERROR),
                keep: OWN_TTL,
                again: None,
                ede: Some(Ede::new(code::FILTERED, words.clone())),
                kind: if refused { Kind::Denied("filter", words) } else { Kind::Answer },
                unrelated: dropped,
                would: None,
            }
        }
        Judged::Unbound(error) => Draft::failure(query, "unbound", Ede::new(code::INVALID_DATA, error.to_string())),
        Judged::Answer(answer) => build(query, response, answer),
    }
}

/// The answer as the upstream gave it, and what enforcement would have made of it. It asks for the addresses that enforcement would open.
fn audit(query: &Query, response: &response::Response, policy: &Policy, rules: &Rules, only: Option<Family>) -> Draft {
    let mut judged = judge(query, response, policy, rules, only);
    // In place of this answer enforcement would give the list's own.
    judged.again.take_if(|_| policy.local_data(&query.name).is_some());
    let Some(would) = judged.would_be() else { return judged };
    let question = Question { name: query.name.clone(), qtype: query.qtype, qclass: 1 };
    let response_of = verdict::Response {
        question: &question,
        records: &response.answers,
        noerror: response.rcode == rcode::NOERROR,
        dnssec_ok: query.dnssec_ok,
    };
    let whole = build(query, response, verdict::unjudged(response_of));
    Draft { again: judged.again, would: Some(Box::new(would)), ..whole }
}

/// The first removed addresses with their reasons.
fn words_for(removed: &[Removed]) -> String {
    let mut words = String::new();
    for removed in removed.iter().take(3) {
        if !words.is_empty() {
            words.push_str("; ");
        }
        words.push_str(&format!("{}: {}", removed.address, removed.reason));
    }
    if removed.len() > 3 {
        words.push_str(&format!("; {} more", removed.len().saturating_sub(3)));
    }
    words
}

fn build(query: &Query, response: &response::Response, answer: Answer) -> Draft {
    let status = if answer.overlong { rcode::YXDOMAIN } else { response.rcode };
    let mut writer = BodyWriter::new(&query.name, query.qtype, status);
    let mut has_data = false;
    for set in answer.keep.chunk_by(|one, other| same_set(response, one, other)) {
        let records = set.iter().filter_map(|kept| match kept {
            Kept::Record(index) => Some((*index, response.answers.get(*index)?, response.rdata.get(*index)?)),
            Kept::SynthesisedCname { .. } => None,
        });
        // RFC 2181 section 5.2: the least TTL is that of the whole set, and no server may send other ones. Section 5: no record comes twice.
        let ttl = records.clone().map(|(_, record, _)| effective_ttl(record.ttl)).min().unwrap_or(0);
        let mut written = HashSet::new();
        for (index, record, rdata) in records {
            if set.len() > 1 && !written.insert(rdata) {
                continue;
            }
            has_data |= record.rtype == query.qtype;
            // RFC 4035 section 3.2.1: only for those who can read it, or ask for it.
            if record.rtype == rtype::RRSIG && !query.dnssec_ok && query.qtype != rtype::RRSIG {
                continue;
            }
            let edit = answer.hints.iter().find(|edit| edit.record == index);
            write_record(&mut writer, record, ttl, rdata, edit);
        }
        if let [Kept::SynthesisedCname { owner, target, ttl, .. }] = set {
            writer.record(Section::Answer, owner, rtype::CNAME, *ttl, target.wire(), Some(target));
            has_data |= query.qtype == rtype::CNAME;
        }
    }
    let negative = !has_data || status == rcode::NXDOMAIN;
    let terminal = answer.chain.last().unwrap_or(&query.name);
    let negative_ttl = write_authority(&mut writer, &response.authority, query, terminal, negative);
    let keep = match answer.ttl {
        // The DNAME says how long.
        Some(ttl) if answer.overlong => ttl.min(NEGATIVE_MAX),
        ttl if negative => negative_ttl.min(ttl.unwrap_or(u32::MAX)),
        ttl => ttl.unwrap_or(0),
    };
    if response.authentic && answer.removed.is_empty() && answer.hints.is_empty() {
        writer.authentic();
    }
    let Ok(body) = writer.finish() else {
        return Draft::failure(query, "too_long", reply::too_long());
    };
    let ede = (!answer.removed.is_empty()).then(|| Ede::new(code::FILTERED, words_for(&answer.removed)));
    let again = (!answer.grants.is_empty()).then(|| {
        let whole = is_whole(query, response, &answer.keep);
        // Most answers have no alias, and the empty list needs no memory.
        let chain = if answer.chain.is_empty() { Arc::default() } else { answer.chain.into() };
        Readmission { question: query.name.clone(), qtype: query.qtype, chain, grants: answer.grants, whole }
    });
    Draft { body, keep, again, ede, kind: Kind::Answer, unrelated: answer.dropped, would: None }
}

/// Whether no address may be left out: the client could see that the set is not what was signed, or a service says that its hints are needed.
fn is_whole(query: &Query, response: &response::Response, keep: &[Kept]) -> bool {
    keep.iter().any(|kept| {
        let Kept::Record(index) = kept else { return false };
        match response.answers.get(*index).map(|record| &record.data) {
            Some(RecordData::Rrsig { covered }) => query.dnssec_ok && *covered == query.qtype,
            Some(RecordData::Svcb { mandatory, .. }) => {
                mandatory.iter().any(|key| matches!(*key, svcparam::IPV4HINT | svcparam::IPV6HINT))
            }
            _ => false,
        }
    })
}

/// Whether both belong to one RRset; signatures to one when they cover the same type. Those of a set stand one behind the other.
fn same_set(response: &response::Response, one: &Kept, other: &Kept) -> bool {
    let record = |kept: &Kept| match kept {
        Kept::Record(index) => response.answers.get(*index),
        Kept::SynthesisedCname { .. } => None,
    };
    let covered = |record: &Record| match record.data {
        RecordData::Rrsig { covered } => Some(covered),
        _ => None,
    };
    let (Some(one), Some(other)) = (record(one), record(other)) else { return false };
    one.rtype == other.rtype && covered(one) == covered(other) && one.owner == other.owner
}

/// What is said of an answer with fewer addresses than there were.
#[must_use]
pub fn words_for_short(again: &Readmission, leases: &LeaseHandles, budget: &Refusal) -> String {
    let is_open = |grant: &&Grant| leases.iter().any(|lease| lease.address() == grant.address);
    let (given, all) = (again.grants.iter().filter(is_open).count(), again.grants.len());
    format!("{given} of {all} addresses: the others are over {}", name_of(budget))
}

/// The budget's name in the configuration.
fn name_of(budget: &Refusal) -> &'static str {
    match budget {
        Refusal::PerAnswer => "lease.per_answer",
        Refusal::PerClient => "lease.new_per_client",
        Refusal::PerDomain => "lease.new_per_domain",
        Refusal::RouteBudget { .. } => "a router's budget",
        _ => "lease.capacity",
    }
}

/// A reply of ours without the addresses of which `gone` says so, and without what is signed over them.
fn leave_out(query: &Query, response: &response::Response, gone: impl Fn(IpAddr) -> bool) -> Option<Body> {
    let mut writer = BodyWriter::new(&query.name, query.qtype, response.rcode);
    for (index, (record, rdata)) in response.answers.iter().zip(&response.rdata).enumerate() {
        let edit = match &record.data {
            RecordData::A(address) if gone(IpAddr::V4(*address)) => continue,
            RecordData::Aaaa(address) if gone(IpAddr::V6(*address)) => continue,
            RecordData::Rrsig { covered } if *covered == query.qtype => continue,
            RecordData::Svcb { ipv4hint, ipv6hint, .. } => Some(HintEdit {
                record: index,
                ipv4hint: ipv4hint.iter().copied().filter(|hint| !gone(IpAddr::V4(*hint))).collect(),
                ipv6hint: ipv6hint.iter().copied().filter(|hint| !gone(IpAddr::V6(*hint))).collect(),
            }),
            _ => None,
        };
        write_record(&mut writer, record, record.ttl, rdata, edit.as_ref());
    }
    for record in &response.authority {
        writer.record(Section::Authority, &record.owner, record.rtype, record.ttl, &record.rdata, None);
    }
    writer.finish().ok()
}

fn write_record(writer: &mut BodyWriter, record: &Record, ttl: u32, rdata: &[u8], edit: Option<&HintEdit>) {
    let target = match &record.data {
        RecordData::Cname(target) => Some(target),
        _ => None,
    };
    match edit {
        None => writer.record(Section::Answer, &record.owner, record.rtype, ttl, rdata, target),
        Some(edit) => {
            let edited = without_hints(rdata, edit);
            writer.record(Section::Answer, &record.owner, record.rtype, ttl, &edited, None);
        }
    }
}

/// SVCB or HTTPS data (RFC 9460 section 2.2) with the hints replaced by those of `edit`. The data was read before, so that its
/// shape is known to be right.
fn without_hints(rdata: &[u8], edit: &HintEdit) -> Vec<u8> {
    const IPV4HINT: u16 = 4;
    const IPV6HINT: u16 = 6;
    let mut at = 2usize;
    while let Some(len) = rdata.get(at).filter(|len| **len != 0) {
        at = at.saturating_add(1).saturating_add(usize::from(*len));
    }
    at = at.saturating_add(1);
    let mut out = rdata.get(..at).unwrap_or_default().to_vec();
    while let (Some(key), Some(len)) = (u16_at(rdata, at), u16_at(rdata, at.saturating_add(2))) {
        let start = at.saturating_add(4);
        let end = start.saturating_add(usize::from(len));
        let value: Vec<u8> = match key {
            IPV4HINT => edit.ipv4hint.iter().flat_map(|hint| hint.octets()).collect(),
            IPV6HINT => edit.ipv6hint.iter().flat_map(|hint| hint.octets()).collect(),
            _ => rdata.get(start..end).unwrap_or_default().to_vec(),
        };
        if !(value.is_empty() && matches!(key, IPV4HINT | IPV6HINT)) {
            out.extend_from_slice(&key.to_be_bytes());
            out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(&value);
        }
        at = end;
    }
    out
}

/// Writes what may stay of AUTHORITY and returns the seconds that a negative answer may be kept: none without a SOA that is
/// responsible for the name (RFC 2308 section 5).
fn write_authority(
    writer: &mut BodyWriter,
    authority: &[Authority],
    query: &Query,
    terminal: &Name,
    negative: bool,
) -> u32 {
    let mut ttl = 0;
    let responsible = |owner: &Name| terminal.is_within(owner) || query.name.is_within(owner);
    let soa = authority.iter().find(|record| record.rtype == rtype::SOA && responsible(&record.owner));
    if let Some(soa) = soa.filter(|_| negative) {
        let minimum = u32_at(&soa.rdata, soa.rdata.len().saturating_sub(4)).unwrap_or(0);
        ttl = effective_ttl(soa.ttl).min(effective_ttl(minimum)).min(NEGATIVE_MAX);
        writer.record(Section::Authority, &soa.owner, rtype::SOA, ttl, &soa.rdata, None);
    }
    if !query.dnssec_ok {
        return ttl;
    }
    for record in authority {
        let covered = if record.rtype == rtype::RRSIG { u16_at(&record.rdata, 0).unwrap_or(0) } else { record.rtype };
        let wanted = match covered {
            rtype::SOA => record.rtype == rtype::RRSIG && soa.is_some_and(|soa| negative && soa.owner == record.owner),
            rtype::NSEC | rtype::NSEC3 => true,
            _ => false,
        };
        if wanted {
            let ttl = effective_ttl(record.ttl).min(NEGATIVE_MAX);
            writer.record(Section::Authority, &record.owner, record.rtype, ttl, &record.rdata, None);
        }
    }
    ttl
}

#[cfg(test)]
mod tests;
