//! Graceful restart, and how a session is stopped.

use super::*;

#[test]
fn stop_says_why_or_says_nothing() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    script.session.stop(&Stop::Shutdown("new kernel".to_owned()), script.now);
    let (code, subcode, data) = script.notification(id).unwrap();
    assert_eq!((code, subcode, &data[1..]), (6, 2, b"new kernel".as_slice()));
    assert_eq!(script.session.state().0, State::Idle);
    assert_eq!(script.session.connected(false, script.now), None);
    script.session.start(script.now);
    let id = script.establish(true);
    script.session.stop(&Stop::Restart, script.now);
    assert_eq!(script.take(), [Output::Close(id), Output::Down("stopped".to_owned())]);
}

#[test]
fn restart_bits_are_set_until_the_first_session() {
    let mut script = Script::new(SessionConfig { restarting: true, ..config(64512, 1, 64513) });
    let restart = |script: &mut Script, id| {
        let sent = script.sent(id);
        let Ok(Message::Open(open)) = Message::decode(&sent[0], &DecodeContext::initial(PeerType::External)) else {
            panic!("no OPEN")
        };
        open.capabilities
            .into_iter()
            .find_map(|c| match c {
                Capability::GracefulRestart(restart) => Some(restart),
                _ => None,
            })
            .unwrap()
    };
    let id = script.connect(true);
    let first = restart(&mut script, id);
    assert!(first.restarting && first.families.iter().all(|family| family.forwarding) && first.families.len() == 2);
    script.open(id, |_| {});
    script.hear(id, &Message::Keepalive);
    script.session.closed(id, None, script.now);
    script.pass(2 * SECOND);
    let id = script.connect(true);
    let second = restart(&mut script, id);
    // Not a restart any more; but what the peer has kept over the loss of the session is still good.
    assert!(!second.restarting && second.families.iter().all(|family| family.forwarding));
    let mut fresh = Script::new(config(64512, 1, 64513));
    let id = fresh.connect(true);
    let cold = restart(&mut fresh, id);
    assert!(!cold.restarting && cold.families.iter().all(|family| !family.forwarding));
    assert!(first.notification && second.notification && cold.notification);
}

/// RFC 8538 section 3: where both ends keep routes over a NOTIFICATION, only a Hard Reset makes the peer drop them.
/// RFC 9494 section 4.1: only together with capability 64, every family with its time, F as there.
#[test]
fn long_lived_restart_is_offered_where_it_is_wanted_and_restart_is() {
    let offered = |restart_time: u16, stale_time: u32, restarting: bool| {
        let config = SessionConfig { restart_time, stale_time, restarting, ..config(64512, 1, 64513) };
        let mut script = Script::new(config);
        let id = script.connect(true);
        let open = script.sent(id).remove(0);
        let Ok(Message::Open(open)) = Message::decode(&open, &DecodeContext::initial(PeerType::External)) else {
            panic!("no OPEN")
        };
        open.capabilities.into_iter().find_map(|capability| match capability {
            Capability::LongLivedGracefulRestart(families) => Some(families),
            _ => None,
        })
    };
    assert_eq!(offered(120, 0, false), None, "off by default");
    assert_eq!(offered(0, 3600, false), None, "nothing without graceful restart");
    for forwarding in [false, true] {
        let entry = |family: Family| LongLivedFamily { family: family.afi_safi(), forwarding, stale_time: 86_400 };
        assert_eq!(offered(120, 86_400, forwarding), Some(vec![entry(Family::Ipv4), entry(Family::Ipv6)]));
    }

    // What the peer has of it shows only where both ends have it.
    for (ours, theirs) in [(3600, true), (3600, false), (0, true)] {
        let mut script = Script::new(SessionConfig { stale_time: ours, ..config(64512, 1, 64513) });
        let id = script.connect(true);
        script.open(id, |open| {
            open.capabilities.push(Capability::GracefulRestart(GracefulRestart::default()));
            if theirs {
                open.capabilities.push(Capability::LongLivedGracefulRestart(vec![]));
                let family = Family::Ipv4.afi_safi();
                let entry = LongLivedFamily { family, forwarding: false, stale_time: 30 };
                open.capabilities.push(Capability::LongLivedGracefulRestart(vec![entry]));
            }
        });
        script.hear(id, &Message::Keepalive);
        let both = &script.session.negotiated().unwrap().long_lived;
        assert_eq!(both.as_ref().map(Vec::len), (ours > 0 && theirs).then_some(1));
    }
}

#[test]
fn a_shutdown_for_good_is_a_hard_reset_where_notifications_are_graceful() {
    for graceful in [true, false] {
        let mut script = Script::new(config(64512, 1, 64513));
        let id = script.connect(true);
        script.open(id, |open| {
            open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
                notification: graceful,
                time: 60,
                ..GracefulRestart::default()
            }));
        });
        script.hear(id, &Message::Keepalive);
        assert_eq!(script.session.negotiated().unwrap().graceful_notification, graceful);
        script.take();
        script.session.stop(&Stop::Shutdown("bye".to_owned()), script.now);
        let (code, subcode, data) = script.notification(id).unwrap();
        if graceful {
            assert_eq!((code, subcode, data), (6, 9, [&[6, 2, 3], b"bye".as_slice()].concat()));
        } else {
            assert_eq!((code, subcode, data), (6, 2, [&[3], b"bye".as_slice()].concat()));
        }
    }
}
