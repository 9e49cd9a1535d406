use super::*;
use crate::dns::tests::harness::{Rr, a, cname, query, response, rr, wire};
use crate::dns::upstream::query::{fit, question_of};

const EDNS: Option<(u16, bool)> = Some((1232, false));

/// The judgement in a word, of a reply to a question for the A record of "www.example".
fn word(manner: Manner, reply: &[u8]) -> String {
    let sent = query(7, "www.example", 1, EDNS);
    let name = "www.example".parse().unwrap();
    match judge(reply, fit(reply, question_of(&sent)), Sent { name: &name, qtype: 1, manner }) {
        Judgement::Useful(_) => "useful".to_owned(),
        Judgement::Otherwise(Manner::STREAM, fault) => format!("stream: {fault:?}"),
        Judgement::Otherwise(Manner::PLAIN, fault) => format!("plain: {fault:?}"),
        Judgement::Otherwise(manner, fault) => format!("{manner:?}: {fault:?}"),
        Judgement::Elsewhere(fault) => format!("elsewhere: {fault:?}"),
        Judgement::Useless => "useless".to_owned(),
    }
}

fn reply(rcode: u16, records: &[Rr]) -> Vec<u8> {
    response(&query(7, "www.example", 1, EDNS), rcode, records)
}

fn with_flags(mut reply: Vec<u8>, clear: u16, set: u16) -> Vec<u8> {
    let flags = u16_at(&reply, 2).unwrap() & !clear | set;
    reply[2..4].copy_from_slice(&flags.to_be_bytes());
    reply
}

fn bare(code: u8) -> Vec<u8> {
    [&[0, 7, 0x81, 0x80 | code][..], &[0; 8]].concat()
}

/// The question with its OPT sent back under this code.
fn copied(code: u8) -> Vec<u8> {
    let mut reply = query(7, "www.example", 1, EDNS);
    reply[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    reply
}

#[test]
fn every_row_of_the_table() {
    const USUAL: Manner = Manner::USUAL;
    const PLAIN: Manner = Manner::PLAIN;
    let ns = Rr { section: 1, ..rr("example", 2, 60, &wire("ns.example")) };
    let good = reply(0, &[a("www.example", 60, "192.0.2.1")]);
    let chain = reply(0, &[cname("www.example", 60, "b.example"), a("b.example", 60, "192.0.2.1")]);
    let both = reply(0, &[cname("www.example", 60, "b.example"), a("www.example", 60, "192.0.2.1")]);
    let itself = reply(0, &[cname("www.example", 60, "www.example")]);
    let two = reply(0, &[cname("www.example", 60, "b.example"), cname("www.example", 60, "c.example")]);
    let cut = &good[..good.len() - 3];
    let mut counts_more = good.clone();
    counts_more[7] += 1;
    let mut other_case = good.clone();
    other_case[13] ^= 0x20;
    let mut other_id = good.clone();
    other_id[14] = b'-';
    let cases: Vec<(&str, Manner, Vec<u8>, &str, &str)> = vec![
        ("an address", USUAL, good.clone(), "useful", "useful"),
        ("an alias and its end", USUAL, chain, "useful", "useful"),
        ("an alias beside data", USUAL, both, "useful", "useful"),
        ("no such name", USUAL, reply(3, &[]), "useful", "useful"),
        ("no such data", USUAL, reply(0, &[]), "useful", "useful"),
        ("TC", USUAL, with_flags(good.clone(), 0, flag::TC), "stream: Cut", "elsewhere: Cut"),
        ("cut without TC", USUAL, cut.to_vec(), "stream: Unreadable", "elsewhere: Unreadable"),
        ("counts more", USUAL, counts_more, "stream: Unreadable", "elsewhere: Unreadable"),
        ("other case", USUAL, other_case.clone(), "stream: OtherCase", "useful"),
        ("other case, not mixed", Manner::LOWER, other_case, "useful", "useful"),
        ("FORMERR", USUAL, reply(1, &[]), "plain: NoEdns", "plain: NoEdns"),
        ("FORMERR with all copied", USUAL, copied(1), "plain: NoEdns", "plain: NoEdns"),
        ("FORMERR again", PLAIN, copied(1), "elsewhere: Code(1)", "elsewhere: Code(1)"),
        ("NOTIMP", USUAL, reply(4, &[]), "plain: NoEdns", "plain: NoEdns"),
        ("NOTIMP with OPT", USUAL, copied(4), "elsewhere: Code(4)", "elsewhere: Code(4)"),
        ("bare FORMERR", USUAL, bare(1), "plain: NoEdns", "plain: NoEdns"),
        ("bare SERVFAIL", USUAL, bare(2), "plain: NoEdns", "plain: NoEdns"),
        ("bare REFUSED again", PLAIN, bare(5), "elsewhere: Code(5)", "elsewhere: Code(5)"),
        ("bare NOERROR", USUAL, bare(0), "useless", "useless"),
        ("bare NXDOMAIN", USUAL, bare(3), "useless", "useless"),
        ("SERVFAIL", USUAL, reply(2, &[]), "elsewhere: Code(2)", "elsewhere: Code(2)"),
        ("REFUSED", USUAL, reply(5, &[]), "elsewhere: Code(5)", "elsewhere: Code(5)"),
        ("an alias to itself", USUAL, itself, "elsewhere: Unbound", "elsewhere: Unbound"),
        ("two aliases", USUAL, two, "elsewhere: Unbound", "elsewhere: Unbound"),
        (
            "five octets",
            USUAL,
            reply(0, &[rr("www.example", 1, 60, &[1; 5])]),
            "elsewhere: Unbound",
            "elsewhere: Unbound",
        ),
        (
            "a referral",
            USUAL,
            with_flags(reply(0, std::slice::from_ref(&ns)), flag::RA, 0),
            "elsewhere: Referral",
            "elsewhere: Referral",
        ),
        ("servers with RA", USUAL, reply(0, std::slice::from_ref(&ns)), "useful", "useful"),
        ("a question", USUAL, query(7, "www.example", 1, EDNS), "useless", "useless"),
        ("another question", USUAL, other_id, "useless", "useless"),
        ("nothing", USUAL, vec![], "useless", "useless"),
    ];
    for (what, manner, reply, udp, stream) in cases {
        assert_eq!(word(manner, &reply), udp, "{what}, over UDP");
        assert_eq!(word(manner.and(Manner::STREAM), &reply), stream, "{what}, over a stream");
    }
}

#[test]
fn a_reply_cut_anywhere_is_never_useful() {
    let whole = reply(0, &[a("www.example", 60, "192.0.2.1"), a("www.example", 60, "192.0.2.2")]);
    assert_eq!(word(Manner::USUAL, &whole), "useful");
    for len in 0..whole.len() {
        assert_ne!(word(Manner::USUAL, &whole[..len]), "useful", "{len} octets");
    }
}
