//! The BGP speaker beside others: how fast, how full and at what cost in memory each announces the same table to the same sink. Prints;
//! judges nothing.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::sink::{Session, Sink, Waiting};
use self::speaker::{BirdSink, Kind, Plan, Speaker, peer};

mod inject;
mod sink;
mod speaker;

type AnyError = Box<dyn std::error::Error>;

/// Fresh routes, one after another.
const FRESH: u32 = 500;
/// A fresh route at most this often.
const PACE: Duration = Duration::from_millis(2);
/// How long fresh routes are measured at most.
const SAMPLING: Duration = Duration::from_secs(6);
/// How long one thing may take.
const LIMIT: Duration = Duration::from_secs(40);
/// So many at once, beside the first and one that asks for everything again and again.
const TEN: usize = 10;

struct Subject {
    kind: Kind,
    ipv4: u32,
    ipv6: u32,
    /// Times that the first session is measured; the median is shown.
    rounds: usize,
}

const MILLION: u32 = 1_000_000;
const SUBJECTS: [Subject; 4] = [
    Subject { kind: Kind::Destguard, ipv4: MILLION, ipv6: MILLION, rounds: 3 },
    Subject { kind: Kind::Bird, ipv4: MILLION, ipv6: MILLION, rounds: 3 },
    Subject { kind: Kind::Gobgpd, ipv4: 100_000, ipv6: 20_000, rounds: 1 },
    Subject { kind: Kind::Exabgp, ipv4: 10_000, ipv6: 10_000, rounds: 1 },
];

#[derive(Default)]
struct Figures {
    name: &'static str,
    api: &'static str,
    routes: f64,
    one: Option<f64>,
    ten: Option<f64>,
    octets: Option<f64>,
    packing: Option<f64>,
    memory: Option<f64>,
    memory_peer: Option<f64>,
    idle: Option<(f64, f64)>,
    busy: Option<(f64, f64)>,
    busy_replays: f64,
}

/// Runs all measurements; `announcer` is destguard's speaker alone, files go to `dir`. The namespace must have nothing but loopback.
/// `only`: the speakers with these names; empty: all.
///
/// # Errors
/// When nothing can be measured at all. What one speaker can't do leaves its place empty, with a word on standard error.
pub fn run(announcer: &Path, dir: &Path, only: &[&str]) -> Result<(), AnyError> {
    let interfaces = std::fs::read_dir("/sys/class/net")?.count();
    let routes = std::fs::read_to_string("/proc/net/route")?.lines().count();
    if interfaces > 1 && routes > 1 {
        return Err("this needs a network namespace of its own: use lab/bench-bgp".into());
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).stdin(Stdio::null()).status()?;
    if !up.success() {
        return Err("ip link set lo up".into());
    }
    if let Some(unknown) = only.iter().find(|name| SUBJECTS.iter().all(|subject| subject.kind.name() != **name)) {
        return Err(format!("{unknown}: not measured here").into());
    }
    let chosen = |subject: &&Subject| only.is_empty() || only.contains(&subject.kind.name());
    let versions: Vec<String> = SUBJECTS.iter().filter(chosen).map(|subject| subject.kind.version()).collect();
    println!("{}; {}", versions.join(", "), machine());
    for ipv6 in [false, true] {
        head_of_replays(ipv6);
        let mut all: Vec<Figures> = Vec::new();
        for subject in SUBJECTS.iter().filter(chosen) {
            let routes = if ipv6 { subject.ipv6 } else { subject.ipv4 };
            let own = dir.join(format!("{}-{}", subject.kind.name(), u8::from(ipv6)));
            std::fs::create_dir_all(&own)?;
            let peers = u8::try_from(TEN + 1 + subject.rounds)?;
            let plan = Plan { kind: subject.kind, routes, ipv6, peers, announcer, dir: &own };
            let figures = measure(&plan, subject.rounds);
            print_replay(&figures, all.first());
            all.push(figures);
        }
        if !ipv6 {
            print_fresh(&all);
        }
    }
    println!("\nThe IPv4 table to a BIRD, from the session's start to the last route in its table");
    println!("{:<11}{:>9}{:>9}{:>12}{:>8}", "from", "routes", "seconds", "routes/s", "ratio");
    let mut ours = None;
    for subject in SUBJECTS.iter().filter(chosen) {
        if !matches!(subject.kind, Kind::Destguard | Kind::Bird) {
            continue;
        }
        let own = dir.join(format!("{}-to-bird", subject.kind.name()));
        std::fs::create_dir_all(&own)?;
        let plan = Plan { kind: subject.kind, routes: subject.ipv4, ipv6: false, peers: 1, announcer, dir: &own };
        let took = said(to_a_bird(&plan, subject.rounds));
        ours = ours.or(took);
        println!(
            "{:<11}{:>9}{}{}{}",
            subject.kind.name(),
            subject.ipv4,
            shown(took, 9, 3),
            shown(took.map(|took| f64::from(subject.ipv4) / took), 12, 0),
            shown(took.and_then(|took| Some(took / ours?)), 8, 2),
        );
    }
    Ok(())
}

/// Cores and how many others wanted them.
fn machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, load {load} at the start")
}

/// The value, or a word on why there is none.
fn said<T>(result: Result<T, AnyError>) -> Option<T> {
    result.inspect_err(|error| eprintln!("  {error}")).ok()
}

fn measure(plan: &Plan<'_>, rounds: usize) -> Figures {
    let mut figures =
        Figures { name: plan.kind.name(), api: plan.kind.api(), routes: f64::from(plan.routes), ..Figures::default() };
    said(fill_in(plan, rounds, &mut figures));
    figures
}

/// Resident memory of the speaker with no route and nobody to talk to.
fn empty(plan: &Plan<'_>) -> Result<f64, AnyError> {
    let sink = Sink::bind(peer(1))?;
    let mut speaker = Speaker::start(&Plan { routes: 0, peers: 1, ..*plan })?;
    let waiting = sink.accept(1, || speaker.last_words(plan.dir))?;
    let resident = speaker.resident();
    drop(waiting);
    resident
}

fn fill_in(plan: &Plan<'_>, rounds: usize, figures: &mut Figures) -> Result<(), AnyError> {
    let wanted = u64::from(plan.routes);
    let base = empty(plan)?;
    let sinks: Vec<Sink> = (1..=plan.peers).map(|number| Sink::bind(peer(number))).collect::<Result<_, _>>()?;
    let mut speaker = Speaker::start(plan)?;
    let waiting: Vec<Waiting> = (1..)
        .zip(&sinks)
        .map(|(number, sink)| sink.accept(number, || speaker.last_words(plan.dir)))
        .collect::<Result<_, _>>()?;
    let mut waiting = waiting.into_iter();
    let mut next = |hungry| waiting.next().ok_or("no peer")?.begin(wanted, hungry).map_err(AnyError::from);

    let first = next(false)?;
    let mut ones = vec![first.wait(Instant::now() + LIMIT)?.as_secs_f64()];
    figures.memory = Some((speaker.resident()? - base) / figures.routes);
    let counts = first.counts();
    figures.octets = Some(counts.octets as f64 / counts.announced as f64);
    figures.packing = Some(counts.announced as f64 / counts.updates as f64);
    while ones.len() < rounds {
        ones.push(next(false)?.wait(Instant::now() + LIMIT)?.as_secs_f64());
    }
    ones.sort_unstable_by(f64::total_cmp);
    figures.one = ones.get(ones.len() / 2).copied();

    // Routes that were added since.
    let mut added = 0;
    if !plan.ipv6 {
        figures.idle = said(fresh(&mut speaker, &first, 0, &mut added));
        let hungry = next(true)?;
        hungry.wait(Instant::now() + LIMIT)?;
        let (before, begin) = (hungry.counts().announced, Instant::now());
        figures.busy = said(fresh(&mut speaker, &first, 1, &mut added));
        let more = hungry.counts().announced - before;
        figures.busy_replays = more as f64 / figures.routes / begin.elapsed().as_secs_f64();
    }
    let resident = speaker.resident()?;
    figures.ten = said(ten(waiting.take(TEN), wanted + added));
    figures.memory_peer = Some((speaker.resident()? - resident) / figures.routes / TEN as f64);
    Ok(())
}

/// All at once, until the last has everything.
fn ten(waiting: impl Iterator<Item = Waiting>, wanted: u64) -> Result<f64, AnyError> {
    let sessions: Vec<Session> = waiting.map(|waiting| waiting.begin(wanted, false)).collect::<Result<_, _>>()?;
    let begin = sessions.first().map_or_else(Instant::now, |session| session.began);
    let mut last = begin;
    for session in &sessions {
        last = last.max(session.began + session.wait(begin + 2 * LIMIT)?);
    }
    Ok((last - begin).as_secs_f64())
}

/// From the word to the speaker to the route at the sink, p50 and p99 in microseconds.
fn fresh(speaker: &mut Speaker, sink: &Session, run: u8, added: &mut u64) -> Result<(f64, f64), AnyError> {
    let mut samples = Vec::new();
    let end = Instant::now() + SAMPLING;
    for number in 0..FRESH {
        if Instant::now() > end {
            break;
        }
        let [.., high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(198, 18 + run, high, low);
        let begin = Instant::now();
        speaker.open(address)?;
        *added += 1;
        let Some(at) = sink.arrival(address.into(), Duration::from_secs(5)) else {
            return Err(format!("fresh route {number} doesn't arrive").into());
        };
        samples.push(at.saturating_duration_since(begin).as_secs_f64() * 1e6);
        std::thread::sleep(PACE);
    }
    samples.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| samples.get(samples.len() * part / 100).copied().unwrap_or(f64::NAN);
    Ok((at(50), at(99)))
}

/// The median of some runs to a BIRD as the peer.
fn to_a_bird(plan: &Plan<'_>, rounds: usize) -> Result<f64, AnyError> {
    let speaker = Speaker::start(plan)?;
    let mut all = Vec::new();
    for _ in 0..rounds {
        // The peer is there only once the speaker is full: connecting is tried again and again.
        let sink = BirdSink::start(plan.dir)?;
        all.push(sink.takes_in(plan.routes, LIMIT)?.as_secs_f64());
    }
    drop(speaker);
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().ok_or_else(|| "no run".into())
}

/// A figure in a column, or a dash.
fn shown(value: Option<f64>, width: usize, digits: usize) -> String {
    value.map_or_else(|| format!("{:>width$}", "-"), |value| format!("{value:>width$.digits$}"))
}

fn head_of_replays(ipv6: bool) {
    let hosts = if ipv6 { "IPv6" } else { "IPv4" };
    println!("\nA table of {hosts} host routes to a sink, from its OPEN to the last route");
    println!(
        "{:<11}{:>9}{:>9}{:>12}{:>8}{:>10}{:>7}{:>10}{:>10}{:>10}{:>8}{:>12}",
        "",
        "routes",
        "seconds",
        "routes/s",
        "ratio",
        "10 peers",
        "x one",
        "octets/r",
        "r/UPDATE",
        "memory/r",
        "ratio",
        "memory/r,p"
    );
}

fn print_replay(figures: &Figures, ours: Option<&Figures>) {
    let ours = ours.unwrap_or(figures);
    let each = |figures: &Figures| figures.one.map(|one| one / figures.routes);
    let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
    println!(
        "{:<11}{:>9}{}{}{}{}{}{}{}{}{}{}",
        figures.name,
        figures.routes,
        shown(figures.one, 9, 3),
        shown(figures.one.map(|one| figures.routes / one), 12, 0),
        shown(ratio(each(figures), each(ours)), 8, 1),
        shown(figures.ten, 10, 3),
        shown(ratio(figures.ten, figures.one), 7, 2),
        shown(figures.octets, 10, 2),
        shown(figures.packing, 10, 0),
        shown(figures.memory, 10, 0),
        shown(ratio(figures.memory, ours.memory), 8, 1),
        shown(figures.memory_peer, 12, 1),
    );
}

fn print_fresh(all: &[Figures]) {
    println!("\nOne fresh IPv4 route to the sink's socket beside that table, microseconds");
    println!(
        "{:<11}{:>9}{:>9}{:>8}{:>16}{:>9}{:>8}{:>12}   by",
        "", "idle p50", "p99", "ratio", "in replays p50", "p99", "ratio", "replays/s"
    );
    let ours = all.first();
    for figures in all {
        let ratio = |one: Option<(f64, f64)>, other: Option<(f64, f64)>| Some(one?.1 / other?.1);
        println!(
            "{:<11}{}{}{}{}{}{}{}   {}",
            figures.name,
            shown(figures.idle.map(|idle| idle.0), 9, 0),
            shown(figures.idle.map(|idle| idle.1), 9, 0),
            shown(ratio(figures.idle, ours.and_then(|ours| ours.idle)), 8, 1),
            shown(figures.busy.map(|busy| busy.0), 16, 0),
            shown(figures.busy.map(|busy| busy.1), 9, 0),
            shown(ratio(figures.busy, ours.and_then(|ours| ours.busy)), 8, 1),
            shown(figures.busy.map(|_| figures.busy_replays), 12, 2),
            figures.api,
        );
    }
}
