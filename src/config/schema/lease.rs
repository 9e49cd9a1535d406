//! `[lease]`

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::{Rate, Span};

/// The section `[lease]`: how long addresses stay open, and how many may be.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lease {
    /// The least a TTL counts for.
    pub min: Span,
    /// The longest a lease lasts from its answer.
    pub max: Span,
    /// Added to every TTL: Firefox connects to what it knows until a minute after its end, and asks anew meanwhile.
    pub grace: Span,
    /// Most addresses leased at once, lingering routes included.
    pub capacity: usize,
    /// Most addresses of one answer; of more, that many are given.
    pub per_answer: usize,
    /// New addresses per client, in the long run.
    pub new_per_client: Rate,
    /// New addresses of a client at once.
    pub burst_per_client: u64,
    /// New addresses per registrable domain, in the long run.
    pub new_per_domain: Rate,
    /// New addresses of a registrable domain at once.
    pub burst_per_domain: u64,
    /// Names that are asked for at the start and kept open: update servers, time servers, what this host can't be without.
    pub preload: Vec<String>,
    /// Whether a name is asked for again when packets still go to an address whose lease ended: for programs that keep addresses (nftables).
    pub revalidate: bool,
}

impl Default for Lease {
    fn default() -> Self {
        let a_second = |count| Rate { count, per: Duration::from_secs(1) };
        Self {
            min: Span::secs(60),
            max: Span::secs(24 * 3600),
            grace: Span::secs(75),
            capacity: 100_000,
            per_answer: 16,
            new_per_client: a_second(50),
            burst_per_client: 500,
            new_per_domain: a_second(100),
            burst_per_domain: 1000,
            preload: Vec::new(),
            revalidate: false,
        }
    }
}
