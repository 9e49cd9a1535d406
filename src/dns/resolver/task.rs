//! A pending question as a task of its own: upstreams, validation, aliases, up to the judged reply.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::core::moment::Moment;
use crate::core::policy::list::LocalData;
use crate::core::policy::view::ViewId;
use crate::core::share::Holder;
use crate::dns::Rules;
use crate::dns::cache::Entry;
use crate::dns::checked::Checked;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::reply;
use crate::dns::resolver::Resolver;
use crate::dns::resolver::draft::{Audience, Draft, Kind, alias, draft_checked, local};
use crate::dns::resolver::follow::{Following, MOST, join, left_off};
use crate::dns::resolver::origin::Origin;
use crate::dns::resolver::pending::{Outbox, Pending};
use crate::dns::resolver::{settle, stale};
use crate::dns::upstream::query::Query;
use crate::dns::upstream::race::{Ask, Race};
use crate::dns::upstream::{AskError, Asked, TOTAL};
use crate::dns::validate::{self, Pick, Source};
use crate::dns::zones::Zones;

impl Resolver {
    pub(in crate::dns) async fn run(self: Arc<Self>, pending: Pending) {
        let query = &pending.query;
        let rules = self.rules.load_full();
        let now = self.clock.now();
        let kept = if pending.sponsor.is_some() || !rules.views.same_clients(&pending.views) {
            None
        } else {
            self.kept(&pending.key, rules.generation, now)
        };
        if let Some(entry) = kept {
            if rules.audit {
                drop(rules);
                self.audit_release(&pending, &entry, self.finish(&pending), &mut Outbox::Now);
                return;
            }
            if entry.is_in_force(now, rules.lease_min) {
                // Another task filled it between the lookup and this one's start.
                self.release(query, &entry, self.finish(&pending), &mut Outbox::Now);
                return;
            }
            if entry.is_stale() && stale::is_open(&entry, now) {
                self.metrics.stale.inc();
                self.release(query, &entry, self.finish(&pending), &mut Outbox::Now);
                return;
            }
            if let Some(draft) = draft_again(&entry, now) {
                self.metrics.cache_readmitted.inc();
                self.settle(&pending, draft, rules.generation).await;
                return;
            }
        }
        let view = pending.key.view();
        let data = rules.local_data(view, &query.name).map(<[LocalData]>::to_vec);
        let hurry = self.stale(&pending, &rules).is_some();
        let client = self.client_of(&pending);
        drop(rules);
        let asked = match &data {
            None => Some(self.ask(&pending.origin, query, view, client, hurry).await),
            Some(data) => match alias(data) {
                Some(target) => {
                    let query = Query { name: target.clone(), ..query.clone() };
                    Some(self.ask(&pending.origin, &query, view, client, hurry).await)
                }
                // A list's own addresses need nobody.
                None => None,
            },
        };
        self.answered(pending, asked, data).await;
    }

    /// The rest of the way of a question whose race a worker began: with this query, which needs a stream.
    pub(in crate::dns) async fn resume(self: Arc<Self>, pending: Pending, race: Race, ask: Ask) {
        let until = race.ends_at();
        let asked = match pending.origin.upstreams.run(race, &pending.query, Some(ask)).await {
            Ok(asked) => self.complete(&pending.origin, &pending.query, pending.key.view(), (read(asked), until)).await,
            Err(error) => Err(error),
        };
        self.answered(pending, Some(asked), None).await;
    }

    /// The rest of the way of a question that a worker's forwarder could not bring to its end: its alias leads on.
    pub(in crate::dns) async fn resume_with(self: Arc<Self>, pending: Pending, checked: Checked, until: Instant) {
        let asked = self.complete(&pending.origin, &pending.query, pending.key.view(), (checked, until)).await;
        self.answered(pending, Some(asked), None).await;
    }

    /// An upstream has answered the question (or that for the alias among a list's own `data`), or none has; or nobody was asked.
    async fn answered(
        self: &Arc<Self>,
        pending: Pending,
        asked: Option<Result<Checked, AskError>>,
        data: Option<Vec<LocalData>>,
    ) {
        let query = &pending.query;
        let failed = matches!(asked, Some(Err(_)));
        let whom = Audience::from(&pending.key);
        // Judged by the rules of now: they may have changed while the upstream thought.
        let rules = self.rules.load_full();
        let same = pending.is_of(&rules, data.as_deref());
        if !same {
            drop(rules);
            self.begin_anew(&pending);
            return;
        }
        let mut draft = match (asked, &data) {
            (Some(Err(error)), _) => Draft::unanswered(query, error),
            (Some(Ok(checked)), None) => draft_checked(query, checked, &rules, whom),
            (Some(Ok(checked)), Some(data)) => local(query, data, Some(checked), &rules, whom),
            (None, data) => local(query, data.as_deref().unwrap_or_default(), None, &rules, whom),
        };
        if !self.is_current(&pending.origin) {
            draft.keep = 0;
        }
        // RFC 8767 section 4: what isn't NOERROR or NXDOMAIN refreshes nothing. An upstream that reaches nobody itself says SERVFAIL.
        let failed = failed || matches!(draft.kind, Kind::Failed("upstream_code", _));
        if failed && let Some(entry) = self.stale(&pending, &rules) {
            let entry = Arc::new(entry);
            self.metrics.stale.inc();
            self.cache.put(entry.clone(), self.clock.now());
            if rules.audit {
                drop(rules);
                self.audit_release(&pending, &entry, self.finish(&pending), &mut Outbox::Now);
            } else {
                self.release(query, &entry, self.finish(&pending), &mut Outbox::Now);
            }
            return;
        }
        self.metrics.unrelated_records.inc_by(u64::try_from(draft.unrelated).unwrap_or(0));
        self.settle(&pending, draft, rules.generation).await;
    }

    /// What may be given if no upstream answers. Nobody waits for a prefetch, so that there is nothing for it.
    fn stale(&self, pending: &Pending, rules: &Rules) -> Option<Entry> {
        if pending.sponsor.is_some() || !rules.views.same_clients(&pending.views) {
            return None;
        }
        let now = self.clock.now();
        stale::revive(&pending.key, &*self.kept_stale(&pending.key, rules.generation, now)?, now, rules.audit)
    }

    /// Asks the local zones, or the upstreams on behalf of a client, and validates what they say; in a `hurry` when there is something stale to give instead.
    pub(in crate::dns) async fn ask(
        &self,
        origin: &Origin,
        query: &Query,
        view: ViewId,
        client: IpAddr,
        hurry: bool,
    ) -> Result<Checked, AskError> {
        let zones = self.rules.load().zones.clone();
        let asked = async {
            match zones.answers(&query.name) {
                true => {
                    let most = TOTAL.saturating_add(validate::AGAIN);
                    let asked = self.ask_zones(&zones, origin, query, (view, client));
                    tokio::time::timeout(most, asked).await.unwrap_or(Err(AskError::TimeOut))
                }
                false => self.ask_upstreams(origin, query, view, client).await,
            }
        };
        if hurry {
            return tokio::time::timeout(stale::PATIENCE, asked).await.unwrap_or(Err(AskError::TimeOut));
        }
        asked.await
    }

    async fn ask_upstreams(
        &self,
        origin: &Origin,
        query: &Query,
        view: ViewId,
        client: IpAddr,
    ) -> Result<Checked, AskError> {
        let until = Instant::now() + TOTAL;
        match &origin.validator {
            // Its own time is for the keys, and for others when the answer is bogus.
            Some(validator) if !query.checking_disabled => {
                let following = Following {
                    client: self.claim_for(client, &query.name).client,
                    ..self.following(origin, view, until + validate::AGAIN)
                };
                validator.ask(&following, query).await
            }
            _ => self.complete(origin, query, view, (read(origin.upstreams.ask(query).await?), until)).await,
        }
    }

    /// What local zones say, and whoever an alias leads to.
    async fn ask_zones(
        &self,
        zones: &Zones,
        origin: &Origin,
        query: &Query,
        (view, client): (ViewId, IpAddr),
    ) -> Result<Checked, AskError> {
        let mut response = match zones.answer(&query.name, query.qtype).await {
            Checked::Response(response) => response,
            other => return Ok(other),
        };
        let mut asked = vec![query.name.clone()];
        loop {
            let next = left_off(query, &response, &self.rules.load(), view);
            let Some(next) = next.filter(|next| !asked.contains(next)) else { return Ok(Checked::Response(response)) };
            if asked.len() > MOST {
                let ede = Ede::new(code::INVALID_DATA, "a long chain of aliases leads through local zones");
                return Ok(Checked::Refused("unbound", ede));
            }
            let query = Query { name: next.clone(), ..query.clone() };
            let more = match zones.answers(&next) {
                true => zones.answer(&next, query.qtype).await,
                false => self.ask_upstreams(origin, &query, view, client).await?,
            };
            match more {
                Checked::Response(more) => join(&mut response, more),
                other => return Ok(other),
            }
            asked.push(next);
        }
    }

    /// Asks for what a response leaves off at, until then.
    async fn complete(
        &self,
        origin: &Origin,
        query: &Query,
        view: ViewId,
        (checked, until): (Checked, Instant),
    ) -> Result<Checked, AskError> {
        match checked {
            Checked::Response(response) => {
                self.following(origin, view, until).complete(query, response, Pick::Anyone).await
            }
            other => Ok(other),
        }
    }

    fn following<'a>(&'a self, origin: &'a Origin, view: ViewId, until: Instant) -> Following<'a> {
        let client = Holder::NOBODY;
        Following { upstreams: &origin.upstreams, rules: &self.rules, view, metrics: &self.metrics, until, client }
    }
}

/// What the upstreams said, read.
fn read(asked: Asked) -> Checked {
    asked.response.map_or_else(|| Checked::read(&asked.message), Checked::Response)
}

/// A draft from a kept entry, its TTLs lowered to what is left of them. `None`: the entry opens nothing, so that it can't be admitted.
fn draft_again(entry: &Entry, now: Moment) -> Option<Draft> {
    let age = entry.age(now);
    let again = settle::aged(&entry.again()?, age);
    let mut body = entry.message.body();
    reply::age_ttls(&mut body, age);
    let keep = u32::try_from(now.until(entry.expires()).as_secs()).unwrap_or(u32::MAX);
    Some(Draft {
        body,
        keep,
        again: Some(again),
        ede: entry.ede().cloned(),
        kind: Kind::Answer,
        unrelated: 0,
        would: None,
    })
}
