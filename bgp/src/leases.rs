//! What other guards say of their leases, and what follows from it for ours.
//!
//! A guard announces each of its own leases as a host route with the lease's end ([`LEASE_END`]); what it takes back before that end it announces with
//! an end of 0 until then. So a withdrawal is never a revocation: a session that is lost, a reflector that forgets, a guard that comes back empty take
//! nothing away, and whoever hears the table again hears what was taken back as well. What nobody announces any more while it has not ended is an
//! *orphan*: who holds it passes it on ([`LEASE_OF`]) until its end.
//!
//! ```text
//!              announced: end           another end; 0 = taken back
//!   (none) ----------------> told <----------------+
//!      ^                      | |                  |
//!      |  ended or taken back | +------------------+
//!      +----------------------+
//!      |   withdrawn by the last who told it, before its end: orphan
//!      +----------------------------------------------------------->  passed on by us
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::config::{LEASE_END, LEASE_OF};
use crate::table::classes::Extra;

/// Whole seconds since 1970.
pub type Seconds = u32;

/// Ends are told as multiples of this, rounded up: leases that are renewed together share their messages, and a renewal that gains less isn't told.
pub const ROUNDING: Seconds = 30;

/// An end as it is told.
#[must_use]
pub fn rounded(end_millis: u64) -> Seconds {
    let step = u64::from(ROUNDING) * 1000;
    let steps = end_millis.div_ceil(step);
    // The last multiple that fits; 0 would mean "taken back".
    u32::try_from(steps.saturating_mul(u64::from(ROUNDING))).unwrap_or(Seconds::MAX / ROUNDING * ROUNDING).max(ROUNDING)
}

/// What a route to other guards bears: the lease's end (0: it was taken back), and whose it is where that isn't us.
#[must_use]
pub fn bearing(asn: u32, end: Seconds, of: Option<Ipv4Addr>) -> Extra {
    let of = of.map(|guard| [asn, LEASE_OF, guard.to_bits()]);
    // RFC 7999: a router that hears of it by mistake must not open what is closed.
    let standard = if end == 0 { vec![crate::wire::iana::community::BLACKHOLE] } else { Vec::new() };
    Extra::new(standard, std::iter::once([asn, LEASE_END, end]).chain(of).collect())
}

/// What one message says of leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Whose leases they are; by its own word, or that of the reflector behind whom it is, unless they are passed on.
    pub guard: Ipv4Addr,
    /// Another guard passes them on.
    pub passed_on: bool,
    /// Whose word it is: that guard's, or the one's that passes them on.
    pub by: Ipv4Addr,
    /// When they end; 0 = taken back. `None`: it doesn't say, so that nothing counts.
    pub end: Option<Seconds>,
    /// Host addresses that are announced.
    pub announced: Vec<IpAddr>,
    /// Host addresses that are withdrawn.
    pub withdrawn: Vec<IpAddr>,
}

impl Word {
    /// Of an UPDATE from a speaker with this BGP identifier. Only host routes are leases.
    #[must_use]
    pub fn new(
        by: Ipv4Addr,
        originator: Option<Ipv4Addr>,
        bears: &Extra,
        announced: Vec<IpNet>,
        withdrawn: Vec<IpNet>,
    ) -> Self {
        let value = |function: u32| bears.large().iter().find(|[_, is, _]| *is == function).map(|[.., value]| *value);
        let of = value(LEASE_OF).map(Ipv4Addr::from_bits);
        let hosts = |nets: Vec<IpNet>| {
            let hosts = nets.into_iter().filter(|net| net.prefix_len() == net.max_prefix_len());
            hosts.map(|net| net.addr()).collect()
        };
        Self {
            guard: of.or(originator).unwrap_or(by),
            passed_on: of.is_some(),
            by: originator.unwrap_or(by),
            end: value(LEASE_END),
            announced: hosts(announced),
            withdrawn: hosts(withdrawn),
        }
    }
}

/// What follows from what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Address that is leased.
    pub address: IpAddr,
    /// BGP identifier of the guard whose lease it is.
    pub guard: Ipv4Addr,
    /// Whose word that is.
    pub by: Ipv4Addr,
    /// What of it.
    pub what: Change,
}

/// What [`News`] say of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The guard itself says that it is leased until then, be that earlier or later than before.
    Until(Seconds),
    /// Somebody else says so: it may last longer, but no shorter than what is known.
    AtLeast(Seconds),
    /// The guard took it back.
    TakenBack,
    /// Nobody tells of it any more: it lasts until then, and is to be passed on.
    Orphaned(Seconds),
}

/// What one session said of one address.
#[derive(Clone, Copy, Debug)]
struct Said {
    session: u32,
    guard: Ipv4Addr,
    by: Ipv4Addr,
    end: Seconds,
    passed_on: bool,
}

/// What one session may say, and how much it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Most addresses at once.
    pub most: usize,
    /// Addresses that it tells of.
    pub told: usize,
    /// Announcements that found no room, ever.
    pub beyond: u64,
    /// Announcements without an end, or with one that was over, ever.
    pub useless: u64,
}

/// All that other guards say, session by session.
#[derive(Debug, Default)]
pub struct Leases {
    /// Our own router id.
    own: Option<Ipv4Addr>,
    said: HashMap<IpAddr, Vec<Said>>,
    sessions: BTreeMap<u32, Session>,
}

impl Leases {
    /// Of a guard with this router id. It takes nobody's word that is said to be its own.
    #[must_use]
    pub fn new(own: Ipv4Addr) -> Self {
        Self { own: Some(own), ..Self::default() }
    }

    /// Our router id from now on.
    pub fn set_own(&mut self, own: Ipv4Addr) {
        self.own = Some(own);
    }

    /// Each session with what it told.
    pub fn sessions(&self) -> impl Iterator<Item = (u32, Session)> {
        self.sessions.iter().map(|(number, session)| (*number, *session))
    }

    /// A session is up, on which at most so many addresses are taken in.
    pub fn came_up(&mut self, session: u32, most: usize) {
        self.sessions.entry(session).or_default().most = most;
    }

    /// It is gone: nothing that it said is said by it any more.
    pub fn went_down(&mut self, session: u32, now: Seconds) -> Vec<News> {
        let of = |said: &Vec<Said>| said.iter().any(|said| said.session == session);
        let addresses: Vec<IpAddr> =
            self.said.iter().filter(|(_, said)| of(said)).map(|(address, _)| *address).collect();
        let news = addresses.into_iter().filter_map(|address| self.unsay(session, address, now)).collect();
        if let Some(known) = self.sessions.get_mut(&session) {
            known.told = 0;
        }
        news
    }

    /// What follows from what a session said.
    pub fn heard(&mut self, session: u32, word: &Word, now: Seconds) -> Vec<News> {
        let mut news = Vec::new();
        for address in &word.withdrawn {
            news.extend(self.unsay(session, *address, now));
        }
        let count = u64::try_from(word.announced.len()).unwrap_or(u64::MAX);
        let own_word = self.own == Some(word.guard) && !word.passed_on;
        let end = word.end.filter(|end| !own_word && (*end == 0 || *end > now));
        let Some(end) = end else {
            if !own_word && let Some(known) = self.sessions.get_mut(&session) {
                known.useless = known.useless.saturating_add(count);
            }
            // It took the place of what the session said before (RFC 4271 section 3.1).
            for address in &word.announced {
                news.extend(self.unsay(session, *address, now));
            }
            return news;
        };
        for address in &word.announced {
            news.extend(self.say(
                *address,
                Said { session, guard: word.guard, by: word.by, end, passed_on: word.passed_on },
                now,
            ));
        }
        news
    }

    fn say(&mut self, address: IpAddr, new: Said, now: Seconds) -> Vec<News> {
        let mut news = Vec::new();
        let before = self.said.get(&address).and_then(|said| said.iter().find(|said| said.session == new.session));
        if before.is_some_and(|before| before.guard != new.guard) {
            news.extend(self.unsay(new.session, address, now));
        }
        let said = self.said.entry(address).or_default();
        if let Some(known) = said.iter_mut().find(|known| known.session == new.session) {
            *known = new;
        } else {
            let session = self.sessions.entry(new.session).or_default();
            if session.told >= session.most {
                session.beyond = session.beyond.saturating_add(1);
                if said.is_empty() {
                    self.said.remove(&address);
                }
                return news;
            }
            session.told += 1;
            said.push(new);
        }
        news.extend(Self::outcome(said, address, new.guard));
        news
    }

    /// What all sessions together say of one guard's lease.
    fn outcome(said: &[Said], address: IpAddr, guard: Ipv4Addr) -> Option<News> {
        let last = |passed_on: bool| {
            let of = said.iter().filter(|said| said.guard == guard && said.passed_on == passed_on);
            of.map(|said| (said.end, said.by)).max()
        };
        let (by, what) = match (last(false), last(true)) {
            (Some((0, by)), _) => (by, Change::TakenBack),
            (Some((end, by)), _) => (by, Change::Until(end)),
            (None, Some((0, _)) | None) => return None,
            (None, Some((end, by))) => (by, Change::AtLeast(end)),
        };
        Some(News { address, guard, by, what })
    }

    /// A session says nothing more of an address.
    fn unsay(&mut self, session: u32, address: IpAddr, now: Seconds) -> Option<News> {
        let said = self.said.get_mut(&address)?;
        let at = said.iter().position(|said| said.session == session)?;
        let gone = said.swap_remove(at);
        if let Some(known) = self.sessions.get_mut(&session) {
            known.told = known.told.saturating_sub(1);
        }
        let left = said.iter().any(|said| said.guard == gone.guard);
        let outcome = Self::outcome(said, address, gone.guard);
        if said.is_empty() {
            self.said.remove(&address);
        }
        if left {
            // Others still tell of it: perhaps of an earlier end.
            return outcome;
        }
        (gone.end > now).then_some(News { address, guard: gone.guard, by: gone.by, what: Change::Orphaned(gone.end) })
    }
}

#[cfg(test)]
mod tests;
