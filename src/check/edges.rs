//! Routers behind a reflector: `[[bgp.edge]]`, `observers`, and peers that forward nothing.

use std::net::IpAddr;

use super::Checks;
use super::bgp::unicast;
use crate::config::community;
use crate::config::schema::{Confirm, Edge, Peer, Role};
use crate::sys::interfaces;

/// The community NO_ADVERTISE of RFC 1997.
const NO_ADVERTISE: u32 = 0xffff_ff02;

impl Checks<'_, '_> {
    /// Reports what can't be the name of an enforcer.
    pub(super) fn plain_name(&mut self, path: &str, name: &str) {
        let plain = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !plain {
            self.error(path, "a name has 1 to 64 letters, digits, \"-\", \"_\" and \".\"");
        } else if matches!(name, "nftables" | "state") {
            self.error(path, format!("\"{name}\" is the name of something else in the guard"));
        }
    }

    /// A session with oneself never comes up. A router on this very host is reached over loopback.
    pub(super) fn not_this_host(&mut self, path: &str, address: IpAddr) {
        // What can't be read is found out when the guard starts.
        let own = interfaces::addresses().unwrap_or_default();
        if !address.is_loopback() && own.contains(&address) {
            self.error_with(
                path,
                format!("{address} is an address of this host itself"),
                "name the router's address; a routing daemon on this host is reached at 127.0.0.1 or ::1",
            );
        }
    }

    pub(super) fn edges(&mut self) {
        let bgp = &self.config.bgp;
        for (index, edge) in bgp.edge.iter().enumerate() {
            let key = |key: &str| format!("bgp.edge[{index}].{key}");
            if self.sound(&[&key("name")]) {
                self.plain_name(&key("name"), &edge.name);
                if let Some(first) = bgp.peer.iter().position(|peer| peer.name == edge.name) {
                    self.error(&key("name"), format!("\"{}\" is the name of bgp.peer[{first}] already", edge.name));
                }
                if let Some(first) = bgp.edge.iter().take(index).position(|other| other.name == edge.name) {
                    self.error(&key("name"), format!("\"{}\" is the name of bgp.edge[{first}] already", edge.name));
                }
            }
            if self.sound(&[&key("address")]) {
                self.edge_address(&key("address"), edge);
            }
            if edge.local_address.is_some_and(|local| local.is_ipv4() != edge.address.is_ipv4()) {
                self.error(
                    &key("local_address"),
                    format!("not of the same family as the edge's address {}", edge.address),
                );
            }
            if edge.families.is_empty() {
                self.error(&key("families"), "no family: nothing could be asked");
            }
            if !(1..=2).contains(&edge.probe_ttl) {
                self.error(
                    &key("probe_ttl"),
                    format!("{}: 1 is answered by the router, 2 by the hop behind it", edge.probe_ttl),
                );
            }
        }
        if !bgp.edge.is_empty() && bgp.peer.iter().all(|peer| peer.role == Role::Observer) && self.sound(&["bgp.peer"])
        {
            self.error_with(
                "bgp.edge",
                "there is no [[bgp.peer]] that gets routes: nothing would bring them to the edges",
                "add the session with the reflector, with forwards = false",
            );
        }
    }

    fn edge_address(&mut self, path: &str, edge: &Edge) {
        let bgp = &self.config.bgp;
        if !unicast(*edge.address) {
            self.error(path, format!("{} is not the address of a router", edge.address));
        }
        self.not_this_host(path, *edge.address);
        let router = bgp.peer.iter().find(|peer| peer.role == Role::Enforcer && *peer.address == *edge.address);
        match router {
            Some(peer) if !peer.forwards => self.error_with(
                path,
                format!("is the address of peer \"{}\", which forwards nothing", peer.name),
                "name the address of a router behind it",
            ),
            Some(peer) => self.error_with(
                path,
                format!("is the address of peer \"{}\", which has a session of its own", peer.name),
                "let that peer confirm by itself, with confirm = \"probe\"",
            ),
            None => {}
        }
    }

    /// What a peer says of routers behind it.
    pub(super) fn reflector(&mut self, path: &str, peer: &Peer) {
        let key = |key: &str| format!("{path}.{key}");
        let bgp = &self.config.bgp;
        for (index, name) in peer.observers.iter().enumerate() {
            let at = key(&format!("observers[{index}]"));
            let observer = bgp.peer.iter().find(|other| other.name == *name);
            match observer {
                None => self.error(&at, format!("there is no peer called \"{name}\"")),
                Some(other) if other.role != Role::Observer => {
                    self.error(&at, format!("\"{name}\" is not an observer; set role = \"observer\" on it"));
                }
                Some(other) if !peer.forwards && *other.address == *peer.address => self.error_with(
                    &at,
                    format!("\"{name}\" is a session with this very router, which forwards nothing"),
                    "an observer of an edge is a session with that edge",
                ),
                Some(other) if bgp.no_export && Some(other.asn) != bgp.asn => self.warning(
                    &at,
                    format!(
                        "\"{name}\" is external: routers send it no route with NO_EXPORT, so nothing would be confirmed"
                    ),
                    "set bgp.no_export = false, and let the edge export these routes to the guard alone",
                ),
                Some(_) => {}
            }
            if peer.observers.iter().take(index).any(|before| before == name) {
                self.error(&at, format!("\"{name}\" stands here twice"));
            }
            if bgp.peer.iter().any(|other| other.observer.as_ref() == Some(name)) {
                self.error(&at, format!("\"{name}\" is the `observer` of a peer already, which is another thing"));
            }
        }
        if peer.forwards {
            return;
        }
        for (index, text) in bgp.communities.iter().enumerate() {
            if community::standard(text) == Ok(NO_ADVERTISE) {
                self.error(
                    &format!("bgp.communities[{index}]"),
                    format!(
                        "NO_ADVERTISE keeps \"{}\" from passing the routes on: it forwards nothing itself",
                        peer.name
                    ),
                );
            }
        }
        if peer.confirm == Confirm::Probe {
            self.error_with(
                &key("confirm"),
                "\"probe\" asks whether this router forwards, and with forwards = false it doesn't",
                "leave `confirm` out; write a [[bgp.edge]] for each router behind it: those are probed",
            );
        }
        let watched = |name: &String| bgp.peer.iter().any(|other| other.name == *name && other.required);
        let stands = bgp.edge.iter().any(|edge| edge.required) || peer.observers.iter().any(watched);
        if peer.required && !stands && self.sound(&[&key("observers"), "bgp.edge"]) {
            let confirm = serde_json::to_string(&peer.confirm).unwrap_or_default();
            self.error_with(
                &key("forwards"),
                format!(
                    "\"{}\" forwards nothing, so its word (confirm = {confirm}) says nothing of the routers behind it: answers would \
                     leave before those forward",
                    peer.name
                ),
                "write a [[bgp.edge]] for each of them, or `observers` with a session on each; or required = false, and nothing waits",
            );
        }
    }
}
