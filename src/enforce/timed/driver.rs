//! Carries out the core's commands on a table, in a thread of its own since every call into it blocks.
//!
//! ```text
//!            +--------- installed: WantSync --------+      Sync applied
//!            |                                      v    +-------------> Synced --- Apply: written, Applied
//!   Broken --+ (tries again, ever slower)        Waiting-+                 |
//!     ^                                             |                      |
//!     +------------ Lost: refused, or fresh --------+----------------------+
//! ```
//!
//! Changes that arrive while it waits for a Sync are part of that Sync, so they are passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::written::Written;
use super::{Entry, Settings, Table, TableError, compare};
use crate::config::schema::{NftablesMode, Scope};
use crate::core::event::{Change, Event, Generation};
use crate::core::moment::Moment;
use crate::core::narrow::{HOST, Narrow, Port, Who};
use crate::enforce::backend::LeftOut;
use crate::enforce::merged::{Merged, latest, opens};
use crate::enforce::rules::Rules;
use crate::enforce::{Command, EnforceError, Reports};

/// An entry outlives its lease by this, where the table doesn't round up anyway.
pub const PAD: Duration = Duration::from_millis(500);
/// How long packets to a revoked address are denied even in established flows.
const CUT: Duration = Duration::from_secs(600);
/// Commands taken at once.
const AT_ONCE: usize = 256;
/// Reports waiting for room. Beyond, they are replaced by "lost", which says it all.
const OUTBOX: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a full table is waited for.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Repairs within a minute beyond which each waits for a while: somebody else fights for the rules.
const FIGHT: u32 = 50;
const FIGHT_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum State {
    Broken {
        /// When it is tried again, since the boot.
        retry: Duration,
        pause: Duration,
    },
    Waiting,
    Synced,
    /// Disarmed, or nothing is guarded here: all is acknowledged.
    Off,
}

/// The driver as a machine: told commands and that time has passed, it calls its table, and has reports.
pub struct Driver<T> {
    pub(super) table: T,
    pub(super) settings: Settings,
    pub(super) state: State,
    pub(super) written: Written,
    /// Addresses whose flows are being cut, and until when.
    pub(super) cut: HashMap<IpAddr, Moment>,
    pub(super) schedule: compare::Schedule,
    outbox: VecDeque<Event>,
    /// When a minute began, and the repairs since.
    fight: (Duration, u32),
}

/// Runs the driver until `commands` closes. Blocks the thread.
pub(super) fn drive<T: Table>(table: T, settings: Settings, commands: mpsc::Receiver<Command>, reports: Reports) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the driver of {} can't start", table.name());
            let lost = Event::Lost { enforcer: settings.id, reason: error.to_string() };
            if reports.blocking_send(lost).is_err() {
                tracing::debug!("the core has stopped");
            }
            return;
        }
    };
    let driver = Driver::new(table, settings);
    runtime.block_on(driver.run(commands, reports));
}

impl<T: Table> Driver<T> {
    /// A driver of this table, whose rules were installed. [`Driver::start`] comes first.
    pub fn new(table: T, settings: Settings) -> Self {
        let now = settings.clock.since_boot();
        Self {
            table,
            settings,
            state: State::Waiting,
            written: Written::default(),
            cut: HashMap::new(),
            schedule: compare::Schedule::new(now),
            outbox: VecDeque::new(),
            fight: (now, 0),
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>, reports: Reports) {
        self.start();
        let mut batch = Vec::with_capacity(AT_ONCE);
        loop {
            let wake = self.due().map(|due| due.saturating_sub(self.now()));
            let wake = async {
                match wake {
                    Some(span) => sleep(span).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                room = reports.reserve(), if !self.outbox.is_empty() => match room {
                    Ok(room) => if let Some(report) = self.poll_report() { room.send(report) },
                    Err(_) => break,
                },
                () = wake => self.wake(),
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

    /// Since the boot.
    pub(super) fn now(&self) -> Duration {
        self.settings.clock.since_boot()
    }

    /// When [`Driver::wake`] is to be called next, since the boot.
    pub fn due(&self) -> Option<Duration> {
        match self.state {
            State::Broken { retry, .. } => Some(retry),
            State::Waiting | State::Synced => Some(self.schedule.next),
            State::Off => None,
        }
    }

    /// Does what is due: a repair, or a look at the table.
    pub fn wake(&mut self) {
        match self.state {
            State::Broken { .. } => self.repair(),
            _ => self.look(),
        }
    }

    /// The next thing to tell the core, in order.
    pub fn poll_report(&mut self) -> Option<Event> {
        self.outbox.pop_front()
    }

    /// Begins. The rules were installed before; somebody may have removed them since.
    pub fn start(&mut self) {
        if self.is_off() {
            self.want_sync();
            self.state = State::Off;
            return;
        }
        match self.table.look() {
            Ok(None) => self.want_sync(),
            Ok(Some(_)) => self.repair(),
            Err(error) => self.lose_for(&error),
        }
    }

    /// Whether the mode says that nothing is guarded here.
    fn is_off(&self) -> bool {
        self.settings.rules.config.mode == NftablesMode::Off
    }

    /// Whether the operator removed the table; takes note of it the first time.
    pub(super) fn is_disarmed(&mut self) -> bool {
        if self.is_off() {
            return true;
        }
        if !self.settings.switch.is_disarmed() {
            return false;
        }
        if !matches!(self.state, State::Off) {
            tracing::warn!("disarmed: nothing is guarded by {} until the daemon starts again", self.table.name());
            self.want_sync();
            self.state = State::Off;
            self.written.clear();
        }
        true
    }

    /// Somebody else touched the rules: they are put back, and only then anybody is told.
    pub(super) fn changed(&mut self, what: String) {
        let begin = self.now();
        if begin.saturating_sub(self.fight.0) > Duration::from_secs(60) {
            self.fight = (begin, 0);
        }
        self.fight.1 = self.fight.1.saturating_add(1);
        if self.fight.1 > FIGHT {
            tracing::error!("{what}, again and again");
            return self.lose(what, begin.saturating_add(FIGHT_PAUSE));
        }
        match self.install() {
            Ok(installed) => {
                tracing::error!(took = ?self.now().saturating_sub(begin), "{what}; it was put back");
                self.report_repaired("ruleset", 1, what.clone());
                if installed {
                    self.report_lost(what);
                    self.want_sync();
                } else {
                    self.schedule.hurry(self.now());
                }
            }
            Err(error) => {
                tracing::error!(%error, "{what}; it is being installed again");
                self.lose(what, begin);
            }
        }
    }

    /// Installs the rules, unless it is disarmed. Returns whether what was held is gone.
    fn install(&mut self) -> Result<bool, TableError> {
        let switch = self.settings.switch.clone();
        let _turn = switch.turn();
        if switch.is_disarmed() {
            return Ok(false);
        }
        Ok(self.table.install()?.fresh)
    }

    fn repair(&mut self) {
        if self.is_disarmed() {
            return;
        }
        let pause = match self.state {
            State::Broken { pause, .. } => pause,
            _ => FIRST_PAUSE,
        };
        match self.install() {
            Ok(_) => self.want_sync(),
            Err(error) => {
                tracing::error!(%error, "{} can't be repaired yet", self.table.name());
                self.report_lost(error.to_string());
                let pause = (pause * 2).min(LONGEST_PAUSE);
                self.state = State::Broken { retry: self.now().saturating_add(pause), pause };
            }
        }
    }

    /// Carries out commands, those that change entries together.
    pub fn obey(&mut self, commands: impl Iterator<Item = Command>) {
        let mut merged = Merged::default();
        let disarmed = self.is_disarmed();
        for command in commands {
            match command {
                Command::Apply { generation, changes } => merged.apply(generation, changes),
                Command::CutFlows(address) => {
                    merged.cut(address);
                }
                // Who asked may have gone away.
                Command::Enforce { enforce, done } => {
                    let mut rules = self.settings.rules.clone();
                    rules.config.enforce = enforce;
                    drop(done.send(self.change_rules(rules).map(drop)));
                }
                Command::Own { own, done } => {
                    let rules = Rules { own, ..self.settings.rules.clone() };
                    drop(done.send(self.change_rules(rules).map(drop)));
                }
                Command::Rules { rules, done } => drop(done.send(self.change_rules(*rules))),
                // Of routes.
                Command::Open { done, .. } => drop(done.send(Ok(()))),
                Command::PreparePeers { done, .. } => drop(done.send(Ok(()))),
                Command::ChangePeers { done } => done.send(()).unwrap_or_default(),
                // It has asked for the full state, which follows anyway; only routes are hurried and have groups.
                Command::Restored | Command::Hurry(_) | Command::Groups(_) | Command::Share(_) => {}
                Command::Sync { generation, leases, pairs } => {
                    // The full state supersedes every change before it, but not what is to be cut.
                    merged.plans.clear();
                    for (address, _) in &leases {
                        merged.cuts.remove(address);
                    }
                    match self.state {
                        // It asks again once it is repaired.
                        State::Broken { .. } => {}
                        State::Off => self.report(Event::Applied { enforcer: self.settings.id, generation }),
                        State::Waiting | State::Synced => self.sync(generation, &leases, &pairs),
                    }
                }
            }
        }
        match (&self.state, merged.plans.last()) {
            (State::Synced, Some(_)) => self.change(&merged),
            (State::Off, Some((generation, _))) => {
                self.report(Event::Applied { enforcer: self.settings.id, generation: *generation });
            }
            _ => {}
        }
        let cuts: Vec<IpAddr> = merged.cuts.into_iter().collect();
        if !cuts.is_empty() && !disarmed && !matches!(self.state, State::Off) {
            self.cut_flows(&cuts);
        }
    }

    /// Applies changes at once; plan by plan only where the table is full.
    fn change(&mut self, merged: &Merged) {
        let Some(last) = merged.plans.last().map(|(generation, _)| *generation) else { return };
        let changes = latest(merged.plans.iter().flat_map(|(_, changes)| changes));
        match self.commit(&changes) {
            Ok(()) => self.report(Event::Applied { enforcer: self.settings.id, generation: last }),
            Err(TableError::Full(_)) => self.plan_by_plan(&merged.plans),
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
                Err(TableError::Full(why)) => {
                    self.report(Event::Refused { enforcer, generation: *generation, reason: why.to_string() });
                }
                Err(error) => return self.lose_for(&error),
            }
        }
    }

    /// What opens an address for whom a change is about; `None`: it has no place here.
    pub(super) fn entry(&self, (address, narrow): (IpAddr, Option<Narrow>)) -> Option<Entry> {
        let entry = match narrow {
            // Where they are for single clients, leases open nothing.
            None if self.settings.rules.config.scope == Scope::Client => return None,
            None | Some(Narrow { who: Who::Anyone | Who::Client(HOST), to: Port::Any }) => Entry::Address(address),
            Some(narrow) => Entry::Pair((address, narrow)),
        };
        self.table.holds(&entry).then_some(entry)
    }

    /// The time to give an entry that is to end then.
    pub(super) fn time(&self, now: Moment, until: Moment) -> Duration {
        let (left, grain) = (now.until(until), self.table.grain());
        if grain.is_zero() {
            return left.clamp(Duration::from_millis(1), self.table.longest());
        }
        let grains = left.as_millis().div_ceil(grain.as_millis()).max(1);
        let rounded = grain.checked_mul(u32::try_from(grains).unwrap_or(u32::MAX)).unwrap_or(Duration::MAX);
        rounded.min(self.table.longest())
    }

    /// When the entry of a lease is to end.
    pub(super) fn padded(&self, ends: Moment) -> Moment {
        if self.table.grain() < PAD { ends.plus(PAD) } else { ends }
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), TableError> {
        let mut put: BTreeMap<Entry, Moment> = BTreeMap::new();
        let mut remove: BTreeSet<Entry> = BTreeSet::new();
        for change in changes {
            let (about, ends) = match *change {
                Change::Open { address, ends } | Change::Extend { address, ends } => ((address, None), Some(ends)),
                Change::Close { address } => ((address, None), None),
                Change::Narrow { address, narrow, ends, .. } => ((address, Some(narrow)), ends),
                // For routes.
                Change::Announce { .. } => continue,
            };
            match (self.entry(about), ends) {
                (Some(entry), Some(ends)) => drop(put.insert(entry, self.padded(ends))),
                (Some(entry), None) => drop(remove.insert(entry)),
                (None, _) => {}
            }
            if ends.is_some() && self.cut.remove(&about.0).is_some() {
                remove.insert(Entry::Cut(about.0));
            }
        }
        self.write(&remove.into_iter().collect::<Vec<_>>(), &put.into_iter().collect::<Vec<_>>())
    }

    /// Writes, and takes note of what was written.
    pub(super) fn write(&mut self, remove: &[Entry], put: &[(Entry, Moment)]) -> Result<(), TableError> {
        let now = self.settings.clock.now();
        let timed: Vec<(Entry, Duration)> = put.iter().map(|(entry, until)| (*entry, self.time(now, *until))).collect();
        let done = self.table.write(remove, &timed);
        let after = self.settings.clock.now();
        self.written.change += 1;
        if matches!(done, Ok(()) | Err(TableError::Full(_))) {
            for entry in remove {
                self.written.remove(entry);
                self.schedule.removed(entry);
            }
        }
        if let Err(error) = done {
            if let TableError::Full(_) = error {
                // Any of them may be there, for nobody.
                let fresh: Vec<Entry> =
                    timed.iter().map(|(entry, _)| *entry).filter(|entry| self.written.get(entry).is_none()).collect();
                self.table.write(&fresh, &[])?;
                fresh.iter().for_each(|entry| self.schedule.removed(entry));
                self.renew(put, &fresh)?;
            }
            return Err(error);
        }
        for ((entry, until), (_, time)) in put.iter().zip(&timed) {
            self.written.put(*entry, *until, *time, (now, after));
        }
        Ok(())
    }

    /// Of what didn't fit as a whole, what was there already has its new end all the same.
    fn renew(&mut self, put: &[(Entry, Moment)], fresh: &[Entry]) -> Result<(), TableError> {
        let fresh: HashSet<&Entry> = fresh.iter().collect();
        let known: Vec<(Entry, Moment)> = put.iter().filter(|(entry, _)| !fresh.contains(entry)).copied().collect();
        let now = self.settings.clock.now();
        let timed: Vec<(Entry, Duration)> =
            known.iter().map(|(entry, until)| (*entry, self.time(now, *until))).collect();
        self.table.write(&[], &timed)?;
        let after = self.settings.clock.now();
        for ((entry, until), (_, time)) in known.iter().zip(&timed) {
            self.written.put(*entry, *until, *time, (now, after));
        }
        Ok(())
    }

    /// Denies packets to these addresses for a while, established or not, and forgets their flows.
    fn cut_flows(&mut self, addresses: &[IpAddr]) {
        let now = self.settings.clock.now();
        self.cut.retain(|_, ends| *ends > now);
        let room = self.table.cuts().saturating_sub(self.cut.len());
        if addresses.len() > room {
            tracing::warn!("too many addresses are being cut at once: some flows may come back");
        }
        let mut put = Vec::new();
        for address in addresses.iter().take(room).filter(|address| self.table.holds(&Entry::Cut(**address))) {
            self.cut.insert(*address, now.plus(CUT));
            put.push((Entry::Cut(*address), now.plus(CUT)));
        }
        if let State::Broken { .. } = self.state {
            // The next Sync denies the packets.
            return;
        }
        if let Err(error) = self.write(&[], &put) {
            return self.lose_for(&error);
        }
        // In audit they go on, and must not lose their translation.
        if !self.settings.rules.config.enforce {
            return;
        }
        match self.table.forget_flows(addresses) {
            Ok(count) => tracing::info!(count, ?addresses, "live flows were cut"),
            // The packets are denied by now.
            Err(error) => tracing::warn!(%error, "the kernel could not be made to forget flows that were cut"),
        }
    }

    /// Other rules from now on; what is leased stays, and so does every flow.
    fn change_rules(&mut self, rules: Rules) -> Result<Vec<LeftOut>, EnforceError> {
        if self.settings.rules == rules {
            return Ok(self.settings.left_out.clone());
        }
        let before = std::mem::replace(&mut self.settings.rules, rules);
        let was_off = before.config.mode == NftablesMode::Off;
        let changed = match (was_off, self.is_off()) {
            (true, true) => Ok(Vec::new()),
            (false, true) => self.turn_off(),
            (_, false) => self.replace(was_off, before.config.scope),
        };
        if changed.is_err() {
            self.table.set(&before);
            self.settings.rules = before;
            if !was_off && !matches!(self.state, State::Broken { .. } | State::Off) {
                // They may be in force, or not: the old rules are installed again.
                self.repair();
            }
        }
        let left_out = changed?;
        self.settings.left_out.clone_from(&left_out);
        Ok(left_out)
    }

    fn turn_off(&mut self) -> Result<Vec<LeftOut>, TableError> {
        let switch = self.settings.switch.clone();
        let _turn = switch.turn();
        self.table.remove()?;
        self.table.set(&self.settings.rules);
        tracing::warn!("nftables.mode is off: nothing is guarded here any more");
        self.written.clear();
        self.cut.clear();
        self.schedule.stop();
        self.want_sync();
        self.state = State::Off;
        Ok(Vec::new())
    }

    fn replace(&mut self, was_off: bool, scope: Scope) -> Result<Vec<LeftOut>, TableError> {
        let switch = self.settings.switch.clone();
        let _turn = switch.turn();
        self.table.set(&self.settings.rules);
        if switch.is_disarmed() {
            return Ok(Vec::new());
        }
        let installed = self.table.install()?;
        tracing::info!("the rules of {} were replaced", self.table.name());
        // What is leased follows with the full state.
        if was_off || installed.fresh || scope != self.settings.rules.config.scope {
            self.want_sync();
        } else if installed.moved {
            let now = self.settings.clock.now();
            let all = self.written.all(now);
            self.write(&[], &all)?;
        }
        Ok(installed.left_out)
    }

    /// Does what is to be done at the end.
    fn stop(&mut self) {
        if self.settings.switch.keeps(self.settings.rules.config.on_stop) || self.is_off() {
            return;
        }
        match self.table.remove() {
            Ok(()) => tracing::info!("{} was removed: nothing is guarded here any more", self.table.name()),
            Err(error) => tracing::error!(%error, "{} could not be removed", self.table.name()),
        }
    }

    pub(super) fn want_sync(&mut self) {
        self.schedule.stop();
        self.state = State::Waiting;
        self.report(Event::WantSync { enforcer: self.settings.id });
    }

    pub(super) fn lose_for(&mut self, error: &TableError) {
        if self.is_disarmed() {
            return;
        }
        tracing::error!(%error, "the leases of {} are lost and will be written anew", self.table.name());
        let mut at = self.now();
        if let TableError::Full(_) = error {
            at = at.saturating_add(FULL_PAUSE);
        }
        self.lose(error.to_string(), at);
    }

    pub(super) fn lose(&mut self, reason: String, retry: Duration) {
        self.schedule.stop();
        self.report_lost(reason);
        self.state = State::Broken { retry, pause: FIRST_PAUSE };
    }

    fn report_lost(&mut self, reason: String) {
        self.report(Event::Lost { enforcer: self.settings.id, reason });
    }

    pub(super) fn report_repaired(&mut self, kind: &'static str, count: usize, what: String) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.report(Event::Repaired { enforcer: self.settings.id, kind, count, what });
    }

    pub(super) fn report(&mut self, report: Event) {
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
            if !matches!(self.state, State::Off) {
                self.state = State::Waiting;
            }
        }
    }
}
