//! Prefixes that are waited for, on a virtual clock.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn host(last: u8) -> IpNet {
    IpNet::from(std::net::IpAddr::from([203, 0, 113, last]))
}

fn new(now: Instant) -> Announced {
    Announced {
        generation: 1,
        after: 0,
        not_before: now,
        patience: 800 * MS,
        replayed: false,
        quiet: false,
        shows: None,
        wants: None,
    }
}

fn replayed(now: Instant) -> Announced {
    Announced { replayed: true, ..new(now) }
}

#[test]
fn a_number_is_passed_when_all_before_it_arrived() {
    let now = Instant::now();
    let mut awaited = Awaited::new();
    for last in 1..=3 {
        awaited.announce(host(last), new(now), now);
    }
    assert_eq!(awaited.newest(), 3);
    let ended = awaited.arrived(host(2), 1, now + MS).unwrap();
    assert_eq!((ended.waited, ended.generation, ended.held), (MS, 1, true));
    assert_eq!(awaited.arrived(host(2), 1, now + MS), None);
    assert!(!awaited.passed(1));
    assert!(awaited.forget(host(1)) && !awaited.forget(host(1)));
    assert!(awaited.passed(2) && !awaited.passed(3));
    awaited.arrived(host(3), 1, now);
    assert!(awaited.passed(3) && awaited.is_empty());
    assert_eq!((awaited.next_probe(), awaited.next_end()), (None, None));
}

#[test]
fn old_word_and_early_word_do_not_count() {
    let now = Instant::now();
    let mut awaited = Awaited::new();
    awaited.announce(host(1), Announced { after: 7, not_before: now + MS, ..new(now) }, now);
    assert_eq!(awaited.next_probe(), Some(now + MS));
    assert_eq!(awaited.arrived(host(1), 8, now), None);
    assert_eq!(awaited.arrived(host(1), 7, now + MS), None);
    assert!(awaited.arrived(host(1), 8, now + MS).is_some());
}

#[test]
fn probes_repeat_and_end_with_giving_up() {
    let start = Instant::now();
    let mut awaited = Awaited::new();
    awaited.announce(host(1), new(start), start);
    let mut now = start;
    let mut sent = 0;
    while let Some(at) = awaited.next_probe() {
        now = at.max(now);
        if let Some(lost) = awaited.give_up(now, |_| false) {
            assert_eq!((lost.net, lost.held), (host(1), false));
            assert!(lost.waited >= 800 * MS);
            break;
        }
        sent += awaited.probes(now).len();
    }
    assert!((75..100).contains(&sent), "{sent}");
    assert!(awaited.passed(1));
}

#[test]
fn a_replay_is_probed_at_a_bounded_rate_and_never_given_up() {
    let start = Instant::now();
    let mut awaited = Awaited::new();
    for last in 0..200 {
        awaited.announce(host(last), replayed(start), start);
    }
    let mut sent = Vec::new();
    let mut now = start;
    while now < start + 400 * MS {
        assert_eq!(awaited.give_up(now, |_| false), None);
        let due = awaited.probes(now);
        assert!(due.len() <= 1, "one every two milliseconds");
        sent.extend(due);
        now = awaited.next_probe().unwrap();
    }
    sent.sort_unstable();
    sent.dedup();
    assert_eq!(sent.len(), 200, "each had its turn");
    assert_eq!(awaited.len(), (200, 200));
    // What stays unanswered is asked for ever more slowly.
    let mut count = 0;
    while now < start + 100_000 * MS {
        count += awaited.probes(now).len();
        now = awaited.next_probe().unwrap();
    }
    assert!((300..2500).contains(&count), "{count}");
    // Somebody waits for one of them.
    assert!(awaited.hurry(host(7), now + 1000 * MS, now));
    assert_eq!(awaited.probes(now)[0], host(7));
    assert!(awaited.next_probe().unwrap() <= now + 10 * MS);
    let hurried = now;
    let mut count = 0;
    while now < hurried + 3000 * MS {
        count += awaited.probes(now).iter().filter(|net| **net == host(7)).count();
        now = awaited.next_probe().unwrap();
    }
    assert!((90..110).contains(&count), "quick for a second, not for ever: {count}");
    assert!(awaited.arrived(host(7), 1, now).is_some_and(|ended| ended.replayed));
    for last in 0..200 {
        awaited.forget(host(last));
    }
    assert_eq!((awaited.next_probe(), awaited.next_end(), awaited.len()), (None, None, (0, 0)));
    assert!(awaited.slow.is_empty() && awaited.probes.is_empty());
}

#[test]
fn what_may_be_old_counts_when_nothing_more_is_heard() {
    let start = Instant::now();
    let mut awaited = Awaited::new();
    awaited.announce(host(1), Announced { quiet: true, ..new(start) }, start);
    awaited.announce(host(2), Announced { quiet: true, ..replayed(start) }, start);
    awaited.doubtful(host(1), start + 500 * MS);
    assert_eq!(awaited.give_up(start + QUIET, |net| net == host(1)), None, "1 was spoken of, 2 is not there");
    assert_eq!(awaited.next_end(), Some(start + 500 * MS + QUIET));
    let ended = awaited.give_up(start + 500 * MS + QUIET, |_| true).unwrap();
    assert_eq!((ended.net, ended.held), (host(1), true));
    assert_eq!((awaited.next_end(), awaited.len()), (None, (1, 1)), "2 is still waited for");
}
