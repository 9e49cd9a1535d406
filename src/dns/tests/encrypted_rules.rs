//! What RFC 8484 and RFC 9250 ask of both ends beyond the exchange of messages.

use super::encrypted::{ALL, address, front, trusting, world};
use super::encrypted_ends::*;
use super::harness::*;
use crate::dns::Transport;

#[tokio::test(flavor = "multi_thread")]
async fn the_time_in_http_caches_is_taken_off_the_ttls() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["resolver.example"]);
    let upstream = Secure::new(Transport::Https, server(Transport::Https, &leaf, None)).await;
    let world = world(&[upstream.table(&trusting(&authority))]).await;
    // Values of `Age`, and what is left of 60 seconds.
    let cases: [(&[&str], u32); 6] =
        [(&[], 60), (&["40"], 20), (&["3600"], 0), (&["99999999999"], 0), (&["40", "5"], 20), (&["soon"], 60)];
    for (index, (ages, left)) in cases.into_iter().enumerate() {
        *upstream.ages.lock().unwrap() = ages.to_vec();
        let seen = world.ask(&format!("n{index}.example"), 1).await;
        assert_eq!((seen.rcode, seen.answers.len()), (0, 1), "{ages:?}");
        let ttl = seen.answers[0].2;
        assert!(ttl <= left && ttl + 3 > left, "{ages:?}: {ttl}");
        let seen = world.ask(&format!("n{index}.example"), 16).await;
        assert_eq!((seen.rcode, seen.answers.len(), seen.authority.len()), (0, 0, 1), "{ages:?}");
        let ttl = seen.authority[0].2;
        assert!(ttl <= left && ttl + 3 > left, "{ages:?}: {ttl} of no data");
    }
}

/// A message with an OPT that bears edns-tcp-keepalive (RFC 7828), behind what it had.
fn with_keepalive(mut message: Vec<u8>) -> Vec<u8> {
    message[11] += 1;
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 10]);
    message.extend_from_slice(&[0, 12, 0, 0, 0, 11, 0, 2, 0, 100]);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quic_client_that_breaks_a_rule_is_told_so() {
    let upstream = Upstream::table(&[("a.example", 60, &["192.0.2.1"])]).await;
    let authority = Authority::new();
    let world = front(&upstream, &authority, "").await;
    let whole = query(0, "a.example", 1, None);
    let framed = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let twice = [framed(&whole), framed(&whole)].concat();
    let short = [&(whole.len() as u16 - 1).to_be_bytes()[..], &whole].concat();
    // What is sent, whether the stream ends behind it, and the guard's words.
    let cases = [
        (twice.clone(), true, "more than one"),
        (twice, false, "more than one"),
        (short, false, "more than one"),
        (framed(&with_keepalive(whole)), true, "edns-tcp-keepalive"),
    ];
    for (octets, ends, words) in cases {
        let (_endpoint, connection) = connect_quic(address(&world, Transport::Quic), &authority).await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&octets).await.unwrap();
        if ends {
            send.finish().unwrap();
        }
        let ended = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("closed");
        let quinn::ConnectionError::ApplicationClosed(close) = ended else { panic!("{ended}") };
        assert_eq!(u64::from(close.error_code), 2, "DOQ_PROTOCOL_ERROR");
        assert!(String::from_utf8_lossy(&close.reason).contains(words), "{close}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(world.label("dns_dropped_packets_total", "doq_protocol"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quic_upstream_that_breaks_a_rule_loses_its_connection() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["resolver.example"]);
    let upstream = Secure::new(Transport::Quic, server(Transport::Quic, &leaf, None)).await;
    let world = world(&[upstream.table(&trusting(&authority))]).await;
    type Reply = fn(&[u8]) -> Vec<u8>;
    let with_id: Reply = |query| {
        let mut reply = reply_to(query);
        reply[1] = 7;
        reply
    };
    let second = [0, 12, 0, 0, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0];
    let cases: [(Reply, &[u8], &str); 4] = [
        (with_id, &[], "the response's id is not 0"),
        (|query| with_keepalive(reply_to(query)), &[], "the response bears edns-tcp-keepalive"),
        (reply_to, &[0], "the response's length is wrong"),
        (reply_to, &second, "the response's length is wrong"),
    ];
    for (index, (reply, surplus, words)) in cases.into_iter().enumerate() {
        upstream.says(reply);
        *upstream.surplus.lock().unwrap() = surplus.to_vec();
        let seen = world.ask(&format!("bad{index}.example"), 1).await;
        assert_eq!((seen.rcode, seen.addresses().len()), (2, 0), "{words}");
        assert_eq!(world.running.status().upstreams[0].last_error.as_deref(), Some(words));
        until("closed", || upstream.ended.lock().unwrap().len() == index + 1).await;
        let quinn::ConnectionError::ApplicationClosed(close) = upstream.ended.lock().unwrap()[index].clone() else {
            panic!("{:?}", upstream.ended)
        };
        assert_eq!((u64::from(close.error_code), &close.reason[..]), (2, words.as_bytes()), "DOQ_PROTOCOL_ERROR");
        // The next question goes over a new connection.
        upstream.says(reply_to);
        upstream.surplus.lock().unwrap().clear();
        assert_eq!(world.ask(&format!("good{index}.example"), 1).await.addresses().len(), 1, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_another_question_is_named_with_both() {
    // Another name, another type.
    fn reply(query: &[u8]) -> Vec<u8> {
        response(&super::harness::query(u16::from_be_bytes([query[0], query[1]]), "other.example", 28, None), 0, &[])
    }
    let authority = Authority::new();
    let leaf = authority.leaf(&["resolver.example"]);
    let (mut cases, mut secure) = (Vec::new(), Vec::new());
    for transport in ALL {
        let upstream = Secure::new(transport, server(transport, &leaf, None)).await;
        upstream.says(reply);
        cases.push((upstream.table(&trusting(&authority)), upstream.address));
        secure.push(upstream);
    }
    let plain = Upstream::new(|query, _| Act::Send(vec![reply(query)])).await;
    cases.push((format!("[[dns.upstream]]\nurl = \"tcp://{}\"\n", plain.address), plain.address));
    for (table, peer) in cases {
        let world = world(&[table]).await;
        let seen = world.ask("a.example", 1).await;
        assert_eq!((seen.rcode, seen.addresses().len()), (2, 0));
        let error = world.running.status().upstreams[0].last_error.clone().unwrap();
        assert_eq!(error, format!("{peer} was asked a.example A and answered other.example AAAA"));
        assert!(world.metric("dns_upstream_mismatches_total") > 0);
    }
}
