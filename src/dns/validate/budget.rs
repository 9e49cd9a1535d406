//! What the checks of one answer may cost, and what each of them does cost.
//!
//! The unit is the check of one signature by ECDSA P-256 or Ed25519, about a tenth of a millisecond. Others count by what the library takes for them
//! in multiples of that; a hash of NSEC3 counts by the blocks of SHA-1 that it reads.
//!
//! | bound | of an answer | against |
//! |---|---|---|
//! | [`Budget::failures`] | 16 units of signatures that turn out wrong | keys and signatures of one tag (CVE-2023-50387) |
//! | [`Budget::signatures`] | 96 half units of all signatures, more for long sets | many sets that are signed well |
//! | [`Budget::hashes`] | 20,000 blocks: rounds, by labels, by the salt's length | NSEC3 (CVE-2023-50868) |
//! | [`Budget::queries`] | 48 for keys and digests | names of many labels |

use super::{Failure, Limit};
use crate::dns::codec::ede::code;

/// What the work for one answer may still cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Queries to upstreams. A chain needs two for each zone, and one for each label that is no zone: reverse names of IPv6 have many.
    pub queries: u32,
    /// Signatures to check; those over long sets, and those that are dear, count more than once.
    pub signatures: u32,
    /// Units of signatures that may be wrong. Real zones have none but by accident.
    pub failures: u32,
    /// Blocks of SHA-1 for NSEC3.
    pub hashes: u32,
    /// Signatures that were checked.
    pub checked: u32,
    /// Of these, those that were wrong.
    pub wrong: u32,
    /// Of what more was wanted than there was.
    pub spent: Option<&'static str>,
}

/// What [`Budget::queries`] counts.
const QUERIES: &str = "queries";
/// Octets below which a signature counts once: so much is hashed in about the time of the arithmetic.
const SHORT: usize = 16 << 10;
/// The most that one signature counts: a set of 64 KiB on the wire may be a megabyte when each record has its whole name.
const DEAREST: usize = 16;
/// Blocks of SHA-1 that take as long as one unit.
const BLOCKS: u32 = 400;
/// Octets that SHA-1 reads at once, and those that it adds.
const BLOCK: (usize, usize) = (64, 9);
/// Octets of a hash.
const HASH: usize = 20;

impl Budget {
    /// At the start.
    pub const FULL: Self =
        Self { queries: 48, signatures: 96, failures: 16, hashes: 20_000, checked: 0, wrong: 0, spent: None };

    pub(super) fn query(&mut self) -> Result<(), Failure> {
        let left = self.queries.checked_sub(1);
        self.queries = left.unwrap_or(0);
        self.or_too_much(left, QUERIES)
    }

    /// One signature over so many octets, of so many units, is about to be checked.
    pub(super) fn signature(&mut self, octets: usize, units: u32) -> Result<(), Failure> {
        let left = self.signatures.checked_sub(half(octets, units));
        // What is too little for this one is nothing: the rest must not look like a failure of somebody else.
        self.signatures = left.unwrap_or(0);
        self.checked = self.checked.saturating_add(u32::from(left.is_some()));
        self.or_too_much(left, "signatures")
    }

    /// One of so many units was wrong.
    pub(super) fn failure(&mut self, units: u32) -> Result<(), Failure> {
        let left = self.failures.checked_sub(units);
        self.failures = left.unwrap_or(0);
        self.wrong = self.wrong.saturating_add(1);
        self.or_too_much(left.filter(|left| *left > 0), "wrong signatures")
    }

    /// So many blocks are about to be hashed.
    pub(super) fn blocks(&mut self, blocks: u32) -> Result<(), Failure> {
        let left = self.hashes.checked_sub(blocks);
        self.hashes = left.unwrap_or(0);
        self.or_too_much(left, "NSEC3 hashes")
    }

    fn or_too_much(&mut self, left: Option<u32>, what: &'static str) -> Result<(), Failure> {
        if left.is_none() {
            self.spent = self.spent.or(Some(what));
        }
        self.not_spent()
    }

    /// # Errors
    /// What was too much.
    pub(super) fn not_spent(&self) -> Result<(), Failure> {
        let Some(what) = self.spent else { return Ok(()) };
        let text = format!("too many {what} for one answer");
        Err(Failure { limit: Some(Limit::Answer), ..Failure::bogus(code::DNSSEC_BOGUS, text) })
    }

    /// Whether it was queries that there were too many of. Each name needs two at most: which one came too late says nothing of it.
    pub(super) fn is_out_of_queries(&self) -> bool {
        self.spent == Some(QUERIES)
    }

    /// Whether what is left would do for nearly any answer: who spends it is to blame alone.
    pub(super) fn is_ample(&self) -> bool {
        let ample = |left: u32, full: u32| left >= full / 2;
        ample(self.signatures, Self::FULL.signatures)
            && ample(self.failures, Self::FULL.failures)
            && ample(self.hashes, Self::FULL.hashes)
    }
}

/// Half units of a signature over so many octets. One that is right is paid for by the one who made it; so it counts half.
fn half(octets: usize, units: u32) -> u32 {
    let long = u32::try_from((octets / SHORT).saturating_add(1).min(DEAREST)).unwrap_or(u32::MAX);
    long.saturating_mul(units.div_ceil(2))
}

/// Units of one check with this algorithm and key (RFC 3110 section 2 for RSA).
#[must_use]
pub fn units(algorithm: u8, public: &[u8]) -> u32 {
    match algorithm {
        // The library has no fast code for P-384.
        14 => 8,
        5 | 7 | 8 | 10 => match rsa(public) {
            Some((exponent, bits)) => {
                let size = u32::try_from(bits.div_ceil(1024)).unwrap_or(u32::MAX);
                let dear = if exponent > 3 { 4 } else { 1 };
                size.saturating_mul(size).div_ceil(8).saturating_mul(dear).min(16)
            }
            None => 1,
        },
        _ => 1,
    }
}

/// Octets of the exponent and bits of the modulus of an RSA key.
#[must_use]
pub fn rsa(public: &[u8]) -> Option<(usize, usize)> {
    let (exponent, start) = match public {
        [0, high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 3usize),
        [len, ..] => (usize::from(*len), 1),
        [] => return None,
    };
    let modulus = public.get(start.saturating_add(exponent)..)?;
    let first = modulus.iter().position(|octet| *octet != 0)?;
    let zeros = modulus.get(first)?.leading_zeros();
    let octets = modulus.len().saturating_sub(first);
    Some((exponent, octets.saturating_mul(8).saturating_sub(usize::try_from(zeros).unwrap_or(0))))
}

/// Blocks of SHA-1 for the hash of a name of so many octets (RFC 5155 section 5).
#[must_use]
pub fn nsec3_blocks(name: usize, salt: usize, iterations: u16) -> u32 {
    let blocks = |octets: usize| octets.saturating_add(salt).saturating_add(BLOCK.1).div_ceil(BLOCK.0);
    let blocks = |octets| u32::try_from(blocks(octets)).unwrap_or(u32::MAX);
    blocks(HASH).saturating_mul(u32::from(iterations)).saturating_add(blocks(name))
}

/// Units of so many blocks.
#[must_use]
pub fn units_of_blocks(blocks: u32) -> u32 {
    blocks.div_ceil(BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(exponent: &[u8], octets: usize) -> Vec<u8> {
        [&[u8::try_from(exponent.len()).unwrap()], exponent, &vec![0xff; octets]].concat()
    }

    #[test]
    fn dear_algorithms_count_more() {
        let usual = [1, 0, 1];
        assert_eq!((units(13, &[0; 64]), units(15, &[0; 32]), units(14, &[0; 96])), (1, 1, 8));
        let of = |exponent: &[u8], octets| units(8, &key(exponent, octets));
        assert_eq!([128, 256, 512, 1024].map(|octets| of(&usual, octets)), [1, 1, 2, 8]);
        // As dear as the library lets them be.
        assert_eq!([256, 512, 1024].map(|octets| of(&[1, 0xff, 0xff, 0xff, 0xff], octets)), [4, 8, 16]);
        assert_eq!((units(8, &[]), units(8, &[0]), units(8, &[255, 1])), (1, 1, 1));
    }

    #[test]
    fn the_size_of_a_key_is_that_of_its_modulus() {
        assert_eq!(rsa(&key(&[3], 64)), Some((1, 512)));
        assert_eq!(rsa(&[&[0, 0, 1, 3][..], &[0, 0, 0x7f], &[0xff; 127]].concat()), Some((1, 1023)));
        assert_eq!((rsa(&[1, 3]), rsa(&[]), rsa(&[1, 3, 0, 0])), (None, None, None));
    }

    #[test]
    fn a_long_salt_costs_what_it_makes_the_guard_read() {
        assert_eq!(nsec3_blocks(20, 2, 0), 1);
        assert_eq!(nsec3_blocks(20, 2, 150), 151);
        assert_eq!(nsec3_blocks(255, 255, 150), 9 + 150 * 5);
    }

    #[test]
    fn what_was_too_much_stays_so() {
        let mut budget = Budget::FULL;
        for _ in 0..15 {
            assert_eq!(budget.failure(1), Ok(()));
        }
        assert!(budget.spent.is_none() && !budget.is_ample());
        assert_eq!(budget.failure(1).unwrap_err().limit, Some(Limit::Answer));
        assert_eq!(budget.spent, Some("wrong signatures"));
        let mut budget = Budget::FULL;
        assert!(budget.failure(8).is_ok() && budget.is_ample());
        assert!(budget.failure(8).is_err());
    }
}
