//! `MikroTik` `RouterOS` 7.20 and later: AS and router id stand in an instance.

use std::fmt::Write;

use super::{Side, Written};

pub(super) fn write(out: &mut String, side: &Side) -> Written {
    let tag = side.tag.as_str();
    writeln!(out, "/ip route add dst-address=0.0.0.0/0 blackhole comment=destguard")?;
    writeln!(out, "/ipv6 route add dst-address=::/0 blackhole comment=destguard")?;
    let chain = format!("destguard-in-{tag}");
    let mut rule = |text: String| writeln!(out, "/routing filter rule add chain={chain} rule=\"{text}\"");
    if let Some(hop) = side.next_hop4 {
        for (permit, net, least, most) in side.rules4() {
            rule(filter_rule(side, permit, &net.to_string(), (least, most), &hop.to_string()))?;
        }
    }
    if let Some(hop) = side.next_hop6 {
        for (permit, net, least, most) in side.rules6() {
            rule(filter_rule(side, permit, &net.to_string(), (least, most), &hop.to_string()))?;
        }
    }
    rule("reject".to_owned())?;
    writeln!(out, "/routing filter rule add chain=destguard-out-{tag} rule=\"reject\"")?;
    let families: Vec<&str> = [("ip", side.next_hop4.is_some()), ("ipv6", side.next_hop6.is_some())]
        .into_iter()
        .filter_map(|(family, used)| used.then_some(family))
        .collect();
    let role = if side.internal() { "ibgp" } else { "ebgp" };
    writeln!(out, "# Leave the instance out where your router has one for this AS, and name that below.")?;
    writeln!(out, "/routing bgp instance add name=destguard as={} router-id={}", side.router_asn, side.router_id())?;
    if let Some((interval, multiplier)) = side.bfd {
        writeln!(
            out,
            "/routing bfd configuration add addresses={} min-rx={interval}ms min-tx={interval}ms multiplier={multiplier}",
            side.guard
        )?;
    }
    write!(
        out,
        "/routing bgp connection add name=destguard-{tag} instance=destguard local.role={role} local.address={} remote.address={} \
         remote.as={} afi={} hold-time={}s input.filter={chain} input.limit-process-routes-ipv4={} \
         input.limit-process-routes-ipv6={} output.filter-chain=destguard-out-{tag}",
        side.router,
        side.guard,
        side.guard_asn,
        families.join(","),
        side.hold,
        side.limit,
        side.limit
    )?;
    if let Some(password) = &side.password {
        write!(out, " tcp-md5-key={password}")?;
    }
    if side.multihop.is_some() {
        write!(out, " multihop=yes")?;
    }
    if side.gtsm {
        write!(out, " local.ttl=255")?;
    }
    if side.bfd.is_some() {
        write!(out, " use-bfd=yes")?;
    }
    let (connect, listen) = if side.guard_waits { ("yes", "no") } else { ("no", "yes") };
    writeln!(out, " connect={connect} listen={listen}")?;
    if side.graceful {
        writeln!(out, "# RouterOS helps at no graceful restart: it drops the routes while the guard restarts.")?;
    }
    Ok(())
}

fn filter_rule(side: &Side, permit: bool, net: &str, (least, most): (u8, u8), hop: &str) -> String {
    let range = format!("dst in {net} && dst-len in {least}-{most}");
    let keep = if side.no_advertise { "append bgp-communities no-advertise; " } else { "" };
    if permit {
        format!("if ({range} && gw == {hop}) {{ {keep}accept }}")
    } else {
        format!("if ({range}) {{ reject }}")
    }
}
