//! The guard at half of what it can do, for as long as wanted, over an upstream that loses some queries: memory and descriptors must not grow.
//!
//! Everything happens on loopback in a network namespace that the caller made, with nftables as the enforcer. First the load is as much as the
//! guard answers; then half of that, paced by the clock, whatever the answers do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::wait::wait_until;

type AnyError = Box<dyn std::error::Error>;

const UPSTREAM: &str = "127.0.0.1:5300";
const SERVER: &str = "127.0.0.1:5301";
const START: Duration = Duration::from_secs(30);
/// Names that are asked for again and again.
const HOT: u32 = 2000;
/// Queries that the upstream loses, of a thousand.
const LOSS: u32 = 50;
/// Questions in flight while capacity is measured.
const WINDOW: u64 = 256;
const SOCKETS: usize = 8;
/// Pause between connections of the client that asks over TCP.
const TCP_PAUSE: Duration = Duration::from_millis(20);

const CONFIG: &str = r#"
[dns]
listen = ["127.0.0.1:5301"]
clients = ["127.0.0.0/8"]
[dns.cache]
# Full within seconds: what is bounded must not look like growth in a short run.
size = "2MiB"
[[dns.upstream]]
url = "udp://127.0.0.1:5300"
[[policy.private]]
domain = "soak.example"
prefixes = ["10.0.0.0/8", "2001:db8::/32"]
[lease]
min = "LEASE"
grace = "1s"
# One domain may hold half of it.
capacity = 2000000
new_per_client = "1000000/s"
new_per_domain = "1000000/s"
[nftables]
mode = "local"
[state]
dir = "DIR/state"
"#;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The path of the destguard that is tried.
    pub binary: PathBuf,
    /// For files; empty.
    pub dir: PathBuf,
    /// How long the load lasts, after capacity was measured.
    pub length: Duration,
}

/// The guard's process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the load began.
    pub at: Duration,
    /// Resident memory in KiB.
    pub rss: u64,
    /// Descriptors that the process has open.
    pub descriptors: u64,
    /// Octets of the files in its state directory.
    pub state: u64,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Answers per second at most.
    pub capacity: f64,
    /// Questions per second afterwards.
    pub rate: f64,
    /// Questions that clients asked.
    pub asked: u64,
    /// Of these, answered with NOERROR or NXDOMAIN.
    pub answered: u64,
    /// Of these, answered with SERVFAIL or worse.
    pub failed: u64,
    /// Of these, without reply.
    pub lost: u64,
    /// Questions over TCP, each on its own connection, that were answered.
    pub over_tcp: u64,
    /// Queries that the upstream got.
    pub upstream: u64,
    /// Of these, those it didn't answer.
    pub dropped: u64,
    /// Readings of the process, evenly spaced in time.
    pub samples: Vec<Sample>,
}

impl Outcome {
    /// What grew, in words; empty when all was flat: the highest of the last quarter against the highest of the second.
    #[must_use]
    pub fn growth(&self) -> Vec<String> {
        let quarter = self.samples.len() / 4;
        let highest = |samples: &[Sample], of: &dyn Fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
        let mut all = Vec::new();
        let mut check = |what: &str, of: &dyn Fn(&Sample) -> u64, room: &dyn Fn(u64) -> u64| {
            let early = highest(self.samples.get(quarter..2 * quarter).unwrap_or_default(), of);
            let late = highest(self.samples.get(3 * quarter..).unwrap_or_default(), of);
            if late > room(early) {
                all.push(format!("{what} grew from {early} to {late}"));
            }
        };
        check("memory (KiB)", &|sample| sample.rss, &|early| early + early / 10 + 8 * 1024);
        check("descriptors", &|sample| sample.descriptors, &|early| early + 128);
        check("state on disk (octets)", &|sample| sample.state, &|early| early * 2 + (64 << 20));
        all
    }

    /// A table of at most a dozen samples, and the totals.
    pub fn print(&self) {
        println!("capacity {:.0} answers a second; load {:.0} questions a second", self.capacity, self.rate);
        println!("{:>8}{:>12}{:>13}{:>12}", "second", "memory MiB", "descriptors", "state MiB");
        for sample in self.samples.iter().step_by((self.samples.len() / 12).max(1)) {
            println!(
                "{:>8}{:>12.1}{:>13}{:>12.1}",
                sample.at.as_secs(),
                sample.rss as f64 / 1024.0,
                sample.descriptors,
                sample.state as f64 / 1_048_576.0
            );
        }
        println!(
            "asked {}, answered {}, SERVFAIL {}, without reply {}; over TCP {}; the upstream lost {} of {} queries",
            self.asked, self.answered, self.failed, self.lost, self.over_tcp, self.dropped, self.upstream
        );
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

/// What upstream and clients share.
#[derive(Default)]
struct Shared {
    end: AtomicBool,
    /// Of a thousand queries, how many are lost.
    loss: AtomicU32,
    upstream: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    over_tcp: AtomicU64,
}

/// Runs the guard under load. The namespace must have nothing but loopback.
///
/// # Errors
/// When the guard doesn't start, doesn't answer or ends.
pub fn run(plan: &Plan) -> Result<Outcome, AnyError> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if !up.success() {
        return Err("no loopback".into());
    }
    let shared = Shared::default();
    let udp = UdpSocket::bind(UPSTREAM)?;
    let tcp = TcpListener::bind(UPSTREAM)?;
    tcp.set_nonblocking(true)?;
    udp.set_read_timeout(Some(Duration::from_millis(100)))?;
    let sockets = (0..SOCKETS).map(client).collect::<Result<Vec<_>, _>>()?;
    std::fs::create_dir_all(plan.dir.join("state"))?;
    let lease = (plan.length / 8).as_secs().clamp(2, 20);
    let text = CONFIG.replace("LEASE", &format!("{lease}s")).replace("DIR", &plan.dir.display().to_string());
    let config = plan.dir.join("config");
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(plan.dir.join("log"))?;
    std::thread::scope(|scope| {
        let ended = EndAtLast(&shared.end);
        scope.spawn(|| upstream_udp(&udp, &shared));
        scope.spawn(|| upstream_tcp(&tcp, &shared));
        let mut command = Command::new(&plan.binary);
        command.arg("--config").arg(&config).arg("--socket").arg(plan.dir.join("control")).arg("run");
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut guard = Running(command.spawn()?);
        if !wait_until(START, || ask_tcp("first.soak.example").unwrap_or(false)) {
            return Err(format!("no answer\n{}", std::fs::read_to_string(plan.dir.join("log"))?).into());
        }
        for socket in &sockets {
            scope.spawn(|| receive(socket, &shared));
        }
        let mut next = Names::default();
        let capacity = measure(&sockets, &shared, &mut next, plan.length.mul_f64(0.1).min(Duration::from_secs(10)))?;
        shared.loss.store(LOSS, Relaxed);
        scope.spawn(|| {
            while !shared.end.load(Relaxed) {
                let name = format!("h{}.soak.example", shared.over_tcp.load(Relaxed) as u32 % HOT);
                shared.over_tcp.fetch_add(u64::from(ask_tcp(&name).unwrap_or(false)), Relaxed);
                std::thread::sleep(TCP_PAUSE);
            }
        });
        let rate = capacity / 2.0;
        let idle = || shared.answered.load(Relaxed) + shared.failed.load(Relaxed) >= shared.sent.load(Relaxed);
        wait_until(Duration::from_secs(8), idle);
        let before = [&shared.sent, &shared.answered, &shared.failed].map(|count| count.load(Relaxed));
        let samples = paced(&sockets, &shared, &mut next, plan, rate, guard.0.id())?;
        // The last ones may still wait for the gate or the upstream.
        wait_until(Duration::from_secs(8), idle);
        let [asked, answered, failed] =
            [&shared.sent, &shared.answered, &shared.failed].map(|count| count.load(Relaxed));
        if let Some(status) = guard.0.try_wait()? {
            return Err(format!("the guard ended: {status}").into());
        }
        drop(ended);
        let (asked, answered, failed) = (asked - before[0], answered - before[1], failed - before[2]);
        Ok(Outcome {
            capacity,
            rate,
            asked,
            answered,
            failed,
            lost: asked.saturating_sub(answered + failed),
            over_tcp: shared.over_tcp.load(Relaxed),
            upstream: shared.upstream.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            samples,
        })
    })
}

/// Ends the threads of a scope however it is left.
struct EndAtLast<'a>(&'a AtomicBool);

impl Drop for EndAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Each is a client of its own: what one client may have in flight is not what is tried here.
fn client(number: usize) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::new(127, 0, 1, number as u8), 0))?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// Answers per second with a fixed number of questions in flight and no loss.
fn measure(sockets: &[UdpSocket], shared: &Shared, next: &mut Names, length: Duration) -> Result<f64, AnyError> {
    let begin = Instant::now();
    let done = || shared.answered.load(Relaxed) + shared.failed.load(Relaxed);
    let first = shared.answered.load(Relaxed);
    let mut progress = (Instant::now(), done());
    while begin.elapsed() < length {
        if shared.sent.load(Relaxed).saturating_sub(done()) < WINDOW {
            send(sockets, shared, next);
            progress = (Instant::now(), done());
            continue;
        }
        if progress.0.elapsed() > Duration::from_secs(10) {
            return Err("the guard answers no more".into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok((shared.answered.load(Relaxed) - first) as f64 / begin.elapsed().as_secs_f64())
}

/// Sends at `rate` for the plan's length and looks at the guard's process meanwhile.
fn paced(
    sockets: &[UdpSocket],
    shared: &Shared,
    next: &mut Names,
    plan: &Plan,
    rate: f64,
    pid: u32,
) -> Result<Vec<Sample>, AnyError> {
    let begin = Instant::now();
    let every = (plan.length / 240).max(Duration::from_millis(100));
    let (mut samples, mut sent) = (Vec::new(), 0);
    while begin.elapsed() < plan.length {
        let due = (begin.elapsed().as_secs_f64() * rate) as u64;
        // After a stall what was missed is sent in parts, not as one burst.
        for _ in 0..due.saturating_sub(sent).min(200) {
            send(sockets, shared, next);
            sent += 1;
        }
        if begin.elapsed() >= every * samples.len() as u32 {
            samples.push(sample(begin.elapsed(), pid, &plan.dir.join("state"))?);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(samples)
}

fn sample(at: Duration, pid: u32, state: &Path) -> Result<Sample, AnyError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("the guard is gone")?;
    let rss = line.trim().trim_end_matches(" kB").trim().parse()?;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    let mut octets = 0;
    for file in std::fs::read_dir(state)? {
        // A file may be replaced between being listed and being looked at.
        octets += file?.metadata().map_or(0, |data| data.len());
    }
    Ok(Sample { at, rss, descriptors, state: octets })
}

/// Which name comes next.
#[derive(Default)]
struct Names(u32);

impl Names {
    fn query(&mut self) -> Vec<u8> {
        self.0 = self.0.wrapping_add(1);
        let number = self.0;
        let name = match number % 100 {
            0..50 => format!("h{}.soak.example", number.wrapping_mul(2_654_435_761) % HOT),
            50..53 => format!("x{number}.soak.example"),
            53..58 => format!("c{number}.soak.example"),
            58..60 => format!("t{number}.soak.example"),
            _ => format!("n{number}.soak.example"),
        };
        question(number as u16, &name, if number.is_multiple_of(3) { 28 } else { 1 })
    }
}

fn question(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    crate::dns::message::put_name(&mut out, name);
    out.extend(qtype.to_be_bytes());
    out.extend([0, 1]);
    out
}

fn send(sockets: &[UdpSocket], shared: &Shared, next: &mut Names) {
    let query = next.query();
    let Some(socket) = sockets.get(next.0 as usize % sockets.len().max(1)) else { return };
    // What can't be sent counts as lost.
    if let Err(error) = socket.send(&query) {
        eprintln!("lab: asking: {error}");
    }
    shared.sent.fetch_add(1, Relaxed);
}

fn receive(socket: &UdpSocket, shared: &Shared) {
    let mut room = [0; 2048];
    while !shared.end.load(Relaxed) {
        let Ok(length) = socket.recv(&mut room) else { continue };
        match room.get(3).filter(|_| length >= 12).map(|flags| flags & 15) {
            Some(0 | 3) => shared.answered.fetch_add(1, Relaxed),
            _ => shared.failed.fetch_add(1, Relaxed),
        };
    }
}

/// One question on a connection of its own; whether it was answered well.
fn ask_tcp(name: &str) -> std::io::Result<bool> {
    let server: SocketAddr = SERVER.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let query = question(7, name, 1);
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    Ok(head[5] & 15 == 0)
}

fn upstream_udp(socket: &UdpSocket, shared: &Shared) {
    let mut room = [0; 2048];
    let mut state = 1u32;
    while !shared.end.load(Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut room) else { continue };
        shared.upstream.fetch_add(1, Relaxed);
        // A linear congruential generator is random enough to lose packets.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if (state >> 8) % 1000 < shared.loss.load(Relaxed) {
            shared.dropped.fetch_add(1, Relaxed);
            continue;
        }
        if let Some(reply) = room.get(..length).and_then(|query| answer(query, false)) {
            // One that can't be sent is asked again.
            drop(socket.send_to(&reply, peer));
        }
    }
}

fn upstream_tcp(listener: &TcpListener, shared: &Shared) {
    std::thread::scope(|scope| {
        while !shared.end.load(Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            scope.spawn(move || -> std::io::Result<()> {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(Duration::from_millis(200)))?;
                while !shared.end.load(Relaxed) {
                    let mut length = [0; 2];
                    match stream.read_exact(&mut length) {
                        Ok(()) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Err(error),
                    }
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query)?;
                    let reply = answer(&query, true).unwrap_or_default();
                    stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat())?;
                }
                Ok(())
            });
        }
    });
}

/// Each name has an address of its own; the first letter says what else: `x` doesn't exist, `c` is an alias, `t` comes over TCP only.
fn answer(query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let mut end = 12usize;
    loop {
        let length = usize::from(*query.get(end)?);
        end += length + 1;
        if length == 0 {
            break;
        }
    }
    end += 4;
    let first = query.get(13..13 + usize::from(*query.get(12)?))?.to_ascii_lowercase();
    let (kind, digits) = first.split_first()?;
    let number =
        digits.iter().fold(0u32, |number, digit| number.wrapping_mul(10).wrapping_add(u32::from(digit & 0x0f)));
    let mut reply = query.get(..end)?.to_vec();
    reply.get_mut(2..4)?.copy_from_slice(&[0x81, 0x80]);
    reply.get_mut(6..12)?.copy_from_slice(&[0; 6]);
    if *kind == b'x' {
        *reply.get_mut(3)? |= 3;
        reply.get_mut(9).map(|count| *count = 1)?;
        reply.extend(b"\xc0");
        reply.push((end - 4 - 14) as u8);
        reply.extend(b"\x00\x06\x00\x01\x00\x00\x00\x0a\x00\x16\x00\x00");
        for number in [1u32, 1, 1, 1, 10] {
            reply.extend(number.to_be_bytes());
        }
        return Some(reply);
    }
    if *kind == b't' && !tcp {
        *reply.get_mut(2)? |= 2;
        return Some(reply);
    }
    let ttl = if *kind == b'h' { 5 + number % 30 } else { 2 };
    let mut records = 1u8;
    let mut owner = [0xc0, 12];
    if *kind == b'c' {
        reply.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x0a\x00\x07\x04edge");
        owner = (0xc000 | (reply.len() - 5) as u16).to_be_bytes();
        reply.push(0xc0);
        reply.push((end - 4 - 14) as u8);
        records = 2;
    }
    *reply.get_mut(7)? = records;
    let qtype = query.get(end - 3)?;
    reply.extend(owner);
    reply.extend([0, *qtype, 0, 1]);
    reply.extend(ttl.to_be_bytes());
    // Hot names have addresses apart from those that are asked for once.
    let own = if *kind == b'h' { number } else { 0x0001_0000 + number % 0x00f0_0000 };
    match qtype {
        1 => {
            reply.extend([0, 4]);
            reply.extend((0x0a00_0000 + own).to_be_bytes());
        }
        _ => {
            reply.extend([0, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0]);
            reply.extend(own.to_be_bytes());
        }
    }
    Some(reply)
}
