//! A router behind a BGP session: the table that the speaker reads its UPDATEs from is the real one; the wire and the
//! router are simulated.
//!
//! ```text
//!   core --plan--> Table --Batch--> wire ---> routes of the router
//!     ^                                         |
//!     +----- Applied(what it has reached) ------+
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use destguard::core::event::{Change, Generation};
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

/// Both ends of the session.
#[derive(Debug)]
pub struct Router {
    table: Table,
    reader: Option<ReaderId>,
    /// What was last said to have been reached.
    said: Option<u64>,
    wire: VecDeque<Segment>,
    routes: BTreeSet<IpAddr>,
    /// Kept from the session before, until its End-of-RIB.
    stale: BTreeSet<IpAddr>,
    overtakes: bool,
    begun: Instant,
}

impl Router {
    /// No session yet. `overtakes`: see [`super::plan::Defect::Overtaken`].
    pub fn new(overtakes: bool) -> Self {
        Self {
            table: Table::default(),
            reader: None,
            said: None,
            wire: VecDeque::new(),
            routes: BTreeSet::new(),
            stale: BTreeSet::new(),
            overtakes,
            begun: Instant::now(),
        }
    }

    /// Whether there is a session.
    pub fn is_up(&self) -> bool {
        self.reader.is_some()
    }

    /// Whether anything is on its way.
    pub fn is_idle(&self) -> bool {
        self.wire.is_empty()
    }

    /// Whether packets to an address are forwarded.
    pub fn has(&self, address: IpAddr) -> bool {
        self.routes.contains(&address)
    }

    /// All its routes.
    pub fn routes(&self) -> &BTreeSet<IpAddr> {
        &self.routes
    }

    /// A plan; what follows from it arrives at the router after `delay`.
    pub fn apply(&mut self, generation: Generation, changes: &[Change], now: Millis, delay: Millis) {
        let wanted = changes.iter().filter_map(|change| match change {
            Change::Open { address, .. } | Change::Announce { address, .. } => Some((*address, true)),
            Change::Close { address } => Some((*address, false)),
            Change::Extend { .. } | Change::Narrow { .. } => None,
        });
        self.table.apply(generation.0, wanted.collect::<Vec<_>>(), self.begun);
        self.send(now, delay);
    }

    /// A session comes up.
    pub fn connect(&mut self, now: Millis, delay: Millis) {
        self.reader = Some(self.table.attach(Families::ALL));
        self.said = None;
        self.stale = self.routes.clone();
        self.send(now, delay);
    }

    /// The session is over.
    pub fn disconnect(&mut self, keeps: bool) {
        if let Some(reader) = self.reader.take() {
            self.table.detach(reader);
        }
        self.wire.clear();
        if !keeps {
            self.forget();
        }
    }

    /// The router removes what it kept.
    pub fn forget(&mut self) {
        self.routes.clear();
        self.stale.clear();
    }

    /// The speaker begins anew, without a table and a session.
    pub fn restart_speaker(&mut self) {
        self.disconnect(true);
        self.table = Table::default();
    }

    fn send(&mut self, now: Millis, delay: Millis) {
        let Some(reader) = self.reader else { return };
        loop {
            let mut batch = Batch::default();
            self.table.take(reader, ROOM, &mut batch);
            let reached = self.table.reached(reader).map(|stamp| stamp.generation);
            if batch.routes() == 0 && batch.end.is_none() && (reached.is_none() || reached == self.said) {
                if !self.table.pending(reader) {
                    break;
                }
                continue;
            }
            self.said = reached;
            let withdrawn = batch.withdraw4.iter().map(|net| IpAddr::V4(net.addr()));
            let withdrawn = withdrawn.chain(batch.withdraw6.iter().map(|net| IpAddr::V6(net.addr()))).collect();
            let announced = batch.announce4.iter().map(|net| IpAddr::V4(net.addr()));
            let announced = announced.chain(batch.announce6.iter().map(|net| IpAddr::V6(net.addr()))).collect();
            let arrives = self.wire.back().map_or(0, |last| last.arrives).max(now + delay);
            let ends = batch.end.is_some() && reached.is_some();
            self.put(Segment { arrives, withdrawn, announced, ends, reached });
        }
    }

    fn put(&mut self, mut segment: Segment) {
        if self.overtakes
            && let Some(first) = self.wire.front_mut()
        {
            first.withdrawn.append(&mut segment.withdrawn);
        }
        self.wire.push_back(segment);
    }

    /// When the next message arrives.
    pub fn due(&self) -> Option<Millis> {
        self.wire.front().map(|segment| segment.arrives)
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
