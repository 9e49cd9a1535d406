//! Upstreams that answer with an alias and leave off there.

use std::time::{SystemTime, UNIX_EPOCH};

use super::harness::*;
use crate::dns::resolver::follow::MOST;
use crate::dns::upstream::query::Query;
use crate::dns::validate::tests::zones::{DAY, Denial, Internet, Zone, name};

/// Knows each alias and each address, and never says more than it was asked. "n<number>.long.example" leads to the next number.
async fn terse() -> Upstream {
    Upstream::new(|query, _| {
        let (name, qtype) = asked(query);
        let alias = match name.as_str() {
            "www.example" => Some("pool.example".to_owned()),
            "pool.example" => Some("host.example".to_owned()),
            "tracked.example" => Some("x.tracker.example".to_owned()),
            "inside.net" => Some("db.corp.example".to_owned()),
            "own.example" => Some("printer.local".to_owned()),
            "round.example" => Some("about.example".to_owned()),
            "about.example" => Some("round.example".to_owned()),
            "gone.example" => Some("nobody.example".to_owned()),
            "broken.example" => Some("fails.example".to_owned()),
            "mute.example" => Some("says-nothing.example".to_owned()),
            "empty.example" => Some("nothing.example".to_owned()),
            _ => name
                .split_once(".long.example")
                .map(|(front, _)| format!("n{}.long.example", front[1..].parse::<u32>().unwrap() + 1)),
        };
        let records = match alias {
            Some(target) => vec![cname(&name, 300, &target)],
            None if name == "host.example" && qtype == 1 => {
                vec![a(&name, 60, "192.0.2.1"), a("stray.example", 60, "192.0.2.66")]
            }
            None if name == "x.tracker.example" => vec![a(&name, 60, "192.0.2.2")],
            None if name == "db.corp.example" => vec![a(&name, 60, "10.0.0.5")],
            None => vec![],
        };
        let code = match name.as_str() {
            "nobody.example" => 3,
            "fails.example" => 2,
            _ => 0,
        };
        let soa = matches!(name.as_str(), "nobody.example" | "nothing.example" | "empty.example")
            .then(|| soa("example", 90, 80));
        Act::Send(vec![response(query, code, &[records, soa.into_iter().collect()].concat())])
    })
    .await
}

fn owners(seen: &Seen) -> Vec<(&str, u16)> {
    seen.answers.iter().map(|(owner, kind, ..)| (owner.as_str(), *kind)).collect()
}

fn names(upstream: &Upstream) -> Vec<String> {
    upstream.queries.lock().unwrap().iter().map(|query| asked(query).0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_alone_is_followed_to_its_address() {
    for scheme in ["udp", "tcp"] {
        let upstream = terse().await;
        let mut config = config(&[&upstream], "");
        config.dns.upstream[0].url = format!("{scheme}://{}", upstream.address);
        let world = World::with(config).await;
        for _ in 0..2 {
            let seen = world.ask("www.example", 1).await;
            assert_eq!((seen.rcode, seen.ede.clone()), (0, None), "{scheme}");
            assert_eq!(owners(&seen), [("www.example.", 5), ("pool.example.", 5), ("host.example.", 1)], "{scheme}");
            assert!(world.enforced.is_open("192.0.2.1") && !world.enforced.is_open("192.0.2.66"));
        }
        // The second came from the cache, and each name was asked for once.
        assert_eq!(world.metric("dns_aliases_followed_total"), 2);
        assert_eq!(world.metric("dns_unrelated_records_total"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_at_the_end_of_an_alias_is_the_answer() {
    let upstream = terse().await;
    let world = World::new(&[&upstream]).await;
    for _ in 0..2 {
        // No such name: the code and the SOA are those of the end (RFC 6604), and it is kept by them.
        let seen = world.ask("gone.example", 1).await;
        assert_eq!((seen.rcode, owners(&seen)), (3, vec![("gone.example.", 5)]));
        assert_eq!(seen.authority[0].2, 80);
        // With the SOA beside the alias it is said already.
        let seen = world.ask("empty.example", 1).await;
        assert_eq!((seen.rcode, owners(&seen)), (0, vec![("empty.example.", 5)]));
    }
    assert_eq!(names(&upstream), ["gone.example", "nobody.example", "empty.example"]);
    // Nothing is said at all: no such data, and nothing to keep it by.
    let seen = world.ask("mute.example", 1).await;
    assert_eq!((seen.rcode, owners(&seen)), (0, vec![("mute.example.", 5)]));
    assert_eq!(world.ask("broken.example", 1).await.rcode, 2);
    // Who asks for the alias itself gets it.
    let before = upstream.count();
    assert_eq!(owners(&world.ask("www.example", 5).await), [("www.example.", 5)]);
    assert_eq!(upstream.count(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_without_end_are_given_up() {
    let upstream = terse().await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("n1.long.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(24)));
    assert_eq!(upstream.count(), 1 + MOST);
    let seen = world.ask("round.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(24)));
    assert_eq!(upstream.count(), 1 + MOST + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_alias_leads_is_judged_before_it_is_asked_for() {
    let (upstream, corp) = (terse().await, terse().await);
    let mut config = config(
        &[&upstream, &corp],
        "[policy]\ndeny = [\"tracker.example\"]\n[[policy.private]]\ndomain = \"corp.example\"\nprefixes = [\"10.0.0.0/8\"]\n",
    );
    config.dns.upstream[1].domains = vec!["corp.example".to_owned()];
    let world = World::with(config).await;
    let seen = world.ask("tracked.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (3, Some(15)));
    // A special-use name is nobody's to be asked for.
    let seen = world.ask("own.example", 1).await;
    assert_eq!((seen.rcode, owners(&seen)), (0, vec![("own.example.", 5)]));
    assert_eq!(names(&upstream), ["tracked.example", "own.example"]);
    // Another's alias into the private domain goes to that domain's servers, and opens nothing in it.
    let seen = world.ask("inside.net", 1).await;
    assert_eq!((seen.rcode, seen.answers.len(), seen.ede.map(|(code, _)| code)), (0, 0, Some(17)));
    assert_eq!(names(&corp), ["db.corp.example"]);
    assert!(world.enforced.open.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_joined_is_validated_as_a_whole() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
    let mut root = Zone::new(".", Some(Denial::Nsec));
    let mut test = Zone::new("test", Some(Denial::Nsec));
    test.address("www.test", 1);
    test.alias("alias.test", "www.test");
    test.alias("other.test", "forged.test");
    test.address("forged.test", 2);
    root.delegate(&test);
    for zone in [&mut root, &mut test] {
        zone.window = (now - DAY, now + DAY);
    }
    let ds = root.ds();
    let digest: String = ds[4..].iter().map(|octet| format!("{octet:02X}")).collect();
    let anchor = format!(". IN DS {} {} {} {digest}", u16::from_be_bytes([ds[0], ds[1]]), ds[2], ds[3]);
    let net = Internet::new(vec![root, test]);
    let upstream = Upstream::new(move |message, _| {
        let (text, qtype) = asked(message);
        let owner = if text.is_empty() { name(".") } else { name(&text) };
        let query = Query {
            name: owner.clone(),
            qtype,
            dnssec_ok: true,
            checking_disabled: false,
            plain: false,
            whose: crate::core::client::Claim::NOBODY,
        };
        let mut reply = net.reply(&query);
        if ["alias.test", "other.test"].contains(&text.as_str()) {
            reply.answer.retain(|rr| rr.owner == owner);
            reply.authority.clear();
        }
        if text == "forged.test" && qtype == 1 {
            *reply.answer[0].rdata.last_mut().unwrap() ^= 64;
        }
        let scripted = |section, rr: &crate::dns::validate::tests::zones::Rr| Rr {
            section,
            ..super::harness::rr(&rr.owner.to_string(), rr.kind, rr.ttl, &rr.rdata)
        };
        let records: Vec<Rr> = reply
            .answer
            .iter()
            .map(|rr| scripted(0, rr))
            .chain(reply.authority.iter().map(|rr| scripted(1, rr)))
            .collect();
        Act::Send(vec![response(message, reply.rcode, &records)])
    })
    .await;
    let more = format!(
        "[[policy.private]]\ndomain = \"test\"\nprefixes = [\"192.0.2.0/24\"]\n\
         [dns.dnssec]\nvalidate = true\ntrust_anchor = \"{anchor}\"\n"
    );
    let world = World::with(config(&[&upstream], &more)).await;
    let seen = world.exchange(query(1, "alias.test", 1, Some((1232, true)))).await.unwrap();
    assert_eq!((seen.rcode, seen.addresses().len(), seen.flags & 0x20), (0, 1, 0x20), "{seen:?}");
    assert!(world.enforced.is_open("192.0.2.1"));
    let seen = world.ask("other.test", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (2, Some(6)));
    assert_eq!(world.enforced.open.lock().unwrap().len(), 1);
}
