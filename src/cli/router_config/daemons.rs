//! GoBGP 3 and OpenBGPD.

use std::fmt::{Display, Write};

use super::{Rule, Side, Written, in_sets, quoted};

/// GoBGP keeps routes in its RIB; what brings them into a forwarding table is another's affair.
pub(super) fn gobgp(out: &mut String, side: &Side) -> Written {
    let name = side.tag.as_str();
    let (guard, limit) = (side.guard, side.limit);
    writeln!(
        out,
        "# GoBGP has no null route: whatever programs the forwarding table must drop what GoBGP has no route for."
    )?;
    writeln!(
        out,
        "[global.config]\n  as = {}\n  router-id = \"{}\"",
        side.router_asn,
        match side.router {
            std::net::IpAddr::V4(router) => router.to_string(),
            std::net::IpAddr::V6(_) => "A.B.C.D".to_owned(),
        }
    )?;
    writeln!(out, "[global.apply-policy.config]")?;
    writeln!(out, "  import-policy-list = [\"destguard-{name}\"]\n  default-import-policy = \"reject-route\"")?;
    writeln!(out, "  default-export-policy = \"reject-route\"")?;
    writeln!(out, "[[neighbors]]\n  [neighbors.config]")?;
    writeln!(out, "    neighbor-address = \"{guard}\"\n    peer-as = {}", side.guard_asn)?;
    if let Some(password) = &side.password {
        writeln!(out, "    auth-password = {password}")?;
    }
    writeln!(
        out,
        "  [neighbors.timers.config]\n    hold-time = {}\n    keepalive-interval = {}",
        side.hold,
        side.hold / 3
    )?;
    if !side.guard_waits {
        writeln!(out, "  [neighbors.transport.config]\n    passive-mode = true")?;
    }
    if side.gtsm {
        writeln!(out, "  [neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255")?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, "  [neighbors.ebgp-multihop.config]\n    enabled = true\n    multihop-ttl = {hops}")?;
    }
    if side.graceful {
        writeln!(out, "  [neighbors.graceful-restart.config]\n    enabled = true\n    helper-only = true")?;
    }
    if side.bfd.is_some() {
        writeln!(out, "# GoBGP 3 has no BFD: the session ends with the hold time alone.")?;
    }
    let hops = [
        ("ipv4-unicast", side.next_hop4.map(|hop| format!("{hop}/32"))),
        ("ipv6-unicast", side.next_hop6.map(|hop| format!("{hop}/128"))),
    ];
    for (family, _) in hops.iter().filter(|(_, hop)| hop.is_some()) {
        writeln!(
            out,
            "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}\""
        )?;
        writeln!(out, "    [neighbors.afi-safis.prefix-limit.config]\n      max-prefixes = {limit}")?;
        if side.graceful {
            writeln!(out, "    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true")?;
        }
    }
    writeln!(out, "[[defined-sets.neighbor-sets]]\n  neighbor-set-name = \"destguard-{name}\"")?;
    let full = if side.guard.is_ipv4() { 32 } else { 128 };
    writeln!(out, "  neighbor-info-list = [\"{guard}/{full}\"]")?;
    let mut statements = String::new();
    if let Some(hop) = &hops[0].1 {
        gobgp_sets(out, &mut statements, (name, 4), &in_sets(&side.rules4()), hop)?;
    }
    if let Some(hop) = &hops[1].1 {
        gobgp_sets(out, &mut statements, (name, 6), &in_sets(&side.rules6()), hop)?;
    }
    writeln!(out, "[[policy-definitions]]\n  name = \"destguard-{name}\"")?;
    out.push_str(&statements);
    Ok(())
}

/// Each set, and the statement that asks it.
fn gobgp_sets<N: Display>(
    out: &mut String,
    statements: &mut String,
    (name, family): (&str, u8),
    sets: &[(&'static str, bool, Vec<Rule<N>>)],
    hop: &str,
) -> Written {
    for (set, permit, rules) in sets.iter().filter(|(_, _, rules)| !rules.is_empty()) {
        writeln!(out, "[[defined-sets.prefix-sets]]\n  prefix-set-name = \"destguard-{set}{family}-{name}\"")?;
        for (_, net, least, most) in rules {
            writeln!(out, "  [[defined-sets.prefix-sets.prefix-list]]")?;
            writeln!(out, "    ip-prefix = \"{net}\"\n    masklength-range = \"{least}..{most}\"")?;
        }
        writeln!(statements, "  [[policy-definitions.statements]]\n    name = \"{set}{family}-{name}\"")?;
        writeln!(
            statements,
            "    [policy-definitions.statements.conditions.match-neighbor-set]\n      neighbor-set = \"destguard-{name}\""
        )?;
        writeln!(
            statements,
            "    [policy-definitions.statements.conditions.match-prefix-set]\n      prefix-set = \"destguard-{set}{family}-{name}\""
        )?;
        if *permit {
            writeln!(
                statements,
                "    [policy-definitions.statements.conditions.bgp-conditions]\n      next-hop-in-list = [\"{hop}\"]"
            )?;
        }
        let action = if *permit { "accept-route" } else { "reject-route" };
        writeln!(statements, "    [policy-definitions.statements.actions]\n      route-disposition = \"{action}\"")?;
    }
    Ok(())
}

/// The file must have mode 0600.
pub(super) fn openbgpd(out: &mut String, side: &Side) -> Written {
    let guard = side.guard;
    writeln!(out, "# and once: route add -inet default 127.0.0.1 -blackhole; route add -inet6 default ::1 -blackhole")?;
    writeln!(out, "AS {}", side.router_asn)?;
    if let std::net::IpAddr::V4(router) = side.router {
        writeln!(out, "router-id {router}")?;
    }
    writeln!(
        out,
        "fib-update yes\nneighbor {guard} {{\n  remote-as {}\n  descr {}",
        side.guard_asn,
        quoted(&format!("destguard-{}", side.name))
    )?;
    if side.hold > 0 {
        writeln!(out, "  holdtime {}", side.hold)?;
    }
    if side.gtsm && side.internal() {
        writeln!(
            out,
            "  # OpenBGPD has ttl-security for external sessions only: set ttl_security = false on the guard, or no session comes up."
        )?;
    } else if side.gtsm {
        writeln!(out, "  ttl-security yes")?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, "  multihop {hops}")?;
    }
    if let Some(password) = &side.password {
        writeln!(out, "  tcp md5sig password {password}")?;
    }
    if !side.guard_waits {
        writeln!(out, "  passive")?;
    }
    if side.graceful {
        writeln!(out, "  announce restart yes")?;
    }
    if side.bfd.is_some() {
        writeln!(out, "  # OpenBGPD has no BFD: the session ends with the hold time alone.")?;
    }
    writeln!(out, "  max-prefix {} restart 1", side.limit)?;
    for (family, used) in [("IPv4", side.next_hop4.is_some()), ("IPv6", side.next_hop6.is_some())] {
        writeln!(out, "  announce {family} {}", if used { "unicast" } else { "none" })?;
    }
    writeln!(out, "}}\n# the last rule that matches decides\ndeny from any\ndeny to {guard}")?;
    if let Some(hop) = side.next_hop4 {
        for (permit, net, least, most) in side.rules4().into_iter().rev() {
            rule(out, side, permit, &net.to_string(), (least, most), &hop.to_string())?;
        }
    }
    if let Some(hop) = side.next_hop6 {
        for (permit, net, least, most) in side.rules6().into_iter().rev() {
            rule(out, side, permit, &net.to_string(), (least, most), &hop.to_string())?;
        }
    }
    Ok(())
}

fn rule(out: &mut String, side: &Side, permit: bool, net: &str, range: (u8, u8), hop: &str) -> Written {
    let ((least, most), guard) = (range, side.guard);
    let keep = if side.no_advertise { " community NO_ADVERTISE" } else { "" };
    if permit {
        writeln!(out, "allow from {guard} prefix {net} prefixlen {least} - {most} set {{ nexthop {hop}{keep} }}")
    } else {
        writeln!(out, "deny from {guard} prefix {net} prefixlen {least} - {most}")
    }
}
