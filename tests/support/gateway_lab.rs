//! The lab `gateway` with the guard in it: a client behind, and an internet of one scripted upstream and one server that takes connections.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::dns::{self, Answer, Server};
use lab::tcp::{self, EchoServer};
use lab::{Lab, Node, wait_until};
use serde_json::Value;

pub const CONFIG: &str = "/etc/destguard/destguard.toml";
pub const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const PORT: u16 = 80;
/// For whatever must happen in the end.
pub const LONG: Duration = Duration::from_secs(60);

/// The lab and its servers.
pub struct World {
    pub lab: Lab,
    pub dns: Server,
    _echo: EchoServer,
}

impl World {
    /// The lab without its guard, which [`Self::start`] starts.
    pub fn held() -> Self {
        let lab = Lab::builder("lab/gateway/gateway.clab.yml").destguard(DESTGUARD).hold("gateway").up().unwrap();
        let upstreams = ["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap());
        let dns = Server::start(lab.node("internet"), &upstreams).unwrap();
        let echo = EchoServer::start(lab.node("internet"), PORT).unwrap();
        Self { lab, dns, _echo: echo }
    }

    /// The guard's own node.
    pub fn gateway(&self) -> &Node {
        self.lab.node("gateway")
    }

    /// Writes the guard's configuration as `edit` returns it.
    pub fn configure(&self, edit: impl FnOnce(String) -> String) {
        self.gateway().write(CONFIG, &edit(self.gateway().file(CONFIG).unwrap())).unwrap();
    }

    /// Starts the guard and waits until it enforces.
    pub fn start(&self) {
        self.gateway().start().unwrap();
        assert!(wait_until(LONG, || self.guard("status")["state"] == "enforcing"), "{}", self.lab.logs());
    }

    /// What `destguard reload` prints.
    pub fn reload(&self) -> String {
        self.gateway().ok(&format!("{DESTGUARD} reload")).unwrap()
    }

    /// A read command of the guard's command line.
    pub fn guard(&self, command: &str) -> Value {
        let words: Vec<&str> = command.split(' ').collect();
        let output = self.gateway().command(DESTGUARD).args(words).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The guard's answer to the client.
    pub fn ask(&self, name: &str, rtype: u16) -> Answer {
        self.try_ask(name, rtype).unwrap()
    }

    fn try_ask(&self, name: &str, rtype: u16) -> std::io::Result<Answer> {
        let server: SocketAddr = "10.0.1.1:53".parse().unwrap();
        let ask = || dns::ask(server, name, rtype, Duration::from_secs(5));
        self.lab.node("client").in_namespace(ask).unwrap()
    }

    /// Whether the guard says that there is no such name.
    pub fn denies(&self, name: &str) -> bool {
        self.try_ask(name, dns::A).is_ok_and(|answer| answer.rcode() == dns::NXDOMAIN)
    }

    /// Whether the client's SYN, or one that it sends again within that time, is answered.
    pub fn connects(&self, to: IpAddr, within: Duration) -> bool {
        self.lab.node("client").in_namespace(|| tcp::connect(to, PORT, within)).unwrap().is_ok()
    }

    /// Another file in this one's place, as by a careful updater.
    pub fn replace(&self, path: &str, text: &str) {
        self.gateway().write("/etc/destguard/new", text).unwrap();
        self.gateway().ok(&format!("mv /etc/destguard/new {path}")).unwrap();
    }
}

/// One of the addresses that the internet answers at.
pub fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}
