//! Names for one application of a host that guards itself: units, users and control groups, with real packets, in network namespaces and control groups of
//! their own; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use destguard::enforce::nftables::applications::held_members;
use destguard::enforce::nftables::kernel::Kernel;
use lab::dns::{self, Answer, Server};
use lab::tcp::EchoServer;
use lab::{Lab, wait_until};
use serde_json::Value;

const CONFIG: &str = "/etc/destguard/destguard.toml";
const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const PORT: u16 = 80;
const LONG: Duration = Duration::from_secs(60);
/// Long enough for a first packet on a busy machine; a refusal comes at once.
const CONNECT: u32 = 20;
/// A user without processes.
const USER: u32 = 54_321;
const WEB: &str = "[[nftables.application]]\nname = \"web\"\nunit = \"SLICE-web\"\nnames = [\"bound.test\"]\n";
const OTHER: &str =
    "[[nftables.application]]\nname = \"other\"\ncgroup = \"/SLICE.slice/made*\"\nnames = [\"other.test\"]\n";

/// A part of the host's tree of control groups, as systemd would make it. Removed at the end, with the processes in it.
struct Tree {
    root: PathBuf,
    /// A slice of this test's own.
    slice: String,
}

impl Tree {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = destguard::sys::cgroups::mounted().expect("control groups of version 2 are mounted");
        let slice = format!("dgtest{}x{}.slice", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let tree = Self { root, slice };
        fs::create_dir(tree.place("")).expect("a control group");
        tree
    }

    fn place(&self, below: &str) -> PathBuf {
        self.root.join(&self.slice).join(below)
    }

    /// As systemd does before it starts a unit.
    fn make(&self, below: &str) {
        fs::create_dir_all(self.place(below)).expect("a control group");
    }

    /// As it does when the last process is gone.
    fn remove(&self, below: &str) {
        let place = self.place(below);
        assert!(wait_until(LONG, || fs::remove_dir(&place).is_ok()), "{}", place.display());
    }

    fn path(&self, below: &str) -> String {
        format!("/{}/{below}", self.slice)
    }

    /// The unit with this name, which no other test has.
    fn unit(&self, name: &str) -> String {
        format!("{}-{name}.service", self.slice.trim_end_matches(".slice"))
    }

    /// The kernel gives it once.
    fn number(&self, below: &str) -> u64 {
        fs::metadata(self.place(below)).expect("a control group").ino()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fn empty(place: &Path) {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    empty(&entry.path());
                }
            }
            drop(fs::write(place.join("cgroup.kill"), "1"));
            wait_until(Duration::from_secs(5), || fs::remove_dir(place).is_ok() || !place.exists());
        }
        empty(&self.place(""));
    }
}

/// A program in a control group that connects when it is told to.
struct Program {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

/// Sends datagrams from one socket, for as long as it lives.
const SENDER: &str = r#"
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.0.2.1", 0))
while True:
    try:
        s.sendto(b"x", ("203.0.113.31", 4711))
    except OSError:
        pass
    time.sleep(0.1)
"#;

/// Reads lines of an address and a port, says "open" or what connect said.
const CLIENT: &str = r#"
import socket, sys
for line in sys.stdin:
    address, port = line.split()
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(TIMEOUT)
    try:
        s.connect((address, int(port)))
        s.sendall(b"x")
        print("open" if s.recv(1) == b"x" else "mute", flush=True)
    except OSError as e:
        print(type(e).__name__, e, flush=True)
    s.close()
"#;

struct World {
    lab: Lab,
    dns: Server,
    _echo: EchoServer,
    tree: Tree,
    /// Without the applications.
    text: String,
}

impl World {
    /// SLICE in `more` stands for the tree's own.
    fn up(more: &str) -> Self {
        let tree = Tree::new();
        let lab = Lab::builder("lab/single/single.clab.yml").destguard(DESTGUARD).hold("laptop").up().unwrap();
        let internet = lab.node("internet");
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        let echo = EchoServer::start(internet, PORT).unwrap();
        let text = lab.node("laptop").file(CONFIG).unwrap();
        let world = Self { lab, dns, _echo: echo, tree, text };
        world.name("bound.test", 31);
        world.name("other.test", 32);
        world.name("free.test", 33);
        world.write(more);
        world
    }

    fn name(&self, name: &str, last: u8) {
        self.dns.set_addresses(name, 300, &[IpAddr::from([203, 0, 113, last])]);
    }

    fn write(&self, more: &str) {
        let more = more.replace("SLICE", self.tree.slice.trim_end_matches(".slice"));
        self.lab.node("laptop").write(CONFIG, &format!("{}\n{more}", self.text)).unwrap();
    }

    fn start(&self) {
        self.lab.node("laptop").start().unwrap();
        assert!(wait_until(LONG, || self.json(&["status"])["state"] == "enforcing"), "{}", self.lab.logs());
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.lab.node("laptop").command(DESTGUARD).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn reload(&self, more: &str) -> Value {
        self.write(more);
        let reloaded = self.json(&["reload"]);
        assert_eq!(reloaded["applied"], true, "{reloaded}\n{}", self.lab.logs());
        reloaded
    }

    fn ask(&self, name: &str) -> Answer {
        let server: SocketAddr = "127.0.0.1:53".parse().unwrap();
        let ask = || dns::ask(server, name, dns::A, Duration::from_secs(30));
        let answer = self.lab.node("laptop").in_namespace(ask).unwrap().unwrap();
        assert_eq!(answer.addresses().len(), 1, "{name}: {answer:?}\n{}", self.lab.logs());
        answer
    }

    /// A program in this group of the tree, or in the root; as this user.
    fn program(&self, group: Option<&str>, user: Option<u32>) -> Program {
        let client = CLIENT.replace("TIMEOUT", &CONNECT.to_string());
        self.run(&client, group, user)
    }

    fn run(&self, client: &str, group: Option<&str>, user: Option<u32>) -> Program {
        let into = group
            .map_or_else(|| self.tree.root.join("cgroup.procs"), |group| self.tree.place(group).join("cgroup.procs"));
        let user = user.map_or_else(String::new, |user| format!("setpriv --reuid {user} --clear-groups "));
        let line = format!("echo $$ > {} && exec {user}env PATH=/usr/bin:/bin python3 -c \"$CLIENT\"", into.display());
        let mut child = self
            .lab
            .node("laptop")
            .command("sh")
            .args(["-c", &line])
            .env("CLIENT", client)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Program { child, said }
    }

    fn table(&self) -> String {
        self.lab.node("laptop").ok("nft list table inet destguard").unwrap()
    }

    fn applications(&self) -> Value {
        self.json(&["status"])["applications"].clone()
    }
}

impl Program {
    fn connects(&mut self, last: u8) -> bool {
        self.connects_to(last, PORT)
    }

    fn connects_to(&mut self, last: u8, port: u16) -> bool {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "203.0.113.{last} {port}").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the program ended");
        line.trim() == "open"
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn only_the_unit_reaches_its_names_whoever_asked_and_a_restart_has_no_gap() {
    let world = World::up(WEB);
    let (web, other) = (world.tree.unit("web"), world.tree.unit("other"));
    world.tree.make(&web);
    world.tree.make(&other);
    // What looks like the unit, and was made below another.
    let imitation = format!("{other}/{web}");
    world.tree.make(&imitation);
    world.start();
    world.ask("bound.test");
    world.ask("free.test");

    let mut inside = world.program(Some(&web), None);
    assert!(inside.connects(31), "{}\n{}", world.table(), world.lab.logs());
    assert!(inside.connects(33), "what is not bound is open for everybody");
    let nested = format!("{web}/worker");
    world.tree.make(&nested);
    assert!(world.program(Some(&nested), None).connects(31), "what is below it is part of it");
    for elsewhere in [None, Some(other.as_str()), Some(imitation.as_str())] {
        let mut program = world.program(elsewhere, None);
        assert!(!program.connects(31), "{elsewhere:?}\n{}", world.table());
        assert!(program.connects(33), "{elsewhere:?}\n{}", world.lab.logs());
    }

    // Who was refused.
    let refused = || {
        let page = world.json(&["denied"]);
        let all = page["denied"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .filter(|one| one["what"] == "203.0.113.31 tcp/80")
            .map(|one| one["by"].clone())
            .collect::<Vec<_>>()
    };
    assert!(wait_until(LONG, || refused().iter().any(|by| by["uid"] == 0)), "{:?}", refused());

    let explained = world.json(&["explain", "203.0.113.31"]);
    assert_eq!(explained["addresses"][0]["open_ports"][0]["application"], "web", "{explained}");
    let text = world.lab.node("laptop").ok(&format!("{DESTGUARD} explain 203.0.113.31; {DESTGUARD} leases")).unwrap();
    for part in ["all ports open to application web by bound.test", "for web only"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let page = world.json(&["denied"]).to_string();
    assert!(page.contains("leased for application web only"), "{page}");

    // The unit starts again and again: each first packet gets through.
    drop(inside);
    let mut before = world.tree.number(&web);
    for round in 0..5 {
        if round == 0 {
            world.tree.remove(&nested);
        }
        world.tree.remove(&web);
        world.tree.make(&web);
        let now = world.tree.number(&web);
        assert_ne!(now, before, "the kernel gives another number");
        before = now;
        assert!(world.program(Some(&web), None).connects(31), "round {round}\n{}", world.lab.logs());
    }
    let known = world.applications();
    assert_eq!(known[0]["name"], "web", "{known}");
    assert_eq!(known[0]["cgroups"], serde_json::json!([world.tree.path(&web)]), "{known}");
}

#[test]
fn an_address_that_an_unbound_name_opened_as_well_is_open_for_everybody() {
    let world = World::up(WEB);
    world.name("same.test", 31);
    let web = world.tree.unit("web");
    world.tree.make(&web);
    world.start();
    world.ask("bound.test");
    let (mut inside, mut outside) = (world.program(Some(&web), None), world.program(None, None));
    assert!(inside.connects(31) && !outside.connects(31), "{}", world.lab.logs());
    world.ask("same.test");
    assert!(inside.connects(31) && outside.connects(31), "{}\n{}", world.table(), world.lab.logs());
}

#[test]
fn a_user_is_told_by_its_sockets() {
    let user = format!("[[nftables.application]]\nname = \"user\"\nuser = \"{USER}\"\nnames = [\"bound.test\"]\n");
    let world = World::up(&user);
    world.start();
    world.ask("bound.test");
    assert!(world.program(None, Some(USER)).connects(31), "{}\n{}", world.table(), world.lab.logs());
    assert!(!world.program(None, None).connects(31));
    assert!(!world.program(None, Some(USER + 1)).connects(31));
    let refused = || {
        let page = world.json(&["denied"]);
        let all = page["denied"].as_array().cloned().unwrap_or_default();
        all.iter().any(|one| one["what"] == "203.0.113.31 tcp/80" && one["by"]["uid"] == USER + 1)
    };
    assert!(wait_until(LONG, refused), "{}", world.json(&["denied"]));
}

#[test]
fn a_reload_adds_changes_and_removes_applications() {
    let world = World::up("");
    let web = world.tree.unit("web");
    world.tree.make(&web);
    world.tree.make("made1");
    world.tree.make("elsewhere");
    world.start();
    world.ask("bound.test");
    world.ask("other.test");
    let (mut inside, mut made) = (world.program(Some(&web), None), world.program(Some("made1"), None));
    let mut elsewhere = world.program(Some("elsewhere"), None);
    assert!(inside.connects(31) && made.connects(32) && elsewhere.connects(32), "{}", world.lab.logs());

    // The first one, too, comes without a restart.
    let none = serde_json::json!([]);
    assert_eq!(world.reload(WEB)["needs_restart"], none);
    assert!(wait_until(LONG, || !elsewhere.connects(31)), "open for everybody still\n{}", world.table());
    assert!(elsewhere.connects(32), "another name is open as before");
    world.ask("bound.test");
    assert!(inside.connects(31) && !elsewhere.connects(31), "{}\n{}", world.table(), world.lab.logs());

    assert_eq!(world.reload(&format!("{WEB}{OTHER}"))["needs_restart"], none);
    assert!(wait_until(LONG, || !elsewhere.connects(32)), "open for everybody still\n{}", world.table());
    world.ask("other.test");
    assert!(made.connects(32) && !elsewhere.connects(32), "{}\n{}", world.table(), world.lab.logs());
    assert!(inside.connects(31), "the first one is as it was");

    assert_eq!(world.reload(&format!("{WEB}{}", OTHER.replace("made*", "else*")))["needs_restart"], none);
    assert!(
        wait_until(LONG, || elsewhere.connects(32) && !made.connects(32)),
        "{}\n{}",
        world.table(),
        world.lab.logs()
    );

    assert_eq!(world.reload(OTHER)["needs_restart"], none);
    assert!(!world.table().contains("app_web"), "{}", world.table());
    assert!(wait_until(LONG, || !inside.connects(31)), "what was open for it alone is closed");
    world.ask("bound.test");
    assert!(inside.connects(31) && elsewhere.connects(31), "{}", world.lab.logs());
    assert_eq!(world.reload("")["needs_restart"], none);
    let table = world.table();
    assert!(!table.contains("app_") && !table.contains("applications"), "{table}");
    world.ask("other.test");
    assert!(made.connects(32), "{}", world.lab.logs());
}

#[test]
fn it_holds_when_the_guard_is_killed_and_when_others_flush_the_ruleset() {
    let world = World::up(WEB);
    let web = world.tree.unit("web");
    world.tree.make(&web);
    world.start();
    world.ask("bound.test");
    let (mut inside, mut outside) = (world.program(Some(&web), None), world.program(None, None));
    assert!(inside.connects(31) && !outside.connects(31), "{}", world.lab.logs());

    world.lab.node("laptop").ok("nft flush ruleset").unwrap();
    assert!(!outside.connects(31), "closed at every moment");
    assert!(wait_until(LONG, || inside.connects(31)), "{}\n{}", world.table(), world.lab.logs());

    world.lab.node("laptop").kill();
    assert!(inside.connects(31) && !outside.connects(31), "the table stays");
    // Another number, which nobody tells the kernel.
    drop(inside);
    world.tree.remove(&web);
    world.tree.make(&web);
    let mut inside = world.program(Some(&web), None);
    assert!(!inside.connects(31), "it fails closed");
    world.start();
    assert!(wait_until(LONG, || inside.connects(31)), "{}\n{}", world.table(), world.lab.logs());
    assert!(!outside.connects(31));
}

#[test]
fn denied_names_the_unit_and_the_process_while_the_socket_is_there() {
    let world = World::up(WEB);
    let other = world.tree.unit("other");
    world.tree.make(&other);
    world.start();
    world.ask("bound.test");
    let _sender = world.run(SENDER, Some(&other), Some(USER));
    let named = || {
        let page = world.json(&["denied"]);
        let all = page["denied"].as_array().cloned().unwrap_or_default();
        all.iter().any(|one| {
            let by = &one["by"];
            by["uid"] == USER
                && by["unit"] == other.as_str()
                && by["cgroup"] == world.tree.path(&other)
                && by["process"].as_str().is_some_and(|name| name.starts_with("python"))
        })
    };
    assert!(wait_until(LONG, named), "{}", world.json(&["denied"]));
    let text = world.lab.node("laptop").ok(&format!("{DESTGUARD} denied")).unwrap();
    assert!(text.contains(&format!("{other}, user {USER}, python")), "{text}");
}

/// What the kernel's map has in the node.
fn known(world: &World) -> BTreeSet<u64> {
    let read = || held_members(&mut Kernel::open().unwrap()).unwrap();
    world.lab.node("laptop").in_namespace(read).unwrap()
}

#[test]
fn a_unit_of_a_users_manager_is_followed_and_numbers_go_with_their_groups() {
    let config = format!(
        "[[nftables.application]]\nname = \"sync\"\nunit = \"SLICE-sync@*\"\nuser = \"{USER}\"\nnames = [\"bound.test\"]\n"
    );
    let world = World::up(&config);
    let manager = world.tree.root.join(format!("user.slice/user-{USER}.slice/user@{USER}.service"));
    let unit = manager.join("app.slice").join(world.tree.unit("sync@a"));
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            for place in self.0.ancestors().take(5) {
                drop(fs::remove_dir(place));
            }
        }
    }
    world.start();
    assert_eq!(known(&world), BTreeSet::new());
    let mut waits = Vec::new();
    for _ in 0..10 {
        let _gone = Gone(unit.clone());
        fs::create_dir_all(&unit).unwrap();
        let (began, number) = (Instant::now(), fs::metadata(&unit).unwrap().ino());
        while known(&world) != BTreeSet::from([number]) {
            assert!(began.elapsed() < LONG, "{}", world.lab.logs());
        }
        waits.push(began.elapsed());
        fs::remove_dir(&unit).unwrap();
        assert!(wait_until(LONG, || known(&world).is_empty()), "{}", world.lab.logs());
    }
    waits.sort_unstable();
    println!("known to the kernel behind the making of five directories: {waits:?}");
}

#[test]
fn ports_are_those_that_the_application_and_the_policy_let_through() {
    let config = WEB.replace("\"bound.test\"", "\"bound.test:81\", \"other.test\"");
    let rule = "[policy]\nallow = [\"other.test:80\", \"bound.test\"]\n";
    let world = World::up(&format!("{rule}{config}"));
    let _second = EchoServer::start(world.lab.node("internet"), 81).unwrap();
    let web = world.tree.unit("web");
    world.tree.make(&web);
    world.start();
    world.ask("bound.test");
    world.ask("other.test");
    let (mut inside, mut outside) = (world.program(Some(&web), None), world.program(None, None));
    assert!(inside.connects_to(31, 81), "{}\n{}", world.table(), world.lab.logs());
    assert!(!inside.connects_to(31, 80) && !outside.connects_to(31, 81));
    assert!(inside.connects_to(32, 80), "{}\n{}", world.table(), world.lab.logs());
    assert!(!inside.connects_to(32, 81) && !outside.connects_to(32, 80));
}
