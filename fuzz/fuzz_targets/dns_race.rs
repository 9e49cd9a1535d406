//! One question among up to four upstreams: every two octets of the input are an arrival, an error, or time that passes. However that goes, the race
//! ends once, in time, with few queries; a useful reply to a query that it awaits ends it at once.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use destguard::dns::codec::response::Response;
use destguard::dns::upstream::judgement::{Fault, Judgement, Manner};
use destguard::dns::upstream::race::{Choice, End, Order, QUERIES, Race, TOTAL, Trouble};

/// One server from an octet.
fn choice(server: usize, bits: u8) -> Choice {
    let manners = [Manner::STREAM, Manner::PLAIN, Manner::LOWER];
    let manner = manners
        .iter()
        .enumerate()
        .fold(Manner::USUAL, |all, (place, manner)| if bits >> place & 1 == 1 { all.and(*manner) } else { all });
    let patience = Duration::from_millis(50 + 50 * u64::from(bits >> 4 & 7));
    Choice { server, patience, silent: bits >> 3 & 1 == 1, manner }
}

/// What one octet makes of a reply.
fn judgement(octet: u8) -> Judgement {
    let faults = [
        Fault::OtherCase,
        Fault::Referral,
        Fault::Unreadable,
        Fault::Unbound,
        Fault::NoEdns,
        Fault::Code(2),
        Fault::Cut,
        Fault::Code(5),
    ];
    let fault = faults[usize::from(octet & 7)];
    match octet >> 3 & 3 {
        0 => Judgement::Elsewhere(fault),
        1 => Judgement::Otherwise(Manner::STREAM, fault),
        2 => Judgement::Otherwise(Manner::PLAIN, fault),
        _ if octet & 7 == 0 => Judgement::Useful(Response::default()),
        _ => Judgement::Useless,
    }
}

struct Bench {
    race: Race,
    start: Instant,
    now: Instant,
    asked: Vec<usize>,
    ended: Option<Duration>,
}

impl Bench {
    fn settle(&mut self) {
        while let Some(ask) = self.race.poll_ask(self.now) {
            assert!(self.ended.is_none(), "a query after the end");
            assert!(!self.asked.contains(&ask.place), "a place twice");
            self.asked.push(ask.place);
        }
        assert!(self.asked.len() <= QUERIES);
        assert_eq!(self.race.end().is_some(), self.race.poll_timeout().is_none());
        if self.race.end().is_some() && self.ended.is_none() {
            self.ended = Some(self.now - self.start);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        while let Some(due) = self.race.poll_timeout().filter(|due| *due <= end) {
            turns += 1;
            assert!(turns < 100, "it wants to be woken without end");
            self.now = self.now.max(due);
            self.race.handle_timeout(self.now, |_, _| {});
            self.settle();
        }
        self.now = end;
    }
}

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    let Some(([servers, usable, bits @ ..], operations)) = octets.split_first_chunk::<6>() else { return };
    let choices: Vec<Choice> =
        bits.iter().take(usize::from(servers & 3) + 1).enumerate().map(|(place, bits)| choice(place, *bits)).collect();
    let usable = usize::from(*usable) % (choices.len() + 1);
    let all_down = usable == 0;
    let order = Order { usable: if all_down { choices.len() } else { usable }, all_down, choices };
    let start = Instant::now();
    let race = Race::new(Arc::new(order), servers & 4 != 0, start);
    let mut bench = Bench { race, start, now: start, asked: Vec::new(), ended: None };
    bench.settle();
    for operation in operations.chunks_exact(2).take(200) {
        let place = usize::from(operation[0] >> 2) % QUERIES;
        let ended = bench.race.end();
        let awaited = bench.race.awaited().any(|(other, _, _)| other == place) && ended.is_none();
        match operation[0] & 3 {
            0 => bench.pass(Duration::from_millis(4 * u64::from(operation[1]))),
            1 => {
                let trouble = [Trouble::Ours, Trouble::Theirs, Trouble::Forged][usize::from(operation[1] % 3)];
                bench.race.on_error(place, trouble, bench.now);
            }
            _ => {
                let judgement = judgement(operation[1]);
                bench.race.on_reply(place, &judgement, &operation[1..]);
                let won = awaited && matches!(judgement, Judgement::Useful(_));
                assert_eq!(bench.race.end() == Some(End::Won(place)), won || ended == Some(End::Won(place)));
            }
        }
        bench.settle();
        assert!(ended.is_none() || bench.race.end() == ended, "another end");
    }
    bench.pass(2 * TOTAL);
    assert!(bench.ended.is_some_and(|ended| ended <= TOTAL), "no end in time: {:?}", bench.ended);
    match bench.race.end() {
        Some(End::Won(_)) => assert!(bench.race.winner().is_some()),
        _ => drop(bench.race.last_word()),
    }
});
