//! What `explain` says of a name is what a question for it gets.

use super::harness::*;
use crate::core::policy::view::Whose;
use crate::dns::resolver::explain::{Fate, Tried};

/// What a client saw, as `explain` puts it.
fn fate_of(seen: &Seen) -> Fate {
    match (seen.rcode, seen.ede.as_ref().map(|(code, _)| *code)) {
        (2, _) => Fate::Failed,
        (_, Some(15)) => Fate::Denied,
        (0, Some(17)) if seen.answers.is_empty() => Fate::Filtered,
        (_, Some(29)) => Fate::AnsweredHere,
        _ => Fate::Answered,
    }
}

fn addresses(tried: &Tried) -> Vec<std::net::IpAddr> {
    let mut all: Vec<_> = tried.opened.iter().chain(&tried.already_open).copied().collect();
    all.sort_unstable();
    all
}

const LABELS: [&str; 8] = ["plain", "denied", "listed", "trap", "lane", "allowed.denied", "hole", "open"];
const TARGETS: [&str; 8] =
    ["192.0.2.1", "10.0.0.1", "127.0.0.1", "203.0.113.66", "198.51.100.7", "192.0.2.200", "9.9.9.9", "45.10.0.7"];

#[tokio::test(flavor = "multi_thread")]
async fn many_names_and_addresses_are_explained_as_questions_are_answered() {
    // The name says what its answer is: aliases in front, addresses by their place in the table, "x" for none and "f" for a failure.
    let upstream = Upstream::new(|query, _| {
        let (name, qtype) = asked(query);
        let Some((plan, _)) = name.split_once('-') else { return Act::Send(vec![response(query, 3, &[])]) };
        if plan.contains('f') {
            return Act::Send(vec![response(query, 2, &[])]);
        }
        let mut owner = name.clone();
        let mut records = Vec::new();
        for step in plan.chars() {
            match step.to_digit(16) {
                Some(at @ 0..8) if qtype == 1 => records.push(a(&owner, 60, TARGETS[at as usize])),
                Some(at @ 8..16) => {
                    let target = format!("{}.example", LABELS[at as usize - 8]);
                    records.push(cname(&owner, 60, &target));
                    owner = target;
                }
                _ => {}
            }
        }
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zone");
    let zone = "@ SOA a. b. 1 1 1 1 1\nlisted.example CNAME .\nhole.example CNAME *.\n32.66.113.0.203.rpz-ip CNAME .\n";
    std::fs::write(&path, zone).unwrap();
    let more = format!(
        "[addresses]\nopen = [\"45.10.0.0/16\"]\nnever = [\"192.0.2.200\"]\n\
         [policy]\ndeny = [\"denied.example\"]\nallow = [\"allowed.denied.example\"]\n\
         [[policy.list]]\npath = \"{}\"\nformat = \"rpz\"\naction = \"deny\"\n",
        path.display()
    );
    let world = World::with(config(&[&upstream], &more)).await;
    let view = world.running.view();
    let mut seen_fates = std::collections::BTreeMap::new();
    let plans = [
        "0", "1", "2", "3", "4", "5", "6", "7", "01", "03", "07", "57", "x", "f", "80", "90", "a0", "b4", "8d0", "e1",
        "f",
    ];
    for label in LABELS {
        for plan in plans {
            for name in [
                format!("{plan}-{label}.example"),
                format!("{plan}-x.{label}.example"),
                format!("{plan}-{label}.elsewhere"),
            ] {
                let parsed = name.parse().unwrap();
                for qtype in [1, 28] {
                    let before = view.try_question(&parsed, qtype, Whose::default()).await;
                    assert!(
                        before.opened.iter().all(|address| !world.enforced.is_open(&address.to_string())
                            || TARGETS.contains(&address.to_string().as_str())),
                        "explaining opens nothing"
                    );
                    let seen = world.ask(&name, qtype).await;
                    let after = view.try_question(&parsed, qtype, Whose::default()).await;
                    for tried in [&before, &after] {
                        assert_eq!(tried.fate, fate_of(&seen), "{name} {qtype}: {tried:?}\n{seen:?}");
                        if tried.fate == Fate::Answered {
                            assert_eq!(tried.rcode, seen.rcode, "{name} {qtype}");
                        }
                    }
                    let mut told = seen.addresses();
                    told.sort_unstable();
                    assert_eq!(addresses(&before), told, "{name} {qtype}: {before:?}");
                    *seen_fates.entry(format!("{:?}", before.fate)).or_insert(0) += 1;
                }
            }
        }
    }
    // Each of them occurred, or the test shows little.
    let all: Vec<&str> = seen_fates.keys().map(String::as_str).collect();
    assert_eq!(all, ["Answered", "Denied", "Failed", "Filtered"]);
    let tried = view.try_question(&"localhost".parse().unwrap(), 1, Whose::default()).await;
    assert_eq!(tried.fate, Fate::AnsweredHere);
    assert_eq!(fate_of(&world.ask("localhost", 1).await), Fate::AnsweredHere);
}

#[tokio::test(flavor = "multi_thread")]
async fn explaining_a_name_opens_and_keeps_nothing() {
    let upstream = Upstream::table(&[("shop.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    let name = "shop.example".parse().unwrap();
    for _ in 0..2 {
        let tried = world.running.view().try_question(&name, 1, Whose::default()).await;
        assert_eq!(tried.opened, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    }
    assert_eq!(upstream.count(), 2, "nothing was kept");
    assert!(world.enforced.open.lock().unwrap().is_empty());
    assert_eq!(world.running.status().cache_entries, 0);
}
