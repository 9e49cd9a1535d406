//! One word for how the guard is, and why.

use std::time::Duration;

use super::sources::Sources;
use super::types::{AnswerCounts, LeaseCounts, State, Status};
use crate::core::explain::{Counts, EnforcerState, EnforcerView, RefusedCounts};
use crate::core_task::Stopped;

/// The whole of `status`.
///
/// # Errors
/// The core has stopped.
pub async fn status(sources: &dyn Sources, uptime: Duration) -> Result<Status, Stopped> {
    let (counts, enforcers) = sources.core().overview().await?;
    let upstreams = sources.upstreams();
    let mut troubles = sources.troubles();
    if !upstreams.is_empty() && upstreams.iter().all(|upstream| !upstream.healthy) {
        troubles.push("no upstream answers".to_owned());
    }
    let (state, mut reasons) = judge(&enforcers, troubles, sources.audit());
    if sources.audits() {
        reasons.iter_mut().for_each(|reason| *reason = reason.replace("are refused", "would be refused"));
    }
    Ok(Status {
        state,
        reasons,
        uptime_seconds: uptime.as_secs(),
        leases: LeaseCounts {
            active: counts.ipv4.saturating_add(counts.ipv6),
            ipv4: counts.ipv4,
            ipv6: counts.ipv6,
            pending: counts.pending,
            lingering: counts.lingering,
            capacity: counts.capacity,
        },
        answers: AnswerCounts { would_refuse: sources.would_refuse(), ..answers(&counts, sources.denied_count()) },
        enforcers: enforcers.into_iter().map(Into::into).collect(),
        upstreams,
        peers: sources.peers(),
        lists: sources.lists(),
        errors: sources.errors(),
    })
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

/// Worst first: something lost, then something not there yet, then audit.
fn judge(enforcers: &[EnforcerView], troubles: Vec<String>, audit: Vec<String>) -> (State, Vec<String>) {
    let mut reasons = troubles;
    let mut starting = Vec::new();
    for enforcer in enforcers {
        match enforcer.state {
            EnforcerState::InForce => {}
            EnforcerState::Starting => starting.push(format!("{} has not reported yet", enforcer.name)),
            EnforcerState::Partial => {
                starting.push(format!("{} has confirmed {} of its addresses", enforcer.name, enforcer.installed));
            }
            EnforcerState::Lost => {
                let why = enforcer.last_error.as_deref().unwrap_or("no reason given");
                let effect = if enforcer.required { ", so answers with new addresses are refused" } else { "" };
                reasons.push(format!("{} is lost: {why}{effect}", enforcer.name));
            }
        }
    }
    let state = if !reasons.is_empty() {
        State::Degraded
    } else if !starting.is_empty() {
        State::Starting
    } else if !audit.is_empty() {
        State::Audit
    } else {
        State::Enforcing
    };
    reasons.extend(starting);
    reasons.extend(audit);
    (state, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enforcer(name: &str, state: EnforcerState) -> EnforcerView {
        EnforcerView {
            name: name.to_owned(),
            required: true,
            state,
            since_seconds: 1,
            acknowledged: None,
            behind: false,
            installed: 0,
            max_addresses: 1,
            last_error: Some("it broke".to_owned()),
        }
    }

    #[test]
    fn the_worst_decides_and_every_reason_is_told() {
        let fine = enforcer("nftables", EnforcerState::InForce);
        let late = enforcer("edge1", EnforcerState::Starting);
        let lost = enforcer("edge2", EnforcerState::Lost);
        let audit = || vec!["bgp.enforce is false".to_owned()];
        assert_eq!(judge(std::slice::from_ref(&fine), vec![], vec![]), (State::Enforcing, vec![]));
        assert_eq!(judge(std::slice::from_ref(&fine), vec![], audit()).0, State::Audit);
        assert_eq!(judge(&[fine.clone(), late.clone()], vec![], audit()).0, State::Starting);
        let (state, reasons) = judge(&[fine, late, lost], vec![], audit());
        assert_eq!(state, State::Degraded);
        assert_eq!(
            reasons,
            [
                "edge2 is lost: it broke, so answers with new addresses are refused",
                "edge1 has not reported yet",
                "bgp.enforce is false"
            ]
        );
    }
}
