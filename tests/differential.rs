//! The guard beside unbound and knot-resolver: the same 10,000 questions to all three over the same scripted upstream, in a network namespace
//! of its own. What differs must be justified in `differential/justified.toml`; what is justified there must differ.
//!
//! `DIFFERENTIAL_COUNT` and `DIFFERENTIAL_SEED` ask other questions; unused rules are then no error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::wait_until;
use serde::Deserialize;

#[path = "differential/message.rs"]
mod message;
#[path = "support/namespace.rs"]
#[allow(dead_code)]
mod namespace;
#[path = "differential/questions.rs"]
mod questions;
#[path = "support/upstream_script.rs"]
mod script;

use message::{Seen, read};
use questions::{Question, Wait};

const COUNT: usize = 10_000;
const SEED: u64 = 0x005e_ed0f_d1ff;
/// Askers of questions whose upstream answers; each of the others has one of its own.
const ASKERS: usize = 64;
/// For an answer that comes; other programs may use all cores.
const LONG: Duration = Duration::from_secs(30);
/// After this a question is asked again, as stub resolvers do.
const AGAIN: Duration = Duration::from_secs(4);
/// A TTL may be lower by this: what was asked earlier has aged. It is the time since the run began, and no less than this.
static AGE: AtomicU32 = AtomicU32::new(40);

/// The next number of SplitMix64, so that a seed gives the same questions always.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const NAMES: [&str; 3] = ["destguard", "unbound", "knot-resolver"];

fn address(server: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 10 + server as u8), 53))
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

fn start(dir: &Path, server: usize) -> Running {
    let own = dir.join(NAMES[server]);
    std::fs::create_dir_all(own.join("state")).unwrap();
    let at = address(server).ip();
    let port = script::PORT;
    let bad = script::BAD.iter().enumerate().map(|(nth, kind)| (kind, script::address_of(nth)));
    let (config, command) = match server {
        0 => {
            let mut text = format!(
                "[dns]\nlisten = [\"{at}:53\"]\nclients = [\"127.0.0.0/8\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:{port}\"\n"
            );
            for (kind, upstream) in bad {
                text +=
                    &format!("[[dns.upstream]]\nurl = \"udp://{upstream}:{port}\"\ndomains = [\"{kind}.example\"]\n");
            }
            text += &format!(
                "[[policy.private]]\ndomain = \"example\"\nprefixes = [\"198.51.100.0/24\", \"2001:db8::/32\"]\n\
                 [lease]\nnew_per_client = \"100000/s\"\nnew_per_domain = \"100000/s\"\nper_answer = 256\nmax = \"14d\"\n\
                 [bgp]\nenforce = false\nasn = 64512\nrouter_id = \"192.0.2.1\"\nnext_hop_ipv4 = \"192.0.2.1\"\n\
                 next_hop_ipv6 = \"2001:db8::1\"\n\
                 [[bgp.peer]]\nname = \"nobody\"\naddress = \"127.0.0.9\"\nasn = 64512\nmax_routes = 2000000\n[addresses]\ninside = []\n\
                 [state]\ndir = \"{}/state\"\n",
                own.display()
            );
            (
                text,
                format!("{} --config CONFIG --socket {}/control run", env!("CARGO_BIN_EXE_destguard"), own.display()),
            )
        }
        1 => {
            let mut text = format!(
                "server:\n interface: {at}\n port: 53\n num-threads: 1\n do-daemonize: no\n use-syslog: no\n username: \"\"\n \
                 chroot: \"\"\n pidfile: \"\"\n module-config: \"iterator\"\n do-not-query-localhost: no\n hide-version: yes\n \
                 hide-identity: yes\n max-udp-size: 1232\n edns-buffer-size: 1232\n outgoing-range: 2048\n \
                 num-queries-per-thread: 1024\n incoming-num-tcp: 256\n outgoing-num-tcp: 256\n \
                 cache-max-ttl: 604800\n infra-cache-max-rtt: 400\nremote-control:\n \
                 control-enable: no\nforward-zone:\n name: \".\"\n forward-addr: 127.0.0.1@{port}\n"
            );
            for (kind, upstream) in bad {
                text += &format!("forward-zone:\n name: \"{kind}.example.\"\n forward-addr: {upstream}@{port}\n");
            }
            (text, "unbound -d -c CONFIG".to_owned())
        }
        _ => {
            let mut text = format!(
                "net.listen('{at}', 53, {{ kind = 'dns' }})\nnet.bufsize(1232)\ntrust_anchors.remove('.')\n\
                 cache.open(100 * MB, 'lmdb://{}')\ncache.max_ttl(604800)\n",
                own.display()
            );
            for (kind, upstream) in bad {
                text += &format!(
                    "policy.add(policy.suffix(policy.FORWARD('{upstream}@{port}'), policy.todnames({{'{kind}.example'}})))\n"
                );
            }
            text += &format!("policy.add(policy.all(policy.FORWARD('127.0.0.1@{port}')))\n");
            (text, format!("kresd -n -c CONFIG {}", own.display()))
        }
    };
    let file = own.join("config");
    std::fs::write(&file, config).unwrap();
    let command = command.replace("CONFIG", &file.display().to_string());
    let (program, arguments) = command.split_once(' ').unwrap();
    let log = std::fs::File::create(own.join("log")).unwrap();
    let mut child = Command::new(program);
    child.args(arguments.split(' ')).current_dir(&own).stdin(Stdio::null());
    let mut running = Running(child.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    let answers = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.send_to(&sentinel(7), address(server)).is_ok() && socket.recv(&mut [0; 512]).is_ok()
    };
    assert!(
        wait_until(LONG, || answers() || running.0.try_wait().unwrap().is_some())
            && running.0.try_wait().unwrap().is_none(),
        "{} does not answer\n{}",
        NAMES[server],
        std::fs::read_to_string(own.join("log")).unwrap()
    );
    running
}

/// A question that every cache answers at once.
fn sentinel(id: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend(script::name("1.plain.example"));
    out.extend([0, 1, 0, 1]);
    out
}

/// The reply to a question; `None`: there was none.
fn ask(question: &Question, server: usize) -> Option<Vec<u8>> {
    let deadline = Instant::now() + LONG;
    if question.tcp {
        let exchange = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(address(server))?;
            stream.set_read_timeout(Some(LONG))?;
            stream.write_all(&[&(question.octets.len() as u16).to_be_bytes()[..], &question.octets].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut reply)?;
            Ok(reply)
        };
        return exchange().ok();
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address(server)).unwrap();
    socket.send(&question.octets).unwrap();
    let id = question.octets.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    let last = id ^ 0x8000;
    if question.wait == Wait::AtOnce {
        socket.send(&sentinel(last)).unwrap();
    }
    let mut room = vec![0; 65_536];
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        socket.set_read_timeout(Some(left.min(AGAIN).max(Duration::from_millis(1)))).unwrap();
        match socket.recv(&mut room) {
            Ok(length) if length < 2 || room[..2] == id.to_be_bytes() => return Some(room[..length].to_vec()),
            Ok(_) if room[..2] == last.to_be_bytes() => return None,
            Ok(length) => return Some(room[..length].to_vec()),
            Err(_) if question.wait == Wait::AtOnce => socket.send(&sentinel(last)).map(drop).unwrap(),
            Err(_) if question.wait == Wait::Answer => socket.send(&question.octets).map(drop).unwrap(),
            Err(_) => {}
        }
    }
}

/// One thing in which two replies differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    field: &'static str,
    ours: String,
    theirs: String,
}

fn rcode(code: u16) -> String {
    let names = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
    ];
    let extended = [(16, "BADVERS"), (23, "BADCOOKIE")];
    let named =
        names.get(usize::from(code)).or_else(|| extended.iter().find(|(n, _)| *n == code).map(|(_, name)| name));
    named.map_or_else(|| format!("RCODE{code}"), ToString::to_string)
}

/// Types in `one` whose records aren't all in `other`.
fn lacking(one: &BTreeMap<message::Rr, u32>, other: &BTreeMap<message::Rr, u32>) -> String {
    let types: BTreeSet<u16> = one.keys().filter(|key| !other.contains_key(*key)).map(|(_, kind, ..)| *kind).collect();
    if types.is_empty() {
        return "-".to_owned();
    }
    types.iter().map(|kind| format!("TYPE{kind}")).collect::<Vec<_>>().join(" ")
}

/// In what `ours` differs from `theirs`.
fn compare(ours: &Option<Vec<u8>>, theirs: &Option<Vec<u8>>) -> Vec<Difference> {
    let age = AGE.load(Ordering::Relaxed);
    let mut all = Vec::new();
    let mut note = |field: &'static str, ours: String, theirs: String| {
        if ours != theirs {
            all.push(Difference { field, ours, theirs });
        }
    };
    let (ours, theirs) = match (ours, theirs) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        (ours, theirs) => {
            let word = |reply: &Option<Vec<u8>>| if reply.is_some() { "reply" } else { "none" }.to_owned();
            note("reply", word(ours), word(theirs));
            return all;
        }
    };
    let (ours, theirs): (Seen, Seen) = match (read(ours), read(theirs)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (ours, theirs) => {
            let word = |reply: Result<Seen, String>| reply.map_or_else(|error| error, |_| "readable".to_owned());
            note("form", word(ours), word(theirs));
            return all;
        }
    };
    note("rcode", rcode(ours.rcode), rcode(theirs.rcode));
    for (field, bit) in
        [("aa", 0x400), ("tc", 0x200), ("rd", 0x100), ("ra", 0x80), ("z", 0x40), ("ad", 0x20), ("cd", 0x10)]
    {
        let set = |seen: &Seen| u8::from(seen.flags & bit != 0).to_string();
        note(field, set(&ours), set(&theirs));
    }
    note("opcode", (ours.flags >> 11 & 15).to_string(), (theirs.flags >> 11 & 15).to_string());
    let questions = |seen: &Seen| seen.questions.first().map_or("none".to_owned(), |question| format!("{question:?}"));
    if questions(&ours) != questions(&theirs) {
        let word = |seen: &Seen| if seen.questions.is_empty() { "none" } else { "echoed" }.to_owned();
        let (one, mut other) = (word(&ours), word(&theirs));
        if one == other {
            other = "echoed otherwise".to_owned();
        }
        note("question", one, other);
    }
    let edns = |seen: &Seen| seen.edns.map_or("none".to_owned(), |edns| format!("version {}", edns.version));
    note("edns", edns(&ours), edns(&theirs));
    if let (Some(ours), Some(theirs)) = (ours.edns, theirs.edns) {
        note("do", ours.dnssec_ok.to_string(), theirs.dnssec_ok.to_string());
    }
    let has = |set: &BTreeMap<message::Rr, u32>, kind: u16| set.keys().any(|(_, is, ..)| *is == kind);
    // Below, only what is the same story can be compared.
    if ours.rcode != theirs.rcode || (ours.flags ^ theirs.flags) & 0x200 != 0 {
        return all;
    }
    note("answer", lacking(&ours.answers, &theirs.answers), lacking(&theirs.answers, &ours.answers));
    let repeated = |seen: &Seen| (seen.answer_count - seen.answers.len()).to_string();
    note("repeated", repeated(&ours), repeated(&theirs));
    for (key, ttl) in &ours.answers {
        if let Some(other) = theirs.answers.get(key).filter(|other| *other != ttl && ttl.abs_diff(**other) > age) {
            note("ttl", bucket(*ttl), bucket(*other));
        }
    }
    // A SOA is what makes a negative answer be kept (RFC 2308); denial records prove it.
    for (field, kind) in [("soa", 6), ("nsec", 47), ("rrsig of authority", 46)] {
        note(field, has(&ours.authority, kind).to_string(), has(&theirs.authority, kind).to_string());
    }
    for (key, ttl) in ours.authority.iter().filter(|(key, _)| key.1 == 6) {
        if let Some(other) = theirs.authority.get(key).filter(|other| ttl.abs_diff(**other) > age) {
            note("ttl of soa", bucket(*ttl), bucket(*other));
        }
    }
    let more = |seen: &Seen| if seen.additional.is_empty() { "-" } else { "records" }.to_owned();
    note("additional", more(&ours), more(&theirs));
    all
}

/// What holds of every reply of the guard, whatever the others say.
fn broken_law(question: &Question, reply: &[u8]) -> Option<String> {
    let seen = match read(reply) {
        Ok(seen) => seen,
        Err(error) => return Some(format!("unreadable: {error}")),
    };
    let size = if question.tcp {
        65_535
    } else if seen.edns.is_some() {
        1232
    } else {
        512
    };
    let mut ttls = BTreeMap::new();
    for ((owner, kind, _, rdata), ttl) in &seen.answers {
        // A signature's set is that of the type it covers.
        let covered = if *kind == 46 { &rdata[..4] } else { "" };
        ttls.entry((owner, kind, covered)).or_insert_with(BTreeSet::new).insert(*ttl);
    }
    let kinds: BTreeSet<u16> = seen.answers.keys().map(|(_, kind, ..)| *kind).collect();
    // YXDOMAIN bears the DNAME that proves it (RFC 6672 section 2.2).
    let proves = seen.rcode == 6 && kinds.contains(&39) && kinds.iter().all(|kind| [5, 39].contains(kind));
    let laws = [
        ("it is no response (RFC 1035 section 4.1.1)", seen.flags & 0x8000 != 0),
        ("it bears another id", reply[..2] == question.octets[..2]),
        ("it is too long for the client (RFC 6891 section 6.2.3)", seen.length <= size),
        ("it is authoritative", seen.flags & 0x400 == 0),
        ("it claims to be validated", seen.flags & 0x20 == 0),
        ("Z is set", seen.flags & 0x40 == 0),
        ("a record comes twice (RFC 2181 section 5)", seen.answer_count == seen.answers.len()),
        ("the TTLs of an RRset differ (RFC 2181 section 5.2)", ttls.values().all(|ttls| ttls.len() == 1)),
        ("a TTL has its top bit set (RFC 2181 section 8)", seen.answers.values().all(|ttl| ttl >> 31 == 0)),
        ("records in ADDITIONAL", seen.additional.is_empty()),
        ("records of an error", matches!(seen.rcode, 0 | 3) || proves || seen.answers.is_empty()),
    ];
    laws.iter().find(|(_, holds)| !holds).map(|(law, _)| (*law).to_owned())
}

/// A TTL that may have aged, as the round figure it came from.
fn bucket(ttl: u32) -> String {
    let known = [0, 60, 300, 3600, 86_400, 86_401, 604_800, 1_209_600, 0x7fff_ffff];
    known
        .iter()
        .find(|known| ttl <= **known && ttl + AGE.load(Ordering::Relaxed) >= **known)
        .map_or("other".to_owned(), ToString::to_string)
}

/// Why a difference is right.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// "unbound", "knot-resolver" or both.
    against: Vec<String>,
    /// What the upstream does; empty: whatever.
    #[serde(default)]
    kinds: Vec<String>,
    /// How it is asked; empty: however.
    #[serde(default)]
    forms: Vec<String>,
    /// In what they differ.
    fields: Vec<String>,
    /// What the guard says; empty: whatever.
    #[serde(default)]
    ours: Vec<String>,
    /// What the other says; empty: whatever.
    #[serde(default)]
    theirs: Vec<String>,
    /// The other says so only where its cache happened to hold something: no difference is no error.
    #[serde(default)]
    by_chance: bool,
    /// The reason why the difference is right, for who reads the file.
    why: String,
}

impl Rule {
    fn covers(&self, against: &str, question: &Question, difference: &Difference) -> bool {
        let has = |list: &[String], word: &str| list.is_empty() || list.iter().any(|entry| entry == word);
        has(&self.against, against)
            && has(&self.kinds, question.kind)
            && has(&self.forms, question.form)
            && has(&self.fields, difference.field)
            && has(&self.ours, &difference.ours)
            && has(&self.theirs, &difference.theirs)
    }
}

#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    rule: Vec<Rule>,
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn what_unbound_and_knot_resolver_say_otherwise_is_justified() {
    let rules: Rules = toml::from_str(include_str!("differential/justified.toml")).unwrap();
    for rule in &rules.rule {
        assert!(rule.why.contains("RFC") || rule.why.len() > 40, "no reason: {rule:?}");
        assert!(!rule.kinds.is_empty() || !rule.forms.is_empty() || !rule.theirs.is_empty(), "it covers all: {rule:?}");
    }
    let count = from_environment("DIFFERENTIAL_COUNT").map_or(COUNT, |count| count as usize);
    let seed = from_environment("DIFFERENTIAL_SEED").unwrap_or(SEED);
    let questions = questions::draw(seed, count);
    let directory = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let replies = namespace::alone(|| {
        script::serve(Ipv4Addr::LOCALHOST);
        (0..script::BAD.len()).for_each(|nth| script::serve(script::address_of(nth)));
        let running = [0, 1, 2].map(|server| start(directory.path(), server));
        let replies = ask_all(&questions, &rules);
        drop(running);
        replies
    });
    let took = begin.elapsed();
    AGE.fetch_max(u32::try_from(took.as_secs()).unwrap() + 2, Ordering::Relaxed);
    let mut used = vec![0; rules.rule.len()];
    let mut unjustified: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut counts = BTreeMap::<&str, [usize; 2]>::new();
    let mut lawless = Vec::new();
    for (question, replies) in questions.iter().zip(&replies) {
        if let Some(reply) = &replies[0]
            && let Some(law) = broken_law(question, reply)
        {
            lawless.push(format!("{}: {law}\n{}", question.text, example(question, &replies[0], &replies[1])));
        }
        for (server, name) in NAMES.iter().enumerate().skip(1) {
            let differences = compare(&replies[0], &replies[server]);
            let count = counts.entry(*name).or_default();
            count[usize::from(!differences.is_empty())] += 1;
            for difference in differences {
                let rule = rules.rule.iter().position(|rule| rule.covers(name, question, &difference));
                if let Some(rule) = rule {
                    used[rule] += 1;
                    continue;
                }
                let class = format!(
                    "{name:<14} kind {:<12} form {:<14} {}: ours {}, theirs {}",
                    question.kind, question.form, difference.field, difference.ours, difference.theirs
                );
                let example =
                    unjustified.entry(class).or_insert_with(|| (0, example(question, &replies[0], &replies[server])));
                example.0 += 1;
            }
        }
    }
    let answered = |server: usize| {
        let good = |reply: &&[Option<Vec<u8>>; 3]| {
            reply[server].as_ref().is_some_and(|reply| read(reply).is_ok_and(|seen| !seen.answers.is_empty()))
        };
        replies.iter().filter(good).count()
    };
    println!("{count} questions in {took:.1?}; with an answer section: {:?}", [0, 1, 2].map(answered));
    for (name, [same, other]) in &counts {
        println!("{name}: {same} replies alike, {other} differ");
    }
    for (rule, times) in rules.rule.iter().zip(&used) {
        println!("{times:>6} {}: {}", rule.fields.join(", "), rule.why);
    }
    let list: Vec<String> =
        unjustified.iter().map(|(class, (times, example))| format!("{times:>5} {class}\n{example}")).collect();
    assert!(
        lawless.is_empty(),
        "{} replies break a law:\n{}",
        lawless.len(),
        lawless[..lawless.len().min(20)].join("\n")
    );
    assert!(list.is_empty(), "{} classes of differences without justification:\n{}", list.len(), list.join("\n"));
    assert!(answered(0) * 10 > count * 4, "the guard answers few questions");
    if (count, seed) == (COUNT, SEED) {
        let unused = rules.rule.iter().zip(&used).filter(|(rule, used)| **used == 0 && !rule.by_chance);
        let idle: Vec<&Rule> = unused.map(|(rule, _)| rule).collect();
        assert!(idle.is_empty(), "rules that justify nothing: {idle:#?}");
    }
}

fn example(question: &Question, ours: &Option<Vec<u8>>, theirs: &Option<Vec<u8>>) -> String {
    let show = |reply: &Option<Vec<u8>>| match reply {
        None => "none".to_owned(),
        Some(reply) => read(reply).map_or_else(
            |error| format!("{error}: {reply:02x?}"),
            |seen| {
                let records = |set: &BTreeMap<message::Rr, u32>| {
                    set.iter()
                        .take(6)
                        .map(|(rr, ttl)| format!("{} {ttl} {} {:.60}", rr.0, rr.1, rr.3))
                        .collect::<Vec<_>>()
                };
                format!(
                    "{} {:#06x} {} octets {:?} {:?}",
                    rcode(seen.rcode),
                    seen.flags,
                    seen.length,
                    records(&seen.answers),
                    records(&seen.authority)
                )
            },
        ),
    };
    format!(
        "        {} {}\n        ours   {}\n        theirs {}",
        question.text,
        if question.tcp { "TCP" } else { "UDP" },
        show(ours),
        show(theirs)
    )
}

/// Whether another's SERVFAIL is all that it says against the guard's answer, and no rule expects it.
fn gave_up(
    rules: &Rules,
    question: &Question,
    ours: &Option<Vec<u8>>,
    server: usize,
    theirs: &Option<Vec<u8>>,
) -> bool {
    compare(ours, theirs).iter().any(|difference| {
        difference.field == "rcode"
            && difference.theirs == "SERVFAIL"
            && !rules.rule.iter().any(|rule| rule.covers(NAMES[server], question, difference))
    })
}

fn ask_all(questions: &[Question], rules: &Rules) -> Vec<[Option<Vec<u8>>; 3]> {
    let replies: Vec<Mutex<[Option<Vec<u8>>; 3]>> = questions.iter().map(|_| Mutex::default()).collect();
    let note = |nth: usize, servers: &[usize]| {
        for server in servers {
            let reply = ask(&questions[nth], *server);
            replies[nth].lock().unwrap()[*server] = reply;
        }
    };
    // On a busy machine the upstream is late, and unbound gives it up after few tries, for seconds: that says nothing of the question. What it
    // says later counts; the guard has no second word.
    let insist = |nth: usize, server: usize| {
        let question = &questions[nth];
        let [ours, theirs] = [0, server].map(|server| replies[nth].lock().unwrap()[server].clone());
        if !gave_up(rules, question, &ours, server, &theirs) {
            return;
        }
        // The last word of a server that goes on so is compared as it is.
        let _answered: bool = wait_until(LONG, || {
            let reply = ask(question, server);
            let answered = !gave_up(rules, question, &ours, server, &reply);
            replies[nth].lock().unwrap()[server] = reply;
            answered
        });
    };
    let (slow, fast): (Vec<usize>, Vec<usize>) =
        (0..questions.len()).partition(|nth| questions[*nth].wait == Wait::Slow);
    // Names behind forms must be in the caches, so that every form meets the same.
    for (server, name) in NAMES.iter().enumerate() {
        for number in 0..20 {
            let mut octets = sentinel(number);
            octets.splice(12.., [&script::name(&format!("{number}.plain.example"))[..], &[0, 1, 0, 1]].concat());
            let question =
                Question { kind: "plain", form: "plain", octets, tcp: false, wait: Wait::Answer, text: String::new() };
            assert!(ask(&question, server).is_some(), "{name} has no answer");
        }
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for nth in &slow {
            for server in 0..3 {
                let note = &note;
                scope.spawn(move || note(*nth, &[server]));
            }
        }
        let workers: Vec<_> = (0..ASKERS)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(nth) = fast.get(next.fetch_add(1, Ordering::Relaxed)) {
                        note(*nth, &[0, 1, 2]);
                        insist(*nth, 1);
                        insist(*nth, 2);
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    replies.into_iter().map(|reply| reply.into_inner().unwrap()).collect()
}
