//! A guard whose configuration changes all the time while clients ask: no question is lost, late or failed, and what didn't change isn't touched.
//!
//! Everything happens on loopback in a network namespace that the caller made: two upstreams, eight clients that ask 500 questions a second in all over UDP,
//! one that asks over a connection which never ends, and a BGP peer. The packet filter enforces, and the peer must confirm. Each key of
//! [`keys::KEYS`] is changed, again and again, one after the other.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::keys::{BASE, KEYS, Key, Touches, Trial};
use self::witness::Routes;
use crate::wait::wait_until;

pub mod keys;
mod upstream;
pub mod witness;

type AnyError = Box<dyn std::error::Error>;

const SERVER: &str = "127.0.0.1:5301";
const UPSTREAMS: [&str; 2] = ["127.0.0.1:5300", "127.0.0.1:5310"];
const PEER: &str = "127.0.0.2:1790";
const START: Duration = Duration::from_secs(60);
/// Clients, each with a socket of its own.
const CLIENTS: usize = 8;
/// A question without answer for so long is lost.
const LOST: Duration = Duration::from_secs(15);
/// Names that are asked for once, and whose leases must outlive everything.
const HELD: u32 = 20;
/// How long routes may take to be back.
const ROUTES: Duration = Duration::from_secs(30);
/// What is told of faults of one kind.
const TOLD: usize = 8;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The path of the destguard that is tried.
    pub binary: PathBuf,
    /// For files; empty.
    pub dir: PathBuf,
    /// How often each key is changed.
    pub times: u32,
    /// Questions a second.
    pub rate: u32,
    /// The gate's deadline: what takes longer is late.
    pub deadline: Duration,
    /// Only keys that begin so; empty: all.
    pub only: Vec<String>,
}

/// What was seen of one key.
#[derive(Clone, Debug)]
pub struct Row {
    /// The key that was changed.
    pub key: &'static str,
    /// The number of reloads that changed it.
    pub reloads: u32,
    /// The one that took longest.
    pub reload: Duration,
    /// The answer that took longest meanwhile.
    pub answer: Duration,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was seen of each key, in the order of keys.
    pub rows: Vec<Row>,
    /// Questions over UDP.
    pub asked: u64,
    /// Of these, answered as they should be.
    pub answered: u64,
    /// Of these, without answer.
    pub lost: u64,
    /// Of these, answered after the gate's deadline.
    pub late: u64,
    /// Answered on the connection.
    pub over_tcp: u64,
    /// Everything that is not as it should be, in words; some of each kind.
    pub faults: Vec<String>,
}

impl Outcome {
    /// A line for each key, and the totals.
    pub fn print(&self) {
        println!("{:<34}{:>9}{:>20}{:>20}", "key", "reloads", "longest reload ms", "longest answer ms");
        for row in &self.rows {
            let [reload, answer] = [row.reload, row.answer].map(|time| time.as_secs_f64() * 1e3);
            println!("{:<34}{:>9}{reload:>20.1}{answer:>20.1}", row.key, row.reloads);
        }
        let longest = self.rows.iter().map(|row| row.answer).max().unwrap_or_default();
        println!(
            "{} reloads; asked {}, answered {}, lost {}, late {}; {} more on one connection; the longest answer took {:.1} ms",
            self.rows.iter().map(|row| row.reloads).sum::<u32>(),
            self.asked,
            self.answered,
            self.lost,
            self.late,
            self.over_tcp,
            longest.as_secs_f64() * 1e3
        );
        for fault in &self.faults {
            println!("  {fault}");
        }
    }

    /// What is not as it should be.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.faults.clone();
        if self.lost > 0 {
            wrong.push(format!("{} questions lost", self.lost));
        }
        if self.late > 0 {
            wrong.push(format!("{} answers late", self.late));
        }
        wrong
    }
}

/// A question on its way.
struct Asked {
    name: String,
    at: Instant,
}

struct Client {
    socket: UdpSocket,
    asked: Mutex<HashMap<u16, Asked>>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    /// Nobody asks any more.
    end: AtomicBool,
    /// Nobody waits for an answer any more: upstreams and peer end.
    over: AtomicBool,
    /// The key that is being changed, by its place.
    key: AtomicUsize,
    /// The longest answer by key, in microseconds.
    longest: Vec<AtomicU64>,
    sent: AtomicU64,
    answered: AtomicU64,
    late: AtomicU64,
    lost: AtomicU64,
    over_tcp: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, Vec<String>>>,
    routes: Routes,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn fault(&self, kind: &'static str, words: String) {
        let key = KEYS.get(self.key.load(Relaxed)).map_or("the start", |key| key.key);
        let mut faults = lock(&self.faults);
        let told = faults.entry(kind).or_default();
        if told.len() < TOLD {
            told.push(format!("{kind} while {key} changed: {words}"));
        }
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("lab: ending the guard: {error}");
        }
    }
}

/// Ends the threads of a scope however it is left.
struct EndAtLast<'a>(&'a Shared);

impl Drop for EndAtLast<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Relaxed);
        self.0.over.store(true, Relaxed);
    }
}

/// The guard, and the file that it reads.
struct Guard<'a> {
    plan: &'a Plan,
    lines: BTreeMap<&'static str, String>,
}

impl Guard<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.plan.binary);
        command.arg("--config").arg(self.plan.dir.join("config")).arg("--socket").arg(self.plan.dir.join("control"));
        command.args(words).stdin(Stdio::null());
        command
    }

    fn write(&self) -> std::io::Result<()> {
        let text: String = self.lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let deadline = format!("{}ms", self.plan.deadline.as_millis());
        let text = text.replace("DIR", &self.plan.dir.display().to_string()).replace("DEADLINE", &deadline);
        std::fs::write(self.plan.dir.join("config"), text)
    }

    /// Gives a line of the file this value, or that at first.
    fn set(&mut self, line: &'static str, value: Option<&str>) {
        let first = BASE.iter().find(|(key, _)| *key == line).map(|(_, value)| *value);
        match value.or(first) {
            Some(value) => drop(self.lines.insert(line, value.to_owned())),
            None => drop(self.lines.remove(line)),
        }
    }

    /// What it says of the reload, and how long that took.
    fn reload(&self) -> Result<(Value, Duration), AnyError> {
        self.write()?;
        let begin = Instant::now();
        let output = self.command(&["reload", "--json"]).output()?;
        let took = begin.elapsed();
        let said = serde_json::from_slice(&output.stdout);
        Ok((said.map_err(|_| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())?, took))
    }
}

/// The keys that lines like `dns.upstream[0].url: "a" -> "b"` are about.
fn keys_of(lines: &Value) -> Vec<String> {
    let lines = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
    let key = |line: &str| {
        let key = line.split(':').next().unwrap_or_default();
        let parts = key.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest));
        parts.collect::<String>()
    };
    lines.map(key).collect()
}

/// Runs the guard and changes its configuration. The namespace must have nothing but loopback.
///
/// # Errors
/// When the guard doesn't start, doesn't answer, ends or says nothing to a reload.
pub fn run(plan: &Plan) -> Result<Outcome, AnyError> {
    if !Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success() {
        return Err("no loopback".into());
    }
    files(&plan.dir)?;
    let shared = Shared { longest: KEYS.iter().map(|_| AtomicU64::new(0)).collect(), ..Shared::default() };
    shared.key.store(usize::MAX, Relaxed);
    let upstreams = UPSTREAMS.map(upstream::bind);
    let peer = TcpListener::bind(PEER)?;
    peer.set_nonblocking(true)?;
    let clients = (0..CLIENTS).map(client).collect::<Result<Vec<_>, _>>()?;
    let mut guard = Guard { plan, lines: BTreeMap::new() };
    BASE.iter().for_each(|(line, _)| guard.set(line, None));
    guard.write()?;
    let log = std::fs::File::create(plan.dir.join("log"))?;
    let said = || std::fs::read_to_string(plan.dir.join("log")).unwrap_or_default();
    std::thread::scope(|scope| {
        let ended = EndAtLast(&shared);
        for bound in upstreams {
            let (udp, tcp) = bound?;
            let end = &shared.over;
            scope.spawn(move || upstream::serve_udp(&udp, end));
            scope.spawn(move || upstream::serve_tcp(&tcp, end));
        }
        scope.spawn(|| shared.routes.listen(&peer, &shared.over));
        let mut run = guard.command(&["run"]);
        run.env("RUST_LOG", "warn").stdout(log.try_clone()?).stderr(log);
        let mut process = Running(run.spawn()?);
        if !wait_until(START, || ask_once("127.0.2.1", "first.soak.example", 1).is_ok_and(|reply| !reply.is_empty())) {
            return Err(format!("no answer\n{}", said()).into());
        }
        let held = held()?;
        if !wait_until(ROUTES, || shared.routes.hold(&held) && witness::are_open(&held).is_ok()) {
            return Err(format!("what is answered isn't open\n{}", said()).into());
        }
        for client in &clients {
            scope.spawn(|| receive(client, plan.deadline, &shared));
        }
        scope.spawn(|| send(&clients, plan.rate, &shared));
        scope.spawn(|| on_one_connection(&shared));
        let mut rows = Vec::new();
        for (place, key) in KEYS.iter().enumerate() {
            if !plan.only.is_empty() && !plan.only.iter().any(|only| key.key.starts_with(only.as_str())) {
                continue;
            }
            shared.key.store(place, Relaxed);
            rows.extend(change(&mut guard, key, &held, &shared)?);
            if let Some(status) = process.0.try_wait()? {
                return Err(format!("the guard ended: {status}\n{}", said()).into());
            }
        }
        shared.end.store(true, Relaxed);
        let waiting = || clients.iter().map(|client| lock(&client.asked).len()).sum::<usize>();
        wait_until(LOST, || waiting() == 0);
        drop(ended);
        for client in &clients {
            lock(&client.asked).values().for_each(|asked| shared.fault("lost", asked.name.clone()));
        }
        let lost = shared.lost.load(Relaxed) + u64::try_from(waiting())?;
        for row in &mut rows {
            let place = KEYS.iter().position(|key| key.key == row.key);
            let longest = place.and_then(|place| shared.longest.get(place));
            row.answer = Duration::from_micros(longest.map_or(0, |longest| longest.load(Relaxed)));
        }
        let of = |count: &AtomicU64| count.load(Relaxed);
        Ok(Outcome {
            rows,
            asked: of(&shared.sent),
            answered: of(&shared.answered),
            lost,
            late: of(&shared.late),
            over_tcp: of(&shared.over_tcp),
            faults: lock(&shared.faults).values().flatten().cloned().collect(),
        })
    })
}

/// Changes one key again and again, and looks whether anything else moved.
fn change(guard: &mut Guard<'_>, key: &Key, held: &[IpAddr], shared: &Shared) -> Result<Option<Row>, AnyError> {
    let (line, values, touches) = match key.trial {
        Trial::With(_) => return Ok(None),
        Trial::Waits(line, value) => return waits(guard, key, line, value, shared).map(Some),
        Trial::Applies(line, values, touches) => (line, values, touches),
        Trial::IfKernel(line, values, touches, _) => (line, values, touches),
    };
    let sessions = shared.routes.sessions.load(Relaxed);
    let (table, stories) = (witness::table()?, shared.routes.of(held));
    let mut row = Row { key: key.key, reloads: 0, reload: Duration::ZERO, answer: Duration::ZERO };
    let mut named = false;
    let turns = values.iter().copied().map(Some).chain([None]).cycle();
    for value in turns {
        if row.reloads >= guard.plan.times && value == values.first().copied() {
            break;
        }
        guard.set(line, value);
        let (said, took) = guard.reload()?;
        row.reloads += 1;
        row.reload = row.reload.max(took);
        if let Trial::IfKernel(.., words) = key.trial
            && said["applied"] == false
            && said["report"].as_str().is_some_and(|report| report.contains(words))
        {
            guard.set(line, None);
            row.reload = row.reload.max(guard.reload()?.1);
            judge(Touches::default(), (&table, &stories, sessions), held, shared)?;
            return Ok(Some(row));
        }
        let left = said["needs_restart"].as_array().is_none_or(|left| !left.is_empty());
        if said["applied"] != true || left {
            shared.fault("not applied", format!("{line} = {value:?}: {said}"));
        }
        named |= keys_of(&said["changes"]).iter().any(|changed| changed == key.key);
    }
    if !named {
        shared.fault("not changed", format!("no value of {line} is another for it"));
    }
    judge(touches, (&table, &stories, sessions), held, shared)?;
    Ok(Some(row))
}

/// A key that needs a restart is named; what else the file says is in force.
fn waits(guard: &mut Guard<'_>, key: &Key, line: &'static str, value: &str, shared: &Shared) -> Result<Row, AnyError> {
    guard.set(line, Some(value));
    guard.set("policy.deny", Some(r#"["beside.example"]"#));
    let (said, reload) = guard.reload()?;
    guard.set(line, None);
    guard.set("policy.deny", None);
    let (back, _) = guard.reload()?;
    let (waits, applied) = (keys_of(&said["needs_restart"]), keys_of(&said["changes"]));
    if !waits.iter().any(|waits| waits == key.key)
        || !applied.contains(&"policy.deny".to_owned())
        || back["applied"] != true
    {
        shared.fault("not named", format!("{said}"));
    }
    Ok(Row { key: key.key, reloads: 2, reload, answer: Duration::ZERO })
}

/// Whether what didn't change is as it was.
fn judge(
    touches: Touches,
    (table, stories, sessions): (&witness::Table, &[witness::Story], u64),
    held: &[IpAddr],
    shared: &Shared,
) -> Result<(), AnyError> {
    let now = witness::table()?;
    if !touches.sets && now.sets != table.sets {
        shared.fault("sets made anew", format!("{:?} -> {:?}", table.sets, now.sets));
    }
    if !touches.packets && now.rules != table.rules {
        shared.fault("rules made anew", format!("{} -> {} of them", table.rules.len(), now.rules.len()));
    }
    // A table that is made anew has them once the full state is in it; until then it blocks nothing.
    let mut open = witness::are_open(held);
    if touches.sets {
        wait_until(ROUTES, || {
            open = witness::are_open(held);
            open.is_ok()
        });
    }
    if let Err(words) = open {
        shared.fault("closed", words);
    }
    if !wait_until(ROUTES, || shared.routes.hold(held)) {
        let gone = shared.routes.of(held).iter().filter(|story| story.announced <= story.withdrawn).count();
        shared.fault("withdrawn", format!("{gone} of {} routes", held.len()));
    }
    let stories_now = shared.routes.of(held);
    if !touches.routes && stories_now != stories {
        let moved = stories.iter().zip(&stories_now).find(|(was, is)| was != is);
        shared.fault("flapped", format!("for one {moved:?}"));
    }
    let begun = shared.routes.sessions.load(Relaxed);
    if !touches.sessions && begun != sessions {
        shared.fault("session ended", format!("{} began", begun - sessions));
    }
    Ok(())
}

/// What values of keys name.
fn files(dir: &Path) -> Result<(), AnyError> {
    std::fs::create_dir_all(dir.join("state"))?;
    std::fs::write(dir.join("list"), "listed.example\n")?;
    std::fs::write(dir.join("zone"), "a A 10.9.9.9\n")?;
    std::fs::write(dir.join("hosts"), "10.9.9.9 a\n")?;
    std::fs::write(dir.join("secret"), "secret\n")?;
    std::fs::write(dir.join("token"), "0123456789abcdef\n")?;
    let key = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec!["soak.example".to_owned()])?;
    let certificate = params.self_signed(&key)?;
    let revoked = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2099, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let revoked = revoked.signed_by(&rcgen::Issuer::from_params(&params, &key))?;
    std::fs::write(dir.join("revoked.crl"), revoked.pem()?)?;
    std::fs::write(dir.join("cert.pem"), certificate.pem())?;
    std::fs::write(dir.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

/// Each is a client of its own.
fn client(number: usize) -> std::io::Result<Client> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::new(127, 0, 1, u8::try_from(number).unwrap_or(0)), 0))?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(Client { socket, asked: Mutex::default() })
}

/// Asks at the rate, whatever the answers do: names that everybody asks for, fresh ones, aliases and such as don't exist.
fn send(clients: &[Client], rate: u32, shared: &Shared) {
    let begin = Instant::now();
    let (mut sent, mut ids) = (0u32, [0u16; CLIENTS]);
    while !shared.end.load(Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        // After a stall what was missed is sent in parts, not as one burst.
        for _ in 0..due.saturating_sub(sent).min(50) {
            sent = sent.wrapping_add(1);
            let place = usize::try_from(sent).unwrap_or(0) % CLIENTS;
            let (Some(client), Some(id)) = (clients.get(place), ids.get_mut(place)) else { continue };
            *id = id.wrapping_add(1);
            let name = match sent % 20 {
                0..12 => format!("h{}.soak.example", sent.wrapping_mul(2_654_435_761) % 500),
                12 => format!("x{sent}.soak.example"),
                13 => format!("c{sent}.soak.example"),
                _ => format!("n{sent}.soak.example"),
            };
            let query = question(*id, &name, if sent.is_multiple_of(3) { 28 } else { 1 });
            if let Some(lost) = lock(&client.asked).insert(*id, Asked { name, at: Instant::now() }) {
                shared.lost.fetch_add(1, Relaxed);
                shared.fault("lost", lost.name);
            }
            // What can't be sent counts as lost.
            if let Err(error) = client.socket.send(&query) {
                eprintln!("lab: asking: {error}");
            }
            shared.sent.fetch_add(1, Relaxed);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn receive(client: &Client, deadline: Duration, shared: &Shared) {
    let mut room = [0; 2048];
    while !shared.end.load(Relaxed) || !lock(&client.asked).is_empty() {
        let Ok(length) = client.socket.recv(&mut room) else {
            if shared.end.load(Relaxed) && lock(&client.asked).values().all(|asked| asked.at.elapsed() > LOST) {
                return;
            }
            continue;
        };
        let reply = room.get(..length).unwrap_or_default();
        let id = u16::from_be_bytes([reply.first().copied().unwrap_or(0), reply.get(1).copied().unwrap_or(0)]);
        let Some(asked) = lock(&client.asked).remove(&id) else { continue };
        let took = asked.at.elapsed();
        let longest = shared.longest.get(shared.key.load(Relaxed));
        longest.map(|longest| longest.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed));
        if took > deadline {
            shared.late.fetch_add(1, Relaxed);
            shared.fault("late", format!("{} after {} ms", asked.name, took.as_millis()));
        }
        match reply.get(3).map(|flags| flags & 15) {
            Some(0 | 3) => drop(shared.answered.fetch_add(1, Relaxed)),
            rcode => shared.fault("failed", format!("{}: response code {rcode:?}", asked.name)),
        }
    }
}

/// Asks again and again on one connection; that it ends is a fault.
fn on_one_connection(shared: &Shared) {
    let run = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(SERVER)?;
        stream.set_read_timeout(Some(LOST))?;
        while !shared.end.load(Relaxed) {
            let number = shared.over_tcp.load(Relaxed);
            let query = question(9, &format!("h{}.soak.example", number % 500), 1);
            stream.write_all(&[&u16::try_from(query.len()).unwrap_or(0).to_be_bytes()[..], &query].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut reply)?;
            match reply.get(3).map(|flags| flags & 15) {
                Some(0) => drop(shared.over_tcp.fetch_add(1, Relaxed)),
                rcode => shared.fault("failed", format!("on the connection: response code {rcode:?}")),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    if let Err(error) = run() {
        shared.fault("connection ended", error.to_string());
    }
}

/// Asks for names whose leases last; their addresses.
fn held() -> Result<Vec<IpAddr>, AnyError> {
    let mut held = Vec::new();
    for number in 0..HELD {
        for qtype in [1, 28] {
            let reply = ask_once("127.0.2.1", &format!("k{number}.soak.example"), qtype)?;
            held.extend(upstream::last_address(&reply));
        }
    }
    if held.len() == usize::try_from(2 * HELD)? { Ok(held) } else { Err("the guard gives no addresses".into()) }
}

/// The reply, when it is a good one.
fn ask_once(from: &str, name: &str, qtype: u16) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(LOST))?;
    socket.send(&question(7, name, qtype))?;
    let mut room = [0; 2048];
    let length = socket.recv(&mut room)?;
    Ok(room
        .get(..length)
        .filter(|reply| reply.get(3).is_some_and(|flags| flags & 15 == 0))
        .unwrap_or_default()
        .to_vec())
}

fn question(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    crate::dns::message::put_name(&mut out, name);
    out.extend(qtype.to_be_bytes());
    out.extend([0, 1]);
    out
}
