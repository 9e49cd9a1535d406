//! Where questions go: the servers, which of them is asked, when another is asked as well, and which are left alone for a while.
//!
//! ```text
//!   worker (its own sockets) --+             +-- lines (a worker's, or the post's) -- UDP
//!                              +--> race ----+
//!   task (Upstreams::ask) -----+      |      +-- tcp, https, quic ------------------- streams
//!                                     v
//!                     judgement: what a reply is worth     health: how a server fares, by evidence
//! ```
//!
//! - [`race`]: one question on its way, pure. A worker and a task drive it alike. [`judgement`]: what a reply is worth, pure.
//! - [`health`]: round trips, silence, and when a server is down, pure. [`server`]: its link and its account.
//! - [`transport`]: how a query gets there: UDP sockets in batches, and `tcp`, `https`, `quic` over `dial`.
//! - The fastest healthy server is asked first (smoothed round-trip time); now and then another one, so that its time stays known.
//! - One that is down is passed over and probed. When all are down all are asked.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tokio::sync::Notify;

use super::metrics::Metrics;
use crate::config::schema;
use crate::config::upstream::{UpstreamUrl, UpstreamUrlError};
use crate::core::name::Name;
use crate::core::policy::name_from_user;
use crate::dns::codec::response::Response;
use crate::dns::codec::wire::rtype;
use judgement::{Judgement, Manner, Sent, judge};
use query::{Fit, Query, lower_question};
use race::{Ask, Choice, End, Order, Race, Trouble};
use server::{Link, LinkError, Made, Server};
use transport::dial::Target;
use transport::udp_task::{Failure, Post};

pub mod health;
pub mod judgement;
pub mod metrics;
pub mod query;
pub mod race;
pub mod server;
pub mod transport;

pub use race::TOTAL;
pub(in crate::dns) use transport::https::DNS_MESSAGE;

/// One question in so many goes to another healthy server first.
const EXPLORE: u32 = 32;

/// An upstream that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The URL is wrong.
    #[error("dns.upstream: {0}")]
    Url(#[from] UpstreamUrlError),
    /// It can't be reached as its URL says.
    #[error("dns.upstream: \"{url}\": {source}")]
    Link {
        /// Its URL, as configured.
        url: String,
        /// What stands in the way.
        source: LinkError,
    },
    /// A name in `domains` is wrong.
    #[error("dns.upstream: \"{0}\" is not a domain name")]
    Domain(String),
}

/// Why a question has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError {
    /// No configured upstream serves this name.
    NoServer,
    /// None answered in time.
    TimeOut,
    /// The network or the host refused.
    Network,
    /// Those who answered only refer to other servers.
    Referral,
}

/// The best response that could be had, checked against the question.
#[derive(Debug)]
pub struct Asked {
    /// The message of the upstream, as it came.
    pub message: Vec<u8>,
    /// What it says, when it is useful: else nobody had anything better.
    pub response: Option<Response>,
}

/// How an upstream fares, for the control API.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamStatus {
    /// The upstream's URL, as configured.
    pub url: String,
    /// Whether it is asked in the usual course, and has been for a while.
    pub healthy: bool,
    /// Whether it ever replied.
    pub replied: bool,
    /// Smoothed round-trip time; `None` before the first reply.
    pub rtt: Option<Duration>,
    /// Queries sent since the guard started.
    pub queries: u64,
    /// Queries without usable response.
    pub failures: u64,
    /// Time since the last reply.
    pub last_reply: Option<Duration>,
    /// The last failure in words.
    pub last_error: Option<String>,
}

/// A message with its length before it, as streams carry it.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(message.len().saturating_add(2));
    // A query is never so long that its length wouldn't fit.
    framed.extend_from_slice(&u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// All upstreams of one configuration. Another one's ([`Upstreams::renewed`]) share those servers with it that are configured alike.
pub struct Upstreams {
    /// In the order of the configuration.
    servers: Vec<Arc<Server>>,
    /// By place: no two that there ever were have the same, so that what was asked of one that is gone is never taken for another's.
    by_place: HashMap<usize, Arc<Server>>,
    /// Places of servers by the domain they are for, wire form; those for everything under the root.
    by_domain: HashMap<Box<[u8]>, Vec<usize>>,
    /// The next server's place.
    next: usize,
    post: Arc<Post>,
    /// Woken when a server is in trouble.
    troubled: Arc<Notify>,
}

impl Upstreams {
    /// From the configuration; opens nothing. `mark` is set on every socket.
    ///
    /// # Errors
    /// [`UpstreamError`]; `check` refuses all of these before.
    pub fn new(configured: &[schema::Upstream], mark: Option<u32>, metrics: &Metrics) -> Result<Self, UpstreamError> {
        let none = Self {
            servers: Vec::new(),
            by_place: HashMap::new(),
            by_domain: HashMap::new(),
            next: 0,
            post: Arc::new(Post::new(metrics.clone())),
            troubled: Arc::new(Notify::new()),
        };
        none.renewed(configured, mark, metrics)
    }

    /// Those of another configuration. What is configured as before, but for the names that it is for, keeps its connections and what is known of it.
    ///
    /// # Errors
    /// [`UpstreamError`]; nothing is changed then.
    pub fn renewed(
        &self,
        configured: &[schema::Upstream],
        mark: Option<u32>,
        metrics: &Metrics,
    ) -> Result<Self, UpstreamError> {
        let mut upstreams = Self {
            servers: Vec::new(),
            by_place: HashMap::new(),
            by_domain: HashMap::new(),
            next: self.next,
            post: self.post.clone(),
            troubled: self.troubled.clone(),
        };
        for upstream in configured {
            let mut domains = Vec::new();
            for domain in &upstream.domains {
                domains.push(name_from_user(domain).map_err(|_| UpstreamError::Domain(domain.clone()))?);
            }
            if domains.is_empty() {
                domains.push(Name::root());
            }
            let probe = domains.first().cloned().unwrap_or_else(Name::root);
            let server = self.server_for(upstream, mark, &mut upstreams, probe, metrics)?;
            let place = server.place;
            upstreams.by_place.insert(place, server.clone());
            upstreams.servers.push(server);
            for domain in domains {
                let group = upstreams.by_domain.entry(domain.wire().into()).or_default();
                // Named twice, it is still one server: it must not be its own second choice.
                if group.last() != Some(&place) {
                    group.push(place);
                }
            }
        }
        Ok(upstreams)
    }

    /// One that is there, where it is configured alike and not among `new` already; else a new one.
    fn server_for(
        &self,
        upstream: &schema::Upstream,
        mark: Option<u32>,
        new: &mut Self,
        probe: Name,
        metrics: &Metrics,
    ) -> Result<Arc<Server>, UpstreamError> {
        let url: UpstreamUrl = upstream.url.parse()?;
        let made = Made::of(upstream, mark);
        let free = |server: &&Arc<Server>| *server.made == made && !new.by_place.contains_key(&server.place);
        let same = self.servers.iter().filter(free).min_by_key(|server| server.probe != probe);
        if let Some(same) = same {
            return Ok(if same.probe == probe { same.clone() } else { Arc::new(same.probed_for(probe)) });
        }
        let target = Target { peer: url.addr, mark };
        let link = Link::new(upstream, &url, (target, &new.post), metrics)
            .map_err(|source| UpstreamError::Link { url: upstream.url.clone(), source })?;
        let place = new.next;
        new.next = new.next.saturating_add(1);
        Ok(Arc::new(Server::new((place, made), (target, link), probe, metrics, new.troubled.clone())))
    }

    /// Whether these are the same servers for the same names.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let places = |all: &Self| all.servers.iter().map(|server| server.place).collect::<Vec<_>>();
        places(self) == places(other) && self.by_domain == other.by_domain
    }

    /// Their own counters aren't shown any more, but for those that `left` has too.
    pub(in crate::dns) fn forget_metrics(&self, left: &Self, metrics: &Metrics) {
        let gone = |server: &&Arc<Server>| left.servers.iter().all(|other| other.url != server.url);
        for server in self.servers.iter().filter(gone) {
            metrics.forget_upstream(&server.url);
        }
    }

    /// Has somebody look after them who looks after others now.
    pub(in crate::dns) fn wake(&self) {
        self.troubled.notify_one();
    }

    /// Looks into troubles as long as it is polled: asks servers of the moment that are silent, or refuse, or are down, whether they live.
    pub(in crate::dns) fn watch(now: impl Fn() -> Arc<Self> + Send + 'static) -> impl Future<Output = ()> + Send {
        let current = now;
        async move {
            loop {
                let now = Instant::now();
                let mut next: Option<Instant> = None;
                let upstreams = current();
                for server in &upstreams.servers {
                    let (due, at) = {
                        let mut health = server.health();
                        (health.take_probe(now), health.probe_at())
                    };
                    if due {
                        let server = server.clone();
                        tokio::spawn(async move { server.probe().await });
                    }
                    next = at.into_iter().chain(next).min();
                }
                let due = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = due => {}
                    () = upstreams.troubled.notified() => {}
                }
            }
        }
    }

    /// Asks servers that have said nothing for so long whether they live. Within a runtime.
    pub(in crate::dns) fn ask_quiet(&self, quiet: Duration) {
        let now = Instant::now();
        for server in self.servers.iter().filter(|server| server.health().take_look(quiet, now)) {
            let server = server.clone();
            tokio::spawn(async move { server.probe().await });
        }
    }

    /// The server at this place.
    pub(in crate::dns) fn server(&self, place: usize) -> Option<&Arc<Server>> {
        self.by_place.get(&place)
    }

    /// The group that `query` is for; `None` unless all of it is asked over UDP first.
    pub(in crate::dns) fn plain_group(&self, query: &Query) -> Option<&[usize]> {
        let group = self.group_for(query);
        let plain = |place: &usize| self.server(*place).is_some_and(|server| matches!(*server.link, Link::Udp(..)));
        (!group.is_empty() && group.iter().all(plain)).then_some(group)
    }

    /// The servers for `name`: those of the longest domain it lies in.
    fn group(&self, name: &Name) -> &[usize] {
        name.suffixes().find_map(|suffix| self.by_domain.get(suffix)).map_or(&[], Vec::as_slice)
    }

    /// Whether some names have other servers than others.
    pub(in crate::dns) fn are_divided(&self) -> bool {
        self.by_domain.len() > 1
    }

    /// Whether the same servers are asked for both names.
    pub(in crate::dns) fn are_same_for(&self, one: &Name, other: &Name) -> bool {
        self.group(one) == self.group(other)
    }

    /// The servers for a question: those for its name; a DS record stands in the zone above its name, which other servers may serve.
    fn group_for(&self, query: &Query) -> &[usize] {
        let above = if query.qtype == rtype::DS { query.name.parent() } else { None };
        self.group(above.as_ref().unwrap_or(&query.name))
    }

    /// The order of the moment, without exploration; see [`explored`].
    pub(in crate::dns) fn order(&self, group: &[usize], now: Instant) -> Order {
        let servers = group.iter().filter_map(|place| self.server(*place));
        let mut ranked: Vec<(bool, Duration, Choice)> = servers.map(|server| server.choice(now)).collect();
        ranked.sort_by_key(|(down, rank, choice)| (*down, choice.silent, *rank));
        let up = ranked.iter().filter(|(down, ..)| !down).count();
        let choices: Vec<Choice> = ranked.into_iter().map(|(_, _, choice)| choice).collect();
        Order { usable: if up == 0 { choices.len() } else { up }, all_down: up == 0, choices }
    }

    /// Asks until a server answers usefully, all attempts are used up, or the time is over.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, query: &Query) -> Result<Asked, AskError> {
        let now = Instant::now();
        let order = explored(&Arc::new(self.order(self.group_for(query), now)));
        self.run(Race::new(order, query.dnssec_ok, now), query, None).await
    }

    /// Asks one server alone, when the others' word is not to be had: of those for the question that are up the one at this place, in the configured
    /// order, round and round.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_one(&self, query: &Query, place: usize) -> Result<Asked, AskError> {
        let now = Instant::now();
        let servers = self.group_for(query).iter().filter_map(|place| self.server(*place));
        let all: Vec<(bool, Duration, Choice)> = servers.map(|server| server.choice(now)).collect();
        let mut usable: Vec<Choice> = all.iter().filter(|(down, ..)| !down).map(|(_, _, choice)| *choice).collect();
        if usable.is_empty() {
            usable = all.iter().map(|(_, _, choice)| *choice).collect();
        }
        let place = place.checked_rem(usable.len()).unwrap_or(0);
        let choices: Vec<Choice> = usable.get(place).copied().into_iter().collect();
        let order = Order { usable: choices.len(), all_down: true, choices };
        self.run(Race::new(Arc::new(order), query.dnssec_ok, now), query, None).await
    }

    /// The most servers that are for one name.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.by_domain.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Drives a race to its end. `first`: what it wanted asked last, and nobody did.
    ///
    /// # Errors
    /// [`AskError`].
    pub(in crate::dns) async fn run(&self, race: Race, query: &Query, first: Option<Ask>) -> Result<Asked, AskError> {
        let mut course = Course { upstreams: self, race };
        let mut asks: Vec<Asking<'_>> = Vec::new();
        let mut next = first;
        loop {
            let now = Instant::now();
            while let Some(ask) = next.take().or_else(|| course.race.poll_ask(now)) {
                let Some(server) = self.server(ask.server) else { continue };
                server.note_query();
                asks.push(Asking { ask, sent: now, reply: Box::pin(server.exchange(ask, query)) });
            }
            let Some(due) = course.race.poll_timeout() else {
                return course.race.last_word().map(|mut message| {
                    lower_question(&mut message);
                    Asked { message, response: None }
                });
            };
            let (ask, sent, result) = tokio::select! {
                replied = next_of(&mut asks) => replied,
                () = tokio::time::sleep_until(due.into()) => {
                    let now = Instant::now();
                    course.race.handle_timeout(now, |server, sent| self.note_late(server, sent, &query.name, now));
                    continue;
                }
            };
            let now = Instant::now();
            match result {
                Ok((mut message, fit)) => {
                    lower_question(&mut message);
                    let manner = if query.plain { ask.manner.and(Manner::PLAIN) } else { ask.manner };
                    let judgement = judge(&message, fit, Sent { name: &query.name, qtype: query.qtype, manner });
                    if let Some(server) = self.server(ask.server) {
                        server.note_reply(now.saturating_duration_since(sent), now);
                    }
                    course.race.on_reply(ask.place, &judgement, &message);
                    if let (Judgement::Useful(response), Some(End::Won(_))) = (judgement, course.race.end()) {
                        self.learn(&course.race, now);
                        return Ok(Asked { message, response: Some(response) });
                    }
                }
                Err(Failure { trouble, error }) => {
                    self.note_trouble(ask, trouble, &error.to_string(), &query.name, now);
                    course.race.on_error(ask.place, trouble, now);
                }
            }
        }
    }

    /// Notes that a reply is late, as [`Server::note_late`] says.
    pub(in crate::dns) fn note_late(&self, place: usize, sent: Instant, name: &Name, now: Instant) {
        if let Some(server) = self.server(place) {
            server.note_late(sent, name, now);
        }
    }

    /// Notes that a query failed, as [`Server::note_trouble`] says.
    pub(in crate::dns) fn note_trouble(&self, ask: Ask, trouble: Trouble, error: &str, name: &Name, now: Instant) {
        if let Some(server) = self.server(ask.server) {
            tracing::debug!(upstream = %server.url, error, ?trouble, "a query has no reply");
            server.note_trouble(trouble, ask.manner, error, name, now);
        }
    }

    /// Takes what a race's winner taught.
    pub(in crate::dns) fn learn(&self, race: &Race, now: Instant) {
        if let Some((server, manner)) = race.lesson().and_then(|(place, how)| Some((self.server(place)?, how))) {
            tracing::debug!(upstream = %server.url, ?manner, "the upstream wants to be asked in another manner");
            server.health().learn(manner, now);
        }
    }

    /// Closes the account of a race that is over: what it still awaited is given up.
    pub(in crate::dns) fn settle(&self, race: &Race, now: Instant) {
        let winner = race.winner();
        for (_, place, sent) in race.awaited().filter(|(_, place, _)| Some(*place) != winner) {
            if let Some(server) = self.server(place) {
                server.note_given_up(now.saturating_duration_since(sent), winner.is_some());
            }
        }
    }

    /// How all of them fare.
    #[must_use]
    pub fn status(&self) -> Vec<UpstreamStatus> {
        self.servers
            .iter()
            .map(|server| {
                let health = server.health();
                UpstreamStatus {
                    url: server.url.clone(),
                    healthy: health.is_healthy(),
                    replied: health.last_reply.is_some(),
                    rtt: health.rtt(),
                    queries: health.queries,
                    failures: health.failures,
                    last_reply: health.last_reply.map(|at| at.elapsed()),
                    last_error: health.last_error.clone(),
                }
            })
            .collect()
    }
}

/// A race that a task drives; however that ends, its account is closed.
struct Course<'a> {
    upstreams: &'a Upstreams,
    race: Race,
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        self.upstreams.settle(&self.race, Instant::now());
    }
}

type Replied = Result<(Vec<u8>, Fit), Failure>;

/// A query on its way. Dropped, it is given up.
struct Asking<'a> {
    ask: Ask,
    sent: Instant,
    reply: Pin<Box<dyn Future<Output = Replied> + Send + 'a>>,
}

/// The first of these that has its reply; for ever where there are none.
async fn next_of(asks: &mut Vec<Asking<'_>>) -> (Ask, Instant, Replied) {
    poll_fn(|context| {
        for place in 0..asks.len() {
            if let Some(asking) = asks.get_mut(place)
                && let Poll::Ready(replied) = asking.reply.as_mut().poll(context)
            {
                let asking = asks.swap_remove(place);
                return Poll::Ready((asking.ask, asking.sent, replied));
            }
        }
        Poll::Pending
    })
    .await
}

/// This order, or now and then one with another server first that is up and not silent, so that its time stays known.
pub(in crate::dns) fn explored(order: &Arc<Order>) -> Arc<Order> {
    let speaking = order.choices.iter().take(order.usable).take_while(|choice| !choice.silent).count();
    if order.all_down || speaking < 2 || !rand::random_ratio(1, EXPLORE) {
        return order.clone();
    }
    Arc::new(order.with_first(rand::random_range(1..speaking)))
}
