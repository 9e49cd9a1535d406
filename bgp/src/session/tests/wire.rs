//! Two sessions over simulated TCP, on a virtual clock: connections are reset, processes are killed and come back, the way is slow. A seed decides
//! all of it, so that what it found is found again.

use std::collections::BTreeMap;

use super::*;

/// Milliseconds of a virtual clock.
fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[derive(Clone, Debug)]
enum What {
    /// A SYN comes to this end.
    Syn {
        tcp: usize,
        to: usize,
    },
    /// The other end took it, or refused it.
    Answered {
        tcp: usize,
        to: usize,
        taken: bool,
    },
    Octets {
        tcp: usize,
        to: usize,
        octets: Bytes,
    },
    /// The connection's end is seen.
    Ended {
        tcp: usize,
        to: usize,
    },
    /// Every connection is reset, at both ends.
    Reset,
    /// The process of this end is killed, and there again after a while.
    Killed {
        end: usize,
        down: Duration,
    },
    Starts {
        end: usize,
    },
}

struct Process {
    config: SessionConfig,
    /// `None` while the process is away.
    session: Option<Session>,
    connecting: Option<usize>,
    connections: Vec<(ConnectionId, usize)>,
    up: Option<usize>,
    /// Connects so far.
    tries: u32,
}

struct World {
    ends: [Process; 2],
    now: Instant,
    queue: BTreeMap<(Instant, u64), What>,
    sequence: u64,
    tcps: usize,
    /// These and the ones before were reset: nothing of them counts any more.
    reset: usize,
    latency: Duration,
    /// Nothing overtakes anything.
    arrives: Instant,
    random: u64,
    /// Since when both ends have the same session.
    joined: Option<Instant>,
}

impl World {
    fn new(seed: u64, passive: bool) -> Self {
        let now = Instant::now();
        let process =
            |config| Process { config, session: None, connecting: None, connections: Vec::new(), up: None, tries: 0 };
        let ids = if seed.is_multiple_of(2) { (1, 2) } else { (2, 1) };
        let left = SessionConfig { seed, ..config(64512, ids.0, 64513) };
        let right = SessionConfig { passive, seed: seed ^ 0xffff, ..config(64513, ids.1, 64512) };
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut world = Self {
            ends: [process(left), process(right)],
            now,
            queue: BTreeMap::new(),
            sequence: 0,
            tcps: 0,
            reset: 0,
            latency: ms(1),
            arrives: now,
            random,
            joined: None,
        };
        (0..2).for_each(|end| world.put(Duration::ZERO, What::Starts { end }));
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % bound
    }

    fn put(&mut self, after: Duration, what: What) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), what);
    }

    /// Puts it on the way to the other end.
    fn send(&mut self, what: What) {
        self.arrives = self.arrives.max(self.now + self.latency);
        self.put(self.arrives - self.now, what);
    }

    /// Lives on for so long.
    fn live(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let due = (0..2).filter_map(|end| self.ends[end].session.as_ref()?.poll_timeout()).min();
            let Some(at) = [next, due].into_iter().flatten().min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if next.is_some_and(|next| next <= self.now)
                && let Some((_, what)) = self.queue.pop_first()
            {
                self.happens(what);
            } else {
                let now = self.now;
                self.ends.iter_mut().flat_map(|end| &mut end.session).for_each(|session| session.handle_timeout(now));
            }
            (0..2).for_each(|end| self.carry_out(end));
            let joined = self.ends[0].up.is_some() && self.ends[0].up == self.ends[1].up;
            self.joined = if joined { self.joined.or(Some(self.now)) } else { None };
        }
        self.now = end;
    }

    fn happens(&mut self, what: What) {
        let now = self.now;
        match what {
            What::Syn { tcp, to } => {
                let end = &mut self.ends[to];
                // A process that is there takes every connection, and may close it at once.
                let taken = end.session.is_some() && tcp > self.reset;
                let id = end.session.as_mut().filter(|_| taken).and_then(|session| session.connected(false, now));
                end.connections.extend(id.map(|id| (id, tcp)));
                self.send(What::Answered { tcp, to: 1 - to, taken });
                if taken && id.is_none() {
                    self.send(What::Ended { tcp, to: 1 - to });
                }
            }
            What::Answered { tcp, to, taken } => {
                let end = &mut self.ends[to];
                let wanted = end.connecting == Some(tcp);
                let taken = taken && tcp > self.reset;
                if wanted {
                    end.connecting = None;
                }
                let id = match &mut end.session {
                    Some(session) if wanted && taken => session.connected(true, now),
                    Some(session) if wanted => {
                        session.connect_failed("Connection refused", now);
                        None
                    }
                    _ => None,
                };
                end.connections.extend(id.map(|id| (id, tcp)));
                if taken && id.is_none() {
                    self.send(What::Ended { tcp, to: 1 - to });
                }
            }
            What::Octets { tcp, to, octets } => {
                let end = &mut self.ends[to];
                if let (Some((id, _)), Some(session)) =
                    (end.connections.iter().find(|(_, at)| *at == tcp).copied(), &mut end.session)
                {
                    session.received(id, &octets, now);
                }
            }
            What::Ended { tcp, to } => self.lose(to, tcp, None),
            What::Reset => {
                self.reset = self.tcps;
                for end in 0..2 {
                    let all: Vec<usize> = self.ends[end].connections.iter().map(|(_, tcp)| *tcp).collect();
                    all.into_iter().for_each(|tcp| self.lose(end, tcp, Some("Connection reset by peer")));
                }
            }
            What::Killed { end, down } => {
                let process = &mut self.ends[end];
                let (session, connections) = (process.session.take(), std::mem::take(&mut process.connections));
                (process.connecting, process.up) = (None, None);
                for (_, tcp) in connections {
                    self.send(What::Ended { tcp, to: 1 - end });
                }
                if session.is_some() {
                    self.put(down, What::Starts { end });
                }
            }
            What::Starts { end } => {
                let process = &mut self.ends[end];
                let mut session = Session::new(process.config.clone(), now);
                session.start(now);
                process.session = Some(session);
                process.config.restarting = true;
            }
        }
    }

    fn lose(&mut self, end: usize, tcp: usize, error: Option<&str>) {
        let end = &mut self.ends[end];
        if let Some(at) = end.connections.iter().position(|(_, other)| *other == tcp) {
            let (id, _) = end.connections.remove(at);
            if let Some(session) = &mut end.session {
                session.closed(id, error, self.now);
            }
        }
    }

    fn carry_out(&mut self, at: usize) {
        while let Some(output) = self.ends[at].session.as_mut().and_then(Session::poll_output) {
            let tcp_of = |end: &Process, id| end.connections.iter().find(|(of, _)| *of == id).map(|(_, tcp)| *tcp);
            match output {
                Output::Connect => {
                    self.tcps += 1;
                    let end = &mut self.ends[at];
                    assert_eq!(end.connecting.replace(self.tcps), None, "one try at a time");
                    end.tries += 1;
                    self.send(What::Syn { tcp: self.tcps, to: 1 - at });
                }
                Output::CancelConnect => assert!(self.ends[at].connecting.take().is_some()),
                Output::Send(id, octets) => {
                    if let Some(tcp) = tcp_of(&self.ends[at], id) {
                        self.send(What::Octets { tcp, to: 1 - at, octets });
                    }
                }
                Output::Close(id) => {
                    if let Some(tcp) = tcp_of(&self.ends[at], id) {
                        self.ends[at].connections.retain(|(_, other)| *other != tcp);
                        self.send(What::Ended { tcp, to: 1 - at });
                    }
                }
                Output::Up(id, _) => {
                    let tcp = tcp_of(&self.ends[at], id);
                    assert!(tcp.is_some(), "it is up on a connection that is there");
                    assert_eq!(std::mem::replace(&mut self.ends[at].up, tcp), None, "up and down take turns");
                }
                Output::Down(_) => assert!(self.ends[at].up.take().is_some(), "up and down take turns"),
                Output::Refresh(_) | Output::Heard(_) | Output::Networks(..) | Output::Said(_) => {}
            }
        }
    }

    /// How long it takes until both ends have the same session, and that lasts.
    fn joins(&mut self, within: Duration) -> Duration {
        let since = self.now;
        self.live(within);
        let joined = self.joined.unwrap_or_else(|| {
            let state = |end: &Process| end.session.as_ref().map(|session| session.state().0);
            panic!("no session within {within:?}: {:?}", self.ends.each_ref().map(state))
        });
        joined.saturating_duration_since(since)
    }
}

/// Whatever happened before: up to four resets and kills in a row cost less than a second more than the process was away.
#[test]
fn a_session_that_stood_is_back_within_a_second() {
    for seed in 0..400 {
        let mut world = World::new(seed, seed % 3 > 0);
        world.latency = ms(1 + world.below(20));
        world.joins(20 * SECOND);
        for _ in 0..5 {
            world.live(12 * SECOND);
            let mut away = Duration::ZERO;
            for _ in 0..=world.below(4) {
                let what = match world.below(4) {
                    0 => {
                        away = ms(world.below(300));
                        What::Killed { end: usize::from(world.below(2) == 1), down: away }
                    }
                    _ => What::Reset,
                };
                world.put(Duration::ZERO, what);
                let gap = ms(world.below(300));
                world.live(gap);
                away = away.saturating_sub(gap);
            }
            let took = world.joins(12 * SECOND);
            assert!(took < away + SECOND, "seed {seed}: {took:?}, away for {away:?}");
        }
    }
}

/// However long it goes wrong: in the end there is a session, and the way there is no flood of tries.
#[test]
fn however_long_it_goes_wrong_there_is_a_session_in_the_end_and_few_tries() {
    for seed in 0..100 {
        let mut world = World::new(seed, seed % 2 > 0);
        let faults = 20 + world.below(80);
        for _ in 0..faults {
            let down = ms(world.below(30_000));
            let what = match world.below(3) {
                0 => What::Killed { end: usize::from(world.below(2) == 1), down },
                _ => What::Reset,
            };
            world.put(Duration::ZERO, what);
            world.latency = ms(1 + world.below(400));
            let gap = ms(world.below(4_000));
            world.live(gap);
        }
        let took = world.joins(150 * SECOND);
        assert!(took < 100 * SECOND, "seed {seed}: {took:?}");
        let tries: u32 = world.ends.iter().map(|end| end.tries).sum();
        // Each fault is worth a few quick tries; a kill begins a record of its own.
        assert!(u64::from(tries) < 15 * faults + 60, "seed {seed}: {tries} tries, {faults} faults");
    }
}
