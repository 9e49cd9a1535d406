//! One turn of the core: what was asked goes in, what follows goes to the drivers, the disk and those who asked.

use std::sync::Arc;

use hashbrown::HashMap;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::{Decisions, Drivers, Mailbox, Request, Waiter};
use crate::core::event::{Admission, Decision, Event, Output, Refusal, Ticket};
use crate::core::guard::Guard;
use crate::core::journal::{Alive, JournalRecord};
use crate::core::moment::Moment;
use crate::enforce::Command;
use crate::sys::clock::Clock;

/// Room in each driver's channel without which a worker leaves the turn to the task, which can wait.
const ROOM: usize = 16;
/// What is due for so long means that much is due at once: the task's work.
const LATE: std::time::Duration = std::time::Duration::from_millis(5);
/// Between two comparisons of the journal with the disk. The task looks at the clock more than twice as often as once a second.
const CHECK: std::time::Duration = std::time::Duration::from_millis(350);

/// The guard, and all that its outputs go to.
pub(super) struct Core {
    pub(super) guard: Guard,
    drivers: Drivers,
    clock: Clock,
    /// Bounded by what the channel and the gate admit: every ticket is decided by its deadline.
    waiting: HashMap<Ticket, Waiter>,
    next_ticket: u64,
    /// What was restored is in the outputs that are due.
    restored: bool,
    /// All that was restored is in the guard.
    whole: bool,
    /// Told once the timed enforcers hold what was restored. A few at the start.
    held: Vec<oneshot::Sender<()>>,
    /// Told once the guard has no reload that is not in force. One at a time changes the configuration.
    reloads: Vec<oneshot::Sender<()>>,
    /// When the journal was last compared with the disk.
    checked: Moment,
    /// Told to stop.
    pub(super) stopped: bool,
    /// When the task wakes by itself.
    armed: Option<Moment>,
    /// For which a driver's channel had no room in a worker's turn. Bounded by what one turn puts out: before the next the task delivers it.
    unsent: Vec<(Driver, Command)>,
}

/// Whom a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// By its place among [`Drivers::timed`].
    Timed(usize),
    Routes,
}

/// What a turn puts out beside commands.
#[derive(Default)]
struct Out {
    commands: Vec<(Driver, Command)>,
    records: Vec<JournalRecord>,
    decisions: Vec<(Ticket, Decision)>,
}

impl Core {
    pub(super) fn new(guard: Guard, drivers: Drivers, clock: Clock) -> Self {
        Self {
            guard,
            drivers,
            clock,
            waiting: HashMap::new(),
            next_ticket: 0,
            restored: false,
            whole: false,
            held: Vec::new(),
            reloads: Vec::new(),
            checked: Moment::ZERO,
            stopped: false,
            armed: None,
            unsent: Vec::new(),
        }
    }

    /// When there is something to do though nothing arrives; the task wakes then.
    pub(super) fn arm(&mut self) -> Option<Moment> {
        self.armed = self.due();
        self.armed
    }

    fn due(&self) -> Option<Moment> {
        let retry = self.drivers.journal.as_ref().and_then(|journal| journal.retry());
        [self.guard.poll_timeout(), retry].into_iter().flatten().min()
    }

    /// Whether the next turn is short, and waits for nobody.
    pub(super) fn is_idle(&self) -> bool {
        let room = |driver: &mpsc::Sender<Command>| driver.capacity() >= ROOM.min(driver.max_capacity());
        let late = self.clock.now().minus(LATE);
        self.unsent.is_empty()
            && !self.restored
            && self.drivers.timed.iter().all(|(_, timed)| room(timed))
            && self.drivers.routes.iter().all(room)
            && self.due().is_none_or(|due| due > late)
            // A journal that is behind is written as a whole.
            && self.drivers.journal.as_ref().is_none_or(|journal| journal.retry().is_none())
    }

    pub(super) fn take(&mut self, request: Request) {
        let now = self.clock.now();
        match request {
            Request::Admit(admission, reply) => self.admit(admission, Waiter::One(reply), now),
            Request::AdmitAll(batch, mailbox) => {
                for (number, admission) in batch {
                    self.admit(admission, Waiter::OfMany(mailbox.clone(), number), now);
                }
            }
            Request::Event(event) => {
                self.restored |= matches!(event, Event::Restore(_));
                // They come behind the leases.
                self.whole |= matches!(event, Event::RestorePairs(_));
                self.hear(event, now);
            }
            Request::Reload(reload, reply) => {
                self.hear(Event::Reload(reload), now);
                self.reloads.push(reply);
            }
            Request::Inspect(look) => look(&self.guard, now),
            Request::Held(reply) => self.held.push(reply),
            Request::Stop => self.stopped = true,
        }
    }

    /// Has the guard take an event in.
    pub(super) fn hear(&mut self, event: Event, now: Moment) {
        // As the rules have it, which a recording can't hold.
        let event = self.guard.judged(event);
        if let Some(recorder) = &mut self.drivers.recorder {
            recorder.event(&event, now);
        }
        self.guard.handle(event, now);
        self.note_reloaded(now);
    }

    /// A reload counts from here on, for a recording too.
    fn note_reloaded(&mut self, now: Moment) {
        if let Some(reload) = self.guard.take_reloaded()
            && let Some(recorder) = &mut self.drivers.recorder
        {
            recorder.reloaded(reload, now);
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Moment) {
        if let Some(recorder) = &mut self.drivers.recorder {
            recorder.timeout(now);
        }
        self.guard.handle_timeout(now);
        self.note_reloaded(now);
    }

    fn admit(&mut self, mut admission: Admission, waiter: Waiter, now: Moment) {
        self.next_ticket += 1;
        admission.ticket = Ticket(self.next_ticket);
        self.waiting.insert(admission.ticket, waiter);
        self.hear(Event::Admit(admission), now);
    }

    /// A worker's turn. What is decided of its own batch goes to `decided`. Returns whether the task is to look.
    pub(super) fn admit_all(
        &mut self,
        batch: Vec<(u64, Admission)>,
        mailbox: &Arc<Mailbox>,
        decided: &mut Decisions,
    ) -> bool {
        let now = self.clock.now();
        for (number, admission) in batch {
            self.admit(admission, Waiter::OfMany(mailbox.clone(), number), now);
        }
        let out = self.drain();
        for (driver, command) in out.commands {
            let Some(sender) = self.sender(driver) else { continue };
            // In order: nothing overtakes what found no room.
            if self.unsent.iter().any(|(other, _)| *other == driver) {
                self.unsent.push((driver, command));
                continue;
            }
            match sender.try_send(command) {
                Ok(()) => {}
                Err(TrySendError::Full(command)) => self.unsent.push((driver, command)),
                Err(TrySendError::Closed(_)) => tracing::debug!("an enforcer has ended"),
            }
        }
        // Compaction takes long: the task's work.
        let journalled = self.journal(out.records, false, now);
        self.post(out.decisions, &journalled, Some((mailbox, decided)));
        let earlier = self.due().is_some_and(|due| self.armed.is_none_or(|armed| due < armed));
        let is_long = self.whole && self.drivers.journal.as_ref().is_some_and(|journal| journal.is_long());
        earlier || is_long || !self.unsent.is_empty()
    }

    /// The end of the task's turn.
    pub(super) async fn carry_out(&mut self, now: Moment) {
        if !self.guard.is_reloading() {
            // Who gave up doesn't want to know any more.
            self.reloads.drain(..).for_each(|reply| reply.send(()).unwrap_or_default());
        }
        let out = self.drain();
        for (driver, command) in std::mem::take(&mut self.unsent).into_iter().chain(out.commands) {
            deliver(self.sender(driver), command).await;
        }
        if std::mem::take(&mut self.restored) {
            deliver(self.sender(Driver::Routes), Command::Restored).await;
        }
        let journalled = self.journal(out.records, true, now);
        self.post(out.decisions, &journalled, None);
        if !self.held.is_empty() && self.whole && self.guard.is_all_acked() {
            // Who gave up doesn't want to know any more.
            for reply in self.held.drain(..) {
                reply.send(()).unwrap_or_default();
            }
        }
    }

    /// Has the journal look at the disk, where it is time to.
    pub(super) fn check(&mut self, now: Moment) {
        if self.whole
            && self.checked.until(now) >= CHECK
            && let Some(journal) = self.drivers.journal.as_mut()
        {
            self.checked = now;
            journal.check(&self.guard, now);
        }
    }

    fn sender(&self, driver: Driver) -> Option<&mpsc::Sender<Command>> {
        match driver {
            Driver::Timed(place) => self.drivers.timed.get(place).map(|(_, timed)| timed),
            Driver::Routes => self.drivers.routes.as_ref(),
        }
    }

    /// All that the guard puts out.
    fn drain(&mut self) -> Out {
        let mut out = Out::default();
        let timed = 0..self.drivers.timed.len();
        while let Some(output) = self.guard.poll_output() {
            let mut routes = |command| out.commands.push((Driver::Routes, command));
            match output {
                Output::ApplyTimed { generation, changes } => {
                    let apply = |place| (Driver::Timed(place), Command::Apply { generation, changes: changes.clone() });
                    out.commands.extend(timed.clone().map(apply));
                }
                Output::ApplyRoutes { generation, changes } => routes(Command::Apply { generation, changes }),
                Output::Hurry(addresses) => routes(Command::Hurry(addresses)),
                Output::RoutesAnew => {
                    let generation = crate::core::event::Generation::default();
                    routes(Command::Sync { generation, leases: Vec::new(), pairs: Vec::new() });
                }
                Output::Share(leases) => routes(Command::Share(leases)),
                Output::Groups(groups) => routes(Command::Groups(groups)),
                Output::Sync { enforcer, generation, leases, pairs } => {
                    if let Some(place) = self.drivers.timed.iter().position(|(id, _)| *id == enforcer) {
                        out.commands.push((Driver::Timed(place), Command::Sync { generation, leases, pairs }));
                    }
                }
                Output::Decide { ticket, decision } => out.decisions.push((ticket, decision)),
                Output::Journal(lease) => out.records.push(JournalRecord::Lease(lease)),
                Output::JournalClosed(address) => out.records.push(JournalRecord::Closed(address)),
                Output::JournalRevoked(name) => out.records.push(JournalRecord::Revoked(name)),
                Output::JournalPair(record) => out.records.push(JournalRecord::Pair(record)),
                Output::CutFlows(address) => {
                    let cut = |place| (Driver::Timed(place), Command::CutFlows(address));
                    out.commands.extend(timed.clone().map(cut));
                }
            }
        }
        if let Some(recorder) = &mut self.drivers.recorder {
            recorder.turn(&out.decisions);
        }
        out
    }

    /// Also without records: an answer whose lease could not be written in an earlier turn must not leave in this one.
    fn journal(&mut self, records: Vec<JournalRecord>, compacts: bool, now: Moment) -> std::io::Result<()> {
        let Some(journal) = self.drivers.journal.as_mut() else { return Ok(()) };
        let tried = journal.retry().is_none_or(|retry| retry <= now);
        let alive: Option<&dyn Alive> = if self.whole && compacts { Some(&self.guard) } else { None };
        let journalled = journal.write(records, alive, now);
        if let Err(error) = &journalled
            && tried
        {
            tracing::error!(%error, "the lease journal can't be written: answers with addresses are refused");
        }
        journalled
    }

    /// Tells those who asked; what is for this mailbox goes to the list beside it.
    fn post(
        &mut self,
        decisions: Vec<(Ticket, Decision)>,
        journalled: &std::io::Result<()>,
        mut own: Option<(&Arc<Mailbox>, &mut Decisions)>,
    ) {
        if journalled.is_err() {
            let released = decisions.iter().filter(|(_, decision)| matches!(decision, Decision::Release { .. }));
            self.guard.withheld(u64::try_from(released.count()).unwrap_or(0));
        }
        let mut posts: Vec<(Arc<Mailbox>, Decisions)> = Vec::new();
        for (ticket, decision) in decisions {
            let decision = match (journalled, decision) {
                (Err(error), Decision::Release { .. }) => {
                    Decision::Refuse(Refusal::Enforcer { name: "state".to_owned(), reason: error.to_string() })
                }
                (_, decision) => decision,
            };
            match self.waiting.remove(&ticket) {
                // A client that gave up doesn't want its answer any more; the lease stays until its end.
                Some(Waiter::One(reply)) => drop(reply.send(decision)),
                Some(Waiter::OfMany(mailbox, number)) => match &mut own {
                    Some((own, decided)) if Arc::ptr_eq(own, &mailbox) => decided.push((number, decision)),
                    _ => match posts.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &mailbox)) {
                        Some((_, post)) => post.push((number, decision)),
                        None => posts.push((mailbox, vec![(number, decision)])),
                    },
                },
                None => {}
            }
        }
        for (mailbox, mut post) in posts {
            mailbox.put(&mut post);
        }
    }
}

/// An enforcer whose channel is closed has ended with the daemon; the gate then refuses by its deadline.
async fn deliver(to: Option<&mpsc::Sender<Command>>, command: Command) {
    if let Some(sender) = to
        && sender.send(command).await.is_err()
    {
        tracing::debug!("an enforcer has ended");
    }
}
