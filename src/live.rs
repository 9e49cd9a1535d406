//! What the guard would refuse on this host as it is now: `check --live`, before the guard is armed or while it is.
//!
//! [`host`] reads what is there: sockets, flows, leases of DHCP, files. [`judge`] is pure and says what becomes of it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

use crate::config::Config;
use crate::config::schema::{Nftables, NftablesMode, Scope};
use crate::enforce::nftables::arming::is_dns;
use crate::enforce::nftables::conntrack::Flow;
use crate::enforce::nftables::sockets::{Socket, State};
use crate::enforce::rules::Transport;

pub mod host;

/// The port of time servers.
const NTP: u16 = 123;
/// In the clear.
const DNS: u16 = 53;
const HTTPS: u16 = 443;
/// Own and far port of DHCP, for IPv4 and IPv6.
const DHCP: [(u16, u16); 2] = [(68, 67), (546, 547)];

/// What becomes of something once the guard is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Passes as before.
    Open,
    /// Goes on; the same once more is refused until the guard answers with that address.
    Refused,
    /// Ends at the start.
    Ends,
}

/// A connection of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// "tcp" or "udp".
    pub protocol: &'static str,
    /// The address and port of this host's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Who has it; empty where that can't be seen.
    pub program: String,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// A flow that this host forwards for somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forwarded {
    /// "tcp", "udp", or IANA's number.
    pub protocol: String,
    /// Who began it.
    pub client: SocketAddr,
    /// Where it arrives.
    pub remote: SocketAddr,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// A port that others reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listener {
    /// "tcp" or "udp".
    pub protocol: &'static str,
    /// The address and port that it listens at.
    pub local: SocketAddr,
    /// Who waits there.
    pub program: String,
}

/// A server that this host depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Server {
    /// Its address, or its name where only that is known.
    pub server: String,
    /// The file or socket that says so.
    pub seen: String,
    /// What becomes of packets to it.
    pub verdict: Verdict,
}

/// Everything that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Live {
    /// The traffic that is guarded (`nftables.mode`).
    pub mode: NftablesMode,
    /// Whether the guard's table is in the kernel already.
    pub armed: bool,
    /// Connections of this host that are not open.
    pub connections: Vec<Connection>,
    /// Forwarded flows that are not open.
    pub flows: Vec<Forwarded>,
    /// Ports whose replies leave because the kernel tracks the flow.
    pub listeners: Vec<Listener>,
    /// Servers that this host has its addresses from (DHCP).
    pub dhcp: Vec<Server>,
    /// Servers that this host has its time from (NTP).
    pub ntp: Vec<Server>,
    /// Resolvers other than this host's.
    pub resolvers: Vec<Server>,
    /// What could not be seen, and what else an operator should know.
    pub notes: Vec<String>,
}

/// What there is on a host.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The sockets of the host, of TCP and UDP.
    pub sockets: Vec<Socket>,
    /// Names of programs by the inode of a socket.
    pub programs: std::collections::HashMap<u32, String>,
    /// Of the far ends of its sockets those that are containers on `nftables.bridges`.
    pub containers: HashSet<IpAddr>,
    /// Flows from a host behind `nftables.inside` or `nftables.bridges` to somebody else than this host.
    pub forwarded: Vec<Flow>,
    /// Its own addresses.
    pub own: HashSet<IpAddr>,
    /// Addresses that have a lease now.
    pub leased: HashSet<IpAddr>,
    /// Client and address, where leases are for single clients.
    pub pairs: HashSet<(IpAddr, IpAddr)>,
    /// Address, protocol and port, where those are leased alone; with the client, where leases are for single ones.
    pub ports: HashSet<(Option<IpAddr>, IpAddr, u8, u16)>,
    /// Whether the guard's table is there.
    pub armed: bool,
    /// DHCP servers, time servers (or their names) and resolvers, and the files that name them.
    pub dhcp: Vec<(String, String)>,
    /// Time servers, and the files that name them; like [`Self::dhcp`].
    pub ntp: Vec<(String, String)>,
    /// Resolvers, and the files that name them; like [`Self::dhcp`].
    pub resolvers: Vec<(String, String)>,
    /// What could not be seen.
    pub notes: Vec<String>,
}

struct Judge<'a> {
    seen: &'a Seen,
    open: &'a [IpNet],
    doh: &'a [IpNet],
    nftables: &'a Nftables,
}

impl Judge<'_> {
    fn local(&self) -> bool {
        matches!(self.nftables.mode, NftablesMode::Local | NftablesMode::Both)
    }

    fn forwards(&self) -> bool {
        match self.nftables.mode {
            NftablesMode::Gateway | NftablesMode::Both => true,
            NftablesMode::Local => !self.nftables.bridges.is_empty(),
            NftablesMode::Off => false,
        }
    }

    /// Goes to another resolver: port 53 too unless it is redirected.
    fn ends(&self, protocol: u8, to: SocketAddr) -> bool {
        let stream = [Transport::Tcp, Transport::Udp].map(number).contains(&protocol);
        let doh = stream && to.port() == HTTPS && self.doh.iter().any(|net| net.contains(&to.ip()));
        doh || is_dns(protocol, to) && !(self.nftables.redirect_dns && to.port() == DNS)
    }

    fn is_here(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.seen.own.contains(&address)
    }

    fn is_open(&self, address: IpAddr) -> bool {
        self.open.iter().any(|net| net.contains(&address))
    }

    /// Of packets from this host.
    fn leaving(&self, protocol: u8, local: u16, remote: SocketAddr) -> Verdict {
        let dhcp = protocol == number(Transport::Udp) && DHCP.contains(&(local, remote.port()));
        let redirected = self.nftables.redirect_dns && is_dns(protocol, remote) && remote.port() == DNS;
        if !self.local() || self.is_here(remote.ip()) || dhcp || redirected {
            Verdict::Open
        } else if self.ends(protocol, remote) {
            Verdict::Ends
        } else if self.is_open(remote.ip())
            || self.seen.containers.contains(&remote.ip())
            || self.seen.leased.contains(&remote.ip())
            || self.seen.ports.contains(&(None, remote.ip(), protocol, remote.port()))
        {
            Verdict::Open
        } else {
            Verdict::Refused
        }
    }

    fn forwarded(&self, flow: &Flow) -> Verdict {
        let (client, to) = (flow.source.ip(), flow.arrives.ip());
        let port = |client| self.seen.ports.contains(&(client, to, flow.protocol, flow.arrives.port()));
        let leased = match self.nftables.scope {
            Scope::Shared => self.seen.leased.contains(&to) || port(None),
            Scope::Client => self.seen.pairs.contains(&(client, to)) || port(Some(client)),
        };
        if !self.forwards() || self.is_here(to) {
            Verdict::Open
        } else if self.ends(flow.protocol, flow.arrives) || is_dns(flow.protocol, flow.arrives) {
            Verdict::Ends
        } else if self.is_open(to) || leased {
            Verdict::Open
        } else {
            Verdict::Refused
        }
    }

    fn program(&self, socket: &Socket) -> String {
        self.seen.programs.get(&socket.inode).cloned().unwrap_or_default()
    }

    /// Of servers that files name. A name is one for the guard to answer.
    fn named(&self, list: &[(String, String)], transport: Transport, local: u16, port: u16) -> Vec<Server> {
        let judged = list.iter().map(|(server, seen)| {
            let verdict = server.parse().map_or(Verdict::Refused, |address| {
                self.leaving(number(transport), local, SocketAddr::new(address, port))
            });
            Server { server: server.clone(), seen: seen.clone(), verdict }
        });
        judged.collect()
    }
}

/// What becomes of what there is.
#[must_use]
pub fn judge(config: &Config, seen: &Seen) -> Live {
    let mode = config.nftables.mode;
    let (open, doh) = (&config.addresses.open, &config.addresses.doh);
    let judge = Judge { seen, open, doh, nftables: &config.nftables };
    let mut live = Live { mode, armed: seen.armed, notes: seen.notes.clone(), ..Live::default() };
    if mode == NftablesMode::Off {
        live.notes.push("nftables.mode is \"off\": the guard refuses nothing on this host".to_owned());
    }
    // Between two ends on this host both would be listed; and what the guard itself sends bears its mark.
    let connected = seen.sockets.iter().filter(|socket| {
        !matches!(socket.state, State::Listening | State::Over) && socket.mark != Some(crate::sys::MARK)
    });
    let mut listeners: HashSet<(Transport, u16)> = HashSet::new();
    for socket in seen.sockets.iter().filter(|socket| socket.state == State::Listening) {
        listeners.insert((socket.transport, socket.local.port()));
        let guards_own = socket.mark == Some(crate::sys::MARK);
        let dhcp = socket.transport == Transport::Udp && DHCP.iter().any(|(own, _)| *own == socket.local.port());
        if judge.local() && !socket.local.ip().is_loopback() && !guards_own && !dhcp {
            let protocol = word(socket.transport);
            live.listeners.push(Listener { protocol, local: socket.local, program: judge.program(socket) });
        }
    }
    live.listeners.sort();
    live.listeners.dedup();
    for socket in connected {
        let protocol = number(socket.transport);
        let verdict = judge.leaving(protocol, socket.local.port(), socket.remote);
        let program = judge.program(socket);
        let by = format!("{} of {}", word(socket.transport), if program.is_empty() { "a program" } else { &program });
        let server = || Server { server: socket.remote.ip().to_string(), seen: by.clone(), verdict };
        if socket.transport == Transport::Udp && socket.remote.port() == NTP {
            live.ntp.push(server());
        }
        // Somebody else's end of a connection to a port of ours may be any.
        if listeners.contains(&(socket.transport, socket.local.port())) {
            continue;
        }
        if verdict == Verdict::Ends {
            live.resolvers.push(server());
        }
        if verdict != Verdict::Open {
            let (local, remote) = (socket.local, socket.remote);
            live.connections.push(Connection { protocol: word(socket.transport), local, remote, program, verdict });
        }
    }
    for flow in &seen.forwarded {
        let verdict = judge.forwarded(flow);
        if verdict != Verdict::Open {
            let protocol = match i32::from(flow.protocol) {
                libc::IPPROTO_TCP => "tcp".to_owned(),
                libc::IPPROTO_UDP => "udp".to_owned(),
                other => other.to_string(),
            };
            live.flows.push(Forwarded { protocol, client: flow.source, remote: flow.arrives, verdict });
        }
    }
    live.dhcp = judge.named(&seen.dhcp, Transport::Udp, 68, 67);
    live.ntp.extend(judge.named(&seen.ntp, Transport::Udp, NTP, NTP));
    live.resolvers.extend(judge.named(&seen.resolvers, Transport::Udp, 0, 53));
    live.resolvers.retain(|server| server.verdict != Verdict::Open);
    for list in [&mut live.dhcp, &mut live.ntp, &mut live.resolvers] {
        list.sort();
        list.dedup();
    }
    live
}

impl PartialOrd for Verdict {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Verdict {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn number(transport: Transport) -> u8 {
    let number = match transport {
        Transport::Tcp => libc::IPPROTO_TCP,
        Transport::Udp => libc::IPPROTO_UDP,
    };
    u8::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(transport: Transport, state: State, local: &str, remote: &str) -> Socket {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        Socket { transport, state, local, remote, uid: 0, inode: 1, mark: None, group: None }
    }

    #[test]
    fn only_what_is_not_open_is_told() {
        let text = "[nftables]\nmode = \"both\"\ninside = [\"in0\"]\n[addresses]\nopen = [\"10.88.0.0/16\"]\n";
        let config: Config = toml::from_str(text).unwrap();
        let (tcp, udp) = (Transport::Tcp, Transport::Udp);
        let flow = |protocol, to: &str| {
            let (source, to) = ("10.9.1.2:4000".parse().unwrap(), to.parse().unwrap());
            Flow { protocol, source, destination: to, arrives: to }
        };
        let own = socket(udp, State::Connected, "10.0.0.1:4010", "9.9.9.9:53");
        let seen = Seen {
            sockets: vec![
                socket(tcp, State::Listening, "0.0.0.0:22", "0.0.0.0:0"),
                socket(udp, State::Listening, "0.0.0.0:68", "0.0.0.0:0"),
                socket(udp, State::Listening, "127.0.0.1:323", "0.0.0.0:0"),
                socket(tcp, State::Connected, "10.0.0.1:22", "192.0.2.9:5000"),
                socket(tcp, State::Connected, "10.0.0.1:4000", "192.0.2.1:443"),
                socket(tcp, State::Connected, "10.0.0.1:4001", "203.0.113.1:443"),
                socket(tcp, State::Connected, "10.0.0.1:4002", "10.88.0.1:443"),
                socket(tcp, State::Connected, "10.0.0.1:4003", "10.0.0.1:8080"),
                socket(tcp, State::Connected, "10.0.0.1:4004", "8.8.8.8:853"),
                socket(tcp, State::Over, "10.0.0.1:4005", "192.0.2.1:443"),
                socket(udp, State::Connected, "10.0.0.1:68", "10.0.0.254:67"),
                socket(udp, State::Connected, "10.0.0.1:4006", "192.0.2.123:123"),
                Socket { mark: Some(crate::sys::MARK), ..own },
            ],
            forwarded: vec![flow(6, "192.0.2.1:443"), flow(17, "8.8.8.8:53"), flow(6, "203.0.113.1:443")],
            own: ["10.0.0.1".parse().unwrap()].into(),
            leased: ["203.0.113.1".parse().unwrap()].into(),
            dhcp: vec![("10.0.0.254".to_owned(), "lease".to_owned())],
            ntp: vec![("time.example".to_owned(), "conf".to_owned()), ("10.88.0.2".to_owned(), "conf".to_owned())],
            resolvers: vec![
                ("127.0.0.1".to_owned(), "resolv.conf".to_owned()),
                ("1.1.1.1".to_owned(), "resolv.conf".to_owned()),
            ],
            ..Seen::default()
        };
        let live = judge(&config, &seen);
        let connections: Vec<_> = live.connections.iter().map(|one| (one.remote.to_string(), one.verdict)).collect();
        let wanted = [
            ("192.0.2.1:443", Verdict::Refused),
            ("8.8.8.8:853", Verdict::Ends),
            ("192.0.2.123:123", Verdict::Refused),
        ];
        assert_eq!(connections, wanted.map(|(to, verdict)| (to.to_owned(), verdict)));
        let flows: Vec<_> = live.flows.iter().map(|one| (one.remote.to_string(), one.verdict)).collect();
        let wanted = [("192.0.2.1:443", Verdict::Refused), ("8.8.8.8:53", Verdict::Ends)];
        assert_eq!(flows, wanted.map(|(to, verdict)| (to.to_owned(), verdict)));
        assert_eq!(live.listeners.iter().map(|one| one.local.port()).collect::<Vec<_>>(), [22]);
        let of = |list: &[Server]| list.iter().map(|one| (one.server.clone(), one.verdict)).collect::<Vec<_>>();
        assert_eq!(of(&live.dhcp), [("10.0.0.254".to_owned(), Verdict::Open)]);
        let wanted =
            [("10.88.0.2", Verdict::Open), ("192.0.2.123", Verdict::Refused), ("time.example", Verdict::Refused)];
        assert_eq!(of(&live.ntp), wanted.map(|(to, verdict)| (to.to_owned(), verdict)));
        let wanted = [("1.1.1.1", Verdict::Ends), ("8.8.8.8", Verdict::Ends)];
        assert_eq!(of(&live.resolvers), wanted.map(|(to, verdict)| (to.to_owned(), verdict)));

        let off = judge(&Config::default(), &seen);
        assert!(off.connections.is_empty() && off.flows.is_empty() && off.notes[0].contains("\"off\""), "{off:?}");
    }
}
