//! What the page draws.

use serde::{Deserialize, Serialize};

/// The body of `history`: readings of some spans, for the page's plots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Past {
    /// The last hour by minutes, oldest first.
    pub hour: Vec<Plotted>,
    /// The last day by ten minutes, oldest first.
    pub day: Vec<Plotted>,
}

/// What came in one span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Plotted {
    /// Its end, in seconds since 1970.
    pub time: u64,
    /// How long it was.
    pub seconds: u64,
    /// Questions that got a reply.
    pub questions: u64,
    /// Questions that were refused, or in audit would have been.
    pub refused: u64,
    /// Active leases at its end.
    pub leases: u64,
    /// The gate added at most so much to half of the answers, in microseconds; absent: it added to none.
    pub gate_p50_us: Option<u64>,
    /// Likewise to 99 of 100.
    pub gate_p99_us: Option<u64>,
}
