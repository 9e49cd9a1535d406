//! The journal: what is written is there after any crash, nothing lasts longer than it did.

use std::collections::HashMap;
use std::fs::{OpenOptions, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::super::frame::Entry;
use super::super::place::FILE;
use super::super::record::PathRecords;
use super::*;
use crate::core::event::QueryPaths;
use crate::core::name::Name;
use crate::core::narrow::{Narrow, PairId};

const MAX: Duration = Duration::from_secs(86_400);
const LINGER: Duration = Duration::from_secs(600);

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

/// A question and the alias behind it.
fn names() -> Arc<[Name]> {
    ["www.shop.test", "edge.cdn.test"].map(|name| name.parse().unwrap()).into()
}

/// The same as a lease has it.
fn paths(ends: Moment) -> QueryPaths {
    let (question, chain) = names().split_first().map(|(question, chain)| (question.clone(), chain.into())).unwrap();
    smallvec::smallvec![QueryPath { question, chain, ends }]
}

fn lease(last: u8, ends: Moment) -> StoredLease {
    StoredLease { address: address(last), ends, paths: paths(ends), adds: false, groups: Vec::new() }
}

fn open(directory: &Path, clock: Clock) -> (LeaseJournal, Vec<StoredLease>) {
    LeaseJournal::open(directory, None, clock, MAX, LINGER, Vec::new()).unwrap()
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
                JournalRecord::Revoked(_) => {}
                JournalRecord::Pair(PairRecord::Open(pair)) => {
                    self.pairs.insert((pair.address, pair.narrow), pair.clone());
                }
                JournalRecord::Pair(PairRecord::Closed(id)) => drop(self.pairs.remove(id)),
            }
        }
        journal.write(records, Some(self), now)
    }
}

impl Alive for Kept {
    fn count(&self) -> usize {
        self.leases.len() + self.pairs.len()
    }

    fn each(&self, give: &mut dyn FnMut(JournalRecord)) {
        self.leases.values().for_each(|lease| give(JournalRecord::Lease(lease.clone())));
        self.pairs.values().for_each(|pair| give(JournalRecord::Pair(PairRecord::Open(pair.clone()))));
    }
}

fn stored(boot_id: &str, record: Record) -> Stored {
    Stored { boot_id: boot_id.to_owned(), entries: vec![Entry::Record(record)], ..Stored::default() }
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
    assert!(restored[0].paths[0].is_same(&lease(2, ends).paths[0]));
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
            paths: PathRecords::new(),
            adds: false,
            groups: vec![],
        };
        let stepped = Outside { wall: outside.wall.checked_add_signed(wall_step).unwrap(), ..outside.clone() };
        let stored = stored("b", record);
        let live = restore(&stored, &stepped, now, MAX, LINGER);
        assert_eq!(live[&address(1)].ends, Moment(1_300_000));
        assert!(!is_by_wall(&stored, &stepped, now), "nor does a later one");
    }
}

/// A record that says only what is new, as an address behind a CDN has many: the file grows by a question, not by all of them.
#[test]
fn a_question_more_is_a_small_record_and_joins_those_before() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let later = |seconds| now.plus(Duration::from_secs(seconds));
    let question = |number: u32| format!("q{number}.shop.test").parse::<Name>().unwrap();
    // Seconds apart: the clocks are read anew now and then, and alike ends would come back a millisecond apart.
    let told = |number: u32| later(40 + u64::from(number));
    let adds = |last: u8, number: u32, seconds| {
        let paths =
            smallvec::smallvec![QueryPath { question: question(number), chain: Arc::default(), ends: told(number) }];
        JournalRecord::Lease(StoredLease { adds: true, paths, ..lease(last, later(seconds)) })
    };
    let mut journal = open(directory.path(), clock).0;
    journal
        .write(vec![JournalRecord::Lease(lease(1, later(60))), JournalRecord::Lease(lease(2, later(60)))], None, now)
        .unwrap();
    let before = std::fs::metadata(directory.path().join(FILE)).unwrap().len();
    for number in 0..20 {
        journal.write(vec![adds(1, number, 60 + u64::from(number))], None, now).unwrap();
    }
    let grown = std::fs::metadata(directory.path().join(FILE)).unwrap().len() - before;
    assert!(grown / 20 < 100, "{grown}");
    // Taken back: what came before doesn't count any more.
    journal.write(vec![adds(2, 1, 90), JournalRecord::Closed(address(2)), adds(2, 2, 80)], None, now).unwrap();
    journal.write(vec![adds(3, 3, 60), adds(3, 4, 60), adds(4, 4, 60)], None, now).unwrap();
    journal.write(vec![JournalRecord::Revoked(question(4)), adds(3, 5, 60)], None, now).unwrap();
    drop(journal);
    let (journal, restored) = open(directory.path(), clock);
    drop(journal);
    let asked = |lease: &StoredLease| lease.paths.iter().map(|path| path.question.to_string()).collect::<Vec<_>>();
    let last = std::iter::once("www.shop.test".to_owned()).chain((5..20).map(|number| question(number).to_string()));
    assert_eq!(asked(&restored[0]), last.collect::<Vec<_>>(), "those that end last");
    assert_about(restored[0].ends, later(79));
    assert_eq!(asked(&restored[1]), [question(2).to_string()]);
    assert_about(restored[1].ends, later(80));
    assert_eq!(asked(&restored[2]), [3, 5].map(|number| question(number).to_string()), "also where nothing was known");
    assert_eq!(restored.len(), 3, "what only the revoked name opened is closed");
    restored[2].paths.iter().zip([3, 5]).for_each(|(path, number)| assert_about(path.ends, told(number)));
    let again = open(directory.path(), clock).1;
    assert_eq!(again.iter().map(asked).collect::<Vec<_>>(), restored.iter().map(asked).collect::<Vec<_>>());
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
        paths: PathRecords::new(),
        adds: false,
        groups: vec![],
    };
    let outside = Outside { boot_id: "b".into(), since_boot: 5_000, wall: 10_000_010_000 };
    let live = restore(&stored("b", record), &outside, now, MAX, LINGER);
    assert_eq!(live[&address(1)].ends, Moment(1_290_000), "as after a reboot");
}

#[test]
fn nobody_else_may_read_who_asked_for_what() {
    let directory = tempfile::tempdir().unwrap();
    let mode = |name| std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777;
    for name in [FILE, "leases.journal.new"] {
        std::fs::write(directory.path().join(name), "").unwrap();
        std::fs::set_permissions(directory.path().join(name), Permissions::from_mode(0o644)).unwrap();
    }
    let (journal, _) = open(directory.path(), Clock::start());
    assert_eq!(mode(FILE), 0o600);
    drop(journal);
}

#[test]
fn after_a_reboot_the_wall_clock_counts_and_never_lengthens() {
    let now = Moment(1_000_000);
    let record = |ends_wall| Record::Lease {
        address: address(1),
        written: 5_000_000,
        ends_boot: 9,
        ends_wall,
        paths: PathRecords::new(),
        adds: false,
        groups: vec![],
    };
    let outside = |wall| Outside { boot_id: "new".into(), since_boot: 1, wall };
    let ends = |ends_wall, wall| {
        restore(&stored("old", record(ends_wall)), &outside(wall), now, MAX, LINGER)
            .get(&address(1))
            .map(|lease| lease.ends)
    };
    assert!(is_by_wall(&stored("old", record(5_300_000)), &outside(5_100_000), now));
    // 100 s of 300 s have passed.
    assert_eq!(ends(5_300_000, 5_100_000), Some(Moment(1_200_000)));
    // The clock was set back, by a day or by nobody knows what: who could say how much is left?
    assert_eq!(ends(5_300_000, 1), None);
    assert_eq!(ends(5_300_000, 4_999_999), None);
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
    let error = LeaseJournal::open(directory.path(), None, clock, MAX, LINGER, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("another destguard"), "{error}");
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
    journal.file = Some(full());
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
            StoredPair {
                narrow: Narrow::of_client(client),
                address: address(last),
                ends,
                names: vec![names()],
                told: vec![ends],
            }
        };
        {
            let (mut journal, _) = open(directory.path(), clock);
            assert_eq!(journal.take_pairs(), []);
            let mut alive = Kept::default();
            let open = |last, seconds| JournalRecord::Pair(PairRecord::Open(pair(last, seconds)));
            alive.write(&mut journal, vec![open(1, 300), open(2, 300), open(2, 400)], now).unwrap();
            let closed = JournalRecord::Pair(PairRecord::Closed((address(1), Narrow::of_client(client))));
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
            assert_eq!((restored[0].address, restored[0].narrow), (address(2), Narrow::of_client(client)));
            assert_eq!(restored[0].names, pair(2, 0).names);
            assert_about(restored[0].ends, clock.now().plus(Duration::from_secs(400)));
        }
    }
}

#[test]
fn a_new_file_that_is_in_place_is_the_one_that_is_written_whatever_fails_behind() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(FILE), "old").unwrap();
    std::fs::write(directory.path().join("leases.journal.new"), "new").unwrap();
    // It can't be flushed.
    let parent = File::open("/dev/null").unwrap();
    parent.sync_all().unwrap_err();
    Place::home(directory.path()).swap(&parent).unwrap();
    assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), b"new");
    Place::home(directory.path()).swap(&parent).unwrap_err();
    assert_eq!(std::fs::read(directory.path().join(FILE)).unwrap(), b"new");
}

/// What earlier versions wrote.
fn old_file(magic: &[u8; 8], records: &[Record]) -> Vec<u8> {
    let mut octets = magic.to_vec();
    octets.extend(Outside::read().unwrap().boot_id.bytes());
    for entry in records {
        let mut payload = Vec::new();
        super::super::record::encode(entry, &mut payload);
        octets.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        octets.extend(super::super::record::crc32c(&[&payload]).to_be_bytes());
        octets.extend(payload);
    }
    octets
}

fn addresses(leases: &[StoredLease]) -> Vec<IpAddr> {
    leases.iter().map(|lease| lease.address).collect()
}

#[test]
fn journals_of_older_versions_are_read() {
    let outside = Outside::read().unwrap();
    let lease = |last| Record::Lease {
        address: address(last),
        written: outside.wall,
        ends_boot: outside.since_boot + 300_000,
        ends_wall: outside.wall + 300_000,
        paths: PathRecords::new(),
        adds: false,
        groups: vec![],
    };
    let records = [lease(1), lease(2), Record::Closed { address: address(1) }, lease(3)];
    for magic in [b"DGLEASE3", b"DGLEASE2", b"DGLEASE1"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let whole = old_file(magic, &records);
        // Torn at its end, as after a crash.
        for torn in [0, 1, 20] {
            std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let (journal, restored) = open(directory.path(), Clock::start());
            let wanted = if torn == 0 { vec![address(2), address(3)] } else { vec![address(2)] };
            assert_eq!(addresses(&restored), wanted);
            assert_eq!(journal.health().reasons(), Vec::<String>::new());
        }
        // What is damaged elsewhere may hide a revocation behind the damage.
        let mut damaged = whole.clone();
        damaged[60] ^= 4;
        std::fs::write(&path, &damaged).unwrap();
        let (journal, restored) = open(directory.path(), Clock::start());
        assert_eq!(restored, []);
        assert!(journal.health().reasons()[0].contains("an earlier version"), "{:?}", journal.health());
    }
}

#[test]
fn whatever_is_no_journal_is_kept_beside_and_the_guard_starts() {
    for garbage in [&b"something else entirely"[..], b"", b"DGLEASE4", &[0; 4096], &[0xa5; 300]] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, garbage).unwrap();
        std::fs::write(directory.path().join("leases.journal.bad"), "of an earlier time").unwrap();
        let clock = Clock::start();
        let now = clock.now();
        let (mut journal, restored) = open(directory.path(), clock);
        assert_eq!(restored, []);
        let bad = directory.path().join("leases.journal.bad");
        assert_eq!(std::fs::read(&bad).unwrap(), garbage);
        let reasons = journal.health().reasons();
        assert!(matches!(reasons.as_slice(), [one] if one.contains("leases.journal.bad")), "{reasons:?}");
        let mut alive = Kept::default();
        let lease = lease(1, now.plus(Duration::from_secs(300)));
        alive.write(&mut journal, vec![JournalRecord::Lease(lease)], now).unwrap();
        // It is told of until the operator has seen it.
        journal.check(&alive, now);
        assert_eq!(journal.health().reasons(), reasons);
        std::fs::remove_file(&bad).unwrap();
        journal.check(&alive, now);
        assert_eq!(journal.health().reasons(), Vec::<String>::new());
        drop(journal);
        assert_eq!(addresses(&open(directory.path(), Clock::start()).1), [address(1)]);
    }
}

/// Every bit of a file in turn: all leases come back but the one that was hit, and nothing that was revoked.
#[test]
fn a_flipped_bit_costs_one_record_at_most_and_revokes_nothing_less() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let ends = now.plus(Duration::from_secs(300));
    let mut alive = Kept::default();
    let (mut journal, _) = open(directory.path(), clock);
    let write = |journal: &mut LeaseJournal, alive: &mut Kept, record| alive.write(journal, vec![record], now).unwrap();
    for last in 1..4 {
        write(&mut journal, &mut alive, JournalRecord::Lease(lease(last, ends)));
    }
    // Some stand in the part that was alive when the file was made.
    journal.compact(&alive).unwrap();
    for last in 4..7 {
        write(&mut journal, &mut alive, JournalRecord::Lease(lease(last, ends)));
    }
    for last in [2, 5] {
        write(&mut journal, &mut alive, JournalRecord::Closed(address(last)));
    }
    write(&mut journal, &mut alive, JournalRecord::Lease(lease(7, ends)));
    drop(journal);
    let whole = std::fs::read(directory.path().join(FILE)).unwrap();
    let wanted = [1, 3, 4, 6, 7].map(address);
    let outside = Outside::read().unwrap();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let stored = frame::read(&damaged);
        let mut found: Vec<IpAddr> = restore(&stored, &outside, clock.now(), MAX, LINGER).into_keys().collect();
        found.sort();
        let missing = wanted.iter().filter(|address| !found.contains(address)).count();
        assert!(missing <= 1, "bit {bit}: {found:?}");
        assert!(found.iter().all(|address| wanted.contains(address)), "bit {bit}: {found:?} has what was revoked");
    }
    // And once as a whole: the damaged file is kept, what is whole is used.
    let mut damaged = whole;
    damaged[3] ^= 1;
    std::fs::write(directory.path().join(FILE), &damaged).unwrap();
    let (journal, restored) = open(directory.path(), Clock::start());
    assert_eq!(addresses(&restored), wanted);
    assert!(journal.health().reasons()[0].contains("damaged in 1 place"), "{:?}", journal.health());
    assert_eq!(std::fs::read(directory.path().join("leases.journal.bad")).unwrap(), damaged);
}

#[test]
fn a_directory_that_was_removed_is_there_again_with_all_that_is_alive() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state");
    let clock = Clock::start();
    let now = clock.now();
    let ends = now.plus(Duration::from_secs(300));
    let (mut journal, _) = open(&directory, clock);
    let health = journal.health();
    let mut alive = Kept::default();
    alive.write(&mut journal, vec![JournalRecord::Lease(lease(1, ends))], now).unwrap();
    journal.check(&alive, now);
    assert_eq!((health.reasons(), health.repairs().len()), (vec![], 0));
    let ruin: [(&str, &dyn Fn()); 5] = [
        ("directory", &|| std::fs::remove_dir_all(&directory).unwrap()),
        ("file", &|| std::fs::remove_file(directory.join(FILE)).unwrap()),
        ("replaced", &|| {
            std::fs::remove_file(directory.join(FILE)).unwrap();
            std::fs::write(directory.join(FILE), "else").unwrap();
        }),
        ("length", &|| OpenOptions::new().write(true).open(directory.join(FILE)).unwrap().set_len(9).unwrap()),
        ("lock", &|| std::fs::remove_file(directory.join("lock")).unwrap()),
    ];
    for (last, (kind, ruin)) in (2..).zip(ruin) {
        ruin();
        // Written into what nobody will find.
        alive.write(&mut journal, vec![JournalRecord::Lease(lease(last, ends))], now).unwrap();
        journal.check(&alive, now);
        assert_eq!(health.repairs().get(kind), Some(&1), "{kind}");
        assert_eq!(health.reasons(), Vec::<String>::new(), "{kind}");
        let stored = frame::read(&std::fs::read(directory.join(FILE)).unwrap());
        let found = restore(&stored, &Outside::read().unwrap(), clock.now(), MAX, LINGER);
        assert_eq!(found.len(), usize::from(last), "{kind}");
        let error = LeaseJournal::open(&directory, None, clock, MAX, LINGER, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("another destguard"), "{kind}: {error}");
    }
}

#[test]
fn a_disk_that_takes_nothing_loses_no_lease_and_is_used_again_when_it_does() {
    let parent = tempfile::tempdir().unwrap();
    let (directory, spare) = (parent.path().join("state"), parent.path().join("run/control.sock.leases"));
    // In place of the directory there is a file.
    std::fs::write(&directory, "").unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let ends = now.plus(Duration::from_secs(300));
    let mut alive = Kept::default();
    {
        let (mut journal, _) = LeaseJournal::open(&directory, Some(&spare), clock, MAX, LINGER, Vec::new()).unwrap();
        let reasons = journal.health().reasons();
        assert!(
            reasons.iter().any(|reason| reason.contains("takes nothing") && reason.contains("control.sock.leases")),
            "{reasons:?}"
        );
        alive.write(&mut journal, vec![JournalRecord::Lease(lease(1, ends))], now).unwrap();
        journal.check(&alive, now.plus(RETRY));
        assert_eq!(journal.health().repairs().len(), 0);
    }
    // A crash, and it takes nothing still.
    let (mut journal, restored) = LeaseJournal::open(&directory, Some(&spare), clock, MAX, LINGER, Vec::new()).unwrap();
    assert_eq!(addresses(&restored), [address(1)]);
    alive.write(&mut journal, vec![JournalRecord::Lease(lease(2, ends))], now).unwrap();
    std::fs::remove_file(&directory).unwrap();
    journal.check(&alive, clock.now().plus(RETRY));
    assert_eq!(journal.health().reasons(), Vec::<String>::new());
    assert_eq!(journal.health().repairs().get("place"), Some(&1));
    assert!(!spare.exists() && directory.join(FILE).exists());
    // In the middle of its work.
    journal.file = Some(full());
    journal.check(&alive, clock.now());
    alive.write(&mut journal, vec![JournalRecord::Lease(lease(3, ends))], now).unwrap();
    drop(journal);
    let (_journal, restored) = LeaseJournal::open(&directory, Some(&spare), clock, MAX, LINGER, Vec::new()).unwrap();
    assert_eq!(addresses(&restored), [1, 2, 3].map(address));
}

#[test]
fn of_two_files_the_later_counts() {
    let parent = tempfile::tempdir().unwrap();
    let (directory, spare) = (parent.path().join("state"), parent.path().join("leases"));
    let clock = Clock::start();
    let now = clock.now();
    let ends = now.plus(Duration::from_secs(300));
    let open = || LeaseJournal::open(&directory, Some(&spare), clock, MAX, LINGER, Vec::new()).unwrap();
    let mut alive = Kept::default();
    let (mut journal, _) = open();
    alive
        .write(&mut journal, vec![JournalRecord::Lease(lease(1, ends)), JournalRecord::Lease(lease(2, ends))], now)
        .unwrap();
    journal.leave_home(&io::ErrorKind::StorageFull.into(), &alive, now).unwrap();
    alive.write(&mut journal, vec![JournalRecord::Closed(address(1))], now).unwrap();
    drop(journal);
    let old = std::fs::read(&spare).unwrap();
    let (mut journal, restored) = open();
    assert_eq!(addresses(&restored), [address(2)], "the spare one is later than the one at home");
    alive
        .write(&mut journal, vec![JournalRecord::Lease(lease(3, ends)), JournalRecord::Closed(address(2))], now)
        .unwrap();
    drop(journal);
    // A crash kept it from being removed.
    std::fs::write(&spare, old).unwrap();
    let (_journal, restored) = open();
    assert_eq!(addresses(&restored), [address(3)]);
}

#[test]
fn a_clock_that_is_set_back_is_known_by_the_time_that_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let (mut journal, _) = open(directory.path(), clock);
    let mut alive = Kept::default();
    let ends = now.plus(Duration::from_secs(80_000));
    alive.write(&mut journal, vec![JournalRecord::Lease(lease(1, ends))], now).unwrap();
    journal.check(&alive, now.plus(QUIET));
    drop(journal);
    let stored = frame::read(&std::fs::read(directory.path().join(FILE)).unwrap());
    assert!(matches!(
        stored.entries.as_slice(),
        [Entry::Record(Record::Lease { .. }), Entry::Record(Record::Time { .. })]
    ));
}

#[test]
fn a_revocation_is_flushed_and_what_is_leased_need_not_be() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::start();
    let now = clock.now();
    let (mut journal, _) = open(directory.path(), clock);
    let mut alive = Kept::default();
    let lease = lease(1, now.plus(Duration::from_secs(300)));
    alive.write(&mut journal, vec![JournalRecord::Lease(lease)], now).unwrap();
    journal.check(&alive, now);
    assert!(journal.flusher.is_none());
    alive.write(&mut journal, vec![JournalRecord::Closed(address(1))], now).unwrap();
    journal.check(&alive, now);
    journal.flusher.take().unwrap().join().unwrap().unwrap();
    assert!(!journal.unflushed);
}
