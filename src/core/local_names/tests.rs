use super::*;

fn names(more: &str) -> LocalNames {
    LocalNames::new(&toml::from_str(more).unwrap())
}

fn answer(names: &LocalNames, name: &str, qtype: u16) -> Option<Local> {
    names.answer(&name.parse().unwrap(), qtype).map(|(local, _)| local)
}

#[test]
fn every_zone_is_a_name_and_none_stands_twice() {
    let count = zones().count();
    assert_eq!(count, ZONES.len() + 16 + 64);
    assert_eq!(names("").zones.len(), count);
}

#[test]
fn what_must_not_be_forwarded_is_not() {
    let local = names("");
    for name in [
        "use-application-dns.net",
        "mask.icloud.com",
        "MASK-h2.icloud.com",
        "invalid",
        "x.invalid",
        "abcdef.onion",
        "printer.local",
        "_services._dns-sd._udp.local",
        "x.y.alt",
        "nas.home.arpa",
        "1.0.0.10.in-addr.arpa",
        "4.3.16.172.in-addr.arpa",
        "4.3.31.172.in-addr.arpa",
        "1.1.64.100.in-addr.arpa",
        "1.1.127.100.in-addr.arpa",
        "1.0.0.127.in-addr.arpa",
        "x.d.f.ip6.arpa",
        "below.ipv4only.arpa",
    ] {
        assert_eq!(answer(&local, name, rtype::A), Some(Local::NoName), "{name}");
    }
    for name in ["home.arpa", "10.in-addr.arpa", "resolver.arpa", "_dns.resolver.arpa"] {
        assert_eq!(answer(&local, name, 64), Some(Local::NoData), "{name}");
    }
}

#[test]
fn other_names_are_like_any_other() {
    let local = names("");
    for name in [
        ".",
        "test",
        "lab.test",
        "example",
        "icloud.com",
        "www.icloud.com",
        "local.example",
        "arpa",
        "8.8.8.8.in-addr.arpa",
        "1.1.15.172.in-addr.arpa",
        "1.1.32.172.in-addr.arpa",
        "1.1.63.100.in-addr.arpa",
        "1.1.128.100.in-addr.arpa",
        "notlocalhost",
        "localhost.example",
    ] {
        assert_eq!(answer(&local, name, rtype::A), None, "{name}");
    }
    // The parent's side of a delegation.
    assert_eq!(answer(&local, "home.arpa", DS), None);
    assert_eq!(answer(&local, "x.home.arpa", DS), Some(Local::NoName));
    assert_eq!(answer(&local, "local", DS), Some(Local::NoName));
}

#[test]
fn localhost_is_this_host() {
    let local = names("");
    for name in ["localhost", "a.LOCALHOST"] {
        assert_eq!(answer(&local, name, rtype::A), Some(Local::Addresses(vec!["127.0.0.1".parse().unwrap()])));
        assert_eq!(answer(&local, name, rtype::AAAA), Some(Local::Addresses(vec!["::1".parse().unwrap()])));
        assert_eq!(answer(&local, name, 16), Some(Local::NoData));
    }
}

#[test]
fn the_prefix_of_nat64_is_found_where_there_is_one() {
    let found = |names: &LocalNames, qtype| match answer(names, "ipv4only.arpa", qtype) {
        Some(Local::Addresses(list)) => list.iter().map(ToString::to_string).collect(),
        other => vec![format!("{other:?}")],
    };
    let without = names("");
    assert_eq!(found(&without, rtype::A), ["192.0.0.170", "192.0.0.171"]);
    assert_eq!(found(&without, rtype::AAAA), ["Some(NoData)"]);
    let with = names("[addresses]\nnat64 = \"2001:db8:64::/96\"\n");
    assert_eq!(found(&with, rtype::A), ["192.0.0.170", "192.0.0.171"]);
    assert_eq!(found(&with, rtype::AAAA), ["2001:db8:64::c000:aa", "2001:db8:64::c000:ab"]);
}

#[test]
fn the_operators_own_domains_are_forwarded() {
    let local = names(
        "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\ndomains = [\"home.arpa\", \"corp.local\", \"10.in-addr.arpa\", \".\"]\n\
         [[policy.private]]\ndomain = \"lan.alt\"\nprefixes = [\"10.0.0.0/8\"]\n",
    );
    for name in ["home.arpa", "nas.home.arpa", "x.corp.local", "1.0.0.10.in-addr.arpa", "nas.lan.alt"] {
        assert_eq!(answer(&local, name, rtype::A), None, "{name}");
    }
    for name in ["printer.local", "x.alt", "1.1.168.192.in-addr.arpa", "x.onion"] {
        assert_eq!(answer(&local, name, rtype::A), Some(Local::NoName), "{name}");
    }
}

#[test]
fn off_is_off() {
    assert_eq!(answer(&names("[dns]\nlocal_names = false\n"), "localhost", rtype::A), None);
}
