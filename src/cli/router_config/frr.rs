//! FRRouting 8.4 and later.

use std::fmt::Write;

use super::{Side, Written, prefix_lists};

/// Lists and route-maps come before `router bgp`: in the other order FRR denies what it gets in its first seconds. The next
/// hop must not be resolved through the default: FRR would install the host route as a null route and call it valid.
pub(super) fn write(out: &mut String, side: &Side) -> Written {
    let guard = side.guard;
    prefix_lists(out, side)?;
    if let Some(hop) = side.next_hop4 {
        writeln!(out, "ip prefix-list DESTGUARD-NH4 seq 5 permit {hop}/32")?;
        writeln!(out, "route-map DESTGUARD4-IN permit 10")?;
        writeln!(out, " match ip address prefix-list DESTGUARD4")?;
        writeln!(out, " match ip next-hop prefix-list DESTGUARD-NH4")?;
        writeln!(out, " set community no-advertise additive")?;
    }
    if let Some(hop) = side.hop4_over_ipv6 {
        writeln!(out, "ipv6 prefix-list DESTGUARD-NH46 seq 5 permit {hop}/128")?;
        writeln!(out, "route-map DESTGUARD4-IN permit 10")?;
        writeln!(out, " match ip address prefix-list DESTGUARD4")?;
        writeln!(out, " match ipv6 next-hop prefix-list DESTGUARD-NH46")?;
        writeln!(out, " set community no-advertise additive")?;
    }
    if let Some(hop) = side.next_hop6 {
        writeln!(out, "ipv6 prefix-list DESTGUARD-NH6 seq 5 permit {hop}/128")?;
        writeln!(out, "route-map DESTGUARD6-IN permit 10")?;
        writeln!(out, " match ipv6 address prefix-list DESTGUARD6")?;
        writeln!(out, " match ipv6 next-hop prefix-list DESTGUARD-NH6")?;
        writeln!(out, " set ipv6 next-hop prefer-global")?;
        writeln!(out, " set community no-advertise additive")?;
    }
    writeln!(out, "route-map DESTGUARD-OUT deny 10")?;
    writeln!(out, "ip route 0.0.0.0/0 blackhole")?;
    writeln!(out, "ipv6 route ::/0 blackhole")?;
    writeln!(out, "no ip nht resolve-via-default")?;
    writeln!(out, "no ipv6 nht resolve-via-default")?;
    writeln!(out, "! routes are in force 10 ms earlier with this hidden command:")?;
    writeln!(out, "zebra work-queue 0")?;
    if let Some((interval, multiplier)) = side.bfd {
        // bfdd must run: bfdd=yes in the daemons file. It takes no less than 10 ms.
        if side.gtsm && !side.bfd_multihop {
            writeln!(
                out,
                "! FRR speaks multihop BFD with ttl-security: set bfd_multihop = true on the guard's side, then run this again."
            )?;
        }
        let far = if side.bfd_multihop { format!(" multihop local-address {}", side.router) } else { String::new() };
        writeln!(out, "bfd")?;
        writeln!(out, " peer {guard}{far}")?;
        writeln!(out, "  detect-multiplier {}", multiplier.max(2))?;
        writeln!(out, "  receive-interval {interval}")?;
        writeln!(out, "  transmit-interval {interval}")?;
        writeln!(out, "!")?;
    }
    writeln!(out, "router bgp {}", side.router_asn)?;
    writeln!(out, " bgp route-map delay-timer 0")?;
    writeln!(out, " no bgp default ipv4-unicast")?;
    writeln!(out, " neighbor {guard} remote-as {}", side.guard_asn)?;
    writeln!(out, " neighbor {guard} description destguard")?;
    if let Some(password) = &side.password {
        writeln!(out, " neighbor {guard} password {password}")?;
    }
    if side.gtsm {
        writeln!(out, " neighbor {guard} ttl-security hops 1")?;
    }
    if let Some(hops) = side.multihop {
        writeln!(out, " neighbor {guard} ebgp-multihop {hops}")?;
    }
    writeln!(out, " neighbor {guard} timers {} {}", side.hold / 3, side.hold)?;
    if side.hop4_over_ipv6.is_some() {
        writeln!(out, " neighbor {guard} capability extended-nexthop")?;
    }
    if !side.guard_waits {
        writeln!(out, " neighbor {guard} passive")?;
    }
    if side.bfd.is_some() {
        writeln!(out, " neighbor {guard} bfd")?;
    }
    let ipv4 = side.next_hop4.is_some() || side.hop4_over_ipv6.is_some();
    for (family, used, map) in [("ipv4", ipv4, "DESTGUARD4-IN"), ("ipv6", side.next_hop6.is_some(), "DESTGUARD6-IN")] {
        if used {
            writeln!(out, " address-family {family} unicast")?;
            writeln!(out, "  neighbor {guard} activate")?;
            writeln!(out, "  neighbor {guard} route-map {map} in")?;
            writeln!(out, "  neighbor {guard} route-map DESTGUARD-OUT out")?;
            writeln!(out, "  neighbor {guard} maximum-prefix {} restart 1", side.limit)?;
            writeln!(out, " exit-address-family")?;
        }
    }
    Ok(())
}
