//! Live flows keep their routes on a router that null-routes everything else, as real exporters report them: softflowd and pmacctd on the FRR router.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lab::Process;

use super::*;

/// The guard listens here.
const FLOWS: &str = "10.0.3.2:2055";
/// A lease of the test lasts 2 s, its route another 6; exporters report every second or two.
const SHORT: [(&str, &str); 3] = [
    ("[lease]\n", "[lease]\nmin = \"1s\"\nmax = \"2s\"\ngrace = \"0s\"\n"),
    ("linger = \"10m\"", "linger = \"6s\""),
    (
        "[bgp]\nasn",
        "[flows]\nlisten = [\"10.0.3.2:2055\"]\n[[flows.exporter]]\naddress = \"10.0.3.1\"\nkind = \"KIND\"\ninterval = \"2s\"\n\n[bgp]\nasn",
    ),
];
/// More than ten leases.
const TEN_LEASES: Duration = Duration::from_secs(21);
/// A router that is withdrawn would stall the connection for good; a busy machine doesn't.
const STALL: Duration = Duration::from_secs(8);

/// Programs that report flows on the router, and how.
#[derive(Clone, Copy)]
enum Exporter {
    Softflowd(&'static str),
    Pmacctd(&'static str),
}

struct Flows {
    world: World,
    exporter: Option<Process>,
}

impl Flows {
    fn up(kind: &str, exporter: Exporter) -> Self {
        let flows = SHORT[2].1.replace("KIND", kind);
        let world = World::up(FRR, &[SHORT[0], SHORT[1], (SHORT[2].0, &flows)]);
        let router = world.node("router");
        let path = |name: &str| router.path(format!("/etc/{name}")).to_str().unwrap().to_owned();
        let exporter = match exporter {
            Exporter::Softflowd(version) => {
                let (pid, control) = (path("softflowd.pid"), path("softflowd.ctl"));
                let every = ["-t", "maxlife=1", "-t", "expint=1"];
                let preload = format!("LD_PRELOAD={}", immediate().display());
                let fixed = [&preload, "softflowd", "-d", "-i", "eth2", "-n", FLOWS, "-v", version];
                let files = ["-p", &pid, "-c", &control];
                router.spawn("env", &[&fixed[..], &files, &every].concat()).unwrap()
            }
            Exporter::Pmacctd(lines) => {
                let config = format!("daemonize: false\npcap_interface: eth2\n{lines}");
                router.write("/etc/pmacctd.conf", &config).unwrap();
                router.spawn("pmacctd", &["-f", &path("pmacctd.conf")]).unwrap()
            }
        };
        Self { world, exporter: Some(exporter) }
    }

    /// Resolves a name and connects; the connection is used until the test ends it.
    fn connect(&self, address: IpAddr, rtype: u16, number: u32) -> TcpStream {
        let answer = self.world.resolve("client", &format!("n{number}.many.test"), rtype);
        assert_eq!(answer.addresses(), [address], "{:?}", answer.message);
        let connect = || TcpStream::connect_timeout(&SocketAddr::new(address, PORT), STALL);
        self.world.node("client").in_namespace(connect).unwrap().unwrap()
    }

    fn explained(&self, address: IpAddr) -> Value {
        let guard = self.world.node("guard");
        let arguments = ["explain", &address.to_string(), "--json"];
        let output = guard.command(env!("CARGO_BIN_EXE_destguard")).args(arguments).output().unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        all["addresses"][0].clone()
    }

    fn warns(&self, word: &str) -> bool {
        let status = self.world.ask_guard("status");
        let warnings = status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        warnings.filter(|warning| warning.contains(word)).count() > 0
    }
}

/// Has libpcap hand over each packet as it comes.
fn immediate() -> &'static Path {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("immediate-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/immediate.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        assert!(built.unwrap().success());
        library
    });
    &BUILT
}

/// Speaks over a connection for so long.
fn speak(stream: &mut TcpStream, span: Duration) -> std::io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < span {
        tcp::ping(stream, b"still here", STALL)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A connection outlives ten of its leases, and one that ends lets its route go.
fn outlives_its_leases(kind: &str, exporter: Exporter, rtype: u16) {
    let flows = Flows::up(kind, exporter);
    let address = many(rtype, 1);
    let mut stream = flows.connect(address, rtype, 1);
    let spoken = speak(&mut stream, TEN_LEASES);
    assert!(spoken.is_ok(), "{spoken:?}\n{}\n{}", flows.explained(address), flows.world.lab.logs());
    assert!(flows.world.routes.last(address, false).is_none(), "its route was away for a moment");
    let explained = flows.explained(address);
    assert_eq!(explained["state"], "lingering", "the lease itself has ended: {explained}");
    let held = &explained["held_by_flow_seconds"];
    assert!(held[0].as_u64().is_some_and(|seconds| seconds <= 6), "{explained}");
    assert!(held[1].as_u64().is_some_and(|seconds| seconds > 86_000), "{explained}");
    assert_eq!(flows.world.ask_guard("status")["leases"]["held_by_flows"], 1);
    let over = Instant::now();
    drop(stream);
    let gone = || flows.world.routes.last(address, false).is_some();
    assert!(wait_until(LONG, gone), "the route stays: {}{}", flows.explained(address), flows.world.lab.logs());
    let life = flows.world.routes.last(address, false).unwrap().saturating_duration_since(over);
    eprintln!("{kind}: the route was gone {life:?} behind the end of the flow");
}

#[test]
fn a_connection_outlives_its_leases_by_ipfix() {
    outlives_its_leases("ipfix", Exporter::Softflowd("10"), dns::A);
}

#[test]
fn a_connection_outlives_its_leases_by_netflow_5() {
    outlives_its_leases("netflow5", Exporter::Softflowd("5"), dns::A);
}

#[test]
fn a_connection_outlives_its_leases_by_netflow_9_of_ipv6() {
    outlives_its_leases("netflow9", Exporter::Softflowd("9"), dns::AAAA);
}

#[test]
fn a_connection_outlives_its_leases_by_netflow_9_of_pmacctd() {
    let lines = "plugins: nfprobe\nnfprobe_receiver: 10.0.3.2:2055\nnfprobe_version: 9\n\
                 nfprobe_timeouts: maxlife=1:expint=1\naggregate: src_host, dst_host, src_port, dst_port, proto, tcpflags\n";
    outlives_its_leases("netflow9", Exporter::Pmacctd(lines), dns::A);
}

#[test]
fn a_connection_outlives_its_leases_by_sflow() {
    let lines = "plugins: sfprobe\nsfprobe_receiver: 10.0.3.2:2055\nsampling_rate: 1\n";
    outlives_its_leases("sflow", Exporter::Pmacctd(lines), dns::A);
}

/// Datagrams of others, or of no flow, keep nothing; an exporter that dies keeps nothing either, and the guard says so.
#[test]
fn a_stranger_keeps_no_route_and_a_silent_exporter_none_any_more() {
    let mut flows = Flows::up("netflow5", Exporter::Softflowd("5"));
    let (held, forged) = (many(dns::A, 1), many(dns::A, 2));
    let mut stream = flows.connect(held, dns::A, 1);
    flows.world.resolve("client", "n2.many.test", dns::A);
    let IpAddr::V4(to) = forged else { panic!("{forged}") };
    let mut datagram = vec![0, 5, 0, 1];
    datagram.extend([0; 20]);
    datagram.extend([10, 0, 1, 2]);
    datagram.extend(to.octets());
    datagram.extend([0; 40]);
    let sender = flows.world.node("client").in_namespace(|| UdpSocket::bind("10.0.1.2:0")).unwrap().unwrap();
    let begun = Instant::now();
    while !gone_of(&flows, forged) {
        assert!(begun.elapsed() < LONG, "a stranger keeps a route: {}", flows.explained(forged));
        sender.send_to(&datagram, FLOWS).unwrap();
        speak(&mut stream, Duration::from_millis(200)).unwrap();
    }
    let spoken = speak(&mut stream, Duration::from_secs(8));
    assert!(spoken.is_ok() && !gone_of(&flows, held), "{spoken:?} {}", flows.world.lab.logs());
    assert!(!flows.warns("is silent"), "{}", flows.world.ask_guard("status"));

    drop(flows.exporter.take());
    let begun = Instant::now();
    while !gone_of(&flows, held) {
        assert!(begun.elapsed() < LONG, "an exporter that is gone keeps a route: {}", flows.explained(held));
        if let Err(error) = tcp::ping(&mut stream, b"still here", Duration::from_millis(500)) {
            eprintln!("the connection stalls: {error}");
        }
    }
    assert!(
        wait_until(LONG, || flows.warns("the flow exporter 10.0.3.1 is silent")),
        "{}",
        flows.world.ask_guard("status")
    );
    assert!(flows.world.lab.logs().contains("a flow exporter is silent"), "{}", flows.world.lab.logs());
}

fn gone_of(flows: &Flows, address: IpAddr) -> bool {
    flows.world.routes.last(address, false).is_some()
}

/// The guard's own host is the gateway: its kernel knows each connection, and no exporter is needed. It is asked every 20 s.
#[test]
fn a_connection_outlives_its_leases_by_the_kernels_own_table() {
    let wanted = "[flows]\nconntrack = true\n\n[nftables]\nmode = \"both\"\ninside = [\"eth1\"]\n\n[bgp]\nasn";
    let linger = Duration::from_secs(30);
    let world = World::up(FRR, &[SHORT[0], (SHORT[1].0, "linger = \"30s\""), ("[bgp]\nasn", wanted)]);
    let flows = Flows { world, exporter: None };
    let address = many(dns::A, 1);
    let answer = flows.world.resolve("guard", "n1.many.test", dns::A);
    assert_eq!(answer.addresses(), [address], "{:?}", answer.message);
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(address, PORT), STALL);
    let mut stream = flows.world.node("guard").in_namespace(connect).unwrap().unwrap();
    // Longer than its lease and the linger behind it.
    let spoken = speak(&mut stream, linger + Duration::from_secs(12));
    assert!(spoken.is_ok(), "{spoken:?}\n{}\n{}", flows.explained(address), flows.world.lab.logs());
    assert!(!gone_of(&flows, address), "its route was away for a moment");
    assert_eq!(flows.world.ask_guard("status")["leases"]["held_by_flows"], 1);
    drop(stream);
    // Three times it isn't seen any more.
    let gone = || gone_of(&flows, address);
    assert!(wait_until(4 * linger, gone), "the route stays: {}{}", flows.explained(address), flows.world.lab.logs());
}
