//! The validator before a small Internet in memory, as it is and as attackers change it.

pub(in crate::dns) mod zones;

use std::net::IpAddr;

use proptest::prelude::*;

use self::zones::*;
use super::*;
use crate::core::answer::RecordData;
use crate::core::name::Name;
use crate::dns::wire::rtype;

const NSEC: Option<Denial> = Some(Denial::Nsec);
const NSEC3: Option<Denial> = Some(Denial::Nsec3 { iterations: 5, opt_out: false });
const OPT_OUT: Option<Denial> = Some(Denial::Nsec3 { iterations: 0, opt_out: true });

/// The root, "test" (NSEC3), below it a zone with NSEC, one with NSEC3, one with opt-out, one unsigned.
fn internet() -> Internet {
    let mut root = Zone::new(".", NSEC);
    let mut test = Zone::new("test", NSEC3);
    let mut zones = Vec::new();
    for (text, denial) in [("nsec.test", NSEC), ("nsec3.test", NSEC3), ("out.test", OPT_OUT), ("plain.test", None)] {
        let mut zone = Zone::new(text, denial);
        let at = |label: &str| format!("{label}.{text}");
        zone.address(&at("www"), 1);
        zone.address(&at("www"), 2);
        zone.address(&at("deep.empty"), 3);
        zone.address(&at("*.wild"), 4);
        zone.alias(&at("*.wildalias"), "www.nsec.test");
        zone.alias(&at("alias"), &at("www"));
        zone.alias(&at("out"), "www.plain.test");
        zone.alias(&at("in"), "www.nsec.test");
        zone.alias(&at("nowhere"), "none.nsec.test");
        zone.add(&at("tree"), rtype::DNAME, name("nsec.test").wire());
        zone.add(&at("mail"), 15, b"\x00\x0a\x04WWW2\x04Test\x00");
        zone.add(&at("text"), TXT, b"\x05hello");
        test.delegate(&zone);
        zones.push(zone);
    }
    // An unsigned zone in a span of opt-out.
    let mut loose = Zone::new("loose.out.test", None);
    loose.address("www.loose.out.test", 9);
    zones.iter_mut().find(|zone| zone.name == name("out.test")).unwrap().delegate(&loose);
    zones.push(loose);
    root.delegate(&test);
    zones.extend([root, test]);
    Internet::new(zones)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Trusts the Internet's root.
fn validator(internet: &Internet) -> Validator {
    let root = internet.zones.iter().find(|zone| zone.name == Name::root()).unwrap().ds();
    let anchor =
        format!(". IN DS {} {} {} {}", u16::from_be_bytes([root[0], root[1]]), root[2], root[3], hex(&root[4..]));
    with(&anchor, &[])
}

fn with(anchor: &str, insecure: &[&str]) -> Validator {
    let dnssec = Dnssec {
        validate: true,
        trust_anchor: Some(anchor.to_owned()),
        insecure: insecure.iter().map(ToString::to_string).collect(),
    };
    let metrics = Metrics::register(&mut crate::metrics::registry());
    let mut validator = Validator::new(&dnssec, &metrics).unwrap().unwrap();
    validator.clock = || NOW;
    validator
}

/// What a test looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Response code, last octets of the addresses.
    Secure(u16, Vec<u8>),
    Insecure(u16, Vec<u8>),
    /// EDE.
    Bogus(u16),
    Unreached,
    Malformed,
}
use Seen::*;

fn ask(text: &str, qtype: u16) -> Query {
    Query { name: name(text), qtype, dnssec_ok: false, checking_disabled: false, plain: false }
}

async fn look(validator: &Validator, internet: &Internet, text: &str, qtype: u16) -> Seen {
    match validator.ask(internet, &ask(text, qtype)).await {
        Ok(Checked::Response(response)) => {
            let mut last: Vec<u8> = response
                .answers
                .iter()
                .filter_map(|record| match record.data {
                    RecordData::A(ip) => Some(ip.octets()[3]),
                    _ => None,
                })
                .collect();
            last.sort_unstable();
            if response.authentic { Secure(response.rcode, last) } else { Insecure(response.rcode, last) }
        }
        Ok(Checked::Refused("bogus", ede)) => Bogus(ede.code),
        Ok(Checked::Malformed) => Malformed,
        other => {
            assert!(matches!(other, Err(_) | Ok(Checked::Refused("dnssec", _))), "{other:?}");
            Unreached
        }
    }
}

async fn fresh(internet: &Internet, text: &str, qtype: u16) -> Seen {
    look(&validator(internet), internet, text, qtype).await
}

#[tokio::test]
async fn what_is_signed_is_secure_in_every_shape() {
    let internet = internet();
    for zone in ["nsec.test", "nsec3.test", "out.test"] {
        // Names that don't exist in a zone with opt-out might be unsigned delegations (RFC 5155 section 9.2).
        let absent = |code: u16| if zone == "out.test" { Insecure(code, vec![]) } else { Secure(code, vec![]) };
        let wild = |last: Vec<u8>| if zone == "out.test" { Insecure(0, last) } else { Secure(0, last) };
        for (text, qtype, expected) in [
            (format!("www.{zone}"), 1, Secure(0, vec![1, 2])),
            (format!("www.{zone}"), 28, Secure(0, vec![])),
            (format!("alias.{zone}"), 1, Secure(0, vec![1, 2])),
            (format!("alias.{zone}"), 5, Secure(0, vec![])),
            (format!("in.{zone}"), 1, Secure(0, vec![1, 2])),
            (format!("in.{zone}"), 28, Secure(0, vec![])),
            (format!("nowhere.{zone}"), 1, Secure(3, vec![])),
            (format!("www.tree.{zone}"), 1, Secure(0, vec![1, 2])),
            (format!("none.tree.{zone}"), 1, Secure(3, vec![])),
            (format!("mail.{zone}"), 15, Secure(0, vec![])),
            (format!("deep.empty.{zone}"), 1, Secure(0, vec![3])),
            (format!("empty.{zone}"), 1, Secure(0, vec![])),
            (format!("a.wild.{zone}"), 1, wild(vec![4])),
            (format!("b.a.wild.{zone}"), 1, wild(vec![4])),
            (format!("a.wild.{zone}"), 28, absent(0)),
            (format!("a.wildalias.{zone}"), 1, wild(vec![1, 2])),
            (format!("none.{zone}"), 1, absent(3)),
            (format!("a.b.c.none.{zone}"), 1, absent(3)),
            (zone.to_owned(), rtype::DNSKEY, Secure(0, vec![])),
            (zone.to_owned(), rtype::DS, Secure(0, vec![])),
            (format!("www.{zone}"), rtype::DS, Secure(0, vec![])),
            ("none".to_owned(), 1, Secure(3, vec![])),
            ("plain.test".to_owned(), rtype::DS, Secure(0, vec![])),
        ] {
            assert_eq!(fresh(&internet, &text, qtype).await, expected, "{text} {qtype}");
        }
    }
}

#[tokio::test]
async fn what_is_proved_to_be_unsigned_passes_without_ad() {
    let internet = internet();
    for (text, qtype, expected) in [
        ("www.plain.test", 1, Insecure(0, vec![1, 2])),
        ("none.plain.test", 1, Insecure(3, vec![])),
        ("www.plain.test", 28, Insecure(0, vec![])),
        ("www.tree.plain.test", 1, Insecure(0, vec![1, 2])),
        ("out.nsec.test", 1, Insecure(0, vec![1, 2])),
        ("out.nsec3.test", 1, Insecure(0, vec![1, 2])),
        ("in.plain.test", 1, Insecure(0, vec![1, 2])),
        ("www.loose.out.test", 1, Insecure(0, vec![9])),
        ("none.loose.out.test", 1, Insecure(3, vec![])),
    ] {
        assert_eq!(fresh(&internet, text, qtype).await, expected, "{text} {qtype}");
    }
}

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

#[tokio::test]
async fn the_clock_decides_over_signatures() {
    for (window, code) in [((NOW - 2 * DAY, NOW - 1), 7), ((NOW + 1, NOW + DAY), 8)] {
        let mut internet = internet();
        internet.zone("nsec.test").window = window;
        for text in ["www.nsec.test", "none.nsec.test", "in.nsec3.test"] {
            assert_eq!(fresh(&internet, text, 1).await, Bogus(code), "{text}");
        }
        assert_eq!(fresh(&internet, "www.nsec3.test", 1).await, Secure(0, vec![1, 2]));
    }
    // Both ends count, and RFC 1982 lets the numbers wrap.
    let mut internet = internet();
    internet.zone("nsec.test").window = (NOW, NOW);
    assert_eq!(fresh(&internet, "www.nsec.test", 1).await, Secure(0, vec![1, 2]));
    internet.zone("nsec.test").window = (NOW.wrapping_sub(0x7000_0000), NOW.wrapping_add(0x7fff_0000));
    assert_eq!(fresh(&internet, "www.nsec.test", 1).await, Secure(0, vec![1, 2]));
}

#[tokio::test]
async fn nothing_is_kept_longer_than_its_signature() {
    let mut internet = internet();
    internet.zone("nsec.test").window = (NOW - DAY, NOW + 20);
    let validator = validator(&internet);
    for (text, qtype) in [("www.nsec.test", 1), ("none.nsec.test", 1), ("a.wild.nsec.test", 1)] {
        let Ok(Checked::Response(response)) = validator.ask(&internet, &ask(text, qtype)).await else {
            panic!("{text}")
        };
        let all = response.answers.iter().map(|record| record.ttl);
        let all: Vec<u32> = all.chain(response.authority.iter().map(|record| record.ttl)).collect();
        assert!(!all.is_empty() && all.iter().all(|ttl| *ttl <= 20), "{text}: {all:?}");
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

#[tokio::test]
async fn unknown_algorithms_count_as_unsigned_and_many_hash_rounds_too() {
    let mut root = Zone::new(".", NSEC);
    let mut odd = Zone::new("odd", None);
    odd.address("www.odd", 1);
    root.delegate(&odd);
    // Algorithm 16 (Ed448), and digest type 5.
    root.add("odd", rtype::DS, &[&[0, 1, 16, 2][..], &[7; 32]].concat());
    root.add("odd", rtype::DS, &[&[0, 1, 13, 5][..], &[7; 32]].concat());
    let mut slow = Zone::new("slow", Some(Denial::Nsec3 { iterations: 151, opt_out: false }));
    slow.address("www.slow", 2);
    let mut edge = Zone::new("edge", Some(Denial::Nsec3 { iterations: 150, opt_out: false }));
    edge.address("www.edge", 3);
    root.delegate(&slow);
    root.delegate(&edge);
    let net = Internet::new(vec![root, odd, slow, edge]);
    assert_eq!(fresh(&net, "www.odd", 1).await, Insecure(0, vec![1]));
    assert_eq!(fresh(&net, "www.slow", 1).await, Secure(0, vec![2]), "what exists needs no hashing");
    assert_eq!(fresh(&net, "none.slow", 1).await, Insecure(3, vec![]));
    assert_eq!(fresh(&net, "none.edge", 1).await, Secure(3, vec![]));
    // A forged count of rounds is no way out of being signed.
    let mut net = net;
    net.tamper = Box::new(|_, reply| {
        for rr in reply.authority.iter_mut().filter(|rr| rr.kind == rtype::NSEC3) {
            rr.rdata[2] = 0x7f;
        }
    });
    assert!(matches!(fresh(&net, "none.edge", 1).await, Bogus(_)));
}

#[tokio::test]
async fn anchors_may_stand_anywhere_and_insecure_domains_end_them() {
    let key = |net: &Internet, text: &str| {
        let ds = net.zones.iter().find(|zone| zone.name == name(text)).unwrap().ds();
        format!("{text} IN DS {} {} {} {}\n", u16::from_be_bytes([ds[0], ds[1]]), ds[2], ds[3], hex(&ds[4..]))
    };
    let net = internet();
    // An island: nothing but it is validated.
    let island = with(&key(&net, "nsec3.test"), &[]);
    assert_eq!(look(&island, &net, "www.nsec3.test", 1).await, Secure(0, vec![1, 2]));
    assert_eq!(look(&island, &net, "www.nsec.test", 1).await, Insecure(0, vec![1, 2]));
    assert_eq!(look(&island, &net, "none.test", 1).await, Insecure(3, vec![]));
    // A private zone below a signed root that doesn't know it.
    let mut net = internet();
    let mut corp = Zone::new("corp", None);
    corp.address("www.corp", 5);
    corp.alias("public.corp", "www.nsec.test");
    net.zones.push(corp);
    let root = key(&net, ".");
    assert_eq!(look(&with(&root, &[]), &net, "www.corp", 1).await, Bogus(10));
    let lenient = with(&root, &["corp"]);
    assert_eq!(look(&lenient, &net, "www.corp", 1).await, Insecure(0, vec![5]));
    assert_eq!(look(&lenient, &net, "none.corp", 1).await, Insecure(3, vec![]));
    assert_eq!(look(&lenient, &net, "public.corp", 1).await, Insecure(0, vec![1, 2]));
    // Not further than it says: the alias's end is still validated.
    net.tamper = Box::new(|_, reply| {
        reply.answer.iter_mut().for_each(|rr| {
            if rr.kind == 1 {
                rr.rdata[3] ^= 64
            }
        })
    });
    assert_eq!(look(&with(&root, &["corp"]), &net, "public.corp", 1).await, Bogus(6));
    assert_eq!(look(&with(&root, &["corp"]), &net, "www.corp", 1).await, Insecure(0, vec![5 ^ 64]));
    // A signed private zone: its anchor counts, whatever the root says, and the root has no say in it.
    let mut net = internet();
    let mut own = Zone::new("own", NSEC);
    own.address("www.own", 6);
    net.zones.push(own);
    let both = key(&net, ".") + &key(&net, "own");
    assert_eq!(look(&with(&both, &[]), &net, "www.own", 1).await, Secure(0, vec![6]));
    assert_eq!(look(&with(&both, &[]), &net, "www.nsec.test", 1).await, Secure(0, vec![1, 2]));
    let roots =
        Internet::new(vec![net.zones.remove(net.zones.iter().position(|zone| zone.name == Name::root()).unwrap())]);
    let denied = roots.reply(&ask("www.own", 1));
    let keys = roots.reply(&ask(".", rtype::DNSKEY));
    net.zones.extend(roots.zones);
    net.tamper = Box::new(move |query, reply| match query.qtype {
        1 => *reply = denied.clone(),
        rtype::DNSKEY if query.name == Name::root() => *reply = keys.clone(),
        _ => {}
    });
    assert!(matches!(look(&with(&both, &[]), &net, "www.own", 1).await, Bogus(_)));
}

#[tokio::test]
async fn what_was_proved_is_kept_and_asked_for_once() {
    let net = internet();
    let validator = std::sync::Arc::new(validator(&net));
    let net = std::sync::Arc::new(net);
    // Many at once: the chain is asked for once.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (validator, net) = (validator.clone(), net.clone());
        tasks.spawn(async move { look(&validator, &net, "www.nsec.test", 1).await });
    }
    assert!(tasks.join_all().await.into_iter().all(|seen| seen == Secure(0, vec![1, 2])));
    let asked = net.asked.lock().unwrap().clone();
    let chain: Vec<_> = asked.iter().filter(|(_, qtype)| *qtype != 1).collect();
    assert_eq!(chain.len(), 5, "the root's keys, DS and keys of two zones: {chain:?}");
    // The next name of the zone costs nothing more.
    net.asked.lock().unwrap().clear();
    assert_eq!(look(&validator, &net, "text.nsec.test", TXT).await, Secure(0, vec![]));
    assert_eq!(net.asked.lock().unwrap().len(), 1);
    assert!(validator.metrics.validation_cache_entries.get() >= 3);
    assert_eq!(validator.metrics.validation_queries.get(), 5);
    assert_eq!(validator.metrics.validated.get_or_create(&Outcome { outcome: "secure" }).get(), 51);
}

/// CVE-2023-50387: many keys with one tag, many signatures; each pair would be tried.
#[tokio::test]
async fn a_hostile_zone_costs_a_bounded_number_of_signatures() {
    let mut net = internet();
    let tag = net.zone("nsec.test").tag();
    net.tamper = Box::new(move |query, reply| {
        if query.qtype == rtype::DNSKEY && query.name == name("nsec.test") {
            let good = reply.answer[0].clone();
            for high in 0..=200u8 {
                // Pairs of octets swapped against each other leave the tag as it is.
                let mut key = good.clone();
                key.rdata[6] = key.rdata[6].wrapping_add(high);
                key.rdata[8] = key.rdata[8].wrapping_sub(high);
                reply.answer.push(key);
            }
        }
        let signatures: Vec<Rr> = reply.signatures(query.qtype).map(|rr| rr.clone()).collect();
        for signature in signatures {
            for wrong in 0..=200u8 {
                let mut more = signature.clone();
                *more.rdata.last_mut().unwrap() ^= wrong.max(1);
                if query.name.is_within(&name("nsec.test")) {
                    more.rdata[16..18].copy_from_slice(&tag.to_be_bytes());
                }
                reply.answer.insert(0, more);
            }
        }
    });
    let validator = validator(&net);
    assert!(matches!(look(&validator, &net, "www.nsec.test", 1).await, Bogus(_)));
    assert!(validator.metrics.validation_signatures.get() <= u64::from(Budget::FULL.signatures));
    assert!(net.asked.lock().unwrap().len() <= Budget::FULL.queries as usize);
}

/// CVE-2023-50868: a long name and many rounds; and a name with more labels than the chain may be long.
#[tokio::test]
async fn long_names_cost_a_bounded_number_of_hashes_and_queries() {
    let mut root = Zone::new(".", NSEC);
    let mut slow = Zone::new("slow", Some(Denial::Nsec3 { iterations: 150, opt_out: false }));
    slow.address("www.slow", 2);
    root.delegate(&slow);
    let deep = "a.".repeat(120);
    slow.address(&format!("{deep}slow"), 3);
    let mut net = Internet::new(vec![root, slow]);
    // Signed by a zone that is known, whatever the depth.
    assert_eq!(fresh(&net, &format!("{deep}slow"), 1).await, Secure(0, vec![3]));
    // 121 names, each 151 rounds: within the bound, but only just.
    let bound = u64::from(Budget::FULL.hashes);
    assert!(bound / 151 >= 127 && bound / 151 < 200, "{bound}");
    assert!(matches!(fresh(&net, &format!("b.{deep}slow"), 1).await, Secure(3, _)));
    // Without its signature the name must be looked for label by label, and that ends.
    net.tamper = Box::new(|query, reply| {
        if query.qtype == 1 {
            reply.strip_signatures()
        }
    });
    assert_eq!(fresh(&net, &format!("{deep}slow"), 1).await, Unreached);
    assert!(net.asked.lock().unwrap().len() <= 3 * (Budget::FULL.queries as usize + 1));
}

#[tokio::test]
async fn without_upstream_nothing_is_called_bogus() {
    struct Dead<'a>(&'a Internet);
    impl Source for Dead<'_> {
        async fn ask(&self, query: &Query) -> Result<Vec<u8>, AskError> {
            if query.qtype == 1 { self.0.ask(query).await } else { Err(AskError::Network) }
        }
    }
    let net = internet();
    let validator = validator(&net);
    let got = validator.ask(&Dead(&net), &ask("www.nsec.test", 1)).await;
    assert!(matches!(got, Err(AskError::Network)), "{got:?}");
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
            async fn ask(&self, query: &Query) -> Result<Vec<u8>, AskError> {
                let mut message = self.0.ask(query).await?;
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
