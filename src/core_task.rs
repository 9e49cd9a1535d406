//! The one task that owns the core.
//!
//! ```text
//!  dns workers --admit--> +-----------+ --Command--> nftables thread  --report--+
//!  control     -inspect-> | core task | --Command--> bgp speaker      --report--+
//!  enforcers   --report-> +-----------+ <---------------------------------------+
//! ```
//!
//! Requests arrive on one bounded channel ([`REQUESTS`]); when it is full the asking task waits, so a flood of questions
//! slows the askers down and never the owner. Enforcers report on a channel of their own, so that questions can't keep
//! acknowledgements waiting.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use tokio::sync::{mpsc, oneshot};

use crate::core::event::{Admission, Decision, Event, Output, StoredLease, Ticket};
use crate::core::guard::Guard;
use crate::core::moment::Moment;
use crate::core::pairs::PairRecord;
use crate::enforce::Command;
use crate::sys::clock::Clock;
use crate::sys::poll::Bell;

/// Room in the channel of requests.
pub const REQUESTS: usize = 8192;
/// Room in the channel of reports.
pub const REPORTS: usize = 1024;
/// Messages taken before outputs are carried out: one netlink batch and one UPDATE serve them all.
const BATCH: usize = 256;

type Inspect = Box<dyn FnOnce(&Guard, Moment) + Send>;

enum Request {
    Admit(Admission, oneshot::Sender<Decision>),
    AdmitAll(Vec<(u64, Admission)>, Arc<Mailbox>),
    Event(Event),
    Inspect(Inspect),
    Stop,
}

/// The core task is gone; the daemon is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the core has stopped")]
pub struct Stopped;

/// Why a batch was not taken; it comes back.
#[derive(Debug)]
pub enum NotTaken {
    /// The channel is full: to be tried again.
    Full(Vec<(u64, Admission)>),
    /// The core task is gone.
    Stopped(Vec<(u64, Admission)>),
}

/// Decisions with the numbers of what was asked.
pub type Decisions = Vec<(u64, Decision)>;

/// Where a thread finds the decisions on what it asked in batches. Holds at most what its owner asked and didn't take yet.
#[derive(Debug)]
pub struct Mailbox {
    decisions: Mutex<Decisions>,
    bell: Bell,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// The kernel has no descriptor for the bell.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { decisions: Mutex::default(), bell: Bell::new()? }))
    }

    /// Rings when there is something to take.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Moves everything into `into`, which must be empty; the numbers are those of [`CoreHandle::try_admit`].
    pub fn take(&self, into: &mut Decisions) {
        // Silenced first: what comes after is heard again.
        if let Err(error) = self.bell.silence() {
            tracing::warn!(%error, "a bell can't be silenced");
        }
        std::mem::swap(&mut *self.decisions.lock().unwrap_or_else(PoisonError::into_inner), into);
    }

    fn put(&self, new: &mut Decisions) {
        let was_empty = {
            let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
            let was_empty = decisions.is_empty();
            decisions.append(new);
            was_empty
        };
        if was_empty && let Err(error) = self.bell.ring() {
            tracing::error!(%error, "a bell can't be rung: answers wait");
        }
    }
}

/// Who waits for a decision.
enum Waiter {
    One(oneshot::Sender<Decision>),
    OfMany(Arc<Mailbox>, u64),
}

/// How everybody else reaches the core. Cheap to clone.
#[derive(Clone)]
pub struct CoreHandle {
    requests: mpsc::Sender<Request>,
}

impl CoreHandle {
    /// Asks for the addresses of an answer to be opened, and waits for the gate's word. `admission.ticket` is set here.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn admit(&self, admission: Admission) -> Result<Decision, Stopped> {
        let (reply, decision) = oneshot::channel();
        self.requests.send(Request::Admit(admission, reply)).await.map_err(|_| Stopped)?;
        decision.await.map_err(|_| Stopped)
    }

    /// Like [`CoreHandle::admit`] for many at once and without waiting. Each decision goes to `mailbox` under the admission's number.
    ///
    /// # Errors
    /// [`NotTaken`], with the batch.
    pub fn try_admit(&self, batch: Vec<(u64, Admission)>, mailbox: &Arc<Mailbox>) -> Result<(), NotTaken> {
        use mpsc::error::TrySendError;
        self.requests.try_send(Request::AdmitAll(batch, mailbox.clone())).map_err(|error| match error {
            TrySendError::Full(Request::AdmitAll(batch, _)) => NotTaken::Full(batch),
            TrySendError::Closed(Request::AdmitAll(batch, _)) => NotTaken::Stopped(batch),
            // It gives back what was given.
            TrySendError::Full(_) | TrySendError::Closed(_) => NotTaken::Stopped(Vec::new()),
        })
    }

    /// Tells the core something.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.requests.send(Request::Event(event)).await.map_err(|_| Stopped)
    }

    /// Ends the core, and with it the enforcers' channels, once what was asked before is done. Whoever asks later hears [`Stopped`], and so
    /// does who still waits.
    pub async fn stop(&self) {
        if self.requests.send(Request::Stop).await.is_err() {
            tracing::debug!("the core has stopped already");
        }
    }

    /// Runs `look` on the core and returns what it saw. Must be quick: nothing else happens meanwhile.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Guard, Moment) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, seen) = oneshot::channel();
        let look: Inspect = Box::new(move |guard, now| {
            // The asker may have gone away meanwhile; then nobody wants the view.
            drop(reply.send(look(guard, now)));
        });
        self.requests.send(Request::Inspect(look)).await.map_err(|_| Stopped)?;
        seen.await.map_err(|_| Stopped)
    }
}

/// Where the outputs go.
pub struct Drivers {
    /// Timed enforcers, in the order of their ids among all enforcers.
    pub timed: Vec<(crate::core::event::EnforcerId, mpsc::Sender<Command>)>,
    /// The route table that all peers share.
    pub routes: Option<mpsc::Sender<Command>>,
    /// What must be on disk before an answer leaves; called with everything of one batch.
    pub journal: Option<Box<dyn Journal>>,
}

/// Where leases are made to survive a crash.
pub trait Journal: Send {
    /// Writes these records; `Ok` means that a crash of the process can't lose them, nor any that were to be written before, any
    /// more. After a failure it goes on failing until all that is missing is written, also with no records at all. `alive` is all that is
    /// to be on disk, these records included; `None` while it lacks what was restored.
    ///
    /// # Errors
    /// The file system's; no answer is released then.
    fn write(&mut self, records: Vec<JournalRecord>, alive: Option<&dyn Alive>, now: Moment) -> std::io::Result<()>;

    /// When a write that failed is to be tried again; `None` while nothing is missing.
    fn retry(&self) -> Option<Moment>;
}

/// All that survives a restart.
pub trait Alive {
    /// Gives a record of each lease, and of each pair of client and address.
    fn each(&self, give: &mut dyn FnMut(JournalRecord));
}

impl Alive for Guard {
    fn each(&self, give: &mut dyn FnMut(JournalRecord)) {
        self.stored().for_each(|lease| give(JournalRecord::Lease(lease)));
        self.stored_pairs().for_each(|pair| give(JournalRecord::Pair(PairRecord::Open(pair))));
    }
}

/// One record of the journal.
#[derive(Clone, Debug)]
pub enum JournalRecord {
    /// A lease began or moved later.
    Lease(StoredLease),
    /// A lease was closed early.
    Closed(std::net::IpAddr),
    /// Of a pair of client and address.
    Pair(PairRecord),
}

/// A handle, and the task to spawn. `reports` is what the enforcers report on.
pub fn core_task(
    guard: Guard,
    drivers: Drivers,
    reports: mpsc::Receiver<Event>,
    clock: Clock,
) -> (CoreHandle, impl Future<Output = ()> + Send + 'static) {
    let (sender, requests) = mpsc::channel(REQUESTS);
    let task = CoreTask {
        guard,
        drivers,
        clock,
        waiting: HashMap::new(),
        next_ticket: 0,
        restored: false,
        whole: false,
        stopped: false,
    };
    (CoreHandle { requests: sender }, task.run(requests, reports))
}

struct CoreTask {
    guard: Guard,
    drivers: Drivers,
    clock: Clock,
    /// Bounded by what the channel and the gate admit: every ticket is decided by its deadline.
    waiting: HashMap<Ticket, Waiter>,
    next_ticket: u64,
    /// What was restored is in the outputs that are due.
    restored: bool,
    /// All that was restored is in the guard.
    whole: bool,
    /// Told to stop.
    stopped: bool,
}

impl CoreTask {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut reports: mpsc::Receiver<Event>) {
        loop {
            let retry = self.drivers.journal.as_ref().and_then(|journal| journal.retry());
            let due = [self.guard.poll_timeout(), retry].into_iter().flatten().min();
            let wake = due.map(|moment| tokio::time::Instant::from_std(self.clock.instant(moment)));
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(event) = reports.recv() => {
                    self.guard.handle(event, self.clock.now());
                }
                request = requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => return,
                },
                () = timer => {}
            }
            for _ in 0..BATCH {
                if let Ok(event) = reports.try_recv() {
                    self.guard.handle(event, self.clock.now());
                } else if let Ok(request) = requests.try_recv() {
                    self.take(request);
                } else {
                    break;
                }
            }
            let now = self.clock.now();
            if self.guard.poll_timeout().is_some_and(|due| due <= now) {
                self.guard.handle_timeout(now);
            }
            self.carry_out(now).await;
            if self.stopped {
                return;
            }
        }
    }

    fn take(&mut self, request: Request) {
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
                self.guard.handle(event, now);
            }
            Request::Inspect(look) => look(&self.guard, now),
            Request::Stop => self.stopped = true,
        }
    }

    /// Also without records: an answer whose lease could not be written in an earlier turn must not leave in this one.
    fn journal(&mut self, records: Vec<JournalRecord>, now: Moment) -> std::io::Result<()> {
        let Some(journal) = self.drivers.journal.as_mut() else { return Ok(()) };
        let tried = journal.retry().is_none_or(|retry| retry <= now);
        let alive: Option<&dyn Alive> = if self.whole { Some(&self.guard) } else { None };
        let journalled = journal.write(records, alive, now);
        if let Err(error) = &journalled
            && tried
        {
            tracing::error!(%error, "the lease journal can't be written: answers with addresses are refused");
        }
        journalled
    }

    fn admit(&mut self, mut admission: Admission, waiter: Waiter, now: Moment) {
        self.next_ticket += 1;
        admission.ticket = Ticket(self.next_ticket);
        self.waiting.insert(admission.ticket, waiter);
        self.guard.handle(Event::Admit(admission), now);
    }

    async fn carry_out(&mut self, now: Moment) {
        let mut records = Vec::new();
        let mut decisions = Vec::new();
        while let Some(output) = self.guard.poll_output() {
            match output {
                Output::ApplyTimed { generation, changes } => {
                    for (_, timed) in &self.drivers.timed {
                        deliver(timed, Command::Apply { generation, changes: changes.clone() }).await;
                    }
                }
                Output::ApplyRoutes { generation, changes } => {
                    if let Some(routes) = &self.drivers.routes {
                        deliver(routes, Command::Apply { generation, changes }).await;
                    }
                }
                Output::Hurry(addresses) => {
                    if let Some(routes) = &self.drivers.routes {
                        deliver(routes, Command::Hurry(addresses)).await;
                    }
                }
                Output::Groups(groups) => {
                    if let Some(routes) = &self.drivers.routes {
                        deliver(routes, Command::Groups(groups)).await;
                    }
                }
                Output::Sync { enforcer, generation, leases, pairs } => {
                    if let Some((_, timed)) = self.drivers.timed.iter().find(|(id, _)| *id == enforcer) {
                        deliver(timed, Command::Sync { generation, leases, pairs }).await;
                    }
                }
                Output::Decide { ticket, decision } => decisions.push((ticket, decision)),
                Output::Journal(lease) => records.push(JournalRecord::Lease(lease)),
                Output::JournalClosed(address) => records.push(JournalRecord::Closed(address)),
                Output::JournalPair(record) => records.push(JournalRecord::Pair(record)),
                Output::CutFlows(address) => {
                    for (_, timed) in &self.drivers.timed {
                        deliver(timed, Command::CutFlows(address)).await;
                    }
                }
            }
        }
        if std::mem::take(&mut self.restored)
            && let Some(routes) = &self.drivers.routes
        {
            deliver(routes, Command::Restored).await;
        }
        let journalled = self.journal(records, now);
        if journalled.is_err() {
            let released = decisions.iter().filter(|(_, decision)| matches!(decision, Decision::Release { .. }));
            self.guard.withheld(u64::try_from(released.count()).unwrap_or(0));
        }
        let mut posts: Vec<(Arc<Mailbox>, Decisions)> = Vec::new();
        for (ticket, decision) in decisions {
            let decision = match (&journalled, decision) {
                (Err(error), Decision::Release { .. }) => Decision::Refuse(crate::core::event::Refusal::Enforcer {
                    name: "state".to_owned(),
                    reason: error.to_string(),
                }),
                (_, decision) => decision,
            };
            match self.waiting.remove(&ticket) {
                // A client that gave up doesn't want its answer any more; the lease stays until its end.
                Some(Waiter::One(reply)) => drop(reply.send(decision)),
                Some(Waiter::OfMany(mailbox, number)) => {
                    match posts.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &mailbox)) {
                        Some((_, post)) => post.push((number, decision)),
                        None => posts.push((mailbox, vec![(number, decision)])),
                    }
                }
                None => {}
            }
        }
        for (mailbox, mut post) in posts {
            mailbox.put(&mut post);
        }
    }
}

/// An enforcer whose channel is closed has ended with the daemon; the gate then refuses by its deadline.
async fn deliver(to: &mpsc::Sender<Command>, command: Command) {
    if to.send(command).await.is_err() {
        tracing::debug!("an enforcer has ended");
    }
}

#[cfg(test)]
mod tests;
