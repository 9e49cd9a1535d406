//! Questions that wait: who waits for which, and how their replies leave.

use std::hash::RandomState;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use tokio::sync::mpsc;

use crate::control::query_log::{Fate, Tapped};
use crate::core::event::Refusal;
use crate::core::name::Name;
use crate::core::person::Who;
use crate::core::policy::list::LocalData;
use crate::core::policy::view::Views;
use crate::core::way::Way;
use crate::dns::Rules;
use crate::dns::cache::{Entry, Key};
use crate::dns::codec::ede::{self, Ede, code};
use crate::dns::codec::query::Question;
use crate::dns::codec::reply::{self, ReplyTo};
use crate::dns::codec::wire::rcode;
use crate::dns::limits::{Full, Place};
use crate::dns::resolver::noted::{Asked, End};
use crate::dns::resolver::origin::Origin;
use crate::dns::resolver::unsent::Reply;
use crate::dns::resolver::{Missed, Resolver, head_of};
use crate::dns::upstream::TOTAL;
use crate::dns::upstream::query::Query;
use crate::dns::zones::Zones;
use crate::sys::udp::{self, Local, Sending};

/// By the octets of the question's [`Key`].
type Askers = HashMap<Box<[u8]>, Vec<Asker>, RandomState>;

/// Who waits. Bounded by the places in flight.
#[derive(Default)]
pub(in crate::dns) struct Waiters {
    epoch: u64,
    now: Askers,
    /// Who asked while other origins were in force, by their epochs; none is empty.
    before: Vec<(u64, Askers)>,
}

impl Waiters {
    /// For questions to origins of this epoch on.
    pub(in crate::dns) fn new(epoch: u64) -> Mutex<Self> {
        Mutex::new(Self { epoch, ..Self::default() })
    }

    fn of(&mut self, pending: &Pending) -> Option<&mut Vec<Asker>> {
        let epoch = pending.origin.epoch;
        let askers = if epoch == self.epoch {
            &mut self.now
        } else {
            &mut self.before.iter_mut().find(|(other, _)| *other == epoch)?.1
        };
        askers.get_mut(pending.key.octets())
    }

    fn remove(&mut self, pending: &Pending) -> Option<Vec<Asker>> {
        let epoch = pending.origin.epoch;
        if epoch == self.epoch {
            return self.now.remove(pending.key.octets());
        }
        let place = self.before.iter().position(|(other, _)| *other == epoch)?;
        let (_, askers) = self.before.get_mut(place)?;
        let removed = askers.remove(pending.key.octets());
        if askers.is_empty() {
            drop(self.before.swap_remove(place));
        }
        removed
    }
}

/// How many of the last who joined a question are looked through for the same client's retransmission.
const LOOK_BACK: usize = 16;

/// How a reply reaches its client.
#[derive(Clone)]
pub enum Route {
    /// From this socket.
    Udp {
        /// The socket that received the question.
        socket: Arc<UdpSocket>,
        /// The client's address and port, where the reply goes.
        peer: SocketAddr,
        /// The address that was asked.
        local: Option<Local>,
    },
    /// Through the writer of this client's connection. Its channel has room for every question in flight on the connection.
    Stream(mpsc::Sender<Reply>, IpAddr),
}

/// A question that waits.
pub struct Asker {
    /// What the reply needs.
    pub to: ReplyTo,
    /// The one who asked, in whose view the answer is judged.
    pub who: Who,
    /// Where the reply goes.
    pub route: Route,
    /// In audit: the question would have been refused, and that is noted.
    pub noted: bool,
    place: Place,
    since: Instant,
}

impl Asker {
    /// As the query log has it.
    pub(in crate::dns) fn asked<'a>(&'a self, query: &'a Query, now: Instant) -> Asked<'a> {
        let (name, took) = (query.name.wire(), now.saturating_duration_since(self.since));
        let stream = matches!(self.route, Route::Stream(..));
        Asked { who: &self.who, stream, name, qtype: query.qtype, took, noted: self.noted }
    }

    fn is_same(&self, other: &Self) -> bool {
        let same_route = match (&self.route, &other.route) {
            (Route::Udp { peer, .. }, Route::Udp { peer: other, .. }) => peer == other,
            _ => false,
        };
        same_route && self.to.id == other.to.id
    }
}

/// One question on its way. However its task ends, by a panic too, nobody is left waiting for it.
pub(in crate::dns) struct Pending {
    pub(in crate::dns) resolver: Arc<Resolver>,
    pub(in crate::dns) key: Key,
    /// What the key's view means.
    pub(in crate::dns) views: Arc<Views>,
    /// Those that may answer it.
    pub(in crate::dns) zones: Arc<Zones>,
    /// Who is asked.
    pub(in crate::dns) origin: Arc<Origin>,
    pub(in crate::dns) query: Query,
    pub(in crate::dns) sponsor: Option<Sponsor>,
    /// Nobody waits for it any more; who waits for the same question now has a pending of their own.
    over: AtomicBool,
}

/// The client in whose name something is prefetched, and its place.
pub(in crate::dns) struct Sponsor {
    pub(in crate::dns) who: Who,
    _place: Place,
}

impl Pending {
    /// Whether these rules are those it began under, as far as it goes: they have the same views for the same clients, and would have asked the same,
    /// the lists themselves having this `data` for the question.
    pub(in crate::dns) fn is_of(&self, rules: &Rules, data: Option<&[LocalData]>) -> bool {
        let same_zones = Arc::ptr_eq(&rules.zones, &self.zones) || rules.zones.are_same(&self.zones);
        same_zones && self.has_views_of(rules, data)
    }

    fn has_views_of(&self, rules: &Rules, data: Option<&[LocalData]>) -> bool {
        Arc::ptr_eq(&rules.views, &self.views)
            || (rules.views.same_clients(&self.views) && rules.local_data(self.key.view(), &self.query.name) == data)
    }

    /// Tells those who wait that it can't go on.
    pub(in crate::dns) fn leave(&mut self, outbox: &mut Outbox<'_>) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        let left = self.resolver.finish(self);
        if left.is_empty() {
            return;
        }
        let ede = Ede::new(code::OTHER, "an error within the guard");
        for asker in left {
            self.resolver.metrics.refuse("internal");
            let query = &self.query;
            self.resolver.refusals.push(asker.who.address, &query.name, query.qtype, "internal", &ede.text, ede.code);
            let write = |out: &mut Vec<u8>| reply::error(rcode::SERVFAIL, &asker.to.head(), Some(&ede), out);
            self.resolver.post(&asker.route, outbox, write);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.leave(&mut Outbox::Now);
    }
}

/// When replies leave.
pub(in crate::dns) enum Outbox<'a> {
    /// One by one, at once.
    Now,
    /// Those from this socket together, when its worker sends them; with the time at which its turn began.
    Together(&'a Arc<UdpSocket>, &'a mut Sending, Instant),
}

impl Outbox<'_> {
    /// The time, as exactly as those need it who send this way.
    pub(in crate::dns) fn now(&self) -> Instant {
        match self {
            Self::Now => Instant::now(),
            Self::Together(_, _, now) => *now,
        }
    }
}

impl Resolver {
    /// Takes a question that must wait. The reply goes out by `route`.
    pub fn submit(self: &Arc<Self>, missed: &Missed<'_>, who: &Who, route: Route) {
        let views = self.rules.load().views.clone();
        let key = missed.key.clone().in_view(views.of_who(who));
        if let Some(pending) = self.join(missed, who, route, key, (views, Instant::now())) {
            self.runtime.spawn(self.clone().run(pending));
        }
    }

    /// Lets a question wait. The pending to be begun for it, unless it is refused, or joins one that is on its way already.
    pub(in crate::dns) fn join(
        self: &Arc<Self>,
        missed: &Missed<'_>,
        who: &Who,
        route: Route,
        key: Key,
        (views, now): (Arc<Views>, Instant),
    ) -> Option<Pending> {
        let client = who.address;
        let question = &missed.question;
        let stream = matches!(route, Route::Stream(..));
        let head = head_of(question, stream);
        let whose = self.claim_for(client, &missed.name);
        let place = match self.in_flight.take(whose) {
            Ok(place) => place,
            Err(full) => {
                let (reason, text) = match full {
                    Full::Total => ("overload", "too many questions wait"),
                    Full::Client => ("client_overload", "too many questions of this client wait"),
                    Full::Domain => ("domain_overload", "too many questions for this domain wait"),
                };
                self.metrics.refuse(reason);
                let ede = Ede::new(code::OTHER, text);
                self.note(client, question.name.wire(), question.qtype, reason, &ede);
                let end = End { fate: Fate::Refused, rcode: rcode::SERVFAIL, why: Some(text) };
                self.log(Asked::now(question, who, stream), &end);
                let mut out = Vec::with_capacity(128);
                reply::error(rcode::SERVFAIL, &head, Some(&ede), &mut out);
                self.send(&route, out);
                return None;
            }
        };
        let name = missed.name.clone();
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let to = ReplyTo {
            id: question.id,
            flags: question.flags,
            octets: question.octets.into(),
            edns: question.edns,
            limit: head.limit,
        };
        let asker = Asker { to, who: who.clone(), route, noted: missed.noted, place, since: now };
        let origin = self.wait(&key, asker)?;
        let checking_disabled = key.is_unchecked();
        let query = Query { name, qtype: question.qtype, dnssec_ok, checking_disabled, plain: false, whose };
        let over = AtomicBool::new(false);
        let zones = self.rules.load().zones.clone();
        Some(Pending { resolver: self.clone(), key, views, zones, origin, query, sponsor: None, over })
    }

    /// Lets somebody wait. Who is to be asked, unless that is done already.
    fn wait(&self, key: &Key, asker: Asker) -> Option<Arc<Origin>> {
        let mut waiters = self.waiters();
        match waiters.now.entry_ref(key.octets()) {
            EntryRef::Occupied(mut pending) => {
                let waiting = pending.get_mut();
                self.metrics.coalesced.inc();
                // A retransmission is answered once: by the reply to the first.
                if !waiting.iter().rev().take(LOOK_BACK).any(|other| other.is_same(&asker)) {
                    waiting.push(asker);
                }
                return None;
            }
            EntryRef::Vacant(free) => drop(free.insert(vec![asker])),
        }
        self.metrics.in_flight.inc();
        Some(self.origin.load_full())
    }

    /// Puts another origin in force: who asks from now on waits for what that says.
    pub(in crate::dns) fn replace(&self, origin: Arc<Origin>) {
        let mut waiters = self.waiters();
        let (epoch, askers) = (waiters.epoch, std::mem::take(&mut waiters.now));
        if !askers.is_empty() {
            waiters.before.push((epoch, askers));
        }
        waiters.epoch = origin.epoch;
        // After a change that was taken back at once some wait for it yet.
        if let Some(place) = waiters.before.iter().position(|(other, _)| *other == origin.epoch) {
            waiters.now = waiters.before.swap_remove(place).1;
        }
        self.origin.store(origin);
    }

    /// The rules changed while a question was on its way, so that nobody can say any more by which it was to be judged, or another one is to be asked:
    /// whoever waits asks again, under those of now.
    pub(in crate::dns) fn begin_anew(self: &Arc<Self>, pending: &Pending) {
        let old = &pending.query;
        for asker in self.finish(pending) {
            if asker.since.elapsed() >= TOTAL {
                self.metrics.refuse("reloaded");
                let ede = Ede::new(code::OTHER, "the policy changed meanwhile");
                self.refusals.push(asker.who.address, &old.name, old.qtype, "reloaded", &ede.text, ede.code);
                let end = End { fate: Fate::Failed, rcode: rcode::SERVFAIL, why: Some(&ede.text) };
                self.log(asker.asked(old, Instant::now()), &end);
                let write = |out: &mut Vec<u8>| reply::error(rcode::SERVFAIL, &asker.to.head(), Some(&ede), out);
                self.post(&asker.route, &mut Outbox::Now, write);
                continue;
            }
            let (views, zones) = {
                let rules = self.rules.load();
                (rules.views.clone(), rules.zones.clone())
            };
            let key = Key::new(old.name.wire(), old.qtype, old.dnssec_ok).unchecked(pending.key.is_unchecked());
            let key = key.in_view(views.of_who(&asker.who));
            let key = self.setup.load().key_of(key, asker.who.address);
            let query = Query { whose: self.claim_for(asker.who.address, &old.name), ..old.clone() };
            let Some(origin) = self.wait(&key, asker) else { continue };
            let over = AtomicBool::new(false);
            let again = Pending { resolver: self.clone(), key, views, zones, origin, query, sponsor: None, over };
            self.runtime.spawn(self.clone().run(again));
        }
    }

    /// Asks again for what is about to end, on behalf of the client who used it last; nobody waits for it.
    pub(in crate::dns) fn prefetch(self: &Arc<Self>, key: Key, question: &Question<'_>, who: &Who) {
        let Ok(name) = Name::from_wire(question.name.wire()) else { return };
        let whose = self.claim_for(who.address, &name);
        let Ok(place) = self.in_flight.take(whose) else { return };
        let (views, zones) = {
            let rules = self.rules.load();
            (rules.views.clone(), rules.zones.clone())
        };
        if views.of_who(who) != key.view() {
            // Other groups since this packet arrived; then its entry is not to be renewed.
            return;
        }
        let origin = {
            let mut waiters = self.waiters();
            if waiters.now.contains_key(key.octets()) {
                return;
            }
            waiters.now.insert(key.octets().into(), Vec::new());
            self.origin.load_full()
        };
        self.metrics.in_flight.inc();
        self.metrics.cache_prefetches.inc();
        let dnssec_ok = question.edns.is_some_and(|edns| edns.dnssec_ok);
        let checking_disabled = self.unchecked(question.flags, question.qtype);
        let query = Query { name, qtype: question.qtype, dnssec_ok, checking_disabled, plain: false, whose };
        let sponsor = Some(Sponsor { who: who.clone(), _place: place });
        self.runtime.spawn(self.clone().run(Pending {
            resolver: self.clone(),
            key,
            views,
            zones,
            origin,
            query,
            sponsor,
            over: AtomicBool::new(false),
        }));
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody who waits for a pending, which is thereby over; later ones begin anew (and find the cache filled).
    pub(in crate::dns) fn finish(&self, pending: &Pending) -> Vec<Asker> {
        pending.over.store(true, Ordering::Relaxed);
        let taken = self.waiters().remove(pending);
        if taken.is_some() {
            self.metrics.in_flight.dec();
        }
        taken.unwrap_or_default()
    }

    /// A client that waits (or sponsors) and wasn't tried. Without one the pending ends here.
    pub(in crate::dns) fn next_client(&self, pending: &Pending, tried: impl Fn(&IpAddr) -> bool) -> Option<Who> {
        let mut waiters = self.waiters();
        let waiting = waiters.of(pending)?;
        let sponsor = pending.sponsor.as_ref().map(|sponsor| &sponsor.who);
        let next = waiting.iter().map(|asker| &asker.who).chain(sponsor).find(|who| !tried(&who.address));
        // One that was refused and asked again meanwhile is refused again.
        let next = next.or_else(|| waiting.first().map(|asker| &asker.who)).cloned();
        if next.is_none() {
            pending.over.store(true, Ordering::Relaxed);
            waiters.remove(pending);
            self.metrics.in_flight.dec();
        }
        next
    }

    /// On whose behalf a question is asked: who asked first, or for whom it is asked again.
    pub(in crate::dns) fn client_of(&self, pending: &Pending) -> IpAddr {
        let first = self.waiters().of(pending).and_then(|waiting| Some(waiting.first()?.who.address));
        let sponsor = pending.sponsor.as_ref().map(|sponsor| sponsor.who.address);
        first.or(sponsor).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    pub(in crate::dns) fn take_those_of(&self, pending: &Pending, client: IpAddr) -> Vec<Asker> {
        let mut waiters = self.waiters();
        let Some(waiting) = waiters.of(pending) else { return Vec::new() };
        waiting.extract_if(.., |asker| asker.who.address == client).collect()
    }

    pub(in crate::dns) fn release(&self, query: &Query, entry: &Entry, askers: Vec<Asker>, outbox: &mut Outbox<'_>) {
        tracing::trace!(name = %query.name, qtype = query.qtype, clients = askers.len(), "released");
        self.metrics.released.inc_by(u64::try_from(askers.len()).unwrap_or(0));
        for asker in &askers {
            self.note_filtered(entry, asker.who.address, query.name.wire(), query.qtype);
        }
        self.reply_all(query, entry, askers, None, outbox);
    }

    pub(in crate::dns) fn refuse_all(
        &self,
        query: &Query,
        entry: &Entry,
        askers: Vec<Asker>,
        (reason, words): (&'static str, &str),
        outbox: &mut Outbox<'_>,
    ) {
        let ede = entry.ede().map_or(code::OTHER, |ede| ede.code);
        for asker in &askers {
            self.metrics.refuse(reason);
            self.refusals.push(asker.who.address, &query.name, query.qtype, reason, words, ede);
        }
        self.reply_all(query, entry, askers, Some(words), outbox);
    }

    fn reply_all(&self, query: &Query, entry: &Entry, askers: Vec<Asker>, why: Option<&str>, outbox: &mut Outbox<'_>) {
        let now = outbox.now();
        let age = entry.age(self.clock.now());
        for asker in askers {
            let head = asker.to.head();
            self.log_entry(asker.asked(query, now), entry, Fate::Released, why);
            self.metrics.forwarded_seconds.observe(now.saturating_duration_since(asker.since).as_secs_f64());
            self.post(&asker.route, outbox, |out| {
                let (octets, ttls) = (entry.message.octets(), entry.message.ttls());
                if !reply::render(octets, ttls, age, &head, entry.ede(), out) {
                    self.note_too_long(asker.who.address, query.name.wire(), query.qtype);
                }
            });
            drop(asker.place);
        }
    }

    /// The gate said no.
    pub(in crate::dns) fn refuse_at_gate(
        &self,
        query: &Query,
        refusal: &Refusal,
        askers: Vec<Asker>,
        outbox: &mut Outbox<'_>,
    ) {
        let (ede, reason) = ede::of_refusal(refusal);
        let now = outbox.now();
        for asker in askers {
            let end = End { fate: Fate::Refused, rcode: rcode::SERVFAIL, why: Some(&ede.text) };
            self.log(asker.asked(query, now), &end);
            self.metrics.gate_refused.inc();
            self.metrics.refuse(reason);
            if matches!(refusal, Refusal::Deadline { .. }) {
                self.metrics.gate_timeouts.inc();
            }
            self.refusals.push(asker.who.address, &query.name, query.qtype, reason, &ede.text, ede.code);
            let write = |out: &mut Vec<u8>| reply::error(rcode::SERVFAIL, &asker.to.head(), Some(&ede), out);
            self.post(&asker.route, outbox, write);
        }
    }

    /// Sends what `write` appends.
    pub(in crate::dns) fn post(&self, route: &Route, outbox: &mut Outbox<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        if let (Route::Udp { socket, peer, local }, Outbox::Together(own, sending, _)) = (route, outbox)
            && Arc::ptr_eq(socket, own)
        {
            sending.push(*peer, *local, write);
            return;
        }
        let mut out = Vec::with_capacity(256);
        write(&mut out);
        self.send(route, out);
    }

    pub(in crate::dns) fn send(&self, route: &Route, message: Vec<u8>) {
        match route {
            Route::Udp { socket, peer, local } => {
                if let Err(error) = udp::send_one(socket.as_fd(), &message, *peer, *local) {
                    tracing::debug!(%peer, %error, "a reply could not be sent");
                    self.metrics.drop_packet("send_failed");
                }
                self.metrics.replies.count(Way::Udp, &message);
                self.query_log.tap(Tapped::datagram(true, *peer, local.map(|local| local.ip), &message));
            }
            Route::Stream(writer, client) => {
                // The client closed the connection, or doesn't read: its own loss.
                if writer.try_send(self.outgoing(*client, message)).is_err() {
                    self.metrics.drop_packet("stream_closed");
                }
            }
        }
    }
}
