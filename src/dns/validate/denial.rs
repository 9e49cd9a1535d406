//! What a zone's signed NSEC and NSEC3 records prove not to exist (RFC 4035 section 5.4, RFC 5155 section 8, RFC 6840 sections 4 and 5).
//!
//! Every record that comes here was signed by the zone itself, under its own owner name. What they prove is worked out from them alone: neither the
//! response code nor what the server meant counts.

use std::cmp::Ordering;
use std::collections::HashMap;

use hickory_proto::dnssec::DigestType;
use hickory_proto::dnssec::crypto::Digest;

use super::budget::{self, Budget};
use super::{Failure, Security};
use crate::core::name::Name;
use crate::dns::codec::wire::rtype;

/// Rounds of hashing beyond which a zone's denials aren't checked, and count as those of an unsigned zone (RFC 9276 section 3.2).
pub const ITERATIONS: u16 = 150;
/// Compact denial's mark of a name that doesn't exist (RFC 9824).
const NXNAME: u16 = 128;

/// What stands at a name that a zone was asked the DS record of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A delegation without DS: what lies below isn't signed.
    Insecure,
    /// Another name of the zone.
    NoCut,
    /// Nothing, here and below.
    Nothing,
}

/// The types that stand at a name (RFC 4034 section 4.1.2).
#[derive(Clone, Debug)]
struct Types(Box<[u8]>);

impl Types {
    fn has(&self, kind: u16) -> bool {
        let [window, low] = kind.to_be_bytes();
        let mut rest = &self.0[..];
        while let Some((&[here, len], tail)) = rest.split_first_chunk() {
            let (bits, next) = tail.split_at_checked(usize::from(len)).unwrap_or((tail, &[]));
            if here == window {
                return bits.get(usize::from(low / 8)).is_some_and(|octet| octet & (0x80 >> (low % 8)) != 0);
            }
            rest = next;
        }
        false
    }

    /// A delegation's record in the zone above it: it speaks for that zone, and so not of other types than DS, and of no name below
    /// (RFC 6840 section 4.1).
    fn is_delegation(&self) -> bool {
        self.has(rtype::NS) && !self.has(rtype::SOA)
    }

    fn hides_what_is_below(&self) -> bool {
        self.is_delegation() || self.has(rtype::DNAME)
    }

    /// Whether it proves at its own name that there is no `kind`.
    fn lacks(&self, kind: u16, at_root: bool) -> bool {
        let right_side = if kind == rtype::DS { at_root || !self.has(rtype::SOA) } else { !self.is_delegation() };
        right_side && !self.has(kind) && !self.has(rtype::CNAME)
    }

    /// What it says of delegation at its own name, when it is the record of the zone above.
    fn cut(&self) -> Option<Cut> {
        if self.has(rtype::DS) || self.has(rtype::SOA) {
            None
        } else if self.has(rtype::NS) {
            Some(Cut::Insecure)
        } else {
            Some(Cut::NoCut)
        }
    }
}

struct Nsec {
    owner: Name,
    next: Name,
    types: Types,
}

impl Nsec {
    /// Whether `name` lies between its names, so that it doesn't exist (or has only names below it).
    fn covers(&self, name: &Name) -> bool {
        let above = canonical_order(&self.owner, name) == Ordering::Less;
        let last = canonical_order(&self.next, &self.owner) != Ordering::Greater;
        above
            && (last || canonical_order(name, &self.next) == Ordering::Less)
            && !(name.is_within(&self.owner) && self.types.hides_what_is_below())
    }

    /// The closest name above `name` that exists, for one that it covers.
    fn encloser(&self, name: &Name) -> Name {
        let (left, right) = (common(name, &self.owner), common(name, &self.next));
        if left.wire().len() >= right.wire().len() { left } else { right }
    }
}

struct Nsec3 {
    hash: [u8; 20],
    next: [u8; 20],
    opt_out: bool,
    types: Types,
}

impl Nsec3 {
    fn covers(&self, hash: &[u8; 20]) -> bool {
        if self.hash < self.next {
            self.hash < *hash && *hash < self.next
        } else {
            *hash > self.hash || *hash < self.next
        }
    }
}

/// The denials of one zone in one response.
pub struct Denials {
    zone: Name,
    nsec: Vec<Nsec>,
    nsec3: Vec<Nsec3>,
    iterations: u16,
    salt: Box<[u8]>,
    hashes: HashMap<Name, [u8; 20]>,
}

/// What NSEC3 says of the names above one that doesn't exist.
struct Closest {
    /// The closest name that exists.
    encloser: Name,
    /// Whether the name below it lies in a span that leaves out unsigned delegations.
    opt_out: bool,
}

impl Denials {
    /// Of this zone; nothing is proved yet.
    #[must_use]
    pub fn of(zone: Name) -> Self {
        Self { zone, nsec: Vec::new(), nsec3: Vec::new(), iterations: 0, salt: Box::default(), hashes: HashMap::new() }
    }

    /// The zone that the denials are of.
    #[must_use]
    pub fn zone(&self) -> &Name {
        &self.zone
    }

    /// Adds an NSEC record that the zone signed. Malformed ones prove nothing.
    pub fn add_nsec(&mut self, owner: &Name, rdata: &[u8]) {
        let mut end = 0usize;
        while let Some(len) = rdata.get(end).filter(|len| **len != 0) {
            end = end.saturating_add(1).saturating_add(usize::from(*len));
        }
        let Some((next, types)) = rdata.split_at_checked(end.saturating_add(1)) else { return };
        let Ok(next) = Name::from_wire(next) else { return };
        if next.is_within(&self.zone) {
            self.nsec.push(Nsec { owner: owner.clone(), next, types: Types(types.into()) });
        }
    }

    /// Adds an NSEC3 record that the zone signed. Malformed ones, those of unknown algorithms or flags (RFC 5155 section 8.2) and those that don't hash
    /// like the first prove nothing.
    pub fn add_nsec3(&mut self, owner: &Name, rdata: &[u8]) {
        let Some(nsec3) = self.read_nsec3(owner, rdata) else { return };
        self.nsec3.push(nsec3);
    }

    fn read_nsec3(&mut self, owner: &Name, rdata: &[u8]) -> Option<Nsec3> {
        let (&[algorithm, flags, high, low, salt], rest) = rdata.split_first_chunk()?;
        let (salt, rest) = rest.split_at_checked(usize::from(salt))?;
        let (&len, rest) = rest.split_first()?;
        let (next, types) = rest.split_at_checked(usize::from(len))?;
        let iterations = u16::from_be_bytes([high, low]);
        if algorithm != 1 || flags > 1 || owner.parent().as_ref() != Some(&self.zone) {
            return None;
        }
        if self.nsec3.is_empty() {
            self.iterations = iterations;
            self.salt = salt.into();
        } else if self.iterations != iterations || *self.salt != *salt {
            return None;
        }
        let hash = base32(owner.labels().next()?)?;
        Some(Nsec3 { hash, next: next.try_into().ok()?, opt_out: flags & 1 != 0, types: Types(types.into()) })
    }

    /// Whether the hashing costs more than the guard is willing to spend.
    #[must_use]
    pub fn is_too_costly(&self) -> bool {
        !self.nsec3.is_empty() && self.iterations > ITERATIONS
    }

    /// What it costs at most to look for a name: SHA-1's blocks, for each of its labels and a wildcard.
    #[must_use]
    pub fn blocks(&self, name: &Name) -> u32 {
        if self.nsec3.is_empty() {
            return 0;
        }
        let labels = name.label_count().saturating_sub(self.zone.label_count()).saturating_add(2);
        self.blocks_of(name).saturating_mul(u32::try_from(labels).unwrap_or(u32::MAX))
    }

    fn blocks_of(&self, name: &Name) -> u32 {
        budget::nsec3_blocks(name.wire().len(), self.salt.len(), self.iterations)
    }

    /// Whether `name` doesn't exist and no wildcard stands for it.
    ///
    /// # Errors
    /// The budget is spent.
    pub fn no_name(&mut self, name: &Name, budget: &mut Budget) -> Result<Option<Security>, Failure> {
        if self.nsec.iter().any(|nsec| nsec.owner == *name && nsec.types.has(NXNAME)) {
            return Ok(Some(Security::Secure));
        }
        if let Some(covering) = self.nsec.iter().find(|nsec| nsec.covers(name) && !nsec.next.is_within(name)) {
            let Some(star) = wildcard(&covering.encloser(name)) else { return Ok(None) };
            // Where only names below the wildcard exist, it exists as well and stands for the name, with nothing at it (RFC 4592 section 2.2.3).
            let absent = self.nsec.iter().any(|nsec| nsec.covers(&star) && !nsec.next.is_within(&star));
            return Ok(absent.then_some(Security::Secure));
        }
        let Some(closest) = self.closest(name, budget)? else { return Ok(None) };
        let Some(star) = wildcard(&closest.encloser) else { return Ok(None) };
        let star = self.hash(&star, budget)?;
        Ok(self.nsec3.iter().any(|nsec3| nsec3.covers(&star)).then(|| security(closest.opt_out)))
    }

    /// Whether there is no `kind` at `name`, though the name, or a wildcard that stands for it, exists.
    ///
    /// # Errors
    /// The budget is spent.
    pub fn no_data(&mut self, name: &Name, kind: u16, budget: &mut Budget) -> Result<Option<Security>, Failure> {
        let at_root = name.wire().len() == 1;
        let here = |types: &Types| types.lacks(kind, at_root);
        if let Some(nsec) = self.nsec.iter().find(|nsec| nsec.owner == *name) {
            return Ok(here(&nsec.types).then_some(Security::Secure));
        }
        if let Some(covering) = self.nsec.iter().find(|nsec| nsec.covers(name)) {
            if covering.next.is_within(name) {
                // Only names below it exist.
                return Ok(Some(Security::Secure));
            }
            let Some(star) = wildcard(&covering.encloser(name)) else { return Ok(None) };
            let nodata = self.nsec.iter().any(|nsec| {
                nsec.owner == star && here(&nsec.types) || nsec.covers(&star) && nsec.next.is_within(&star)
            });
            return Ok(nodata.then_some(Security::Secure));
        }
        if self.nsec3.is_empty() {
            return Ok(None);
        }
        let hash = self.hash(name, budget)?;
        if let Some(nsec3) = self.nsec3.iter().find(|nsec3| nsec3.hash == hash) {
            return Ok(here(&nsec3.types).then_some(Security::Secure));
        }
        let Some(closest) = self.closest(name, budget)? else { return Ok(None) };
        if let Some(star) = wildcard(&closest.encloser) {
            let star = self.hash(&star, budget)?;
            if self.nsec3.iter().any(|nsec3| nsec3.hash == star && here(&nsec3.types)) {
                return Ok(Some(security(closest.opt_out)));
            }
        }
        // Unsigned delegations, and the empty names above them, may be left out of the span (RFC 5155 section 8.6).
        Ok(closest.opt_out.then_some(Security::Insecure))
    }

    /// Whether no name nearer to `name` exists than that of its last `labels` labels, so that the wildcard below that one stands for it.
    ///
    /// # Errors
    /// The budget is spent.
    pub fn no_closer(&mut self, name: &Name, labels: usize, budget: &mut Budget) -> Result<Option<Security>, Failure> {
        let proved = |nsec: &&Nsec| nsec.covers(name) && nsec.encloser(name).label_count() <= labels;
        if self.nsec.iter().find(proved).is_some() {
            return Ok(Some(Security::Secure));
        }
        if self.nsec3.is_empty() {
            return Ok(None);
        }
        let skip = name.label_count().saturating_sub(labels.saturating_add(1));
        let Some(next) = name.suffixes().nth(skip).and_then(|wire| Name::from_wire(wire).ok()) else { return Ok(None) };
        let next = self.hash(&next, budget)?;
        Ok(self.nsec3.iter().find(|nsec3| nsec3.covers(&next)).map(|nsec3| security(nsec3.opt_out)))
    }

    /// What stands at `child`, when this is the zone's answer to the question for its DS record.
    ///
    /// # Errors
    /// The budget is spent.
    pub fn cut(&mut self, child: &Name, budget: &mut Budget) -> Result<Option<Cut>, Failure> {
        if let Some(nsec) = self.nsec.iter().find(|nsec| nsec.owner == *child) {
            return Ok(nsec.types.cut());
        }
        if let Some(covering) = self.nsec.iter().find(|nsec| nsec.covers(child)) {
            return Ok(Some(if covering.next.is_within(child) { Cut::NoCut } else { Cut::Nothing }));
        }
        if self.nsec3.is_empty() {
            return Ok(None);
        }
        let hash = self.hash(child, budget)?;
        if let Some(nsec3) = self.nsec3.iter().find(|nsec3| nsec3.hash == hash) {
            return Ok(nsec3.types.cut());
        }
        let closest = self.closest(child, budget)?;
        Ok(closest.map(|closest| if closest.opt_out { Cut::Insecure } else { Cut::Nothing }))
    }

    /// The proof of RFC 5155 section 8.3.
    fn closest(&mut self, name: &Name, budget: &mut Budget) -> Result<Option<Closest>, Failure> {
        if self.nsec3.is_empty() || !name.is_within(&self.zone) {
            return Ok(None);
        }
        let mut below = name.clone();
        while below != self.zone {
            let Some(here) = below.parent() else { return Ok(None) };
            let hash = self.hash(&here, budget)?;
            if let Some(nsec3) = self.nsec3.iter().find(|nsec3| nsec3.hash == hash) {
                if nsec3.types.hides_what_is_below() {
                    return Ok(None);
                }
                let next = self.hash(&below, budget)?;
                let covering = self.nsec3.iter().find(|nsec3| nsec3.covers(&next));
                return Ok(covering.map(|covering| Closest { encloser: here, opt_out: covering.opt_out }));
            }
            below = here;
        }
        Ok(None)
    }

    fn hash(&mut self, name: &Name, budget: &mut Budget) -> Result<[u8; 20], Failure> {
        if let Some(hash) = self.hashes.get(name) {
            return Ok(*hash);
        }
        budget.blocks(self.blocks_of(name))?;
        let digest = Digest::iterated(&self.salt, name.wire(), DigestType::SHA1, self.iterations);
        let hash = digest.ok().and_then(|digest| <[u8; 20]>::try_from(digest.as_ref()).ok());
        // SHA-1 is known to the library and has twenty octets.
        let hash = hash.ok_or_else(|| Failure::unknown("SHA-1 is not available".to_owned(), None))?;
        self.hashes.insert(name.clone(), hash);
        Ok(hash)
    }
}

fn security(opt_out: bool) -> Security {
    if opt_out { Security::Insecure } else { Security::Secure }
}

/// The wildcard below `name`; `None` when it would be too long to exist.
fn wildcard(name: &Name) -> Option<Name> {
    Name::from_wire(&[b"\x01*", name.wire()].concat()).ok()
}

/// The longest name that both lie in.
fn common(one: &Name, other: &Name) -> Name {
    let mut here = one.clone();
    while !other.is_within(&here) {
        match here.parent() {
            Some(parent) => here = parent,
            None => break,
        }
    }
    here
}

/// The order of RFC 4034 section 6.1: by labels from the right, each by its octets in lower case.
#[must_use]
pub fn canonical_order(one: &Name, other: &Name) -> Ordering {
    let labels = |name: &Name| name.labels().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (one, other) = (labels(one), labels(other));
    one.iter().rev().cmp(other.iter().rev())
}

/// A hash in base32 with the alphabet of RFC 4648 section 7, in either case.
fn base32(label: &[u8]) -> Option<[u8; 20]> {
    if label.len() != 32 {
        return None;
    }
    let mut out = [0u8; 20];
    for (eight, five) in label.chunks_exact(8).zip(out.chunks_exact_mut(5)) {
        let mut bits = 0u64;
        for octet in eight {
            let value = match octet.to_ascii_lowercase() {
                digit @ b'0'..=b'9' => digit - b'0',
                letter @ b'a'..=b'v' => letter - b'a' + 10,
                _ => return None,
            };
            bits = bits << 5 | u64::from(value);
        }
        five.copy_from_slice(bits.to_be_bytes().get(3..)?);
    }
    Some(out)
}
