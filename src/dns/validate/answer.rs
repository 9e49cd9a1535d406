//! Whether a whole answer is true: every set of records that the question reaches, every wildcard on the way, and what is said not to exist.

use std::collections::{HashMap, HashSet};

use super::chain::{Proof, Standing};
use super::denial::Denials;
use super::rrset::{RrSet, Sets, Verified};
use super::{Budget, Failure, Security, Source, Validator, Work};
use crate::core::answer::{self, Bound, Kept, Question, Record};
use crate::core::name::Name;
use crate::dns::codec::ede::code;
use crate::dns::codec::response::Response;
use crate::dns::codec::wire::{rcode, rtype, u16_at};
use crate::dns::upstream::query::Query;

/// What is known of one set.
enum Found {
    Secure(Name, Verified),
    Insecure,
}

/// What is changed in a response that was found good.
#[derive(Default)]
struct Edits {
    /// Seconds that sets of ANSWER may be kept.
    answers: HashMap<(Name, u16), u32>,
    /// The same for those of AUTHORITY that count; the others are taken out.
    authority: HashMap<(Name, u16), u32>,
    rcode: Option<u16>,
}

/// The denials of a response by the zones that signed them, each checked once.
#[derive(Default)]
struct Proofs(Vec<Proof>);

impl Validator {
    /// Judges a response, and takes out of a secure one what was not validated. `None`: it can't be bound to the question, and whoever binds it next
    /// refuses it.
    ///
    /// # Errors
    /// Something of it is bogus, or can't be checked.
    pub async fn judge<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        query: &Query,
        response: &mut Response,
    ) -> Result<Option<Security>, Failure> {
        let question = Question { name: query.name.clone(), qtype: query.qtype, qclass: 1 };
        let bound = match response.rcode {
            rcode::NOERROR => answer::bind(&question, &response.answers),
            _ => answer::bind_aliases(&question, &response.answers),
        };
        let Ok(bound) = bound else { return Ok(None) };
        let mut edits = Edits::default();
        let security = self.reached(work, query, response, &bound, &mut edits).await?;
        edits.apply(response, &bound, security);
        Ok(Some(security))
    }

    /// The anchor that speaks for a name.
    fn top(&self, name: &Name) -> Option<&Name> {
        self.anchors.above(name).map(|(top, _)| top)
    }

    async fn reached<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        query: &Query,
        response: &Response,
        bound: &Bound,
        edits: &mut Edits,
    ) -> Result<Security, Failure> {
        let (answers, authority) = (Sets::answers(response), Sets::authority(response));
        let mut proofs = Proofs::default();
        let mut security = Security::Secure;
        let mut has_data = false;
        let mut seen: Vec<(&Name, u16)> = Vec::new();
        for kept in &bound.keep {
            let Some(record) = record(kept, response) else { continue };
            let synthesised = matches!(kept, Kept::SynthesisedCname { .. }) && query.qtype == rtype::CNAME;
            // A DNAME on the way is no answer to the question for one.
            has_data |= record.rtype == query.qtype && record.owner == bound.terminal || synthesised;
            if record.rtype == rtype::RRSIG {
                // Nobody signs signatures.
                security = if query.qtype == rtype::RRSIG { Security::Insecure } else { security };
                continue;
            }
            if seen.contains(&(&record.owner, record.rtype)) {
                continue;
            }
            seen.push((&record.owner, record.rtype));
            let Some(set) = answers.get(&record.owner, record.rtype) else { continue };
            if let Some(dname) = synthesised_from(set, bound, response)
                && self.top(&dname.owner) == self.top(&asked_side(&set.owner, set.rtype, query.qtype))
            {
                // The binder has seen that it is what the DNAME makes of its owner, and the DNAME was looked at by itself. Its TTL is nobody's word.
                let made_of = (dname.owner.clone(), rtype::DNAME);
                let ttl = edits.answers.get(&made_of).copied().unwrap_or_else(|| answer::effective_ttl(dname.ttl));
                edits.answers.insert((set.owner.clone(), rtype::CNAME), ttl);
                continue;
            }
            match self.set(work, set, query.qtype).await? {
                Found::Insecure => security = Security::Insecure,
                Found::Secure(zone, verified) => {
                    edits.answers.insert((set.owner.clone(), set.rtype), verified.ttl);
                    if let Some(labels) = verified.expanded {
                        let proved = self.expansion(work, &zone, set, labels, &authority, &mut proofs, edits).await?;
                        security = security.and(proved);
                    }
                }
            }
        }
        let negative = !has_data || response.rcode == rcode::NXDOMAIN;
        // A DNAME that makes too long a name proves that by itself (RFC 6672 section 2.2).
        if negative && !bound.overlong {
            let proved = self.absence(work, query, response.rcode, bound, &authority, &mut proofs, edits).await?;
            security = security.and(proved);
        }
        Ok(security)
    }

    /// Whether a set is signed by the zone that it stands in, when it was asked for by the type `asked`.
    async fn set<S: Source>(&self, work: &mut Work<'_, S>, set: &RrSet<'_>, asked: u16) -> Result<Found, Failure> {
        let mut failure: Option<Failure> = None;
        let side = asked_side(&set.owner, set.rtype, asked);
        let Some(top) = self.top(&side) else { return Ok(Found::Insecure) };
        // What stands above an anchor has no say below it, and a zone none above its cut.
        let fitting = |signer: &Name| signer.is_within(top) && side.is_within(signer);
        for signer in set.signers().into_iter().filter(fitting) {
            let zone = match self.standing(work, &signer).await {
                Ok(Standing::Secure(zone)) if zone.name == signer => zone,
                // Whether that matters is seen by where the owner itself stands.
                Ok(_) => continue,
                Err(why) => {
                    failure = failure.or(Some(why));
                    continue;
                }
            };
            match self.verify(work, set, &zone.name, &zone.keys).await {
                Ok(verified) => return Ok(Found::Secure(signer, verified)),
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        let zone = match self.standing(work, &side).await? {
            Standing::Insecure => return Ok(Found::Insecure),
            Standing::Secure(zone) => zone,
        };
        // Its own words, for signatures that name some other zone.
        let failure = match failure {
            None => self.verify(work, set, &zone.name, &zone.keys).await.err(),
            failure => failure,
        };
        Err(failure.unwrap_or_else(|| {
            Failure::bogus(code::DNSSEC_BOGUS, format!("{} is signed by the wrong zone", set.owner))
        }))
    }

    /// Whether a set may come from a wildcard: no nearer name may exist (RFC 4035 section 5.3.4, RFC 5155 section 8.8).
    #[allow(clippy::too_many_arguments)]
    async fn expansion<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        zone: &Name,
        set: &RrSet<'_>,
        labels: usize,
        authority: &Sets<'_>,
        proofs: &mut Proofs,
        edits: &mut Edits,
    ) -> Result<Security, Failure> {
        // A zone that signed is a signed zone.
        let Some(proof) = self.proofs(work, zone, authority, proofs).await? else { return Ok(Security::Insecure) };
        let denials = &mut proof.denials;
        if denials.is_too_costly() {
            return Ok(Security::Insecure);
        }
        let closer = {
            let owner = set.owner.clone();
            move |denials: &mut Denials, budget: &mut Budget| denials.no_closer(&owner, labels, budget)
        };
        match self.look(work, denials, &set.owner, closer).await? {
            Some(security) => {
                let ttl = edits.keep_denials(proof);
                if let Some(own) = edits.answers.get_mut(&(set.owner.clone(), set.rtype)) {
                    *own = (*own).min(ttl);
                }
                Ok(security)
            }
            None => Err(proof.failure.clone().unwrap_or_else(|| {
                let text = format!("nothing proves that a wildcard stands for {}", set.owner);
                Failure::bogus(code::NSEC_MISSING, text)
            })),
        }
    }

    /// Whether the answer's end is true: that there is no such name, or nothing of that type.
    #[allow(clippy::too_many_arguments)]
    async fn absence<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        query: &Query,
        claimed: u16,
        bound: &Bound,
        authority: &Sets<'_>,
        proofs: &mut Proofs,
        edits: &mut Edits,
    ) -> Result<Security, Failure> {
        let name = &bound.terminal;
        let side = side(name, query.qtype);
        let Some(top) = self.top(&side) else { return Ok(Security::Insecure) };
        let mut signers: Vec<Name> = Vec::new();
        for set in authority.iter().filter(|set| matches!(set.rtype, rtype::NSEC | rtype::NSEC3)) {
            let fitting = set.signers().into_iter().filter(|signer| {
                name.is_within(signer)
                    && signer.is_within(top)
                    && !(query.qtype == rtype::DS && signer == name && name.wire().len() > 1)
            });
            signers.extend(fitting);
        }
        signers.sort_by_key(|signer| std::cmp::Reverse(signer.wire().len()));
        signers.dedup();
        signers.truncate(2);
        let mut failure: Option<Failure> = None;
        for zone in signers {
            let proof = match self.proofs(work, &zone, authority, proofs).await {
                Ok(Some(proof)) => proof,
                Ok(None) => continue,
                Err(why) => {
                    failure = failure.or(Some(why));
                    continue;
                }
            };
            let denials = &mut proof.denials;
            if denials.is_too_costly() {
                // It is as if this zone weren't signed; but the name may stand in a signed one below it.
                match self.standing(work, &side).await? {
                    Standing::Secure(own) if own.name != zone => continue,
                    _ => return Ok(Security::Insecure),
                }
            }
            let qtype = query.qtype;
            let absent = {
                let name = name.clone();
                move |denials: &mut Denials, budget: &mut Budget| {
                    let none = if claimed == rcode::NXDOMAIN { denials.no_name(&name, budget)? } else { None };
                    match none {
                        Some(security) => Ok(Some((security, false))),
                        None => Ok(denials.no_data(&name, qtype, budget)?.map(|security| (security, true))),
                    }
                }
            };
            if let Some((security, exists)) = self.look(work, denials, name, absent).await? {
                if exists {
                    // Whatever the code says.
                    edits.rcode = (claimed != rcode::NOERROR).then_some(rcode::NOERROR);
                }
                let ttl = edits.keep_denials(proof);
                self.keep_soa(work, &zone, authority, ttl, edits).await?;
                return Ok(security);
            }
            failure = failure.or_else(|| proof.failure.clone()).or_else(|| {
                let text = format!("what {zone} signed doesn't prove that {name} has no such data");
                Some(Failure::bogus(code::DNSSEC_BOGUS, text))
            });
        }
        match self.standing(work, &side).await? {
            Standing::Insecure => Ok(Security::Insecure),
            Standing::Secure(_) => Err(failure.unwrap_or_else(|| {
                Failure::bogus(code::NSEC_MISSING, format!("nothing proves that {name} has no such data"))
            })),
        }
    }

    /// The denials that `zone` signed; `None`: it isn't a signed zone.
    async fn proofs<'p, S: Source>(
        &self,
        work: &mut Work<'_, S>,
        zone: &Name,
        authority: &Sets<'_>,
        proofs: &'p mut Proofs,
    ) -> Result<Option<&'p mut Proof>, Failure> {
        if !proofs.0.iter().any(|proof| proof.denials.zone() == zone) {
            let signed = match self.standing(work, zone).await? {
                Standing::Secure(signed) if signed.name == *zone => signed,
                _ => return Ok(None),
            };
            proofs.0.push(self.denials(work, &signed, authority).await);
        }
        Ok(proofs.0.iter_mut().find(|proof| proof.denials.zone() == zone))
    }

    /// The SOA record says how long the absence lasts; without its signature it says nothing.
    async fn keep_soa<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        zone: &Name,
        authority: &Sets<'_>,
        ttl: u32,
        edits: &mut Edits,
    ) -> Result<(), Failure> {
        let Some(set) = authority.get(zone, rtype::SOA) else { return Ok(()) };
        if let Standing::Secure(signed) = self.standing(work, zone).await?
            && signed.name == *zone
            && let Ok(verified) = self.verify(work, set, zone, &signed.keys).await
        {
            edits.authority.insert((zone.clone(), rtype::SOA), verified.ttl.min(ttl));
        }
        Ok(())
    }
}

impl Security {
    fn and(self, other: Self) -> Self {
        if self == Self::Secure { other } else { self }
    }
}

impl Edits {
    /// Keeps what proved something, and returns how many seconds it lasts.
    fn keep_denials(&mut self, proof: &Proof) -> u32 {
        let ttl = u32::try_from(proof.keep.as_secs()).unwrap_or(u32::MAX);
        self.authority.extend(proof.signed.iter().map(|set| (set.clone(), ttl)));
        ttl
    }

    fn apply(self, response: &mut Response, bound: &Bound, security: Security) {
        if let Some(code) = self.rcode {
            // Under the other code nothing but the aliases was looked at, and nothing else may stand there under this one.
            let kept: HashSet<usize> = bound
                .keep
                .iter()
                .filter_map(|kept| match kept {
                    Kept::Record(index) => Some(*index),
                    Kept::SynthesisedCname { .. } => None,
                })
                .collect();
            let looked_at = |index: usize| kept.contains(&index);
            let mut index = 0..;
            response.rdata.retain(|_| index.next().is_some_and(looked_at));
            let mut index = 0..;
            response.answers.retain(|_| index.next().is_some_and(looked_at));
            response.rcode = code;
        }
        for (record, rdata) in response.answers.iter_mut().zip(&response.rdata) {
            if let Some(ttl) = self.answers.get(&(record.owner.clone(), covered(record.rtype, rdata))) {
                record.ttl = answer::effective_ttl(record.ttl).min(*ttl);
            }
        }
        response.authentic = security == Security::Secure;
        if response.authentic {
            response.authority.retain_mut(|record| {
                let ttl = self.authority.get(&(record.owner.clone(), covered(record.rtype, &record.rdata)));
                if let Some(ttl) = ttl {
                    record.ttl = answer::effective_ttl(record.ttl).min(*ttl);
                }
                ttl.is_some()
            });
        }
    }
}

/// The type of a record, or that which a signature covers.
fn covered(kind: u16, rdata: &[u8]) -> u16 {
    if kind == rtype::RRSIG { u16_at(rdata, 0).unwrap_or(kind) } else { kind }
}

/// Where data of this type belongs: a DS record to the zone above its name.
pub(super) fn side(name: &Name, kind: u16) -> Name {
    if kind == rtype::DS { name.parent().unwrap_or_else(Name::root) } else { name.clone() }
}

/// Where a set belongs that came for a question of type `asked`. An alias is found by whoever is asked, and for a DS record that is the zone above
/// (RFC 4035 section 3.1.4.1): either the alias is a name of that zone like others, or a cut is there and the zone below, which can have no alias at its
/// own name (RFC 2181 section 10.1), wasn't asked.
fn asked_side(owner: &Name, kind: u16, asked: u16) -> Name {
    side(owner, if kind == rtype::CNAME { asked } else { kind })
}

fn record<'a>(kept: &Kept, response: &'a Response) -> Option<&'a Record> {
    match kept {
        Kept::Record(index) => response.answers.get(*index),
        Kept::SynthesisedCname { dname, .. } => response.answers.get(*dname),
    }
}

/// The DNAME that is kept as well, above a CNAME without signature.
fn synthesised_from<'a>(set: &RrSet<'_>, bound: &Bound, response: &'a Response) -> Option<&'a Record> {
    if set.rtype != rtype::CNAME || !set.signatures.is_empty() {
        return None;
    }
    let mut kept = bound.keep.iter().filter_map(|kept| record(kept, response));
    kept.find(|record| record.rtype == rtype::DNAME && record.owner != set.owner && set.owner.is_within(&record.owner))
}
