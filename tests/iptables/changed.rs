//! What others do to rules and sets is undone.

use super::*;

#[test]
fn rules_that_others_flush_move_or_change_are_put_back() {
    both(|programs| {
        let _peer = host_and_peer();
        let mut running = Running::start(programs, &config(NftablesMode::Local), &[("10.9.1.2", 900)]);
        for (line, what) in [
            ("-F OUTPUT", "is gone"),
            ("-I OUTPUT 1 -j ACCEPT", "not the first"),
            ("-F", "is gone"),
            ("-D destguard-refuse -p tcp -j REJECT --reject-with tcp-reset", "was changed"),
            ("-I destguard-local 1 -j ACCEPT", "was changed"),
            ("-F && iptables-VARIANT -X", "is gone"),
        ] {
            let line = line.replace("VARIANT", programs.variant.name());
            run(&format!("iptables-{} {line}", programs.variant.name()));
            let said = running.repaired("ruleset");
            assert!(said.contains("iptables: ") && said.contains(what), "{line}: {said}");
            assert_eq!(connect("10.9.1.3", 80), Met::Refused, "{line}");
            assert_eq!(connect("10.9.1.2", 80), Met::Connected, "{line}: what is leased was never lost");
        }
        run(&format!("ip6tables-{} -F", programs.variant.name()));
        assert!(running.repaired("ruleset").contains("ip6tables: "));
        assert_eq!(connect("2001:db8:1::2", 80), Met::Refused);
        // What others add behind ours is theirs.
        tables(programs, "-A OUTPUT -p tcp --dport 80 -j REJECT");
        assert_eq!(connect("10.9.1.2", 80), Met::Refused, "the host's own rules count as well");
        running.stop();
    });
}

#[test]
fn leases_that_others_flush_end_or_add_are_put_right() {
    both(|programs| {
        let mut running = Running::start(
            programs,
            &config(NftablesMode::Local),
            &[("10.9.1.2", 900), ("10.9.1.3", 900), ("2001:db8:1::2", 900)],
        );
        run(
            "ipset add destguard4 10.66.0.1 timeout 900; ipset -! add destguard4 10.9.1.3 timeout 5000; ipset del destguard4 10.9.1.2",
        );
        let missing = running.until("what is missing", |event| matches!(event, Event::Missing { .. }));
        assert!(matches!(missing, Event::Missing { addresses, .. } if addresses == [ip("10.9.1.2")]));
        eventually("the others are put right", || left("10.66.0.1").is_none() && near(left("10.9.1.3"), 900));
        // The core opens it again.
        running.open("10.9.1.2", 900);
        assert!(near(left("10.9.1.2"), 900));
        run("ipset flush");
        let missing = running.until("what is missing", |event| matches!(event, Event::Missing { .. }));
        assert!(matches!(&missing, Event::Missing { addresses, .. } if addresses.len() == 3), "{missing:?}");
        running.stop();
    });
}

#[test]
fn the_variant_is_the_one_that_is_used_and_ours_are_in_one_only() {
    both(|programs| {
        let other =
            Programs::available().expect("iptables").into_iter().find(|other| other != programs).expect("another");
        run(&format!("iptables-{} -A INPUT -p tcp --dport 22 -j ACCEPT", programs.variant.name()));
        assert_eq!(Programs::choose().expect("chosen").variant, programs.variant, "others have their rules there");
        // Ours count more.
        Running::start(&other, &config(NftablesMode::Local), &[]).stop();
        assert_eq!(Programs::choose().expect("chosen").variant, other.variant);
        Running::start(programs, &config(NftablesMode::Local), &[]).stop();
        assert_eq!(Programs::choose().expect("chosen").variant, programs.variant);
        let saved = run(&format!("iptables-{}-save", other.variant.name()));
        assert!(!saved.contains("destguard"), "{saved}");
    });
}
