//! Signed answers of two domains: one is honest, the other makes whoever checks its answers work as long as they let it: keys of one tag
//! (CVE-2023-50387), NSEC3 with as many rounds as are hashed and a salt as long as may be (CVE-2023-50868).

use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::AnyError;
use crate::dns::message::put_name;

const A: u16 = 1;
const RRSIG: u16 = 46;
const DNSKEY: u16 = 48;
const NSEC3: u16 = 50;
const DAY: u32 = 86_400;
/// Keys of one tag beside the real one.
const KEYS: u8 = 12;
/// Wrong signatures over one set.
const WRONG: u8 = 8;
/// Rounds that are still hashed (RFC 9276), and octets of salt.
const ROUNDS: (u16, u8) = (150, 255);
/// Whose answers are signed well, and whose are not.
const DOMAINS: [&str; 2] = ["honest.example", "trap.example"];

struct Zone {
    name: &'static str,
    key: Ed25519KeyPair,
}

static ZONES: LazyLock<Vec<Zone>> = LazyLock::new(|| {
    let zones = DOMAINS.iter().filter_map(|name| {
        // One whose octets leave room for others with its tag.
        (0..=255u8).find_map(|seed| {
            let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).ok()?;
            let public = key.public_key().as_ref();
            let room = *public.first()? < 255 - KEYS && *public.get(2)? > KEYS;
            room.then_some(Zone { name, key })
        })
    });
    zones.collect()
});

impl Zone {
    fn of(labels: &[Vec<u8>]) -> Option<&'static Self> {
        let end = labels.get(labels.len().checked_sub(2)?..)?.join(&b'.');
        ZONES.iter().find(|zone| zone.name.as_bytes() == end)
    }

    fn dnskey(&self) -> Vec<u8> {
        [&[1, 1, 3, 15], self.key.public_key().as_ref()].concat()
    }

    /// The signature over data that stands alone at its owner (or is in order), by the number of labels of that.
    fn sign(&self, owner: &[u8], labels: u8, kind: u16, ttl: u32, set: &[Vec<u8>]) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
        let mut out = [&kind.to_be_bytes()[..], &[15, labels], &ttl.to_be_bytes()].concat();
        out.extend((now + DAY).to_be_bytes());
        out.extend((now - DAY).to_be_bytes());
        out.extend(tag(&self.dnskey()).to_be_bytes());
        put_name(&mut out, self.name);
        let mut signed = out.clone();
        for data in set {
            signed.extend(record(owner, kind, ttl, data));
        }
        out.extend(self.key.sign(&signed).as_ref());
        out
    }
}

/// RFC 4034 appendix B.
fn tag(rdata: &[u8]) -> u16 {
    let octets = rdata.iter().enumerate();
    let sum: u32 = octets.map(|(at, octet)| u32::from(*octet) << if at % 2 == 0 { 8 } else { 0 }).sum();
    (sum + (sum >> 16)) as u16
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut out = owner.to_vec();
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out.extend(ttl.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
    out
}

/// Writes the anchors of both domains, as `dns.dnssec.trust_anchor` reads them.
pub fn write_anchors(file: &Path) -> Result<(), AnyError> {
    let mut text = String::new();
    for zone in ZONES.iter() {
        let key = zone.dnskey();
        let mut name = Vec::new();
        put_name(&mut name, zone.name);
        let hex: String =
            digest(&SHA256, &[&name[..], &key].concat()).as_ref().iter().map(|b| format!("{b:02X}")).collect();
        text.push_str(&format!("{}. IN DS {} 15 2 {hex}\n", zone.name, tag(&key)));
    }
    Ok(std::fs::write(file, text)?)
}

/// The signature for the one address of an honest answer.
pub fn over_address(labels: &[Vec<u8>], qtype: u16, ttl: u32, data: &[u8]) -> Option<Vec<u8>> {
    let zone = Zone::of(labels)?;
    let owner = wire(labels);
    let signature = zone.sign(&owner, labels.len() as u8, qtype, ttl, &[data.to_vec()]);
    Some(record(&[0xc0, 12], RRSIG, ttl, &signature))
}

fn wire(labels: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for label in labels {
        out.push(label.len() as u8);
        out.extend(label);
    }
    out.push(0);
    out
}

/// Keys of either domain, and all answers of the one that is a trap: its counts and its records.
pub fn answer(labels: &[Vec<u8>], qtype: u16) -> Option<([u8; 4], Vec<u8>)> {
    let zone = Zone::of(labels)?;
    let own = [0xc0, 12];
    let (owner, count) = (wire(labels), labels.len() as u8);
    let is_trap = zone.name == DOMAINS[1];
    if qtype == DNSKEY && labels.len() == 2 {
        let mut keys = vec![zone.dnskey()];
        for more in 1..=if is_trap { KEYS } else { 0 } {
            let mut key = zone.dnskey();
            // What one octet gains another of its weight loses.
            if let [.., one, _, other] = key.get_mut(..7)? {
                *one += more;
                *other -= more;
            }
            keys.push(key);
        }
        keys.sort();
        let mut out: Vec<u8> = keys.iter().flat_map(|key| record(&own, DNSKEY, 3600, key)).collect();
        let signature = zone.sign(&owner, count, DNSKEY, 3600, &keys);
        out.extend(record(&own, RRSIG, 3600, &signature));
        return Some(([0, keys.len() as u8 + 1, 0, 0], out));
    }
    if !is_trap {
        return None;
    }
    if labels.len() == 3 && qtype == A {
        let data = vec![20, 9, 9, 9];
        let mut out = record(&own, A, 300, &data);
        let good = zone.sign(&owner, count, A, 300, &[data]);
        for wrong in 1..=WRONG {
            let mut signature = good.clone();
            *signature.last_mut()? ^= wrong;
            out.extend(record(&own, RRSIG, 300, &signature));
        }
        return Some(([0, 1 + WRONG, 0, 0], out));
    }
    // A denial that denies nothing, which is known when all labels were hashed.
    let mut owner = vec![32];
    owner.extend([b'0'; 32]);
    put_name(&mut owner, zone.name);
    let mut data = vec![1, 0];
    data.extend(ROUNDS.0.to_be_bytes());
    data.push(ROUNDS.1);
    data.extend([7; ROUNDS.1 as usize]);
    data.push(20);
    data.extend([0; 19]);
    data.extend([1, 0, 1, 0x40]);
    let signature = zone.sign(&owner, 3, NSEC3, 60, &[data.clone()]);
    let out = [record(&owner, NSEC3, 60, &data), record(&owner, RRSIG, 60, &signature)].concat();
    Some(([0, 0, 0, 2], out))
}
