//! What one answer may cost, whatever stands in it.

use super::*;

/// Gives a zone more keys with the tag and algorithm of its own: what one pair of octets gains another loses.
pub(in crate::dns) fn collide(zone: &mut Zone) {
    let good = zone.records[&(zone.name.clone(), rtype::DNSKEY)][0].clone();
    let owner = zone.name.to_string();
    let others = (1..=u8::MAX).filter_map(|more| Some((good[6].checked_add(more)?, good[8].checked_sub(more)?)));
    let others: Vec<(u8, u8)> = others.take(20).collect();
    assert!(others.len() > 2, "the seed of {owner} is a bad one for this");
    for (one, other) in others {
        let mut key = good.clone();
        (key[6], key[8]) = (one, other);
        zone.add(&owner, rtype::DNSKEY, &key);
    }
}

/// A reply whose signatures over `kind` come as often as a set may have them, all wrong.
pub(in crate::dns) fn multiply(reply: &mut Reply, kind: u16) {
    let Some(signature) = reply.signatures(kind).next().cloned() else { return };
    reply.signatures(kind).for_each(|rr| rr.rdata[30] ^= 0x80);
    for wrong in 1..=8u8 {
        let mut rr = signature.clone();
        *rr.rdata.last_mut().unwrap() ^= wrong;
        reply.answer.insert(0, rr);
    }
}

/// CVE-2023-50387: many keys with one tag, many signatures; each pair would be tried.
#[tokio::test]
async fn a_hostile_zone_costs_a_bounded_number_of_signatures() {
    let mut net = internet();
    collide(net.zone("nsec.test"));
    net.tamper = Box::new(|query, reply| {
        if query.qtype != rtype::A || reply.authority.is_empty() {
            return;
        }
        let Some(nsec) = reply.authority.iter().position(|rr| rr.kind == rtype::NSEC) else { return };
        let set = reply.authority[nsec..nsec + 2].to_vec();
        let mut hostile = Vec::new();
        for label in 0..16u8 {
            let owner = name(&format!("x{label}.nsec.test"));
            hostile.push(Rr { owner: owner.clone(), ..set[0].clone() });
            for wrong in 1..=16u8 {
                let mut signature = Rr { owner: owner.clone(), ..set[1].clone() };
                *signature.rdata.last_mut().unwrap() ^= wrong;
                hostile.push(signature);
            }
        }
        reply.authority.splice(0..0, hostile);
    });
    let validator = validator(&net);
    // What is right and cheap needs no thread of its own.
    for (text, expected) in [("www.nsec3.test", Secure(0, vec![1, 2])), ("none.nsec3.test", Secure(3, vec![]))] {
        assert_eq!(look(&validator, &net, text, 1).await, expected);
    }
    assert_eq!(validator.pool.threads(), 0);
    let before = validator.metrics.validation_signatures.get();
    // The proof comes behind what costs so much; it isn't looked at any more.
    let seen = look(&validator, &net, "none.nsec.test", 1).await;
    assert_eq!(seen, TooMuch("too many wrong signatures for one answer".to_owned()));
    let wrong = validator.metrics.validation_wrong.get();
    assert_eq!(wrong, 16);
    // Those of the chain were right: root, "test" and the zone itself, whose keys may be tried in the wrong order.
    let right = validator.metrics.validation_signatures.get() - before - wrong;
    assert!(right <= 6, "{right}");
    assert_eq!((validator.metrics.validation_limited.get(), validator.pool.threads()), (1, 1));
    assert!(net.asked.lock().unwrap().len() <= Budget::FULL.queries as usize);
    // That was this question's doing: the zone itself is fine.
    assert_eq!(look(&validator, &net, "www.nsec.test", 1).await, Secure(0, vec![1, 2]));
}

/// What is dear counts more: of RSA with 4,096 bits half as many are tried, and with an exponent as long as may be an eighth.
#[tokio::test]
async fn dear_algorithms_are_tried_less_often() {
    for (exponent, most) in [(&[1u8, 0, 1][..], 8), (&[1, 0xff, 0xff, 0xff, 0xff], 2)] {
        let mut net = internet();
        let zone = net.zone("nsec.test");
        let mut tag = 0;
        for number in 0..4u8 {
            let mut modulus = vec![0xa5; 512];
            // The same words in another order have the same sum.
            (modulus[2 * usize::from(number) + 8], modulus[511]) = (0x77, 0x01);
            let key = [&[1, 1, 3, 8, u8::try_from(exponent.len()).unwrap()], exponent, &modulus[..]].concat();
            let made = rrset::Key::from_rdata(&key).unwrap();
            assert!(number == 0 || made.tag == tag);
            tag = made.tag;
            zone.add("nsec.test", rtype::DNSKEY, &key);
        }
        net.tamper = Box::new(move |query, reply| {
            if query.name != name("www.nsec.test") || query.qtype != 1 {
                return;
            }
            multiply(reply, 1);
            reply.signatures(1).for_each(|rr| {
                rr.rdata[2] = 8;
                rr.rdata[16..18].copy_from_slice(&tag.to_be_bytes());
                rr.rdata.resize(18 + 11 + 512, 0x33);
            });
        });
        let validator = validator(&net);
        let seen = look(&validator, &net, "www.nsec.test", 1).await;
        assert_eq!(seen, TooMuch("too many wrong signatures for one answer".to_owned()));
        assert_eq!(validator.metrics.validation_wrong.get(), most);
    }
}

/// Keys that nobody can check with are said to be such.
#[tokio::test]
async fn short_rsa_keys_are_named() {
    let mut net = internet();
    let zone = net.zone("nsec.test");
    let key = [&[1, 1, 3, 8, 3, 1, 0, 1][..], &[0xa5; 64]].concat();
    let tag = rrset::Key::from_rdata(&key).unwrap().tag;
    zone.add("nsec.test", rtype::DNSKEY, &key);
    net.tamper = Box::new(move |query, reply| {
        if query.name == name("www.nsec.test") && query.qtype == 1 {
            reply.signatures(1).for_each(|rr| {
                rr.rdata[2] = 8;
                rr.rdata[16..18].copy_from_slice(&tag.to_be_bytes());
            });
        }
    });
    let validator = validator(&net);
    let Ok(Checked::Refused(label, ede)) = validator.ask(&net, &ask("www.nsec.test", 1)).await else { panic!() };
    assert_eq!((label, ede.code), ("bogus", 1));
    assert_eq!(ede.text, "A www.nsec.test is signed by an RSA key of 512 bits; 1024 to 8192 can be checked");
    assert_eq!(validator.metrics.validation_wrong.get(), 0);
}

/// A zone whose keys alone cost too much is kept as such: the next question into it costs nothing.
#[tokio::test]
async fn a_zone_that_costs_too_much_is_kept_as_failed() {
    let mut net = internet();
    collide(net.zone("nsec.test"));
    let digests: Vec<Vec<u8>> = net.zone("nsec.test").records[&(name("nsec.test"), rtype::DNSKEY)]
        .iter()
        .map(|key| {
            let digest = ring::digest::digest(&ring::digest::SHA256, &[name("nsec.test").wire(), key].concat());
            let tag = rrset::Key::from_rdata(key).unwrap().tag;
            [&tag.to_be_bytes()[..], &[15, 2], digest.as_ref()].concat()
        })
        .collect();
    for digest in &digests[1..] {
        net.zone("test").add("nsec.test", rtype::DS, digest);
    }
    net.tamper = Box::new(|query, reply| {
        if query.qtype == rtype::DNSKEY && query.name == name("nsec.test") {
            multiply(reply, rtype::DNSKEY);
        }
    });
    let validator = validator(&net);
    let too_much = TooMuch("too many wrong signatures for one answer".to_owned());
    assert_eq!(look(&validator, &net, "www.nsec.test", 1).await, too_much);
    assert_eq!(validator.metrics.validation_wrong.get(), 16);
    for text in ["www.nsec.test", "text.nsec.test", "none.nsec.test"] {
        assert_eq!(look(&validator, &net, text, 1).await, too_much, "{text}");
    }
    assert_eq!(validator.metrics.validation_wrong.get(), 16);
    // Others are none the worse for it.
    assert_eq!(look(&validator, &net, "www.nsec3.test", 1).await, Secure(0, vec![1, 2]));
}

/// Digests of one tag beside keys of one tag: each pair would be hashed.
#[tokio::test]
async fn of_many_digests_with_one_tag_a_few_count() {
    for (wrong, expected) in [(3, Secure(0, vec![1, 2])), (8, Bogus(9))] {
        let mut net = internet();
        let right = net.zone("nsec.test").ds();
        for number in 0..wrong {
            // They come before the right one.
            let digest = [&right[..4], &[0; 31], &[number]].concat();
            net.zone("test").add("nsec.test", rtype::DS, &digest);
        }
        assert_eq!(fresh(&net, "www.nsec.test", 1).await, expected, "{wrong}");
    }
}

/// RFC 9276 section 3.2: beyond the bound nothing is hashed, and the zone counts as unsigned where it denies something.
#[tokio::test]
async fn too_many_rounds_are_not_begun() {
    let mut root = Zone::new(".", NSEC);
    let mut slow = Zone::new("slow", Some(Denial::Nsec3 { iterations: 2500, opt_out: false }));
    slow.address("www.slow", 2);
    root.delegate(&slow);
    let net = Internet::new(vec![root, slow]);
    assert_eq!(fresh(&net, "www.slow", 1).await, Secure(0, vec![2]));
    assert_eq!(fresh(&net, &format!("{}slow", "a.".repeat(100)), 1).await, Insecure(3, vec![]));
}

/// CVE-2023-50868: a long name and many rounds; and a name with more labels than the chain may be long.
#[tokio::test]
async fn long_names_cost_a_bounded_number_of_hashes_and_queries() {
    let mut root = Zone::new(".", NSEC);
    let mut slow = Zone::new("slow", Some(Denial::Nsec3 { iterations: 150, opt_out: false }));
    slow.address("www.slow", 2);
    root.delegate(&slow);
    let deep = "a.".repeat(120);
    slow.address(&format!("{deep}slow"), 3);
    let mut net = Internet::new(vec![root, slow]);
    // Signed by a zone that is known, whatever the depth.
    assert_eq!(fresh(&net, &format!("{deep}slow"), 1).await, Secure(0, vec![3]));
    // 121 names, each 151 rounds and some blocks for its length: within the bound, but only just.
    let bound = u64::from(Budget::FULL.hashes);
    assert!(bound / 156 >= 127 && bound / 151 < 200, "{bound}");
    assert!(matches!(fresh(&net, &format!("b.{deep}slow"), 1).await, Secure(3, _)));
    // Without its signature the name must be looked for label by label, and that ends.
    net.tamper = Box::new(|query, reply| {
        if query.qtype == 1 {
            reply.strip_signatures()
        }
    });
    let before = net.asked.lock().unwrap().len();
    let too_much = TooMuch("too many queries for one answer".to_owned());
    assert_eq!(fresh(&net, &format!("{deep}slow"), 1).await, too_much);
    assert_eq!(net.asked.lock().unwrap().len() - before, Budget::FULL.queries as usize + 1);
    // What was learnt on the way is kept, and no name on it is called broken.
    let validator = validator(&net);
    for seen in [&too_much, &too_much] {
        assert_eq!(&look(&validator, &net, &format!("{deep}slow"), 1).await, seen);
    }
    net.tamper = Box::new(|_, _| {});
    assert_eq!(look(&validator, &net, &format!("{deep}slow"), 1).await, Secure(0, vec![3]));
}
