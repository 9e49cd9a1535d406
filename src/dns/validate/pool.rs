//! A few threads for checks that are dear, so that no thread that carries questions, leases or datagrams is ever held up by them.
//!
//! Who waits is served in turns: of the clients each has one check done, and of one client's signers likewise. So a client that asks for what is dear
//! waits for itself, and so does a zone. What waits is bounded; where there is no room, the client with the most gives up its latest.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::core::name::Name;
use crate::core::share::Holder;
use crate::dns::metrics::Metrics;

/// Checks that wait, at most. One holds a response's records, tens of kilobytes at most.
const WAITING: usize = 512;
/// Threads, at most.
const THREADS: usize = 4;

/// For whom a check is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The client whose question it is for.
    pub client: Holder,
    /// The zone whose word is checked.
    pub signer: Name,
}

/// What waits for one client.
struct Line<T> {
    signers: HashMap<Name, VecDeque<T>>,
    turns: VecDeque<Name>,
    waiting: usize,
}

/// What waits, by client and signer.
struct Queue<T> {
    clients: HashMap<Holder, Line<T>>,
    turns: VecDeque<Holder>,
    waiting: usize,
    most: usize,
}

impl<T> Queue<T> {
    fn new(most: usize) -> Self {
        Self { clients: HashMap::new(), turns: VecDeque::new(), waiting: 0, most }
    }

    /// Adds one. What has to go for it comes back: that of the client with the most, or this one itself.
    fn push(&mut self, whose: Whose, job: T) -> Option<T> {
        let client = whose.client;
        let mut gone = None;
        if self.waiting >= self.most {
            let own = self.clients.get(&client).map_or(0, |line| line.waiting);
            let greatest = self.clients.iter().max_by_key(|(_, line)| line.waiting);
            match greatest.map(|(who, line)| (*who, line.waiting)) {
                Some((who, waiting)) if waiting > own.saturating_add(1) => gone = self.take_latest(who),
                _ => return Some(job),
            }
        }
        let turns = &mut self.turns;
        let line = self.clients.entry(client).or_insert_with(|| {
            turns.push_back(client);
            Line { signers: HashMap::new(), turns: VecDeque::new(), waiting: 0 }
        });
        let signer_turns = &mut line.turns;
        let jobs = line.signers.entry(whose.signer).or_insert_with_key(|signer| {
            signer_turns.push_back(signer.clone());
            VecDeque::new()
        });
        jobs.push_back(job);
        line.waiting = line.waiting.saturating_add(1);
        self.waiting = self.waiting.saturating_add(1);
        gone
    }

    /// The latest of the signer of whom this client has the most.
    fn take_latest(&mut self, client: Holder) -> Option<T> {
        let line = self.clients.get_mut(&client)?;
        let signer = line.signers.iter().max_by_key(|(_, jobs)| jobs.len())?.0.clone();
        let job = line.signers.get_mut(&signer)?.pop_back()?;
        line.waiting = line.waiting.saturating_sub(1);
        self.waiting = self.waiting.saturating_sub(1);
        // An empty line is taken away by its turn.
        Some(job)
    }

    /// The next in turn.
    fn pop(&mut self) -> Option<T> {
        while let Some(client) = self.turns.pop_front() {
            let Some(line) = self.clients.get_mut(&client) else { continue };
            let mut job = None;
            while job.is_none()
                && let Some(signer) = line.turns.pop_front()
            {
                let Some(jobs) = line.signers.get_mut(&signer) else { continue };
                job = jobs.pop_front();
                if jobs.is_empty() {
                    line.signers.remove(&signer);
                } else {
                    line.turns.push_back(signer);
                }
            }
            line.waiting = line.waiting.saturating_sub(usize::from(job.is_some()));
            if line.signers.is_empty() {
                self.clients.remove(&client);
            } else {
                self.turns.push_back(client);
            }
            if job.is_some() {
                self.waiting = self.waiting.saturating_sub(1);
                return job;
            }
        }
        None
    }
}

/// Runs unless nobody waits for it any more.
type Job = Box<dyn FnOnce() + Send>;

struct State {
    queue: Queue<Job>,
    threads: usize,
    idle: usize,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    metrics: Metrics,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, state: &State) {
        self.metrics.validation_waiting.set(i64::try_from(state.queue.waiting).unwrap_or(i64::MAX));
    }

    fn work(&self) {
        let mut state = self.state();
        while !state.stopped {
            let Some(job) = state.queue.pop() else {
                state.idle = state.idle.saturating_add(1);
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle = state.idle.saturating_sub(1);
                continue;
            };
            self.count(&state);
            drop(state);
            if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a DNSSEC check panicked");
            }
            state = self.state();
        }
    }
}

/// There is no room for a check, or it was not brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped;

/// The threads, which begin when they are first needed.
pub struct Pool {
    shared: Arc<Shared>,
    most: usize,
}

impl Pool {
    /// None is busy yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let state = State { queue: Queue::new(WAITING), threads: 0, idle: 0, stopped: false };
        let shared = Shared { state: Mutex::new(state), wake: Condvar::new(), metrics };
        Self { shared: Arc::new(shared), most: (processors / 2).clamp(1, THREADS) }
    }

    /// Has `job` done when it is its turn.
    ///
    /// # Errors
    /// [`Dropped`].
    pub async fn run<T: Send + 'static>(
        &self,
        whose: Whose,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Dropped> {
        let (sender, done) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !sender.is_closed() {
                // Who gave up meanwhile needs no result.
                drop(sender.send(job()));
            }
        });
        self.enqueue(whose, job);
        done.await.map_err(|_| Dropped)
    }

    /// Threads that were needed so far.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.shared.state().threads
    }

    fn enqueue(&self, whose: Whose, job: Job) {
        let mut state = self.shared.state();
        let dropped = state.queue.push(whose, job);
        self.shared.count(&state);
        let begin = state.idle == 0 && state.threads < self.most;
        if begin {
            let shared = self.shared.clone();
            let name = format!("dnssec-{}", state.threads);
            match std::thread::Builder::new().name(name).spawn(move || shared.work()) {
                Ok(_) => state.threads = state.threads.saturating_add(1),
                // Without a first thread what waits ends by the answer's time.
                Err(error) => tracing::warn!(%error, "a thread for DNSSEC checks can't be started"),
            }
        }
        drop(state);
        self.shared.wake.notify_one();
        if dropped.is_some() {
            self.shared.metrics.validation_dropped.inc();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopped = true;
        state.queue = Queue::new(0);
        drop(state);
        self.shared.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(client: u8, signer: &str) -> Whose {
        Whose { client: Holder::of(&client), signer: signer.parse().unwrap() }
    }

    fn one_thread() -> Pool {
        let mut pool = Pool::new(Metrics::register(&mut crate::metrics::registry()));
        pool.most = 1;
        pool
    }

    #[test]
    fn clients_take_turns_and_signers_of_a_client_too() {
        let mut queue = Queue::new(100);
        for number in 0..4 {
            assert_eq!(queue.push(whose(1, "evil.test"), format!("evil{number}")), None);
        }
        queue.push(whose(1, "good.test"), "good".to_owned());
        queue.push(whose(2, "evil.test"), "other".to_owned());
        let served: Vec<String> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(served, ["evil0", "other", "good", "evil1", "evil2", "evil3"]);
        assert!(queue.clients.is_empty() && queue.turns.is_empty() && queue.waiting == 0);
    }

    #[test]
    fn where_there_is_no_room_the_greatest_gives_up_its_latest() {
        let mut queue = Queue::new(4);
        for number in 0..4 {
            assert_eq!(queue.push(whose(1, "evil.test"), number), None);
        }
        assert_eq!(queue.push(whose(1, "evil.test"), 4), Some(4), "its own");
        assert_eq!(queue.push(whose(2, "test"), 20), Some(3));
        assert_eq!(queue.push(whose(3, "test"), 30), Some(2));
        // Two and one and one: nobody has more than the newcomer would.
        assert_eq!(queue.push(whose(2, "test"), 21), Some(21));
        let served: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(served, [0, 20, 30, 1]);
        // Whoever lost all that waited is forgotten in its turn.
        let mut queue = Queue::new(1);
        queue.push(whose(1, "test"), 1);
        queue.take_latest(Holder::of(&1u8));
        assert_eq!((queue.pop(), queue.clients.len(), queue.turns.len()), (None, 0, 0));
    }

    #[tokio::test]
    async fn who_has_little_to_check_waits_for_one_check_of_another() {
        let pool = Arc::new(one_thread());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let done: Arc<Mutex<Vec<u8>>> = Arc::default();
        let mut tasks = tokio::task::JoinSet::new();
        let held = pool.clone();
        // Until all others wait the one thread is kept busy.
        tasks.spawn(async move { held.run(whose(1, "evil.test"), move || wait.recv().unwrap()).await });
        for client in std::iter::repeat_n(1, 50).chain([2]) {
            let (pool, done) = (pool.clone(), done.clone());
            tasks.spawn(async move {
                pool.run(whose(client, "evil.test"), move || done.lock().unwrap().push(client)).await
            });
        }
        while pool.shared.metrics.validation_waiting.get() < 51 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        assert!(tasks.join_all().await.into_iter().all(|done| done == Ok(())));
        let place = done.lock().unwrap().iter().position(|client| *client == 2);
        assert!(place <= Some(1), "{place:?}");
    }

    #[tokio::test]
    async fn who_has_no_room_is_told() {
        let pool = Arc::new(one_thread());
        pool.shared.state().queue = Queue::new(4);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let held = pool.clone();
        let first = tokio::spawn(async move { held.run(whose(1, "evil.test"), move || wait.recv().unwrap()).await });
        while pool.shared.state().threads == 0 || pool.shared.state().queue.waiting > 0 {
            tokio::task::yield_now().await;
        }
        let run = |client| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.run(whose(client, "evil.test"), || ()).await })
        };
        let greedy: Vec<_> = (0..9).map(|_| run(1)).collect();
        while pool.shared.metrics.validation_dropped.get() < 5 {
            tokio::task::yield_now().await;
        }
        let other = run(2);
        while pool.shared.metrics.validation_dropped.get() < 6 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        assert_eq!((first.await.unwrap(), other.await.unwrap()), (Ok(()), Ok(())));
        let mut dropped = 0;
        for one in greedy {
            dropped += usize::from(one.await.unwrap() == Err(Dropped));
        }
        assert_eq!(dropped, 6);
    }

    #[tokio::test]
    async fn a_check_that_panics_ends_itself_only() {
        let pool = Pool::new(Metrics::register(&mut crate::metrics::registry()));
        let broken: Result<(), Dropped> = pool.run(whose(1, "test"), || panic!("a defect")).await;
        assert_eq!(broken, Err(Dropped));
        assert_eq!(pool.run(whose(1, "test"), || 7).await, Ok(7));
        assert_eq!(pool.shared.metrics.validation_waiting.get(), 0);
    }
}
