//! Groups of people on a running guard: clients that show certificates are kdig and curl, which have never seen this code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::dns::Server;
use lab::tcp::EchoServer;
use lab::{Lab, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);
const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < DEADLINE, "{what}: never");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every name has the address 198.51.100.9, which needs no lease.
fn upstream() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("udp://{}", socket.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let end = 12 + buffer[12..len].iter().position(|octet| *octet == 0).unwrap() + 5;
            let mut reply = buffer[..end].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            let a = buffer[end - 4..end - 2] == [0, 1];
            let rdata: &[u8] = if a { &[0, 4, 198, 51, 100, 9] } else { &[0, 2, 1, b'x'] };
            reply.extend_from_slice(&[0xc0, 12, 0, if a { 1 } else { 16 }, 0, 1, 0, 0, 0, 60]);
            reply.extend_from_slice(rdata);
            socket.send_to(&reply, peer).unwrap();
        }
    });
    url
}

/// A CA and those whom it signed, as files.
struct People {
    directory: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl People {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "people");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let people = Self { directory: tempfile::tempdir().unwrap(), ca };
        std::fs::write(people.path("ca.pem"), people.ca.pem()).unwrap();
        people
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// NAME.pem and NAME.key.
    fn sign(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

struct Guard {
    people: People,
    process: Child,
    dot: u16,
    doh: u16,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Guard {
    fn start(groups: &str) -> Self {
        let people = People::new();
        for name in ["guard.example", "anna.staff.example", "pad.kids.example", "somebody.example"] {
            people.sign(name);
        }
        let (dot, doh) = (free_port(), free_port());
        let text = format!(
            "[dns]\nlisten = [\"127.0.0.1:0\"]\n[[dns.upstream]]\nurl = \"{}\"\n\
             [dns.tls]\ncertificate = \"guard.example.pem\"\nkey = \"guard.example.key\"\nclient_ca = \"ca.pem\"\n\
             dot = [\"127.0.0.1:{dot}\"]\ndoh = [\"127.0.0.1:{doh}\"]\n\
             [addresses]\ninside = []\nopen = [\"198.51.100.0/24\"]\n[state]\ndir = \"state\"\n\
             [bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\nlisten = [\"127.0.0.1:0\"]\n\
             [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.77\"\nasn = 64513\npassive = true\nfamilies = [\"ipv4\"]\n\
             [policy]\ndeny = [\"secret.example\"]\n",
            upstream()
        );
        std::fs::write(people.path("base.toml"), &text).unwrap();
        std::fs::write(people.path("destguard.toml"), format!("{text}{groups}")).unwrap();
        let mut command = Command::new(DESTGUARD);
        command.arg("--socket").arg(people.path("control")).arg("--config").arg(people.path("destguard.toml"));
        let process = command.arg("run").stderr(Stdio::null()).spawn().unwrap();
        let guard = Self { people, process, dot, doh };
        eventually(&format!("it starts: {}", guard.run(&["check"]).1), || guard.run(&["peers"]).0);
        guard
    }

    /// Whether it succeeded, and what it printed.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(DESTGUARD);
        command.arg("--socket").arg(self.people.path("control"));
        command.arg("--config").arg(self.people.path("destguard.toml"));
        let output = command.args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (done, text) = self.run(&[arguments, &["--json"]].concat());
        assert!(done, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn reload(&self, groups: &str) {
        let base = std::fs::read_to_string(self.people.path("base.toml")).unwrap();
        std::fs::write(self.people.path("destguard.toml"), format!("{base}{groups}")).unwrap();
        let (done, text) = self.run(&["reload"]);
        assert!(done, "{text}");
    }

    /// Over TLS, by kdig: "NOERROR", "NXDOMAIN", or what it says else.
    fn dot(&self, person: Option<&str>, name: &str) -> String {
        let mut command = Command::new("kdig");
        command.args(["@127.0.0.1", "-p", &self.dot.to_string(), "+tls", "+timeout=20", "+retry=0", name, "A"]);
        if let Some(person) = person {
            command.arg(format!("+tls-certfile={}", self.people.path(&format!("{person}.pem")).display()));
            command.arg(format!("+tls-keyfile={}", self.people.path(&format!("{person}.key")).display()));
        }
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        ["NOERROR", "NXDOMAIN"]
            .into_iter()
            .find(|code| text.contains(&format!("status: {code}")))
            .unwrap_or(&text)
            .into()
    }

    /// Over HTTPS, by curl: the status, and the code of the reply.
    fn doh(&self, person: Option<&str>, path: &str, name: &str) -> (String, Option<u8>) {
        let mut question = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        let (asked, reply) = (self.people.path("question"), self.people.path("reply"));
        std::fs::write(&asked, question).unwrap();
        std::fs::write(&reply, "").unwrap();
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "%{http_code}", "--cacert"]);
        command.arg(self.people.path("ca.pem")).arg("--output").arg(&reply);
        command.arg("--data-binary").arg(format!("@{}", asked.display()));
        command.args(["--header", "content-type: application/dns-message"]);
        command.args(["--resolve", &format!("guard.example:{}:127.0.0.1", self.doh)]);
        if let Some(person) = person {
            command.arg("--cert").arg(self.people.path(&format!("{person}.pem")));
            command.arg("--key").arg(self.people.path(&format!("{person}.key")));
        }
        let output = command.arg(format!("https://guard.example:{}{path}", self.doh)).output().unwrap();
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        let code = std::fs::read(&reply).unwrap().get(3).map(|flags| flags & 15);
        (String::from_utf8(output.stdout).unwrap(), code)
    }

    fn metric(&self, start: &str) -> u64 {
        let mut command = Command::new("curl");
        command.arg("--silent").arg("--unix-socket").arg(self.people.path("control")).arg("http://localhost/metrics");
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

const GROUPS: &str = "[[policy.group]]\nname = \"staff\"\ncertificate = [\"*.staff.example\"]\nallow = [\"secret.example\"]\ndoh_path = \"/staff\"\n\
    [[policy.group]]\nname = \"kids\"\ncertificate = [\"*.kids.example\"]\ndoh_path = \"/dns-query/kids\"\ndeny = [\"games.example\"]\n";

#[test]
fn kdig_and_curl_are_judged_by_what_they_show() {
    let guard = Guard::start(GROUPS);
    let (anna, pad, somebody) = (Some("anna.staff.example"), Some("pad.kids.example"), Some("somebody.example"));
    for _ in 0..2 {
        for (person, [secret, games]) in [
            (anna, ["NOERROR", "NOERROR"]),
            (pad, ["NOERROR", "NXDOMAIN"]),
            (somebody, ["NXDOMAIN", "NOERROR"]),
            (None, ["NXDOMAIN", "NOERROR"]),
        ] {
            // The rules of a group stand in place of everybody's.
            assert_eq!(guard.dot(person, "secret.example"), secret, "{person:?}");
            assert_eq!(guard.dot(person, "games.example"), games, "{person:?}");
        }
    }
    for (person, path, name, expected) in [
        (None, "/dns-query", "secret.example", ("200", Some(3))),
        (None, "/staff", "secret.example", ("200", Some(0))),
        (None, "/dns-query/kids", "games.example", ("200", Some(3))),
        (pad, "/staff", "games.example", ("200", Some(3))),
        (anna, "/dns-query/kids", "games.example", ("200", Some(0))),
        (None, "/dns-query/cats", "games.example", ("404", None)),
    ] {
        let (status, code) = guard.doh(person, path, name);
        assert_eq!((status.as_str(), code), expected, "{person:?} {path} {name}");
    }
    // What the operator sees of it.
    let asked = guard.json(&["log", "--name", "games.example"]);
    let people: Vec<&str> =
        asked["asked"].as_array().unwrap().iter().filter_map(|one| one["person"].as_str()).collect();
    for person in ["anna.staff.example", "pad.kids.example", "/dns-query/kids"] {
        assert!(people.contains(&person), "{asked}");
    }
    let top = guard.run(&["top"]).1;
    assert!(top.contains("127.0.0.1 pad.kids.example"), "{top}");
    assert!(guard.metric("destguard_dns_group_questions_total{group=\"kids\"}") >= 5);
    let verdict = |words: &[&str]| guard.json(words)["now"]["verdict"].as_str().unwrap().to_owned();
    assert_eq!(verdict(&["explain", "games.example"]), "allowed");
    assert_eq!(verdict(&["explain", "games.example", "--group", "kids"]), "denied");
    assert_eq!(verdict(&["explain", "secret.example", "--client", "127.0.0.1"]), "denied");
    assert_eq!(verdict(&["explain", "secret.example", "--client", "127.0.0.1", "--group", "staff"]), "allowed");
    let (done, text) = guard.run(&["explain", "games.example", "--group", "cats"]);
    assert!(!done && text.contains("no [[policy.group]] is called \"cats\""), "{text}");
    // An exception for an address counts on top of whatever group asks from there.
    let (done, text) = guard.run(&["allow", "games.example", "--for", "1h", "--client", "127.0.0.1"]);
    assert!(done, "{text}");
    assert_eq!(guard.dot(pad, "games.example"), "NOERROR");
    assert_eq!(guard.dot(anna, "secret.example"), "NOERROR");
    assert_eq!(guard.dot(None, "secret.example"), "NXDOMAIN");
}

#[test]
fn a_reload_says_anew_who_is_who() {
    let guard = Guard::start(GROUPS);
    let (anna, pad) = (Some("anna.staff.example"), Some("pad.kids.example"));
    assert_eq!(guard.dot(anna, "secret.example"), "NOERROR");
    guard.reload(
        "[[policy.group]]\nname = \"staff\"\ncertificate = [\"otto.staff.example\"]\nallow = [\"secret.example\"]\n",
    );
    assert_eq!(guard.dot(anna, "secret.example"), "NXDOMAIN");
    assert_eq!(guard.dot(pad, "games.example"), "NOERROR");
    assert_eq!(guard.doh(None, "/staff", "secret.example").0, "404");
    let (done, text) = guard.run(&["explain", "games.example", "--group", "kids"]);
    assert!(!done, "{text}");
    // Another CA in the same file: read without a reload.
    let other = People::new();
    replace(&guard.people.path("ca.pem"), &other.ca.pem());
    eventually("the old CA's people are turned away", || {
        !["NOERROR", "NXDOMAIN"].contains(&guard.dot(anna, "a.example").as_str())
    });
    assert_eq!(guard.dot(None, "a.example"), "NOERROR");
    // A file that is none leaves all as it is, and is said.
    replace(&guard.people.path("ca.pem"), "nonsense");
    eventually("it is counted", || guard.metric("destguard_dns_certificate_errors_total ") > 0);
    assert_eq!(guard.dot(None, "a.example"), "NOERROR");
}

const CONFIG: &str = "/etc/destguard/destguard.toml";
const GATEWAY: &str = "[fd00:1::1]:53";
const PORT: u16 = 80;

/// A question from this address of the node, and a connection.
struct Host<'a>(&'a Lab, &'a str, &'a str);

impl Host<'_> {
    fn asks(&self, name: &str) -> Vec<IpAddr> {
        let (from, server): (IpAddr, SocketAddr) = (self.2.parse().unwrap(), GATEWAY.parse().unwrap());
        let ask = || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                question.push(u8::try_from(label.len()).unwrap());
                question.extend_from_slice(label.as_bytes());
            }
            question.extend_from_slice(&[0, 0, 28, 0, 1]);
            socket.send_to(&question, server).unwrap();
            let mut room = [0; 1500];
            let length = socket.recv(&mut room).unwrap();
            assert_eq!(room[3] & 15, 0, "{name}");
            // One record at the end: the address.
            let address: [u8; 16] = room[length - 16..length].try_into().unwrap();
            vec![IpAddr::from(address)]
        };
        self.0.node(self.1).in_namespace(ask).unwrap()
    }

    fn connects(&self, to: IpAddr) -> bool {
        let from: IpAddr = self.2.parse().unwrap();
        let connect = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            let done = socket.connect_timeout(&SocketAddr::new(to, PORT).into(), Duration::from_secs(1));
            drop(TcpStream::from(socket));
            done.is_ok()
        };
        self.0.node(self.1).in_namespace(connect).unwrap()
    }
}

#[test]
fn a_host_finds_open_by_one_address_what_it_asked_for_by_another() {
    let lab = Lab::builder("lab/gateway/gateway.clab.yml").destguard(DESTGUARD).hold("gateway").up().unwrap();
    let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
    let upstream = Server::start(lab.node("internet"), &upstreams).unwrap();
    let _echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
    let [one, other]: [IpAddr; 2] = ["2001:db8:ff::80", "2001:db8:ff::81"].map(|address| address.parse().unwrap());
    upstream.set_addresses("www.example.test", 600, &[one]);
    upstream.set_addresses("other.example.test", 600, &[other]);
    let gateway = lab.node("gateway");
    let base = gateway.file(CONFIG).unwrap();
    let configure = |prefix: &str| {
        let keys = format!("mode = \"gateway\"\nscope = \"client\"\n{prefix}");
        gateway.write(CONFIG, &base.replace("mode = \"gateway\"\n", &keys)).unwrap();
    };
    configure("client_ipv6_prefix = 64\n");
    gateway.start().unwrap();
    let json = |words: &[&str]| -> Value {
        let output = gateway.command(DESTGUARD).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    let begun = || json(&["status"])["state"] == "enforcing";
    assert!(wait_until(DEADLINE, begun), "{}", lab.logs());
    // A privacy address beside the first, and a neighbour in another network.
    lab.node("client").ok("ip -6 addr add fd00:1::aaaa:bbbb:cccc:dddd/64 dev eth1 nodad").unwrap();
    let stable = Host(&lab, "client", "fd00:1::2");
    let private = Host(&lab, "client", "fd00:1::aaaa:bbbb:cccc:dddd");
    let neighbour = Host(&lab, "client2", "fd00:4::2");
    assert!(!private.connects(one), "open although nobody asked");
    assert_eq!(stable.asks("www.example.test"), [one]);
    assert!(private.connects(one) && stable.connects(one), "{}", lab.logs());
    assert!(!neighbour.connects(one) && !private.connects(other), "what nobody of them asked for");
    // The other way round, and out of what is kept for the first.
    assert_eq!(private.asks("other.example.test"), [other]);
    assert_eq!(stable.asks("other.example.test"), [other]);
    assert!(stable.connects(other) && private.connects(other), "{}", lab.logs());
    assert_eq!(upstream.times_asked("other.example.test"), 1, "one client, one answer");
    let leases = json(&["leases", "2001:db8:ff::80"]);
    assert_eq!(leases["leases"][0]["clients"], serde_json::json!(["fd00:1::"]), "{leases}");
    // Another prefix waits for a restart, and says so; a killed guard keeps what was open.
    configure("");
    let reloaded = json(&["reload"]);
    let waits = reloaded["needs_restart"].to_string();
    assert!(waits.contains("nftables.client_ipv6_prefix: 64 -> 128"), "{reloaded}");
    assert!(private.connects(one), "{}", lab.logs());
    configure("client_ipv6_prefix = 64\n");
    gateway.kill();
    assert!(private.connects(one), "closed while the guard is away");
    gateway.start().unwrap();
    assert!(wait_until(DEADLINE, begun), "{}", lab.logs());
    assert!(private.connects(one) && !neighbour.connects(one), "{}", lab.logs());
    // Its element is one that the guard knows: it goes with the revocation.
    gateway.ok(&format!("{DESTGUARD} revoke www.example.test")).unwrap();
    assert!(wait_until(DEADLINE, || !private.connects(one)), "{}", lab.logs());
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}
