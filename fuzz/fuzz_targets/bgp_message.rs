//! One message of any type: context, type, body. The header is put before it, so that no run is lost on lengths.
#![no_main]

use destguard_fuzz::{check, context, framed};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [bits, kind, body @ ..] = input else { return };
    if let Some(octets) = framed(kind % 6, body) {
        check(&octets, &context(*bits));
    }
});
