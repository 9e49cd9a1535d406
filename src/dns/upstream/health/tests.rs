use super::*;

const MS: Duration = Duration::from_millis(1);

/// A virtual clock, and a health that somebody looks after.
struct Bench {
    health: Health,
    now: Instant,
    answers_probes: bool,
    refuses: bool,
    probes: u32,
    changes: Vec<Change>,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            health: Health::default(),
            now: Instant::now(),
            answers_probes: false,
            refuses: false,
            probes: 0,
            changes: Vec::new(),
        };
        bench.health.on_reply(10 * MS, bench.now);
        bench
    }

    /// Lets time pass; each probe is answered, or not, after its time.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += 50 * MS;
            if self.health.take_probe(self.now) {
                self.probes += 1;
                let (after, probed) = match (self.answers_probes, self.refuses) {
                    (true, _) => (10 * MS, Probed::Replied(10 * MS)),
                    (false, true) => (MS, Probed::Refused),
                    (false, false) => (PROBE, Probed::Unanswered),
                };
                self.now += after;
                self.changes.extend(self.health.on_probed(probed, self.now));
            }
        }
    }

    fn late(&mut self, domain: u64) {
        self.health.on_late(self.now - 50 * MS, domain, self.now);
    }
}

#[test]
fn one_silent_domain_changes_nothing() {
    let mut bench = Bench::new();
    bench.answers_probes = true;
    for _ in 0..400 {
        bench.late(1);
        bench.pass(50 * MS);
    }
    assert!(bench.health.is_healthy() && bench.changes.is_empty());
    assert!(bench.probes > 1 && bench.probes < 25, "{}", bench.probes);
}

#[test]
fn silence_over_several_domains_and_no_reply_to_a_probe_is_the_end() {
    let mut bench = Bench::new();
    let begin = bench.now;
    while bench.health.is_healthy() {
        bench.late(1);
        bench.late(2);
        bench.pass(50 * MS);
        assert!(bench.now < begin + Duration::from_secs(10));
    }
    assert!(bench.now >= begin + SILENCE);
    assert_eq!(bench.changes, [Change::Down]);
    // A reply lets it be asked again, and a second one later makes it healthy.
    bench.answers_probes = true;
    bench.pass(Duration::from_secs(2));
    assert!(!bench.health.is_down());
    bench.pass(Duration::from_secs(3));
    assert_eq!((bench.changes.as_slice(), bench.health.is_healthy()), (&[Change::Down, Change::Up][..], true));
}

#[test]
fn one_domain_is_enough_when_probes_go_unanswered_for_long() {
    let mut bench = Bench::new();
    let begin = bench.now;
    while bench.now < begin + SILENCE {
        bench.late(1);
        bench.pass(50 * MS);
        assert!(bench.health.is_healthy(), "after {:?}", bench.now - begin);
    }
    for _ in 0..200 {
        bench.late(1);
        bench.pass(50 * MS);
    }
    assert!(bench.health.is_down());
}

#[test]
fn one_reply_among_many_lost_is_a_sign_of_life() {
    let mut bench = Bench::new();
    for turn in 0..400 {
        bench.late(turn);
        bench.pass(50 * MS);
        if turn % 10 == 9 {
            bench.health.on_reply(40 * MS, bench.now);
        }
    }
    assert!(bench.health.is_healthy() && bench.probes == 0);
}

#[test]
fn refusals_are_believed_once_a_probe_is_refused_too() {
    let mut bench = Bench::new();
    bench.refuses = true;
    for _ in 0..SUSPECT_AFTER {
        bench.health.on_refusal(bench.now);
    }
    assert!(bench.health.is_healthy() && bench.health.is_silent(bench.now), "others are asked first");
    bench.pass(Duration::from_secs(1));
    assert!(bench.health.is_down());
    let probes = bench.probes;
    bench.pass(Duration::from_secs(120));
    assert!((bench.probes - probes) < 12, "ever more slowly: {}", bench.probes - probes);
}

#[test]
fn one_that_flaps_is_not_healthy() {
    let mut bench = Bench::new();
    bench.refuses = true;
    for _ in 0..SUSPECT_AFTER {
        bench.health.on_refusal(bench.now);
    }
    bench.pass(Duration::from_secs(1));
    for _ in 0..20 {
        // One reply, then silence again.
        bench.health.on_reply(10 * MS, bench.now);
        assert!(!bench.health.is_healthy());
        bench.pass(Duration::from_secs(4));
    }
    assert_eq!(bench.changes, [Change::Down]);
}

#[test]
fn patience_is_the_round_trip_within_bounds() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        bench.health.on_reply(MS, bench.now);
    }
    assert_eq!(bench.health.patience(false), 50 * MS);
    for _ in 0..50 {
        bench.health.on_reply(100 * MS, bench.now);
    }
    let patience = bench.health.patience(false);
    assert!(patience >= 100 * MS && patience < 150 * MS, "{patience:?}");
    for _ in 0..50 {
        bench.health.on_reply(Duration::from_secs(2), bench.now);
    }
    assert_eq!(bench.health.patience(false), 400 * MS);
}

#[test]
fn what_a_server_taught_is_forgotten_in_time() {
    let mut bench = Bench::new();
    bench.health.learn(Manner::PLAIN, bench.now);
    bench.health.learn(Manner::LOWER, bench.now);
    assert_eq!(bench.health.manner(bench.now), Manner::PLAIN.and(Manner::LOWER));
    bench.health.unlearn(Manner::LOWER);
    assert_eq!(bench.health.manner(bench.now), Manner::PLAIN);
    assert_eq!(bench.health.manner(bench.now + LESSON), Manner::USUAL);
}

/// What nobody asks is looked at, so that its death and its return are known all the same.
#[test]
fn one_that_nobody_asks_is_looked_at() {
    let mut bench = Bench::new();
    let quiet = Duration::from_secs(2);
    assert!(!bench.health.take_look(quiet, bench.now), "it replied just now");
    bench.now += quiet;
    assert!(bench.health.take_look(quiet, bench.now));
    assert!(!bench.health.take_look(quiet, bench.now), "one look at a time");
    bench.now += 10 * MS;
    assert_eq!(bench.health.on_probed(Probed::Replied(10 * MS), bench.now), None);
    assert!(bench.health.is_healthy() && bench.health.probe_at().is_none());

    bench.now += quiet;
    let begin = bench.now;
    assert!(bench.health.take_look(quiet, bench.now));
    bench.now += PROBE;
    assert_eq!(bench.health.on_probed(Probed::Unanswered, bench.now), None, "one lost probe is no death");
    bench.pass(Duration::from_secs(15));
    assert_eq!(bench.changes, [Change::Down]);
    assert!(bench.probes >= PROBES - 1 && bench.now > begin + SILENCE);
    assert!(!bench.health.take_look(quiet, bench.now), "one that is down is probed anyway");
    bench.answers_probes = true;
    bench.pass(Duration::from_secs(40));
    assert_eq!(bench.changes, [Change::Down, Change::Up]);
}

/// A look that was on its way when a reply came says nothing of a silence.
#[test]
fn a_lost_look_is_forgotten_when_a_question_was_answered_meanwhile() {
    let mut bench = Bench::new();
    bench.now += Duration::from_secs(5);
    assert!(bench.health.take_look(Duration::from_secs(2), bench.now));
    bench.now += 100 * MS;
    bench.health.on_reply(10 * MS, bench.now);
    bench.now += PROBE;
    bench.health.on_probed(Probed::Unanswered, bench.now);
    assert!(!bench.health.is_silent(bench.now + Duration::from_secs(2)));
}
