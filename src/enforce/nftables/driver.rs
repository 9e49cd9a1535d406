//! Carries out the core's commands, in a thread of its own since every call into the kernel blocks.
//!
//! ```text
//!            +--------- installed: WantSync --------+      Sync applied
//!            |                                      v    +-------------> Synced --- Apply: one batch, Applied
//!   Broken --+ (tries again, ever slower)        Waiting-+                 |
//!     ^                                             |                      |
//!     +-------- Lost: refused, or the table was changed by others ---------+
//! ```
//!
//! While it is Synced it compares, see [`compare`]. A change by others is undone at once: the table is written back from
//! its [`Blueprint`] in one transaction, the leases with it, before anything is reported.
//!
//! Disarmed by the operator it ends in a state in which it writes nothing and acknowledges everything.
//!
//! Changes that arrive while it waits for a Sync are part of that Sync, so they are passed over.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::applications::{Application, rewrite_members};
use super::blueprint::Blueprint;
use super::elements::{Features, Key, OfApplication, Set, Timeout};
use super::error::NftError;
use super::kernel::Kernel;
use super::ruleset::CUT_CAPACITY;
use super::watch::Watch;
use super::written::Written;
use super::{Disarmer, Installer, conntrack, lock, probe, tracking};
use crate::config::schema::{OnStop, Scope};
use crate::core::event::{Change, EnforcerId, Event, Generation};
use crate::core::moment::Moment;
use crate::core::narrow::{HOST, Narrow, PairId, Port, Who};
use crate::enforce::merged::{Merged, latest, opens, subject};
use crate::enforce::{Command, Reports};
use crate::sys::clock::Clock;

/// An element outlives its lease by this, so that a lease is never shorter in the kernel (which counts in jiffies, up to
/// 16 ms early) than in the core. Below the second within which a lease must have ended.
pub const PAD: Duration = Duration::from_millis(500);
/// How long packets to a revoked address are denied even in established flows. Deleting the conntrack entry alone would
/// not do: a packet from the other end makes a new entry, in which ours are replies. The price: what the address itself
/// opens towards us is not answered either meanwhile.
const CUT: Duration = Duration::from_secs(600);
/// Commands taken at once: one batch serves them all.
const AT_ONCE: usize = 256;
/// Reports waiting for room. Beyond, they are replaced by "lost", which says it all; so reports never hold up commands.
const OUTBOX: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a full set is waited for: elements that have expired give their room back within about two seconds.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Restorations within a second beyond which each waits for a while: somebody else fights for the table.
const FIGHT: u32 = 50;
const FIGHT_PAUSE: Duration = Duration::from_millis(100);
/// Leases that are written back within the transaction that closes the host; more of them follow in the next one.
const AT_ONCE_RESTORED: usize = 2048;

mod applications;
mod compare;
mod rules;
mod sync;

/// What the driver is made of.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) id: EnforcerId,
    pub(super) clock: Clock,
    pub(super) on_stop: OnStop,
    /// [`Scope::Client`]: what is open is what pairs say; what leases say opens nothing.
    pub(super) scope: Scope,
    pub(super) disarmer: Disarmer,
    pub(super) features: Option<Features>,
    /// Whether notifications of the changes of others are listened to. Not in tests of the comparison.
    pub(super) watched: bool,
}

#[derive(Debug)]
enum State {
    Broken { retry: Instant, pause: Duration },
    Waiting,
    Synced,
    Disarmed,
}

#[derive(Debug)]
struct Link {
    kernel: Kernel,
    watch: Option<Watch>,
}

pub(super) struct Driver {
    settings: Settings,
    installer: Installer,
    link: Option<Link>,
    state: State,
    outbox: VecDeque<Event>,
    /// Addresses whose flows are being cut, and until when. Bounded by [`CUT_CAPACITY`].
    cut: HashMap<IpAddr, Moment>,
    /// What the kernel acknowledged.
    written: Written,
    /// The table as it was when it was installed and verified.
    blueprint: Option<Blueprint>,
    /// Counts installations and restorations of the table.
    installation: u64,
    schedule: compare::Schedule,
    /// When a second began, and the restorations since.
    fight: (Instant, u32),
    /// Control groups of applications.
    followed: applications::Followed,
    /// The kernel can't keep closed what others flush; it was told of.
    lockless: bool,
}

/// Runs the driver until `commands` closes. Blocks the thread.
pub(super) fn drive(settings: Settings, installer: Installer, commands: mpsc::Receiver<Command>, reports: Reports) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the nftables driver can't start");
            let lost = Event::Lost { enforcer: settings.id, reason: error.to_string() };
            if reports.blocking_send(lost).is_err() {
                tracing::debug!("the core has stopped");
            }
            return;
        }
    };
    let driver = Driver {
        settings,
        installer,
        link: None,
        state: State::Broken { retry: Instant::now(), pause: FIRST_PAUSE },
        outbox: VecDeque::new(),
        cut: HashMap::new(),
        written: Written::default(),
        blueprint: None,
        installation: 0,
        schedule: compare::Schedule::new(),
        fight: (Instant::now(), 0),
        followed: applications::Followed::new(),
        lockless: false,
    };
    runtime.block_on(driver.run(commands, reports));
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, reports: Reports) {
        self.follow_groups();
        self.start();
        let mut batch = Vec::with_capacity(AT_ONCE);
        loop {
            let retry = match self.state {
                State::Broken { retry, .. } => Some(retry),
                _ => None,
            };
            let again = async {
                match retry {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let watch = self.link.as_mut().filter(|_| retry.is_none()).and_then(|link| link.watch.as_mut());
            let changed = async {
                match watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let looks = matches!(self.state, State::Synced);
            let look = sleep_until(self.schedule.next);
            let sweeping = self.schedule.sweeping.as_mut();
            let swept = async {
                match sweeping {
                    Some((installation, swept)) => (*installation, swept.await.ok()),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                room = reports.reserve(), if !self.outbox.is_empty() => match room {
                    Ok(room) => if let Some(report) = self.outbox.pop_front() { room.send(report) },
                    Err(_) => break,
                },
                what = changed => {
                    if !self.is_disarmed() {
                        self.changed(what);
                    }
                }
                () = self.followed.changed() => self.groups_changed(),
                () = again => self.repair(),
                (installation, swept) = swept => {
                    self.schedule.sweeping = None;
                    self.swept(installation, swept);
                }
                () = look, if looks => self.look(),
                taken = commands.recv_many(&mut batch, AT_ONCE) => {
                    if taken == 0 {
                        break;
                    }
                    self.obey(batch.drain(..));
                }
            }
        }
        self.stop();
    }

    /// The ruleset was installed before; somebody may have removed it since.
    fn start(&mut self) {
        self.blueprint = self.installer.blueprint.take();
        match self.open().and_then(|()| self.is_intact()) {
            Ok(true) => self.want_sync(),
            Ok(false) => self.repair(),
            Err(error) => self.lose_for(&error),
        }
    }

    /// Whether the ruleset is as it was when it was verified.
    fn is_intact(&mut self) -> Result<bool, NftError> {
        let (Some(link), Some(blueprint)) = (self.link.as_mut(), &self.blueprint) else { return Ok(false) };
        Ok(blueprint.is_met_by(&Blueprint::read(&mut link.kernel)?))
    }

    /// Keeps closed from now on what is guarded, whoever flushes the table. It must be as it was installed.
    fn lock(&mut self) {
        if self.lockless || !self.installer.enforces() || self.is_off() {
            return;
        }
        let installer = &self.installer;
        let lockless = &mut self.lockless;
        self.settings.disarmer.lock(|| {
            let lock = installer.lock();
            *lockless = lock.is_err();
            lock
        });
    }

    /// Somebody else touched the table: the host is closed again, with its leases, and only then anybody is told.
    fn changed(&mut self, what: String) {
        let begin = Instant::now();
        if begin.duration_since(self.fight.0) > Duration::from_secs(1) {
            self.fight = (begin, 0);
        }
        self.fight.1 = self.fight.1.saturating_add(1);
        if self.fight.1 > FIGHT {
            tracing::error!("{what}, again and again");
            return self.lose(what, begin + FIGHT_PAUSE);
        }
        let restored = self.put_back();
        let took = begin.elapsed();
        match restored {
            Ok(()) => tracing::error!(?took, "{what}; it was put back"),
            Err(error) => tracing::error!(%error, "{what}; it is being installed again"),
        }
        self.report_repaired("ruleset", 1, what.clone());
        self.lose(what, begin);
        self.repair();
        // They may have begun while the host was open.
        self.installer.end_foreign_dns();
    }

    /// Writes the table back from its blueprint where it differs, and what was written to its sets.
    fn put_back(&mut self) -> Result<(), NftError> {
        let now = self.settings.clock.now();
        let (of, members) = self.members();
        let (Some(link), Some(blueprint)) = (self.link.as_mut(), &self.blueprint) else { return Err(NftError::Gone) };
        let found = Blueprint::read(&mut link.kernel)?;
        let mut elements: BTreeMap<Set, Vec<(Key, Timeout)>> = BTreeMap::new();
        for ((set, key), left) in self.written.left(now) {
            elements.entry(set).or_default().push((key, left));
        }
        if !blueprint.is_met_by(&found) {
            let mut transaction = link.kernel.transaction();
            blueprint.restore(&found, &mut transaction);
            rewrite_members(&mut transaction, &of, &members);
            if self.written.len() <= AT_ONCE_RESTORED {
                for (set, elements) in std::mem::take(&mut elements) {
                    transaction.flush(set);
                    transaction.add(set, &elements);
                }
            }
            link.kernel.commit("putting the table back", transaction)?;
            self.installation += 1;
        }
        let mut transaction = link.kernel.transaction();
        rewrite_members(&mut transaction, &of, &members);
        for (set, elements) in elements {
            transaction.flush(set);
            transaction.add(set, &elements);
        }
        link.kernel.commit("putting the leases back", transaction)?;
        match self.is_intact()? {
            true => Ok(()),
            false => Err(NftError::ReadBack { what: "it can't be put back as it was".to_owned() }),
        }
    }

    /// The sets that the ruleset has and that are written.
    fn sets(&self) -> Vec<Set> {
        let all = Set::ALL.into_iter().filter(|set| {
            (!set.is_of_clients() || self.settings.scope == Scope::Client)
                && (!set.is_of_ports() || self.installer.settings().ports)
        });
        let of_applications = self.installer.settings().applications.iter();
        let of_applications =
            of_applications.flat_map(|one| OfApplication::ALL.map(|which| Set::Application(one.number, which)));
        all.chain(of_applications).collect()
    }

    /// Whether the operator removed the table; takes note of it the first time.
    fn is_disarmed(&mut self) -> bool {
        if self.is_off() {
            return true;
        }
        if !self.settings.disarmer.is_disarmed() {
            return false;
        }
        if !matches!(self.state, State::Disarmed) {
            tracing::warn!("disarmed: nothing is guarded by nftables until the daemon starts again");
            if let Some(link) = self.link.as_mut()
                && let Err(error) = tracking::let_go(&mut link.kernel)
            {
                tracing::debug!(%error, "flows are kept track of until the daemon ends");
            }
            self.want_sync();
            self.state = State::Disarmed;
        }
        true
    }

    fn open(&mut self) -> Result<(), NftError> {
        if self.link.is_some() {
            return Ok(());
        }
        let mut kernel = Kernel::open()?;
        let watch = if self.settings.watched { Some(Watch::open(kernel.port())?) } else { None };
        kernel.features = match self.settings.features {
            Some(features) => features,
            None => probe::probe(&mut kernel)?,
        };
        if let Err(error) = tracking::keep(&mut kernel) {
            tracing::debug!(%error, "after a flush of the ruleset by others it takes longer until it is back");
        }
        lock::remove_left(&mut kernel)?;
        tracing::debug!(features = ?kernel.features, "nftables is ready");
        self.link = Some(Link { kernel, watch });
        Ok(())
    }

    fn repair(&mut self) {
        if self.is_disarmed() {
            return;
        }
        let pause = match self.state {
            State::Broken { pause, .. } => pause,
            _ => FIRST_PAUSE,
        };
        let repaired = self.open().and_then(|()| self.is_intact()).and_then(|intact| {
            if intact || self.put_back().is_ok() {
                return Ok(());
            }
            let mut watch = self.link.as_mut().and_then(|link| link.watch.as_mut());
            self.installer.install(|| {
                // What came until now is our own installation, or was undone by it.
                if let Some(what) = watch.as_mut().and_then(|watch| watch.take()) {
                    tracing::debug!("{what}: installed");
                }
            })?;
            self.blueprint = self.installer.blueprint.take();
            self.installation += 1;
            Ok(())
        });
        match repaired {
            Ok(()) if self.is_disarmed() => {
                // Disarmed between the two: what was just installed must go again.
                let removed = self.link.as_mut().map_or(Ok(()), |link| link.kernel.delete_table());
                if let Err(error) = removed {
                    tracing::error!(%error, "the nftables table could not be removed");
                }
            }
            Ok(()) => self.want_sync(),
            Err(error) => {
                tracing::error!(%error, "nftables can't be repaired yet");
                self.link = None;
                self.report_lost(error.to_string());
                let pause = (pause * 2).min(LONGEST_PAUSE);
                self.state = State::Broken { retry: Instant::now() + pause, pause };
            }
        }
    }

    fn obey(&mut self, commands: impl Iterator<Item = Command>) {
        let mut merged = Merged::default();
        for command in commands {
            match command {
                Command::Apply { generation, changes } => merged.apply(generation, changes),
                Command::CutFlows(address) => merged.cut(address),
                // Who asked may have gone away.
                Command::Enforce { enforce, done } => drop(done.send(self.enforce(enforce))),
                Command::Own { own, done } => drop(done.send(self.change_own(own))),
                Command::Rules { rules, done } => drop(done.send(self.change_rules(&rules))),
                // Of routes.
                Command::Open { done, .. } => drop(done.send(Ok(()))),
                Command::PreparePeers { done, .. } => drop(done.send(Ok(()))),
                Command::ChangePeers { done } => done.send(()).unwrap_or_default(),
                // It has asked for the full state, which follows anyway; only routes are hurried and have groups.
                Command::Restored | Command::Hurry(_) | Command::Groups(_) | Command::Share(_) => {}
                Command::Sync { generation, leases, pairs } => {
                    // The full state supersedes every change before it, but not what is to be cut.
                    merged.plans.clear();
                    for address in of_state(&leases, &pairs) {
                        merged.cuts.remove(&address);
                    }
                    match self.state {
                        // It asks again once it is repaired.
                        State::Broken { .. } => {}
                        State::Disarmed => self.report(Event::Applied { enforcer: self.settings.id, generation }),
                        State::Waiting | State::Synced => self.sync(generation, &leases, &pairs),
                    }
                }
            }
        }
        match (&self.state, merged.plans.last()) {
            (State::Synced, Some(_)) => self.change(&merged),
            (State::Disarmed, Some((generation, _))) => {
                self.report(Event::Applied { enforcer: self.settings.id, generation: *generation });
            }
            _ => {}
        }
        let cuts: Vec<IpAddr> = merged.cuts.into_iter().collect();
        if !cuts.is_empty() && !matches!(self.state, State::Disarmed) {
            self.cut_flows(&cuts);
        }
    }

    /// Applies changes in one transaction; plan by plan only where a set is full.
    fn change(&mut self, merged: &Merged) {
        let Some(last) = merged.plans.last().map(|(generation, _)| *generation) else { return };
        let changes = latest(merged.plans.iter().flat_map(|(_, changes)| changes));
        match self.commit(&changes) {
            Ok(()) => self.report(Event::Applied { enforcer: self.settings.id, generation: last }),
            Err(NftError::Full) => self.plan_by_plan(&merged.plans),
            Err(error) => self.lose_for(&error),
        }
    }

    /// Finds the plans that don't fit. What they close and extend is done all the same.
    fn plan_by_plan(&mut self, plans: &[(Generation, Vec<Change>)]) {
        let enforcer = self.settings.id;
        for (generation, changes) in plans {
            let (opens, others): (Vec<Change>, Vec<Change>) = latest(changes.iter()).into_iter().partition(opens);
            if let Err(error) = self.commit(&others) {
                return self.lose_for(&error);
            }
            match self.commit(&opens) {
                Ok(()) => self.report(Event::Applied { enforcer, generation: *generation }),
                Err(error @ NftError::Full) => {
                    let reason = error.to_string();
                    self.report(Event::Refused { enforcer, generation: *generation, reason });
                }
                Err(error) => return self.lose_for(&error),
            }
        }
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), NftError> {
        let now = self.settings.clock.now();
        let Some(link) = self.link.as_mut() else { return Err(NftError::Gone) };
        let features = link.kernel.features;
        let shared = self.settings.scope == Scope::Shared;
        let is_there = has_set(&self.installer.settings().applications);
        let mut opened: BTreeMap<Set, Vec<(Key, Timeout)>> = BTreeMap::new();
        let mut closed: BTreeMap<Set, Vec<Key>> = BTreeMap::new();
        for change in changes {
            let (key, ends) = match *change {
                Change::Open { address, ends } | Change::Extend { address, ends } => {
                    (shared.then_some(Key::Address(address)), Some(ends))
                }
                Change::Close { address } => (shared.then_some(Key::Address(address)), None),
                Change::Narrow { address, narrow, ends, .. } => (key_of(address, narrow).filter(&is_there), ends),
                // For routes.
                Change::Announce { .. } => continue,
            };
            match (key, ends) {
                (Some(key), Some(ends)) => opened.entry(key.lease_set()).or_default().push((key, left(now, ends))),
                (Some(key), None) => closed.entry(key.lease_set()).or_default().push(key),
                (None, _) => {}
            }
            let (address, _) = subject(change);
            if ends.is_some() && self.cut.remove(&address).is_some() {
                closed.entry(cut_set(address)).or_default().push(Key::Address(address));
            }
        }
        let mut transaction = link.kernel.transaction();
        for (set, keys) in &closed {
            transaction.remove(features, *set, keys);
        }
        for (set, elements) in &opened {
            transaction.put(features, *set, elements);
        }
        link.kernel.commit("changing leases", transaction)?;
        let done = self.settings.clock.now();
        for (set, keys) in &closed {
            keys.iter().for_each(|key| self.written.remove((*set, *key)));
        }
        for (set, elements) in &opened {
            elements.iter().for_each(|(key, timeout)| self.written.put((*set, *key), *timeout, now, done));
        }
        Ok(())
    }

    /// Denies packets to these addresses for a while, established or not, and forgets their flows.
    fn cut_flows(&mut self, addresses: &[IpAddr]) {
        let now = self.settings.clock.now();
        self.cut.retain(|_, ends| *ends > now);
        let room = usize::try_from(CUT_CAPACITY / 2).unwrap_or(0).saturating_sub(self.cut.len());
        if addresses.len() > room {
            tracing::warn!("too many addresses are being cut at once: some flows may come back");
        }
        let mut sets: BTreeMap<Set, Vec<(Key, Timeout)>> = BTreeMap::new();
        for address in addresses.iter().take(room) {
            self.cut.insert(*address, now.plus(CUT));
            sets.entry(cut_set(*address)).or_default().push((Key::Address(*address), Timeout::of(CUT)));
        }
        // Without a link the next Sync denies the packets; the conntrack entries then end by their own time.
        let Some(link) = self.link.as_mut() else { return };
        let mut transaction = link.kernel.transaction();
        for (set, elements) in &sets {
            transaction.put(link.kernel.features, *set, elements);
        }
        if let Err(error) = link.kernel.commit("cutting flows", transaction) {
            return self.lose_for(&error);
        }
        let done = self.settings.clock.now();
        for (set, elements) in &sets {
            elements.iter().for_each(|(key, timeout)| self.written.put((*set, *key), *timeout, now, done));
        }
        // In audit they go on, and must not lose their translation.
        if !self.installer.enforces() {
            return;
        }
        match conntrack::cut(&mut link.kernel, addresses) {
            Ok(count) => tracing::info!(count, ?addresses, "live flows were cut"),
            // The packets are denied by now; what stays is an idle entry in conntrack.
            Err(error) => tracing::warn!(%error, "conntrack entries of cut flows could not be deleted"),
        }
    }

    fn stop(&mut self) {
        self.settings.disarmer.unlock();
        if self.settings.on_stop == OnStop::Keep || self.settings.disarmer.keeps() {
            return;
        }
        let removed = self.open().and_then(|()| match self.link.as_mut() {
            Some(link) => link.kernel.delete_table(),
            None => Ok(()),
        });
        match removed {
            Ok(()) => tracing::info!("the nftables table was removed: nothing is guarded here any more"),
            Err(error) => tracing::error!(%error, "the nftables table could not be removed"),
        }
    }

    fn want_sync(&mut self) {
        if !self.is_off() && !self.settings.disarmer.is_disarmed() {
            self.follow_groups();
            if let Err(error) = self.write_members() {
                tracing::error!(%error, "the control groups of applications are those of before");
            }
        }
        self.lock();
        self.state = State::Waiting;
        self.report(Event::WantSync { enforcer: self.settings.id });
    }

    fn lose_for(&mut self, error: &NftError) {
        if self.is_disarmed() {
            return;
        }
        tracing::error!(%error, "the nftables leases are lost and will be written anew");
        let mut at = Instant::now();
        if matches!(error, NftError::Full) {
            at += FULL_PAUSE;
        }
        self.lose(error.to_string(), at);
    }

    fn lose(&mut self, reason: String, retry: Instant) {
        self.report_lost(reason);
        self.state = State::Broken { retry, pause: FIRST_PAUSE };
    }

    fn report_lost(&mut self, reason: String) {
        self.report(Event::Lost { enforcer: self.settings.id, reason });
    }

    fn report(&mut self, report: Event) {
        match (self.outbox.back_mut(), &report) {
            // The later generation includes the earlier; one loss is as good as two.
            (Some(last @ Event::Applied { .. }), Event::Applied { .. })
            | (Some(last @ Event::Lost { .. }), Event::Lost { .. }) => *last = report,
            _ => self.outbox.push_back(report),
        }
        if self.outbox.len() > OUTBOX {
            let enforcer = self.settings.id;
            self.outbox.clear();
            self.outbox.push_back(Event::Lost { enforcer, reason: "too many reports are waiting".to_owned() });
            self.outbox.push_back(Event::WantSync { enforcer });
            if !matches!(self.state, State::Disarmed) {
                self.state = State::Waiting;
            }
        }
    }
}

/// The element that opens so much of an address: for this host itself one of the sets that the output hook looks into. `None`: no packet can
/// go from one to the other.
fn key_of(address: IpAddr, narrow: Narrow) -> Option<Key> {
    match narrow {
        Narrow { who: Who::Anyone | Who::Client(HOST), to: Port::Any } => Some(Key::Address(address)),
        Narrow { who: Who::Client(client), to: Port::Any } => Key::pair(client, address),
        Narrow { who: Who::Anyone | Who::Client(HOST), to: Port::Of { protocol, port } } => {
            Some(Key::Port(address, protocol, port))
        }
        Narrow { who: Who::Client(client), to: Port::Of { protocol, port } } => {
            Key::client_port(client, address, protocol, port)
        }
        Narrow { who: Who::Application(number), to: Port::Any } => Some(Key::Application(number, address)),
        Narrow { who: Who::Application(number), to: Port::Of { protocol, port } } => {
            Some(Key::ApplicationPort(number, address, protocol, port))
        }
    }
}

/// Whether a key's set is there: those of an application come and go with it.
fn has_set(applications: &[Application]) -> impl Fn(&Key) -> bool + use<> {
    let there: Vec<u16> = applications.iter().map(|one| one.number).collect();
    move |key| match key {
        Key::Application(number, _) | Key::ApplicationPort(number, ..) => there.contains(number),
        Key::Address(_) | Key::Pair4(..) | Key::Pair6(..) | Key::Port(..) => true,
        Key::ClientPort4(..) | Key::ClientPort6(..) => true,
    }
}

/// The addresses of a full state.
fn of_state(leases: &[(IpAddr, Moment)], pairs: &[(PairId, Moment)]) -> impl Iterator<Item = IpAddr> {
    leases.iter().map(|(address, _)| *address).chain(pairs.iter().map(|((address, _), _)| *address))
}

fn cut_set(address: IpAddr) -> Set {
    if address.is_ipv4() { Set::Cut4 } else { Set::Cut6 }
}

fn left(now: Moment, ends: Moment) -> Timeout {
    Timeout::of(now.until(ends).saturating_add(PAD))
}
