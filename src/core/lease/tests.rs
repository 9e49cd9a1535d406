//! The table alone; its invariants under random operations are in `guard/tests.rs`.

use super::*;
use crate::core::event::ASKED;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const START: Moment = Moment(0);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn cause(question: &str, chain: &[&str], client: u32, ends: u64) -> Cause {
    Cause {
        question: name(question),
        qtype: Some(1),
        chain: chain.iter().map(|alias| name(alias)).collect(),
        group: None,
        mark: None,
        clients: smallvec::smallvec![(IpAddr::V4(Ipv4Addr::from_bits(client)), Moment(ends))],
        ends: Moment(ends),
        tag: 0,
    }
}

fn open(capacity: usize, first: Cause) -> LeaseTable {
    let mut table = LeaseTable::new(capacity);
    let ends = first.ends;
    table.open(HERE, ends, first, Planned::default(), START);
    table
}

#[test]
fn too_many_questions_forget_the_one_that_ends_first_and_shorten_nothing() {
    let mut table = open(10, cause("first.test", &[], 1, 900_000));
    for index in 0..200u64 {
        table.add_cause(HERE, cause(&format!("q{index}.test"), &["alias.test"], 1, 1000 + index), START);
        table.check_consistency();
    }
    let lease = table.get(HERE).unwrap();
    assert_eq!(lease.causes().len(), CAUSES_PER_ADDRESS);
    assert_eq!(lease.ends(), Moment(900_000));
    assert!(table.addresses_of(&name("first.test")) == [HERE], "the cause that ends last is kept");
    assert!(table.addresses_of(&name("q199.test")) == [HERE]);
    assert_eq!(table.addresses_of(&name("q0.test")).len(), 0);
    assert_eq!(table.dropped, 201 - 64);
}

#[test]
fn too_many_clients_forget_the_one_that_ends_first() {
    let mut table = open(10, cause("a.test", &[], 1, 900_000));
    for client in 2..100 {
        table.add_cause(HERE, cause("a.test", &[], client, 1000 + u64::from(client)), START);
        table.check_consistency();
    }
    let only = &table.get(HERE).unwrap().causes()[0];
    assert_eq!(only.clients.len(), CLIENTS_PER_CAUSE);
    assert_eq!(only.ends, Moment(900_000));
    assert!(only.clients.iter().any(|(_, ends)| *ends == Moment(900_000)));
}

#[test]
fn all_together_keep_a_bounded_number_of_causes() {
    let mut table = LeaseTable::new(0);
    let most = table.most_entries;
    let addresses = 2000u32;
    for index in 0..addresses {
        let address = IpAddr::V4(Ipv4Addr::from_bits(index));
        table.open(address, Moment(9000), cause("first.test", &[], 1, 9000), Planned::default(), START);
        for question in 0..40 {
            table.add_cause(address, cause(&format!("q{question}.test"), &[], 1, 8000), START);
        }
    }
    assert!(table.entries() <= most + 2 * addresses as usize, "{} causes", table.entries());
    assert!(table.iter().all(|(_, lease)| !lease.causes().is_empty()));
    table.check_consistency();
}

#[test]
fn causes_that_ended_make_room() {
    let mut table = open(10, cause("a.test", &[], 1, 1000));
    table.extend(HERE, Moment(5000), Moment(500));
    table.add_cause(HERE, cause("b.test", &[], 1, 5000), Moment(500));
    table.add_cause(HERE, cause("c.test", &[], 1, 4000), Moment(1500));
    assert!(table.names().eq([&name("b.test"), &name("c.test")]));
    table.check_consistency();
}

#[test]
fn taking_a_name_back_leaves_what_others_asked_for() {
    let mut table = open(10, cause("a.test", &["cdn.test"], 1, 1000));
    table.extend(HERE, Moment(9000), START);
    table.add_cause(HERE, cause("b.test", &["cdn.test"], 1, 9000), START);
    assert_eq!(table.remove_causes(HERE, &name("other.test"), START), Remaining::Same);
    assert_eq!(table.remove_causes(HERE, &name("b.test"), START), Remaining::Earlier);
    assert_eq!(table.get(HERE).unwrap().ends(), Moment(1000));
    assert_eq!(table.next_timer(), Some((Moment(1000), HERE)));
    assert_eq!(table.remove_causes(HERE, &name("cdn.test"), START), Remaining::Nothing, "an alias counts too");
    table.remove(HERE);
    table.check_consistency();
    assert_eq!(table.entries(), 0);
}

#[test]
fn ranges_start_behind_an_address_and_stay_within_a_prefix() {
    let mut table = LeaseTable::new(10);
    let addresses: Vec<IpAddr> = ["192.0.2.1", "192.0.2.255", "198.51.100.7", "2001:db8::1", "2001:db8:1::"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    for address in &addresses {
        table.open(*address, Moment(9000), cause("a.test", &[], 1, 9000), Planned::default(), START);
    }
    let range = |prefix: Option<&str>, after: Option<usize>| -> Vec<usize> {
        let prefix = prefix.map(|text| text.parse().unwrap());
        let found = table.range(prefix, after.map(|index| addresses[index]));
        found.map(|(address, _)| addresses.iter().position(|other| *other == address).unwrap()).collect()
    };
    assert_eq!(range(None, None), [0, 1, 2, 3, 4]);
    assert_eq!(range(None, Some(1)), [2, 3, 4]);
    assert_eq!(range(None, Some(4)), [0usize; 0]);
    assert_eq!(range(Some("192.0.2.0/24"), None), [0, 1]);
    assert_eq!(range(Some("192.0.2.0/24"), Some(0)), [1]);
    assert_eq!(range(Some("192.0.2.0/24"), Some(1)), [0usize; 0]);
    assert_eq!(range(Some("192.0.2.0/24"), Some(3)), [0usize; 0]);
    assert_eq!(range(Some("2001:db8::/48"), Some(0)), [3]);
    assert_eq!(range(Some("::/0"), None), [3, 4]);
    assert_eq!(range(Some("255.255.255.255/32"), None), [0usize; 0]);
}

#[test]
fn a_name_has_each_address_until_its_last_cause_goes() {
    let address = |n: u8| IpAddr::from([198, 51, 100, n]);
    let mut table = open(10, cause("one.test", &["alias.test"], 1, 900_000));
    table.open(address(3), Moment(900_000), cause("alias.test", &[], 1, 900_000), Planned::default(), START);
    table.open(
        address(2),
        Moment(900_000),
        cause("two.test", &["alias.test", "two.test"], 1, 900_000),
        Planned::default(),
        START,
    );
    table.add_cause(HERE, cause("two.test", &["alias.test"], 1, 900_000), START);
    table.check_consistency();
    assert_eq!(table.addresses_of(&name("alias.test")), [HERE, address(2), address(3)], "once each, in order");
    assert_eq!(table.addresses_of(&name("one.test")), [HERE]);
    assert_eq!(table.addresses_of(&name("none.test")), [] as [IpAddr; 0]);
    assert!(
        table.names().eq([&name("one.test"), &name("two.test"), &name("alias.test")]),
        "wire form: the shorter label first"
    );
    assert_eq!(table.remove_causes(HERE, &name("one.test"), START), Remaining::Same);
    table.check_consistency();
    assert_eq!(table.addresses_of(&name("alias.test")), [HERE, address(2), address(3)], "another cause bears it too");
    assert_eq!(table.addresses_of(&name("one.test")), [] as [IpAddr; 0]);
    for n in [1, 2, 3] {
        drop(table.remove(address(n)));
        table.check_consistency();
    }
    assert_eq!(table.addresses_of(&name("alias.test")), [] as [IpAddr; 0]);
}

#[test]
fn of_many_questions_the_longest_goes_to_disk_however_long_ago_it_was_asked() {
    let mut table = open(10, cause("first.test", &[], 1, 900_000));
    for index in 0..40u64 {
        table.add_cause(HERE, cause(&format!("q{index}.test"), &[], 1, 1000), START);
    }
    let paths = table.get(HERE).unwrap().paths();
    assert_eq!(paths.len(), ASKED);
    assert_eq!(
        paths.iter().map(|path| path.ends).max(),
        Some(Moment(900_000)),
        "or the lease would end with the others"
    );
    assert!(paths.iter().any(|path| path.question == name("q39.test")));
}

#[test]
fn a_question_of_many_kinds_takes_one_place_on_disk() {
    let mut table = open(10, cause("short.test", &[], 1, 5000));
    for qtype in 0..40 {
        table.add_cause(HERE, Cause { qtype: Some(qtype), ..cause("long.test", &[], 1, 900_000) }, START);
    }
    let asked: Vec<Name> = table.get(HERE).unwrap().paths().into_iter().map(|path| path.question).collect();
    assert_eq!(asked, [name("short.test"), name("long.test")], "none is left out for the doubles of another");
}
