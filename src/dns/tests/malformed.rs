//! What clients and forgers send.

use std::time::Duration;

use super::harness::*;

/// A header with these flags and counts, and `rest`.
fn packet(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut out = vec![0xab, 0xcd];
    out.extend_from_slice(&flags.to_be_bytes());
    for count in counts {
        out.extend_from_slice(&count.to_be_bytes());
    }
    out.extend_from_slice(rest);
    out
}

const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

fn question(qtype: u16, class: u16) -> Vec<u8> {
    [&wire("name.example")[..], &qtype.to_be_bytes(), &class.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_not_a_plain_question_has_its_defined_answer() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    let plain = question(1, 1);
    let with = |rest: &[u8]| [&plain[..], rest].concat();
    let record = [&[0xc0, 12][..], &[0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]].concat();
    let cases: Vec<(&str, Vec<u8>, Option<u16>)> = vec![
        ("nothing", vec![], None),
        ("shorter than a header", vec![0; 11], None),
        ("a response", packet(0x8180, [1, 0, 0, 0], &plain), None),
        ("only a header", packet(0x0100, [1, 0, 0, 0], &[]), Some(1)),
        ("no question", packet(0x0100, [0, 0, 0, 0], &[]), Some(1)),
        ("two questions", packet(0x0100, [2, 0, 0, 0], &[&plain[..], &plain].concat()), Some(1)),
        ("a pointer in the question", packet(0x0100, [1, 0, 0, 0], &[0xc0, 12, 0, 1, 0, 1]), Some(1)),
        ("a label of a reserved kind", packet(0x0100, [1, 0, 0, 0], &[0x40, 0, 0, 1, 0, 1]), Some(1)),
        ("a name without end", packet(0x0100, [1, 0, 0, 0], &[63; 300]), Some(1)),
        ("IQUERY", packet(0x0900, [1, 0, 0, 0], &plain), Some(4)),
        ("STATUS", packet(0x1100, [1, 0, 0, 0], &plain), Some(4)),
        ("NOTIFY", packet(0x2100, [1, 0, 0, 0], &plain), Some(4)),
        ("UPDATE", packet(0x2900, [1, 0, 0, 0], &plain), Some(4)),
        ("AXFR", packet(0x0100, [1, 0, 0, 0], &question(252, 1)), Some(5)),
        ("IXFR", packet(0x0100, [1, 0, 1, 0], &[&question(251, 1)[..], &record].concat()), Some(5)),
        ("class CH", packet(0x0100, [1, 0, 0, 0], &question(16, 3)), Some(5)),
        ("class ANY", packet(0x0100, [1, 0, 0, 0], &question(1, 255)), Some(5)),
        ("type OPT", packet(0x0100, [1, 0, 0, 0], &question(41, 1)), Some(1)),
        ("type 0", packet(0x0100, [1, 0, 0, 0], &question(0, 1)), Some(5)),
        ("no RD", packet(0, [1, 0, 0, 0], &plain), Some(5)),
        ("an answer in a question", packet(0x0100, [1, 1, 0, 0], &with(&record)), Some(1)),
        ("two OPTs", packet(0x0100, [1, 0, 0, 2], &with(&[OPT, OPT].concat())), Some(1)),
        ("an OPT with an owner", packet(0x0100, [1, 0, 0, 1], &with(&[&[1, b'a'], OPT].concat())), Some(1)),
        ("OPT cut short", packet(0x0100, [1, 0, 0, 1], &with(&OPT[..8])), Some(1)),
        (
            "an option cut short",
            packet(0x0100, [1, 0, 0, 1], &with(&[&OPT[..10], &[4, 0, 10, 0, 8]].concat())),
            Some(1),
        ),
        ("EDNS version 1", packet(0x0100, [1, 0, 0, 1], &with(&[0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0])), Some(16)),
        ("more counted than there is", packet(0x0100, [1, 0, 0, 9], &plain), Some(1)),
        ("TSIG", packet(0x0100, [1, 0, 0, 1], &with(&[0, 0, 250, 0, 255, 0, 0, 0, 0, 0, 0])), Some(9)),
        ("octets behind the end", packet(0x0100, [1, 0, 0, 0], &with(&[1, 2, 3])), Some(0)),
        ("a datagram longer than any question", packet(0x0100, [1, 0, 0, 0], &with(&[0; 3000])), Some(0)),
        ("65535 records", packet(0x0100, [1, 0, 0, 65535], &with(&[0; 3000])), Some(1)),
    ];
    for (what, packet, expected) in cases {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&packet, world.address).await.unwrap();
        // The question behind it is the sentinel: whatever the packet gets comes before, or not at all.
        let mut buffer = [0; 1500];
        if expected.is_none() {
            socket.send_to(&query(7, "sentinel.example", 255, None), world.address).await.unwrap();
        }
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect(what).unwrap();
        let seen = read(&buffer[..received]);
        match expected {
            None => assert_eq!(seen.id, 7, "{what}: a reply"),
            Some(rcode) => assert_eq!((seen.id, seen.rcode), (0xabcd, rcode), "{what}"),
        }
    }
    assert_eq!(world.enforced.open.lock().unwrap().len(), 1, "only what was asked plainly");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_is_answered_as_rfc_8482_says() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("name.example", 255).await;
    assert_eq!((seen.rcode, seen.answers.len(), seen.answers[0].1), (0, 1, 13));
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_and_bits_of_the_question_come_back() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    for name in ["NaMe.exAMPle", "name.EXAMPLE"] {
        let mut message = query(0x1234, name, 1, EDNS);
        message[3] |= 0x30; // AD and CD
        let seen = world.exchange(message.clone()).await.unwrap();
        assert_eq!(seen.question, message[12..message.len() - 11]);
        assert_eq!((seen.id, seen.flags), (0x1234, 0x8190), "CD is copied, AD isn't");
    }
    assert_eq!(upstream.count(), 1);
    // CD isn't passed on; neither are the options of the client: subnet, cookie, padding.
    let sent = upstream.queries.lock().unwrap()[0].clone();
    assert_eq!(&sent[2..4], [1, 0]);
    assert_eq!(read(&sent).len, 12 + 18 + 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_options_are_not_forwarded() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    let mut message = query(1, "name.example", 1, EDNS);
    let subnet = [0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100];
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let end = message.len();
    message[end - 1] = (subnet.len() + cookie.len()) as u8;
    message.extend_from_slice(&subnet);
    message.extend_from_slice(&cookie);
    let seen = world.exchange(message).await.unwrap();
    assert_eq!((seen.rcode, seen.edns), (0, Some((1232, false))));
    let sent = upstream.queries.lock().unwrap()[0].clone();
    assert_eq!(sent[sent.len() - 2..], [0, 0], "an OPT without options");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let mut config = config(&[&upstream], "");
    config.dns.clients = vec!["127.0.0.2/32".parse().unwrap()];
    let world = World::with(config).await;
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (5, Some(18)));
    let seen = world.ask_tcp(&[query(1, "name.example", 1, None)]).await;
    assert_eq!(seen[0].rcode, 5);
    assert_eq!(upstream.count(), 0);
    assert!(world.refused()[0].2.starts_with("client: "), "{:?}", world.refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_responses_are_ignored_and_counted_and_too_many_end_the_socket() {
    // Wrong id, wrong name, wrong type, a query, too short; then the true one. Two at a time, and all of them, against which there is TCP.
    for (from, to) in [(0, 2), (2, 4), (4, 6), (5, 7), (0, 7)] {
        forged(from, to).await;
    }
}

async fn forged(from: usize, to: usize) {
    let upstream = Upstream::new(move |query, tcp| {
        let (name, _) = asked(query);
        let fine = response(query, 0, &[a(&name, 60, "192.0.2.1")]);
        if tcp {
            return Act::Send(vec![fine]);
        }
        let forged = response(query, 0, &[a(&name, 60, "192.0.2.66")]);
        let mut list = Vec::new();
        let mut wrong_id = forged.clone();
        wrong_id[0] ^= 1;
        list.push(wrong_id);
        let mut wrong_name = forged.clone();
        wrong_name[14] ^= 3;
        list.push(wrong_name);
        let mut wrong_type = forged.clone();
        let at = wrong_type.windows(4).position(|octets| octets == [0, 1, 0, 1]).unwrap();
        wrong_type[at + 1] = 28;
        list.push(wrong_type);
        let mut no_response = forged.clone();
        no_response[2] &= 0x7f;
        list.push(no_response);
        let mut two_questions = forged.clone();
        two_questions[5] = 2;
        list.push(two_questions);
        list.push(forged[..9].to_vec());
        list.push(vec![]);
        Act::Send([&list[from..to], &[fine]].concat())
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("name.example", 1).await;
    assert_eq!(seen.addresses(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!world.enforced.is_open("192.0.2.66"));
    assert_eq!(upstream.count(), 1);
    let counted = u64::try_from(to - from + usize::from(to - from > 2)).unwrap();
    until("mismatches counted", || world.metric("dns_upstream_mismatches_total") == counted).await;
    assert_eq!(upstream.asked_tcp.load(std::sync::atomic::Ordering::SeqCst), usize::from(to - from > 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_in_another_case_is_asked_again_over_tcp() {
    let upstream = Upstream::new(|query, tcp| {
        let (name, _) = asked(query);
        let address = if tcp { "192.0.2.1" } else { "192.0.2.66" };
        let mut message = response(query, 0, &[a(&name, 60, address)]);
        if !tcp {
            for octet in &mut message[12..30] {
                *octet = octet.to_ascii_lowercase();
            }
        }
        Act::Send(vec![message])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("a-name-that-has-quite-a-lot-of-letters-in-it.example", 1).await;
    assert_eq!(seen.addresses(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!world.enforced.is_open("192.0.2.66"));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_the_upstream_costs_its_own_question_only() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let head = response(query, 0, &[]);
        let mut message = head.clone();
        match name.as_str() {
            // An owner that points to itself.
            "loop.example" => {
                message[7] = 1;
                let at = message.len();
                message.extend_from_slice(&[
                    0xc0 | (at >> 8) as u8,
                    at as u8,
                    0,
                    1,
                    0,
                    1,
                    0,
                    0,
                    0,
                    9,
                    0,
                    4,
                    192,
                    0,
                    2,
                    1,
                ]);
            }
            // Pointers forwards.
            "forward.example" => {
                message[7] = 1;
                message.extend_from_slice(&[0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
            }
            // RDATA longer than the message.
            "long.example" => {
                message[7] = 1;
                message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 255, 255, 192, 0, 2, 1]);
            }
            // More counted than there is.
            "count.example" => message[6] = 255,
            // An A with five octets.
            "five.example" => message = response(query, 0, &[rr(&name, 1, 60, &[192, 0, 2, 1, 9])]),
            // A CNAME with octets behind its name.
            "behind.example" => {
                let rdata = [&wire("b.example")[..], &[7]].concat();
                message = response(query, 0, &[rr(&name, 5, 60, &rdata), a("b.example", 60, "192.0.2.1")]);
            }
            _ => message = response(query, 0, &[a(&name, 60, "192.0.2.9")]),
        }
        Act::Send(vec![message])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    for name in ["loop", "forward", "long", "count", "five", "behind"] {
        let seen = world.ask(&format!("{name}.example"), 1).await;
        assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(24)), "{name}");
    }
    assert!(world.enforced.open.lock().unwrap().is_empty());
    assert_eq!(world.ask("fine.example", 1).await.rcode, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retransmission_is_answered_once_and_asked_once() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        Act::Later(Duration::from_millis(150), response(query, 0, &[a(&name, 60, "192.0.2.1")]))
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..3 {
        socket.send_to(&query(9, "name.example", 1, EDNS), world.address).await.unwrap();
    }
    let mut buffer = [0; 1500];
    let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(read(&buffer[..len]).addresses().len(), 1);
    // A question that the cache answers is the sentinel.
    socket.send_to(&query(10, "name.example", 1, EDNS), world.address).await.unwrap();
    let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(read(&buffer[..len]).id, 10);
    assert_eq!((upstream.count(), world.metric("dns_coalesced_questions_total")), (1, 2));
}
