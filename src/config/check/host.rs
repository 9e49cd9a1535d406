//! `mode`, `[lease]`, `[gate]`, `[nftables]`, `[http]`

use std::time::Duration;

use super::Checks;
use crate::config::schema::{NftablesMode, OnDeadline, OnStop, Scope};

/// Clients of libc give up after this.
const PATIENCE: Duration = Duration::from_secs(5);
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

    pub(super) fn lease_and_gate(&mut self) {
        let lease = &self.config.lease;
        if lease.min > lease.max && self.sound(&["lease.min", "lease.max"]) {
            let path = if self.document.has("lease.min") { "lease.min" } else { "lease.max" };
            self.error(path, format!("lease.min ({}) is longer than lease.max ({})", lease.min, lease.max));
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
            if !gateway && nftables.scope == Scope::Client {
                self.error_with(
                    "nftables.scope",
                    "\"client\" only for the modes \"gateway\" and \"both\": a host by itself has no clients to tell apart",
                    "remove the key, or guard hosts behind an interface with mode = \"gateway\"",
                );
            }
            if !gateway && nftables.redirect_dns {
                self.error("nftables.redirect_dns", "only for the modes \"gateway\" and \"both\"");
            }
        }
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

    pub(super) fn http(&mut self) {
        let listen = &self.config.http.listen;
        self.unique("http.listen", listen);
        for (index, addr) in listen.iter().enumerate().filter(|(_, addr)| !addr.ip().is_loopback()) {
            self.warning(
                &format!("http.listen[{index}]"),
                format!("{addr}: whoever reaches it reads leases, names and clients; there is no login"),
                "listen on loopback, or let a firewall choose who reaches it",
            );
        }
    }
}
