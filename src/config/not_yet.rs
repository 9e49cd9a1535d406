//! Keys that this version knows and cannot do. They are refused, never ignored. Whoever builds a feature deletes its line.

use super::read::Document;
use super::report::Severity;
use super::schema::{Config, Confirm, Scope};
use super::upstream::Transport;

/// The transports that upstreams can be reached by.
pub const TRANSPORTS: &[Transport] = &[Transport::Udp, Transport::Tcp];

/// A key, and the paths at which a configuration uses it.
type Missing = (&'static str, fn(&Config) -> Vec<String>);

const MISSING: &[Missing] = &[
    ("DNS over TLS for clients", |c| when(!c.dns.tls.dot.is_empty(), "dns.tls.dot")),
    ("DNS over HTTPS for clients", |c| when(!c.dns.tls.doh.is_empty(), "dns.tls.doh")),
    ("DNS over QUIC for clients", |c| when(!c.dns.tls.doq.is_empty(), "dns.tls.doq")),
    ("DNSSEC validation", |c| when(c.dns.dnssec.validate, "dns.dnssec.validate")),
    ("DNSSEC validation", |c| when(c.dns.dnssec.trust_anchor.is_some(), "dns.dnssec.trust_anchor")),
    ("serving stale answers", |c| when(!c.dns.cache.serve_stale.0.is_zero(), "dns.cache.serve_stale")),
    ("lists of names", |c| (0..c.policy.list.len()).map(|index| format!("policy.list[{index}]")).collect()),
    ("leases of one client alone", |c| when(c.nftables.scope == Scope::Client, "nftables.scope")),
    ("confirm = \"refresh\"", |c| peers_with(c, Confirm::Refresh)),
    ("confirm = \"reflect\"", |c| peers_with(c, Confirm::Reflect)),
    ("confirm = \"probe\"", |c| peers_with(c, Confirm::Probe)),
];

fn when(used: bool, path: &str) -> Vec<String> {
    if used { vec![path.to_owned()] } else { Vec::new() }
}

fn peers_with(config: &Config, confirm: Confirm) -> Vec<String> {
    let with = |(index, peer): (usize, &super::schema::Peer)| {
        (peer.confirm == confirm).then(|| format!("bgp.peer[{index}].confirm"))
    };
    config.bgp.peer.iter().enumerate().filter_map(with).collect()
}

/// Refuses what is not there yet.
pub fn refuse(document: &mut Document<'_>, config: &Config) {
    for (what, uses) in MISSING {
        for path in uses(config) {
            let message = format!("{what}: not available in this version");
            document.say(Severity::Error, &path, message, Some("remove the key"));
        }
    }
}
