//! A stream of raw octets as a peer may send it: cut into messages, each read.
#![no_main]

use destguard_bgp::wire::message::frame;
use destguard_fuzz::{check, context};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [bits, rest @ ..] = input else { return };
    let context = context(*bits);
    let mut rest = rest;
    while let Ok(Some(length)) = frame(rest, &context) {
        assert!((19..=context.limit()).contains(&length));
        let Some((octets, next)) = rest.split_at_checked(length) else { break };
        check(octets, &context);
        rest = next;
    }
});
