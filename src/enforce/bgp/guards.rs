//! Between the core and other guards: leases become routes with ends by the wall clock, what others say becomes events.
//!
//! Every address that another guard names is judged by the filter of this one before the core hears of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use destguard_bgp::io::{PeerEvent, What};
use destguard_bgp::leases::{self, Leases, News, Seconds, Session};
use destguard_bgp::table::classes::Want;

use crate::core::event::{Event, GuardNews, GuardWord, Shared};
use crate::sys::clock::{self, Clock};

/// Events are of so many leases at most: none holds the core for long.
const AT_ONCE: usize = 256;
/// Tags of guards begin here: the most leases that one may have follows. Below are enforcers.
const TAG: u64 = 1 << 32;

/// What a guard's peer bears as its tag.
pub(super) fn tag(most: usize) -> u64 {
    // Observers have the greatest of all.
    TAG.saturating_add(u64::try_from(most).unwrap_or(u64::MAX)).min(u64::MAX - 1)
}

/// The most leases of a guard, where this is the event of one.
fn most_of(event: &PeerEvent) -> Option<usize> {
    let most = event.tag.checked_sub(TAG).filter(|_| event.tag < u64::MAX)?;
    Some(usize::try_from(most).unwrap_or(usize::MAX))
}

/// Whether an address may be leased by what this guard's own filter says.
pub type Judge = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What was heard of other guards, for operators.
#[derive(Debug, Default)]
pub struct Heard {
    /// Our router id, as a number.
    pub(super) own: AtomicU32,
    /// By the peers' places.
    pub sessions: Mutex<Vec<(u32, Session)>>,
    /// Leases that the filter refused.
    pub filtered: AtomicU64,
}

/// Takes in what other guards say.
pub(super) struct Listening {
    leases: Leases,
    judge: Judge,
    clock: Clock,
    heard: Arc<Heard>,
}

impl Listening {
    pub(super) fn new(judge: Judge, clock: Clock, heard: Arc<Heard>) -> Self {
        Self { leases: Leases::default(), judge, clock, heard }
    }

    /// What the core is to be told of what happened at a peer; `None` where that is no guard.
    pub(super) fn take(&mut self, event: &PeerEvent) -> Option<Vec<Event>> {
        let most = most_of(event)?;
        let now = seconds(clock::wall());
        self.leases.set_own(Ipv4Addr::from_bits(self.heard.own.load(Ordering::Relaxed)));
        let session = u32::try_from(event.peer).unwrap_or(u32::MAX);
        let news = match &event.what {
            What::Up { .. } => {
                self.leases.came_up(session, most);
                Vec::new()
            }
            What::Down(_) => self.leases.went_down(session, now),
            What::Told(word) => self.leases.heard(session, word, now),
            _ => Vec::new(),
        };
        *self.heard.sessions.lock().unwrap_or_else(PoisonError::into_inner) = self.leases.sessions().collect();
        let news: Vec<GuardNews> = news.into_iter().filter_map(|news| self.judged(news)).collect();
        Some(news.chunks(AT_ONCE).map(|news| Event::Guards(news.to_vec())).collect())
    }

    /// As the core is to hear it.
    fn judged(&self, News { address, guard, by, what }: News) -> Option<GuardNews> {
        let until = |end: Seconds| self.clock.from_wall(u64::from(end) * 1000);
        let what = match what {
            leases::Change::Until(_) | leases::Change::AtLeast(_) if !(self.judge)(address) => {
                self.heard.filtered.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            leases::Change::Until(end) => GuardWord::Until(until(end)),
            leases::Change::AtLeast(end) => GuardWord::AtLeast(until(end)),
            leases::Change::TakenBack => GuardWord::TakenBack,
            leases::Change::Orphaned(_) => GuardWord::Orphaned,
        };
        Some(GuardNews { address, guard, by, what })
    }
}

fn seconds(millis: u64) -> Seconds {
    Seconds::try_from(millis / 1000).unwrap_or(Seconds::MAX)
}

/// Makes routes of what other guards are told.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) asn: u32,
    pub(super) clock: Clock,
}

impl Telling {
    pub(super) fn routes(&self, leases: &[(IpAddr, Shared)]) -> Vec<(IpAddr, Want)> {
        let bearing = |end, of| Want::With(Arc::new(leases::bearing(self.asn, end, of)));
        let route = |(address, what): &(IpAddr, Shared)| {
            let want = match what {
                Shared::Until(ends, of) => bearing(leases::rounded(self.clock.to_wall(*ends)), *of),
                Shared::TakenBack => bearing(0, None),
                Shared::Nothing => Want::Withdrawn,
            };
            (*address, want)
        };
        leases.iter().map(route).collect()
    }
}
