//! Every refusal is told to the client (EDE), counted (metric) and written down (`denied`); and a zone that answers another address every
//! time fills nobody's table.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::harness::*;
use crate::core::event::{Event, Refusal, RevokeTarget};
use crate::dns::codec::ede;

/// Every refusal of the gate. The match makes the compiler ask for a new one.
fn gates() -> Vec<Refusal> {
    let name = || "edge1".to_owned();
    let next = |refusal: &Refusal| match refusal {
        Refusal::Deadline { .. } => Some(Refusal::Enforcer { name: name(), reason: String::new() }),
        Refusal::Enforcer { .. } => Some(Refusal::Family { name: name() }),
        Refusal::Family { .. } => Some(Refusal::PerAnswer),
        Refusal::PerAnswer => Some(Refusal::PerClient),
        Refusal::PerClient => Some(Refusal::PerDomain),
        Refusal::PerDomain => Some(Refusal::RouteBudget { name: name() }),
        Refusal::RouteBudget { .. } => Some(Refusal::Capacity),
        Refusal::Capacity => Some(Refusal::Revoked),
        Refusal::Revoked => None,
    };
    std::iter::successors(Some(Refusal::Deadline { waiting_for: vec![name()] }), next).collect()
}

/// Asks for an address that the gate refuses with `label`.
async fn provoke(label: &str, upstream: &Upstream) -> (World, Seen) {
    let mut config = config(&[upstream], "");
    let mut spec = memory();
    match label {
        "per_answer" => config.lease.per_answer = 1,
        "per_client" => {
            (config.lease.new_per_client, config.lease.burst_per_client) = ("1/h".parse().unwrap(), 1);
        }
        "per_domain" => {
            (config.lease.new_per_domain, config.lease.burst_per_domain) = ("1/h".parse().unwrap(), 1);
        }
        "capacity" => config.lease.capacity = 1,
        "route_budget" => spec.max_addresses = 1,
        "family" => spec.ipv6 = false,
        "deadline" => config.gate.deadline = "200ms".parse().unwrap(),
        _ => {}
    }
    let world = World::with_enforcer(config, spec).await;
    match label {
        "family" => {
            let seen = world.ask("six.example", 28).await;
            (world, seen)
        }
        "per_answer" => {
            // Who validates can't be given a part of what is signed.
            let seen = world.exchange(query(1, "two.example", 1, Some((1232, true)))).await.unwrap();
            (world, seen)
        }
        "deadline" | "enforcer" | "revoked" => {
            // Once it holds its first state.
            assert_eq!(world.ask("one.two.example", 1).await.rcode, 0);
            world.enforced.refuse.store(label == "enforcer", Ordering::SeqCst);
            world.enforced.mute.store(label != "enforcer", Ordering::SeqCst);
            let revoke = async {
                if label == "revoked" {
                    until("in flight", || world.enforced.is_open("192.0.2.12")).await;
                    let target = RevokeTarget::Address("192.0.2.12".parse().unwrap());
                    world.core.tell(Event::Revoke(target)).await.unwrap();
                }
            };
            let (seen, ()) = tokio::join!(world.ask("other.two.example", 1), revoke);
            (world, seen)
        }
        _ => {
            assert_eq!(world.ask("one.two.example", 1).await.rcode, 0);
            let seen = world.ask("other.two.example", 1).await;
            (world, seen)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_the_gate_is_told_counted_and_written_down() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let records = match name.as_str() {
            "two.example" => vec![a(&name, 60, "192.0.2.1"), a(&name, 60, "192.0.2.2"), rrsig(&name, 1)],
            "six.example" => vec![a(&name, 60, "2001:db8::1")],
            "one.two.example" => vec![a(&name, 60, "192.0.2.11")],
            _ => vec![a(&name, 60, "192.0.2.12")],
        };
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let gates = gates();
    assert_eq!(gates.len(), 9);
    for refusal in gates {
        let (told, label) = ede::of_refusal(&refusal);
        let (world, seen) = provoke(label, &upstream).await;
        assert_eq!((seen.rcode, seen.ede.as_ref().map(|(code, _)| *code)), (2, Some(told.code)), "{label}: {seen:?}");
        assert!(seen.answers.is_empty(), "{label}");
        assert_eq!(world.label("dns_refused_questions_total", label), 1, "{label}");
        let line = format!("{label}: {} (EDE {})", seen.ede.unwrap().1, told.code);
        let refused = world.refused();
        assert!(refused.iter().any(|(kind, _, reason, _)| kind == "answer" && *reason == line), "{line}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_refusals_as_well() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let mut message = response(query, 0, &[a(&name, 60, "127.0.0.1")]);
        match name.as_str() {
            "cut.example" => message.truncate(message.len() - 2),
            "loop.example" => {
                message = response(query, 0, &[cname(&name, 60, "b.example"), cname("b.example", 60, &name)]);
            }
            "refused.example" => message = response(query, 5, &[]),
            _ => {}
        }
        Act::Send(vec![message])
    })
    .await;
    let mut config = config(&[&upstream], "[policy]\ndeny = [\"bad.example\"]\n");
    config.dns.upstream[0].domains = vec!["example".to_owned()];
    let world = World::with(config).await;
    let mut no_rd = query(1, "nord.example", 1, EDNS);
    no_rd[2] = 0;
    let cases = [
        // Question, rcode, EDE, metric, kind of the line.
        (query(1, "bad.example", 1, EDNS), 3, 15, "policy", "name"),
        (query(1, "loopback.example", 1, EDNS), 0, 17, "filter", "address"),
        (query(1, "elsewhere.net", 1, EDNS), 2, 22, "upstream", "answer"),
        (query(1, "refused.example", 1, EDNS), 2, 0, "upstream_code", "answer"),
        (query(1, "cut.example", 1, EDNS), 2, 24, "malformed", "answer"),
        (query(1, "loop.example", 1, EDNS), 2, 24, "unbound", "answer"),
        (query(1, "zone.example", 252, EDNS), 5, 21, "unsupported", "answer"),
        (no_rd, 5, 20, "no_recursion_desired", "answer"),
    ];
    for (message, rcode, code, label, kind) in cases {
        let seen = world.exchange(message).await.unwrap();
        assert_eq!((seen.rcode, seen.ede.as_ref().map(|(code, _)| *code)), (rcode, Some(code)), "{label}: {seen:?}");
        assert_eq!(world.label("dns_refused_questions_total", label), 1, "{label}");
        let refused = world.refused();
        let lines =
            refused.iter().filter(|(seen, _, reason, _)| seen == kind && reason.starts_with(&format!("{label}: ")));
        assert_eq!(lines.count(), 1, "{label}: {refused:?}");
    }
    assert!(world.enforced.open.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_taken_out_of_an_answer_are_written_down_though_the_rest_is_given() {
    let upstream = Upstream::table(&[("mixed.example", 60, &["192.0.2.1", "127.0.0.1"])]).await;
    let world = World::with(config(&[&upstream], "")).await;
    // From the upstream, then from the cache.
    for times in 1..3 {
        let seen = world.ask("mixed.example", 1).await;
        assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (0, Some(17)));
        assert_eq!(world.metric("dns_answers_filtered_total"), times);
        let refused = world.refused();
        let of = |(kind, what, reason, count): &(String, String, String, u64)| {
            kind == "address"
                && what == "mixed.example A"
                && reason.starts_with("filtered: 127.0.0.1: ")
                && *count == times
        };
        assert!(refused.iter().any(of), "{refused:?}");
    }
}

/// Another address for every name.
async fn wildcard() -> Upstream {
    Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let number: u32 = name[1..name.find('.').unwrap()].parse().unwrap();
        let address = std::net::Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(number));
        Act::Send(vec![response(query, 0, &[a(&name, 60, &address.to_string())])])
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_with_another_address_every_time_uses_up_its_own_budget_only() {
    let upstream = wildcard().await;
    let mut config = config(&[&upstream], "");
    (config.lease.new_per_domain, config.lease.burst_per_domain) = ("20/h".parse().unwrap(), 20);
    let mut spec = memory();
    spec.max_addresses = 60;
    let world = World::with_enforcer(config, spec).await;
    let open = || world.enforced.open.lock().unwrap().len();
    for number in 0..200 {
        let seen = world.ask(&format!("n{number}.wild.example"), 28).await;
        assert_eq!((seen.rcode, seen.addresses().len()), if number < 20 { (0, 1) } else { (2, 0) }, "{number}");
    }
    assert_eq!(open(), 20);
    assert_eq!(world.label("dns_refused_questions_total", "per_domain"), 180);
    // Its own names that are open stay served; other domains have their own budget, up to what the router takes.
    assert_eq!(world.ask("n3.wild.example", 28).await.rcode, 0);
    for number in 1000..1100 {
        let seen = world.ask(&format!("n{number}.d{number}.example"), 28).await;
        assert_eq!(seen.rcode, if number < 1040 { 0 } else { 2 }, "{number}");
        assert!(open() <= 60, "beyond the route budget the router would end the session");
    }
    assert_eq!(open(), 60);
    assert_eq!(world.label("dns_refused_questions_total", "route_budget"), 60);
    // Nothing that was open had to go for it.
    for name in ["n0.wild.example", "n19.wild.example", "n1000.d1000.example", "n1039.d1039.example"] {
        assert_eq!(world.ask(name, 28).await.rcode, 0, "{name}");
    }
    // Each refusal is one line, not a flood of them.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(world.refused().len() <= crate::control::denied::KEPT);
}
