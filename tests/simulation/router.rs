//! Routers behind BGP sessions: the table that the speaker reads its UPDATEs from is the real one; the wires and the
//! routers are simulated.
//!
//! ```text
//!   core --plan--> Table --Batch--> wire ---> routes of a router
//!     ^                                         |
//!     +----- Applied(what it has reached) ------+
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use destguard::core::event::{Change, EnforcerId, Generation};
use destguard_bgp::table::{Batch, ReaderId, Table};
use destguard_bgp::wire::iana::Families;

use super::plan::Millis;

/// Routes of one message.
const ROOM: usize = 8;
/// A router that keeps routes over a restart does so for this long.
pub const RESTART_TIME: Millis = 120_000;

/// One message on its way.
#[derive(Debug)]
struct Segment {
    arrives: Millis,
    withdrawn: Vec<IpAddr>,
    announced: Vec<IpAddr>,
    /// End-of-RIB of the last family.
    ends: bool,
    /// What the peer has once it has this.
    reached: Option<u64>,
}

/// Both ends of a session.
#[derive(Debug)]
pub struct Router {
    /// As the core knows it, while it is configured.
    pub enforcer: EnforcerId,
    /// Whether it is in the configuration in force.
    pub listed: bool,
    /// Whether answers are to wait for it: a reload that adds it doesn't make them at once.
    pub joined: bool,
    /// The plan that it must have told of for that.
    pub joins_at: Generation,
    /// It lost routes by what the guard has no part in; not mended yet.
    pub excused: bool,
    /// Which session; what is due of an earlier one counts for nothing.
    pub session: u64,
    /// By then it has no route left of what it had when it was taken away.
    pub gone_by: Millis,
    reader: Option<ReaderId>,
    /// What was last said to have been reached.
    said: Option<u64>,
    wire: VecDeque<Segment>,
    routes: BTreeSet<IpAddr>,
    /// Kept from the session before, until its End-of-RIB.
    stale: BTreeSet<IpAddr>,
}

/// The speaker and all routers.
#[derive(Debug)]
pub struct Routers {
    /// By their places; those that are not listed included.
    pub all: Vec<Router>,
    table: Table,
    overtakes: bool,
    begun: Instant,
}

impl Routers {
    /// So many, all of them configured, without a session. `overtakes`: see [`super::plan::Defect::Overtaken`].
    pub fn new(count: usize, overtakes: bool) -> Self {
        let all = (0..count).map(|_| Router::new()).collect();
        Self { all, table: Table::default(), overtakes, begun: Instant::now() }
    }

    /// Those of the configuration in force.
    pub fn listed(&self) -> impl Iterator<Item = &Router> {
        self.all.iter().filter(|router| router.listed)
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.all.iter().all(|router| router.wire.is_empty())
    }

    /// A plan; what follows from it arrives at the routers after `delay`.
    pub fn apply(&mut self, generation: Generation, changes: &[Change], now: Millis, delay: Millis) {
        let wanted = changes.iter().filter_map(|change| match change {
            Change::Open { address, .. } | Change::Announce { address, .. } => Some((*address, true)),
            Change::Close { address } => Some((*address, false)),
            Change::Extend { .. } | Change::Narrow { .. } => None,
        });
        self.table.apply(generation.0, wanted.collect::<Vec<_>>(), self.begun);
        (0..self.all.len()).for_each(|place| self.send(place, now, delay));
    }

    /// Whatever was announced is over.
    pub fn begin_anew(&mut self, now: Millis, delay: Millis) {
        self.table.replace(0, &[], self.begun);
        (0..self.all.len()).for_each(|place| self.send(place, now, delay));
    }

    /// A session comes up.
    pub fn connect(&mut self, place: usize, now: Millis, delay: Millis) {
        let router = &mut self.all[place];
        router.reader = Some(self.table.attach(Families::ALL));
        router.said = None;
        router.stale = router.routes.clone();
        self.send(place, now, delay);
    }

    /// A session is over.
    pub fn disconnect(&mut self, place: usize, keeps: bool) {
        let router = &mut self.all[place];
        if let Some(reader) = router.reader.take() {
            self.table.detach(reader);
        }
        router.session += 1;
        router.wire.clear();
        if !keeps {
            router.forget();
        }
    }

    /// The speaker begins anew, without a table and sessions.
    pub fn restart_speaker(&mut self) {
        (0..self.all.len()).for_each(|place| self.disconnect(place, true));
        self.table = Table::default();
    }

    fn send(&mut self, place: usize, now: Millis, delay: Millis) {
        let router = &mut self.all[place];
        let Some(reader) = router.reader else { return };
        loop {
            let mut batch = Batch::default();
            self.table.take(reader, ROOM, &mut batch);
            let reached = self.table.reached(reader).map(|stamp| stamp.generation);
            if batch.routes() == 0 && batch.end.is_none() && (reached.is_none() || reached == router.said) {
                if !self.table.pending(reader) {
                    break;
                }
                continue;
            }
            router.said = reached;
            let withdrawn = batch.withdraw4.iter().map(|net| IpAddr::V4(net.addr()));
            let withdrawn = withdrawn.chain(batch.withdraw6.iter().map(|net| IpAddr::V6(net.addr()))).collect();
            let announced = batch.announce4.iter().map(|net| IpAddr::V4(net.addr()));
            let announced = announced.chain(batch.announce6.iter().map(|net| IpAddr::V6(net.addr()))).collect();
            let arrives = router.wire.back().map_or(0, |last| last.arrives).max(now + delay);
            let ends = batch.end.is_some() && reached.is_some();
            router.put(Segment { arrives, withdrawn, announced, ends, reached }, self.overtakes);
        }
    }

    /// When the next message arrives, and where.
    pub fn due(&self) -> Option<(Millis, usize)> {
        let of = |(place, router): (usize, &Router)| Some((router.wire.front()?.arrives, place));
        self.all.iter().enumerate().filter_map(of).min()
    }
}

impl Router {
    fn new() -> Self {
        Self {
            enforcer: EnforcerId(0),
            listed: true,
            joins_at: Generation(0),
            joined: true,
            excused: false,
            session: 0,
            gone_by: 0,
            reader: None,
            said: None,
            wire: VecDeque::new(),
            routes: BTreeSet::new(),
            stale: BTreeSet::new(),
        }
    }

    /// Whether there is a session.
    pub fn is_up(&self) -> bool {
        self.reader.is_some()
    }

    /// Whether packets to an address are forwarded.
    pub fn has(&self, address: IpAddr) -> bool {
        self.routes.contains(&address)
    }

    /// All its routes.
    pub fn routes(&self) -> &BTreeSet<IpAddr> {
        &self.routes
    }

    /// The router removes what it kept.
    pub fn forget(&mut self) {
        self.routes.clear();
        self.stale.clear();
    }

    fn put(&mut self, mut segment: Segment, overtakes: bool) {
        if overtakes && let Some(first) = self.wire.front_mut() {
            first.withdrawn.append(&mut segment.withdrawn);
        }
        self.wire.push_back(segment);
    }

    /// The next message arrives. Returns what the router has reached by it.
    pub fn receive(&mut self) -> Option<Generation> {
        let segment = self.wire.pop_front()?;
        for address in &segment.withdrawn {
            self.routes.remove(address);
        }
        for address in &segment.announced {
            self.routes.insert(*address);
            self.stale.remove(address);
        }
        if segment.ends {
            let stale = std::mem::take(&mut self.stale);
            self.routes.retain(|address| !stale.contains(address));
        }
        segment.reached.map(Generation)
    }
}
