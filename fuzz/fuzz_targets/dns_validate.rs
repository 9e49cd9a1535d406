//! Upstreams that change, mix and forge what signed zones say: nothing false becomes secure, no signed zone becomes an unsigned one, and it costs no more
//! than it may.
#![no_main]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use destguard::config::schema::Dnssec;
use destguard::core::answer::{Question, bind, bind_aliases};
use destguard::core::client::Claim;
use destguard::dns::checked::Checked;
use destguard::dns::codec::response::Response;
use destguard::dns::metrics::Metrics;
use destguard::dns::validate::{Budget, Validator};

use outside::{AskError, Name, Pick, Query, Source, rtype};
use zones::{DAY, Denial, Internet, Reply, Rr, Zone, name};

mod outside {
    pub use destguard::core::name::Name;
    pub use destguard::dns::codec::wire::rtype;
    pub use destguard::dns::upstream::AskError;
    pub use destguard::dns::upstream::query::Query;
    pub use destguard::dns::validate::{Pick, Source};
}

#[allow(dead_code)]
#[path = "../../src/dns/validate/tests/zones.rs"]
mod zones;

/// Names and types that are asked for, or mixed in.
const QUESTIONS: [(&str, u16); 16] = [
    ("www.nsec.test", 1),
    ("none.nsec.test", 1),
    ("alias.nsec.test", 1),
    ("a.wild.nsec.test", 1),
    ("www.tree.nsec.test", 1),
    ("none.test", 1),
    ("www.test", 28),
    ("a.wild.test", 1),
    ("www.plain.test", 1),
    ("out.test", 1),
    ("plain.test", 43),
    ("nsec.test", 43),
    ("nsec.test", 48),
    ("test", 48),
    ("test", 43),
    (".", 48),
];

struct World {
    net: Internet,
    dnssec: Dnssec,
    metrics: Metrics,
    /// Code and addresses of each question; `None`: not signed.
    truths: Vec<Option<(u16, Vec<[u8; 4]>)>>,
    runtime: tokio::runtime::Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as u32;
    let mut root = Zone::new(".", Some(Denial::Nsec));
    let mut test = Zone::new("test", Some(Denial::Nsec3 { iterations: 1, opt_out: false }));
    let mut nsec = Zone::new("nsec.test", Some(Denial::Nsec));
    let mut plain = Zone::new("plain.test", None);
    for zone in [&mut root, &mut test, &mut nsec] {
        zone.window = (now - DAY, now + 30 * DAY);
    }
    plain.address("www.plain.test", 9);
    for (last, owner) in ["www.nsec.test", "*.wild.nsec.test", "b.a.empty.nsec.test"].into_iter().enumerate() {
        nsec.address(owner, last as u8 + 1);
    }
    nsec.alias("alias.nsec.test", "www.test");
    nsec.add("tree.nsec.test", rtype::DNAME, name("nsec.test").wire());
    test.address("www.test", 5);
    test.address("*.wild.test", 6);
    test.alias("out.test", "www.plain.test");
    test.delegate(&nsec);
    test.delegate(&plain);
    root.delegate(&test);
    let ds = root.ds();
    let digest: String = ds[4..].iter().map(|octet| format!("{octet:02X}")).collect();
    let anchor = format!(". IN DS {} {} {} {digest}", u16::from_be_bytes([ds[0], ds[1]]), ds[2], ds[3]);
    let dnssec = Dnssec { validate: true, trust_anchor: Some(anchor), insecure: Vec::new() };
    let mut world = World {
        net: Internet::new(vec![root, test, nsec, plain]),
        dnssec,
        metrics: Metrics::register(&mut destguard::metrics::registry()),
        truths: Vec::new(),
        runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"),
    };
    for at in 0..QUESTIONS.len() {
        let (got, ..) = world.ask(at, 1, &[]);
        let Ok(Checked::Response(response)) = got else { panic!("{:?}: {got:?}", QUESTIONS[at]) };
        let seen = seen(at, &response).expect("it can be bound");
        world.truths.push(response.authentic.then_some(seen));
    }
    assert_eq!(world.truths.iter().filter(|truth| truth.is_none()).count(), 2);
    world
});

fn query(at: usize) -> Query {
    let (text, qtype) = QUESTIONS[at];
    Query { name: name(text), qtype, dnssec_ok: false, checking_disabled: false, plain: false, whose: Claim::NOBODY }
}

/// What a client would see.
fn seen(at: usize, response: &Response) -> Option<(u16, Vec<[u8; 4]>)> {
    let query = query(at);
    let question = Question { name: query.name, qtype: query.qtype, qclass: 1 };
    let bound = if response.rcode == 0 { bind } else { bind_aliases }(&question, &response.answers).ok()?;
    let mut addresses: Vec<[u8; 4]> = bound
        .addresses
        .iter()
        .map(|bound| match bound.address {
            std::net::IpAddr::V4(ip) => ip.octets(),
            std::net::IpAddr::V6(_) => [255; 4],
        })
        .collect();
    addresses.sort_unstable();
    Some((response.rcode, addresses))
}

/// Changes each reply by the next octets of the input.
struct Hostile<'a> {
    net: &'a Internet,
    rest: Mutex<&'a [u8]>,
    choices: usize,
    queries: AtomicU64,
}

impl World {
    fn ask(&self, at: usize, choices: usize, input: &[u8]) -> (Result<Checked, AskError>, u64, u64) {
        let hostile = Hostile { net: &self.net, rest: Mutex::new(input), choices, queries: AtomicU64::new(0) };
        let validator = Validator::new(&self.dnssec, &self.metrics).expect("an anchor").expect("it validates");
        let before = self.metrics.validation_signatures.get();
        let got = self.runtime.block_on(validator.ask(&hostile, &query(at)));
        let signatures = self.metrics.validation_signatures.get() - before;
        (got, hostile.queries.into_inner(), signatures)
    }
}

impl Source for Hostile<'_> {
    async fn ask(&self, query: &Query, _: Pick) -> Result<Vec<u8>, AskError> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let mut reply = self.net.reply(query);
        let mut rest = self.rest.lock().expect("one thread");
        let mut next = || match rest.split_first() {
            Some((first, tail)) => {
                *rest = tail;
                *first
            }
            None => 0,
        };
        let changes = next();
        if changes == 255 {
            return Err(AskError::TimeOut);
        }
        for _ in 0..changes % 6 {
            let (what, one, two) = (next(), next(), next());
            change(self.net, query, &mut reply, what, usize::from(one), usize::from(two));
        }
        let mut message = reply.message(query);
        // The question was compared with what was asked.
        let start = 12 + query.question().len();
        for _ in 0..changes / 64 {
            let at = start + usize::from(u16::from_be_bytes([next(), next()]));
            let turned = next();
            match message.get_mut(at) {
                Some(octet) => *octet ^= turned,
                None => message[6 + usize::from(turned % 6)] ^= turned,
            }
        }
        Ok(message)
    }

    fn choices(&self) -> usize {
        self.choices
    }
}

fn change(net: &Internet, query: &Query, reply: &mut Reply, what: u8, one: usize, two: usize) {
    let other = |at: usize| {
        let (text, qtype) = QUESTIONS[at % QUESTIONS.len()];
        net.reply(&Query { name: name(text), qtype, ..query.clone() })
    };
    let count = reply.answer.len() + reply.authority.len();
    let place = one % count.max(1);
    let split = reply.answer.len();
    let record = if place < split { reply.answer.get_mut(place) } else { reply.authority.get_mut(place - split) };
    match (what % 16, record) {
        (0, Some(_)) if place < split => drop(reply.answer.remove(place)),
        (0, Some(_)) => drop(reply.authority.remove(place - split)),
        (1, Some(rr)) => {
            let at = two % rr.rdata.len().max(1);
            if let Some(octet) = rr.rdata.get_mut(at) {
                *octet ^= 1 << (what >> 5);
            }
        }
        (2, Some(rr)) => rr.ttl = 1 << (two % 32),
        (3, Some(rr)) => rr.owner = name(QUESTIONS[two % QUESTIONS.len()].0),
        (4, Some(rr)) => rr.kind = [1, 5, 6, 28, 39, 43, 46, 47, 48, 50][two % 10],
        (5, Some(rr)) => rr.owner = query.name.clone(),
        (6, Some(rr)) => rr.owner = rr.owner.parent().unwrap_or_else(Name::root),
        (7, _) => reply.rcode = one as u16 & 15,
        (8, _) => reply.strip_signatures(),
        (9, _) => reply.answer.clear(),
        (10, _) => reply.authority.clear(),
        (11, _) => reply.answer.extend(other(one).answer),
        (12, _) => reply.authority.extend(other(one).authority),
        (13, _) => *reply = other(one),
        (14, _) => reply.answer.push(Rr { owner: query.name.clone(), kind: 1, ttl: 300, rdata: vec![192, 0, 2, 66] }),
        (15, _) => {
            let target = name(QUESTIONS[one % QUESTIONS.len()].0).wire().to_vec();
            reply.answer.push(Rr { owner: query.name.clone(), kind: 5, ttl: 300, rdata: target });
        }
        _ => {}
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, input @ ..] = input else { return };
    let at = usize::from(choice & 15);
    let choices = 1 + usize::from(choice >> 6);
    let (got, queries, signatures) = WORLD.ask(at, choices, input);
    // Of anyone, then of each alone, but of three at most.
    let attempts = if choices == 1 { 1 } else { 1 + choices.min(3) as u64 };
    assert!(queries <= attempts * (u64::from(Budget::FULL.queries) + 1), "{queries} queries");
    assert!(signatures <= attempts * u64::from(Budget::FULL.signatures), "{signatures} signatures");
    let Ok(Checked::Response(response)) = got else { return };
    // Codes of failure are nobody's data.
    let Some(seen) = seen(at, &response).filter(|(code, _)| matches!(code, 0 | 3)) else { return };
    if response.truncated {
        return;
    }
    match &WORLD.truths[at] {
        Some(truth) => {
            assert!(response.authentic, "{:?} became unsigned", QUESTIONS[at]);
            assert_eq!(&seen, truth, "{:?}", QUESTIONS[at]);
        }
        None => assert!(!response.authentic, "{:?} became signed", QUESTIONS[at]),
    }
});
