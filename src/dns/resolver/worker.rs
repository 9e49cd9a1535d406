//! Questions forwarded over plain UDP by the worker that received them. No task, no wait: a state for each question, moved by what arrives.
//!
//! ```text
//!  begin() -> Asking --response--> judged --opens nothing--> reply
//!               |  ^                  | opens addresses
//!      time over, |                   v
//!      error, fault, next query    AtGate --the core's decision--> reply
//! ```
//!
//! Who is asked, and when, says the question's [`Race`]; the worker drives it, as a task does elsewhere. What needs more than datagrams goes on as a task of its own
//! ([`Resolver::run`], [`Resolver::resume`], [`Resolver::resume_with`]): a query over a stream (the race goes along), an alias that leads on, a group with another transport, an entry that is
//! only to be admitted again, a stale answer at hand, a list's own data, a local zone, answers that are to be validated.
//!
//! Everything that one turn of the worker has for a socket, and for the core, leaves together at the turn's end. The number of questions is bounded by the
//! places in flight, as everywhere.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::core::event::{Admission, Decision, Refusal};
use crate::core::person::Who;
use crate::core_task::{Mailbox, NotTaken};
use crate::dns::checked::Checked;
use crate::dns::resolver::draft::{Audience, Draft, draft_checked};
use crate::dns::resolver::follow::is_incomplete;
use crate::dns::resolver::origin::Origin;
use crate::dns::resolver::pending::{Outbox, Pending, Route};
use crate::dns::resolver::settle::Opened;
use crate::dns::resolver::{Missed, Resolver, Turn};
use crate::dns::upstream::judgement::{Judgement, Manner, Sent, judge};
use crate::dns::upstream::query::{Fit, Query, lower_question};
use crate::dns::upstream::race::{Ask, End, Order, Race, Trouble};
use crate::dns::upstream::transport::udp::{Attempt, Claim, Failed, UdpSockets};
use crate::dns::upstream::{AskError, explored};
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

/// A question whose response is awaited.
struct Asking {
    race: Race,
    /// The queries that were sent from here, by their place in the race.
    sent: SmallVec<[Option<SentQuery>; 2]>,
}

/// A query that was sent.
#[derive(Clone, Copy)]
struct SentQuery {
    ask: Ask,
    claim: Claim,
    at: Instant,
}

/// A judged answer that waits for its addresses.
struct AtGate {
    draft: Draft,
    generation: u64,
    started: Instant,
    client: IpAddr,
    tried: Vec<IpAddr>,
}

/// One box holds a forwarded from its begin to its end.
#[allow(clippy::large_enum_variant)]
enum Stage {
    Asking(Asking),
    AtGate(AtGate),
    /// It is over.
    Over,
}

struct Forwarded {
    pending: Pending,
    stage: Stage,
}

/// A place for a forwarded. `serial` tells those apart that had it one after the other.
#[derive(Default)]
struct Slot {
    serial: u32,
    /// When something is to be done though nothing arrives.
    due: Option<Instant>,
    forwarded: Option<Box<Forwarded>>,
}

/// The questions that one worker forwards.
pub struct Forwarder {
    resolver: Arc<Resolver>,
    socket: Arc<UdpSocket>,
    lines: UdpSockets,
    mailbox: Arc<Mailbox>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Orders of this turn, by the origin and the address of their group in it.
    orders: Vec<((u64, usize), Arc<Order>)>,
    /// For the core, at the end of the turn; it stays when the core has no room.
    batch: Vec<(u64, Admission)>,
    decisions: Vec<(u64, Decision)>,
    failed: Vec<Failed>,
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
            lines: UdpSockets::new(workers),
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

    /// Questions that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// A turn begins.
    pub fn begin_turn(&mut self) {
        self.now = Instant::now();
        self.orders.clear();
    }

    /// Takes a question that must wait. `poll` and `token`: as in [`UdpSockets::ask`].
    pub fn begin(
        &mut self,
        missed: &Missed<'_>,
        who: &Who,
        route: Route,
        turn: &Turn<'_>,
        (poll, token): (&Poll, u64),
        sending: &mut Sending,
    ) {
        let views = turn.rules.views.clone();
        let Some(pending) = self.resolver.join(missed, who, route, missed.key.clone(), (views, self.now)) else {
            return;
        };
        let resolver = self.resolver.clone();
        let origin = pending.origin.clone();
        let group = origin.upstreams.plain_group(&pending.query);
        let plain = !missed.kept
            && !missed.local_data
            && origin.validator.is_none()
            && !pending.zones.answers(&pending.query.name);
        let Some(group) = group.filter(|_| plain) else {
            resolver.runtime.spawn(resolver.clone().run(pending));
            return;
        };
        if resolver.kept_stale(&pending.key, turn.rules.generation, turn.now).is_some() {
            resolver.runtime.spawn(resolver.clone().run(pending));
            return;
        }
        let order = explored(&self.order(&origin, group));
        let race = Race::new(order, pending.query.dnssec_ok, self.now);
        let asking = Asking { race, sent: SmallVec::new() };
        let forwarded = Box::new(Forwarded { pending, stage: Stage::Asking(asking) });
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len().saturating_sub(1)).unwrap_or(u32::MAX)
            }
        };
        let Some(slot) = self.slot(at) else { return };
        slot.forwarded = Some(forwarded);
        let number = number(slot.serial, at);
        self.advance(number, (poll, token), sending);
    }

    /// This turn's order of a group.
    fn order(&mut self, origin: &Origin, group: &[usize]) -> Arc<Order> {
        let key = (origin.epoch, group.as_ptr().addr());
        if let Some((_, order)) = self.orders.iter().find(|(other, _)| *other == key) {
            return order.clone();
        }
        let order = Arc::new(origin.upstreams.order(group, self.now));
        self.orders.push((key, order.clone()));
        order
    }

    fn slot(&mut self, at: u32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    /// The forwarded of this number, if it still goes on.
    fn forwarded(&mut self, number: u64) -> Option<&mut Forwarded> {
        forwarded(&mut self.slots, number)
    }

    /// Ends a forwarded: its place is free, what it asked is given up.
    fn take(&mut self, number: u64) -> Option<Box<Forwarded>> {
        let forwarded = self.take_quietly(number)?;
        if let Stage::Asking(asking) = &forwarded.stage {
            self.give_up(number, asking);
            forwarded.pending.origin.upstreams.settle(&asking.race, self.now);
        }
        Some(forwarded)
    }

    /// Ends a forwarded whose queries are seen to elsewhere.
    fn take_quietly(&mut self, number: u64) -> Option<Box<Forwarded>> {
        let (serial, at) = parts(number);
        let slot = self.slot(at).filter(|slot| slot.serial == serial)?;
        let forwarded = slot.forwarded.take()?;
        slot.serial = slot.serial.wrapping_add(1);
        slot.due = None;
        self.free.push(at);
        Some(forwarded)
    }

    /// Nothing that arrives for what was sent from here concerns it any more.
    fn give_up(&mut self, number: u64, asking: &Asking) {
        for (place, _, _) in asking.race.awaited() {
            if let Some(sent) = asking.sent.get(place).copied().flatten() {
                self.lines.give_up(sent.claim, Attempt { owner: number, place });
            }
        }
    }

    /// Does what a question's race wants: sends its queries, hands it over to a task for a stream, ends it.
    fn advance(&mut self, number: u64, poll: (&Poll, u64), sending: &mut Sending) {
        let now = self.now;
        loop {
            let Some(Forwarded { pending, stage: Stage::Asking(asking) }) = forwarded(&mut self.slots, number) else {
                return;
            };
            let Some(ask) = asking.race.poll_ask(now) else { break };
            if ask.manner.has(Manner::STREAM) {
                self.hand_over(number, ask);
                return;
            }
            let Some(server) = pending.origin.upstreams.server(ask.server) else { continue };
            server.note_query();
            let plain = ask.manner.has(Manner::PLAIN).then(|| Query { plain: true, ..pending.query.clone() });
            let query = plain.as_ref().unwrap_or(&pending.query);
            let attempt = Attempt { owner: number, place: ask.place };
            match self.lines.ask((&ask, server.target), query, attempt, now, poll) {
                Ok(claim) => {
                    // A query that could not be sent leaves its place empty.
                    asking.sent.resize(ask.place, None);
                    asking.sent.push(Some(SentQuery { ask, claim, at: now }));
                }
                Err(error) => {
                    let upstreams = &pending.origin.upstreams;
                    upstreams.note_trouble(ask, Trouble::Ours, &error.to_string(), &pending.query.name, now);
                    asking.race.on_error(ask.place, Trouble::Ours, now);
                }
            }
        }
        let Some(Forwarded { stage: Stage::Asking(asking), .. }) = forwarded(&mut self.slots, number) else { return };
        let due = asking.race.poll_timeout();
        let word = due.is_none().then(|| asking.race.last_word());
        let (_, at) = parts(number);
        if let Some(slot) = self.slot(at) {
            slot.due = due;
        }
        match word {
            None => {}
            Some(Ok(mut message)) => {
                lower_question(&mut message);
                let checked = std::panic::catch_unwind(AssertUnwindSafe(|| Checked::read(&message)));
                self.conclude(number, Ok(checked.unwrap_or(Checked::Malformed)), sending);
            }
            Some(Err(error)) => self.conclude(number, Err(error), sending),
        }
    }

    /// Lets a task go on with a question, beginning with this query, which needs a stream.
    fn hand_over(&mut self, number: u64, ask: Ask) {
        let Some(forwarded) = self.take_quietly(number) else { return };
        let Forwarded { pending, stage: Stage::Asking(asking) } = *forwarded else { return };
        self.give_up(number, &asking);
        let mut race = asking.race;
        race.forget_but(ask.place);
        self.resolver.runtime.spawn(self.resolver.clone().resume(pending, race, ask));
    }

    /// Takes what arrived on a line.
    pub fn read_line(&mut self, line: usize, poll: (&Poll, u64), sending: &mut Sending) {
        // Made once: so much fresh memory for each batch would cost more than the batch.
        let mut received = self.received.take().unwrap_or_default();
        for _ in 0..BATCHES {
            let count = self.lines.receive(line, &mut received, &mut self.failed);
            for place in 0..count {
                let Some(message) = received.get_mut(place) else { break };
                let answered = self.lines.answers(line, message, self.now, &mut self.failed);
                if !matches!(answered, Some((_, Fit::Exact | Fit::Bare))) {
                    self.resolver.metrics.upstream_mismatch.inc();
                }
                if let Some((attempt, fit)) = answered {
                    lower_question(message);
                    self.replied(attempt, (message, fit), poll, sending);
                }
            }
            if count < crate::sys::connected::BATCH {
                break;
            }
        }
        self.received = Some(received);
    }

    /// A server replied.
    fn replied(&mut self, attempt: Attempt, (message, fit): (&[u8], Fit), poll: (&Poll, u64), sending: &mut Sending) {
        let now = self.now;
        let Some(Forwarded { pending, stage: Stage::Asking(asking) }) = forwarded(&mut self.slots, attempt.owner)
        else {
            return;
        };
        let Some(SentQuery { ask, at, .. }) = asking.sent.get_mut(attempt.place).and_then(Option::take) else { return };
        let upstreams = &pending.origin.upstreams;
        if let Some(server) = upstreams.server(ask.server) {
            server.note_reply(now.saturating_duration_since(at), now);
        }
        let sent = Sent { name: &pending.query.name, qtype: pending.query.qtype, manner: ask.manner };
        // A defect in judging one reply must not take the worker with it.
        let Ok(judgement) = std::panic::catch_unwind(AssertUnwindSafe(|| judge(message, fit, sent))) else {
            tracing::error!("judging a reply failed");
            asking.race.on_error(ask.place, Trouble::Theirs, now);
            self.advance(attempt.owner, poll, sending);
            return;
        };
        asking.race.on_reply(ask.place, &judgement, message);
        match (judgement, asking.race.end()) {
            (Judgement::Useful(response), Some(End::Won(_))) => {
                upstreams.learn(&asking.race, now);
                self.conclude(attempt.owner, Ok(Checked::Response(response)), sending);
            }
            _ => self.advance(attempt.owner, poll, sending),
        }
    }

    /// Queries that have no reply, for whatever reason.
    fn take_failed(&mut self, poll: (&Poll, u64), sending: &mut Sending) {
        let mut failed = std::mem::take(&mut self.failed);
        for (attempt, trouble, kind) in failed.drain(..) {
            let Some(Forwarded { pending, stage: Stage::Asking(asking) }) = forwarded(&mut self.slots, attempt.owner)
            else {
                continue;
            };
            let Some(lost) = asking.sent.get_mut(attempt.place).and_then(Option::take) else { continue };
            let words = io::Error::from(kind).to_string();
            pending.origin.upstreams.note_trouble(lost.ask, trouble, &words, &pending.query.name, self.now);
            asking.race.on_error(attempt.place, trouble, self.now);
            self.advance(attempt.owner, poll, sending);
        }
        // What failed meanwhile is seen to in the next turn.
        failed.append(&mut self.failed);
        self.failed = failed;
    }

    /// The response is there, or there is none.
    fn conclude(&mut self, number: u64, asked: Result<Checked, AskError>, sending: &mut Sending) {
        let resolver = self.resolver.clone();
        let Some(Forwarded { pending, stage: Stage::Asking(asking) }) = forwarded(&mut self.slots, number) else {
            return;
        };
        // Judged by the rules of now: they may have changed while the upstream thought.
        let rules = resolver.rules.load();
        let query = &pending.query;
        let view = pending.key.view();
        let same = pending.is_of(&rules, None);
        if !same {
            drop(rules);
            if let Some(forwarded) = self.take(number) {
                resolver.begin_anew(&forwarded.pending);
            }
            return;
        }
        let judged = match asked {
            Err(error) => Ok(Ok(Draft::unanswered(query, error))),
            // A defect in judging one answer must not take the worker with it.
            Ok(checked) => std::panic::catch_unwind(AssertUnwindSafe(|| {
                let upstreams = &pending.origin.upstreams;
                let incomplete = |response: &_| is_incomplete(query, response, upstreams, &rules, view);
                if matches!(&checked, Checked::Response(response) if incomplete(response)) {
                    return Err(checked);
                }
                Ok(draft_checked(query, checked, &rules, Audience::from(&pending.key)))
            })),
        };
        let generation = rules.generation;
        drop(rules);
        let until = asking.race.ends_at();
        pending.origin.upstreams.settle(&asking.race, self.now);
        let kept = resolver.is_current(&pending.origin);
        for (place, _, _) in asking.race.awaited() {
            if let Some(sent) = asking.sent.get(place).copied().flatten() {
                self.lines.give_up(sent.claim, Attempt { owner: number, place });
            }
        }
        let mut draft = match judged {
            Ok(Ok(draft)) => draft,
            Ok(Err(checked)) => {
                if let Some(forwarded) = self.take_quietly(number) {
                    self.resolver.runtime.spawn(resolver.resume_with(forwarded.pending, checked, until));
                }
                return;
            }
            Err(_) => {
                tracing::error!("judging an answer failed");
                // Its end tells those who wait.
                if let Some(mut forwarded) = self.take_quietly(number) {
                    forwarded.pending.leave(&mut Outbox::Together(&self.socket, sending, self.now));
                }
                return;
            }
        };
        if !kept {
            draft.keep = 0;
        }
        if draft.unrelated > 0 {
            resolver.metrics.unrelated_records.inc_by(u64::try_from(draft.unrelated).unwrap_or(0));
        }
        if resolver.rules.load().audit {
            if let Some(forwarded) = self.take_quietly(number) {
                let outbox = &mut Outbox::Together(&self.socket, sending, self.now);
                resolver.settle_audit(&forwarded.pending, draft, generation, outbox);
            }
            return;
        }
        if draft.would.is_some() {
            // The mode was switched, and enforcement says otherwise.
            if let Some(forwarded) = self.take_quietly(number) {
                resolver.begin_anew(&forwarded.pending);
            }
            return;
        }
        if draft.again.is_none() {
            if let Some(forwarded) = self.take_quietly(number) {
                let outbox = &mut Outbox::Together(&self.socket, sending, self.now);
                resolver.settle_without_gate(&forwarded.pending, draft, generation, outbox);
            }
            return;
        }
        let at_gate =
            AtGate { draft, generation, started: self.now, client: IpAddr::from([0, 0, 0, 0]), tried: Vec::new() };
        let (_, at) = parts(number);
        if let Some(slot) = self.slot(at)
            && let Some(forwarded) = slot.forwarded.as_deref_mut()
        {
            slot.due = None;
            forwarded.stage = Stage::AtGate(at_gate);
        }
        self.meet_gate(number);
    }

    /// Asks the core in the name of the next client that waits.
    fn meet_gate(&mut self, number: u64) {
        let resolver = self.resolver.clone();
        let Some(Forwarded { pending, stage: Stage::AtGate(gate) }) = self.forwarded(number) else { return };
        let tried = |client: &IpAddr| gate.tried.contains(client);
        match (resolver.next_client(pending, tried), &gate.draft.again) {
            (Some(who), Some(again)) => {
                gate.client = who.address;
                let admission = resolver.admission(again, &who, gate.generation);
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
                let Some(Forwarded { pending, stage: Stage::AtGate(gate) }) = self.forwarded(number) else { return };
                let client = gate.client;
                gate.tried.push(client);
                let opened = Opened { leases, short: Some(Refusal::PerClient) };
                resolver.let_part_through(pending, &gate.draft, opened, client, gate.generation, outbox);
                self.meet_gate(number);
            }
            Decision::Release { leases, short } => {
                let Some(mut forwarded) = self.take(number) else { return };
                let Stage::AtGate(gate) = std::mem::replace(&mut forwarded.stage, Stage::Over) else { return };
                let opened = Opened { leases, short };
                resolver.let_through(&forwarded.pending, gate.draft, opened, gate.generation, gate.started, outbox);
            }
            Decision::Refuse(refusal) => {
                let Some(Forwarded { pending, stage: Stage::AtGate(gate) }) = self.forwarded(number) else { return };
                let client = gate.client;
                gate.tried.push(client);
                if resolver.turn_away(pending, &gate.draft, &refusal, client, gate.generation, outbox) {
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
        self.lines.flush(self.now, poll, &mut self.failed);
        if !self.failed.is_empty() {
            self.take_failed(poll, sending);
            self.lines.flush(self.now, poll, &mut self.failed);
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
            let Some(slot) = self.slots.get_mut(at) else { return };
            if slot.due.is_none_or(|due| due > now) {
                continue;
            }
            let number = number(slot.serial, u32::try_from(at).unwrap_or(u32::MAX));
            let Some(Forwarded { pending, stage: Stage::Asking(asking) }) = slot.forwarded.as_deref_mut() else {
                continue;
            };
            let upstreams = &pending.origin.upstreams;
            asking.race.handle_timeout(now, |server, sent| upstreams.note_late(server, sent, &pending.query.name, now));
            self.advance(number, poll, sending);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // The daemon stops: nobody is told, their clients ask again.
        for forwarded in self.slots.iter_mut().filter_map(|slot| slot.forwarded.take()) {
            drop(self.resolver.finish(&forwarded.pending));
        }
    }
}

/// The forwarded of this number, if it still goes on.
fn forwarded(slots: &mut [Slot], number: u64) -> Option<&mut Forwarded> {
    let (serial, at) = parts(number);
    let slot = slots.get_mut(usize::try_from(at).ok()?).filter(|slot| slot.serial == serial)?;
    slot.forwarded.as_deref_mut()
}

fn number(serial: u32, at: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(at)
}

fn parts(number: u64) -> (u32, u32) {
    (u32::try_from(number >> 32).unwrap_or(0), u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0))
}
