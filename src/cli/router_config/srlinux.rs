//! Nokia SR Linux 24.3 and later, as `set` commands in candidate mode. Each path is in the YANG models of release 25.3.1.

use std::fmt::{Display, Write};

use super::{Rule, Side, Written, in_sets};

pub(super) fn write(out: &mut String, side: &Side) -> Written {
    let tag = side.tag.as_str();
    let instance = "set / network-instance default";
    writeln!(out, "{instance} next-hop-groups group destguard-null blackhole generate-icmp false")?;
    for default in ["0.0.0.0/0", "::/0"] {
        writeln!(out, "{instance} static-routes route {default} next-hop-group destguard-null")?;
    }
    let policy = "set / routing-policy";
    if side.no_advertise {
        writeln!(out, "{policy} community-set destguard-no-advertise member [ no-advertise ]")?;
    }
    let import = format!("{policy} policy destguard-in-{tag}");
    writeln!(out, "{import} default-action policy-result reject")?;
    sets(out, side, 4, &in_sets(&side.rules4()))?;
    sets(out, side, 6, &in_sets(&side.rules6()))?;
    writeln!(out, "# SR Linux can't match the next hop here: it takes whichever the guard sends.")?;
    writeln!(out, "{policy} policy destguard-out-{tag} default-action policy-result reject")?;
    let bgp = format!("{instance} protocols bgp");
    writeln!(out, "# Leave out what your router has already: AS, router id, address families.")?;
    writeln!(out, "{bgp} autonomous-system {}", side.router_asn)?;
    writeln!(out, "{bgp} router-id {}", side.router_id())?;
    let families = [("ipv4-unicast", side.next_hop4.is_some()), ("ipv6-unicast", side.next_hop6.is_some())];
    for (family, _) in families.iter().filter(|(_, used)| *used) {
        writeln!(out, "{bgp} afi-safi {family} admin-state enable")?;
    }
    let group = format!("{bgp} group destguard-{tag}");
    writeln!(out, "{group} peer-as {}", side.guard_asn)?;
    writeln!(out, "{group} import-policy [ destguard-in-{tag} ]\n{group} export-policy [ destguard-out-{tag} ]")?;
    let neighbor = format!("{bgp} neighbor {}", side.guard);
    writeln!(out, "{neighbor} peer-group destguard-{tag}\n{neighbor} timers hold-time {}", side.hold)?;
    writeln!(out, "{neighbor} transport local-address {}", side.router)?;
    if let Some(password) = &side.password {
        let keychain = format!("set / system authentication keychain destguard-{tag}");
        writeln!(out, "{keychain} admin-state enable type tcp-md5")?;
        writeln!(out, "{keychain} key 1 algorithm md5 authentication-key {password}")?;
        writeln!(out, "{neighbor} authentication keychain destguard-{tag}")?;
    }
    if side.gtsm {
        // It sends TTL 1 to external peers otherwise, which the guard drops.
        writeln!(out, "{neighbor} multihop admin-state enable maximum-hops 255")?;
        writeln!(
            out,
            "# GTSM towards the router: a cpm-filter that drops BGP from {} with a TTL below 255.",
            side.guard
        )?;
    } else if let Some(hops) = side.multihop {
        writeln!(out, "{neighbor} multihop admin-state enable maximum-hops {hops}")?;
    }
    if !side.guard_waits {
        writeln!(out, "{neighbor} transport passive-mode true")?;
    }
    if side.graceful {
        writeln!(out, "{neighbor} graceful-restart admin-state enable")?;
    }
    if let Some((interval, multiplier)) = side.bfd {
        let micros = interval.saturating_mul(1000);
        writeln!(out, "# In place of ethernet-1/1.0 the subinterface towards the guard:")?;
        writeln!(out, "set / bfd subinterface ethernet-1/1.0 admin-state enable detection-multiplier {multiplier}")?;
        writeln!(
            out,
            "set / bfd subinterface ethernet-1/1.0 desired-minimum-transmit-interval {micros} required-minimum-receive {micros}"
        )?;
        writeln!(out, "{neighbor} failure-detection enable-bfd true")?;
    }
    for (family, used) in families {
        writeln!(out, "{neighbor} afi-safi {family} admin-state {}", if used { "enable" } else { "disable" })?;
        if used {
            writeln!(
                out,
                "{neighbor} afi-safi {family} {family} prefix-limit-received max-received-routes {} prevent-teardown true",
                side.limit
            )?;
        }
    }
    Ok(())
}

/// Each set, and the statement that asks it.
fn sets<N: Display>(out: &mut String, side: &Side, family: u8, sets: &[(&'static str, bool, Vec<Rule<N>>)]) -> Written {
    let (tag, policy) = (side.tag.as_str(), "set / routing-policy");
    for (place, (set, permit, rules)) in sets.iter().enumerate().filter(|(_, (_, _, rules))| !rules.is_empty()) {
        let name = format!("destguard-{set}{family}-{tag}");
        for (_, net, least, most) in rules {
            writeln!(out, "{policy} prefix-set {name} prefix {net} mask-length-range {least}..{most}")?;
        }
        let statement =
            format!("{policy} policy destguard-in-{tag} statement {}", place * 20 + 10 + usize::from(family));
        writeln!(out, "{statement} match prefix prefix-set {name}")?;
        writeln!(out, "{statement} action policy-result {}", if *permit { "accept" } else { "reject" })?;
        if *permit && side.no_advertise {
            writeln!(out, "{statement} action bgp communities add destguard-no-advertise")?;
        }
    }
    Ok(())
}
