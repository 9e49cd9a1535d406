//! What was promised to whom, and whether a connection went as promised. Pure: moments come from outside.
//!
//! Two bounds, each on the side that can't accuse anybody wrongly:
//! - Open for certain: from when the client had the answer until its TTL has passed since the *question*.
//! - Closed for certain: once `max(TTL, lease.min) + lease.grace + bgp.linger` and a second have passed since the *last* moment
//!   at which an answer with the address can have been given, or always when nobody asked for the address.
//!
//! What lies between is nobody's promise and isn't judged.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// An upstream's reply reaches the core within this, also on a machine that is busy.
const DELIVERY: Duration = Duration::from_secs(3);
/// "Closed after the lease": at most a second late; the rest is for this process to notice the time.
const LATE: Duration = Duration::from_millis(1500);
/// After the guard is back a router may keep for so long what ended meanwhile.
const ROUTES_SETTLE: Duration = Duration::from_secs(8);
/// Silence counts once two SYNs were lost.
const SILENCE: Duration = Duration::from_millis(2500);
/// After this without an answer Linux sends the SYN again.
const SYN_AGAIN: Duration = Duration::from_secs(1);

/// What the guard's configuration promises.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The shortest lease (`lease.min`).
    pub min: Duration,
    /// The time that clients get beyond a TTL (`lease.grace`).
    pub grace: Duration,
    /// `bgp.linger`; `None` where the kernel closes by itself.
    pub linger: Option<Duration>,
    /// Whether an answer opens for its client alone.
    pub per_client: bool,
}

/// How one attempt to connect ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Connected; whether a SYN had to be sent again.
    Connected {
        /// The first SYN was lost.
        again: bool,
    },
    /// Refused by somebody: RST, ICMP, or the local filter.
    Refused,
    /// Nothing came back for as long as was waited.
    Silent,
}

/// A client's attempt to reach an address.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The place of the client that tried it.
    pub client: usize,
    /// The address that was tried.
    pub address: IpAddr,
    /// [`Ledger::promised`] as it was at the beginning.
    pub promised: Option<Instant>,
    /// Before the first SYN.
    pub begun: Instant,
    /// When the outcome was known.
    pub ended: Instant,
    /// The outcome, as the client saw it.
    pub seen: Seen,
}

/// What an attempt shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Open, as it was promised.
    Open,
    /// Closed, as it was promised.
    Closed,
    /// Open in the end, but the first packet was lost within the client's TTL.
    FirstLost,
    /// Refused within the client's TTL.
    WronglyRefused,
    /// Open outside any lease.
    WronglyOpen,
    /// Between the two promises.
    Unjudged,
}

/// Everything that was promised at one place.
#[derive(Debug)]
pub struct Ledger {
    terms: Terms,
    /// Until when a client was told that it may use an address.
    told: HashMap<(usize, IpAddr), Instant>,
    /// Who may have asked for an address.
    asked: HashSet<(usize, IpAddr)>,
    /// When the last lease that may have been given for an address ends.
    ends: HashMap<IpAddr, Instant>,
    /// Since when the guard is up; `None` while it is down.
    up: Option<Instant>,
    /// While nothing was promised, since nobody guarded; the end is `None` while it lasts.
    unguarded: Vec<(Instant, Option<Instant>)>,
}

impl Ledger {
    /// Nobody was told anything yet.
    #[must_use]
    pub fn new(terms: Terms, now: Instant) -> Self {
        Self {
            terms,
            told: HashMap::new(),
            asked: HashSet::new(),
            ends: HashMap::new(),
            up: Some(now),
            unguarded: Vec::new(),
        }
    }

    fn holder(&self, client: usize) -> usize {
        if self.terms.per_client { client } else { 0 }
    }

    fn lease(&mut self, address: IpAddr, ttl: Duration, from: Instant) {
        let end = from + ttl.max(self.terms.min) + self.terms.grace;
        let known = self.ends.entry(address).or_insert(end);
        *known = end.max(*known);
    }

    /// A client is about to ask for a name that may have these addresses.
    pub fn asks(&mut self, client: usize, addresses: impl IntoIterator<Item = IpAddr>) {
        let holder = self.holder(client);
        self.asked.extend(addresses.into_iter().map(|address| (holder, address)));
    }

    /// The upstream is about to reply with these addresses.
    pub fn sent(&mut self, addresses: impl IntoIterator<Item = IpAddr>, ttl: Duration, now: Instant) {
        for address in addresses {
            self.lease(address, ttl, now + DELIVERY);
        }
    }

    /// A client has an answer.
    pub fn told(&mut self, client: usize, addresses: &[IpAddr], ttl: Duration, asked: Instant, seen: Instant) {
        for &address in addresses {
            self.lease(address, ttl, seen);
            let until = asked + ttl;
            let known = self.told.entry((client, address)).or_insert(until);
            *known = until.max(*known);
        }
    }

    /// A client got no answer, or none that it could use; the guard may have given one all the same.
    pub fn unanswered(&mut self, addresses: impl IntoIterator<Item = IpAddr>, ttl: Duration, now: Instant) {
        for address in addresses {
            self.lease(address, ttl, now + DELIVERY);
        }
    }

    /// The guard is about to be stopped.
    pub fn down(&mut self) {
        self.up = None;
    }

    /// The guard enforces again.
    pub fn up(&mut self, now: Instant) {
        self.up = Some(now);
    }

    /// Somebody is about to take the enforcer away.
    pub fn unguarded(&mut self, now: Instant) {
        self.unguarded.push((now, None));
    }

    /// From now on it counts again.
    pub fn guarded(&mut self, now: Instant) {
        if let Some(last) = self.unguarded.last_mut() {
            last.1 = Some(now);
        }
    }

    /// Whether the enforcer was taken away at some moment between these.
    #[must_use]
    pub fn was_unguarded(&self, from: Instant, to: Instant) -> bool {
        self.unguarded.iter().any(|(gone, back)| *gone <= to && back.is_none_or(|back| back >= from))
    }

    /// Until when a client may use an address by what it was told so far.
    #[must_use]
    pub fn promised(&self, client: usize, address: IpAddr) -> Option<Instant> {
        self.told.get(&(client, address)).copied()
    }

    /// Whether a client may ever have been answered with an address.
    #[must_use]
    pub fn was_asked(&self, client: usize, address: IpAddr) -> bool {
        self.asked.contains(&(self.holder(client), address))
    }

    /// From when an address must be closed for a client, by what is known now; `None` while that can't be said.
    #[must_use]
    pub fn closed_from(&self, client: usize, address: IpAddr) -> Option<Instant> {
        let ends = self.ends.get(&address).copied()?;
        match self.terms.linger {
            None => Some(ends + LATE),
            // Routers close when the guard says so: not while it is down.
            Some(linger) => self.up.map(|up| (ends + linger + LATE + DELIVERY).max(up + ROUTES_SETTLE)),
        }
        .filter(|_| self.was_asked(client, address))
    }

    fn must_be_closed(&self, attempt: &Attempt) -> bool {
        if !self.was_asked(attempt.client, attempt.address) {
            return true;
        }
        self.closed_from(attempt.client, attempt.address).is_some_and(|closed| attempt.begun > closed)
    }

    /// To be called once the attempt has ended, so that everything that may have opened the address meanwhile is known.
    #[must_use]
    pub fn judge(&self, attempt: &Attempt) -> Verdict {
        let during =
            |(from, to): &(Instant, Option<Instant>)| *from <= attempt.ended && to.is_none_or(|to| to >= attempt.begun);
        if self.unguarded.iter().any(during) {
            return Verdict::Unjudged;
        }
        let open_at = |moment: Instant| attempt.promised.is_some_and(|promised| promised >= moment);
        match attempt.seen {
            Seen::Connected { again } if again && open_at(attempt.begun + SYN_AGAIN) => Verdict::FirstLost,
            Seen::Connected { .. } if open_at(attempt.begun) => Verdict::Open,
            Seen::Connected { .. } if self.must_be_closed(attempt) => Verdict::WronglyOpen,
            Seen::Refused if open_at(attempt.ended) => Verdict::WronglyRefused,
            Seen::Silent if attempt.ended >= attempt.begun + SILENCE && open_at(attempt.begun + SILENCE) => {
                Verdict::WronglyRefused
            }
            Seen::Refused | Seen::Silent if self.must_be_closed(attempt) => Verdict::Closed,
            _ => Verdict::Unjudged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    fn seconds(text: f64) -> Duration {
        Duration::from_secs_f64(text)
    }

    fn terms(linger: Option<Duration>, per_client: bool) -> Terms {
        Terms { min: Duration::from_secs(60), grace: Duration::from_secs(30), linger, per_client }
    }

    /// One answer at `base`, TTL 30; what an attempt from `begun` to `ended` shows.
    fn after_an_answer(terms: Terms, client: usize, begun: f64, ended: f64, seen: Seen) -> Verdict {
        let base = Instant::now();
        let mut ledger = Ledger::new(terms, base);
        ledger.asks(0, [ADDRESS]);
        ledger.sent([ADDRESS], TTL, base);
        ledger.told(0, &[ADDRESS], TTL, base, base);
        let promised = ledger.promised(client, ADDRESS);
        let attempt = Attempt {
            client,
            address: ADDRESS,
            promised,
            begun: base + seconds(begun),
            ended: base + seconds(ended),
            seen,
        };
        ledger.judge(&attempt)
    }

    #[test]
    fn an_attempt_is_judged_on_the_side_that_is_certain() {
        use Seen::{Connected, Refused, Silent};
        use Verdict::{Closed, FirstLost, Open, Unjudged, WronglyOpen, WronglyRefused};
        let local = terms(None, false);
        let linger = terms(Some(Duration::from_secs(10)), false);
        for (terms, begun, ended, seen, expected) in [
            (local, 0.0, 0.1, Connected { again: false }, Open),
            (local, 0.0, 1.1, Connected { again: true }, FirstLost),
            // The second SYN went out when the TTL was over: when the first was lost can't be said.
            (local, 29.5, 30.6, Connected { again: true }, Open),
            (local, 0.0, 0.1, Refused, WronglyRefused),
            (local, 29.9, 30.0, Refused, WronglyRefused),
            (local, 29.9, 30.1, Refused, Unjudged),
            (local, 0.0, 5.0, Silent, WronglyRefused),
            (local, 0.0, 1.0, Silent, Unjudged),
            (local, 28.0, 33.0, Silent, Unjudged),
            (local, 31.0, 31.1, Connected { again: false }, Unjudged),
            (local, 94.0, 94.1, Connected { again: false }, Unjudged),
            (local, 95.0, 95.1, Connected { again: false }, WronglyOpen),
            (local, 95.0, 95.1, Refused, Closed),
            (local, 60.0, 60.1, Refused, Unjudged),
            (linger, 105.0, 105.1, Connected { again: false }, Unjudged),
            (linger, 108.0, 108.1, Connected { again: false }, WronglyOpen),
            (linger, 108.0, 108.4, Silent, Closed),
        ] {
            let verdict = after_an_answer(terms, 0, begun, ended, seen);
            assert_eq!(verdict, expected, "{begun} to {ended}: {seen:?}");
        }
    }

    #[test]
    fn another_client_is_let_in_by_its_own_answer_only_where_leases_are_per_client() {
        let open = Seen::Connected { again: false };
        assert_eq!(after_an_answer(terms(None, true), 1, 1.0, 1.1, open), Verdict::WronglyOpen);
        assert_eq!(after_an_answer(terms(None, true), 1, 1.0, 1.1, Seen::Refused), Verdict::Closed);
        assert_eq!(after_an_answer(terms(None, false), 1, 1.0, 1.1, open), Verdict::Unjudged);
    }

    #[test]
    fn while_the_enforcer_was_taken_away_nothing_is_judged() {
        let base = Instant::now();
        let mut ledger = Ledger::new(terms(None, false), base);
        ledger.unguarded(base + seconds(10.0));
        ledger.guarded(base + seconds(11.0));
        let at = |begun: f64, ended: f64| Attempt {
            client: 0,
            address: ADDRESS,
            promised: None,
            begun: base + seconds(begun),
            ended: base + seconds(ended),
            seen: Seen::Connected { again: false },
        };
        for (begun, ended, expected) in [
            (9.0, 9.9, Verdict::WronglyOpen),
            (9.9, 10.1, Verdict::Unjudged),
            (9.9, 12.0, Verdict::Unjudged),
            (10.9, 12.0, Verdict::Unjudged),
            (11.1, 12.0, Verdict::WronglyOpen),
        ] {
            assert_eq!(ledger.judge(&at(begun, ended)), expected, "{begun} to {ended}");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_closed_and_a_route_is_not_judged_while_the_guard_is_down() {
        let base = Instant::now();
        let mut ledger = Ledger::new(terms(Some(Duration::ZERO), false), base);
        let at = |begun: f64| Attempt {
            client: 0,
            address: ADDRESS,
            promised: None,
            begun: base + seconds(begun),
            ended: base + seconds(begun + 0.1),
            seen: Seen::Connected { again: false },
        };
        assert_eq!(ledger.judge(&at(1.0)), Verdict::WronglyOpen);
        ledger.asks(0, [ADDRESS]);
        assert_eq!(ledger.judge(&at(1.0)), Verdict::Unjudged);
        ledger.sent([ADDRESS], TTL, base);
        assert_eq!(ledger.judge(&at(200.0)), Verdict::WronglyOpen);
        ledger.down();
        assert_eq!(ledger.judge(&at(200.0)), Verdict::Unjudged);
        ledger.up(base + seconds(195.0));
        assert_eq!(ledger.judge(&at(200.0)), Verdict::Unjudged);
        assert_eq!(ledger.judge(&at(204.0)), Verdict::WronglyOpen);
    }
}
