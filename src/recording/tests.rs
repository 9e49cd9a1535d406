use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::line::{Beginning, Line, Said};
use super::replay::{ReplayError, Summary, replay};
use super::{Recorder, Wanted};
use crate::config::schema::Config;
use crate::core::address::AddressFilter;
use crate::core::client::{Clients, Station};
use crate::core::event::StoredPair;
use crate::core::event::{
    Admission, EnforcerId, EnforcerKind, EnforcerSpec, Event, Forbidden, ForbiddenPath, Generation, Grant, GuardNews,
    GuardWord, Listed, Output, QueryPath, Reload, RevokeTarget, Routers, StoredLease, Ticket,
};
use crate::core::flows::FlowsSeen;
use crate::core::groups::Groups;
use crate::core::guard::Guard;
use crate::core::judge::Judge;
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::narrow::{Narrow, NarrowKinds, Opening, Port, TCP, Who};
use crate::core::person::Mark;
use crate::core::policy::view::Views;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn spec() -> EnforcerSpec {
    EnforcerSpec {
        name: "nftables".to_owned(),
        kind: EnforcerKind::Timed,
        required: true,
        max_addresses: 1000,
        ipv4: true,
        ipv6: true,
        narrow: NarrowKinds { clients: true, ports: true, applications: true },
    }
}

fn config() -> Config {
    let mut config = Config::default();
    let group = "name = \"kids\"\nclients = [\"192.0.2.0/28\"]\ncommunities = [\"64512:7\", \"64512:0:7\"]\nshare = 7\n\
                 certificate = [\"*.kids.example\"]\ndoh_path = \"/dns-query/kids\"";
    config.policy.group.push(toml::from_str(group).unwrap());
    config
}

fn beginning() -> Beginning {
    let config = config();
    Beginning {
        version: "0.0.0".to_owned(),
        lease: config.lease.clone(),
        gate: config.gate.clone(),
        linger: Duration::from_secs(30),
        enforcers: vec![spec()],
        groups: Arc::new(Groups::new(&config).unwrap()),
        clients: Arc::new(Clients::new(&config)),
        announces: true,
        per_client: false,
        client_prefix: 128,
        narrow: false,
    }
}

fn admission(ticket: u64, question: &str, last: u8) -> Admission {
    Admission {
        judged: 0,
        ticket: Ticket(ticket),
        client: "192.0.2.7".parse().unwrap(),
        mark: Mark::of("path /dns-query/kids"),
        question: name(question),
        qtype: 1,
        chain: vec![name("alias.test"), name("with\\.dot.and\\\"quote.test")].into(),
        domain: name("test"),
        grants: [Grant { address: address(last), ttl: 60 }].into_iter().collect(),
        openings: vec![Opening { application: Some(3), to: Port::Of { protocol: TCP, port: 443 } }, Opening::ALL]
            .into(),
        whole: false,
    }
}

/// One that changes everything.
fn reload(pair: (IpAddr, Narrow)) -> Reload {
    let config = config();
    let enforcers = vec![Listed { id: EnforcerId(0), spec: spec(), joins: false }];
    let names: Arc<[Name]> = vec![name("a.test"), name("b.test")].into();
    let mark = Mark::of("path /dns-query/kids");
    Reload {
        settings: Some((config.lease.clone(), config.gate.clone())),
        routers: Some(Routers { enforcers, linger: Duration::from_secs(1), exchange: None }),
        announces: Some(true),
        groups: Some(Arc::new(Groups::new(&config).unwrap())),
        clients: Some(Arc::new(Clients::new(&config))),
        narrowly: true,
        judge: None,
        forbidden: Some(Forbidden {
            addresses: vec![address(1)],
            paths: vec![ForbiddenPath { address: address(2), question: name("a.test"), chain: names.clone(), mark }],
            pairs: vec![(pair, names, mark)],
            reopened: vec![(pair, name("a.test"), vec![Port::Any, Port::Of { protocol: TCP, port: 443 }])],
            tickets: vec![Ticket(9)],
        }),
    }
}

/// One of each kind that there is.
fn one_of_each() -> Vec<Event> {
    let enforcer = EnforcerId(0);
    let generation = Generation(7);
    let pair = (address(1), Narrow { who: Who::Client(address(9)), to: Port::Of { protocol: 200, port: 5 } });
    let path = QueryPath { question: name("a.test"), chain: vec![name("b.test")].into(), ends: Moment(5000) };
    let stored = StoredLease {
        address: address(2),
        ends: Moment(9000),
        paths: [path].into_iter().collect(),
        adds: true,
        groups: vec![("kids".to_owned(), Moment(8000))],
    };
    let stored_pair = StoredPair {
        address: address(2),
        narrow: pair.1,
        ends: Moment(1),
        names: vec![vec![name("a.test")].into()],
        told: vec![Moment(1)],
    };
    let guard = "192.0.2.1".parse().unwrap();
    let news = |what| GuardNews { address: address(3), guard, by: guard, what };
    let words = [GuardWord::Until(Moment(1)), GuardWord::AtLeast(Moment(2)), GuardWord::TakenBack, GuardWord::Orphaned];
    let stations = [(address(4), Station { interface: 3, octets: [1, 2, 3, 4, 5, 6, 0, 0] })];
    let config = config();
    vec![
        Event::Admit(admission(1, "www.a.test", 1)),
        Event::Applied { enforcer, generation },
        Event::Confirmed { enforcer, addresses: vec![(address(1), generation)] },
        Event::Lost { enforcer, reason: "gone".to_owned() },
        Event::Refused { enforcer, generation, reason: "full".to_owned() },
        Event::RefusedAddress { enforcer, address: address(1), generation, reason: "no".to_owned() },
        Event::Missing { enforcer, addresses: vec![address(1)], pairs: vec![pair] },
        Event::MissingRoutes { enforcer, addresses: vec![address(1)], generation },
        Event::Repaired { enforcer, kind: "missing", count: 3, what: "three".to_owned() },
        Event::Families { enforcer, ipv4: true, ipv6: false },
        Event::WantSync { enforcer },
        Event::Revoke(RevokeTarget::Address(address(1))),
        Event::Revoke(RevokeTarget::Name(name("."))),
        Event::FlowsSeen(FlowsSeen {
            source: address(1),
            interval: Duration::from_secs(60),
            ends: vec![(address(1), address(2))],
        }),
        Event::FlowLimit(Duration::ZERO),
        Event::Clients(Arc::new(Clients::new(&config).with_stations(Arc::new(stations.into())))),
        Event::Slept,
        Event::RestoredEarlier(Duration::from_secs(5)),
        Event::Restore(vec![stored]),
        Event::RestorePairs(vec![stored_pair]),
        Event::Guards(words.map(news).to_vec()),
        Event::Exchange(Some(guard)),
        Event::Denied(Ticket(3)),
        Event::Reload(Box::new(reload(pair))),
    ]
}

#[test]
fn every_event_is_read_as_it_was_written() {
    for event in one_of_each() {
        let text = serde_json::to_string(&Line::Event { at: Moment(7), event: &event }).unwrap();
        let Line::Event { at: Moment(7), event: read } = serde_json::from_str::<Line<Event>>(&text).unwrap() else {
            panic!("{text}");
        };
        assert_eq!(format!("{read:?}"), format!("{event:?}"));
    }
    let text = serde_json::to_string(&Line::<()>::Begins(Box::new(beginning()))).unwrap();
    let Line::Begins(read) = serde_json::from_str::<Line<Event>>(&text).unwrap() else { panic!("{text}") };
    assert_eq!(format!("{read:?}"), format!("{:?}", beginning()));
}

/// A guard as its task drives it, with a recorder beside it.
struct Recorded {
    guard: Guard,
    recorder: Option<Recorder>,
    released: usize,
    refused: usize,
}

impl Recorded {
    fn new(wanted: &Wanted) -> Self {
        let begins = beginning();
        let guard = begins.guard();
        let recorder = Recorder::start(Recorder::open(wanted).unwrap(), wanted, begins).unwrap();
        Self { guard, recorder: Some(recorder), released: 0, refused: 0 }
    }

    fn hear(&mut self, event: Event, at: u64) {
        let event = self.guard.judged(event);
        if let Some(recorder) = &mut self.recorder {
            recorder.event(&event, Moment(at));
        }
        self.guard.handle(event, Moment(at));
        self.note_reloaded(at);
    }

    fn note_reloaded(&mut self, at: u64) {
        if let (Some(reload), Some(recorder)) = (self.guard.take_reloaded(), &mut self.recorder) {
            recorder.reloaded(reload, Moment(at));
        }
    }

    fn turn(&mut self, at: u64) {
        if self.guard.poll_timeout().is_some_and(|due| due <= Moment(at)) {
            if let Some(recorder) = &mut self.recorder {
                recorder.timeout(Moment(at));
            }
            self.guard.handle_timeout(Moment(at));
            self.note_reloaded(at);
        }
        let mut decided = Vec::new();
        while let Some(output) = self.guard.poll_output() {
            if let Output::Decide { ticket, decision } = output {
                match Said::from(&decision) {
                    Said::Released { .. } => self.released += 1,
                    Said::Refused(_) => self.refused += 1,
                }
                decided.push((ticket, decision));
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.turn(&decided);
        }
    }

    /// Some hundred questions, of which some are refused; an enforcer that is lost and comes back, leases that end.
    fn live(&mut self) {
        let enforcer = EnforcerId(0);
        self.hear(Event::WantSync { enforcer }, 1);
        self.turn(1);
        let mut at = 10;
        for round in 0_u64..300 {
            at += 500;
            let last = u8::try_from(round % 250).unwrap();
            self.hear(Event::Admit(admission(round + 1, &format!("n{round}.secret.test"), last)), at);
            self.turn(at);
            match round % 50 {
                30 => self.hear(Event::Lost { enforcer, reason: "gone".to_owned() }, at + 3),
                // Meanwhile nothing is in force, and answers wait until their deadline.
                31..34 => {}
                34 => self.hear(Event::WantSync { enforcer }, at + 3),
                40 => self.hear(Event::Revoke(RevokeTarget::Address(address(last))), at + 3),
                _ => self.hear(Event::Applied { enforcer, generation: Generation(u64::MAX) }, at + 3),
            }
            self.turn(at + 5);
        }
        self.recorder = None;
    }
}

fn wanted(directory: &tempfile::TempDir) -> Wanted {
    Wanted { file: directory.path().join("recording"), hide_names: false, most: u64::MAX }
}

/// Waits until the recording has its last line.
fn read(wanted: &Wanted) -> String {
    let begun = std::time::Instant::now();
    loop {
        let text = std::fs::read_to_string(&wanted.file).unwrap();
        if text.lines().last().is_some_and(|line| line.starts_with("{\"ends\"")) {
            return text;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn replayed(text: &str) -> (Summary, String) {
    let mut out = Vec::new();
    let summary = replay(text.as_bytes(), false, &mut out).unwrap();
    (summary, String::from_utf8(out).unwrap())
}

#[test]
fn what_was_recorded_is_decided_alike_again() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = wanted(&directory);
    let mut recorded = Recorded::new(&wanted);
    recorded.live();
    assert!(recorded.released > 200 && recorded.refused > 0, "{} {}", recorded.released, recorded.refused);
    let (summary, said) = replayed(&read(&wanted));
    assert_eq!(
        (summary.released, summary.refused, summary.different),
        (recorded.released, recorded.refused, 0),
        "{said}"
    );
    assert!(!summary.torn && summary.why.is_some());
    for word in ["n7.secret.test", "open 203.0.113.7 until", "#8 released, 1 leases", "refused: gate.deadline passed"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn a_reload_is_recorded_as_what_its_rules_forbade() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = wanted(&directory);
    let mut recorded = Recorded::new(&wanted);
    let enforcer = EnforcerId(0);
    recorded.hear(Event::WantSync { enforcer }, 1);
    recorded.turn(1);
    let ask = |recorded: &mut Recorded, ticket: u64, last: u8, at: u64| {
        recorded.hear(Event::Admit(admission(ticket, &format!("n{last}.secret.test"), last)), at);
        recorded.turn(at);
        recorded.hear(Event::Applied { enforcer, generation: Generation(u64::MAX) }, at + 1);
        recorded.turn(at + 1);
    };
    (0..20).for_each(|last| ask(&mut recorded, u64::from(last) + 1, last, 1000 + 10 * u64::from(last)));
    let rules = "[policy]\ndeny = [\"n3.secret.test\", \"n30.secret.test\"]\n\
                 [[policy.private]]\ndomain = \".\"\nprefixes = [\"203.0.113.0/24\"]\n";
    let config: Config = toml::from_str(rules).unwrap();
    let (views, filter) = (Views::new(&config, &[]).unwrap(), AddressFilter::new(&config, &[]).unwrap());
    let judge = Some(Judge::new(1, Arc::new(views), Arc::new(filter), Arc::default()));
    recorded.hear(Event::Reload(Box::new(Reload { judge, ..Reload::default() })), 2000);
    let mut turns = 0;
    while recorded.guard.is_reloading() {
        recorded.turn(2001);
        turns += 1;
        assert!(turns < 100);
    }
    ask(&mut recorded, 30, 30, 3000);
    ask(&mut recorded, 31, 31, 4000);
    recorded.recorder = None;
    assert_eq!((recorded.released, recorded.refused), (21, 1));
    let (summary, said) = replayed(&read(&wanted));
    assert_eq!((summary.released, summary.refused, summary.different), (21, 1, 0), "{said}");
    for word in ["a reload: 0 addresses, 1 ways", "close 203.0.113.3", "#30 was judged by former rules"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn hidden_names_are_in_no_line_and_change_no_decision() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = Wanted { hide_names: true, ..wanted(&directory) };
    let mut recorded = Recorded::new(&wanted);
    recorded.live();
    let text = read(&wanted);
    for label in ["secret", "alias", "n7.", "quote", "~test"] {
        assert!(!text.contains(label), "{label}");
    }
    let (summary, said) = replayed(&text);
    assert_eq!(
        (summary.released, summary.refused, summary.different),
        (recorded.released, recorded.refused, 0),
        "{said}"
    );
}

#[test]
fn another_decision_than_was_recorded_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = wanted(&directory);
    Recorded::new(&wanted).live();
    let text =
        read(&wanted).replacen("[[8,{\"released\":{\"leases\":1}}]]", "[[8,{\"refused\":\"lease.capacity\"}]]", 1);
    let (summary, said) = replayed(&text);
    assert_eq!(summary.different, 1);
    assert!(said.contains("! recorded: [#8 refused: lease.capacity], now: [#8 released, 1 leases]"), "{said}");
}

#[test]
fn a_recording_ends_at_its_bound_and_is_whole_so_far() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = Wanted { most: 20_000, ..wanted(&directory) };
    Recorded::new(&wanted).live();
    let text = read(&wanted);
    assert!(text.len() < 21_000, "{}", text.len());
    let (summary, said) = replayed(&text);
    assert_eq!(summary.different, 0, "{said}");
    assert!(summary.events > 10 && summary.why.unwrap().contains("--record-limit"));
}

#[test]
fn an_event_of_an_earlier_version_is_named_with_its_line() {
    let begins = serde_json::to_string(&Line::<()>::Begins(Box::new(beginning()))).unwrap();
    for (event, text) in [
        ("Forbid", r#"{"Forbid":["a.test"]}"#),
        ("Narrowly", r#""Narrowly""#),
        ("Settings", r#"{"Settings":[{},{}]}"#),
        ("Linger", r#"{"Linger":{"secs":1,"nanos":0}}"#),
    ] {
        let recording = format!("{begins}\n{{\"event\":{{\"at\":7,\"event\":{text}}}}}\n");
        let error = replay(recording.as_bytes(), true, &mut Vec::new()).unwrap_err().to_string();
        let wanted =
            format!("line 2: the event {event} is of an earlier version ({} recorded it)", beginning().version);
        assert!(error.starts_with(&wanted), "{error}");
    }
    let unknown = format!("{begins}\n{{\"event\":{{\"at\":7,\"event\":{{\"Forbidden\":[]}}}}}}\n");
    let error = replay(unknown.as_bytes(), true, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ReplayError::Line { line: 2, .. }), "{error}");
}

#[test]
fn a_torn_recording_is_replayed_to_its_tear_and_another_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = wanted(&directory);
    Recorded::new(&wanted).live();
    let text = read(&wanted);
    let (summary, _) = replayed(&text[..text.len() / 2]);
    assert!(summary.torn && summary.different == 0 && summary.events > 100, "{summary:?}");
    let refused = |text: &str| replay(text.as_bytes(), true, &mut Vec::new()).unwrap_err();
    assert!(matches!(refused("{\"timeout\":{\"at\":1}}\n"), ReplayError::NoBeginning(1)));
    assert!(matches!(refused("hello\nworld\n"), ReplayError::Line { line: 1, .. }));
    let mut damaged = text.lines().take(3).collect::<Vec<_>>().join("\n").into_bytes();
    writeln!(damaged, "\n{{\"event\":{{}}}}\n{{}}").unwrap();
    let error = replay(damaged.as_slice(), true, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, ReplayError::Line { line: 4, .. }), "{error}");
}
