//! Local zones: what is answered from them, what of it is opened, and what they have no say in.

use super::harness::*;
use crate::core::policy::view::Whose;

const LAN: &str = "[addresses]\ninside = [\"10.0.0.0/8\"]\nnever = [\"20.9.9.9\"]\n";

fn zone(name: &str, records: &str) -> String {
    format!("[[dns.zone]]\nname = \"{name}\"\nrecords = [{records}]\n")
}

fn home() -> String {
    zone(
        "home.arpa",
        r#""nas A 192.168.5.7", "pc A 10.1.2.3", "www CNAME nas", "out CNAME cdn.test.", "loop CNAME pool", "pool CNAME loop",
        "pub A 20.1.1.1", "never A 20.9.9.9", "me A 127.0.0.5", "*.dev A 192.168.5.8", "a.b.dev A 192.168.5.9", "bad CNAME evil.test.""#,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_is_answered_here_and_opens_what_it_names() {
    let upstream = Upstream::table(&[("cdn.test", 60, &["20.2.2.2"])]).await;
    let world = World::with(config(&[&upstream], &format!("{LAN}{}", home()))).await;
    let ask = async |name: &str| world.ask(name, 1).await;
    let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<std::net::IpAddr>>();

    // Outside the network: leased, though the registries would keep it closed.
    let seen = ask("NAS.home.arpa").await;
    assert_eq!((seen.rcode, seen.addresses()), (0, addresses(&["192.168.5.7"])), "{seen:?}");
    assert_eq!(seen.flags & 0x20, 0, "nobody validated it");
    assert!(world.enforced.is_open("192.168.5.7"));
    let seen = ask("www.home.arpa").await;
    assert_eq!((seen.answers.len(), seen.addresses()), (2, addresses(&["192.168.5.7"])));
    assert_eq!(ask("pub.home.arpa").await.addresses(), addresses(&["20.1.1.1"]));
    assert!(world.enforced.is_open("20.1.1.1"));
    // Within the network or the client itself: told, and not leased.
    assert_eq!(ask("pc.home.arpa").await.addresses(), addresses(&["10.1.2.3"]));
    assert_eq!(ask("me.home.arpa").await.addresses(), addresses(&["127.0.0.5"]));
    assert!(!world.enforced.is_open("10.1.2.3") && !world.enforced.is_open("127.0.0.5"));
    // What is never to be opened isn't.
    let seen = ask("never.home.arpa").await;
    assert_eq!((seen.addresses().len(), seen.ede.unwrap().0), (0, 17));
    assert!(!world.enforced.is_open("20.9.9.9"));
    assert_eq!(upstream.count(), 0, "nobody was asked");

    // An alias leads out; the upstream is asked for its end alone.
    let seen = ask("out.home.arpa").await;
    assert_eq!((seen.answers.len(), seen.addresses()), (2, addresses(&["20.2.2.2"])), "{seen:?}");
    assert!(world.enforced.is_open("20.2.2.2"));
    assert_eq!((upstream.count(), asked(&upstream.queries.lock().unwrap()[0])), (1, ("cdn.test".to_owned(), 1)));
    assert_eq!(ask("bad.home.arpa").await.rcode, 3, "there is no such name at its end");
    assert_eq!(ask("loop.home.arpa").await.rcode, 2);
    // Other names are asked for as ever.
    assert_eq!(ask("cdn.test").await.addresses(), addresses(&["20.2.2.2"]));
    assert_eq!(ask("other.test").await.rcode, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_zone_has_not_is_said_with_its_soa() {
    let upstream =
        Upstream::new(|query, _| Act::Send(vec![response(query, 0, &[a(&asked(query).0, 60, "20.1.1.1")])])).await;
    let world = World::with(config(&[&upstream], &format!("{LAN}{}", home()))).await;
    for (name, qtype, rcode, records) in [
        ("nas.home.arpa", 28, 0, 0),
        ("home.arpa", 1, 0, 0),
        ("nobody.home.arpa", 1, 3, 0),
        ("x.nas.home.arpa", 1, 3, 0),
        // RFC 4592: names that exist, and those below them, are none of the wildcard's business.
        ("x.y.dev.home.arpa", 1, 0, 1),
        ("dev.home.arpa", 1, 0, 0),
        ("b.dev.home.arpa", 1, 0, 0),
        ("x.b.dev.home.arpa", 1, 3, 0),
        ("x.dev.home.arpa", 28, 0, 0),
        ("home.arpa", 43, 0, 0),
        // Its address has no other data.
        ("7.5.168.192.in-addr.arpa", 12, 0, 1),
        ("7.5.168.192.in-addr.arpa", 1, 0, 0),
    ] {
        for _ in 0..2 {
            let seen = world.ask(name, qtype).await;
            assert_eq!((seen.rcode, seen.answers.len()), (rcode, records), "{name} {qtype}: {seen:?}");
            let soa = seen.authority.iter().filter(|(_, kind, ttl, _)| *kind == 6 && *ttl == 60).count();
            assert_eq!(soa, usize::from(records == 0), "{name} {qtype}: {seen:?}");
        }
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(world.ask("home.arpa", 252).await.rcode, 5, "no zone is transferred");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_judges_names_of_zones_too() {
    let upstream = Upstream::table(&[("evil.test", 60, &["20.2.2.2"])]).await;
    let more = "[policy]\ndeny = [\"nas.home.arpa\", \"=evil.test\"]\n";
    let mut config = config(&[&upstream], "");
    let other: crate::config::Config = toml::from_str(&format!("{more}{}", home())).unwrap();
    config.policy.deny = other.policy.deny;
    config.dns.zone = other.dns.zone;
    let world = World::with(config).await;
    for name in ["nas.home.arpa", "www.home.arpa", "bad.home.arpa"] {
        let seen = world.ask(name, 1).await;
        assert_eq!((seen.rcode, seen.answers.len(), seen.ede.unwrap().0), (3, 0, 15), "{name}");
    }
    assert!(world.enforced.open.lock().unwrap().is_empty());
    assert_eq!(upstream.count(), 0, "a denied name is not asked for");
}

/// A name outside may lead into a zone, which then answers; but it can't have its addresses opened (rebinding).
#[tokio::test(flavor = "multi_thread")]
async fn others_can_lead_to_a_zone_and_not_to_what_it_alone_may_open() {
    let upstream = Upstream::new(|query, _| {
        let name = asked(query).0;
        let records = match name.as_str() {
            "to-nas.test" => vec![cname(&name, 60, "nas.home.arpa"), a("nas.home.arpa", 60, "20.6.6.6")],
            "to-pub.test" => vec![cname(&name, 60, "pub.home.arpa"), a("pub.home.arpa", 60, "20.6.6.6")],
            "lone.test" => vec![cname(&name, 60, "pub.home.arpa")],
            _ => vec![a(&name, 60, "192.168.5.7")],
        };
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let more = zone("lan.test", "\"far A 192.168.5.7\", \"via CNAME nas.home.arpa.\", \"off CNAME rebind.test.\"");
    let world = World::with(config(&[&upstream], &format!("{LAN}{}{more}", home()))).await;
    // The upstream has no say in what stands in the zone.
    for name in ["to-pub.test", "lone.test"] {
        let seen = world.ask(name, 1).await;
        assert_eq!(seen.addresses(), ["20.1.1.1".parse::<std::net::IpAddr>().unwrap()], "{name}: {seen:?}");
    }
    for name in ["to-nas.test", "rebind.test", "off.lan.test"] {
        let seen = world.ask(name, 1).await;
        assert_eq!(
            (seen.addresses().len(), seen.ede.as_ref().map(|(code, _)| *code)),
            (0, Some(17)),
            "{name}: {seen:?}"
        );
    }
    assert!(!world.enforced.is_open("192.168.5.7") && !world.enforced.is_open("20.6.6.6"));
    // From zone to zone.
    assert_eq!(world.ask("via.lan.test", 1).await.addresses().len(), 1);
    assert!(world.enforced.is_open("192.168.5.7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_for_a_domain_below_is_asked() {
    let everything = Upstream::table(&[]).await;
    let lab =
        Upstream::new(|query, _| Act::Send(vec![response(query, 0, &[a(&asked(query).0, 60, "20.3.3.3")])])).await;
    let mut config = config(&[&everything, &lab], &format!("{LAN}{}", home()));
    config.dns.upstream[1].domains = vec!["lab.home.arpa".to_owned()];
    let world = World::with(config).await;
    assert_eq!(world.ask("x.lab.home.arpa", 1).await.addresses().len(), 1);
    assert_eq!(world.ask("x.lab2.home.arpa", 1).await.rcode, 3);
    assert_eq!((lab.count(), everything.count()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_records_are_in_force_at_once() {
    let upstream = Upstream::table(&[("new.test", 600, &["20.4.4.4"])]).await;
    let base = config(&[&upstream], LAN);
    let world = World::with(base.clone()).await;
    let with = |records: &str| {
        let mut config = base.clone();
        config.dns.zone = vec![toml::from_str(&format!("name = \"new.test\"\nrecords = [{records}]\n")).unwrap()];
        std::sync::Arc::new(rules(&config))
    };
    let address = async || world.ask("new.test", 1).await.addresses()[0].to_string();
    assert_eq!(address().await, "20.4.4.4");
    world.rules.store(with("\"@ 600 A 20.5.5.5\""));
    assert_eq!(address().await, "20.5.5.5", "what was kept counts no more");
    world.rules.store(with("\"@ 600 A 20.5.5.6\""));
    assert_eq!(address().await, "20.5.5.6");
    world.rules.store(std::sync::Arc::new(rules(&base)));
    assert_eq!(address().await, "20.4.4.4");
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_are_insecure_where_others_are_validated() {
    let upstream = Upstream::new(|query, _| {
        let name = asked(query).0;
        let records = match name.as_str() {
            "lone.test" => vec![cname(&name, 60, "pub.home.arpa")],
            _ => vec![a(&name, 60, "20.2.2.2")],
        };
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let more = format!("{LAN}[dns.dnssec]\nvalidate = true\ninsecure = [\"test\"]\n{}", home());
    let world = World::with(config(&[&upstream], &more)).await;
    for (name, address) in [("pub.home.arpa", "20.1.1.1"), ("out.home.arpa", "20.2.2.2"), ("lone.test", "20.1.1.1")] {
        let message = query(rand::random(), name, 1, Some((1232, true)));
        let seen = world.exchange(message).await.unwrap();
        assert_eq!(seen.addresses(), [address.parse::<std::net::IpAddr>().unwrap()], "{name}: {seen:?}");
        assert_eq!(seen.flags & 0x20, 0, "{name}");
    }
    // The public tree is asked of others.
    assert_eq!(world.ask("signed.example", 1).await.rcode, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_ask_leads_there() {
    let upstream = Upstream::table(&[("cdn.test", 60, &["20.2.2.2"])]).await;
    let world = World::with(config(&[&upstream], &format!("{LAN}{}", home()))).await;
    let seen = world.ask_tcp(&[query(1, "www.home.arpa", 1, None), query(2, "out.home.arpa", 1, None)]).await;
    assert!(seen.iter().all(|seen| seen.addresses().len() == 1), "{seen:?}");
    let view = world.running.view();
    let tried = view.try_question(&"x.dev.home.arpa".parse().unwrap(), 1, Whose::default()).await;
    assert_eq!(tried.opened, ["192.168.5.8".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!world.enforced.is_open("192.168.5.8"), "that was a mere try");
    let opened = view.open_unasked(None, &"nas.home.arpa".parse().unwrap()).await.unwrap();
    assert_eq!(opened.addresses, ["192.168.5.7".parse::<std::net::IpAddr>().unwrap()]);

    // In audit too; what would be refused is only noted.
    let mut base = config(&[&upstream], &format!("{LAN}{}", home()));
    base.mode = crate::config::schema::Mode::Audit;
    base.policy.deny = vec!["nas.home.arpa".to_owned()];
    let world = World::with(base).await;
    assert_eq!(world.ask("nas.home.arpa", 1).await.addresses().len(), 1);
    assert_eq!(world.ask("nobody.home.arpa", 1).await.rcode, 3);
    assert!(world.refused().iter().any(|(_, what, ..)| what.starts_with("nas.home.arpa")), "{:?}", world.refused());
}
