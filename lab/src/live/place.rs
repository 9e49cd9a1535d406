//! Where the guard stands: one host, a gateway of both scopes, beside FRR, beside BIRD; with short leases or the default ones.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use super::AnyError;
use super::ledger::Terms;
use crate::lab::Lab;
use crate::node::Node;
use crate::wait::wait_until;

const CONFIG: &str = "/etc/destguard/destguard.toml";
/// What the lab's files say of budgets; people live with the default ones.
const BUDGETS: &str = "new_per_client = \"1000/s\"\nnew_per_domain = \"1000/s\"\n";
/// For a guard to be back, on a machine that is busy.
const READY: Duration = Duration::from_secs(60);

/// Where the guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A host that guards itself.
    Single,
    /// A gateway, `scope = "shared"`.
    Gateway,
    /// A gateway, `scope = "client"`.
    GatewayClient,
    /// Beside an FRR router.
    Frr,
    /// Beside a BIRD router.
    Bird,
}

/// A kind, and whether its leases are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kind of place, by the enforcers that it has.
    pub kind: Kind,
    /// Seconds instead of the default minutes.
    pub short: bool,
}

const KINDS: [(&str, Kind); 5] = [
    ("single", Kind::Single),
    ("gateway", Kind::Gateway),
    ("gateway-client", Kind::GatewayClient),
    ("frr", Kind::Frr),
    ("bird", Kind::Bird),
];

impl Place {
    /// Every place that the plan can name.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let both = KINDS.iter().flat_map(|&(_, kind)| [Self { kind, short: false }, Self { kind, short: true }]);
        both.collect()
    }

    /// "frr" or "frr-short".
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, short) = text.strip_suffix("-short").map_or((text, false), |name| (name, true));
        let (_, kind) = KINDS.iter().find(|(known, _)| *known == name)?;
        Some(Self { kind: *kind, short })
    }

    /// As for [`Place::parse`].
    #[must_use]
    pub fn name(self) -> String {
        let name = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name);
        format!("{name}{}", if self.short { "-short" } else { "" })
    }

    fn file(self) -> &'static str {
        match self.kind {
            Kind::Single => "lab/single/single.clab.yml",
            Kind::Gateway | Kind::GatewayClient => "lab/gateway/gateway.clab.yml",
            Kind::Frr => "lab/frr/frr.clab.yml",
            Kind::Bird => "lab/bird/bird.clab.yml",
        }
    }

    fn guard(self) -> &'static str {
        match self.kind {
            Kind::Single => "laptop",
            Kind::Gateway | Kind::GatewayClient => "gateway",
            Kind::Frr | Kind::Bird => "guard",
        }
    }

    /// Whether routers hold the leases, not this kernel's filter.
    #[must_use]
    pub fn routes(self) -> bool {
        matches!(self.kind, Kind::Frr | Kind::Bird)
    }

    /// The TTLs that names have, each always the same.
    #[must_use]
    pub fn ttls(self) -> &'static [u32] {
        if self.short { &[3, 4, 2, 5] } else { &[30, 30, 60, 20] }
    }

    /// What the configuration promises.
    #[must_use]
    pub fn terms(self) -> Terms {
        let (min, grace, linger) = if self.short { (2, 1, 3) } else { (60, 75, 600) };
        Terms {
            min: Duration::from_secs(min),
            grace: Duration::from_secs(grace),
            linger: self.routes().then(|| Duration::from_secs(linger)),
            per_client: self.kind == Kind::GatewayClient,
        }
    }
}

/// Who lives behind the guard.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where its programs run.
    pub node: Node,
    /// Whom it asks, over IPv4 and over IPv6.
    pub servers: [SocketAddr; 2],
}

/// A place that is up.
#[derive(Debug)]
pub struct Site {
    /// The place that is up.
    pub place: Place,
    /// The namespaces that it is made of.
    pub lab: Lab,
    /// The clients, in the order of their addresses.
    pub clients: Vec<Client>,
    binary: String,
}

impl Site {
    /// Brings a place up, the guard not yet started.
    ///
    /// # Errors
    /// The lab's; a configuration that isn't as expected.
    pub fn up(place: Place, binary: &Path) -> Result<Self, AnyError> {
        let lab = Lab::builder(place.file()).destguard(binary).hold(place.guard()).up()?;
        let servers = |four: &str, six: &str| -> Result<[SocketAddr; 2], AnyError> {
            Ok([SocketAddr::new(four.parse()?, 53), SocketAddr::new(six.parse()?, 53)])
        };
        let client = |node: &str, servers| Client { node: lab.node(node).clone(), servers };
        let clients = match place.kind {
            Kind::Single => vec![client("laptop", servers("127.0.0.1", "::1")?)],
            Kind::Gateway | Kind::GatewayClient => vec![
                client("client", servers("10.0.1.1", "fd00:1::1")?),
                client("client2", servers("10.0.4.1", "fd00:4::1")?),
            ],
            Kind::Frr | Kind::Bird => vec![
                client("client", servers("10.0.3.2", "fd00:3::2")?),
                client("client2", servers("10.0.3.2", "fd00:3::2")?),
            ],
        };
        let site = Self { place, lab, clients, binary: binary.display().to_string() };
        site.edit(BUDGETS, if place.short { "min = \"2s\"\ngrace = \"1s\"\n" } else { "" })?;
        if place.short && place.routes() {
            site.edit("linger = \"10m\"", "linger = \"3s\"")?;
        }
        if place.kind == Kind::GatewayClient {
            site.edit("mode = \"gateway\"\n", "mode = \"gateway\"\nscope = \"client\"\n")?;
        }
        Ok(site)
    }

    /// Replaces a text of the guard's configuration.
    fn edit(&self, from: &str, to: &str) -> Result<(), AnyError> {
        let text = self.guard().file(CONFIG)?;
        if !text.contains(from) {
            return Err(format!("{}: {from:?} is not in {CONFIG}", self.place.name()).into());
        }
        Ok(self.guard().write(CONFIG, &text.replace(from, to))?)
    }

    /// The guard's node.
    #[must_use]
    pub fn guard(&self) -> &Node {
        self.lab.node(self.place.guard())
    }

    /// The router's node, where there is one.
    #[must_use]
    pub fn router(&self) -> Option<&Node> {
        self.place.routes().then(|| self.lab.node("router"))
    }

    /// Runs one of the guard's commands beside it.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn command(&self, arguments: &[&str]) -> Result<Output, AnyError> {
        Ok(self.guard().command(&self.binary).args(arguments).output()?)
    }

    /// What a read command says; `None` when there is no guard or it fails.
    #[must_use]
    pub fn read(&self, command: &str) -> Option<Value> {
        let output = self.command(&[command, "--json"]).ok().filter(|output| output.status.success())?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Starts the guard and waits until it enforces.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn start(&self) -> Result<(), AnyError> {
        self.guard().start()?;
        self.ready()
    }

    /// Waits until the guard enforces.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn ready(&self) -> Result<(), AnyError> {
        let ready = || {
            let enforces = self.read("status").is_some_and(|status| status["state"] == "enforcing");
            let established = || {
                let peers = self.read("peers").unwrap_or_default();
                peers["peers"].as_array().is_some_and(|all| all.iter().all(|peer| peer["state"] == "Established"))
            };
            enforces && (!self.place.routes() || established())
        };
        if wait_until(READY, ready) {
            return Ok(());
        }
        Err(format!("{}: it doesn't enforce\n{}", self.place.name(), self.lab.logs()).into())
    }

    /// Has the router end its session with the guard.
    ///
    /// # Errors
    /// When it can't.
    pub fn clear_session(&self) -> Result<(), AnyError> {
        let line = if self.place.kind == Kind::Frr { "vtysh -c 'clear bgp *'" } else { "birdc restart guard" };
        if let Some(router) = self.router() {
            router.ok(line)?;
        }
        Ok(())
    }

    /// Changes what is denied, and reloads; one name more or less.
    ///
    /// # Errors
    /// When `reload` fails.
    pub fn reload(&self) -> Result<(), AnyError> {
        const DENIED: &str = "\n[policy]\ndeny = [\"reloaded.test\"]\n";
        let text = self.guard().file(CONFIG)?;
        let text = if text.contains(DENIED) { text.replace(DENIED, "") } else { text + DENIED };
        self.guard().write(CONFIG, &text)?;
        let output = self.command(&["reload"])?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{}: reload: {}", self.place.name(), String::from_utf8_lossy(&output.stderr)).into())
    }

    /// What the guard and the world say of an address, for a report.
    #[must_use]
    pub fn explain(&self, address: IpAddr) -> String {
        let said = self.command(&["explain", &address.to_string()]).map(|output| output.stdout).unwrap_or_default();
        let world = match self.router() {
            Some(router) => router.run(&format!("ip route get {address}")),
            None => {
                self.guard().run(&format!("nft list table inet destguard | grep -wF '{address}' || echo in no set"))
            }
        };
        let world = world.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let all = [said, world].concat();
        let all = String::from_utf8_lossy(&all);
        let lines = all.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
    }
}
