//! Whether clients are led here: looks at the guard as its operator would, and lets the service addresses go where it isn't well.
//!
//! Without clients nobody would notice that upstreams are there again: as long as there are service addresses, upstreams that have said nothing of late
//! are asked by the guard itself.

use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::config::schema;
use crate::control::status;
use crate::control::types::State;
use crate::dns::upstream::UpstreamStatus;
use crate::enforce::bgp::service::steady::Ill;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(250);
/// A core that says nothing for so long is no help to anybody.
const SILENCE: Duration = Duration::from_secs(1);
/// Upstreams that said nothing for so long are asked.
const QUIET: Duration = Duration::from_secs(2);

/// Looks until the task ends.
pub async fn follow(shared: Arc<Shared>) {
    let mut turns = tokio::time::interval(LOOK);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if !shared.service.is_wanted() {
            continue;
        }
        shared.dns.ask_quiet_upstreams(QUIET);
        let ill = ill(&shared).await;
        shared.service.look(ill);
    }
}

/// Why clients are better served elsewhere.
async fn ill(shared: &Shared) -> Option<Ill> {
    let state = match tokio::time::timeout(SILENCE, status::state(shared)).await {
        Ok(Ok(state)) => state,
        Ok(Err(error)) => return Some(Ill { word: "core", why: error.to_string() }),
        Err(_) => {
            let why = format!("the core has said nothing for {} s", SILENCE.as_secs());
            return Some(Ill { word: "core", why });
        }
    };
    // What is wrong with upstreams is the better word where both say so.
    let upstreams = upstreams(&shared.config().0.dns.upstream, &shared.dns.status().upstreams);
    if upstreams.is_some() {
        return upstreams;
    }
    match state {
        (State::Enforcing, _) => None,
        (state, reasons) => {
            let first = reasons.first().map_or_else(String::new, |reason| format!(": {reason}"));
            Some(Ill { word: "state", why: format!("the guard is {}{first}", state.as_str()) })
        }
    }
}

/// Nothing leads here any more, and what was on its way has been answered; before listeners close.
pub async fn leave(shared: &Shared) {
    let drain = shared.config().0.bgp.service.drain.0;
    if shared.service.withdraw().await {
        tokio::time::sleep(drain).await;
    }
}

/// Whether questions can be answered: an upstream for names at large is healthy. `upstreams` are as configured, and as they fare.
fn upstreams(configured: &[schema::Upstream], fare: &[UpstreamStatus]) -> Option<Ill> {
    let ill = |why: &str| Some(Ill { word: "upstreams", why: why.to_owned() });
    let large = configured.iter().any(|upstream| upstream.domains.is_empty());
    let counts = |url: &str| {
        let of = configured.iter().find(|upstream| upstream.url == url);
        of.is_some_and(|upstream| !large || upstream.domains.is_empty())
    };
    let mut any = false;
    for upstream in fare.iter().filter(|upstream| counts(&upstream.url)) {
        if upstream.healthy && upstream.replied {
            return None;
        }
        any |= upstream.replied;
    }
    if any { ill("no upstream answers") } else { ill("no upstream has answered yet") }
}
