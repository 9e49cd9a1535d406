//! Answers beyond their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::harness::*;
use crate::core::event::{Event, RevokeTarget};

/// Answers until the switch is on: an address for "name.example", none for "gone.example".
async fn mortal() -> (Upstream, Arc<AtomicBool>) {
    let dead = Arc::new(AtomicBool::new(false));
    let switch = dead.clone();
    let upstream = Upstream::new(move |query, _| {
        if switch.load(Ordering::SeqCst) {
            return Act::Silence;
        }
        let (name, _) = asked(query);
        Act::Send(vec![match name.as_str() {
            "name.example" => response(query, 0, &[a(&name, 1, "192.0.2.1")]),
            _ => response(query, 3, &[soa("example", 1, 1)]),
        }])
    })
    .await;
    (upstream, dead)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_upstream_an_ended_answer_is_given_while_its_addresses_are_open() {
    let (upstream, dead) = mortal().await;
    let world = World::with(config(&[&upstream], "[dns.cache]\nserve_stale = \"1h\"\n")).await;
    assert_eq!(world.ask("name.example", 1).await.addresses().len(), 1);
    assert_eq!(world.ask("gone.example", 1).await.rcode, 3);
    let end = world.enforced.open.lock().unwrap().clone();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // As long as an upstream answers, it is asked.
    assert_eq!(world.ask("gone.example", 1).await.ede, None);
    dead.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (name, gone) = tokio::join!(world.ask("name.example", 1), world.ask("gone.example", 1));
    assert_eq!((name.rcode, name.addresses().len(), name.ede.as_ref().map(|(code, _)| *code)), (0, 1, Some(3)));
    assert!((1..=30).contains(&name.answers[0].2), "{name:?}");
    assert_eq!((gone.rcode, gone.ede.map(|(code, _)| code)), (3, Some(19)));
    // The next one doesn't wait for the upstream.
    let before = upstream.count();
    assert_eq!(world.ask("name.example", 1).await.ede.map(|(code, _)| code), Some(3));
    assert_eq!(upstream.count(), before);
    // Nothing was opened for it, and nothing stays open longer.
    assert_eq!(*world.enforced.open.lock().unwrap(), end);
    assert_eq!(world.metric("dns_answers_stale_total"), 2);
    // Closed is closed.
    world.core.tell(Event::Revoke(RevokeTarget::Address("192.0.2.1".parse().unwrap()))).await.unwrap();
    until("closed", || !world.enforced.is_open("192.0.2.1")).await;
    let seen = world.ask("name.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(22)));
    assert!(!world.enforced.is_open("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_answers_have_an_end_and_are_off_unless_asked_for() {
    for (more, expected) in [("", [2, 2]), ("[dns.cache]\nserve_stale = \"3s\"\n", [3, 2])] {
        let (upstream, dead) = mortal().await;
        let world = World::with(config(&[&upstream], more)).await;
        assert_eq!(world.ask("gone.example", 1).await.rcode, 3);
        dead.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(world.ask("gone.example", 1).await.rcode, expected[0], "{more}");
        world.rules.store(Arc::new(rules(&world.config)));
        // Judged by rules that are no more.
        assert_eq!(world.ask("gone.example", 1).await.rcode, expected[1], "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_itself_refreshes_nothing() {
    // RFC 8767 section 4: an upstream whose own servers are gone says SERVFAIL or REFUSED; only NOERROR and NXDOMAIN are news.
    for code in [2, 5] {
        let dead = Arc::new(AtomicBool::new(false));
        let switch = dead.clone();
        let upstream = Upstream::new(move |query, _| {
            let (name, _) = asked(query);
            let failed = switch.load(Ordering::SeqCst);
            let records = [a(&name, 1, "192.0.2.1")];
            Act::Send(vec![if failed { response(query, code, &[]) } else { response(query, 0, &records) }])
        })
        .await;
        let world = World::with(config(&[&upstream], "[dns.cache]\nserve_stale = \"1h\"\n")).await;
        assert_eq!(world.ask("name.example", 1).await.addresses().len(), 1);
        dead.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let seen = world.ask("name.example", 1).await;
        assert_eq!((seen.rcode, seen.addresses().len(), seen.ede.map(|(code, _)| code)), (0, 1, Some(3)), "{code}");
        // What was never known has nothing to be given instead.
        assert_eq!(world.ask("other.example", 1).await.rcode, 2);
    }
}
