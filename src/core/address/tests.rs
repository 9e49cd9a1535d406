use std::collections::HashSet;
use std::net::Ipv6Addr;

use super::special::{Reachable, TABLE};
use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn filter(toml: &str) -> AddressFilter {
    // Without the default listeners, which are infrastructure.
    AddressFilter::new(&toml::from_str(&format!("dns.listen = []\n{toml}")).unwrap(), &[]).unwrap()
}

/// Judges for a question of no private domain, without aliases.
fn judge(filter: &AddressFilter, address: &str) -> Result<Admitted, Reason> {
    filter.judge(ip(address), &name("www.example"), &[])
}

#[test]
fn ordinary_addresses_need_a_lease() {
    let filter = filter("");
    for address in ["20.8.8.8", "20.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.0", "2a00::1", "2606:4700::2222"]
    {
        assert_eq!(judge(&filter, address), Ok(Admitted::Lease), "{address}");
    }
}

#[test]
fn what_lies_inside_is_opened_by_the_operators_word_alone() {
    let filter = filter(
        "addresses.inside = [\"20.10.0.0/16\", \"2a01:db0::/32\"]\naddresses.open = [\"20.10.9.0/24\"]\naddresses.nat64 = \"2a02::/96\"\n\
         [[policy.private]]\ndomain = \"dmz.example\"\nprefixes = [\"20.10.1.0/24\"]",
    );
    for address in ["20.10.0.10", "20.10.1.1", "2a01:db0::1", "2a02::140a:a", "2002:140a:a::1"] {
        let reason = judge(&filter, address).unwrap_err();
        let words = reason.to_string();
        assert!(words.contains("of this network (addresses.inside holds "), "{address}: {words}");
    }
    assert_eq!(judge(&filter, "20.11.0.1"), Ok(Admitted::Lease));
    assert_eq!(judge(&filter, "20.10.9.1"), Ok(Admitted::AlreadyOpen));
    let within = |address| filter.judge(ip(address), &name("www.dmz.example"), &[]);
    assert_eq!(within("20.10.1.1"), Ok(Admitted::Lease));
    assert!(within("20.10.2.1").is_err(), "outside the prefixes of its entry");
    assert!(filter.judge(ip("20.10.1.1"), &name("www.dmz.example"), &[name("attacker.test")]).is_err());
}

#[test]
fn what_a_router_announces_is_inside_too() {
    let more = "addresses.open = [\"20.10.9.0/24\"]\n[[policy.private]]\ndomain = \"dmz.example\"\nprefixes = [\"20.10.1.0/24\"]";
    let config: Config = toml::from_str(more).unwrap();
    let nets: HashMap<IpNet, String> =
        ["20.10.0.0/16", "2a01:db0::/32"].iter().map(|net| (net.parse().unwrap(), "edge".to_owned())).collect();
    let filter = AddressFilter::new(&config, &[]).unwrap().with_announced(&nets);
    for address in ["20.10.0.10", "20.10.1.1", "2a01:db0::1", "2002:140a:a::1"] {
        let reason = judge(&filter, address).unwrap_err();
        assert!(reason.to_string().contains("is announced by peer edge"), "{address}: {reason}");
    }
    assert_eq!(judge(&filter, "20.10.0.10").unwrap_err().label(), "inside");
    assert_eq!(judge(&filter, "20.11.0.1"), Ok(Admitted::Lease));
    assert_eq!(judge(&filter, "20.10.9.1"), Ok(Admitted::AlreadyOpen));
    assert_eq!(filter.judge(ip("20.10.1.1"), &name("www.dmz.example"), &[]), Ok(Admitted::Lease));
}

#[test]
fn what_is_on_link_is_inside_too() {
    let more = "addresses.open = [\"20.10.9.0/24\"]\naddresses.nat64 = \"2a02:64::/96\"\n\
                [[policy.private]]\ndomain = \"dmz.example\"\nprefixes = [\"20.10.1.0/24\"]";
    let config: Config = toml::from_str(more).unwrap();
    let links =
        [("20.10.0.0/16", "eth0"), ("2a01:db0::/64", "eth1"), ("2002:1408:808::/48", "eth1"), ("2a02::/16", "eth2")];
    let links: HashMap<IpNet, String> =
        links.iter().map(|(net, at)| (net.parse().unwrap(), (*at).to_owned())).collect();
    let filter = AddressFilter::new(&config, &[]).unwrap().with_on_link(&links);
    for (address, at) in
        [("20.10.0.10", "eth0"), ("2a01:db0::1", "eth1"), ("2a02:64::140a:a", "eth0"), ("2002:1408:808::1", "eth1")]
    {
        let reason = judge(&filter, address).unwrap_err();
        assert!(reason.to_string().contains(&format!("is on-link at {at}")), "{address}: {reason}");
    }
    assert_eq!(judge(&filter, "20.10.0.10").unwrap_err().label(), "inside");
    assert_eq!(judge(&filter, "20.11.0.1"), Ok(Admitted::Lease));
    assert_eq!(judge(&filter, "2a01:db0:0:1::1"), Ok(Admitted::Lease));
    assert_eq!(judge(&filter, "2a02:64::140b:1"), Ok(Admitted::Lease), "behind a translator on the link");
    assert_eq!(judge(&filter, "20.10.9.1"), Ok(Admitted::AlreadyOpen));
    assert_eq!(filter.judge(ip("20.10.1.1"), &name("www.dmz.example"), &[]), Ok(Admitted::Lease));
}

#[test]
fn special_purpose_addresses_are_filtered() {
    let filter = filter("");
    let special = [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "239.255.255.250",
        "255.255.255.255",
        "100.64.0.1",
        "192.0.2.1",
        "198.51.100.7",
        "203.0.113.9",
        "172.16.0.1",
        "192.168.1.1",
        "198.18.0.1",
        "240.0.0.1",
        "192.0.0.9",
        "192.88.99.1",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00::1",
        "ff02::1",
        "ff0e::1",
        "fec0::1",
        "::ffff:10.0.0.1",
        "::ffff:20.8.8.8",
        "::20.8.8.8",
        "64:ff9b::a00:1",
        "64:ff9b::1408:808",
        "64:ff9b:1::1408:808",
        "2002:a00:1::",
        "2002:7f00:1::1",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "100::1",
        "4000::1",
        "1::1",
        "2001:20::1",
        "2001:30::1",
        "2001:1::1",
    ];
    for address in special {
        let reason = judge(&filter, address).unwrap_err();
        assert!(["special", "embedded"].contains(&reason.label()), "{address}: {reason}");
    }
}

#[test]
fn the_reason_cites_registry_and_rfc() {
    let filter = filter("");
    let reason = judge(&filter, "169.254.169.254").unwrap_err().to_string();
    assert_eq!(reason, "169.254.0.0/16 is Link Local (IPv4 special-purpose registry, RFC 3927)");
    let reason = judge(&filter, "2002:a00:1::").unwrap_err().to_string();
    assert_eq!(reason, "6to4 address of 10.0.0.1: 10.0.0.0/8 is Private-Use (IPv4 special-purpose registry, RFC 1918)");
    assert!(TABLE.iter().all(|special| special.rfc.starts_with("RFC ") && !special.name.is_empty()));
}

#[test]
fn six_to_four_is_judged_by_the_address_inside() {
    let filter = filter("addresses.never = [\"20.8.4.0/24\"]");
    assert_eq!(judge(&filter, "2002:1408:808::1"), Ok(Admitted::Lease));
    assert_eq!(judge(&filter, "2002:1408:404::1").unwrap_err().label(), "embedded");
    assert_eq!(judge(&filter, "2002:c000:201::1").unwrap_err().label(), "embedded");
}

#[test]
fn nat64_only_where_the_operator_has_it() {
    assert!(judge(&filter(""), "64:ff9b::1408:808").is_err());
    for prefix in ["64:ff9b::", "64:ff9b:1::", "2001:db8:64::", "fd00:64::"] {
        let filter = filter(&format!("[addresses]\nnat64 = \"{prefix}/96\"\nnever = [\"20.8.4.4\"]"));
        let inside = |v4: &str| {
            let v4: Ipv4Addr = v4.parse().unwrap();
            let base: Ipv6Addr = prefix.parse().unwrap();
            filter.judge(
                Ipv6Addr::from_bits(base.to_bits() | u128::from(v4.to_bits())).into(),
                &name("www.example"),
                &[],
            )
        };
        assert_eq!(inside("20.8.8.8"), Ok(Admitted::Lease), "{prefix}");
        for v4 in ["10.0.0.1", "127.0.0.1", "192.0.2.1", "224.0.0.1", "20.8.4.4"] {
            assert_eq!(inside(v4).unwrap_err().label(), "embedded", "{prefix} {v4}");
        }
    }
    // Next to the prefix is not in it.
    let local = filter("addresses.nat64 = \"64:ff9b:1::/96\"");
    assert!(judge(&local, "64:ff9b:1::1:1408:808").is_err());
    assert!(judge(&local, "64:ff9b::1408:808").is_err());
}

#[test]
fn nat64_of_a_private_host_needs_the_private_domain() {
    let filter = filter(
        "addresses.nat64 = \"64:ff9b::/96\"\n[[policy.private]]\ndomain = \"corp.example\"\nprefixes = [\"10.0.0.0/8\"]",
    );
    assert_eq!(filter.judge(ip("64:ff9b::a00:1"), &name("x.corp.example"), &[]), Ok(Admitted::Lease));
    assert!(filter.judge(ip("64:ff9b::a00:1"), &name("x.example"), &[]).is_err());
    // Without translator, the forms that hold the address stay closed for the domain too.
    for form in ["::ffff:10.0.0.1", "::10.0.0.1", "2002:a00:1::"] {
        assert!(filter.judge(ip(form), &name("x.corp.example"), &[]).is_err(), "{form}");
    }
}

#[test]
fn a_nat64_prefix_that_is_no_96_is_refused() {
    let config: Config = toml::from_str("addresses.nat64 = \"64:ff9b::/64\"").unwrap();
    let errors = AddressFilter::new(&config, &[]).unwrap_err();
    assert_eq!(errors[0].key, "addresses.nat64");
}

const CORP: &str = "[[policy.private]]\ndomain = \"corp.example\"\nprefixes = [\"10.0.0.0/8\", \"fd00::/8\"]\n";

#[test]
fn private_domain_lifts_the_registries_for_its_names_only() {
    let filter = filter(CORP);
    let corp = |question: &str, chain: &[&str], address: &str| {
        let chain: Vec<Name> = chain.iter().map(|text| name(text)).collect();
        filter.judge(ip(address), &name(question), &chain)
    };
    assert_eq!(corp("www.corp.example", &[], "10.1.2.3"), Ok(Admitted::Lease));
    assert_eq!(corp("corp.example", &[], "fd00::1"), Ok(Admitted::Lease));
    assert_eq!(corp("www.corp.example", &["x.y.corp.example"], "10.1.2.3"), Ok(Admitted::Lease));
    assert!(corp("www.corp.example", &[], "192.168.1.1").is_err(), "not its prefix");
    assert!(corp("www.example", &[], "10.1.2.3").is_err(), "not its name");
    assert!(corp("evilcorp.example", &[], "10.1.2.3").is_err(), "only a look-alike");
    assert!(corp("corp.example.evil.test", &[], "10.1.2.3").is_err(), "only a look-alike");
    // DNS rebinding: an alias from outside into the domain, and one that leaves it on the way.
    assert!(corp("evil.test", &["www.corp.example"], "10.1.2.3").is_err());
    assert!(corp("www.corp.example", &["a.test", "b.corp.example"], "10.1.2.3").is_err());
    // Public addresses of the domain pass as ever.
    assert_eq!(corp("www.corp.example", &["cdn.test"], "20.8.8.8"), Ok(Admitted::Lease));
}

#[test]
fn each_name_of_a_chain_lies_in_some_entry_that_has_the_prefix() {
    let filter = filter(
        "[[policy.private]]\ndomain = \"corp.example\"\nprefixes = [\"10.0.0.0/8\"]\n\
         [[policy.private]]\ndomain = \"cdn.test\"\nprefixes = [\"10.1.0.0/16\"]\n\
         [[policy.private]]\ndomain = \"other.test\"\nprefixes = [\"10.2.0.0/16\"]",
    );
    let judge = |chain: &[&str], address: &str| {
        let chain: Vec<Name> = chain.iter().map(|text| name(text)).collect();
        filter.judge(ip(address), &name("www.corp.example"), &chain)
    };
    assert_eq!(judge(&["a.cdn.test", "b.corp.example"], "10.1.0.1"), Ok(Admitted::Lease));
    assert!(judge(&["a.cdn.test"], "10.2.0.1").is_err(), "that entry has another prefix");
    assert!(judge(&["a.cdn.test", "evil.test"], "10.1.0.1").is_err());
}

#[test]
fn own_addresses_are_told_and_never_opened() {
    let own = ["20.5.0.1", "10.5.0.1", "127.0.0.1"].map(|address| (ip(address), "an address of this host".to_owned()));
    let text = "[dns]\nlisten = [\"20.5.0.1:53\"]\n[[dns.upstream]]\nurl = \"udp://10.5.0.254\"\n\
                [[dns.upstream]]\nurl = \"udp://20.5.0.254\"\n\
                [[policy.private]]\ndomain = \"lan.example\"\nprefixes = [\"10.0.0.0/8\"]\n";
    let of = |more: &str| AddressFilter::new(&toml::from_str(&format!("{text}{more}")).unwrap(), &own).unwrap();
    let filter = of("");
    let lan = |filter: &AddressFilter, address: &str| filter.judge(ip(address), &name("router.lan.example"), &[]);
    // Its own public name.
    assert_eq!(judge(&filter, "20.5.0.1"), Ok(Admitted::Here));
    assert_eq!(judge(&filter, "10.5.0.1").unwrap_err().label(), "infrastructure", "rebinding");
    assert_eq!(lan(&filter, "10.5.0.1"), Ok(Admitted::Here));
    assert_eq!(lan(&filter, "127.0.0.1").unwrap_err().label(), "infrastructure");
    assert!(judge(&filter, "2002:1405:1::1").is_err(), "6to4 of it");
    // The page of a router that is the upstream: reached by a lease, or not told.
    assert_eq!(lan(&filter, "10.5.0.254"), Ok(Admitted::Lease));
    assert_eq!(judge(&filter, "10.5.0.254").unwrap_err().label(), "infrastructure");
    let peer = "[bgp]\nasn = 1\n[[bgp.peer]]\nname = \"r\"\naddress = \"10.5.0.253\"\nasn = 2\n";
    assert_eq!(lan(&of(peer), "10.5.0.254").unwrap_err().label(), "infrastructure", "routes would cut the guard off");
    assert_eq!(lan(&of(peer), "10.5.0.253").unwrap_err().label(), "infrastructure");
    let never = AddressFilter::new(&toml::from_str("addresses.never = [\"20.5.0.1\"]").unwrap(), &own).unwrap();
    assert_eq!(judge(&never, "20.5.0.1").unwrap_err().label(), "never");
}

#[test]
fn private_lifts_neither_never_nor_infrastructure() {
    let filter =
        filter(&format!("bgp.router_id = \"10.0.0.1\"\naddresses.never = [\"10.9.0.0/16\", \"20.9.9.9\"]\n{CORP}"));
    let corp = |address: &str| filter.judge(ip(address), &name("www.corp.example"), &[]);
    assert_eq!(corp("10.9.1.1").unwrap_err().label(), "never");
    assert_eq!(corp("10.0.0.1").unwrap_err(), Reason::Infrastructure("bgp.router_id".to_owned()));
    assert_eq!(corp("10.0.0.2"), Ok(Admitted::Lease));
    assert_eq!(corp("20.9.9.9").unwrap_err().label(), "never");
}

#[test]
fn open_addresses_need_no_lease() {
    let filter = filter("[addresses]\nopen = [\"10.88.0.0/16\", \"20.9.9.9\"]\nnever = [\"10.88.66.0/24\"]");
    assert_eq!(judge(&filter, "10.88.1.1"), Ok(Admitted::AlreadyOpen));
    assert_eq!(judge(&filter, "20.9.9.9"), Ok(Admitted::AlreadyOpen));
    assert_eq!(judge(&filter, "20.9.9.10"), Ok(Admitted::Lease));
    assert!(judge(&filter, "10.89.0.0").is_err());
    assert_eq!(judge(&filter, "10.88.66.1").unwrap_err().label(), "never");
    assert!(judge(&filter, "::ffff:20.9.9.9").is_err(), "another form is another address");
}

const WHOLE: &str = r#"
[dns]
listen = ["44.0.0.1:53", "0.0.0.0:5353", "[2a00::53]:53"]
[dns.tls]
dot = ["44.0.0.2:853"]
doh = ["44.0.0.3:443"]
doq = ["44.0.0.4:853"]
[[dns.upstream]]
url = "tls://44.1.0.1"
[[dns.upstream]]
url = "udp://44.1.0.2:5353"
[[dns.upstream]]
url = "https://[2a00::1]/dns-query"
[[dns.upstream]]
url = "quic://[2a00::2]:8853"
[[dns.upstream]]
url = "tcp://2a00::3"
[bgp]
asn = 64512
router_id = "44.2.0.1"
next_hop_ipv4 = "44.2.0.2"
next_hop_ipv6 = "2a00::22"
listen = ["44.2.0.3:179"]
[[bgp.peer]]
name = "edge1"
address = "44.3.0.1"
asn = 64512
local_address = "44.3.0.2"
[http]
listen = ["44.4.0.1:8053"]
"#;

#[test]
fn own_infrastructure_is_never_opened() {
    let own = [(ip("44.5.0.1"), "interface lan0".to_owned()), (ip("::ffff:44.5.0.2"), "interface lan0".to_owned())];
    let filter = AddressFilter::new(&toml::from_str(WHOLE).unwrap(), &own).unwrap();
    let all = [
        "44.0.0.1", "2a00::53", "44.0.0.2", "44.0.0.3", "44.0.0.4", "44.1.0.1", "44.1.0.2", "2a00::1", "2a00::2",
        "2a00::3", "44.2.0.1", "44.2.0.2", "2a00::22", "44.2.0.3", "44.3.0.1", "44.3.0.2", "44.4.0.1",
    ];
    for address in all {
        assert_eq!(judge(&filter, address).unwrap_err().label(), "infrastructure", "{address}");
    }
    for told in ["44.5.0.1", "44.5.0.2"] {
        assert_eq!(judge(&filter, told), Ok(Admitted::Here), "{told}");
    }
    assert_eq!(judge(&filter, "44.0.0.5"), Ok(Admitted::Lease));
    assert_eq!(judge(&filter, "2002:2c03:1::1").unwrap_err().label(), "embedded", "6to4 of a peer");
    assert_eq!(
        judge(&filter, "44.3.0.1").unwrap_err().to_string(),
        "the guard's own: bgp.peer edge1",
        "a log line must say which"
    );
}

#[test]
fn wrong_values_are_all_reported() {
    let text = "[[dns.upstream]]\nurl = \"tls://dns.example\"\n[[policy.private]]\ndomain = \"a..b\"\nprefixes = []\n\
                [[policy.private]]\ndomain = \"\"\nprefixes = []";
    let errors = AddressFilter::new(&toml::from_str(text).unwrap(), &[]).unwrap_err();
    let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["dns.upstream[0].url", "policy.private[0].domain", "policy.private[1].domain"]);
}

#[test]
fn many_prefixes_of_all_lengths_are_found() {
    let mut nets: Vec<IpNet> = (0..=32u8).map(|length| IpNet::new(ip("44.255.3.1"), length).unwrap()).collect();
    nets.extend((0..=128u8).map(|length| IpNet::new(ip("2a00::1"), length).unwrap()));
    for skip in 0..nets.len() {
        // From the shortest on: without the longer ones, the next shorter speaks; written with host bits set, as an operator may.
        let left: Vec<IpNet> = nets.iter().copied().filter(|net| net.prefix_len() <= nets[skip].prefix_len()).collect();
        let set: NetSet = left.iter().copied().collect();
        let expected = left.iter().filter(|net| net.contains(&nets[skip].addr())).max_by_key(|net| net.prefix_len());
        assert_eq!(set.find(nets[skip].addr()), expected.map(IpNet::trunc));
    }
    let set: NetSet = ["44.0.0.0/8".parse().unwrap(), "2a00::/16".parse().unwrap()].into_iter().collect();
    for outside in ["45.0.0.0", "43.255.255.255", "2a01::", "::44.0.0.1"] {
        assert_eq!(set.find(ip(outside)), None);
    }
    assert_eq!(NetSet::default().find(ip("44.0.0.1")), None);
}

/// Where this table and Python's say different things, and why. Each block must still differ: what is explained no more must go.
const DIFFERENCES: &[(&str, &str)] = &[
    ("192.0.0.9/32", "reachable by the registry, but the nearest PCP server answers, perhaps one inside the network"),
    ("192.0.0.10/32", "likewise for TURN"),
    ("192.88.99.0/24", "N/A in the registry; relays there are deprecated, RFC 7526"),
    ("64:ff9b::/96", "reachable by the registry, but only through a translator that the operator must name"),
    ("100:0:0:1::/64", "registered after that version"),
    ("2001:1::1/128", "like 192.0.0.9"),
    ("2001:1::2/128", "like 192.0.0.10"),
    ("2001:20::/28", "reachable by the registry, but identifiers that nobody routes, RFC 7343 section 2"),
    ("2001:30::/28", "likewise, RFC 9374"),
    ("2002::/16", "N/A in the registry and private there; here the IPv4 address inside decides"),
    ("3fff::/20", "registered after that version"),
    ("5f00::/16", "registered after that version, and outside 2000::/3"),
    ("::/96", "deprecated form that holds an IPv4 address; not in the special-purpose registry"),
    ("fec0::/10", "deprecated by RFC 3879; not in the special-purpose registry"),
    ("::/3", "outside 2000::/3: not global unicast space"),
    ("4000::/2", "likewise"),
    ("8000::/1", "likewise"),
];

#[test]
fn registries_agree_with_an_independent_table() {
    let filter = filter("addresses.public_resolvers = \"allow\"");
    let differences: Vec<IpNet> = DIFFERENCES.iter().map(|(net, _)| net.parse().unwrap()).collect();
    let mut used = HashSet::new();
    let mut compared = 0;
    for line in include_str!("python_is_global.txt").lines().filter(|line| !line.starts_with('#')) {
        let (address, verdict) = line.split_once(' ').unwrap();
        let ours = judge(&filter, address).is_ok();
        compared += 1;
        if ours == (verdict == "yes") {
            continue;
        }
        let explained = differences.iter().filter(|net| net.contains(&ip(address))).max_by_key(|net| net.prefix_len());
        let explained = explained.unwrap_or_else(|| panic!("{address}: ours {ours}, theirs {verdict}"));
        used.insert(*explained);
    }
    assert!(compared > 700, "the file is there");
    for (net, why) in DIFFERENCES {
        assert!(used.contains(&net.parse().unwrap()), "{net} differs no more ({why})");
    }
}

#[test]
fn the_table_is_consistent() {
    let mut nets = HashSet::new();
    for special in TABLE {
        assert_eq!(special.net, special.net.trunc(), "{special}");
        assert!(nets.insert(special.net), "{special} stands twice");
        assert!(!special.admit || special.reachable == Reachable::Yes, "{special}");
    }
}

#[test]
fn public_resolvers_are_not_opened_unless_the_operator_says_so() {
    let deny = filter("");
    for address in ["8.8.8.8", "1.1.1.1", "9.9.9.9", "2606:4700:4700::1111", "45.90.28.77", "2002:808:808::1"] {
        let reason = judge(&deny, address).unwrap_err();
        assert!(reason.to_string().contains("public resolver"), "{address}: {reason}");
    }
    assert_eq!(judge(&deny, "8.8.8.8").unwrap_err().label(), "public_resolver");
    assert_eq!(judge(&deny, "8.8.8.9"), Ok(Admitted::Lease));
    // Behind the operator's translator as well.
    let translated = filter("[addresses]\nnat64 = \"2001:db8:64::/96\"");
    assert_eq!(judge(&translated, "2001:db8:64::808:808").unwrap_err().label(), "embedded");
    // Open already, or allowed.
    let open = filter("[addresses]\nopen = [\"8.8.8.8\"]");
    assert_eq!(judge(&open, "8.8.8.8"), Ok(Admitted::AlreadyOpen));
    assert!(judge(&open, "8.8.4.4").is_err());
    let allow = filter("[addresses]\npublic_resolvers = \"allow\"");
    for address in ["8.8.8.8", "2606:4700:4700::1111"] {
        assert_eq!(judge(&allow, address), Ok(Admitted::Lease));
    }
}

#[test]
fn what_a_local_zone_holds_may_be_told_for_the_operators_own_names_alone() {
    use crate::core::zones::{ZoneIndex, ZoneSet};
    let mut home = ZoneIndex::new(name("home.arpa"));
    for held in [
        "10.1.0.1",
        "192.168.5.7",
        "127.0.0.5",
        "fe80::1",
        "44.0.0.5",
        "20.9.9.9",
        "169.254.0.1",
        "0.0.0.0",
        "224.0.0.9",
    ] {
        home.add_address(ip(held));
    }
    let other = ZoneIndex::new(name("other.example"));
    let zones = ZoneSet::new([home, other].map(std::sync::Arc::new).to_vec(), [name("cut.home.arpa")]);
    let text = "[addresses]\nnever = [\"20.9.9.9\"]\ninside = [\"10.0.0.0/8\"]\n\
        [[policy.private]]\ndomain = \"corp.example\"\nprefixes = [\"192.168.0.0/16\"]\n";
    let filter =
        AddressFilter::new(&toml::from_str(text).unwrap(), &[]).unwrap().with_zones(std::sync::Arc::new(zones));
    let judge = |address: &str, names: &[&str]| {
        let names: Vec<Name> = names.iter().map(|text| name(text)).collect();
        filter.judge(ip(address), &names[0], &names[1..])
    };
    for (address, admitted) in
        [("192.168.5.7", Admitted::Lease), ("44.0.0.5", Admitted::Lease), ("10.1.0.1", Admitted::Told)]
    {
        assert_eq!(judge(address, &["nas.home.arpa"]), Ok(admitted), "{address}");
        assert_eq!(judge(address, &["a.other.example", "nas.home.arpa"]), Ok(admitted), "{address}");
    }
    for address in ["127.0.0.5", "fe80::1", "169.254.0.1", "0.0.0.0", "224.0.0.9"] {
        assert_eq!(judge(address, &["nas.home.arpa"]), Ok(Admitted::Told), "{address} leads nowhere");
    }
    // Nobody else may, the zone has no other, and what is never opened isn't.
    for names in [
        &["x.test"][..],
        &["x.test", "nas.home.arpa"],
        &["nas.home.arpa", "x.test"],
        &["x.cut.home.arpa"],
        &["a.other.example"],
    ] {
        assert!(judge("192.168.5.7", names).is_err(), "{names:?}");
    }
    assert!(judge("192.168.5.8", &["nas.home.arpa"]).is_err());
    assert!(matches!(judge("20.9.9.9", &["nas.home.arpa"]), Err(Reason::Never(_))));
    // An alias of the zone to a domain that may have the address, and back.
    assert_eq!(judge("192.168.5.8", &["x.home.arpa", "y.corp.example"]), Ok(Admitted::Lease));
    assert_eq!(judge("192.168.5.7", &["y.corp.example", "nas.home.arpa"]), Ok(Admitted::Lease));
    assert!(judge("192.168.5.8", &["y.corp.example", "x.home.arpa"]).is_err());
    assert!(filter.is_gone_from_zone(ip("44.0.0.6"), &name("nas.home.arpa"), &[]));
    assert!(!filter.is_gone_from_zone(ip("44.0.0.6"), &name("nas.home.arpa"), &[name("x.test")]));
}
