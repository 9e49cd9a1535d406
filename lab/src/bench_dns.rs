//! The resolver beside others on the same core, over the same upstream. Prints; judges nothing.
//!
//! Everything happens on loopback in a network namespace that the caller made: servers on the first core, dnsperf and the scripted
//! upstream on the second. CPU time of the server's process per answer is the robust figure; answers per second and latency depend on
//! what else the machine does, which is printed too.

use std::io;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use signed::Zone;

use crate::wait::wait_until;

mod reload;
mod signed;

type AnyError = Box<dyn std::error::Error>;

const UPSTREAM_PORT: u16 = 5300;
const SERVER_PORT: u16 = 5301;
/// Names that are asked for again and again.
const HITS: u32 = 10_000;
/// Names that are asked for once.
const MISSES: u32 = 600_000;
/// Addresses of names that share them.
const SHARED: u32 = 1024;
/// The same of signed names, which the upstream has in memory.
const SIGNED_HITS: u32 = 5_000;
const SIGNED_MISSES: u32 = 60_000;
/// Signed names that are looked at before anything is measured.
const LOOKED_AT: u32 = 1000;
/// How long each load runs at most.
const LOAD: u32 = 4;
/// How long latency is sampled, at a rate that leaves every server idle most of the time.
const SAMPLE: (u32, u32) = (2, 2000);
const START: Duration = Duration::from_secs(10);
/// proc(5) counts CPU time in these.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a server has to do; each is shown apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    Resolve,
    /// The same for names that share their addresses, as behind a CDN.
    Share,
    /// Open addresses in nftables.
    Enforce,
    /// Validate signed answers.
    Validate,
}

impl Duty {
    const ALL: [Self; 4] = [Self::Resolve, Self::Share, Self::Enforce, Self::Validate];

    /// Behind the server's name on the command line.
    fn mark(self) -> &'static str {
        match self {
            Self::Resolve => "",
            Self::Share => "@",
            Self::Enforce => "+",
            Self::Validate => "=",
        }
    }

    fn title(self) -> Option<&'static str> {
        match self {
            Self::Resolve => None,
            Self::Share => Some("all names at 1,024 addresses, as behind a CDN"),
            Self::Enforce => Some("every address opened in nftables"),
            Self::Validate => Some("every answer validated (ECDSA P-256)"),
        }
    }
}

struct Subject {
    name: &'static str,
    /// File name and text; PORT, UPSTREAM, DIR, ANCHOR and MORE are replaced.
    config: &'static str,
    /// What MORE stands for.
    more: &'static [&'static str],
    /// The command that starts it, with the same words replaced as in `config`.
    command: &'static str,
    duty: Duty,
}

impl Subject {
    /// As it is named on the command line.
    fn called(&self) -> String {
        format!("{}{}", self.name, self.duty.mark())
    }
}

const DESTGUARD: &str = r#"
[dns]
listen = ["127.0.0.1:PORT"]
clients = ["127.0.0.0/8"]
workers = 1

[dns.cache]
size = "512MiB"

[[dns.upstream]]
url = "udp://127.0.0.1:UPSTREAM"

[[policy.private]]
domain = "bench.example"
prefixes = ["10.0.0.0/8"]

[[policy.private]]
domain = "signed.example"
prefixes = ["10.0.0.0/8"]

[lease]
capacity = 2000000
new_per_client = "1000000/s"
new_per_domain = "1000000/s"

[state]
dir = "DIR/state"

MORE
"#;

/// Leases are kept and journalled, and nothing waits for anybody: what the resolver alone costs.
const AUDIT: &str = r#"
[bgp]
enforce = false
asn = 64512
router_id = "192.0.2.1"
next_hop_ipv4 = "192.0.2.1"

[[bgp.peer]]
name = "nobody"
address = "127.0.0.9"
asn = 64512
required = true
families = ["ipv4"]
max_routes = 2000000

[addresses]
inside = []
"#;

const ENFORCED: &str = "[nftables]\nmode = \"local\"";

const VALIDATED: &str = "[dns.dnssec]\nvalidate = true\ntrust_anchor = \"ANCHOR\"";

const RUN: &str = "DESTGUARD --config CONFIG --socket DIR/control run";

const UNBOUND: &str = r#"
server:
    interface: 127.0.0.1
    port: PORT
    num-threads: 1
    do-daemonize: no
    use-syslog: no
    username: ""
    chroot: ""
    pidfile: ""
    MORE
    do-not-query-localhost: no
    msg-cache-size: 256m
    rrset-cache-size: 256m
    outgoing-range: 4096
    num-queries-per-thread: 2048
    so-rcvbuf: 4m
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@UPSTREAM
"#;

const DNSDIST: &str = r#"
setLocal("127.0.0.1:PORT")
setACL({"127.0.0.0/8"})
setSecurityPollSuffix("")
newServer({address="127.0.0.1:UPSTREAM"})
getPool(""):setCache(newPacketCache(1000000, {maxTTL=86400}))
"#;

const KRESD: &str = r#"
net.listen('127.0.0.1', PORT, { kind = 'dns' })
trust_anchors.remove('.')
MORE
cache.open(400 * MB, 'lmdb://DIR')
policy.add(policy.all(policy.FORWARD('127.0.0.1@UPSTREAM')))
"#;

const DNSMASQ: &str = "
port=PORT
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
user=root
pid-file=
cache-size=20000
dns-forward-max=10000
server=127.0.0.1#UPSTREAM
";

const SUBJECTS: [Subject; 13] = [
    Subject { name: "destguard", config: DESTGUARD, more: &[AUDIT], command: RUN, duty: Duty::Resolve },
    Subject {
        name: "unbound",
        config: UNBOUND,
        more: &["module-config: \"iterator\""],
        command: "unbound -d -c CONFIG",
        duty: Duty::Resolve,
    },
    Subject {
        name: "dnsdist",
        config: DNSDIST,
        more: &[],
        command: "dnsdist --supervised -C CONFIG",
        duty: Duty::Resolve,
    },
    Subject { name: "knot-resolver", config: KRESD, more: &[], command: "kresd -n -c CONFIG DIR", duty: Duty::Resolve },
    Subject { name: "dnsmasq", config: DNSMASQ, more: &[], command: "dnsmasq -k -C CONFIG", duty: Duty::Resolve },
    Subject { name: "destguard", config: DESTGUARD, more: &[AUDIT], command: RUN, duty: Duty::Share },
    Subject {
        name: "unbound",
        config: UNBOUND,
        more: &["module-config: \"iterator\""],
        command: "unbound -d -c CONFIG",
        duty: Duty::Share,
    },
    Subject {
        name: "dnsdist",
        config: DNSDIST,
        more: &[],
        command: "dnsdist --supervised -C CONFIG",
        duty: Duty::Share,
    },
    Subject { name: "destguard", config: DESTGUARD, more: &[ENFORCED], command: RUN, duty: Duty::Enforce },
    Subject {
        name: "dnsmasq --nftset",
        config: DNSMASQ,
        more: &[],
        command: "dnsmasq -k -C CONFIG --nftset=/bench.example/4#inet#bench#open",
        duty: Duty::Enforce,
    },
    Subject { name: "destguard", config: DESTGUARD, more: &[AUDIT, VALIDATED], command: RUN, duty: Duty::Validate },
    Subject {
        name: "unbound",
        config: UNBOUND,
        more: &["module-config: \"validator iterator\"\n    trust-anchor: \"ANCHOR\""],
        command: "unbound -d -c CONFIG",
        duty: Duty::Validate,
    },
    Subject {
        name: "knot-resolver",
        config: KRESD,
        more: &["trust_anchors.add('ANCHOR')"],
        command: "kresd -n -c CONFIG DIR",
        duty: Duty::Validate,
    },
];

#[derive(Default)]
struct Load {
    per_second: f64,
    cpu_us: f64,
    lost: f64,
    foreign: f64,
}

struct Figures {
    name: &'static str,
    duty: Duty,
    hit: Load,
    miss: Load,
    p50_us: f64,
    p99_us: f64,
    /// Resident memory behind the misses, in MiB.
    memory: f64,
}

/// Runs all measurements with this destguard binary, or of those servers alone that `only` names (behind a name "+": with nftables; "=": validating); files
/// go to `dir`. The namespace must have nothing but loopback.
///
/// # Errors
/// When a server doesn't start or answer, or where there are other interfaces.
pub fn run(binary: &Path, dir: &Path, only: &[&str]) -> Result<(), AnyError> {
    let interfaces = std::fs::read_dir("/sys/class/net")?.count();
    let routes = std::fs::read_to_string("/proc/net/route")?.lines().count();
    if interfaces > 1 && routes > 1 {
        return Err("this needs a network namespace of its own: use lab/bench-dns".into());
    }
    output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    for (first, front) in [("n", ""), ("c", "shared-")] {
        let names =
            |range: std::ops::Range<u32>| range.map(|n| format!("{first}{n}.bench.example A\n")).collect::<String>();
        std::fs::write(dir.join(format!("{front}hits")), names(0..HITS))?;
        std::fs::write(dir.join(format!("{front}misses")), names(100_000..100_000 + MISSES))?;
    }
    let wanted: Vec<&Subject> =
        SUBJECTS.iter().filter(|one| only.is_empty() || only.contains(&one.called().as_str())).collect();
    let first = SIGNED_HITS + LOOKED_AT;
    let signed = if wanted.iter().any(|one| one.duty == Duty::Validate) { first + SIGNED_MISSES } else { 0 };
    let zone = Zone::new(signed)?;
    let names = |range: std::ops::Range<u32>| range.map(|n| format!("s{n}.signed.example A\n")).collect::<String>();
    std::fs::write(dir.join("signed-hits"), names(0..SIGNED_HITS))?;
    std::fs::write(dir.join("signed-misses"), names(first..first + SIGNED_MISSES))?;
    let anchor = zone.anchor().to_owned();
    let upstream = UdpSocket::bind(("127.0.0.1", UPSTREAM_PORT))?;
    std::thread::spawn(move || serve(&upstream, &zone));
    let mut all = Vec::new();
    for subject in wanted {
        eprintln!("measuring {}", subject.called());
        all.push(measure(subject, binary, dir, &anchor)?);
    }
    if !all.is_empty() {
        print(&all);
    }
    if only.is_empty() || only.contains(&"reload") {
        eprintln!("measuring reload");
        reload::measure(binary, dir, &dir.join("hits"))?;
    }
    Ok(())
}

fn print(all: &[Figures]) {
    println!(
        "One server core, {LOAD} s per load, 8 sockets, 100 questions in flight; ratio: to destguard's CPU per answer"
    );
    println!(
        "{:<18}{:>10}{:>8}{:>8}{:>10}{:>8}{:>8}{:>9}{:>9}{:>7}{:>7}{:>8}",
        "", "cached/s", "us CPU", "ratio", "missed/s", "us CPU", "ratio", "p50 us", "p99 us", "MiB", "lost", "foreign"
    );
    for duty in Duty::ALL {
        let group: Vec<&Figures> = all.iter().filter(|figures| figures.duty == duty).collect();
        let Some(ours) = group.first() else { continue };
        if let Some(title) = duty.title() {
            println!("{title}:");
        }
        for figures in &group {
            println!(
                "{:<18}{:>10.0}{:>8.2}{:>8.2}{:>10.0}{:>8.2}{:>8.2}{:>9.0}{:>9.0}{:>7.0}{:>7.0}{:>7.0}%",
                figures.name,
                figures.hit.per_second,
                figures.hit.cpu_us,
                figures.hit.cpu_us / ours.hit.cpu_us,
                figures.miss.per_second,
                figures.miss.cpu_us,
                figures.miss.cpu_us / ours.miss.cpu_us,
                figures.p50_us,
                figures.p99_us,
                figures.memory,
                figures.hit.lost + figures.miss.lost,
                (figures.hit.foreign + figures.miss.foreign) * 50.0,
            );
        }
    }
    println!(
        "p50, p99: cached answers at {}/s. MiB: resident, behind the missed names. foreign: share of both cores that others used meanwhile.",
        SAMPLE.1
    );
}

/// A server that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("lab: ending a server: {error}");
        }
    }
}

fn measure(subject: &Subject, binary: &Path, dir: &Path, anchor: &str) -> Result<Figures, AnyError> {
    let own = dir.join(subject.called().replace(' ', ""));
    std::fs::create_dir_all(own.join("state"))?;
    let config = own.join("config");
    let fill = |text: &str| {
        text.replace("MORE", &subject.more.join("\n"))
            .replace("ANCHOR", anchor)
            .replace("CONFIG", &config.display().to_string())
            .replace("DESTGUARD", &binary.display().to_string())
            .replace("DIR", &own.display().to_string())
            .replace("UPSTREAM", &UPSTREAM_PORT.to_string())
            .replace("PORT", &SERVER_PORT.to_string())
    };
    std::fs::write(&config, fill(subject.config))?;
    if subject.duty == Duty::Enforce && subject.name != "destguard" {
        let set = "add table inet bench; add set inet bench open { type ipv4_addr; flags timeout; timeout 5m; size 2000000; }";
        output(Command::new("nft").arg(set))?;
    }
    let log = std::fs::File::create(own.join("log"))?;
    let command = fill(subject.command);
    let mut server = Command::new("taskset");
    server.args(["-c", "0"]).args(command.split(' ')).current_dir(&own).stdin(Stdio::null());
    let server = Running(server.stdout(log.try_clone()?).stderr(log).spawn()?);
    let answers = || ask("n1000.bench.example").is_ok_and(|reply| reply.rcode == 0 && reply.answers > 0);
    if !wait_until(START, answers) {
        let log = std::fs::read_to_string(own.join("log"))?;
        return Err(format!("{} does not answer\n{log}", subject.name).into());
    }
    let validates = subject.duty == Duty::Validate;
    if validates {
        look(SIGNED_HITS..SIGNED_HITS + LOOKED_AT).map_err(|error| format!("{}: {error}", subject.called()))?;
    }
    let front = match subject.duty {
        Duty::Validate => "signed-",
        Duty::Share => "shared-",
        Duty::Resolve | Duty::Enforce => "",
    };
    let [hits, misses] = ["hits", "misses"].map(|what| dir.join(format!("{front}{what}")));
    // Twice: what was lost the first time is asked for again.
    for _ in 0..2 {
        dnsperf(&hits, &["-n", "1", "-q", "50"])?;
    }
    let seconds = LOAD.to_string();
    let load = ["-l", seconds.as_str(), "-c", "8", "-q", "100", "-t", "2"];
    let hit = loaded(&server.0, &hits, &load)?;
    let (p50_us, p99_us) = latency(&hits)?;
    let miss = loaded(&server.0, &misses, &[&load[..], &["-n", "1"]].concat())?;
    let memory = resident(server.0.id())?;
    Ok(Figures { name: subject.name, duty: subject.duty, hit, miss, p50_us, p99_us, memory })
}

/// What a reply says.
struct Said {
    rcode: u8,
    /// Whether the server has validated it (AD).
    authentic: bool,
    answers: u8,
    /// Its last octets: the address, in a reply without EDNS that has one record.
    last: [u8; 4],
}

/// Asks the server for an address, with AD set: it may say whether it has validated (RFC 6840 section 5.7).
fn ask(name: &str) -> io::Result<Said> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", SERVER_PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut query = b"\x00\x07\x01\x20\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).map_err(|_| malformed())?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut room = [0; 1500];
    let length = socket.recv(&mut room)?;
    let reply = room.get(..length).unwrap_or_default();
    let (&[_, _, _, flags, _, _, _, answers], last) =
        (reply.first_chunk::<8>().ok_or_else(malformed)?, *reply.last_chunk().ok_or_else(malformed)?);
    Ok(Said { rcode: flags & 0x0f, authentic: flags & 0x20 != 0, answers, last })
}

/// Sees that the server validates: all of these signed names have AD and their address, and the forged one has no answer.
fn look(numbers: std::ops::Range<u32>) -> Result<(), AnyError> {
    for number in numbers {
        let name = format!("s{number}.signed.example");
        let said = ask(&name)?;
        if said.rcode != 0 || !said.authentic || said.last != (0x0a00_0000 | number).to_be_bytes() {
            return Err(format!("{name}: code {}, AD {}, {:?}", said.rcode, said.authentic, said.last).into());
        }
    }
    let forged = ask(signed::FORGED)?;
    if forged.rcode == 0 || forged.answers > 0 {
        return Err(format!("{}: code {}, {} records", signed::FORGED, forged.rcode, forged.answers).into());
    }
    Ok(())
}

/// Standard output of a command that must succeed.
fn output(command: &mut Command) -> Result<String, AnyError> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn dnsperf(data: &Path, more: &[&str]) -> Result<String, AnyError> {
    let port = SERVER_PORT.to_string();
    output(Command::new("dnsperf").args(["-s", "127.0.0.1", "-p", &port, "-d"]).arg(data).args(more))
}

fn loaded(server: &Child, data: &Path, more: &[&str]) -> Result<Load, AnyError> {
    let begin = (Instant::now(), cpu_seconds(server.id())?, own_seconds()?, machine_seconds()?);
    let text = dnsperf(data, more)?;
    let (took, used) = (begin.0.elapsed().as_secs_f64(), cpu_seconds(server.id())? - begin.1);
    let foreign = machine_seconds()? - begin.3 - used - (own_seconds()? - begin.2);
    let figure = |what: &str| -> f64 {
        let line = text.lines().find(|line| line.trim_start().starts_with(what));
        line.and_then(|line| line.split_once(':')?.1.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
    };
    let refused: f64 = text.lines().find(|line| line.contains("Response codes")).map_or(0.0, refused);
    let answered = figure("Queries completed") - refused;
    Ok(Load {
        per_second: answered / figure("Run time (s)").max(0.001),
        cpu_us: used * 1e6 / answered.max(1.0),
        lost: figure("Queries lost") + refused,
        foreign: (foreign / took / 2.0).max(0.0),
    })
}

/// "Response codes:  NOERROR 10 (99.9%), SERVFAIL 1 (0.1%)": those that aren't answers.
fn refused(line: &str) -> f64 {
    let (_, codes) = line.split_once(':').unwrap_or_default();
    let mut sum = 0.0;
    for code in codes.split(',') {
        let mut words = code.split_whitespace();
        if words.next().is_some_and(|word| word != "NOERROR") {
            sum += words.next().and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    sum
}

/// Median and 99th percentile of cached answers, in microseconds.
fn latency(data: &Path) -> Result<(f64, f64), AnyError> {
    let (seconds, rate) = (SAMPLE.0.to_string(), SAMPLE.1.to_string());
    let text = dnsperf(data, &["-l", &seconds, "-Q", &rate, "-v"])?;
    let mut all: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("> NOERROR"))
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| all.get(all.len() * part / 100).copied().unwrap_or(f64::NAN) * 1e6;
    Ok((at(50), at(99)))
}

/// Resident memory of a process in MiB (proc(5) status).
pub(crate) fn resident(pid: u32) -> io::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0)
}

/// User and system time of a process so far (fields 14 and 15 of proc(5) stat).
pub(crate) fn cpu_seconds(pid: u32) -> io::Result<f64> {
    fields(&format!("/proc/{pid}/stat"), 2)
}

/// The same of this process and of those it waited for (fields 14 to 17).
fn own_seconds() -> io::Result<f64> {
    fields("/proc/self/stat", 4)
}

fn fields(path: &str, count: usize) -> io::Result<f64> {
    let stat = std::fs::read_to_string(path)?;
    let fields = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
    let ticks: f64 = fields.split_whitespace().skip(11).take(count).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// Busy time of the first two cores (proc(5) stat: all but idle and iowait).
fn machine_seconds() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let mut ticks = 0.0;
    for line in stat.lines().filter(|line| line.starts_with("cpu0 ") || line.starts_with("cpu1 ")) {
        let numbers: Vec<f64> = line.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
        ticks += numbers.iter().take(8).sum::<f64>() - numbers.iter().skip(3).take(2).sum::<f64>();
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// The scripted upstream: the signed zone, and else: `nNUMBER.bench.example` has the address 10.0.0.0 + NUMBER, `cNUMBER` one of [`SHARED`],
/// everything else 10.0.0.0, for five minutes.
fn serve(socket: &UdpSocket, zone: &Zone) {
    let mut room = [0; 2048];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut room) else { continue };
        let Some(reply) = room.get(..length).and_then(|query| answer(query, zone)) else { continue };
        // One that can't be sent is asked again.
        drop(socket.send_to(&reply, peer));
    }
}

fn answer(query: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let mut end = 12usize;
    loop {
        let length = usize::from(*query.get(end)?);
        end += length + 1;
        if length == 0 {
            break;
        }
    }
    end += 4;
    if let Some(reply) = zone.answer(query, end) {
        return Some(reply);
    }
    let mut reply = Vec::with_capacity(128);
    reply.extend_from_slice(query.get(..end)?);
    let is_a = query.get(end - 4..end)? == [0, 1, 0, 1];
    let has_edns = query.get(11) == Some(&1);
    *reply.get_mut(2)? |= 0x80;
    *reply.get_mut(3)? = 0x80;
    reply.get_mut(6..12)?.copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, u8::from(has_edns)]);
    if is_a {
        let first = query.get(14..13 + usize::from(*query.get(12)?)).unwrap_or_default();
        let number =
            first.iter().fold(0u32, |number, digit| number.wrapping_mul(10).wrapping_add(u32::from(digit & 0x0f)));
        let shared = query.get(13) == Some(&b'c');
        let address = 0x0a00_0000 | if shared { number % SHARED } else { number & 0x00ff_ffff };
        reply.extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04");
        reply.extend_from_slice(&address.to_be_bytes());
    }
    if has_edns {
        reply.extend_from_slice(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00");
    }
    Some(reply)
}
