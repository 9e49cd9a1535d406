//! What upstreams send: it is refused, or becomes a reply that can be read again and bears just the addresses that are to be opened.
#![no_main]

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use destguard::config::Config;
use destguard::core::address::AddressFilter;
use destguard::core::answer::RecordData;
use destguard::core::client::Claim;
use destguard::core::local_names::LocalNames;
use destguard::core::name::Name;
use destguard::core::policy::Policy;
use destguard::dns::Rules;
use destguard::dns::codec::response::read;
use destguard::dns::resolver::draft::{Kind, draft};
use destguard::dns::upstream::query::Query;

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let config = Config::default();
    let policy = Policy::new(&config).expect("the defaults are fine");
    let filter = AddressFilter::new(&config, &[]).expect("the defaults are fine");
    Rules::new(policy, filter, LocalNames::new(&config), &config.lease)
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, message @ ..] = input else { return };
    let name = Name::from_wire(b"\x01a\x04test\x00").expect("a name");
    let qtype = [1u16, 28, 65, 5, 15, 64, 255, 46][usize::from(choice & 7)];
    let query =
        Query { name, qtype, dnssec_ok: choice & 8 != 0, checking_disabled: false, plain: false, whose: Claim::NOBODY };
    let draft = draft(&query, message, &RULES, 0.into());
    if !matches!(draft.kind, Kind::Answer) {
        assert!(draft.again.is_none(), "a refusal opens nothing");
        return;
    }
    let reply = read(&draft.body.octets).expect("what goes out can be read");
    for at in &draft.body.ttls {
        assert!(usize::from(*at) + 4 <= draft.body.octets.len());
    }
    let opened: HashSet<IpAddr> =
        draft.again.iter().flat_map(|again| again.grants.iter().map(|grant| grant.address)).collect();
    let mut shown: HashSet<IpAddr> = HashSet::new();
    for record in &reply.answers {
        match &record.data {
            RecordData::A(address) => drop(shown.insert(IpAddr::V4(*address))),
            RecordData::Aaaa(address) => drop(shown.insert(IpAddr::V6(*address))),
            RecordData::Svcb { ipv4hint, ipv6hint, .. } => {
                shown.extend(ipv4hint.iter().copied().map(IpAddr::V4));
                shown.extend(ipv6hint.iter().copied().map(IpAddr::V6));
            }
            _ => {}
        }
    }
    assert_eq!(shown, opened, "what a client may use is what is opened");
});
