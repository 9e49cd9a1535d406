//! Names and addresses by their numbers, and what upstreams say of them.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use destguard::core::name::Name;

use super::draw::Draw;
use super::plan::{Millis, Plan};

/// Replies change after so long.
const ROTATION: Millis = 240_000;

/// The address of a number.
pub fn address(number: u8) -> IpAddr {
    if number.is_multiple_of(3) {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)).into()
    } else {
        IpAddr::from([198, 51, 100, number])
    }
}

/// The number of an address.
pub fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// The name of a number.
pub fn name(number: u8) -> Name {
    format!("n{number}.test").parse().unwrap()
}

/// The aliases behind a name.
pub fn chain(number: u8) -> Arc<[Name]> {
    if number.is_multiple_of(4) {
        Arc::from([format!("alias{}.test", number / 8).parse().unwrap()])
    } else {
        Arc::default()
    }
}

/// What upstreams say of a name now: addresses, and their TTL in seconds.
pub fn reply(plan: &Plan, name: u8, now: Millis) -> (Vec<u8>, u64) {
    let mut draw = Draw::of(&[plan.seed, 7, u64::from(name)]);
    let ttl = draw.one(&[0, 1, 5, 5, 30, 60, 60, 300, 3_600]);
    let (first, count) = (draw.next(), draw.between(1..=3));
    let turn = if draw.percent(50) { now / ROTATION } else { 0 };
    let all = u64::from(plan.addresses);
    let mut addresses: Vec<u8> =
        (0..count).map(|place| u8::try_from((first % all + turn + place) % all).unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    (addresses, ttl)
}
