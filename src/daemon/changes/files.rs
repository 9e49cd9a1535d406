//! The files of lists and local zones are looked at again and again, and put in force as they change.
//!
//! What can't be used changes nothing: what was in force before stays, and `status` says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::daemon::files::{Copies, Kind, Renewed, Watch, stamps};
use crate::daemon::reload;
use crate::daemon::shared::Shared;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Looks at those of a kind; never ends.
pub async fn follow(shared: Arc<Shared>, kind: Kind) {
    let mut tick = tokio::time::interval(LOOK);
    let mut watch = Watch::default();
    let mut copies = Copies::new(kind);
    loop {
        tick.tick().await;
        let held = shared.lists.lists().held(kind);
        if held.is_empty() && copies.is_empty() {
            continue;
        }
        let look = move || {
            let stamps = stamps(&held);
            (held, stamps)
        };
        let Ok((held, stamps)) = tokio::task::spawn_blocking(look).await else { continue };
        let found = watch.look(&held, stamps);
        for path in &found.in_force {
            shared.lists.mended(kind, path);
        }
        if !found.wanted.is_empty() {
            renew(&shared, kind, found.wanted).await;
        }
        // At once after what came in force: the next file in its place may be a bad one.
        let (held, state) = (shared.lists.lists().held(kind), shared.config().0.state.dir);
        let mut kept = std::mem::replace(&mut copies, Copies::new(kind));
        let keep = move || {
            kept.keep(&held, &state);
            kept
        };
        match tokio::task::spawn_blocking(keep).await {
            Ok(kept) => copies = kept,
            Err(error) => tracing::error!(%error, "keeping copies of the {kind} failed"),
        }
    }
}

/// Reads these files and puts in force what can be.
async fn renew(shared: &Shared, kind: Kind, wanted: Vec<PathBuf>) {
    let _applying = shared.applying.lock().await;
    let mut lists = shared.lists.lists();
    let read = move || {
        let renewed = lists.renew(kind, &wanted);
        (lists, renewed)
    };
    let (lists, Renewed { good, bad }) = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(%error, "reading the {kind} failed; the old ones stay");
            return;
        }
    };
    if !good.is_empty() {
        match reload::apply_lists(shared, lists).await {
            Ok(()) => shared.lists.applied(kind, &good),
            Err(error) => shared.lists.unapplied(kind, &good, &error.to_string()),
        }
    }
    // Behind what came in force, which takes the place of all that is noted of zones.
    for (path, why) in bad {
        shared.lists.refused(kind, &path, &why);
    }
}
