//! The rules, on a virtual clock.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::wire::iana::Families;

const MS: Duration = Duration::from_millis(1);

fn stamp(generation: u64, at: Instant) -> Stamp {
    Stamp { generation, at: Some(at) }
}

fn plain(rule: Confirm, now: Instant) -> Confirmer {
    Confirmer::plain(rule, Duration::ZERO, now)
}

#[test]
fn acked_waits_for_the_octets_then_settles() {
    let start = Instant::now();
    let settle = 75 * MS;
    let mut confirmer = Confirmer::plain(Confirm::Acked, settle, start);
    confirmer.encoded(stamp(3, start), 100);
    confirmer.encoded(stamp(4, start), 200);
    confirmer.progress(200, 99, start);
    assert!(confirmer.wants_acks());
    assert_eq!(confirmer.poll_timeout(), None);
    let acked = start + MS;
    confirmer.progress(200, 100, acked);
    assert_eq!(confirmer.poll(acked), None);
    assert_eq!(confirmer.poll_timeout(), Some(acked + settle));
    assert_eq!(confirmer.poll(acked + settle).map(|c| c.generation), Some(3));
    confirmer.progress(200, 200, acked + settle);
    assert!(!confirmer.wants_acks());
    let confirmed = confirmer.poll(acked + settle * 2).unwrap();
    assert_eq!(confirmed, Confirmed { generation: 4, latency: Some(151 * MS) });
}

#[test]
fn sent_needs_no_acknowledgement_and_reports_the_newest_only() {
    let now = Instant::now();
    let mut confirmer = plain(Confirm::Sent, now);
    for generation in 0..10_000 {
        confirmer.encoded(stamp(generation, now), generation);
    }
    assert!(confirmer.marks.len() <= MARKS);
    confirmer.progress(10_000, 0, now);
    assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(9_999));
    assert_eq!(confirmer.poll(now), None);
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn net(last: u8) -> IpNet {
    IpNet::from(address(last))
}

fn v4(last: u8) -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::from(std::net::Ipv4Addr::new(203, 0, 113, last))
}

fn hosts(all: impl IntoIterator<Item = u8>) -> Batch {
    Batch { announce4: all.into_iter().map(v4).collect(), ..Batch::default() }
}

fn gone(all: impl IntoIterator<Item = u8>) -> Batch {
    Batch { withdraw4: all.into_iter().map(v4).collect(), ..Batch::default() }
}

fn nothing(_: IpNet) -> bool {
    false
}

fn everything(_: IpNet) -> bool {
    true
}

fn plain_class(_: u16) -> Option<Arc<Extra>> {
    None
}

fn at_word(word: u64) -> Option<Seen<'static>> {
    Some(Seen { word, has: &nothing, bears: &plain_class, another: &|_| None })
}

/// Single addresses that became confirmed, with their generations.
fn held(confirmer: &mut Confirmer, now: Instant) -> Vec<(IpAddr, u64)> {
    let held = std::iter::from_fn(|| confirmer.poll_held(now));
    held.filter(|(_, news)| *news).map(|(held, _)| (held.address, held.generation)).collect()
}

fn refreshing(now: Instant) -> Confirmer {
    let mut confirmer = plain(Confirm::Refresh, now);
    confirmer.barrier = Some(Barrier::new(Families::ALL, true, true, now));
    confirmer
}

#[test]
fn refresh_is_evident_by_the_echo_alone() {
    let now = Instant::now();
    let mut confirmer = refreshing(now);
    confirmer.batch(&hosts(0..1), 1, 100, None, now);
    confirmer.encoded(stamp(1, now), 100);
    confirmer.progress(100, 100, now);
    assert!(!confirmer.wants_acks());
    assert_eq!(confirmer.poll(now), None, "acknowledged is not processed");
    assert_eq!(confirmer.ask(now, 100), Some(Ask::Refresh(Family::Ipv4)));
    confirmer.batch(&hosts(0..2), 2, 200, None, now);
    confirmer.encoded(stamp(2, now), 200);
    let barrier = confirmer.barrier().unwrap();
    barrier.begin(Family::Ipv4);
    barrier.end(Family::Ipv4);
    confirmer.progress(200, 200, now);
    assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(1));
    // A generation that changes nothing there needs no echo of its own, but the one before does.
    confirmer.encoded(stamp(3, now), 200);
    confirmer.progress(200, 200, now);
    assert_eq!(confirmer.poll(now), None);
}

fn full_table() -> Vec<IpNet> {
    (0..32).map(|n| IpNet::from(address(n))).collect()
}

/// A full table from the router: nothing is confirmed, and that is said, until it exports little again.
#[test]
fn without_echo_nothing_is_confirmed() {
    let now = Instant::now();
    let mut confirmer = refreshing(now);
    confirmer.encoded(stamp(0, now), 0);
    confirmer.progress(0, 0, now);
    assert_eq!((confirmer.became_unavailable(), confirmer.poll(now).map(|c| c.generation)), (None, Some(0)));
    confirmer.barrier().unwrap().announced(&full_table());
    let reason = confirmer.became_unavailable().unwrap();
    assert!(reason.contains("nothing is confirmed: the router exports more than 16 routes"), "{reason}");
    assert_eq!(confirmer.warning(), Some(Warning::failing(reason)));
    assert_eq!(confirmer.became_unavailable(), None, "once");
    confirmer.batch(&hosts(0..1), 1, 100, None, now);
    confirmer.encoded(stamp(1, now), 100);
    confirmer.progress(100, 100, now);
    assert!(!confirmer.wants_acks());
    assert_eq!((confirmer.poll(now + 60_000 * MS), confirmer.poll_timeout()), (None, None));
    confirmer.barrier().unwrap().withdrawn(&full_table());
    assert_eq!((confirmer.became_unavailable(), confirmer.warning()), (None, None));
    assert_eq!(confirmer.ask(now, 100), Some(Ask::Refresh(Family::Ipv4)));
    let barrier = confirmer.barrier().unwrap();
    barrier.begin(Family::Ipv4);
    barrier.end(Family::Ipv4);
    confirmer.progress(100, 100, now);
    assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(1));
}

#[test]
fn what_was_confirmed_before_is_said_again_when_it_is_possible_again() {
    let now = Instant::now();
    let mut confirmer = refreshing(now);
    confirmer.encoded(stamp(7, now), 0);
    confirmer.progress(0, 0, now);
    assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(7));
    confirmer.barrier().unwrap().announced(&full_table());
    assert!(confirmer.became_unavailable().is_some());
    confirmer.barrier().unwrap().withdrawn(&full_table());
    assert_eq!(confirmer.became_unavailable(), None);
    confirmer.progress(0, 0, now);
    assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(7));
}

#[test]
fn a_settle_that_the_operator_set_stands_in_for_the_echo() {
    let now = Instant::now();
    let settle = 300 * MS;
    let peer = PeerConfig { confirm: Confirm::Refresh, settle, ..PeerConfig::new("edge", address(1), 64512) };
    for (learn, stands_in) in [(false, true), (true, false)] {
        let peer = PeerConfig { learn, ..peer.clone() };
        let mut confirmer = refreshing(now);
        confirmer.settle = settle;
        confirmer.stand_in = !peer.learn && !peer.settle.is_zero();
        confirmer.barrier().unwrap().announced(&full_table());
        confirmer.encoded(stamp(1, now), 100);
        confirmer.progress(100, 100, now);
        assert_eq!(confirmer.became_unavailable().is_some(), !stands_in);
        assert_eq!(confirmer.poll_timeout(), stands_in.then_some(now + settle));
        let Warning { text: warning, is_failing } = confirmer.warning().unwrap();
        assert_eq!(is_failing, !stands_in);
        assert_eq!(warning.contains("\"acked\" and settle = 300ms stand in"), stands_in, "{warning}");
    }
}

#[test]
fn reflect_confirms_each_prefix_and_gives_up_only_the_one_that_never_comes() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Reflect, start);
    confirmer.encoded(stamp(0, start), 0);
    confirmer.batch(&hosts(0..3), 7, 100, at_word(5), start);
    confirmer.encoded(stamp(7, start), 100);
    confirmer.progress(100, 100, start);
    assert_eq!(confirmer.poll(start).map(|c| c.generation), Some(0));
    for (last, word) in [(0, 5), (1, 6), (2, 7)] {
        assert_eq!(confirmer.reflected(net(last), Some(&Extra::default()), word, start), None);
    }
    confirmer.progress(100, 100, start);
    assert_eq!(confirmer.poll(start), None, "the word on the first is older than its announcement");
    assert_eq!(held(&mut confirmer, start), [(address(1), 7), (address(2), 7)]);
    let end = confirmer.poll_timeout().unwrap();
    assert_eq!(end, start + 800 * MS);
    assert_eq!(confirmer.give_up(start, nothing), None);
    let lost = confirmer.give_up(end, nothing).unwrap();
    assert_eq!((lost.net, lost.generation), (net(0), 7));
    confirmer.progress(100, 100, end);
    assert_eq!(confirmer.poll(end).map(|c| c.generation), Some(7));
}

#[test]
fn what_a_generation_as_a_whole_says_is_not_said_of_each() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Probe, start);
    confirmer.encoded(stamp(0, start), 0);
    confirmer.batch(&hosts(0..2), 7, 100, None, start);
    confirmer.encoded(stamp(7, start), 100);
    assert!(confirmer.forwarded(address(0), start) && confirmer.forwarded(address(1), start));
    assert!(!confirmer.forwarded(address(1), start));
    confirmer.progress(100, 0, start);
    assert_eq!(confirmer.poll(start).map(|c| c.generation), Some(7));
    assert_eq!(held(&mut confirmer, start), []);
}

#[test]
fn what_the_router_takes_back_counts_no_more_until_it_comes_again() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Reflect, start);
    confirmer.set_settle(10 * MS);
    confirmer.encoded(stamp(0, start), 0);
    confirmer.batch(&hosts(0..3), 7, 100, at_word(5), start);
    confirmer.encoded(stamp(7, start), 100);
    for (last, word) in [(0, 6), (1, 7), (2, 8)] {
        assert_eq!(confirmer.reflected(net(last), Some(&Extra::default()), word, start), None);
    }
    confirmer.progress(100, 100, start);
    let mut now = start + 10 * MS;
    assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(7));
    assert_eq!(held(&mut confirmer, now), []);

    // One is announced anew by the router, one by another path at once, one is gone; and one that we never announced.
    for (last, word) in [(0, 9), (1, 10), (9, 11)] {
        confirmer.reflected(net(last), None, word, now);
    }
    confirmer.reflected(net(0), Some(&Extra::default()), 12, now);
    assert_eq!(confirmer.lost(|other| other != net(9)), [net(1)]);
    assert_eq!(confirmer.lost(everything), [], "once");
    assert_eq!(confirmer.send_again(now), [net(1)]);
    confirmer.batch(&hosts([1]), 8, 200, at_word(12), now);
    confirmer.encoded(stamp(8, now), 200);
    assert_eq!(confirmer.outstanding().0, 1);
    // It stays away: it is never given up, only sent again, and nothing else waits for it.
    let end = now + 5000 * MS;
    assert_eq!(confirmer.poll_timeout(), Some(end));
    now = end;
    assert_eq!(confirmer.give_up(now, nothing), None);
    assert_eq!(confirmer.send_again(now), [net(1)]);
    confirmer.batch(&hosts([1]), 8, 300, at_word(12), now);
    confirmer.batch(&hosts([4]), 8, 300, at_word(12), now);
    confirmer.reflected(net(4), Some(&Extra::default()), 13, now);
    confirmer.progress(300, 300, now);
    assert_eq!(confirmer.evident_up_to(), Some(7), "the generation that waits for it goes on waiting");
    now += 10 * MS;
    assert_eq!(held(&mut confirmer, now), [(address(4), 8)]);
    // It comes, goes again before that counted, and comes.
    confirmer.reflected(net(1), Some(&Extra::default()), 14, now);
    confirmer.reflected(net(1), None, 15, now + MS);
    assert_eq!(confirmer.lost(everything), [net(1)]);
    now += 10 * MS;
    assert_eq!(held(&mut confirmer, now), []);
    assert_eq!(confirmer.send_again(now), [net(1)]);
    confirmer.batch(&hosts([1]), 8, 400, at_word(15), now);
    confirmer.reflected(net(1), Some(&Extra::default()), 16, now);
    confirmer.progress(400, 400, now);
    now += 10 * MS;
    assert_eq!(confirmer.poll(now).map(|c| c.generation), Some(8));
    assert_eq!(
        held(&mut confirmer, now),
        [(address(1), 8)],
        "it is said though all of that generation was confirmed before"
    );
    confirmer.batch(&gone([1]), 9, 500, at_word(16), now);
    confirmer.reflected(net(1), None, 17, now);
    assert_eq!(confirmer.lost(everything), [], "it was ours to take back");
}

/// Announced, withdrawn, announced again: the router's late word on the first must not pass for one on the second.
#[test]
fn an_old_reflection_is_no_word_on_a_new_announcement() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Reflect, start);
    confirmer.encoded(stamp(0, start), 0);
    confirmer.batch(&hosts([1]), 1, 100, at_word(0), start);
    confirmer.batch(&gone([1]), 2, 200, at_word(0), start + MS);
    confirmer.batch(&hosts([1]), 3, 300, at_word(0), start + 2 * MS);
    let later = start + 5 * MS;
    assert_eq!(confirmer.reflected(net(1), Some(&Extra::default()), 1, later), None);
    assert_eq!(held(&mut confirmer, later), [], "word on the first announcement");
    assert_eq!(confirmer.reflected(net(1), None, 2, later), Some(4 * MS), "the withdrawal is seen");
    assert_eq!(held(&mut confirmer, later), []);
    confirmer.reflected(net(1), Some(&Extra::default()), 3, later);
    assert_eq!(held(&mut confirmer, later), [(address(1), 3)]);
    assert_eq!(confirmer.outstanding(), (0, 0));
}

/// The router may send neither the withdrawal nor the announcement on: then it has to be quiet for a while.
#[test]
fn what_the_router_did_not_send_on_counts_when_it_is_quiet() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Reflect, start);
    confirmer.batch(&hosts([1]), 1, 100, at_word(0), start);
    confirmer.reflected(net(1), Some(&Extra::default()), 1, start);
    assert_eq!(held(&mut confirmer, start), [(address(1), 1)]);
    let seen = Seen { word: 1, has: &everything, bears: &plain_class, another: &|_| None };
    confirmer.batch(&gone([1]), 2, 200, Some(seen), start);
    assert_eq!(confirmer.outstanding(), (0, 1), "not closed before the observer says so");
    confirmer.batch(&hosts([1]), 3, 300, Some(seen), start);
    assert_eq!(confirmer.poll_timeout(), Some(start + awaited::QUIET));
    let spoken = start + 500 * MS;
    confirmer.reflected(net(1), Some(&Extra::default()), 2, spoken);
    assert_eq!(held(&mut confirmer, spoken), []);
    assert_eq!(confirmer.give_up(start + awaited::QUIET, everything), None);
    assert_eq!(held(&mut confirmer, start + awaited::QUIET), [], "it has just spoken");
    assert_eq!(confirmer.give_up(spoken + awaited::QUIET, everything), None);
    assert_eq!(held(&mut confirmer, spoken + awaited::QUIET), [(address(1), 3)]);
    assert_eq!(confirmer.outstanding(), (0, 0));
}

/// Another group's communities came to a route before the router's word on the route without them.
#[test]
fn word_on_a_route_without_its_new_communities_does_not_count() {
    let of = |all: &[u32]| Arc::new(Extra::new(all.to_vec(), vec![[64512, 0, 1]]));
    let (first, both) = (of(&[1]), of(&[1, 2]));
    let bears = |class| Some(if class == 1 { Arc::clone(&first) } else { Arc::clone(&both) });
    let shown_again = of(&[1, 2, 64512 << 16 | 99]);
    let announce = |class| Batch { classes4: vec![class], ..hosts([1]) };
    for in_flight in [true, false] {
        let start = Instant::now();
        let mut confirmer = plain(Confirm::Reflect, start);
        let seen = Seen { word: 0, has: &nothing, bears: &bears, another: &|_| None };
        confirmer.batch(&announce(1), 1, 100, Some(seen), start);
        if in_flight {
            confirmer.batch(&announce(2), 2, 200, Some(seen), start);
            confirmer.reflected(net(1), Some(&first), 1, start);
            assert_eq!(held(&mut confirmer, start), [], "the router had the first when it said that");
        } else {
            confirmer.reflected(net(1), Some(&first), 1, start);
            assert_eq!(held(&mut confirmer, start), [(address(1), 1)]);
            confirmer.batch(
                &announce(2),
                2,
                200,
                Some(Seen { word: 1, has: &everything, bears: &bears, another: &|_| None }),
                start,
            );
            confirmer.reflected(net(1), Some(&first), 2, start);
            assert_eq!(held(&mut confirmer, start), []);
        }
        confirmer.reflected(net(1), Some(&shown_again), 3, start + MS);
        assert_eq!(held(&mut confirmer, start + MS), [(address(1), 2)]);
    }
    // A router that shows no communities to the observer must be quiet.
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Reflect, start);
    let seen = Seen { word: 0, has: &nothing, bears: &bears, another: &|_| None };
    confirmer.batch(&announce(1), 1, 100, Some(seen), start);
    confirmer.batch(&announce(2), 2, 200, Some(seen), start);
    confirmer.reflected(net(1), Some(&Extra::default()), 1, start);
    assert_eq!(held(&mut confirmer, start), []);
    assert_eq!(confirmer.give_up(start + awaited::QUIET, everything), None);
    assert_eq!(held(&mut confirmer, start + awaited::QUIET), [(address(1), 2)]);
}

#[test]
fn a_withdrawn_route_that_the_router_keeps_is_said() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Reflect, start);
    confirmer.batch(
        &gone([1]),
        2,
        200,
        Some(Seen { word: 1, has: &everything, bears: &plain_class, another: &|_| None }),
        start,
    );
    let later = confirmer.poll_timeout().unwrap();
    assert_eq!(confirmer.give_up(later, everything), None);
    assert!(confirmer.warning().is_some_and(|it| !it.is_failing && it.text.starts_with("withdrawn but not closed")));
    assert!(confirmer.reflected(net(1), None, 2, later).is_some());
    assert_eq!((confirmer.warning(), confirmer.outstanding()), (None, (0, 0)));
}

#[test]
fn probe_asks_until_answered_and_a_withdrawal_ends_it() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Probe, start);
    confirmer.encoded(stamp(0, start), 0);
    confirmer.batch(&hosts(0..2), 1, 100, None, start);
    confirmer.encoded(stamp(1, start), 100);
    confirmer.progress(100, 0, start);
    confirmer.poll(start);
    assert_eq!(confirmer.probes(start), [address(0), address(1)]);
    let next = confirmer.poll_timeout().unwrap();
    assert_eq!(confirmer.probes(next), [address(0), address(1)]);
    confirmer.forwarded(address(1), next);
    confirmer.progress(100, 0, next);
    assert_eq!(confirmer.poll(next), None);
    confirmer.batch(&gone([0]), 2, 200, None, next);
    confirmer.progress(200, 0, next);
    assert_eq!(confirmer.poll(next).map(|c| c.generation), Some(1));
}

/// The route that was withdrawn a moment ago may still answer.
#[test]
fn an_old_route_is_no_answer_for_a_new_announcement() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Probe, start);
    confirmer.encoded(stamp(0, start), 0);
    confirmer.batch(&gone([1]), 2, 100, None, start);
    confirmer.batch(&hosts([1]), 3, 200, None, start + 10 * MS);
    assert_eq!(confirmer.probes(start + 20 * MS), [] as [IpAddr; 0]);
    assert!(!confirmer.forwarded(address(1), start + 20 * MS), "an answer to an earlier probe");
    let clean = start + closing::OLD_ROUTE;
    assert_eq!(confirmer.give_up(clean, nothing), None);
    assert_eq!(confirmer.probes(clean), [address(1)]);
    assert!(confirmer.forwarded(address(1), clean));
    assert_eq!(held(&mut confirmer, clean), [(address(1), 3)]);
}

#[test]
fn of_a_replayed_table_each_is_in_force_when_it_is_verified() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Probe, start);
    let table = Batch { replay: Some(Replay::Initial), ..hosts(0..100) };
    confirmer.batch(&table, 5, 100, None, start);
    confirmer.encoded(stamp(5, start), 100);
    confirmer.progress(100, 100, start);
    assert_eq!((confirmer.poll(start), confirmer.outstanding()), (None, (100, 0)));
    confirmer.hurry(address(70), start, start);
    assert_eq!(confirmer.probes(start)[0], address(70), "somebody waits for that one");
    confirmer.forwarded(address(70), start + MS);
    assert_eq!(held(&mut confirmer, start + MS), [(address(70), 5)]);
    // A new one costs no more than itself.
    confirmer.batch(&hosts([200]), 6, 200, None, start + MS);
    confirmer.encoded(stamp(6, start), 200);
    assert_eq!(confirmer.probes(start + MS)[0], address(200));
    confirmer.forwarded(address(200), start + 2 * MS);
    assert_eq!(held(&mut confirmer, start + 2 * MS), [(address(200), 6)]);
    // The router asks to hear everything: what is confirmed needs no more.
    let again = Batch { replay: Some(Replay::Refresh), ..hosts((0..100).chain([200])) };
    confirmer.batch(&again, 6, 300, None, start + 3 * MS);
    assert_eq!(confirmer.outstanding(), (99, 0));
    assert_eq!(confirmer.give_up(start + 60_000 * MS, nothing), None, "what was in force is not closed for this");
    for last in 0..100 {
        confirmer.forwarded(address(last), start + 60_000 * MS);
    }
    confirmer.progress(300, 300, start + 60_000 * MS);
    assert_eq!(confirmer.poll(start + 60_000 * MS).map(|c| c.generation), Some(6));
}

/// The table of a session may be long on its way.
#[test]
fn who_is_waited_for_before_its_announcement_is_probed_first_all_the_same() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Probe, start);
    let replayed = |hosts| Batch { replay: Some(Replay::Initial), ..hosts };
    confirmer.batch(&replayed(hosts(0..100)), 5, 100, None, start);
    confirmer.hurry(address(170), start, start + 10 * MS);
    confirmer.hurry(address(171), start, start + HURRY);
    let later = start + 500 * MS;
    confirmer.batch(&replayed(hosts(100..200)), 5, 200, None, later);
    assert_eq!(confirmer.probes(later)[0], address(170));
    assert_eq!(confirmer.probes(later + MS)[0], address(170), "again and again");
    assert_ne!(confirmer.probes(start + HURRY)[0], address(170), "nobody waits any more");
    // Who asks once the table is there and confirmed asks for nothing.
    confirmer.encoded(stamp(5, start), 200);
    confirmer.hurry(address(250), later, later);
    assert!(confirmer.early.is_empty());
}

#[test]
fn right_after_a_session_what_is_left_of_it_does_not_count() {
    let start = Instant::now();
    let mut confirmer = plain(Confirm::Probe, start);
    confirmer.clean = start + 300 * MS;
    confirmer.batch(&Batch { replay: Some(Replay::Initial), ..hosts([1]) }, 5, 100, None, start);
    assert!(!confirmer.forwarded(address(1), start));
    assert_eq!(confirmer.probes(start), [] as [IpAddr; 0]);
    assert_eq!(confirmer.probes(start + 300 * MS), [address(1)]);
    assert!(confirmer.forwarded(address(1), start + 300 * MS));
}

/// A router with its observer session: changes of one prefix reach the table in force in order, some time after they were sent,
/// and the observer's session in order, some time after that; a router may leave out what is overtaken.
#[derive(Debug, Default)]
struct Router {
    sent: VecDeque<(u8, Option<u64>)>,
    /// In force, by the generation of the announcement.
    fib: [Option<u64>; 3],
    /// Changes that are under way to the observer.
    said: VecDeque<(u8, bool)>,
    observed: BTreeSet<u8>,
    word: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Announce(u8),
    Withdraw(u8),
    /// The router takes in one change; with `true` only if it isn't overtaken already by one that waits.
    Process(bool),
    Observe,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3u8).prop_map(Step::Announce),
        3 => (0..3u8).prop_map(Step::Withdraw),
        5 => any::<bool>().prop_map(Step::Process),
        5 => Just(Step::Observe),
        1 => (0..3000u16).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// What is held is in force, by that announcement, as long as the router and its observer are quicker than [`awaited::QUIET`].
    #[test]
    fn reflect_never_takes_an_old_word_for_a_new_one(steps in prop::collection::vec(step(), 1..60)) {
        let start = Instant::now();
        let mut now = start;
        let mut confirmer = plain(Confirm::Reflect, now);
        let mut router = Router::default();
        let mut announced: [Option<u64>; 3] = [None; 3];
        let mut generation = 0;
        for step in steps {
            now += MS;
            match step {
                Step::Announce(which) | Step::Withdraw(which) => {
                    let announce = matches!(step, Step::Announce(_));
                    if announced[usize::from(which)].is_some() == announce {
                        continue;
                    }
                    generation += 1;
                    announced[usize::from(which)] = announce.then_some(generation);
                    router.sent.push_back((which, announce.then_some(generation)));
                    let batch = if announce { hosts([which]) } else { gone([which]) };
                    let has = |other: IpNet| router.observed.iter().any(|which| net(*which) == other);
                    confirmer.batch(&batch, generation, generation, Some(Seen { word: router.word, has: &has, bears: &plain_class, another: &|_| None }), now);
                    confirmer.encoded(stamp(generation, now), generation);
                    confirmer.progress(generation, 0, now);
                }
                Step::Process(collapse) => process(&mut router, collapse),
                Step::Observe => observe(&mut router, &mut confirmer, now),
                Step::Wait(millis) => {
                    // In so much time everything arrives.
                    while !router.sent.is_empty() {
                        process(&mut router, false);
                    }
                    while !router.said.is_empty() {
                        observe(&mut router, &mut confirmer, now);
                    }
                    now += MS * u32::from(millis);
                }
            }
            prop_assert_eq!(confirmer.lost(everything), [], "the router loses nothing");
            let seen = router.observed.clone();
            while confirmer.give_up(now, |other| seen.iter().any(|which| net(*which) == other)).is_some() {}
            confirmer.progress(generation, 0, now);
            while let Some((held, _)) = confirmer.poll_held(now) {
                let which = usize::from(match held.address { IpAddr::V4(address) => address.octets()[3], IpAddr::V6(_) => 0 });
                // Unless we have taken it back since.
                if announced[which] == Some(held.generation) {
                    prop_assert_eq!(router.fib[which], Some(held.generation), "{} after {:?}", which, now - start);
                }
            }
        }
    }
}

fn process(router: &mut Router, collapse: bool) {
    let Some((which, change)) = router.sent.pop_front() else { return };
    if collapse && router.sent.iter().any(|(other, _)| *other == which) {
        return;
    }
    let index = usize::from(which);
    let before = std::mem::replace(&mut router.fib[index], change);
    if before.is_some() || change.is_some() {
        router.said.push_back((which, change.is_some()));
    }
}

fn observe(router: &mut Router, confirmer: &mut Confirmer, now: Instant) {
    let Some((which, announced)) = router.said.pop_front() else { return };
    if announced {
        router.observed.insert(which);
    } else if !router.observed.remove(&which) {
        return;
    }
    router.word += 1;
    let plain = Extra::default();
    confirmer.reflected(net(which), announced.then_some(&plain), router.word, now);
}
