//! What clients send: whatever it is, it has a defined reply, within the client's limit, that is not itself a question.
#![no_main]

use destguard::core::name::Name;
use destguard::dns::codec::query::{Parsed, parse};
use destguard::dns::codec::reply::{self, ReplyHead, udp_limit};
use destguard::dns::codec::wire::HEADER;

libfuzzer_sys::fuzz_target!(|packet: &[u8]| {
    let mut out = Vec::new();
    let limit = match parse(packet) {
        Parsed::Drop => return,
        Parsed::Reject(reject) => {
            let limit = udp_limit(reject.edns);
            let head =
                ReplyHead { id: reject.id, flags: reject.flags, octets: reject.octets, edns: reject.edns, limit };
            if reject.rcode == 0 {
                reply::any(&head, &mut out);
            } else {
                reply::error(reject.rcode, &head, None, &mut out);
            }
            limit
        }
        Parsed::Question(question) => {
            let name = Name::from_wire(question.name.wire()).expect("a name that was read is a name");
            assert_eq!(name.wire(), question.name.wire());
            assert!(packet[HEADER..].starts_with(question.octets));
            assert!(question.octets[..question.octets.len() - 4].eq_ignore_ascii_case(name.wire()));
            let limit = udp_limit(question.edns);
            let (id, flags, octets, edns) = (question.id, question.flags, question.octets, question.edns);
            let head = ReplyHead { id, flags, octets, edns, limit };
            let body = reply::own_negative(&name, question.qtype, 3);
            reply::render(&body.octets, body.ttls.iter().copied(), 7, &head, None, &mut out);
            assert_eq!(&out[HEADER..HEADER + octets.len()], octets);
            limit
        }
    };
    assert!(out.len() >= HEADER && out.len() <= limit, "{} octets of {limit}", out.len());
    assert_eq!(out[..2], packet[..2]);
    assert!(matches!(parse(&out), Parsed::Drop), "a reply that would be answered");
});
