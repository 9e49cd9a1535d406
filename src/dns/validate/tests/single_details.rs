//! What is wrong, or right, only by a detail.

use super::*;

/// A signed "test" with a signed "sub.test" below it.
fn small(test: &mut Zone) -> Vec<Zone> {
    let mut sub = Zone::new("sub.test", NSEC);
    sub.address("www.sub.test", 1);
    test.delegate(&sub);
    vec![sub]
}

fn below_root(test: Zone, mut more: Vec<Zone>) -> Internet {
    let mut root = Zone::new(".", NSEC);
    root.delegate(&test);
    more.extend([root, test]);
    Internet::new(more)
}

/// A wildcard's alias, shown at the name of a delegation, says that the name is no delegation: only with the proof that no such name exists.
#[tokio::test]
async fn a_wildcards_alias_ends_no_chain_without_proof() {
    for denial in [NSEC, NSEC3] {
        let mut test = Zone::new("test", denial);
        test.alias("*.test", "www.test");
        test.address("www.test", 9);
        let zones = small(&mut test);
        let mut net = below_root(test, zones);
        assert_eq!(fresh(&net, "www.sub.test", 1).await, Secure(0, vec![1]));
        // An unsigned name that the wildcard stands for, with its proof: it stands in the zone of the wildcard.
        assert_eq!(fresh(&net, "other.test", 1).await, Secure(0, vec![9]));
        let star = net.zone("test").set(&name("*.test"), rtype::CNAME, &name("sub.test"));
        net.tamper = Box::new(move |query, reply| {
            if query.qtype == rtype::DS && query.name == name("sub.test") {
                *reply = Reply { rcode: 0, answer: star.clone(), authority: vec![] };
            }
        });
        assert_eq!(fresh(&net, "www.sub.test", 1).await, Bogus(12));
        // With the proof it is right: here of a name that is asked for since its own set has no signature.
        net.tamper = Box::new(|query, reply| {
            if query.qtype == 1 {
                reply.strip_signatures();
            }
        });
        assert_eq!(fresh(&net, "other.test", 1).await, Bogus(10));
    }
}

/// A digest made from a wildcard is no delegation's.
#[tokio::test]
async fn a_wildcards_digest_is_nobodys() {
    let mut test = Zone::new("test", NSEC);
    let mut own = Zone::new("own.test", NSEC);
    own.address("www.own.test", 1);
    test.add("*.test", rtype::DS, &own.ds());
    let net = below_root(test, vec![own]);
    assert!(matches!(fresh(&net, "www.own.test", 1).await, Bogus(_)));
}

/// Denials that are too costly to check make their own zone count as unsigned, not the signed ones below it.
#[tokio::test]
async fn a_zone_above_with_many_rounds_unsigns_nothing_below() {
    let mut test = Zone::new("test", Some(Denial::Nsec3 { iterations: 151, opt_out: false }));
    test.address("here.test", 3);
    let zones = small(&mut test);
    let mut net = below_root(test, zones);
    let costly = net.reply(&ask("none.test", 1));
    assert_eq!(fresh(&net, "none.test", 1).await, Insecure(3, vec![]));
    net.tamper = Box::new(move |query, reply| {
        if query.qtype == 1 {
            *reply = costly.clone();
        }
    });
    assert!(matches!(fresh(&net, "www.sub.test", 1).await, Bogus(_)));
    assert!(matches!(fresh(&net, "none.sub.test", 1).await, Bogus(_)));
}

/// The question for DNAME reaches one on the way; that isn't what was asked for.
#[tokio::test]
async fn a_dname_on_the_way_is_no_answer_to_the_question_for_dname() {
    let mut net = internet();
    assert_eq!(fresh(&net, "tree.nsec.test", rtype::DNAME).await, Secure(0, vec![]));
    assert_eq!(fresh(&net, "www.tree.nsec.test", rtype::DNAME).await, Secure(0, vec![]));
    assert_eq!(fresh(&net, "none.tree.nsec.test", rtype::DNAME).await, Secure(3, vec![]));
    net.tamper = Box::new(|query, reply| {
        if query.qtype == rtype::DNAME {
            reply.authority.clear();
            reply.rcode = 0;
        }
    });
    assert_eq!(fresh(&net, "tree.nsec.test", rtype::DNAME).await, Secure(0, vec![]));
    assert_eq!(fresh(&net, "www.tree.nsec.test", rtype::DNAME).await, Bogus(12));
}

/// Nobody signs the alias that a DNAME makes: its TTL is that of the DNAME.
#[tokio::test]
async fn a_made_alias_lasts_no_longer_than_what_made_it() {
    let mut net = internet();
    net.tamper = Box::new(|_, reply| {
        for rr in reply.answer.iter_mut().filter(|rr| rr.kind == rtype::CNAME) {
            rr.ttl = 1_000_000;
        }
    });
    let validator = validator(&net);
    let Ok(Checked::Response(response)) = validator.ask(&net, &ask("www.tree.nsec.test", 1)).await else {
        panic!("no response")
    };
    assert!(response.authentic);
    let alias = response.answers.iter().find(|record| record.rtype == rtype::CNAME).unwrap();
    assert_eq!(alias.ttl, TTL);
}

/// A name above a wildcard's own name exists, though nothing stands there: "a.*.test" makes "*.test" stand for every name, with nothing at it (RFC 4592
/// section 2.2.3).
#[tokio::test]
async fn an_empty_wildcard_is_no_data() {
    for denial in [NSEC, NSEC3] {
        let mut test = Zone::new("test", denial);
        test.address("a.*.test", 3);
        let mut net = below_root(test, vec![]);
        assert_eq!(fresh(&net, "other.test", 1).await, Secure(0, vec![]), "{}", denial.is_some());
        net.tamper = Box::new(|query, reply| {
            if query.qtype == 1 {
                reply.rcode = 3;
            }
        });
        // The name has no data, whatever the code says.
        assert_eq!(fresh(&net, "other.test", 1).await, Secure(0, vec![]));
    }
}

/// The digest of an anchored zone is a record of the zone above, and that one's word counts.
#[tokio::test]
async fn the_digest_at_an_anchor_belongs_to_the_zone_above() {
    let key = |net: &Internet, text: &str| {
        let ds = net.zones.iter().find(|zone| zone.name == name(text)).unwrap().ds();
        format!("{text} IN DS {} {} {} {}\n", u16::from_be_bytes([ds[0], ds[1]]), ds[2], ds[3], hex(&ds[4..]))
    };
    let mut net = internet();
    let both = key(&net, ".") + &key(&net, "test");
    assert_eq!(look(&with(&both, &[]), &net, "test", rtype::DS).await, Secure(0, vec![]));
    // The same for a domain that isn't validated: what the zone above says of it is.
    let root = key(&net, ".");
    assert_eq!(look(&with(&root, &["corp"]), &net, "corp", rtype::DS).await, Secure(3, vec![]));
    net.tamper = Box::new(|query, reply| {
        if query.qtype == rtype::DS && query.name == name("test") {
            reply.strip_signatures();
        }
    });
    assert_eq!(look(&with(&both, &[]), &net, "test", rtype::DS).await, Bogus(10));
}

/// A set may be long: what is hashed counts, not only how often.
#[test]
fn long_sets_cost_more_of_the_budget() {
    let mut zone = Zone::new("test", NSEC);
    let owner = format!("{}.{}.{}.test", "a".repeat(60), "b".repeat(60), "c".repeat(60));
    zone.address("short.test", 1);
    for last in 0..=254 {
        zone.address(&owner, last);
    }
    let keys = [rrset::Key::from_rdata(&zone.records[&(name("test"), rtype::DNSKEY)][0]).unwrap()];
    let cost = |text: &str| {
        let reply = Reply { answer: zone.set(&name(text), 1, &name(text)), ..Reply::default() };
        let response = response::read(&reply.message(&ask(text, 1))).unwrap();
        let mut budget = Budget::FULL;
        let sets = rrset::Sets::answers(&response);
        sets.get(&name(text), 1).unwrap().candidates(&name("test"), &keys, NOW).unwrap().run(&mut budget).unwrap();
        assert_eq!(budget.checked, 1);
        Budget::FULL.signatures - budget.signatures
    };
    assert_eq!(cost("short.test"), 1);
    // 255 times 202 octets.
    assert_eq!(cost(&owner), 4);
}

/// Whoever asks for a digest asks the zone above, and so an alias found there is that zone's too: at an unsigned delegation it needs a signature.
#[tokio::test]
async fn an_alias_instead_of_a_digest_belongs_to_the_zone_above() {
    let mut net = internet();
    assert_eq!(fresh(&net, "plain.test", rtype::DS).await, Secure(0, vec![]));
    // An alias that the zone above signed, and the unsigned one of an unsigned zone.
    assert_eq!(fresh(&net, "in.nsec.test", rtype::DS).await, Secure(0, vec![]));
    assert_eq!(fresh(&net, "alias.plain.test", rtype::DS).await, Insecure(0, vec![]));
    net.tamper = Box::new(|query, reply| {
        if query.qtype == rtype::DS && query.name == name("plain.test") {
            let rdata = name("www.plain.test").wire().to_vec();
            reply.answer.push(Rr { owner: query.name.clone(), kind: rtype::CNAME, ttl: TTL, rdata });
        }
    });
    // With the denial of the zone above beside it, so that the delegation itself is proved.
    assert_eq!(fresh(&net, "plain.test", rtype::DS).await, Bogus(10));
    // What stands below is as unsigned as before.
    assert_eq!(fresh(&net, "www.plain.test", 1).await, Insecure(0, vec![1, 2]));
}

/// A zone has no say in what stands above its cut (RFC 4035 section 5.3.1): neither a digest nor an alias instead of one, though its key is trusted.
#[tokio::test]
async fn a_zone_signs_no_digest_of_itself() {
    for (kind, rdata) in [(rtype::DS, vec![0, 1, 15, 2, 7]), (rtype::CNAME, name("www.nsec.test").wire().to_vec())] {
        let mut net = internet();
        let own = name("nsec.test");
        let forged = net.zone("nsec.test").signed(&own, &own, kind, std::slice::from_ref(&rdata));
        // The alias' end is proved.
        let authority = net.reply(&ask("www.nsec.test", rtype::DS)).authority;
        let validator = validator(&net);
        // The chain is known: only this answer is forged.
        assert_eq!(look(&validator, &net, "www.nsec.test", 1).await, Secure(0, vec![1, 2]));
        net.tamper = Box::new(move |query, reply| {
            if query.qtype == rtype::DS && query.name == own {
                *reply = Reply { rcode: 0, answer: forged.clone(), authority: authority.clone() };
            }
        });
        let got = look(&validator, &net, "nsec.test", rtype::DS).await;
        assert!(matches!(got, Bogus(_)), "{kind}: {got:?}");
    }
}
