//! Path attributes of an UPDATE: context, then the list; with and without routes and the mandatory attributes.
#![no_main]

use destguard_fuzz::{check, context, framed};

const MANDATORY: &[u8] = &[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 1];
const ROUTE: &[u8] = &[32, 203, 0, 113, 1];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [bits, list @ ..] = input else { return };
    for (mandatory, route) in [(MANDATORY, ROUTE), (&[], ROUTE), (&[], &[])] {
        let Ok(length) = u16::try_from(mandatory.len() + list.len()) else { return };
        let body = [&[0, 0], &length.to_be_bytes()[..], mandatory, list, route].concat();
        if let Some(octets) = framed(2, &body) {
            check(&octets, &context(*bits));
        }
    }
});
