//! Budgets are for abuse: pages load, offices begin their day, and what doesn't fit comes later or with fewer addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use super::harness::*;
use crate::config::schema;

/// With the limits that nobody has set.
fn usual(upstream: &Upstream) -> crate::config::Config {
    crate::config::Config { lease: schema::Lease::default(), ..config(&[upstream], "") }
}

/// Four addresses of each family for every name, no two names with the same.
async fn four_each() -> Upstream {
    Upstream::new(|query, _| {
        let (name, qtype) = asked(query);
        let number: u32 = name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap();
        let address = |at: u32| {
            let at = number * 4 + at;
            let v4 = [[192, 0, 2, 0], [198, 51, 100, 0], [203, 0, 113, 0]][usize::try_from(at / 256).unwrap()];
            match qtype {
                28 => IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(at)).to_be_bytes()).to_string(),
                _ => IpAddr::from([v4[0], v4[1], v4[2], (at % 256) as u8]).to_string(),
            }
        };
        let records: Vec<Rr> = (0..4).map(|at| a(&name, 300, &address(at))).collect();
        Act::Send(vec![response(query, 0, &records)])
    })
    .await
}

/// Asks all at once, each from its client; the replies.
async fn at_once(world: &World, questions: Vec<(IpAddr, String, u16)>) -> Vec<Seen> {
    let mut sockets = Vec::new();
    for (client, name, qtype) in questions {
        let socket = tokio::net::UdpSocket::bind((client, 0)).await.unwrap();
        socket.send_to(&query(rand::random(), &name, qtype, EDNS), world.address).await.unwrap();
        sockets.push(socket);
    }
    let mut seen = Vec::new();
    for socket in sockets {
        let mut buffer = vec![0; 4096];
        let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("a reply").unwrap();
        seen.push(read(&buffer[..len]));
    }
    seen
}

fn page(names: usize) -> Vec<(IpAddr, String, u16)> {
    let own = IpAddr::from([127, 0, 0, 1]);
    (0..names).flat_map(|n| [1, 28].map(|qtype| (own, format!("www.n{n}.page.example"), qtype))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_twenty_names_loads_whole() {
    let upstream = four_each().await;
    let world = World::with(usual(&upstream)).await;
    for seen in at_once(&world, page(20)).await {
        assert_eq!((seen.rcode, seen.addresses().len(), seen.ede), (0, 4, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_clients_below_one_cloud_domain_are_answered_whole() {
    let upstream = four_each().await;
    let world = World::with(usual(&upstream)).await;
    let client = |n: u8| (IpAddr::from([127, 0, 0, n + 10]), format!("c{n}.cloud.example"), 1);
    for seen in at_once(&world, (0..30).map(client).collect()).await {
        assert_eq!((seen.rcode, seen.addresses().len(), seen.ede), (0, 4, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_does_not_fit_comes_with_fewer_addresses_and_no_name_of_it_without() {
    let upstream = four_each().await;
    let mut config = usual(&upstream);
    // 160 addresses; 100 fit, and half the gate's deadline brings 25 more.
    config.lease.burst_per_client = 100;
    let world = World::with(config).await;
    let replies = at_once(&world, page(20)).await;
    let told: usize = replies.iter().map(|seen| seen.addresses().len()).sum();
    for seen in &replies {
        assert_eq!(seen.rcode, 0, "{seen:?}");
        let count = seen.addresses().len();
        assert!((1..=4).contains(&count) && seen.ede.is_some() == (count < 4), "{seen:?}");
        for address in seen.addresses() {
            assert!(world.enforced.is_open(&address.to_string()), "{address}");
        }
    }
    assert!((100..160).contains(&told), "{told}");
    assert_eq!(world.enforced.open.lock().unwrap().len(), told, "nothing is open that nobody was told");
    // What was short is not kept so: asked again it is given whole, as far as there are tokens by then.
    let before = upstream.count();
    let short = replies.iter().position(|seen| seen.addresses().len() < 4).unwrap();
    let (_, name, qtype) = page(20).remove(short);
    let asked = std::time::Instant::now();
    while world.ask(&name, qtype).await.addresses().len() < 4 {
        assert!(asked.elapsed() < PATIENCE, "never whole");
    }
    assert_eq!(upstream.count(), before, "the upstream is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_fits_comes_later() {
    let names: Vec<String> = (1..=12).map(|last| format!("192.0.2.{last}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let upstream = Upstream::table(&[("twelve.example", 60, &names), ("more.example", 60, &["192.0.2.77"])]).await;
    let mut config = usual(&upstream);
    (config.lease.new_per_client, config.lease.burst_per_client) = ("8/s".parse().unwrap(), 8);
    let world = World::with(config).await;
    let seen = world.ask("twelve.example", 1).await;
    assert_eq!(seen.rcode, 0);
    assert!((8..=12).contains(&seen.addresses().len()), "{seen:?}");
    let open: BTreeSet<IpAddr> = world.enforced.open.lock().unwrap().keys().copied().collect();
    assert_eq!(open, seen.addresses().into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_forty_addresses_sixteen_are_given_and_open() {
    let turns = AtomicU8::new(0);
    let upstream = Upstream::new(move |query, _| {
        let (name, qtype) = asked(query);
        // Another order each time, as load balancers do.
        let turn = turns.fetch_add(7, Ordering::SeqCst) % 40;
        let mut records = vec![cname(&name, 60, "cdn.example")];
        records.extend((0..40).map(|at| a("cdn.example", 2, &format!("192.0.2.{}", (at + turn) % 40 + 1))));
        if qtype == 65 {
            let hints: Vec<u8> = (1..=40).flat_map(|last| [192, 0, 2, last]).collect();
            let data = [&[0, 1, 0, 0, 4, 0, 160][..], &hints].concat();
            records = vec![rr(&name, 65, 60, &data)];
        }
        if read(query).edns.is_some_and(|edns| edns.1) {
            records.push(rrsig("cdn.example", qtype));
        }
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let world = World::with(usual(&upstream)).await;
    let open = || world.enforced.open.lock().unwrap().keys().copied().collect::<BTreeSet<IpAddr>>();
    let told = |seen: &Seen| seen.addresses().into_iter().collect::<BTreeSet<IpAddr>>();
    let first = world.ask("many.example", 1).await;
    assert_eq!((first.rcode, first.answers.len(), told(&first).len()), (0, 17, 16));
    assert_eq!((first.answers[0].1, open()), (5, told(&first)));
    assert!(first.ede.as_ref().unwrap().1.contains("16 of 40"), "{first:?}");
    assert_eq!(told(&world.ask("many.example", 1).await), told(&first));
    assert_eq!(upstream.count(), 1, "it is kept as it was given");
    // What is open is given again before anything else, whatever comes first.
    until("asked again", || {
        upstream.count() > 1 || {
            std::net::UdpSocket::bind("127.0.0.1:0")
                .and_then(|socket| socket.send_to(&query(7, "many.example", 1, EDNS), world.address))
                .unwrap();
            false
        }
    })
    .await;
    assert_eq!((told(&world.ask("many.example", 1).await), open()), (told(&first), told(&first)));
    // Hints are addresses.
    let seen = world.ask("many.example", 65).await;
    let hints: BTreeSet<IpAddr> =
        seen.answers[0].3[7..].chunks(4).map(|hint| IpAddr::from(<[u8; 4]>::try_from(hint).unwrap())).collect();
    assert_eq!((seen.rcode, hints), (0, open()));
    // Without the others no signature would fit: whoever validates gets all or nothing.
    let seen = world.exchange(query(1, "many.example", 1, Some((4096, true)))).await.unwrap();
    assert_eq!((seen.rcode, seen.answers.len(), seen.ede.map(|(code, _)| code)), (2, 0, Some(18)));
    assert_eq!(open(), told(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_same_question_is_given_all_that_its_own_budget_lets_it_have() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let records = [1, 2, 3, 4].map(|last| a(&name, 300, &format!("192.0.2.{last}")));
        Act::Later(std::time::Duration::from_millis(300), response(query, 0, &records))
    })
    .await;
    let mut config = usual(&upstream);
    (config.lease.new_per_client, config.lease.burst_per_client) = ("1/h".parse().unwrap(), 2);
    let world = World::with(config).await;
    let client = |last: u8| (IpAddr::from([127, 0, 0, last]), "same.example".to_owned(), 1);
    let told = at_once(&world, vec![client(1), client(2)]).await;
    // Whose question came first is the machine's choice.
    let mut told: Vec<_> = told.iter().map(|seen| seen.addresses().len()).collect();
    told.sort_unstable();
    assert_eq!(told, [2, 4], "its own two; those, which are open, and its own two");
    assert_eq!(upstream.count(), 1);
}
