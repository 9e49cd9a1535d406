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
    // One that says it with an OPT may mean the question, or copy what it was sent: it is asked once more.
    let upstream = Upstream::new(|query, _| {
        let opt = additional(rr("", 41, 0, &[]));
        Act::Send(vec![response(query, 1, &[opt])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("name.example", 1).await.rcode, 2);
    assert_eq!(upstream.count(), 2);
}

/// BADVERS (RFC 6891 section 6.1.3): its four low bits are those of NOERROR.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_the_version_of_edns_is_not_the_last_word() {
    let old = |answers_plainly: bool| {
        Upstream::new(move |query, _| {
            let (name, _) = asked(query);
            if answers_plainly && read(query).edns.is_none() {
                return Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.1")])]);
            }
            // EXTENDED-RCODE 1, version 0.
            Act::Send(vec![response(query, 0, &[additional(rr("", 41, 0x0100_0000, &[]))])])
        })
    };
    let address = |last: u8| vec![std::net::IpAddr::from([192, 0, 2, last])];
    let upstream = old(true).await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("name.example", 1).await.addresses(), address(1), "asked without EDNS");
    let upstream = old(false).await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.ede), (2, Some((0, "the upstream answered with code 16".to_owned()))));
    let fine = Upstream::table(&[("name.example", 60, &["192.0.2.7"])]).await;
    let world = World::new(&[&upstream, &fine]).await;
    assert_eq!(world.ask("name.example", 1).await.addresses(), address(7), "another server is asked");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_ds_goes_to_the_servers_of_the_name_above() {
    let upstream = |address: &'static str| {
        Upstream::new(move |query, _| {
            let (name, qtype) = asked(query);
            let record = if qtype == 43 { rr(&name, 43, 60, address.as_bytes()) } else { a(&name, 60, address) };
            Act::Send(vec![response(query, 0, &[record])])
        })
    };
    for scheme in ["udp", "tcp"] {
        let (all, corp, deep) = (upstream("192.0.2.1").await, upstream("192.0.2.2").await, upstream("192.0.2.3").await);
        let mut config = config(&[&all, &corp, &deep], "");
        for (place, upstream) in [&all, &corp, &deep].into_iter().enumerate() {
            config.dns.upstream[place].url = format!("{scheme}://{}", upstream.address);
        }
        config.dns.upstream[1].domains = vec!["corp.example".to_owned()];
        config.dns.upstream[2].domains = vec!["deep.corp.example".to_owned()];
        let world = World::with(config).await;
        for (name, expected) in [
            ("example", "192.0.2.1"),
            ("corp.example", "192.0.2.1"),
            ("www.corp.example", "192.0.2.2"),
            ("deep.corp.example", "192.0.2.2"),
            ("x.deep.corp.example", "192.0.2.3"),
        ] {
            let seen = world.ask(name, 43).await;
            assert_eq!(seen.answers[0].3, expected.as_bytes(), "{scheme} {name}");
        }
        assert_eq!(world.ask("corp.example", 1).await.addresses()[0].to_string(), "192.0.2.2", "{scheme}");
        // The root has nothing above it.
        assert_eq!(world.ask("", 43).await.answers[0].3, b"192.0.2.1", "{scheme}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_random_case_of_the_guard_s_questions_is_nobody_else_s_business() {
    // Names in the data point into the question, as servers write them.
    let mut over_tcp = Vec::new();
    for cut in [false, true] {
        let upstream = Upstream::new(move |query, tcp| {
            // Over TCP too this one changes the case, which a server may do.
            let mut query = query.to_vec();
            if tcp {
                query[12..40].make_ascii_uppercase();
            }
            let mut message = response(&query, 0, &[]);
            if cut && !tcp {
                message[2] |= 2;
                return Act::Send(vec![message]);
            }
            message[7] = 1;
            message.extend_from_slice(&[0xc0, 12, 0, 15, 0, 1, 0, 0, 0, 60, 0, 9]);
            message.extend_from_slice(&[0, 10, 4, b'm', b'a', b'i', b'l', 0xc0, 12]);
            Act::Send(vec![message])
        })
        .await;
        let world = World::new(&[&upstream]).await;
        let name = "a-long-name-with-many-letters.example";
        let seen = world.ask(name, 15).await;
        assert_eq!(seen.answers.len(), 1, "{seen:?}");
        let expected = [&[0, 10][..], &wire(&format!("mail.{name}"))].concat();
        assert_eq!(String::from_utf8_lossy(&seen.answers[0].3), String::from_utf8_lossy(&expected), "cut: {cut}");
        over_tcp.push(upstream.asked_tcp.load(Ordering::SeqCst) > 0);
    }
    assert_eq!(over_tcp, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_edns_may_say_so_with_a_bare_header() {
    for code in [1, 4] {
        let upstream = Upstream::new(move |query, _| {
            let (name, _) = asked(query);
            if read(query).edns.is_none() {
                return Act::Send(vec![response(query, 0, &[a(&name, 60, "192.0.2.1")])]);
            }
            Act::Send(vec![[&query[..2], &[0x81, 0x80 | code], &[0; 8]].concat()])
        })
        .await;
        let world = World::new(&[&upstream]).await;
        assert_eq!(world.ask("name.example", 1).await.addresses().len(), 1, "rcode {code}");
        assert_eq!(upstream.count(), 2);
    }
    // Without a name it can't be said that there is none, or no data: that is ignored, and what follows counts.
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let bare = |code: u8| [&query[..2], &[0x81, 0x80 | code], &[0; 8]].concat();
        Act::Send(vec![bare(0), bare(3), response(query, 0, &[a(&name, 60, "192.0.2.1")])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("name.example", 1).await.addresses().len(), 1);
    assert_eq!(upstream.count(), 1);
    // Any error may be said so, and isn't the last word.
    for code in [2, 5, 9] {
        let bare =
            Upstream::new(move |query, _| Act::Send(vec![[&query[..2], &[0x81, 0x80 | code], &[0; 8]].concat()])).await;
        let fine = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
        let world = World::new(&[&bare, &fine]).await;
        assert_eq!(world.ask("name.example", 1).await.addresses().len(), 1, "rcode {code}");
        let world = World::new(&[&bare]).await;
        let words = format!("the upstream answered with code {code}");
        assert_eq!(world.ask("name.example", 1).await.ede, Some((0, words)), "rcode {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_of_a_service_tells_no_address_that_is_closed() {
    // RFC 9460 section 2.4.2: in AliasMode (priority 0) parameters are ignored; should a client use them all the same, they lead somewhere.
    let data =
        |priority: u8| [&[0, priority][..], &wire("pool.example"), &[0, 4, 0, 4, 192, 0, 2, priority + 1]].concat();
    let upstream = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        let priority = u8::from(name.starts_with("service"));
        Act::Send(vec![response(query, 0, &[rr(&name, 65, 60, &data(priority))])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("alias.example", 65).await;
    assert_eq!((seen.rcode, &seen.answers[0].3), (0, &data(0)), "passed on as it is");
    assert!(world.enforced.is_open("192.0.2.1") && !world.enforced.is_open("192.0.2.2"));
    assert_eq!(world.ask("service.example", 65).await.answers[0].3, data(1));
    assert!(world.enforced.is_open("192.0.2.2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_no_client_may_use_are_none() {
    let parameters: [(&str, &[u8]); 6] = [
        ("torn", &[0, 1, 0, 9, 2, b'h']),
        ("order", &[0, 3, 0, 2, 1, 187, 0, 1, 0, 3, 2, b'h', b'2']),
        ("alpn", &[0, 1, 0, 3, 9, b'h', b'2']),
        ("empty", &[0, 4, 0, 0]),
        ("port", &[0, 3, 0, 1, 1]),
        ("mandatory", &[0, 0, 0, 2, 0, 0]),
    ];
    let upstream = Upstream::new(move |query, _| {
        let (name, _) = asked(query);
        let broken = parameters.iter().find(|(label, _)| name.starts_with(label));
        // The protocol of the last is no text, and its other key unknown here: that is the client's affair.
        let parameters =
            broken.map_or(&[0, 1, 0, 3, 2, 0xfa, 0xfa, 0xff, 0, 0, 1, 9][..], |(_, parameters)| parameters);
        let data = |parameters: &[u8]| [&[0, 1, 0][..], parameters].concat();
        let whole = rr(&name, 65, 60, &data(&[0, 4, 0, 4, 192, 0, 2, 1]));
        let records = [whole, rr(&name, 65, 60, &data(parameters))];
        Act::Send(vec![response(query, 0, if broken.is_some() { &records } else { &records[1..] })])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for (label, _) in parameters {
        let seen = world.ask(&format!("{label}.example"), 65).await;
        assert_eq!((seen.rcode, seen.answers.len(), &seen.ede), (0, 0, &None), "{label}");
    }
    assert!(world.enforced.open.lock().unwrap().is_empty());
    let seen = world.ask("fine.example", 65).await;
    assert_eq!((seen.rcode, seen.answers.len()), (0, 1));
}

/// A question for this name in wire form.
fn question_for(name: &[u8], qtype: u16) -> Vec<u8> {
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &qtype.to_be_bytes(), &[0, 1]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_octets_may_stand_in_a_name_of_255_octets_and_no_more() {
    let upstream = Upstream::new(|query, _| {
        let mut message = response(query, 0, &[]);
        message[7] = 1;
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 20, 0, 2, 1]);
        Act::Send(vec![message])
    })
    .await;
    let world = World::with(config(&[&upstream], "[policy]\ndeny = [\"b.example\"]\n")).await;
    let label = |len: usize, octet: u8| [&[len as u8][..], &vec![octet; len]].concat();
    let long = |last: usize| {
        [&label(63, b'X')[..], &label(63, 0xff), &label(63, b'.'), &label(last, 0), &wire("example")].concat()
    };
    let odd = [b"\x05a.b\\c\x02\xc3\xa4\x01\""[..].to_vec(), wire("example")].concat();
    for (what, name, rcode) in [
        ("255 octets", long(53), 0),
        ("256 octets", long(54), 1),
        ("a dot, a backslash, a quote, UTF-8", odd, 0),
        // One label with a dot in it, which the rule for two labels doesn't mean; and the two labels.
        ("a dot within a label", [b"\x03a.b"[..].to_vec(), wire("example")].concat(), 0),
        ("two labels", wire("a.b.example"), 3),
        ("in capitals", wire("a.B.EXAMPLE"), 3),
        ("the root", vec![0], 0),
    ] {
        let question = question_for(&name, 1);
        for _ in 0..2 {
            let seen = world.exchange(question.clone()).await.unwrap();
            assert_eq!(seen.rcode, rcode, "{what}");
            if rcode == 0 {
                assert_eq!(seen.question, question[12..], "{what}");
                assert_eq!(seen.answers.len(), 1, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_in_its_options_stays_there() {
    // Subnet, cookie, an error of its own, an option that nobody knows; in two OPTs, of a size and version that nobody offered.
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let opt = |rdata: &[u8]| [&[0, 0, 41, 0xff, 0xff, 0, 7, 0x80, 0, 0, rdata.len() as u8][..], rdata].concat();
        let one = opt(&[0, 8, 0, 7, 0, 1, 24, 24, 198, 51, 100, 0, 15, 0, 4, 0, 22, b'n', b'o']);
        let other = opt(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0xfd, 0xe9, 0, 1, 9]);
        let mut message = response(query, 0, &[a(&name, 60, "192.0.2.1")]);
        message[11] = 2;
        Act::Send(vec![[message, one, other].concat()])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for edns in [None, EDNS, Some((65_535, true))] {
        let seen = world.exchange(query(9, "name.example", 1, edns)).await.unwrap();
        assert_eq!((seen.rcode, seen.addresses().len(), seen.ede), (0, 1, None));
        assert_eq!((seen.cookie, seen.additional.len()), (None, 0));
        assert_eq!(seen.edns, edns.map(|(_, dnssec_ok)| (1232, dnssec_ok)));
        assert_eq!(seen.len, 12 + 18 + 16 + if edns.is_some() { 11 } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_with_its_top_bit_set_is_zero() {
    // RFC 2181 section 8: it is opened for the shortest lease, and kept for nobody.
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        Act::Send(vec![response(query, 0, &[a(&name, 0x8000_0000 | 300, "192.0.2.1")])])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for asked in 1..=2 {
        let seen = world.ask("name.example", 1).await;
        assert_eq!((seen.addresses().len(), seen.answers[0].2), (1, 0));
        assert!(world.enforced.is_open("192.0.2.1"));
        assert_eq!(upstream.count(), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dname_that_makes_too_long_a_name_is_yxdomain_with_its_proof() {
    // RFC 6672 section 2.2. Whether the upstream says the code, or leaves the work to the guard.
    for code in [6, 0] {
        let upstream = Upstream::new(move |query, _| {
            let target = wire(&["a-label-of-some-length-to-make-it-long"; 6].join("."));
            Act::Send(vec![response(query, code, &[rr("d.example", 39, 60, &target)])])
        })
        .await;
        let world = World::new(&[&upstream]).await;
        let name = "another-label-of-some-length.d.example";
        for _ in 0..2 {
            let seen = world.ask(name, 1).await;
            let records: Vec<(&str, u16)> = seen.answers.iter().map(|(owner, kind, ..)| (&owner[..], *kind)).collect();
            assert_eq!((seen.rcode, records, seen.ede), (6, vec![("d.example.", 39)], None), "from rcode {code}");
        }
        assert_eq!(upstream.count(), 1, "the DNAME says how long it is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_of_edns_that_nobody_knows_are_ignored() {
    // RFC 6891 section 6.1.4: Z must be ignored. The question behind it is the sentinel.
    let upstream = Upstream::table(&[("name.example", 300, &["192.0.2.1", "192.0.2.2"])]).await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("name.example", 1).await.rcode, 0);
    for _ in 0..50 {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut message = query(8, "name.example", 1, EDNS);
        let end = message.len();
        message[end - 4..end - 2].copy_from_slice(&[0x7f, 0xff]);
        socket.send_to(&message, world.address).await.unwrap();
        socket.send_to(&query(9, "name.example", 1, None), world.address).await.unwrap();
        for id in [8, 9] {
            let mut buffer = [0; 1500];
            let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
            let seen = read(&buffer[..len]);
            assert_eq!((seen.id, seen.addresses().len()), (id, 2));
        }
    }
}
