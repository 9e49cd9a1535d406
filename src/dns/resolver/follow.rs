//! Aliases that an upstream didn't follow. One that is asked with RD should (RFC 1034 section 4.3.2 step 3a), but some forwarders and all servers of
//! a zone may answer with the alias alone. The guard asks for where it leads as for any question, and joins the answers: they are bound and judged as
//! if they had come at once.
//!
//! The same where an alias leads into a domain that other upstreams are for: what is there only they may say, whatever those who named it add. A public
//! resolver doesn't know the inside of a divided domain, and one domain's servers have no say in others'.
//!
//! Likewise into a local zone: what is there it says itself.
//!
//! A name that the policy denies, or that is answered here, is not asked for. One question makes [`MOST`] more at most, within the time that it had
//! from its beginning.

use std::time::Instant;

use arc_swap::ArcSwap;

use crate::core::answer::{self, Question, Record, RecordData};
use crate::core::name::Name;
use crate::core::policy::view::ViewId;
use crate::core::share::Holder;
use crate::dns::Rules;
use crate::dns::checked::Checked;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::response::{self, Response};
use crate::dns::codec::wire::{rcode, rtype, u16_at};
use crate::dns::metrics::Metrics;
use crate::dns::resolver::ddr::is_resolver_arpa;
use crate::dns::upstream::query::Query;
use crate::dns::upstream::{AskError, Upstreams};
use crate::dns::validate::{Pick, Source};
use crate::dns::zones::Zones;

/// Questions that one question may make beside itself. An upstream that needs more is in no order, or means harm.
pub const MOST: usize = 8;

/// The upstreams, with what it takes to follow what they left off.
pub struct Following<'a> {
    /// Who is asked.
    pub upstreams: &'a Upstreams,
    /// By which names are judged before they are asked for.
    pub rules: &'a ArcSwap<Rules>,
    /// In this view.
    pub view: ViewId,
    /// Counts what is followed.
    pub metrics: &'a Metrics,
    /// When it must be done.
    pub until: Instant,
    /// On whose behalf.
    pub client: Holder,
}

impl Source for Following<'_> {
    async fn ask(&self, query: &Query, whom: Pick) -> Result<Vec<u8>, AskError> {
        Source::ask(self.upstreams, query, whom).await
    }

    fn choices(&self) -> usize {
        self.upstreams.choices()
    }

    fn client(&self) -> Holder {
        self.client
    }

    async fn complete(&self, query: &Query, mut response: Response, whom: Pick) -> Result<Checked, AskError> {
        cut_at_border(query, &mut response, self.upstreams, &self.rules.load().zones);
        if left_off(query, &response, &self.rules.load(), self.view).is_none() {
            return Ok(Checked::Response(response));
        }
        let followed = tokio::time::timeout_at(self.until.into(), self.follow(query, response, whom)).await;
        followed.unwrap_or(Err(AskError::TimeOut))
    }
}

impl Following<'_> {
    async fn follow(&self, query: &Query, mut response: Response, whom: Pick) -> Result<Checked, AskError> {
        let mut asked: Vec<Name> = Vec::new();
        loop {
            let next = left_off(query, &response, &self.rules.load(), self.view);
            // One that was asked for and of which nothing was said has no such data.
            let Some(next) = next.filter(|next| !asked.contains(next)) else { return Ok(Checked::Response(response)) };
            if asked.len() >= MOST {
                let ede = Ede::new(code::INVALID_DATA, "the upstream follows no alias of a long chain");
                return Ok(Checked::Refused("unbound", ede));
            }
            self.metrics.aliases_followed.inc();
            let query = Query { name: next.clone(), ..query.clone() };
            asked.push(next);
            let zones = self.rules.load().zones.clone();
            if zones.answers(&query.name) {
                match zones.answer(&query.name, query.qtype).await {
                    Checked::Response(more) => join(&mut response, more),
                    other => return Ok(other),
                }
                continue;
            }
            let more = self.ask(&query, whom).await?;
            let Ok(mut more) = response::read(&more) else { return Ok(Checked::Malformed) };
            cut_at_border(&query, &mut more, self.upstreams, &zones);
            join(&mut response, more);
        }
    }
}

fn is_alias(record: &Record) -> bool {
    matches!(record.data, RecordData::Cname(_) | RecordData::Dname(_))
}

/// Of a response whose aliases lead to where other upstreams are asked, or into a local zone: the names before that.
fn before_border(query: &Query, response: &Response, upstreams: &Upstreams, zones: &Zones) -> Option<Vec<Name>> {
    // Nearly every response ends here.
    let divided = upstreams.are_divided() || !zones.set.is_empty();
    if !divided || !response.answers.iter().any(is_alias) {
        return None;
    }
    if response.truncated || matches!(query.qtype, rtype::CNAME | rtype::DS) {
        return None;
    }
    let question = Question { name: query.name.clone(), qtype: query.qtype, qclass: answer::CLASS_IN };
    let bound = match response.rcode {
        rcode::NOERROR => answer::bind(&question, &response.answers),
        _ => answer::bind_aliases(&question, &response.answers),
    };
    let chain = bound.ok().filter(|bound| !bound.overlong)?.chain;
    let is_beyond = |name: &Name| !upstreams.are_same_for(&query.name, name) || zones.answers(name);
    let border = chain.iter().position(is_beyond)?;
    Some(std::iter::once(query.name.clone()).chain(chain.into_iter().take(border)).collect())
}

/// Whether a response must be completed: its aliases lead to where it says nothing, or where others have the say.
#[must_use]
pub fn is_incomplete(query: &Query, response: &Response, upstreams: &Upstreams, rules: &Rules, view: ViewId) -> bool {
    before_border(query, response, upstreams, &rules.zones).is_some()
        || left_off(query, response, rules, view).is_some()
}

/// Takes out of a response what it says beyond the border of a domain with upstreams of its own: it leaves off there.
fn cut_at_border(query: &Query, response: &mut Response, upstreams: &Upstreams, zones: &Zones) {
    let Some(names) = before_border(query, response, upstreams, zones) else { return };
    let keeps = |record: &Record| {
        let above = matches!(record.rtype, rtype::DNAME | rtype::RRSIG)
            && names.iter().any(|name| name.is_within(&record.owner));
        above || names.contains(&record.owner)
    };
    let kept: Vec<bool> = response.answers.iter().map(keeps).collect();
    let mut each = kept.iter();
    response.answers.retain(|_| each.next() == Some(&true));
    let mut each = kept.iter();
    response.rdata.retain(|_| each.next() == Some(&true));
    forget_end(response);
    // The code is that of the end (RFC 6604).
    response.rcode = rcode::NOERROR;
}

/// The name at which the aliases of a response end, if nothing is said of it there and it may be asked for.
#[must_use]
pub fn left_off(query: &Query, response: &Response, rules: &Rules, view: ViewId) -> Option<Name> {
    // Nearly every response ends here.
    if response.rcode != rcode::NOERROR || response.truncated || query.qtype == rtype::CNAME {
        return None;
    }
    let records = || response.answers.iter();
    if !records().any(is_alias) {
        return None;
    }
    // Data beside an alias is not at its end; nor is data of an owner that no alias leads to.
    let beside = |owner: &Name| records().any(|record| is_alias(record) && record.owner == *owner);
    let led_to = |owner: &Name| records().any(|record| matches!(&record.data, RecordData::Cname(to) if to == owner));
    if records().any(|record| record.rtype == query.qtype && led_to(&record.owner) && !beside(&record.owner)) {
        return None;
    }
    let question = Question { name: query.name.clone(), qtype: query.qtype, qclass: answer::CLASS_IN };
    let bound = answer::bind(&question, &response.answers).ok().filter(|bound| !bound.overlong)?;
    let end = bound.chain.last()?;
    if records().any(|record| record.rtype == query.qtype && record.owner == *end) {
        return None;
    }
    // RFC 2308 section 2.2: with the SOA of its zone it is said to have no such data.
    let says_so = |owner: &Name, kind: u16| kind == rtype::SOA && end.is_within(owner);
    if response.authority.iter().any(|record| says_so(&record.owner, record.rtype)) {
        return None;
    }
    let policy = rules.views.policy(view);
    let denied = bound.chain.iter().any(|name| policy.judge_alias(name).denies());
    let own = is_resolver_arpa(end.wire()) || rules.answer_local(end, query.qtype).is_some();
    ((rules.audit || !denied) && !own).then(|| end.clone())
}

/// What a zone on the way denies of itself proves wildcards; its SOA says nothing of the end.
fn forget_end(response: &mut Response) {
    response.authority.retain(|record| {
        let kind = if record.rtype == rtype::RRSIG { u16_at(&record.rdata, 0) } else { Some(record.rtype) };
        kind != Some(rtype::SOA)
    });
}

/// Makes one answer of two: its end, and what proves it, is that of the second.
pub(super) fn join(first: &mut Response, second: Response) {
    forget_end(first);
    first.authority.extend(second.authority);
    first.answers.extend(second.answers);
    first.rdata.extend(second.rdata);
    (first.rcode, first.truncated) = (second.rcode, second.truncated);
}
