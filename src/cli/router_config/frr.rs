//! FRRouting 8.4 and later.

use std::fmt::Write;

use super::{Side, Written, prefix_lists};

/// Lists and route-maps come before `router bgp`: in the other order FRR denies what it gets in its first seconds. The next
/// hop must not be resolved through the default: FRR would install the host route as a null route and call it valid.
pub(super) fn write(out: &mut String, side: &Side) -> Written {
    let (guard, tag) = (side.guard, side.tag.as_str());
    prefix_lists(out, side)?;
    policies(out, side)?;
    if !side.service {
        writeln!(out, "ip route 0.0.0.0/0 blackhole")?;
        writeln!(out, "ipv6 route ::/0 blackhole")?;
        writeln!(out, "no ip nht resolve-via-default")?;
        writeln!(out, "no ipv6 nht resolve-via-default")?;
        writeln!(out, "! routes are in force 10 ms earlier with this hidden command:")?;
        writeln!(out, "zebra work-queue 0")?;
    }
    bfd(out, side)?;
    writeln!(out, "router bgp {}", side.router_asn)?;
    writeln!(out, " bgp route-map delay-timer 0")?;
    writeln!(out, " no bgp default ipv4-unicast")?;
    if side.watch.is_some() {
        writeln!(out, " bgp suppress-fib-pending")?;
    }
    writeln!(out, " neighbor {guard} remote-as {}", side.guard_asn)?;
    writeln!(out, " neighbor {guard} description destguard")?;
    if side.link_local() {
        writeln!(out, " neighbor {guard} interface INTERFACE")?;
    }
    session(out, side, &guard.to_string(), side.password.as_deref())?;
    if side.hop4_over_ipv6.is_some() {
        writeln!(out, " neighbor {guard} capability extended-nexthop")?;
    }
    who_connects(out, &guard.to_string(), side.guard_waits)?;
    if side.bfd.is_some() {
        writeln!(out, " neighbor {guard} bfd")?;
    }
    if side.graceful {
        writeln!(out, " neighbor {guard} graceful-restart-helper")?;
    }
    if let Some(watch) = &side.watch {
        let at = watch.guard;
        writeln!(out, " neighbor {at} remote-as {}", side.guard_asn)?;
        writeln!(out, " neighbor {at} description destguard, sent back to it")?;
        session(out, side, &at.to_string(), watch.password.as_deref())?;
        writeln!(out, " neighbor {at} advertisement-interval 0")?;
        who_connects(out, &at.to_string(), watch.waits)?;
    }
    for (family, used) in families(side) {
        if !used {
            continue;
        }
        let digit = if family == "ipv4" { 4 } else { 6 };
        writeln!(out, " address-family {family} unicast")?;
        writeln!(out, "  neighbor {guard} activate")?;
        writeln!(out, "  neighbor {guard} route-map DESTGUARD{digit}-IN-{tag} in")?;
        writeln!(out, "  neighbor {guard} route-map DESTGUARD-OUT-{tag} out")?;
        if side.beacon {
            // With nothing to send FRR answers a ROUTE-REFRESH with its next KEEPALIVE. This is sent to the guard alone, which uses nothing of it.
            writeln!(out, "  neighbor {guard} default-originate")?;
        }
        writeln!(out, "  neighbor {guard} maximum-prefix {} restart 1", side.limit)?;
        if let Some(watch) = &side.watch {
            back_family(out, side, watch.guard, family)?;
        }
        writeln!(out, " exit-address-family")?;
    }
    Ok(())
}

/// A session that only sends back what this router has in force of the guard's routes, from whomever it has them.
pub(super) fn back(out: &mut String, side: &Side) -> Written {
    let (guard, tag) = (side.guard, side.tag.as_str());
    prefix_lists(out, side)?;
    writeln!(out, "route-map DESTGUARD-OUT-{tag} deny 10")?;
    back_policies(out, side)?;
    writeln!(out, "router bgp {}", side.router_asn)?;
    writeln!(out, " bgp suppress-fib-pending")?;
    writeln!(out, " no bgp default ipv4-unicast")?;
    writeln!(out, " neighbor {guard} remote-as {}", side.guard_asn)?;
    writeln!(out, " neighbor {guard} description destguard, sent back to it")?;
    session(out, side, &guard.to_string(), side.password.as_deref())?;
    writeln!(out, " neighbor {guard} advertisement-interval 0")?;
    who_connects(out, &guard.to_string(), side.guard_waits)?;
    for (family, used) in families(side) {
        if used {
            writeln!(out, " address-family {family} unicast")?;
            back_family(out, side, guard, family)?;
            writeln!(out, " exit-address-family")?;
        }
    }
    Ok(())
}

fn back_family(out: &mut String, side: &Side, to: std::net::IpAddr, family: &str) -> Written {
    let (tag, digit) = (side.tag.as_str(), if family == "ipv4" { 4 } else { 6 });
    writeln!(out, "  neighbor {to} activate")?;
    writeln!(out, "  neighbor {to} route-map DESTGUARD-OUT-{tag} in")?;
    writeln!(out, "  neighbor {to} route-map DESTGUARD{digit}-BACK-{tag} out")?;
    if side.internal() {
        writeln!(out, "  neighbor {to} route-reflector-client")?;
    }
    Ok(())
}

fn back_policies(out: &mut String, side: &Side) -> Written {
    let tag = side.tag.as_str();
    for (family, used) in families(side) {
        if used {
            let (digit, ip) = if family == "ipv4" { (4, "ip") } else { (6, "ipv6") };
            writeln!(out, "route-map DESTGUARD{digit}-BACK-{tag} permit 10")?;
            writeln!(out, " match {ip} address prefix-list DESTGUARD{digit}-{tag}")?;
        }
    }
    Ok(())
}

fn families(side: &Side) -> [(&'static str, bool); 2] {
    [("ipv4", side.next_hop4.is_some() || side.hop4_over_ipv6.is_some()), ("ipv6", side.next_hop6.is_some())]
}

/// What is taken from the guard, and what is sent to it.
fn policies(out: &mut String, side: &Side) -> Written {
    let tag = side.tag.as_str();
    let keep = |out: &mut String| {
        if side.no_advertise { writeln!(out, " set community no-advertise additive") } else { Ok(()) }
    };
    if let Some(hop) = side.next_hop4 {
        writeln!(out, "ip prefix-list DESTGUARD-NH4-{tag} seq 5 permit {hop}/32")?;
        writeln!(out, "route-map DESTGUARD4-IN-{tag} permit 10")?;
        writeln!(out, " match ip address prefix-list DESTGUARD4-{tag}")?;
        writeln!(out, " match ip next-hop prefix-list DESTGUARD-NH4-{tag}")?;
        keep(out)?;
    }
    if let Some(hop) = side.hop4_over_ipv6 {
        writeln!(out, "ipv6 prefix-list DESTGUARD-NH46-{tag} seq 5 permit {hop}/128")?;
        writeln!(out, "route-map DESTGUARD4-IN-{tag} permit 10")?;
        writeln!(out, " match ip address prefix-list DESTGUARD4-{tag}")?;
        writeln!(out, " match ipv6 next-hop prefix-list DESTGUARD-NH46-{tag}")?;
        keep(out)?;
    }
    if let Some(hop) = side.next_hop6 {
        writeln!(out, "ipv6 prefix-list DESTGUARD-NH6-{tag} seq 5 permit {hop}/128")?;
        writeln!(out, "route-map DESTGUARD6-IN-{tag} permit 10")?;
        writeln!(out, " match ipv6 address prefix-list DESTGUARD6-{tag}")?;
        writeln!(out, " match ipv6 next-hop prefix-list DESTGUARD-NH6-{tag}")?;
        writeln!(out, " set ipv6 next-hop prefer-global")?;
        keep(out)?;
    }
    writeln!(out, "route-map DESTGUARD-OUT-{tag} deny 10")?;
    if side.watch.is_some() { back_policies(out, side) } else { Ok(()) }
}

fn session(out: &mut String, side: &Side, at: &str, password: Option<&str>) -> Written {
    if let Some(password) = password {
        writeln!(out, " neighbor {at} password {password}")?;
    }
    if side.gtsm {
        writeln!(out, " neighbor {at} ttl-security hops 1")?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, " neighbor {at} ebgp-multihop {hops}")?;
    }
    writeln!(out, " neighbor {at} timers {} {}", side.hold / 3, side.hold)
}

/// FRR's own two minutes between two tries are long where answers wait.
fn who_connects(out: &mut String, at: &str, guard_waits: bool) -> Written {
    writeln!(out, " neighbor {at} {}", if guard_waits { "timers connect 1" } else { "passive" })
}

/// bfdd must run: bfdd=yes in the daemons file. It takes no less than 10 ms.
fn bfd(out: &mut String, side: &Side) -> Written {
    let Some((interval, multiplier)) = side.bfd else { return Ok(()) };
    if side.gtsm && !side.bfd_multihop {
        writeln!(
            out,
            "! FRR speaks multihop BFD with ttl-security: set bfd_multihop = true on the guard's side, then run this again."
        )?;
    }
    let far = if side.bfd_multihop { format!(" multihop local-address {}", side.router) } else { String::new() };
    writeln!(out, "bfd")?;
    writeln!(out, " peer {}{far}", side.guard)?;
    writeln!(out, "  detect-multiplier {}", multiplier.max(2))?;
    writeln!(out, "  receive-interval {interval}")?;
    writeln!(out, "  transmit-interval {interval}")?;
    writeln!(out, "!")
}
