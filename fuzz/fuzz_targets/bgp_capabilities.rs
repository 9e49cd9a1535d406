//! Capability lists: read, written, read again; and what two of them agree on.
#![no_main]

use bytes::BytesMut;
use destguard_bgp::wire::capability::{decode_capabilities, negotiate};
use destguard_bgp::wire::message::Open;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut first = vec![];
    let complete = decode_capabilities(input, &mut first).is_ok();
    let mut written = BytesMut::new();
    for capability in &first {
        capability.encode(&mut written).expect("it came from the wire");
    }
    assert!(written.len() <= input.len() + first.len());
    let mut second = vec![];
    decode_capabilities(&written, &mut second).expect("what was written is read");
    assert_eq!(first, second);
    if complete {
        let open = |asn, capabilities| Open { asn, hold_time: 90, identifier: [192, 0, 2, 1].into(), capabilities };
        let middle = first.len() / 2;
        let theirs = first.split_off(middle);
        let (ours, theirs) = (open(64512, first), open(64513, theirs));
        let (one, two) = (negotiate(&ours, &theirs), negotiate(&theirs, &ours));
        assert_eq!(one.as_ref().map(|it| it.families), two.as_ref().map(|it| it.families));
    }
});
