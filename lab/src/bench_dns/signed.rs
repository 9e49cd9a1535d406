//! A signed zone in memory for the rows in which every answer is validated: each answer is made and signed before anything is measured.
//!
//! One key (ECDSA P-256, which most zones use) signs everything and is the trust anchor itself. `sNUMBER.signed.example` has the address
//! 10.0.0.0 + NUMBER; [`FORGED`] has one that its signature doesn't fit.

use std::collections::HashMap;
use std::time::SystemTime;

use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::AnyError;

/// Wire form of the zone's name.
const ZONE: &[u8] = b"\x06signed\x07example\x00";
/// A name whose data was changed after it was signed.
pub const FORGED: &str = "forged.signed.example";

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const RRSIG: u16 = 46;
const DNSKEY: u16 = 48;
const TTL: u32 = 300;
const DAY: u64 = 86_400;
/// ECDSAP256SHA256 (RFC 6605).
const ALGORITHM: u8 = 13;

/// The owner of a record as a pointer to the name of the question.
const ASKED: &[u8] = b"\xc0\x0c";

/// A signed zone, with the keys that it is signed by.
pub struct Zone {
    /// The record and its signature by name and type.
    said: HashMap<(Vec<u8>, u16), Vec<u8>>,
    anchor: String,
}

struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    dnskey: Vec<u8>,
    tag: u16,
    now: u32,
}

impl Signer {
    fn new() -> Result<Self, AnyError> {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let refused = |_| "no key can be made";
        let secret = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(refused)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, secret.as_ref(), &random).map_err(|error| error.to_string())?;
        // Without the octet that says "not compressed" (RFC 6605 section 4).
        let public = key.public_key().as_ref().get(1..).unwrap_or_default();
        let dnskey = [&[1, 1, 3, ALGORITHM], public].concat();
        let sum: u32 =
            dnskey.chunks(2).map(|pair| pair.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet))).sum();
        let tag = u16::try_from((sum + (sum >> 16)) & 0xffff)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        Ok(Self { key, random, dnskey, tag, now: u32::try_from(now)? })
    }

    /// A record and its signature (RFC 4034 section 3.1.8.1).
    fn signed(&self, owner: &[u8], kind: u16, data: &[u8]) -> Result<Vec<u8>, AnyError> {
        let day = u32::try_from(DAY)?;
        let labels = owner_labels(owner);
        let mut head = [&kind.to_be_bytes()[..], &[ALGORITHM, labels], &TTL.to_be_bytes()].concat();
        head.extend_from_slice(&(self.now + 7 * day).to_be_bytes());
        head.extend_from_slice(&(self.now - day).to_be_bytes());
        head.extend_from_slice(&self.tag.to_be_bytes());
        head.extend_from_slice(ZONE);
        let text = [&head[..], &record(owner, kind, data)?].concat();
        let signature = self.key.sign(&self.random, &text).map_err(|_| "it can't be signed")?;
        Ok([record(ASKED, kind, data)?, record(ASKED, RRSIG, &[&head[..], signature.as_ref()].concat())?].concat())
    }
}

fn owner_labels(owner: &[u8]) -> u8 {
    let (mut at, mut labels) = (0, 0);
    while let Some(length) = owner.get(at).filter(|length| **length > 0) {
        at += usize::from(*length) + 1;
        labels += 1;
    }
    labels
}

fn record(owner: &[u8], kind: u16, data: &[u8]) -> Result<Vec<u8>, AnyError> {
    let length = u16::try_from(data.len())?.to_be_bytes();
    Ok([owner, &kind.to_be_bytes(), &[0, 1], &TTL.to_be_bytes(), &length, data].concat())
}

/// The wire form of a name in the zone.
fn below(label: &str) -> Result<Vec<u8>, AnyError> {
    Ok([&[u8::try_from(label.len())?], label.as_bytes(), ZONE].concat())
}

impl Zone {
    /// Makes and signs the data of `names` names.
    ///
    /// # Errors
    /// The system gives no random numbers, or the clock stands before 1970.
    pub fn new(names: u32) -> Result<Self, AnyError> {
        let signer = Signer::new()?;
        let hex: String = digest(&SHA256, &[ZONE, &signer.dnskey].concat())
            .as_ref()
            .iter()
            .map(|octet| format!("{octet:02X}"))
            .collect();
        let anchor = format!("signed.example. IN DS {} {ALGORITHM} 2 {hex}", signer.tag);
        let mut said = HashMap::new();
        let mut soa = b"\x02ns\x06signed\x07example\x00\x04mail\x06signed\x07example\x00".to_vec();
        soa.extend([1, 3600, 600, 86_400, TTL].iter().flat_map(|number: &u32| number.to_be_bytes()));
        for (kind, data) in [(DNSKEY, &signer.dnskey[..]), (SOA, &soa), (NS, b"\x02ns\x06signed\x07example\x00")] {
            said.insert((ZONE.to_vec(), kind), signer.signed(ZONE, kind, data)?);
        }
        for number in 0..names {
            let owner = below(&format!("s{number}"))?;
            let records = signer.signed(&owner, A, &(0x0a00_0000 | number).to_be_bytes())?;
            said.insert((owner, A), records);
        }
        let owner = below("forged")?;
        let mut records = signer.signed(&owner, A, &[10, 0, 0, 1])?;
        // The last octet of the address.
        if let Some(last) = records.get_mut(ASKED.len() + 13) {
            *last = 2;
        }
        said.insert((owner, A), records);
        Ok(Self { said, anchor })
    }

    /// The DS record that is trusted.
    #[must_use]
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    /// The reply to a query whose question ends at `end`; `None`: for a name outside the zone. Of a name or type that isn't there it says nothing and proves
    /// nothing: whoever needs that fails, which is seen.
    #[must_use]
    pub fn answer(&self, query: &[u8], end: usize) -> Option<Vec<u8>> {
        let (name, tail) = query.get(12..end)?.split_at_checked(end.checked_sub(16)?)?;
        let name = name.to_ascii_lowercase();
        if !name.ends_with(ZONE) {
            return None;
        }
        let kind = u16::from_be_bytes([*tail.first()?, *tail.get(1)?]);
        let said = self.said.get(&(name, kind));
        let has_edns = query.get(11) == Some(&1);
        let mut reply = Vec::with_capacity(512);
        reply.extend_from_slice(query.get(..end)?);
        *reply.get_mut(2)? |= 0x80;
        // RA, and CD as it came.
        *reply.get_mut(3)? = 0x80 | query.get(3)? & 0x10;
        let answers = if said.is_some() { 2 } else { 0 };
        reply.get_mut(6..12)?.copy_from_slice(&[0, answers, 0, 0, 0, u8::from(has_edns)]);
        reply.extend_from_slice(said.map_or(&[], Vec::as_slice));
        if has_edns {
            reply.extend_from_slice(b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00");
        }
        Some(reply)
    }
}
