//! Thirty programs live behind a guard in audit; what `suggest` writes of that, loaded, admits what they use and nothing else. The real daemon, confined
//! as it is by default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For whatever must happen in the end.
const PATIENCE: Duration = Duration::from_secs(60);
const A: u8 = 1;
const CNAME: u8 = 5;
const PTR: u8 = 12;
const MX: u8 = 15;
const AAAA: u8 = 28;
const HTTPS: u8 = 65;

/// Names with what is there of each type.
type Zone = BTreeMap<String, Vec<(u8, Vec<u8>)>>;

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    out.push(0);
    out
}

fn upstream(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&answer(&buffer, &zone), from));
        }
    });
    address
}

/// Follows aliases; NXDOMAIN for what isn't there, NODATA for other types.
fn answer(query: &[u8], zone: &Zone) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let len = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + len]).to_lowercase());
        at += 1 + len;
    }
    let qtype = query[at + 2];
    let mut out = query[..at + 5].to_vec();
    out[2] = 0x81;
    out[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    let mut owner = labels.join(".");
    out[3] = if zone.contains_key(&owner) { 0x80 } else { 0x83 };
    while let Some(data) = zone.get(&owner) {
        let mut next = None;
        for (kind, rdata) in data.iter().filter(|(kind, _)| [qtype, CNAME].contains(kind)) {
            out[7] += 1;
            out.extend(wire(&owner));
            out.extend([0, *kind, 0, 1, 0, 0, 0, 60]);
            out.extend((rdata.len() as u16).to_be_bytes());
            out.extend(rdata);
            next = (*kind == CNAME).then(|| {
                let (mut at, mut labels) = (0, Vec::new());
                while rdata[at] != 0 {
                    let len = usize::from(rdata[at]);
                    labels.push(String::from_utf8_lossy(&rdata[at + 1..=at + len]).to_string());
                    at += 1 + len;
                }
                labels.join(".")
            });
        }
        let Some(next) = next else { break };
        owner = next;
    }
    out
}

/// A running daemon with its directory.
struct Guard {
    directory: tempfile::TempDir,
    child: Option<Child>,
    dns: SocketAddr,
    upstream: SocketAddr,
}

impl Guard {
    fn start(zone: Zone, more: &str) -> Self {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dns = SocketAddr::from(([127, 0, 0, 1], port));
        let directory = tempfile::tempdir().unwrap();
        let mut guard = Self { directory, child: None, dns, upstream: upstream(zone) };
        guard.write("audit", more);
        guard.run();
        guard
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, mode: &str, more: &str) {
        let text = format!(
            "mode = \"{mode}\"\n[dns]\nlisten = [\"{}\"]\nworkers = 1\n[[dns.upstream]]\nurl = \"udp://{}\"\n\
             [addresses]\ninside = []\n[bgp]\nenforce = false\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\n\
             [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.1\"\nport = 9\nasn = 64513\nfamilies = [\"ipv4\"]\n\
             [state]\ndir = \"{}\"\n{more}\n",
            self.dns,
            self.upstream,
            self.path("state").display()
        );
        std::fs::write(self.path("destguard.toml"), text).unwrap();
    }

    fn reload(&self, mode: &str, more: &str) {
        self.write(mode, more);
        let output = self.command(&["reload"]);
        assert!(output.status.success(), "{output:?}");
    }

    fn run(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_destguard"))
            .arg("--socket")
            .arg(self.path("control.sock"))
            .args(["run", "--config"])
            .arg(self.path("destguard.toml"))
            .stderr(std::fs::File::create(self.path("words")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = child;
        let began = Instant::now();
        while !self.command(&["status"]).status.success() {
            assert!(child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "{}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child = Some(child);
    }

    fn stop(&mut self) {
        assert!(self.command(&["stop"]).status.success());
        assert!(self.child.take().unwrap().wait().unwrap().success(), "{}", self.words());
    }

    fn words(&self) -> String {
        std::fs::read_to_string(self.path("words")).unwrap()
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_destguard"));
        command.arg("--socket").arg(self.path("control.sock")).args(words).output().unwrap()
    }

    fn text(&self, words: &[&str]) -> String {
        let output = self.command(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[words, &["--json"]].concat())).unwrap()
    }

    fn run_program(&self, program: &Program) {
        for (name, qtype) in &program.asks {
            self.ask(program.client, name, *qtype);
        }
    }

    /// The code of the reply and how many answers it has.
    fn ask(&self, client: u8, name: &str, qtype: u8) -> (u8, u8) {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, client), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let query = [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &wire(name), &[0, qtype, 0, 1]].concat();
        socket.send_to(&query, self.dns).unwrap();
        let mut buffer = [0; 1500];
        socket.recv(&mut buffer).unwrap();
        (buffer[3] & 0x0f, buffer[7])
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// What a program does.
#[derive(Default)]
struct Program {
    client: u8,
    asks: Vec<(String, u8)>,
    /// What it can't do without.
    needs: Vec<(String, u8)>,
}

impl Program {
    fn new(client: u8) -> Self {
        Self { client, ..Self::default() }
    }

    fn needs(&mut self, name: &str, qtype: u8) {
        self.needs.push((name.to_owned(), qtype));
        self.asks(name, qtype);
    }

    fn asks(&mut self, name: &str, qtype: u8) {
        self.asks.push((name.to_owned(), qtype));
    }
}

/// Thirty programs on ten hosts, each with habits of its own, and what there is in the world: more than they use.
fn world() -> (Vec<Program>, Zone) {
    let mut zone = Zone::new();
    let mut last = 0;
    let mut host = |zone: &mut Zone, name: &str| {
        last += 1;
        zone.entry(name.to_lowercase()).or_default().push((A, vec![45, 10, 1, last]));
    };
    let mut programs = Vec::new();
    for n in 0..30_u8 {
        let mut program = Program::new(10 + n % 10);
        let domain = format!("maker{n}.test");
        // What is there and nobody asks for.
        host(&mut zone, &format!("other.{domain}"));
        host(&mut zone, &domain);
        match n % 10 {
            // A browser: both families, a type of service binding, an alias to somebody else's network.
            0 => {
                let name = format!("www.{domain}");
                zone.entry(name.clone()).or_default().push((CNAME, wire(&format!("edge{n}.cdn.test"))));
                host(&mut zone, &format!("edge{n}.cdn.test"));
                program.needs(&name, A);
                [AAAA, HTTPS].iter().for_each(|kind| program.asks(&name, *kind));
            }
            // An updater: once.
            1 => {
                host(&mut zone, &format!("updates.{domain}"));
                program.needs(&format!("updates.{domain}"), A);
            }
            // A pool: many names of one domain.
            2 => {
                for m in 0..12 {
                    host(&mut zone, &format!("{m}.pool.{domain}"));
                    program.needs(&format!("{m}.pool.{domain}"), A);
                }
            }
            // A mail server: names that have no address.
            3 => {
                zone.entry(domain.clone())
                    .or_default()
                    .push((MX, [&[0, 10][..], &wire(&format!("mx.{domain}"))].concat()));
                host(&mut zone, &format!("mx.{domain}"));
                program.needs(&domain, MX);
                program.needs(&format!("mx.{domain}"), A);
            }
            // With a search list: the first name isn't there.
            4 => {
                host(&mut zone, &format!("api.{domain}"));
                program.asks(&format!("api.{domain}.office.test"), A);
                program.needs(&format!("api.{domain}"), A);
            }
            // Polls, in all cases of letters.
            5 => {
                host(&mut zone, &format!("poll.{domain}"));
                ["poll", "POLL", "pOlL"].iter().for_each(|word| program.asks(&format!("{word}.{domain}"), A));
                program.needs(&format!("poll.{domain}"), A);
            }
            // Makes names up, to find out about the network.
            6 => {
                host(&mut zone, &format!("sync.{domain}"));
                (0..5).for_each(|m| program.asks(&format!("xq{n}{m}zk"), A));
                program.needs(&format!("sync.{domain}"), A);
            }
            // A log server: looks addresses up.
            7 => {
                let name = format!("{n}.1.10.45.in-addr.arpa");
                zone.entry(name.clone()).or_default().push((PTR, wire(&domain)));
                program.needs(&name, PTR);
                program.needs(&domain, A);
            }
            // Asks for what leads into the network, which the filter takes out, and for itself.
            8 => {
                zone.entry(format!("printer.{domain}")).or_default().push((A, vec![192, 168, 7, n]));
                program.asks(&format!("printer.{domain}"), A);
                program.asks("localhost", A);
                host(&mut zone, &format!("store.{domain}"));
                program.needs(&format!("store.{domain}"), A);
            }
            // Shows advertisements, which the operator has denied.
            _ => {
                host(&mut zone, &format!("{n}.ads.test"));
                program.asks(&format!("{n}.ads.test"), A);
                program.needs(&domain, A);
            }
        }
        programs.push(program);
    }
    (programs, zone)
}

const LOADED: &str = "[policy]\ndefault = \"deny\"\ndeny = [\"ads.test\"]\n[[policy.list]]\nname = \"suggested\"\n\
                      path = \"suggested.txt\"\nformat = \"domains\"\naction = \"allow\"\n";

#[test]
fn what_thirty_programs_did_in_audit_is_what_the_suggested_list_admits() {
    let (programs, zone) = world();
    let mut guard = Guard::start(zone.clone(), "[policy]\ndeny = [\"ads.test\"]\n");
    assert!(guard.text(&["suggest"]).contains("no question was seen yet"));
    // Half of them before a restart, half of them behind it, and some again.
    let (first, second) = programs.split_at(15);
    let run = |guard: &Guard, programs: &[Program]| {
        for program in programs {
            guard.run_program(program);
        }
    };
    run(&guard, first);
    let before = guard.json(&["suggest"]);
    guard.stop();
    guard.run();
    assert_eq!(guard.json(&["suggest"]), before, "a restart forgets nothing");
    run(&guard, second);
    run(&guard, &first[..3]);

    let told = guard.json(&["suggest"]);
    let by_name: BTreeMap<&str, &Value> =
        told["names"].as_array().unwrap().iter().map(|one| (one["name"].as_str().unwrap(), one)).collect();
    let by_name = |name: &str| *by_name.get(name).unwrap_or_else(|| panic!("{name}: {told:#}"));
    let of = |name: &str| (by_name(name)["verdict"].as_str().unwrap(), by_name(name)["questions"].as_u64().unwrap());
    assert_eq!(of("www.maker0.test"), ("suggested", 6));
    assert_eq!(of("updates.maker11.test"), ("suggested", 1));
    assert_eq!(of("poll.maker5.test"), ("suggested", 4));
    assert_eq!((of("xq60zk").0, of("printer.maker8.test").0, of("9.ads.test").0), ("nothing", "filtered", "denied"));
    assert_eq!(by_name("9.ads.test")["why"], "ads.test (policy.deny[0])");
    assert_eq!(of("in-addr.arpa"), ("reverse", 3));
    assert!(!told.to_string().contains("localhost") && !told.to_string().contains("cdn.test"));

    let text = guard.text(&["suggest"]);
    assert!(text.contains("# pool.maker2.test") || text.contains("# maker2.test instead allows them all"), "{text}");
    std::fs::write(guard.path("suggested.txt"), &text).unwrap();
    guard.reload("enforce", LOADED);
    let reverse = |name: &str| name.ends_with("in-addr.arpa");
    let mut needed = BTreeSet::new();
    for program in &programs {
        for (name, qtype) in program.needs.iter().filter(|(name, _)| !reverse(name)) {
            let (code, answers) = guard.ask(program.client, name, *qtype);
            assert!(code == 0 && answers > 0, "{name} {qtype}: {code}\n{text}");
            needed.insert(name.clone());
        }
    }
    for name in zone.keys().filter(|name| !needed.contains(*name) && !reverse(name)) {
        let asked = name.starts_with("printer.");
        let (code, answers) = guard.ask(10, name, A);
        assert!(answers == 0 && (code != 0 || asked), "{name} is admitted: {code}\n{text}");
    }
}

#[test]
fn of_some_clients_and_of_hidden_ones() {
    let (programs, zone) = world();
    let guard = Guard::start(zone, "");
    for program in &programs {
        guard.run_program(program);
    }
    // One host alone: its programs are the first of each ten.
    let text = guard.text(&["suggest", "--client", "127.0.0.10"]);
    let rules = |text: &str| {
        text.lines()
            .filter(|line| line.starts_with('='))
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&text), ["=www.maker0.test", "=www.maker10.test", "=www.maker20.test"], "{text}");
    assert!(text.contains("clients = [\"127.0.0.10/32\"]"), "{text}");
    let net = guard.text(&["suggest", "--client", "127.0.0.10/31", "--at-least", "2"]);
    assert_eq!(rules(&net), rules(&text), "updaters asked once\n{net}");
    assert!(net.contains("\n#=updates.maker1.test"), "{net}");
    assert_eq!(guard.command(&["suggest", "--client", "x"]).status.code(), Some(2));

    guard.reload("audit", "[log]\nhide = [\"clients\"]\n");
    assert_eq!(guard.command(&["suggest", "--client", "127.0.0.10"]).status.code(), Some(2));
    assert!(guard.text(&["suggest"]).contains("=www.maker0.test"));
    guard.reload("audit", "[log]\nhide = [\"names\"]\n");
    let refused = guard.command(&["suggest"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("log.hide has \"names\""), "{refused:?}");
    guard.reload("audit", "");
    assert!(guard.text(&["suggest"]).contains("no question was seen yet"), "hidden is forgotten");
}

#[test]
fn top_and_denied_say_what_would_be_refused_by_which_list_and_hide_what_is_hidden() {
    let (_, zone) = world();
    let guard = Guard::start(zone, "");
    std::fs::write(guard.path("trackers.txt"), "maker0.test\n").unwrap();
    let rules = "[policy]\ndeny = [\"ads.test\"]\n[[policy.list]]\nname = \"trackers\"\npath = \"trackers.txt\"\n\
                 format = \"domains\"\naction = \"deny\"\n";
    guard.reload("audit", rules);
    for _ in 0..2 {
        // Once by the upstream, then out of the cache.
        assert_eq!(guard.ask(10, "9.ads.test", A), (0, 1), "nothing is denied");
        guard.ask(10, "www.maker0.test", A);
        guard.ask(10, "maker1.test", A);
        guard.ask(11, "printer.maker8.test", A);
    }
    let top = guard.json(&["top"]);
    let mut denied: Vec<_> = top["denied"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["count"].as_u64().unwrap()))
        .collect();
    denied.sort_unstable();
    assert_eq!(denied, [("9.ads.test", 2), ("printer.maker8.test", 2), ("www.maker0.test", 2)], "{top:#}");
    let text = guard.text(&["top"]);
    let listed = "maker0.test (list trackers, ";
    assert!(text.contains("would be denied") && text.contains(listed), "{text}");
    let text = guard.text(&["log", "--name", "www.maker0.test"]);
    assert_eq!(text.matches("would deny: maker0.test (list trackers, ").count(), 2, "{text}");
    assert!(!guard.text(&["log", "--name", "maker1.test"]).contains("would deny"));
    assert!(guard.text(&["denied"]).contains(listed));
    assert!(guard.text(&["status"]).contains("\ntrackers "), "{}", guard.text(&["status"]));

    guard.reload("audit", &format!("{rules}[log]\nhide = [\"names\", \"clients\"]\n"));
    for words in
        [&["denied"][..], &["denied", "--json"], &["denied", "--top", "9"], &["log"], &["top"], &["top", "--json"]]
    {
        let text = guard.text(words);
        assert!(text.contains('#'), "{words:?}: {text}");
        assert!(
            ["maker", "ads.test", "127.0.0", "192.168"].iter().all(|word| !text.contains(word)),
            "{words:?}: {text}"
        );
    }
    let refused = guard.command(&["denied", "--client", "127.0.0.10"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");

    guard.reload("audit", &format!("{rules}[log]\nqueries = 0\n"));
    let text = guard.text(&["top"]);
    assert!(text.contains("log.queries is 0") && !text.contains("0 questions"), "{text}");
    guard.write("audit", "[log]\nqueries = 100000000\n");
    let refused = guard.command(&["reload"]);
    assert!(String::from_utf8_lossy(&refused.stdout).contains("at most 1000000"), "{refused:?}");
}
