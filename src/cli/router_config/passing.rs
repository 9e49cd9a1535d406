//! Routers that must pass the guard's routes on: they put no NO_ADVERTISE on them, as every grammar here does otherwise.

use crate::config::schema::{Confirm, Peer};

/// Whether others than this router are to hear of the routes: those behind a reflector, and observers.
pub(super) fn passes_on(peer: &Peer) -> bool {
    peer.confirm == Confirm::Reflect || !peer.forwards || peer.observer.is_some() || !peer.observers.is_empty()
}

/// What to know of it, before pasting.
pub(super) const WORDS: [&str; 2] = [
    "It must send the routes on (to the routers behind it, or to the guard's observer), so they bear no NO_ADVERTISE:",
    "see that its other sessions export none of them beyond your network.",
];
