//! DNSSEC validation (RFC 4033 to 4035, 5155, 6840, 9276) of what upstreams say, before anything is judged by it.
//!
//! ```text
//!  ask() -- DO, CD --> upstream -> the answer
//!                                    | for each set of records, and for what proves that there is nothing
//!                                    v
//!             chain: is the zone signed? anchor -> DS, DNSKEY -> DS, DNSKEY ... (cached)
//!                                    |
//!        secure: AD     insecure: as it is     bogus: SERVFAIL, and nothing of it is used
//! ```
//!
//! - [`anchor`]: where trust begins. [`rrset`]: signatures. [`denial`]: NSEC and NSEC3. [`chain`]: from the anchor to a zone's keys. [`answer`]: a
//!   whole answer.
//!
//! The cryptography is that of hickory-proto. The walk is not hickory's: that one knows no DNAME and no DS as anchor, has no bound on what one answer may
//! cost, and doesn't tell why something is bogus.
//!
//! What one answer may cost is bounded ([`Budget`]), so that a hostile zone can't make the guard work without end (CVE-2023-50387, CVE-2023-50868).

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::draft::Checked;
use super::ede::{Ede, code};
use super::message;
use super::metrics::{Metrics, Outcome};
use super::upstream::query::Query;
use super::upstream::{AskError, Upstreams};
use crate::config::schema::Dnssec;

pub mod anchor;
pub mod answer;
pub mod chain;
pub mod denial;
pub mod rrset;

/// The longest that the keys for one answer may take to be had.
const TOTAL: Duration = Duration::from_secs(4);

/// Who is asked. The upstreams, but in tests.
pub trait Source: Sync {
    /// The response to a query.
    fn ask(&self, query: &Query) -> impl Future<Output = Result<Vec<u8>, AskError>> + Send;

    /// What a response leaves off at, asked for and joined to it ([`super::follow`]).
    fn complete(
        &self,
        _query: &Query,
        response: message::Response,
    ) -> impl Future<Output = Result<Checked, AskError>> + Send {
        std::future::ready(Ok(Checked::Response(response)))
    }
}

impl Source for Upstreams {
    async fn ask(&self, query: &Query) -> Result<Vec<u8>, AskError> {
        Upstreams::ask(self, query).await.map(|asked| asked.message)
    }
}

/// Why something isn't known to be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// INFO-CODE (RFC 8914).
    pub code: u16,
    /// In words.
    pub text: String,
    /// What stood in the way when it wasn't proved wrong, but could not be looked at.
    pub unreached: Option<Option<AskError>>,
}

impl Failure {
    /// It is wrong.
    #[must_use]
    pub fn bogus(code: u16, text: String) -> Self {
        Self { code, text, unreached: None }
    }

    /// Nobody can say.
    #[must_use]
    pub fn unknown(text: String, error: Option<AskError>) -> Self {
        Self { code: code::DNSSEC_INDETERMINATE, text, unreached: Some(error) }
    }

    /// Takes another reason that says more than that something is missing.
    fn worsen(&mut self, code: u16, text: impl FnOnce() -> String) {
        let weight = |code| match code {
            code::RRSIGS_MISSING | code::NSEC_MISSING => 0,
            code::DNSKEY_ALGORITHM => 1,
            code::DNSKEY_MISSING => 2,
            code::DNSSEC_BOGUS => 3,
            // An otherwise fitting signature.
            _ => 4,
        };
        if weight(code) > weight(self.code) {
            *self = Self::bogus(code, text());
        }
    }
}

/// What the work for one answer may still cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Queries to upstreams. A chain needs two for each zone, and one for each label that is no zone: reverse names of IPv6 have many.
    pub queries: u32,
    /// Signatures to check.
    pub signatures: u32,
    /// Rounds of SHA-1 for NSEC3.
    pub hashes: u32,
}

impl Budget {
    /// At the start.
    pub const FULL: Self = Self { queries: 48, signatures: 64, hashes: 20_000 };

    fn query(&mut self) -> Result<(), Failure> {
        let spent = || Failure::unknown("too many queries for one answer".to_owned(), None);
        self.queries = self.queries.checked_sub(1).ok_or_else(spent)?;
        Ok(())
    }

    fn signature(&mut self) -> Result<(), Failure> {
        let spent = || Failure::bogus(code::DNSSEC_BOGUS, "too many signatures for one answer".to_owned());
        self.signatures = self.signatures.checked_sub(1).ok_or_else(spent)?;
        Ok(())
    }

    fn rounds(&mut self, rounds: u32) -> Result<(), Failure> {
        let spent = || Failure::bogus(code::DNSSEC_BOGUS, "too many NSEC3 hashes for one answer".to_owned());
        self.hashes = self.hashes.checked_sub(rounds).ok_or_else(spent)?;
        Ok(())
    }
}

/// One answer's validation on its way.
pub struct Work<'a, S> {
    source: &'a S,
    /// Seconds since 1970, as signatures count them (RFC 4034 section 3.1.5).
    now: u32,
    budget: Budget,
}

/// Whether all of an answer, or some of it, is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// All of it, by a chain from the anchor.
    Secure,
    /// Some of it stands in a zone that is proved not to be signed, or below no anchor.
    Insecure,
}

/// Validates. One for the daemon; tasks share it.
pub struct Validator {
    anchors: anchor::Anchors,
    trusted: chain::Cache,
    metrics: Metrics,
    clock: fn() -> u32,
}

impl Validator {
    /// From the configuration; `None` when it wants no validation.
    ///
    /// # Errors
    /// [`anchor::AnchorError`]; `check` refuses all of these before.
    pub fn new(dnssec: &Dnssec, metrics: &Metrics) -> Result<Option<Self>, anchor::AnchorError> {
        if !dnssec.validate {
            return Ok(None);
        }
        let anchors = anchor::Anchors::new(dnssec)?;
        Ok(Some(Self { anchors, trusted: chain::Cache::new(metrics.clone()), metrics: metrics.clone(), clock: wall }))
    }

    /// Asks, and validates what comes. What is bogus is refused whoever asks: a client that sets CD for addresses would else get some that it can't reach.
    ///
    /// # Errors
    /// Like [`Upstreams::ask`]; also when no upstream can be asked for the keys.
    pub async fn ask<S: Source>(&self, source: &S, query: &Query) -> Result<Checked, AskError> {
        // In a domain that isn't validated the upstream's own validation, if it does any, is better than none.
        let checking_disabled = self.anchors.above(&query.name).is_some();
        let wanted = Query { dnssec_ok: true, checking_disabled, ..query.clone() };
        let asked = source.ask(&wanted).await?;
        let Ok(response) = message::read(&asked) else { return Ok(Checked::Malformed) };
        let mut response = match source.complete(&wanted, response).await? {
            Checked::Response(response) => response,
            other => return Ok(other),
        };
        if response.truncated || super::reply::is_failure(response.rcode) {
            return Ok(Checked::Response(response));
        }
        let mut work = Work { source, now: (self.clock)(), budget: Budget::FULL };
        let judged = tokio::time::timeout(TOTAL, self.judge(&mut work, query, &mut response)).await;
        let late = || Failure::unknown("the keys can't be had in time".to_owned(), Some(AskError::TimeOut));
        let (outcome, checked) = match judged.unwrap_or_else(|_| Err(late())) {
            Ok(Security::Secure) => ("secure", Ok(Checked::Response(response))),
            Ok(Security::Insecure) => ("insecure", Ok(Checked::Response(response))),
            Err(Failure { unreached: Some(Some(error)), text, .. }) => {
                tracing::debug!(name = %query.name, qtype = query.qtype, text, "not validated");
                ("indeterminate", Err(error))
            }
            Err(Failure { unreached: Some(None), code, text }) => {
                ("indeterminate", Ok(Checked::Refused("dnssec", Ede::new(code, text))))
            }
            Err(Failure { unreached: None, code, text }) => {
                tracing::debug!(name = %query.name, qtype = query.qtype, text, "bogus");
                ("bogus", Ok(Checked::Refused("bogus", Ede::new(code, text))))
            }
        };
        self.metrics.validated.get_or_create(&Outcome { outcome }).inc();
        checked
    }
}

/// Seconds since 1970; their 32 low bits, which is how signatures count them.
fn wall() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u32::try_from(since & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
pub(in crate::dns) mod tests;
