use super::*;
use crate::dns::tests::harness::read;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn head(octets: &[u8], edns: Option<ClientEdns>, limit: usize) -> ReplyHead<'_> {
    ReplyHead { id: 7, flags: 0x0110, octets, edns, limit }
}

const DO: Option<ClientEdns> = Some(ClientEdns { size: 4096, dnssec_ok: true, cookie: None });

#[test]
fn owner_names_are_compressed_and_read_back() {
    let mut writer = BodyWriter::new(&name("www.example"), 1, 0);
    let target = name("cdn.example.net");
    writer.record(Section::Answer, &name("www.example"), 5, 60, target.wire(), Some(&target));
    writer.record(Section::Answer, &target, 1, 60, &[192, 0, 2, 1], None);
    writer.record(Section::Answer, &name("n.example.net"), 1, 60, &[192, 0, 2, 2], None);
    writer.record(Section::Authority, &name("example"), 6, 60, &[0], None);
    writer.record(Section::Authority, &name("example.net"), 6, 60, &[0], None);
    writer.record(Section::Authority, &Name::root(), 6, 60, &[0], None);
    let body = writer.finish().unwrap();
    let seen = read(&body.octets);
    let owners: Vec<&str> = seen.answers.iter().chain(&seen.authority).map(|(owner, ..)| owner.as_str()).collect();
    let expected = ["www.example.", "cdn.example.net.", "n.example.net.", "example.", "example.net.", ""];
    assert_eq!(owners, expected);
    // Header, question, then: pointer, pointer, whole name, pointers into question and alias, root.
    assert_eq!(body.octets.len(), 12 + 17 + 6 * 10 + (2 + 17) + (2 + 4) + (15 + 4) + (2 + 1) + (2 + 1) + (1 + 1));
    for at in &body.ttls {
        assert_eq!(u32_at(&body.octets, usize::from(*at)), Some(60));
    }
}

#[test]
fn a_suffix_counts_at_a_label_only() {
    let mut writer = BodyWriter::new(&name("\\001a.example"), 1, 0);
    // The wire form "\x01a..." of this owner occurs inside the first label of the question.
    writer.record(Section::Answer, &name("a.example"), 1, 60, &[192, 0, 2, 1], None);
    assert_eq!(read(&writer.finish().unwrap().octets).answers[0].0, "a.example.");
}

#[test]
fn a_message_beyond_64_kib_is_refused() {
    let mut writer = BodyWriter::new(&name("a.example"), 16, 0);
    for _ in 0..300 {
        writer.record(Section::Answer, &name("a.example"), 16, 60, &[7; 250], None);
    }
    assert_eq!(writer.finish().unwrap_err(), TooLong);
}

#[test]
fn ttls_are_lowered_never_raised() {
    let mut writer = BodyWriter::new(&name("a.example"), 1, 0);
    for ttl in [10, 100, 1000] {
        writer.record(Section::Answer, &name("a.example"), 1, ttl, &[192, 0, 2, 1], None);
    }
    let mut body = writer.finish().unwrap();
    let ttls = |octets: &[u8]| read(octets).answers.iter().map(|(_, _, ttl, _)| *ttl).collect::<Vec<_>>();
    cap_ttls(&mut body, 100);
    assert_eq!(ttls(&body.octets), [10, 100, 100]);
    let mut out = Vec::new();
    let question = body.octets[12..27].to_vec();
    render(&body.octets, body.ttls.iter().copied(), 20, &head(&question, None, 512), None, &mut out);
    assert_eq!(ttls(&out), [0, 80, 80]);
    age_ttls(&mut body, 30);
    assert_eq!(ttls(&body.octets), [0, 70, 70]);
}

#[test]
fn a_reply_fits_its_limit_to_the_octet() {
    let mut writer = BodyWriter::new(&name("a.example"), 16, 0);
    writer.record(Section::Answer, &name("a.example"), 16, 60, &[3; 100], None);
    let body = writer.finish().unwrap();
    let question = body.octets[12..27].to_vec();
    let ede = Ede::new(17, "words");
    let whole = body.octets.len() + 11 + 6 + 5;
    for (limit, fits) in [(whole, true), (whole - 1, false)] {
        let mut out = b"before".to_vec();
        render(&body.octets, body.ttls.iter().copied(), 5, &head(&question, DO, limit), Some(&ede), &mut out);
        let seen = read(&out[6..]);
        assert_eq!((seen.len <= limit, seen.truncated(), seen.answers.len()), (true, !fits, usize::from(fits)));
        assert_eq!(seen.ede, Some((17, "words".to_owned())));
        assert_eq!((seen.id, seen.flags & 0x0110, seen.edns), (7, 0x0110, Some((1232, true))));
    }
}

#[test]
fn errors_bear_question_and_code() {
    let question = [&name("a.example").wire().to_vec()[..], &[0, 1, 0, 1]].concat();
    let mut out = Vec::new();
    error(16, &head(&question, DO, 512), None, &mut out);
    let seen = read(&out);
    assert_eq!((seen.rcode, seen.question), (16, question));
    let mut out = Vec::new();
    error(1, &head(&[], None, 512), None, &mut out);
    assert_eq!((out.len(), read(&out).rcode), (12, 1));
}

#[test]
fn an_own_negative_has_a_soa_that_is_soon_over() {
    let body = own_negative(&name("a.example"), 1, 3);
    let seen = read(&body.octets);
    assert_eq!((seen.rcode, seen.authority.len(), seen.authority[0].1, seen.authority[0].2), (3, 1, 6, OWN_TTL));
    let rdata = &seen.authority[0].3;
    assert_eq!(rdata[rdata.len() - 4..], OWN_TTL.to_be_bytes());
}

#[test]
fn over_a_stream_the_words_go_before_the_answer() {
    // A body with room for the bare OPT, and one without.
    for (free, rcode) in [(11, 0), (10, 2)] {
        let mut writer = BodyWriter::new(&name("a.example"), 16, 0);
        let left = 65_535 - free - 27 - 12;
        writer.record(Section::Answer, &name("a.example"), 16, 60, &vec![3; left], None);
        let body = writer.finish().unwrap();
        assert_eq!(body.octets.len(), 65_535 - free);
        let question = body.octets[12..27].to_vec();
        let ede = Ede::new(17, "words");
        let mut out = Vec::new();
        let fits =
            render(&body.octets, body.ttls.iter().copied(), 5, &head(&question, DO, 65_535), Some(&ede), &mut out);
        assert_eq!(fits, rcode == 0, "what went out instead is told");
        let seen = read(&out);
        assert_eq!((seen.rcode, seen.truncated(), seen.answers.len()), (rcode, false, usize::from(rcode == 0)));
        assert_eq!(seen.ede.map(|(code, _)| code), (rcode == 2).then_some(24));
    }
}
