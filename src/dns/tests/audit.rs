//! Audit: what leaves, what is noted, what is leased, and what a switch does; beside enforcement with the same traffic.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::harness::*;
use crate::config::Config;
use crate::config::schema::Mode;
use crate::core::event::{EnforcerId, Event};

const ZONE: &str = "@ SOA a. b. 1 1 1 1 1\n\
    bad.example CNAME .\n\
    empty.example CNAME *.\n\
    silent.example CNAME rpz-drop.\n\
    slow.example CNAME rpz-tcp-only.\n\
    own.example A 192.0.2.200\n\
    x.tracker.example CNAME .\n\
    32.66.2.0.192.rpz-ip CNAME .\n";

/// `config`, the zone, and `more` before all tables.
fn config_with(upstream: &Upstream, mode: Mode, more: &str) -> (tempfile::TempDir, Config) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zone");
    std::fs::write(&path, ZONE).unwrap();
    let list = format!(
        "[[policy.list]]\npath = \"{}\"\nformat = \"rpz\"\naction = \"deny\"\n[policy]\ndeny = [\"denied.example\"]\n{more}",
        path.display()
    );
    let mut config = config(&[upstream], &list);
    config.mode = mode;
    (directory, config)
}

fn hints(addresses: &[[u8; 4]]) -> Vec<u8> {
    let mut data = vec![0, 1, 0, 0, 4];
    data.extend_from_slice(&(4 * addresses.len() as u16).to_be_bytes());
    data.extend(addresses.iter().flatten());
    data
}

/// Names of every fate.
async fn internet() -> Upstream {
    Upstream::new(|query, _| {
        let (name, qtype) = asked(query);
        let records = match name.as_str() {
            "cloaked.example" => vec![cname(&name, 600, "x.tracker.example"), a("x.tracker.example", 600, "192.0.2.9")],
            "part.example" => vec![a(&name, 600, "192.0.2.10"), a(&name, 600, "10.0.0.1")],
            "inside.example" => vec![a(&name, 600, "10.0.0.2"), a(&name, 600, "127.0.0.1")],
            "trap.example" => vec![a(&name, 600, "192.0.2.5"), a(&name, 600, "192.0.2.66")],
            "service.example" if qtype == 65 => {
                vec![rr(&name, 65, 600, &hints(&[[192, 0, 2, 11], [10, 0, 0, 3]]))]
            }
            "many.example" => (100..120).map(|last| a(&name, 600, &format!("203.0.113.{last}"))).collect(),
            "loop.example" => vec![cname(&name, 600, "l.example"), cname("l.example", 600, &name)],
            "nothing.example" => return Act::Send(vec![response(query, 3, &[soa("example", 300, 60)])]),
            name => {
                let last = name.bytes().fold(0u8, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet));
                vec![a(name, 600, &format!("198.51.100.{last}"))]
            }
        };
        Act::Send(vec![response(query, 0, &records)])
    })
    .await
}

const QUESTIONS: [(&str, u16); 14] = [
    ("plain.example", 1),
    ("www.denied.example", 1),
    ("bad.example", 1),
    ("empty.example", 1),
    ("slow.example", 1),
    ("cloaked.example", 1),
    ("part.example", 1),
    ("inside.example", 1),
    ("trap.example", 1),
    ("service.example", 65),
    ("many.example", 1),
    ("loop.example", 1),
    ("nothing.example", 1),
    ("localhost", 1),
];

/// What was noted, whoever asked.
fn noted(world: &World) -> BTreeSet<(bool, String, String, String, u64)> {
    let list = world.denied.since(0).denied;
    list.into_iter().map(|entry| (entry.audit, entry.kind, entry.what, entry.reason, entry.count)).collect()
}

fn leased(world: &World) -> BTreeSet<std::net::IpAddr> {
    world.enforced.open.lock().unwrap().keys().copied().collect()
}

/// A question that a list drops: no reply in enforcement.
async fn ask_silent(world: &World) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(1, "silent.example", 1, EDNS), world.address).await.unwrap();
    until("it is noted", || noted(world).iter().any(|(_, _, what, ..)| what.starts_with("silent"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_leave_whole_and_what_is_noted_and_leased_is_what_enforcement_denies_and_leases() {
    let upstream = internet().await;
    let (_directory, config) = config_with(&upstream, Mode::Audit, "");
    let audit = World::with(config.clone()).await;
    let enforce = World::with(Config { mode: Mode::Enforce, ..config }).await;
    // What the gate says is noted behind the answer.
    let shortened = |world: &World| noted(world).iter().any(|(.., why, _)| why.starts_with("shortened"));
    for _ in 0..2 {
        for (name, qtype) in QUESTIONS {
            let (given, enforced) = (audit.ask(name, qtype).await, enforce.ask(name, qtype).await);
            if name == "many.example" {
                until("it is noted", || shortened(&audit)).await;
            }
            let denied = !matches!(name, "plain.example" | "nothing.example" | "localhost");
            assert_eq!(denied, enforced.ede.is_some() && name != "localhost", "{name}: {enforced:?}");
            if !denied {
                assert_eq!((given.rcode, &given.answers), (enforced.rcode, &enforced.answers), "{name}");
                continue;
            }
            assert_eq!((given.rcode, &given.ede, given.truncated()), (0, &None, false), "{name}: {given:?}");
            let expected = match name {
                "part.example" | "inside.example" | "trap.example" | "cloaked.example" | "loop.example" => 2,
                "many.example" => 20,
                _ => 1,
            };
            assert_eq!(given.answers.len(), expected, "{name}: {given:?}");
            assert!(given.answers.iter().all(|answer| (595..=600).contains(&answer.2)), "{name}: {given:?}");
        }
        for world in [&audit, &enforce] {
            ask_silent(world).await;
            world.ask_tcp(&[query(7, "slow.example", 1, EDNS)]).await;
        }
    }
    let service = audit.ask("service.example", 65).await;
    assert_eq!(service.answers[0].3, hints(&[[192, 0, 2, 11], [10, 0, 0, 3]]));
    enforce.ask("service.example", 65).await;
    until("the same is leased", || leased(&audit) == leased(&enforce)).await;
    assert!(audit.enforced.is_open("192.0.2.10") && !audit.enforced.is_open("192.0.2.5"));
    until("the same is noted", || noted(&audit).len() == noted(&enforce).len()).await;
    let of = |world, audit: bool| {
        noted(world)
            .into_iter()
            .map(|(is, a, b, c, d)| {
                assert_eq!(is, audit);
                (a, b, c, d)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&audit, true), of(&enforce, false));
    for reason in ["policy", "filter", "filtered", "tcp_only", "unbound"] {
        let (would, does) = (
            audit.label("dns_would_refuse_questions_total", reason),
            enforce.label("dns_refused_questions_total", reason),
        );
        let does = if reason == "filtered" { enforce.metric("dns_answers_filtered_total") } else { does };
        assert_eq!((would > 0, would), (true, does), "{reason}");
        assert_eq!(audit.label("dns_refused_questions_total", reason), 0, "{reason}");
    }
    assert_eq!(audit.label("dns_would_refuse_questions_total", "shortened"), 1);
    assert_eq!(audit.running.status().denied, 0);
    assert!(audit.running.status().would_refuse > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lists_own_answer_is_only_spoken_of() {
    let upstream = internet().await;
    let (_directory, config) = config_with(&upstream, Mode::Audit, "");
    let world = World::with(config).await;
    for _ in 0..2 {
        let seen = world.ask("own.example", 1).await;
        assert!(seen.addresses()[0].to_string().starts_with("198.51.100."), "{seen:?}");
    }
    let noted = noted(&world);
    assert!(
        noted.iter().any(|(audit, kind, what, why, count)| *audit
            && *count == 2
            && kind == "name"
            && what == "own.example A"
            && why.starts_with("rewritten: ")),
        "{noted:?}"
    );
    world.ask("plain.example", 1).await;
    until("what comes behind is leased", || leased(&world).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_delays_nothing_and_says_what_it_would_have_held() {
    let upstream = internet().await;
    // In enforcement an answer would come after an hour.
    let (_directory, config) = config_with(&upstream, Mode::Audit, "[gate]\ndeadline = \"1h\"\n");
    let world = World::with(config).await;
    world.ask("plain.example", 1).await;
    until("it is leased", || leased(&world).len() == 1).await;
    world.enforced.mute.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(world.ask("other.example", 1).await.addresses().len(), 1);
    }

    let (_directory, config) = config_with(&upstream, Mode::Audit, "[gate]\ndeadline = \"100ms\"\n");
    let world = World::with(config).await;
    world.ask("plain.example", 1).await;
    until("it is leased", || leased(&world).len() == 1).await;
    world.enforced.mute.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(world.ask("other.example", 1).await.rcode, 0);
    let would = |reason: &str| noted(&world).into_iter().find(|(.., why, _)| why.starts_with(reason));
    until("it is noted", || would("deadline: not confirmed in time by memory").is_some()).await;
    assert_eq!(world.label("dns_would_refuse_questions_total", "deadline"), 1);
    // A required enforcer that is lost holds nothing up either.
    world.core.tell(Event::Lost { enforcer: EnforcerId(0), reason: "gone".to_owned() }).await.unwrap();
    assert_eq!(world.ask("third.example", 1).await.addresses().len(), 1);
    assert_eq!(world.ask("plain.example", 1).await.addresses().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_are_kept_in_the_books_alone() {
    let upstream = internet().await;
    for (key, reason, leases) in [
        ("capacity = 2\n", "capacity", 2),
        ("new_per_client = \"1/h\"\nburst_per_client = 1\n", "per_client", 1),
        ("new_per_domain = \"1/h\"\nburst_per_domain = 1\n", "per_domain", 1),
    ] {
        let (_directory, mut config) = config_with(&upstream, Mode::Audit, "");
        config.lease = toml::from_str::<Config>(&format!("[lease]\n{key}")).unwrap().lease;
        let world = World::with(config).await;
        let names = ["a.shop.example", "b.shop.example", "c.shop.example"];
        for (place, name) in names.into_iter().enumerate() {
            assert_eq!(world.ask(name, 1).await.addresses().len(), 1, "{reason}");
            let done = || leased(&world).len() + world.label("dns_would_refuse_questions_total", reason) as usize;
            until(reason, || done() == place + 1).await;
        }
        assert_eq!(leased(&world).len(), leases, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_counts_for_the_very_next_question() {
    let upstream = internet().await;
    let (_directory, mut config) = config_with(&upstream, Mode::Audit, "");
    let world = World::with(config.clone()).await;
    let names = ["plain.example", "www.denied.example", "part.example", "cloaked.example"];
    let mut before = None;
    for mode in [Mode::Audit, Mode::Enforce, Mode::Audit, Mode::Enforce] {
        config.mode = mode;
        world.rules.store(Arc::new(rules(&config)));
        for _ in 0..2 {
            let mut seen = Vec::new();
            for name in names {
                let answer = world.ask(name, 1).await;
                seen.push((answer.rcode, answer.addresses().len(), answer.ede.map(|(code, _)| code)));
            }
            let expected = match mode {
                Mode::Audit => [(0, 1, None), (0, 1, None), (0, 2, None), (0, 1, None)],
                Mode::Enforce => [(0, 1, None), (3, 0, Some(15)), (0, 1, Some(17)), (3, 0, Some(15))],
            };
            assert_eq!(seen, expected, "{mode:?}");
            if mode == Mode::Enforce {
                // What is told is in force by now.
                let now = leased(&world);
                assert_eq!(now.len(), 2);
                assert!(before.replace(now.clone()).is_none_or(|before| before == now));
            }
        }
    }
}
