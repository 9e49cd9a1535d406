//! Names that are answered without an upstream, and addresses that lead past the guard.

use super::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn special_names_never_reach_the_upstream_and_open_nothing() {
    let upstream =
        Upstream::new(|query, _| Act::Send(vec![response(query, 0, &[a(&asked(query).0, 60, "192.0.2.1")])])).await;
    // Everything else is denied, and these are answered all the same.
    let world = World::with(config(&[&upstream], "[policy]\ndefault = \"deny\"\n")).await;
    for name in ["use-application-dns.net", "mask.icloud.com", "x.onion", "tv.local", "1.0.168.192.in-addr.arpa"] {
        for _ in 0..2 {
            let seen = world.ask(name, 1).await;
            let shape =
                (seen.rcode, seen.answers.len(), seen.authority.len(), seen.ede.as_ref().map(|(code, _)| *code));
            assert_eq!(shape, (3, 0, 1, Some(29)), "{name}: {seen:?}");
        }
    }
    let seen = world.ask("LocalHost", 28).await;
    assert_eq!((seen.rcode, seen.addresses()), (0, vec!["::1".parse().unwrap()]));
    let seen = world.ask("localhost", 1).await;
    assert_eq!((seen.rcode, seen.addresses()), (0, vec!["127.0.0.1".parse().unwrap()]));
    let seen = world.ask("_dns.resolver.arpa", 64).await;
    assert_eq!((seen.rcode, seen.answers.len()), (0, 0));
    assert_eq!(upstream.count(), 0);
    assert!(world.enforced.open.lock().unwrap().is_empty());
    assert_eq!(world.metric("dns_answers_local_total"), 12, "resolver.arpa is answered elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn special_names_go_to_the_upstream_that_is_configured_for_them() {
    let everything = Upstream::table(&[]).await;
    let home = Upstream::new(|query, _| {
        Act::Send(vec![response(query, 0, &[rr(&asked(query).0, 12, 60, &wire("nas.home.arpa"))])])
    })
    .await;
    let mut config = config(&[&everything, &home], "");
    config.dns.upstream[1].domains = vec!["home.arpa".to_owned(), "168.192.in-addr.arpa".to_owned()];
    let world = World::with(config).await;
    assert_eq!(world.ask("1.0.168.192.in-addr.arpa", 12).await.answers.len(), 1);
    assert_eq!(world.ask("nas.home.arpa", 12).await.answers.len(), 1);
    assert_eq!(world.ask("1.0.0.10.in-addr.arpa", 12).await.rcode, 3);
    // A lab's own top-level domain is nobody's business but the lab's.
    assert_eq!(world.ask("lab.test", 1).await.rcode, 3);
    assert_eq!((home.count(), everything.count()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_leads_to_a_public_resolver_is_filtered() {
    let upstream =
        Upstream::table(&[("dns.google", 60, &["8.8.8.8", "8.8.4.4"]), ("innocent.net", 60, &["20.1.1.1", "1.1.1.1"])])
            .await;
    let world = World::with(config(&[&upstream], "")).await;
    let seen = world.ask("dns.google", 1).await;
    let (code, words) = seen.ede.unwrap();
    assert_eq!((seen.rcode, seen.answers.len(), code), (0, 0, 17));
    assert!(words.contains("public resolver of Google"), "{words}");
    let seen = world.ask("innocent.net", 1).await;
    assert_eq!(seen.addresses(), ["20.1.1.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(world.enforced.is_open("20.1.1.1") && world.enforced.open.lock().unwrap().len() == 1);
    assert!(world.refused().iter().any(|(kind, what, ..)| kind == "address" && what == "dns.google A"));
    let world = World::with(config(&[&upstream], "[addresses]\npublic_resolvers = \"allow\"\n")).await;
    assert_eq!(world.ask("dns.google", 1).await.addresses().len(), 2);
}
