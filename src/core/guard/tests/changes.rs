//! Reloads that change one thing each. What rules forbid is looked up in the guard, as far as a name says it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::schema::{Gate, Lease};
use crate::core::event::{EnforcerId, EnforcerSpec, Event, Forbidden, ForbiddenPath, Listed, Reload, Routers, Ticket};
use crate::core::exchange::Exchange;
use crate::core::groups::Groups;
use crate::core::guard::Guard;
use crate::core::name::Name;
use crate::core::narrow::{PairId, Port};
use crate::core::pairs::{PairCause, Pairs};

fn reload(change: Reload) -> Event {
    Event::Reload(Box::new(change))
}

/// Other times and limits.
pub(super) fn settings(lease: Lease, gate: Gate) -> Event {
    reload(Reload { settings: Some((lease, gate)), ..Reload::default() })
}

/// Routes are announced, or none is.
pub(super) fn announce(announces: bool) -> Event {
    reload(Reload { announces: Some(announces), ..Reload::default() })
}

/// A reload to other groups.
pub(super) fn groups(groups: Arc<Groups>) -> Event {
    reload(Reload { groups: Some(groups), ..Reload::default() })
}

/// Leases can be less than all of an address.
pub(super) fn narrowly() -> Event {
    reload(Reload { narrowly: true, ..Reload::default() })
}

/// A reload to another list of enforcers.
pub(super) fn enforcers(guard: &Guard, enforcers: Vec<Listed>) -> Event {
    routers(guard, enforcers, guard.settings.linger)
}

/// The enforcers with which a guard began, and another linger.
pub(super) fn linger(guard: &Guard, specs: Vec<EnforcerSpec>, linger: Duration) -> Event {
    let listed = (0..).zip(specs).map(|(id, spec)| Listed { id: EnforcerId(id), spec, joins: false });
    routers(guard, listed.collect(), linger)
}

/// Other enforcers, and another linger.
pub(super) fn routers(guard: &Guard, enforcers: Vec<Listed>, linger: Duration) -> Event {
    let exchange = guard.exchange.as_ref().map(Exchange::own);
    reload(Reload { routers: Some(Routers { enforcers, linger, exchange }), ..Reload::default() })
}

fn forbidden(forbidden: Forbidden) -> Event {
    reload(Reload { forbidden: Some(forbidden), ..Reload::default() })
}

/// Rules that deny these names, as questions and as aliases.
pub(super) fn forbid(guard: &Guard, names: &[Name]) -> Event {
    let is_denied = |name: &Name| names.contains(name);
    let causes = guard.causes().filter(|cause| is_denied(cause.question) || cause.chain.iter().any(is_denied));
    let path = causes.map(|cause| ForbiddenPath {
        address: cause.address,
        question: cause.question.clone(),
        chain: cause.chain.into(),
        mark: cause.mark,
    });
    let mut paths: Vec<ForbiddenPath> = path.collect();
    paths.sort_by_key(|path| path.address);
    let pairs = pairs_of(guard, |_, cause| cause.names.iter().any(is_denied));
    let denied = |bears: &dyn Fn(&Name) -> bool| names.iter().any(bears);
    let queued = guard.queue.iter().filter(|asked| denied(&|name| asked.bears(name)));
    let later = guard.fresh.iter().chain(&guard.through).map(|(ticket, waiting)| (*ticket, waiting));
    let waiting = guard.gate.iter().chain(later).filter(|(_, waiting)| denied(&|name| waiting.bears(name)));
    let tickets = queued.map(|asked| asked.admission.ticket).chain(waiting.map(|(ticket, _)| ticket)).collect();
    forbidden(Forbidden { paths, pairs, tickets, ..Forbidden::default() })
}

/// Rules by which a question does not open a pair any more.
pub(super) fn forbid_pair(guard: &Guard, id: PairId, question: &Name) -> Event {
    let pairs = pairs_of(guard, |other, cause| other == id && cause.names.first() == Some(question));
    forbidden(Forbidden { pairs, tickets: queued_for(guard, id, question), ..Forbidden::default() })
}

/// Rules by which a question opens these ports in place of a pair.
pub(super) fn reopen(guard: &Guard, id: PairId, question: &Name, ports: Vec<Port>) -> Event {
    let tickets = if ports.contains(&id.1.to) { Vec::new() } else { queued_for(guard, id, question) };
    forbidden(Forbidden { reopened: vec![(id, question.clone(), ports)], tickets, ..Forbidden::default() })
}

/// As [`Forbidden`] has them, of the causes that are meant.
type ForbiddenPairs = Vec<(PairId, Arc<[Name]>, Option<crate::core::person::Mark>)>;

fn pairs_of(guard: &Guard, is_meant: impl Fn(PairId, &PairCause) -> bool) -> ForbiddenPairs {
    let pairs = guard.pairs.iter().flat_map(Pairs::iter);
    let causes = pairs.flat_map(|(id, pair)| pair.causes.iter().map(move |cause| (id, cause)));
    let meant = causes.filter(|(id, cause)| is_meant(*id, cause));
    meant.map(|(id, cause)| (id, cause.names.clone(), cause.mark)).collect()
}

/// Answers that wait for tokens, and would open this pair.
fn queued_for(guard: &Guard, id: PairId, question: &Name) -> Vec<Ticket> {
    let queued = guard.queue.iter().filter(|asked| asked.admission.question == *question && asked.holds(id.0));
    queued.filter(|asked| guard.narrows(&asked.admission).contains(&id.1)).map(|one| one.admission.ticket).collect()
}
