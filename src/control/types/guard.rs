//! What another guard says of its leases, as `status` and `peers` show it.

use serde::{Deserialize, Serialize};

/// On one session with another guard, or with a reflector between guards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct OtherGuard {
    /// Leases that it tells of now; they are held here too, where the filter and the budgets let them.
    pub leases: usize,
    /// Announcements that found no room (max_routes), since the start.
    pub without_room: u64,
    /// Announcements that bore no end, or one that was over, since the start.
    pub without_end: u64,
}
