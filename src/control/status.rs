//! One word for how the guard is, and why.

use std::time::Duration;

use super::sources::Sources;
use super::types::{Advertised, AnswerCounts, LeaseCounts, Peer, State, Status, Upstream};
use crate::core::counts::{Counts, RefusedCounts};
use crate::core::explain::EnforcerView;
use crate::core::gate::MOST_WAITING;
use crate::core::groups::MOST_SETS;
use crate::core::proof::EnforcerState;
use crate::core_task::Stopped;

/// The whole of `status`.
///
/// # Errors
/// The core has stopped.
pub async fn status(sources: &dyn Sources, uptime: Duration) -> Result<Status, Stopped> {
    let (counts, enforcers) = sources.core().overview().await?;
    let upstreams = sources.upstreams();
    let mut peers = sources.peers();
    would_advertise(&mut peers, &enforcers);
    let mut found = Found { reasons: sources.troubles(), warnings: sources.warnings(), audits: sources.audits() };
    found.upstreams(&upstreams);
    found.tables(&counts);
    let (state, mut found) = judge(&enforcers, &peers, found, sources.audit());
    if sources.audits() {
        let lines = found.reasons.iter_mut().chain(&mut found.warnings);
        lines.for_each(|line| *line = line.replace("are refused", "would be refused"));
    }
    Ok(Status {
        state,
        reasons: found.reasons,
        warnings: found.warnings,
        inside: sources.inside(),
        process: sources.process(),
        uptime_seconds: uptime.as_secs(),
        leases: LeaseCounts {
            active: counts.ipv4.saturating_add(counts.ipv6),
            ipv4: counts.ipv4,
            ipv6: counts.ipv6,
            pending: counts.pending,
            lingering: counts.lingering,
            held_by_flows: counts.held_by_flows,
            capacity: counts.capacity,
        },
        answers: AnswerCounts { would_refuse: sources.would_refuse(), ..answers(&counts, sources.denied_count()) },
        enforcers: enforcers.into_iter().map(Into::into).collect(),
        upstreams,
        peers,
        service: sources.service(),
        lists: sources.lists(),
        zones: sources.zones(),
        applications: sources.applications(),
        out_of_hours: sources.out_of_hours(),
        in_hours: sources.in_hours(),
        exceptions: sources.exceptions(),
        errors: sources.errors(),
    })
}

/// The word alone, and why it isn't "enforcing".
///
/// # Errors
/// The core has stopped.
pub async fn state(sources: &dyn Sources) -> Result<(State, Vec<String>), Stopped> {
    let (counts, enforcers) = sources.core().overview().await?;
    let mut found = Found { reasons: sources.troubles(), warnings: Vec::new(), audits: sources.audits() };
    found.upstreams(&sources.upstreams());
    found.tables(&counts);
    let (state, found) = judge(&enforcers, &sources.peers(), found, sources.audit());
    Ok((state, found.reasons))
}

/// What peers would be sent, were it not for the audit; the core alone knows.
pub fn would_advertise(peers: &mut [Peer], enforcers: &[EnforcerView]) {
    for peer in peers {
        let enforcer = enforcers.iter().find(|enforcer| enforcer.name == peer.name);
        let would = enforcer.and_then(|enforcer| enforcer.would_announce);
        peer.would_advertise = would.map(|(ipv4, ipv6)| Advertised { ipv4, ipv6 });
    }
}

fn answers(counts: &Counts, denied: u64) -> AnswerCounts {
    let RefusedCounts {
        deadline,
        enforcer,
        family,
        per_answer,
        per_client,
        per_domain,
        route_budget,
        capacity,
        revoked,
    } = counts.refused;
    AnswerCounts {
        released: counts.released,
        denied,
        would_refuse: 0,
        held: counts.waiting,
        gate_timeouts: counts.gate_timeouts,
        refused: [deadline, enforcer, family, per_answer, per_client, per_domain, route_budget, capacity, revoked]
            .iter()
            .fold(0, |sum, one| sum.saturating_add(*one)),
    }
}

/// What is wrong, and what is not well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    reasons: Vec<String>,
    warnings: Vec<String>,
    /// The whole guard only says what it would do.
    audits: bool,
}

/// The packet filter of this host, as enforcers are named.
const NFTABLES: &str = "nftables";
/// Percent from which on a bounded thing counts as nearly full.
const NEARLY: usize = 80;
/// A router that is up, and an enforcer that keeps up, confirm within a fraction of this.
const CONFIRMS_WITHIN: u64 = 3;

impl Found {
    fn upstreams(&mut self, upstreams: &[Upstream]) {
        // One that was never asked may be well.
        if !upstreams.is_empty() && upstreams.iter().all(|upstream| upstream.state == "broken") {
            self.reasons.push("no upstream answers".to_owned());
            return;
        }
        for upstream in upstreams.iter().filter(|upstream| upstream.state == "broken") {
            self.warnings.push(format!("the upstream {} doesn't answer", upstream.url));
        }
        if upstreams.iter().all(|upstream| upstream.state == "unknown" && upstream.failed > 0) && !upstreams.is_empty()
        {
            self.warnings.push("no upstream has answered yet".to_owned());
        }
    }

    /// Tables with a bound.
    fn tables(&mut self, counts: &Counts) {
        let leases = counts.ipv4.saturating_add(counts.ipv6).saturating_add(counts.lingering);
        let effect = "so answers with new addresses are refused";
        self.fills("the lease table", leases, counts.capacity, "lease.capacity", effect);
        let pairs = "the table of clients' leases";
        self.fills(pairs, counts.pairs, counts.capacity, "lease.capacity", effect);
        self.fills("the gate", counts.waiting, MOST_WAITING, "answers that may wait", effect);
        let sets = "the table of sets of groups";
        self.fills(sets, counts.group_sets, MOST_SETS, "fixed", "so answers that need another set are refused");
    }

    /// One that is full, or nearly.
    fn fills(&mut self, what: &str, used: usize, most: usize, bound: &str, effect: &str) {
        if most == 0 || used.saturating_mul(100) < most.saturating_mul(NEARLY) {
            return;
        }
        if used >= most {
            self.reasons.push(format!("{what} is full: {used} of {most} ({bound}), {effect}"));
        } else {
            let percent = used.saturating_mul(100) / most;
            self.warnings.push(format!("{what} is {percent} % full: {used} of {most} ({bound})"));
        }
    }

    /// What is wrong with an enforcer, or not there yet.
    fn enforcer(&mut self, enforcer: &EnforcerView, peer: Option<&Peer>, starting: &mut Vec<String>) {
        let name = &enforcer.name;
        if let Some(used) = enforcer.budget_used {
            // All routers share one table: the smallest budget bounds it, required or not.
            let what = format!("the route budget of {name}");
            self.fills(&what, used, enforcer.max_addresses, "max_routes", "so answers with new addresses are refused");
        }
        let effect = match enforcer.required {
            false => " (not required)",
            // Nothing is held for it, and what it is there for doesn't happen.
            true if self.audits && name == NFTABLES => ", so packets that enforcing would refuse are not counted",
            true => ", so answers with new addresses are refused",
        };
        let up_for = peer.filter(|peer| peer.state == "Established").map(|peer| peer.since_seconds);
        let cause = || {
            let said = peer.and_then(|peer| peer.unconfirmed.as_ref().or(peer.warning.as_ref()));
            said.cloned().unwrap_or_else(|| silence(peer))
        };
        let problem = match (enforcer.state, up_for) {
            (EnforcerState::Starting | EnforcerState::Lost, Some(up)) if up >= CONFIRMS_WITHIN => {
                Some(format!("{name} is up for {up} s and has confirmed nothing: {}{effect}", cause()))
            }
            (EnforcerState::Lost, _) => {
                let why = enforcer.last_error.as_deref().unwrap_or("no reason given");
                Some(format!("{name} is lost: {why}{effect}"))
            }
            (EnforcerState::Starting, _) => {
                let down = peer.filter(|_| up_for.is_none());
                let how = down.map_or_else(
                    || "has not reported yet".to_owned(),
                    |peer| {
                        let why = peer.last_error.as_ref().map_or_else(String::new, |why| format!(", {why}"));
                        format!("has not come up yet: {}{why}", peer.state)
                    },
                );
                let line = format!("{name} {how}");
                if enforcer.required {
                    starting.push(line)
                } else {
                    self.warnings.push(line + effect)
                }
                None
            }
            (EnforcerState::Partial, _) if peer.is_none_or(|peer| peer.unconfirmed.is_none()) => {
                let line = format!("{name} has confirmed {} of its addresses", enforcer.installed);
                if enforcer.required {
                    starting.push(line)
                } else {
                    self.warnings.push(line + effect)
                }
                None
            }
            (EnforcerState::InForce, _) if enforcer.behind_seconds >= CONFIRMS_WITHIN => {
                Some(format!("{name} has confirmed nothing for {} s: {}{effect}", enforcer.behind_seconds, cause()))
            }
            _ => {
                let unconfirmed = peer.and_then(|peer| peer.unconfirmed.as_ref());
                unconfirmed.map(|why| format!("{name} does not confirm what it is told: {why}{effect}"))
            }
        };
        if let Some(problem) = problem {
            if enforcer.required { self.reasons.push(problem) } else { self.warnings.push(problem) }
        }
        let warned = peer.and_then(|peer| peer.warning.as_ref());
        if let Some(warning) = warned.filter(|_| enforcer.state == EnforcerState::InForce && up_for.is_some()) {
            self.warnings.push(format!("{name}: {warning}"));
        }
    }
}

impl Found {
    /// A router whose observer is not there can't be seen to hold anything.
    fn observer(&mut self, enforcer: &EnforcerView, peer: &Peer, observer: Option<&Peer>) {
        let up = |peer: &Peer| peer.state == "Established";
        let Some(observer) = observer.filter(|observer| up(peer) && !up(observer)) else { return };
        if peer.since_seconds.min(observer.since_seconds) < CONFIRMS_WITHIN {
            return;
        }
        let why = observer.last_error.as_ref().map_or_else(String::new, |why| format!(", {why}"));
        let (name, other, state) = (&enforcer.name, &observer.name, &observer.state);
        let line = format!("nothing of {name} is confirmed: its observer {other} is not up: {state}{why}");
        if enforcer.required { self.reasons.push(line) } else { self.warnings.push(line) }
    }
}

/// Where to look when nothing comes and the session says no more.
fn silence(peer: Option<&Peer>) -> String {
    let Some(peer) = peer else { return "the last changes are not acknowledged".to_owned() };
    let mode = peer.confirm.split(' ').next().unwrap_or_default();
    let hint = match mode {
        "refresh" => "the router does not answer ROUTE-REFRESH",
        "reflect" => {
            "nothing comes back on the observer's session: is it up, and does the router send the routes there?"
        }
        "probe" => "no probe is answered: does the router forward to the next hop, and answer probes?",
        _ => "its TCP acknowledges nothing",
    };
    format!("{hint} (confirm = \"{mode}\")")
}

/// Worst first: something lost, then something not there yet, then audit. What is not required never decides.
fn judge(enforcers: &[EnforcerView], peers: &[Peer], mut found: Found, audit: Vec<String>) -> (State, Found) {
    let mut starting = Vec::new();
    for enforcer in enforcers {
        let peer = peers.iter().find(|peer| peer.name == enforcer.name);
        found.enforcer(enforcer, peer, &mut starting);
        if let Some((peer, observer)) = peer.and_then(|peer| Some((peer, peer.observer.as_ref()?))) {
            let watching = peers.iter().find(|other| other.name == *observer);
            found.observer(enforcer, peer, watching);
        }
    }
    let state = if !found.reasons.is_empty() {
        State::Degraded
    } else if !starting.is_empty() {
        State::Starting
    } else if !audit.is_empty() {
        State::Audit
    } else {
        State::Enforcing
    };
    found.reasons.extend(starting);
    found.reasons.extend(audit);
    (state, found)
}

#[cfg(test)]
mod tests;
