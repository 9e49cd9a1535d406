use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const NONE: [IpAddr; 0] = [];

fn host(number: u32) -> IpAddr {
    IpAddr::from((0xc612_0000 + number).to_be_bytes())
}

fn hop() -> IpAddr {
    IpAddr::from([10, 0, 2, 2])
}

/// A router, and the network before it, on a virtual clock.
struct Router {
    now: Instant,
    has: BTreeSet<IpAddr>,
    /// The router answers nothing more.
    dead: bool,
    /// Of a thousand packets so many get lost.
    loss: u32,
    /// Answers a second, and at once.
    limit: Option<(f64, f64)>,
    tokens: f64,
    random: u64,
    sent: u64,
    wakes: u64,
}

impl Router {
    fn new(count: u32) -> (Self, Recheck) {
        let now = Instant::now();
        let mut recheck = Recheck::new(Some(hop()), now);
        let has: BTreeSet<IpAddr> = (0..count).map(host).collect();
        has.iter().for_each(|address| recheck.note_in_force(*address, now));
        let router = Self { now, has, dead: false, loss: 0, limit: None, tokens: 0.0, random: 1, sent: 0, wakes: 0 };
        (router, recheck)
    }

    fn answers(&mut self, to: IpAddr) -> bool {
        self.sent += 1;
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let gone = u32::try_from(self.random >> 33).unwrap() % 1000 < self.loss;
        if self.dead || gone || !(to == hop() || self.has.contains(&to)) {
            return false;
        }
        if self.limit.is_some() && self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Lets time pass; what was found lost meanwhile.
    fn run(&mut self, recheck: &mut Recheck, span: Duration) -> Vec<IpAddr> {
        let end = self.now + span;
        let mut lost = Vec::new();
        loop {
            for probe in recheck.probes(self.now) {
                if self.answers(probe) {
                    recheck.answered(probe, self.now + MS);
                }
            }
            self.wakes += 1;
            lost.extend(recheck.lost());
            let next = recheck.poll_timeout().map_or(end, |at| at.max(self.now + Duration::from_micros(10)));
            if next >= end {
                break;
            }
            self.pass(next);
        }
        self.pass(end);
        lost
    }

    fn pass(&mut self, to: Instant) {
        if let Some((rate, burst)) = self.limit {
            self.tokens = (self.tokens + rate * (to - self.now).as_secs_f64()).min(burst);
        }
        self.now = to;
    }
}

#[test]
fn a_lost_route_is_found_within_its_turn_and_no_other() {
    for count in [2, 7, 300, 5000] {
        let (mut router, mut recheck) = Router::new(count);
        assert_eq!(router.run(&mut recheck, 60 * SECOND), NONE, "{count}");
        router.has.remove(&host(1));
        let lost = router.run(&mut recheck, 40 * SECOND);
        assert_eq!(lost, [host(1)], "{count}");
        assert_eq!((router.run(&mut recheck, 60 * SECOND), recheck.silent(router.now)), (NONE.to_vec(), None));
        assert_eq!(recheck.len(), count as usize - 1);
    }
}

#[test]
fn a_hundred_thousand_take_a_minute_and_few_wake_ups() {
    let (mut router, mut recheck) = Router::new(100_000);
    router.run(&mut recheck, 30 * SECOND);
    (router.sent, router.wakes) = (0, 0);
    router.has.remove(&host(77_777));
    let lost = router.run(&mut recheck, 62 * SECOND);
    assert_eq!(lost, [host(77_777)]);
    assert!(router.sent > 100_000 && router.wakes < router.sent / 8, "{} {}", router.sent, router.wakes);
}

#[test]
fn many_that_go_at_once_are_found_quickly() {
    let (mut router, mut recheck) = Router::new(20_000);
    router.run(&mut recheck, 10 * SECOND);
    router.has.retain(|address| *address < host(10_000));
    let lost: BTreeSet<_> = router.run(&mut recheck, 60 * SECOND).into_iter().collect();
    assert_eq!(lost.len(), 10_000);
    assert!(lost.iter().all(|address| *address >= host(10_000)));
    assert_eq!(recheck.len(), 10_000);
}

#[test]
fn all_that_go_at_once_are_told_from_a_router_that_is_silent() {
    let (mut router, mut recheck) = Router::new(50);
    router.run(&mut recheck, 10 * SECOND);
    router.has.clear();
    assert_eq!(router.run(&mut recheck, 60 * SECOND).len(), 50, "the next hop still answers");
    assert!(recheck.is_empty() && recheck.poll_timeout().is_none());

    let (mut router, mut recheck) = Router::new(50);
    router.run(&mut recheck, 10 * SECOND);
    router.dead = true;
    assert_eq!(router.run(&mut recheck, 3600 * SECOND), NONE);
    assert!(recheck.silent(router.now).is_some_and(|span| span > 3500 * SECOND));
    assert!(router.sent < 5000, "it is asked only now and then: {}", router.sent);
    router.dead = false;
    assert_eq!(router.run(&mut recheck, 10 * SECOND), NONE);
    assert_eq!(recheck.silent(router.now), None);
    router.has.remove(&host(3));
    assert_eq!(router.run(&mut recheck, 300 * SECOND), [host(3)]);
}

#[test]
fn without_a_next_hop_another_route_is_the_control() {
    let (mut router, mut recheck) = Router::new(50);
    recheck.hop = None;
    router.run(&mut recheck, 10 * SECOND);
    router.has.retain(|address| *address >= host(20));
    assert_eq!(router.run(&mut recheck, 120 * SECOND).len(), 20);
    // Nothing tells them from a router that answers nothing.
    router.has.clear();
    assert_eq!(router.run(&mut recheck, 120 * SECOND), NONE);
    assert!(recheck.silent(router.now).is_some());
}

#[test]
fn a_router_that_answers_once_a_second_loses_nothing_and_is_left_half_of_it() {
    let (mut router, mut recheck) = Router::new(500);
    router.limit = Some((1.0, 6.0));
    assert_eq!(router.run(&mut recheck, 600 * SECOND), NONE);
    router.sent = 0;
    assert_eq!(router.run(&mut recheck, 600 * SECOND), NONE);
    assert!(router.sent < 700, "{}", router.sent);
    router.has.remove(&host(5));
    assert_eq!(router.run(&mut recheck, 4000 * SECOND), [host(5)]);
}

#[test]
fn who_is_about_to_be_used_comes_first() {
    let (mut router, mut recheck) = Router::new(20_000);
    router.run(&mut recheck, 10 * SECOND);
    router.has.remove(&host(19_999));
    recheck.soon(host(19_999), router.now);
    recheck.soon(host(60_000), router.now);
    assert_eq!(router.run(&mut recheck, 3 * SECOND), [host(19_999)]);
}

#[test]
fn what_is_withdrawn_is_not_asked_for() {
    let (mut router, mut recheck) = Router::new(100);
    router.run(&mut recheck, 5 * SECOND);
    for number in 0..90 {
        router.has.remove(&host(number));
        recheck.forget(host(number));
    }
    assert_eq!((router.run(&mut recheck, 60 * SECOND), recheck.len()), (NONE.to_vec(), 10));
    for (place, entry) in recheck.ring.iter().enumerate() {
        assert_eq!(recheck.places.get(&entry.address), Some(&place));
    }
    assert_eq!(recheck.places.len(), 10);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever gets lost on the way and whatever the router's limit: only what is gone is said to be.
    #[test]
    fn no_loss_makes_a_route_flap(
        loss in 0u32..250, rate in 1.0f64..2000.0, burst in 3.0f64..60.0, count in 1u32..3000, seed in 1u64..u64::MAX,
        gone in prop::collection::btree_set(0u32..3000, 0..20),
    ) {
        let (mut router, mut recheck) = Router::new(count);
        (router.loss, router.limit, router.random) = (loss, Some((rate, burst)), seed);
        let early = router.run(&mut recheck, 200 * SECOND);
        prop_assert_eq!(early, NONE);
        router.has.retain(|address| !gone.iter().any(|number| host(*number) == *address));
        for address in router.run(&mut recheck, 400 * SECOND) {
            prop_assert!(!router.has.contains(&address), "{} is there; {:?}", address, recheck.loss);
        }
    }
}
