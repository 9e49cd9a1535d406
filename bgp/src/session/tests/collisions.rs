//! Several connections at once: `Pair` joins two sessions by queues of octets.

use std::collections::VecDeque;

use super::*;

/// Both ends connect at once; whoever's OPEN comes first, both must keep the same connection: that of the end with the higher identifier.
#[test]
fn collisions_leave_one_connection_and_both_ends_agree() {
    for (left_id, right_id) in [(1, 2), (2, 1)] {
        for order in 0..24u8 {
            let mut pair = Pair::new(config(64512, left_id, 64513), config(64513, right_id, 64512));
            pair.connect_both();
            pair.run(order);
            assert_eq!(pair.left.session.state().0, State::Established, "order {order}");
            assert_eq!(pair.right.session.state().0, State::Established, "order {order}");
            assert_eq!((pair.left.live.len(), pair.right.live.len()), (1, 1), "order {order}");
            assert_eq!(pair.left.live[0].1, pair.right.live[0].1, "the same connection, order {order}");
        }
    }
}

#[test]
fn a_losing_connection_waits_for_the_winning_one_but_not_for_long() {
    let losing = || {
        let mut script = Script::new(config(64512, 1, 64513));
        script.take();
        let ours = script.connect(true);
        let theirs = script.connect(false);
        script.open(ours, |_| {});
        script.hear(ours, &Message::Keepalive);
        assert_eq!(script.session.state().0, State::OpenConfirm);
        (script, ours, theirs)
    };
    let (mut script, ..) = losing();
    script.pass(2 * SECOND);
    assert_eq!(script.session.state().0, State::Established);

    let (mut script, _, theirs) = losing();
    script.session.closed(theirs, None, script.now);
    assert_eq!(script.session.state().0, State::Established);

    let (mut script, ours, _) = losing();
    script.hear(
        ours,
        &Message::RouteRefresh(RouteRefresh { family: Family::Ipv4.afi_safi(), subtype: RefreshSubtype::Request }),
    );
    assert_eq!(script.session.state().0, State::Established, "the peer has decided");
    assert!(script.take().contains(&Output::Refresh(Family::Ipv4)));
}

#[test]
fn an_established_session_survives_a_second_connection_unless_the_peer_restarted() {
    let mut script = Script::new(config(64512, 1, 64513));
    let first = script.establish(true);
    script.pass(20 * SECOND);
    let second = script.connect(false);
    script.take();
    script.open(second, |_| {});
    assert_eq!(script.notification(second), Some((6, 7, vec![])));
    script.hear(first, &Message::Keepalive);
    assert_eq!(script.session.state().0, State::Established);

    // With graceful restart the new one takes over (RFC 4724 section 5).
    let graceful = |open: &mut Open| {
        open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: true,
            notification: false,
            time: 60,
            families: vec![],
        }));
    };
    let mut script = Script::new(config(64512, 1, 64513));
    let first = script.connect(true);
    script.open(first, graceful);
    script.hear(first, &Message::Keepalive);
    script.pass(20 * SECOND);
    let second = script.connect(false);
    script.take();
    script.open(second, graceful);
    let outputs = script.take();
    assert!(outputs.contains(&Output::Close(first)), "{outputs:?}");
    assert!(outputs.iter().any(|output| matches!(output, Output::Down(_))), "{outputs:?}");
    script.hear(second, &Message::Keepalive);
    assert!(matches!(&script.take()[..], [Output::Up(id, _)] if *id == second));
}

#[test]
fn endless_connections_are_bounded() {
    let mut script = Script::new(config(64512, 1, 64513));
    for _ in 0..100 {
        script.session.connected(false, script.now);
        assert!(script.session.connections.len() <= CONNECTIONS);
    }
}

struct End {
    session: Session,
    /// Session's id and the TCP connection's number.
    live: Vec<(ConnectionId, usize)>,
    inbox: VecDeque<(usize, Bytes)>,
}

/// Two sessions and the two TCP connections between them.
struct Pair {
    left: End,
    right: End,
    now: Instant,
}

impl Pair {
    fn new(left: SessionConfig, right: SessionConfig) -> Self {
        let now = Instant::now();
        let end = |config| End { session: Session::new(config, now), live: Vec::new(), inbox: VecDeque::new() };
        let mut pair = Self { left: end(left), right: end(right), now };
        pair.left.session.start(now);
        pair.right.session.start(now);
        pair
    }

    /// TCP connection 0 is opened by the left end, 1 by the right one.
    fn connect_both(&mut self) {
        for (number, left_opens) in [(0, true), (1, false)] {
            let left = self.left.session.connected(left_opens, self.now).unwrap();
            let right = self.right.session.connected(!left_opens, self.now).unwrap();
            self.left.live.push((left, number));
            self.right.live.push((right, number));
        }
    }

    /// Moves octets until nothing moves; `order` decides which end and which connection go first.
    fn run(&mut self, order: u8) {
        let mut turn = order;
        for _ in 0..200 {
            for left in if turn.is_multiple_of(2) { [true, false] } else { [false, true] } {
                let (from, to) =
                    if left { (&mut self.left, &mut self.right) } else { (&mut self.right, &mut self.left) };
                carry(from, to, self.now);
            }
            let end = if (turn / 2).is_multiple_of(2) { &mut self.left } else { &mut self.right };
            let preferred = usize::from((turn / 4).is_multiple_of(2));
            let at = end.inbox.iter().position(|(number, _)| *number == preferred).unwrap_or(0);
            if let Some((number, octets)) = end.inbox.remove(at)
                && let Some((id, _)) = end.live.iter().find(|(_, n)| *n == number).copied()
            {
                if octets.is_empty() {
                    end.live.retain(|(_, n)| *n != number);
                    end.session.closed(id, None, self.now);
                } else {
                    end.session.received(id, &octets, self.now);
                }
            }
            turn = turn.wrapping_mul(5).wrapping_add(3) % 24;
        }
    }
}

/// Sends what one end has to send; an empty message is the end of the connection.
fn carry(from: &mut End, to: &mut End, _now: Instant) {
    while let Some(output) = from.session.poll_output() {
        match output {
            Output::Send(id, octets) => {
                if let Some((_, number)) = from.live.iter().find(|(live, _)| *live == id) {
                    to.inbox.push_back((*number, octets));
                }
            }
            Output::Close(id) => {
                if let Some(at) = from.live.iter().position(|(live, _)| *live == id) {
                    let (_, number) = from.live.remove(at);
                    to.inbox.push_back((number, Bytes::new()));
                }
            }
            _ => {}
        }
    }
}
