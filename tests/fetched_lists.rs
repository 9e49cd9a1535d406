//! A gateway whose list comes from a web server: what the server does, and doesn't, is never what stops the guard. In network namespaces; needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

#[path = "support/programs.rs"]
mod programs;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::dns::{self, Server};
use lab::{Lab, Process, wait_until};
use serde_json::Value;

const CONFIG: &str = "/etc/destguard/destguard.toml";
const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fetched_lists/server.py");
const LONG: Duration = Duration::from_secs(60);
/// Where the lists are.
const AT: [u8; 4] = [203, 0, 113, 1];

struct World {
    lab: Lab,
    _dns: Server,
    directory: tempfile::TempDir,
}

impl World {
    fn up(url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        programs::certificates(directory.path(), &[("site", &["lists.test"])]);
        let lab = Lab::builder("lab/gateway/gateway.clab.yml").destguard(DESTGUARD).hold("gateway").up().unwrap();
        let internet = lab.node("internet");
        let dns =
            Server::start(internet, &["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap())).unwrap();
        dns.set_addresses("lists.test", 300, &[IpAddr::from(AT)]);
        dns.set_addresses("one.test", 300, &["203.0.113.31".parse().unwrap()]);
        dns.set_addresses("two.test", 300, &["203.0.113.32".parse().unwrap()]);
        let world = Self { lab, _dns: dns, directory };
        let gateway = world.lab.node("gateway");
        let more = format!(
            "[[policy.list]]\nname = \"bad\"\nurl = \"{url}\"\nca = \"{}/ca.pem\"\nmax_size = \"64KiB\"\nformat = \"domains\"\naction = \"deny\"\n",
            world.directory.path().display()
        );
        gateway.write(CONFIG, &format!("{}\n{more}", gateway.file(CONFIG).unwrap())).unwrap();
        gateway.start().unwrap();
        world
    }

    fn serve(&self) -> Process {
        let at = self.directory.path().display();
        let arguments = [SERVER, &format!("{at}"), &format!("{at}/site.pem"), &format!("{at}/site.key"), "203.0.113.1"];
        let server = self.lab.node("internet").spawn("python3", &arguments).unwrap();
        assert!(wait_until(LONG, || server.log().contains("serves")), "{}", server.log());
        server
    }

    fn list(&self, text: &str) {
        std::fs::write(self.directory.path().join("list.txt"), text).unwrap();
    }

    fn status(&self) -> Value {
        let output = self.lab.node("gateway").command(DESTGUARD).args(["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn reload(&self) {
        self.lab.node("gateway").ok(&format!("{DESTGUARD} reload")).unwrap();
    }

    fn denies(&self, name: &str) -> bool {
        let server: SocketAddr = "10.0.1.1:53".parse().unwrap();
        let ask = || dns::ask(server, name, dns::A, Duration::from_secs(5));
        let answer = self.lab.node("client").in_namespace(ask).unwrap();
        answer.is_ok_and(|answer| answer.rcode() == dns::NXDOMAIN)
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        assert!(wait_until(LONG, holds), "{what}: {}\n{}", self.status(), self.lab.logs());
    }

    /// Reloads until the server's last word is in the warnings.
    fn refused(&self, words: &str) {
        self.reload();
        self.until(words, || self.status()["warnings"].to_string().contains(words));
        assert!(self.denies("one.test") && !self.denies("two.test"), "the list before stays: {}", self.status());
        assert_eq!(self.status()["state"], "enforcing");
    }
}

#[test]
fn a_list_is_fetched_kept_and_fetched_anew_whatever_its_server_does() {
    let world = World::up("https://lists.test/list.txt");
    let gateway = world.lab.node("gateway");

    // Nobody serves it yet: the guard serves, and says what is missing.
    world.until("starts", || world.status()["state"] == "degraded");
    assert!(world.status()["reasons"].to_string().contains("https://lists.test/list.txt was not fetched yet"));
    assert!(!world.denies("one.test"));

    world.list("one.test\n");
    let server = world.serve();
    world.reload();
    world.until("fetched", || world.denies("one.test") && world.status()["state"] == "enforcing");
    let list = world.status()["lists"][0].clone();
    assert_eq!(list["path"], "https://lists.test/list.txt");
    assert_eq!(list["sha256"], "9d393ccd7ac1b14fd29160d2864636250f9e77ea6be2436da6b9df679a15458e", "{list}");
    assert!(list["fetch"]["seconds_ago"].as_u64().unwrap() < 60 && list["fetch"]["error"].is_null(), "{list}");
    assert!(list["fetch"]["next_in_seconds"].as_u64().unwrap() > 80_000, "{list}");

    // It isn't sent again while it is the same.
    world.reload();
    world.until("asked whether it changed", || server.log().contains("304 /list.txt"));

    // What is no list, or is too much, changes nothing.
    world.list("<html><body>maintenance</body></html>\n");
    world.refused("web page");
    world.list(&"# filler\n".repeat(8_000));
    world.refused("longer than 65536 octets");
    world.list("one.test\nno such..name\n");
    world.refused("line 2");
    std::fs::remove_file(world.directory.path().join("list.txt")).unwrap();
    world.refused("HTTP status 404");

    // Gone, and the host starts anew: the last good one serves at once.
    drop(server);
    gateway.stop();
    gateway.start().unwrap();
    world.until("starts again", || world.status()["state"] == "enforcing");
    assert!(world.denies("one.test") && !world.denies("two.test"), "{}", world.status());

    // Another one.
    world.list("two.test\n");
    let _server = world.serve();
    world.reload();
    world.until("the other one", || world.denies("two.test") && !world.denies("one.test"));
    assert!(world.status()["warnings"].to_string().find("lists.test").is_none(), "{}", world.status());
}

#[test]
fn a_redirect_is_followed_and_never_out_of_https() {
    let world = World::up("https://lists.test/old");
    world.list("one.test\n");
    let server = world.serve();
    world.reload();
    world.until("fetched", || world.denies("one.test"));
    assert!(server.log().contains("302 /old") && server.log().contains("200 /list.txt"), "{}", server.log());

    let gateway = world.lab.node("gateway");
    let text = gateway.file(CONFIG).unwrap().replace("https://lists.test/old", "https://lists.test/plain");
    gateway.write(CONFIG, &text).unwrap();
    world.reload();
    world.until("not followed", || world.status()["warnings"].to_string().contains("not https://"));
    assert!(!world.denies("one.test"), "what was fetched from elsewhere isn't this list");
    assert!(!server.log().contains("/plain\n200"), "{}", server.log());

    // An address stands for no name: what DNS told is all that is connected to.
    gateway.write(CONFIG, &text.replace("https://lists.test/plain", "https://lists.test/address")).unwrap();
    world.reload();
    world.until("no address", || world.status()["warnings"].to_string().contains("led to the address 203.0.113.1"));
}

#[test]
fn a_check_says_what_is_wrong_with_a_source() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("destguard.toml");
    let check = |list: &str| {
        let base = "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[nftables]\nmode = \"local\"\n";
        let text = format!("{base}[[policy.list]]\nformat = \"domains\"\naction = \"deny\"\n{list}");
        std::fs::write(&config, text).unwrap();
        let output = std::process::Command::new(DESTGUARD).args(["check", "--config"]).arg(&config).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for (list, words) in [
        ("", "`path` or `url` is missing"),
        ("path = \"a.txt\"\nurl = \"https://lists.example/a\"\n", "a list comes from one of them"),
        ("url = \"http://lists.example/a\"\n", "is not https://"),
        ("url = \"https://lists.example/a\"\nrefresh = \"1s\"\n", "too often"),
        ("url = \"https://lists.example/a\"\nmax_size = \"1GiB\"\n", "a list has 134217728 octets at most"),
    ] {
        let (code, said) = check(list);
        assert!(code == Some(2) && said.contains(words), "{list}: {said}");
    }
    let (code, said) = check("url = \"https://lists.example/a\"\n");
    assert_eq!(code, Some(0), "{said}");
}
