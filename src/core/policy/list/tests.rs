use proptest::prelude::*;

use super::*;
use crate::config::schema::{Action, Config};
use crate::core::name::Name;
use crate::core::policy::{Effect, ListFile, Policy};

/// Entries as "line pattern", exemptions with `@@` in front.
fn read(format: ListFormat, content: &str) -> (Vec<String>, Report) {
    read_octets(format, content.as_bytes())
}

fn read_octets(format: ListFormat, content: &[u8]) -> (Vec<String>, Report) {
    let mut entries = Vec::new();
    let report = parse(format, content, &mut |entry| {
        let mark = if entry.sense == Sense::Exempt { "@@" } else { "" };
        entries.push(format!("{} {mark}{}", entry.line, entry.trigger));
    });
    assert_eq!(report.entries, entries.len());
    (entries, report)
}

fn lines_of(report: &Report) -> Vec<u32> {
    report.errors.iter().map(|error| error.line).collect()
}

#[test]
fn domains_are_rules_a_line() {
    let text = "# list\n\nads.test\n  *.track.test # why\n=only.test\r\nB\u{fc}cher.test\nx..test\n*\nlast.test";
    let (entries, report) = read(ListFormat::Domains, text);
    assert_eq!(entries, ["3 ads.test", "4 *.track.test", "5 =only.test", "6 xn--bcher-kva.test", "9 last.test"]);
    assert_eq!(lines_of(&report), [7, 8]);
    assert_eq!(report.errors[0].to_string(), "line 7: \"x..test\" is not a domain name: an empty label");
    assert_eq!(read(ListFormat::Domains, "\u{feff}a.test").0, ["1 a.test"], "a byte order mark is no part of the name");
    assert_eq!(read(ListFormat::Domains, "").1, Report::default());
}

#[test]
fn hosts_name_themselves_only() {
    let text = "127.0.0.1 localhost\n::1 ip6-localhost ip6-loopback\n0.0.0.0 ads.test Track.test # both\n\
                fe80::1%lo0 localhost\nads2.test\n0.0.0.0\n0.0.0.0 a..b ok.test\n# end";
    let (entries, report) = read(ListFormat::Hosts, text);
    assert_eq!(entries, ["3 =ads.test", "3 =track.test", "7 =ok.test"]);
    assert_eq!(report.skipped, 4);
    assert_eq!(lines_of(&report), [5, 6, 7]);
}

#[test]
fn adblock_rules_for_whole_names() {
    let text = "[Adblock Plus 2.0]\n! comment\n# comment\n||ads.test^\n@@||good.ads.test^\n||*.sub.test^\n||imp.test^$important\n\
                ||web.test^$third-party\n##.banner\nexample.test##.ad\n||ads.test/path\n/regex/\n||a*b.test^\n||1.2.3.4^\n\
                ||a..b^\n||pipe.test^|\n/plain.test\n||no-end.test\n@@||deep.test^$important,all";
    let (entries, report) = read(ListFormat::Adblock, text);
    assert_eq!(
        entries,
        ["4 ads.test", "5 @@good.ads.test", "6 *.sub.test", "7 imp.test", "16 pipe.test", "19 @@deep.test"]
    );
    assert_eq!(report.wrong, 0);
    assert_eq!((report.skipped, report.first_skipped), (10, Some(8)));
}

#[test]
fn bare_names_in_adblock_lists_are_entries() {
    let text = "host.example\n@@good.host.example\nB\u{fc}cher.test \nUPPER.example\r\na_b.host.example\n_ads.js\n\
                -ad-banner.\n.example.net\nads.js?\nlocalhost\n1.2.3.4\na..b\nhost.example/x\nx-.example\n*.host.example\nhost.example$script";
    let (entries, report) = read(ListFormat::Adblock, text);
    assert_eq!(
        entries,
        ["1 host.example", "2 @@good.host.example", "3 xn--bcher-kva.test", "4 upper.example", "5 a_b.host.example"]
    );
    assert_eq!((report.skipped, report.wrong), (11, 0));
}

#[test]
fn a_dot_in_front_names_the_tree() {
    let (entries, report) = read(ListFormat::Domains, ".example.net\n..example.net\n.\n=.a.test");
    assert_eq!(entries.first().map(String::as_str), Some("1 example.net"));
    assert!(lines_of(&report).contains(&2) && lines_of(&report).contains(&4), "{report:?}");
}

#[test]
fn adblock_lines_that_are_long_or_foreign_are_skipped_and_counted() {
    let long = "x".repeat(MAX_LINE);
    let mut content = format!("! {long}\n||one.test^\na.test,{long}##.ad\n").into_bytes();
    content.extend(b"||\xff\xfe^\n||a..b^\n##\n||two.test^\n");
    let (entries, report) = read_octets(ListFormat::Adblock, &content);
    assert_eq!(entries, ["2 one.test", "7 two.test"]);
    assert_eq!((report.skipped, report.wrong), (4, 0), "{report:?}");
}

#[test]
fn lines_longer_than_any_rule_are_skipped_and_warned_of() {
    let long = "x".repeat(MAX_LINE);
    for (format, rules) in [
        (ListFormat::Domains, ["a.test".to_owned(), format!("{long}.test"), "b.test".to_owned()]),
        (ListFormat::Hosts, ["0.0.0.0 a.test".to_owned(), format!("0.0.0.0 {long}.test"), "0.0.0.0 b.test".to_owned()]),
        (
            ListFormat::Rpz,
            [
                "@ SOA a. b. 1 1 1 1 1\na.test CNAME .".to_owned(),
                format!("l.test TXT {long}"),
                "b.test CNAME .".to_owned(),
            ],
        ),
    ] {
        let (entries, report) = read(format, &rules.join("\n"));
        assert_eq!((entries.len(), report.skipped, report.long, report.wrong), (2, 1, 1, 0), "{format:?}: {report:?}");
        let [warning] = report.warnings("list").try_into().unwrap();
        assert!(warning.contains("longer than 2048 octets are skipped (1 such"), "{warning}");
    }
}

#[test]
fn comments_have_any_length_and_octets() {
    for (format, mark, rule) in [
        (ListFormat::Domains, "#", "a.test"),
        (ListFormat::Hosts, " #", "0.0.0.0 a.test"),
        (ListFormat::Adblock, "!", "||a.test^"),
        (ListFormat::Rpz, ";", "@ SOA a. b. 1 1 1 1 1\na.test CNAME ."),
    ] {
        let mut content = format!("{mark}{}", "x".repeat(MAX_LINE + 1)).into_bytes();
        content.extend([b"\n", mark.as_bytes(), b"\xff\n", rule.as_bytes()].concat());
        let (entries, report) = read_octets(format, &content);
        assert_eq!((entries.len(), report.skipped, report.wrong), (1, 0, 0), "{format:?}: {report:?}");
    }
}

#[test]
fn a_list_that_is_nearly_all_skipped_is_warned_of() {
    let list = |rules: usize, skipped: usize| format!("{}{}", "||a.test^\n".repeat(rules), "##.ad\n".repeat(skipped));
    let warnings = |text: &str| read(ListFormat::Adblock, text).1.warnings("ads.txt");
    assert_eq!(warnings(&list(1, 20)), [] as [&str; 0]);
    let [warning] = warnings(&list(2, 41)).try_into().unwrap();
    assert!(
        warning.starts_with("ads.txt:3: nearly all lines are skipped") && warning.contains("41 such lines, 2 rules"),
        "{warning}"
    );
    assert_eq!(warnings(&list(0, 1)).len(), 1);
    assert_eq!(warnings(""), [] as [&str; 0]);
}

const ZONE: &str = "\
$TTL 300
@ IN SOA localhost. root.localhost. ( 1 ; serial
    3600 600
    86400 60 ) ; (still a comment
  IN NS localhost.
ads.test            CNAME .
*.ads.test      60 IN CNAME .
nodata.test     IN 1h CNAME *.
good.ads.test   CNAME rpz-passthru.
drop.test       CNAME rpz-drop.
tcp.test        CNAME rpz-tcp-only.
local.test      A 192.0.2.1
garden.test     CNAME walled.example.
32.1.2.0.192.rpz-ip   CNAME .
32.1.0.0.10.rpz-client-ip CNAME .
ns.evil.rpz-nsdname CNAME .
";

#[test]
fn rpz_triggers_and_actions() {
    let mut entries = Vec::new();
    let report = parse(ListFormat::Rpz, ZONE.as_bytes(), &mut |entry| {
        entries.push(format!("{} {} {:?}", entry.line, entry.trigger, entry.sense));
    });
    assert_eq!(
        entries,
        [
            "6 =ads.test Listed",
            "7 *.ads.test Listed",
            "8 =nodata.test NoData",
            "9 =good.ads.test Exempt",
            "10 =drop.test Drop",
            "11 =tcp.test TcpOnly",
            "12 =local.test Data",
            "13 =garden.test Data",
            "14 answer 192.0.2.1/32 Listed",
            "15 client 10.0.0.1/32 Listed",
        ]
    );
    assert_eq!((report.skipped, report.denied_instead), (1, 0), "the trigger on name servers");
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

#[test]
fn rpz_data_of_a_name_comes_together_and_what_can_not_be_served_is_denied() {
    let zone = "$ORIGIN z.example.\n@ SOA a. b. 1 1 1 1 1\nl.test A 192.0.2.1\n  AAAA 2001:db8::1\nx.test CNAME .\n\
                l.test A 192.0.2.2\n*.l.test CNAME garden.example.\nt.test HTTPS 1 . ipv4hint=192.0.2.1\nw.test CNAME *.garden.example.\n\
                32.1.2.0.192.rpz-ip A 192.0.2.9\n";
    let (_, report) = read(ListFormat::Rpz, zone);
    assert_eq!((report.denied_instead, report.first_denied_instead, report.wrong), (3, Some(8), 0));
    let policy = with_lists("", &[("z", ListFormat::Rpz, Action::Deny, zone)]);
    let data = |text: &str| policy.local_data(&text.parse().unwrap());
    let address = |text: &str| LocalData::Address(text.parse().unwrap());
    assert_eq!(data("l.test").unwrap(), [address("192.0.2.1"), address("2001:db8::1"), address("192.0.2.2")]);
    assert_eq!(data("a.l.test").unwrap(), [LocalData::Alias("garden.example".parse().unwrap())]);
    assert_eq!(data("t.test"), None);
    assert!(denied(&policy, "t.test") && denied(&policy, "w.test"));
    let soa = "@ SOA a. b. 1 1 1 1 1\n";
    for wrong in ["a.test A 2001:db8::1", "a.test AAAA 192.0.2.1", "a.test A", "a.test A x", "a.test CNAME a..b"] {
        assert_eq!(read(ListFormat::Rpz, &format!("{soa}{wrong}")).1.wrong, 1, "{wrong}");
    }
}

#[test]
fn records_of_a_name_beyond_the_bound_are_counted_with_the_first_ones_line_and_the_rest_of_the_zone_works() {
    let most = super::super::table::MOST_DATA;
    let mut zone = "@ SOA a. b. 1 1 1 1 1\nbefore.test CNAME .\n".to_owned();
    // The same record twice is one.
    zone += "full.test A 192.0.2.0\nfull.test A 192.0.2.0\n";
    (1..most + 3).for_each(|last| zone += &format!("full.test A 192.0.2.{last}\n"));
    zone += "fits.test A 192.0.2.1\nafter.test CNAME .\n";
    let file = ListFile { path: "z", format: ListFormat::Rpz, action: Action::Deny, content: zone.as_bytes() };
    let (_, report) = super::super::Table::from_list(&file).unwrap();
    let first = u32::try_from(most + 4).unwrap();
    assert_eq!((report.surplus, report.first_surplus, report.wrong), (3, Some(first), 0));
    let lines: Vec<&str> = zone.lines().collect();
    assert_eq!(lines[most + 3], format!("full.test A 192.0.2.{most}"), "the first that has no room");
    let [warning] = report.warnings("z").try_into().unwrap();
    assert!(warning.starts_with(&format!("z:{first}: ")) && warning.contains("(3 such"), "{warning}");
    let policy = with_lists("", &[("z", ListFormat::Rpz, Action::Deny, &zone)]);
    let served = |name: &str| policy.local_data(&name.parse().unwrap()).map(<[_]>::len);
    assert_eq!((served("full.test"), served("fits.test")), (Some(most), Some(1)));
    assert!(denied(&policy, "before.test") && denied(&policy, "after.test"));
}

#[test]
fn rpz_data_of_other_types_is_read_to_the_octet() {
    let zone = |line: &str| format!("$ORIGIN z.example.\n@ SOA a. b. 1 1 1 1 1\n{line}\n");
    let served = |line: &str| {
        let policy = with_lists("", &[("z", ListFormat::Rpz, Action::Deny, &zone(line))]);
        match policy.local_data(&"d.test".parse().unwrap()) {
            Some([LocalData::Record(number, rdata)]) => (*number, rdata.to_vec()),
            other => panic!("{line}: {other:?}"),
        }
    };
    let walled = b"\x06walled\x07example\x00";
    for (line, number, rdata) in [
        ("d.test TXT \"two words; no comment\" (one) ; one", 16, b"\x15two words; no comment\x03one".to_vec()),
        ("d.test 60 IN TXT \"\"", 16, b"\x00".to_vec()),
        ("d.test TXT a\\\"b\\032c\\255", 16, b"\x06a\"b c\xff".to_vec()),
        ("d.test txt \"\u{e4}\"", 16, b"\x02\xc3\xa4".to_vec()),
        ("d.test SPF \"v=spf1 -all\"", 99, b"\x0bv=spf1 -all".to_vec()),
        ("d.test MX 10 Walled.Example.", 15, [b"\x00\x0a", &walled[..]].concat()),
        ("d.test MX 0 .", 15, b"\x00\x00\x00".to_vec()),
        ("d.test SRV 1 2 443 walled.example.", 33, [b"\x00\x01\x00\x02\x01\xbb", &walled[..]].concat()),
        ("d.test PTR here", 12, b"\x04here\x01z\x07example\x00".to_vec()),
        ("d.test CAA 128 issue \"ca.example; x=y\"", 257, b"\x80\x05issueca.example; x=y".to_vec()),
        ("d.test TYPE65280 \\# 3 ab CDef", 65_280, b"\xab\xcd\xef".to_vec()),
        ("d.test TXT \\# 2 0141", 16, b"\x01A".to_vec()),
        ("d.test TYPE999 \\# 0", 999, Vec::new()),
    ] {
        assert_eq!(served(line), (number, rdata), "{line}");
    }
    for wrong in [
        "TXT",
        "TXT \"open",
        "TXT a\\",
        "TXT a\\25",
        "TXT a\\256",
        &format!("TXT {}", "x".repeat(256)),
        "TXT ( a\n b )",
        "MX 10",
        "MX ten a.",
        "MX 65536 a.",
        "MX 10 a. b.",
        "MX 10 *.a.",
        "MX 10 a..b",
        "SRV 1 2 a.",
        "CAA 256 issue a",
        "CAA 0 \"\" a",
        "TYPE999 abc",
        "TYPE999 \\#",
        "TYPE999 \\# 2 ab",
        "TYPE999 \\# 1 xy",
        "TYPE999 \\# 1 a",
        "TYPE999 \\# 1 +f",
    ] {
        let (entries, report) = read(ListFormat::Rpz, &zone(&format!("d.test {wrong}")));
        assert_eq!((entries.len(), lines_of(&report)), (0, vec![3]), "{wrong}");
    }
    // What leads to addresses by other ways, or is no data, is denied instead, and told.
    for denied_instead in
        ["HTTPS 1 .", "SVCB 0 a.", "DNAME a.", "TYPE1 \\# 4 c0000201", "TYPE65 \\# 3 000100", "TYPE255 \\# 0"]
    {
        let (_, report) = read(ListFormat::Rpz, &zone(&format!("d.test {denied_instead}")));
        assert_eq!((report.first_denied_instead, report.wrong), (Some(3), 0), "{denied_instead}");
    }
}

#[test]
fn rpz_prefixes_are_written_backwards() {
    let soa = "@ SOA a. b. 1 1 1 1 1\n";
    for (owner, net) in [
        ("24.0.2.0.192.rpz-ip", "answer 192.0.2.0/24"),
        ("8.0.0.0.10.rpz-client-ip", "client 10.0.0.0/8"),
        ("128.1.zz.db8.2001.rpz-ip", "answer 2001:db8::1/128"),
        ("32.zz.db8.2001.RPZ-IP", "answer 2001:db8::/32"),
        ("128.1.zz.rpz-ip", "answer ::1/128"),
        ("128.4.3.2.1.d.c.b.a.rpz-ip", "answer a:b:c:d:1:2:3:4/128"),
        ("64.0.0.0.0.4.3.2.1.rpz-client-ip", "client 1:2:3:4::/64"),
    ] {
        let (entries, report) = read(ListFormat::Rpz, &format!("{soa}{owner} CNAME ."));
        assert_eq!((entries, report.errors), (vec![format!("2 {net}")], vec![]), "{owner}");
    }
    for owner in ["rpz-ip", "24.rpz-ip", "33.1.2.0.192.rpz-ip", "24.1.2.0.192.rpz-ip", "24.0.2.0.rpz-ip", "*.rpz-ip"] {
        let (entries, report) = read(ListFormat::Rpz, &format!("{soa}{owner} CNAME ."));
        assert!(entries.is_empty() && report.wrong == 1, "{owner}: {entries:?}");
    }
}

#[test]
fn rpz_effects_and_addresses_are_asked_of_the_policy() {
    let zone = "@ SOA a. b. 1 1 1 1 1\nn.test CNAME *.\nd.test CNAME rpz-drop.\nt.test CNAME rpz-tcp-only.\n\
                24.0.2.0.192.rpz-ip CNAME .\n32.7.2.0.192.rpz-ip CNAME rpz-passthru.\n\
                8.0.0.0.10.rpz-client-ip CNAME rpz-drop.\n";
    let policy = with_lists("", &[("z", ListFormat::Rpz, Action::Deny, zone)]);
    let effect = |text: &str| {
        let verdict = policy.judge(&text.parse().unwrap());
        (verdict.denies(), policy.effect(verdict))
    };
    assert_eq!(effect("n.test"), (true, Effect::NoData));
    assert_eq!(effect("d.test"), (true, Effect::Drop));
    assert_eq!(effect("t.test"), (false, Effect::TcpOnly));
    assert_eq!(effect("x.test"), (false, Effect::Plain));
    let answer = |text: &str| policy.judge_answer(text.parse().unwrap());
    assert!(answer("192.0.2.1").unwrap().denies());
    assert!(!answer("192.0.2.7").unwrap().denies(), "the longest prefix decides");
    assert_eq!(answer("198.51.100.1"), None);
    assert_eq!(policy.words(answer("192.0.2.1").unwrap()), "192.0.2.0/24 (z:5)");
    let client = policy.judge_client("10.1.2.3".parse().unwrap()).unwrap();
    assert_eq!((client.denies(), policy.effect(client)), (true, Effect::Drop));
    assert_eq!(policy.judge_client("192.0.2.1".parse().unwrap()), None, "who asks is not what is answered");
}

#[test]
fn rpz_origin_and_absolute_names() {
    let text = "$ORIGIN rpz.example.\n@ SOA a. b. 1 1 1 1 1\nads.test CNAME .\nabs.test.rpz.example. CNAME .\n\
                outside.test. CNAME .\n$ORIGIN sub.rpz.example.\nx CNAME .\n* CNAME .\n  CNAME .\n@ CNAME .";
    let (entries, report) = read(ListFormat::Rpz, text);
    assert_eq!(entries, ["3 =ads.test", "4 =abs.test", "7 =x.sub", "8 *.sub", "9 *.sub", "10 =sub"]);
    assert_eq!(lines_of(&report), [5]);
}

#[test]
fn rpz_errors_are_located() {
    let soa = "@ SOA a. b. 1 1 1 1 1\n";
    for (text, line) in [
        ("ads.test CNAME .\n".to_owned(), 1),
        (format!("{soa}a..b CNAME ."), 2),
        (format!("{soa}ads.test"), 2),
        (format!("{soa}ads.test CNAME"), 2),
        (format!("{soa}ads.test CNAME rpz-passthru"), 2),
        (format!("{soa}$INCLUDE /etc/passwd"), 2),
        (format!("{soa}$ORIGIN"), 2),
        (format!("{soa}a.test NS (\n.\n"), 2),
        ("  CNAME .".to_owned(), 1),
    ] {
        let (entries, report) = read(ListFormat::Rpz, &text);
        assert!(entries.is_empty(), "{text}: {entries:?}");
        assert_eq!(lines_of(&report), [line], "{text}: {report:?}");
    }
    // What leans on a wrong line is wrong as well, and takes no other name.
    let (entries, report) = read(ListFormat::Rpz, &format!("{soa}ok.test CNAME .\na..b CNAME .\n CNAME ."));
    assert_eq!((entries, lines_of(&report)), (vec!["2 =ok.test".to_owned()], vec![3, 4]));
}

#[test]
fn foreign_octets_are_errors() {
    for format in [ListFormat::Domains, ListFormat::Hosts, ListFormat::Rpz] {
        let mut content = b"\xff\xfe\n".to_vec();
        content.extend(b"\0\n");
        let (entries, report) = read_octets(format, &content);
        assert!(entries.is_empty(), "{format:?}");
        assert_eq!(report.errors[0].line, 1);
        assert_eq!(report.errors[1].line, 2);
    }
    let many = "a..b\n".repeat(1000);
    let (_, report) = read(ListFormat::Domains, &many);
    assert_eq!((report.wrong, report.errors.len()), (1000, MAX_ERRORS));
}

fn with_lists(toml: &str, files: &[(&str, ListFormat, Action, &str)]) -> Policy {
    let config: Config = toml::from_str(toml).unwrap();
    let files: Vec<ListFile<'_>> = files
        .iter()
        .map(|(path, format, action, text)| ListFile {
            path,
            format: *format,
            action: *action,
            content: text.as_bytes(),
        })
        .collect();
    Policy::with_lists(&config, &files).unwrap().0
}

fn denied(policy: &Policy, text: &str) -> bool {
    policy.judge(&text.parse::<Name>().unwrap()).denies()
}

#[test]
fn lists_take_part_in_the_longest_match() {
    let adblock = "||ads.test^\n@@||good.ads.test^\n||same.test^\n@@||same.test^\n@@||other.test^";
    let policy = with_lists(
        "policy.allow = [\"mine.test\"]\npolicy.deny = [\"never.test\"]",
        &[
            ("empty.txt", ListFormat::Domains, Action::Deny, "# nothing\n"),
            ("ad.txt", ListFormat::Adblock, Action::Deny, adblock),
            ("bad.txt", ListFormat::Domains, Action::Deny, "other.test\nmine.test\nx.mine.test\n"),
            ("ok.txt", ListFormat::Domains, Action::Allow, "never.test\nfine.ads.test\nads.test\n"),
        ],
    );
    assert!(denied(&policy, "x.ads.test"), "deny wins between lists");
    assert!(!denied(&policy, "x.good.ads.test"));
    assert!(!denied(&policy, "fine.ads.test"), "the longest match, whatever the list");
    assert!(!denied(&policy, "same.test"), "an exception wins within its list");
    assert!(denied(&policy, "other.test"), "but not over another list");
    assert!(!denied(&policy, "mine.test"), "the configuration wins a tie with a list");
    assert!(denied(&policy, "x.mine.test"));
    assert!(denied(&policy, "never.test"));
    let place = |text: &str| {
        let rule = policy.judge(&text.parse::<Name>().unwrap()).rule.unwrap();
        policy.describe(rule).to_string()
    };
    assert_eq!(place("x.ads.test"), "ads.test (ad.txt:1)");
    assert_eq!(place("x.mine.test"), "x.mine.test (bad.txt:3)");
    assert_eq!(place("fine.ads.test"), "fine.ads.test (ok.txt:2)");
    assert_eq!(place("mine.test"), "mine.test (policy.allow[0])");
    assert_eq!(place("same.test"), "same.test (ad.txt:4)");
}

#[test]
fn a_zone_with_a_star_at_its_top_lists_everything() {
    let zone = "$ORIGIN z.example.\n@ SOA a. b. 1 1 1 1 1\n* CNAME .\nok.test CNAME rpz-passthru.\n";
    let policy = with_lists("", &[("rpz.zone", ListFormat::Rpz, Action::Deny, zone)]);
    assert!(denied(&policy, "a.test") && denied(&policy, "test"));
    assert!(!denied(&policy, "ok.test"));
}

#[test]
fn an_allow_list_with_exceptions_denies_them() {
    let policy = with_lists(
        "policy.default = \"deny\"",
        &[(
            "rpz.zone",
            ListFormat::Rpz,
            Action::Allow,
            "@ SOA a. b. 1 1 1 1 1\n*.ok.test CNAME .\nx.ok.test CNAME rpz-passthru.\n",
        )],
    );
    assert!(!denied(&policy, "a.ok.test"));
    assert!(denied(&policy, "x.ok.test"));
    assert!(denied(&policy, "ok.test"));
}

#[test]
fn a_million_names_take_less_than_100_mb() {
    use std::fmt::Write as _;
    // Without optimisation a million takes long; the smaller number fills the hash table as badly and is held to the same octets a name.
    let count = if cfg!(debug_assertions) { 120_000 } else { 1_000_000 };
    let mut text = String::new();
    for number in 0..count {
        writeln!(text, "host-{number}.malware-{}.example", number % 1000).unwrap();
    }
    let config = Config::default();
    let file =
        ListFile { path: "big.txt", format: ListFormat::Domains, action: Action::Deny, content: text.as_bytes() };
    let (policy, reports) = Policy::with_lists(&config, &[file]).unwrap();
    let names = usize::try_from(count).unwrap();
    assert_eq!((policy.len(), reports[0].entries, reports[0].wrong), (names, names, 0));
    assert!(policy.octets() < names * 100, "{}", policy.octets());
    assert!(denied(&policy, "x.host-113456.malware-456.example"));
    assert!(!denied(&policy, "host-113456.malware-457.example"));
    assert!(!denied(&policy, "malware-456.example"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Nothing that a file may hold panics, and every non-empty line is an entry, an error, skipped or a comment: never two of them wrong.
    #[test]
    fn no_content_panics(
        format in proptest::sample::select(vec![ListFormat::Domains, ListFormat::Hosts, ListFormat::Adblock, ListFormat::Rpz]),
        content in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(b"ab.*^|@$#;!()\\\"\n \t=/1 \0\xff".to_vec()),
                any::<u8>(),
            ],
            0..200,
        ),
    ) {
        let (_, report) = read_octets(format, &content);
        let lines = content.split(|octet| *octet == b'\n').count();
        prop_assert!(report.errors.iter().all(|error| usize::try_from(error.line).unwrap() <= lines));
    }

    /// What is written as a zone is read as the same rules.
    #[test]
    fn rpz_reads_what_is_written(
        names in proptest::collection::vec(("[a-z]{1,8}(\\.[a-z]{1,8}){0,3}", any::<bool>(), any::<bool>()), 0..20),
    ) {
        let mut zone = "$ORIGIN z.example.\n@ IN SOA a. b. 1 1 1 1 1\n".to_owned();
        let mut expected = Vec::new();
        for (line, (name, wildcard, exempt)) in (3..).zip(&names) {
            let mark = if *wildcard { "*." } else { "" };
            let target = if *exempt { "rpz-passthru." } else { "." };
            zone.push_str(&format!("{mark}{name} IN CNAME {target} ; comment (\n"));
            let reach = if *wildcard { "*." } else { "=" };
            expected.push(format!("{line} {}{reach}{name}", if *exempt { "@@" } else { "" }));
        }
        let (entries, report) = read(ListFormat::Rpz, &zone);
        prop_assert_eq!(entries, expected);
        prop_assert_eq!(report.wrong + report.skipped, 0);
    }
}
