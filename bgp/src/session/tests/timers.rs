//! Hold, keepalive, send hold and retry timers.

use super::*;

#[test]
fn silence_ends_a_session_after_the_lesser_hold_time() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.open(id, |open| open.hold_time = 9);
    script.hear(id, &Message::Keepalive);
    script.pass(8 * SECOND);
    assert_eq!(script.session.state().0, State::Established);
    script.hear(id, &Message::Keepalive);
    script.pass(8 * SECOND);
    assert_eq!(script.session.state().0, State::Established, "a KEEPALIVE starts it anew");
    script.take();
    script.pass(2 * SECOND);
    assert_eq!(script.error(), "hold timer expired: nothing heard for 9 s");
    let outputs = script.take();
    assert!(outputs.contains(&Output::Down("hold timer expired: nothing heard for 9 s".to_owned())));
    assert!(outputs.contains(&Output::Close(id)));
}

#[test]
fn keepalives_go_out_three_times_per_hold_time() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.open(id, |open| open.hold_time = 9);
    script.hear(id, &Message::Keepalive);
    script.take();
    for _ in 0..10 {
        script.hear(id, &Message::Keepalive);
        script.pass(3 * SECOND);
    }
    let count = script.sent(id).len();
    assert!((10..=14).contains(&count), "{count} KEEPALIVEs in 30 s");
}

#[test]
fn hold_time_zero_means_no_timers() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.open(id, |open| open.hold_time = 0);
    script.hear(id, &Message::Keepalive);
    script.take();
    assert_eq!(script.session.poll_timeout(), None);
    script.pass(SECOND * 86_400);
    assert_eq!(script.session.state().0, State::Established);
    assert!(script.sent(id).is_empty());
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    script.session.written(id, true, script.now);
    for _ in 0..23 {
        script.pass(20 * SECOND);
        script.hear(id, &Message::Keepalive);
        assert_eq!(script.session.state().0, State::Established);
    }
    script.pass(20 * SECOND);
    assert!(script.error().starts_with("send hold timer expired"), "{}", script.error());
    // A shorter one is the operator's choice, but never less than twice the hold time.
    for (send_hold, hold_time, after) in [(4 * SECOND, 0, 4), (4 * SECOND, 9, 18), (600 * SECOND, 9, 600)] {
        let mut short = Script::new(SessionConfig { send_hold, hold_time, ..config(64512, 1, 64513) });
        let id = short.establish(true);
        short.session.written(id, true, short.now);
        for _ in 0..after {
            assert_eq!(short.session.state().0, State::Established);
            short.hear(id, &Message::Keepalive);
            short.pass(SECOND);
        }
        assert_eq!(short.error(), format!("send hold timer expired: the peer took nothing for {after} s"));
    }
    // What waits first may be a KEEPALIVE behind a full socket; that it is tried again and again is no progress.
    let mut full = Script::new(config(64512, 1, 64513));
    let id = full.establish(true);
    full.session.written(id, false, full.now);
    for _ in 0..24 {
        assert_eq!(full.session.state().0, State::Established);
        full.session.stuck(id, full.now);
        full.hear(id, &Message::Keepalive);
        full.pass(20 * SECOND);
    }
    assert!(full.error().starts_with("send hold timer expired"), "{}", full.error());
    let mut reading = Script::new(config(64512, 1, 64513));
    let id = reading.establish(true);
    for _ in 0..100 {
        reading.session.written(id, true, reading.now);
        reading.pass(20 * SECOND);
        reading.hear(id, &Message::Keepalive);
    }
    assert_eq!(reading.session.state().0, State::Established, "slow is not dead");
}

#[test]
fn no_open_within_a_minute_ends_the_connection() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.connect(true);
    script.take();
    script.pass(OPEN_HOLD + SECOND);
    assert_eq!(script.notification(id).map(|(code, ..)| code), Some(4));
    assert_eq!(script.error(), "no OPEN from the peer within 60 s; is ttl_security on at one end only?");
}

#[test]
fn tries_back_off_and_the_cause_stays_readable() {
    let mut script = Script::new(config(64512, 1, 64513));
    let id = script.establish(true);
    script.pass(90 * SECOND / 2);
    script.hear(id, &Message::Notification(Notification::cease(Cease::MaximumPrefixes)));
    assert_eq!(script.error(), "peer says: Cease, maximum number of prefixes reached");
    script.take();
    let mut gaps = Vec::new();
    for _ in 0..20 {
        let since = script.now;
        while !script.outputs.contains(&Output::Connect) {
            script.pass(Duration::from_millis(1));
        }
        gaps.push(script.now - since);
        script.take();
        script.session.connect_failed("Connection refused", script.now);
        assert_eq!(script.session.state().0, State::Active);
    }
    // The first is that of the session which stood, the next that of the first try.
    assert!(gaps[1..].windows(2).take(12).all(|pair| pair[1] > pair[0]), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 10 * SECOND) && gaps[19] >= 7 * SECOND, "{gaps:?}");
    assert_eq!(
        script.error(),
        "peer says: Cease, maximum number of prefixes reached; since then: can't connect: Connection refused"
    );
}

/// When the session wants to connect, from now on.
fn next_try(script: &mut Script) -> Duration {
    script.take();
    let since = script.now;
    while !script.outputs.contains(&Output::Connect) {
        script.pass(Duration::from_millis(1));
        assert!(script.now - since < 100 * SECOND, "it never tries again");
    }
    script.now - since
}

/// Lets a session stand.
fn stand(script: &mut Script, id: ConnectionId, span: Duration) {
    let end = script.now + span;
    while script.now < end {
        script.pass(SECOND.min(end - script.now));
        script.hear(id, &Message::Keepalive);
    }
}

#[test]
fn a_session_that_is_lost_is_tried_again_at_once() {
    let mut script = Script::new(config(64512, 1, 64513));
    for _ in 0..10 {
        let id = script.establish(true);
        stand(&mut script, id, 10 * SECOND);
        script.session.closed(id, Some("Connection reset by peer"), script.now);
        let wait = next_try(&mut script);
        assert!(wait <= Duration::from_millis(50), "{wait:?} however often a router is restarted");
    }
}

/// Resets in a row, in each state on the way up.
#[test]
fn four_losses_in_a_row_cost_less_than_a_second() {
    type Lose = fn(&mut Script);
    let connect: Lose = |script| script.session.connect_failed("Connection refused", script.now);
    let open_sent: Lose = |script| {
        let id = script.connect(true);
        script.session.closed(id, Some("Connection reset by peer"), script.now);
    };
    let open_confirm: Lose = |script| {
        let id = script.connect(true);
        script.open(id, |_| {});
        assert_eq!(script.session.state().0, State::OpenConfirm);
        script.session.closed(id, Some("Connection reset by peer"), script.now);
    };
    let established: Lose = |script| {
        let id = script.establish(true);
        script.session.closed(id, Some("Connection reset by peer"), script.now);
    };
    for lose in [connect, open_sent, open_confirm, established] {
        let mut script = Script::new(config(64512, 1, 64513));
        let id = script.establish(true);
        stand(&mut script, id, 10 * SECOND);
        script.session.closed(id, None, script.now);
        let mut waits = vec![next_try(&mut script)];
        for _ in 0..4 {
            lose(&mut script);
            waits.push(next_try(&mut script));
        }
        assert!(waits.iter().sum::<Duration>() < SECOND, "{waits:?}");
        script.establish(true);
    }
}

#[test]
fn a_peer_that_refuses_at_once_is_not_hammered() {
    for how in 0..2 {
        let mut script = Script::new(config(64512, 1, 64513));
        let (begin, mut tries) = (script.now, Vec::new());
        while script.now - begin < 300 * SECOND {
            tries.push(script.now - begin);
            match how {
                0 => script.session.connect_failed("Connection refused", script.now),
                _ => {
                    let id = script.connect(true);
                    script.session.closed(id, None, script.now);
                }
            }
            next_try(&mut script);
        }
        let within = |from: u32, to: u32| tries.iter().filter(|at| (from * SECOND..to * SECOND).contains(at)).count();
        assert!((10..=13).contains(&within(0, 10)), "{tries:?}");
        assert!((60..300).step_by(60).all(|minute| within(minute, minute + 60) <= 8), "{tries:?}");
    }
}

#[test]
fn a_peer_that_ends_each_session_gets_ever_fewer() {
    let mut script = Script::new(config(64512, 1, 64513));
    let (begin, mut sessions) = (script.now, Vec::new());
    while script.now - begin < 600 * SECOND {
        sessions.push(script.now - begin);
        let id = script.establish(true);
        script.hear(id, &Message::Notification(Notification::cease(Cease::MaximumPrefixes)));
        next_try(&mut script);
    }
    let within = |from: u32, to: u32| sessions.iter().filter(|at| (from * SECOND..to * SECOND).contains(at)).count();
    assert!(within(0, 60) <= 10, "{sessions:?}");
    assert!((120..600).step_by(60).all(|minute| within(minute, minute + 60) <= 2), "{sessions:?}");
}

#[test]
fn a_router_that_is_lost_again_and_again_is_tried_within_half_a_second_until_that_is_no_accident() {
    for silent in [false, true] {
        let mut script = Script::new(SessionConfig { hold_time: 3, ..config(64512, 1, 64513) });
        let mut waits = Vec::new();
        for _ in 0..40 {
            let id = script.establish(true);
            if silent {
                // To the millisecond at which the hold timer ends.
                while script.session.state().0 == State::Established {
                    script.pass(Duration::from_millis(1));
                }
            } else {
                script.session.closed(id, Some("reset"), script.now);
            }
            waits.push(next_try(&mut script));
        }
        assert!(waits[..30].iter().all(|wait| *wait <= SECOND / 2), "{waits:?}");
        assert!(waits[32..].iter().all(|wait| *wait >= 7 * SECOND && *wait <= 10 * SECOND), "{waits:?}");
    }
}

#[test]
fn a_peer_that_flaps_is_damped_and_forgiven() {
    let mut script = Script::new(SessionConfig { passive: true, ..config(64512, 1, 64513) });
    assert_eq!(script.session.state().0, State::Active);
    assert!(script.take().is_empty(), "a passive session never connects");
    for _ in 0..5 {
        let id = script.establish(false);
        script.hear(id, &Message::Notification(Notification::cease(Cease::AdministrativeReset)));
    }
    assert_eq!(script.session.state().0, State::Idle);
    let told = script.error();
    let words = "peer says: Cease, administrative reset; sessions fail again and again: no other for ";
    assert!(told.starts_with(words), "{told}");
    assert_eq!(script.session.connected(false, script.now), None);
    script.pass(2 * SECOND);
    assert_eq!(script.session.state().0, State::Active);
    let id = script.establish(false);
    stand(&mut script, id, 10 * SECOND);
    script.session.closed(id, None, script.now);
    assert_eq!(script.session.state().0, State::Active, "a session that stood clears the record");
    for _ in 0..4 {
        let id = script.establish(false);
        script.session.closed(id, None, script.now);
        assert_eq!(script.session.state().0, State::Active, "a router that is restarted is no router that flaps");
    }
}
