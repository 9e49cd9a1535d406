//! What is right in every shape, and how long it stays right.

use super::*;

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
