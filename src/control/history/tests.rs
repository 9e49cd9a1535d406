use super::*;

fn reading(questions: u64, refused: u64, leases: u64, gate: &[(u64, u64)]) -> Reading {
    Reading { questions, refused, leases, gate: gate.to_vec() }
}

#[test]
fn it_is_read_from_the_metrics_text() {
    let text = "# TYPE destguard_dns_replies counter\n\
        destguard_dns_replies_total{transport=\"udp\",type=\"A\",rcode=\"NOERROR\"} 5\n\
        destguard_dns_replies_total{transport=\"tcp\",type=\"A\",rcode=\"NXDOMAIN\"} 2\n\
        destguard_dns_refused_questions_total{reason=\"policy\"} 3\n\
        destguard_leases{state=\"ipv4\"} 10\ndestguard_leases{state=\"ipv6\"} 4\ndestguard_leases{state=\"pending\"} 9\n\
        destguard_dns_gate_seconds_sum 0.5\n\
        destguard_dns_gate_seconds_bucket{le=\"0.0005\"} 1\ndestguard_dns_gate_seconds_bucket{le=\"+Inf\"} 7\n";
    assert_eq!(Reading::of(text), reading(7, 3, 14, &[(500, 1), (u64::MAX, 7)]));
}

#[test]
fn a_minute_is_what_came_since_the_one_before() {
    let mut ring = Ring::default();
    ring.take(1_000, reading(100, 7, 5, &[(500, 90), (1_000, 100), (u64::MAX, 100)]));
    assert_eq!(ring.past(), Past::default(), "one reading says nothing yet");
    ring.take(1_060, reading(300, 9, 6, &[(500, 190), (1_000, 298), (u64::MAX, 300)]));
    let past = ring.past();
    let expected = Plotted {
        time: 1_060,
        seconds: 60,
        questions: 200,
        refused: 2,
        leases: 6,
        gate_p50_us: Some(500),
        gate_p99_us: Some(1_000),
    };
    assert_eq!((past.hour, past.day), (vec![expected], vec![]));
    // Nothing came: no latency, rather than one of 0.
    ring.take(1_120, reading(300, 9, 6, &[(500, 190), (1_000, 298), (u64::MAX, 300)]));
    assert_eq!(ring.past().hour.last().map(|one| (one.questions, one.gate_p50_us)), Some((0, None)));
    // Slower than the last bound is at least that.
    ring.take(1_180, reading(301, 9, 6, &[(500, 190), (1_000, 298), (u64::MAX, 301)]));
    assert_eq!(ring.past().hour.last().and_then(|one| one.gate_p99_us), Some(1_000));
}

#[test]
fn an_hour_and_a_day_are_kept_and_no_more() {
    let mut ring = Ring::default();
    for minute in 0..=3_000_u64 {
        ring.take(minute * 60, reading(minute * 10, 0, minute, &[]));
    }
    let past = ring.past();
    assert_eq!((past.hour.len(), past.day.len()), (MINUTES, TENS));
    assert!(past.hour.iter().all(|one| one.questions == 10 && one.seconds == 60));
    assert!(past.day.iter().all(|one| one.questions == 100 && one.seconds == 600));
    assert_eq!(
        (past.hour.last().map(|one| one.time), past.day.last().map(|one| one.time)),
        (Some(180_000), Some(180_000))
    );
}

#[test]
fn a_clock_that_is_set_back_breaks_nothing() {
    let mut ring = Ring::default();
    ring.take(1_000, reading(10, 0, 0, &[]));
    ring.take(10, reading(20, 0, 0, &[]));
    assert_eq!(ring.past().hour.first().map(|one| (one.questions, one.seconds)), Some((10, 0)));
}
