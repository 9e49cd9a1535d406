//! Plays the dialogues in `tests/scenario/*.txt` against the core on a virtual clock.
//!
//! A dialogue starts with `enforcer`, `lease` and `gate` lines (the configuration). Then each line that starts with a
//! time is an event at that time; the indented lines below it are everything that must come out, in order and no more.
//! Timers that are due before an event fire at their own time; what comes out then is shown with that time in brackets,
//! before what the event itself causes. A line that ends in `&` is taken in one batch with the next. `#` starts a comment.
//!
//! ```text
//! enforcer NAME timed|route [required] [max=N] [ipv4|ipv6]
//! lease min=60s max=24h grace=30s capacity=N per_answer=N linger=10m
//! lease new_per_client=50/s burst_per_client=500 new_per_domain=100/s burst_per_domain=1000
//! gate deadline=1s on_deadline=servfail|answer
//! T admit TICKET CLIENT QUESTION[>ALIAS]... ADDRESS/TTL... [whole]        T tick
//! T applied ENFORCER N    T lost ENFORCER REASON    T refused ENFORCER N REASON    T sync ENFORCER
//! T families ENFORCER [ipv4] [ipv6]
//! T revoke ADDRESS|NAME   T forbid NAME...          T restore ADDRESS@END NAME[>ALIAS]...
//! T leases [ADDRESS|NAME|PREFIX]   T causes ADDRESS   T inforce TICKET   T enforcers   T counts   T names
//! ```

// Helpers of a test fail the test by panicking; clippy knows this only of functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use destguard::config::schema::{Config, Gate, Lease, OnDeadline};
use destguard::config::value::Span;
use destguard::core::address::AddressFilter;
use destguard::core::event::{
    Admission, Change, Decision, EnforcerId, EnforcerKind, EnforcerSpec, Event, Generation, Grant, LeaseHandle, Output,
    QueryPath, Reload, RevokeTarget, StoredLease, Ticket,
};
use destguard::core::explain::LeaseFilter;
use destguard::core::guard::{Guard, Settings};
use destguard::core::judge::Judge;
use destguard::core::moment::Moment;
use destguard::core::name::Name;
use destguard::core::policy::view::Views;

#[test]
fn every_dialogue_comes_out_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenario");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let (expected, seen) = play(&text);
        if expected != seen {
            writeln!(wrong, "{}: {}", path.display(), first_difference(&expected, &seen)).unwrap();
            writeln!(wrong, "what came out:\n{}\n", seen.join("\n")).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn first_difference(expected: &[String], seen: &[String]) -> String {
    let at = expected.iter().zip(seen).take_while(|(a, b)| a == b).count();
    let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(the end)".to_owned());
    format!("expected {:?}, got {:?}", line(expected), line(seen))
}

/// The dialogue without its comments, and the same as it was really seen.
fn play(text: &str) -> (Vec<String>, Vec<String>) {
    let mut player = Player::default();
    let mut expected = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        if line.is_empty() {
            continue;
        }
        if line.starts_with(' ') {
            expected.push(format!("    {}", line.trim()));
            continue;
        }
        expected.push(line.to_owned());
        player.line(line);
    }
    (expected, player.seen)
}

/// Rules that deny these names, and no address. Dialogues' answers are judged by none: these have the number that says so.
fn denying(names: &[&str]) -> Judge {
    let deny: Vec<String> = names.iter().map(|name| format!("={name}")).collect();
    let text = format!(
        "[policy]\ndeny = {deny:?}\n[[policy.private]]\ndomain = \".\"\nprefixes = [\"0.0.0.0/0\", \"::/0\"]\n"
    );
    let config: Config = toml::from_str(&text).unwrap();
    let (views, filter) = (Views::new(&config, &[]).unwrap(), AddressFilter::new(&config, &[]).unwrap());
    Judge::new(0, Arc::new(views), Arc::new(filter), Arc::default())
}

struct Player {
    settings: Settings,
    specs: Vec<EnforcerSpec>,
    guard: Option<Guard>,
    handles: BTreeMap<Ticket, Vec<LeaseHandle>>,
    seen: Vec<String>,
}

impl Default for Player {
    fn default() -> Self {
        // The dialogues' own times: they are about the core, not about what a file without these keys gets.
        let lease = Lease { grace: Span::secs(30), ..Lease::default() };
        let settings = Settings { lease, gate: Gate::default(), linger: std::time::Duration::from_secs(600) };
        Self { settings, specs: Vec::new(), guard: None, handles: BTreeMap::new(), seen: Vec::new() }
    }
}

impl Player {
    fn line(&mut self, line: &str) {
        let batch = line.ends_with('&');
        let words: Vec<&str> = line.trim_end_matches('&').split_whitespace().collect();
        let (first, rest) = words.split_first().unwrap();
        match *first {
            "enforcer" => self.specs.push(enforcer(rest)),
            "lease" => rest.iter().for_each(|word| self.lease(word)),
            "gate" => rest.iter().for_each(|word| self.gate(word)),
            time => {
                let now = moment(time);
                let (settings, specs) = (self.settings.clone(), self.specs.clone());
                self.guard.get_or_insert_with(|| Guard::new(settings, specs));
                let mut fired = Vec::new();
                while let Some(due) = self.guard.as_ref().unwrap().poll_timeout().filter(|due| *due <= now) {
                    self.guard.as_mut().unwrap().handle_timeout(due);
                    fired.extend(self.drain().into_iter().map(|out| format!("    [{}] {out}", show(due))));
                }
                self.seen.push(line.to_owned());
                self.seen.append(&mut fired);
                let (verb, rest) = rest.split_first().unwrap();
                if let Some(event) = self.event(verb, rest) {
                    self.guard.as_mut().unwrap().handle(event, now);
                }
                if !batch {
                    let out = self.drain();
                    self.seen.extend(out.into_iter().map(|out| format!("    {out}")));
                }
                let looked = self.look(verb, rest, now);
                self.seen.extend(looked.into_iter().map(|out| format!("    {out}")));
                return;
            }
        }
        self.seen.push(line.to_owned());
    }

    fn lease(&mut self, word: &str) {
        let (key, value) = word.split_once('=').unwrap();
        let lease = &mut self.settings.lease;
        match key {
            "min" => lease.min = value.parse().unwrap(),
            "max" => lease.max = value.parse().unwrap(),
            "grace" => lease.grace = value.parse().unwrap(),
            "capacity" => lease.capacity = value.parse().unwrap(),
            "per_answer" => lease.per_answer = value.parse().unwrap(),
            "new_per_client" => lease.new_per_client = value.parse().unwrap(),
            "new_per_domain" => lease.new_per_domain = value.parse().unwrap(),
            "burst_per_client" => lease.burst_per_client = value.parse().unwrap(),
            "burst_per_domain" => lease.burst_per_domain = value.parse().unwrap(),
            "linger" => self.settings.linger = value.parse::<Span>().unwrap().0,
            _ => panic!("lease {key}?"),
        }
    }

    fn gate(&mut self, word: &str) {
        match word.split_once('=').unwrap() {
            ("deadline", value) => self.settings.gate.deadline = value.parse().unwrap(),
            ("on_deadline", "answer") => self.settings.gate.on_deadline = OnDeadline::Answer,
            ("on_deadline", "servfail") => self.settings.gate.on_deadline = OnDeadline::Servfail,
            _ => panic!("gate {word}?"),
        }
    }

    fn id(&self, name: &str) -> EnforcerId {
        let index = self.specs.iter().position(|spec| spec.name == name).unwrap();
        EnforcerId(u16::try_from(index).unwrap())
    }

    fn event(&self, verb: &str, rest: &[&str]) -> Option<Event> {
        let generation = |word: &str| Generation(word.parse().unwrap());
        Some(match verb {
            "admit" => Event::Admit(admission(rest)),
            "applied" => Event::Applied { enforcer: self.id(rest[0]), generation: generation(rest[1]) },
            "lost" => Event::Lost { enforcer: self.id(rest[0]), reason: rest[1..].join(" ") },
            "refused" => Event::Refused {
                enforcer: self.id(rest[0]),
                generation: generation(rest[1]),
                reason: rest[2..].join(" "),
            },
            "confirmed" => Event::Confirmed {
                enforcer: self.id(rest[0]),
                addresses: vec![(rest[1].parse().unwrap(), generation(rest[2]))],
            },
            "refused-address" => Event::RefusedAddress {
                enforcer: self.id(rest[0]),
                address: rest[1].parse().unwrap(),
                generation: generation(rest[2]),
                reason: rest[3..].join(" "),
            },
            "families" => Event::Families {
                enforcer: self.id(rest[0]),
                ipv4: rest.contains(&"ipv4"),
                ipv6: rest.contains(&"ipv6"),
            },
            "sync" => Event::WantSync { enforcer: self.id(rest[0]) },
            "revoke" => Event::Revoke(match rest[0].parse() {
                Ok(address) => RevokeTarget::Address(address),
                Err(_) => RevokeTarget::Name(name(rest[0])),
            }),
            "forbid" => Event::Reload(Box::new(Reload { judge: Some(denying(rest)), ..Reload::default() })),
            "restore" => {
                let (address, ends) = rest[0].split_once('@').unwrap();
                let path = |word: &&str| {
                    let (question, chain) = word.split_once('>').unwrap_or((word, ""));
                    let chain = chain.split('>').filter(|alias| !alias.is_empty()).map(name).collect();
                    QueryPath { question: name(question), chain, ends: moment(ends) }
                };
                let paths = rest[1..].iter().map(path).collect();
                Event::Restore(vec![StoredLease {
                    address: address.parse().unwrap(),
                    ends: moment(ends),
                    paths,
                    adds: false,
                    groups: Vec::new(),
                }])
            }
            "tick" | "leases" | "causes" | "inforce" | "enforcers" | "counts" | "names" => return None,
            _ => panic!("{verb}?"),
        })
    }

    fn look(&self, verb: &str, rest: &[&str], now: Moment) -> Vec<String> {
        let guard = self.guard.as_ref().unwrap();
        match verb {
            "leases" => {
                let filter = rest.first().map_or(LeaseFilter::All, |word| match (word.parse(), word.parse()) {
                    (Ok(address), _) => LeaseFilter::Address(address),
                    (_, Ok(prefix)) => LeaseFilter::Prefix(prefix),
                    _ => LeaseFilter::Name(name(word)),
                });
                let show = |view: destguard::core::explain::LeaseView| {
                    let state = format!("{:?}", view.state).to_lowercase();
                    let enforcers: Vec<_> =
                        view.enforcers.iter().map(|(name, state)| format!("{name}={state}")).collect();
                    let names = view.names.join(",");
                    let clients: Vec<_> = view.clients.iter().map(IpAddr::to_string).collect();
                    let (address, ends, clients) = (view.address, view.ends_in_seconds, clients.join(","));
                    format!("{address} {state} ends in {ends}s for {names} by {clients}; {}", enforcers.join(" "))
                };
                guard.leases(&filter, None, usize::MAX, now).into_iter().map(show).collect()
            }
            "causes" => {
                let Some(why) = guard.explain(rest[0].parse().unwrap(), now) else { return vec!["none".to_owned()] };
                let show = |cause: &destguard::core::explain::CauseView| {
                    let path =
                        std::iter::once(&cause.question).chain(&cause.chain).cloned().collect::<Vec<_>>().join(">");
                    let clients: Vec<_> = cause
                        .clients
                        .iter()
                        .map(|client| format!("{} {}s", client.client, client.ends_in_seconds))
                        .collect();
                    format!("{path} ends in {}s: {}", cause.ends_in_seconds, clients.join(", ")).trim_end().to_owned()
                };
                why.causes.iter().map(show).collect()
            }
            "inforce" => {
                let handles = self.handles.get(&Ticket(rest[0].parse().unwrap())).unwrap();
                let show = |handle: &LeaseHandle| {
                    let word =
                        if handle.in_force_for(now, std::time::Duration::ZERO) { "in force" } else { "not in force" };
                    format!("{} {word} until {}", handle.address(), show(handle.ends()))
                };
                handles.iter().map(show).collect()
            }
            "enforcers" => {
                let show = |view: destguard::core::explain::EnforcerView| {
                    let error = view.last_error.map(|error| format!("; {error}")).unwrap_or_default();
                    let behind = if view.behind { " behind" } else { "" };
                    format!("{} {:?}{behind} holds {}{error}", view.name, view.state, view.installed)
                };
                guard.enforcers(now).into_iter().map(show).collect()
            }
            "counts" => {
                let counts = guard.counts();
                vec![format!(
                    "active {}+{} lingering {} waiting {} released {} timeouts {} opened {} extended {} expired {} closed {}",
                    counts.ipv4,
                    counts.ipv6,
                    counts.lingering,
                    counts.waiting,
                    counts.released,
                    counts.gate_timeouts,
                    counts.opened,
                    counts.extended,
                    counts.expired,
                    counts.closed
                )]
            }
            "names" => vec![guard.names().map(Name::to_string).collect::<Vec<_>>().join(" ")],
            _ => Vec::new(),
        }
    }

    fn drain(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(output) = self.guard.as_mut().unwrap().poll_output() {
            seen.push(match output {
                Output::ApplyTimed { generation, changes } => {
                    format!("timed {}: {}", generation.0, changes_text(&changes, true))
                }
                Output::ApplyRoutes { generation, changes } => {
                    format!("routes {}: {}", generation.0, changes_text(&changes, false))
                }
                Output::Sync { enforcer, generation, leases, .. } => {
                    let leases: Vec<_> =
                        leases.iter().map(|(address, ends)| format!("{address}@{}", show(*ends))).collect();
                    let name = &self.specs[usize::from(enforcer.0)].name;
                    format!("sync {name} {}: {}", generation.0, leases.join(" ")).trim_end().to_owned()
                }
                Output::Decide { ticket, decision: Decision::Release { leases, short } } => {
                    let addresses: Vec<_> = leases.iter().map(|handle| handle.address().to_string()).collect();
                    self.handles.insert(ticket, leases.to_vec());
                    let short = short.map(|budget| format!(" short of {budget:?}")).unwrap_or_default();
                    format!("release {}: {}{short}", ticket.0, addresses.join(" "))
                }
                Output::Decide { ticket, decision: Decision::Refuse(refusal) } => {
                    format!("refuse {}: {refusal:?}", ticket.0)
                }
                Output::Share(leases) => format!("share {leases:?}"),
                Output::Journal(lease) => {
                    let names: Vec<_> = lease.paths.iter().map(|path| path.question.to_string()).collect();
                    let verb = if lease.adds { "journal add" } else { "journal" };
                    format!("{verb} {}@{} {}", lease.address, show(lease.ends), names.join(" "))
                }
                Output::JournalRevoked(name) => format!("journal revoked {name}"),
                Output::JournalClosed(address) => format!("journal closed {address}"),
                Output::JournalPair(record) => format!("journal pair {record:?}"),
                Output::CutFlows(address) => format!("cut {address}"),
                Output::Hurry(addresses) => {
                    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                    format!("hurry {}", addresses.join(" "))
                }
                Output::Groups(_) => "groups".to_owned(),
                Output::RoutesAnew => "routes anew".to_owned(),
            });
        }
        seen
    }
}

fn changes_text(changes: &[Change], timed: bool) -> String {
    let until = |ends: &Moment| if timed { format!("@{}", show(*ends)) } else { String::new() };
    let text = |change: &Change| match change {
        Change::Open { address, ends } => format!("+{address}{}", until(ends)),
        Change::Extend { address, ends } => format!("^{address}{}", until(ends)),
        Change::Close { address } => format!("-{address}"),
        Change::Announce { address, groups, .. } => format!("+{address} for {groups:?}"),
        Change::Narrow { address, narrow, ends, .. } => format!("{address} for {narrow:?} until {ends:?}"),
    };
    changes.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn enforcer(words: &[&str]) -> EnforcerSpec {
    let families = words.iter().any(|word| word.starts_with("ipv"));
    let mut spec = EnforcerSpec {
        name: words[0].to_owned(),
        kind: EnforcerKind::Timed,
        required: false,
        max_addresses: usize::MAX,
        ipv4: !families,
        ipv6: !families,
        narrow: Default::default(),
    };
    for word in &words[1..] {
        match *word {
            "timed" => spec.kind = EnforcerKind::Timed,
            "route" => spec.kind = EnforcerKind::Route,
            "required" => spec.required = true,
            "ipv4" => spec.ipv4 = true,
            "ipv6" => spec.ipv6 = true,
            max => spec.max_addresses = max.strip_prefix("max=").unwrap().parse().unwrap(),
        }
    }
    spec
}

fn admission(words: &[&str]) -> Admission {
    let mut names = words[2].split('>').map(name);
    let question = names.next().unwrap();
    let domain = question.parent().filter(|parent| parent.label_count() > 1).unwrap_or_else(|| question.clone());
    let whole = words.last() == Some(&"whole");
    let grants = words[3..].iter().filter(|word| **word != "whole").map(|word| {
        let (address, ttl) = word.split_once('/').unwrap();
        Grant { address: address.parse().unwrap(), ttl: ttl.parse().unwrap() }
    });
    Admission {
        judged: 0,
        openings: Default::default(),
        whole,
        ticket: Ticket(words[0].parse().unwrap()),
        client: words[1].parse().unwrap(),
        mark: None,
        question,
        qtype: 1,
        chain: names.collect(),
        domain,
        grants: grants.collect(),
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn moment(text: &str) -> Moment {
    Moment::ZERO.plus(text.parse::<Span>().unwrap().0)
}

fn show(moment: Moment) -> String {
    if moment.0.is_multiple_of(1000) { format!("{}s", moment.0 / 1000) } else { format!("{}ms", moment.0) }
}
