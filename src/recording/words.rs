//! What goes in and out of the core, in words.

use crate::core::event::{Change, Event, Output, Refusal, RevokeTarget};

/// Why an answer was refused.
pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Deadline { waiting_for } => format!("gate.deadline passed before {}", waiting_for.join(", ")),
        Refusal::Enforcer { name, reason } => format!("{name} refused: {reason}"),
        Refusal::Family { name } => format!("{name} can't hold this family"),
        Refusal::PerAnswer => "lease.per_answer".to_owned(),
        Refusal::PerClient => "lease.new_per_client".to_owned(),
        Refusal::PerDomain => "lease.new_per_domain".to_owned(),
        Refusal::RouteBudget { name } => format!("max_routes of {name}"),
        Refusal::Capacity => "lease.capacity".to_owned(),
        Refusal::Revoked => "revoked meanwhile".to_owned(),
    }
}

/// What the core heard.
pub fn event(event: &Event) -> String {
    match event {
        Event::Admit(admission) => {
            let grants: Vec<String> =
                admission.grants.iter().map(|grant| format!("{} {} s", grant.address, grant.ttl)).collect();
            format!("#{} {} asks {}: {}", admission.ticket.0, admission.client, admission.question, grants.join(", "))
        }
        Event::Revoke(RevokeTarget::Address(address)) => format!("revoke {address}"),
        Event::Revoke(RevokeTarget::Name(name)) => format!("revoke {name}"),
        Event::Applied { enforcer, generation } => format!("enforcer {} holds plan {}", enforcer.0, generation.0),
        Event::Lost { enforcer, reason } => format!("enforcer {} is lost: {reason}", enforcer.0),
        Event::Restore(leases) => format!("{} leases restored", leases.len()),
        Event::RestorePairs(pairs) => format!("{} pairs restored", pairs.len()),
        Event::Guards(news) => format!("{} leases of other guards", news.len()),
        Event::Denied(ticket) => format!("#{} was judged by former rules, and is denied", ticket.0),
        Event::Reload(reload) => match &reload.forbidden {
            None => "a reload".to_owned(),
            Some(forbidden) => format!(
                "a reload: {} addresses, {} ways, {} pairs and {} answers are forbidden",
                forbidden.addresses.len(),
                forbidden.paths.len(),
                forbidden.pairs.len(),
                forbidden.tickets.len()
            ),
        },
        other => format!("{other:?}"),
    }
}

/// What the core wants done; `None`: nothing that is worth a line.
pub fn output(output: &Output) -> Option<String> {
    let changes = |generation: u64, changes: &[Change]| {
        let all: Vec<String> = changes.iter().map(change).collect();
        (!all.is_empty()).then(|| format!("plan {generation}: {}", all.join(", ")))
    };
    match output {
        Output::ApplyTimed { generation, changes: all } => {
            changes(generation.0, all).map(|text| format!("timed {text}"))
        }
        Output::ApplyRoutes { generation, changes: all } => {
            changes(generation.0, all).map(|text| format!("routes {text}"))
        }
        Output::Sync { enforcer, generation, leases, pairs } => Some(format!(
            "enforcer {} gets all with plan {}: {} leases, {} pairs",
            enforcer.0,
            generation.0,
            leases.len(),
            pairs.len()
        )),
        Output::CutFlows(address) => Some(format!("cut flows to {address}")),
        Output::RoutesAnew => Some("routes begin anew".to_owned()),
        Output::Share(leases) => Some(format!("other guards are told of {} leases", leases.len())),
        Output::Decide { .. }
        | Output::Hurry(_)
        | Output::Groups(_)
        | Output::Journal(_)
        | Output::JournalClosed(_)
        | Output::JournalRevoked(_)
        | Output::JournalPair(_) => None,
    }
}

fn change(change: &Change) -> String {
    match change {
        Change::Open { address, ends } => format!("open {address} until {}", seconds(ends.0)),
        Change::Extend { address, ends } => format!("extend {address} until {}", seconds(ends.0)),
        Change::Close { address } => format!("close {address}"),
        Change::Announce { address, .. } => format!("announce {address}"),
        Change::Narrow { address, narrow, ends, .. } => {
            let until = ends.map_or_else(|| "closed".to_owned(), |ends| format!("until {}", seconds(ends.0)));
            format!("{address} for {:?}, {}: {until}", narrow.who, narrow.to)
        }
    }
}

/// Milliseconds as seconds.
pub fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}
