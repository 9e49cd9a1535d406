//! Where questions go beside memory: a file, syslog, dnstap.
//!
//! Each has a thread and a bounded queue of its own. What doesn't fit is dropped and counted, so that no answer waits for a reader; one that fails is tried
//! again in growing intervals, and `status` says why.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Entry, told};
use crate::config::Config;
use crate::config::schema::Hide;
use crate::config::value::Target;
use dnstap::Tapped;

pub mod dnstap;
mod file;
mod syslog;

/// Questions that wait for one sink at most.
const QUEUE: usize = 8192;
/// Questions that are written at once.
const BATCH: usize = 256;
/// Octets of messages that wait for dnstap's reader at most.
const OCTETS: usize = 16 << 20;
/// Bounds of the wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a reader may keep its writer waiting.
const WRITE: Duration = Duration::from_secs(2);
/// How long the end may take.
const ENDING: Duration = Duration::from_millis(500);

type Outlets = Vec<Arc<Outlet<Numbered>>>;
/// A question and its number.
type Numbered = (u64, Entry);
/// A message and when it went by.
type Passed = (Tapped<Vec<u8>>, Duration);
type ByName = Family<[(&'static str, &'static str); 1], Counter>;

/// A place that is written to.
trait Sink: Send + 'static {
    /// Writes what of `items` can be written now, in order, and takes it out. Without items it only sees to it that the place is there.
    fn write(&mut self, items: &mut VecDeque<Vec<u8>>) -> io::Result<()>;
}

/// What one sink was made of.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    File { path: PathBuf, size: u64, keep: u32, spare: bool },
    Syslog(Target, Option<u32>),
    Dnstap(Target, Option<u32>),
}

impl Wanted {
    /// The name of the sink, as its metrics' label has it.
    fn name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Syslog(..) => "syslog",
            Self::Dnstap(..) => "dnstap",
        }
    }

    /// The key and its value.
    fn words(&self) -> String {
        match self {
            Self::File { path, .. } => format!("log.file {}", path.display()),
            Self::Syslog(target, _) => format!("log.syslog {target}"),
            Self::Dnstap(target, _) => format!("log.dnstap {target}"),
        }
    }

    fn of(config: &Config) -> Vec<Self> {
        let log = &config.log;
        let file = log.file.as_ref().map(|file| Self::File {
            path: config.state.dir.join("log").join(file),
            size: log.file_size.0,
            keep: log.file_keep,
            spare: file.is_relative(),
        });
        let syslog = log.syslog.clone().map(|target| Self::Syslog(target, crate::sys::mark(config)));
        file.into_iter().chain(syslog).collect()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Sinks {
    any: AtomicBool,
    outlets: ArcSwap<Outlets>,
    taps: AtomicBool,
    tap: ArcSwapOption<Tap>,
    written: ByName,
    dropped: ByName,
}

impl Sinks {
    /// Registers what was written and dropped.
    pub fn register(&self, registry: &mut Registry) {
        for family in [&self.written, &self.dropped] {
            for sink in ["file", "syslog", "dnstap"] {
                drop(family.get_or_create(&[("sink", sink)]));
            }
        }
        let label = "by sink";
        let help = format!("Questions written to files and readers of the query log, {label}");
        registry.register("query_log_written", help, self.written.clone());
        let help = format!("Questions that a file or reader of the query log didn't take in time, {label}");
        registry.register("query_log_dropped", help, self.dropped.clone());
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Makes those that the configuration wants and lets go of others.
    pub fn set(&self, config: &Config, hasher: &RandomState) {
        let hide = &config.log.hide;
        let now = self.outlets.load_full();
        let open = |wanted: Wanted| {
            let kept = now.iter().find(|outlet| outlet.wanted == wanted && outlet.hide == *hide && !outlet.ended());
            kept.cloned().or_else(|| self.open(wanted, hide, hasher))
        };
        let next: Vec<_> = Wanted::of(config).into_iter().filter_map(open).collect();
        self.any.store(!next.is_empty(), Ordering::Relaxed);
        self.outlets.store(Arc::new(next));
        let mark = crate::sys::mark(config);
        let wanted = config.log.dnstap.clone().map(|target| Wanted::Dnstap(target, mark));
        let now = self.tap.load_full();
        if now.as_ref().map(|tap| (&tap.outlet.wanted, &tap.outlet.hide))
            != wanted.as_ref().map(|wanted| (wanted, hide))
        {
            let next = wanted.and_then(|wanted| self.open_tap(wanted, hide));
            self.taps.store(next.is_some(), Ordering::Relaxed);
            self.tap.store(next);
        }
    }

    fn open_tap(&self, wanted: Wanted, hide: &[Hide]) -> Option<Arc<Tap>> {
        let Wanted::Dnstap(target, mark) = &wanted else { return None };
        let sink = Box::new(dnstap::Stream::new(target.clone(), *mark));
        let waiting = Arc::<AtomicUsize>::default();
        let (hidden, waits, words) = (hide.to_vec(), waiting.clone(), wanted.words());
        let mut asked = dnstap::asked::Asked::default();
        let render = move |(tapped, time): Passed| {
            waits.fetch_sub(tapped.octets.len(), Ordering::Relaxed);
            let since = asked.pass(&tapped, time);
            dnstap::frame(&tapped, (time, since), &hidden)
        };
        let counters = self.counters(&wanted);
        match Outlet::open(wanted, hide.to_vec(), sink, render, counters) {
            Ok(outlet) => Some(Arc::new(Tap { outlet, waiting })),
            Err(error) => {
                tracing::error!(%error, "{words}: no thread");
                None
            }
        }
    }

    fn counters(&self, wanted: &Wanted) -> [Counter; 2] {
        [&self.written, &self.dropped].map(|family| family.get_or_create_owned(&[("sink", wanted.name())]))
    }

    /// Whether somebody wants messages.
    pub fn taps(&self) -> bool {
        self.taps.load(Ordering::Relaxed)
    }

    /// Tells of a message.
    pub fn tap(&self, tapped: Tapped<&[u8]>) {
        let tap = self.tap.load();
        let Some(tap) = tap.as_ref() else { return };
        let len = tapped.octets.len();
        if tap.waiting.load(Ordering::Relaxed).saturating_add(len) > OCTETS {
            tap.outlet.dropped.inc();
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Tapped { way, reply, client, port, local, octets } = tapped;
        tap.waiting.fetch_add(len, Ordering::Relaxed);
        if !tap.outlet.tell((Tapped { way, reply, client, port, local, octets: octets.to_vec() }, time)) {
            tap.waiting.fetch_sub(len, Ordering::Relaxed);
        }
    }

    fn open(&self, wanted: Wanted, hide: &[Hide], hasher: &RandomState) -> Option<Arc<Outlet<Numbered>>> {
        let sink: Box<dyn Sink> = match &wanted {
            Wanted::File { path, size, keep, spare } => Box::new(file::File::new(path.clone(), *size, *keep, *spare)),
            Wanted::Syslog(target, mark) => Box::new(syslog::Syslog::new(target.clone(), *mark)),
            Wanted::Dnstap(..) => return None,
        };
        let frame: fn(u64, Vec<u8>) -> Vec<u8> = match &wanted {
            Wanted::File { .. } => file::line,
            Wanted::Syslog(..) | Wanted::Dnstap(..) => syslog::message,
        };
        let (hide, hasher) = (hide.to_vec(), hasher.clone());
        let hidden = hide.clone();
        let render = move |(number, entry): Numbered| {
            let time = entry.time;
            // No value of it can't be written.
            let json = serde_json::to_vec(&told(&hasher, number, entry, &hidden)).unwrap_or_default();
            frame(time, json)
        };
        let counters = self.counters(&wanted);
        let words = wanted.words();
        match Outlet::open(wanted, hide, sink, render, counters) {
            Ok(outlet) => Some(Arc::new(outlet)),
            Err(error) => {
                tracing::error!(%error, "{words}: no thread");
                None
            }
        }
    }

    /// Tells all of a question.
    pub fn tell(&self, number: u64, entry: &Entry) {
        for outlet in self.outlets.load().iter() {
            // What isn't taken is counted.
            let _taken = outlet.tell((number, entry.clone()));
        }
    }

    /// What is wrong, in words.
    pub fn troubles(&self) -> Vec<String> {
        let tap = self.tap.load().as_ref().and_then(|tap| tap.outlet.trouble());
        self.outlets.load().iter().filter_map(|outlet| outlet.trouble()).chain(tap).collect()
    }

    /// Lets go of all and waits a moment until what is on its way is written.
    pub fn finish(&self) {
        self.any.store(false, Ordering::Relaxed);
        for outlet in self.outlets.swap(Arc::default()).iter() {
            outlet.finish(ENDING);
        }
        self.taps.store(false, Ordering::Relaxed);
        if let Some(tap) = self.tap.swap(None) {
            tap.outlet.finish(ENDING);
        }
    }
}

/// Where messages go.
#[derive(Debug)]
struct Tap {
    outlet: Outlet<Passed>,
    /// Octets in its queue.
    waiting: Arc<AtomicUsize>,
}

/// What the thread and its outlet share.
#[derive(Debug, Default)]
struct State {
    trouble: Mutex<Option<String>>,
    ending: AtomicBool,
}

/// The near end of a sink.
#[derive(Debug)]
struct Outlet<T> {
    wanted: Wanted,
    hide: Vec<Hide>,
    queue: Mutex<Option<SyncSender<T>>>,
    dropped: Counter,
    state: Arc<State>,
    thread: Thread,
    /// Closed when the thread has ended.
    done: Mutex<Receiver<()>>,
}

impl<T: Send + 'static> Outlet<T> {
    fn open(
        wanted: Wanted,
        hide: Vec<Hide>,
        sink: Box<dyn Sink>,
        render: impl FnMut(T) -> Vec<u8> + Send + 'static,
        [written, dropped]: [Counter; 2],
    ) -> io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE);
        let (end, done) = sync_channel::<()>(0);
        let state = Arc::<State>::default();
        let writer =
            Writer { words: wanted.words(), items, sink, state: state.clone(), written, dropped: dropped.clone() };
        let thread = std::thread::Builder::new().name(format!("log-{}", wanted.name())).spawn(move || {
            writer.run(render);
            drop(end);
        })?;
        let thread = thread.thread().clone();
        Ok(Self { wanted, hide, queue: Mutex::new(Some(queue)), dropped, state, thread, done: Mutex::new(done) })
    }

    /// Never waits for the writer.
    fn tell(&self, item: T) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let told = queue.as_ref().is_some_and(|queue| queue.try_send(item).is_ok());
        if !told {
            self.dropped.inc();
        }
        told
    }

    fn trouble(&self) -> Option<String> {
        self.state.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self) -> bool {
        self.state.ending.load(Ordering::Relaxed)
    }
}

impl<T> Outlet<T> {
    fn end(&self) {
        self.state.ending.store(true, Ordering::Relaxed);
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.thread.unpark();
    }

    fn finish(&self, patience: Duration) {
        self.end();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("{}: the last questions are lost", self.wanted.words());
        }
    }
}

impl<T> Drop for Outlet<T> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The far end.
struct Writer<T> {
    words: String,
    items: Receiver<T>,
    sink: Box<dyn Sink>,
    state: Arc<State>,
    written: Counter,
    dropped: Counter,
}

impl<T> Writer<T> {
    /// Until there is nothing more to come.
    fn run(mut self, mut render: impl FnMut(T) -> Vec<u8>) {
        let mut waiting = VecDeque::new();
        let mut wait = BACK_OFF.0;
        loop {
            while waiting.len() < BATCH
                && let Ok(item) = self.items.try_recv()
            {
                waiting.push_back(render(item));
            }
            let before = waiting.len();
            let result = self.sink.write(&mut waiting);
            self.written.inc_by(count(before.saturating_sub(waiting.len())));
            match result {
                Ok(()) => {
                    wait = BACK_OFF.0;
                    self.well();
                    // The next is worth waiting for only when nothing is left.
                    match waiting.is_empty().then(|| self.items.recv()) {
                        Some(Ok(item)) => waiting.push_back(render(item)),
                        Some(Err(_)) => return,
                        None => {}
                    }
                }
                Err(error) => {
                    self.ill(&error);
                    if self.state.ending.load(Ordering::Relaxed) {
                        self.dropped.inc_by(count(waiting.len().saturating_add(self.items.iter().count())));
                        return;
                    }
                    std::thread::park_timeout(wait);
                    wait = wait.saturating_mul(2).min(BACK_OFF.1);
                }
            }
        }
    }

    fn well(&self) {
        let former = self.state.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if former.is_some() {
            tracing::info!("{}: written to again", self.words);
        }
    }

    fn ill(&self, error: &io::Error) {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                " (with `confine`, a directory that isn't below state.dir can be written to after a restart only)"
            }
            _ => "",
        };
        let words = format!("{}: {error}{hint}", self.words);
        let mut trouble = self.state.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref() != Some(&words) {
            tracing::warn!("{words}");
            *trouble = Some(words);
        }
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// A socket that leads there, with the mark that the guard's packet filter asks for.
fn connect(target: &Target, kind: Type, mark: Option<u32>) -> io::Result<Socket> {
    let socket = match target {
        Target::Unix(path) => connect_unix(path, kind)?,
        Target::Udp(to) | Target::Tcp(to) => {
            let to = SockAddr::from(**to);
            let socket = Socket::new(to.domain(), kind, None)?;
            mark.map_or(Ok(()), |mark| socket.set_mark(mark))?;
            if kind == Type::STREAM {
                socket.connect_timeout(&to, WRITE)?
            } else {
                socket.connect(&to)?
            }
            socket
        }
    };
    socket.set_write_timeout(Some(WRITE))?;
    socket.set_read_timeout(Some(WRITE))?;
    Ok(socket)
}

fn connect_unix(path: &Path, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_write_timeout(Some(WRITE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
