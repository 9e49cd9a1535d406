use proptest::prelude::*;

use super::*;
use crate::config::schema::Config;
use crate::core::answer::CLASS_IN;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn record(owner: &str, data: RecordData) -> Record {
    let rtype = match &data {
        RecordData::A(_) => rtype::A,
        RecordData::Aaaa(_) => rtype::AAAA,
        RecordData::Cname(_) => rtype::CNAME,
        RecordData::Dname(_) => rtype::DNAME,
        RecordData::Svcb { .. } => rtype::HTTPS,
        RecordData::Rrsig { .. } => rtype::RRSIG,
        RecordData::Other => 16,
    };
    Record { owner: name(owner), rtype, class: CLASS_IN, ttl: 300, data }
}

fn a(owner: &str, address: &str) -> Record {
    record(owner, RecordData::A(address.parse().unwrap()))
}

fn cname(owner: &str, target: &str) -> Record {
    record(owner, RecordData::Cname(name(target)))
}

fn rrsig(owner: &str, covered: u16) -> Record {
    record(owner, RecordData::Rrsig { covered })
}

fn https(owner: &str, target: &str, mandatory: &[u16], v4: &[&str], v6: &[&str]) -> Record {
    let data = RecordData::Svcb {
        priority: 1,
        target: name(target),
        mandatory: mandatory.to_vec(),
        ipv4hint: v4.iter().map(|text| text.parse().unwrap()).collect(),
        ipv6hint: v6.iter().map(|text| text.parse().unwrap()).collect(),
    };
    record(owner, data)
}

const CONFIG: &str = r#"
dns.listen = []
policy.deny = ["ads.test"]
addresses.open = ["44.0.0.0/16"]
bgp.router_id = "44.1.0.1"
[[policy.private]]
domain = "corp.test"
prefixes = ["10.0.0.0/8"]
"#;

struct Case {
    question: Question,
    records: Vec<Record>,
    noerror: bool,
    dnssec_ok: bool,
}

impl Case {
    fn new(asked: &str, qtype: u16, records: &[Record]) -> Self {
        let question = Question { name: name(asked), qtype, qclass: CLASS_IN };
        Self { question, records: records.to_vec(), noerror: true, dnssec_ok: false }
    }

    fn judge_under(&self, config: &Config) -> Judged {
        let policy = Policy::new(config).unwrap();
        let filter = AddressFilter::new(config, &[]).unwrap();
        let response = Response {
            question: &self.question,
            records: &self.records,
            noerror: self.noerror,
            dnssec_ok: self.dnssec_ok,
        };
        judge(&policy, &filter, response)
    }

    fn judge(&self) -> Judged {
        self.judge_under(&toml::from_str(CONFIG).unwrap())
    }

    fn answer(&self) -> Answer {
        match self.judge() {
            Judged::Answer(answer) => answer,
            other => panic!("not an answer: {other:?}"),
        }
    }

    /// Addresses taken out when nothing is left, with the reason's label.
    fn filtered(&self) -> Vec<(IpAddr, &'static str)> {
        match self.judge() {
            Judged::Filtered { removed, .. } => labels(&removed),
            other => panic!("not filtered: {other:?}"),
        }
    }
}

fn labels(removed: &[Removed]) -> Vec<(IpAddr, &'static str)> {
    removed.iter().map(|removed| (removed.address, removed.reason.label())).collect()
}

fn granted(answer: &Answer) -> Vec<String> {
    answer.grants.iter().map(|grant| grant.address.to_string()).collect()
}

fn kept(list: &[usize]) -> Vec<Kept> {
    list.iter().copied().map(Kept::Record).collect()
}

#[test]
fn a_good_answer_passes_whole() {
    let answer = Case::new("w.test", rtype::A, &[cname("w.test", "x.test"), a("x.test", "20.8.8.8")]).answer();
    assert_eq!(answer.grants[..], [Grant { address: ip("20.8.8.8"), ttl: 300 }]);
    assert_eq!(answer.keep, kept(&[0, 1]));
    assert_eq!(answer.chain, [name("x.test")]);
    assert!(answer.removed.is_empty() && answer.hints.is_empty() && answer.already_open.is_empty());
    assert_eq!(answer.ttl, Some(300));
}

#[test]
fn nodata_and_other_types_pass_without_grants() {
    let answer = Case::new("w.test", rtype::A, &[]).answer();
    assert!(answer.keep.is_empty() && answer.grants.is_empty());
    let mut text = record("w.test", RecordData::Other);
    text.rtype = 16;
    let answer = Case::new("w.test", 16, &[text, a("w.test", "20.8.8.8")]).answer();
    assert_eq!((answer.keep, answer.grants.len(), answer.dropped), (kept(&[0]), 0, 1));
}

#[test]
fn the_bad_part_of_an_answer_is_taken_out() {
    let case = Case::new(
        "w.test",
        rtype::A,
        &[a("w.test", "127.0.0.1"), a("w.test", "20.8.8.8"), a("w.test", "44.1.0.1"), a("evil.test", "20.8.4.4")],
    );
    let answer = case.answer();
    assert_eq!(granted(&answer), ["20.8.8.8"]);
    assert_eq!(answer.keep, kept(&[1]));
    assert_eq!(labels(&answer.removed), [(ip("127.0.0.1"), "special"), (ip("44.1.0.1"), "infrastructure")]);
    assert_eq!(answer.dropped, 1);
}

#[test]
fn nothing_left_is_filtered() {
    let case = Case::new("w.test", rtype::A, &[cname("w.test", "x.test"), a("x.test", "10.0.0.1")]);
    assert_eq!(case.filtered(), [(ip("10.0.0.1"), "special")]);
}

#[test]
fn open_addresses_pass_without_grant() {
    let case = Case::new("w.test", rtype::A, &[a("w.test", "44.0.1.1"), a("w.test", "20.8.8.8")]);
    let answer = case.answer();
    assert_eq!((granted(&answer), answer.already_open), (vec!["20.8.8.8".to_owned()], vec![ip("44.0.1.1")]));
    assert_eq!(answer.keep, kept(&[0, 1]));
    let answer = Case::new("w.test", rtype::A, &[a("w.test", "44.0.1.1")]).answer();
    assert!(answer.grants.is_empty());
}

#[test]
fn a_denied_name_anywhere_on_the_chain_denies() {
    let deny = |case: Case| match case.judge() {
        Judged::Denied { name, rule, .. } => (name.to_string(), rule.map(|rule| rule.place)),
        other => panic!("not denied: {other:?}"),
    };
    let place = Some("policy.deny[0]".to_owned());
    let question = Case::new("x.ads.test", rtype::A, &[a("x.ads.test", "20.8.8.8")]);
    assert_eq!(deny(question), ("x.ads.test".to_owned(), place.clone()));
    let cloaked = [cname("w.test", "x.ads.test"), cname("x.ads.test", "y.test"), a("y.test", "20.8.8.8")];
    assert_eq!(deny(Case::new("w.test", rtype::A, &cloaked)), ("x.ads.test".to_owned(), place.clone()));
    let dname = [record("d.test", RecordData::Dname(name("ads.test"))), a("w.ads.test", "20.8.8.8")];
    assert_eq!(deny(Case::new("w.d.test", rtype::A, &dname)), ("w.ads.test".to_owned(), place));
    // Off the chain it is no matter.
    let beside = [a("w.test", "20.8.8.8"), a("ads.test", "20.8.4.4")];
    assert_eq!(granted(&Case::new("w.test", rtype::A, &beside).answer()), ["20.8.8.8"]);
}

#[test]
fn the_default_denies_the_question_but_not_its_aliases() {
    let config: Config =
        toml::from_str("dns.listen = []\n[policy]\ndefault = \"deny\"\nallow = [\"w.test\"]\ndeny = [\"ads.test\"]")
            .unwrap();
    let alias = Case::new("w.test", rtype::A, &[cname("w.test", "cdn.test"), a("cdn.test", "20.8.8.8")]);
    assert!(matches!(alias.judge_under(&config), Judged::Answer(_)));
    let direct = Case::new("cdn.test", rtype::A, &[a("cdn.test", "20.8.8.8")]);
    assert!(matches!(direct.judge_under(&config), Judged::Denied { rule: None, .. }));
    let cloaked = Case::new("w.test", rtype::A, &[cname("w.test", "ads.test"), a("ads.test", "20.8.8.8")]);
    assert!(matches!(cloaked.judge_under(&config), Judged::Denied { rule: Some(_), .. }));
}

#[test]
fn what_can_not_be_bound_is_said() {
    let case = Case::new("w.test", rtype::A, &[cname("w.test", "w.test")]);
    assert_eq!(case.judge(), Judged::Unbound(BindError::Loop(name("w.test"))));
}

#[test]
fn under_another_rcode_nothing_opens_but_policy_speaks() {
    let mut case = Case::new("w.test", rtype::A, &[cname("w.test", "x.test"), a("x.test", "20.8.8.8")]);
    case.noerror = false;
    let answer = case.answer();
    assert_eq!((answer.keep.clone(), answer.grants.len()), (kept(&[0]), 0));
    case.records[0] = cname("w.test", "ads.test");
    assert!(matches!(case.judge(), Judged::Denied { .. }));
}

#[test]
fn split_horizon() {
    assert_eq!(granted(&Case::new("w.corp.test", rtype::A, &[a("w.corp.test", "10.0.0.1")]).answer()), ["10.0.0.1"]);
    let rebinding = Case::new("w.test", rtype::A, &[cname("w.test", "w.corp.test"), a("w.corp.test", "10.0.0.1")]);
    assert_eq!(rebinding.filtered(), [(ip("10.0.0.1"), "special")]);
}

#[test]
fn a_signed_set_is_never_served_in_part_to_a_validating_client() {
    let records = [a("w.test", "20.8.8.8"), a("w.test", "10.0.0.1"), rrsig("w.test", rtype::A)];
    let mut case = Case::new("w.test", rtype::A, &records);
    let answer = case.answer();
    assert_eq!(granted(&answer), ["20.8.8.8"]);
    assert_eq!(answer.keep, kept(&[0]), "the signature over the whole set goes");
    case.dnssec_ok = true;
    assert_eq!(case.filtered(), [(ip("10.0.0.1"), "special"), (ip("20.8.8.8"), "signed_set")]);
    // Unsigned, a part may be served; whole, the signature stays.
    case.records.truncate(2);
    assert_eq!(granted(&case.answer()), ["20.8.8.8"]);
    case.records = vec![a("w.test", "20.8.8.8"), rrsig("w.test", rtype::A)];
    assert_eq!(case.answer().keep, kept(&[0, 1]));
}

#[test]
fn the_signature_over_an_alias_stays_when_addresses_go() {
    let records = [
        cname("w.test", "x.test"),
        rrsig("w.test", rtype::CNAME),
        a("x.test", "20.8.8.8"),
        a("x.test", "10.0.0.1"),
        rrsig("x.test", rtype::A),
    ];
    assert_eq!(Case::new("w.test", rtype::A, &records).answer().keep, kept(&[0, 1, 2]));
}

#[test]
fn the_same_address_with_two_ttls_is_one_grant_with_the_larger() {
    let mut records = [a("w.test", "20.8.8.8"), a("w.test", "20.8.8.8"), a("w.test", "20.8.8.8")];
    records[0].ttl = 60;
    records[2].ttl = 30;
    let answer = Case::new("w.test", rtype::A, &records).answer();
    assert_eq!(answer.grants[..], [Grant { address: ip("20.8.8.8"), ttl: 300 }]);
    let mut hints =
        [https("w.test", ".", &[], &["20.8.8.8"], &[]), https("w.test", ".", &[], &["20.8.8.8", "20.8.8.8"], &[])];
    hints[0].ttl = 60;
    let answer = Case::new("w.test", rtype::HTTPS, &hints).answer();
    assert_eq!(answer.grants[..], [Grant { address: ip("20.8.8.8"), ttl: 300 }]);
    assert_eq!(answer.keep, kept(&[0, 1]));
}

#[test]
fn good_hints_are_granted_and_the_record_is_left_alone() {
    let answer =
        Case::new("w.test", rtype::HTTPS, &[https("w.test", ".", &[4], &["20.8.8.8"], &["2606:4700::1"])]).answer();
    assert_eq!(granted(&answer), ["20.8.8.8", "2606:4700::1"]);
    assert!(answer.hints.is_empty());
}

#[test]
fn bad_hints_are_edited_out() {
    let records = [
        https("w.test", ".", &[], &["20.8.8.8", "10.0.0.1"], &["fe80::1"]),
        https("w.test", ".", &[], &["20.8.4.4"], &[]),
        https("w.test", ".", &[1], &["127.0.0.1"], &[]),
    ];
    let answer = Case::new("w.test", rtype::HTTPS, &records).answer();
    assert_eq!(granted(&answer), ["20.8.8.8", "20.8.4.4"]);
    assert_eq!(answer.keep, kept(&[0, 1, 2]), "records without hints are still of use");
    let first = HintEdit { record: 0, ipv4hint: vec!["20.8.8.8".parse().unwrap()], ipv6hint: vec![] };
    let third = HintEdit { record: 2, ipv4hint: vec![], ipv6hint: vec![] };
    assert_eq!(answer.hints, [first, third]);
    assert_eq!(answer.removed.len(), 3);
}

#[test]
fn for_a_client_of_one_family_the_other_is_taken_out() {
    let judge_for = |case: &Case, only| {
        let config: Config = toml::from_str(CONFIG).unwrap();
        let (policy, filter) = (Policy::new(&config).unwrap(), AddressFilter::new(&config, &[]).unwrap());
        let response =
            Response { question: &case.question, records: &case.records, noerror: true, dnssec_ok: case.dnssec_ok };
        super::judge_for(&policy, &filter, response, Some(only))
    };
    let hints = [https("w.test", ".", &[], &["20.8.8.8"], &["2a00::1"])];
    let hints = Case::new("w.test", rtype::HTTPS, &hints);
    for (only, left) in [(Family::Ipv4, "20.8.8.8"), (Family::Ipv6, "2a00::1")] {
        let Judged::Answer(answer) = judge_for(&hints, only) else { panic!("not an answer") };
        assert_eq!(granted(&answer), [left]);
        assert_eq!(answer.hints.len(), 1, "the other hint is not passed on");
    }
    let plain = Case::new("a.test", rtype::A, &[a("a.test", "20.1.1.1")]);
    assert!(matches!(judge_for(&plain, Family::Ipv4), Judged::Answer(_)));
    let Judged::Filtered { removed, .. } = judge_for(&plain, Family::Ipv6) else { panic!("not filtered") };
    assert_eq!(labels(&removed), [(ip("20.1.1.1"), "other_family")]);
    let open = Case::new("a.test", rtype::A, &[a("a.test", "44.0.1.1")]);
    assert!(matches!(judge_for(&open, Family::Ipv6), Judged::Answer(_)), "what is always open is open for all");
}

#[test]
fn a_record_that_loses_a_mandatory_key_goes_with_all_its_hints() {
    let lost = https("w.test", ".", &[1, 4], &["10.0.0.1"], &["2606:4700::1"]);
    let stays = https("w.test", ".", &[4], &["10.0.0.1", "20.8.8.8"], &[]);
    let answer = Case::new("w.test", rtype::HTTPS, &[lost.clone(), stays]).answer();
    assert_eq!(granted(&answer), ["20.8.8.8"]);
    assert_eq!(answer.keep, kept(&[1]));
    assert!(labels(&answer.removed).contains(&(ip("2606:4700::1"), "mandatory")));
    let case = Case::new("w.test", rtype::HTTPS, &[lost]);
    assert_eq!(case.filtered(), [(ip("10.0.0.1"), "special"), (ip("2606:4700::1"), "mandatory")]);
    // A mandatory key that the record never had is the record's own fault and not ours to judge.
    let odd = https("w.test", ".", &[6], &["20.8.8.8", "10.0.0.1"], &[]);
    assert_eq!(granted(&Case::new("w.test", rtype::HTTPS, &[odd]).answer()), ["20.8.8.8"]);
}

#[test]
fn hints_belong_to_the_service_s_own_name() {
    let denied = Case::new("w.test", rtype::HTTPS, &[https("w.test", "x.ads.test", &[], &["20.8.8.8"], &[])]).answer();
    assert!(denied.grants.is_empty());
    assert_eq!(labels(&denied.removed), [(ip("20.8.8.8"), "target")]);
    assert_eq!(denied.hints.len(), 1);
    let outside =
        Case::new("w.corp.test", rtype::HTTPS, &[https("w.corp.test", "w.test", &[], &["10.0.0.1"], &[])]).answer();
    assert_eq!(labels(&outside.removed), [(ip("10.0.0.1"), "special")]);
    let inside =
        Case::new("w.corp.test", rtype::HTTPS, &[https("w.corp.test", "x.corp.test", &[], &["10.0.0.1"], &[])]);
    assert_eq!(granted(&inside.answer()), ["10.0.0.1"]);
}

#[test]
fn signed_service_records_are_not_edited_for_a_validating_client() {
    let records = [https("w.test", ".", &[], &["20.8.8.8", "10.0.0.1"], &[]), rrsig("w.test", rtype::HTTPS)];
    let mut case = Case::new("w.test", rtype::HTTPS, &records);
    assert_eq!(case.answer().keep, kept(&[0]));
    case.dnssec_ok = true;
    assert_eq!(case.filtered(), [(ip("10.0.0.1"), "special"), (ip("20.8.8.8"), "signed_set")]);
}

fn any_record() -> impl Strategy<Value = Record> {
    let owner = proptest::sample::select(vec!["w.test", "x.test", "w.corp.test", "x.ads.test"]);
    let v4 = proptest::sample::select(vec!["20.8.8.8", "20.8.4.4", "10.0.0.1", "127.0.0.1", "44.0.0.1", "44.1.0.1"]);
    let v6 = proptest::sample::select(vec!["2606:4700::1", "fe80::1", "2002:a00:1::", "::ffff:20.8.8.8"]);
    let hints = (proptest::collection::vec(v4.clone(), 0..3), proptest::collection::vec(v6.clone(), 0..3));
    prop_oneof![
        3 => (owner.clone(), v4).prop_map(|(owner, address)| a(owner, address)),
        2 => (owner.clone(), v6).prop_map(|(owner, address)| record(owner, RecordData::Aaaa(address.parse().unwrap()))),
        2 => (owner.clone(), owner.clone()).prop_map(|(owner, target)| cname(owner, target)),
        1 => (owner.clone(), proptest::sample::select(vec![rtype::A, rtype::AAAA, rtype::HTTPS]))
            .prop_map(|(owner, covered)| rrsig(owner, covered)),
        3 => (owner.clone(), owner, proptest::collection::vec(proptest::sample::select(vec![1u16, 4, 6]), 0..3), hints)
            .prop_map(|(owner, target, mandatory, (v4, v6))| https(owner, target, &mandatory, &v4, &v6)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Whatever comes: every address that leaves is granted or open already, none of them is one that must not be opened, nothing is
    /// granted that doesn't leave, and a signed set leaves whole or not at all where DO is set.
    #[test]
    fn what_leaves_is_what_is_granted(
        asked in proptest::sample::select(vec!["w.test", "x.test", "w.corp.test"]),
        qtype in proptest::sample::select(vec![rtype::A, rtype::AAAA, rtype::HTTPS]),
        records in proptest::collection::vec(any_record(), 0..8),
        dnssec_ok in any::<bool>(),
    ) {
        let mut case = Case::new(asked, qtype, &records);
        case.dnssec_ok = dnssec_ok;
        let Judged::Answer(answer) = case.judge() else { return Ok(()) };
        let mut leaving = HashSet::new();
        let mut signed = false;
        for kept in &answer.keep {
            let Kept::Record(index) = kept else { continue };
            match &records[*index].data {
                RecordData::A(address) => { leaving.insert(IpAddr::V4(*address)); }
                RecordData::Aaaa(address) => { leaving.insert(IpAddr::V6(*address)); }
                RecordData::Svcb { ipv4hint, ipv6hint, mandatory, .. } => {
                    let edit = answer.hints.iter().find(|edit| edit.record == *index);
                    let (v4, v6) = edit.map_or((ipv4hint, ipv6hint), |edit| (&edit.ipv4hint, &edit.ipv6hint));
                    leaving.extend(v4.iter().copied().map(IpAddr::V4).chain(v6.iter().copied().map(IpAddr::V6)));
                    for (key, before, after) in [(4u16, ipv4hint.len(), v4.len()), (6, ipv6hint.len(), v6.len())] {
                        prop_assert!(!(mandatory.contains(&key) && before > 0 && after == 0));
                    }
                }
                RecordData::Rrsig { covered } => signed |= *covered == qtype,
                _ => {}
            }
        }
        let cleared: HashSet<IpAddr> =
            answer.grants.iter().map(|grant| grant.address).chain(answer.already_open.iter().copied()).collect();
        prop_assert_eq!(&leaving, &cleared);
        prop_assert_eq!(answer.grants.len() + answer.already_open.len(), cleared.len(), "each once");
        let corp = asked.ends_with("corp.test") && answer.chain.iter().all(|name| name.to_string().ends_with("corp.test"));
        for grant in &answer.grants {
            let text = grant.address.to_string();
            prop_assert!(["20.8.8.8", "20.8.4.4", "2606:4700::1"].contains(&text.as_str()) || (corp && text == "10.0.0.1"));
        }
        prop_assert!(!signed || answer.removed.is_empty(), "a signature over a set that was changed");
        if dnssec_ok && !answer.removed.is_empty() {
            let end = answer.chain.last().cloned().unwrap_or_else(|| name(asked));
            let covered = |record: &Record| {
                record.owner == end && record.data == (RecordData::Rrsig { covered: qtype })
            };
            prop_assert!(!records.iter().any(covered), "a signed set in part");
        }
    }
}
