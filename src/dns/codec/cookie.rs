//! DNS cookies (RFC 7873) with the server cookie of RFC 9018: whoever sends one back was reached at its address before, so that it isn't
//! somebody who only writes that address on its packets.
//!
//! The secret is made at the start and lives as long as the daemon. A cookie from before a restart counts as none: its client gets a new one
//! with the reply.

use std::hash::Hasher;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use siphasher::sip::SipHasher24;

use crate::dns::codec::query::Cookie;

/// Octets of the client's part.
pub const CLIENT: usize = 8;
/// Octets of our part: version, three reserved, timestamp, hash.
pub const SERVER: usize = 16;
const VERSION: u8 = 1;
/// RFC 9018 section 4.3: older ones are not accepted,
const TOO_OLD: u32 = 3600;
/// those from further ahead neither,
const TOO_NEW: u32 = 300;
/// and those older than this are accepted and replaced.
const RENEW: u32 = 1800;

/// Makes and checks server cookies.
pub struct Cookies {
    secret: [u8; 16],
}

impl Cookies {
    /// With a new secret.
    #[must_use]
    pub fn new() -> Self {
        Self { secret: rand::random() }
    }

    /// Whether `cookie` bears a server cookie that this guard gave to this client. Puts the one that the reply is to bear in its place.
    pub fn check(&self, cookie: &mut Cookie, client: IpAddr) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // Modulo 2^32, as the RFC has it (serial number arithmetic, RFC 1982).
        self.check_at(cookie, client, u32::try_from(now & 0xffff_ffff).unwrap_or(0))
    }

    fn check_at(&self, cookie: &mut Cookie, client: IpAddr, now: u32) -> bool {
        let age = cookie.server.and_then(|server| self.age(&server, &cookie.client, client, now));
        if age.is_none_or(|age| age > RENEW) {
            cookie.server = Some(self.make(&cookie.client, client, now));
        }
        age.is_some()
    }

    /// Seconds since a valid cookie was made (0 for one from a clock ahead of ours); `None` for any other.
    fn age(&self, server: &[u8; SERVER], of: &[u8; CLIENT], client: IpAddr, now: u32) -> Option<u32> {
        let [VERSION, _, _, _, a, b, c, d, ..] = *server else { return None };
        let made = u32::from_be_bytes([a, b, c, d]);
        let mut expected = self.make(of, client, made);
        // The reserved octets are hashed as they came (section 4.2).
        expected.get_mut(1..4)?.copy_from_slice(server.get(1..4)?);
        let hash = self.hash(of, expected.get(..8)?, client);
        expected.get_mut(8..)?.copy_from_slice(&hash);
        if !same(&expected, server) {
            return None;
        }
        let (age, ahead) = (now.wrapping_sub(made), made.wrapping_sub(now));
        if ahead <= TOO_NEW { Some(0) } else { Some(age).filter(|age| *age <= TOO_OLD) }
    }

    fn make(&self, of: &[u8; CLIENT], client: IpAddr, made: u32) -> [u8; SERVER] {
        let [a, b, c, d] = made.to_be_bytes();
        let head = [VERSION, 0, 0, 0, a, b, c, d];
        let [e, f, g, h, i, j, k, l] = self.hash(of, &head, client);
        [VERSION, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// SipHash-2-4 of client cookie, version, reserved, timestamp and address.
    fn hash(&self, of: &[u8; CLIENT], head: &[u8], client: IpAddr) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(of);
        hasher.write(head);
        match client {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.finish().to_le_bytes()
    }
}

impl Default for Cookies {
    fn default() -> Self {
        Self::new()
    }
}

/// Compares without telling by its time where the first difference is.
fn same(one: &[u8; SERVER], other: &[u8; SERVER]) -> bool {
    one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }

    #[test]
    fn the_examples_of_rfc_9018() {
        // Appendix A.1: learning a server cookie.
        let cookies = Cookies { secret: hex("e5e973e5a6b2a43f48e7dc849e37bfcf") };
        let client: IpAddr = "198.51.100.100".parse().unwrap();
        let mut cookie = Cookie { client: hex("2464c4abcf10c957"), server: None };
        assert!(!cookies.check_at(&mut cookie, client, 1_559_731_985));
        assert_eq!(cookie.server, Some(hex("010000005cf79f111f8130c3eee29480")));
        // A.2: the same client, renewed after 40 minutes.
        assert!(cookies.check_at(&mut cookie, client, 1_559_734_385));
        assert_eq!(cookie.server, Some(hex("010000005cf7a871d4a564a1442aca77")));
        // A.3: another client; the reserved octets came with a value and are hashed with it.
        let client: IpAddr = "203.0.113.203".parse().unwrap();
        let mut cookie =
            Cookie { client: hex("fc93fc62807ddb86"), server: Some(hex("01abcdef5cf78f71a314227b6679ebf5")) };
        assert!(cookies.check_at(&mut cookie, client, 0x5cf7_8f71));
        cookie.server = None;
        assert!(!cookies.check_at(&mut cookie, client, 1_559_734_700));
        assert_eq!(cookie.server, Some(hex("010000005cf7a9acf73a7810aca2381e")));
        // A.4: IPv6, with a new secret.
        let cookies = Cookies { secret: hex("445536bcd2513298075a5d379663c962") };
        let client: IpAddr = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        let mut cookie = Cookie { client: hex("22681ab97d52c298"), server: None };
        assert!(!cookies.check_at(&mut cookie, client, 1_559_741_961));
        assert_eq!(cookie.server, Some(hex("010000005cf7c609a6bb79d16625507a")));
    }

    #[test]
    fn only_a_fresh_cookie_of_the_same_client_is_valid() {
        let cookies = Cookies::new();
        let (client, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for made in [1_000_000u32, u32::MAX - 10, 5] {
            let mut first = Cookie { client: [7; 8], server: None };
            assert!(!cookies.check_at(&mut first, client, made));
            let valid = |change: fn(&mut Cookie), client, after: u32| {
                let mut cookie = first;
                change(&mut cookie);
                cookies.check_at(&mut cookie, client, made.wrapping_add(after))
            };
            assert!(valid(|_| (), client, 0));
            assert!(valid(|_| (), client, 3600));
            assert!(valid(|_| (), client, 300u32.wrapping_neg()));
            assert!(!valid(|_| (), client, 3601));
            assert!(!valid(|_| (), client, 301u32.wrapping_neg()));
            assert!(!valid(|_| (), other, 0));
            assert!(!valid(|cookie| cookie.client[0] ^= 1, client, 0));
            assert!(!valid(|cookie| cookie.server.as_mut().unwrap()[0] = 2, client, 0));
            assert!(!valid(|cookie| cookie.server.as_mut().unwrap()[1] = 1, client, 0));
            assert!(!valid(|cookie| cookie.server.as_mut().unwrap()[15] ^= 1, client, 0));
        }
    }
}
