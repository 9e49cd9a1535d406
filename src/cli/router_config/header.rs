//! What to know before pasting: what else must go from the router, and the way back.

use super::{Side, comment, passing};
use crate::cli::RouterKind;
use crate::config::schema::Config;

/// What to know before pasting.
pub(super) fn write(out: &mut String, kind: RouterKind, side: &Side, config: &Config) {
    let comment = comment(kind);
    let mut lines = Vec::new();
    if !matches!(kind, RouterKind::Frr | RouterKind::Bird | RouterKind::Gobgp | RouterKind::Openbgpd) {
        lines.push(
            "EXPERIMENTAL: written after the vendor's manual and never run on the real system. Read it before you paste it."
                .to_owned(),
        );
    }
    lines.extend([
        format!(
            "Router \"{}\" ({}, AS {}): its side of the session with destguard.",
            side.name, side.router, side.router_asn
        ),
        "It null-routes everything it has no better route for. Paste it from a place that the router reaches without"
            .to_owned(),
        "its default route, and keep routes to your own networks and to the next hop.".to_owned(),
        "Step by step: docs/runbook.md.".to_owned(),
    ]);
    if !config.bgp.announce_upstreams {
        lines.push(
            "The guard's own way to its upstreams must not cross this router, or set bgp.announce_upstreams."
                .to_owned(),
        );
    }
    if let Some((algorithm, send, recv)) = side.tcp_ao {
        let algorithm = super::ao_name(algorithm);
        lines.push(format!(
            "TCP-AO protects the session: enter its key by hand, {algorithm}, the router sends id {send} and receives id {recv}."
        ));
    }
    match (side.hop4_over_ipv6, kind) {
        (Some(_), RouterKind::Frr) => lines.push(
            "IPv4 routes come with the IPv6 next hop (RFC 8950). FRR 8.4 takes them on sessions over IPv6 only.".to_owned(),
        ),
        (Some(_), RouterKind::Bird) | (None, _) => {}
        (Some(hop), _) => lines.push(format!(
            "IPv4 routes come with the IPv6 next hop {hop} (RFC 8950): what follows takes none of them; add it by hand where this router can."
        )),
    }
    if !side.no_advertise {
        lines.extend(passing::WORDS.map(str::to_owned));
    }
    if side.link_local() {
        lines.push(match kind {
            RouterKind::Frr | RouterKind::Bird => {
                "The session is on one link: the router's interface towards the guard goes in place of INTERFACE."
                    .to_owned()
            }
            _ => format!("The session is on one link: {} needs the router's interface beside it, by hand.", side.guard),
        });
    }
    if side.guessed {
        lines.push(format!(
            "{} is bgp.router_id: set local_address on the peer if the guard connects from another.",
            side.guard
        ));
    }
    if let Some(watch) = &side.watch
        && !matches!(kind, RouterKind::Frr | RouterKind::Bird)
    {
        lines.push(format!(
            "confirm = \"reflect\": add a second session to {} by hand, on which the router sends what it took from {} and nothing else.",
            watch.guard, side.guard
        ));
    }
    lines.extend(ways_back(kind, side));
    for line in lines {
        out.push_str(&format!("{comment} {line}\n"));
    }
}

/// Of a session of service addresses.
pub(super) fn service(out: &mut String, kind: RouterKind, side: &Side) {
    let comment = comment(kind);
    let mut lines = vec![
        format!(
            "Router \"{}\" ({}, AS {}): the session on which it takes destguard's service addresses from {}, and nothing else.",
            side.name, side.router, side.router_asn, side.guard
        ),
        "Without graceful restart, so that a guard that dies gets no questions. The leases' session is another one."
            .to_owned(),
    ];
    if let (Some((algorithm, send, recv)), true) = (side.tcp_ao, kind == RouterKind::Bird) {
        let algorithm = super::ao_name(algorithm);
        lines.push(format!(
            "TCP-AO protects the session: enter its key by hand, {algorithm}, the router sends id {send} and receives id {recv}."
        ));
    }
    if side.bfd.is_some() && kind == RouterKind::Frr {
        lines.push("bfdd must run: bfdd=yes in the daemons file.".to_owned());
    }
    for line in lines {
        out.push_str(&format!("{comment} {line}\n"));
    }
}

/// Of a session on which a router only sends routes back.
pub(super) fn back(out: &mut String, kind: RouterKind, side: &Side) {
    let comment = comment(kind);
    for line in [
        format!(
            "Router \"{}\" ({}, AS {}): the session on which it shows destguard what it has in force. It takes nothing from it.",
            side.name, side.router, side.router_asn
        ),
        "Whoever brings it the routes is configured elsewhere; they may bear neither NO_ADVERTISE nor, for an external session, NO_EXPORT."
            .to_owned(),
    ] {
        out.push_str(&format!("{comment} {line}\n"));
    }
}

/// The old default, which would let everything through, and how everything is taken back.
fn ways_back(kind: RouterKind, side: &Side) -> Vec<String> {
    let (guard, asn, tag) = (side.guard, side.router_asn, side.tag.as_str());
    let (seen, trial, back): (&str, &str, Vec<String>) = match kind {
        RouterKind::Frr => (
            "show ip route 0.0.0.0/0; show ipv6 route ::/0",
            "",
            vec![
                "no ip route 0.0.0.0/0 blackhole".to_owned(),
                "no ipv6 route ::/0 blackhole".to_owned(),
                format!("router bgp {asn}"),
                format!(" no neighbor {guard}"),
            ],
        ),
        RouterKind::Bird => (
            "birdc show route for 0.0.0.0/0; birdc show route for ::/0",
            "birdc configure timeout 300, then birdc configure confirm",
            ["null4".to_owned(), "null6".to_owned(), tag.to_owned()]
                .map(|name| format!("birdc disable destguard_{name}"))
                .to_vec(),
        ),
        RouterKind::Gobgp => {
            ("gobgp global rib -a ipv4; ip route show default", "", vec![format!("gobgp neighbor {guard} disable")])
        }
        RouterKind::Openbgpd => (
            "route -n show -inet; route -n show -inet6",
            "",
            vec![
                "route delete -inet default -blackhole".to_owned(),
                "route delete -inet6 default -blackhole".to_owned(),
                format!("bgpctl neighbor {guard} down"),
            ],
        ),
        RouterKind::Junos => (
            "show route 0.0.0.0/0 exact; show route ::/0 exact",
            "commit confirmed 5, then commit",
            vec![
                "delete routing-options static route 0.0.0.0/0 discard".to_owned(),
                "delete routing-options rib inet6.0 static route ::/0 discard".to_owned(),
                format!("delete protocols bgp group DESTGUARD-{tag}"),
            ],
        ),
        RouterKind::Iosxr => (
            "show route 0.0.0.0/0; show route ipv6 ::/0",
            "commit confirmed 300, then commit",
            vec![
                "no router static address-family ipv4 unicast 0.0.0.0/0 Null0".to_owned(),
                "no router static address-family ipv6 unicast ::/0 Null0".to_owned(),
                format!("no router bgp {asn} neighbor {guard}"),
            ],
        ),
        RouterKind::Eos => (
            "show ip route 0.0.0.0/0; show ipv6 route ::/0",
            "configure session, and at its end commit timer 00:05:00, then commit",
            vec![
                "no ip route 0.0.0.0/0 Null0".to_owned(),
                "no ipv6 route ::/0 Null0".to_owned(),
                format!("router bgp {asn}"),
                format!("   no neighbor {guard}"),
            ],
        ),
        RouterKind::Srlinux => (
            "show network-instance default route-table ipv4-unicast prefix 0.0.0.0/0",
            "commit confirmed timeout 300, then tools system configuration confirmed-accept",
            vec![
                "delete / network-instance default static-routes route 0.0.0.0/0".to_owned(),
                "delete / network-instance default static-routes route ::/0".to_owned(),
                format!("delete / network-instance default protocols bgp neighbor {guard}"),
            ],
        ),
        RouterKind::Routeros => (
            "/ip route print where dst-address=0.0.0.0/0; /ipv6 route print where dst-address=::/0",
            "safe mode (Ctrl-X), which takes all back when the session breaks",
            vec![
                "/ip route remove [find comment=destguard]".to_owned(),
                "/ipv6 route remove [find comment=destguard]".to_owned(),
                format!("/routing bgp connection remove [find name=destguard-{tag}]"),
            ],
        ),
    };
    let mut lines = vec![format!(
        "Remove every other default route that the router has: one that leads anywhere lets everything through. To see them: {seen}"
    )];
    if !trial.is_empty() {
        lines.push(format!("So that a mistake is taken back by itself: {trial}."));
    }
    lines.push("Back, with your old default route in place of the first two:".to_owned());
    lines.extend(back.into_iter().map(|line| format!("  {line}")));
    lines
}
