//! Questions forwarded over plain UDP by the worker that received them. No task, no wait: a state for each question, moved by what arrives.
//!
//! ```text
//!  begin() -> Asking --response--> judged --opens nothing--> reply
//!               |  ^                  | opens addresses
//!      time over,  next server        v
//!      error, refusal              AtGate --the core's decision--> reply
//! ```
//!
//! The rules of asking are those of [`Upstreams::ask`](super::upstream::Upstreams::ask). What needs more than datagrams goes on as a task of its own
//! ([`Resolver::fly`], [`Resolver::land`]): a cut reply, an alias that leads on, a group with another transport, an entry that is only to be admitted again, a stale answer at hand, a list's
//! own data, a server without EDNS, answers that are to be validated.
//!
//! Everything that one turn of the worker has for a socket, and for the core, leaves together at the turn's end. The number of questions is bounded by the
//! places in flight, as everywhere.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::draft::{Checked, Draft, Whom, draft_checked};
use super::ede::{Ede, code};
use super::flights::{Flight, Outbox, Route};
use super::fly::Opened;
use super::follow::left_off;
use super::resolve::{Missed, Resolver, Turn};
use super::upstream::lines::{Attempt, Claim, Lines, Match};
use super::upstream::plain::Order;
use super::upstream::query::{Query, lower_question, refuses_edns};
use super::upstream::{ATTEMPTS, AskError, Asked, TOTAL, TOTAL_BROKEN, is_failure, is_truncated};
use crate::core::event::{Admission, Decision, Refusal};
use crate::core_task::{Mailbox, NotTaken};
use crate::sys::connected::Received;
use crate::sys::poll::{Bell, Poll};
use crate::sys::udp::Sending;

/// How exact the timers are while questions wait.
const TICK: Duration = Duration::from_millis(10);
/// How often sockets are looked at that may be closed.
const TIDY: Duration = Duration::from_secs(1);
/// Batches taken from one socket before the others have their turn.
const BATCHES: usize = 4;
/// Times that the core is asked in one turn: who was refused may be followed by another client that waits for the same.
const ROUNDS: usize = 4;

/// One query of a question.
#[derive(Clone, Copy)]
struct Try {
    server: usize,
    claim: Claim,
    sent: Instant,
}

/// A question whose response is awaited.
struct Asking {
    order: Arc<Order>,
    /// The queries that are still awaited, by their place.
    tries: [Option<Try>; ATTEMPTS],
    asked: usize,
    /// A reply that another server may better.
    failure: Option<Vec<u8>>,
    error: AskError,
    next_at: Instant,
    ends_at: Instant,
}

/// A judged answer that waits for its addresses.
struct AtGate {
    draft: Draft,
    generation: u64,
    started: Instant,
    client: IpAddr,
    tried: Vec<IpAddr>,
}

/// One box holds a journey from its begin to its end.
#[allow(clippy::large_enum_variant)]
enum Stage {
    Asking(Asking),
    AtGate(AtGate),
    /// It is over.
    Over,
}

struct Journey {
    flight: Flight,
    stage: Stage,
}

/// A place for a journey. `serial` tells those apart that had it one after the other.
#[derive(Default)]
struct Slot {
    serial: u32,
    /// When something is to be done though nothing arrives.
    due: Option<Instant>,
    journey: Option<Box<Journey>>,
}

/// The questions that one worker forwards.
pub struct Forwarder {
    resolver: Arc<Resolver>,
    socket: Arc<UdpSocket>,
    lines: Lines,
    mailbox: Arc<Mailbox>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Orders of this turn, by the address of their group.
    orders: Vec<(usize, Arc<Order>)>,
    /// For the core, at the end of the turn; it stays when the core has no room.
    batch: Vec<(u64, Admission)>,
    decisions: Vec<(u64, Decision)>,
    failed: Vec<(Attempt, io::ErrorKind)>,
    /// Room for what arrives; away while that is looked at.
    received: Option<Received>,
    now: Instant,
    ticked: Instant,
    tidied: Instant,
}

impl Forwarder {
    /// For the worker of this socket, one of so many.
    ///
    /// # Errors
    /// The kernel has no descriptor.
    pub fn new(resolver: Arc<Resolver>, socket: Arc<UdpSocket>, workers: usize) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            lines: Lines::new(&resolver.upstreams, workers),
            resolver,
            socket,
            mailbox: Mailbox::new()?,
            slots: Vec::new(),
            free: Vec::new(),
            orders: Vec::new(),
            batch: Vec::new(),
            decisions: Vec::new(),
            failed: Vec::new(),
            received: None,
            now,
            ticked: now,
            tidied: now,
        })
    }

    /// Rings when the core has decided something.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        self.mailbox.bell()
    }

    /// How long the worker may wait for something to arrive, at most `idle`.
    #[must_use]
    pub fn patience(&self, idle: Duration) -> Duration {
        match (self.batch.is_empty(), self.waiting()) {
            (false, _) => Duration::from_millis(1),
            (true, 0) => idle,
            (true, _) => TICK,
        }
    }

    fn waiting(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// A turn begins.
    pub fn begin_turn(&mut self) {
        self.now = Instant::now();
        self.orders.clear();
    }

    /// Takes a question that must wait. `poll` and `token`: as in [`Lines::ask`].
    pub fn begin(
        &mut self,
        missed: &Missed<'_>,
        client: IpAddr,
        route: Route,
        turn: &Turn<'_>,
        (poll, token): (&Poll, u64),
    ) {
        let views = turn.rules.views.clone();
        let Some(flight) = self.resolver.join(missed, client, route, missed.key.clone(), (views, self.now)) else {
            return;
        };
        let resolver = self.resolver.clone();
        let group = resolver.upstreams.plain_group(&flight.query);
        let plain = !missed.kept && !missed.local_data && resolver.validator.is_none();
        let Some(group) = group.filter(|_| plain) else {
            resolver.runtime.spawn(resolver.clone().fly(flight));
            return;
        };
        if resolver.kept_stale(&flight.key, turn.rules.generation, turn.now).is_some() {
            resolver.runtime.spawn(resolver.clone().fly(flight));
            return;
        }
        let order = self.order(group, &flight.query);
        let total = if order.all_broken { TOTAL_BROKEN } else { TOTAL };
        let ends_at = self.now + total;
        let asking = Asking {
            order: order.explored(),
            tries: [None; ATTEMPTS],
            asked: 0,
            failure: None,
            error: AskError::TimeOut,
            next_at: ends_at,
            ends_at,
        };
        let journey = Box::new(Journey { flight, stage: Stage::Asking(asking) });
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len().saturating_sub(1)).unwrap_or(u32::MAX)
            }
        };
        let Some(slot) = self.slot(at) else { return };
        slot.journey = Some(journey);
        let number = number(slot.serial, at);
        self.ask_next(number, false, (poll, token));
        let now = self.now;
        if let Some(slot) = self.slot(at)
            && let Some(Journey { stage: Stage::Asking(asking), .. }) = slot.journey.as_deref()
            && asking.tries.iter().all(Option::is_none)
        {
            // Nobody could be asked: the timers see to it.
            slot.due = Some(now);
        }
    }

    /// This turn's order of a group.
    fn order(&mut self, group: &[usize], query: &Query) -> Arc<Order> {
        let key = group.as_ptr().addr();
        if let Some((_, order)) = self.orders.iter().find(|(other, _)| *other == key) {
            return order.clone();
        }
        let order = Arc::new(self.resolver.upstreams.plain_order(group));
        self.resolver.upstreams.probe(&order, query, &self.resolver.runtime, self.now);
        self.orders.push((key, order.clone()));
        order
    }

    fn slot(&mut self, at: u32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    /// The journey of this number, if it still goes on.
    fn journey(&mut self, number: u64) -> Option<&mut Journey> {
        let (serial, at) = parts(number);
        let slot = self.slot(at).filter(|slot| slot.serial == serial)?;
        slot.journey.as_deref_mut()
    }

    /// Ends a journey: its place is free, what it asked is given up.
    fn take(&mut self, number: u64) -> Option<Box<Journey>> {
        let (serial, at) = parts(number);
        let slot = self.slot(at).filter(|slot| slot.serial == serial)?;
        let journey = slot.journey.take()?;
        slot.serial = slot.serial.wrapping_add(1);
        slot.due = None;
        self.free.push(at);
        if let Stage::Asking(asking) = &journey.stage {
            self.give_up(number, asking);
        }
        Some(journey)
    }

    fn give_up(&mut self, number: u64, asking: &Asking) {
        for (place, attempt) in asking.tries.iter().enumerate() {
            if let Some(attempt) = attempt {
                self.lines.give_up(attempt.claim, Attempt { flight: number, place });
                let after = self.now.saturating_duration_since(attempt.sent);
                self.resolver.upstreams.note_given_up(attempt.server, after);
            }
        }
    }

    /// Asks the next server: when the time for the last ones ran out the next usable one (or the only one again), after a bad reply or
    /// an error the next of all, but none a second time. Without one, and with nothing awaited, the question is at its end.
    fn ask_next(&mut self, number: u64, ran_out: bool, (poll, token): (&Poll, u64)) {
        let now = self.now;
        let (serial, at) = parts(number);
        let Some(slot) = self.slots.get_mut(usize::try_from(at).unwrap_or(usize::MAX)) else { return };
        let Some(journey) = slot.journey.as_deref_mut().filter(|_| slot.serial == serial) else { return };
        let Stage::Asking(asking) = &mut journey.stage else { return };
        let order = asking.order.clone();
        let alone = order.usable < 2;
        let mut ran_out = ran_out;
        while asking.asked < ATTEMPTS {
            let place = asking.asked;
            let next = if ran_out { place.checked_rem(order.usable).unwrap_or(0) } else { place };
            let Some(server) = order.servers.get(next).copied() else { break };
            asking.asked = asking.asked.saturating_add(1);
            let patience = self.resolver.upstreams.note_query(server, alone);
            let attempt = Attempt { flight: number, place };
            match self.lines.ask(server, &journey.flight.query, attempt, now, poll, token) {
                Ok(claim) => {
                    if let Some(entry) = asking.tries.get_mut(place) {
                        *entry = Some(Try { server, claim, sent: now });
                    }
                    asking.next_at = now + patience;
                    break;
                }
                Err(error) => {
                    self.resolver.upstreams.note_failure(server, &error.to_string());
                    asking.error = AskError::Network;
                    ran_out = false;
                }
            }
        }
        slot.due = Some(if asking.asked < ATTEMPTS { asking.next_at.min(asking.ends_at) } else { asking.ends_at });
    }

    /// Takes what arrived on a line.
    pub fn read_line(&mut self, line: usize, (poll, token): (&Poll, u64), sending: &mut Sending) {
        // Made once: so much fresh memory for each batch would cost more than the batch.
        let mut received = self.received.take().unwrap_or_default();
        for _ in 0..BATCHES {
            let count = self.lines.receive(line, &mut received, &mut self.failed);
            for place in 0..count {
                let Some(message) = received.get_mut(place) else { break };
                match self.lines.answers(line, message) {
                    Match::Response(attempt) => {
                        lower_question(message);
                        self.replied(attempt, message, false, (poll, token), sending);
                    }
                    Match::AskTcp(attempt) => {
                        if message.len() < crate::sys::connected::DATAGRAM {
                            self.resolver.metrics.upstream_mismatch.inc();
                        }
                        self.replied(attempt, message, true, (poll, token), sending);
                    }
                    Match::None => {
                        self.resolver.metrics.upstream_mismatch.inc();
                    }
                }
            }
            if count < crate::sys::connected::BATCH {
                break;
            }
        }
        self.received = Some(received);
    }

    /// A server replied.
    fn replied(
        &mut self,
        attempt: Attempt,
        message: &[u8],
        ask_tcp: bool,
        (poll, token): (&Poll, u64),
        sending: &mut Sending,
    ) {
        let now = self.now;
        let Some(Journey { stage: Stage::Asking(asking), .. }) = self.journey(attempt.flight) else { return };
        let Some(answered) = asking.tries.get_mut(attempt.place).and_then(Option::take) else { return };
        let failed = !ask_tcp && is_failure(message);
        if failed {
            asking.failure = Some(message.to_vec());
        }
        self.resolver.upstreams.note_reply(answered.server, now.saturating_duration_since(answered.sent));
        if ask_tcp || is_truncated(message) {
            let Some(journey) = self.take(attempt.flight) else { return };
            let Journey { flight, .. } = *journey;
            let cut = (!ask_tcp).then(|| message.to_vec());
            let resolver = self.resolver.clone();
            self.resolver.runtime.spawn(async move {
                let asked = resolver.upstreams.whole(answered.server, &flight.query, cut).await;
                resolver.land(flight, asked).await;
            });
        } else if failed {
            self.ask_next(attempt.flight, false, (poll, token));
            self.end_if_idle(attempt.flight, sending);
        } else {
            self.conclude(attempt.flight, Ok(message), sending);
        }
    }

    /// Queries that the network refused.
    fn take_failed(&mut self, poll: (&Poll, u64), sending: &mut Sending) {
        let mut failed = std::mem::take(&mut self.failed);
        for (attempt, kind) in failed.drain(..) {
            let Some(Journey { stage: Stage::Asking(asking), .. }) = self.journey(attempt.flight) else { continue };
            let Some(lost) = asking.tries.get_mut(attempt.place).and_then(Option::take) else { continue };
            asking.error = AskError::Network;
            self.resolver.upstreams.note_failure(lost.server, &io::Error::from(kind).to_string());
            self.ask_next(attempt.flight, false, poll);
            self.end_if_idle(attempt.flight, sending);
        }
        // What failed meanwhile is seen to in the next turn.
        failed.append(&mut self.failed);
        self.failed = failed;
    }

    /// Ends a question for which nothing is awaited any more.
    fn end_if_idle(&mut self, number: u64, sending: &mut Sending) {
        let Some(Journey { stage: Stage::Asking(asking), .. }) = self.journey(number) else { return };
        if asking.tries.iter().any(Option::is_some) {
            return;
        }
        let (failure, error) = (asking.failure.take(), asking.error);
        match failure {
            // An old server: the plain question of RFC 1035.
            Some(message) if refuses_edns(&message) => {
                let Some(journey) = self.take(number) else { return };
                let Journey { flight, .. } = *journey;
                let resolver = self.resolver.clone();
                self.resolver.runtime.spawn(async move {
                    let plain = Query { plain: true, ..flight.query.clone() };
                    let asked = resolver.upstreams.ask(&plain).await;
                    resolver.land(flight, asked).await;
                });
            }
            Some(message) => self.conclude(number, Ok(&message), sending),
            None => self.conclude(number, Err(error), sending),
        }
    }

    /// The response is there, or there is none.
    fn conclude(&mut self, number: u64, asked: Result<&[u8], AskError>, sending: &mut Sending) {
        let resolver = self.resolver.clone();
        let Some(Journey { flight, stage: Stage::Asking(asking) }) = self.journey(number) else { return };
        // Judged by the rules of now: they may have changed while the upstream thought.
        let rules = resolver.rules.load();
        let query = &flight.query;
        let view = flight.key.view();
        let same = flight.is_of(&rules, None);
        let judged = match asked {
            // Nobody can say any more whose rules this was to be judged by, or it has another answer now.
            _ if !same => {
                let ede = Ede::new(code::OTHER, "the policy changed meanwhile");
                Ok(Some(Draft::failure(query, "reloaded", ede)))
            }
            Err(error) => Ok(Some(Draft::unanswered(query, error))),
            // A defect in judging one answer must not take the worker with it.
            Ok(message) => std::panic::catch_unwind(AssertUnwindSafe(|| {
                let checked = Checked::read(message);
                let left_off = |response: &_| left_off(query, response, &rules, view).is_some();
                let ends = !matches!(&checked, Checked::Response(response) if left_off(response));
                ends.then(|| draft_checked(query, checked, &rules, Whom::from(&flight.key)))
            })),
        };
        let tries = asking.tries;
        let generation = rules.generation;
        drop(rules);
        for (place, attempt) in tries.into_iter().enumerate() {
            if let Some(attempt) = attempt {
                self.lines.give_up(attempt.claim, Attempt { flight: number, place });
                let after = self.now.saturating_duration_since(attempt.sent);
                self.resolver.upstreams.note_given_up(attempt.server, after);
            }
        }
        let draft = match judged {
            Ok(Some(draft)) => draft,
            Ok(None) => {
                let asked = asked.map(|message| Asked { message: message.to_vec() });
                if let Some(journey) = self.take_quietly(number) {
                    self.resolver.runtime.spawn(resolver.land(journey.flight, asked));
                }
                return;
            }
            Err(_) => {
                tracing::error!("judging an answer failed");
                // Its end tells those who wait.
                if let Some(mut journey) = self.take_quietly(number) {
                    journey.flight.leave(&mut Outbox::Together(&self.socket, sending, self.now));
                }
                return;
            }
        };
        if draft.unrelated > 0 {
            resolver.metrics.unrelated_records.inc_by(u64::try_from(draft.unrelated).unwrap_or(0));
        }
        if resolver.rules.load().audit {
            if let Some(journey) = self.take_quietly(number) {
                let outbox = &mut Outbox::Together(&self.socket, sending, self.now);
                resolver.settle_audit(&journey.flight, draft, generation, outbox);
            }
            return;
        }
        let draft = match self.journey(number) {
            Some(Journey { flight, .. }) => draft.enforced(&flight.query),
            None => return,
        };
        if draft.again.is_none() {
            if let Some(journey) = self.take_quietly(number) {
                let outbox = &mut Outbox::Together(&self.socket, sending, self.now);
                resolver.settle_without_gate(&journey.flight, draft, generation, outbox);
            }
            return;
        }
        let at_gate =
            AtGate { draft, generation, started: self.now, client: IpAddr::from([0, 0, 0, 0]), tried: Vec::new() };
        let (_, at) = parts(number);
        if let Some(slot) = self.slot(at)
            && let Some(journey) = slot.journey.as_deref_mut()
        {
            slot.due = None;
            journey.stage = Stage::AtGate(at_gate);
        }
        self.meet_gate(number);
    }

    /// Ends a journey whose queries were given up already.
    fn take_quietly(&mut self, number: u64) -> Option<Box<Journey>> {
        if let Some(Journey { stage: Stage::Asking(asking), .. }) = self.journey(number) {
            asking.tries = [None; ATTEMPTS];
        }
        self.take(number)
    }

    /// Asks the core in the name of the next client that waits.
    fn meet_gate(&mut self, number: u64) {
        let resolver = self.resolver.clone();
        let Some(Journey { flight, stage: Stage::AtGate(gate) }) = self.journey(number) else { return };
        let tried = |client: &IpAddr| gate.tried.contains(client);
        match (resolver.next_client(flight, tried), &gate.draft.again) {
            (Some(client), Some(again)) => {
                gate.client = client;
                let admission = Resolver::admission(again, client);
                self.batch.push((number, admission));
            }
            _ => drop(self.take(number)),
        }
    }

    /// Takes the core's decisions.
    pub fn take_decisions(&mut self, sending: &mut Sending) {
        let mut decisions = std::mem::take(&mut self.decisions);
        self.mailbox.take(&mut decisions);
        for (number, decision) in decisions.drain(..) {
            self.decided(number, decision, sending);
        }
        self.decisions = decisions;
    }

    fn decided(&mut self, number: u64, decision: Decision, sending: &mut Sending) {
        let resolver = self.resolver.clone();
        let socket = self.socket.clone();
        let outbox = &mut Outbox::Together(&socket, sending, self.now);
        match decision {
            Decision::Release { leases, short: Some(Refusal::PerClient) } => {
                let Some(Journey { flight, stage: Stage::AtGate(gate) }) = self.journey(number) else { return };
                let client = gate.client;
                gate.tried.push(client);
                let opened = Opened { leases, short: Some(Refusal::PerClient) };
                resolver.let_part_through(flight, &gate.draft, opened, client, gate.generation, outbox);
                self.meet_gate(number);
            }
            Decision::Release { leases, short } => {
                let Some(mut journey) = self.take(number) else { return };
                let Stage::AtGate(gate) = std::mem::replace(&mut journey.stage, Stage::Over) else { return };
                let opened = Opened { leases, short };
                resolver.let_through(&journey.flight, gate.draft, opened, gate.generation, gate.started, outbox);
            }
            Decision::Refuse(refusal) => {
                let Some(Journey { flight, stage: Stage::AtGate(gate) }) = self.journey(number) else { return };
                let client = gate.client;
                gate.tried.push(client);
                if resolver.turn_away(flight, &gate.draft, &refusal, client, gate.generation, outbox) {
                    self.meet_gate(number);
                } else {
                    drop(self.take(number));
                }
            }
        }
    }

    /// Sees to the timers, and sends what this turn has for the upstreams and the core.
    pub fn end_turn(&mut self, poll: (&Poll, u64), sending: &mut Sending) {
        if self.now.saturating_duration_since(self.ticked) >= TICK {
            self.ticked = self.now;
            self.see_to_timers(poll, sending);
        }
        if self.now.saturating_duration_since(self.tidied) >= TIDY {
            self.tidied = self.now;
            self.lines.tidy(self.now);
        }
        self.lines.flush(&mut self.failed);
        if !self.failed.is_empty() {
            self.take_failed(poll, sending);
            self.lines.flush(&mut self.failed);
        }
        self.ask_core(sending);
    }

    /// Asks the core, and takes what it decides at once.
    fn ask_core(&mut self, sending: &mut Sending) {
        for _ in 0..ROUNDS {
            if self.batch.is_empty() {
                return;
            }
            let batch = std::mem::take(&mut self.batch);
            let mut decided = std::mem::take(&mut self.decisions);
            match self.resolver.core.try_admit(batch, &self.mailbox, &mut decided) {
                Ok(()) => {}
                Err(NotTaken::Full(batch)) => self.batch = batch,
                Err(NotTaken::Stopped(batch)) => {
                    let stopping = Refusal::Enforcer { name: "guard".to_owned(), reason: "stopping".to_owned() };
                    decided.extend(batch.into_iter().map(|(number, _)| (number, Decision::Refuse(stopping.clone()))));
                }
            }
            let none = decided.is_empty();
            for (number, decision) in decided.drain(..) {
                self.decided(number, decision, sending);
            }
            self.decisions = decided;
            if none {
                return;
            }
        }
    }

    fn see_to_timers(&mut self, poll: (&Poll, u64), sending: &mut Sending) {
        let now = self.now;
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots.get(at) else { return };
            if slot.due.is_none_or(|due| due > now) {
                continue;
            }
            let number = number(slot.serial, u32::try_from(at).unwrap_or(u32::MAX));
            let over = match slot.journey.as_deref() {
                Some(Journey { stage: Stage::Asking(asking), .. }) => now >= asking.ends_at,
                _ => continue,
            };
            if over {
                self.conclude(number, Err(AskError::TimeOut), sending);
            } else {
                self.ask_next(number, true, poll);
                self.end_if_idle(number, sending);
            }
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // The daemon stops: nobody is told, their clients ask again.
        for journey in self.slots.iter_mut().filter_map(|slot| slot.journey.take()) {
            drop(self.resolver.land_all(&journey.flight));
        }
    }
}

fn number(serial: u32, at: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(at)
}

fn parts(number: u64) -> (u32, u32) {
    (u32::try_from(number >> 32).unwrap_or(0), u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0))
}
