//! What forwarders meet, as text dialogues: `dialogues/*.dialogue`. The kinds are those for which unbound and deckard have scenarios that concern
//! forwarders; no word of theirs is here. What happens between queries and retries stands in the dialogues of the race
//! (`upstream/race/dialogues`), what validation says of signed zones in `validate/tests`.
//!
//! ```text
//! servers a, b corp.example             b is asked for corp.example alone
//! toml [policy]                         added to the configuration
//! a: www.example A tcp -> NOERROR tc    over TCP alone (udp: over UDP alone), with the flag TC. Several for one question are given in turn, the last for ever
//! a:   www.example 300 A 192.0.2.1      in ANSWER; behind "authority" or "additional" in these
//! > www.example A do                    a client asks (over TCP: tcp; with DO: do; flags that are set: ad, cd; RD clear: -rd)
//! >> slow.example A                     another one asks, and is not waited for
//! a? www.example A                      what came to the servers
//! < NOERROR ad                          the reply, with flags beside QR, RD and RA
//! <   www.example 300 A 192.0.2.1
//! open 192.0.2.1                        what has become open
//! ```
//!
//! Lines that begin with `?` behind a server's name, with `<` or with `open` are what the guard did, and must be so to the letter; with `BLESS` set the
//! files are written anew. TTLs are rounded up to whole minutes. Replies that a server gives are `silent` or an error code, with the flags `aa`, `-ra`,
//! `tc`, `ad`; `cut` ends the message in the middle of its last record, `of NAME` answers another question, `junk` has no readable record. Behind `until` stands the code for which the client asks again and again.
//!
//! | kind | unbound, deckard | dialogue |
//! |---|---|---|
//! | an answer with what nobody asked for beside it | fwd, fwd_minimal, iter_scrub_ns_fwd, iter_scrub_mx | `plain`, `strays`, `mail` |
//! | kept or not | fwd_cached, fwd_notcached, fwd_no_cache, fwd_zero, ttl_zero_cacherep | `kept`, `zero` |
//! | kept aliases and their ends, also under another question | iter_cname_cache, iter_pcname* | `kept-alias` |
//! | bounds of TTLs | ttl_max, ttl_min, ttl_max_negative | `ttls` |
//! | ANY | fwd_any, val_any_cname | `any` |
//! | failures, and what comes after | fwd_error, fwd_error_retries, fwd_0ttlservfail | `failure`, `failure-codes` |
//! | one waits, another is asked | fwd_two, fwd_jostle, fwd_droptoomany | `waits` |
//! | TC, and what TCP says then | fwd_tcp, fwd_tcp_tc, iter_tcbit | `truncated` |
//! | what can't be read | fwd_malformed, fwd_bogus, iter_badraw, iter_scrub_rr_length | `malformed` |
//! | other questions than the one that was asked | fwd_udp, fwd_oneport | `another-question` |
//! | a domain's own servers, also at the end of an alias; DS is the zone's above | iter_fwdstub*, module_policy_forward, val_fwdds | `domains` |
//! | aliases: to nothing, twice, beside data, in a ring, in any order | iter_cname_nx, iter_cname_double, val_twocname, local_cnameother, val_cname_loop* | `aliases`, `bad-aliases` |
//! | DNAME: with and without its alias, of TTL 0, of somebody else | iter_dname_*, iter_scrub_dname_* | `dname` |
//! | nothing: with SOA, without, of the zone above | iter_lame_nosoa, val_nx_* | `nothing` |
//! | another type than was asked for | iter_unexpectedrrtype | `other-type` |
//! | many signatures on one set | fwd_scrub_rrsig | `signatures` |
//! | flags of servers and clients | fwd_ancil, val_noadwhennodo, val_adbit, ede_cache_snoop_not_auth | `flags` |
//! | questions that are none of a forwarder's | refuse_xfr, iter_req_qname | `refused` |
//! | silence, retries, EDNS, letters' case, lameness | fwd_timeout, fwd_udptmout, fwd_edns_*, fwd_no_edns, fwd_capsid*, iter_lame_* | the race's |
//!
//! Of their other scenarios for forwarders `forward-first` (iter_fwdfirst*), names of forwarders (fwd_name_lookup) and DNS64 (dns64_fwd_nocache) concern what
//! the guard doesn't do.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::harness::*;

const TYPES: [(&str, u16); 19] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("DNAME", 39),
    ("OPT", 41),
    ("DS", 43),
    ("RRSIG", 46),
    ("HTTPS", 65),
    ("TSIG", 250),
    ("IXFR", 251),
    ("AXFR", 252),
    ("MAILB", 253),
    ("ANY", 255),
    ("TYPE65280", 65280),
];

const CODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
    "NOTZONE",
];

fn type_of(word: &str) -> Option<u16> {
    TYPES.iter().find(|(name, _)| *name == word).map(|(_, number)| *number)
}

fn type_name(number: u16) -> String {
    TYPES
        .iter()
        .find(|(_, other)| *other == number)
        .map_or_else(|| format!("TYPE{number}"), |(name, _)| (*name).to_owned())
}

/// `[authority|additional] OWNER TTL TYPE DATA`
fn record(words: &[&str]) -> Rr {
    let section = match words[0] {
        "authority" => 1,
        "additional" => 2,
        _ => 0,
    };
    let words = if section == 0 { words } else { &words[1..] };
    let [owner, ttl, kind, data] = words[..4] else { panic!("{words:?}") };
    let kind_number = type_of(kind).unwrap();
    let rdata = match kind {
        "A" | "AAAA" => a("", 0, data).rdata,
        "CNAME" | "NS" | "DNAME" | "PTR" => wire(data),
        "MX" => [&[0, 10][..], &wire(data)].concat(),
        "TXT" => [&[data.len() as u8][..], data.as_bytes()].concat(),
        "SOA" => soa("", 0, data.parse().unwrap()).rdata,
        // The type that it covers, and the tag.
        "RRSIG" => {
            let mut rdata = rrsig("", type_of(data).unwrap()).rdata;
            rdata[17] = words[4].parse().unwrap();
            rdata
        }
        _ => (0..data.len() / 2).map(|at| u8::from_str_radix(&data[2 * at..2 * at + 2], 16).unwrap()).collect(),
    };
    let owner = if owner == "." { "" } else { owner };
    Rr { section, owner: owner.to_owned(), kind: kind_number, ttl: ttl.parse().unwrap(), rdata }
}

/// In the words of [`record`].
fn shown((owner, kind, ttl, rdata): &(String, u16, u32, Vec<u8>)) -> String {
    let name = |octets: &[u8]| {
        let (mut at, mut text) = (0, String::new());
        while octets[at] != 0 {
            let end = at + 1 + usize::from(octets[at]);
            text += if text.is_empty() { "" } else { "." };
            text += &String::from_utf8_lossy(&octets[at + 1..end]).to_lowercase();
            at = end;
        }
        text
    };
    let data = match (*kind, rdata.len()) {
        (1, 4) => std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&rdata[..]).unwrap()).to_string(),
        (28, 16) => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&rdata[..]).unwrap()).to_string(),
        // Compressed by the guard: told by the records' owners.
        (2 | 5 | 12 | 39, _) if rdata.iter().all(|octet| *octet < 192) => name(rdata),
        (15, _) if rdata.iter().all(|octet| *octet < 192) => name(&rdata[2..]),
        (16, _) => String::from_utf8_lossy(&rdata[1..]).into_owned(),
        (6, length) => u32::from_be_bytes(rdata[length - 4..].try_into().unwrap()).to_string(),
        (46, _) => format!("{} {}", type_name(u16::from_be_bytes([rdata[0], rdata[1]])), rdata[17]),
        _ => "...".to_owned(),
    };
    let owner = owner.strip_suffix('.').unwrap_or(owner);
    let owner = if owner.is_empty() { "." } else { owner };
    format!("{owner} {} {} {data}", ttl.div_ceil(60) * 60, type_name(*kind))
}

/// One reply of a server.
#[derive(Clone, Default)]
struct Says {
    /// Over which transport alone.
    tcp: Option<bool>,
    words: Vec<String>,
    records: Vec<Rr>,
}

impl Says {
    fn act(&self, query: &[u8]) -> Act {
        let has = |word: &str| self.words.iter().any(|other| other == word);
        if has("silent") {
            return Act::Silence;
        }
        if has("junk") {
            let mut message = response(query, 0, &[a("x", 0, "192.0.2.66")]);
            let question = response(query, 0, &[]).len();
            message[question..].fill(0xbf);
            return Act::Send(vec![message]);
        }
        let code = CODES.iter().position(|code| has(code)).unwrap();
        let mut message = response(query, code as u16, &self.records);
        if let Some(at) = self.words.iter().position(|word| word == "of") {
            let other = response(
                &super::harness::query(u16::from_be_bytes([query[0], query[1]]), &self.words[at + 1], 1, None),
                0,
                &self.records,
            );
            message = other;
        }
        for (word, at, bit, set) in
            [("aa", 2, 4, true), ("tc", 2, 2, true), ("-ra", 3, 0x80, false), ("ad", 3, 0x20, true)]
        {
            if has(word) {
                message[at] = if set { message[at] | bit } else { message[at] & !bit };
            }
        }
        if has("cut") {
            message.truncate(message.len() - 3);
        }
        Act::Send(vec![message])
    }
}

type Script = Arc<Mutex<HashMap<(String, u16), VecDeque<Says>>>>;

async fn server(script: Script) -> Upstream {
    Upstream::new(move |query, tcp| {
        let mut script = script.lock().unwrap();
        let Some(list) = script.get_mut(&asked(query)) else {
            return Act::Send(vec![response(query, 5, &[])]);
        };
        let fits = |says: &Says| says.tcp.is_none_or(|only| only == tcp);
        let Some(place) = list.iter().position(fits) else { return Act::Silence };
        let says = list[place].clone();
        if list.iter().skip(place + 1).any(fits) {
            list.remove(place);
        }
        says.act(query)
    })
    .await
}

struct Stage {
    world: World,
    servers: Vec<(String, Upstream)>,
    /// How many queries of each were shown.
    told: Vec<usize>,
    open: BTreeSet<std::net::IpAddr>,
}

impl Stage {
    async fn new(scripts: &[(String, Option<String>, Script)], toml: &str) -> Self {
        let mut servers = Vec::new();
        for (name, _, script) in scripts {
            servers.push((name.clone(), server(script.clone()).await));
        }
        let all: Vec<&Upstream> = servers.iter().map(|(_, upstream)| upstream).collect();
        let mut config = config(&all, toml);
        for (upstream, (_, domain, _)) in config.dns.upstream.iter_mut().zip(scripts) {
            upstream.domains.extend(domain.clone());
        }
        let told = vec![0; servers.len()];
        Self { world: World::with(config).await, servers, told, open: BTreeSet::new() }
    }

    /// Sends a question, and waits until a server has it.
    async fn send(&self, words: &[&str]) {
        let count = || self.servers.iter().map(|(_, upstream)| upstream.count()).sum::<usize>();
        let before = count();
        let socket = client("127.0.0.1:0");
        socket.send_to(&query(8, words[0], type_of(words[1]).unwrap(), EDNS), self.world.address).unwrap();
        until("the question reaches a server", || count() > before).await;
    }

    async fn ask(&mut self, words: &[&str]) -> Vec<String> {
        let (name, rest) = (if words[0] == "." { "" } else { words[0] }, &words[2..]);
        let mut message = query(7, name, type_of(words[1]).unwrap(), Some((1232, rest.contains(&"do"))));
        for (word, at, bit, set) in [("-rd", 2, 1, false), ("ad", 3, 0x20, true), ("cd", 3, 0x10, true)] {
            if rest.contains(&word) {
                message[at] = if set { message[at] | bit } else { message[at] & !bit };
            }
        }
        let wanted = rest.iter().position(|word| *word == "until").map(|at| rest[at + 1]);
        let end = std::time::Instant::now() + PATIENCE;
        let seen = loop {
            let seen = match rest.contains(&"tcp") {
                true => self.world.ask_tcp(std::slice::from_ref(&message)).await.remove(0),
                false => self.world.exchange(message.clone()).await.expect("a reply"),
            };
            if wanted.is_none_or(|code| CODES[usize::from(seen.rcode)] == code) {
                break seen;
            }
            assert!(std::time::Instant::now() < end, "{words:?}: {seen:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        let mut lines = Vec::new();
        for (place, (letter, upstream)) in self.servers.iter().enumerate() {
            let queries = upstream.queries.lock().unwrap();
            let mut asked_of: Vec<String> = Vec::new();
            for query in queries.iter().skip(self.told[place]) {
                let (name, kind) = asked(query);
                let line = format!("{letter}? {} {}", if name.is_empty() { "." } else { &name }, type_name(kind));
                // Retries are the race's business.
                if !asked_of.contains(&line) {
                    asked_of.push(line);
                }
            }
            self.told[place] = queries.len();
            lines.extend(asked_of);
        }
        let mut head = format!(
            "< {}",
            CODES.get(usize::from(seen.rcode)).map_or_else(|| seen.rcode.to_string(), |code| (*code).to_owned())
        );
        for (word, bit) in [("aa", 0x0400), ("tc", 0x0200), ("ad", 0x0020), ("cd", 0x0010)] {
            head += &if seen.flags & bit != 0 { format!(" {word}") } else { String::new() };
        }
        head += if seen.flags & 0x0080 == 0 { " -ra" } else { "" };
        if let Some((code, text)) = &seen.ede {
            head += &format!(" ({code} {text})");
        }
        lines.push(head);
        for (list, section) in [(&seen.answers, ""), (&seen.authority, "authority "), (&seen.additional, "additional ")]
        {
            lines.extend(list.iter().map(|record| format!("<   {section}{}", shown(record))));
        }
        let open: BTreeSet<_> = self.world.enforced.open.lock().unwrap().keys().copied().collect();
        lines.extend(open.difference(&self.open).map(|address| format!("open {address}")));
        self.open = open;
        lines
    }
}

/// What comes of a dialogue.
async fn play(text: &str) -> String {
    let mut scripts: Vec<(String, Option<String>, Script)> = Vec::new();
    let (mut toml, mut out, mut stage) = (String::new(), Vec::new(), None);
    let mut latest: Option<(usize, (String, u16))> = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_done = line.starts_with("< ")
            || line.starts_with("open ")
            || words.first().is_some_and(|word| word.ends_with('?'));
        if is_done {
            continue;
        }
        out.push(line.to_owned());
        match words.as_slice() {
            [] | ["#", ..] => {}
            ["servers", ..] => {
                for one in line.strip_prefix("servers ").unwrap().split(", ") {
                    let (name, domain) =
                        one.split_once(' ').map_or((one, None), |(name, domain)| (name, Some(domain.to_owned())));
                    scripts.push((name.to_owned(), domain, Script::default()));
                }
            }
            ["toml", ..] => toml += &format!("{}\n", line.strip_prefix("toml ").unwrap()),
            [">", rest @ ..] => {
                if stage.is_none() {
                    stage = Some(Stage::new(&scripts, &toml).await);
                }
                out.extend(stage.as_mut().unwrap().ask(rest).await);
            }
            [">>", rest @ ..] => {
                if stage.is_none() {
                    stage = Some(Stage::new(&scripts, &toml).await);
                }
                stage.as_ref().unwrap().send(rest).await;
            }
            [whom, rest @ ..] if whom.ends_with(':') => {
                let place = scripts.iter().position(|(name, ..)| format!("{name}:") == *whom).unwrap();
                let mut script = scripts[place].2.lock().unwrap();
                if let Some(arrow) = rest.iter().position(|word| *word == "->") {
                    let name = if rest[0] == "." { "" } else { rest[0] };
                    let question = (name.to_owned(), type_of(rest[1]).unwrap());
                    let tcp = rest[2..arrow].first().map(|word| *word == "tcp");
                    let words = rest[arrow + 1..].iter().map(|word| (*word).to_owned()).collect();
                    script.entry(question.clone()).or_default().push_back(Says { tcp, words, records: Vec::new() });
                    latest = Some((place, question));
                } else {
                    let (of, question) = latest.as_ref().unwrap();
                    assert_eq!(*of, place, "{line}");
                    script.get_mut(question).unwrap().back_mut().unwrap().records.push(record(rest));
                }
            }
            _ => panic!("{line}"),
        }
    }
    out.join("\n") + "\n"
}

/// The lines but for queries that may be the race's alone: on a busy machine it asks a second server as well.
fn compared(text: &str) -> (Vec<&str>, BTreeSet<&str>, BTreeSet<&str>) {
    let (asked, rest): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| line.split(' ').next().is_some_and(|word| word.ends_with('?')));
    let questions = asked.iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    (rest, asked.into_iter().collect(), questions)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialogue_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dns/tests/dialogues");
    let (mut count, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let played = play(&text).await;
        let ((lines, asked, questions), (played_lines, played_asked, played_questions)) =
            (compared(&text), compared(&played));
        let same = lines == played_lines && asked.is_subset(&played_asked) && questions == played_questions;
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &played).unwrap();
        } else if !same {
            wrong.push(format!("{}:\n{played}", path.display()));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 20, "{count} dialogues");
}
