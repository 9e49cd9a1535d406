//! The gate alone.

use super::*;

fn wait(gate: &mut Gate, ticket: u64, timed: u64, route: u64) {
    let waiting = Waiting {
        short: None,
        narrows: Narrows::new(),
        deadline: Moment(1000 + ticket),
        client: IpAddr::from([192, 0, 2, 1]),
        group: None,
        mark: None,
        question: Name::root(),
        chain: Arc::default(),
        addresses: [IpAddr::from([198, 51, 100, 1])].into_iter().collect(),
        leases: LeaseHandles::new(),
        needs: Needs { timed: Generation(timed), route: Generation(route) },
    };
    gate.wait(Ticket(ticket), waiting);
}

fn numbers(through: impl IntoIterator<Item = (Ticket, Waiting)>) -> Vec<u64> {
    through.into_iter().map(|(ticket, _)| ticket.0).collect()
}

fn timed(gate: &mut Gate, generation: u64) -> Vec<u64> {
    numbers(gate.acknowledged(Generation(generation)))
}

#[test]
fn an_answer_is_through_when_both_kinds_are() {
    let mut gate = Gate::default();
    wait(&mut gate, 1, 5, 3);
    wait(&mut gate, 2, 4, 9);
    assert_eq!(timed(&mut gate, 4), [0u64; 0]);
    assert_eq!(timed(&mut gate, 5), [0u64; 0]);
    assert_eq!(numbers(gate.pass(EnforcerKind::Route, Ticket(1))), [1]);
    assert_eq!(numbers(gate.pass(EnforcerKind::Route, Ticket(1))), [0u64; 0]);
    assert_eq!(numbers(gate.pass(EnforcerKind::Route, Ticket(2))), [2]);
    assert!(gate.is_empty() && gate.next_deadline().is_none());
    assert_eq!(gate.waiting_for(IpAddr::from([198, 51, 100, 1])), 0);
}

#[test]
fn an_answer_needs_each_of_its_addresses() {
    let addresses = [1, 2, 3].map(|last| IpAddr::from([198, 51, 100, last]));
    let mut gate = Gate::default();
    wait(&mut gate, 1, 0, 3);
    wait(&mut gate, 2, 0, 3);
    let mut waiting = gate.take(Ticket(2)).unwrap();
    waiting.addresses = addresses[..2].into();
    gate.wait(Ticket(2), waiting);
    assert_eq!(timed(&mut gate, 0), [0u64; 0]);
    assert_eq!(numbers(gate.in_force(addresses[2], |_, _| true)), [0u64; 0], "nobody waits for that one");
    assert_eq!(numbers(gate.in_force(addresses[0], |other, _| other == addresses[0])), [1]);
    assert_eq!(numbers(gate.in_force(addresses[1], |other, _| other != addresses[2])), [2]);
    assert!(gate.is_empty());
}

#[test]
fn what_was_acknowledged_before_a_loss_must_be_so_again() {
    let mut gate = Gate::default();
    wait(&mut gate, 1, 5, 3);
    assert_eq!(timed(&mut gate, 5), [0u64; 0]);
    gate.lost(EnforcerKind::Timed);
    assert!(gate.pass(EnforcerKind::Route, Ticket(1)).is_none(), "the timed enforcer holds nothing any more");
    assert_eq!(timed(&mut gate, 6), [1]);
    wait(&mut gate, 2, 5, 3);
    assert!(gate.pass(EnforcerKind::Route, Ticket(2)).is_none());
    gate.lost(EnforcerKind::Route);
    assert_eq!(timed(&mut gate, 6), [0u64; 0], "nor do the routers");
    assert_eq!(numbers(gate.pass(EnforcerKind::Route, Ticket(2))), [2]);
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
    assert!(gate.pass(EnforcerKind::Route, Ticket(1)).is_none());
    assert_eq!(timed(&mut gate, 1), [0u64; 0]);
    assert_eq!(timed(&mut gate, 7), [1]);
}
