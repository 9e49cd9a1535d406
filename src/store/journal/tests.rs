//! The journal: what is written is there after any crash, nothing lasts longer than it did.

use super::*;

const MAX: Duration = Duration::from_secs(86_400);
const LINGER: Duration = Duration::from_secs(600);

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn lease(last: u8, ends: Moment) -> StoredLease {
    StoredLease { address: address(last), ends, names: vec!["www.shop.test".parse().unwrap()], groups: Vec::new() }
}

fn open(directory: &Path, clock: Clock) -> (LeaseJournal, Vec<StoredLease>) {
    LeaseJournal::open(directory, clock, MAX, LINGER).unwrap()
}

/// What the guard would have after these records.
#[derive(Default)]
struct Kept {
    leases: HashMap<IpAddr, StoredLease>,
    pairs: HashMap<PairId, StoredPair>,
}

impl Kept {
    fn write(&mut self, journal: &mut LeaseJournal, records: Vec<JournalRecord>, now: Moment) -> io::Result<()> {
        for record in &records {
            match record {
                JournalRecord::Lease(lease) => drop(self.leases.insert(lease.address, lease.clone())),
                JournalRecord::Closed(address) => drop(self.leases.remove(address)),
                JournalRecord::Pair(PairRecord::Open(pair)) => {
                    self.pairs.insert((pair.address, pair.client), pair.clone());
                }
                JournalRecord::Pair(PairRecord::Closed(id)) => drop(self.pairs.remove(id)),
            }
        }
        journal.write(records, Some(self), now)
    }
}

impl Alive for Kept {
    fn each(&self, give: &mut dyn FnMut(JournalRecord)) {
        self.leases.values().for_each(|lease| give(JournalRecord::Lease(lease.clone())));
        self.pairs.values().for_each(|pair| give(JournalRecord::Pair(PairRecord::Open(pair.clone()))));
    }
}

fn assert_about(ends: Moment, wanted: Moment) {
    assert!(ends.0.abs_diff(wanted.0) < 5_000, "{ends:?} is not {wanted:?}");
}

#[test]
fn leases_come_back_with_their_ends_and_closed_ones_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let ends = now.plus(Duration::from_secs(300));
    {
        let (mut journal, restored) = open(directory.path(), clock);
        assert_eq!(restored, []);
        journal
            .write(vec![JournalRecord::Lease(lease(1, ends)), JournalRecord::Lease(lease(2, ends))], None, now)
            .unwrap();
        journal.write(vec![JournalRecord::Closed(address(1))], None, now).unwrap();
    }
    let clock = Clock::start();
    let (_journal, restored) = open(directory.path(), clock);
    assert_eq!(restored.len(), 1);
    assert_eq!(restored[0].address, address(2));
    assert_eq!(restored[0].names, lease(2, ends).names);
    assert_about(restored[0].ends, clock.now().plus(Duration::from_secs(300)));
}

#[test]
fn a_lease_that_ended_comes_back_only_while_its_route_lingers() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    {
        let (mut journal, _) = open(directory.path(), clock);
        let before = |seconds: u64| Moment(now.0 - seconds * 1_000);
        journal
            .write(
                vec![JournalRecord::Lease(lease(1, before(60))), JournalRecord::Lease(lease(2, before(601)))],
                None,
                now,
            )
            .unwrap();
    }
    let (_journal, restored) = open(directory.path(), Clock::start());
    assert_eq!(restored.iter().map(|lease| lease.address).collect::<Vec<_>>(), [address(1)]);
    assert!(restored[0].ends < now);
}

#[test]
fn any_cut_of_the_file_keeps_all_whole_records_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let ends = now.plus(Duration::from_secs(300));
    let (mut journal, _) = open(directory.path(), clock);
    let mut lengths = vec![journal.length];
    for last in 0..5 {
        journal.write(vec![JournalRecord::Lease(lease(last, ends))], None, now).unwrap();
        lengths.push(journal.length);
    }
    drop(journal);
    let whole = std::fs::read(directory.path().join(FILE)).unwrap();
    for cut in 0..=whole.len() {
        let copy = tempfile::tempdir().unwrap();
        std::fs::write(copy.path().join(FILE), &whole[..cut]).unwrap();
        let (_journal, restored) = open(copy.path(), Clock::start());
        let wanted = lengths.iter().skip(1).filter(|length| **length <= cut as u64).count();
        assert_eq!(restored.len(), wanted, "cut at {cut}");
    }
}

#[test]
fn a_clock_step_within_one_boot_changes_nothing() {
    let now = Moment(1_000_000);
    let outside = Outside { boot_id: "b".into(), since_boot: 50_000, wall: 10_000_000_000 };
    let ends_boot = outside.since_boot + 300_000;
    for wall_step in [-86_400_000i64, 86_400_000] {
        let record = Record::Lease {
            address: address(1),
            written: outside.wall,
            ends_boot,
            ends_wall: outside.wall + 300_000,
            names: vec![],
            groups: vec![],
        };
        let stepped = Outside { wall: outside.wall.checked_add_signed(wall_step).unwrap(), ..outside.clone() };
        let stored = Stored { boot_id: "b".into(), records: vec![record] };
        let live = restore(&stored, &stepped, now, MAX, LINGER);
        assert_eq!(live[&address(1)].ends, Moment(1_300_000));
    }
}

#[test]
fn a_boot_clock_that_starts_again_within_one_boot_lengthens_nothing() {
    // Containers may see the time since their own start, and the boot id of their host.
    let now = Moment(1_000_000);
    let since_boot = 10 * 86_400_000;
    let record = Record::Lease {
        address: address(1),
        written: 10_000_000_000,
        ends_boot: since_boot + 300_000,
        ends_wall: 10_000_300_000,
        names: vec![],
        groups: vec![],
    };
    let stored = Stored { boot_id: "b".into(), records: vec![record] };
    let outside = Outside { boot_id: "b".into(), since_boot: 5_000, wall: 10_000_010_000 };
    let live = restore(&stored, &outside, now, MAX, LINGER);
    assert_eq!(live[&address(1)].ends, Moment(1_300_000), "not what is left until the tenth day");
}

#[test]
fn a_machine_that_slept_loses_no_lease_that_was_written_since() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let (mut journal, _) = open(directory.path(), clock);
    // The clocks outside went on for eight hours, the one inside did not.
    journal.outside.since_boot = journal.outside.since_boot.saturating_sub(8 * 3_600_000);
    journal.outside.wall -= 8 * 3_600_000;
    journal.write(vec![JournalRecord::Lease(lease(1, now.plus(Duration::from_secs(300))))], None, now).unwrap();
    drop(journal);
    let clock = Clock::start();
    let (_journal, restored) = open(directory.path(), clock);
    assert_eq!(restored.len(), 1);
    assert_about(restored[0].ends, clock.now().plus(Duration::from_secs(300)));
}

#[test]
fn nobody_else_may_read_who_asked_for_what() {
    let directory = tempfile::tempdir().unwrap();
    let mode = |name| std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777;
    for name in [FILE, TEMPORARY] {
        std::fs::write(directory.path().join(name), "").unwrap();
        std::fs::set_permissions(directory.path().join(name), Permissions::from_mode(0o644)).unwrap();
    }
    let (journal, _) = open(directory.path(), Clock::start());
    assert_eq!(mode(FILE), 0o600);
    drop(journal);
}

#[test]
fn a_new_file_that_is_in_place_is_the_one_that_is_written_whatever_fails_behind() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(FILE), "old").unwrap();
    std::fs::write(directory.path().join(TEMPORARY), "new").unwrap();
    // It can't be flushed.
    let parent = File::open("/dev/null").unwrap();
    parent.sync_all().unwrap_err();
    swap(directory.path(), &parent).unwrap();
    assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), b"new");
    swap(directory.path(), &parent).unwrap_err();
    assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), b"new");
}

#[test]
fn after_a_reboot_the_wall_clock_counts_and_never_lengthens() {
    let now = Moment(1_000_000);
    let record = |ends_wall| Record::Lease {
        address: address(1),
        written: 5_000_000,
        ends_boot: 9,
        ends_wall,
        names: vec![],
        groups: vec![],
    };
    let outside = |wall| Outside { boot_id: "new".into(), since_boot: 1, wall };
    let ends = |ends_wall, wall| {
        let stored = Stored { boot_id: "old".into(), records: vec![record(ends_wall)] };
        restore(&stored, &outside(wall), now, MAX, LINGER).get(&address(1)).map(|lease| lease.ends)
    };
    // 100 s of 300 s have passed.
    assert_eq!(ends(5_300_000, 5_100_000), Some(Moment(1_200_000)));
    // The clock was set back by far: at most what was left when it was written.
    assert_eq!(ends(5_300_000, 1), Some(Moment(1_300_000)));
    // Set forward by a day: ended, linger and all.
    assert_eq!(ends(5_300_000, 5_000_000 + 86_400_000), None);
    // A damaged end that no lease can have.
    assert_eq!(ends(u64::MAX, 5_000_000), Some(now.plus(MAX)));
}

#[test]
fn the_journal_is_compacted_and_stays_small() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let (mut journal, _) = open(directory.path(), clock);
    let mut alive = Kept::default();
    for round in 0..40_000u64 {
        let ends = now.plus(Duration::from_secs(300 + round));
        alive.write(&mut journal, vec![JournalRecord::Lease(lease(1, ends))], now).unwrap();
    }
    let length = std::fs::metadata(directory.path().join(FILE)).unwrap().len();
    assert!(length < 3 * SLACK, "{length} octets");
    drop(journal);
    let clock = Clock::start();
    let (_journal, restored) = open(directory.path(), clock);
    assert_about(restored[0].ends, clock.now().plus(Duration::from_secs(300 + 39_999)));
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let (_journal, _) = open(directory.path(), clock);
    let error = LeaseJournal::open(directory.path(), clock, MAX, LINGER).unwrap_err().to_string();
    assert!(error.contains("another destguard"), "{error}");
}

#[test]
fn a_foreign_file_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(FILE), b"something else entirely").unwrap();
    let error = LeaseJournal::open(directory.path(), Clock::start(), MAX, LINGER).unwrap_err().to_string();
    assert!(error.contains("not a lease journal"), "{error}");
}

/// A file that takes no octet, as on a full disk.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[test]
fn after_a_failed_write_nothing_counts_as_written_until_all_that_is_missing_is() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let ends = now.plus(Duration::from_secs(300));
    let (mut journal, _) = open(directory.path(), clock);
    let mut alive = Kept::default();
    alive.write(&mut journal, vec![JournalRecord::Lease(lease(1, ends))], now).unwrap();
    journal.file = full();
    let missing = vec![JournalRecord::Lease(lease(2, ends)), JournalRecord::Closed(address(1))];
    alive.write(&mut journal, missing, now).unwrap_err();
    // Nothing new to write, yet the answers of the failed turn may be decided only now.
    alive.write(&mut journal, vec![], now).unwrap_err();
    alive.write(&mut journal, vec![JournalRecord::Lease(lease(3, ends))], now).unwrap_err();
    let retry = journal.retry().unwrap();
    journal.write(vec![], None, retry).expect_err("nobody can say yet what was restored");
    let retry = journal.retry().unwrap();
    alive.write(&mut journal, vec![], retry).unwrap();
    assert_eq!(journal.retry(), None);
    drop(journal);
    let (_journal, restored) = open(directory.path(), Clock::start());
    assert_eq!(restored.iter().map(|lease| lease.address).collect::<Vec<_>>(), [address(2), address(3)]);
}

#[test]
fn pairs_come_back_with_their_ends_and_closed_ones_do_not() {
    let client = IpAddr::from([10, 0, 1, 2]);
    for compacted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        let now = clock.now();
        let pair = |last: u8, seconds: u64| {
            let ends = now.plus(Duration::from_secs(seconds));
            StoredPair { client, address: address(last), ends, names: vec!["www.shop.test".parse().unwrap()] }
        };
        {
            let (mut journal, _) = open(directory.path(), clock);
            assert_eq!(journal.take_pairs(), []);
            let mut alive = Kept::default();
            let open = |last, seconds| JournalRecord::Pair(PairRecord::Open(pair(last, seconds)));
            alive.write(&mut journal, vec![open(1, 300), open(2, 300), open(2, 400)], now).unwrap();
            let closed = JournalRecord::Pair(PairRecord::Closed((address(1), client)));
            alive.write(&mut journal, vec![closed], now).unwrap();
            if compacted {
                journal.compact(&alive).unwrap();
            }
        }
        // Once from what this run wrote, once from what the next one took over.
        for _ in 0..2 {
            let clock = Clock::start();
            let (mut journal, leases) = open(directory.path(), clock);
            assert_eq!(leases, [], "a pair is no lease");
            let restored = journal.take_pairs();
            assert_eq!(restored.len(), 1, "compacted: {compacted}");
            assert_eq!((restored[0].address, restored[0].client), (address(2), client));
            assert_eq!(restored[0].names, pair(2, 0).names);
            assert_about(restored[0].ends, clock.now().plus(Duration::from_secs(400)));
        }
    }
}

#[test]
fn journals_of_older_versions_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let path = directory.path().join(FILE);
    let (mut journal, _) = open(directory.path(), clock);
    journal.write(vec![JournalRecord::Lease(lease(1, now.plus(Duration::from_secs(300))))], None, now).unwrap();
    drop(journal);
    for magic in OLD_MAGICS {
        let mut octets = std::fs::read(&path).unwrap();
        octets[..8].copy_from_slice(magic);
        std::fs::write(&path, octets).unwrap();
        let (_journal, restored) = open(directory.path(), Clock::start());
        assert_eq!(restored.iter().map(|lease| lease.address).collect::<Vec<_>>(), [address(1)]);
    }
}
