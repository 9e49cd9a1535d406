//! Damage to a file costs what was hit, and opens nothing.

use std::net::IpAddr;

use proptest::prelude::*;

use super::super::record::PathRecord;
use super::super::record::tests::records;
use super::*;

const SECRET: u64 = 0x1122_3344_5566_7788;

fn lease(last: u8, paths: Vec<PathRecord>) -> Record {
    Record::Lease {
        address: IpAddr::from([203, 0, 113, last]),
        written: 1,
        ends_boot: 2,
        ends_wall: 3,
        paths: paths.into(),
        adds: false,
        groups: vec![],
    }
}

fn closed(last: u8) -> Record {
    Record::Closed { address: IpAddr::from([203, 0, 113, last]) }
}

/// A file whose first `settled` records are what was alive when it was made; and where each frame begins.
fn file(records: &[Record], settled: u32) -> (Vec<u8>, Vec<usize>) {
    let first = u32::MAX - 1;
    let head = Head { boot_id: "a boot".to_owned(), secret: SECRET, epoch: 7, first, settled };
    let mut octets = Vec::new();
    put_heads(&head, &mut octets);
    let (mut number, mut places) = (first, Vec::new());
    for record in records {
        places.push(octets.len());
        put(SECRET, &mut number, record, &mut octets);
    }
    (octets, places)
}

fn whole(records: &[Record]) -> Vec<Entry> {
    records.iter().flat_map(|record| vec![Entry::Record(record.clone()); copies(record)]).collect()
}

#[test]
fn what_others_named_is_never_taken_for_a_frame() {
    // A name with a whole frame in it, as somebody may make who knows all but the secret.
    let mut inner = Vec::new();
    put_frame(SECRET ^ 1, u32::MAX, &lease(66, vec![]), &mut inner);
    let mut wire = vec![u8::try_from(inner.len()).unwrap()];
    wire.extend(&inner);
    wire.push(0);
    let name = crate::core::name::Name::from_wire(&wire).unwrap();
    let (mut octets, places) =
        file(&[lease(1, vec![PathRecord { question: name, chain: [].into(), before_end: 0 }]), lease(2, vec![])], 0);
    octets[places[0] + 12] ^= 1;
    let stored = read(&octets);
    assert_eq!(stored.entries, [Entry::Record(lease(2, vec![]))]);
    assert!(stored.damage.is_some());
}

#[test]
fn where_several_records_are_lost_what_stood_before_may_have_been_revoked() {
    let records = [lease(1, vec![]), lease(2, vec![]), lease(3, vec![]), closed(1), lease(4, vec![]), lease(5, vec![])];
    let ruined = |settled, from: usize, to: usize| {
        let (mut octets, places) = file(&records, settled);
        let to = places.get(to).copied().unwrap_or(octets.len());
        octets[places[from]..to].fill(0xa5);
        read(&octets).entries
    };
    let entry = |last: u8| Entry::Record(lease(last, vec![]));
    let revoked = Entry::Record(closed(1));
    // One record alone is no revocation.
    assert_eq!(ruined(0, 1, 2), [entry(1), entry(3), revoked.clone(), revoked.clone(), entry(4), entry(5)]);
    // Two of them are.
    assert_eq!(ruined(0, 3, 4), [entry(1), entry(2), entry(3), Entry::Gap, entry(4), entry(5)]);
    assert_eq!(ruined(0, 1, 3), [entry(1), Entry::Gap, revoked.clone(), revoked.clone(), entry(4), entry(5)]);
    // Not among what was alive when the file was made.
    assert_eq!(ruined(3, 0, 3), [revoked.clone(), revoked.clone(), entry(4), entry(5)]);
    assert_eq!(ruined(3, 2, 4), [entry(1), entry(2), Entry::Gap, entry(4), entry(5)]);
    // At the end nobody knows how many there were.
    assert_eq!(ruined(3, 4, 6), [entry(1), entry(2), entry(3), revoked.clone(), revoked.clone(), Entry::Gap]);
}

#[test]
fn what_a_crash_tears_is_no_damage() {
    let records = [lease(1, vec![]), closed(2), lease(3, vec![])];
    let (octets, places) = file(&records, 0);
    for cut in places[1]..octets.len() {
        let mut torn = octets[..cut].to_vec();
        let stored = read(&torn);
        assert_eq!(stored.damage, None, "{cut}");
        assert!(!stored.entries.contains(&Entry::Gap), "{cut}");
        if places.contains(&cut) {
            torn.resize(cut + 5000, 0);
            assert_eq!(read(&torn), stored, "{cut}: room that was not filled");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(records in prop::collection::vec(records(), 0..8)) {
        let (octets, _) = file(&records, 0);
        let stored = read(&octets);
        prop_assert_eq!((stored.boot_id.as_str(), stored.epoch, stored.damage), ("a boot", 7, None));
        prop_assert_eq!(stored.entries, whole(&records));
    }

    #[test]
    fn a_flipped_bit_costs_one_frame(records in prop::collection::vec(records(), 0..8), at in any::<prop::sample::Index>()) {
        let (mut octets, _) = file(&records, 0);
        let bit = at.index(octets.len() * 8);
        octets[bit / 8] ^= 1 << (bit % 8);
        let (found, all) = (read(&octets).entries, whole(&records));
        prop_assert!(!found.contains(&Entry::Gap));
        prop_assert!(found.len() + 1 >= all.len());
        let mut rest = all.iter();
        prop_assert!(found.iter().all(|entry| rest.any(|other| other == entry)), "in order, and nothing else");
    }

    #[test]
    fn any_octets_are_read_without_panic(octets in prop::collection::vec(any::<u8>(), 0..300), known in any::<bool>()) {
        let (mut file, _) = file(&[], 0);
        if !known {
            file.clear();
        }
        file.extend(octets);
        std::hint::black_box(read(&file));
    }
}
