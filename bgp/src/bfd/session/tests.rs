//! Two machines against each other on a virtual clock.

use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_millis(300);

fn config(discriminator: u32) -> Config {
    Config { discriminator, interval: INTERVAL, multiplier: 3, seed: u64::from(discriminator) * 0x9e37_79b9 }
}

/// What a wire does with a packet.
type Lossy<'a> = &'a mut dyn FnMut(usize, &Packet, Duration) -> bool;

/// Two ends and the packets between them. Each end's packets arrive after a millisecond.
struct Pair {
    start: Instant,
    now: Instant,
    ends: [Session; 2],
    wire: Vec<(Instant, usize, Packet)>,
    /// Per end: when it sent what, and what it told.
    sent: [Vec<(Duration, Packet)>; 2],
    told: [Vec<(Duration, Event)>; 2],
}

impl Pair {
    fn new(configs: [Config; 2]) -> Self {
        let now = Instant::now();
        let ends = configs.map(|config| Session::new(config, now));
        Self { start: now, now, ends, wire: Vec::new(), sent: Default::default(), told: Default::default() }
    }

    fn at(&self) -> Duration {
        self.now - self.start
    }

    /// Sends what is to be sent; `passes` says which packets of which end arrive.
    fn flush(&mut self, passes: Lossy<'_>) {
        for end in 0..2 {
            while let Some(event) = self.ends[end].poll_event() {
                self.told[end].push((self.now - self.start, event));
            }
            while let Some(packet) = self.ends[end].poll_transmit(self.now) {
                let at = self.now - self.start;
                assert!(!(packet.poll && packet.is_final));
                assert_eq!(Packet::decode(&packet.encode()), Ok(packet), "what is sent can be received");
                self.sent[end].push((at, packet));
                if passes(end, &packet, at) {
                    self.wire.push((self.now + Duration::from_millis(1), 1 - end, packet));
                }
            }
        }
    }

    fn run_lossy(&mut self, span: Duration, passes: Lossy<'_>) {
        let until = self.now + span;
        loop {
            self.flush(passes);
            let arrival = self.wire.iter().map(|(at, ..)| *at);
            let timers = self.ends.iter().filter_map(Session::poll_timeout);
            let Some(next) = arrival.chain(timers).min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            let (arrived, rest) = self.wire.iter().partition(|(at, ..)| *at <= now);
            self.wire = rest;
            let arrived: Vec<(Instant, usize, Packet)> = arrived;
            for (_, end, packet) in arrived {
                // As the driver finds the session.
                let known =
                    packet.your_discriminator == 0 || packet.your_discriminator == self.ends[end].discriminator();
                if known {
                    self.ends[end].received(&packet, now);
                }
            }
            self.ends.iter_mut().for_each(|end| end.handle_timeout(now));
        }
        self.now = until;
    }

    fn run(&mut self, span: Duration) {
        self.run_lossy(span, &mut |_, _, _| true);
    }

    fn up(configs: [Config; 2]) -> Self {
        let mut pair = Self::new(configs);
        pair.run(Duration::from_secs(4));
        assert_eq!(pair.states(), [State::Up; 2]);
        pair
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state().0, self.ends[1].state().0]
    }
}

fn secs(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

#[test]
fn both_come_up_slowly_and_then_speed_up_by_a_poll() {
    let pair = Pair::up([config(1), config(2)]);
    for end in 0..2 {
        assert!(matches!(pair.told[end][..], [(at, Event::Up)] if at < secs(3.0)), "{:?}", pair.told);
        let up = pair.told[end][0].0;
        let before = pair.sent[end].iter().filter(|(at, packet)| *at < up && !packet.is_final);
        for (_, packet) in before {
            assert!(packet.desired_min_tx >= 1_000_000 && !packet.poll, "{packet:?}");
        }
        let polls: Vec<_> = pair.sent[end].iter().filter(|(_, packet)| packet.poll).collect();
        assert!(!polls.is_empty() && polls.len() <= 3, "{polls:?}");
        assert!(polls.iter().all(|(_, packet)| packet.desired_min_tx == 300_000 && packet.state == State::Up));
        let finals = pair.sent[1 - end].iter().filter(|(_, packet)| packet.is_final).count();
        assert_eq!(finals, polls.len(), "each poll is answered once");
        assert_eq!(pair.ends[end].interval(), Some(INTERVAL));
        assert_eq!(pair.ends[end].detection_time(), INTERVAL * 3);
        assert_eq!(pair.ends[end].diagnostic(), Diagnostic::NONE);
    }
}

#[test]
fn periodic_packets_are_jittered_and_never_late() {
    for (multiplier, most) in [(3, 1.0), (1, 0.9)] {
        let mut pair = Pair::up([Config { multiplier, ..config(1) }, config(2)]);
        pair.sent[0].clear();
        pair.run(secs(60.0));
        let times: Vec<f64> = pair.sent[0].iter().map(|(at, _)| at.as_secs_f64()).collect();
        let gaps: Vec<f64> = times.windows(2).map(|two| (two[1] - two[0]) / INTERVAL.as_secs_f64()).collect();
        assert!(gaps.len() > 190, "{}", gaps.len());
        assert!(gaps.iter().all(|gap| (0.749..=most + 0.001).contains(gap)), "{gaps:?}");
        let spread = gaps.iter().cloned().fold(0.0, f64::max) - gaps.iter().cloned().fold(1.0, f64::min);
        assert!(spread > 0.1, "no jitter: {spread}");
        assert_eq!(pair.states(), [State::Up; 2], "a multiplier of {multiplier} bears no loss, but there is none");
    }
}

#[test]
fn the_slower_end_decides_in_each_direction() {
    let slow = Config { interval: secs(2.0), multiplier: 5, ..config(2) };
    let pair = Pair::up([config(1), slow]);
    assert_eq!(pair.ends.each_ref().map(Session::interval), [Some(secs(2.0)); 2]);
    // Multiplier of the one that sends, times the interval.
    assert_eq!(pair.ends[0].detection_time(), secs(10.0));
    assert_eq!(pair.ends[1].detection_time(), secs(6.0));
}

#[test]
fn silence_is_noticed_within_the_detection_time() {
    let mut pair = Pair::up([config(1), config(2)]);
    let cut = pair.at();
    pair.run_lossy(secs(5.0), &mut |_, _, _| false);
    for end in 0..2 {
        let (at, event) = pair.told[end][1];
        assert_eq!(event, Event::Down(Cause::Expired));
        assert!(at > cut + INTERVAL * 2 && at <= cut + INTERVAL * 3 + secs(0.001), "{:?}", at - cut);
        assert_eq!(pair.ends[end].diagnostic(), Diagnostic::DETECTION_TIME_EXPIRED);
    }
    let last = pair.sent[0].last().unwrap().1;
    assert_eq!((last.state, last.your_discriminator, last.desired_min_tx), (State::Down, 0, 1_000_000));
    pair.run(secs(4.0));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.told[0].len(), 3);
}

#[test]
fn one_way_loss_takes_both_ends_down() {
    let mut pair = Pair::up([config(1), config(2)]);
    pair.run_lossy(secs(3.0), &mut |end, _, _| end == 0);
    assert_eq!(pair.told[0][1].1, Event::Down(Cause::Expired));
    let its = Diagnostic::DETECTION_TIME_EXPIRED;
    assert_eq!(pair.told[1][1].1, Event::Down(Cause::Neighbor(its)));
    assert_eq!(Cause::Neighbor(its).to_string(), "neighbor signaled session down (control detection time expired)");
    // The one that is not heard stays down; the other hears Down all the time, and never more than Init.
    assert_eq!(pair.states(), [State::Down, State::Init]);
    pair.run(secs(3.0));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn two_lost_packets_in_a_row_are_no_matter() {
    let mut pair = Pair::up([config(1), config(2)]);
    let mut count = [0u32; 2];
    pair.run_lossy(secs(60.0), &mut |end, _, _| {
        count[end] += 1;
        count[end] % 3 == 0
    });
    // Of three packets one arrives: gaps of at most three jittered intervals.
    assert_eq!(pair.states(), [State::Up; 2]);
    assert!(pair.told.iter().all(|told| told.len() == 1), "{:?}", pair.told);
}

#[test]
fn an_end_that_starts_again_is_noticed_and_comes_back() {
    let mut pair = Pair::up([config(1), config(2)]);
    let at = pair.at();
    pair.ends[1] = Session::new(config(77), pair.now);
    pair.run(secs(4.0));
    let (down, event) = pair.told[0][1];
    assert_eq!(event, Event::Down(Cause::Neighbor(Diagnostic::NONE)));
    assert!(down - at < secs(0.5), "{:?}", down - at);
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.sent[0].last().unwrap().1.your_discriminator, 77);
}

#[test]
fn an_operator_that_takes_one_end_down_is_not_a_dead_path() {
    let mut pair = Pair::up([config(1), config(2)]);
    let now = pair.now;
    pair.ends[1].set_admin_down(true, now);
    pair.run(secs(5.0));
    assert_eq!(pair.states(), [State::Down, State::AdminDown]);
    assert_eq!(pair.told[0][1].1, Event::Down(Cause::NeighborAdmin));
    assert_eq!(pair.told[0].len(), 2);
    assert_eq!(pair.told[1].len(), 1, "who did it knows it");
    assert!(pair.sent[1].iter().any(|(at, p)| *at > secs(8.0) && p.state == State::AdminDown), "it goes on saying so");
    let now = pair.now;
    pair.ends[1].set_admin_down(false, now);
    pair.run(secs(4.0));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn a_poll_that_is_lost_is_repeated_until_it_is_answered() {
    let mut pair = Pair::new([config(1), config(2)]);
    let mut lost = 0;
    pair.run_lossy(secs(6.0), &mut |_, packet, _| {
        let loses = packet.is_final && lost < 3;
        lost += u32::from(loses);
        !loses
    });
    assert_eq!(lost, 3);
    assert_eq!(pair.states(), [State::Up; 2]);
    for end in 0..2 {
        assert!(!pair.sent[end].last().unwrap().1.poll, "answered in the end");
    }
}

#[test]
fn a_neighbour_may_ask_for_silence() {
    let mut pair = Pair::up([config(1), config(2)]);
    let mut quiet = Packet { demand: true, ..pair.ends[1].packet() };
    quiet.state = State::Up;
    let (now, end) = (pair.now, &mut pair.ends[0]);
    end.received(&quiet, now);
    assert_eq!(end.interval(), None);
    quiet.demand = false;
    quiet.required_min_rx = 0;
    end.received(&quiet, now);
    assert_eq!(end.interval(), None);
    // But it is asked again once it is gone: what it wished before must not keep us silent.
    end.handle_timeout(now + secs(1.0));
    assert_eq!(end.state().0, State::Down);
    assert_eq!(end.interval(), Some(SLOW));
    quiet.state = State::Down;
    quiet.poll = true;
    end.received(&quiet, now + secs(2.0));
    assert_eq!(end.interval(), None);
    assert!(end.poll_transmit(now).is_some_and(|packet| packet.is_final && !packet.poll), "a poll is always answered");
}

/// Every move of the state machine, as section 6.8.6 has them.
#[test]
fn every_state_on_every_word() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
    ];
    for (from, to) in table {
        for (heard, to) in [AdminDown, Down, Init, Up].into_iter().zip(to) {
            let now = Instant::now();
            let mut session = Session::new(config(1), now);
            session.enter(from, None, now);
            let packet = Packet { state: heard, your_discriminator: 1, ..Session::new(config(2), now).packet() };
            session.received(&packet, now);
            assert_eq!(session.state().0, to, "{from} hears {heard}");
        }
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let words = (1..=u32::MAX, prop_oneof![Just(0), Just(1), any::<u32>()], any::<u32>(), any::<u32>());
    (0u8..32, 0u8..4, any::<[bool; 4]>(), 1..=u8::MAX, words).prop_map(
        |(diagnostic, state, bits, multiplier, words)| Packet {
            diagnostic: Diagnostic::new(diagnostic),
            state: State::from_bits(state),
            poll: bits[0],
            is_final: bits[1],
            independent: bits[2],
            demand: bits[3],
            multiplier,
            my_discriminator: words.0,
            your_discriminator: words.1,
            desired_min_tx: words.2,
            required_min_rx: words.3,
            required_min_echo_rx: 0,
        },
    )
}

proptest! {
    /// Whatever a neighbour says: one packet and one answer at most for each of its packets, no timer in the past after it was handled, and Up
    /// and Down are told in turns.
    #[test]
    fn any_neighbour(words in proptest::collection::vec((any_packet(), 0u64..2_000_000), 1..60)) {
        let start = Instant::now();
        let mut now = start;
        let mut session = Session::new(config(1), now);
        let mut up = false;
        for (packet, micros) in words {
            now += Duration::from_micros(micros);
            session.handle_timeout(now);
            session.received(&packet, now);
            let mut count = 0;
            while session.poll_transmit(now).is_some() {
                count += 1;
            }
            prop_assert!(count <= 2);
            session.handle_timeout(now);
            prop_assert!(session.poll_timeout().is_none_or(|at| at > now));
            while let Some(event) = session.poll_event() {
                prop_assert_eq!(event == Event::Up, !up);
                up = event == Event::Up;
            }
            prop_assert_eq!(up, session.state().0 == State::Up);
        }
    }

    /// After any loss the two find each other again once the wire is whole.
    #[test]
    fn any_loss_heals(seed: u64, share in 0.0..1.0f64) {
        let mut pair = Pair::new([config(1), config(2)]);
        let mut random = seed | 1;
        pair.run_lossy(secs(20.0), &mut |_, _, _| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) as f64 / (1u64 << 53) as f64 > share
        });
        pair.run(secs(10.0));
        prop_assert_eq!(pair.states(), [State::Up; 2]);
    }
}
