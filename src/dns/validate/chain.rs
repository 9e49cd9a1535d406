//! From a trust anchor down to the zone that a name lies in: DS and DNSKEY of each zone on the way (RFC 4035 section 5), or the proof that one isn't signed.
//!
//! One name at a time: the zone above is asked for the DS record of the name. The answer is that the name begins a signed zone, begins an unsigned one,
//! begins none, or doesn't exist; each is proved by the zone above, and kept. Names that are asked for at the same moment are asked for once.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::dnssec::DigestType;
use hickory_proto::dnssec::crypto;

use super::anchor::{Anchor, Digest};
use super::denial::{Cut, Denials};
use super::rrset::{Key, RrSet, Sets};
use super::{Budget, Failure, Limit, Security, Source, Turn, Validator, Work};
use crate::core::client::Claim;
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::dns::codec::ede::code;
use crate::dns::codec::response::{self, Response};
use crate::dns::codec::wire::{rcode, rtype, type_name};
use crate::dns::metrics::Metrics;
use crate::dns::upstream::query::Query;
use crate::sys::clock::Clock;

/// Bounds of the time that something proved is kept.
const KEEP: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(86_400));
/// The longest that the absence of a delegation is kept (RFC 2308 section 5).
const KEEP_ABSENCE: Duration = Duration::from_secs(3600);
/// How long a failure is kept (RFC 9520 section 3.2, RFC 4035 section 4.7); one of the proof itself always so long.
const KEEP_FAILURE: Duration = Duration::from_secs(5);
/// How long it is kept that a question had no reply, at first; twice as long each time that it has none again, up to [`KEEP_FAILURE`]. A lost packet
/// on the way to a zone that much lies below is not to cost more than that.
const KEEP_SILENCE: Duration = Duration::from_secs(1);
/// Octets of the cache. A zone's keys have some hundred.
const CACHE: usize = 16 << 20;
/// Octets that an entry costs beside names and keys.
const OVERHEAD: usize = 160;
/// Keys of a zone that count: real ones have two to four, some more while they roll.
const KEYS: usize = 24;
/// Digests of a delegation that count.
const DIGESTS: usize = 12;
/// Digests with the tag and algorithm of a key that are compared with it, as there may be as many keys of that tag (CVE-2023-50387).
const SAME_TAG: usize = 4;
/// NSEC and NSEC3 records of a response that count: a denial needs three, and each alias by wildcard one more.
pub const DENIALS: usize = 12;

/// A signed zone.
#[derive(Debug)]
pub struct Zone {
    /// The name of the zone's apex.
    pub name: Name,
    /// The zone's keys that were found to be good.
    pub keys: Vec<Key>,
}

/// What is known of a name.
#[derive(Clone, Debug)]
enum Known {
    Zone(Arc<Zone>),
    Cut(Cut),
    /// With the last turn at which it was found so: later ones ask others.
    Failed(Failure, usize),
}

/// Where a name stands.
#[derive(Clone, Debug)]
pub enum Standing {
    /// In this signed zone.
    Secure(Arc<Zone>),
    /// In none that could be validated.
    Insecure,
}

/// The denials of a zone in a response.
pub struct Proof {
    /// What they prove.
    pub denials: Denials,
    /// The least time that they last.
    pub keep: Duration,
    /// What is wrong with one that the zone didn't sign.
    pub failure: Option<Failure>,
    /// Owners and types of those that it signed.
    pub signed: Vec<(Name, u16)>,
}

struct Kept {
    known: Known,
    until: Moment,
    /// How long it was to be kept.
    span: Duration,
    octets: usize,
}

#[derive(Default)]
struct Table {
    kept: HashMap<Name, Kept>,
    octets: usize,
}

/// What was proved of names; bounded in octets.
pub struct Cache {
    table: Mutex<Table>,
    /// A name being asked about. Whoever holds its lock asks; the others find the result in `table`.
    asking: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>,
    metrics: Metrics,
    clock: Clock,
}

impl Cache {
    /// A cache that holds nothing yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { table: Mutex::default(), asking: Mutex::default(), metrics, clock: Clock::start() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &Name) -> Option<Known> {
        let now = self.clock.now();
        let table = self.table();
        table.kept.get(name).filter(|kept| kept.until > now).map(|kept| kept.known.clone())
    }

    fn put(&self, name: &Name, known: Known, keep: Duration) {
        let keys = match &known {
            Known::Zone(zone) => zone.keys.iter().map(|key| key.rdata().len().saturating_add(48)).sum(),
            Known::Cut(_) => 0,
            Known::Failed(failure, _) => failure.text.len(),
        };
        let octets = OVERHEAD.saturating_add(name.wire().len().saturating_mul(2)).saturating_add(keys);
        let now = self.clock.now();
        let mut table = self.table();
        let kept = Kept { known, until: now.plus(keep), span: keep, octets };
        let old = table.kept.insert(name.clone(), kept).map_or(0, |old| old.octets);
        table.octets = table.octets.saturating_add(octets).saturating_sub(old);
        if table.octets > CACHE {
            Self::shrink(&mut table, now);
        }
        self.metrics.validation_cache_entries.set(i64::try_from(table.kept.len()).unwrap_or(i64::MAX));
        self.metrics.validation_cache_bytes.set(i64::try_from(table.octets).unwrap_or(i64::MAX));
    }

    /// Keeps a failure; a question without reply the longer the more often it had none.
    fn put_failure(&self, name: &Name, failure: Failure, turn: usize) {
        let recent = self.clock.now().minus(KEEP_FAILURE);
        let again = {
            let table = self.table();
            let last = table.kept.get(name).filter(|kept| {
                matches!(&kept.known, Known::Failed(failure, _) if failure.unreached.is_some()) && kept.until > recent
            });
            last.map(|kept| kept.span.saturating_mul(2))
        };
        let keep = match failure.unreached {
            Some(_) => again.unwrap_or(KEEP_SILENCE).min(KEEP_FAILURE),
            None => KEEP_FAILURE,
        };
        self.put(name, Known::Failed(failure, turn), keep);
    }

    /// To seven eighths: what has ended first, then whatever the table's random order brings.
    fn shrink(table: &mut Table, now: Moment) {
        table.kept.retain(|_, kept| kept.until > now);
        table.octets = table.kept.values().map(|kept| kept.octets).sum();
        let goal = CACHE / 8 * 7;
        let mut octets = table.octets;
        table.kept.retain(|_, kept| {
            let stays = octets <= goal;
            octets = if stays { octets } else { octets.saturating_sub(kept.octets) };
            stays
        });
        table.octets = octets;
    }

    fn lock_of(&self, name: &Name) -> Arc<tokio::sync::Mutex<()>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }

    /// Forgets the lock when nobody else waits for it.
    fn unlock(&self, name: &Name, lock: Arc<tokio::sync::Mutex<()>>) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        drop(lock);
        if asking.get(name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            asking.remove(name);
        }
    }
}

/// The lock of a name, forgotten however its holder ends.
struct Asking<'a> {
    cache: &'a Cache,
    name: &'a Name,
    lock: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            self.cache.unlock(self.name, lock);
        }
    }
}

impl Validator {
    /// In which zone `name` lies, and whether that is signed.
    ///
    /// # Errors
    /// The chain is broken, or can't be had.
    pub async fn standing<S: Source>(&self, work: &mut Work<'_, S>, name: &Name) -> Result<Standing, Failure> {
        let Some((top, anchor)) = self.anchors.above(name) else { return Ok(Standing::Insecure) };
        let mut zone = match self.known(work, top, From::Anchor(anchor)).await? {
            Known::Zone(zone) => zone,
            Known::Failed(failure, _) => return Err(failure),
            Known::Cut(_) => return Ok(Standing::Insecure),
        };
        let below = name.suffixes().count().saturating_sub(top.suffixes().count());
        let way: Vec<&[u8]> = name.suffixes().take(below).collect();
        for child in way.into_iter().rev().filter_map(|wire| Name::from_wire(wire).ok()) {
            match self.known(work, &child, From::Zone(&zone)).await? {
                Known::Zone(next) => zone = next,
                Known::Cut(Cut::Insecure) => return Ok(Standing::Insecure),
                Known::Cut(Cut::NoCut) => {}
                Known::Cut(Cut::Nothing) => break,
                Known::Failed(failure, _) => return Err(failure),
            }
        }
        Ok(Standing::Secure(zone))
    }

    /// What is in the cache of a name, but failures that the upstream whose turn it is has no part in.
    fn kept(&self, turn: Turn, name: &Name) -> Option<Known> {
        match self.trusted.get(name)? {
            Known::Failed(_, found) if found < turn.now => None,
            Known::Failed(failure, found) => {
                Some(Known::Failed(Failure { settled: found >= turn.last, ..failure }, found))
            }
            known => Some(known),
        }
    }

    /// What is known of a name; asks if need be.
    async fn known<S: Source>(&self, work: &mut Work<'_, S>, name: &Name, from: From<'_>) -> Result<Known, Failure> {
        if let Some(known) = self.kept(work.turn, name) {
            return Ok(known);
        }
        let lock = self.trusted.lock_of(name);
        let asking = Asking { cache: &self.trusted, name, lock: Some(lock.clone()) };
        let held = lock.lock_owned().await;
        if let Some(known) = self.kept(work.turn, name) {
            return Ok(known);
        }
        let before = work.budget;
        let found = match from {
            From::Anchor(anchor) => self.keys(work, name, anchor).await.map(|(zone, keep)| (Known::Zone(zone), keep)),
            From::Zone(zone) => self.child(work, zone, name).await,
        };
        let result = match found {
            Ok((known, keep)) => {
                self.trusted.put(name, known.clone(), keep.clamp(KEEP.0, KEEP.1));
                Ok(known)
            }
            // This question's own limits say nothing of the name.
            Err(failure) if work.budget.is_out_of_queries() => Err(failure),
            Err(failure) if work.limit() == Some(Limit::Busy) => Err(failure),
            Err(failure) if work.limit().is_some() && !before.is_ample() => Err(failure),
            Err(failure) => {
                self.trusted.put_failure(name, failure.clone(), work.turn.now);
                Err(failure)
            }
        };
        drop(held);
        drop(asking);
        result
    }

    /// What `zone` says of `child`: the question for its DS record, and for its keys when there is one.
    async fn child<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        zone: &Zone,
        child: &Name,
    ) -> Result<(Known, Duration), Failure> {
        let response = self.question(work, child, rtype::DS).await?;
        let answers = Sets::answers(&response);
        if let Some(set) = answers.get(child, rtype::DS) {
            let verified = self.verify(work, set, &zone.name, &zone.keys).await?;
            if verified.expanded.is_some() {
                return Err(Failure::bogus(code::DNSSEC_BOGUS, format!("the digest of {child} is that of a wildcard")));
            }
            let keep = seconds(verified.ttl);
            let digests: Vec<Digest> = set.rdata.iter().filter_map(|rdata| Digest::from_rdata(rdata)).collect();
            let mut digests: Vec<Digest> = digests.into_iter().filter(Digest::is_supported).take(DIGESTS).collect();
            if digests.is_empty() {
                // RFC 4035 section 5.2: as if it weren't signed.
                return Ok((Known::Cut(Cut::Insecure), keep));
            }
            // RFC 4509 section 3: SHA-1 counts for nothing beside a better one.
            if digests.iter().any(|digest| digest.kind != 1) {
                digests.retain(|digest| digest.kind != 1);
            }
            let anchor = Anchor { digests, keys: Vec::new() };
            let (found, keep_keys) = self.keys(work, child, &anchor).await?;
            return Ok((Known::Zone(found), keep.min(keep_keys)));
        }
        // An alias: a name of the zone like others, or below a DNAME, where nothing stands.
        let aliases = [(child.clone(), rtype::CNAME)]
            .into_iter()
            .chain(child.suffixes().skip(1).filter_map(|wire| Some((Name::from_wire(wire).ok()?, rtype::DNAME))));
        for (owner, kind) in aliases.filter(|(owner, _)| owner.is_within(&zone.name)) {
            if let Some(set) = answers.get(&owner, kind).filter(|set| !set.signatures.is_empty()) {
                let verified = self.verify(work, set, &zone.name, &zone.keys).await?;
                let keep = seconds(verified.ttl).min(KEEP_ABSENCE);
                let Some(labels) = verified.expanded else { return Ok((Known::Cut(Cut::NoCut), keep)) };
                // One made from a wildcard says nothing of a name that exists, as a delegation does.
                let mut proof = self.denials(work, zone, &Sets::authority(&response)).await;
                let keep = keep.min(proof.keep);
                if proof.denials.is_too_costly() {
                    return Ok((Known::Cut(Cut::Insecure), keep));
                }
                let closer = {
                    let owner = owner.clone();
                    move |denials: &mut Denials, budget: &mut Budget| denials.no_closer(&owner, labels, budget)
                };
                return match self.look(work, &mut proof.denials, &owner, closer).await? {
                    Some(Security::Secure) => Ok((Known::Cut(Cut::NoCut), keep)),
                    Some(Security::Insecure) => Ok((Known::Cut(Cut::Insecure), keep)),
                    None => Err(proof.failure.unwrap_or_else(|| {
                        let text = format!("nothing proves that a wildcard stands for {child}");
                        Failure::bogus(code::NSEC_MISSING, text)
                    })),
                };
            }
        }
        let authority = Sets::authority(&response);
        let mut proof = self.denials(work, zone, &authority).await;
        let keep = proof.keep.min(KEEP_ABSENCE);
        if proof.denials.is_too_costly() {
            return Ok((Known::Cut(Cut::Insecure), keep));
        }
        let cut = {
            let child = child.clone();
            move |denials: &mut Denials, budget: &mut Budget| denials.cut(&child, budget)
        };
        match self.look(work, &mut proof.denials, child, cut).await? {
            Some(cut) => Ok((Known::Cut(cut), keep)),
            None => Err(proof.failure.unwrap_or_else(|| {
                let text = format!("{} proves neither that {child} is signed nor that it isn't", zone.name);
                Failure::bogus(code::NSEC_MISSING, text)
            })),
        }
    }

    /// The denials in `sets` that `zone` signed.
    pub(super) async fn denials<S: Source>(&self, work: &mut Work<'_, S>, zone: &Zone, sets: &Sets<'_>) -> Proof {
        let denials = Denials::of(zone.name.clone());
        let mut proof = Proof { denials, keep: KEEP.1, failure: None, signed: Vec::new() };
        let of_zone =
            |set: &&RrSet<'_>| matches!(set.rtype, rtype::NSEC | rtype::NSEC3) && set.owner.is_within(&zone.name);
        for set in sets.iter().filter(of_zone).take(DENIALS) {
            match self.verify(work, set, &zone.name, &zone.keys).await {
                // One made from a wildcard is no denial of its own name.
                Ok(verified) if verified.expanded.is_none() => {
                    proof.keep = proof.keep.min(seconds(verified.ttl));
                    proof.signed.push((set.owner.clone(), set.rtype));
                    for rdata in &set.rdata {
                        match set.rtype {
                            rtype::NSEC => proof.denials.add_nsec(&set.owner, rdata),
                            _ => proof.denials.add_nsec3(&set.owner, rdata),
                        }
                    }
                }
                Ok(_) => {}
                Err(why) => proof.failure = proof.failure.or(Some(why)),
            }
        }
        proof
    }

    /// The keys of a zone, from its anchors or the digests that the zone above gave.
    async fn keys<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        name: &Name,
        anchor: &Anchor,
    ) -> Result<(Arc<Zone>, Duration), Failure> {
        let response = self.question(work, name, rtype::DNSKEY).await?;
        let answers = Sets::answers(&response);
        let missing = |text: String| Failure::bogus(code::DNSKEY_MISSING, text);
        let set = answers.get(name, rtype::DNSKEY).ok_or_else(|| missing(format!("{name} has no key")))?;
        let keys: Vec<Key> = set.rdata.iter().filter_map(|rdata| Key::from_rdata(rdata)).take(KEYS).collect();
        let digested = |key: &Key| {
            let fits = |digest: &&Digest| digest.tag == key.tag && digest.algorithm == key.algorithm;
            anchor.digests.iter().filter(fits).take(SAME_TAG).any(|digest| is_of(digest, name, key))
        };
        let trusted = keys.iter().filter(|key| anchor.keys.contains(key) || digested(key));
        let trusted: Vec<Key> = trusted.cloned().collect();
        if trusted.is_empty() {
            return Err(missing(format!("no key of {name} is the one that is trusted")));
        }
        let verified = self.verify(work, set, name, &trusted).await?;
        Ok((Arc::new(Zone { name: name.clone(), keys }), seconds(verified.ttl)))
    }

    /// Asks one question of the chain.
    async fn question<S: Source>(&self, work: &mut Work<'_, S>, name: &Name, qtype: u16) -> Result<Response, Failure> {
        work.budget.query()?;
        self.metrics.validation_queries.inc();
        let query = Query {
            name: name.clone(),
            qtype,
            dnssec_ok: true,
            checking_disabled: true,
            plain: false,
            whose: Claim::NOBODY,
        };
        let what = || format!("{} {name}", type_name(qtype));
        let message = work
            .source
            .ask(&query, work.turn.whom())
            .await
            .map_err(|error| Failure::unknown(format!("no upstream answers for {}", what()), Some(error)))?;
        let response = response::read(&message)
            .map_err(|_| Failure::unknown(format!("the upstream's response for {} is malformed", what()), None))?;
        if response.truncated || !matches!(response.rcode, rcode::NOERROR | rcode::NXDOMAIN) {
            let text = format!("the upstream has no answer for {} (code {})", what(), response.rcode);
            return Err(Failure::unknown(text, None));
        }
        Ok(response)
    }
}

/// Who speaks for a name.
enum From<'a> {
    /// Nobody but the configuration.
    Anchor(&'a Anchor),
    /// The zone above.
    Zone(&'a Zone),
}

/// Whether the digest, of the key's tag, is that of the key (RFC 4034 section 5.1.4).
fn is_of(digest: &Digest, name: &Name, key: &Key) -> bool {
    crypto::Digest::from_iter([name.wire(), key.rdata()], DigestType::from(digest.kind))
        .is_ok_and(|own| own.as_ref() == &*digest.digest)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(u64::from(ttl))
}

const _: () = assert!(mem::size_of::<Kept>() < OVERHEAD);

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn silence_is_kept_the_longer_the_more_often_it_comes() {
        let cache = Cache::new(Metrics::register(&mut Registry::default()));
        let name: Name = "test".parse().unwrap();
        let span = |cache: &Cache| cache.table().kept[&name].span.as_secs();
        let silent = || Failure::unknown("no reply".to_owned(), None);
        let seen = [(); 5].map(|()| {
            cache.put_failure(&name, silent(), 0);
            span(&cache)
        });
        assert_eq!(seen, [1, 2, 4, 5, 5]);
        // A failed proof is another matter, and what comes behind it begins anew.
        cache.put_failure(&name, Failure::bogus(code::DNSSEC_BOGUS, "forged".to_owned()), 0);
        assert_eq!(span(&cache), 5);
        cache.put_failure(&name, silent(), 0);
        assert_eq!(span(&cache), 1);
    }
}
