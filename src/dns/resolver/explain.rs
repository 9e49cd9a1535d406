//! What a question would get now, for `explain`: the same way as a client's question, up to the gate. Nothing is opened and nothing kept.

use std::net::{IpAddr, Ipv4Addr};

use crate::core::address::Reason;
use crate::core::answer::Question;
use crate::core::client::Claim;
use crate::core::name::Name;
use crate::core::narrow;
use crate::core::policy::list::LocalData;
use crate::core::policy::view::Whose;
use crate::core::policy::{Effect, RuleRef};
use crate::core::verdict::{self, Family, Judged};
use crate::dns::cache::{Key, Outcome};
use crate::dns::checked::Checked;
use crate::dns::codec::wire::rcode;
use crate::dns::resolver::Resolver;
use crate::dns::resolver::ddr::is_resolver_arpa;
use crate::dns::resolver::draft::{Audience, Draft, Kind, alias, draft_checked, local};
use crate::dns::upstream::query::Query;
use crate::dns::would::Would;
use crate::dns::{Rules, View};

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// An answer goes out once its addresses are in force.
    Answered,
    /// A rule denies it.
    Denied,
    /// Likewise, and no reply goes out.
    Silent,
    /// All of its addresses are filtered.
    Filtered,
    /// No usable response.
    Failed,
    /// No upstream is asked.
    AnsweredHere,
}

/// What one question would get.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The question's type as a number.
    pub qtype: u16,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, as far as it isn't answered whole.
    pub words: String,
    /// The rule that denies it, and the name that it matches.
    pub rule: Option<(Name, Option<RuleRef>)>,
    /// Aliases behind the question.
    pub chain: Vec<Name>,
    /// Addresses that would be opened.
    pub opened: Vec<IpAddr>,
    /// Addresses that need no lease.
    pub already_open: Vec<IpAddr>,
    /// Addresses that are taken out.
    pub removed: Vec<(IpAddr, Reason)>,
    /// The answer's code.
    pub rcode: u16,
}

impl Tried {
    fn new(qtype: u16, fate: Fate, words: String) -> Self {
        Self {
            qtype,
            fate,
            words,
            rule: None,
            chain: Vec::new(),
            opened: Vec::new(),
            already_open: Vec::new(),
            removed: Vec::new(),
            rcode: rcode::NOERROR,
        }
    }

    fn denied(qtype: u16, name: &Name, effect: Effect, rule: Option<RuleRef>) -> Self {
        let fate = if effect == Effect::Drop { Fate::Silent } else { Fate::Denied };
        let words = rule.as_ref().map_or_else(|| "policy.default".to_owned(), RuleRef::to_string);
        Self { rule: Some((name.clone(), rule)), ..Self::new(qtype, fate, words) }
    }

    fn of(qtype: u16, draft: &Draft) -> Self {
        let (fate, words) = match &draft.kind {
            Kind::Answer => (Fate::Answered, draft.ede.as_ref().map_or_else(String::new, |ede| ede.text.to_string())),
            Kind::Denied("filter", words) => (Fate::Filtered, words.clone()),
            Kind::Denied(_, words) => (Fate::Denied, words.clone()),
            Kind::Dropped(words) => (Fate::Silent, words.clone()),
            Kind::Failed(_, words) => (Fate::Failed, words.clone()),
            Kind::Truncated => (Fate::Failed, "the whole answer can't be had".to_owned()),
        };
        // In audit the answer leaves whole; what is told is what enforcement would make of it.
        let (fate, words) = match &draft.would {
            None => (fate, words),
            Some(would) => (would_be(would), would.words.clone()),
        };
        let mut tried = Self::new(qtype, fate, words);
        if let Some(again) = &draft.again {
            tried.chain = again.chain.to_vec();
            tried.opened = again.grants.iter().map(|grant| grant.address).collect();
        }
        tried.rcode = draft.body.octets.get(3).map_or(rcode::NOERROR, |octet| u16::from(octet & 15));
        tried
    }
}

/// What enforcement would have made of it.
fn would_be(would: &Would) -> Fate {
    match would.reason {
        "filter" => Fate::Filtered,
        "filtered" => Fate::Answered,
        "unbound" => Fate::Failed,
        _ => Fate::Denied,
    }
}

impl View {
    /// What a question of everybody, or of somebody whom `whose` names, would get now.
    pub async fn try_question(&self, name: &Name, qtype: u16, whose: Whose<'_>) -> Tried {
        self.0.try_question(name, qtype, whose).await
    }
}

impl Resolver {
    async fn try_question(&self, name: &Name, qtype: u16, whose: Whose<'_>) -> Tried {
        let rules = self.rules.load_full();
        let client = whose.client.map(|client| client.to_canonical());
        let view = rules.views.of_whose(whose).unwrap_or(0);
        let policy = rules.views.policy(view);
        if is_resolver_arpa(name.wire()) {
            return Tried::new(qtype, Fate::AnsweredHere, "RFC 9462".to_owned());
        }
        let of_client = client.and_then(|client| policy.judge_client(client)).filter(|verdict| verdict.denies());
        if let Some(verdict) = of_client {
            let rule = verdict.rule.map(|rule| policy.describe(rule));
            return Tried::denied(qtype, name, policy.effect(verdict), rule);
        }
        if let Some((_, why)) = self.answered_here(&rules, policy, name, qtype, None) {
            return Tried::new(qtype, Fate::AnsweredHere, why.to_owned());
        }
        let verdict = policy.judge(name);
        let effect = policy.effect(verdict);
        if verdict.denies() && effect != Effect::Data {
            let rule = verdict.rule.map(|rule| policy.describe(rule));
            return Tried::denied(qtype, name, effect, rule);
        }
        let setup = self.setup.load_full();
        let per_client = setup.per_client;
        let key = Key::new(name.wire(), qtype, false).in_view(view);
        let key = match client {
            Some(client) => setup.key_of(key, client),
            None => key,
        };
        if let Some(tried) = self.as_kept(&key, qtype, &rules) {
            return tried;
        }
        let query = Query {
            name: name.clone(),
            qtype,
            dnssec_ok: false,
            checking_disabled: false,
            plain: false,
            whose: Claim::NOBODY,
        };
        let only = client.filter(|_| per_client).map(narrow::owner).filter(|owner| *owner != narrow::HOST);
        let whom = Audience { view, only: only.map(Family::of) };
        let data = policy.local_data(name).filter(|_| !rules.audit).map(<[LocalData]>::to_vec);
        let asking = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let origin = self.origin.load_full();
        let asked = match data.as_deref().map(alias) {
            None => Some(self.ask(&origin, &query, view, asking, false).await),
            Some(Some(target)) => {
                let query = Query { name: target.clone(), ..query.clone() };
                Some(self.ask(&origin, &query, view, asking, false).await)
            }
            Some(None) => None,
        };
        let checked = match asked {
            Some(Err(error)) => return Tried::of(qtype, &Draft::unanswered(&query, error)),
            Some(Ok(checked)) => Some(checked),
            None => None,
        };
        let Some(data) = data else {
            let Some(checked) = checked else { return Tried::new(qtype, Fate::Failed, String::new()) };
            return judged(&query, checked, &rules, whom);
        };
        Tried::of(qtype, &local(&query, &data, checked, &rules, whom))
    }

    /// As the next question is answered, where its answer is kept.
    fn as_kept(&self, key: &Key, qtype: u16, rules: &Rules) -> Option<Tried> {
        let now = self.clock.now();
        let entry = self.kept(key, rules.generation, now).filter(|entry| entry.would().is_none())?;
        let words = entry.ede().map_or_else(String::new, |ede| ede.text.to_string());
        let fate = match entry.outcome() {
            Outcome::Released => Fate::Answered,
            Outcome::Denied("filter") => Fate::Filtered,
            Outcome::Denied(_) => Fate::Denied,
            Outcome::Failed(_) => Fate::Failed,
        };
        let mut tried = Tried::new(qtype, fate, words);
        if let Some(again) = entry.again() {
            tried.chain = again.chain.to_vec();
            tried.opened = again.grants.iter().map(|grant| grant.address).collect();
        }
        tried.rcode = entry.message.octets().get(3).map_or(rcode::NOERROR, |octet| u16::from(octet & 15));
        // What was refused is told with its rule, and that is not kept.
        (fate == Fate::Answered).then_some(tried)
    }
}

/// A response, judged as it is for a client, with what that leaves unsaid.
fn judged(query: &Query, checked: Checked, rules: &Rules, whom: Audience) -> Tried {
    let detail = match &checked {
        Checked::Response(response) => {
            let question = Question { name: query.name.clone(), qtype: query.qtype, qclass: 1 };
            let response = verdict::Response {
                question: &question,
                records: &response.answers,
                noerror: response.rcode == rcode::NOERROR,
                dnssec_ok: query.dnssec_ok,
            };
            Some(verdict::judge_for(rules.views.policy(whom.view), &rules.filter, response, whom.only))
        }
        _ => None,
    };
    let mut tried = Tried::of(query.qtype, &draft_checked(query, checked, rules, whom));
    match detail {
        Some(Judged::Denied { name, rule, .. }) => tried.rule = Some((name, rule)),
        Some(Judged::Filtered { removed, chain, .. }) => {
            tried.removed = removed.into_iter().map(|removed| (removed.address, removed.reason)).collect();
            tried.chain = chain;
        }
        Some(Judged::Answer(answer)) => {
            tried.removed = answer.removed.into_iter().map(|removed| (removed.address, removed.reason)).collect();
            tried.already_open = answer.already_open;
            tried.chain = answer.chain;
        }
        Some(Judged::Unbound(_)) | None => {}
    }
    tried
}
