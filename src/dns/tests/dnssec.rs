//! Validation as clients meet it: AD, CD, DO, extended errors, and what is opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::harness::*;
use crate::dns::codec::wire::rtype;
use crate::dns::upstream::query::Query;
use crate::dns::validate::tests::bounds;
use crate::dns::validate::tests::zones::{DAY, Denial, Internet, NOW, Rr, TXT, Zone, name};

const AD: u16 = 0x20;
const CD: u16 = 0x10;

/// The upstream of a signed root, "test" below it with a host, a text and an alias, and the unsigned "plain.test". While `.1` is set, addresses and
/// texts are changed on the way.
async fn internet() -> (Upstream, String, Arc<AtomicBool>) {
    let (mut upstreams, anchor) = internets(1).await;
    let (upstream, tampered) = upstreams.remove(0);
    (upstream, anchor, tampered)
}

/// The same behind several upstreams, each with a switch of its own.
async fn internets(count: usize) -> (Vec<(Upstream, Arc<AtomicBool>)>, String) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
    let mut root = Zone::new(".", Some(Denial::Nsec));
    let mut test = Zone::new("test", Some(Denial::Nsec3 { iterations: 0, opt_out: false }));
    let mut plain = Zone::new("plain.test", None);
    test.address("www.test", 1);
    test.add("text.test", TXT, b"\x05hello");
    test.alias("alias.test", "www.test");
    test.alias("out.test", "www.plain.test");
    plain.address("www.plain.test", 2);
    root.delegate(&test);
    test.delegate(&plain);
    for zone in [&mut root, &mut test] {
        zone.window = (now - DAY, now + DAY);
        assert!(now.abs_diff(NOW) < 50 * 365 * DAY);
    }
    let ds = root.ds();
    let digest: String = ds[4..].iter().map(|octet| format!("{octet:02X}")).collect();
    let anchor = format!(". IN DS {} {} {} {digest}", u16::from_be_bytes([ds[0], ds[1]]), ds[2], ds[3]);
    let net = Arc::new(Internet::new(vec![root, test, plain]));
    let mut upstreams = Vec::new();
    for _ in 0..count {
        let tampered = Arc::new(AtomicBool::new(false));
        let upstream = upstream(net.clone(), tampered.clone()).await;
        upstreams.push((upstream, tampered));
    }
    (upstreams, anchor)
}

async fn upstream(net: Arc<Internet>, tampered: Arc<AtomicBool>) -> Upstream {
    Upstream::new(move |message, _| {
        let (text, qtype) = asked(message);
        let name = if text.is_empty() { name(".") } else { name(&text) };
        let asked = Query {
            name,
            qtype,
            dnssec_ok: true,
            checking_disabled: false,
            plain: false,
            whose: crate::core::client::Claim::NOBODY,
        };
        let mut reply = net.reply(&asked);
        if read(message).edns.is_none_or(|(_, dnssec_ok)| !dnssec_ok) {
            reply.strip_signatures();
        }
        if tampered.load(Ordering::SeqCst) {
            for rr in reply.answer.iter_mut().filter(|rr| [rtype::A, TXT].contains(&rr.kind)) {
                *rr.rdata.last_mut().unwrap() ^= 64;
            }
        }
        let records: Vec<super::harness::Rr> = [(0, &reply.answer), (1, &reply.authority)]
            .into_iter()
            .flat_map(|(section, list)| list.iter().map(move |rr| scripted(section, rr)))
            .collect();
        Act::Send(vec![response(message, reply.rcode, &records)])
    })
    .await
}

fn scripted(section: usize, rr: &Rr) -> super::harness::Rr {
    let owner = rr.owner.to_string();
    super::harness::Rr { section, ..super::harness::rr(&owner, rr.kind, rr.ttl, &rr.rdata) }
}

async fn world(upstream: &Upstream, anchor: &str) -> World {
    world_of(&[upstream], anchor).await
}

async fn world_of(upstreams: &[&Upstream], anchor: &str) -> World {
    let more = format!(
        "[[policy.private]]\ndomain = \"test\"\nprefixes = [\"192.0.2.0/24\"]\n\
         [dns.dnssec]\nvalidate = true\ntrust_anchor = \"{anchor}\"\n"
    );
    World::with(config(upstreams, &more)).await
}

/// A query with these header bits, and EDNS with or without DO.
fn flagged(text: &str, qtype: u16, flags: u16, dnssec_ok: bool) -> Vec<u8> {
    let mut message = query(rand::random(), text, qtype, Some((1232, dnssec_ok)));
    let [high, low] = flags.to_be_bytes();
    message[2] |= high;
    message[3] |= low;
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn ad_goes_to_those_who_ask_for_it_and_signatures_to_those_with_do() {
    let (upstream, anchor, _) = internet().await;
    let world = world(&upstream, &anchor).await;
    // Forwarded, then from the cache.
    for _ in 0..2 {
        for text in ["www.test", "alias.test", "www.plain.test", "out.test", "none.test"] {
            let secure = !["www.plain.test", "out.test"].contains(&text);
            for (flags, dnssec_ok) in [(0, false), (AD, false), (0, true), (AD, true)] {
                let seen = world.exchange(flagged(text, 1, flags, dnssec_ok)).await.unwrap();
                assert_eq!(seen.flags & AD != 0, secure && (flags != 0 || dnssec_ok), "{text} {flags} {dnssec_ok}");
                assert_eq!(seen.rcode, if text == "none.test" { 3 } else { 0 });
                let signed = seen.answers.iter().chain(&seen.authority).any(|(_, kind, ..)| (46..=50).contains(kind));
                assert_eq!(signed, dnssec_ok && text != "www.plain.test", "{text} {dnssec_ok}: {seen:?}");
                assert_eq!(seen.edns, Some((1232, dnssec_ok)));
                assert_eq!(seen.addresses().len(), usize::from(text != "none.test"));
            }
        }
        // Without EDNS and without AD nothing is said of it.
        let bare = world.exchange(query(7, "www.test", 1, None)).await.unwrap();
        assert_eq!((bare.flags & AD, bare.addresses().len()), (0, 1));
    }
    assert!(world.enforced.is_open("192.0.2.1") && world.enforced.is_open("192.0.2.2"));
    for message in upstream.queries.lock().unwrap().iter() {
        let (seen, (text, _)) = (read(message), asked(message));
        assert_eq!(seen.edns.map(|(_, dnssec_ok)| dnssec_ok), Some(true), "{text}");
        assert_eq!(seen.flags & CD, CD, "{text}: the guard judges by itself");
    }
    assert_eq!(world.metric("dns_dnssec_answers_total{outcome=\"bogus\"}"), 0);
    // Each is asked for without and with DO, and prefetching may ask again.
    assert!(world.metric("dns_dnssec_answers_total{outcome=\"secure\"}") >= 6);
    assert!(world.metric("dns_dnssec_answers_total{outcome=\"insecure\"}") >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bogus_opens_nothing_whatever_the_client_says() {
    let (upstream, anchor, tampered) = internet().await;
    let world = world(&upstream, &anchor).await;
    tampered.store(true, Ordering::SeqCst);
    for (flags, dnssec_ok) in [(0, false), (AD, false), (0, true), (CD, false), (CD | AD, true)] {
        for text in ["www.test", "alias.test"] {
            let seen = world.exchange(flagged(text, 1, flags, dnssec_ok)).await.unwrap();
            assert_eq!((seen.rcode, seen.answers.len(), seen.flags & AD), (2, 0, 0), "{text} {flags}");
            let (code, words) = seen.ede.unwrap();
            assert_eq!((code, &words[..]), (6, "the signature of A www.test is wrong"));
            assert_eq!(seen.flags & CD, flags & CD);
        }
    }
    // Without address CD gives what came, and what it gave is not what others get.
    for _ in 0..2 {
        let unchecked = world.exchange(flagged("text.test", TXT, CD, false)).await.unwrap();
        assert_eq!((unchecked.rcode, unchecked.answers.len(), unchecked.flags & AD), (0, 1, 0));
        let checked = world.exchange(flagged("text.test", TXT, 0, false)).await.unwrap();
        assert_eq!((checked.rcode, checked.ede.map(|(code, _)| code)), (2, Some(6)));
    }
    // What isn't signed can't be told from what is right.
    assert_eq!(world.ask("www.plain.test", 1).await.addresses().len(), 1);
    assert_eq!(world.enforced.opened.load(Ordering::SeqCst), 1);
    assert!(!world.enforced.is_open("192.0.2.65"));
    assert!(world.label("dns_refused_questions_total", "bogus") >= 10);
    assert!(world.metric("dns_dnssec_answers_total{outcome=\"bogus\"}") >= 3);
    let refused = world.refused();
    let line = ("question".to_owned(), "www.test".to_owned());
    let bogus = refused.iter().find(|(_, what, reason, _)| what.contains(&line.1) && reason.starts_with("bogus: "));
    assert!(bogus.is_some(), "{refused:?}");
    // It passes when it is right again, within seconds.
    tampered.store(false, Ordering::SeqCst);
    let end = std::time::Instant::now() + PATIENCE;
    while world.ask("www.test", 1).await.rcode != 0 {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(world.enforced.is_open("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_validation_nothing_is_said_to_be_authentic() {
    let (upstream, _, tampered) = internet().await;
    let world =
        World::with(config(&[&upstream], "[[policy.private]]\ndomain = \"test\"\nprefixes = [\"192.0.2.0/24\"]\n"))
            .await;
    tampered.store(true, Ordering::SeqCst);
    let seen = world.exchange(flagged("www.test", 1, AD | CD, true)).await.unwrap();
    assert_eq!((seen.rcode, seen.flags & AD, seen.addresses().len()), (0, 0, 1));
    assert_eq!(upstream.count(), 1, "no keys are asked for");
    let first = upstream.queries.lock().unwrap()[0].clone();
    assert_eq!(read(&first).flags & CD, 0, "the upstream's own validation stays");
}

/// One upstream that lies, whichever it is, takes no name away; two do, and nothing is opened.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_lies_is_not_the_last_that_is_asked() {
    for liar in 0..2 {
        let (upstreams, anchor) = internets(2).await;
        let both: Vec<&Upstream> = upstreams.iter().map(|(upstream, _)| upstream).collect();
        let world = world_of(&both, &anchor).await;
        upstreams[liar].1.store(true, Ordering::SeqCst);
        for text in ["www.test", "alias.test"] {
            let seen = world.exchange(flagged(text, 1, AD, false)).await.unwrap();
            assert_eq!((seen.rcode, seen.addresses().len()), (0, 1), "{text}: {:?}", seen.ede);
            assert_eq!(seen.flags & AD, AD);
        }
        assert!(world.enforced.is_open("192.0.2.1") && !world.enforced.is_open("192.0.2.65"));
        upstreams[1 - liar].1.store(true, Ordering::SeqCst);
        let before = both.iter().map(|upstream| upstream.queries.lock().unwrap().len()).sum::<usize>();
        let seen = world.exchange(flagged("text.test", TXT, 0, false)).await.unwrap();
        let after = both.iter().map(|upstream| upstream.queries.lock().unwrap().len()).sum::<usize>();
        assert_eq!((seen.rcode, seen.ede.unwrap().0), (2, 6));
        assert!(after - before <= 6, "of anyone, of each; and once more where one was slow: {}", after - before);
        assert_eq!(world.enforced.opened.load(Ordering::SeqCst), 1);
        assert!(world.metric("dns_dnssec_retries_total") >= 2);
    }
}

/// CVE-2023-50387 from one client, beside another who asks for what is right: every question of either is answered, and what is wrong costs each time
/// no more than its bound, of one upstream.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_is_dear_to_check_takes_nobodys_answers() {
    const MANY: usize = 30;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
    let mut root = Zone::new(".", Some(Denial::Nsec));
    let mut test = Zone::new("test", Some(Denial::Nsec));
    let mut evil = Zone::new("nsec.test", Some(Denial::Nsec));
    for number in 0..MANY {
        test.address(&format!("good{number}.test"), 1);
        evil.address(&format!("x{number}.nsec.test"), 2);
    }
    bounds::collide(&mut evil);
    test.delegate(&evil);
    root.delegate(&test);
    for zone in [&mut root, &mut test, &mut evil] {
        zone.window = (now - DAY, now + DAY);
    }
    let ds = root.ds();
    let digest: String = ds[4..].iter().map(|octet| format!("{octet:02X}")).collect();
    let anchor = format!(". IN DS {} {} {} {digest}", u16::from_be_bytes([ds[0], ds[1]]), ds[2], ds[3]);
    let net = Arc::new(Internet::new(vec![root, test, evil]));
    let hostile = || {
        let net = net.clone();
        Upstream::new(move |message, _| {
            let (text, qtype) = asked(message);
            let name = if text.is_empty() { name(".") } else { name(&text) };
            let mut reply = net.reply(&Query {
                name,
                qtype,
                dnssec_ok: true,
                checking_disabled: false,
                plain: false,
                whose: crate::core::client::Claim::NOBODY,
            });
            if qtype == 1 && text.ends_with("nsec.test") {
                bounds::multiply(&mut reply, 1);
            }
            let sections = [(0, &reply.answer), (1, &reply.authority)];
            let records: Vec<super::harness::Rr> = sections
                .into_iter()
                .flat_map(|(section, list)| list.iter().map(move |rr| scripted(section, rr)))
                .collect();
            Act::Send(vec![response(message, reply.rcode, &records)])
        })
    };
    let (one, other) = (hostile().await, hostile().await);
    let world = Arc::new(world_of(&[&one, &other], &anchor).await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..MANY {
        for (text, from) in
            [(format!("x{number}.nsec.test"), "127.0.0.2:0"), (format!("good{number}.test"), "127.0.0.3:0")]
        {
            let world = world.clone();
            tasks.spawn(async move {
                let socket = tokio::net::UdpSocket::bind(from).await.unwrap();
                socket.send_to(&flagged(&text, 1, AD, false), world.address).await.unwrap();
                let mut buffer = [0; 2048];
                let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect(&text).unwrap();
                (text, read(&buffer[..len]))
            });
        }
    }
    for (text, seen) in tasks.join_all().await {
        if text.starts_with("good") {
            assert_eq!((seen.rcode, seen.addresses().len(), seen.flags & AD), (0, 1, AD), "{text}: {:?}", seen.ede);
        } else {
            let told = seen.ede.unwrap();
            assert_eq!((seen.rcode, &told.1[..]), (2, "too many wrong signatures for one answer"), "{text}");
        }
    }
    assert_eq!(world.metric("dns_dnssec_limited_total"), MANY as u64);
    assert_eq!(world.metric("dns_dnssec_signatures_wrong_total"), 16 * MANY as u64);
    assert_eq!(world.metric("dns_dnssec_retries_total"), 0, "nobody else is asked");
    assert_eq!(world.label("dns_refused_questions_total", "dnssec_limit"), MANY as u64);
    // It is kept: to ask again costs nothing.
    let again = world.exchange(flagged("x0.nsec.test", 1, 0, false)).await.unwrap();
    assert_eq!((again.rcode, again.ede.unwrap().0), (2, 6));
    assert_eq!(world.metric("dns_dnssec_limited_total"), MANY as u64);
}
