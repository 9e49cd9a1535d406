//! Replies on streams that wait for their client to take them. A client that asks for long answers and reads none would have the guard keep
//! them all: 128 questions on each of 64 connections, 64 KiB each. What one client and all together may have waiting is bounded in octets; beyond it a
//! long reply becomes a short one with SERVFAIL.

use std::net::IpAddr;
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;

use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::query::ClientEdns;
use crate::dns::codec::reply::{self, ReplyHead};
use crate::dns::codec::wire::{HEADER, flag, rcode, skip_name, u16_at};
use crate::dns::limits::{Limit, Place};
use crate::dns::resolver::Resolver;

/// Octets that wait, of all clients.
const TOTAL: usize = 128 << 20;
/// Octets that wait, of one client. (The kernel takes megabytes for each connection before anything waits here; tests don't fill more than need be.)
pub const PER_CLIENT: usize = if cfg!(test) { 1 << 20 } else { 8 << 20 };
/// Shorter replies aren't counted: their number is bounded by that of the questions in flight.
const SHORT: usize = 512;

/// How much waits.
pub struct Backlog {
    limit: Arc<Limit>,
    waiting: Gauge,
}

impl Backlog {
    /// Nothing waits. `waiting` shows how much does.
    #[must_use]
    pub fn new(waiting: Gauge) -> Self {
        Self { limit: Limit::new(TOTAL, PER_CLIENT, PER_CLIENT / 16), waiting }
    }
}

/// A reply on its way out. It counts until it is dropped.
pub struct Reply {
    /// The octets of the message that are to be sent.
    pub octets: Vec<u8>,
    /// Its place among what waits; long ones have one.
    pub held: Option<Held>,
}

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// A long reply's place.
pub struct Held {
    _place: Place,
    octets: i64,
    waiting: Gauge,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.dec_by(self.octets);
    }
}

impl Resolver {
    /// Takes a reply to be sent on a stream of `client`; a long one for which there is no room is shortened.
    pub(in crate::dns) fn outgoing(&self, client: IpAddr, mut octets: Vec<u8>) -> Reply {
        if octets.len() <= SHORT {
            return Reply { octets, held: None };
        }
        let backlog = &self.backlog;
        let Ok(place) = backlog.limit.take_some(self.claim(client), octets.len()) else {
            self.shorten(client, &mut octets);
            return Reply { octets, held: None };
        };
        let len = i64::try_from(octets.len()).unwrap_or(i64::MAX);
        backlog.waiting.inc_by(len);
        Reply { octets, held: Some(Held { _place: place, octets: len, waiting: backlog.waiting.clone() }) }
    }

    fn shorten(&self, client: IpAddr, message: &mut Vec<u8>) {
        let ede = Ede::new(code::OTHER, "too many replies wait for this client to take them");
        let end = skip_name(message, HEADER).map_or(HEADER, |end| end.saturating_add(4));
        let question = message.get(HEADER..end).unwrap_or_default().to_vec();
        let name = question.get(..question.len().saturating_sub(4)).unwrap_or_default();
        let qtype = u16_at(&question, name.len()).unwrap_or(0);
        self.metrics.refuse("backlog");
        self.note(client, name, qtype, "backlog", &ede);
        // The guard's own replies have OPT as their last record, and no other in ADDITIONAL.
        let edns = (u16_at(message, 10) == Some(1)).then_some(ClientEdns { size: 0, dnssec_ok: false, cookie: None });
        let head = ReplyHead {
            id: u16_at(message, 0).unwrap_or(0),
            flags: u16_at(message, 2).unwrap_or(0) & (flag::RD | flag::CD),
            octets: &question,
            edns,
            limit: SHORT,
        };
        let mut short = Vec::with_capacity(SHORT);
        reply::error(rcode::SERVFAIL, &head, Some(&ede), &mut short);
        *message = short;
    }
}
