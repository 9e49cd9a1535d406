//! The way from the anchors to the zone.

use super::*;

#[tokio::test]
async fn unknown_algorithms_count_as_unsigned_and_many_hash_rounds_too() {
    let mut root = Zone::new(".", NSEC);
    let mut odd = Zone::new("odd", None);
    odd.address("www.odd", 1);
    root.delegate(&odd);
    // Algorithm 16 (Ed448), and digest type 5.
    root.add("odd", rtype::DS, &[&[0, 1, 16, 2][..], &[7; 32]].concat());
    root.add("odd", rtype::DS, &[&[0, 1, 13, 5][..], &[7; 32]].concat());
    let mut slow = Zone::new("slow", Some(Denial::Nsec3 { iterations: 151, opt_out: false }));
    slow.address("www.slow", 2);
    let mut edge = Zone::new("edge", Some(Denial::Nsec3 { iterations: 150, opt_out: false }));
    edge.address("www.edge", 3);
    root.delegate(&slow);
    root.delegate(&edge);
    let net = Internet::new(vec![root, odd, slow, edge]);
    assert_eq!(fresh(&net, "www.odd", 1).await, Insecure(0, vec![1]));
    assert_eq!(fresh(&net, "www.slow", 1).await, Secure(0, vec![2]), "what exists needs no hashing");
    assert_eq!(fresh(&net, "none.slow", 1).await, Insecure(3, vec![]));
    assert_eq!(fresh(&net, "none.edge", 1).await, Secure(3, vec![]));
    // A forged count of rounds is no way out of being signed.
    let mut net = net;
    net.tamper = Box::new(|_, reply| {
        for rr in reply.authority.iter_mut().filter(|rr| rr.kind == rtype::NSEC3) {
            rr.rdata[2] = 0x7f;
        }
    });
    assert!(matches!(fresh(&net, "none.edge", 1).await, Bogus(_)));
}

#[tokio::test]
async fn anchors_may_stand_anywhere_and_insecure_domains_end_them() {
    let key = |net: &Internet, text: &str| {
        let ds = net.zones.iter().find(|zone| zone.name == name(text)).unwrap().ds();
        format!("{text} IN DS {} {} {} {}\n", u16::from_be_bytes([ds[0], ds[1]]), ds[2], ds[3], hex(&ds[4..]))
    };
    let net = internet();
    // An island: nothing but it is validated.
    let island = with(&key(&net, "nsec3.test"), &[]);
    assert_eq!(look(&island, &net, "www.nsec3.test", 1).await, Secure(0, vec![1, 2]));
    assert_eq!(look(&island, &net, "www.nsec.test", 1).await, Insecure(0, vec![1, 2]));
    assert_eq!(look(&island, &net, "none.test", 1).await, Insecure(3, vec![]));
    // A private zone below a signed root that doesn't know it.
    let mut net = internet();
    let mut corp = Zone::new("corp", None);
    corp.address("www.corp", 5);
    corp.alias("public.corp", "www.nsec.test");
    net.zones.push(corp);
    let root = key(&net, ".");
    assert_eq!(look(&with(&root, &[]), &net, "www.corp", 1).await, Bogus(10));
    let lenient = with(&root, &["corp"]);
    assert_eq!(look(&lenient, &net, "www.corp", 1).await, Insecure(0, vec![5]));
    assert_eq!(look(&lenient, &net, "none.corp", 1).await, Insecure(3, vec![]));
    assert_eq!(look(&lenient, &net, "public.corp", 1).await, Insecure(0, vec![1, 2]));
    // Not further than it says: the alias's end is still validated.
    net.tamper = Box::new(|_, reply| {
        reply.answer.iter_mut().for_each(|rr| {
            if rr.kind == 1 {
                rr.rdata[3] ^= 64
            }
        })
    });
    assert_eq!(look(&with(&root, &["corp"]), &net, "public.corp", 1).await, Bogus(6));
    assert_eq!(look(&with(&root, &["corp"]), &net, "www.corp", 1).await, Insecure(0, vec![5 ^ 64]));
    // A signed private zone: its anchor counts, whatever the root says, and the root has no say in it.
    let mut net = internet();
    let mut own = Zone::new("own", NSEC);
    own.address("www.own", 6);
    net.zones.push(own);
    let both = key(&net, ".") + &key(&net, "own");
    assert_eq!(look(&with(&both, &[]), &net, "www.own", 1).await, Secure(0, vec![6]));
    assert_eq!(look(&with(&both, &[]), &net, "www.nsec.test", 1).await, Secure(0, vec![1, 2]));
    let roots =
        Internet::new(vec![net.zones.remove(net.zones.iter().position(|zone| zone.name == Name::root()).unwrap())]);
    let denied = roots.reply(&ask("www.own", 1));
    let keys = roots.reply(&ask(".", rtype::DNSKEY));
    net.zones.extend(roots.zones);
    net.tamper = Box::new(move |query, reply| match query.qtype {
        1 => *reply = denied.clone(),
        rtype::DNSKEY if query.name == Name::root() => *reply = keys.clone(),
        _ => {}
    });
    assert!(matches!(look(&with(&both, &[]), &net, "www.own", 1).await, Bogus(_)));
}

#[tokio::test]
async fn what_was_proved_is_kept_and_asked_for_once() {
    let net = internet();
    let validator = std::sync::Arc::new(validator(&net));
    let net = std::sync::Arc::new(net);
    // Many at once: the chain is asked for once.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (validator, net) = (validator.clone(), net.clone());
        tasks.spawn(async move { look(&validator, &net, "www.nsec.test", 1).await });
    }
    assert!(tasks.join_all().await.into_iter().all(|seen| seen == Secure(0, vec![1, 2])));
    let asked = net.asked.lock().unwrap().clone();
    let chain: Vec<_> = asked.iter().filter(|(_, qtype)| *qtype != 1).collect();
    assert_eq!(chain.len(), 5, "the root's keys, DS and keys of two zones: {chain:?}");
    // The next name of the zone costs nothing more.
    net.asked.lock().unwrap().clear();
    assert_eq!(look(&validator, &net, "text.nsec.test", TXT).await, Secure(0, vec![]));
    assert_eq!(net.asked.lock().unwrap().len(), 1);
    assert!(validator.metrics.validation_cache_entries.get() >= 3);
    assert_eq!(validator.metrics.validation_queries.get(), 5);
    assert_eq!(validator.metrics.validated.get_or_create(&Outcome { outcome: "secure" }).get(), 51);
}

#[tokio::test]
async fn without_upstream_nothing_is_called_bogus() {
    struct Dead<'a>(&'a Internet);
    impl Source for Dead<'_> {
        async fn ask(&self, query: &Query, whom: Pick) -> Result<Vec<u8>, AskError> {
            if query.qtype == 1 { self.0.ask(query, whom).await } else { Err(AskError::Network) }
        }

        fn choices(&self) -> usize {
            1
        }
    }
    let net = internet();
    let validator = validator(&net);
    let got = validator.ask(&Dead(&net), &ask("www.nsec.test", 1)).await;
    assert!(matches!(got, Err(AskError::Network)), "{got:?}");
}
