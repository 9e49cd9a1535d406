//! For a router that must pass the guard's routes on: what follows bears no NO_ADVERTISE, which every grammar here puts on them otherwise.

use crate::config::schema::Peer;

/// Whether others than this router are to hear of the routes: those behind a reflector, and observers.
pub(super) fn passes_on(peer: &Peer) -> bool {
    !peer.forwards || peer.observer.is_some() || !peer.observers.is_empty()
}

/// What to know of it, before pasting.
pub(super) const WORDS: [&str; 2] = [
    "It must send the routes on (to the routers behind it, or to the guard's observer), so they bear no NO_ADVERTISE:",
    "see that its other sessions export none of them beyond your network.",
];

/// The text without it.
pub(super) fn let_pass(text: &str) -> String {
    let whole = [
        "set community no-advertise additive",
        "set community (no-advertise) additive",
        "bgp_community.add((65535, 65282)); # NO_ADVERTISE",
        "set policy-options community NO-ADVERTISE members no-advertise",
    ];
    let kept = text.lines().filter(|line| {
        let line = line.trim();
        !whole.contains(&line) && !line.ends_with("then community add NO-ADVERTISE")
    });
    let mut out = String::with_capacity(text.len());
    for line in kept {
        out.push_str(&line.replace(" community NO_ADVERTISE", "").replace("append bgp-communities no-advertise; ", ""));
        out.push('\n');
    }
    out
}
