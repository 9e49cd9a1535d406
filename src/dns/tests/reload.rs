//! What a reload changes of the resolver while questions are on their way.

use super::harness::*;
use crate::dns::*;

/// Puts another configuration in force as the daemon does.
fn change(world: &World, config: &Config) {
    let view = world.running.view();
    let change = view.prepare(config).unwrap();
    drop(view.switch(change));
    world.rules.store(Arc::new(rules(config)));
}

/// Says so for every name, after a while.
async fn saying(address: &'static str, after: Duration) -> Upstream {
    Upstream::new(move |query, _| {
        let (name, qtype) = asked(query);
        let records = if qtype == 1 { vec![a(&name, 300, address)] } else { vec![] };
        match response(query, 0, &records) {
            reply if after.is_zero() => Act::Send(vec![reply]),
            reply => Act::Later(after, reply),
        }
    })
    .await
}

const AT_ONCE: Duration = Duration::ZERO;
/// Longer than a reload takes, and short enough for one attempt.
const SLOW: Duration = Duration::from_millis(300);

fn addresses(seen: &Seen) -> Vec<String> {
    seen.addresses().iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_upstreams_are_asked_at_once_and_what_the_old_ones_said_is_forgotten() {
    let (old, new) = (saying("192.0.2.1", AT_ONCE).await, saying("192.0.2.2", AT_ONCE).await);
    let world = World::new(&[&old]).await;
    assert_eq!(addresses(&world.ask("www.example", 1).await), ["192.0.2.1"]);
    change(&world, &config(&[&new], ""));
    assert_eq!(addresses(&world.ask("www.example", 1).await), ["192.0.2.2"]);
    assert_eq!((old.count(), new.count()), (1, 1));
    assert_eq!(world.running.status().upstreams.len(), 1);
    let metrics = crate::metrics::encode(&world.registry).unwrap();
    assert!(metrics.contains(&new.url()) && !metrics.contains(&old.url()), "who is gone is not shown");
    // Over TCP likewise, and for one domain alone.
    let mut divided = config(&[&new, &old], "");
    divided.dns.upstream[1].domains = vec!["inside.example".to_owned()];
    change(&world, &divided);
    let questions = ["a.inside.example", "b.example"].map(|name| query(1, name, 1, EDNS));
    for question in questions {
        let seen = world.ask_tcp(std::slice::from_ref(&question)).await;
        let inside = asked(&question).0.contains("inside");
        assert_eq!(addresses(&seen[0]), [if inside { "192.0.2.1" } else { "192.0.2.2" }]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_with_the_upstream_that_it_began_with_and_is_kept_for_nobody() {
    let (old, new) = (saying("192.0.2.1", SLOW).await, saying("192.0.2.2", AT_ONCE).await);
    let world = World::new(&[&old]).await;
    // Over UDP the worker asks; over TCP a task does.
    let begun = async {
        let udp = world.ask("udp.example", 1);
        let queries = [query(1, "tcp.example", 1, EDNS)];
        let tcp = world.ask_tcp(&queries);
        let (udp, tcp) = tokio::join!(udp, tcp);
        [udp, tcp.into_iter().next().unwrap()]
    };
    let behind = async {
        until("both are asked", || old.count() >= 2).await;
        change(&world, &config(&[&new], ""));
        // Who asks now doesn't wait for what was asked of the old one.
        for name in ["udp.example", "tcp.example"] {
            assert_eq!(addresses(&world.ask(name, 1).await), ["192.0.2.2"], "{name}");
        }
    };
    let (begun, ()) = tokio::join!(begun, behind);
    for seen in begun {
        assert_eq!((seen.rcode, addresses(&seen)), (0, vec!["192.0.2.1".to_owned()]));
    }
    for name in ["udp.example", "tcp.example"] {
        assert_eq!(addresses(&world.ask(name, 1).await), ["192.0.2.2"], "{name}: what came late is not kept");
    }
    assert_eq!(world.metric("dns_questions_in_flight"), 0, "nobody is left waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stays_keeps_what_is_known_of_it() {
    let (one, two) = (saying("192.0.2.1", AT_ONCE).await, saying("192.0.2.2", AT_ONCE).await);
    let world = World::new(&[&one]).await;
    for number in 0..5 {
        world.ask(&format!("n{number}.example"), 1).await;
    }
    let before = world.running.status().upstreams[0].clone();
    let mut both = config(&[&two, &one], "");
    both.dns.upstream[1].domains = vec!["one.example".to_owned()];
    change(&world, &both);
    let after = world.running.status().upstreams;
    assert_eq!((after[0].queries, after[0].rtt), (0, None), "the new one");
    assert_eq!((after[1].queries, after[1].rtt), (before.queries, before.rtt), "the one that stays");
    assert_eq!(addresses(&world.ask("www.one.example", 1).await), ["192.0.2.1"]);
    assert_eq!(addresses(&world.ask("www.example", 1).await), ["192.0.2.2"]);
    assert_eq!(world.running.status().upstreams[1].queries, before.queries + 1);
    // What differs in anything else is another one.
    both.dns.upstream[1].url = format!("tcp://{}", one.address);
    change(&world, &both);
    assert_eq!(world.running.status().upstreams[1].queries, 0);
    assert_eq!(addresses(&world.ask("tcp.one.example", 1).await), ["192.0.2.1"]);
    assert!(one.asked_tcp.load(std::sync::atomic::Ordering::SeqCst) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_without_validation_is_not_given_once_it_is_wanted() {
    let upstream = saying("192.0.2.1", SLOW).await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("kept.example", 1).await.rcode, 0);
    let mut validating = config(&[&upstream], "");
    validating.dns.dnssec.validate = true;
    let begun = world.ask("begun.example", 1);
    let behind = async {
        until("it is asked", || upstream.count() >= 2).await;
        change(&world, &validating);
    };
    let (begun, ()) = tokio::join!(begun, behind);
    assert_eq!((begun.rcode, begun.flags & 0x20), (0, 0), "it began before, and nobody says that it is authentic");
    // This upstream signs nothing, not even the root.
    for name in ["kept.example", "begun.example"] {
        let seen = world.ask(name, 1).await;
        assert_eq!((seen.rcode, seen.addresses().len()), (2, 0), "{name}");
    }
    change(&world, &config(&[&upstream], ""));
    for name in ["kept.example", "begun.example"] {
        assert_eq!(world.ask(name, 1).await.rcode, 0, "{name}: what was called bogus is asked again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn smaller_keys_count_from_the_next_question_on() {
    let upstream = saying("192.0.2.1", AT_ONCE).await;
    let world = World::new(&[&upstream]).await;
    for number in 0..100 {
        assert_eq!(world.ask(&format!("n{number}.example"), 1).await.rcode, 0);
    }
    let kept = world.running.status().cache_entries;
    assert!(kept >= 100);
    let mut other = config(&[&upstream], "");
    other.dns.clients = vec!["192.0.2.0/24".parse().unwrap()];
    change(&world, &other);
    assert_eq!(world.ask("n1.example", 1).await.rcode, 5, "also what is kept");
    other.dns.clients = vec!["127.0.0.0/8".parse().unwrap()];
    other.dns.rate_limit = Some("1/h".parse().unwrap());
    change(&world, &other);
    let truncated = async || {
        let mut truncated = false;
        for _ in 0..5 {
            let seen = world.exchange(query(7, "n1.example", 1, EDNS));
            let seen = tokio::time::timeout(Duration::from_millis(500), seen).await;
            truncated |= seen.ok().flatten().is_none_or(|seen| seen.truncated());
        }
        truncated
    };
    assert!(truncated().await, "over the rate");
    change(&world, &other);
    assert!(truncated().await, "the count goes on");
    other.dns.rate_limit = None;
    other.dns.cache.size = crate::config::value::Size(0);
    change(&world, &other);
    assert!(!truncated().await);
    assert_eq!(world.running.status().cache_entries, 0, "the cache has no room any more");
    other.dns.cache.size = crate::config::value::Size(1 << 20);
    change(&world, &other);
    world.ask("again.example", 1).await;
    assert_eq!(world.running.status().cache_entries, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_lists_and_mode_that_change_meanwhile_fail_no_question() {
    let upstream = saying("192.0.2.1", SLOW).await;
    let group = |deny: &str| {
        format!("[[policy.group]]\nname = \"g\"\nclients = [\"127.0.0.0/8\"]\ndeny = [\"{deny}\"]\n[policy]\n")
    };
    let audit = |config: &mut Config| config.mode = schema::Mode::Audit;
    let plain = config(&[&upstream], "");
    let mut audits = config(&[&upstream], &group("denied.example"));
    audit(&mut audits);
    let grouped = config(&[&upstream], &group("denied.example"));
    // What is in force when they ask, and when the answer comes.
    for (before, after, denied) in
        [(&plain, &grouped, 3), (&grouped, &plain, 3), (&audits, &grouped, 3), (&plain, &audits, 0)]
    {
        let world = World::with((*before).clone()).await;
        let asked = upstream.count();
        let queries = [query(1, "tcp.example", 1, EDNS)];
        let questions = async {
            let tcp = world.ask_tcp(&queries);
            let (fine, refused, tcp) = tokio::join!(world.ask("fine.example", 1), world.ask("denied.example", 1), tcp);
            (fine.rcode, refused.rcode, tcp[0].rcode)
        };
        let known = if std::ptr::eq(before, &grouped) { 2 } else { 3 };
        let behind = async {
            until("all are asked", || upstream.count() >= asked + known).await;
            change(&world, after);
        };
        let (rcodes, ()) = tokio::join!(questions, behind);
        assert_eq!(rcodes, (0, denied, 0), "none is told that something failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_had_changes_nothing_and_what_was_switched_goes_back() {
    let (old, new) = (saying("192.0.2.1", AT_ONCE).await, saying("192.0.2.2", AT_ONCE).await);
    let world = World::new(&[&old]).await;
    let view = world.running.view();
    let mut wrong = config(&[&new], "");
    wrong.dns.upstream[0].url = "tls://127.0.0.1".to_owned();
    wrong.dns.upstream[0].ca = Some("/nonexistent/ca.pem".into());
    let error = view.prepare(&wrong).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("dns.upstream") && error.contains("/nonexistent/ca.pem"), "{error}");
    let mut wrong = config(&[&new], "");
    (wrong.dns.dnssec.validate, wrong.dns.dnssec.trust_anchor) = (true, Some("nonsense".to_owned()));
    let error = view.prepare(&wrong).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("trust_anchor"), "{error}");
    assert_eq!(addresses(&world.ask("a.example", 1).await), ["192.0.2.1"]);
    let back = view.switch(view.prepare(&config(&[&new], "")).unwrap());
    assert_eq!(addresses(&world.ask("b.example", 1).await), ["192.0.2.2"]);
    drop(view.switch(back));
    assert_eq!(addresses(&world.ask("c.example", 1).await), ["192.0.2.1"]);
}
