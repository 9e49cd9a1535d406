//! What the guard listens on: addresses that come later, go and come again; interfaces by name; hosts without IPv6. In network namespaces; needs root.
// Helpers outside of #[test] functions fail a test as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// For the one system call that takes an address family away.
#![allow(unsafe_code)]

use std::net::{SocketAddr, SocketAddrV6, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use lab::{Lab, Node, dns, wait_until};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const LONG: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(2);
const LISTEN: &str = "listen = [\"127.0.0.1:53\", \"[::1]:53\"]";

struct World {
    lab: Lab,
    _dns: dns::Server,
}

impl World {
    /// `edits` change the configuration of the single host; it isn't started.
    fn up(edits: &[(&str, &str)]) -> Self {
        let lab = Lab::builder("lab/single/single.clab.yml").destguard(BINARY).hold("laptop").up().unwrap();
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = dns::Server::start(lab.node("internet"), &upstreams).unwrap();
        let host = lab.node("laptop");
        let mut text = host.file(CONFIG).unwrap();
        for (from, to) in edits {
            assert!(text.contains(from), "{from:?} is not in {CONFIG}");
            text = text.replace(from, to);
        }
        host.write(CONFIG, &text).unwrap();
        host.ok("install -d -m 755 /run/destguard /var/lib/destguard").unwrap();
        Self { lab, _dns: dns }
    }

    fn host(&self) -> &Node {
        self.lab.node("laptop")
    }

    fn start(&self) {
        self.host().start().unwrap();
    }

    fn status(&self) -> Value {
        let output = self.host().command(BINARY).args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn lines(&self, key: &str) -> Vec<String> {
        let status = self.status();
        status[key].as_array().into_iter().flatten().filter_map(|line| line.as_str().map(str::to_owned)).collect()
    }

    /// Whether a reason says this of that address.
    fn says(&self, address: &str, what: &str) -> bool {
        self.lines("reasons").iter().any(|line| line.contains(address) && line.contains(what))
    }

    fn answers(&self, node: &str, server: SocketAddr) -> bool {
        let ask = || dns::ask(server, "n1.many.test", dns::A, ANSWER);
        self.lab.node(node).in_namespace(ask).unwrap().is_ok_and(|answer| answer.addresses().len() == 1)
    }

    fn connects(&self, to: &str) -> bool {
        let to: SocketAddr = to.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, ANSWER).is_ok();
        self.lab.node("internet").in_namespace(connect).unwrap()
    }

    fn until(&self, what: &str, met: impl FnMut() -> bool) {
        assert!(wait_until(LONG, met), "not in time: {what}; {}{}", self.status(), self.lab.logs());
    }
}

fn write_certificate(host: &Node) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["guard.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    host.write("/etc/destguard/cert.pem", &certificate.pem()).unwrap();
    host.write("/etc/destguard/key.pem", &key.serialize_pem()).unwrap();
}

/// A virtual address (VRRP, VPN, boot order) that isn't there at the start.
#[test]
fn an_address_that_comes_later_is_served_when_it_comes_and_named_until_then() {
    let listen = "listen = [\"127.0.0.1:53\", \"10.0.2.77:53\", \"[fd00:2::77]:53\"]";
    let more = "[dns.tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\ndot = [\"10.0.2.77:853\"]\ndoh = [\"10.0.2.77:443\"]\n\
                doq = [\"10.0.2.77:853\"]\n\n[http]\nlisten = [\"10.0.2.77:8080\"]\n\n[bgp]\nasn = 64512\nrouter_id = \"10.0.2.1\"\n\
                next_hop_ipv4 = \"10.0.2.2\"\nnext_hop_ipv6 = \"fd00:2::2\"\nlisten = [\"10.0.2.77:179\"]\n\n[[bgp.peer]]\nname = \"later\"\naddress = \"10.0.2.200\"\n\
                asn = 64513\npassive = true\nrequired = false\n\n[addresses]\ninside = []\n\n[nftables]";
    let clients = ("clients = [\"127.0.0.0/8\"", "clients = [\"10.0.0.0/8\", \"fd00::/16\", \"127.0.0.0/8\"");
    let world = World::up(&[(LISTEN, listen), clients, ("[nftables]", more)]);
    write_certificate(world.host());
    world.start();
    world.until("the start", || world.answers("laptop", "127.0.0.1:53".parse().unwrap()));
    let all = [
        "dns.listen: 10.0.2.77:53",
        "dns.listen: [fd00:2::77]:53",
        "dns.tls.dot: 10.0.2.77:853",
        "dns.tls.doh: 10.0.2.77:443",
        "dns.tls.doq: 10.0.2.77:853",
        "http.listen: 10.0.2.77:8080",
        "bgp.listen: 10.0.2.77:179",
    ];
    for one in all {
        assert!(world.says(one, "is no address of this host now"), "{one}: {}", world.status());
    }
    assert_eq!(world.status()["state"], "degraded");

    let mut quickest = LONG;
    for round in 0..3 {
        world.host().ok("ip addr add 10.0.2.77/24 dev eth1").unwrap();
        let added = Instant::now();
        world.until("no reason", || !world.says("10.0.2.77", ""));
        quickest = quickest.min(added.elapsed());
        world.until("an answer", || world.answers("internet", "10.0.2.77:53".parse().unwrap()));
        for to in ["10.0.2.77:853", "10.0.2.77:443", "10.0.2.77:8080", "10.0.2.77:53"] {
            assert!(world.connects(to), "{to} in round {round}: {}", world.lab.logs());
        }
        world.host().ok("ip addr del 10.0.2.77/24 dev eth1").unwrap();
        world.until("the reason again", || world.says("dns.listen: 10.0.2.77:53", "is no address"));
    }
    assert!(quickest < Duration::from_secs(5), "the kernel tells of it: {quickest:?}");

    world.host().ok("ip addr add 10.0.2.77/24 dev eth1; ip -6 addr add fd00:2::77/64 dev eth1 nodad").unwrap();
    world.until("an answer", || world.answers("internet", "[fd00:2::77]:53".parse().unwrap()));
    world.until("all is well", || world.status()["state"] == "enforcing");
}

/// The backup of a VRRP pair: it is ready to take over, which is what keepalived asks it.
#[test]
fn the_backup_of_a_virtual_address_is_ready() {
    let listen = "listen = [\"127.0.0.1:53\", \"10.0.2.77:53\"]\nvirtual_addresses = [\"10.0.2.77\"]";
    let more = "[http]\nlisten = [\"127.0.0.1:8080\", \"10.0.2.77:8080\"]\n\n[nftables]";
    let clients = ("clients = [\"127.0.0.0/8\"", "clients = [\"10.0.0.0/8\", \"127.0.0.0/8\"");
    let world = World::up(&[(LISTEN, listen), clients, ("[nftables]", more)]);
    world.start();
    let ready = || world.host().ok("curl -sf http://127.0.0.1:8080/ready").is_ok();
    world.until("/ready", ready);
    assert!(!world.says("10.0.2.77", ""), "{}", world.status());
    for key in ["dns.listen: 10.0.2.77:53", "http.listen: 10.0.2.77:8080"] {
        assert!(world.lines("warnings").iter().any(|line| line.contains(key)), "{key}: {}", world.status());
    }
    world.host().ok("ip addr add 10.0.2.77/24 dev eth1").unwrap();
    world.until("an answer", || world.answers("internet", "10.0.2.77:53".parse().unwrap()));
    world.until("no warning", || !world.lines("warnings").iter().any(|line| line.contains("10.0.2.77")));
    // It goes to the other host again.
    world.host().ok("ip addr del 10.0.2.77/24 dev eth1").unwrap();
    world.until("the warning", || world.lines("warnings").iter().any(|line| line.contains("10.0.2.77")));
    assert!(ready() && world.status()["state"] == "enforcing", "{}", world.status());
}

/// A container or a small host: no file names protocols and services.
#[test]
fn a_host_without_the_names_of_protocols_is_guarded() {
    let modes = [
        ("mode = \"local\"", "mode = \"both\"\ninside = [\"eth9\"]\nredirect_dns = true"),
        ("[nftables]", "[nftables]"),
    ];
    for edit in modes {
        let world = World::up(&[edit]);
        world.host().ok("rm /etc/protocols /etc/services").unwrap();
        world.start();
        world.until("an answer", || world.answers("laptop", "127.0.0.1:53".parse().unwrap()));
        world.until("all is well", || world.status()["state"] == "enforcing");
    }
}

/// `fe80::77%late0` before there is `late0`, and when it was taken away and came again with another number.
#[test]
fn an_interface_is_named_and_may_come_later() {
    let listen = "listen = [\"127.0.0.1:53\", \"[fe80::77%late0]:53\"]";
    let world = World::up(&[
        (LISTEN, listen),
        ("clients = [\"127.0.0.0/8\"", "clients = [\"fe80::/10\", \"127.0.0.0/8\""),
        ("[nftables]", "[http]\nlisten = [\"[fe80::77%late0]:8080\"]\n\n[nftables]"),
    ]);
    world.start();
    world.until("the start", || world.answers("laptop", "127.0.0.1:53".parse().unwrap()));
    for key in ["dns.listen", "http.listen"] {
        assert!(
            world.says(&format!("{key}: [fe80::77%late0]"), "there is no interface late0 now"),
            "{}",
            world.status()
        );
    }
    for _ in 0..2 {
        world
            .host()
            .ok("ip link add late0 type veth peer name late1 && ip link set late0 up && ip link set late1 up")
            .unwrap();
        world.host().ok("ip addr add fe80::77/64 dev late0 nodad").unwrap();
        let shown = world.host().ok("ip -o link show late0").unwrap();
        let index: u32 = shown.split(':').next().unwrap().parse().unwrap();
        let at = |port| SocketAddr::from(SocketAddrV6::new("fe80::77".parse().unwrap(), port, 0, index));
        world.until("an answer", || world.answers("laptop", at(53)));
        let http = || TcpStream::connect_timeout(&at(8080), ANSWER).is_ok();
        world.until("HTTP", || world.host().in_namespace(http).unwrap());
        world.until("no reason", || !world.says("late0", ""));
        world.host().ok("ip link del late0").unwrap();
        world.until("the reason", || world.says("dns.listen: [fe80::77%late0]:53", "there is no interface late0 now"));
    }
}

/// An upstream on a link-local address is asked as soon as its interface is there, and is named until then.
#[test]
fn an_upstream_names_its_interface_which_may_come_later() {
    let world = World::up(&[
        ("url = \"udp://192.0.2.53\"", "url = \"udp://[fe80::53%late0]\""),
        ("[[dns.upstream]]\nurl = \"udp://[2001:db8:53::53]\"\n", ""),
    ]);
    let internet = world.lab.node("internet");
    internet.ok("ip -6 addr add fe80::53/64 dev eth1 nodad").unwrap();
    let shown = internet.ok("ip -o link show eth1").unwrap();
    let index: u32 = shown.split(':').next().unwrap().parse().unwrap();
    let at = SocketAddr::from(SocketAddrV6::new("fe80::53".parse().unwrap(), 53, 0, index));
    let _upstream = dns::Server::start(internet, &[at]).unwrap();
    world.start();
    world.until("the reason", || {
        world.says("dns.upstream udp://[fe80::53%late0]:53", "there is no interface late0 now")
    });
    assert!(!world.answers("laptop", "127.0.0.1:53".parse().unwrap()));
    world.host().ok("ip link set eth1 down && ip link set eth1 name late0 && ip link set late0 up").unwrap();
    world.until("an answer", || world.answers("laptop", "127.0.0.1:53".parse().unwrap()));
    world.until("no reason", || !world.says("late0", ""));
}

/// IPv6 switched off by sysctl: the default addresses are no error, and nothing to be degraded for.
#[test]
fn the_default_addresses_serve_a_host_whose_ipv6_is_off() {
    let world = World::up(&[(LISTEN, "")]);
    let ipv6 = |off: u8| {
        let keys = ["all", "default", "lo", "eth1"].map(|name| format!("net.ipv6.conf.{name}.disable_ipv6={off}"));
        world.host().ok(&format!("sysctl -qw {}", keys.join(" "))).unwrap();
    };
    ipv6(1);
    world.start();
    world.until("an answer", || world.answers("laptop", "127.0.0.1:53".parse().unwrap()));
    world.until("enforcing", || world.status()["state"] == "enforcing");
    assert!(world.lines("warnings").iter().any(|line| line.contains("dns.listen: [::1]:53")), "{}", world.status());
    ipv6(0);
    world.until("an answer", || world.answers("laptop", "[::1]:53".parse().unwrap()));
    world.until("no warning", || !world.lines("warnings").iter().any(|line| line.contains("[::1]:53")));
}

/// A kernel without IPv6 (`ipv6.disable=1`) has no such sockets.
#[test]
fn the_default_addresses_serve_a_host_whose_kernel_has_no_ipv6() {
    let world = World::up(&[
        (LISTEN, ""),
        ("[nftables]", "[http]\nlisten = [\"127.0.0.1:8080\", \"[::1]:8080\"]\n\n[nftables]"),
    ]);
    world.host().ok("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1").unwrap();
    let log = world.lab.directory().join("without-ipv6.log");
    let file = std::fs::File::create(&log).unwrap();
    let mut command = world.host().command(BINARY);
    command.args(["run", "--config", CONFIG]).stderr(file);
    // SAFETY: between fork and exec only system calls are made.
    let mut guard = unsafe { command.pre_exec(without_ipv6) }.spawn().unwrap();
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    let well = || world.answers("laptop", "127.0.0.1:53".parse().unwrap()) && world.status()["state"] == "enforcing";
    let well = wait_until(LONG, well);
    let said = world.lines("warnings");
    let status = world.status();
    guard.kill().unwrap();
    guard.wait().unwrap();
    assert!(well, "{status} {}", logged());
    for key in ["dns.listen: [::1]:53", "http.listen: [::1]:8080"] {
        let named = said.iter().any(|line| line.contains(key) && line.contains("Address family not supported"));
        assert!(named, "{key}: {said:?} {}", logged());
    }
}

/// Every socket(AF_INET6, ...) fails with EAFNOSUPPORT from now on.
fn without_ipv6() -> std::io::Result<()> {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        // The number of the call, then the lower half of its first argument.
        step(load, 0, 0, 0),
        step(equal, 0, 3, libc::SYS_socket as u32),
        step(load, 0, 0, if cfg!(target_endian = "little") { 16 } else { 20 }),
        step(equal, 0, 1, libc::AF_INET6 as u32),
        step(end, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        step(end, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: both calls take numbers, and a pointer to a program that lives across the call.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
