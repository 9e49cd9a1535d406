//! Routers from vendors, after their manuals.

use std::fmt::{Display, Write};

use super::{Rule, Side, Written, in_sets, prefix_lists, quoted, word};

/// Junos OS, as `set` commands.
pub(super) fn junos(out: &mut String, side: &Side) -> Written {
    let name = word(&side.name);
    writeln!(out, "set routing-options static route 0.0.0.0/0 discard")?;
    writeln!(out, "set routing-options rib inet6.0 static route ::/0 discard")?;
    writeln!(out, "set routing-options autonomous-system {}", side.router_asn)?;
    let policy = format!("set policy-options policy-statement DESTGUARD-{name}-IN");
    let four = side
        .rules4()
        .into_iter()
        .map(|(permit, net, least, most)| (4, permit, net.to_string(), net.prefix_len(), least, most));
    let six = side
        .rules6()
        .into_iter()
        .map(|(permit, net, least, most)| (6, permit, net.to_string(), net.prefix_len(), least, most));
    for (index, (family, permit, net, length, least, most)) in four.chain(six).enumerate() {
        let hop =
            if family == 4 { side.next_hop4.map(|h| h.to_string()) } else { side.next_hop6.map(|h| h.to_string()) };
        let Some(hop) = hop else { continue };
        let kind = if least == length && most == length {
            "exact".to_owned()
        } else {
            format!("prefix-length-range /{least}-/{most}")
        };
        writeln!(out, "{policy} term t{index} from route-filter {net} {kind}")?;
        if permit {
            writeln!(out, "{policy} term t{index} from next-hop {hop}")?;
            writeln!(out, "{policy} term t{index} then community add NO-ADVERTISE")?;
            writeln!(out, "{policy} term t{index} then accept")?;
        } else {
            writeln!(out, "{policy} term t{index} then reject")?;
        }
    }
    writeln!(out, "{policy} term last then reject")?;
    writeln!(out, "set policy-options community NO-ADVERTISE members no-advertise")?;
    writeln!(out, "set policy-options policy-statement DESTGUARD-OUT then reject")?;
    let group = format!("set protocols bgp group DESTGUARD-{name}");
    writeln!(out, "{group} type {}", if side.internal() { "internal" } else { "external" })?;
    let neighbor = format!("{group} neighbor {}", side.guard);
    writeln!(out, "{neighbor} peer-as {}", side.guard_asn)?;
    writeln!(out, "{neighbor} local-address {}", side.router)?;
    writeln!(out, "{neighbor} hold-time {}", side.hold)?;
    writeln!(out, "{neighbor} import DESTGUARD-{name}-IN")?;
    writeln!(out, "{neighbor} export DESTGUARD-OUT")?;
    if let Some(password) = &side.password {
        writeln!(out, "{neighbor} authentication-key {}", quoted(password))?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, "{neighbor} multihop ttl {hops}")?;
    }
    if side.gtsm {
        writeln!(out, "{neighbor} ttl 255")?;
        writeln!(out, "# and a filter on the loopback that drops BGP from {} with a TTL below 255", side.guard)?;
    }
    if !side.guard_waits {
        writeln!(out, "{neighbor} passive")?;
    }
    for (family, used) in [("inet", side.next_hop4.is_some()), ("inet6", side.next_hop6.is_some())] {
        if used {
            writeln!(
                out,
                "{neighbor} family {family} unicast accepted-prefix-limit maximum {} drop-excess",
                side.limit
            )?;
        }
    }
    Ok(())
}

/// Cisco IOS XR.
pub(super) fn iosxr(out: &mut String, side: &Side) -> Written {
    let name = word(&side.name);
    writeln!(
        out,
        "router static\n address-family ipv4 unicast\n  0.0.0.0/0 Null0\n !\n address-family ipv6 unicast\n  ::/0 Null0\n !\n!"
    )?;
    let four = side
        .rules4()
        .into_iter()
        .map(|(permit, net, least, most)| (4, permit, format!("{net}"), net.prefix_len(), least, most));
    let six = side
        .rules6()
        .into_iter()
        .map(|(permit, net, least, most)| (6, permit, format!("{net}"), net.prefix_len(), least, most));
    let rules: Vec<_> = four.chain(six).collect();
    writeln!(out, "route-policy DESTGUARD-{name}-IN")?;
    for (family, permit, net, length, least, most) in &rules {
        let hop =
            if *family == 4 { side.next_hop4.map(|h| h.to_string()) } else { side.next_hop6.map(|h| h.to_string()) };
        let Some(hop) = hop else { continue };
        let range = if least > length {
            format!(" ge {least}")
        } else if most > length {
            format!(" le {most}")
        } else {
            String::new()
        };
        if *permit {
            writeln!(
                out,
                "  if destination in ({net}{range}) and next-hop in ({hop}) then\n    set community (no-advertise) additive\n    done\n  endif"
            )?;
        } else {
            writeln!(out, "  if destination in ({net}{range}) then\n    drop\n  endif")?;
        }
    }
    writeln!(out, "  drop\nend-policy\nroute-policy DESTGUARD-OUT\n  drop\nend-policy")?;
    writeln!(
        out,
        "router bgp {}\n neighbor {}\n  remote-as {}\n  timers {} {}",
        side.router_asn,
        side.guard,
        side.guard_asn,
        side.hold / 3,
        side.hold
    )?;
    if let Some(password) = &side.password {
        writeln!(out, "  password clear {password}")?;
    }
    if side.gtsm {
        writeln!(out, "  ttl-security")?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, "  ebgp-multihop {hops}")?;
    }
    if !side.guard_waits {
        writeln!(out, "  session-open-mode passive-only")?;
    }
    for (family, used) in [("ipv4", side.next_hop4.is_some()), ("ipv6", side.next_hop6.is_some())] {
        if used {
            writeln!(
                out,
                "  address-family {family} unicast\n   route-policy DESTGUARD-{name}-IN in\n   route-policy DESTGUARD-OUT out\n   maximum-prefix {} 90 discard-extra-paths\n  !",
                side.limit
            )?;
        }
    }
    writeln!(out, " !\n!")
}

/// Arista EOS.
pub(super) fn eos(out: &mut String, side: &Side) -> Written {
    let guard = side.guard;
    let mut lists = String::new();
    prefix_lists(&mut lists, side)?;
    writeln!(out, "ip routing\nipv6 unicast-routing\nip route 0.0.0.0/0 Null0\nipv6 route ::/0 Null0")?;
    let mut six = String::new();
    for line in lists.lines() {
        // IPv6 lists have their rules on lines of their own.
        match line.strip_prefix("ipv6 prefix-list DESTGUARD6 ") {
            Some(rule) => writeln!(six, "   {rule}")?,
            None => writeln!(out, "{line}")?,
        }
    }
    writeln!(out, "ipv6 prefix-list DESTGUARD6\n{six}!")?;
    if let Some(hop) = side.next_hop4 {
        writeln!(out, "ip prefix-list DESTGUARD-NH4 seq 5 permit {hop}/32")?;
        writeln!(
            out,
            "route-map DESTGUARD4-IN permit 10\n   match ip address prefix-list DESTGUARD4\n   match ip next-hop prefix-list DESTGUARD-NH4\n   set community no-advertise additive\n!"
        )?;
    }
    if let Some(hop) = side.next_hop6 {
        writeln!(out, "ipv6 prefix-list DESTGUARD-NH6\n   seq 5 permit {hop}/128\n!")?;
        writeln!(
            out,
            "route-map DESTGUARD6-IN permit 10\n   match ipv6 address prefix-list DESTGUARD6\n   match ipv6 next-hop prefix-list DESTGUARD-NH6\n   set community no-advertise additive\n!"
        )?;
    }
    writeln!(
        out,
        "route-map DESTGUARD-OUT deny 10\n!\nrouter bgp {}\n   neighbor {guard} remote-as {}",
        side.router_asn, side.guard_asn
    )?;
    writeln!(out, "   neighbor {guard} timers {} {}", side.hold / 3, side.hold)?;
    writeln!(out, "   neighbor {guard} maximum-routes {}", side.limit)?;
    if let Some(password) = &side.password {
        writeln!(out, "   neighbor {guard} password 0 {password}")?;
    }
    if side.gtsm {
        writeln!(out, "   neighbor {guard} ttl maximum-hops 0")?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, "   neighbor {guard} ebgp-multihop {hops}")?;
    }
    if !side.guard_waits {
        writeln!(out, "   neighbor {guard} passive")?;
    }
    for (family, used, map) in
        [("ipv4", side.next_hop4.is_some(), "DESTGUARD4-IN"), ("ipv6", side.next_hop6.is_some(), "DESTGUARD6-IN")]
    {
        writeln!(out, "   address-family {family}")?;
        if used {
            writeln!(
                out,
                "      neighbor {guard} activate\n      neighbor {guard} route-map {map} in\n      neighbor {guard} route-map DESTGUARD-OUT out"
            )?;
        } else {
            writeln!(out, "      no neighbor {guard} activate")?;
        }
    }
    writeln!(out, "!")
}

/// Nokia SR Linux, as `set` commands in candidate mode.
pub(super) fn srlinux(out: &mut String, side: &Side) -> Written {
    let instance = "set / network-instance default";
    writeln!(out, "{instance} next-hop-groups group destguard-null blackhole generate-icmp false")?;
    for default in ["0.0.0.0/0", "::/0"] {
        writeln!(out, "{instance} static-routes route {default} next-hop-group destguard-null")?;
    }
    let policy = "set / routing-policy";
    writeln!(out, "{policy} policy destguard-in default-action policy-result reject")?;
    srlinux_sets(out, policy, 4, &in_sets(&side.rules4()))?;
    srlinux_sets(out, policy, 6, &in_sets(&side.rules6()))?;
    writeln!(out, "{policy} policy destguard-out default-action policy-result reject")?;
    let bgp = format!("{instance} protocols bgp");
    writeln!(out, "{bgp} autonomous-system {}\n{bgp} group destguard peer-as {}", side.router_asn, side.guard_asn)?;
    writeln!(
        out,
        "{bgp} group destguard import-policy [ destguard-in ]\n{bgp} group destguard export-policy [ destguard-out ]"
    )?;
    let neighbor = format!("{bgp} neighbor {}", side.guard);
    writeln!(out, "{neighbor} peer-group destguard\n{neighbor} timers hold-time {}", side.hold)?;
    if let Some(password) = &side.password {
        writeln!(out, "set / system authentication keychain destguard type tcp-md5")?;
        writeln!(
            out,
            "set / system authentication keychain destguard key 1 algorithm md5 authentication-key {}",
            quoted(password)
        )?;
        writeln!(out, "{neighbor} authentication keychain destguard")?;
    }
    if side.gtsm {
        writeln!(out, "# GTSM: a cpm-filter that drops BGP from {} with a TTL below 255", side.guard)?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, "{neighbor} multihop admin-state enable\n{neighbor} multihop maximum-hops {hops}")?;
    }
    if !side.guard_waits {
        writeln!(out, "{neighbor} transport passive-mode true")?;
    }
    for (family, used) in [("ipv4-unicast", side.next_hop4.is_some()), ("ipv6-unicast", side.next_hop6.is_some())] {
        writeln!(out, "{neighbor} afi-safi {family} admin-state {}", if used { "enable" } else { "disable" })?;
        if used {
            writeln!(out, "{neighbor} afi-safi {family} prefix-limit-received max-received-routes {}", side.limit)?;
        }
    }
    Ok(())
}

/// Each set, and the statement that asks it.
fn srlinux_sets<N: Display>(
    out: &mut String,
    policy: &str,
    family: u8,
    sets: &[(&'static str, bool, Vec<Rule<N>>)],
) -> Written {
    for (place, (set, permit, rules)) in sets.iter().enumerate().filter(|(_, (_, _, rules))| !rules.is_empty()) {
        for (_, net, least, most) in rules {
            writeln!(
                out,
                "{policy} prefix-set destguard-{set}{family} prefix {net} mask-length-range {least}..{most}"
            )?;
        }
        let statement = format!("{policy} policy destguard-in statement {}", place * 20 + 10 + usize::from(family));
        writeln!(out, "{statement} match prefix-set destguard-{set}{family}")?;
        writeln!(out, "{statement} action policy-result {}", if *permit { "accept" } else { "reject" })?;
    }
    Ok(())
}

/// MikroTik RouterOS 7.
pub(super) fn routeros(out: &mut String, side: &Side) -> Written {
    let name = word(&side.name);
    writeln!(out, "/ip route add dst-address=0.0.0.0/0 blackhole comment=destguard")?;
    writeln!(out, "/ipv6 route add dst-address=::/0 blackhole comment=destguard")?;
    let chain = format!("destguard-{name}-in");
    let mut rule = |text: String| writeln!(out, "/routing filter rule add chain={chain} rule=\"{text}\"");
    if let Some(hop) = side.next_hop4 {
        for (permit, net, least, most) in side.rules4() {
            rule(filter_rule(permit, &net.to_string(), least, most, &hop.to_string()))?;
        }
    }
    if let Some(hop) = side.next_hop6 {
        for (permit, net, least, most) in side.rules6() {
            rule(filter_rule(permit, &net.to_string(), least, most, &hop.to_string()))?;
        }
    }
    rule("reject".to_owned())?;
    writeln!(out, "/routing filter rule add chain=destguard-out rule=\"reject\"")?;
    let families: Vec<&str> = [("ip", side.next_hop4.is_some()), ("ipv6", side.next_hop6.is_some())]
        .into_iter()
        .filter_map(|(family, used)| used.then_some(family))
        .collect();
    let role = if side.internal() { "ibgp" } else { "ebgp" };
    write!(
        out,
        "/routing bgp connection add name=destguard-{name} as={} local.role={role} local.address={} remote.address={} remote.as={} \
         address-families={} hold-time={}s input.filter={chain} input.limit-process-routes-ipv4={} input.limit-process-routes-ipv6={} \
         output.filter-chain=destguard-out",
        side.router_asn,
        side.router,
        side.guard,
        side.guard_asn,
        families.join(","),
        side.hold,
        side.limit,
        side.limit
    )?;
    if let Some(password) = &side.password {
        write!(out, " tcp-md5-key={}", quoted(password))?;
    }
    if side.multihop.is_some() {
        write!(out, " multihop=yes")?;
    }
    if side.gtsm {
        write!(out, " local.ttl=255")?;
    }
    write!(
        out,
        " connect={} listen={}",
        if side.guard_waits { "yes" } else { "no" },
        if side.guard_waits { "no" } else { "yes" }
    )?;
    writeln!(out)
}

fn filter_rule(permit: bool, net: &str, least: u8, most: u8, hop: &str) -> String {
    let range = format!("dst in {net} && dst-len in {least}-{most}");
    if permit {
        format!("if ({range} && gw == {hop}) {{ append bgp-communities no-advertise; accept }}")
    } else {
        format!("if ({range}) {{ reject }}")
    }
}
