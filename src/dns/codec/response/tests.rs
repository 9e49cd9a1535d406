use proptest::prelude::*;

use super::*;
use crate::dns::tests::harness::{a, cname, query, response, rr, soa, wire};

#[test]
fn names_in_rdata_are_decompressed() {
    let question = query(1, "mail.example", 15, None);
    // MX 10, "mx" and a pointer to "example" in the question; NAPTR, SRV and SOA with pointers to the whole.
    let pointer = [0xc0, 12];
    let mx = rr("mail.example", 15, 60, &[&[0, 10, 2, b'm', b'x', 0xc0, 17][..]].concat());
    let srv = rr("mail.example", 33, 60, &[&[0, 1, 0, 2, 0, 80][..], &pointer].concat());
    let naptr = rr("mail.example", 35, 60, &[&[0, 1, 0, 2, 1, b'u', 0, 2, b'x', b'y'][..], &pointer].concat());
    let soa = rr("mail.example", 6, 60, &[&pointer[..], &pointer, &[9; 20]].concat());
    let read = read(&response(&question, 0, &[mx, srv, naptr, soa])).unwrap();
    let whole = wire("mail.example");
    assert_eq!(*read.rdata[0], *[&[0, 10][..], &wire("mx.example")].concat());
    assert_eq!(*read.rdata[1], *[&[0, 1, 0, 2, 0, 80][..], &whole].concat());
    assert_eq!(*read.rdata[2], *[&[0, 1, 0, 2, 1, b'u', 0, 2, b'x', b'y'][..], &whole].concat());
    assert_eq!(*read.rdata[3], *[&whole[..], &whole, &[9; 20]].concat());
}

#[test]
fn unknown_types_pass_as_they_are() {
    let data = [0xc0, 12, 1, 2, 3];
    let read = read(&response(&query(1, "a.example", 65_280, None), 0, &[rr("a.example", 65_280, 60, &data)])).unwrap();
    assert_eq!((&*read.rdata[0], &read.answers[0].data), (&data[..], &RecordData::Other));
}

#[test]
fn a_service_is_understood() {
    let mut rdata = vec![0, 1, 1, b's', 0];
    rdata.extend_from_slice(&[0, 0, 0, 2, 0, 4]);
    rdata.extend_from_slice(&[0, 4, 0, 8, 192, 0, 2, 1, 192, 0, 2, 2]);
    rdata.extend_from_slice(&[0, 6, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    rdata.extend_from_slice(&[0xff, 0, 0, 1, 9]);
    let expected = RecordData::Svcb {
        priority: 1,
        target: "s".parse().unwrap(),
        mandatory: vec![4],
        ipv4hint: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        ipv6hint: vec!["2001:db8::1".parse().unwrap()],
    };
    assert_eq!(understand(65, &rdata), expected);
    for cut in 0..rdata.len() {
        if ![5, 11, 23, 43].contains(&cut) {
            assert_eq!(understand(65, &rdata[..cut]), RecordData::Other, "cut at {cut}");
        }
    }
}

#[test]
fn of_authority_only_what_proves_absence_is_taken() {
    let ns = crate::dns::tests::harness::Rr { section: 1, ..rr("example", 2, 60, &wire("ns.example")) };
    let read = read(&response(&query(1, "a.example", 1, None), 3, &[soa("example", 60, 60), ns])).unwrap();
    assert_eq!((read.rcode, read.authority.len(), read.authority[0].rtype), (3, 1, 6));
}

#[test]
fn extended_codes_are_put_together() {
    let mut message = response(&query(1, "a.example", 1, None), 0, &[]);
    message[11] = 1;
    message.extend_from_slice(&[0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]);
    assert_eq!(read(&message).unwrap().rcode, 16);
}

#[test]
fn a_question_that_ends_behind_the_message_is_malformed() {
    let message = [0, 1, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0];
    assert!(read(&message).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_message_panics(message in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(read(&message));
    }

    #[test]
    fn no_damage_to_a_message_panics(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let records = [cname("a.example", 60, "b.example"), a("b.example", 60, "192.0.2.1"), soa("example", 60, 60)];
        let mut message = response(&query(1, "a.example", 1, None), 0, &records);
        let at = at.index(message.len());
        message[at] = to;
        drop(read(&message));
        message.truncate(cut.index(message.len()));
        drop(read(&message));
    }
}
