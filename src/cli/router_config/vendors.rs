//! Routers from vendors, after their manuals.

use std::fmt::Write;

use super::{Side, Written, ge_le, prefix_lists};

/// Junos OS, as `set` commands.
pub(super) fn junos(out: &mut String, side: &Side) -> Written {
    let name = side.tag.as_str();
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
            if side.no_advertise {
                writeln!(out, "{policy} term t{index} then community add NO-ADVERTISE")?;
            }
            writeln!(out, "{policy} term t{index} then accept")?;
        } else {
            writeln!(out, "{policy} term t{index} then reject")?;
        }
    }
    writeln!(out, "{policy} term last then reject")?;
    if side.no_advertise {
        writeln!(out, "set policy-options community NO-ADVERTISE members no-advertise")?;
    }
    writeln!(out, "set policy-options policy-statement DESTGUARD-{name}-OUT then reject")?;
    let group = format!("set protocols bgp group DESTGUARD-{name}");
    writeln!(out, "{group} type {}", if side.internal() { "internal" } else { "external" })?;
    let neighbor = format!("{group} neighbor {}", side.guard);
    writeln!(out, "{neighbor} peer-as {}", side.guard_asn)?;
    writeln!(out, "{neighbor} local-address {}", side.router)?;
    writeln!(out, "{neighbor} hold-time {}", side.hold)?;
    writeln!(out, "{neighbor} import DESTGUARD-{name}-IN")?;
    writeln!(out, "{neighbor} export DESTGUARD-{name}-OUT")?;
    if let Some(password) = &side.password {
        writeln!(out, "{neighbor} authentication-key {password}")?;
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
    if let Some((interval, multiplier)) = side.bfd {
        writeln!(out, "{neighbor} bfd-liveness-detection minimum-interval {interval}")?;
        writeln!(out, "{neighbor} bfd-liveness-detection multiplier {multiplier}")?;
        if side.bfd_multihop {
            writeln!(out, "{neighbor} bfd-liveness-detection session-mode multihop")?;
        }
    }
    if side.graceful {
        writeln!(
            out,
            "# Junos OS keeps the routes while the guard restarts (helper mode) unless graceful-restart is disabled."
        )?;
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
    let name = side.tag.as_str();
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
        let range = ge_le(*length, *least, *most);
        let keep = if side.no_advertise { "    set community (no-advertise) additive\n" } else { "" };
        if *permit {
            writeln!(out, "  if destination in ({net}{range}) and next-hop in ({hop}) then\n{keep}    done\n  endif")?;
        } else {
            writeln!(out, "  if destination in ({net}{range}) then\n    drop\n  endif")?;
        }
    }
    writeln!(out, "  drop\nend-policy\nroute-policy DESTGUARD-{name}-OUT\n  drop\nend-policy")?;
    let families = [("ipv4", side.next_hop4.is_some()), ("ipv6", side.next_hop6.is_some())];
    writeln!(out, "router bgp {}\n bgp router-id {}", side.router_asn, side.router_id())?;
    if side.graceful {
        writeln!(out, " bgp graceful-restart")?;
    }
    for (family, _) in families.iter().filter(|(_, used)| *used) {
        writeln!(out, " address-family {family} unicast\n !")?;
    }
    writeln!(
        out,
        " neighbor {}\n  remote-as {}\n  timers {} {}",
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
    if let Some((interval, multiplier)) = side.bfd {
        writeln!(out, "  bfd fast-detect\n  bfd minimum-interval {interval}\n  bfd multiplier {multiplier}")?;
        if side.bfd_multihop {
            writeln!(out, "  ! and once for multihop BFD: bfd multipath include location of a line card")?;
        }
    }
    for (family, used) in families {
        if used {
            writeln!(
                out,
                "  address-family {family} unicast\n   route-policy DESTGUARD-{name}-IN in\n   route-policy DESTGUARD-{name}-OUT out\n   maximum-prefix {} 90 discard-extra-paths\n  !",
                side.limit
            )?;
        }
    }
    writeln!(out, " !\n!")
}

/// Writes the configuration of Arista EOS.
pub(super) fn eos(out: &mut String, side: &Side) -> Written {
    let (guard, tag) = (side.guard, side.tag.as_str());
    let list6 = format!("ipv6 prefix-list DESTGUARD6-{tag}");
    let keep = if side.no_advertise { "   set community no-advertise additive\n" } else { "" };
    let mut lists = String::new();
    prefix_lists(&mut lists, side)?;
    writeln!(out, "ip routing\nipv6 unicast-routing\nip route 0.0.0.0/0 Null0\nipv6 route ::/0 Null0")?;
    let mut six = String::new();
    for line in lists.lines() {
        // IPv6 lists have their rules on lines of their own.
        match line.strip_prefix(&list6) {
            Some(rule) => writeln!(six, "  {rule}")?,
            None => writeln!(out, "{line}")?,
        }
    }
    writeln!(out, "{list6}\n{six}!")?;
    if let Some(hop) = side.next_hop4 {
        writeln!(out, "ip prefix-list DESTGUARD-NH4-{tag} seq 5 permit {hop}/32")?;
        writeln!(
            out,
            "route-map DESTGUARD4-IN-{tag} permit 10\n   match ip address prefix-list DESTGUARD4-{tag}\n   match ip next-hop prefix-list DESTGUARD-NH4-{tag}\n{keep}!"
        )?;
    }
    if let Some(hop) = side.next_hop6 {
        writeln!(out, "ipv6 prefix-list DESTGUARD-NH6-{tag}\n   seq 5 permit {hop}/128\n!")?;
        writeln!(
            out,
            "route-map DESTGUARD6-IN-{tag} permit 10\n   match ipv6 address prefix-list DESTGUARD6-{tag}\n   match ipv6 next-hop prefix-list DESTGUARD-NH6-{tag}\n{keep}!"
        )?;
    }
    writeln!(
        out,
        "route-map DESTGUARD-OUT-{tag} deny 10\n!\nrouter bgp {}\n   router-id {}\n   neighbor {guard} remote-as {}",
        side.router_asn,
        side.router_id(),
        side.guard_asn
    )?;
    if let Some((interval, multiplier)) = side.bfd {
        writeln!(out, "   neighbor {guard} bfd")?;
        writeln!(out, "   neighbor {guard} bfd interval {interval} min-rx {interval} multiplier {multiplier}")?;
    }
    if side.graceful {
        writeln!(out, "   neighbor {guard} graceful-restart-helper")?;
    }
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
                "      neighbor {guard} activate\n      neighbor {guard} route-map {map}-{tag} in\n      neighbor {guard} route-map DESTGUARD-OUT-{tag} out"
            )?;
        } else {
            writeln!(out, "      no neighbor {guard} activate")?;
        }
    }
    writeln!(out, "!")
}
