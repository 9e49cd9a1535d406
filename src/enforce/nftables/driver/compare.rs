//! Belief compared with the kernel, all the time: what was written is looked up in pages, what was not written is found by a sweep.
//!
//! ```text
//!   every second or more often   a page of keys is looked up        missing, short --Missing--> core, which opens them again
//!                                 (a microsecond each)              long --------------------> shortened at once
//!   every 5 s or less often      a thread dumps sets and ruleset    extra -------------------> removed at once
//!                                 (quadratic in the kernel)         ruleset -----------------> Lost, made anew
//! ```
//!
//! All is judged against what was written and acknowledged at the moment of looking: the driver writes nothing in
//! between. What a sweep finds is looked up once more before it is judged, since the driver went on meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Driver, State};
use crate::config::schema::Scope;
use crate::core::event::Event;
use crate::core::narrow::{HOST, Narrow, PairId, Port, Who};
use crate::enforce::nftables::TABLE;
use crate::enforce::nftables::blueprint::Blueprint;
use crate::enforce::nftables::elements::{Held, Key, Set, Timeout};
use crate::enforce::nftables::error::NftError;
use crate::enforce::nftables::kernel::{Kernel, LOOK_UP};
use crate::enforce::nftables::written::{Difference, Id, judge};

/// All elements are looked up within this time.
const ROUND: Duration = Duration::from_secs(55);
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);
/// The least time between sweeps; and how much longer than one took.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);
const SWEEP_SHARE: u32 = 300;
/// Elements of a sweep that are judged at once, and the pause for answers in between.
const SLICE: usize = 1024;
const SLICE_PAUSE: Duration = Duration::from_millis(2);
/// So many elements missing from one page are a loss of the table.
const LOSS: usize = 64;
/// Most keys named in the log.
const NAMED: usize = 5;

/// When what is looked at next.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The next page, or slice of a sweep.
    pub(super) next: Instant,
    pub(super) sweep: Instant,
    /// Under way; the table's installation that it is about.
    pub(super) sweeping: Option<(u64, oneshot::Receiver<Result<Swept, NftError>>)>,
    /// Elements found by a sweep that were not judged yet.
    found: VecDeque<Id>,
}

impl Schedule {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { next: now + LONGEST_PERIOD, sweep: now + SWEEP_PAUSE, sweeping: None, found: VecDeque::new() }
    }
}

/// What a sweep found.
#[derive(Debug)]
pub(super) struct Swept {
    elements: VecDeque<Id>,
    blueprint: Blueprint,
    took: Duration,
}

/// Reads all sets and the ruleset, over a socket of its own.
fn sweep(sets: &[Set]) -> Result<Swept, NftError> {
    let begin = Instant::now();
    let mut kernel = Kernel::open()?;
    let blueprint = Blueprint::read(&mut kernel)?;
    let mut elements = VecDeque::new();
    for set in sets {
        match kernel.dump(TABLE, *set) {
            Ok(held) => elements.extend(held.into_iter().map(|held| (*set, held.key))),
            // The ruleset says so, too.
            Err(NftError::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Swept { elements, blueprint, took: begin.elapsed() })
}

impl Driver {
    /// One page, or one slice of what a sweep found; begins a sweep when it is time.
    pub(super) fn look(&mut self) {
        let pages = u32::try_from(self.written.len().div_ceil(LOOK_UP).max(1)).unwrap_or(u32::MAX);
        let period = ROUND / pages;
        self.schedule.next = Instant::now() + period.clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
        if !matches!(self.state, State::Synced) {
            self.schedule.found.clear();
            return;
        }
        if !self.schedule.found.is_empty() {
            self.schedule.next = Instant::now() + SLICE_PAUSE;
            return self.judge_found();
        }
        if let Err(error) = self.look_at_page().and_then(|()| self.look_at_groups()) {
            return self.lose_for(&error);
        }
        // A disarming that failed has taken it away.
        self.lock();
        if self.schedule.sweeping.is_none() && Instant::now() >= self.schedule.sweep {
            self.begin_sweep();
        }
    }

    fn look_at_page(&mut self) -> Result<(), NftError> {
        let page = self.written.page(LOOK_UP, self.settings.clock.now());
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let mut differences: Differences = BTreeMap::new();
        for of_set in page.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
            let Some(((set, _), _)) = of_set.first() else { continue };
            let keys: Vec<Key> = of_set.iter().map(|((_, key), _)| *key).collect();
            let before = self.settings.clock.now();
            let held = link.kernel.look_up(TABLE, *set, &keys)?;
            let after = self.settings.clock.now();
            for ((id, times), held) in of_set.iter().zip(&held) {
                if let Some(difference) = judge(*times, held.as_ref(), before, after) {
                    differences.entry(difference).or_default().push((*id, Timeout::of(after.until(times.until))));
                }
            }
        }
        self.mend(differences)
    }

    /// Makes the kernel as it should be again, or has the core do so, and says what was found.
    fn mend(&mut self, differences: Differences) -> Result<(), NftError> {
        let lacking = differences.get(&Difference::Missing).map_or(0, Vec::len);
        let (mut addresses, mut pairs) = (Vec::new(), Vec::new());
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let mut transaction = link.kernel.transaction();
        let mut put: Vec<(Id, Timeout)> = Vec::new();
        let now = self.settings.clock.now();
        for (difference, elements) in &differences {
            for (id @ (set, key), left) in elements {
                match (difference, set) {
                    (Difference::Extra, _) => transaction.remove(link.kernel.features, *set, &[*key]),
                    (Difference::Long, _) | (_, Set::Cut4 | Set::Cut6) => {
                        transaction.put(link.kernel.features, *set, &[(*key, *left)]);
                        put.push((*id, *left));
                    }
                    (Difference::Missing | Difference::Short, _) => {
                        // The core opens it again, and nothing is believed of it until then.
                        self.written.remove(*id);
                        match narrow_of(self.settings.scope, key) {
                            (address, Narrow::NOT) => addresses.push(address),
                            pair => pairs.push(pair),
                        }
                    }
                }
            }
        }
        let mended = link.kernel.commit("mending elements", transaction);
        let done = self.settings.clock.now();
        let enforcer = self.settings.id;
        if !addresses.is_empty() || !pairs.is_empty() {
            self.report(Event::Missing { enforcer, addresses, pairs });
        }
        for (difference, elements) in &differences {
            let what = difference.words(elements.len());
            let keys: Vec<&Key> = elements.iter().take(NAMED).map(|((_, key), _)| key).collect();
            tracing::warn!(first = ?keys, "{what}: repaired");
            self.report_repaired(difference.label(), elements.len(), what);
        }
        mended?;
        for (id, left) in put {
            self.written.put(id, left, now, done);
        }
        if lacking > LOSS {
            self.lose(Difference::Missing.words(lacking), Instant::now());
        }
        Ok(())
    }

    fn begin_sweep(&mut self) {
        let (sender, receiver) = oneshot::channel();
        let sets = self.sets();
        let sweeper = std::thread::Builder::new().name("nftables-sweep".to_owned());
        let begun = sweeper.spawn(move || {
            if sender.send(sweep(&sets)).is_err() {
                tracing::debug!("the nftables driver has ended");
            }
        });
        self.schedule.sweep = Instant::now() + SWEEP_PAUSE;
        match begun {
            Ok(_) => self.schedule.sweeping = Some((self.installation, receiver)),
            Err(error) => tracing::warn!(%error, "the nftables sets can't be swept"),
        }
    }

    /// Takes what a sweep found.
    pub(super) fn swept(&mut self, installation: u64, swept: Option<Result<Swept, NftError>>) {
        let swept = match swept {
            Some(Ok(swept)) => swept,
            Some(Err(error)) => return tracing::warn!(%error, "the nftables sets can't be swept"),
            None => return tracing::warn!("a sweep of the nftables sets ended without a word"),
        };
        self.schedule.sweep = Instant::now() + swept.took.saturating_mul(SWEEP_SHARE).max(SWEEP_PAUSE);
        if installation != self.installation || !matches!(self.state, State::Synced) || self.is_disarmed() {
            return;
        }
        if let Some(wanted) = self.blueprint.as_ref().filter(|wanted| !wanted.is_met_by(&swept.blueprint)) {
            let what = format!("the ruleset was changed unseen: {}", wanted.difference(&swept.blueprint));
            tracing::error!("{what}; it is being installed again");
            self.report_repaired("ruleset", 1, what.clone());
            return self.lose(what, Instant::now());
        }
        self.schedule.found = swept.elements;
        self.schedule.next = Instant::now();
    }

    fn judge_found(&mut self) {
        let count = self.schedule.found.len().min(SLICE);
        let now = self.settings.clock.now();
        let slice: Vec<Id> = self.schedule.found.drain(..count).collect();
        let mut suspects: BTreeMap<Set, Vec<Key>> = BTreeMap::new();
        for (set, key) in slice.into_iter().filter(|id| !self.written.may_hold(*id, now)) {
            suspects.entry(set).or_default().push(key);
        }
        let mut extra = Vec::new();
        for (set, keys) in &suspects {
            for keys in keys.chunks(LOOK_UP) {
                let Some(link) = self.link.as_mut() else { return };
                let held: Vec<Option<Held>> = match link.kernel.look_up(TABLE, *set, keys) {
                    Ok(held) => held,
                    Err(error) => return self.lose_for(&error),
                };
                extra.extend(held.into_iter().flatten().map(|held| ((*set, held.key), Timeout::of(Duration::ZERO))));
            }
        }
        if extra.is_empty() {
            return;
        }
        if let Err(error) = self.mend(BTreeMap::from([(Difference::Extra, extra)])) {
            self.lose_for(&error);
        }
    }

    pub(super) fn report_repaired(&mut self, kind: &'static str, count: usize, what: String) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.report(Event::Repaired { enforcer: self.settings.id, kind, count, what });
    }
}

/// What an element opens.
fn narrow_of(scope: Scope, key: &Key) -> PairId {
    let of_client = |address: IpAddr, client: IpAddr| (address, Narrow::of_client(client));
    let to =
        |(address, narrow): PairId, protocol, port| (address, Narrow { to: Port::Of { protocol, port }, ..narrow });
    match (scope, *key) {
        (_, Key::Port(address, protocol, port)) => to(narrow_of(scope, &Key::Address(address)), protocol, port),
        (_, Key::ClientPort4(client, address, protocol, port)) => {
            to(of_client(address.into(), client.into()), protocol, port)
        }
        (_, Key::ClientPort6(client, address, protocol, port)) => {
            to(of_client(address.into(), client.into()), protocol, port)
        }
        (Scope::Shared, Key::Address(address)) => (address, Narrow::NOT),
        (Scope::Client, Key::Address(address)) => of_client(address, HOST),
        (_, Key::Pair4(client, address)) => of_client(address.into(), client.into()),
        (_, Key::Pair6(client, address)) => of_client(address.into(), client.into()),
        (_, Key::Application(number, address)) => (address, Narrow { who: Who::Application(number), to: Port::Any }),
        (_, Key::ApplicationPort(number, address, protocol, port)) => {
            (address, Narrow { who: Who::Application(number), to: Port::Of { protocol, port } })
        }
    }
}

/// What differs, and what should be left of each element's time.
type Differences = BTreeMap<Difference, Vec<(Id, Timeout)>>;
