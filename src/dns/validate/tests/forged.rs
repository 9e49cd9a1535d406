//! What attackers make of it.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// Each change of what the upstream says of the question itself, or of the chain, and what comes of it.
#[tokio::test]
async fn what_was_changed_is_bogus_and_says_why() {
    type Change = fn(&Query, &mut Reply);
    let cases: Vec<(&str, &str, u16, Change, Seen)> = vec![
        (
            "another address",
            "www.nsec.test",
            1,
            |_, r| {
                r.answer.iter_mut().for_each(|rr| {
                    if rr.kind == 1 {
                        rr.rdata[3] ^= 64
                    }
                })
            },
            Bogus(6),
        ),
        (
            "one more address",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    let mut more = r.answer[0].clone();
                    more.rdata[3] = 77;
                    r.answer.push(more)
                }
            },
            Bogus(6),
        ),
        (
            "one address less",
            "www.nsec3.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    r.answer.remove(0);
                }
            },
            Bogus(6),
        ),
        (
            "a broken signature",
            "www.nsec.test",
            1,
            |_, r| r.signatures(1).for_each(|rr| *rr.rdata.last_mut().unwrap() ^= 1),
            Bogus(6),
        ),
        (
            "no signatures",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    r.strip_signatures()
                }
            },
            Bogus(10),
        ),
        ("no signatures at all", "www.nsec.test", 1, |_, r| r.strip_signatures(), Bogus(10)),
        (
            "an unsigned address for a name that isn't",
            "none.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    *r = Reply {
                        answer: vec![Rr { owner: q.name.clone(), kind: 1, ttl: 9, rdata: vec![192, 0, 2, 66] }],
                        ..Reply::default()
                    }
                }
            },
            Bogus(10),
        ),
        (
            "a signature by the zone above",
            "www.nsec.test",
            1,
            |_, r| {
                r.signatures(1).for_each(|rr| {
                    rr.rdata.splice(18..29, *b"\x04test\x00");
                })
            },
            Bogus(9),
        ),
        (
            "a signature by the name itself",
            "www.nsec.test",
            1,
            |_, r| {
                r.signatures(1).for_each(|rr| {
                    rr.rdata.splice(18..18, *b"\x03www");
                })
            },
            Bogus(10),
        ),
        (
            "a forged alias",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    r.answer.insert(
                        0,
                        Rr { owner: q.name.clone(), kind: 5, ttl: 9, rdata: b"\x03www\x05plain\x04test\x00".to_vec() },
                    );
                    r.answer.truncate(1);
                    r.answer.push(Rr { owner: name("www.plain.test"), kind: 1, ttl: 9, rdata: vec![192, 0, 2, 1] })
                }
            },
            Bogus(10),
        ),
        (
            "a forged DNAME",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    *r = Reply {
                        answer: vec![
                            Rr { owner: name("nsec.test"), kind: 39, ttl: 9, rdata: b"\x05plain\x04test\x00".to_vec() },
                            Rr {
                                owner: q.name.clone(),
                                kind: 5,
                                ttl: 9,
                                rdata: b"\x03www\x05plain\x04test\x00".to_vec(),
                            },
                            Rr { owner: name("www.plain.test"), kind: 1, ttl: 9, rdata: vec![192, 0, 2, 1] },
                        ],
                        ..Reply::default()
                    }
                }
            },
            Bogus(10),
        ),
        (
            "an alias into changed data",
            "in.nsec3.test",
            1,
            |_, r| {
                r.answer.iter_mut().for_each(|rr| {
                    if rr.kind == 1 {
                        rr.rdata[3] ^= 64
                    }
                })
            },
            Bogus(6),
        ),
        (
            "an alias from an unsigned zone into changed data",
            "in.plain.test",
            1,
            |_, r| {
                r.answer.iter_mut().for_each(|rr| {
                    if rr.kind == 1 {
                        rr.rdata[3] ^= 64
                    }
                })
            },
            Bogus(6),
        ),
        (
            "a forged NXDOMAIN",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    *r = Reply { rcode: 3, ..Reply::default() }
                }
            },
            Bogus(12),
        ),
        (
            "a forged NODATA",
            "www.nsec3.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    *r = Reply::default()
                }
            },
            Bogus(12),
        ),
        (
            "an address beside the proof that there is none",
            "text.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    r.rcode = 3;
                    r.answer.push(Rr { owner: q.name.clone(), kind: 1, ttl: 9, rdata: vec![192, 0, 2, 66] });
                }
            },
            Secure(0, vec![]),
        ),
        (
            "an absence without its proof",
            "none.nsec3.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    r.authority.retain(|rr| rr.kind == 6)
                }
            },
            Bogus(12),
        ),
        (
            "an absence without its wildcard's",
            "none.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    let star = r.authority.iter().position(|rr| rr.kind == 47).unwrap();
                    r.authority.drain(star..star + 2);
                }
            },
            Bogus(6),
        ),
        (
            "a wildcard without proof",
            "a.wild.nsec.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    r.authority.clear()
                }
            },
            Bogus(12),
        ),
        (
            "a wildcard without proof, hashed",
            "a.wild.nsec3.test",
            1,
            |q, r| {
                if q.qtype == 1 {
                    r.authority.clear()
                }
            },
            Bogus(12),
        ),
        (
            "another DS",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 43 && q.name == name("nsec.test") {
                    r.answer[0].rdata[9] ^= 1
                }
            },
            Bogus(6),
        ),
        (
            "a DS without signature",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 43 && q.name == name("nsec.test") {
                    r.strip_signatures()
                }
            },
            Bogus(10),
        ),
        (
            "no DS, no proof",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 43 && q.name == name("nsec.test") {
                    *r = Reply::default()
                }
            },
            Bogus(12),
        ),
        (
            "other keys",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 48 && q.name == name("nsec.test") {
                    r.answer[0].rdata[9] ^= 1
                }
            },
            Bogus(9),
        ),
        (
            "no keys",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 48 && q.name == name("nsec.test") {
                    r.answer.clear()
                }
            },
            Bogus(9),
        ),
        (
            "another root",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 48 && q.name == Name::root() {
                    r.answer[0].rdata[9] ^= 1
                }
            },
            Bogus(9),
        ),
        (
            "keys that didn't sign themselves",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 48 && q.name == name("nsec.test") {
                    let mut more = r.answer[0].clone();
                    more.rdata[9] ^= 1;
                    r.answer.push(more)
                }
            },
            Bogus(6),
        ),
        (
            "a stripped unsigned delegation",
            "www.plain.test",
            1,
            |q, r| {
                if q.qtype == 43 && q.name == name("plain.test") {
                    r.authority.clear()
                }
            },
            Bogus(12),
        ),
        (
            "no answer for the chain",
            "www.nsec.test",
            1,
            |q, r| {
                if q.qtype == 43 {
                    r.rcode = 2
                }
            },
            Unreached,
        ),
    ];
    for (what, text, qtype, change, expected) in cases {
        let mut internet = internet();
        internet.tamper = Box::new(change);
        assert_eq!(fresh(&internet, text, qtype).await, expected, "{what}");
    }
}

/// The names of a proof must come from the right side of a zone cut (RFC 6840 section 4).
#[tokio::test]
async fn the_zone_above_denies_nothing_below_a_cut() {
    let mut net = internet();
    let proof = net.reply(&ask("plain.test", rtype::DS)).authority;
    // "plain.test has no address", "www.plain.test doesn't exist", by the record that only says that it has no DS: true of an unsigned zone, so
    // that it passes as unsigned data, but never as secure.
    let forged = proof.clone();
    net.tamper = Box::new(move |query, reply| {
        if query.qtype == 1 {
            *reply = Reply { rcode: 0, answer: vec![], authority: forged.clone() };
        }
    });
    assert_eq!(fresh(&net, "plain.test", 1).await, Insecure(0, vec![]));
    // The same of a signed zone: its delegation says nothing of its addresses.
    for denial in [NSEC, NSEC3] {
        let mut net = internet();
        let mut child = Zone::new("sub.nsec.test", denial);
        child.address("sub.nsec.test", 7);
        child.address("www.sub.nsec.test", 8);
        net.zone("nsec.test").delegate(&child);
        net.zones.push(child);
        assert_eq!(fresh(&net, "www.sub.nsec.test", 1).await, Secure(0, vec![8]));
        // What the zone above has at the cut, as if asked for something that neither has.
        let above = net.zone("nsec.test");
        let (at, types) = (name("sub.nsec.test"), [0, 6, 0x20, 0, 0, 0, 0, 0x13]);
        let rdata = [name("zzz.nsec.test").wire(), &types].concat();
        let forged = above.signed(&at, &at, rtype::NSEC, &[rdata]);
        for (text, rcode) in [("sub.nsec.test", 0), ("www.sub.nsec.test", 3)] {
            let forged = forged.clone();
            net.tamper = Box::new(move |query, reply| {
                if query.qtype == 1 {
                    *reply = Reply { rcode, answer: vec![], authority: forged.clone() };
                }
            });
            assert!(matches!(fresh(&net, text, 1).await, Bogus(_)), "{text}");
        }
    }
}

/// Every answer that these zones give, by question.
const QUESTIONS: &[(&str, u16)] = &[
    ("www.nsec.test", 1),
    ("none.nsec.test", 1),
    ("a.wild.nsec3.test", 1),
    ("none.nsec3.test", 1),
    ("in.nsec3.test", 1),
    ("www.tree.nsec.test", 1),
    ("empty.nsec3.test", 1),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever bit is turned in whichever message on the way: nothing false ever becomes true, and a signed zone doesn't become an unsigned one.
    #[test]
    fn a_turned_bit_never_makes_another_truth(
        which in 0..QUESTIONS.len(),
        message in 0usize..8,
        place in 0.0f64..1.0,
        bit in 0u8..8,
    ) {
        struct Noisy<'a>(&'a Internet, std::sync::atomic::AtomicUsize, usize, f64, u8);
        impl Source for Noisy<'_> {
            fn choices(&self) -> usize {
                1
            }

            async fn ask(&self, query: &Query, whom: Pick) -> Result<Vec<u8>, AskError> {
                let mut message = self.0.ask(query, whom).await?;
                if self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == self.2 {
                    // The question was compared with what was asked.
                    let start = 12 + query.question().len();
                    let at = start + ((message.len() - start) as f64 * self.3) as usize;
                    message[at] ^= 1 << self.4;
                }
                Ok(message)
            }
        }
        thread_local!(static NET: Internet = internet());
        NET.with(|net| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let (text, qtype) = QUESTIONS[which];
            let truth = runtime.block_on(fresh(net, text, qtype));
            prop_assert!(matches!(truth, Secure(..)));
            let noisy = Noisy(net, Default::default(), message, place, bit);
            let validator = validator(net);
            let got = runtime.block_on(async { validator.ask(&noisy, &ask(text, qtype)).await });
            match got {
                Ok(Checked::Response(response)) => {
                    let mut last: Vec<IpAddr> = Vec::new();
                    for record in &response.answers {
                        if let RecordData::A(ip) = record.data {
                            last.push(ip.into());
                        }
                    }
                    // What the question doesn't reach may be anything: it is never passed on.
                    let question = crate::core::answer::Question { name: name(text), qtype, qclass: 1 };
                    let bound = if response.rcode == 0 { crate::core::answer::bind(&question, &response.answers) } else { crate::core::answer::bind_aliases(&question, &response.answers) };
                    let Ok(bound) = bound else { return Ok(()) };
                    let mut reached: Vec<u8> = bound.addresses.iter().map(|bound| match bound.address { IpAddr::V4(ip) => ip.octets()[3], IpAddr::V6(_) => 0 }).collect();
                    reached.sort_unstable();
                    prop_assert!(response.authentic, "{text}: unsigned");
                    prop_assert_eq!(Secure(response.rcode, reached), truth);
                }
                Ok(Checked::Refused(..) | Checked::Malformed) | Err(_) => {}
            }
            Ok(())
        })?;
    }
}
