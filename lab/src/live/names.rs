//! The names that people and programs ask for, and what the far side's DNS says of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::dns::{A, AAAA, Data, HTTPS, Record, Reply};

/// Names of one page.
pub const PER_PAGE: u32 = 20;
/// Pages that people look at in turn; the first one every second time.
pub const PAGES: u32 = 12;
/// Addresses of a name that rotates, and how many of them one reply has.
const POOL: (u32, usize) = (24, 4);

/// A name that clients ask for, and what it has.
#[derive(Debug)]
pub struct Entry {
    /// The name as it is asked for.
    pub name: String,
    /// Of every record, always.
    pub ttl: u32,
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// How many of them one reply has.
    take: usize,
    /// The records are an alias's.
    alias: bool,
    turn: AtomicU32,
    /// Times that the upstream was asked for its A records.
    pub renewed: AtomicU32,
}

impl Entry {
    /// All that it may ever have.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.iter().chain(&self.v6).copied()
    }

    /// The time to live of the name's records.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl.into())
    }

    fn part(&self, all: &[IpAddr], turn: u32) -> Vec<IpAddr> {
        let take = self.take.min(all.len());
        let first = (turn as usize).wrapping_mul(take) % all.len().max(1);
        all.iter().copied().cycle().skip(first).take(take).collect()
    }

    /// The next reply to a question of this type, and the addresses in it.
    pub fn reply(&self, rtype: u16) -> (Reply, Vec<IpAddr>) {
        let turn = self.turn.fetch_add(1, Relaxed);
        let (v4, v6) = (self.part(&self.v4, turn), self.part(&self.v6, turn));
        let target = format!("edge.{}", self.name);
        let owner = if self.alias { &target } else { &self.name };
        let with_alias = |records: Vec<Record>| {
            // The least TTL along the chain counts; here it is the addresses'.
            let alias = self.alias.then(|| Record::cname(&self.name, self.ttl * 2, &target));
            Reply::of(alias.into_iter().chain(records).collect())
        };
        let records = |addresses: &[IpAddr]| {
            with_alias(addresses.iter().map(|&address| Record::address(owner, self.ttl, address)).collect())
        };
        match rtype {
            A => {
                self.renewed.fetch_add(1, Relaxed);
                (records(&v4), v4)
            }
            AAAA => (records(&v6), v6),
            HTTPS => {
                let data = Data::Other(HTTPS, service(&v4, &v6));
                let reply = with_alias(vec![Record { name: owner.clone(), ttl: self.ttl, data }]);
                (reply, [v4, v6].concat())
            }
            _ => (Reply::default(), Vec::new()),
        }
    }
}

/// An HTTPS record's content (RFC 9460): priority 1, the owner itself, HTTP/2, hints of both families.
fn service(v4: &[IpAddr], v6: &[IpAddr]) -> Vec<u8> {
    let mut out = vec![0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2'];
    for (key, addresses) in [(4_u16, v4), (6, v6)] {
        let hints: Vec<u8> = addresses
            .iter()
            .flat_map(|address| match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            })
            .collect();
        if !hints.is_empty() {
            out.extend(key.to_be_bytes());
            out.extend((hints.len() as u16).to_be_bytes());
            out.extend(hints);
        }
    }
    out
}

/// The addresses that an answer's records tell: A, AAAA, and the hints of HTTPS.
#[must_use]
pub fn told(records: &[Record]) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for record in records {
        match &record.data {
            Data::A(address) => all.push(IpAddr::V4(*address)),
            Data::Aaaa(address) => all.push(IpAddr::V6(*address)),
            Data::Other(HTTPS, octets) => all.extend(hints(octets).unwrap_or_default()),
            _ => {}
        }
    }
    all
}

fn hints(octets: &[u8]) -> Option<Vec<IpAddr>> {
    // The priority, then the target's labels.
    let mut at = 2;
    loop {
        let length = usize::from(*octets.get(at)?);
        at += 1 + length;
        if length == 0 {
            break;
        }
    }
    let mut all = Vec::new();
    while at < octets.len() {
        let word = |at: usize| octets.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two));
        let (key, length) = (word(at)?, usize::from(word(at + 2)?));
        let content = octets.get(at + 4..at + 4 + length)?;
        match key {
            4 => all.extend(content.as_chunks().0.iter().map(|four: &[u8; 4]| IpAddr::from(*four))),
            6 => all.extend(content.as_chunks().0.iter().map(|sixteen: &[u8; 16]| IpAddr::from(*sixteen))),
            _ => {}
        }
        at += 4 + length;
    }
    Some(all)
}

/// All names of a place.
#[derive(Debug, Default)]
pub struct Names {
    all: Vec<Entry>,
    by_name: HashMap<String, usize>,
    next: u32,
}

/// What of a name is asked, by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of twenty of a page.
    Page(u32),
    /// Asked each time before it is connected to, by this client alone.
    Program(usize),
    /// A pool of addresses, a few at a time, asked by this client alone.
    Rotating(usize),
    /// For a flow that stays open; asked once, by this client alone.
    Flow(usize),
}

impl Names {
    /// The names for so many clients. `ttls` are given in turn.
    #[must_use]
    pub fn new(clients: usize, ttls: &[u32], programs: u32) -> Self {
        let mut names = Self::default();
        let ttl = |number: u32| ttls.get(number as usize % ttls.len().max(1)).copied().unwrap_or(30);
        for page in 0..PAGES {
            for number in 0..PER_PAGE {
                let (four, six) = (1 + (number + page) % 6, 1 + (number * 5 + page) % 6);
                names.add(format!("www.page{page}-{number}.test"), ttl(number), four, six, usize::MAX);
            }
        }
        for client in 0..clients {
            for number in 0..programs {
                names.add(format!("api.program{number}-{client}.test"), ttl(number), 1 + number % 3, 1, usize::MAX);
            }
            names.add(format!("cdn.rotating-{client}.test"), ttl(0), POOL.0, POOL.0, POOL.1);
            // Two names of different TTLs on one server.
            names.share(
                &format!("api.program0-{client}.test"),
                &format!("api.program{programs}-{client}.test"),
                ttl(2),
            );
            names.add(format!("chat.flow-{client}.test"), ttl(0), 2, 2, usize::MAX);
        }
        names
    }

    fn add(&mut self, name: String, ttl: u32, four: u32, six: u32, take: usize) {
        let first = self.next;
        self.next += four.max(six);
        let four = (first..first + four).map(|number| v4(number).into()).collect();
        let six = (first..first + six).map(|number| v6(number).into()).collect();
        self.push(name, ttl, four, six, take);
    }

    /// Another name for the addresses of one that there is.
    fn share(&mut self, known: &str, name: &str, ttl: u32) {
        if let Some(entry) = self.get(known) {
            let (four, six) = (entry.v4.clone(), entry.v6.clone());
            self.push(name.to_owned(), ttl, four, six, usize::MAX);
        }
    }

    fn push(&mut self, name: String, ttl: u32, v4: Vec<IpAddr>, v6: Vec<IpAddr>, take: usize) {
        self.by_name.insert(name.clone(), self.all.len());
        self.all.push(Entry {
            name,
            ttl,
            v4,
            v6,
            take,
            alias: self.all.len().is_multiple_of(3),
            turn: AtomicU32::new(0),
            renewed: AtomicU32::new(0),
        });
    }

    /// One name, however it is written.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.all.get(*self.by_name.get(&name.to_ascii_lowercase())?)
    }

    /// The names of a kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.all.iter().filter(move |entry| match kind {
            Kind::Page(page) => entry.name.starts_with(&format!("www.page{page}-")),
            Kind::Program(client) => entry.name.starts_with("api.") && entry.name.ends_with(&format!("-{client}.test")),
            Kind::Rotating(client) => entry.name == format!("cdn.rotating-{client}.test"),
            Kind::Flow(client) => entry.name == format!("chat.flow-{client}.test"),
        })
    }
}

/// 198.18.0.0/15 (RFC 2544), from its second address.
fn v4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + number % 0x1_0000)
}

fn v6(number: u32) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xff, 1, 0, 0, (number >> 16) as u16, number as u16 + 1)
}

/// Addresses that no answer ever has.
#[must_use]
pub fn never(number: u32) -> [IpAddr; 2] {
    let low = (number % 250) as u8 + 1;
    [IpAddr::from([198, 51, 100, low]), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0xdead, 0, 0, 0, low.into()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_addresses_of_its_own_and_a_rotating_one_shows_all_in_turn() {
        let names = Names::new(2, &[30, 60, 20], 4);
        let own = names.all.iter().filter(|entry| !entry.name.starts_with("api.program4"));
        let mut all: Vec<IpAddr> = own.flat_map(Entry::addresses).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(names.of(Kind::Page(3)).count(), 20);
        assert_eq!((names.of(Kind::Program(1)).count(), names.of(Kind::Flow(0)).count()), (5, 1));
        let shared = names.get("api.program4-1.test").unwrap();
        assert_eq!((shared.ttl, &shared.v4), (20, &names.get("api.program0-1.test").unwrap().v4));
        let rotating = names.of(Kind::Rotating(0)).next().unwrap();
        let mut seen: Vec<IpAddr> = (0..6).flat_map(|_| rotating.reply(A).1).collect();
        seen.dedup();
        assert_eq!(seen, rotating.v4);
        let (reply, addresses) = names.get("WWW.page0-6.test").unwrap().reply(HTTPS);
        assert_eq!(told(&reply.answers), addresses);
        assert!(!addresses.is_empty() && matches!(reply.answers[0].data, Data::Cname(_)));
    }
}
