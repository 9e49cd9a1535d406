//! Programs that people use load a page over DNS over HTTPS that they know by name alone (`https://guard.example.test/dns-query`), the guard being their
//! only resolver: Chromium in secure mode, Firefox in TRR mode 3, curl, Node and Python. Behind a gateway, and on a host that guards itself. In network
//! namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lab::dns::Server;
use lab::{Lab, Node, tcp, wait_until};

#[path = "support/programs.rs"]
#[allow(dead_code)]
mod programs;

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";
const LONG: Duration = Duration::from_secs(60);
/// Less than the second after which Linux sends a lost SYN again.
const FIRST_SYN: Duration = Duration::from_millis(300);
const DOH: &str = "https://guard.example.test/dns-query";
const HELPERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/encrypted");

/// Each has a page of its own, and so addresses that nobody else opens.
const PROGRAMS: [&str; 5] = ["curl", "python", "node", "chromium", "firefox"];

fn page(program: &str) -> String {
    format!("www-{program}.example.test")
}

/// Of the page, of its picture.
fn addresses(program: &str) -> [[IpAddr; 2]; 2] {
    let nth = PROGRAMS.iter().position(|other| *other == program).unwrap();
    [0, 100].map(|more| {
        let last = u8::try_from(nth + 10 + more).unwrap();
        let six = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, last.into());
        [Ipv4Addr::new(203, 0, 113, last).into(), six.into()]
    })
}

/// Where the programs run.
#[derive(Clone, Copy)]
struct Place {
    file: &'static str,
    guard: &'static str,
    client: &'static str,
    resolver: &'static str,
    doh: &'static str,
}

const GATEWAY: Place = Place {
    file: "lab/gateway/gateway.clab.yml",
    guard: "gateway",
    client: "client",
    resolver: "10.0.1.1",
    doh: "\"0.0.0.0:443\", \"[::]:443\"",
};
const LAPTOP: Place = Place {
    file: "lab/single/single.clab.yml",
    guard: "laptop",
    client: "laptop",
    resolver: "127.0.0.1",
    doh: "\"127.0.0.1:443\", \"[::1]:443\"",
};

struct World {
    place: Place,
    lab: Lab,
    dns: Server,
    site: lab::Process,
    directory: tempfile::TempDir,
}

impl World {
    fn up(place: Place) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        programs::certificates(dir, &[("guard", &["guard.example.test"]), ("site", &["*.example.test"])]);
        let lab = Lab::builder(place.file).destguard(BINARY).hold(place.guard).up().unwrap();
        let (internet, gateway) = (lab.node("internet"), lab.node(place.guard));
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(internet, &upstreams).unwrap();
        for program in PROGRAMS {
            let [own, picture] = addresses(program);
            dns.set_addresses(&page(program), 300, &own);
            dns.set_addresses(&format!("picture-{}", page(program)), 300, &picture);
        }
        let at = dir.display();
        let site = internet
            .spawn("python3", &[&format!("{HELPERS}/site.py"), &format!("{at}/site.pem"), &format!("{at}/site.key")]);
        let more = format!(
            "[http]\nlisten = [\"127.0.0.1:8080\"]\n[dns.tls]\ncertificate = \"{at}/guard.pem\"\nkey = \"{at}/guard.key\"\n\
             doh = [{}]\n\n[nftables]",
            place.doh
        );
        gateway.write(CONFIG, &gateway.file(CONFIG).unwrap().replace("[nftables]", &more)).unwrap();
        gateway.start().unwrap();
        let (internet, gateway) = (internet.clone(), gateway.clone());
        let world = Self { place, lab, dns, site: site.unwrap(), directory };
        let client = world.client();
        client.write("/etc/resolv.conf", &format!("nameserver {}\n", place.resolver)).unwrap();
        client.write("/etc/nsswitch.conf", "hosts: files dns\n").unwrap();
        let ready = || {
            let status = gateway.command(BINARY).args(["status", "--json"]).output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            status["state"] == "enforcing"
        };
        assert!(wait_until(LONG, ready), "{}", world.lab.logs());
        let serves =
            || internet.in_namespace(|| tcp::connect([203, 0, 113, 1].into(), 443, FIRST_SYN)).unwrap().is_ok();
        assert!(wait_until(LONG, serves), "{}", world.site.log());
        world
    }

    fn client(&self) -> &Node {
        self.lab.node(self.place.client)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn connects(&self, to: IpAddr, within: Duration) -> bool {
        self.client().in_namespace(|| tcp::connect(to, 443, within)).unwrap().is_ok()
    }

    /// Questions that came over DoH.
    fn asked_over_https(&self) -> u64 {
        let metrics = self.lab.node(self.place.guard).ok("curl -s http://127.0.0.1:8080/metrics").unwrap();
        let line =
            metrics.lines().find(|line| line.starts_with("destguard_dns_encrypted_questions_total{transport=\"doh\"}"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// What the site saw of this program's page: `PATH ADDRESS`, with the host where it is another.
    fn seen(&self, program: &str) -> Vec<(String, IpAddr)> {
        let host = page(program);
        let log = self.site.log();
        let words = log.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words
            .filter(|words| words.len() > 2 && words[0].ends_with(&host))
            .map(|words| (words[1].to_owned(), words[2].parse().unwrap()))
            .collect()
    }

    /// Runs a program of the client to its end; what it said.
    fn run(&self, words: &[&str]) -> String {
        let mut command = self.client().command("timeout");
        command.args(["-k", "1", "120"]).args(words).env("HOME", self.path("home"));
        // What the machine says of proxies and authorities is not the client's.
        for (name, _) in std::env::vars() {
            if name.ends_with("_proxy")
                || name.ends_with("_PROXY")
                || name.contains("CERT")
                || name.contains("CA_BUNDLE")
            {
                command.env_remove(name);
            }
        }
        let output = command.env("NODE_EXTRA_CA_CERTS", self.path("ca.pem")).stdin(Stdio::null()).output().unwrap();
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
    }

    /// Loads the program's page, of which it must say so much.
    fn loads(&self, program: &str, words: &[&str], shows: bool) {
        let (own, picture) = (addresses(program)[0], addresses(program)[1]);
        for address in own.into_iter().chain(picture) {
            assert!(!self.connects(address, FIRST_SYN), "{program}: {address} is open before anybody asked");
        }
        let before = self.asked_over_https();
        let said = self.run(words);
        let seen = self.seen(program);
        let context = || format!("{program} said: {said}\nthe site saw: {seen:?}\n{}", self.lab.logs());
        assert!(seen.iter().any(|(path, at)| path == "/" && own.contains(at)), "not loaded; {}", context());
        if shows {
            assert!(
                seen.iter().any(|(path, at)| path == "/picture.svg" && picture.contains(at)),
                "no picture; {}",
                context()
            );
            assert!(seen.iter().any(|(path, _)| path == "/shown"), "its program didn't run; {}", context());
        } else {
            assert!(said.contains(&format!("The page of {}", page(program))), "{}", context());
        }
        assert!(self.asked_over_https() > before, "not asked over HTTPS; {}", context());
        assert!(own.iter().any(|address| self.connects(*address, LONG)), "{}", context());
        assert_eq!(self.dns.times_asked("guard.example.test"), 0, "the guard knows its own name; {}", context());
    }
}

/// In base64, without line breaks.
fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

/// The base64 of the authority's certificate.
fn authority(world: &World) -> String {
    body(&std::fs::read_to_string(world.directory.path().join("ca.pem")).unwrap())
}

fn programs_without_window(place: Place) {
    let world = World::up(place);
    let (authority, url) = (world.path("ca.pem"), |program| format!("https://{}/", page(program)));
    world.loads("curl", &["curl", "-sS", "--cacert", &authority, "--doh-url", DOH, &url("curl")], false);
    let script = format!("{HELPERS}/doh_client.py");
    world.loads("python", &["/usr/bin/python3", &script, DOH, &page("python"), &authority], false);
    let script = format!("{HELPERS}/doh_client.mjs");
    world.loads("node", &["node", &script, DOH, &page("node")], false);
}

fn browsers(place: Place) {
    let world = World::up(place);
    std::fs::create_dir(world.directory.path().join("home")).unwrap();
    let policy = serde_json::json!({
        "DnsOverHttpsMode": "secure",
        "DnsOverHttpsTemplates": DOH,
        "CACertificates": [authority(&world)],
    });
    world.client().write("/etc/chromium/policies/managed/doh.json", &policy.to_string()).unwrap();
    let url = format!("https://{}/", page("chromium"));
    let profile = format!("--user-data-dir={}", world.path("chromium"));
    world.loads(
        "chromium",
        &["chromium", "--headless", "--no-sandbox", "--disable-gpu", &profile, "--dump-dom", &url],
        true,
    );

    let policy = serde_json::json!({"policies": {
        "DNSOverHTTPS": {"Enabled": true, "ProviderURL": DOH, "Fallback": false, "Locked": true},
        "Certificates": {"Install": [world.path("ca.pem")]},
    }});
    world.client().write("/etc/firefox/policies/policies.json", &policy.to_string()).unwrap();
    let url = format!("https://{}/", page("firefox"));
    std::fs::create_dir(world.directory.path().join("firefox")).unwrap();
    let (profile, picture) = (world.path("firefox"), world.path("firefox.png"));
    let words = ["firefox-esr", "--headless", "--no-remote", "--profile", &profile, "--screenshot", &picture, &url];
    world.loads("firefox", &words, true);
    assert!(Path::new(&picture).exists());
}

#[test]
fn programs_without_window_load_a_page_behind_a_gateway() {
    programs_without_window(GATEWAY);
}

#[test]
fn programs_without_window_load_a_page_on_a_host_that_guards_itself() {
    programs_without_window(LAPTOP);
}

#[test]
fn browsers_load_a_page_behind_a_gateway() {
    browsers(GATEWAY);
}

#[test]
fn browsers_load_a_page_on_a_host_that_guards_itself() {
    browsers(LAPTOP);
}
