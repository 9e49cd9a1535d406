//! What is found on the host that concerns a guard: resolvers, time servers, other programs that manage names or packets.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::Use;
use crate::sys::interfaces::{CONTAINERS, is_like};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Resolvers in use, none of this host.
    pub resolvers: Vec<IpAddr>,
    /// Time servers that are configured by address.
    pub time_servers: Vec<IpAddr>,
    /// Prefixes on this host's links.
    pub networks: Vec<IpNet>,
    /// There is no IPv6.
    pub ipv6_off: bool,
    /// What the operator should know, each a sentence.
    pub said: Vec<String>,
}

/// Looks below `root`: "/" but in tests. What can't be read isn't there.
#[must_use]
pub fn look(root: &Path) -> Found {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let exists = |path: &str| root.join(path).exists();
    let mut found =
        Found { ipv6_off: !exists("proc/net/if_inet6") || read("proc/net/if_inet6").is_empty(), ..Found::default() };
    let behind_stub = ["run/systemd/resolve/resolv.conf", "run/NetworkManager/no-stub-resolv.conf", "etc/resolv.conf"];
    for path in behind_stub {
        let servers = nameservers(&read(path));
        if !servers.is_empty() {
            found.resolvers = servers;
            break;
        }
    }
    for path in [
        "etc/systemd/timesyncd.conf",
        "etc/chrony/chrony.conf",
        "etc/chrony.conf",
        "etc/ntpsec/ntp.conf",
        "etc/ntp.conf",
    ] {
        for server in time_servers(&read(path)) {
            match server.parse() {
                Ok(address) if !found.time_servers.contains(&address) => found.time_servers.push(address),
                Ok(_) => {}
                Err(_) => found.said.push(format!(
                    "the time server {server} is named in /{path}: it is asked too seldom for a lease to last; write its addresses into addresses.open"
                )),
            }
        }
    }
    if exists("run/systemd/resolve") {
        found.said.push(
            "systemd-resolved runs: let it ask the guard (DNS=127.0.0.1 and Domains=~. in /etc/systemd/resolved.conf), or disable it".to_owned(),
        );
    } else if exists("run/NetworkManager") {
        found.said.push(
            "NetworkManager writes /etc/resolv.conf: set dns=none in its configuration, and nameserver 127.0.0.1"
                .to_owned(),
        );
    }
    let links = std::fs::read_dir(root.join("sys/class/net"));
    let names = links.into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let bridges: Vec<String> = names.filter(|name| CONTAINERS.iter().any(|pattern| is_like(name, pattern))).collect();
    if !bridges.is_empty() {
        let bridges = bridges.join(", ");
        found.said.push(format!(
            "containers or virtual machines are on {bridges}: they are guarded where nftables.bridges names these (docs/containers.md)"
        ));
    }
    if let Ok(connection) = std::env::var("SSH_CONNECTION")
        && let Some(client) = connection.split(' ').next()
    {
        found.said.push(format!("you came by SSH from {client}: connections that come in, and those that stand, go on when the guard enforces"));
    }
    if found.ipv6_off {
        found.said.push("IPv6 is off: the guard listens on IPv4 alone".to_owned());
    }
    if root == Path::new("/") {
        found.networks =
            crate::sys::on_link::read().map(|on_link| on_link.nets.into_keys().collect()).unwrap_or_default();
    }
    found
}

impl Found {
    /// Where a guard of this host alone listens.
    #[must_use]
    pub fn loopback(&self) -> Vec<String> {
        let addresses = if self.ipv6_off { &["127.0.0.1:53"][..] } else { &["127.0.0.1:53", "[::1]:53"] };
        addresses.iter().map(ToString::to_string).collect()
    }

    /// Where a guard of others listens.
    #[must_use]
    pub fn anywhere(&self) -> Vec<String> {
        let addresses = if self.ipv6_off { &["0.0.0.0:53"][..] } else { &["0.0.0.0:53", "[::]:53"] };
        addresses.iter().map(ToString::to_string).collect()
    }

    /// What the operator should know, for this use.
    #[must_use]
    pub fn notes(&self, purpose: Option<Use>) -> Vec<String> {
        let mut notes = self.said.clone();
        if purpose == Some(Use::Server) {
            notes.push(
                "programs of this host ask the guard once /etc/resolv.conf says: nameserver 127.0.0.1".to_owned(),
            );
        }
        notes
    }
}

/// The addresses behind "nameserver", but those of this host.
fn nameservers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|rest| rest.trim().parse().ok()).filter(|address: &IpAddr| !address.is_loopback()).collect()
}

/// What stands behind "NTP=", "server" and "pool" in the files of timesyncd, chrony and ntp.
fn time_servers(text: &str) -> Vec<String> {
    let mut servers = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("NTP=") {
            servers.extend(rest.split_whitespace().map(str::to_owned));
        } else if let Some(rest) = line.strip_prefix("server ").or_else(|| line.strip_prefix("pool ")) {
            servers.extend(rest.split_whitespace().next().map(str::to_owned));
        }
    }
    servers
}
