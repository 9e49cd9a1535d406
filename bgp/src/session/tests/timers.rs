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
    for _ in 0..12 {
        let since = script.now;
        while !script.outputs.contains(&Output::Connect) {
            script.pass(Duration::from_millis(50));
        }
        gaps.push(script.now - since);
        script.take();
        script.session.connect_failed("Connection refused", script.now);
        assert_eq!(script.session.state().0, State::Active);
    }
    assert!(gaps.windows(2).take(4).all(|pair| pair[1] > pair[0]), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 11 * SECOND), "{gaps:?}");
    assert_eq!(
        script.error(),
        "peer says: Cease, maximum number of prefixes reached; since then: can't connect: Connection refused"
    );
}

#[test]
fn a_peer_that_flaps_is_damped_and_forgiven() {
    let mut script = Script::new(SessionConfig { passive: true, ..config(64512, 1, 64513) });
    assert_eq!(script.session.state().0, State::Active);
    assert!(script.take().is_empty(), "a passive session never connects");
    for _ in 0..5 {
        let id = script.establish(false);
        script.session.closed(id, None, script.now);
    }
    assert_eq!(script.session.state().0, State::Idle);
    let told = script.error();
    assert!(told.starts_with("the peer closed the connection; sessions fail again and again: no other for "), "{told}");
    assert_eq!(script.session.connected(false, script.now), None);
    script.pass(60 * SECOND);
    assert_eq!(script.session.state().0, State::Active);
    let id = script.establish(false);
    for _ in 0..4 {
        script.pass(20 * SECOND);
        script.hear(id, &Message::Keepalive);
    }
    script.session.closed(id, None, script.now);
    assert_eq!(script.session.state().0, State::Active, "a stable session clears the record");
}
