//! The one owner of the core at a time: its task, or a worker that finds it idle.
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
//!
//! A worker with a batch takes the turn itself where nobody else has the core and nothing waits for it ([`CoreHandle::try_admit`]): what needs no
//! enforcer's word is then decided without a second thread. All that may take long stays with the task.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::core::event::{Admission, Decision, Event, Reload};
use crate::core::guard::Guard;
use crate::core::journal::Journal;
use crate::core::moment::Moment;
use crate::enforce::Command;
use crate::recording::Recorder;
use crate::sys::clock::{Clock, Sleep};
use crate::sys::poll::Bell;
use turn::Core;

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
    Reload(Box<Reload>, oneshot::Sender<()>),
    Inspect(Inspect),
    Held(oneshot::Sender<()>),
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
    shared: Arc<Shared>,
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

    /// Like [`CoreHandle::admit`] for many at once and without waiting. Each decision goes under the admission's number to `decided` where it is
    /// made at once, else to `mailbox`.
    ///
    /// # Errors
    /// [`NotTaken`], with the batch.
    pub fn try_admit(
        &self,
        batch: Vec<(u64, Admission)>,
        mailbox: &Arc<Mailbox>,
        decided: &mut Decisions,
    ) -> Result<(), NotTaken> {
        use mpsc::error::TrySendError;
        let Some(batch) = self.admit_now(batch, mailbox, decided) else { return Ok(()) };
        self.requests.try_send(Request::AdmitAll(batch, mailbox.clone())).map_err(|error| match error {
            TrySendError::Full(Request::AdmitAll(batch, _)) => NotTaken::Full(batch),
            TrySendError::Closed(Request::AdmitAll(batch, _)) => NotTaken::Stopped(batch),
            // It gives back what was given.
            TrySendError::Full(_) | TrySendError::Closed(_) => NotTaken::Stopped(Vec::new()),
        })
    }

    /// Takes the turn where nobody else has the core; else the batch comes back.
    fn admit_now(
        &self,
        batch: Vec<(u64, Admission)>,
        mailbox: &Arc<Mailbox>,
        decided: &mut Decisions,
    ) -> Option<Vec<(u64, Admission)>> {
        // Who asked before comes first.
        if self.requests.capacity() < self.requests.max_capacity() {
            return Some(batch);
        }
        let Ok(mut place) = self.shared.core.try_lock() else { return Some(batch) };
        let Some(core) = place.as_mut().filter(|core| core.is_idle()) else { return Some(batch) };
        // Its task has ended.
        if self.requests.is_closed() {
            *place = None;
            return Some(batch);
        }
        let turn = catch_unwind(AssertUnwindSafe(|| core.admit_all(batch, mailbox, decided)));
        if turn.is_err() {
            // As where its task fails: nobody goes on with what may be half done, and the daemon ends.
            tracing::error!("the core failed");
        }
        if turn.is_err() || self.requests.is_closed() {
            *place = None;
        }
        if turn.is_err() || turn.is_ok_and(|wakes| wakes) {
            self.shared.news.notify_one();
        }
        None
    }

    /// Tells the core something.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.requests.send(Request::Event(event)).await.map_err(|_| Stopped)
    }

    /// Puts a reload in force, and returns once it is: what it forbids is closed, and what comes is judged by its rules.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn reload(&self, reload: Reload) -> Result<(), Stopped> {
        let (reply, in_force) = oneshot::channel();
        self.requests.send(Request::Reload(Box::new(reload), reply)).await.map_err(|_| Stopped)?;
        in_force.await.map_err(|_| Stopped)
    }

    /// Ends the core, and with it the enforcers' channels, once what was asked before is done. Whoever asks later hears [`Stopped`], and so
    /// does who still waits.
    pub async fn stop(&self) {
        if self.requests.send(Request::Stop).await.is_err() {
            tracing::debug!("the core has stopped already");
        }
    }

    /// Returns once every required timed enforcer holds all that was restored.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn held(&self) -> Result<(), Stopped> {
        let (reply, held) = oneshot::channel();
        self.requests.send(Request::Held(reply)).await.map_err(|_| Stopped)?;
        held.await.map_err(|_| Stopped)
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
    /// Hears of everything that the core hears.
    pub recorder: Option<Recorder>,
}

/// A handle, and the task to spawn. `reports` is what the enforcers report on.
pub fn core_task(
    guard: Guard,
    drivers: Drivers,
    reports: mpsc::Receiver<Event>,
    clock: Clock,
) -> (CoreHandle, impl Future<Output = ()> + Send + 'static) {
    let (sender, requests) = mpsc::channel(REQUESTS);
    let core = Core::new(guard, drivers, clock);
    let shared = Arc::new(Shared { core: tokio::sync::Mutex::new(Some(core)), news: Notify::new() });
    (CoreHandle { requests: sender, shared: shared.clone() }, run(shared, clock, requests, reports))
}

/// The core, and how its task is woken by whoever had it meanwhile.
struct Shared {
    /// Whoever holds the lock is its owner. `None` once it has stopped, or failed: with it went the enforcers' channels.
    core: tokio::sync::Mutex<Option<Core>>,
    /// There is something for the task to look at.
    news: Notify,
}

/// However the task ends, by a panic too, the core ends with it.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        // A worker that has it just now sees that the channel is closed.
        if let Ok(mut place) = self.0.core.try_lock() {
            *place = None;
        }
    }
}

async fn run(shared: Arc<Shared>, clock: Clock, requests: mpsc::Receiver<Request>, mut reports: mpsc::Receiver<Event>) {
    let _ending = Ending(shared.clone());
    // It closes before that.
    let mut requests = requests;
    let mut sleep = Sleep::watch();
    let mut due = match shared.core.lock().await.as_mut() {
        Some(core) => core.arm(),
        None => return,
    };
    loop {
        // Also when nothing is due: the host may have slept.
        let timer = tokio::time::sleep_until(clock.look_at(due).into());
        let first = tokio::select! {
            biased;
            Some(event) = reports.recv() => Some(Request::Event(event)),
            asked = requests.recv() => match asked {
                Some(asked) => Some(asked),
                None => return,
            },
            () = shared.news.notified() => None,
            () = timer => None,
        };
        let mut place = shared.core.lock().await;
        // A turn of somebody else's has failed.
        let Some(core) = place.as_mut() else { return };
        if let Some(slept) = sleep.noticed() {
            tracing::info!(seconds = slept.as_secs(), "the host slept: what ended meanwhile is closed");
            core.hear(Event::Slept, clock.now());
        }
        first.into_iter().for_each(|request| core.take(request));
        batch(&mut requests, &mut reports).for_each(|request| core.take(request));
        let now = clock.now();
        if core.guard.poll_timeout().is_some_and(|due| due <= now) {
            core.handle_timeout(now);
        }
        core.carry_out(now).await;
        core.check(now);
        if core.stopped {
            *place = None;
            return;
        }
        due = core.arm();
    }
}

/// What one turn takes: by turns from either, so that whoever always has more to say, the other is heard in each batch.
fn batch(requests: &mut mpsc::Receiver<Request>, reports: &mut mpsc::Receiver<Event>) -> impl Iterator<Item = Request> {
    let report = |reports: &mut mpsc::Receiver<Event>| reports.try_recv().ok().map(Request::Event);
    (0..BATCH).map_while(move |turn| match turn % 2 {
        0 => requests.try_recv().ok().or_else(|| report(reports)),
        _ => report(reports).or_else(|| requests.try_recv().ok()),
    })
}

mod turn;

#[cfg(test)]
mod tests;
