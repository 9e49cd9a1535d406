//! Where questions go: the servers, which of them is asked, when another is asked as well, and which are left alone for a while.
//!
//! - The fastest healthy server is asked first (smoothed round-trip time); now and then another one, so that its time stays known.
//! - No reply after a multiple of its usual time: the next one is asked as well. With one server alone the question is sent again, later.
//! - After [`BREAK_AFTER`] failures in a row a server is passed over. A copy of a real question is sent to it from time to time, nobody
//!   waits for it, and its reply makes the server healthy again. When all are broken all are asked.
//! - Whatever happens, the asker has a result after [`TOTAL`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use prometheus_client::metrics::counter::Counter;
use tokio::task::JoinSet;

use super::metrics::{self, Metrics};
use super::tls::client;
use super::wire::{flag, rtype, u16_at};
use crate::config::schema;
use crate::config::upstream::{Transport, UpstreamUrl};
use crate::core::name::Name;
use crate::core::policy::name_from_user;
use query::Query;

mod age;
mod dial;
mod https;
pub mod lines;
pub mod plain;
pub mod query;
mod quic;
mod tcp;
mod udp;

pub(in crate::dns) use https::DNS_MESSAGE;

/// The longest that one question may take.
pub const TOTAL: Duration = Duration::from_secs(4);
/// The longest when every server is broken already.
pub const TOTAL_BROKEN: Duration = Duration::from_secs(2);
/// Bounds of the wait before another server is asked as well.
const HEDGE: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(600));
/// Bounds of the wait before the same server is asked again, when there is no other.
const AGAIN: (Duration, Duration) = (Duration::from_millis(1200), Duration::from_millis(2000));
/// How long the whole of a cut reply may take over TCP before the cut one stands.
const TCP_RETRY: Duration = Duration::from_millis(2500);
/// Attempts per question.
pub const ATTEMPTS: usize = 4;
/// Failures in a row after which a server is passed over.
const BREAK_AFTER: u32 = 5;
/// Bounds of the time between probes of a broken server.
const PROBE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// An attempt given up after this counts as failed; one that lost earlier to another server only counts as slow.
const FAILED_AFTER: Duration = Duration::from_millis(1000);
/// A server that was never asked counts as this fast.
const UNKNOWN: Duration = Duration::from_millis(40);
/// One question in so many goes to another healthy server first.
const EXPLORE: u32 = 32;

/// An upstream that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The URL is wrong.
    #[error("dns.upstream: {0}")]
    Url(String),
    /// Its certificates, keys, names or pins can't be used.
    #[error("dns.upstream: \"{0}\": {1}")]
    Tls(String, String),
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
}

/// A response, checked against the question. With TC set it is cut and no TCP attempt gave the whole.
#[derive(Debug)]
pub struct Asked {
    /// The message.
    pub message: Vec<u8>,
}

/// How an upstream fares, for the control API.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamStatus {
    /// As configured.
    pub url: String,
    /// Whether it is asked in the usual course.
    pub healthy: bool,
    /// Whether it ever replied.
    pub replied: bool,
    /// Smoothed round-trip time; `None` before the first reply.
    pub rtt: Option<Duration>,
    /// Queries sent.
    pub queries: u64,
    /// Queries without usable response.
    pub failures: u64,
    /// Time since the last reply.
    pub last_reply: Option<Duration>,
    /// The last failure in words.
    pub last_error: Option<String>,
}

enum Link {
    /// UDP, and TCP for what is cut.
    Udp(Box<udp::UdpPool>, tcp::TcpClient),
    /// TCP only, or TLS only.
    Tcp(tcp::TcpClient),
    Https(Box<https::HttpsClient>),
    Quic(Box<quic::QuicClient>),
}

impl Link {
    fn new(
        upstream: &schema::Upstream,
        url: &UpstreamUrl,
        mark: Option<u32>,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let target = dial::Target { peer: url.addr, mark };
        let alpn: &[&[u8]] = match url.transport {
            Transport::Udp => {
                let tcp = tcp::TcpClient::new(target, None, metrics.clone());
                return Ok(Self::Udp(Box::new(udp::UdpPool::new(url.addr, mark, metrics.clone())), tcp));
            }
            Transport::Tcp => return Ok(Self::Tcp(tcp::TcpClient::new(target, None, metrics.clone()))),
            // Servers that know no name for it may refuse one.
            Transport::Tls => &[],
            Transport::Https => &[b"h2"],
            Transport::Quic => &[b"doq"],
        };
        let label = metrics::Upstream { upstream: upstream.url.clone() };
        let tls = dial::Tls {
            config: Arc::new(client::config(upstream, alpn).map_err(|error| error.to_string())?),
            name: client::server_name(upstream, url).map_err(|error| error.to_string())?,
            handshakes: metrics.upstream_handshakes.get_or_create_owned(&label),
        };
        Ok(match url.transport {
            Transport::Https => {
                Self::Https(Box::new(https::HttpsClient::new(target, tls, &url.path, metrics.clone())?))
            }
            Transport::Quic => Self::Quic(Box::new(quic::QuicClient::new(target, tls, metrics.clone())?)),
            _ => Self::Tcp(tcp::TcpClient::new(target, Some(tls), metrics.clone())),
        })
    }
}

/// A message with its length before it, as streams carry it.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(message.len().saturating_add(2));
    // A query is never so long that its length wouldn't fit.
    framed.extend_from_slice(&u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

#[derive(Debug, Default)]
struct Health {
    srtt: Option<Duration>,
    variance: Duration,
    failed_in_row: u32,
    probe_at: Option<Instant>,
    probe_wait: Duration,
    queries: u64,
    failures: u64,
    last_reply: Option<Instant>,
    last_error: Option<String>,
}

struct Server {
    url: String,
    link: Link,
    health: Mutex<Health>,
    metrics: Metrics,
    asked: Counter,
    failed: Counter,
}

/// One attempt's account: a success is noted by [`Attempt::success`], anything else when it is dropped.
struct Attempt<'a> {
    server: &'a Server,
    started: Instant,
    done: bool,
}

impl Attempt<'_> {
    fn success(&mut self) {
        self.done = true;
        self.server.note_reply(self.started.elapsed());
    }

    fn failure(&mut self, error: &str) {
        self.done = true;
        self.server.note_failure(error);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.server.note_given_up(self.started.elapsed());
    }
}

impl Health {
    fn is_broken(&self) -> bool {
        self.failed_in_row >= BREAK_AFTER
    }
}

impl Server {
    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_reply(&self, rtt: Duration) {
        let mut health = self.health();
        // RFC 6298's smoothing.
        match health.srtt {
            None => {
                health.srtt = Some(rtt);
                health.variance = rtt / 2;
            }
            Some(srtt) => {
                let off = srtt.abs_diff(rtt);
                health.variance = (health.variance * 3 + off) / 4;
                health.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
        if health.failed_in_row >= BREAK_AFTER {
            tracing::info!(upstream = %self.url, "the upstream answers again");
        }
        health.failed_in_row = 0;
        health.probe_at = None;
        health.last_reply = Some(Instant::now());
    }

    /// It lost to another server: at least so slow.
    fn note_slow(&self, at_least: Duration) {
        let mut health = self.health();
        if health.srtt.is_none_or(|srtt| srtt < at_least) {
            let srtt = health.srtt.unwrap_or(at_least);
            health.srtt = Some((srtt * 3 + at_least) / 4);
        }
    }

    fn note_failure(&self, error: &str) {
        let mut health = self.health();
        health.failures = health.failures.saturating_add(1);
        health.failed_in_row = health.failed_in_row.saturating_add(1);
        if health.failed_in_row == BREAK_AFTER {
            tracing::warn!(upstream = %self.url, error, "the upstream doesn't answer; it is passed over and probed");
            health.probe_wait = PROBE.0;
            health.probe_at = Some(Instant::now() + PROBE.0);
        }
        if health.last_error.as_deref() != Some(error) {
            health.last_error = Some(error.to_owned());
        }
        drop(health);
        self.failed.inc();
    }

    /// Whether a probe is due; if so the next one is set later.
    fn take_probe(&self, now: Instant) -> bool {
        let mut health = self.health();
        if health.probe_at.is_none_or(|at| at > now) {
            return false;
        }
        health.probe_wait = (health.probe_wait * 2).min(PROBE.1);
        health.probe_at = Some(now + health.probe_wait);
        true
    }

    fn is_broken(&self) -> bool {
        self.health().is_broken()
    }

    /// No reply was waited for any longer.
    fn note_given_up(&self, elapsed: Duration) {
        if elapsed >= FAILED_AFTER {
            self.note_failure("no reply in time");
        } else {
            self.note_slow(elapsed);
        }
    }

    /// Wait before another server (or, `alone`, the same again) is asked as well.
    fn patience(&self, alone: bool) -> Duration {
        let (least, most) = if alone { AGAIN } else { HEDGE };
        let health = self.health();
        health.srtt.map_or(least * 4, |srtt| srtt + health.variance * 4).clamp(least, most)
    }

    async fn ask(&self, query: &Query) -> io::Result<Vec<u8>> {
        self.asked.inc();
        {
            let mut health = self.health();
            health.queries = health.queries.saturating_add(1);
        }
        let mut attempt = Attempt { server: self, started: Instant::now(), done: false };
        let result = match &self.link {
            Link::Tcp(client) => client.exchange(query).await,
            Link::Https(client) => client.exchange(query).await,
            Link::Quic(client) => client.exchange(query).await,
            Link::Udp(pool, client) => match pool.exchange(query).await {
                Ok(received) => {
                    let cut = match received {
                        udp::Received::Message(message) if !is_truncated(&message) => {
                            attempt.success();
                            return Ok(message);
                        }
                        udp::Received::Message(message) => Some(message),
                        udp::Received::AskTcp => None,
                    };
                    // It lives; what follows is another story.
                    attempt.success();
                    self.metrics.upstream_tcp_retries.inc();
                    let whole = tokio::time::timeout(TCP_RETRY, client.exchange(query)).await;
                    match (whole.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())), cut) {
                        (Err(error), Some(cut)) => {
                            tracing::debug!(upstream = %self.url, %error, "no TCP; the cut reply stands");
                            return Ok(cut);
                        }
                        (result, _) => return result,
                    }
                }
                Err(error) => Err(error),
            },
        };
        match &result {
            Ok(_) => attempt.success(),
            Err(error) => attempt.failure(&error.to_string()),
        }
        result
    }
}

/// Whether TC is set.
pub(in crate::dns) fn is_truncated(message: &[u8]) -> bool {
    u16_at(message, 2).is_some_and(|flags| flags & flag::TC != 0)
}

/// Codes that another server may answer better: all but NOERROR, NXDOMAIN, YXDOMAIN.
pub(in crate::dns) fn is_failure(message: &[u8]) -> bool {
    super::reply::is_failure(query::code_of(message))
}

/// All upstreams.
pub struct Upstreams {
    mark: Option<u32>,
    servers: Vec<Arc<Server>>,
    /// Servers by the domain they are for, wire form; those for everything under the root.
    by_domain: HashMap<Box<[u8]>, Vec<usize>>,
}

impl Upstreams {
    /// From the configuration; opens nothing. `mark` is set on every socket.
    ///
    /// # Errors
    /// [`UpstreamError`]; `check` refuses all of these before.
    pub fn new(configured: &[schema::Upstream], mark: Option<u32>, metrics: &Metrics) -> Result<Self, UpstreamError> {
        let mut upstreams = Self { mark, servers: Vec::new(), by_domain: HashMap::new() };
        for (index, upstream) in configured.iter().enumerate() {
            let url: UpstreamUrl = upstream.url.parse().map_err(UpstreamError::Url)?;
            let link = Link::new(upstream, &url, mark, metrics)
                .map_err(|problem| UpstreamError::Tls(upstream.url.clone(), problem))?;
            let label = metrics::Upstream { upstream: upstream.url.clone() };
            upstreams.servers.push(Arc::new(Server {
                asked: metrics.upstream_queries.get_or_create_owned(&label),
                failed: metrics.upstream_failures.get_or_create_owned(&label),
                url: upstream.url.clone(),
                link,
                health: Mutex::default(),
                metrics: metrics.clone(),
            }));
            let mut domains = Vec::new();
            for domain in &upstream.domains {
                domains.push(name_from_user(domain).map_err(|_| UpstreamError::Domain(domain.clone()))?);
            }
            if domains.is_empty() {
                domains.push(Name::root());
            }
            for domain in domains {
                let group = upstreams.by_domain.entry(domain.wire().into()).or_default();
                // Named twice, it is still one server: it must not be its own second choice.
                if group.last() != Some(&index) {
                    group.push(index);
                }
            }
        }
        Ok(upstreams)
    }

    /// The servers for `name`: those of the longest domain it lies in.
    fn group(&self, name: &Name) -> &[usize] {
        name.suffixes().find_map(|suffix| self.by_domain.get(suffix)).map_or(&[], Vec::as_slice)
    }

    /// The servers for a question: those for its name; a DS record stands in the zone above its name, which other servers may serve.
    fn group_for(&self, query: &Query) -> &[usize] {
        let above = if query.qtype == rtype::DS { query.name.parent() } else { None };
        self.group(above.as_ref().unwrap_or(&query.name))
    }

    /// The group's servers, best first, and whether all of them are broken.
    fn order(&self, group: &[usize]) -> (Vec<Arc<Server>>, bool) {
        let mut ranked: Vec<(bool, Duration, &Arc<Server>)> = group
            .iter()
            .filter_map(|index| self.servers.get(*index))
            .map(|server| (server.is_broken(), server.health().srtt.unwrap_or(UNKNOWN), server))
            .collect();
        ranked.sort_by_key(|(broken, srtt, _)| (*broken, *srtt));
        let healthy = ranked.iter().filter(|(broken, ..)| !broken).count();
        if healthy > 1 && rand::random_ratio(1, EXPLORE) {
            let other = rand::random_range(1..healthy);
            ranked.swap(0, other);
        }
        (ranked.into_iter().map(|(_, _, server)| server.clone()).collect(), healthy == 0)
    }

    /// Asks until a server answers usefully, all attempts are used up, or the time is over.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, query: &Query) -> Result<Asked, AskError> {
        let (order, all_broken) = self.order(self.group_for(query));
        let Some(first) = order.first() else { return Err(AskError::NoServer) };
        let now = Instant::now();
        for server in order.iter().skip(1).filter(|server| server.is_broken() && server.take_probe(now)) {
            let (server, query) = (server.clone(), query.clone());
            tokio::spawn(async move { tokio::time::timeout(TOTAL_BROKEN, server.ask(&query)).await });
        }
        let usable =
            if all_broken { order.len() } else { order.iter().filter(|server| !server.is_broken()).count().max(1) };
        let total = if all_broken { TOTAL_BROKEN } else { TOTAL };
        Self::ask_these(first, &order, usable, query, total).await
    }

    /// Asks one server alone, when the others' word is not to be had: of those for the question that are healthy the one at this place, in the configured
    /// order, round and round.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_one(&self, query: &Query, place: usize) -> Result<Asked, AskError> {
        let all: Vec<&Arc<Server>> =
            self.group_for(query).iter().filter_map(|index| self.servers.get(*index)).collect();
        let healthy: Vec<&Arc<Server>> = all.iter().copied().filter(|server| !server.is_broken()).collect();
        let usable = if healthy.is_empty() { all } else { healthy };
        let place = place.checked_rem(usable.len()).unwrap_or(0);
        let Some(server) = usable.get(place) else { return Err(AskError::NoServer) };
        Self::ask_these(server, &[Arc::clone(server)], 1, query, TOTAL_BROKEN).await
    }

    /// The most servers that are for one name.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.by_domain.values().map(Vec::len).max().unwrap_or(0)
    }

    async fn ask_these(
        first: &Arc<Server>,
        order: &[Arc<Server>],
        usable: usize,
        query: &Query,
        total: Duration,
    ) -> Result<Asked, AskError> {
        let asked = async {
            let asked = Self::race(first, order, usable, query).await;
            match &asked {
                // An old server: the plain question of RFC 1035. It costs such a server two queries for each question.
                Ok(refused) if !query.plain && query::refuses_edns(&refused.message) => {
                    let plain = Query { plain: true, ..query.clone() };
                    Self::race(first, order, usable, &plain).await
                }
                _ => asked,
            }
        };
        let mut asked = tokio::time::timeout(total, asked).await.unwrap_or(Err(AskError::TimeOut))?;
        query::lower_question(&mut asked.message);
        Ok(asked)
    }

    async fn race(first: &Arc<Server>, order: &[Arc<Server>], usable: usize, query: &Query) -> Result<Asked, AskError> {
        let alone = usable < 2;
        let mut main: Option<Pin<Box<_>>> = Some(Box::pin(first.ask(query)));
        let mut others: JoinSet<io::Result<Vec<u8>>> = JoinSet::new();
        let mut asked = 1usize;
        let mut failure: Option<Vec<u8>> = None;
        let mut error = AskError::TimeOut;
        let timer = tokio::time::sleep(first.patience(alone));
        tokio::pin!(timer);
        loop {
            let result = tokio::select! {
                result = async { match main.as_mut() { Some(main) => main.await, None => std::future::pending().await } } => {
                    main = None;
                    Some(result)
                }
                Some(result) = others.join_next(), if !others.is_empty() => {
                    Some(result.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into())))
                }
                () = &mut timer, if asked < ATTEMPTS => None,
            };
            let ran_out = result.is_none();
            match result {
                Some(Ok(message)) if !is_failure(&message) => return Ok(Asked { message }),
                Some(Ok(message)) => failure = Some(message),
                Some(Err(_)) => error = AskError::Network,
                None => {}
            }
            // When the timer ran out the next usable server is asked (or the only one again); after a bad reply or an error the next of
            // all, but none a second time.
            let next = if ran_out { order.get(asked % usable) } else { order.get(asked) };
            if let Some(server) = next.filter(|_| asked < ATTEMPTS) {
                let server = server.clone();
                timer.as_mut().reset(tokio::time::Instant::now() + server.patience(alone));
                let query = query.clone();
                others.spawn(async move { server.ask(&query).await });
                asked += 1;
            } else if main.is_none() && others.is_empty() {
                return failure.map(|message| Asked { message }).ok_or(error);
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
                    healthy: health.failed_in_row < BREAK_AFTER,
                    replied: health.last_reply.is_some(),
                    rtt: health.srtt,
                    queries: health.queries,
                    failures: health.failures,
                    last_reply: health.last_reply.map(|at| at.elapsed()),
                    last_error: health.last_error.clone(),
                }
            })
            .collect()
    }
}
