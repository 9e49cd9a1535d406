//! BIRD 2.

use std::fmt::{Display, Write};
use std::net::IpAddr;

use super::{Rule, Side, Written};

/// `gateway direct` matters: with `gateway recursive` a next hop that only the null route covers makes BIRD install the host
/// route as a null route and confirm it. A multihop session can't have it; its next hops are looked up in a table without the
/// null route and without the guard's own routes.
pub(super) fn write(out: &mut String, side: &Side) -> Written {
    if side.service {
        if side.bfd.is_some() {
            writeln!(out, "# BIRD has one bfd protocol for all sessions: leave it out where there is one.")?;
            bfd(out)?;
        }
    } else {
        preamble(out, side)?;
    }
    session(out, side)
}

/// Of two, either takes the other's packets for strangers'.
fn bfd(out: &mut String) -> Written {
    writeln!(out, "protocol bfd destguard_bfd {{ }}")
}

/// What a router has once.
fn preamble(out: &mut String, side: &Side) -> Written {
    writeln!(
        out,
        "# Leave out what your bird.conf has already: router id, device, direct, kernel, bfd, and the null routes of another guard."
    )?;
    match side.router {
        std::net::IpAddr::V4(router) => writeln!(out, "router id {router};")?,
        std::net::IpAddr::V6(_) => writeln!(out, "# router id A.B.C.D;")?,
    }
    writeln!(out, "protocol device {{ scan time 10; }}")?;
    writeln!(out, "protocol direct {{ ipv4; ipv6; }}")?;
    for family in ["4", "6"] {
        writeln!(out, "protocol kernel destguard_kernel{family} {{")?;
        writeln!(out, "  ipv{family} {{ import none; export where source ~ [ RTS_STATIC, RTS_BGP ]; }};")?;
        writeln!(out, "}}")?;
    }
    writeln!(out, "protocol static destguard_null4 {{ ipv4; route 0.0.0.0/0 blackhole; }}")?;
    writeln!(out, "protocol static destguard_null6 {{ ipv6; route ::/0 blackhole; }}")?;
    if side.bfd.is_some() {
        bfd(out)?;
    }
    writeln!(out, "# From here on it is this guard's alone.")
}

fn session(out: &mut String, side: &Side) -> Written {
    let name = side.tag.as_str();
    let recursive = side.multihop.is_some();
    let families = [("4", side.next_hop4.is_some() || side.hop4_over_ipv6.is_some()), ("6", side.next_hop6.is_some())];
    for (family, used) in families {
        if used && recursive {
            let table = format!("destguard_{name}_hops{family}");
            writeln!(out, "ipv{family} table {table};")?;
            writeln!(out, "protocol pipe {table}_pipe {{")?;
            writeln!(out, "  table master{family}; peer table {table}; import none;")?;
            writeln!(out, "  export where net.len > 0 && source != RTS_BGP;")?;
            writeln!(out, "}}")?;
        }
    }
    if let Some(hop) = side.next_hop4 {
        filter(out, &format!("destguard_{name}_in4"), &side.rules4(), hop, side.no_advertise)?;
    }
    if let Some(hop) = side.hop4_over_ipv6 {
        filter(out, &format!("destguard_{name}_in4"), &side.rules4(), hop, side.no_advertise)?;
    }
    if let Some(hop) = side.next_hop6 {
        filter(out, &format!("destguard_{name}_in6"), &side.rules6(), hop, side.no_advertise)?;
    }
    writeln!(out, "protocol bgp destguard_{name} {{")?;
    writeln!(out, "  local {} as {};", side.router, side.router_asn)?;
    writeln!(out, "  neighbor {} as {};", side.guard, side.guard_asn)?;
    if side.link_local() {
        writeln!(out, "  interface \"INTERFACE\";")?;
    }
    if let Some(password) = &side.password {
        writeln!(out, "  password {password};")?;
    }
    match side.multihop {
        Some(hops) => writeln!(out, "  multihop {hops};")?,
        None => writeln!(out, "  direct;")?,
    }
    if side.gtsm {
        writeln!(out, "  ttl security on;")?;
    }
    if side.hold > 0 {
        writeln!(out, "  hold time {}; keepalive time {};", side.hold, (side.hold / 3).max(1))?;
    }
    patience(out, side.guard_waits || side.bfd.is_some())?;
    if let Some((interval, multiplier)) = side.bfd {
        writeln!(out, "  bfd {{ interval {interval} ms; multiplier {multiplier}; }};")?;
    }
    if !side.guard_waits {
        writeln!(out, "  passive on;")?;
    }
    if side.graceful {
        writeln!(out, "  graceful restart aware;")?;
    }
    for (family, used) in families {
        if used {
            writeln!(out, "  ipv{family} {{")?;
            if family == "4" && side.hop4_over_ipv6.is_some() {
                writeln!(out, "    extended next hop on;")?;
            }
            writeln!(out, "    import filter destguard_{name}_in{family};")?;
            writeln!(out, "    export none;")?;
            writeln!(out, "    import limit {} action block;", side.limit)?;
            if recursive {
                writeln!(out, "    gateway recursive; igp table destguard_{name}_hops{family};")?;
            } else {
                writeln!(out, "    gateway direct;")?;
            }
            writeln!(out, "  }};")?;
        }
    }
    writeln!(out, "}}")?;
    watch(out, side, families)
}

/// BIRD's own times are long where answers wait: after an error it takes no session for one to five minutes, and connects after 5 s, and again after
/// two minutes. The guard itself waits between tries, ever longer.
fn patience(out: &mut String, connects: bool) -> Written {
    writeln!(out, "  error wait time 0, 0;")?;
    if connects {
        writeln!(out, "  connect retry time 1; connect delay time 1;")?;
    }
    Ok(())
}

/// The session on which the guard sees what is in force: what came from it goes back, and nothing else.
fn watch(out: &mut String, side: &Side, families: [(&str, bool); 2]) -> Written {
    let Some(watch) = &side.watch else { return Ok(()) };
    let export = format!("where proto = \"destguard_{}\"", side.tag);
    back_session(out, side, families, (watch.guard, watch.password.as_deref(), watch.waits), |_| export.clone())
}

/// A session that only sends back what this router has in force of the guard's routes, from whomever it has them.
pub(super) fn back(out: &mut String, side: &Side) -> Written {
    let name = side.tag.as_str();
    let families = [("4", side.next_hop4.is_some() || side.hop4_over_ipv6.is_some()), ("6", side.next_hop6.is_some())];
    if families[0].1 {
        back_filter(out, &format!("destguard_{name}_back4"), &side.rules4())?;
    }
    if families[1].1 {
        back_filter(out, &format!("destguard_{name}_back6"), &side.rules6())?;
    }
    let to = (side.guard, side.password.as_deref(), side.guard_waits);
    back_session(out, side, families, to, |family| format!("filter destguard_{name}_back{family}"))
}

fn back_session(
    out: &mut String,
    side: &Side,
    families: [(&str, bool); 2],
    (to, password, waits): (IpAddr, Option<&str>, bool),
    export: impl Fn(&str) -> String,
) -> Written {
    writeln!(out, "protocol bgp destguard_{}_back {{", side.tag)?;
    writeln!(out, "  local {} as {};", side.router, side.router_asn)?;
    writeln!(out, "  neighbor {to} as {};", side.guard_asn)?;
    if side.link_local() {
        writeln!(out, "  interface \"INTERFACE\";")?;
    }
    if let Some(password) = password {
        writeln!(out, "  password {password};")?;
    }
    match side.multihop {
        Some(hops) => writeln!(out, "  multihop {hops};")?,
        None => writeln!(out, "  direct;")?,
    }
    if side.gtsm {
        writeln!(out, "  ttl security on;")?;
    }
    if side.internal() {
        writeln!(out, "  rr client;")?;
    }
    patience(out, waits)?;
    if !waits {
        writeln!(out, "  passive on;")?;
    }
    for (family, _) in families.iter().filter(|(_, used)| *used) {
        let hop = if *family == "4" && side.hop4_over_ipv6.is_some() { " extended next hop on;" } else { "" };
        writeln!(out, "  ipv{family} {{ import none; export {};{hop} }};", export(family))?;
    }
    writeln!(out, "}}")
}

fn back_filter<N: Display>(out: &mut String, name: &str, rules: &[Rule<N>]) -> Written {
    writeln!(out, "filter {name} {{")?;
    writeln!(out, "  if source != RTS_BGP then reject;")?;
    steps(out, rules)?;
    writeln!(out, "  reject;")?;
    writeln!(out, "}}")
}

fn steps<N: Display>(out: &mut String, rules: &[Rule<N>]) -> Written {
    for (permit, net, least, most) in rules {
        let action = if *permit { "accept" } else { "reject" };
        writeln!(out, "  if net ~ [ {net}{{{least},{most}}} ] then {action};")?;
    }
    Ok(())
}

/// The rules in order; the first that matches decides.
fn filter<N: Display>(out: &mut String, name: &str, rules: &[Rule<N>], hop: impl Display, keep: bool) -> Written {
    writeln!(out, "filter {name} {{")?;
    writeln!(out, "  if bgp_next_hop != {hop} then reject \"next hop is not destguard's: \", bgp_next_hop;")?;
    if keep {
        writeln!(out, "  bgp_community.add((65535, 65282)); # NO_ADVERTISE")?;
    }
    steps(out, rules)?;
    writeln!(out, "  reject \"not a host route: \", net;")?;
    writeln!(out, "}}")
}
