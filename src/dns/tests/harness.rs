//! A guard on loopback ports with scripted upstreams behind it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::core::event::{Change, EnforcerId, EnforcerKind, EnforcerSpec, Event};
use crate::core::guard::{Guard, Settings};
use crate::core_task::{CoreHandle, Drivers, REPORTS, core_task};
use crate::dns::*;
use crate::enforce::Command;

/// Nothing on loopback takes longer, unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A message as a test sees it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub id: u16,
    pub flags: u16,
    pub rcode: u16,
    pub question: Vec<u8>,
    /// Owner (lower case, presentation), type, TTL, RDATA as it stands.
    pub answers: Vec<(String, u16, u32, Vec<u8>)>,
    pub authority: Vec<(String, u16, u32, Vec<u8>)>,
    pub additional: Vec<(String, u16, u32, Vec<u8>)>,
    /// UDP size, DO.
    pub edns: Option<(u16, bool)>,
    pub ede: Option<(u16, String)>,
    pub cookie: Option<Vec<u8>>,
    pub len: usize,
}

impl Seen {
    pub fn addresses(&self) -> Vec<IpAddr> {
        let address = |rdata: &[u8]| match rdata.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(rdata).unwrap())),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(rdata).unwrap())),
            _ => None,
        };
        self.answers
            .iter()
            .filter(|(_, kind, ..)| [1, 28].contains(kind))
            .filter_map(|(_, _, _, rdata)| address(rdata))
            .collect()
    }

    pub fn truncated(&self) -> bool {
        self.flags & 0x0200 != 0
    }
}

/// An independent reader (recursive, slow, strict): the code under test reads with other code.
pub fn read(message: &[u8]) -> Seen {
    let u16_at = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let u32_at = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
    fn name(message: &[u8], at: &mut usize, depth: u32) -> String {
        assert!(depth < 20, "pointer loop");
        let mut text = String::new();
        loop {
            let len = usize::from(message[*at]);
            *at += 1;
            if len == 0 {
                return text;
            }
            if len >= 192 {
                let mut target = (len & 63) << 8 | usize::from(message[*at]);
                *at += 1;
                return text + &name(message, &mut target, depth + 1);
            }
            assert!(len < 64);
            text.push_str(&String::from_utf8_lossy(&message[*at..*at + len]).to_lowercase());
            text.push('.');
            *at += len;
        }
    }
    let mut seen =
        Seen { id: u16_at(0), flags: u16_at(2), rcode: u16_at(2) & 15, len: message.len(), ..Seen::default() };
    let mut at = 12;
    for _ in 0..u16_at(4) {
        let start = at;
        name(message, &mut at, 0);
        at += 4;
        seen.question = message[start..at].to_vec();
    }
    for section in 0..3 {
        for _ in 0..u16_at(6 + 2 * section) {
            let owner = name(message, &mut at, 0);
            let (kind, class, ttl, len) = (u16_at(at), u16_at(at + 2), u32_at(at + 4), usize::from(u16_at(at + 8)));
            let rdata = message[at + 10..at + 10 + len].to_vec();
            at += 10 + len;
            if kind == 41 {
                assert!(seen.edns.is_none() && owner.is_empty() && section == 2);
                seen.edns = Some((class, ttl & 0x8000 != 0));
                seen.rcode |= ((ttl >> 24) as u16) << 4;
                let mut options = &rdata[..];
                while !options.is_empty() {
                    let end = 4 + usize::from(u16::from_be_bytes([options[2], options[3]]));
                    let value = options[4..end].to_vec();
                    match options[1] {
                        15 => {
                            let text = String::from_utf8(value[2..].to_vec()).unwrap();
                            seen.ede = Some((u16::from_be_bytes([value[0], value[1]]), text));
                        }
                        10 => seen.cookie = Some(value),
                        _ => {}
                    }
                    options = &options[end..];
                }
            } else {
                let list = [&mut seen.answers, &mut seen.authority, &mut seen.additional];
                list.into_iter().nth(section).unwrap().push((owner, kind, ttl, rdata));
            }
        }
    }
    assert_eq!(at, message.len(), "octets behind the message");
    seen
}

pub fn wire(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// A query; `edns`: size and DO.
pub fn query(id: u16, name: &str, qtype: u16, edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    out.extend_from_slice(&wire(name));
    out.extend_from_slice(&qtype.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if let Some((size, dnssec_ok)) = edns {
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
    out
}

pub const EDNS: Option<(u16, bool)> = Some((1232, false));

/// One record of a scripted response.
#[derive(Clone, Debug)]
pub struct Rr {
    pub section: usize,
    pub owner: String,
    pub kind: u16,
    pub ttl: u32,
    pub rdata: Vec<u8>,
}

pub fn rr(owner: &str, kind: u16, ttl: u32, rdata: &[u8]) -> Rr {
    Rr { section: 0, owner: owner.to_owned(), kind, ttl, rdata: rdata.to_vec() }
}

pub fn a(owner: &str, ttl: u32, address: &str) -> Rr {
    match address.parse().unwrap() {
        IpAddr::V4(ip) => rr(owner, 1, ttl, &ip.octets()),
        IpAddr::V6(ip) => rr(owner, 28, ttl, &ip.octets()),
    }
}

pub fn cname(owner: &str, ttl: u32, target: &str) -> Rr {
    rr(owner, 5, ttl, &wire(target))
}

/// A signature that nobody checks.
pub fn rrsig(owner: &str, covered: u16) -> Rr {
    let rdata =
        [&covered.to_be_bytes()[..], &[8, 2, 0, 0, 0, 60, 0, 0, 0, 9, 0, 0, 0, 1, 0, 1], &wire("example"), &[1, 2, 3]];
    rr(owner, 46, 60, &rdata.concat())
}

pub fn soa(owner: &str, ttl: u32, minimum: u32) -> Rr {
    let mut rdata = [wire("ns.example"), wire("mail.example")].concat();
    for number in [1, 2, 3, 4, minimum] {
        rdata.extend_from_slice(&number.to_be_bytes());
    }
    Rr { section: 1, ..rr(owner, 6, ttl, &rdata) }
}

pub fn additional(rr: Rr) -> Rr {
    Rr { section: 2, ..rr }
}

/// The response to `query` (its question is kept octet by octet) with these records.
pub fn response(query: &[u8], rcode: u16, records: &[Rr]) -> Vec<u8> {
    let mut at = 12;
    while query[at] != 0 {
        at += 1 + usize::from(query[at]);
    }
    let mut out = query[..at + 5].to_vec();
    out[2] = 0x81;
    out[3] = 0x80 | rcode as u8;
    out[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    for section in 0..3 {
        for rr in records.iter().filter(|rr| rr.section == section) {
            out[7 + 2 * section] = out[7 + 2 * section].wrapping_add(1);
            if out[7 + 2 * section] == 0 {
                out[6 + 2 * section] += 1;
            }
            out.extend_from_slice(&wire(&rr.owner));
            out.extend_from_slice(&rr.kind.to_be_bytes());
            out.extend_from_slice(&[0, 1]);
            out.extend_from_slice(&rr.ttl.to_be_bytes());
            out.extend_from_slice(&(rr.rdata.len() as u16).to_be_bytes());
            out.extend_from_slice(&rr.rdata);
        }
    }
    out
}

/// Name (lower case, without the last dot) and type of a query.
pub fn asked(query: &[u8]) -> (String, u16) {
    let seen = read(query);
    let mut at = 0;
    let mut name = String::new();
    while seen.question[at] != 0 {
        let len = usize::from(seen.question[at]);
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(&seen.question[at + 1..=at + len]).to_lowercase());
        at += 1 + len;
    }
    (name, u16::from_be_bytes([seen.question[at + 1], seen.question[at + 2]]))
}

/// What a scripted upstream does with a query.
#[derive(Clone, Debug)]
pub enum Act {
    /// These datagrams, in order.
    Send(Vec<Vec<u8>>),
    /// One datagram after a while.
    Later(Duration, Vec<u8>),
    Silence,
}

pub type Script = dyn Fn(&[u8], bool) -> Act + Send + Sync;

/// A server on UDP and TCP that does what the script says (its second argument: over TCP).
pub struct Upstream {
    pub address: SocketAddr,
    pub asked: Arc<AtomicUsize>,
    pub asked_tcp: Arc<AtomicUsize>,
    pub queries: Arc<Mutex<Vec<Vec<u8>>>>,
    pub peers: Arc<Mutex<HashMap<SocketAddr, usize>>>,
}

impl Upstream {
    pub async fn new(script: impl Fn(&[u8], bool) -> Act + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = tokio::net::TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let upstream = Self {
            address: udp.local_addr().unwrap(),
            asked: Arc::default(),
            asked_tcp: Arc::default(),
            queries: Arc::default(),
            peers: Arc::default(),
        };
        crate::sys::udp::want_receive_buffer(std::os::fd::AsFd::as_fd(&*udp), 8 << 20).unwrap();
        let script: Arc<Script> = Arc::new(script);
        let (asked, queries, peers) = (upstream.asked.clone(), upstream.queries.clone(), upstream.peers.clone());
        let by_udp = script.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                // A reset by a socket that was closed meanwhile says nothing.
                let Ok((len, peer)) = udp.recv_from(&mut buffer).await else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                queries.lock().unwrap().push(buffer[..len].to_vec());
                *peers.lock().unwrap().entry(peer).or_default() += 1;
                match by_udp(&buffer[..len], false) {
                    Act::Send(datagrams) => {
                        for datagram in datagrams {
                            udp.send_to(&datagram, peer).await.unwrap();
                        }
                    }
                    Act::Later(wait, datagram) => {
                        let udp = udp.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(wait).await;
                            udp.send_to(&datagram, peer).await.unwrap();
                        });
                    }
                    Act::Silence => {}
                }
            }
        });
        let asked_tcp = upstream.asked_tcp.clone();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let (script, asked) = (script.clone(), asked_tcp.clone());
                tokio::spawn(async move {
                    while let Ok(len) = stream.read_u16().await {
                        let mut query = vec![0; usize::from(len)];
                        stream.read_exact(&mut query).await.unwrap();
                        asked.fetch_add(1, Ordering::SeqCst);
                        let messages = match script(&query, true) {
                            Act::Send(messages) => messages,
                            Act::Later(wait, message) => {
                                tokio::time::sleep(wait).await;
                                vec![message]
                            }
                            // Closes the connection.
                            Act::Silence => return,
                        };
                        for message in messages {
                            stream.write_u16(message.len() as u16).await.unwrap();
                            stream.write_all(&message).await.unwrap();
                        }
                    }
                });
            }
        });
        upstream
    }

    /// Answers A and AAAA from a table of (name, addresses); NXDOMAIN for the rest.
    pub async fn table(entries: &[(&str, u32, &[&str])]) -> Self {
        let entries: Vec<(String, u32, Vec<String>)> = entries
            .iter()
            .map(|(name, ttl, addresses)| (name.to_string(), *ttl, addresses.iter().map(ToString::to_string).collect()))
            .collect();
        Self::new(move |query, _| {
            let (name, qtype) = asked(query);
            let Some((_, ttl, addresses)) = entries.iter().find(|(entry, ..)| *entry == name) else {
                return Act::Send(vec![response(query, 3, &[soa("example", 300, 60)])]);
            };
            let records: Vec<Rr> = addresses
                .iter()
                .filter(|address| address.contains(':') == (qtype == 28))
                .map(|address| a(&name, *ttl, address))
                .collect();
            Act::Send(vec![response(query, 0, &records)])
        })
        .await
    }

    pub fn count(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("udp://{}", self.address)
    }
}

/// What the enforcer in memory does with commands.
#[derive(Default)]
pub struct Enforced {
    pub open: Mutex<HashMap<IpAddr, crate::core::moment::Moment>>,
    /// It takes commands, but doesn't confirm them.
    pub mute: AtomicBool,
    pub opened: AtomicUsize,
    /// It refuses whatever is to be opened.
    pub refuse: AtomicBool,
}

impl Enforced {
    pub fn is_open(&self, address: &str) -> bool {
        self.open.lock().unwrap().contains_key(&address.parse().unwrap())
    }
}

/// The enforcer of most tests.
pub fn memory() -> EnforcerSpec {
    EnforcerSpec {
        name: "memory".to_owned(),
        kind: EnforcerKind::Timed,
        required: true,
        max_addresses: 1_000_000,
        ipv4: true,
        ipv6: true,
        narrow: Default::default(),
    }
}

pub struct World {
    pub running: Running,
    pub enforced: Arc<Enforced>,
    pub core: CoreHandle,
    pub address: SocketAddr,
    pub rules: Arc<ArcSwap<Rules>>,
    pub config: Config,
    pub registry: Registry,
    pub denied: crate::control::DeniedLog,
}

/// The configuration of most tests, plus `more`. The documentation prefixes may be opened below "example".
pub fn config(upstreams: &[&Upstream], more: &str) -> Config {
    let mut text = String::new();
    text.push_str("[dns]\nlisten = [\"127.0.0.1:0\"]\nworkers = 2\n");
    for upstream in upstreams {
        text.push_str(&format!("[[dns.upstream]]\nurl = \"{}\"\n", upstream.url()));
    }
    text.push_str(
        "[[policy.private]]\ndomain = \"example\"\n\
         prefixes = [\"192.0.2.0/24\", \"198.51.100.0/24\", \"203.0.113.0/24\", \"2001:db8::/32\"]\n",
    );
    text.push_str("[lease]\nnew_per_client = \"100000/s\"\nnew_per_domain = \"100000/s\"\n");
    text.push_str(more);
    toml::from_str(&text).unwrap()
}

pub fn rules(config: &Config) -> Rules {
    let lists = crate::daemon::lists::Lists::load(config, &Default::default()).unwrap();
    crate::daemon::rules::rules(config, &lists, &Default::default(), &Default::default()).unwrap()
}

impl World {
    pub async fn new(upstreams: &[&Upstream]) -> Self {
        Self::with(config(upstreams, "")).await
    }

    pub async fn with(config: Config) -> Self {
        Self::with_enforcer(config, memory()).await
    }

    pub async fn with_enforcer(config: Config, spec: EnforcerSpec) -> Self {
        let clock = Clock::start();
        let settings = Settings { lease: config.lease.clone(), gate: config.gate.clone(), linger: config.bgp.linger.0 };
        let (commands, taken) = mpsc::channel(1024);
        let (reports, reported) = mpsc::channel(REPORTS);
        let enforced = Arc::new(Enforced::default());
        tokio::spawn(enforce(taken, reports, enforced.clone()));
        let drivers = Drivers { timed: vec![(EnforcerId(0), commands)], routes: None, journal: None, recorder: None };
        let (core, task) = core_task(Guard::new(settings, vec![spec]), drivers, reported, clock);
        tokio::spawn(task);
        core.tell(Event::WantSync { enforcer: EnforcerId(0) }).await.unwrap();
        let rules = Arc::new(ArcSwap::from_pointee(rules(&config)));
        let denied = crate::control::DeniedLog::default();
        let mut registry = crate::metrics::registry();
        let sockets = bind(&config).unwrap();
        let address = sockets.addresses()[0];
        let running =
            start(&config, sockets, rules.clone(), core.clone(), clock, denied.clone(), &mut registry).unwrap();
        Self { running, enforced, core, address, rules, config, registry, denied }
    }

    /// What `destguard denied` shows: kind, what, reason, count.
    pub fn refused(&self) -> Vec<(String, String, String, u64)> {
        let list = self.denied.since(0).denied;
        list.into_iter().map(|entry| (entry.kind, entry.what, entry.reason, entry.count)).collect()
    }

    pub fn metric(&self, name: &str) -> u64 {
        let text = crate::metrics::encode(&self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("destguard_{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    /// The counter `name` for this reason.
    pub fn label(&self, name: &str, reason: &str) -> u64 {
        self.metric(&format!("{name}{{reason=\"{reason}\"}}"))
    }

    /// Asks over UDP and waits for the reply.
    pub async fn ask(&self, name: &str, qtype: u16) -> Seen {
        self.exchange(query(rand::random(), name, qtype, EDNS)).await.expect("a reply")
    }

    /// Sends a datagram; the reply, if one comes within [`PATIENCE`].
    pub async fn exchange(&self, message: Vec<u8>) -> Option<Seen> {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message, self.address).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
        received.ok().map(|len| read(&buffer[..len.unwrap()]))
    }

    /// Asks on one TCP connection, all at once; replies in the order they come.
    pub async fn ask_tcp(&self, queries: &[Vec<u8>]) -> Vec<Seen> {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        for query in queries {
            let framed = [&(query.len() as u16).to_be_bytes()[..], query].concat();
            stream.write_all(&framed).await.unwrap();
        }
        let mut seen = Vec::new();
        for _ in queries {
            seen.push(next_tcp(&mut stream).await);
        }
        seen
    }
}

pub async fn next_tcp(stream: &mut tokio::net::TcpStream) -> Seen {
    use tokio::io::AsyncReadExt;
    let next = async {
        let len = stream.read_u16().await.unwrap();
        let mut message = vec![0; usize::from(len)];
        stream.read_exact(&mut message).await.unwrap();
        message
    };
    read(&tokio::time::timeout(PATIENCE, next).await.expect("a reply over TCP"))
}

async fn enforce(mut commands: mpsc::Receiver<Command>, reports: mpsc::Sender<Event>, enforced: Arc<Enforced>) {
    while let Some(command) = commands.recv().await {
        let generation = match command {
            Command::Apply { generation, .. } if enforced.refuse.load(Ordering::SeqCst) => {
                let refused = Event::Refused { enforcer: EnforcerId(0), generation, reason: "no".to_owned() };
                if reports.send(refused).await.is_err() {
                    return;
                }
                generation
            }
            Command::Apply { generation, changes } => {
                let mut open = enforced.open.lock().unwrap();
                for change in changes {
                    match change {
                        Change::Open { address, ends } | Change::Extend { address, ends } => {
                            enforced.opened.fetch_add(1, Ordering::SeqCst);
                            open.insert(address, ends);
                        }
                        Change::Close { address } => {
                            open.remove(&address);
                        }
                        Change::Announce { .. } | Change::Narrow { .. } => {}
                    }
                }
                generation
            }
            Command::Sync { generation, leases, .. } => {
                *enforced.open.lock().unwrap() = leases.into_iter().collect();
                generation
            }
            _ => continue,
        };
        if !enforced.mute.load(Ordering::SeqCst) {
            let applied = Event::Applied { enforcer: EnforcerId(0), generation };
            if reports.send(applied).await.is_err() {
                return;
            }
        }
    }
}

/// Waits until `done`, or fails.
pub async fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A blocking client socket.
pub fn client(from: &str) -> UdpSocket {
    let socket = UdpSocket::bind(from).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}
