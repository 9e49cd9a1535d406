//! Rare and awkward answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_edns_is_asked_plainly() {
    for code in [1, 4] {
        let upstream = Upstream::new(move |query, _| {
            let (name, _) = asked(query);
            let edns = read(query).edns.is_some();
            let records = [a(&name, 60, "192.0.2.1")];
            Act::Send(vec![if edns { response(query, code, &[]) } else { response(query, 0, &records) }])
        })
        .await;
        let world = World::new(&[&upstream]).await;
        assert_eq!(world.ask("name.example", 1).await.addresses().len(), 1, "rcode {code}");
        assert_eq!(upstream.count(), 2);
    }
    // One that speaks EDNS and says the same means it.
    let upstream = Upstream::new(|query, _| {
        let opt = additional(rr("", 41, 0, &[]));
        Act::Send(vec![response(query, 1, &[opt])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("name.example", 1).await.rcode, 2);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_types_pass_octet_by_octet() {
    // RFC 3597: nothing in them is a name, even what looks like a pointer.
    let rdata = [0xc0, 0x0c, 0, 255, 1, 2, 3, 0xc0, 0xff];
    let upstream = Upstream::new(move |query, _| {
        let (name, qtype) = asked(query);
        let records = [rr(&name, qtype, 60, &rdata), rr(&name, qtype, 60, &[]), rr(&name, qtype + 1, 60, &[9])];
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for qtype in [65_280, 999, 262] {
        for _ in 0..2 {
            let seen = world.ask("name.example", qtype).await;
            let data: Vec<&[u8]> = seen.answers.iter().map(|(_, _, _, rdata)| &rdata[..]).collect();
            assert_eq!((seen.rcode, data), (0, vec![&rdata[..], &[]]), "TYPE{qtype}");
        }
    }
    assert!(world.enforced.open.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_record_goes_when_a_mandatory_hint_does() {
    // priority 1, target ".", mandatory = ipv4hint, ipv4hint = loopback
    let lost = [0, 1, 0, 0, 0, 0, 2, 0, 4, 0, 4, 0, 4, 127, 0, 0, 1];
    // The same with one hint that may stay, and port as a second mandatory key.
    let kept = [0, 2, 0, 0, 0, 0, 4, 0, 3, 0, 4, 0, 3, 0, 2, 31, 144, 0, 4, 0, 8, 127, 0, 0, 1, 192, 0, 2, 5];
    let upstream = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        let both = name == "both.example";
        let mut records = vec![rr(&name, 65, 60, &lost)];
        records.extend(both.then(|| rr(&name, 65, 60, &kept)));
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("lost.example", 65).await;
    assert_eq!((seen.rcode, seen.answers.len(), seen.ede.map(|(code, _)| code)), (0, 0, Some(17)));
    let seen = world.ask("both.example", 65).await;
    let expected = [0, 2, 0, 0, 0, 0, 4, 0, 3, 0, 4, 0, 3, 0, 2, 31, 144, 0, 4, 0, 4, 192, 0, 2, 5];
    assert_eq!(seen.answers.iter().map(|(_, _, _, rdata)| &rdata[..]).collect::<Vec<_>>(), [&expected[..]]);
    assert!(world.enforced.is_open("192.0.2.5") && world.enforced.open.lock().unwrap().len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nat64_the_address_inside_is_judged_and_the_one_outside_is_opened() {
    let upstream = Upstream::table(&[
        ("v4only.net", 60, &["2001:db8:64::1401:101"]),
        ("sneaky.net", 60, &["2001:db8:64::a00:1", "2001:db8:64::808:808"]),
    ])
    .await;
    let world = World::with(config(&[&upstream], "[addresses]\nnat64 = \"2001:db8:64::/96\"\n")).await;
    assert_eq!(world.ask("v4only.net", 28).await.addresses().len(), 1);
    // Clients send to the translator: the IPv4 address behind it is not theirs to reach.
    assert!(world.enforced.is_open("2001:db8:64::1401:101") && !world.enforced.is_open("20.1.1.1"));
    let seen = world.ask("sneaky.net", 28).await;
    assert_eq!((seen.rcode, seen.answers.len(), seen.ede.map(|(code, _)| code)), (0, 0, Some(17)));
    assert_eq!(world.enforced.open.lock().unwrap().len(), 1);
    let seen = world.ask("ipv4only.arpa", 28).await;
    assert_eq!(seen.addresses()[0], "2001:db8:64::c000:aa".parse::<std::net::IpAddr>().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_set_is_given_whole_or_not_at_all() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let rrsig =
            [&[0, 1, 8, 2, 0, 0, 0, 60, 0, 0, 0, 9, 0, 0, 0, 1, 0, 1][..], &wire("example"), &[1, 2, 3]].concat();
        let records = [a(&name, 60, "192.0.2.1"), a(&name, 60, "10.0.0.1"), rr(&name, 46, 60, &rrsig)];
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let mut wanted = query(1, "name.example", 1, Some((1232, true)));
    wanted[3] |= 0x10; // CD: it changes nothing.
    let seen = world.exchange(wanted).await.unwrap();
    assert_eq!((seen.rcode, seen.answers.len(), seen.ede.map(|(code, _)| code)), (0, 0, Some(17)));
    assert!(world.enforced.open.lock().unwrap().is_empty());
    let seen = world.ask("name.example", 1).await;
    assert_eq!(seen.answers.iter().map(|(_, kind, ..)| *kind).collect::<Vec<_>>(), [1], "in part, without signature");
    assert!(world.enforced.is_open("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_grows_beyond_a_message_is_refused() {
    // 4,000 MX records of 16 octets, each of which holds a pointer to a long name.
    let asked_tcp = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = asked_tcp.clone();
    let upstream = Upstream::new(move |query, tcp| {
        let mut message = response(query, 0, &[]);
        if !tcp {
            message[2] |= 2;
            return Act::Send(vec![message]);
        }
        counter.fetch_add(1, Ordering::SeqCst);
        message[6..8].copy_from_slice(&4000u16.to_be_bytes());
        for n in 0..4000u16 {
            message.extend_from_slice(&[0xc0, 12, 0, 15, 0, 1, 0, 0, 0, 60, 0, 4]);
            message.extend_from_slice(&n.to_be_bytes());
            message.extend_from_slice(&[0xc0, 12]);
        }
        Act::Send(vec![message])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let name = format!("{}.example", ["a-label-of-some-length"; 8].join("."));
    let seen = world.ask_tcp(&[query(1, &name, 15, EDNS)]).await;
    assert_eq!((seen[0].rcode, seen[0].ede.as_ref().map(|(code, _)| *code)), (2, Some(24)), "{seen:?}");
    assert_eq!(asked_tcp.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_has_one_ttl_and_no_record_twice() {
    // RFC 2181 sections 5 and 5.2, which leave no other choice.
    let upstream = Upstream::new(|query, _| {
        let (name, qtype) = asked(query);
        let records = match qtype {
            1 => vec![a(&name, 300, "192.0.2.1"), a(&name, 60, "192.0.2.2"), a(&name, u32::MAX >> 1, "192.0.2.1")],
            5 => vec![cname(&name, 300, "other.example"), cname(&name, 20, "other.example")],
            _ => vec![rr(&name, 16, 90, b"\x01a"), rr(&name, 16, 80, b"\x01b"), rr(&name, 16, 70, b"\x01a")],
        };
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for (qtype, count, ttl) in [(1, 2, 60), (5, 1, 20), (16, 2, 70)] {
        let seen = world.ask("name.example", qtype).await;
        let ttls: Vec<u32> = seen.answers.iter().map(|(_, _, ttl, _)| *ttl).collect();
        assert_eq!(ttls, vec![ttl; count], "TYPE{qtype}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_keeps_edns() {
    // RFC 6891 section 6.1.1; FORMERR without OPT would tell the client that the guard knows no EDNS (section 7).
    let upstream = Upstream::table(&[]).await;
    let world = World::new(&[&upstream]).await;
    let plain = query(7, "name.example", 1, None);
    let with = |count: u8, rest: &[u8]| {
        let mut out = [&plain[..], rest].concat();
        out[11] = count;
        out
    };
    let opt = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
    let option = |len: u8, value: &[u8]| [&opt[..10], &[len], value].concat();
    for (what, packet, rcode) in [
        ("two OPTs", with(2, &[opt, opt].concat()), 1),
        ("a cookie of nine octets", with(1, &option(13, &[0, 10, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9])), 1),
        ("an option cut short", with(1, &option(4, &[0, 10, 0, 8])), 1),
        ("version 1, whose options may be anything", with(1, &[0, 0, 41, 4, 208, 0, 1, 0x80, 0, 0, 1, 9]), 16),
        ("something unreadable behind it", with(2, &[&opt[..], &[0, 0, 1]].concat()), 1),
    ] {
        let seen = world.exchange(packet).await.unwrap();
        assert_eq!((seen.rcode, seen.edns), (rcode, Some((1232, true))), "{what}");
    }
}
