//! Events in any order.

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Connected(bool),
    Failed,
    Open(u8, bool),
    Keepalive(u8),
    Refresh(u8),
    Octets(u8, Vec<u8>),
    Closed(u8),
    Written(u8, bool),
    Pass(u16),
    Stop(bool),
    Start,
}

fn op() -> impl proptest::strategy::Strategy<Value = Op> {
    use proptest::prelude::*;
    prop_oneof![
        3 => any::<bool>().prop_map(Op::Connected),
        1 => Just(Op::Failed),
        4 => (0u8..4, any::<bool>()).prop_map(|(id, right)| Op::Open(id, right)),
        4 => (0u8..4).prop_map(Op::Keepalive),
        1 => (0u8..4).prop_map(Op::Refresh),
        1 => (0u8..4, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(id, octets)| Op::Octets(id, octets)),
        1 => (0u8..4).prop_map(Op::Closed),
        1 => (0u8..4, any::<bool>()).prop_map(|(id, pending)| Op::Written(id, pending)),
        2 => (0u16..300).prop_map(Op::Pass),
        1 => any::<bool>().prop_map(Op::Stop),
        1 => Just(Op::Start),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(500))]

    /// Whatever happens in whatever order: no panic, few connections, Up and Down alternate, nothing is sent on a connection that was
    /// closed, and a session that is wanted always has something under way or a timer that will start it.
    #[test]
    fn any_order_of_events_is_survived(ops in proptest::collection::vec(op(), 0..60), passive: bool) {
        let mut script = Script::new(SessionConfig { passive, ..config(64512, 1, 64513) });
        let mut ids: Vec<ConnectionId> = Vec::new();
        let mut connecting = false;
        let (mut up, mut gone) = (None, Vec::new());
        for op in ops {
            let id = |n: u8| ids.iter().rev().nth(usize::from(n)).copied();
            match op {
                Op::Connected(outgoing) => {
                    if !outgoing || connecting {
                        connecting &= !outgoing;
                        ids.extend(script.session.connected(outgoing, script.now));
                    }
                }
                Op::Failed if connecting => {
                    connecting = false;
                    script.session.connect_failed("refused", script.now);
                }
                Op::Open(n, right) => if let Some(id) = id(n) {
                    script.open(id, |open| if !right { open.hold_time = 3; open.asn ^= 1; });
                },
                Op::Keepalive(n) => if let Some(id) = id(n) { script.hear(id, &Message::Keepalive); },
                Op::Refresh(n) => if let Some(id) = id(n) {
                    let family = Family::Ipv4.afi_safi();
                    script.hear(id, &Message::RouteRefresh(RouteRefresh { family, subtype: RefreshSubtype::Request }));
                },
                Op::Octets(n, octets) => if let Some(id) = id(n) { script.session.received(id, &octets, script.now); },
                Op::Closed(n) => if let Some(id) = id(n) {
                    script.session.closed(id, None, script.now);
                    gone.push(id);
                },
                Op::Written(n, pending) => if let Some(id) = id(n) { script.session.written(id, pending, script.now); },
                Op::Pass(seconds) => script.pass(SECOND * u32::from(seconds)),
                Op::Stop(true) => script.session.stop(&Stop::Restart, script.now),
                Op::Stop(false) => script.session.stop(&Stop::Shutdown("x".to_owned()), script.now),
                Op::Start => script.session.start(script.now),
                Op::Failed => {}
            }
            for output in script.take() {
                match output {
                    Output::Connect => { proptest::prop_assert!(!connecting && !passive); connecting = true; }
                    Output::CancelConnect => { proptest::prop_assert!(connecting); connecting = false; }
                    Output::Send(id, octets) => {
                        proptest::prop_assert!(!gone.contains(&id) && !octets.is_empty());
                    }
                    Output::Close(id) => { proptest::prop_assert!(!gone.contains(&id)); gone.push(id); }
                    Output::Up(id, _) => { proptest::prop_assert_eq!(up, None); up = Some(id); }
                    Output::Down(_) => { proptest::prop_assert!(up.is_some()); up = None; }
                    Output::Refresh(_) | Output::Heard(_) | Output::Networks(..) | Output::Said(_) => proptest::prop_assert!(up.is_some()),
                }
            }
            proptest::prop_assert!(script.session.connections.len() <= CONNECTIONS);
            proptest::prop_assert_eq!(up.is_some(), script.session.state().0 == State::Established);
            let wanted = script.session.started && !passive;
            let alive = connecting || !script.session.connections.is_empty() || script.session.poll_timeout().is_some();
            proptest::prop_assert!(!wanted || alive, "nothing will ever happen again");
        }
    }
}
