//! The whole judgement of a response in one function: bind, policy on every name of the chain, filter on every address.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::address::{AddressFilter, Admitted, Reason};
use super::answer::{self, BindError, Bound, Kept, Origin, Question, Record, RecordData, rtype, svcparam};
use super::name::Name;
use super::places::Places;
use super::policy::list::LocalData;
use super::policy::{Effect, Policy, RuleRef, Verdict};

#[cfg(test)]
mod tests;

/// One address of a judged answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The address to open.
    pub address: IpAddr,
    /// Seconds; the least TTL along the address's own chain, RFC 2181 section 8 applied.
    pub ttl: u32,
}

/// Those of an answer; most have one, which needs no memory of its own.
pub type Grants = SmallVec<[Grant; 1]>;

/// A response as the upstream gave it.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// What was asked.
    pub question: &'a Question,
    /// The ANSWER section, in the order it came.
    pub records: &'a [Record],
    /// Whether the rcode is NOERROR. Under another one only aliases are kept and nothing is opened.
    pub noerror: bool,
    /// Whether the client set DO.
    pub dnssec_ok: bool,
}

/// An address that was taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The address that the client doesn't get.
    pub address: IpAddr,
    /// Index of its record.
    pub record: usize,
    /// The reason why the address was taken out.
    pub reason: Reason,
}

/// What becomes of the hints of one SVCB or HTTPS record that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintEdit {
    /// Index of the record.
    pub record: usize,
    /// All that remains of `ipv4hint`; empty: the key is removed.
    pub ipv4hint: Vec<Ipv4Addr>,
    /// All that remains of `ipv6hint`; empty: the key is removed.
    pub ipv6hint: Vec<Ipv6Addr>,
}

/// An answer that may go to the client once its grants are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The ANSWER section, in this order; nothing else of it may be passed on.
    pub keep: Vec<Kept>,
    /// The kept records whose hints must be rewritten.
    pub hints: Vec<HintEdit>,
    /// What must be in force first, each address once. Empty: the answer needs no lease (no address in it, or all of them in
    /// `addresses.open` or this host's own).
    pub grants: Grants,
    /// Addresses that pass without lease.
    pub already_open: Vec<IpAddr>,
    /// The aliases, in order, without the question.
    pub chain: Vec<Name>,
    /// What was taken out; empty: the answer is whole. EDE 17 when not.
    pub removed: Vec<Removed>,
    /// Records that the question doesn't reach.
    pub dropped: usize,
    /// Seconds: the least effective TTL of all that the question reaches, what was taken out included.
    pub ttl: Option<u32>,
    /// A DNAME in it makes too long a name: YXDOMAIN.
    pub overlong: bool,
}

/// What becomes of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Goes out when its grants are in force.
    Answer(Answer),
    /// A name, or by a list an address, is denied: NXDOMAIN with EDE 15 unless the rule says otherwise.
    Denied {
        /// The question or an alias; for an address the question.
        name: Name,
        /// [`Effect::NoData`], [`Effect::Drop`], or NXDOMAIN.
        effect: Effect,
        /// The rule; `None`: `policy.default`.
        rule: Option<RuleRef>,
    },
    /// Addresses came and none is left: NODATA with EDE 17.
    Filtered {
        /// What was taken out.
        removed: Vec<Removed>,
        /// The aliases, in order, without the question.
        chain: Vec<Name>,
        /// Records that the question doesn't reach.
        dropped: usize,
    },
    /// It can't be bound to its question: SERVFAIL.
    Unbound(BindError),
}

/// Judges a response.
#[must_use]
pub fn judge(policy: &Policy, filter: &AddressFilter, response: Response<'_>) -> Judged {
    judge_for(policy, filter, response, None)
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The family of IPv4: type A, or an IPv4 packet.
    Ipv4,
    /// The family of IPv6: type AAAA, or an IPv6 packet.
    Ipv6,
}

impl Family {
    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// Likewise, opening addresses of one family only.
#[must_use]
pub fn judge_for(policy: &Policy, filter: &AddressFilter, response: Response<'_>, only: Option<Family>) -> Judged {
    let bound = if response.noerror {
        answer::bind(response.question, response.records)
    } else {
        answer::bind_aliases(response.question, response.records)
    };
    let bound = match bound {
        Ok(bound) => bound,
        Err(error) => return Judged::Unbound(error),
    };
    if let Some((name, verdict)) = denied(policy, filter, &response.question.name, &bound) {
        let rule = verdict.rule.map(|rule| policy.describe(rule));
        return Judged::Denied { name, effect: policy.effect(verdict), rule };
    }
    Sieve::new(policy, filter, response, only, &bound).run(bound)
}

/// The answer as it came, bound to its question where it can be; nothing is judged and nothing granted.
#[must_use]
pub fn unjudged(response: Response<'_>) -> Answer {
    let bound = if response.noerror {
        answer::bind(response.question, response.records)
    } else {
        answer::bind_aliases(response.question, response.records)
    };
    let (keep, chain, dropped, ttl, overlong) = match bound {
        Ok(bound) => (bound.keep, bound.chain, bound.dropped, bound.ttl, bound.overlong),
        Err(_) => {
            let records = response.records.iter().enumerate().filter(|(_, record)| record.class == answer::CLASS_IN);
            let ttl = records.clone().map(|(_, record)| answer::effective_ttl(record.ttl)).min();
            (records.map(|(index, _)| Kept::Record(index)).collect(), Vec::new(), 0, ttl, false)
        }
    };
    Answer {
        keep,
        hints: Vec::new(),
        grants: Grants::new(),
        already_open: Vec::new(),
        chain,
        removed: Vec::new(),
        dropped,
        ttl,
        overlong,
    }
}

/// The first name, or else the first address, that policy denies.
fn denied(policy: &Policy, filter: &AddressFilter, question: &Name, bound: &Bound) -> Option<(Name, Verdict)> {
    let address = || bound.addresses.iter().find_map(|found| denied_address(policy, filter, found.address));
    let found = denied_name(policy, question, &bound.chain).or_else(|| Some((question, address()?)));
    found.map(|(name, verdict)| (name.clone(), verdict))
}

/// The first of these names that policy denies.
fn denied_name<'a>(policy: &Policy, question: &'a Name, chain: &'a [Name]) -> Option<(&'a Name, Verdict)> {
    // What a list itself answers for the question is not denied by that very rule.
    let asked = Some((question, policy.judge(question))).filter(|(_, verdict)| policy.effect(*verdict) != Effect::Data);
    let mut names = asked.into_iter().chain(chain.iter().map(|name| (name, policy.judge_alias(name))));
    names.find(|(_, verdict)| verdict.denies())
}

/// What denies answers with this address, if a list does. The IPv4 address inside counts like one that stands alone.
#[must_use]
pub fn denied_address(policy: &Policy, filter: &AddressFilter, address: IpAddr) -> Option<Verdict> {
    let inner = || policy.judge_answer(IpAddr::V4(filter.embedded(address)?.1));
    let verdict = policy.judge_answer(address).filter(Verdict::denies).or_else(inner);
    verdict.filter(Verdict::denies)
}

/// One address of an answer, and how the question led there.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    /// The address that an answer would open.
    pub address: IpAddr,
    /// The question's name.
    pub question: &'a Name,
    /// The aliases behind it, in order.
    pub chain: &'a [Name],
}

/// What is said of a path: it may be open where both are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathJudged {
    /// Its names may be asked and lead there.
    pub names: bool,
    /// An answer may hold its address.
    pub address: bool,
}

impl PathJudged {
    /// Whether an answer that goes this way may open its address.
    #[must_use]
    pub fn opens(self) -> bool {
        self.names && self.address
    }
}

/// Judges a path as an answer that has no other address is judged. What has become always open may stay open; what has become this
/// host's own needs no lease. A list's own answer opens what that answer holds, a local zone what it holds still.
#[must_use]
pub fn judge_path(policy: &Policy, filter: &AddressFilter, path: Path<'_>) -> PathJudged {
    let Path { address, question, chain } = path;
    let admitted = || filter.judge(address, question, chain);
    let own = || policy.local_data(question).is_none_or(|data| is_of(address, chain, data));
    PathJudged {
        names: denied_name(policy, question, chain).is_none(),
        address: denied_address(policy, filter, address).is_none()
            && matches!(admitted(), Ok(Admitted::Lease | Admitted::AlreadyOpen))
            && !filter.is_gone_from_zone(address, question, chain)
            && own(),
    }
}

/// Whether an address that was opened over `chain` may come of a list's own answer.
fn is_of(address: IpAddr, chain: &[Name], data: &[LocalData]) -> bool {
    data.iter().any(|data| match data {
        LocalData::Address(own) => *own == address && chain.is_empty(),
        LocalData::Alias(target) => chain.first() == Some(target),
        LocalData::Record(..) => false,
    })
}

/// Sorts the addresses of a bound answer.
struct Sieve<'a> {
    policy: &'a Policy,
    filter: &'a AddressFilter,
    response: Response<'a>,
    only: Option<Family>,
    chain: Vec<Name>,
    grants: Grants,
    place_of: Places<usize>,
    already_open: Vec<IpAddr>,
    removed: Vec<Removed>,
    /// Records that must go.
    gone: HashSet<usize>,
    hints: Vec<HintEdit>,
}

impl<'a> Sieve<'a> {
    fn new(
        policy: &'a Policy,
        filter: &'a AddressFilter,
        response: Response<'a>,
        only: Option<Family>,
        bound: &Bound,
    ) -> Self {
        Self {
            policy,
            filter,
            response,
            only,
            chain: bound.chain.clone(),
            grants: Grants::new(),
            place_of: Places::default(),
            already_open: Vec::new(),
            removed: Vec::new(),
            gone: HashSet::new(),
            hints: Vec::new(),
        }
    }

    fn run(mut self, mut bound: Bound) -> Judged {
        // Pass 1: which records change or go. Nothing is granted before this is known.
        let mut passed = Vec::new();
        for group in bound.addresses.chunk_by(|a, b| a.record == b.record) {
            let before = self.removed.len();
            let start = passed.len();
            let Some(first) = group.first() else { continue };
            let names = self.names_to(first.record);
            for found in group {
                let judged = match &names {
                    Err(reason) => Err(reason.clone()),
                    Ok(names) => self.admit(found.address, names),
                };
                match judged {
                    Ok(admitted) => passed.push((*found, admitted)),
                    Err(reason) => self.removed.push(Removed { address: found.address, record: found.record, reason }),
                }
            }
            if self.removed.len() == before {
                continue;
            }
            let left: Vec<IpAddr> = passed.iter().skip(start).map(|(found, _)| found.address).collect();
            if first.origin == Origin::Direct {
                self.gone.insert(first.record);
            } else if !self.edit_hints(first.record, &left) {
                self.gone.insert(first.record);
                let lost = passed.drain(start..).map(|(found, _)| found);
                self.removed.extend(lost.map(|found| Removed {
                    address: found.address,
                    record: found.record,
                    reason: Reason::Mandatory,
                }));
            }
        }
        if !self.removed.is_empty() {
            let signed = self.drop_signatures(&mut bound);
            if signed && self.response.dnssec_ok {
                self.removed.extend(passed.drain(..).map(|(found, _)| Removed {
                    address: found.address,
                    record: found.record,
                    reason: Reason::SignedSet,
                }));
                return self.filtered(&bound);
            }
        }
        // Pass 2: what is left.
        bound.keep.retain(|kept| !matches!(kept, Kept::Record(index) if self.gone.contains(index)));
        if !self.removed.is_empty() && !self.has_data(&bound) {
            return self.filtered(&bound);
        }
        let mut open = HashSet::new();
        for (found, admitted) in passed {
            match admitted {
                Admitted::Lease => self.grant(found.address, found.ttl),
                Admitted::AlreadyOpen | Admitted::Here | Admitted::Told if open.insert(found.address) => {
                    self.already_open.push(found.address);
                }
                Admitted::AlreadyOpen | Admitted::Here | Admitted::Told => {}
            }
        }
        Judged::Answer(Answer {
            keep: bound.keep,
            hints: self.hints,
            grants: self.grants,
            already_open: self.already_open,
            chain: bound.chain,
            removed: self.removed,
            dropped: bound.dropped,
            ttl: bound.ttl,
            overlong: bound.overlong,
        })
    }

    /// What the filter says, where the client's family may go there.
    fn admit(&self, address: IpAddr, names: &[Name]) -> Result<Admitted, Reason> {
        let admitted = self.filter.judge(address, &self.response.question.name, names)?;
        match self.only {
            Some(only) if admitted == Admitted::Lease && Family::of(address) != only => Err(Reason::OtherFamily),
            _ => Ok(admitted),
        }
    }

    fn filtered(self, bound: &Bound) -> Judged {
        Judged::Filtered { removed: self.removed, chain: self.chain, dropped: bound.dropped }
    }

    /// The aliases that count for the addresses of one record. A hint belongs to the service's target name, which thereby is one more
    /// name of the chain, and may be denied.
    fn names_to(&self, record: usize) -> Result<Vec<Name>, Reason> {
        let mut names = self.chain.clone();
        let Some(RecordData::Svcb { target, .. }) = self.response.records.get(record).map(|record| &record.data) else {
            return Ok(names);
        };
        // The root stands for the owner, which is in the chain already (RFC 9460 section 2.5).
        if *target == Name::root() {
            return Ok(names);
        }
        let verdict = self.policy.judge_alias(target);
        if verdict.denies() {
            let rule = verdict.rule.map(|rule| self.policy.describe(rule));
            return Err(Reason::Target { name: target.clone(), rule });
        }
        names.push(target.clone());
        Ok(names)
    }

    /// Writes down what remains of a record's hints. False: the record must go, since `mandatory` names a key that has no value left.
    fn edit_hints(&mut self, record: usize, left: &[IpAddr]) -> bool {
        let Some(RecordData::Svcb { mandatory, ipv4hint, ipv6hint, .. }) =
            self.response.records.get(record).map(|record| &record.data)
        else {
            return false;
        };
        let left: HashSet<&IpAddr> = left.iter().collect();
        let edit = HintEdit {
            record,
            ipv4hint: ipv4hint.iter().copied().filter(|hint| left.contains(&IpAddr::V4(*hint))).collect(),
            ipv6hint: ipv6hint.iter().copied().filter(|hint| left.contains(&IpAddr::V6(*hint))).collect(),
        };
        let lost = |key, before: bool, after: bool| before && !after && mandatory.contains(&key);
        if lost(svcparam::IPV4HINT, !ipv4hint.is_empty(), !edit.ipv4hint.is_empty())
            || lost(svcparam::IPV6HINT, !ipv6hint.is_empty(), !edit.ipv6hint.is_empty())
        {
            return false;
        }
        self.hints.push(edit);
        true
    }

    /// Takes out the signatures over the changed set; says whether there were any.
    fn drop_signatures(&mut self, bound: &mut Bound) -> bool {
        let qtype = self.response.question.qtype;
        let records = self.response.records;
        let before = bound.keep.len();
        bound.keep.retain(|kept| {
            let Kept::Record(index) = kept else { return true };
            records.get(*index).is_none_or(|record| {
                record.owner != bound.terminal
                    || !matches!(record.data, RecordData::Rrsig { covered } if covered == qtype)
            })
        });
        bound.keep.len() != before
    }

    /// Whether a record of the question's type is left.
    fn has_data(&self, bound: &Bound) -> bool {
        let qtype = self.response.question.qtype;
        bound.keep.iter().any(|kept| {
            matches!(kept, Kept::Record(index) if self.response.records.get(*index).is_some_and(|record| record.rtype == qtype))
        })
    }

    /// Grants an address once, with its largest TTL.
    fn grant(&mut self, address: IpAddr, ttl: u32) {
        if let Some(grant) = self.place_of.get(address).and_then(|place| self.grants.get_mut(place)) {
            grant.ttl = grant.ttl.max(ttl);
            return;
        }
        self.place_of.insert(address, self.grants.len());
        self.grants.push(Grant { address, ttl });
    }
}

/// Whether a question's answers may hold addresses to lease.
#[must_use]
pub fn may_open(qtype: u16) -> bool {
    matches!(qtype, rtype::A | rtype::AAAA | rtype::SVCB | rtype::HTTPS)
}
