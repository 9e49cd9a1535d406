//! Records of a few names in any order: what is bound is bound again to the same, and every address stands in a kept record at the end
//! of the chain.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use destguard::core::answer::{Kept, Question, Record, RecordData, bind};
use destguard::core::name::Name;

fn name(octet: u8) -> Name {
    let wires: [&[u8]; 8] = [
        b"\x01a\x04test\x00",
        b"\x01b\x04test\x00",
        b"\x01c\x04test\x00",
        b"\x01d\x01a\x04test\x00",
        b"\x01d\x01b\x04test\x00",
        b"\x04test\x00",
        b"\x01x\x01a\x04test\x00",
        b"\x00",
    ];
    Name::from_wire(wires[usize::from(octet & 7)]).expect("a name")
}

fn record(octets: &[u8; 4]) -> Record {
    let [kind, owner, value, ttl] = *octets;
    let (rtype, data) = match kind & 7 {
        0 | 6 => (1, RecordData::A(Ipv4Addr::new(192, 0, 2, value))),
        1 => (28, RecordData::Aaaa(Ipv6Addr::from(u128::from(value)))),
        2 => (5, RecordData::Cname(name(value))),
        3 => (39, RecordData::Dname(name(value))),
        4 => (46, RecordData::Rrsig { covered: [1, 28, 5, 39][usize::from(value & 3)] }),
        5 => {
            let (ipv4hint, ipv6hint) = (vec![Ipv4Addr::new(198, 51, 100, value)], Vec::new());
            let data = RecordData::Svcb {
                priority: u16::from(value & 3),
                target: name(value),
                mandatory: vec![],
                ipv4hint,
                ipv6hint,
            };
            (65, data)
        }
        _ => (16, RecordData::Other),
    };
    let ttl = if ttl == 255 { u32::MAX } else { u32::from(ttl) };
    Record { owner: name(owner), rtype, class: if kind & 0xf8 == 0xf8 { 3 } else { 1 }, ttl, data }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, rest @ ..] = input else { return };
    let records: Vec<Record> = rest.as_chunks::<4>().0.iter().take(64).map(record).collect();
    let qtype = [1u16, 28, 65, 5, 16, 39, 46, 255][usize::from(choice & 7)];
    let question = Question { name: name(choice >> 3), qtype, qclass: 1 };
    let Ok(bound) = bind(&question, &records) else { return };
    let kept: Vec<usize> =
        bound.keep.iter().filter_map(|kept| if let Kept::Record(at) = kept { Some(*at) } else { None }).collect();
    assert!(kept.len() + bound.dropped + bound.duplicates <= records.len());
    assert_eq!(bound.chain.last().unwrap_or(&question.name), &bound.terminal);
    for found in &bound.addresses {
        assert!(kept.contains(&found.record), "an address out of a record that isn't kept");
        let fits = match &records[found.record].data {
            RecordData::A(address) => found.address == IpAddr::V4(*address) && qtype == 1,
            RecordData::Aaaa(address) => found.address == IpAddr::V6(*address) && qtype == 28,
            RecordData::Svcb { ipv4hint, .. } => ipv4hint.iter().any(|hint| found.address == IpAddr::V4(*hint)),
            _ => false,
        };
        assert!(fits, "{found:?}");
        assert!(found.ttl < 1 << 31);
    }
    // What is kept is reached: nothing of it is dropped the second time.
    let again: Vec<Record> = kept.iter().map(|at| records[*at].clone()).collect();
    let second = bind(&question, &again).expect("what was bound can be bound");
    assert_eq!(second.chain, bound.chain);
    assert_eq!(second.dropped, 0);
    let addresses =
        |of: &destguard::core::answer::Bound| -> Vec<_> { of.addresses.iter().map(|a| (a.address, a.ttl)).collect() };
    assert_eq!(addresses(&second), addresses(&bound));
});
