//! Where answers come from, and what else of the configuration questions meet: replaced as a whole while the resolver runs.
//!
//! A question goes on with the origin that it began with, to its end. What comes of that is given to whoever asked before, and is not kept when another
//! origin is in force meanwhile; who asks behind the change doesn't join what was asked before it ([`super::pending::Waiters`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;

use super::Resolver;
use crate::config::Config;
use crate::config::schema;
use crate::core::narrow;
use crate::dns::cache::Key;
use crate::dns::metrics::Metrics;
use crate::dns::rate::RateLimit;
use crate::dns::upstream::Upstreams;
use crate::dns::validate::Validator;
use crate::dns::{DnsError, usable_mark};

/// Who is asked, and whether what they say is validated.
pub(in crate::dns) struct Origin {
    pub(in crate::dns) upstreams: Arc<Upstreams>,
    /// `None`: answers are taken as they come.
    pub(in crate::dns) validator: Option<Validator>,
    /// No two have the same.
    pub(in crate::dns) epoch: u64,
    dnssec: schema::Dnssec,
}

impl Origin {
    fn new(upstreams: Arc<Upstreams>, dnssec: &schema::Dnssec, metrics: &Metrics) -> Result<Arc<Self>, DnsError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let validator = Validator::new(dnssec, metrics).map_err(DnsError::TrustAnchor)?;
        let epoch = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { upstreams, validator, epoch, dnssec: dnssec.clone() }))
    }

    /// As the configuration says, at the start.
    pub(in crate::dns) fn first(config: &Config, mark: Option<u32>, metrics: &Metrics) -> Result<Arc<Self>, DnsError> {
        let upstreams = Upstreams::new(&config.dns.upstream, mark, metrics)?;
        Self::new(Arc::new(upstreams), &dnssec_of(config), metrics)
    }
}

/// With local zones among what isn't validated: an answer of an upstream may lead into them.
fn dnssec_of(config: &Config) -> schema::Dnssec {
    let mut dnssec = config.dns.dnssec.clone();
    dnssec.insecure.extend(config.dns.zone.iter().map(|zone| zone.name.clone()));
    dnssec
}

/// The smaller keys of `[dns]`.
pub(in crate::dns) struct Setup {
    /// Who may ask.
    pub(in crate::dns) clients: Vec<IpNet>,
    /// With what is counted for it.
    pub(in crate::dns) rate_limit: Option<Arc<RateLimit>>,
    rate: Option<crate::config::value::Rate>,
    pub(in crate::dns) prefetch: bool,
    /// Addresses are open only for the clients that were answered with them: so is what is kept of them.
    pub(in crate::dns) per_client: bool,
    /// So many bits of IPv6 addresses tell those apart.
    client_prefix: u8,
}

impl Setup {
    /// As the configuration says. What is counted for a rate that stays is counted on.
    pub(in crate::dns) fn new(config: &Config, before: Option<&Self>) -> Self {
        let rate = config.dns.rate_limit;
        let same = before.filter(|before| before.rate == rate).and_then(|before| before.rate_limit.clone());
        Self {
            clients: config.dns.clients.clone(),
            rate_limit: same.or_else(|| rate.map(|rate| Arc::new(RateLimit::new(rate)))),
            rate,
            prefetch: config.dns.cache.prefetch,
            per_client: config.per_client(),
            client_prefix: config.nftables.client_ipv6_prefix,
        }
    }

    /// The key of a question by this client.
    pub(in crate::dns) fn key_of(&self, key: Key, client: IpAddr) -> Key {
        if self.per_client { key.of_client(narrow::owner_of(client, self.client_prefix)) } else { key }
    }

    /// Whether this client may ask.
    pub(in crate::dns) fn admits(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|net| net.contains(&client))
    }
}

/// What another configuration makes of the resolver; in force when it was switched to.
pub struct Change {
    origin: Arc<Origin>,
    setup: Arc<Setup>,
    cache: schema::Cache,
    /// Whether answers come from elsewhere then.
    is_new: bool,
}

impl Change {
    /// Whether what is kept may not be what would be answered then.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.is_new
    }
}

impl Resolver {
    /// Makes all that can fail of another configuration; nothing is in force yet.
    pub(in crate::dns) fn prepare(&self, config: &Config) -> Result<Change, DnsError> {
        let mark = crate::sys::mark(config).map(|_| usable_mark()).transpose()?;
        let old = self.origin.load_full();
        let upstreams = old.upstreams.renewed(&config.dns.upstream, mark, &self.metrics)?;
        let dnssec = dnssec_of(config);
        let is_new = !upstreams.is_same(&old.upstreams) || old.dnssec != dnssec;
        // With it goes what the old ones said of signed zones.
        let origin = match is_new {
            true => Origin::new(Arc::new(upstreams), &dnssec, &self.metrics)?,
            false => old,
        };
        let setup = Arc::new(Setup::new(config, Some(&self.setup.load())));
        Ok(Change { origin, setup, cache: config.dns.cache.clone(), is_new })
    }

    /// Puts it in force; returns how to go back. Before the rules that are made of the same configuration: who has those has this.
    pub(in crate::dns) fn switch(&self, change: Change) -> Change {
        let (old, setup) = (self.origin.load_full(), self.setup.load_full());
        let before = self.cache.bounds();
        self.cache.resize(change.cache.size.0, change.cache.serve_stale.0);
        self.setup.store(change.setup);
        if change.is_new {
            self.replace(change.origin.clone());
            change.origin.upstreams.wake();
            old.upstreams.forget_metrics(&change.origin.upstreams, &self.metrics);
        }
        let cache = schema::Cache { size: before.0, serve_stale: before.1, prefetch: setup.prefetch };
        Change { origin: old, setup, cache, is_new: change.is_new }
    }

    /// Whether this is the one in force.
    pub(in crate::dns) fn is_current(&self, origin: &Arc<Origin>) -> bool {
        Arc::ptr_eq(&self.origin.load(), origin)
    }
}
