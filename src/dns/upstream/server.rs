//! One upstream: how it is reached, and the account of what came of that.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use quinn::crypto::rustls::NoInitialCipherSuite;
use tokio::sync::Notify;

use super::health::{Change, Health, PROBE, Probed};
use super::judgement::Manner;
use super::query::{Fit, Query, fit};
use super::race::{Ask, Choice, Trouble};
use super::transport::{dial, https, quic, tcp};
use crate::config::schema;
use crate::config::upstream::{Transport, UpstreamUrl};
use crate::core::client::Claim;
use crate::core::name::Name;
use crate::core::policy::registrable;
use crate::dns::codec::wire::rtype;
use crate::dns::metrics::{self, Metrics};
use crate::dns::upstream::transport::udp_task::{Failure, Post};
use crate::tls::{TlsError, client};

/// A query given up after this, without reply from anybody, counts as failed.
const FAILED_AFTER: Duration = Duration::from_millis(1000);

/// How it is reached.
pub enum Link {
    /// UDP, and TCP for what needs a stream.
    Udp(Arc<Post>, tcp::TcpClient),
    /// TCP only, or TLS only.
    Tcp(tcp::TcpClient),
    /// DNS over HTTPS, by HTTP/2.
    Https(Box<https::HttpsClient>),
    /// DNS over QUIC, one stream for each query.
    Quic(Box<quic::QuicClient>),
}

/// Why an upstream can't be reached as its URL says.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Its certificates, keys, names or pins can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its name and path make no URI to ask for.
    #[error(transparent)]
    Uri(#[from] hyper::http::Error),
    /// The configuration of TLS lacks what QUIC begins with.
    #[error(transparent)]
    Quic(#[from] NoInitialCipherSuite),
}

impl Link {
    /// As configured; opens nothing.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn new(
        upstream: &schema::Upstream,
        url: &UpstreamUrl,
        (target, post): (dial::Target, &Arc<Post>),
        metrics: &Metrics,
    ) -> Result<Self, LinkError> {
        let alpn: &[&[u8]] = match url.transport {
            Transport::Udp => {
                let tcp = tcp::TcpClient::new(target, None, metrics.clone());
                return Ok(Self::Udp(post.clone(), tcp));
            }
            Transport::Tcp => return Ok(Self::Tcp(tcp::TcpClient::new(target, None, metrics.clone()))),
            // Servers that know no name for it may refuse one.
            Transport::Tls => &[],
            Transport::Https => &[b"h2"],
            Transport::Quic => &[b"doq"],
        };
        let label = metrics::Upstream { upstream: upstream.url.clone() };
        let tls = dial::Tls {
            config: Arc::new(client::config(upstream, alpn)?),
            name: client::server_name(upstream, url)?,
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

/// What a server was made of: another one that is made of the same is the same.
#[derive(Debug, PartialEq)]
pub struct Made {
    /// As configured; for which names it is doesn't matter.
    upstream: schema::Upstream,
    mark: Option<u32>,
    /// Hashes of what its files hold.
    files: [Option<u64>; 3],
}

impl Made {
    /// Of this, and what its files hold now.
    #[must_use]
    pub fn of(upstream: &schema::Upstream, mark: Option<u32>) -> Self {
        let files = [&upstream.ca, &upstream.client_certificate, &upstream.client_key];
        // What can't be read is told of by who needs it.
        let files = files.map(|path| std::fs::read(path.as_ref()?).ok().map(|octets| hash(&octets)));
        Self { upstream: schema::Upstream { domains: Vec::new(), ..upstream.clone() }, mark, files }
    }
}

/// An upstream resolver: how it is reached, and how it fares.
pub struct Server {
    /// Its number among all that there are and were.
    pub place: usize,
    /// The upstream's URL, as configured.
    pub url: String,
    /// How it is reached.
    pub link: Arc<Link>,
    /// Where it is.
    pub target: dial::Target,
    /// What it is asked for to see whether it lives: the first domain that it is for.
    pub probe: Name,
    /// What it was made of.
    pub made: Arc<Made>,
    health: Arc<Mutex<Health>>,
    metrics: Metrics,
    asked: Counter,
    failed: Counter,
    /// Wakes who looks into troubles.
    troubled: Arc<Notify>,
}

impl Server {
    /// Nothing is known of it.
    #[must_use]
    pub fn new(
        (place, made): (usize, Made),
        (target, link): (dial::Target, Link),
        probe: Name,
        metrics: &Metrics,
        troubled: Arc<Notify>,
    ) -> Self {
        let url = made.upstream.url.clone();
        let label = metrics::Upstream { upstream: url.clone() };
        Self {
            asked: metrics.upstream_queries.get_or_create_owned(&label),
            failed: metrics.upstream_failures.get_or_create_owned(&label),
            place,
            url,
            link: Arc::new(link),
            target,
            probe,
            made: Arc::new(made),
            health: Arc::default(),
            metrics: metrics.clone(),
            troubled,
        }
    }

    /// The same, with its connections and all that is known of it, asked for something else to see whether it lives.
    #[must_use]
    pub fn probed_for(&self, probe: Name) -> Self {
        Self {
            place: self.place,
            url: self.url.clone(),
            link: self.link.clone(),
            target: self.target,
            probe,
            made: self.made.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            asked: self.asked.clone(),
            failed: self.failed.clone(),
            troubled: self.troubled.clone(),
        }
    }

    /// How it fares.
    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It, as one that may be asked; whether it is down; what it is ranked by.
    #[must_use]
    pub fn choice(&self, now: Instant) -> (bool, Duration, Choice) {
        let stream = !matches!(*self.link, Link::Udp(..));
        let health = self.health();
        let manner = if stream { Manner::STREAM } else { Manner::USUAL }.and(health.manner(now));
        let choice = Choice {
            server: self.place,
            patience: health.patience(manner.has(Manner::STREAM)),
            silent: health.is_silent(now),
            manner,
        };
        (health.is_down(), health.rank(), choice)
    }

    /// Sends a query and waits for its reply, for ever: the caller sets the time.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn exchange(&self, ask: Ask, query: &Query) -> Result<(Vec<u8>, Fit), Failure> {
        let query = Query { plain: query.plain || ask.manner.has(Manner::PLAIN), ..query.clone() };
        let replied = match &*self.link {
            Link::Udp(post, _) if !ask.manner.has(Manner::STREAM) => {
                return post.exchange(ask, self.target, query).await;
            }
            Link::Udp(_, client) => {
                self.metrics.upstream_tcp_retries.inc();
                client.exchange(&query).await
            }
            Link::Tcp(client) => client.exchange(&query).await,
            Link::Https(client) => client.exchange(&query).await,
            Link::Quic(client) => client.exchange(&query).await,
        };
        match replied {
            Ok(message) => {
                let fit = fit(&message, &query.question());
                Ok((message, fit))
            }
            Err(error) => Err(Failure { trouble: trouble_of(&error), error }),
        }
    }

    /// A query is sent to it.
    pub fn note_query(&self) {
        self.asked.inc();
        let mut health = self.health();
        health.queries = health.queries.saturating_add(1);
    }

    /// It replied, after so long.
    pub fn note_reply(&self, rtt: Duration, now: Instant) {
        let change = self.health().on_reply(rtt, now);
        self.tell(change, "");
    }

    /// A query had no reply in the time that one takes.
    pub fn note_late(&self, sent: Instant, name: &Name, now: Instant) {
        if self.health().on_late(sent, hash(registrable(name).wire()), now) {
            self.troubled.notify_one();
        }
    }

    /// A query came to nothing.
    pub fn note_trouble(&self, trouble: Trouble, manner: Manner, error: &str, name: &Name, now: Instant) {
        let wake = match trouble {
            Trouble::Forged => false,
            Trouble::Ours => {
                self.health().last_error = Some(error.to_owned());
                self.health().on_late(now, hash(registrable(name).wire()), now)
            }
            Trouble::Theirs => {
                let mut health = self.health();
                health.on_failure(error);
                if matches!(*self.link, Link::Udp(..)) && manner.has(Manner::STREAM) {
                    // What has no TCP lives all the same.
                    health.unlearn(Manner::STREAM);
                    return;
                }
                let wake = health.on_refusal(now);
                drop(health);
                self.failed.inc();
                wake
            }
        };
        if wake {
            self.troubled.notify_one();
        }
    }

    /// No reply is waited for any longer; another server's came, or none.
    pub fn note_given_up(&self, after: Duration, answered: bool) {
        if answered {
            self.health().on_slow(after);
        } else if after >= FAILED_AFTER {
            self.health().on_failure("no reply in time");
            self.failed.inc();
        }
    }

    /// Asks whether it lives.
    pub async fn probe(&self) {
        let root = self.probe.wire() == [0];
        let query = Query {
            name: self.probe.clone(),
            qtype: if root { rtype::NS } else { rtype::SOA },
            dnssec_ok: false,
            checking_disabled: false,
            plain: false,
            whose: Claim::NOBODY,
        };
        let sent = Instant::now();
        let (_, _, choice) = self.choice(sent);
        self.note_query();
        // Whatever it was asked on before may be of no use.
        let ask = Ask { place: 0, server: self.place, manner: choice.manner, lost: Some(sent) };
        let replied = tokio::time::timeout(PROBE, self.exchange(ask, &query)).await;
        let now = Instant::now();
        let (probed, error) = match replied {
            Ok(Ok((_, Fit::No))) => (Probed::Refused, "the probe was answered with something else".to_owned()),
            Ok(Ok(_)) => (Probed::Replied(now.saturating_duration_since(sent)), String::new()),
            Ok(Err(Failure { trouble: Trouble::Theirs, error })) => (Probed::Refused, error.to_string()),
            Ok(Err(failure)) => (Probed::Unanswered, failure.error.to_string()),
            Err(_) => (Probed::Unanswered, "no reply in time".to_owned()),
        };
        let change = {
            let mut health = self.health();
            if !error.is_empty() {
                // What became of real questions says more.
                health.last_error.get_or_insert_with(|| error.clone());
            }
            health.on_probed(probed, now)
        };
        self.tell(change, &error);
        self.troubled.notify_one();
    }

    fn tell(&self, change: Option<Change>, error: &str) {
        match change {
            Some(Change::Down) => {
                tracing::warn!(upstream = %self.url, error, "the upstream doesn't answer; it is passed over and probed");
            }
            Some(Change::Up) => tracing::info!(upstream = %self.url, "the upstream answers again"),
            None => {}
        }
    }
}

/// Whose fault it is that a stream came to nothing.
fn trouble_of(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::QuotaExceeded => Trouble::Ours,
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Trouble::Ours,
        _ => Trouble::Theirs,
    }
}

/// Tells names apart; that of two the hashes are alike costs nothing.
fn hash(name: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}
