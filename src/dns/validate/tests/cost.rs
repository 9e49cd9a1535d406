//! What one answer may cost, whatever stands in it.

use super::*;

/// CVE-2023-50387: many keys with one tag, many signatures; each pair would be tried.
#[tokio::test]
async fn a_hostile_zone_costs_a_bounded_number_of_signatures() {
    let mut net = internet();
    let zone = net.zone("nsec.test");
    let good = zone.records[&(zone.name.clone(), rtype::DNSKEY)][0].clone();
    let mut keys = 0;
    for more in 1..=u8::MAX {
        // What one pair of octets gains another loses, so that the tag stays.
        let (Some(one), Some(other)) = (good[6].checked_add(more), good[8].checked_sub(more)) else { continue };
        let mut key = good.clone();
        (key[6], key[8]) = (one, other);
        zone.add("nsec.test", rtype::DNSKEY, &key);
        keys += 1;
    }
    assert!(keys > 2 || good[6] > 250 || good[8] < 3);
    net.tamper = Box::new(|query, reply| {
        if query.qtype != rtype::A || reply.authority.is_empty() {
            return;
        }
        let nsec = reply.authority.iter().position(|rr| rr.kind == rtype::NSEC).unwrap();
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
    // The proof comes behind what costs so much; it isn't looked at any more.
    assert!(matches!(look(&validator, &net, "none.nsec.test", 1).await, Bogus(_)));
    let checked = validator.metrics.validation_signatures.get();
    assert_eq!(checked, u64::from(Budget::FULL.signatures));
    assert!(net.asked.lock().unwrap().len() <= Budget::FULL.queries as usize);
    // That was this question's doing: the zone itself is fine.
    assert_eq!(look(&validator, &net, "www.nsec.test", 1).await, Secure(0, vec![1, 2]));
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
    // 121 names, each 151 rounds: within the bound, but only just.
    let bound = u64::from(Budget::FULL.hashes);
    assert!(bound / 151 >= 127 && bound / 151 < 200, "{bound}");
    assert!(matches!(fresh(&net, &format!("b.{deep}slow"), 1).await, Secure(3, _)));
    // Without its signature the name must be looked for label by label, and that ends.
    net.tamper = Box::new(|query, reply| {
        if query.qtype == 1 {
            reply.strip_signatures()
        }
    });
    assert_eq!(fresh(&net, &format!("{deep}slow"), 1).await, Unreached);
    assert!(net.asked.lock().unwrap().len() <= 3 * (Budget::FULL.queries as usize + 1));
}
