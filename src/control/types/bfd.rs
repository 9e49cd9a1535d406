//! BFD beside a session.

use serde::{Deserialize, Serialize};

/// The BFD session with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Bfd {
    /// "AdminDown", "Down", "Init" or "Up".
    pub state: String,
    /// Since it entered its state.
    pub since_seconds: u64,
    /// The peer's state as it last said.
    pub remote_state: String,
    /// Between our packets; null while the peer wants none.
    pub interval_ms: Option<u64>,
    /// Silence of this length means Down; null before the peer was heard.
    pub detection_ms: Option<u64>,
    /// Why it last went down after it was up.
    pub last_down: Option<String>,
    /// Times it went down after it was up, and not on purpose.
    pub failures: u64,
    /// Packets from the peer's address that were discarded.
    pub discarded: u64,
    /// Why the last one was.
    pub last_discard: Option<String>,
}
