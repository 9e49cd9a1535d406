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

use super::metrics::{Metrics, Outcome};
use super::upstream::query::Query;
use super::upstream::{AskError, Upstreams};
use crate::config::schema::Dnssec;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::response;
use crate::dns::resolver::draft::Checked;

pub mod anchor;
pub mod answer;
pub mod chain;
pub mod denial;
pub mod rrset;

/// The longest that the keys for one answer may take to be had.
const TOTAL: Duration = Duration::from_secs(4);

/// How many upstreams are asked alone, one after the other, when an answer is bogus: one that lies or is broken must not take a name away that another
/// one has.
const RETRIES: usize = 3;
/// The longest that this may take, all together.
pub const AGAIN: Duration = Duration::from_secs(3);

/// Which upstreams may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Whoever does it best.
    Anyone,
    /// The one at this place, beginning again after the last.
    Only(usize),
}

/// Who is asked. The upstreams, but in tests.
pub trait Source: Sync {
    /// The response to a query.
    fn ask(&self, query: &Query, whom: Pick) -> impl Future<Output = Result<Vec<u8>, AskError>> + Send;

    /// How many there are.
    fn choices(&self) -> usize;

    /// What a response leaves off at, asked for and joined to it ([`crate::dns::resolver::follow`]).
    fn complete(
        &self,
        _query: &Query,
        response: response::Response,
        _whom: Pick,
    ) -> impl Future<Output = Result<Checked, AskError>> + Send {
        std::future::ready(Ok(Checked::Response(response)))
    }
}

impl Source for Upstreams {
    async fn ask(&self, query: &Query, whom: Pick) -> Result<Vec<u8>, AskError> {
        let asked = match whom {
            Pick::Anyone => Upstreams::ask(self, query).await,
            Pick::Only(place) => self.ask_one(query, place).await,
        };
        asked.map(|asked| asked.message)
    }

    fn choices(&self) -> usize {
        Upstreams::choices(self)
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
    /// Every upstream that may be asked was.
    pub settled: bool,
}

impl Failure {
    /// It is wrong.
    #[must_use]
    pub fn bogus(code: u16, text: String) -> Self {
        Self { code, text, unreached: None, settled: false }
    }

    /// Nobody can say.
    #[must_use]
    pub fn unknown(text: String, error: Option<AskError>) -> Self {
        Self { code: code::DNSSEC_INDETERMINATE, text, unreached: Some(error), settled: false }
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
    /// Signatures to check; those over long sets count more than once.
    pub signatures: u32,
    /// Rounds of SHA-1 for NSEC3.
    pub hashes: u32,
    /// Signatures that were checked.
    pub checked: u32,
}

/// Octets below which a signature counts once: so much is hashed in about the time of the arithmetic.
const SHORT: usize = 16 << 10;
/// The most that one signature counts: a set of 64 KiB on the wire may be a megabyte when each record has its whole name.
const DEAREST: usize = 16;

impl Budget {
    /// At the start.
    pub const FULL: Self = Self { queries: 48, signatures: 64, hashes: 20_000, checked: 0 };

    fn query(&mut self) -> Result<(), Failure> {
        let spent = || Failure::unknown("too many queries for one answer".to_owned(), None);
        self.queries = self.queries.checked_sub(1).ok_or_else(spent)?;
        Ok(())
    }

    /// One signature over so many octets.
    fn signature(&mut self, octets: usize) -> Result<(), Failure> {
        let spent = || Failure::bogus(code::DNSSEC_BOGUS, "too many signatures for one answer".to_owned());
        let cost = u32::try_from((octets / SHORT).saturating_add(1).min(DEAREST)).unwrap_or(u32::MAX);
        let left = self.signatures.checked_sub(cost);
        // What is too little for this one is nothing: the rest must not look like a failure of somebody else.
        self.signatures = left.unwrap_or(0);
        self.checked = self.checked.saturating_add(u32::from(left.is_some()));
        left.map(|_| ()).ok_or_else(spent)
    }

    fn rounds(&mut self, rounds: u32) -> Result<(), Failure> {
        let spent = || Failure::bogus(code::DNSSEC_BOGUS, "too many NSEC3 hashes for one answer".to_owned());
        let left = self.hashes.checked_sub(rounds);
        self.hashes = left.unwrap_or(0);
        left.map(|_| ()).ok_or_else(spent)
    }
}

/// One answer's validation on its way.
pub struct Work<'a, S> {
    source: &'a S,
    /// Seconds since 1970, as signatures count them (RFC 4034 section 3.1.5).
    now: u32,
    budget: Budget,
    turn: Turn,
}

/// Which attempt at an answer it is.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// 0: of anyone; then each time of one upstream alone.
    now: usize,
    /// The last that there may be.
    last: usize,
}

impl Turn {
    fn whom(self) -> Pick {
        self.now.checked_sub(1).map_or(Pick::Anyone, Pick::Only)
    }
}

/// What came of one attempt.
struct Attempt {
    /// What it counts as; `None`: there was nothing to validate.
    outcome: Option<&'static str>,
    /// Whether another upstream may have something better.
    again: bool,
    checked: Result<Checked, AskError>,
}

impl Attempt {
    fn good(&self) -> bool {
        !self.again
            && matches!(&self.checked, Ok(Checked::Response(response)) if !crate::dns::codec::reply::is_failure(response.rcode))
    }
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
    /// Other upstreams are asked before, one by one; of what they said the last that was bogus stands.
    ///
    /// # Errors
    /// Like [`Upstreams::ask`]; also when no upstream can be asked for the keys.
    pub async fn ask<S: Source>(&self, source: &S, query: &Query) -> Result<Checked, AskError> {
        let last = Some(source.choices()).filter(|choices| *choices > 1).map_or(0, |choices| choices.min(RETRIES));
        let mut attempt = self.attempt(source, query, Turn { now: 0, last }).await;
        if attempt.again && last > 0 {
            // What came so far stands when the time is over.
            let _late = tokio::time::timeout(AGAIN, self.ask_others(source, query, last, &mut attempt)).await;
        }
        if let Some(outcome) = attempt.outcome {
            self.metrics.validated.get_or_create(&Outcome { outcome }).inc();
        }
        attempt.checked
    }

    async fn ask_others<S: Source>(&self, source: &S, query: &Query, last: usize, attempt: &mut Attempt) {
        for now in 1..=last {
            self.metrics.validation_retries.inc();
            let next = self.attempt(source, query, Turn { now, last }).await;
            if next.good() {
                tracing::debug!(name = %query.name, qtype = query.qtype, "another upstream has a good answer");
                self.metrics.validation_rescues.inc();
                *attempt = next;
                return;
            }
            // Others found the same meanwhile.
            let settled = next.outcome.is_some() && !next.again;
            if next.outcome == Some("bogus") {
                *attempt = next;
            }
            if settled {
                return;
            }
        }
    }

    async fn attempt<S: Source>(&self, source: &S, query: &Query, turn: Turn) -> Attempt {
        // In a domain that isn't validated the upstream's own validation, if it does any, is better than none.
        let checking_disabled = self.anchors.above(&answer::side(&query.name, query.qtype)).is_some();
        let wanted = Query { dnssec_ok: true, checking_disabled, ..query.clone() };
        let plain = |again: bool, checked| Attempt { outcome: None, again, checked };
        let asked = match source.ask(&wanted, turn.whom()).await {
            Ok(asked) => asked,
            Err(error) => return plain(false, Err(error)),
        };
        let Ok(response) = response::read(&asked) else { return plain(true, Ok(Checked::Malformed)) };
        let mut response = match source.complete(&wanted, response, turn.whom()).await {
            Ok(Checked::Response(response)) => response,
            other => return plain(other.is_ok(), other),
        };
        if response.truncated || crate::dns::codec::reply::is_failure(response.rcode) {
            // After a code that says so others were asked already.
            return plain(response.truncated, Ok(Checked::Response(response)));
        }
        let mut work = Work { source, now: (self.clock)(), budget: Budget::FULL, turn };
        let judged = tokio::time::timeout(TOTAL, self.judge(&mut work, query, &mut response)).await;
        self.metrics.validation_signatures.inc_by(u64::from(work.budget.checked));
        let late = || Failure::unknown("the keys can't be had in time".to_owned(), Some(AskError::TimeOut));
        let (outcome, again, checked) = match judged.unwrap_or_else(|_| Err(late())) {
            Ok(None) => return plain(true, Ok(Checked::Response(response))),
            Ok(Some(Security::Secure)) => ("secure", false, Ok(Checked::Response(response))),
            Ok(Some(Security::Insecure)) => ("insecure", false, Ok(Checked::Response(response))),
            Err(Failure { unreached: Some(Some(error)), text, .. }) => {
                tracing::debug!(name = %query.name, qtype = query.qtype, text, "not validated");
                ("indeterminate", false, Err(error))
            }
            Err(Failure { unreached: Some(None), code, text, settled }) => {
                ("indeterminate", !settled, Ok(Checked::Refused("dnssec", Ede::new(code, text))))
            }
            Err(Failure { unreached: None, code, text, settled }) => {
                tracing::debug!(name = %query.name, qtype = query.qtype, text, "bogus");
                ("bogus", !settled, Ok(Checked::Refused("bogus", Ede::new(code, text))))
            }
        };
        Attempt { outcome: Some(outcome), again, checked }
    }
}

/// Seconds since 1970; their 32 low bits, which is how signatures count them.
fn wall() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u32::try_from(since & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
pub(in crate::dns) mod tests;
