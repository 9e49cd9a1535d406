//! Routers behind others: what the configuration says of them becomes peers of the speaker, and enforcers of the core, beside those with sessions.

use std::time::Duration;

use destguard_bgp::config::{Confirm, PeerConfig, Role};
use ipnet::IpNet;

use super::{BgpError, families, patience, peer, spec};
use crate::config::schema::{self, Bgp};
use crate::core::event::{EnforcerKind, EnforcerSpec};
use crate::core::narrow::NarrowKinds;

/// Everything that the speaker follows: `bgp.peer` in order, then `bgp.edge`.
pub(super) fn peers(bgp: &Bgp, deadline: Duration) -> Result<Vec<PeerConfig>, BgpError> {
    let mut all = bgp.peer.iter().map(|entry| peer(entry, deadline)).collect::<Result<Vec<_>, _>>()?;
    for (made, entry) in all.iter_mut().zip(&bgp.peer).filter(|(_, entry)| watches(bgp, entry)) {
        // Its own session shows what its router has in force.
        made.watches = true;
        (made.confirm, made.settle, made.learn) = (Confirm::Reflect, Duration::ZERO, false);
        made.observer = Some(entry.name.clone());
    }
    all.extend(bgp.edge.iter().map(|edge| PeerConfig {
        zone: edge.address.zone().map(|zone| zone.name().to_owned()),
        local_address: edge.local_address,
        families: families(&edge.families),
        confirm: Confirm::Probe,
        probe_ttl: edge.probe_ttl,
        patience: patience(deadline),
        role: Role::Edge,
        ..PeerConfig::new(edge.name.clone(), *edge.address, 0)
    }));
    Ok(all)
}

/// Those among them whose word counts, as the core is to know them.
pub(super) fn specs<'a>(bgp: &'a Bgp, open: &'a [IpNet]) -> impl Iterator<Item = Option<EnforcerSpec>> + 'a {
    let peers = bgp.peer.iter().map(move |entry| match entry.role {
        schema::Role::Enforcer => Some(spec(bgp, entry, open)),
        schema::Role::Observer if watches(bgp, entry) => {
            Some(behind(bgp, &entry.name, &entry.families, entry.required))
        }
        schema::Role::Observer | schema::Role::Guard => None,
    });
    peers.chain(bgp.edge.iter().map(move |edge| Some(behind(bgp, &edge.name, &edge.families, edge.required))))
}

/// Whether an observer is on an edge.
fn watches(bgp: &Bgp, entry: &schema::Peer) -> bool {
    entry.role == schema::Role::Observer && bgp.peer.iter().any(|peer| peer.observers.contains(&entry.name))
}

/// The budget is that of the peers that bring it the routes.
fn behind(bgp: &Bgp, name: &str, families: &[schema::Family], required: bool) -> EnforcerSpec {
    let routers = bgp.peer.iter().filter(|peer| peer.role == schema::Role::Enforcer);
    let budgets = routers.map(|peer| peer.max_routes);
    EnforcerSpec {
        name: name.to_owned(),
        kind: EnforcerKind::Route,
        required,
        max_addresses: budgets.min().unwrap_or(usize::MAX),
        ipv4: families.contains(&schema::Family::Ipv4) && (bgp.next_hop_ipv4.is_some() || bgp.next_hop_ipv6.is_some()),
        ipv6: families.contains(&schema::Family::Ipv6) && bgp.next_hop_ipv6.is_some(),
        narrow: NarrowKinds::default(),
    }
}
