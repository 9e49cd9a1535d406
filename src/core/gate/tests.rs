//! The gate alone.

use super::*;

fn wait(gate: &mut Gate, ticket: u64, timed: u64, route: u64) {
    let waiting = Waiting {
        deadline: Moment(1000 + ticket),
        names: Vec::new(),
        addresses: vec![IpAddr::from([198, 51, 100, 1])],
        leases: Vec::new(),
        needs: Needs { timed: Generation(timed), route: Generation(route) },
    };
    gate.wait(Ticket(ticket), waiting);
}

fn through(gate: &mut Gate, kind: EnforcerKind, generation: u64) -> Vec<u64> {
    gate.acknowledged(kind, Generation(generation)).into_iter().map(|(ticket, _)| ticket.0).collect()
}

#[test]
fn an_answer_is_through_when_both_kinds_are() {
    use EnforcerKind::{Route, Timed};
    let mut gate = Gate::default();
    wait(&mut gate, 1, 5, 3);
    wait(&mut gate, 2, 4, 9);
    assert_eq!(through(&mut gate, Timed, 4), [0u64; 0]);
    assert_eq!(through(&mut gate, Timed, 5), [0u64; 0]);
    assert_eq!(through(&mut gate, Route, 3), [1]);
    assert_eq!(through(&mut gate, Route, 8), [0u64; 0]);
    assert_eq!(through(&mut gate, Route, 9), [2]);
    assert!(gate.is_empty() && gate.next_deadline().is_none());
    assert_eq!(gate.waiting_for(IpAddr::from([198, 51, 100, 1])), 0);
}

#[test]
fn what_was_acknowledged_before_a_loss_must_be_so_again() {
    use EnforcerKind::{Route, Timed};
    let mut gate = Gate::default();
    wait(&mut gate, 1, 5, 3);
    assert_eq!(through(&mut gate, Timed, 5), [0u64; 0]);
    gate.lost(Timed);
    assert_eq!(through(&mut gate, Route, 3), [0u64; 0], "the timed enforcer holds nothing any more");
    assert_eq!(through(&mut gate, Timed, 6), [1]);
}

#[test]
fn deadlines_come_one_by_one() {
    let mut gate = Gate::default();
    wait(&mut gate, 1, 1, 0);
    wait(&mut gate, 2, 1, 0);
    assert!(gate.overdue(Moment(1000)).is_none());
    assert_eq!(gate.overdue(Moment(2000)).map(|(ticket, _)| ticket), Some(Ticket(1)));
    assert_eq!(gate.next_deadline(), Some(Moment(1002)));
    assert_eq!(gate.overdue(Moment(2000)).map(|(ticket, _)| ticket), Some(Ticket(2)));
    assert!(gate.overdue(Moment(2000)).is_none());
}

#[test]
fn a_ticket_that_comes_twice_stays_one() {
    let mut gate = Gate::default();
    wait(&mut gate, 1, 1, 0);
    wait(&mut gate, 1, 7, 0);
    assert_eq!(gate.len(), 1);
    assert_eq!(through(&mut gate, EnforcerKind::Route, 0), [0u64; 0]);
    assert_eq!(through(&mut gate, EnforcerKind::Timed, 1), [0u64; 0]);
    assert_eq!(through(&mut gate, EnforcerKind::Timed, 7), [1]);
}
