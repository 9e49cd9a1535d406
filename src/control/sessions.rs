//! BGP sessions as the control interface shows them.

use std::time::{Duration, Instant};

use destguard_bgp::config::Role;
use destguard_bgp::status::{BfdStatus, Latency, PeerStatus};

use super::types;
use crate::enforce::bgp::PeerView;
use crate::enforce::bgp::service::ServiceView;

/// A peer as `peers` shows it: its session, its routes and what it confirms.
#[must_use]
pub fn peer(PeerView { status, required, max_routes, observer, guard }: PeerView, now: Instant) -> types::Peer {
    let settle = status.settle.as_millis();
    let confirm = match (status.role, settle) {
        (Role::Observer, _) if status.confirms => format!("{} (edge)", status.confirm),
        (Role::Observer, _) => "observer".to_owned(),
        (Role::Guard, _) => "guard".to_owned(),
        (Role::Edge | Role::Gone, _) => format!("{} (edge)", status.confirm),
        (Role::Enforcer, 0) => status.confirm.to_string(),
        (Role::Enforcer, _) => format!("{} + {settle}ms", status.confirm),
    };
    let median = status.latency.quantile(0.5).map(|bound| u64::try_from(bound.as_millis()).unwrap_or(u64::MAX));
    types::Peer {
        name: status.name.clone(),
        address: status.address,
        asn: status.asn,
        state: status.state.to_string(),
        since_seconds: now.saturating_duration_since(status.since).as_secs(),
        advertised: types::Advertised { ipv4: status.advertised[0], ipv6: status.advertised[1] },
        would_advertise: None,
        confirm,
        confirm_latency_ms: median,
        confirmations: status.confirms.then(|| confirmations(&status)),
        capabilities: status.capabilities.iter().map(|name| (*name).to_owned()).collect(),
        last_error: status.warning.clone().or_else(|| status.last_error.as_ref().map(|(reason, _)| reason.clone())),
        unconfirmed: status.warning.clone().filter(|_| status.is_failing),
        warning: status.warning.clone().filter(|_| !status.is_failing),
        observer,
        required,
        max_routes,
        received: types::Received {
            messages: status.received.messages,
            updates: status.received.updates,
            announced: status.received.announced,
            withdrawn: status.received.withdrawn,
            malformed: status.received.malformed,
            refreshes: status.received.refreshes,
        },
        sessions: status.established,
        queued_octets: status.queued,
        bfd: status.bfd.as_ref().map(|bfd| bfd_of(bfd, now)),
        guard: guard.map(|said| types::OtherGuard {
            leases: said.told,
            without_room: said.beyond,
            without_end: said.useless,
        }),
    }
}

fn bfd_of(bfd: &BfdStatus, now: Instant) -> types::Bfd {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    types::Bfd {
        state: bfd.state.to_string(),
        since_seconds: now.saturating_duration_since(bfd.since).as_secs(),
        remote_state: bfd.remote_state.to_string(),
        interval_ms: bfd.interval.map(millis),
        detection_ms: Some(bfd.detection_time).filter(|time| !time.is_zero()).map(millis),
        last_down: bfd.cause.map(|cause| cause.to_string()),
        failures: bfd.failures,
        discarded: bfd.discarded,
        last_discard: bfd.last_discard.clone(),
    }
}

fn confirmations(status: &PeerStatus) -> types::Confirmations {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let micros = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    let bounds = Latency::BOUNDS.iter().map(|bound| Some(*bound)).chain([None]);
    types::Confirmations {
        count: status.latency.count,
        p99_ms: status.latency.quantile(0.99).map(millis),
        p50_us: status.latency.quantile(0.5).map(micros),
        p99_us: status.latency.quantile(0.99).map(micros),
        histogram: bounds.zip(status.latency.buckets).filter(|(_, count)| *count > 0).collect(),
        settle_ms: millis(status.settle),
        learnt: status.learnt.map(|(samples, shown)| types::Learnt {
            samples,
            p50_ms: shown.map(|[median, _]| millis(median)),
            p99_ms: shown.map(|[_, high]| millis(high)),
        }),
        unverified: status.unverified,
        closing: status.closing,
        borrowed: status.borrowed,
        close_latency_ms: status.close_latency.quantile(0.5).map(millis),
    }
}

/// The guard's own anycast addresses.
#[must_use]
pub fn service(view: ServiceView, now: Instant) -> types::Service {
    let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
    let peers = view.peers.iter().map(|peer| types::ServicePeer {
        name: peer.name.clone(),
        address: peer.address,
        state: peer.state.to_string(),
        since_seconds: seconds(peer.since),
        advertised: peer.advertised.iter().fold(0, |sum, count| sum.saturating_add(*count)),
        last_error: peer.last_error.as_ref().map(|(why, _)| why.clone()),
        bfd: peer.bfd.as_ref().map(|bfd| bfd_of(bfd, now)),
    });
    types::Service {
        peers: peers.collect(),
        addresses: view.addresses,
        announced: view.announced,
        since_seconds: seconds(view.since),
        reason: view.reason,
    }
}
