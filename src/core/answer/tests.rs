use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ask(text: &str, qtype: u16) -> Question {
    Question { name: name(text), qtype, qclass: CLASS_IN }
}

fn record(owner: &str, rtype: u16, ttl: u32, data: RecordData) -> Record {
    Record { owner: name(owner), rtype, class: CLASS_IN, ttl, data }
}

fn a(owner: &str, ttl: u32, address: &str) -> Record {
    record(owner, rtype::A, ttl, RecordData::A(address.parse().unwrap()))
}

fn aaaa(owner: &str, ttl: u32, address: &str) -> Record {
    record(owner, rtype::AAAA, ttl, RecordData::Aaaa(address.parse().unwrap()))
}

fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, rtype::CNAME, ttl, RecordData::Cname(name(target)))
}

fn dname(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, rtype::DNAME, ttl, RecordData::Dname(name(target)))
}

fn rrsig(owner: &str, covered: u16) -> Record {
    record(owner, rtype::RRSIG, 300, RecordData::Rrsig { covered })
}

fn other(owner: &str, rtype: u16) -> Record {
    record(owner, rtype, 300, RecordData::Other)
}

fn https(owner: &str, ttl: u32, v4: &[&str], v6: &[&str]) -> Record {
    let data = RecordData::Svcb {
        priority: 1,
        target: Name::root(),
        mandatory: Vec::new(),
        ipv4hint: v4.iter().map(|text| text.parse().unwrap()).collect(),
        ipv6hint: v6.iter().map(|text| text.parse().unwrap()).collect(),
    };
    record(owner, rtype::HTTPS, ttl, data)
}

/// Addresses and their TTLs, as text.
fn found(bound: &Bound) -> Vec<(String, u32)> {
    bound.addresses.iter().map(|found| (found.address.to_string(), found.ttl)).collect()
}

fn pairs(list: &[(&str, u32)]) -> Vec<(String, u32)> {
    list.iter().map(|(address, ttl)| ((*address).to_owned(), *ttl)).collect()
}

fn kept(list: &[usize]) -> Vec<Kept> {
    list.iter().copied().map(Kept::Record).collect()
}

fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|text| name(text)).collect()
}

#[test]
fn plain_addresses_keep_their_order_and_ttl() {
    let bound =
        bind(&ask("www.example", rtype::A), &[a("www.example", 300, "192.0.2.9"), a("www.example", 300, "192.0.2.1")])
            .unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.9", 300), ("192.0.2.1", 300)]));
    assert_eq!(bound.keep, kept(&[0, 1]));
    assert_eq!(bound.terminal, name("www.example"));
    assert!(bound.chain.is_empty());
    assert_eq!((bound.dropped, bound.duplicates, bound.ttl), (0, 0, Some(300)));
}

#[test]
fn empty_section_binds_nothing() {
    let bound = bind(&ask("www.example", rtype::A), &[]).unwrap();
    assert!(bound.keep.is_empty() && bound.addresses.is_empty());
    assert_eq!(bound.ttl, None);
}

#[test]
fn chain_is_followed_by_owner_whatever_the_order() {
    let ordered =
        [cname("a.example", 60, "b.example"), cname("b.example", 30, "c.example"), a("c.example", 300, "192.0.2.1")];
    let bound = bind(&ask("a.example", rtype::A), &ordered).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 30)]));
    assert_eq!(bound.chain, names(&["b.example", "c.example"]));
    assert_eq!(bound.keep, kept(&[0, 1, 2]));

    let reversed: Vec<Record> = ordered.iter().rev().cloned().collect();
    let bound = bind(&ask("a.example", rtype::A), &reversed).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 30)]));
    assert_eq!(bound.keep, kept(&[2, 1, 0]), "the section is put into chain order");
}

#[test]
fn case_of_names_does_not_matter() {
    let bound =
        bind(&ask("wWw.ExAmPle", rtype::A), &[cname("WWW.example", 60, "X.Example"), a("x.eXample", 60, "192.0.2.1")])
            .unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 60)]));
}

#[test]
fn unrelated_owner_is_dropped() {
    let records = [
        a("evil.example", 300, "192.0.2.66"),
        a("www.example", 300, "192.0.2.1"),
        a("example", 300, "192.0.2.67"),
        a("x.www.example", 300, "192.0.2.68"),
        cname("other.example", 300, "www.example"),
    ];
    let bound = bind(&ask("www.example", rtype::A), &records).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 300)]));
    assert_eq!(bound.keep, kept(&[1]));
    assert_eq!(bound.dropped, 4);
}

#[test]
fn an_answer_for_another_type_opens_nothing() {
    let records = [a("www.example", 300, "192.0.2.1"), aaaa("www.example", 300, "2001:db8::1")];
    assert_eq!(found(&bind(&ask("www.example", rtype::A), &records).unwrap()), pairs(&[("192.0.2.1", 300)]));
    let bound = bind(&ask("www.example", rtype::AAAA), &records).unwrap();
    assert_eq!(found(&bound), pairs(&[("2001:db8::1", 300)]));
    assert_eq!((bound.keep, bound.dropped), (kept(&[1]), 1));
    const MX: u16 = 15;
    let records = [other("www.example", MX), a("mail.example", 300, "192.0.2.1"), a("www.example", 300, "192.0.2.2")];
    let bound = bind(&ask("www.example", MX), &records).unwrap();
    assert!(bound.addresses.is_empty());
    assert_eq!(bound.keep, kept(&[0]));
}

#[test]
fn only_class_in_counts() {
    let mut chaos = a("www.example", 300, "192.0.2.1");
    chaos.class = 3;
    let bound = bind(&ask("www.example", rtype::A), &[chaos.clone()]).unwrap();
    assert!(bound.addresses.is_empty() && bound.keep.is_empty());
    assert_eq!(bound.dropped, 1);
    let mut alias = cname("www.example", 300, "b.example");
    alias.class = 254;
    assert!(
        bind(&ask("www.example", rtype::A), &[alias, a("b.example", 300, "192.0.2.1")]).unwrap().addresses.is_empty()
    );
    let question = Question { qclass: 3, ..ask("www.example", rtype::A) };
    assert_eq!(bind(&question, &[chaos]), Err(BindError::NotInternet(3)));
}

#[test]
fn any_is_not_bound() {
    let records = [a("www.example", 300, "192.0.2.1")];
    assert_eq!(bind(&ask("www.example", rtype::ANY), &records), Err(BindError::Any));
}

#[test]
fn loops_are_refused() {
    let own = [cname("a.example", 60, "a.example")];
    assert_eq!(bind(&ask("a.example", rtype::A), &own), Err(BindError::Loop(name("a.example"))));
    let ring = [cname("a.example", 60, "b.example"), cname("b.example", 60, "a.example")];
    assert_eq!(bind(&ask("a.example", rtype::A), &ring), Err(BindError::Loop(name("a.example"))));
    let tail =
        [cname("a.example", 60, "b.example"), cname("b.example", 60, "c.example"), cname("c.example", 60, "b.example")];
    assert_eq!(bind(&ask("a.example", rtype::A), &tail), Err(BindError::Loop(name("b.example"))));
    // A loop that the question doesn't reach is just unrelated.
    let beside = [a("q.example", 60, "192.0.2.1"), ring[0].clone(), ring[1].clone()];
    assert_eq!(found(&bind(&ask("q.example", rtype::A), &beside).unwrap()), pairs(&[("192.0.2.1", 60)]));
    // A DNAME onto itself makes names longer for ever.
    let grows = [dname("d.example", 60, "x.d.example")];
    assert_eq!(bind(&ask("a.d.example", rtype::A), &grows), Err(BindError::TooDeep));
}

#[test]
fn sixteen_aliases_pass_and_seventeen_do_not() {
    let chain = |length: usize| -> Vec<Record> {
        (0..length)
            .map(|step| cname(&format!("n{step}.example"), 60, &format!("n{}.example", step + 1)))
            .chain([a(&format!("n{length}.example"), 60, "192.0.2.1")])
            .collect()
    };
    let bound = bind(&ask("n0.example", rtype::A), &chain(16)).unwrap();
    assert_eq!((bound.chain.len(), bound.addresses.len()), (16, 1));
    assert_eq!(bind(&ask("n0.example", rtype::A), &chain(17)), Err(BindError::TooDeep));
}

#[test]
fn contradicting_aliases_are_refused() {
    let two =
        [cname("a.example", 60, "b.example"), cname("a.example", 60, "c.example"), a("b.example", 60, "192.0.2.1")];
    assert_eq!(bind(&ask("a.example", rtype::A), &two), Err(BindError::TwoAliases(name("a.example"))));
    let same =
        [cname("a.example", 60, "b.example"), cname("a.example", 20, "b.example"), a("b.example", 60, "192.0.2.1")];
    let bound = bind(&ask("a.example", rtype::A), &same).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 20)]));
    assert_eq!(
        (bound.keep, bound.duplicates, bound.dropped),
        (kept(&[1, 2]), 1, 0),
        "the one with the lower TTL stays"
    );
    let dnames = [dname("d.example", 60, "e.example"), dname("d.example", 60, "f.example")];
    assert_eq!(bind(&ask("a.d.example", rtype::A), &dnames), Err(BindError::TwoAliases(name("d.example"))));
}

#[test]
fn data_beside_an_alias_is_dropped_and_the_alias_followed() {
    let address =
        [cname("a.example", 60, "b.example"), a("a.example", 60, "192.0.2.1"), a("b.example", 60, "192.0.2.2")];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let records = order.map(|place| address[place].clone());
        let bound = bind(&ask("a.example", rtype::A), &records).unwrap();
        assert_eq!((found(&bound), bound.dropped), (pairs(&[("192.0.2.2", 60)]), 1));
    }
    let text = [cname("a.example", 60, "b.example"), other("a.example", 16)];
    let bound = bind(&ask("a.example", 16), &text).unwrap();
    assert_eq!((bound.keep, bound.dropped), (kept(&[0]), 1));
    // Beside the end of the chain, or elsewhere, it is no matter.
    let elsewhere =
        [a("a.example", 60, "192.0.2.1"), cname("z.example", 60, "b.example"), a("z.example", 60, "192.0.2.2")];
    assert_eq!(found(&bind(&ask("a.example", rtype::A), &elsewhere).unwrap()), pairs(&[("192.0.2.1", 60)]));
    // DNSSEC types may stand there.
    let signed =
        [cname("a.example", 60, "b.example"), rrsig("a.example", rtype::CNAME), other("a.example", rtype::NSEC)];
    let bound = bind(&ask("a.example", rtype::A), &signed).unwrap();
    assert_eq!((bound.keep, bound.dropped), (kept(&[0, 1]), 1));
}

#[test]
fn dname_with_its_cname() {
    let records = [
        dname("d.example", 600, "e.test"),
        rrsig("d.example", rtype::DNAME),
        cname("www.d.example", 500, "www.e.test"),
        a("www.e.test", 900, "192.0.2.1"),
    ];
    let bound = bind(&ask("www.d.example", rtype::A), &records).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 500)]));
    assert_eq!(bound.keep, kept(&[0, 1, 2, 3]));
    assert_eq!(bound.chain, names(&["www.e.test"]));
    assert_eq!(bound.ttl, Some(300), "the signature's");
}

#[test]
fn dname_without_its_cname_gets_one() {
    let records = [a("a.b.e.test", 900, "192.0.2.1"), dname("d.example", 600, "e.test")];
    let bound = bind(&ask("a.b.d.example", rtype::A), &records).unwrap();
    let built = Kept::SynthesisedCname { owner: name("a.b.d.example"), target: name("a.b.e.test"), ttl: 600, dname: 1 };
    assert_eq!(bound.keep, vec![Kept::Record(1), built, Kept::Record(0)]);
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 600)]));
    assert_eq!(bound.dropped, 0);
}

#[test]
fn dname_does_not_redirect_its_owner_or_lookalikes() {
    let records = [dname("d.example", 600, "e.test"), a("e.test", 60, "192.0.2.1"), a("xe.test", 60, "192.0.2.2")];
    for asked in ["d.example", "xd.example", "example"] {
        let bound = bind(&ask(asked, rtype::A), &records).unwrap();
        assert!(bound.addresses.is_empty(), "{asked}");
        assert!(bound.keep.is_empty(), "{asked}");
    }
}

#[test]
fn a_cname_that_contradicts_the_dname_is_refused() {
    let records =
        [dname("d.example", 600, "e.test"), cname("www.d.example", 600, "evil.test"), a("evil.test", 60, "192.0.2.66")];
    assert_eq!(bind(&ask("www.d.example", rtype::A), &records), Err(BindError::DnameMismatch(name("www.d.example"))));
    // With another DNAME that makes it true, the one nearest to the root still decides.
    let nested = [
        dname("d.example", 600, "e.test"),
        dname("x.d.example", 600, "evil.test"),
        cname("www.x.d.example", 600, "www.evil.test"),
    ];
    assert_eq!(
        bind(&ask("www.x.d.example", rtype::A), &nested),
        Err(BindError::DnameMismatch(name("www.x.d.example")))
    );
}

#[test]
fn dname_of_the_root_and_names_that_become_too_long() {
    // The target lies below the root again and is redirected for ever; the data on the way is occluded.
    let root = [dname(".", 60, "e.test")];
    assert_eq!(bind(&ask("www.example", rtype::A), &root), Err(BindError::TooDeep));
    let occluded = [dname(".", 60, "e.test"), a("www.example.e.test", 60, "192.0.2.1")];
    assert_eq!(bind(&ask("www.example", rtype::A), &occluded), Err(BindError::TooDeep));
    let long = format!("{0}.{0}.{0}.d.example", "x".repeat(60));
    let records = [dname("d.example", 60, &format!("{0}.{0}.test", "y".repeat(60)))];
    let bound = bind(&ask(&long, rtype::A), &records).unwrap();
    assert_eq!((bound.overlong, bound.chain.len(), &bound.keep[..]), (true, 0, &[Kept::Record(0)][..]));
    // A CNAME beside it can't be what it makes.
    let both = [records[0].clone(), cname(&long, 60, "e.test")];
    assert_eq!(bind(&ask(&long, rtype::A), &both), Err(BindError::DnameMismatch(name(&long))));
}

#[test]
fn one_dname_used_twice_is_passed_on_once() {
    let records =
        [dname("d.example", 60, "e.test"), cname("a.e.test", 60, "b.d.example"), a("b.e.test", 60, "192.0.2.1")];
    let bound = bind(&ask("a.d.example", rtype::A), &records).unwrap();
    assert_eq!(bound.chain, names(&["a.e.test", "b.d.example", "b.e.test"]));
    assert_eq!(bound.keep.iter().filter(|kept| **kept == Kept::Record(0)).count(), 1);
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 60)]));
}

#[test]
fn a_question_for_the_alias_ends_at_it() {
    let records =
        [cname("a.example", 60, "b.example"), cname("b.example", 60, "c.example"), a("b.example", 1, "192.0.2.1")];
    let bound = bind(&ask("a.example", rtype::CNAME), &records).unwrap();
    assert_eq!((bound.keep, bound.addresses.len(), bound.chain.len()), (kept(&[0]), 0, 0));
    let bound =
        bind(&ask("d.example", rtype::DNAME), &[dname("d.example", 60, "e.test"), rrsig("d.example", rtype::DNAME)]);
    assert_eq!(bound.unwrap().keep, kept(&[0, 1]));
    let signatures = [cname("a.example", 60, "b.example"), rrsig("a.example", rtype::CNAME)];
    assert_eq!(bind(&ask("a.example", rtype::RRSIG), &signatures).unwrap().keep, kept(&[1]));
}

#[test]
fn signatures_stay_only_with_what_they_cover() {
    let records = [
        rrsig("www.example", rtype::AAAA),
        rrsig("www.example", rtype::A),
        rrsig("other.example", rtype::A),
        a("www.example", 60, "192.0.2.1"),
    ];
    let bound = bind(&ask("www.example", rtype::A), &records).unwrap();
    assert_eq!((bound.keep, bound.dropped), (kept(&[3, 1]), 2));
}

#[test]
fn ttl_with_the_top_bit_is_zero_and_none_is_longer_than_a_week() {
    assert_eq!(
        (effective_ttl(604_800), effective_ttl(604_801), effective_ttl(0x7fff_ffff)),
        (604_800, 604_800, 604_800)
    );
    assert_eq!(effective_ttl(0x8000_0000), 0);
    assert_eq!(effective_ttl(u32::MAX), 0);
    let bound = bind(&ask("www.example", rtype::A), &[a("www.example", u32::MAX, "192.0.2.1")]).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 0)]));
    let records = [cname("a.example", 0x8000_0001, "b.example"), a("b.example", 300, "192.0.2.1")];
    assert_eq!(found(&bind(&ask("a.example", rtype::A), &records).unwrap()), pairs(&[("192.0.2.1", 0)]));
    let records =
        [dname("d.example", 7, "e.test"), cname("a.d.example", 300, "a.e.test"), a("a.e.test", 300, "192.0.2.1")];
    assert_eq!(found(&bind(&ask("a.d.example", rtype::A), &records).unwrap()), pairs(&[("192.0.2.1", 7)]));
}

#[test]
fn each_address_has_its_own_ttl() {
    let records = [a("www.example", 20, "192.0.2.1"), a("www.example", 300, "192.0.2.2")];
    let bound = bind(&ask("www.example", rtype::A), &records).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 20), ("192.0.2.2", 300)]));
    assert_eq!(bound.ttl, Some(20));
}

#[test]
fn repeated_address_is_one_with_the_larger_ttl() {
    let records =
        [a("www.example", 60, "192.0.2.1"), a("www.example", 300, "192.0.2.1"), a("www.example", 10, "192.0.2.1")];
    let bound = bind(&ask("www.example", rtype::A), &records).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 300)]));
    assert_eq!((bound.keep, bound.duplicates, bound.dropped), (kept(&[1]), 2, 0));
    assert_eq!(bound.addresses[0].record, 1);
}

#[test]
fn hints_are_addresses_too() {
    let records = [
        cname("www.example", 30, "svc.example"),
        https("svc.example", 300, &["192.0.2.1", "192.0.2.2"], &["2001:db8::1"]),
        https("evil.example", 300, &["192.0.2.66"], &[]),
        a("svc.example", 300, "192.0.2.77"),
    ];
    let bound = bind(&ask("www.example", rtype::HTTPS), &records).unwrap();
    assert_eq!(found(&bound), pairs(&[("192.0.2.1", 30), ("192.0.2.2", 30), ("2001:db8::1", 30)]));
    assert!(bound.addresses.iter().all(|found| found.origin == Origin::Hint && found.record == 1));
    assert_eq!(bound.keep, kept(&[0, 1]));
    // SVCB records don't answer a question for HTTPS.
    assert!(bind(&ask("svc.example", rtype::SVCB), &records).unwrap().keep.is_empty());
}

#[test]
fn malformed_data_on_the_chain_is_refused_elsewhere_dropped() {
    for rtype in [rtype::A, rtype::AAAA] {
        let bound = bind(&ask("www.example", rtype), &[other("www.example", rtype)]);
        assert_eq!(bound, Err(BindError::Malformed { owner: name("www.example"), rtype }));
        assert_eq!(bind(&ask("www.example", rtype), &[other("x.example", rtype)]).unwrap().dropped, 1);
    }
    // An IPv6 address in a record that calls itself A would leave unjudged.
    let mixed = [record("www.example", rtype::A, 1, RecordData::Aaaa(Ipv6Addr::LOCALHOST))];
    assert!(matches!(bind(&ask("www.example", rtype::A), &mixed), Err(BindError::Malformed { .. })));
    let alias = [other("www.example", rtype::CNAME)];
    assert!(matches!(bind(&ask("www.example", rtype::A), &alias), Err(BindError::Malformed { .. })));
    let above = [other("example", rtype::DNAME)];
    assert!(matches!(bind(&ask("www.example", rtype::A), &above), Err(BindError::Malformed { .. })));
}

/// RFC 9460 section 2.2: of services one of which is malformed a client uses none, and connects as if there were none.
#[test]
fn of_services_with_a_malformed_one_none_is_kept() {
    let broken = other("www.example", rtype::HTTPS);
    let signature = record("www.example", rtype::RRSIG, 300, RecordData::Rrsig { covered: rtype::HTTPS });
    let good = https("www.example", 300, &["192.0.2.1"], &[]);
    let bound = bind(&ask("www.example", rtype::HTTPS), &[good, broken.clone(), signature]).unwrap();
    assert_eq!((bound.keep.len(), bound.addresses.len(), bound.dropped), (0, 0, 3));
    // The way there stays.
    let behind = [cname("alias.example", 30, "www.example"), broken];
    assert_eq!(bind(&ask("alias.example", rtype::HTTPS), &behind).unwrap().keep, kept(&[0]));
}

#[test]
fn under_another_rcode_only_aliases_are_kept() {
    let records = [cname("a.example", 60, "b.example"), a("b.example", 60, "192.0.2.1")];
    let bound = bind_aliases(&ask("a.example", rtype::A), &records).unwrap();
    assert_eq!((bound.keep, bound.addresses.len(), bound.dropped), (kept(&[0]), 0, 1));
    assert_eq!(bound.chain, names(&["b.example"]));
}

#[test]
fn a_large_hostile_section_is_walked_quickly() {
    // As many records as 64 KiB holds, all at one long name; quadratic work would take minutes.
    let long = format!("{}d.example", "x.".repeat(115));
    let mut records: Vec<Record> = (0..5_000u32).map(|n| a(&long, 60, &Ipv4Addr::from_bits(n).to_string())).collect();
    records.extend((0..5_000).map(|n| dname(&format!("n{n}.example"), 60, "e.test")));
    let bound = bind(&ask(&long, rtype::A), &records).unwrap();
    assert_eq!((bound.addresses.len(), bound.dropped), (5_000, 5_000));
}

/// Names close enough to each other that aliases meet by chance.
fn any_name() -> impl Strategy<Value = Name> {
    proptest::sample::select(vec!["q.d", "q.e", "r.d", "r.e", "d", "e", "f", "q.f", "q.q.d", "q.q.e", "Q.D", ".", "q"])
        .prop_map(name)
}

fn any_record() -> impl Strategy<Value = Record> {
    let address = (0u32..6).prop_map(|n| Ipv4Addr::from_bits(0xc000_0200 + n));
    let data = prop_oneof![
        4 => address.clone().prop_map(|address| (rtype::A, RecordData::A(address))),
        1 => address.clone().prop_map(|address| (rtype::AAAA, RecordData::Aaaa(address.to_ipv6_mapped()))),
        4 => any_name().prop_map(|target| (rtype::CNAME, RecordData::Cname(target))),
        2 => any_name().prop_map(|target| (rtype::DNAME, RecordData::Dname(target))),
        1 => Just((rtype::RRSIG, RecordData::Rrsig { covered: rtype::A })),
        1 => Just((16, RecordData::Other)),
        1 => proptest::collection::vec(address, 0..3).prop_map(|ipv4hint| (
            rtype::HTTPS,
            RecordData::Svcb { priority: 1, target: Name::root(), mandatory: vec![], ipv4hint, ipv6hint: vec![] },
        )),
    ];
    let ttl = prop_oneof![0u32..400, Just(u32::MAX)];
    let class = prop_oneof![9 => Just(CLASS_IN), 1 => Just(3u16)];
    (any_name(), data, ttl, class).prop_map(|(owner, (rtype, data), ttl, class)| Record {
        owner,
        rtype,
        class,
        ttl,
        data,
    })
}

/// Every name that the question may reach by any alias, found the naive way: as text, until nothing new appears.
fn reachable(question: &Name, records: &[Record]) -> Vec<String> {
    let mut names = vec![question.to_string()];
    for _ in 0..40 {
        let mut next = names.clone();
        for record in records.iter().filter(|record| record.class == CLASS_IN) {
            for name in &names {
                let target = match &record.data {
                    RecordData::Cname(target) if record.owner.to_string() == *name => target.to_string(),
                    RecordData::Dname(target) => {
                        let tail = match record.owner.to_string().as_str() {
                            "." => String::new(),
                            owner => format!(".{owner}"),
                        };
                        match name.strip_suffix(&tail) {
                            Some(front) if name != "." && target.to_string() != "." => format!("{front}.{target}"),
                            Some(front) if name != "." => front.to_owned(),
                            _ => continue,
                        }
                    }
                    _ => continue,
                };
                if !next.contains(&target) && target.len() < 60 {
                    next.push(target);
                }
            }
        }
        if next.len() == names.len() {
            break;
        }
        names = next;
    }
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// No soup of records binds an address, or passes a record on, that the question doesn't reach.
    #[test]
    fn only_what_the_question_reaches(
        question in any_name(),
        qtype in proptest::sample::select(vec![rtype::A, rtype::AAAA, rtype::HTTPS, 16]),
        records in proptest::collection::vec(any_record(), 0..9),
    ) {
        let asked = Question { name: question.clone(), qtype, qclass: CLASS_IN };
        let Ok(bound) = bind(&asked, &records) else { return Ok(()) };
        let reached = reachable(&question, &records);
        for alias in &bound.chain {
            prop_assert!(reached.contains(&alias.to_string()), "{alias} not in {reached:?}");
        }
        for found in &bound.addresses {
            let from = &records[found.record];
            prop_assert!(reached.contains(&from.owner.to_string()));
            prop_assert_eq!(from.class, CLASS_IN);
            prop_assert_eq!(from.rtype, qtype);
            prop_assert!(found.ttl <= effective_ttl(from.ttl));
        }
        let mut seen = std::collections::HashSet::new();
        for kept in &bound.keep {
            let Kept::Record(index) = kept else { continue };
            let record = &records[*index];
            prop_assert!(seen.insert(*index), "kept twice");
            prop_assert_eq!(record.class, CLASS_IN);
            prop_assert!([qtype, rtype::CNAME, rtype::DNAME, rtype::RRSIG].contains(&record.rtype));
            if record.rtype != rtype::DNAME && record.rtype != rtype::RRSIG {
                prop_assert!(reached.contains(&record.owner.to_string()));
            }
        }
        prop_assert_eq!(seen.len() + bound.dropped + bound.duplicates, records.len(), "every record is accounted for");
        // Nothing at the end of the chain is forgotten, and no address leaves in a kept record without being bound.
        for (index, record) in records.iter().enumerate() {
            let at_end = record.owner == bound.terminal && record.class == CLASS_IN && record.rtype == qtype;
            if let (true, RecordData::A(address)) = (at_end, &record.data) {
                prop_assert!(bound.addresses.iter().any(|found| found.address == *address));
            }
            if let (true, RecordData::Svcb { ipv4hint, .. }) = (at_end, &record.data) {
                let bound = bound.addresses.iter().filter(|found| found.record == index).count();
                prop_assert_eq!(bound, ipv4hint.len());
            }
        }
    }

    /// The order of the section changes neither what is bound nor its TTLs.
    #[test]
    fn order_does_not_matter(
        question in any_name(),
        (records, shuffled) in proptest::collection::vec(any_record(), 0..9)
            .prop_flat_map(|records| (Just(records.clone()), Just(records).prop_shuffle())),
    ) {
        let asked = Question { name: question, qtype: rtype::A, qclass: CLASS_IN };
        let summary = |records: &[Record]| bind(&asked, records).map(|bound| {
            let mut addresses = found(&bound);
            addresses.sort();
            (addresses, bound.chain, bound.dropped, bound.duplicates, bound.ttl.is_some())
        });
        match (summary(&records), summary(&shuffled)) {
            (Ok(first), Ok(second)) => prop_assert_eq!(first, second),
            (first, second) => prop_assert_eq!(first.is_err(), second.is_err()),
        }
    }
}
