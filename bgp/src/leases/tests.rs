use super::*;

const NOW: Seconds = 1_000_000;
const ONE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

fn address(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

fn word(guard: Ipv4Addr, end: Seconds, announced: &[u8]) -> Word {
    let nets = announced.iter().map(|last| IpNet::from(address(*last))).collect();
    Word::new(guard, None, &bearing(64512, end, None), nets, Vec::new())
}

fn passed_on(by: Ipv4Addr, of: Ipv4Addr, end: Seconds, last: u8) -> Word {
    Word::new(by, None, &bearing(64512, end, Some(of)), vec![IpNet::from(address(last))], Vec::new())
}

fn withdrawn(by: Ipv4Addr, gone: &[u8]) -> Word {
    let nets = gone.iter().map(|last| IpNet::from(address(*last))).collect();
    Word::new(by, None, &Extra::default(), Vec::new(), nets)
}

fn leases() -> Leases {
    let mut leases = Leases::new(US);
    leases.came_up(1, 100);
    leases.came_up(2, 100);
    leases
}

/// By somebody else's word.
fn of_two(news: News) -> News {
    News { by: TWO, ..news }
}

fn news(last: u8, guard: Ipv4Addr, what: Change) -> News {
    News { address: address(last), guard, by: guard, what }
}

#[test]
fn ends_are_rounded_up_and_never_to_the_word_for_taken_back() {
    assert_eq!((rounded(0), rounded(1), rounded(30_000), rounded(30_001)), (30, 30, 30, 60));
    assert_eq!(rounded(u64::MAX) % ROUNDING, 0);
}

#[test]
fn a_lease_is_told_renewed_shortened_and_taken_back_and_a_lost_session_takes_nothing() {
    let mut leases = leases();
    let mut heard = |word: &Word| leases.heard(1, word, NOW);
    assert_eq!(heard(&word(ONE, NOW + 60, &[1])), [news(1, ONE, Change::Until(NOW + 60))]);
    assert_eq!(heard(&word(ONE, NOW + 90, &[1])), [news(1, ONE, Change::Until(NOW + 90))]);
    assert_eq!(heard(&word(ONE, NOW + 30, &[1])), [news(1, ONE, Change::Until(NOW + 30))], "it may also be shorter");
    assert_eq!(heard(&word(ONE, NOW + 60, &[2])), [news(2, ONE, Change::Until(NOW + 60))]);
    assert_eq!(heard(&word(ONE, 0, &[2])), [news(2, ONE, Change::TakenBack)]);
    assert_eq!(heard(&withdrawn(ONE, &[2])), [], "it was over");
    assert_eq!(leases.went_down(1, NOW + 10), [news(1, ONE, Change::Orphaned(NOW + 30))]);
    assert_eq!(leases.sessions().next().unwrap().1.told, 0);
    assert!(leases.said.is_empty());
}

#[test]
fn what_has_ended_is_no_orphan() {
    let mut leases = leases();
    leases.heard(1, &word(ONE, NOW + 30, &[1]), NOW);
    assert_eq!(leases.heard(1, &withdrawn(ONE, &[1]), NOW + 30), []);
}

#[test]
fn two_ways_to_one_guard_are_one_word() {
    let mut leases = leases();
    let reflected = Word::new(TWO, Some(ONE), &bearing(64512, NOW + 60, None), vec![IpNet::from(address(1))], vec![]);
    assert_eq!((reflected.guard, reflected.passed_on), (ONE, false));
    leases.heard(1, &word(ONE, NOW + 60, &[1]), NOW);
    assert_eq!(leases.heard(2, &reflected, NOW), [news(1, ONE, Change::Until(NOW + 60))]);
    assert_eq!(leases.went_down(1, NOW), [news(1, ONE, Change::Until(NOW + 60))], "the reflector still tells of it");
    assert_eq!(leases.heard(2, &withdrawn(TWO, &[1]), NOW), [news(1, ONE, Change::Orphaned(NOW + 60))]);
}

#[test]
fn what_is_passed_on_lasts_longer_at_most_and_its_owner_has_the_word() {
    let mut leases = leases();
    assert_eq!(
        leases.heard(2, &passed_on(TWO, ONE, NOW + 60, 1), NOW),
        [of_two(news(1, ONE, Change::AtLeast(NOW + 60)))]
    );
    assert_eq!(leases.heard(1, &word(ONE, 0, &[1]), NOW), [news(1, ONE, Change::TakenBack)]);
    assert_eq!(leases.heard(2, &passed_on(TWO, ONE, NOW + 90, 1), NOW), [news(1, ONE, Change::TakenBack)]);
    assert_eq!(leases.heard(2, &passed_on(TWO, ONE, 0, 2), NOW), [], "nobody takes back what is another's");
    // What was ours before we came back empty is taken from others; our own word from elsewhere is an echo.
    assert_eq!(
        leases.heard(2, &passed_on(TWO, US, NOW + 60, 3), NOW),
        [of_two(news(3, US, Change::AtLeast(NOW + 60)))]
    );
    assert_eq!(leases.heard(2, &word(US, NOW + 60, &[4]), NOW), []);
}

#[test]
fn no_end_a_past_end_and_too_many_count_for_nothing() {
    let mut leases = leases();
    leases.came_up(1, 2);
    let plain = Word::new(ONE, None, &Extra::default(), vec![IpNet::from(address(1))], Vec::new());
    assert_eq!(leases.heard(1, &plain, NOW), []);
    assert_eq!(leases.heard(1, &word(ONE, NOW, &[1]), NOW), []);
    let wide = vec!["198.51.100.0/24".parse().unwrap()];
    assert_eq!(leases.heard(1, &Word::new(ONE, None, &bearing(1, NOW + 60, None), wide, Vec::new()), NOW), []);
    assert_eq!(leases.heard(1, &word(ONE, NOW + 60, &[1, 2, 3, 4]), NOW).len(), 2);
    let session = leases.sessions().next().unwrap().1;
    assert_eq!(session, Session { most: 2, told: 2, beyond: 2, useless: 2 });
    assert_eq!(leases.said.len(), 2);
    // A place that is given back is free again.
    leases.heard(1, &withdrawn(ONE, &[1]), NOW);
    assert_eq!(leases.heard(1, &word(ONE, NOW + 60, &[5]), NOW).len(), 1);
}

#[test]
fn a_path_of_another_guard_in_its_place_orphans_the_first() {
    let mut leases = leases();
    leases.heard(1, &word(ONE, NOW + 60, &[1]), NOW);
    let other = Word::new(ONE, Some(TWO), &bearing(64512, NOW + 90, None), vec![IpNet::from(address(1))], vec![]);
    let heard = leases.heard(1, &other, NOW);
    assert_eq!(heard, [news(1, ONE, Change::Orphaned(NOW + 60)), news(1, TWO, Change::Until(NOW + 90))]);
    assert_eq!(leases.sessions().next().unwrap().1.told, 1);
}
