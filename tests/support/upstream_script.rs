//! The upstream that all resolvers have in common. What it says follows from the name alone: `NUMBER.KIND.example`, perhaps with more
//! labels in front; the number chooses among the variants of a kind.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

/// Kinds that answer.
pub const GOOD: &[&str] = &[
    "plain",
    "plain",
    "plain",
    "v4only",
    "ttl",
    "ttls",
    "cname1",
    "cname2",
    "cname3",
    "cname5",
    "cname8",
    "cname20",
    "reversed",
    "loop",
    "self",
    "dname",
    "dnamecut",
    "dnamelong",
    "nx",
    "nxbare",
    "nodata",
    "empty",
    "cnamenx",
    "cnamenodata",
    "https",
    "svcb",
    "httpsalias",
    "data",
    "data",
    "data",
    "packed",
    "stray",
    "forged",
    "glue",
    "cut",
    "big20",
    "big200",
    "big900",
    "late",
    "wrongid",
    "wrongname",
    "noedns",
    "othercase",
    "twice",
    "chaos",
    "signed",
    "signednx",
    "ad",
    "aa",
    "soaabove",
    "mixed",
    "wildtype",
    "beside",
    "formerropt",
];
/// Kinds after which some resolver gives the server up for a while; each has an address of its own.
pub const BAD: &[&str] = &[
    "servfail",
    "refused",
    "formerr",
    "notimp",
    "notauth",
    "lame",
    "silent",
    "neverid",
    "nevername",
    "short",
    "pointer",
    "overrun",
    "counts",
    "badaddress",
    "cutboth",
    "garbage",
    "badservice",
    "alias2",
    "trailing",
    "onlycname",
    "half",
    "opcode",
    "bareerror",
    "torn",
    "referral",
    "lower",
];
/// Kinds whose addresses the guard may not open.
pub const FILTERED: &[&str] = &["private", "privatemix", "privatehint"];

pub const PORT: u16 = 5300;

/// Where the kinds of [`BAD`] are asked.
pub fn address_of(bad: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + bad as u8)
}

/// Types that the kinds `data` and `packed` know.
pub const DATA: &[u16] = &[
    1, 2, 6, 12, 13, 15, 16, 17, 18, 28, 29, 33, 35, 37, 43, 44, 45, 48, 49, 52, 53, 59, 61, 64, 65, 99, 108, 256, 257,
    258, 999, 65280, 65534,
];

#[derive(Clone)]
struct Rr {
    section: u8,
    owner: String,
    kind: u16,
    class: u16,
    ttl: u32,
    rdata: Vec<u8>,
}

#[derive(Default)]
struct Reply {
    rcode: u16,
    flags: u16,
    records: Vec<Rr>,
    no_opt: bool,
}

pub fn name(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

fn rr(owner: &str, kind: u16, ttl: u32, rdata: &[u8]) -> Rr {
    Rr { section: 1, owner: owner.to_owned(), kind, class: 1, ttl, rdata: rdata.to_vec() }
}

fn in_section(section: u8, rr: Rr) -> Rr {
    Rr { section, ..rr }
}

fn soa(owner: &str, ttl: u32, minimum: u32) -> Rr {
    let mut rdata = [name("ns.example"), name("mail.example")].concat();
    for number in [7, 3600, 600, 86_400, minimum] {
        rdata.extend(number.to_be_bytes());
    }
    in_section(2, rr(owner, 6, ttl, &rdata))
}

/// A signature that nobody checks.
fn rrsig(owner: &str, covered: u16, ttl: u32) -> Rr {
    let mut rdata = covered.to_be_bytes().to_vec();
    rdata.extend([8, owner.split('.').count() as u8]);
    for number in [ttl, 0x7000_0000, 0x6000_0000] {
        rdata.extend(number.to_be_bytes());
    }
    rdata.extend([1, 2]);
    rdata.extend(name("example"));
    rdata.extend([9; 64]);
    rr(owner, 46, ttl, &rdata)
}

/// The addresses of a number: one to four, of documentation space.
fn addresses(owner: &str, number: u32, kind: u16, ttl: u32) -> Vec<Rr> {
    let count = number % 4 + 1;
    (0..count)
        .filter_map(|nth| {
            let low = (number.wrapping_mul(7) + nth) as u8;
            match kind {
                1 => Some(rr(owner, 1, ttl, &[198, 51, 100, low])),
                28 => {
                    let mut octets = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low];
                    octets[13] = number as u8;
                    Some(rr(owner, 28, ttl, &octets))
                }
                _ => None,
            }
        })
        .collect()
}

fn service(priority: u16, target: &str, params: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = [&priority.to_be_bytes()[..], &name(target)].concat();
    for (key, value) in params {
        out.extend(key.to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(*value);
    }
    out
}

fn hashed(number: u32, nth: u32) -> Vec<u8> {
    let mut state = u64::from(number) << 32 | u64::from(nth);
    (0..number % 40 + 1).map(|_| super::random(&mut state) as u8).collect()
}

/// RDATA of any type, fit for it where it has a form.
fn data(number: u32, kind: u16, nth: u32) -> Vec<u8> {
    let host = format!("h{nth}.{number}.plain.example");
    let n = number as u16;
    match kind {
        1 => vec![198, 51, 100, (number + nth) as u8],
        28 => [&[0x20, 1, 0x0d, 0xb8][..], &[0; 10], &[number as u8, nth as u8]].concat(),
        2 | 12 => name(&host),
        6 => soa("", 0, 60).rdata,
        13 => [&[3][..], b"CPU", &[2], b"OS"].concat(),
        15 | 18 => [&n.to_be_bytes()[..], &name(&host)].concat(),
        16 | 99 => {
            let text = hashed(number, nth);
            [&[text.len() as u8][..], &text, &[0], &[2, 0xff, 0]].concat()
        }
        17 => [name(&host), name("text.example")].concat(),
        29 => [&[0, 0x12, 0x16, 0x13][..], &[0x80, 0, 0, 0].repeat(3)].concat(),
        33 => [&[0, 1, 0, 2, 0x1f, 0x90][..], &name(&host)].concat(),
        35 => [&[0, 10, 0, 20, 1, b'u', 3, b'E', b'2', b'U', 2, b'!', b'!'][..], &name(&host)].concat(),
        43 | 59 => [&n.to_be_bytes()[..], &[8, 2], &[nth as u8; 32]].concat(),
        44 => [&[1, 2][..], &[nth as u8; 32]].concat(),
        48 => [&[1, 1, 3, 8][..], &[nth as u8; 64]].concat(),
        49 => [&[0, 1, 1][..], &[nth as u8; 20]].concat(),
        52 | 53 => [&[3, 1, 1][..], &[nth as u8; 32]].concat(),
        64 | 65 => service(nth as u16 + 1, "", &[(1, b"\x02h2"), (3, &[0x20, 0xfb]), (65_400, b"x")]),
        108 => vec![0, 0, 0x5e, 0, 0x53, nth as u8],
        256 => [&[0, 10, 0, 1][..], b"https://example/"].concat(),
        257 => [&[0, 5][..], b"issue", b"ca.example"].concat(),
        _ => hashed(number, nth),
    }
}

/// What is said of a name: the answer, or what it is instead.
fn said(question: &str, kind: &str, number: u32, front: bool, qtype: u16, dnssec_ok: bool) -> Reply {
    let mut reply = Reply::default();
    let zone = format!("{kind}.example");
    let own = format!("{number}.{zone}");
    let target = format!("{number}.plain.example");
    let records = &mut reply.records;
    let at_target = |records: &mut Vec<Rr>| {
        records.extend(addresses(&target, number, qtype, 300));
        if !matches!(qtype, 1 | 28 | 5) {
            records.push(soa("plain.example", 300, 60));
        }
    };
    let no_data = |records: &mut Vec<Rr>| records.push(soa(&zone, 600, 60));
    match kind {
        "v4only" if qtype != 1 => no_data(records),
        "nx" | "cnamenxend" => {
            reply.rcode = 3;
            no_data(records);
        }
        "nxbare" => reply.rcode = 3,
        "nodata" | "cnamenodataend" => no_data(records),
        "empty" => {}
        "soaabove" => {
            reply.rcode = if number.is_multiple_of(2) { 3 } else { 0 };
            // The SOA of a zone is the same whoever asks.
            records.push(match number / 2 % 4 {
                0 => soa("example", 3600, 60),
                1 => soa("", 3600, 60),
                2 => soa("other.test", 100_000, 50_000),
                _ => soa(&own, if number.is_multiple_of(3) { 0 } else { 100_000 }, 50_000),
            });
        }
        "ttl" | "ttls" => {
            let ttls = [0, 1, 5, 59, 60, 300, 3600, 86_400, 86_401, 604_800, 0x7fff_ffff, 0x8000_0000, u32::MAX];
            for (nth, mut record) in addresses(question, 3, qtype, 0).into_iter().enumerate() {
                let place = if kind == "ttl" { number as usize } else { number as usize + 2 * nth };
                record.ttl = ttls[place % ttls.len()];
                records.push(record);
            }
            if records.is_empty() {
                no_data(records);
            }
        }
        _ if kind.starts_with("cname") && kind.len() > 5 && kind.as_bytes()[5].is_ascii_digit()
            || kind == "reversed" =>
        {
            let count: u32 = if kind == "reversed" { 3 } else { kind[5..].parse().unwrap() };
            let mut here = question.to_owned();
            // The name says how far along the chain it is.
            let begin = question.strip_prefix('c').and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(0);
            for step in begin..count {
                let next = if step + 1 == count { target.clone() } else { format!("c{}.{own}", step + 1) };
                records.push(rr(&here, 5, 300 - step, &name(&next)));
                if qtype == 5 {
                    break;
                }
                here = next;
            }
            if qtype != 5 {
                at_target(records);
            }
            if kind == "reversed" {
                records.reverse();
            }
        }
        "loop" => {
            let (one, other) = (own.clone(), format!("back.{own}"));
            let pair = [rr(&one, 5, 300, &name(&other)), rr(&other, 5, 300, &name(&one))];
            records.extend(if front { pair.into_iter().rev().collect::<Vec<_>>() } else { pair.to_vec() });
        }
        "self" => records.push(rr(question, 5, 300, &name(question))),
        "cnamenx" | "cnamenodata" => {
            let target = format!("{number}.{kind}end.example");
            records.push(rr(question, 5, 300, &name(&target)));
            if qtype != 5 {
                reply.rcode = if kind == "cnamenx" { 3 } else { 0 };
                records.push(soa(&format!("{kind}end.example"), 600, 60));
            }
        }
        "onlycname" => records.push(rr(question, 5, 300, &name(&target))),
        "alias2" => {
            records.push(rr(question, 5, 300, &name(&target)));
            records.push(rr(question, 5, 300, &name("1.plain.example")));
            at_target(records);
        }
        "dname" | "dnamecut" if front => {
            let front = question.split('.').next().unwrap();
            let target = format!("{front}.{target}");
            records.push(rr(&own, 39, 300, &name(&format!("{number}.plain.example"))));
            if kind == "dname" {
                records.push(rr(question, 5, 300, &name(&target)));
            }
            if qtype != 5 {
                records.extend(addresses(&target, number, qtype, 300));
                if !matches!(qtype, 1 | 28) {
                    records.push(soa("plain.example", 300, 60));
                }
            }
        }
        "dnamelong" if front => {
            reply.rcode = 6;
            records.push(rr(&own, 39, 300, &name(&["a-label-of-some-length-to-make-it-long"; 6].join("."))));
        }
        "https" | "svcb" | "httpsalias" | "privatehint" if matches!(qtype, 64 | 65) => {
            let v4 = [198, 51, 100, 1, 198, 51, 100, 2];
            let v6 = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[number as u8]].concat();
            let alpn: (u16, &[u8]) = (1, b"\x02h2\x02h3");
            let port: (u16, &[u8]) = (3, &[0x20, 0xfb]);
            if kind == "httpsalias" {
                records.push(rr(question, qtype, 300, &service(0, &target, &[])));
            } else if kind == "privatehint" {
                records.push(rr(question, qtype, 300, &service(1, "", &[alpn, (4, &[10, 0, 0, 1, 198, 51, 100, 1])])));
            } else {
                records.push(rr(question, qtype, 300, &service(1, "", &[alpn, (4, &v4), (6, &v6)])));
                records.push(rr(
                    question,
                    qtype,
                    300,
                    &service(2, &target, &[(0, &[0, 1]), alpn, port, (5, &[7; 60])]),
                ));
                if number.is_multiple_of(3) {
                    records.push(rr(
                        question,
                        qtype,
                        300,
                        &service(3, "", &[(65_280, &hashed(number, 1)), (65_500, &[])]),
                    ));
                }
            }
        }
        "badservice" if matches!(qtype, 64 | 65) => {
            let rdata = match number % 4 {
                0 => service(1, "", &[(4, &[198, 51, 100])]),
                1 => service(1, "", &[(4, &[198, 51, 100, 1]), (1, b"\x02h2")]),
                2 => service(1, "", &[(0, &[0, 4])])[..8].to_vec(),
                _ => vec![0, 1],
            };
            records.push(rr(question, qtype, 300, &rdata));
        }
        "data" | "packed" => {
            if DATA.contains(&qtype) && !(u32::from(qtype) + number).is_multiple_of(7) {
                let count = if qtype == 6 { 1 } else { number % 3 + 1 };
                records.extend((0..count).map(|nth| rr(question, qtype, 60 + number, &data(number, qtype, nth))));
                if qtype == 15 {
                    records
                        .extend(addresses(&format!("h0.{target}"), 2, 1, 60).into_iter().map(|rr| in_section(3, rr)));
                }
                if number.is_multiple_of(2) {
                    records.push(in_section(2, rr(&zone, 2, 3600, &name("ns.example"))));
                    records.push(in_section(3, rr("ns.example", 1, 3600, &[198, 51, 100, 53])));
                }
            } else {
                no_data(records);
            }
        }
        "wildtype" => records.push(rr(question, qtype, 77, &hashed(number, u32::from(qtype)))),
        "stray" => {
            records.extend(addresses(question, number, qtype, 300));
            let other = ["www.bank.example", "example", &target, "other.test"][number as usize % 4];
            records.extend(addresses(other, 9, if number.is_multiple_of(2) { qtype } else { 1 }, 300));
            records.push(in_section(2, rr("example", 2, 3600, &name("ns.evil.example"))));
            records.extend(addresses("ns.evil.example", 9, 1, 300).into_iter().map(|rr| in_section(3, rr)));
            if !matches!(qtype, 1 | 28) {
                no_data(records);
            }
        }
        "forged" => {
            // The chain ends elsewhere than the addresses say.
            records.push(rr(question, 5, 300, &name(&target)));
            if qtype != 5 {
                at_target(records);
                records.extend(addresses("elsewhere.example", 5, qtype, 300));
            }
        }
        "chaos" => {
            records.extend(addresses(question, number, qtype, 300));
            records.push(Rr { class: 3, ..rr(question, 16, 300, b"\x01x") });
            if !matches!(qtype, 1 | 28) {
                no_data(records);
            }
        }
        "twice" => {
            records.extend(addresses(question, number, qtype, 300));
            records.extend(addresses(question, number, qtype, 300));
            if records.is_empty() {
                no_data(records);
            }
        }
        "signed" | "signednx" => {
            if kind == "signednx" {
                reply.rcode = 3;
            }
            if kind == "signed" {
                records.extend(addresses(question, number, qtype, 300));
            }
            let negative = records.is_empty();
            if negative {
                records.push(soa(&zone, 600, 60));
            }
            if dnssec_ok {
                if negative {
                    let mut next = name(&format!("z.{zone}"));
                    next.extend([0, 7, 0x22, 0, 0, 0, 0, 3, 0x80]);
                    records.push(in_section(2, rrsig(&zone, 6, 600)));
                    records.push(in_section(2, rr(&own, 47, 60, &next)));
                    records.push(in_section(2, rrsig(&own, 47, 60)));
                } else {
                    records.push(rrsig(question, qtype, 300));
                }
            }
        }
        "beside" => {
            // Addresses of the owner beside its alias.
            records.push(rr(question, 5, 300, &name(&target)));
            if qtype != 5 {
                records.extend(addresses(question, 2, qtype, 300));
                at_target(records);
            }
        }
        "private" | "privatemix" => {
            let v4: &[[u8; 4]] = &[[127, 0, 0, 1], [10, 1, 2, 3], [169, 254, 169, 254], [0, 0, 0, 0], [224, 0, 0, 1]];
            match qtype {
                1 => records.push(rr(question, 1, 300, &v4[number as usize % v4.len()])),
                28 => records.push(rr(question, 28, 300, &Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets())),
                _ => no_data(records),
            }
            if kind == "privatemix" {
                records.extend(addresses(question, number, qtype, 300));
            }
        }
        "badaddress" => records.push(rr(question, 1, 300, &[198, 51, 100])),
        "servfail" => reply.rcode = 2,
        "formerr" => reply.rcode = 1,
        "notimp" => reply.rcode = 4,
        "refused" => reply.rcode = 5,
        "notauth" => reply.rcode = 9,
        "lame" | "referral" => {
            records.push(in_section(2, rr("example", 2, 3600, &name("ns.example"))));
            records.push(in_section(3, rr("ns.example", 1, 3600, &[198, 51, 100, 53])));
        }
        "mixed" => {
            // Addresses of the other family beside what was asked for.
            records.extend(addresses(question, number, 1, 300));
            records.extend(addresses(question, number, 28, 300));
        }
        _ if kind.starts_with("big") => {
            let count: u32 = kind[3..].parse().unwrap();
            match qtype {
                1 if count > 250 => records.extend((0..count).map(|n| rr(question, 16, 300, &data(n, 16, n)))),
                1 => records.extend((0..count).map(|n| rr(question, 1, 300, &[198, 51, 100, n as u8]))),
                16 => records.extend((0..count).map(|n| rr(question, 16, 300, &[&[4][..], &n.to_be_bytes()].concat()))),
                _ => no_data(records),
            }
        }
        _ => {
            records.extend(addresses(question, number, qtype, 300));
            if records.is_empty() {
                no_data(records);
            }
        }
    }
    match kind {
        "ad" => reply.flags |= 0x20,
        "aa" => reply.flags |= 0x400,
        "noedns" => reply.no_opt = true,
        _ => {}
    }
    reply
}

/// A query as far as the script looks at it.
struct Query<'a> {
    octets: &'a [u8],
    question_end: usize,
    name: String,
    qtype: u16,
    edns: Option<(u16, bool)>,
}

fn parse(octets: &[u8]) -> Option<Query<'_>> {
    let (mut at, mut name) = (12, String::new());
    loop {
        let length = usize::from(*octets.get(at)?);
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(octets.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let qtype = u16::from_be_bytes(octets.get(at + 1..at + 3)?.try_into().ok()?);
    let opt = octets.get(at + 5..at + 16).filter(|opt| opt[..3] == [0, 0, 41]);
    let edns = opt.map(|opt| (u16::from_be_bytes([opt[3], opt[4]]), opt[7] & 0x80 != 0));
    Some(Query { octets, question_end: at + 5, name, qtype, edns })
}

fn encode(query: &Query<'_>, reply: &Reply, packed: bool) -> Vec<u8> {
    let mut out = query.octets[..query.question_end].to_vec();
    let flags = 0x8180 | reply.flags | reply.rcode;
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    let opt = query.edns.filter(|_| !reply.no_opt);
    for section in 1..=3 {
        let mut count = u16::from(section == 3 && opt.is_some());
        for rr in reply.records.iter().filter(|rr| rr.section == section) {
            count += 1;
            if rr.owner == query.name {
                out.extend([0xc0, 12]);
            } else {
                out.extend(name(&rr.owner));
            }
            out.extend(rr.kind.to_be_bytes());
            out.extend(rr.class.to_be_bytes());
            out.extend(rr.ttl.to_be_bytes());
            let mut rdata = rr.rdata.clone();
            // Names that may be compressed end in a pointer to the question's last label, "example".
            let compressible = matches!(rr.kind, 2 | 5 | 6 | 12 | 15);
            if packed && compressible && rr.kind != 6 && rdata.ends_with(b"\x07example\0") {
                rdata.truncate(rdata.len() - 9);
                rdata.extend((0xc000 | (query.question_end - 4 - 9) as u16).to_be_bytes());
            }
            out.extend((rdata.len() as u16).to_be_bytes());
            out.extend(rdata);
        }
        let at = 4 + 2 * usize::from(section);
        out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    out[10..12].copy_from_slice(&u16::from(opt.is_some()).to_be_bytes());
    let additional = reply.records.iter().filter(|rr| rr.section == 3).count() as u16 + u16::from(opt.is_some());
    out[10..12].copy_from_slice(&additional.to_be_bytes());
    if let Some((_, dnssec_ok)) = opt {
        out.extend([0, 0, 41, 4, 0xd0, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
    out
}

/// The messages that a query gets, and what is waited before them.
pub fn respond(octets: &[u8], tcp: bool) -> (Duration, Vec<Vec<u8>>) {
    let now = Duration::ZERO;
    let Some(query) = parse(octets) else { return (now, Vec::new()) };
    let labels: Vec<&str> = query.name.split('.').collect();
    let [.., number, kind, "example"] = labels[..] else {
        // The top of a zone, or what lies outside.
        let inside = query.name.ends_with("example");
        let mut top = soa(if inside { "example" } else { "" }, 3600, 60);
        let rcode = if inside || query.name.is_empty() { 0 } else { 3 };
        if query.qtype == 6 && query.name == top.owner {
            top.section = 1;
        }
        return (now, vec![encode(&query, &Reply { rcode, records: vec![top], ..Reply::default() }, false)]);
    };
    let number = number.parse().unwrap_or(0);
    let dnssec_ok = query.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok);
    let reply = said(&query.name, kind, number, labels.len() > 3, query.qtype, dnssec_ok);
    let mut message = encode(&query, &reply, kind == "packed");
    let room = query.edns.map_or(512, |(size, _)| usize::from(size.max(512)));
    if !tcp && (message.len() > room || kind == "cut" || kind == "cutboth") {
        let kept = reply.records.iter().filter(|rr| rr.section == 1).take(number as usize % 2).cloned().collect();
        message = encode(
            &query,
            &Reply { flags: reply.flags | 0x200, rcode: reply.rcode, records: kept, no_opt: false },
            false,
        );
    }
    if tcp && kind == "cutboth" {
        message = encode(&query, &Reply { flags: 0x200, ..Reply::default() }, false);
    }
    let other = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut other =
            encode(&query, &Reply { records: addresses(&query.name, 66, query.qtype, 300), ..Reply::default() }, false);
        change(&mut other);
        other
    };
    let wrong_id = |other: &mut Vec<u8>| other[1] ^= 0x55;
    let wrong_name = |other: &mut Vec<u8>| other[13] = b'x';
    let messages = match kind {
        "late" => return (Duration::from_millis(30), vec![message]),
        "silent" => vec![],
        "wrongid" => vec![other(&wrong_id), message],
        "wrongname" => vec![other(&wrong_name), message],
        "neverid" => vec![other(&wrong_id)],
        "nevername" => vec![other(&wrong_name)],
        "noedns" if query.edns.is_some() => {
            vec![encode(
                &query,
                &Reply { rcode: if number.is_multiple_of(2) { 1 } else { 4 }, no_opt: true, ..Reply::default() },
                false,
            )]
        }
        // The question and its OPT sent back as they came.
        "formerropt" if query.edns.is_some() => {
            let mut copy = octets.to_vec();
            copy[2..4].copy_from_slice(&0x8101_u16.to_be_bytes());
            vec![copy]
        }
        "bareerror" if query.edns.is_some() => {
            let rcode = [1, 4, 2, 5][number as usize % 4];
            vec![[&octets[..2], &[0x81, 0x80 | rcode], &[0; 8]].concat()]
        }
        // Cut behind the first record's owner, without TC.
        "torn" if !tcp => vec![message[..message.len().min(query.question_end + 4)].to_vec()],
        "referral" => {
            message[3] &= 0x7f;
            vec![message]
        }
        "lower" if tcp => vec![],
        "othercase" | "lower" => {
            message[12..query.question_end - 4].make_ascii_lowercase();
            vec![message]
        }
        "short" => vec![message[..8].to_vec()],
        "half" => vec![message[..(query.question_end + message.len()) / 2].to_vec()],
        "pointer" => {
            let mut message = encode(&query, &Reply::default(), false);
            message[7] = 1;
            let at = (message.len() - query.edns.map_or(0, |_| 11)) as u16;
            let loops = [&(0xc000 | at).to_be_bytes()[..], &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 9]].concat();
            message.splice(usize::from(at)..usize::from(at), loops);
            vec![message]
        }
        "overrun" => {
            // The first record claims to be longer than the message.
            if let Some(length) = message.get_mut(query.question_end + 10) {
                *length = 0xff;
            }
            vec![message]
        }
        "counts" => {
            message[7] = message[7].wrapping_add(3);
            vec![message]
        }
        "garbage" => {
            let mut state = u64::from(number);
            message.iter_mut().skip(query.question_end).for_each(|octet| *octet = super::random(&mut state) as u8);
            vec![message]
        }
        "trailing" => {
            message.extend([0, 1, 2, 3]);
            vec![message]
        }
        "opcode" => {
            message[2] |= 0x20;
            vec![message]
        }
        _ => vec![message],
    };
    (now, messages)
}

/// Answers on an address, over UDP and TCP, for as long as the process lives.
pub fn serve(address: Ipv4Addr) {
    let address = SocketAddr::from((address, PORT));
    let udp = UdpSocket::bind(address).unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut room) {
            let (wait, messages) = respond(&room[..length], false);
            if !wait.is_zero() {
                let udp = udp.try_clone().unwrap();
                std::thread::spawn(move || {
                    std::thread::sleep(wait);
                    messages.iter().for_each(|message| drop(udp.send_to(message, peer)));
                });
                continue;
            }
            // One who has gone meanwhile misses nothing.
            messages.iter().for_each(|message| drop(udp.send_to(message, peer)));
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || -> std::io::Result<()> {
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                loop {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length)?;
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query)?;
                    let (wait, messages) = respond(&query, true);
                    std::thread::sleep(wait);
                    for message in messages {
                        stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat())?;
                    }
                }
            });
        }
    });
}
