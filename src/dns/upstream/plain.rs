//! What a worker needs to ask plain upstreams itself: who serves a name, in which order, and how each fares.
//!
//! A group of servers is plain when all of it is asked over UDP first; every other one is asked by [`Upstreams::ask`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::query::{Query, lower_question};
use super::{AskError, Asked, EXPLORE, Link, Server, TCP_RETRY, TOTAL_BROKEN, UNKNOWN, Upstreams, is_failure};

/// The servers of one group, best first.
#[derive(Clone, Debug)]
pub struct Order {
    /// Places among all upstreams.
    pub servers: Vec<usize>,
    /// How many of them are asked in the usual course.
    pub usable: usize,
    /// All of them are broken; then all are usable.
    pub all_broken: bool,
}

impl Upstreams {
    /// What every socket to an upstream is marked with.
    pub(in crate::dns) fn mark(&self) -> Option<u32> {
        self.mark
    }

    /// The upstreams that are asked over UDP.
    pub(in crate::dns) fn plain_peers(&self) -> impl Iterator<Item = (usize, SocketAddr)> {
        self.servers.iter().enumerate().filter_map(|(place, server)| match &server.link {
            Link::Udp(pool, _) => Some((place, pool.peer())),
            _ => None,
        })
    }

    /// The group that `query` is for; `None` unless it is plain.
    pub(in crate::dns) fn plain_group(&self, query: &Query) -> Option<&[usize]> {
        let group = self.group_for(query);
        let plain = |place: &usize| matches!(self.servers.get(*place).map(|server| &server.link), Some(Link::Udp(..)));
        (!group.is_empty() && group.iter().all(plain)).then_some(group)
    }

    /// The order of the moment, without exploration; see [`Order::explored`].
    pub(in crate::dns) fn plain_order(&self, group: &[usize]) -> Order {
        let mut ranked: Vec<(bool, Duration, usize)> = group
            .iter()
            .filter_map(|place| {
                let health = self.servers.get(*place)?.health();
                Some((health.is_broken(), health.srtt.unwrap_or(UNKNOWN), *place))
            })
            .collect();
        ranked.sort_by_key(|(broken, srtt, _)| (*broken, *srtt));
        let healthy = ranked.iter().filter(|(broken, ..)| !broken).count();
        let servers: Vec<usize> = ranked.into_iter().map(|(_, _, place)| place).collect();
        let usable = if healthy == 0 { servers.len() } else { healthy };
        Order { servers, usable, all_broken: healthy == 0 }
    }

    /// Sends copies of `query` to the broken servers of `order` whose probe is due; nobody waits for what becomes of them. Must be called
    /// with a runtime at hand.
    pub(in crate::dns) fn probe(&self, order: &Order, query: &Query, runtime: &tokio::runtime::Handle, now: Instant) {
        if order.usable == order.servers.len() && !order.all_broken {
            return;
        }
        for server in order.servers.iter().skip(1).filter_map(|place| self.servers.get(*place)) {
            if server.is_broken() && server.take_probe(now) {
                let (server, query) = (server.clone(), query.clone());
                runtime.spawn(async move { tokio::time::timeout(TOTAL_BROKEN, server.ask(&query)).await });
            }
        }
    }

    /// Counts a query that is sent to this server, and says how long to wait before another is asked as well.
    pub(in crate::dns) fn note_query(&self, place: usize, alone: bool) -> Duration {
        let Some(server) = self.servers.get(place) else { return Duration::ZERO };
        server.asked.inc();
        {
            let mut health = server.health();
            health.queries = health.queries.saturating_add(1);
        }
        server.patience(alone)
    }

    /// It replied, after so long.
    pub(in crate::dns) fn note_reply(&self, place: usize, rtt: Duration) {
        if let Some(server) = self.servers.get(place) {
            server.note_reply(rtt);
        }
    }

    /// It failed.
    pub(in crate::dns) fn note_failure(&self, place: usize, error: &str) {
        if let Some(server) = self.servers.get(place) {
            server.note_failure(error);
        }
    }

    /// It was given up after so long.
    pub(in crate::dns) fn note_given_up(&self, place: usize, after: Duration) {
        if let Some(server) = self.servers.get(place) {
            server.note_given_up(after);
        }
    }

    /// What this server's UDP reply didn't give: the whole over TCP; else the cut reply; else whatever any server says.
    ///
    /// # Errors
    /// [`AskError`].
    pub(in crate::dns) async fn whole(
        &self,
        place: usize,
        query: &Query,
        cut: Option<Vec<u8>>,
    ) -> Result<Asked, AskError> {
        let server: Option<&Arc<Server>> = self.servers.get(place);
        if let Some(server) = server
            && let Link::Udp(_, client) = &server.link
        {
            server.metrics.upstream_tcp_retries.inc();
            match tokio::time::timeout(TCP_RETRY, client.exchange(query)).await {
                Ok(Ok(mut message)) if !is_failure(&message) => {
                    lower_question(&mut message);
                    return Ok(Asked { message });
                }
                Ok(Err(error)) => tracing::debug!(upstream = %server.url, %error, "no TCP"),
                Ok(Ok(_)) | Err(_) => {}
            }
        }
        match cut {
            Some(message) => Ok(Asked { message }),
            None => self.ask(query).await,
        }
    }
}

impl Order {
    /// This order, or now and then one with another healthy server first, so that its time stays known.
    #[must_use]
    pub fn explored(self: &Arc<Self>) -> Arc<Self> {
        if self.all_broken || self.usable < 2 || !rand::random_ratio(1, EXPLORE) {
            return self.clone();
        }
        let mut other = Self::clone(self);
        other.servers.swap(0, rand::random_range(1..self.usable));
        Arc::new(other)
    }
}
