//! The driver's part of confirming: asks the router, listens to the observer, sends probes, and says what became of it.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ipnet::IpNet;

use super::super::observed::{Observed, Whose};
use super::super::prober::{Forwards, Prober};
use super::super::{Shared, What};
use super::sampling::Sampling;
use super::{Task, Up};
use crate::config::{Confirm, GUARD, PeerConfig, Role, SpeakerConfig};
use crate::confirm::awaited::{Announced, Awaited};
use crate::confirm::learn::{self, Learner};
use crate::confirm::refresh::Ask;
use crate::confirm::{Confirmer, Seen, Warning};
use crate::session::Heard;
use crate::table::classes::Extra;
use crate::table::{Batch, index};
use crate::wire::EncodeContext;
use crate::wire::iana::{Families, Family};
use crate::wire::message::{Message, RefreshSubtype, RouteRefresh};

/// Time between two addresses that are probed to learn; Linux answers about one probe a second to each asker.
const TRIAL: Duration = Duration::from_millis(1500);
/// At most so many times that, for a router that answers none.
const TRIALS_MOST: u32 = 64;
/// How long one of them is probed.
const TRIAL_END: Duration = Duration::from_secs(2);
/// Routes announced within this time make the backlog.
const BACKLOG: Duration = Duration::from_millis(250);
/// So many addresses in a row without answer are worth a warning.
const MISSED: u32 = 3;
/// Answers to probes taken in one go.
const ANSWERS: usize = 64;
/// Between two lines of the log on routes that the router took back.
const SAID: Duration = Duration::from_secs(1);
/// Between two looks at what the router's TCP acknowledged, while something is not evident.
const LOOK: Duration = Duration::from_millis(500);
/// A router's TCP that acknowledges nothing for so long is said to be stuck.
const STUCK: Duration = Duration::from_secs(2);
/// Such a route leads nowhere (RFC 7999).
const BLACKHOLE: u32 = 0xffff_029a;
/// Words of the observer taken in one go.
const WORDS: usize = 4096;

/// What a peer's task has for its confirmations as long as it lives.
#[derive(Default)]
pub(super) struct Evidence {
    pub(super) prober: Option<Prober>,
    /// Why there is none although it would be of use.
    no_prober: Option<String>,
    learner: Learner,
    /// [`PeerConfig::patience`], or what it was changed to.
    patience: Duration,
    observer: Option<usize>,
    /// Any prefix was confirmed by itself in this session.
    pub(super) any_held: bool,
    /// Prefixes in a row that were given up since one was confirmed, and the last of them.
    pub(super) lost: (u32, Option<IpNet>),
    /// Next hops of both families.
    hops: [Option<IpAddr>; 2],
    sampling: Sampling,
    /// Whole confirmations that came behind the gate's deadline in a row, how long the last took, and whether any came in time.
    late: (u32, Duration, bool),
    stuck: Stuck,
    trial: Option<Trial>,
    next_trial: Option<Instant>,
    recent: (Option<Instant>, usize, usize),
    /// The newest word of the observer that was looked at, and its tables then.
    word: u64,
    tables: u64,
    /// The observer's view is to be compared with the table.
    compare: bool,
    /// Addresses that somebody waits for that were looked at.
    hurried: u64,
    /// When the last session ended.
    ended: Option<Instant>,
    /// When the log was last told of routes that were taken back, and how many were since.
    told: (Option<Instant>, usize),
}

/// Whether the router's TCP acknowledges what it is sent.
#[derive(Default)]
struct Stuck {
    /// The next look.
    next: Option<Instant>,
    /// Octets that were acknowledged when something was outstanding, and since when it is no more than that.
    since: Option<(u64, Instant)>,
    /// How many were outstanding.
    octets: u64,
}

/// An address that is probed to learn.
struct Trial {
    net: IpNet,
    generation: Option<u64>,
    evident: Option<Instant>,
    backlog: usize,
    awaited: Awaited,
}

impl Evidence {
    pub(super) fn new(config: &SpeakerConfig, peer: &PeerConfig) -> Self {
        let hops = [config.next_hop_ipv4.map(IpAddr::V4), config.next_hop_ipv6.map(IpAddr::V6)];
        let mut evidence = Self { patience: peer.patience, hops, ..Self::default() };
        if peer.role == Role::Observer && !peer.watches {
            return evidence;
        }
        let seen_by = if peer.watches { Some(&peer.name) } else { peer.observer.as_ref() };
        evidence.observer = seen_by.and_then(|name| config.peers.iter().position(|other| other.name == *name));
        if peer.confirm == Confirm::Probe || peer.learn {
            match Prober::new(peer) {
                Ok(prober) => evidence.prober = Some(prober),
                Err(error) => evidence.no_prober = Some(format!("no data-path probes: {error}")),
            }
        } else if peer.samples {
            match Prober::new(peer) {
                Ok(prober) => evidence.prober = Some(prober),
                Err(error) => tracing::debug!(peer = peer.name, %error, "no data-path probes"),
            }
        }
        evidence
    }

    /// A generation as a whole was confirmed so long after it was announced.
    pub(super) fn timed(&mut self, latency: Duration) {
        let (late, last, in_time) = &mut self.late;
        // Patience is a part of the deadline.
        if latency > self.patience.mul_f64(1.25) {
            (*late, *last) = (late.saturating_add(1), latency);
        } else {
            (*late, *in_time) = (0, true);
        }
    }

    /// Whether to look now at what the router's TCP has; `lags`: something is not evident yet.
    pub(super) fn is_to_look(&mut self, lags: bool, now: Instant) -> bool {
        if !lags {
            self.stuck = Stuck::default();
            return false;
        }
        let due = self.stuck.next.is_none_or(|at| at <= now);
        if due {
            self.stuck.next = Some(now + LOOK);
        }
        due
    }

    /// The router's TCP has so many octets of those that were written.
    pub(super) fn acknowledged(&mut self, written: u64, acked: u64, now: Instant) {
        self.stuck.octets = written.saturating_sub(acked);
        self.stuck.since = match self.stuck.since {
            _ if acked >= written => None,
            Some((before, since)) if before == acked => Some((before, since)),
            _ => Some((acked, now)),
        };
    }

    /// What keeps confirmations from coming in time.
    fn lateness(&self, peer: &PeerConfig, now: Instant) -> Option<Warning> {
        if let Some((_, since)) = self.stuck.since.filter(|(_, since)| now >= *since + STUCK) {
            return Some(Warning::failing(format!(
                "its TCP has acknowledged nothing for {} s, {} octets are on their way: packets are lost; large ones alone, so that the path MTU is \
                 smaller than this link's and nothing says so (ICMP filtered)?",
                now.saturating_duration_since(since).as_secs(),
                self.stuck.octets
            )));
        }
        let (late, took, in_time) = self.late;
        let wanted = if in_time { 2 } else { 1 };
        (late >= wanted).then(|| {
            Warning::failing(format!(
                "it confirms after {} ms (confirm = \"{}\"), and answers are given up after {} ms: raise gate.deadline, or find what is slow",
                took.as_millis(),
                peer.confirm,
                self.patience.mul_f64(1.25).as_millis()
            ))
        })
    }

    /// The next address that the router was seen to forward to.
    pub(super) async fn answered(&self) -> Forwards {
        match &self.prober {
            Some(prober) => prober.answered().await,
            None => std::future::pending().await,
        }
    }

    /// What to wait now after a confirmation.
    pub(super) fn settle(&self, peer: &PeerConfig) -> Duration {
        if peer.learn && peer.confirm != Confirm::Probe {
            self.learner.settle(self.backlog(), self.most())
        } else if peer.learn {
            // The probe has seen the packet go through.
            Duration::ZERO
        } else {
            peer.settle
        }
    }

    /// Most that is waited after the router's word, so that answers leave before the gate's deadline all the same.
    fn most(&self) -> Duration {
        learn::MOST.min(self.patience.mul_f64(0.875))
    }

    fn backlog(&self) -> usize {
        self.recent.1 + self.recent.2
    }

    /// A session ended.
    pub(super) fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// When the last session ended.
    pub(super) fn lost_session(&self) -> Option<Instant> {
        self.ended
    }

    /// Sends the probes that are due; without a prober they are lost, and what is waited for is given up like any other.
    fn probe(&mut self, confirmer: &mut Confirmer, now: Instant) {
        let trial = self.trial.iter_mut().flat_map(|trial| trial.awaited.probes(now)).map(|net| net.addr());
        let due: Vec<IpAddr> = confirmer.probes(now).into_iter().chain(trial).chain(self.sampling.probe(now)).collect();
        if let Some(prober) = &mut self.prober {
            due.into_iter().for_each(|address| prober.send(address, now));
        }
    }

    /// Tells the log of routes that were taken back.
    fn tell_lost(&mut self, peer: &PeerConfig, lost: &[IpNet], now: Instant) {
        self.told.1 += lost.len();
        let (at, count) = self.told;
        let Some(last) = lost.last().filter(|_| at.is_none_or(|at| now >= at + SAID)) else { return };
        tracing::warn!(peer = peer.name, count, %last, "the router took back routes that it had confirmed: announced again");
        self.told = (Some(now), 0);
    }

    fn count(&mut self, routes: usize, now: Instant) {
        let (since, newer, older) = &mut self.recent;
        let past = since.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if past >= BACKLOG {
            *older = if past < BACKLOG * 2 { *newer } else { 0 };
            *newer = 0;
            *since = Some(now);
        }
        *newer += routes;
    }

    /// A session came up.
    pub(super) fn fresh(&mut self) {
        self.trial = None;
        (self.sampling, self.late, self.stuck) = Default::default();
        self.any_held = false;
        self.lost = (0, None);
        self.word = 0;
        self.compare = false;
    }

    /// When there is something to do for a trial.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let trial = self.trial.as_ref().map(|trial| &trial.awaited);
        let trial = trial.and_then(|awaited| awaited.next_probe().into_iter().chain(awaited.next_end()).min());
        [trial, self.sampling.poll_timeout(), self.stuck.next].into_iter().flatten().min()
    }

    /// What the operator should know, the worst first; `none`: the observer has none of our routes.
    fn worse(&self, peer: &PeerConfig, confirmer: &Confirmer, none: bool, now: Instant) -> Option<Warning> {
        if let Some(span) = confirmer.silent(now) {
            let text = format!(
                "the router has answered no probe for {} s: what is in force there can't be looked at, and nothing new is confirmed; does it \
                 limit its ICMP, is its link to the next hop down?",
                span.as_secs()
            );
            return Some(Warning::failing(text));
        }
        let Some((count, last, all)) = confirmer.lacking(none) else {
            return confirmer.warning().or_else(|| self.lateness(peer, now)).or_else(|| self.warning(peer, now));
        };
        Some(match (peer.confirm, all) {
            (Confirm::Reflect, true) => Warning::failing(format!(
                "the router sends the observer none of our routes any more, {count} that it had sent among them: does an export filter keep \
                 them, or has it lost them all? They are out of force until they come back"
            )),
            (_, true) => Warning::failing(format!(
                "the router forwards to none of {count} addresses that it had forwarded to: was its table cleared, or a filter changed? \
                 They are out of force until it does"
            )),
            (_, false) => Warning::of(format!(
                "the router took back {count} of the routes that are announced to it, {last} the last: they are out of force until it has them again"
            )),
        })
    }

    /// What else the operator should know.
    fn warning(&self, peer: &PeerConfig, now: Instant) -> Option<Warning> {
        let problem = self.prober.as_ref().and_then(Prober::problem);
        let cause = "does the next hop resolve through the null route, does the router filter the routes, does it answer no probes?";
        match (self.lost, &self.no_prober) {
            (_, Some(why)) if peer.confirm == Confirm::Probe => {
                return Some(Warning::failing(format!("nothing is confirmed: {why}")));
            }
            ((count @ 1.., Some(net)), _) => {
                let text = match (peer.confirm, problem) {
                    (Confirm::Reflect, _) => format!(
                        "{count} routes in a row did not come back on the observer's session, {net} the last: does the router filter them, \
                         or not send them to the observer?"
                    ),
                    (_, Some(problem)) => format!("{count} routes in a row not confirmed: {problem}"),
                    _ => format!("acknowledged but not forwarded: {count} routes in a row, {net} the last: {cause}"),
                };
                // One or two may be filtered, or have a target that nobody forwards to, where others were confirmed.
                return Some(Warning { text, is_failing: count >= MISSED || !self.any_held });
            }
            _ => {}
        }
        if let Some(warning) = self.sampling.warning(now).filter(|warning| warning.is_failing || !peer.learn) {
            return Some(warning);
        }
        if !peer.learn || peer.confirm == Confirm::Probe {
            return None;
        }
        let start = learn::START.min(self.most()).as_millis();
        if let Some(why) = &self.no_prober {
            return Some(Warning::of(format!("settle stays at {start}ms: {why}")));
        }
        let text = match (self.learner.counts(), problem) {
            ((0, 1..), Some(problem)) => Some(format!("settle stays at {start}ms: {problem}")),
            ((answered, MISSED..), _) => Some(format!(
                "acknowledged but not forwarded: the last {} probed addresses never answered{}: {cause}",
                self.learner.counts().1,
                if answered == 0 { format!(" (settle stays at {start}ms)") } else { String::new() },
            )),
            _ => {
                let (wanted, most) = (self.learner.wanted(self.backlog()), self.most());
                (self.learner.counts().0 > 0 && wanted > most).then(|| {
                    format!(
                        "the router forwards up to {} ms after its word, but gate.deadline leaves room for a settle of {} ms only: raise it",
                        wanted.as_millis(),
                        most.as_millis()
                    )
                })
            }
        };
        text.map(Warning::of)
    }
}

/// Whose path it is that a router sent back with this origin and these communities.
fn whose(config: &SpeakerConfig, bears: &Extra, origin: Option<u32>) -> Whose {
    let mut guards = bears.large().iter().filter(|[_, function, _]| *function == GUARD).peekable();
    if guards.peek().is_some() {
        let ours = config.mark_of_guard();
        return if guards.any(|mark| Some(*mark) == ours) { Whose::Ours } else { Whose::Another };
    }
    let ours = origin == Some(config.asn)
        || bears.standard().iter().any(|community| config.communities.contains(community))
        || (origin.is_none() && config.communities.is_empty());
    if ours { Whose::Untold } else { Whose::Another }
}

/// What the observer of a peer has heard, for a look while it is locked.
fn with_observed<T>(shared: &Shared, observer: Option<usize>, look: impl FnOnce(&Observed) -> T) -> Option<T> {
    Some(look(&*shared.observed(observer?)?))
}

impl Task {
    /// The peer said something of its own routes.
    pub(super) fn heard(&mut self, heard: Heard) {
        let Some(peer) = self.config.peers.get(self.place.index) else { return };
        if peer.role == Role::Observer {
            if let Heard::Whole(family) = heard
                && let Some(mut observed) = self.place.shared.observed(self.place.index)
            {
                observed.ended(family);
            }
            let Heard::Routes { announced, withdrawn, bears, origin, .. } = heard else {
                self.place.shared.changed.send_replace(());
                return;
            };
            let whose = whose(&self.config, &bears, origin);
            let blackhole = bears.standard().contains(&BLACKHOLE);
            let kept: Vec<bool> = {
                let table = self.place.shared.table();
                announced.iter().map(|net| table.contains(*net)).collect()
            };
            if let Some(mut observed) = self.place.shared.observed(self.place.index) {
                withdrawn.iter().for_each(|net| observed.withdrawn(*net));
                let another = observed.tell(whose);
                for (net, ours_too) in announced.iter().zip(kept) {
                    let host = net.prefix_len() == net.max_prefix_len();
                    if !another || (!blackhole && (host || ours_too)) {
                        observed.announced(*net, &bears, another);
                    } else {
                        // What took the place of ours forwards nothing, or is none of our business.
                        observed.withdrawn(*net);
                    }
                }
            }
            self.place.shared.changed.send_replace(());
            return;
        }
        let Some(barrier) = self.up.as_mut().and_then(|up| up.confirmer.barrier()) else { return };
        match heard {
            Heard::Begin(family) => barrier.begin(family),
            Heard::End(family) => barrier.end(family),
            Heard::Whole(family) => barrier.whole(family),
            Heard::Routes { announced, withdrawn, .. } => {
                barrier.withdrawn(&withdrawn);
                barrier.announced(&announced);
            }
        }
    }

    /// The session is gone: so is what was heard on it.
    pub(super) fn heard_nothing(&mut self) {
        if let Some(mut observed) = self.place.shared.observed(self.place.index) {
            observed.clear();
        }
    }

    /// Sends the requests that are due behind everything that was sent.
    pub(super) fn ask(&mut self, now: Instant) {
        let Some(up) = &mut self.up else { return };
        let id = up.connection;
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else { return };
        while let Some(ask) = up.confirmer.ask(now, connection.end()) {
            let mut octets = BytesMut::new();
            match ask {
                Ask::Refresh(family) => {
                    RouteRefresh { family: family.afi_safi(), subtype: RefreshSubtype::Request }.encode(&mut octets);
                }
                Ask::Keepalive => {
                    if let Err(error) = Message::Keepalive.encode(&EncodeContext::initial(), &mut octets) {
                        tracing::error!(%error, "a KEEPALIVE can't be encoded");
                    }
                }
            }
            connection.push(octets.freeze());
        }
    }

    /// Follows a patience that was changed.
    pub(super) fn be_patient(&mut self) {
        let Some(peer) = self.config.peers.get(self.place.index) else { return };
        let patience = match self.place.shared.patience.load(Ordering::SeqCst) {
            0 => peer.patience,
            millis => Duration::from_millis(millis),
        };
        self.evidence.patience = patience;
        if let Some(up) = &mut self.up {
            up.confirmer.set_patience(patience);
        }
    }

    /// Takes in what the observer heard, probes what is due, gives up what took too long.
    pub(super) async fn gather(&mut self, now: Instant) {
        let Some(peer) = self.config.peers.get(self.place.index) else { return };
        let Some(up) = &mut self.up else { return };
        let evidence = &mut self.evidence;
        let shared = &self.place.shared;
        let observer = evidence.observer;
        if observer.is_some() && peer.confirm == Confirm::Reflect {
            let view = |observed: &Observed| (observed.tables(), observed.forgot(evidence.word), observed.newest());
            let (tables, forgot, newest) = with_observed(shared, observer, view).unwrap_or((evidence.tables, false, 0));
            evidence.compare |= forgot || tables != evidence.tables;
            evidence.tables = tables;
            loop {
                let words = with_observed(shared, observer, |observed| observed.after(evidence.word, WORDS));
                let words = words.unwrap_or_default();
                for word in &words {
                    evidence.word = word.number;
                    if word.another {
                        if let Some(bears) = &word.bears {
                            up.confirmer.reflected_another(word.net, bears, now);
                        }
                        continue;
                    }
                    let closed = up.confirmer.reflected(word.net, word.bears.as_deref(), word.number, now);
                    if let (Some(closed), Some(mut status)) = (closed, shared.status(self.place.index)) {
                        status.close_latency.add(closed);
                    }
                }
                if words.len() < WORDS {
                    break;
                }
            }
            if forgot {
                evidence.word = evidence.word.max(newest);
            }
            compare(up, evidence, shared);
        }
        let missing = up.confirmer.lost(|net| shared.table().contains(net));
        let (hurried, waited_for) = shared.hurried(evidence.hurried);
        evidence.hurried = hurried;
        for (since, address) in waited_for {
            up.confirmer.hurry(address, since, now);
        }
        for net in up.confirmer.send_again(now) {
            let mut table = shared.table();
            table.resend(up.reader.id, net);
            if !up.sends {
                shared.feeders().values().for_each(|reader| table.resend(*reader, net));
            }
            self.busy = true;
        }
        evidence.tell_lost(peer, &missing, now);
        if !missing.is_empty() {
            let generation = up.confirmer.taken();
            self.place.tell(What::Missing { lost: missing, generation }).await;
        }
        evidence.probe(&mut up.confirmer, now);
        if evidence.trial.as_mut().is_some_and(|trial| trial.awaited.give_up(now, |_| false).is_some()) {
            let missed = evidence.trial.take().map(|trial| trial.net);
            evidence.learner.missed();
            // Probes that could not be sent say nothing.
            let sent = evidence.prober.as_ref().is_some_and(|prober| prober.problem().is_none());
            if let Some(net) = missed.filter(|_| sent) {
                let hop = evidence.hops[index(Family::of(net.addr()))];
                evidence.sampling.unanswered(net, hop, now);
            }
        }
        let mut refused = Vec::new();
        let holds = |net| with_observed(shared, observer, |observed| observed.has(net)).unwrap_or(false);
        while let Some(lost) = up.confirmer.give_up(now, holds) {
            evidence.lost = (evidence.lost.0.saturating_add(1), Some(lost.net));
            if lost.net.prefix_len() == lost.net.max_prefix_len() {
                let (address, generation) = (lost.net.addr(), lost.generation);
                let reason = format!("{address} not confirmed within {} ms", lost.waited.as_millis());
                refused.push(What::Refused { address, generation, reason });
            }
        }
        let none = with_observed(shared, observer, Observed::is_empty).unwrap_or(false);
        let warning = evidence.worse(peer, &up.confirmer, none, now);
        let settle = up.confirmer.settle();
        if let Some(mut status) = shared.status(self.place.index) {
            // Said once; the count in it may go on.
            if let (Some(new), None) = (&warning, &status.warning) {
                tracing::warn!(peer = peer.name, "{}", new.text);
            }
            status.is_failing = warning.as_ref().is_some_and(|warning| warning.is_failing);
            status.warning = warning.map(|warning| warning.text);
            status.settle = settle;
            status.learnt = peer.learn.then(|| evidence.learner.shown(evidence.backlog()));
        }
        for what in refused {
            self.place.tell(what).await;
        }
    }

    /// The router forwards to this address.
    pub(super) fn forwarded(&mut self, answer: Forwards) {
        let now = Instant::now();
        let mut next = Some(answer);
        for _ in 0..ANSWERS {
            let Some(answer) = next else { return };
            self.forwards(answer, now);
            next = self.evidence.prober.as_ref().and_then(Prober::more);
        }
    }

    fn forwards(&mut self, Forwards { address, before }: Forwards, now: Instant) {
        let Some(up) = &mut self.up else { return };
        let evidence = &mut self.evidence;
        if before {
            up.confirmer.forwarded_before(address, now);
            // It would be answered for whether this router uses our routes or not.
            evidence.trial.take_if(|trial| trial.net.addr() == address);
            return;
        }
        up.confirmer.forwarded(address, now);
        if let Some(trial) = &mut evidence.trial
            && trial.awaited.arrived(IpNet::from(address), 1, now).is_some()
        {
            let after = trial.evident.map_or(Duration::ZERO, |evident| now.saturating_duration_since(evident));
            evidence.learner.answered(after, trial.backlog);
            evidence.sampling.forwards();
            evidence.trial = None;
        } else {
            evidence.sampling.answered(address, now);
        }
    }

    /// Notes when what the trial's address belongs to became evident.
    pub(super) fn note_evident(up: &Up, evidence: &mut Evidence, now: Instant) {
        if let Some(trial) = &mut evidence.trial
            && trial.evident.is_none()
            && trial.generation.is_some_and(|generation| up.confirmer.evident_up_to() >= Some(generation))
        {
            trial.evident = Some(now);
        }
    }
}

/// Compares what the observer has with what is announced, after its session came up or when it said more than was kept. Only when the
/// router was sent everything, and has sent the observer its table to the end.
fn compare(up: &mut Up, evidence: &mut Evidence, shared: &Shared) {
    if !evidence.compare {
        return;
    }
    let whole = with_observed(shared, evidence.observer, Observed::whole).unwrap_or(Families::NONE);
    if whole == Families::NONE {
        return;
    }
    let announced = {
        let table = shared.table();
        if table.pending(up.reader.id) {
            return;
        }
        table.prefixes(up.adj_out.families().intersection(whole))
    };
    let lacks = |observed: &Observed| {
        let gone = |net: &IpNet| observed.whole().contains(Family::of(net.addr())) && !observed.has(*net);
        announced.into_iter().filter(gone).collect::<Vec<_>>()
    };
    for net in with_observed(shared, evidence.observer, lacks).unwrap_or_default() {
        up.confirmer.missed(net);
    }
    evidence.compare = false;
}

/// Tells the confirmer of a batch that was encoded before octet `offset`.
pub(super) fn announce(
    up: &mut Up,
    evidence: &mut Evidence,
    shared: &Shared,
    peer: &PeerConfig,
    (batch, generation, offset): (&Batch, u64, u64),
    now: Instant,
) {
    evidence.count(batch.routes(), now);
    let seen = evidence.observer.filter(|_| peer.confirm == Confirm::Reflect).and_then(|index| shared.observed(index));
    match &seen {
        Some(observed) => {
            let bears = |class| up.adj_out.extra(class).cloned();
            let another = |net| observed.anothers(net);
            let seen =
                Seen { word: observed.newest(), has: &|net| observed.has(net), another: &another, bears: &bears };
            up.confirmer.batch(batch, generation, offset, Some(seen), now);
        }
        None => up.confirmer.batch(batch, generation, offset, None, now),
    }
    up.confirmer.set_settle(evidence.settle(peer));
    let looks = up.confirmer.looks();
    if let Some(prober) = &mut evidence.prober {
        looks.into_iter().for_each(|address| prober.look(address, now));
    }
    if !(peer.learn || peer.samples) || peer.confirm == Confirm::Probe || evidence.prober.is_none() {
        return;
    }
    if let Some(trial) = &mut evidence.trial {
        // Withdrawn or announced anew: what is measured would mean nothing.
        let gone = batch.withdraw4.iter().map(|net| IpNet::V4(*net));
        for net in gone.chain(batch.withdraw6.iter().map(|net| IpNet::V6(*net))) {
            trial.awaited.forget(net);
        }
        if trial.awaited.is_empty() {
            evidence.trial = None;
        }
    }
    let mut hosts =
        batch.announce4.iter().map(|net| IpNet::V4(*net)).chain(batch.announce6.iter().map(|net| IpNet::V6(*net)));
    let host = hosts.rfind(|net| net.prefix_len() == net.max_prefix_len());
    if let Some(net) = host
        && evidence.trial.is_none()
        && !evidence.sampling.is_busy()
        && evidence.next_trial.is_none_or(|at| at <= now)
    {
        let sure = evidence.sampling.missed();
        let missed = if sure > 0 { sure.saturating_sub(MISSED) } else { evidence.learner.counts().1 }.min(6);
        evidence.next_trial = Some(now + TRIAL * TRIALS_MOST.min(1 << missed));
        let mut awaited = Awaited::new();
        let announced = Announced {
            generation,
            after: 0,
            not_before: now,
            patience: TRIAL_END,
            replayed: false,
            quiet: false,
            shows: None,
            wants: None,
        };
        awaited.announce(net, announced, now);
        if let Some(prober) = &mut evidence.prober {
            prober.look(net.addr(), now);
        }
        let backlog = evidence.backlog();
        evidence.trial = Some(Trial { net, generation: None, evident: None, backlog, awaited });
    }
}

/// The batches up to here make this generation.
pub(super) fn stamped(evidence: &mut Evidence, generation: u64) {
    if let Some(trial) = &mut evidence.trial {
        trial.generation.get_or_insert(generation);
    }
}

/// Whether this peer's word on its own routes is of use.
pub(super) fn hears(peer: &PeerConfig) -> bool {
    matches!(peer.role, Role::Observer | Role::Guard) || peer.confirm == Confirm::Refresh
}

/// What can't be had on this host although the configuration wants it.
///
/// # Errors
/// Without CAP_NET_RAW, probes.
pub(in crate::io) fn check(peer: &PeerConfig) -> io::Result<()> {
    if peer.role != Role::Observer && peer.confirm == Confirm::Probe {
        Prober::new(peer)
            .map_err(|error| io::Error::new(error.kind(), format!("confirm = \"probe\" can't send probes: {error}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the peer's task would wake for them again and again without pause.
    #[test]
    fn probes_that_nobody_can_send_are_not_due_for_ever() {
        let now = Instant::now();
        let mut confirmer = Confirmer::plain(Confirm::Probe, Duration::ZERO, now);
        let batch = Batch { announce4: vec!["203.0.113.1/32".parse().unwrap()], ..Batch::default() };
        confirmer.batch(&batch, 1, 100, None, now);
        assert_eq!(confirmer.poll_timeout(), Some(now));
        Evidence::default().probe(&mut confirmer, now);
        assert!(confirmer.poll_timeout().is_some_and(|at| at > now));
    }
}
