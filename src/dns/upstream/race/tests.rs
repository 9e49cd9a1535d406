//! Dialogues on a virtual clock: `dialogues/*.dialogue`.
//!
//! ```text
//! servers a 50ms, b 100ms silent      the order: name, patience, and what is known of it (silent, down, stream, plain, lower)
//! dnssec                              DNSSEC records are wanted
//! 0 ask a                             at 0 ms the race asks a (in what manner: stream, plain, lower; again: something was lost on that way)
//! 60 a: useful                        at 60 ms a's reply to its latest query comes; a/1: to its first
//! 60 won a
//! ```
//!
//! UdpSockets with a colon behind the name are what happens; all others are what the race does, and must be so to the letter. With `BLESS` set the files
//! are written anew.

use std::fmt::Write;
use std::path::Path;

use super::*;

struct Stage {
    race: Race,
    start: Instant,
    now: Duration,
    names: Vec<String>,
    /// Server and place of each query.
    asked: Vec<(usize, usize)>,
    text: String,
}

impl Stage {
    fn new(names: Vec<String>, order: Order, dnssec: bool) -> Self {
        let start = Instant::now();
        let race = Race::new(Arc::new(order), dnssec, start);
        Self { race, start, now: Duration::ZERO, names, asked: Vec::new(), text: String::new() }
    }

    fn say(&mut self, words: &str) {
        writeln!(self.text, "{} {words}", self.now.as_millis()).unwrap();
    }

    /// Does what the race wants now.
    fn settle(&mut self, was_over: bool) {
        while let Some(ask) = self.race.poll_ask(self.start + self.now) {
            self.asked.push((ask.server, ask.place));
            let mut words = format!("ask {}", self.names[ask.server]);
            for (manner, word) in [(Manner::STREAM, "stream"), (Manner::PLAIN, "plain"), (Manner::LOWER, "lower")] {
                if ask.manner.has(manner) {
                    words += &format!(" {word}");
                }
            }
            words += if ask.lost.is_some() { " again" } else { "" };
            self.say(&words);
        }
        assert_eq!(self.race.poll_timeout().is_none(), self.race.end().is_some());
        if was_over {
            return;
        }
        match self.race.end() {
            None => {}
            Some(End::Won(place)) => {
                let (server, _) = *self.asked.iter().find(|(_, other)| *other == place).unwrap();
                let lesson = match self.race.lesson() {
                    Some((_, Manner::PLAIN)) => ", learnt plain",
                    Some((_, Manner::LOWER)) => ", learnt lower",
                    Some((_, Manner::STREAM)) => ", learnt stream",
                    _ => "",
                };
                self.say(&format!("won {}{lesson}", self.names[server]));
            }
            Some(End::Lost) => {
                let word = self.race.last_word().map(|message| String::from_utf8(message).unwrap());
                self.say(&format!("lost {word:?}"));
            }
        }
    }

    /// Lets time pass, with all that it brings.
    fn until(&mut self, end: Duration) {
        while let Some(due) = self.race.poll_timeout().filter(|due| *due <= self.start + end) {
            self.now = self.now.max(due - self.start);
            let mut late = Vec::new();
            self.race.handle_timeout(self.start + self.now, |server, _| late.push(server));
            for server in late {
                self.say(&format!("late {}", self.names[server]));
            }
            self.settle(false);
        }
        self.now = self.now.max(end);
    }

    fn event(&mut self, whom: &str, word: &str) {
        let (name, number) = whom.split_once('/').map_or((whom, None), |(name, number)| (name, Some(number)));
        let server = self.names.iter().position(|other| other == name).unwrap();
        let of = self.asked.iter().filter(|(other, _)| *other == server).map(|(_, place)| *place);
        let place = match number {
            Some(number) => of.clone().nth(number.parse::<usize>().unwrap() - 1),
            None => of.clone().next_back(),
        };
        let place = place.unwrap();
        let stream = |fault| Judgement::Otherwise(Manner::STREAM, fault);
        let judgement = match word {
            "useful" => Judgement::Useful(crate::dns::codec::response::Response::default()),
            "useless" => Judgement::Useless,
            "cut" => stream(Fault::Cut),
            "torn" => stream(Fault::Unreadable),
            "other case" => stream(Fault::OtherCase),
            "no EDNS" => Judgement::Otherwise(Manner::PLAIN, Fault::NoEdns),
            "SERVFAIL" => Judgement::Elsewhere(Fault::Code(2)),
            "loop" => Judgement::Elsewhere(Fault::Unbound),
            "referral" => Judgement::Elsewhere(Fault::Referral),
            "refused" | "unreachable" | "guessed" => Judgement::Useless,
            other => panic!("{other}"),
        };
        let was_over = self.race.end().is_some();
        self.say(&format!("{whom}: {word}"));
        match word {
            "refused" => self.race.on_error(place, Trouble::Theirs, self.start + self.now),
            "unreachable" => self.race.on_error(place, Trouble::Ours, self.start + self.now),
            "guessed" => self.race.on_error(place, Trouble::Forged, self.start + self.now),
            _ => self.race.on_reply(place, &judgement, word.as_bytes()),
        }
        self.settle(was_over);
    }
}

fn servers(line: &str) -> (Vec<String>, Order) {
    let (mut names, mut order) = (Vec::new(), Order::default());
    for (server, words) in line.split(", ").enumerate() {
        let words: Vec<&str> = words.split(' ').collect();
        let patience = words[1].strip_suffix("ms").unwrap().parse().unwrap();
        let mut choice = Choice {
            server,
            patience: Duration::from_millis(patience),
            silent: words.contains(&"silent"),
            manner: Manner::USUAL,
        };
        for (word, manner) in [("stream", Manner::STREAM), ("plain", Manner::PLAIN), ("lower", Manner::LOWER)] {
            if words.contains(&word) {
                choice.manner = choice.manner.and(manner);
            }
        }
        names.push(words[0].to_owned());
        order.usable += usize::from(!words.contains(&"down"));
        order.choices.push(choice);
    }
    if order.usable == 0 {
        (order.usable, order.all_down) = (order.choices.len(), true);
    }
    (names, order)
}

/// What comes of a dialogue: its head and comments as they are, then all that happens.
fn play(text: &str) -> String {
    let head: Vec<&str> = text.lines().take_while(|line| !line.starts_with(|c: char| c.is_ascii_digit())).collect();
    let line = head.iter().find_map(|line| line.strip_prefix("servers ")).unwrap();
    let (names, order) = servers(line);
    let mut stage = Stage::new(names, order, head.contains(&"dnssec"));
    stage.settle(false);
    for line in text.lines().skip(head.len()) {
        let (time, words) = line.split_once(' ').unwrap();
        let Some((whom, word)) = words.split_once(": ") else { continue };
        stage.until(Duration::from_millis(time.parse().unwrap()));
        stage.event(whom, word);
    }
    stage.until(2 * TOTAL);
    format!("{}\n{}", head.join("\n"), stage.text)
}

#[test]
fn every_dialogue_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dns/upstream/race/dialogues");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let played = play(&text);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &played).unwrap();
        } else {
            assert_eq!(played, text, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 15, "{count} dialogues");
}

#[test]
fn whatever_comes_there_is_one_end_in_time_and_few_queries() {
    use rand::prelude::*;
    let words = [
        "useful",
        "useless",
        "cut",
        "torn",
        "other case",
        "no EDNS",
        "SERVFAIL",
        "loop",
        "referral",
        "refused",
        "unreachable",
        "guessed",
    ];
    let kinds = ["", " silent", " down", " stream", " plain", " lower"];
    for seed in 0..20_000u64 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let line: Vec<String> = (0..rng.random_range(1..=4))
            .map(|n| format!("s{n} {}ms{}", rng.random_range(50..=400), kinds.choose(&mut rng).unwrap()))
            .collect();
        let (names, order) = servers(&line.join(", "));
        let mut stage = Stage::new(names, order, rng.random());
        stage.settle(false);
        // A useful reply is rare, so that most go to the bitter end.
        for _ in 0..rng.random_range(0..40) {
            let time = stage.now + Duration::from_millis(rng.random_range(0..300));
            stage.until(time);
            let from = usize::from(rng.random_ratio(9, 10));
            let (server, place) = *stage.asked.choose(&mut rng).unwrap();
            let number = stage.asked.iter().filter(|(s, p)| *s == server && *p <= place).count();
            let whom = format!("{}/{number}", stage.names[server]);
            stage.event(&whom, words[from..].choose(&mut rng).unwrap());
        }
        stage.until(2 * TOTAL);
        let ends: Vec<&str> =
            stage.text.lines().filter(|line| line.contains(" won ") || line.contains(" lost ")).collect();
        assert_eq!(ends.len(), 1, "seed {seed}:\n{line:?}\n{}", stage.text);
        let at: u128 = ends[0].split(' ').next().unwrap().parse().unwrap();
        assert!(at <= TOTAL.as_millis(), "seed {seed}:\n{}", stage.text);
        assert!(stage.asked.len() <= QUERIES, "seed {seed}:\n{}", stage.text);
        let mut places: Vec<usize> = stage.asked.iter().map(|(_, place)| *place).collect();
        places.dedup();
        assert_eq!(places.len(), stage.asked.len(), "seed {seed}: a place twice");
    }
}
