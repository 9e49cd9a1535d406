use proptest::prelude::*;

use super::*;
use crate::dns::codec::wire::{TCP_KEEPALIVE, bears_option};

fn question(name: &[u8], qtype: u16) -> Vec<u8> {
    let mut out = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    out.extend_from_slice(name);
    out.extend_from_slice(&qtype.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

#[test]
fn the_longest_name_passes_and_one_octet_more_does_not() {
    let mut name = Vec::new();
    for len in [63u8, 63, 63, 61] {
        name.push(len);
        name.extend(std::iter::repeat_n(b'A', usize::from(len)));
    }
    name.push(0);
    assert_eq!(name.len(), 255);
    let packet = question(&name, 1);
    let Parsed::Question(read) = parse(&packet) else { panic!("255 octets are allowed") };
    assert_eq!(read.name.wire(), name.to_ascii_lowercase());
    name[192] = 62;
    name.insert(193, b'a');
    assert!(matches!(parse(&question(&name, 1)), Parsed::Reject(Reject { rcode: rcode::FORMERR, .. })));
}

#[test]
fn the_root_is_a_name() {
    let packet = question(&[0], 2);
    let Parsed::Question(read) = parse(&packet) else { panic!() };
    assert_eq!((read.name.wire(), read.octets, read.qtype), (&[0][..], &packet[12..], 2));
}

#[test]
fn skipping_a_name_stops_at_a_pointer_and_at_the_end() {
    assert_eq!(skip_name(&[1, b'a', 0], 0), Some(3));
    assert_eq!(skip_name(&[1, b'a', 0xc0, 0], 0), Some(4));
    assert_eq!(skip_name(&[1, b'a', 0xc0], 0), None);
    assert_eq!(skip_name(&[1, b'a'], 0), None);
    assert_eq!(skip_name(&[0x80, 0], 0), None);
    assert_eq!(skip_name(&[], usize::MAX), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        match parse(&packet) {
            Parsed::Drop => prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
            Parsed::Reject(reject) => prop_assert_eq!(reject.id.to_be_bytes(), [packet[0], packet[1]]),
            Parsed::Question(question) => prop_assert_eq!(question.octets.len(), question.name.wire().len() + 4),
        }
    }

    #[test]
    fn a_question_with_anything_behind_it_does_not_panic(
        counts in any::<[u8; 6]>(),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut packet = question(b"\x04name\x00", 1);
        packet[6..12].copy_from_slice(&counts);
        packet.extend_from_slice(&rest);
        prop_assert!(!matches!(parse(&packet), Parsed::Drop));
    }
}

#[test]
fn an_option_is_found_wherever_it_stands_and_nowhere_else() {
    let mut message = question(b"\x01a\0", 1);
    assert!(!bears_option(&message, TCP_KEEPALIVE));
    // A record of ADDITIONAL before OPT, and an option before the option.
    message[11] = 2;
    message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x09\0\x04\0\x0b\0\0");
    message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x0a\0\x0c\0\x02\0\x0b\0\x0b\0\0");
    assert!(bears_option(&message, TCP_KEEPALIVE) && bears_option(&message, 12));
    assert!(!bears_option(&message, 10));
    for len in 0..message.len() - 4 {
        assert!(!bears_option(&message[..len], TCP_KEEPALIVE));
    }
}
