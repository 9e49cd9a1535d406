//! Every combination of session that routers and the guard can have with each other, on the real daemons: internal and external, over IPv4 and
//! over IPv6, for one family or both, opened by either end, with TCP-MD5, GTSM and a limit of prefixes on. Each router runs once, with a neighbour
//! for each combination; what comes out is the table in docs/routers.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use destguard_bgp::config::{PeerConfig, Secret, SpeakerConfig};
use destguard_bgp::io::{PeerEvent, Speaker, SpeakerHandle};
use destguard_bgp::session::Stop;
use destguard_bgp::status::{PeerStatus, State};
use destguard_bgp::wire::iana::Families;
use lab::{Lab, Node};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(90);
const ROUTER_AS: u32 = 64513;
const PASSWORD: &str = "s3cret";
/// Prefixes of a neighbour that the routers are told to bear.
const LIMIT: u8 = 10;
const HOP4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const HOP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
const MD5_OPTION: u8 = 19;

/// A combination of a router and its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    number: u8,
    internal: bool,
    over_ipv6: bool,
    families: Families,
    /// The guard waits for the router.
    passive: bool,
}

impl Cell {
    fn all() -> Vec<Self> {
        let (mut cells, mut number) = (Vec::new(), 0);
        let sets = [Families { ipv4: true, ipv6: false }, Families { ipv4: false, ipv6: true }, Families::ALL];
        for internal in [false, true] {
            for over_ipv6 in [false, true] {
                for families in sets {
                    for passive in [false, true] {
                        cells.push(Self { number, internal, over_ipv6, families, passive });
                        number += 1;
                    }
                }
            }
        }
        cells
    }

    fn guard(self) -> IpAddr {
        let host = self.number + 16;
        if self.over_ipv6 {
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host.into()).into()
        } else {
            Ipv4Addr::new(192, 0, 2, host).into()
        }
    }

    fn router(self) -> IpAddr {
        if self.over_ipv6 {
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe).into()
        } else {
            Ipv4Addr::new(192, 0, 2, 254).into()
        }
    }

    fn asn(self) -> u32 {
        if self.internal { ROUTER_AS } else { 64512 }
    }

    /// The `n`th route of this cell, in each of its families.
    fn routes(self, n: u8) -> Vec<IpAddr> {
        let v4 = IpAddr::from([198, 18, self.number, n]);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 5, self.number.into(), 0, 0, 0, n.into()).into();
        let wanted = [(self.families.ipv4, v4), (self.families.ipv6, v6)];
        wanted.into_iter().filter_map(|(takes, route)| takes.then_some(route)).collect()
    }

    fn config(self, password: &str, gtsm: bool) -> SpeakerConfig {
        let mut peer = PeerConfig::new("router", self.router(), ROUTER_AS);
        peer.local_address = Some(self.guard());
        peer.password = Some(Secret::new(password));
        peer.ttl_security = gtsm;
        peer.passive = self.passive;
        peer.families = self.families;
        peer.hold_time = Duration::from_secs(30);
        SpeakerConfig {
            next_hop_ipv4: Some(HOP4),
            next_hop_ipv6: Some(HOP6),
            listen: if self.passive { vec![SocketAddr::new(self.guard(), 179)] } else { vec![] },
            peers: vec![peer],
            ..SpeakerConfig::new(self.asn(), Ipv4Addr::new(192, 0, 2, self.number + 16))
        }
    }
}

/// A router that runs in the matrix.
struct Daemon {
    /// As in the table.
    name: &'static str,
    topology: &'static str,
    file: &'static str,
    /// Its whole configuration.
    configure: fn(&[Cell]) -> String,
    /// A command that makes it forget a connection and try again at once.
    nudge: fn(Cell) -> String,
    /// A command that shows its routes, a line each: prefix and next hop.
    routes: &'static str,
    /// Whether GTSM is in force there; where it is not, a session without it must come up, or the table is wrong.
    gtsm: fn(Cell) -> bool,
}

impl Daemon {
    fn nudge<'a>(&self, router: &Node, cells: impl Iterator<Item = &'a Cell>) {
        let lines: Vec<String> = cells.map(|cell| (self.nudge)(*cell)).collect();
        // Some have nothing to forget, and say so.
        router.run(&lines.join("\n")).unwrap();
    }

    fn routes(&self, router: &Node) -> Routes {
        Routes(router.ok(self.routes).unwrap())
    }
}

/// What a router shows of its routes.
struct Routes(String);

impl Routes {
    /// Whether there is a route with the right next hop.
    fn has(&self, route: IpAddr) -> bool {
        let (hop, length) = if route.is_ipv4() { (HOP4.to_string(), 32) } else { (HOP6.to_string(), 128) };
        let (route, prefix) = (route.to_string(), format!("{route}/{length}"));
        self.0.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.contains(&hop.as_str()) && words.iter().any(|word| *word == route || *word == prefix)
        })
    }

    fn all(&self, cell: Cell, n: u8) -> bool {
        cell.routes(n).into_iter().all(|route| self.has(route))
    }

    fn none(&self, cell: Cell, n: u8) -> bool {
        !cell.routes(n).into_iter().any(|route| self.has(route))
    }
}

/// What was seen on the wire between one cell's guard and its router.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Segments that open a connection, from either end.
    syns: u32,
    /// Segments of the router, but for resets.
    segments: u32,
    /// Those of them without an MD5 signature.
    unsigned: u32,
    /// The least TTL of them.
    ttl: Option<u8>,
}

/// Reads every packet of a namespace.
struct Wire {
    seen: Arc<Mutex<BTreeMap<IpAddr, Seen>>>,
    end: Arc<AtomicBool>,
}

impl Wire {
    fn tap(node: &Node) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let end = Arc::new(AtomicBool::new(false));
        let socket = node.in_namespace(|| {
            let every = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
            let socket =
                socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::DGRAM, Some(i32::from(every).into()));
            let socket = socket.unwrap();
            socket.set_recv_buffer_size(8 << 20).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        let mut socket = socket.unwrap();
        let (into, stop) = (Arc::clone(&seen), Arc::clone(&end));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok(length) = socket.read(&mut buffer) {
                    note(&mut into.lock().unwrap(), &buffer[..length]);
                }
            }
        });
        Self { seen, end }
    }

    fn of(&self, cell: Cell) -> Seen {
        self.seen.lock().unwrap().get(&cell.guard()).copied().unwrap_or_default()
    }

    fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// One packet, if it is a segment of BGP. `None` for others.
fn note(seen: &mut BTreeMap<IpAddr, Seen>, packet: &[u8]) -> Option<()> {
    let (from, to, ttl, tcp): (IpAddr, IpAddr, u8, &[u8]) = match packet.first()? >> 4 {
        4 if packet.get(9)? == &6 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?, address(16)?, *packet.get(8)?, packet.get(usize::from(packet[0] & 15) * 4..)?)
        }
        6 if packet.get(6)? == &6 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?, address(24)?, *packet.get(7)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    if port(0)? != 179 && port(2)? != 179 {
        return None;
    }
    let (syn, reset, ack) = (tcp.get(13)? & 2 != 0, tcp[13] & 4 != 0, tcp[13] & 16 != 0);
    let from_router = Cell::all().iter().any(|cell| cell.router() == from);
    let entry = seen.entry(if from_router { to } else { from }).or_default();
    entry.syns += u32::from(syn && !ack);
    if from_router && !reset {
        let mut options = tcp.get(20..usize::from(tcp.get(12)? >> 4) * 4)?;
        let mut signed = false;
        while let Some(kind) = options.first() {
            let length = if *kind <= 1 { 1 } else { usize::from(*options.get(1)?).max(2) };
            signed |= *kind == MD5_OPTION;
            options = options.get(length..)?;
        }
        entry.segments += 1;
        entry.unsigned += u32::from(!signed);
        entry.ttl = Some(entry.ttl.map_or(ttl, |least| least.min(ttl)));
    }
    Some(())
}

struct Session {
    cell: Cell,
    speaker: Speaker,
    handle: SpeakerHandle,
    /// Read to the end, or the sessions would wait for us.
    events: tokio::task::JoinHandle<()>,
}

impl Session {
    async fn start(cell: Cell, config: SpeakerConfig) -> Self {
        let (speaker, mut events): (_, mpsc::Receiver<PeerEvent>) = Speaker::start(config).await.unwrap();
        let events = tokio::spawn(async move { while events.recv().await.is_some() {} });
        Self { cell, handle: speaker.handle(), speaker, events }
    }

    fn status(&self) -> PeerStatus {
        self.handle.status().remove(0)
    }

    fn error(&self) -> String {
        self.status().last_error.map_or_else(String::new, |(text, _)| text)
    }
}

async fn start(cells: &[Cell], password: &str, gtsm: impl Fn(Cell) -> bool) -> Vec<Session> {
    let mut sessions = Vec::new();
    for cell in cells {
        sessions.push(Session::start(*cell, cell.config(password, gtsm(*cell))).await);
    }
    sessions
}

async fn stop(sessions: Vec<Session>) {
    let ends = sessions.into_iter().map(|session| async move {
        session.speaker.stop(Stop::Shutdown(String::new())).await;
        session.events.abort();
    });
    let ends: Vec<_> = ends.map(tokio::spawn).collect();
    for end in ends {
        end.await.unwrap();
    }
}

/// Waits until it holds for every cell; panics with those for which it doesn't.
async fn every(what: &str, sessions: &[Session], met: impl Fn(&Session) -> bool) {
    every_of(what, sessions, || (), |session, ()| met(session)).await;
}

/// Likewise, with something that is looked up once for all.
async fn every_of<T>(what: &str, sessions: &[Session], look: impl Fn() -> T, met: impl Fn(&Session, &T) -> bool) {
    let deadline = Instant::now() + LONG;
    loop {
        let seen = look();
        let late: Vec<&Session> = sessions.iter().filter(|session| !met(session, &seen)).collect();
        if late.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            let lines: Vec<String> = late
                .iter()
                .map(|session| format!("{:?}: {} {}", session.cell, session.status().state, session.error()))
                .collect();
            panic!("not in time: {what}:\n{}", lines.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn matrix(daemon: &Daemon) {
    let begun = Instant::now();
    let cells = Cell::all();
    let lab = Lab::builder(format!("tests/interop/{}.clab.yml", daemon.topology)).hold("router").up().unwrap();
    let (router, guard) = (lab.node("router"), lab.node("guard"));
    for cell in &cells {
        let (address, length) = (cell.guard(), if cell.over_ipv6 { "64 nodad" } else { "24" });
        guard.ok(&format!("ip addr add {address}/{length} dev eth1")).unwrap();
    }
    router.write(daemon.file, &(daemon.configure)(&cells)).unwrap();
    // Neighbours are resolved before, so that no first packet is about them.
    guard.ok("ping -c 1 -W 2 192.0.2.254 && ping -c 1 -W 2 2001:db8:1::fe").unwrap();
    let wire = Wire::tap(guard);
    let work = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(phases(daemon, &cells, router, &wire));
    };
    guard.in_namespace(work).unwrap();
    let table = table(daemon, &cells);
    println!("{table}");
    let documented = include_str!("../docs/routers.md").contains(&table);
    assert!(documented, "docs/routers.md says otherwise");
    println!("{} cells of {} in {:?}", cells.len(), daemon.name, begun.elapsed());
    lab.down().unwrap();
}

async fn phases(daemon: &Daemon, cells: &[Cell], router: &Node, wire: &Wire) {
    // Another password: TCP never comes about, however often it is tried.
    let sessions = start(cells, "other", |_| true).await;
    router.start().unwrap();
    every("two tries with the wrong password", &sessions, |session| wire.of(session.cell).syns >= 2).await;
    for session in &sessions {
        let status = session.status();
        assert!(status.established == 0 && status.received.messages == 0, "{:?}: {status:?}", session.cell);
    }
    stop(sessions).await;

    // No GTSM here. What was sent before the router has set the option on a new connection may get through, a whole handshake even; what
    // comes later does only where GTSM is ignored.
    wire.forget();
    let sessions = start(cells, PASSWORD, |_| false).await;
    daemon.nudge(router, cells.iter().filter(|cell| cell.passive));
    let ignored = |cell: Cell| !(daemon.gtsm)(cell);
    every("a connection without GTSM", &sessions, |session| {
        session.status().established > 0 || !ignored(session.cell) && wire.of(session.cell).segments > 0
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for session in &sessions {
        session.handle.apply(1, session.cell.routes(9).into_iter().map(|route| (route, true)));
    }
    let taken = |session: &Session| session.status().confirmed == Some(1);
    every("sessions without GTSM, where it is ignored", &sessions, |session| taken(session) || !ignored(session.cell))
        .await;
    // As long as a good session takes, and more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for session in &sessions {
        assert_eq!(taken(session), ignored(session.cell), "{:?} {}", session.cell, session.error());
    }
    let routes = daemon.routes(router);
    let leaked: Vec<&Cell> = cells.iter().filter(|cell| !ignored(**cell) && !routes.none(**cell, 9)).collect();
    assert!(leaked.is_empty(), "taken with any TTL: {leaked:?}");
    stop(sessions).await;

    // As it is to be. Some routers still have their end of a connection whose other end they heard nothing of.
    daemon.nudge(router, cells.iter());
    wire.forget();
    let sessions = start(cells, PASSWORD, daemon.gtsm).await;
    for session in &sessions {
        let routes = [session.cell.routes(1), session.cell.routes(2)].concat();
        session.handle.apply(1, routes.into_iter().map(|route| (route, true)));
    }
    daemon.nudge(router, cells.iter().filter(|cell| cell.passive));
    every("Established, confirmed", &sessions, |session| {
        let status = session.status();
        status.state == State::Established && status.confirmed == Some(1) && status.families == session.cell.families
    })
    .await;
    // What the kernel says for connections of before has its own TTL.
    wire.forget();
    let times: Vec<u64> = sessions.iter().map(|session| session.status().established).collect();
    let look = || daemon.routes(router);
    every_of("the routes with their next hops", &sessions, look, |session, routes| {
        routes.all(session.cell, 1) && routes.all(session.cell, 2)
    })
    .await;
    for session in &sessions {
        session.handle.apply(2, session.cell.routes(2).into_iter().map(|route| (route, false)));
    }
    every_of("the withdrawal", &sessions, look, |session, routes| {
        routes.none(session.cell, 2) && routes.all(session.cell, 1)
    })
    .await;
    every("segments of the router", &sessions, |session| wire.of(session.cell).segments > 0).await;
    for (session, times) in sessions.iter().zip(times) {
        let (seen, status) = (wire.of(session.cell), session.status());
        assert!(seen.unsigned == 0, "{:?}: {seen:?}", session.cell);
        assert!(!(daemon.gtsm)(session.cell) || seen.ttl == Some(255), "{:?}: {seen:?}", session.cell);
        assert_eq!(status.established, times, "{:?}: {}", session.cell, session.error());
    }

    // More than the router bears. FRR looks at its count one UPDATE late.
    for session in &sessions {
        let routes = (3..LIMIT + 10).flat_map(|n| session.cell.routes(n));
        session.handle.apply(3, routes.map(|route| (route, true)));
        session.handle.apply(4, session.cell.routes(100).into_iter().map(|route| (route, true)));
    }
    every("the router's limit", &sessions, |session| {
        session.error().contains("peer says: Cease, maximum number of prefixes reached")
    })
    .await;
    stop(sessions).await;
}

/// A row for each kind of session; a column for each set of families and each end that opens.
fn table(daemon: &Daemon, cells: &[Cell]) -> String {
    let mut out = String::new();
    for internal in [false, true] {
        for over_ipv6 in [false, true] {
            let row: Vec<&Cell> =
                cells.iter().filter(|cell| cell.internal == internal && cell.over_ipv6 == over_ipv6).collect();
            let kind = if internal { "iBGP" } else { "eBGP" };
            let over = if over_ipv6 { "IPv6" } else { "IPv4" };
            write!(out, "| {} | {kind} over {over} |", daemon.name).unwrap();
            for cell in &row {
                write!(out, " {} |", if (daemon.gtsm)(**cell) { "MD5, GTSM" } else { "MD5" }).unwrap();
            }
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn frr(cells: &[Cell]) -> String {
    let mut out = "frr defaults traditional\nhostname rtr\nroute-map ALL permit 10\n set ipv6 next-hop prefer-global\nroute-map DENY \
                   deny 10\nip route 0.0.0.0/0 blackhole\nipv6 route ::/0 blackhole\nno ip nht resolve-via-default\nno ipv6 nht \
                   resolve-via-default\nrouter bgp 64513\n bgp router-id 192.0.2.254\n no bgp default ipv4-unicast\n"
        .to_owned();
    for cell in cells {
        let (guard, asn) = (cell.guard(), cell.asn());
        writeln!(out, " neighbor {guard} remote-as {asn}\n neighbor {guard} password {PASSWORD}").unwrap();
        writeln!(out, " neighbor {guard} ttl-security hops 1\n neighbor {guard} timers 10 30").unwrap();
        writeln!(out, " neighbor {guard} timers connect 1").unwrap();
        if !cell.passive {
            writeln!(out, " neighbor {guard} passive").unwrap();
        }
    }
    for family in ["ipv4", "ipv6"] {
        writeln!(out, " address-family {family} unicast").unwrap();
        for cell in cells {
            if if family == "ipv4" { cell.families.ipv4 } else { cell.families.ipv6 } {
                let guard = cell.guard();
                writeln!(out, "  neighbor {guard} activate\n  neighbor {guard} route-map ALL in").unwrap();
                writeln!(out, "  neighbor {guard} route-map DENY out\n  neighbor {guard} maximum-prefix {LIMIT}")
                    .unwrap();
            }
        }
        writeln!(out, " exit-address-family").unwrap();
    }
    out
}

fn bird(cells: &[Cell]) -> String {
    let mut out = "router id 192.0.2.254;\nprotocol device { scan time 10; }\nprotocol direct { ipv4; ipv6; }\nprotocol kernel k4 { \
                   ipv4 { import none; export where source ~ [ RTS_STATIC, RTS_BGP ]; }; }\nprotocol kernel k6 { ipv6 { import none; \
                   export where source ~ [ RTS_STATIC, RTS_BGP ]; }; }\nprotocol static { ipv4; route 0.0.0.0/0 blackhole; }\nprotocol \
                   static { ipv6; route ::/0 blackhole; }\n"
        .to_owned();
    for cell in cells {
        let (number, router, guard, asn) = (cell.number, cell.router(), cell.guard(), cell.asn());
        writeln!(out, "protocol bgp cell{number} {{ local {router} as {ROUTER_AS}; neighbor {guard} as {asn}; direct;")
            .unwrap();
        writeln!(out, "  password \"{PASSWORD}\"; ttl security on; hold time 30; error wait time 1, 1;").unwrap();
        writeln!(
            out,
            "  connect retry time 1; connect delay time 1; {}",
            if cell.passive { "" } else { "passive on;" }
        )
        .unwrap();
        for (takes, family) in [(cell.families.ipv4, "ipv4"), (cell.families.ipv6, "ipv6")] {
            if takes {
                let limit = format!("import limit {LIMIT} action disable; gateway direct;");
                writeln!(out, "  {family} {{ import all; export none; {limit} }};").unwrap();
            }
        }
        writeln!(out, "}}").unwrap();
    }
    out
}

fn gobgp(cells: &[Cell]) -> String {
    let mut out = "[global.config]\n  as = 64513\n  router-id = \"192.0.2.254\"\n[global.apply-policy.config]\n  \
                   default-export-policy = \"reject-route\"\n"
        .to_owned();
    for cell in cells {
        writeln!(out, "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"", cell.guard()).unwrap();
        writeln!(out, "    peer-as = {}\n    auth-password = \"{PASSWORD}\"", cell.asn()).unwrap();
        writeln!(out, "  [neighbors.timers.config]\n    hold-time = 30\n    keepalive-interval = 10").unwrap();
        writeln!(out, "    connect-retry = 1\n    idle-hold-time-after-reset = 1").unwrap();
        writeln!(out, "  [neighbors.transport.config]\n    passive-mode = {}", !cell.passive).unwrap();
        writeln!(out, "  [neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255").unwrap();
        for (takes, family) in [(cell.families.ipv4, "ipv4"), (cell.families.ipv6, "ipv6")] {
            if takes {
                writeln!(out, "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]").unwrap();
                writeln!(out, "      afi-safi-name = \"{family}-unicast\"").unwrap();
                writeln!(out, "    [neighbors.afi-safis.prefix-limit.config]\n      max-prefixes = {LIMIT}").unwrap();
            }
        }
    }
    out
}

fn openbgpd(cells: &[Cell]) -> String {
    let mut out = "AS 64513\nrouter-id 192.0.2.254\nfib-update no\n".to_owned();
    for cell in cells {
        writeln!(out, "neighbor {} {{\n remote-as {}\n holdtime 30", cell.guard(), cell.asn()).unwrap();
        writeln!(out, " ttl-security yes\n tcp md5sig password \"{PASSWORD}\"\n max-prefix {LIMIT}").unwrap();
        if !cell.passive {
            writeln!(out, " passive").unwrap();
        }
        let word = |takes| if takes { "unicast" } else { "none" };
        writeln!(out, " announce IPv4 {}\n announce IPv6 {}\n}}", word(cell.families.ipv4), word(cell.families.ipv6))
            .unwrap();
    }
    out.push_str("allow from any\ndeny to any\n");
    out
}

const KERNEL: &str = "ip -4 route show; ip -6 route show";

#[test]
fn frr_in_every_combination() {
    matrix(&Daemon {
        name: "FRR 8.4",
        topology: "frr",
        file: "/etc/frr/frr.conf",
        configure: frr,
        nudge: |cell| format!("vtysh -c 'clear bgp {}'", cell.guard()),
        routes: KERNEL,
        gtsm: |_| true,
    });
}

#[test]
fn bird_in_every_combination() {
    matrix(&Daemon {
        name: "BIRD 2.0",
        topology: "bird",
        file: "/etc/bird/bird.conf",
        configure: bird,
        nudge: |cell| format!("birdc restart cell{}", cell.number),
        routes: KERNEL,
        gtsm: |_| true,
    });
}

#[test]
fn gobgp_in_every_combination() {
    matrix(&Daemon {
        name: "GoBGP 3.10",
        topology: "gobgp",
        file: "/etc/gobgp/gobgpd.toml",
        configure: gobgp,
        // "reset" leaves a connection alone that has not come up.
        nudge: |cell| {
            let neighbor = format!("gobgp neighbor {}", cell.guard());
            format!("{neighbor} disable; {neighbor} enable")
        },
        routes: "gobgp global rib -a ipv4; gobgp global rib -a ipv6",
        gtsm: |_| true,
    });
}

#[test]
fn openbgpd_in_every_combination() {
    matrix(&Daemon {
        name: "OpenBGPD 7.7",
        topology: "openbgpd",
        file: "/etc/bgpd.conf",
        configure: openbgpd,
        nudge: |cell| format!("bgpctl neighbor {} clear", cell.guard()),
        routes: "bgpctl show rib",
        gtsm: |cell| !cell.internal,
    });
}
