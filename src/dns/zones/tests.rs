//! What zones are made of, and what is told of one that can't be.

use super::read::{Read, Wrong, read};
use super::*;
use crate::config::schema;

fn zone(text: &str) -> schema::Zone {
    toml::from_str(text).unwrap()
}

/// A zone `home.example` from a file of this kind.
fn of_file(key: &str, content: &str) -> Result<Read, Vec<Wrong>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zone");
    std::fs::write(&path, content).unwrap();
    read(&zone(&format!("name = \"home.example\"\n{key} = \"{}\"\n", path.display())))
}

/// What is said of a file: the line, and the reason.
fn wrong_line(key: &str, content: &str) -> (usize, String) {
    let wrong = of_file(key, content).unwrap_err();
    assert!(wrong.len() == 1 && wrong[0].key == key && !wrong[0].in_config, "{wrong:?}");
    let rest = wrong[0].reason.split_once("zone:").unwrap().1;
    let (line, reason) = rest.split_once(": ").unwrap();
    (line.parse().unwrap(), reason.to_owned())
}

fn inline(records: &[&str]) -> Result<Read, Vec<Wrong>> {
    read(&schema::Zone {
        records: records.iter().map(ToString::to_string).collect(),
        ..zone("name = \"home.example\"\n")
    })
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

async fn answer(zone: &Zone, text: &str, qtype: u16) -> Response {
    match zone.answer(&name(text), qtype).await {
        Checked::Response(response) => response,
        other => panic!("{text}: {other:?}"),
    }
}

#[tokio::test]
async fn a_master_file_is_answered_from_as_it_is_written() {
    let text = "$ORIGIN home.example.\n\
        @ 3600 IN SOA ns.home.example. admin.home.example. (\n  7 ; serial; (\n  3600 600 86400\n  120 )\n\
        \t IN NS ns\nns A 192.0.2.1\nnas 60 A 192.0.2.7\n    AAAA 2001:db8::7\n\
        Mail MX 10 nas\n_sip._udp SRV 1 2 5060 nas\ntxt TXT \"a;b(\" c\nsvc HTTPS 1 . ipv4hint=192.0.2.9\n";
    let read = of_file("file", text).unwrap();
    assert_eq!(read.zone.records(), 9);
    assert!(read.stamp.is_some() && read.sha256.is_some_and(|sum| sum.len() == 64));
    let nas = answer(&read.zone, "nas.home.example", 1).await;
    assert_eq!(nas.rdata[0][..], [192, 0, 2, 7]);
    assert_eq!((nas.answers.len(), nas.answers[0].ttl), (1, 60));
    assert_eq!(answer(&read.zone, "ns.home.example", 1).await.answers[0].ttl, 300, "the zone's own default");
    let mail = answer(&read.zone, "mail.home.example", 15).await;
    assert_eq!(mail.rdata[0][..], *b"\x00\x0a\x03nas\x04home\x07example\x00");
    let soa = answer(&read.zone, "home.example", 6).await;
    assert_eq!(soa.rdata[0][..17], *b"\x02ns\x04home\x07example\x00", "names aren't compressed");
    let none = answer(&read.zone, "nas.home.example", 16).await;
    assert_eq!((none.rcode, none.authority[0].rdata.ends_with(&[0, 0, 0, 120])), (0, true));
    assert_eq!(answer(&read.zone, "nobody.home.example", 1).await.rcode, 3);
    assert!(read.zone.index.holds("192.0.2.9".parse().unwrap()), "hints are addresses too");
}

#[test]
fn a_broken_master_file_is_told_with_its_line() {
    let good = "@ SOA ns admin 1 2 3 4 5\n; a comment (\nnas A 192.0.2.7\n";
    for (more, what) in [
        ("bad A 192.0.2.777\n", "address"),
        ("bad\n", "name without a record"),
        ("bad 300 ; A 192.0.2.1\n", "name without a record"),
        (" 192.0.2.1\n", "name without a record"),
        ("bad FOO 1\n", "FOO"),
        ("other.example. A 192.0.2.1\n", "outside the zone"),
        ("@ CNAME nas\n", "can't be an alias"),
        ("nas CNAME x\n", "beside other data"),
        ("x SOA ns admin 1 2 3 4 5\n", "not the top"),
        ("$INCLUDE /etc/passwd\n", "$INCLUDE"),
        ("  $include /etc/passwd\n", "$INCLUDE"),
        ("x CH TXT a\n", "class"),
        ("x RRSIG A 8 2 60 20300101000000 20200101000000 1 home.example. AAAA\n", "RRSIG"),
        ("x TXT \"never closed\n", ""),
    ] {
        let (line, reason) = wrong_line("file", &format!("{good}{more}www A 192.0.2.8\n"));
        assert!(line == 4 && reason.contains(what), "{more}: {line}: {reason}");
    }
    let (line, _) = wrong_line("file", &format!("{good}x TXT (\n a\n b )\n\nbad A 1\n"));
    assert_eq!(line, 8);
    assert_eq!(of_file("file", "\u{feff}nas A 192.0.2.7\r\n").unwrap().zone.records(), 2, "as some editors write it");
    let wrong = read(&zone("name = \"home.example\"\nfile = \"/nowhere/zone\"\n")).unwrap_err();
    assert!(wrong[0].reason.starts_with("/nowhere/zone: ") && !wrong[0].in_config, "{wrong:?}");
}

#[test]
fn a_delegated_name_is_somebody_elses() {
    let text = "@ NS ns\nns A 192.0.2.1\nsub NS ns.sub\nns.sub A 192.0.2.2\nx.sub A 192.0.2.3\nsubx A 192.0.2.4\n";
    let zone = of_file("file", text).unwrap().zone;
    let zones = Zones::new(&[Arc::new(zone)], &Config::default());
    assert!(zones.answers(&name("subx.home.example")) && zones.answers(&name("home.example")));
    assert!(!zones.answers(&name("sub.home.example")) && !zones.answers(&name("x.sub.home.example")));
    assert!(!zones.set.zone_of(&name("home.example")).unwrap().holds("192.0.2.3".parse().unwrap()));
}

#[tokio::test]
async fn a_hosts_file_gives_its_zone_the_names_that_are_in_it() {
    let text = "127.0.0.1 localhost me\n::1 ip6-localhost\nfe80::1%lo0 localhost\n# all of it\n\
        192.0.2.7  nas nas.home.example NAS.home.example files # one box\n2001:db8::7 nas\n192.0.2.9 printer.other.example\n";
    let read = of_file("hosts", text).unwrap();
    assert_eq!((read.zone.records(), read.skipped), (4, 5));
    let address = answer(&read.zone, "nas.home.example", 28).await;
    assert_eq!(address.answers[0].data, RecordData::Aaaa("2001:db8::7".parse().unwrap()));
    let leads_back: Vec<_> = read.zone.pointers.iter().map(|(_, name)| name.to_string()).collect();
    assert_eq!(leads_back, ["nas.home.example", "nas.home.example"], "to the first name of the line");
    assert_eq!(wrong_line("hosts", "192.0.2.7 a\n192.0.2 b\n"), (2, "\"192.0.2\" is not an address".to_owned()));
    assert_eq!(wrong_line("hosts", "192.0.2.7 a..b\n").0, 1);
}

#[test]
fn records_of_the_configuration_are_told_one_by_one() {
    let keys = |records: &[&str]| -> Vec<String> {
        inline(records)
            .unwrap_err()
            .into_iter()
            .inspect(|wrong| assert!(wrong.in_config))
            .map(|wrong| wrong.key)
            .collect()
    };
    assert_eq!(inline(&["nas A 192.0.2.7", "*.dev 60 AAAA 2001:db8::7", "www CNAME nas"]).unwrap().zone.records(), 4);
    let bad = ["nas A", "a A 192.0.2.1", "b A 192.0.2.1\nc A 192.0.2.1", "$TTL 5", "", "x. A 192.0.2.1"];
    assert_eq!(keys(&bad), ["records[0]", "records[2]", "records[3]", "records[4]", "records[5]"]);
    assert_eq!(keys(&["a A 192.0.2.1", "b A 192.0.2.1", "a CNAME b", "c A 192.0.2.1"]), ["records[2]"]);
    assert_eq!(keys(&[]), ["name"]);
    let both = zone("name = \"z\"\nfile = \"f\"\nrecords = [\"a A 192.0.2.1\"]\n");
    assert_eq!(read(&both).unwrap_err()[0].key, "name");
    assert!(read(&zone("name = \".\"\nrecords = [\"a A 192.0.2.1\"]\n")).unwrap_err()[0].in_config);
}

#[test]
fn addresses_have_reverse_names_unless_others_answer_for_them() {
    let zone = Arc::new(
        inline(&["nas A 192.0.2.7", "nas AAAA 2001:db8::7", "*.dev A 192.0.2.8", "pc A 198.51.100.1"]).unwrap().zone,
    );
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    let zones = Zones::new(std::slice::from_ref(&zone), &Config::default());
    assert!(zones.answers(&name("7.2.0.192.in-addr.arpa")) && zones.answers(&name(v6)));
    assert!(!zones.answers(&name("8.2.0.192.in-addr.arpa")), "a wildcard is no name");
    assert_eq!(zones.pointer(&name(v6), 12).rdata[0][..], *b"\x03nas\x04home\x07example\x00");
    let none = zones.pointer(&name(v6), 1);
    assert_eq!((none.answers.len(), none.authority.len()), (0, 1));
    let config = toml::from_str(
        "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\ndomains = [\"2.0.192.in-addr.arpa\"]\n\
         [[policy.private]]\ndomain = \"100.51.198.in-addr.arpa\"\nprefixes = [\"198.51.100.0/24\"]\n",
    );
    let zones = Zones::new(&[zone], &config.unwrap());
    assert!(!zones.answers(&name("7.2.0.192.in-addr.arpa")) && !zones.answers(&name("1.100.51.198.in-addr.arpa")));
    assert!(zones.answers(&name(v6)));
}

#[test]
fn too_many_records_are_told() {
    let text: String = (0..100_001).map(|at| format!("192.0.2.1 h{at}\n")).collect();
    let (line, reason) = wrong_line("hosts", &text);
    assert_eq!((line, reason.as_str()), (100_001, "a zone has 100000 records at most"));
}
