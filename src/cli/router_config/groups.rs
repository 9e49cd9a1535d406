//! Groups whose routes bear communities of their own: how the router takes each into a table or VRF.

use std::fmt::Write;

use super::{Side, Written, word};
use crate::cli::RouterKind;
use crate::config::schema::{Config, Group};

fn with_communities(config: &Config) -> impl Iterator<Item = &Group> {
    config.policy.group.iter().filter(|group| !group.communities.is_empty())
}

/// For every router a comment that says what is to be matched; for BIRD a table for each group.
pub(super) fn write(out: &mut String, kind: RouterKind, comment: &str, side: &Side, config: &Config) -> Written {
    if with_communities(config).next().is_none() {
        return Ok(());
    }
    writeln!(out, "{comment} Routes bear the communities of the groups that they are open for, all of each group:")?;
    for group in with_communities(config) {
        writeln!(out, "{comment}   {}: {}", word(&group.name), group.communities.join(" "))?;
    }
    match kind {
        RouterKind::Bird => bird(out, side, config),
        RouterKind::Frr => frr(out, side, config),
        _ => writeln!(out, "{comment} Import each into its clients' VRF by them (docs/routers.md).",),
    }
}

fn bird(out: &mut String, side: &Side, config: &Config) -> Written {
    for (number, group) in with_communities(config).enumerate() {
        let name = format!("destguard_{}", word(&group.name));
        let table = 101 + number;
        writeln!(
            out,
            "# Lead this group's packets there: ip rule add iif INTERFACE lookup {table}, behind a rule for your own networks."
        )?;
        let conditions: Vec<String> = group.communities.iter().map(|text| condition(text)).collect();
        for (family, null, used) in
            [("4", "0.0.0.0/0", side.next_hop4.is_some()), ("6", "::/0", side.next_hop6.is_some())]
        {
            if !used {
                continue;
            }
            writeln!(out, "ipv{family} table {name}{family};")?;
            writeln!(out, "protocol pipe {name}{family}_in {{")?;
            writeln!(out, "  table master{family}; peer table {name}{family}; import none;")?;
            writeln!(out, "  export where source = RTS_BGP && {};", conditions.join(" && "))?;
            writeln!(out, "}}")?;
            writeln!(
                out,
                "protocol static {name}{family}_null {{ ipv{family} {{ table {name}{family}; }}; route {null} blackhole; }}"
            )?;
            writeln!(out, "protocol kernel {name}{family}_kernel {{")?;
            writeln!(out, "  kernel table {table}; ipv{family} {{ table {name}{family}; import none; export all; }};")?;
            writeln!(out, "}}")?;
        }
    }
    Ok(())
}

/// "64512:101" and "64512:0:101" as BIRD matches them.
fn condition(text: &str) -> String {
    let known = match text {
        "no-export" => "65535:65281",
        "no-advertise" => "65535:65282",
        "no-export-subconfed" => "65535:65283",
        "no-peer" => "65535:65284",
        _ => text,
    };
    let list = if known.matches(':').count() == 2 { "bgp_large_community" } else { "bgp_community" };
    format!("({}) ~ {list}", known.replace(':', ", "))
}

fn frr(out: &mut String, side: &Side, config: &Config) -> Written {
    writeln!(out, "! Import into VRFs, after FRR's manual, not run in the lab (its kernel has no VRF devices):")?;
    for group in with_communities(config) {
        let name = word(&group.name);
        let upper = name.to_uppercase();
        let (large, standard): (Vec<&String>, Vec<&String>) =
            group.communities.iter().partition(|text| text.matches(':').count() == 2);
        let join = |texts: &[&String]| texts.iter().map(|text| text.as_str()).collect::<Vec<_>>().join(" ");
        if !standard.is_empty() {
            writeln!(out, "bgp community-list standard DESTGUARD-{upper} permit {}", join(&standard))?;
        }
        if !large.is_empty() {
            writeln!(out, "bgp large-community-list standard DESTGUARD-{upper} permit {}", join(&large))?;
        }
        writeln!(out, "route-map DESTGUARD-{upper} permit 10")?;
        if !standard.is_empty() {
            writeln!(out, " match community DESTGUARD-{upper}")?;
        }
        if !large.is_empty() {
            writeln!(out, " match large-community DESTGUARD-{upper}")?;
        }
        writeln!(out, "router bgp {} vrf {name}", side.router_asn)?;
        for (family, used) in [("ipv4", side.next_hop4.is_some()), ("ipv6", side.next_hop6.is_some())] {
            if used {
                writeln!(out, " address-family {family} unicast")?;
                writeln!(out, "  import vrf default")?;
                writeln!(out, "  import vrf route-map DESTGUARD-{upper}")?;
                writeln!(out, " exit-address-family")?;
            }
        }
    }
    Ok(())
}
