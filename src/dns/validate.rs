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
//!   whole answer. [`budget`]: what that may cost. [`pool`]: where it is done when it is dear.
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
use crate::core::name::Name;
use crate::core::share::Holder;
use crate::dns::checked::Checked;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::response;

pub mod anchor;
pub mod answer;
pub mod budget;
pub mod chain;
pub mod denial;
pub mod pool;
pub mod rrset;

pub use budget::Budget;
use denial::Denials;
use pool::{Dropped, Pool, Whose};
use rrset::{Key, RrSet, Verified};

/// The longest that the keys for one answer may take to be had.
const TOTAL: Duration = Duration::from_secs(4);

/// How many upstreams are asked alone, one after the other, when an answer is bogus: one that lies or is broken must not take a name away that another
/// one has.
const RETRIES: usize = 3;
/// Units of work ([`budget`]) of one answer that are done where its task runs. Nearly all answers need no more, and to hand them over would cost them
/// a part of what the checks themselves do.
const HERE: u32 = 12;
/// Units of one step of it.
const CHEAP: u32 = 4;
/// Label of answers that cost too much to check.
pub const TOO_MUCH: &str = "dnssec_limit";
/// Label of answers that could not be checked now.
pub const BUSY: &str = "dnssec_busy";
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

    /// On whose behalf.
    fn client(&self) -> Holder {
        Holder::NOBODY
    }

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
    /// The reason in words, for clients (EXTRA-TEXT) and log.
    pub text: String,
    /// What stood in the way when it wasn't proved wrong, but could not be looked at.
    pub unreached: Option<Option<AskError>>,
    /// Every upstream that may be asked was.
    pub settled: bool,
    /// The guard wouldn't spend more on it.
    pub limit: Option<Limit>,
}

/// Why no more is spent on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// It alone costs too much.
    Answer,
    /// Too many checks wait already.
    Busy,
}

impl Failure {
    /// It is wrong.
    #[must_use]
    pub fn bogus(code: u16, text: String) -> Self {
        Self { code, text, unreached: None, settled: false, limit: None }
    }

    /// Nobody can say.
    #[must_use]
    pub fn unknown(text: String, error: Option<AskError>) -> Self {
        Self { code: code::DNSSEC_INDETERMINATE, text, unreached: Some(error), settled: false, limit: None }
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

/// One answer's validation on its way.
pub struct Work<'a, S> {
    source: &'a S,
    /// Seconds since 1970, as signatures count them (RFC 4034 section 3.1.5).
    now: u32,
    budget: Budget,
    turn: Turn,
    /// The client whose share of the work it counts in.
    client: Holder,
    /// Units that may still be done without the pool.
    here: u32,
    /// The pool had no room for it.
    busy: bool,
}

impl<S> Work<'_, S> {
    /// The bound that it met.
    fn limit(&self) -> Option<Limit> {
        match (self.busy, self.budget.spent.is_some()) {
            (true, _) => Some(Limit::Busy),
            (false, true) => Some(Limit::Answer),
            (false, false) => None,
        }
    }

    /// Whether so many units are done on this thread: few enough, and nothing was wrong yet.
    fn does_here(&mut self, units: u32) -> bool {
        let left = self.here.checked_sub(units).filter(|_| units <= CHEAP && self.budget.wrong == 0);
        self.here = left.unwrap_or(self.here);
        left.is_some() || units == 0
    }
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
    pool: Pool,
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
        let (trusted, pool) = (chain::Cache::new(metrics.clone()), Pool::new(metrics.clone()));
        Ok(Some(Self { anchors, trusted, pool, metrics: metrics.clone(), clock: wall }))
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
        let mut work = Work {
            source,
            now: (self.clock)(),
            budget: Budget::FULL,
            turn,
            client: source.client(),
            here: HERE,
            busy: false,
        };
        let judged = tokio::time::timeout(TOTAL, self.judge(&mut work, query, &mut response)).await;
        self.metrics.validation_signatures.inc_by(u64::from(work.budget.checked));
        self.metrics.validation_wrong.inc_by(u64::from(work.budget.wrong));
        let late = || Failure::unknown("the keys can't be had in time".to_owned(), Some(AskError::TimeOut));
        let judged = judged.unwrap_or_else(|_| Err(late()));
        let limit = judged.as_ref().err().and_then(|failure| failure.limit.or(work.limit()));
        let judged = match (judged, limit) {
            // Another upstream has the same zones: to ask it would only cost as much again.
            (Err(failure), Some(limit)) => {
                // Of several failures this one decides.
                let failure = work.budget.not_spent().err().unwrap_or(failure);
                return self.too_much(query, limit, failure);
            }
            (judged, _) => judged,
        };
        let (outcome, again, checked) = match judged {
            Ok(None) => return plain(true, Ok(Checked::Response(response))),
            Ok(Some(Security::Secure)) => ("secure", false, Ok(Checked::Response(response))),
            Ok(Some(Security::Insecure)) => ("insecure", false, Ok(Checked::Response(response))),
            Err(Failure { unreached: Some(Some(error)), text, .. }) => {
                tracing::debug!(name = %query.name, qtype = query.qtype, text, "not validated");
                ("indeterminate", false, Err(error))
            }
            Err(Failure { unreached: Some(None), code, text, settled, .. }) => {
                ("indeterminate", !settled, Ok(Checked::Refused("dnssec", Ede::new(code, text))))
            }
            Err(Failure { unreached: None, code, text, settled, .. }) => {
                tracing::debug!(name = %query.name, qtype = query.qtype, text, "bogus");
                ("bogus", !settled, Ok(Checked::Refused("bogus", Ede::new(code, text))))
            }
        };
        Attempt { outcome: Some(outcome), again, checked }
    }

    /// The guard spends no more on this answer; that is its last word.
    fn too_much(&self, query: &Query, limit: Limit, failure: Failure) -> Attempt {
        tracing::debug!(name = %query.name, qtype = query.qtype, text = failure.text, "not validated: it costs too much");
        let (outcome, label, ede) = match limit {
            Limit::Answer => {
                self.metrics.validation_limited.inc();
                ("bogus", TOO_MUCH, Ede::new(code::DNSSEC_BOGUS, failure.text))
            }
            Limit::Busy => ("indeterminate", BUSY, Ede::new(code::OTHER, "too many DNSSEC checks wait")),
        };
        Attempt { outcome: Some(outcome), again: false, checked: Ok(Checked::Refused(label, ede)) }
    }

    /// Whether one of `keys`, those of `zone`, signed a set.
    async fn verify<S: Source>(
        &self,
        work: &mut Work<'_, S>,
        set: &RrSet<'_>,
        zone: &Name,
        keys: &[Key],
    ) -> Result<Verified, Failure> {
        work.budget.not_spent()?;
        let check = set.candidates(zone, keys, work.now)?;
        let units = check.units();
        self.spend(work, zone, units, move |budget| check.run(budget)).await?
    }

    /// Looks something up in a zone's denials, of which `name` is hashed.
    async fn look<S: Source, T: Send + 'static>(
        &self,
        work: &mut Work<'_, S>,
        denials: &mut Denials,
        name: &Name,
        job: impl FnOnce(&mut Denials, &mut Budget) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let units = budget::units_of_blocks(denials.blocks(name));
        let zone = denials.zone().clone();
        let mut own = std::mem::replace(denials, Denials::of(zone.clone()));
        let looked = move |budget: &mut Budget| {
            let result = job(&mut own, budget);
            (own, result)
        };
        let (own, result) = self.spend(work, &zone, units, looked).await?;
        *denials = own;
        result
    }

    /// Does what costs so many units at most: here where it is cheap, else in the pool.
    async fn spend<S: Source, T: Send + 'static>(
        &self,
        work: &mut Work<'_, S>,
        signer: &Name,
        units: u32,
        job: impl FnOnce(&mut Budget) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if work.does_here(units) {
            return Ok(job(&mut work.budget));
        }
        let whose = Whose { client: work.client, signer: signer.clone() };
        let mut budget = work.budget;
        let done = move || {
            let result = job(&mut budget);
            (budget, result)
        };
        match self.pool.run(whose, done).await {
            Ok((budget, result)) => {
                work.budget = budget;
                Ok(result)
            }
            Err(Dropped) => {
                work.busy = true;
                let text = "too many DNSSEC checks wait".to_owned();
                Err(Failure { limit: Some(Limit::Busy), ..Failure::unknown(text, None) })
            }
        }
    }
}

/// Seconds since 1970; their 32 low bits, which is how signatures count them.
fn wall() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u32::try_from(since & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
pub(in crate::dns) mod tests;
