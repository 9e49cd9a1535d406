//! Sets of records with their signatures, and whether a key made one (RFC 4034 sections 3.1.8 and 6, RFC 4035 section 5.3).

use std::collections::HashMap;

use hickory_proto::dnssec::{Algorithm, PublicKey, PublicKeyBuf};

use super::Failure;
use super::budget::{self, Budget};
use crate::core::answer::effective_ttl;
use crate::core::name::Name;
use crate::dns::codec::ede::code;
use crate::dns::codec::response::{self, Response};
use crate::dns::codec::wire::{rtype, type_name, u16_at, u32_at};

/// Signatures of one set that are looked at: real zones have one or two, four while they change algorithms.
const SIGNATURES: usize = 8;
/// Keys with the tag and algorithm of a signature that are tried with it. Keys with one tag are rare; thousands of them are an attack ("KeyTrap",
/// CVE-2023-50387).
const SAME_TAG: usize = 2;
/// Bits of RSA keys: shorter ones are no proof (RFC 8624 section 3.1 asks for 2048), and the library checks with neither.
const RSA_BITS: (usize, usize) = (1024, 8192);
/// Octets of data that make a check as dear again.
const LONG: usize = 16 << 10;

/// A key of a zone (DNSKEY).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Key tag (RFC 4034 appendix B).
    pub tag: u16,
    /// The number of the key's algorithm (IANA, "DNS Security Algorithm Numbers").
    pub algorithm: u8,
    rdata: Box<[u8]>,
}

impl Key {
    /// From the RDATA of a DNSKEY record. `None`: malformed, not for a zone (RFC 4034 section 2.1.1), or revoked (RFC 5011 section 2.1).
    #[must_use]
    pub fn from_rdata(rdata: &[u8]) -> Option<Self> {
        const ZONE: u16 = 0x0100;
        const REVOKED: u16 = 0x0080;
        let flags = u16_at(rdata, 0)?;
        let (&[_, _, protocol, algorithm], public) = rdata.split_first_chunk()?;
        if flags & ZONE == 0 || flags & REVOKED != 0 || protocol != 3 || public.is_empty() {
            return None;
        }
        let sum = rdata.chunks(2).fold(0u32, |sum, pair| {
            let high = u32::from(pair.first().copied().unwrap_or(0)) << 8;
            sum.wrapping_add(high | u32::from(pair.get(1).copied().unwrap_or(0)))
        });
        let tag = u16::try_from(sum.wrapping_add(sum >> 16) & 0xffff).ok()?;
        Some(Self { tag, algorithm, rdata: rdata.into() })
    }

    /// The RDATA of the DNSKEY record, as it came.
    #[must_use]
    pub fn rdata(&self) -> &[u8] {
        &self.rdata
    }

    fn public(&self) -> &[u8] {
        self.rdata.get(4..).unwrap_or_default()
    }

    /// What one check with it costs.
    fn units(&self) -> u32 {
        budget::units(self.algorithm, self.public())
    }

    /// The bits of an RSA key that the library can't check with.
    fn unsuitable(&self) -> Option<usize> {
        let (_, bits) = matches!(self.algorithm, 5 | 7 | 8 | 10).then(|| budget::rsa(self.public()))??;
        (bits < RSA_BITS.0 || bits > RSA_BITS.1).then_some(bits)
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm = Algorithm::from_u8(self.algorithm);
        algorithm.is_supported()
            && PublicKeyBuf::new(self.public().to_vec(), algorithm).verify(message, signature).is_ok()
    }
}

/// One signature (RRSIG).
#[derive(Clone, Debug)]
pub struct Signature<'a> {
    /// The zone that made it.
    pub signer: Name,
    algorithm: u8,
    labels: usize,
    original_ttl: u32,
    expiration: u32,
    inception: u32,
    tag: u16,
    /// The first 18 octets.
    head: &'a [u8],
    octets: &'a [u8],
    ttl: u32,
}

impl<'a> Signature<'a> {
    /// From RDATA whose name is not compressed.
    fn from_rdata(rdata: &'a [u8], ttl: u32) -> Option<Self> {
        let mut end = 18usize;
        while let Some(len) = rdata.get(end).filter(|len| **len != 0) {
            end = end.saturating_add(1).saturating_add(usize::from(*len));
        }
        end = end.saturating_add(1);
        Some(Self {
            signer: Name::from_wire(rdata.get(18..end)?).ok()?,
            algorithm: *rdata.get(2)?,
            labels: usize::from(*rdata.get(3)?),
            original_ttl: u32_at(rdata, 4)?,
            expiration: u32_at(rdata, 8)?,
            inception: u32_at(rdata, 12)?,
            tag: u16_at(rdata, 16)?,
            head: rdata.get(..18)?,
            octets: rdata.get(end..)?,
            ttl,
        })
    }
}

/// The records of one owner and type.
#[derive(Clone, Debug)]
pub struct RrSet<'a> {
    /// The owner's name in lower case.
    pub owner: Name,
    /// The type of the records.
    pub rtype: u16,
    /// Data as it came, names decompressed; nothing twice.
    pub rdata: Vec<&'a [u8]>,
    /// What covers it.
    pub signatures: Vec<Signature<'a>>,
    ttl: u32,
}

/// What a good signature says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Seconds that the set may be kept (RFC 4035 section 5.3.3).
    pub ttl: u32,
    /// For a set made from a wildcard: labels of the name that the wildcard stands below (RFC 4035 section 5.3.4).
    pub expanded: Option<usize>,
}

/// Sets by owner and type, in the order they came.
pub struct Sets<'a> {
    list: Vec<RrSet<'a>>,
    index: HashMap<(Name, u16), usize>,
}

impl<'a> Sets<'a> {
    /// Those of ANSWER.
    #[must_use]
    pub fn answers(response: &'a Response) -> Self {
        let records = response.answers.iter().zip(&response.rdata).filter(|(record, _)| record.class == 1);
        Self::new(records.map(|(record, rdata)| (&record.owner, record.rtype, record.ttl, &**rdata)))
    }

    /// Those of AUTHORITY.
    #[must_use]
    pub fn authority(response: &'a Response) -> Self {
        Self::new(response.authority.iter().map(|record| (&record.owner, record.rtype, record.ttl, &*record.rdata)))
    }

    fn new(records: impl Iterator<Item = (&'a Name, u16, u32, &'a [u8])> + Clone) -> Self {
        let mut sets = Self { list: Vec::new(), index: HashMap::new() };
        for (owner, kind, ttl, rdata) in records.clone().filter(|(_, kind, ..)| *kind != rtype::RRSIG) {
            let at = *sets.index.entry((owner.clone(), kind)).or_insert_with(|| {
                let set = RrSet {
                    owner: owner.clone(),
                    rtype: kind,
                    rdata: Vec::new(),
                    signatures: Vec::new(),
                    ttl: u32::MAX,
                };
                sets.list.push(set);
                sets.list.len().saturating_sub(1)
            });
            if let Some(set) = sets.list.get_mut(at) {
                set.ttl = set.ttl.min(effective_ttl(ttl));
                set.rdata.push(rdata);
            }
        }
        for (owner, kind, ttl, rdata) in records {
            let covered = u16_at(rdata, 0).filter(|_| kind == rtype::RRSIG);
            let at = covered.and_then(|covered| sets.index.get(&(owner.clone(), covered)).copied());
            let set = at.and_then(|at| sets.list.get_mut(at)).filter(|set| set.signatures.len() < SIGNATURES);
            if let (Some(set), Some(signature)) = (set, Signature::from_rdata(rdata, effective_ttl(ttl))) {
                set.signatures.push(signature);
            }
        }
        for set in &mut sets.list {
            set.rdata.sort_unstable();
            set.rdata.dedup();
        }
        sets
    }

    /// The set of this owner and type.
    #[must_use]
    pub fn get(&self, owner: &Name, rtype: u16) -> Option<&RrSet<'a>> {
        self.list.get(*self.index.get(&(owner.clone(), rtype))?)
    }

    /// All sets, in the order of the message.
    pub fn iter(&self) -> impl Iterator<Item = &RrSet<'a>> {
        self.list.iter()
    }
}

impl RrSet<'_> {
    /// The zones that its signatures name and that may sign for it, the nearest first; a few only.
    #[must_use]
    pub fn signers(&self) -> Vec<Name> {
        let mut signers: Vec<Name> = Vec::new();
        for signature in &self.signatures {
            let signer = &signature.signer;
            // A DS record belongs to the zone above its name.
            let own_apex = self.rtype == rtype::DS && *signer == self.owner;
            if self.owner.is_within(signer) && !own_apex && !signers.contains(signer) {
                signers.push(signer.clone());
            }
        }
        signers.sort_by_key(|signer| std::cmp::Reverse(signer.wire().len()));
        signers.truncate(2);
        signers
    }

    /// What is to be checked to know whether one of `keys`, those of `zone`, signed it.
    ///
    /// # Errors
    /// The reason that says most of why none can have: there is nothing to check.
    pub fn candidates(&self, zone: &Name, keys: &[Key], now: u32) -> Result<Check, Failure> {
        let what = || format!("{} {}", type_name(self.rtype), self.owner);
        let mut failure = Failure::bogus(code::RRSIGS_MISSING, format!("no signature of {zone} for {}", what()));
        let star = self.owner.labels().next() == Some(b"*");
        let own_labels = self.owner.label_count().saturating_sub(usize::from(star));
        let mut candidates = Vec::new();
        for signature in self.signatures.iter().filter(|signature| signature.signer == *zone) {
            if signature.labels > own_labels || signature.labels < zone.label_count() {
                failure.worsen(code::DNSSEC_BOGUS, || format!("the signature of {} is for another name", what()));
                continue;
            }
            if !Algorithm::from_u8(signature.algorithm).is_supported() {
                failure.worsen(code::DNSKEY_ALGORITHM, || format!("{} is signed by an unknown algorithm", what()));
                continue;
            }
            let fits = keys.iter().filter(|key| key.tag == signature.tag && key.algorithm == signature.algorithm);
            let mut fits: Vec<Key> = fits.take(SAME_TAG).cloned().collect();
            if fits.is_empty() {
                failure.worsen(code::DNSKEY_MISSING, || format!("{zone} has no key {} for {}", signature.tag, what()));
                continue;
            }
            if let Some(bits) = fits.iter().find_map(Key::unsuitable) {
                fits.retain(|key| key.unsuitable().is_none());
                let (least, most) = RSA_BITS;
                failure.worsen(code::DNSKEY_ALGORITHM, || {
                    format!("{} is signed by an RSA key of {bits} bits; {least} to {most} can be checked", what())
                });
                if fits.is_empty() {
                    continue;
                }
            }
            // RFC 1982: the differences count, not the numbers.
            let left = signature.expiration.wrapping_sub(now).cast_signed();
            if left < 0 {
                failure.worsen(code::SIGNATURE_EXPIRED, || format!("the signature of {} has expired", what()));
                continue;
            }
            if now.wrapping_sub(signature.inception).cast_signed() < 0 {
                failure
                    .worsen(code::SIGNATURE_NOT_YET_VALID, || format!("the signature of {} is not yet valid", what()));
                continue;
            }
            candidates.push(Candidate {
                keys: fits,
                labels: signature.labels,
                original_ttl: signature.original_ttl,
                head: [signature.head, signature.signer.wire()].concat(),
                octets: signature.octets.to_vec(),
                ttl: self.ttl.min(signature.ttl).min(signature.original_ttl).min(left.unsigned_abs()),
            });
        }
        if candidates.is_empty() {
            return Err(failure);
        }
        let data = self.canonical();
        Ok(Check { owner: self.owner.clone(), rtype: self.rtype, own_labels, data, candidates, failure })
    }

    /// The data in canonical form and order (RFC 4034 sections 6.2 and 6.3).
    fn canonical(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = self.rdata.iter().map(|rdata| canonical(self.rtype, rdata)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A signature that fits, and the keys that may have made it.
#[derive(Clone, Debug)]
struct Candidate {
    keys: Vec<Key>,
    labels: usize,
    original_ttl: u32,
    /// What is signed in front of the data.
    head: Vec<u8>,
    octets: Vec<u8>,
    /// Seconds that the set may be kept if it is right.
    ttl: u32,
}

/// The arithmetic that decides over a set; it holds all that this takes, so that any thread can do it.
#[derive(Clone, Debug)]
pub struct Check {
    owner: Name,
    rtype: u16,
    own_labels: usize,
    data: Vec<Vec<u8>>,
    candidates: Vec<Candidate>,
    /// What is said if none is right and nothing worse is found.
    failure: Failure,
}

impl Check {
    /// What it costs at most.
    #[must_use]
    pub fn units(&self) -> u32 {
        let octets: usize = self.data.iter().map(Vec::len).sum();
        let long = u32::try_from(octets / LONG).unwrap_or(u32::MAX).saturating_add(1);
        let keys = self.candidates.iter().flat_map(|candidate| &candidate.keys);
        keys.fold(0u32, |sum, key| sum.saturating_add(key.units())).saturating_mul(long)
    }

    /// Does it.
    ///
    /// # Errors
    /// The reason that says most of why no signature is right.
    pub fn run(self, budget: &mut Budget) -> Result<Verified, Failure> {
        let mut failure = self.failure.clone();
        for candidate in &self.candidates {
            let signed = self.signed(candidate);
            for key in candidate.keys.iter().rev() {
                budget.signature(signed.len(), key.units())?;
                if key.verifies(&signed, &candidate.octets) {
                    let expanded = (candidate.labels < self.own_labels).then_some(candidate.labels);
                    return Ok(Verified { ttl: candidate.ttl, expanded });
                }
                budget.failure(key.units())?;
            }
            failure.worsen(code::DNSSEC_BOGUS, || {
                format!("the signature of {} {} is wrong", type_name(self.rtype), self.owner)
            });
        }
        Err(failure)
    }

    /// What a signature is made over (RFC 4034 section 3.1.8.1).
    fn signed(&self, candidate: &Candidate) -> Vec<u8> {
        let size: usize = self.data.iter().map(|rdata| rdata.len().saturating_add(266)).sum();
        let mut out = Vec::with_capacity(size.saturating_add(300));
        out.extend_from_slice(&candidate.head);
        let mut owner = Vec::with_capacity(255);
        if candidate.labels < self.own_labels {
            let labels = self.owner.label_count();
            owner.extend_from_slice(b"\x01*");
            owner.extend_from_slice(
                self.owner.suffixes().nth(labels.saturating_sub(candidate.labels)).unwrap_or_default(),
            );
        } else {
            owner.extend_from_slice(self.owner.wire());
        }
        for rdata in &self.data {
            out.extend_from_slice(&owner);
            out.extend_from_slice(&self.rtype.to_be_bytes());
            out.extend_from_slice(&1u16.to_be_bytes());
            out.extend_from_slice(&candidate.original_ttl.to_be_bytes());
            out.extend_from_slice(&u16::try_from(rdata.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(rdata);
        }
        out
    }
}

/// Data with its names in lower case, for the types of RFC 4034 section 6.2 (NSEC is none of them: RFC 6840 section 5.1).
fn canonical(kind: u16, rdata: &[u8]) -> Vec<u8> {
    const KX: u16 = 36;
    let mut out = rdata.to_vec();
    let names = match kind {
        rtype::NSEC => None,
        KX => Some((2, 1)),
        _ => response::names_in(kind, rdata).unwrap_or(None),
    };
    let Some((mut at, count)) = names else { return out };
    for _ in 0..count {
        while let Some(len) = out.get(at).copied().filter(|len| *len != 0) {
            let end = at.saturating_add(1).saturating_add(usize::from(len));
            if let Some(label) = out.get_mut(at.saturating_add(1)..end) {
                label.make_ascii_lowercase();
            }
            at = end;
        }
        at = at.saturating_add(1);
    }
    out
}
