//! `mode`, `[lease]`, `[gate]`, `[nftables]`

use std::time::Duration;

use super::Checks;
use crate::config::schema::{NftablesMode, OnDeadline, OnStop, Scope};
use crate::config::upstream::UpstreamUrl;
use crate::core::policy::name_from_user;
use crate::enforce::packet_filters;

/// Clients of libc give up after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most names of `lease.preload`.
const PRELOADED: usize = 256;
/// IFNAMSIZ without its NUL.
const INTERFACE_NAME: usize = 15;

impl Checks<'_, '_> {
    pub(super) fn mode(&mut self) {
        if !self.config.audits() {
            return;
        }
        self.warning("mode", "audit: nothing is blocked, `destguard denied` says what would be", "\"enforce\" blocks");
        let overruled = [("nftables.enforce", self.config.nftables.enforce), ("bgp.enforce", self.config.bgp.enforce)];
        for (key, _) in overruled.into_iter().filter(|(_, enforces)| *enforces) {
            if self.document.has(key) {
                self.warning(key, "of no effect while mode is \"audit\"", "mode = \"enforce\" puts it in force");
            }
        }
        if !self.config.bgp.peer.is_empty() {
            self.warning(
                "bgp.peer",
                "audit announces nothing: a router that null-routes what isn't announced blocks everything",
                "take the routers' null route away before",
            );
        }
    }

    pub(super) fn enforcer(&mut self) {
        let name = &self.config.enforcer;
        if packet_filters::named(name).is_none() {
            let known: Vec<String> =
                packet_filters::PACKETS.iter().map(|backend| format!("\"{}\"", backend.name)).collect();
            let message = match name.as_str() {
                "ebpf" => "this program was built without \"ebpf\" (cargo build --features ebpf)".to_owned(),
                _ => format!("there is no {name:?}; this program has {}", known.join(", ")),
            };
            self.error("enforcer", message);
        }
    }

    pub(super) fn lease_and_gate(&mut self) {
        let lease = &self.config.lease;
        if lease.min > lease.max && self.sound(&["lease.min", "lease.max"]) {
            let path = if self.document.has("lease.min") { "lease.min" } else { "lease.max" };
            self.error(path, format!("lease.min ({}) is longer than lease.max ({})", lease.min, lease.max));
        }
        for (index, name) in lease.preload.iter().enumerate() {
            if let Err(error) = name_from_user(name) {
                self.error(&format!("lease.preload[{index}]"), format!("{name:?} is no name: {error}"));
            }
        }
        if lease.preload.len() > PRELOADED {
            self.error("lease.preload", format!("{PRELOADED} names at most"));
        }
        if lease.revalidate && self.config.nftables.mode == NftablesMode::Off {
            self.warning(
                "lease.revalidate",
                "without nftables nobody sees packets to addresses whose lease ended",
                "it has no effect where routers alone enforce",
            );
        }
        if lease.max.0.is_zero() {
            self.error("lease.max", "no lease could last");
        }
        if lease.min.0.is_zero() && lease.grace.0.is_zero() && self.sound(&["lease.min", "lease.grace"]) {
            self.error(
                "lease.min",
                "lease.min and lease.grace are both zero: an answer with TTL 0 could never be used",
            );
        }
        for (key, value) in [("lease.capacity", lease.capacity), ("lease.per_answer", lease.per_answer)] {
            if value == 0 {
                self.error(key, "zero: nothing could ever be opened");
            }
        }
        for (key, rate) in
            [("lease.new_per_client", lease.new_per_client), ("lease.new_per_domain", lease.new_per_domain)]
        {
            if rate.count == 0 {
                self.error(key, "zero: nothing could ever be opened");
            }
        }
        let (bursts, most) = (
            [("lease.burst_per_client", lease.burst_per_client), ("lease.burst_per_domain", lease.burst_per_domain)],
            u64::try_from(lease.per_answer).unwrap_or(u64::MAX),
        );
        for (key, burst) in bursts {
            if burst == 0 {
                self.error(key, "zero: nothing could ever be opened");
            } else if burst < most && self.sound(&[key, "lease.per_answer"]) {
                self.warning(
                    key,
                    format!(
                        "an answer of {most} new addresses (lease.per_answer) never fits into {burst}: it comes later, or with fewer"
                    ),
                    "several hundred let pages load",
                );
            }
        }
        if lease.capacity < lease.per_answer && lease.capacity != 0 {
            let path = if self.document.has("lease.capacity") { "lease.capacity" } else { "lease.per_answer" };
            self.warning(
                path,
                format!("an answer of {} addresses never fits into {} leases", lease.per_answer, lease.capacity),
                "the default is 100000",
            );
        }
        let gate = &self.config.gate;
        if gate.deadline.0.is_zero() {
            self.error("gate.deadline", "zero: no answer could wait for its enforcers");
        } else if gate.deadline.0 >= PATIENCE {
            self.warning(
                "gate.deadline",
                format!("clients give up after about 5s, before the gate's {}", gate.deadline),
                "keep it below 5s",
            );
        }
        if gate.on_deadline == OnDeadline::Answer {
            self.warning(
                "gate.on_deadline",
                "answers may leave before their addresses are open: the first connections can fail",
                "\"servfail\" keeps the promise",
            );
        }
    }

    fn bridges(&mut self) {
        let nftables = &self.config.nftables;
        self.unique("nftables.bridges", &nftables.bridges);
        for (index, pattern) in nftables.bridges.iter().enumerate() {
            let path = format!("nftables.bridges[{index}]");
            let beginning = pattern.strip_suffix('*').unwrap_or(pattern);
            let fits = pattern.len() <= INTERFACE_NAME
                && beginning.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\"*\\@".contains(&byte));
            if pattern.is_empty() || !fits {
                self.error(
                    &path,
                    format!("\"{pattern}\" is neither an interface's name nor the beginning of names, as \"br-*\""),
                );
            } else if beginning.is_empty() || pattern == "lo" {
                self.error(&path, format!("\"{pattern}\" is more than bridges: name them, as in \"br-*\""));
            }
        }
        if !nftables.bridges.is_empty() && nftables.scope == Scope::Client {
            self.warning(
                "nftables.bridges",
                "with scope = \"client\" a container must ask the guard itself: what its engine's resolver asks opens nothing for it",
                "docs/containers.md says which engines do so",
            );
        }
    }

    /// Where questions for others are sent.
    fn redirected(&mut self) {
        let (nftables, dns) = (&self.config.nftables, &self.config.dns);
        if !nftables.redirect_dns || !self.sound(&["nftables.mode", "dns.listen"]) {
            return;
        }
        if !nftables.bridges.is_empty() && dns.listen.iter().all(|at| at.ip().is_loopback()) {
            self.warning(
                "nftables.redirect_dns",
                "questions from nftables.bridges come to the bridge's address, where the guard doesn't listen",
                "add that address to dns.listen (and its prefix to dns.clients), unless another resolver listens there, as libvirt's dnsmasq does",
            );
        }
        if matches!(nftables.mode, NftablesMode::Local | NftablesMode::Both)
            && let Some(index) = dns
                .upstream
                .iter()
                .position(|upstream| upstream.url.parse::<UpstreamUrl>().is_ok_and(|url| url.addr.ip().is_loopback()))
        {
            self.warning(
                &format!("dns.upstream[{index}].url"),
                "nftables.redirect_dns sends what a resolver on this host asks back to the guard",
                "name a resolver elsewhere",
            );
        }
    }

    pub(super) fn nftables(&mut self) {
        let nftables = &self.config.nftables;
        let gateway = matches!(nftables.mode, NftablesMode::Gateway | NftablesMode::Both);
        if self.sound(&["nftables.mode"]) {
            if gateway && nftables.inside.is_empty() {
                self.error_with(
                    if self.document.has("nftables.inside") { "nftables.inside" } else { "nftables.mode" },
                    "`nftables.inside` is missing: a gateway must know which interfaces it guards",
                    "name the interfaces behind which the guarded hosts are, as in inside = [\"lan0\"]",
                );
            }
            if !gateway && !nftables.inside.is_empty() {
                self.error("nftables.inside", "only for the modes \"gateway\" and \"both\"");
            }
            self.client_prefix();
            if !gateway && nftables.scope == Scope::Client {
                self.error_with(
                    "nftables.scope",
                    "\"client\" only for the modes \"gateway\" and \"both\": a host by itself has no clients to tell apart",
                    "remove the key, or guard hosts behind an interface with mode = \"gateway\"",
                );
            }
            if nftables.mode == NftablesMode::Off {
                for (key, used) in [
                    ("nftables.redirect_dns", nftables.redirect_dns),
                    ("nftables.bridges", !nftables.bridges.is_empty()),
                ] {
                    if used {
                        self.error(key, "only where nftables guards: nftables.mode is \"off\"");
                    }
                }
            }
        }
        self.bridges();
        self.redirected();
        self.unique("nftables.inside", &nftables.inside);
        for (index, interface) in nftables.inside.iter().enumerate() {
            let fits = !interface.is_empty()
                && interface.len() <= INTERFACE_NAME
                && interface.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\"*\\".contains(&byte));
            if !fits {
                self.error(&format!("nftables.inside[{index}]"), format!("\"{interface}\" is not an interface's name"));
            }
        }
        if nftables.mode != NftablesMode::Off {
            if nftables.on_stop == OnStop::Remove {
                self.warning(
                    "nftables.on_stop",
                    "everything is reachable whenever the daemon stops",
                    "\"keep\" fails closed",
                );
            }
            if !nftables.enforce && !self.config.audits() {
                self.warning("nftables.enforce", "audit: counted and logged, nothing is blocked", "true enforces");
            }
        }
    }
}
