//! What the daemon may do: only what its configuration needs, whoever starts it.
//!
//! | capability | kept for |
//! |---|---|
//! | CAP_NET_ADMIN | nftables, the mark on the guard's own packets, and a table that an earlier run left behind |
//! | CAP_BPF, CAP_PERFMON | `enforcer = "ebpf"`: its program and tables, and the names of processes in it |
//! | CAP_NET_RAW | probes through routers: of what they confirmed, and by samples; iptables |
//! | CAP_NET_BIND_SERVICE | ports below 1024 |
//!
//! All others are given up ([`crate::sys::privileges`]).

use std::collections::HashSet;

use caps::Capability;

use crate::config::schema::{Config, Confirm, NftablesMode, Peer, Role};
use crate::enforce::backend::PacketBackend;
use crate::enforce::iptables;

/// The last port that needs a capability (ip(7), `ip_unprivileged_port_start` as it comes).
const LAST_PRIVILEGED: u16 = 1023;

/// What is needed to see and take away what an earlier run left.
#[must_use]
pub fn left_behind(backend: &PacketBackend) -> &'static [Capability] {
    if backend.name == iptables::BACKEND.name {
        &[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW]
    } else {
        &[Capability::CAP_NET_ADMIN]
    }
}

/// What this configuration needs.
#[must_use]
pub fn needed(config: &Config) -> HashSet<Capability> {
    let mut needed = HashSet::new();
    if config.nftables.mode != NftablesMode::Off {
        needed.insert(Capability::CAP_NET_ADMIN);
        if config.enforcer == iptables::BACKEND.name {
            needed.insert(Capability::CAP_NET_RAW);
        }
        if config.enforcer == "ebpf" {
            needed.extend([Capability::CAP_BPF, Capability::CAP_PERFMON]);
        }
    }
    if !config.bgp.edge.is_empty() || config.bgp.peer.iter().any(probes) {
        needed.insert(Capability::CAP_NET_RAW);
    }
    if ports(config).any(|port| (1..=LAST_PRIVILEGED).contains(&port)) {
        needed.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    needed
}

/// What a router confirms is looked at by probes, or tried by them now and then.
fn probes(peer: &Peer) -> bool {
    peer.role == Role::Enforcer && peer.forwards && peer.confirm != Confirm::Reflect
}

fn ports(config: &Config) -> impl Iterator<Item = u16> {
    let (dns, tls) = (&config.dns, &config.dns.tls);
    let plain = dns.listen.iter().chain(&tls.dot).chain(&tls.doh).chain(&tls.doq).map(|address| address.port());
    plain
        .chain(config.http.listen.iter().map(|address| address.port()))
        .chain(config.bgp.listen.iter().map(|address| address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(text: &str) -> Vec<String> {
        let config: Config = toml::from_str(text).unwrap();
        let mut needed: Vec<String> = needed(&config).into_iter().map(|capability| capability.to_string()).collect();
        needed.sort();
        needed
    }

    #[test]
    fn only_what_is_configured_is_needed() {
        let (admin, raw, bind) = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE");
        assert_eq!(needs("[dns]\nlisten = [\"127.0.0.1:5353\"]\n"), [""; 0]);
        assert_eq!(needs(""), [bind], "port 53");
        assert_eq!(needs("[nftables]\nmode = \"local\"\n"), [admin, bind]);
        assert_eq!(needs("enforcer = \"iptables\"\n[nftables]\nmode = \"local\"\n"), [admin, bind, raw]);
        let ebpf = needs("enforcer = \"ebpf\"\n[nftables]\nmode = \"local\"\n");
        assert_eq!(ebpf, ["CAP_BPF", admin, bind, "CAP_PERFMON"]);
        let peer =
            "[dns]\nlisten = [\"127.0.0.1:5353\"]\n[[bgp.peer]]\nname = \"r\"\naddress = \"192.0.2.1\"\nasn = 1\n";
        assert_eq!(needs(peer), [raw], "routes are tried by samples");
        assert_eq!(needs(&format!("{peer}forwards = false\n")), [""; 0], "BGP alone, from here");
        assert_eq!(needs(&format!("{peer}confirm = \"probe\"\n")), [raw]);
        assert_eq!(needs(&format!("{peer}[bgp]\nlisten = [\"192.0.2.2:179\"]\n")), [bind, raw]);
    }
}
