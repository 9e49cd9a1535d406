//! The host of the tests, the world that it is connected to, and its guard.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::dns::{self, Server};

use super::PATIENCE;
use super::namespace::{Namespace, link, run};
use super::traffic::serve;

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
/// So that a lost datagram isn't taken for an answer.
const TRIES: usize = 20;

/// Behind eth0 (198.51.100.1, 2001:db8:198::1): servers at 45.67.89.10 to .12 and 2a00:1234:203::10, and the guard's upstream.
pub struct World {
    namespace: Namespace,
    dns: Server,
}

impl World {
    pub fn new() -> Self {
        let namespace = Namespace::new();
        run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        link("eth0", &namespace, "w0");
        run("ip addr add 198.51.100.1/24 dev eth0; ip -6 addr add 2001:db8:198::1/64 dev eth0 nodad; \
             ip route add default via 198.51.100.2; ip -6 route add default via 2001:db8:198::2");
        let upstream: SocketAddr = "198.51.100.2:53".parse().expect("an address");
        // Other resolvers, which must not be asked.
        let foreign =
            ["8.8.8.8:53", "[2001:4860:4860::8888]:53", "9.9.9.9:53"].map(|at| at.parse().expect("an address"));
        let dns = namespace.within(|| {
            run("ip addr add 198.51.100.2/24 dev w0; ip -6 addr add 2001:db8:198::2/64 dev w0 nodad; \
                 ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8:198::1");
            for address in ["45.67.89.10", "45.67.89.11", "45.67.89.12", "45.67.89.13", "8.8.8.8", "9.9.9.9"] {
                run(&format!("ip addr add {address}/32 dev lo"));
            }
            for address in ["2a00:1234:203::10", "2001:4860:4860::8888"] {
                run(&format!("ip -6 addr add {address}/128 dev lo nodad"));
            }
            serve(&[80, 443, 853]);
            Server::start_here(&[&[upstream][..], &foreign].concat()).expect("the upstream")
        });
        dns.set_addresses("web.test", 300, &addresses(&["45.67.89.10"]));
        dns.set_addresses("other.test", 300, &addresses(&["45.67.89.11"]));
        dns.set_addresses("third.test", 300, &addresses(&["45.67.89.13"]));
        dns.set_addresses("six.test", 300, &addresses(&["2a00:1234:203::10"]));
        Self { namespace, dns }
    }

    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.namespace.within(body)
    }

    /// How often anybody in the world was asked for a name.
    #[allow(dead_code)]
    pub fn times_asked(&self, name: &str) -> usize {
        self.dns.times_asked(name)
    }
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().expect("an address")).collect()
}

/// What a question gets, from the calling thread's namespace: addresses, or no answer.
pub fn asks(server: &str, name: &str) -> Option<Vec<IpAddr>> {
    let server = SocketAddr::new(server.parse().expect("an address"), 53);
    let rtype = if name == "six.test" { dns::AAAA } else { dns::A };
    (0..TRIES).find_map(|_| dns::ask(server, name, rtype, Duration::from_secs(2)).ok()).map(|answer| answer.addresses())
}

pub fn answers(list: &[&str]) -> Option<Vec<IpAddr>> {
    Some(addresses(list))
}

/// The guard of the calling thread's namespace; it listens everywhere.
pub struct Daemon {
    directory: tempfile::TempDir,
    listen: Vec<String>,
    child: Option<Child>,
}

impl Daemon {
    pub fn start(more: &str) -> Self {
        let mut daemon = Self::prepared(more);
        daemon.start_again();
        daemon
    }

    /// It listens at these places alone.
    pub fn start_at(listen: &[&str], more: &str) -> Self {
        let mut daemon = Self::prepared("");
        daemon.listen = listen.iter().map(ToString::to_string).collect();
        daemon.write(more);
        daemon.start_again();
        daemon
    }

    /// With its configuration, and nothing else.
    pub fn prepared(more: &str) -> Self {
        let daemon = Self {
            directory: tempfile::tempdir().expect("a directory"),
            listen: vec!["0.0.0.0:53".to_owned(), "[::]:53".to_owned()],
            child: None,
        };
        daemon.write(more);
        daemon
    }

    pub fn write(&self, more: &str) {
        let state = self.directory.path().join("state");
        let text = format!(
            "[dns]\nlisten = {:?}\nvirtual_addresses = {:?}\nclients = [\"127.0.0.0/8\", \"::1/128\", \"172.16.0.0/12\", \
             \"10.0.0.0/8\", \"2001:db8::/32\"]\n[[dns.upstream]]\nurl = \"udp://198.51.100.2:53\"\n[state]\ndir = \"{}\"\n",
            self.listen,
            self.late(),
            state.display()
        );
        // Keys without a table come first.
        let (first, rest) = more.find('[').map_or((more, ""), |at| more.split_at(at));
        std::fs::write(self.file(), format!("{first}{text}{rest}")).expect("written");
    }

    /// Addresses of bridges that an engine is yet to make.
    fn late(&self) -> Vec<&str> {
        let hosts = self.listen.iter().filter_map(|at| at.strip_suffix(":53"));
        hosts.filter(|host| host.starts_with("172.") || host.starts_with("10.")).collect()
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("destguard.toml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub fn start_again(&mut self) {
        self.begin();
        let (code, said) = self.run(&["wait-ready", "--timeout", "1m"]);
        assert_eq!(code, 0, "{said}");
    }

    /// Until it can be asked how it is.
    pub fn begin(&mut self) {
        let child = self.spawn(&["run", "--config", &self.file().display().to_string()]);
        self.child = Some(child);
        let began = Instant::now();
        while self.run(&["status"]).0 != 0 {
            assert!(began.elapsed() < PATIENCE, "the daemon can't be reached");
            let child = self.child.as_mut().expect("started");
            if child.try_wait().expect("its state").is_some() {
                let mut said = String::new();
                drop(child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said)));
                panic!("the daemon ended: {said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn spawn(&self, words: &[&str]) -> Child {
        let mut command = Command::new(DESTGUARD);
        command.arg("--socket").arg(self.socket()).args(words).env("RUST_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("destguard")
    }

    /// Exit code, and all that was said.
    pub fn run(&self, words: &[&str]) -> (i32, String) {
        let output = self.spawn(words).wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    pub fn ask(&self, words: &[&str]) -> String {
        self.run(words).1
    }

    pub fn reload(&self, more: &str) {
        self.write(more);
        let (code, said) = self.run(&["reload"]);
        assert!(code == 0 && !said.contains("restart"), "{said}");
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
