//! What a user sees of a configuration: every error at once, at its place; the examples and the default file are good.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "config/applications.rs"]
mod applications;
#[path = "config/certificates.rs"]
mod certificates;
#[path = "config/flows.rs"]
mod flows;
#[path = "config/service.rs"]
mod service;

use std::path::Path;

use destguard::check;
use destguard::config::{self, Config, Report, Warning};

const FILE: &str = "destguard.toml";

fn refused(text: &str) -> Report {
    match check::parse(Path::new(FILE), &with_inside(text)) {
        Ok(_) => panic!("nothing wrong was found in:\n{text}"),
        Err(report) => report,
    }
}

fn accepted(text: &str) -> (Config, Vec<Warning>) {
    match check::parse(Path::new(FILE), &with_inside(text)) {
        Ok((config, warnings, _)) => (config, warnings),
        Err(report) => panic!("{report}"),
    }
}

/// "line:column message" of every finding.
fn found(findings: &[Warning]) -> Vec<String> {
    findings.iter().map(|finding| format!("{}:{} {}", finding.line, finding.column, finding.message)).collect()
}

/// The text that the caret points at.
fn pointed(finding: &Warning) -> String {
    finding.source.chars().skip(finding.caret.start).take(finding.caret.len()).collect()
}

/// What every file needs, in four lines.
const BASE: &str = "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[nftables]\nmode = \"local\"\n";

/// What a file with one peer needs; more keys of the peer can follow.
const PEER: &str = "[[dns.upstream]]
url = \"udp://192.0.2.53\"
[bgp]
asn = 64512
router_id = \"192.0.2.2\"
next_hop_ipv4 = \"192.0.2.1\"
next_hop_ipv6 = \"2001:db8::1\"
[[bgp.peer]]
name = \"edge1\"
address = \"192.0.2.254\"
asn = 64513
";

/// With a word on the network's own prefixes, at the end, where a file with peers has none; only its absence is a finding of its own.
fn with_inside(text: &str) -> String {
    let silent = text.contains("[[bgp.peer]]") && !text.contains("[addresses]");
    if silent { format!("{text}\n[addresses]\ninside = []\n") } else { text.to_owned() }
}

/// `PEER` with one more line for the peer; the findings about it.
fn peer_with(line: &str) -> Vec<String> {
    warnings_of(&format!("{PEER}{line}\n"))
}

fn warnings_of(text: &str) -> Vec<String> {
    match check::parse(Path::new(FILE), &with_inside(text)) {
        Ok((_, warnings, _)) => found(&warnings),
        Err(report) => found(&report.findings),
    }
}

#[test]
fn many_errors_of_all_kinds_come_at_once_each_at_its_place() {
    let text = r#"[dns]
listen = ["127.0.0.1:53", "localhost:53", "127.0.0.1:x"]
clients = ["10.0.0.0/8", "10.0.0.0/33"]
workers = "two"
lisen = 1
[dns.cache]
size = 64
[[dns.upstream]]
server_name = "x"
[[dns.upstream]]
url = 5
colour = "red"
[nftables]
mode = "gatway"
[policy]
default = "alow"
allow = ["a..b", "https://x.example/", "*.x.*", "bücher.example/x", "c d"]
[lease]
min = "60"
[lese]
x = 1
[[bgp.peer]]
name = "edge1"
adress = "192.0.2.1"
asn = -4
password = 12345
hold_time = "90"
families = ["ipv5"]
settle = "soon"
[addresses]
open = ["192.0.2.1", "x", "198.51.100.1/24"]
"#;
    let report = refused(text);
    assert_eq!(
        found(&report.findings),
        [
            "2:27 not an address with its port, as in \"192.0.2.1:53\" or \"[2001:db8::1]:53\"",
            "2:43 not an address with its port, as in \"192.0.2.1:53\" or \"[2001:db8::1]:53\"",
            "3:26 not an IP address",
            "4:11 expected a whole number in range, found string \"two\"",
            "5:1 unknown key `lisen`",
            "7:8 expected a string, found integer 64",
            "8:1 `url` is missing",
            "11:7 expected a string, found integer 5",
            "12:1 unknown key `colour`",
            "14:8 \"gatway\" is not known here; there are \"off\", \"local\", \"gateway\" and \"both\"",
            "16:11 \"alow\" is not known here; there are \"allow\" and \"deny\"",
            "17:10 \"a..b\" is not a domain name: an empty label",
            "17:18 \"https://x.example/\" is not a domain name: a domain name, not a URL or an address with a port",
            "17:40 \"x.*\" is not a domain name: a star stands only at the front, as in \"*.example.com\"",
            "17:49 \"bücher.example/x\" is not a domain name: a domain name, not a URL or an address with a port",
            "17:69 \"c d\" is not a domain name: a domain name, not a URL or an address with a port",
            "19:7 \"60\" is not a duration; write a number and a unit, as in \"500ms\", \"30s\", \"5m\", \"24h\", \"7d\"",
            "20:2 unknown key `lese`",
            "22:3 `bgp.asn` is missing; it is needed with a [[bgp.peer]]",
            "22:3 `bgp.router_id` is missing; it is needed with a [[bgp.peer]]",
            "24:1 unknown key `adress`",
            "25:7 expected a whole number in range, found integer -4",
            "26:12 expected a string, found something else",
            "27:13 \"90\" is not a duration; write a number and a unit, as in \"500ms\", \"30s\", \"5m\", \"24h\", \"7d\"",
            "28:13 \"ipv5\" is not known here; there are \"ipv4\" and \"ipv6\"",
            "29:10 \"soon\" is not a duration; write a number and a unit, as in \"500ms\", \"30s\", \"5m\", \"24h\", \"7d\", or \"auto\"",
            "31:22 \"x\" is neither an address nor a prefix",
        ]
    );
    let at = |line: usize, column: usize| {
        report.findings.iter().find(|finding| (finding.line, finding.column) == (line, column)).unwrap()
    };
    assert_eq!(pointed(at(2, 27)), "\"localhost:53\"");
    assert_eq!(pointed(at(5, 1)), "lisen");
    assert_eq!(pointed(at(17, 69)), "\"c d\"", "columns count characters");
    assert_eq!(at(5, 1).help.as_deref(), Some("did you mean `listen`?"));
    assert_eq!(at(20, 2).help.as_deref(), Some("did you mean `lease`?"));
    assert_eq!(at(24, 1).help.as_deref(), Some("did you mean `address`?"));
    assert_eq!(at(28, 13).key, "bgp.peer[0].families[0]");
    assert!(!report.to_string().contains("12345"), "a secret was shown");
}

#[test]
fn a_finding_shows_line_and_caret() {
    let report = refused(&format!("{BASE}[dns]\n\tlisten = [\"127.0.0.1\"]\n"));
    assert_eq!(
        report.to_string(),
        "destguard.toml:6:12: error: not an address with its port, as in \"192.0.2.1:53\" or \"[2001:db8::1]:53\"
    6 |  listen = [\"127.0.0.1\"]
      |            ^^^^^^^^^^^

destguard.toml: 1 error"
    );
}

#[test]
fn the_first_syntax_error_is_told_and_nothing_is_guessed_from_what_could_not_be_read() {
    let report =
        refused("[dns]\nworkers = \n[bgp]\nasn = 1 2\nlocal_pref = \"x\"\n[[bgp.peer]]\npassword = \"topsecret\n");
    let lines: Vec<usize> = report.findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [2], "{report}");
    assert!(!report.to_string().contains("topsecret"), "{report}");
    // One quote is missing in front: all behind it would be taken for something else.
    let text = include_str!("../examples/network-wide.toml");
    let at = text.find("= \"").unwrap() + 2;
    let mut broken = text.to_owned();
    broken.remove(at);
    let report = refused(&broken);
    assert_eq!(report.findings.len(), 1, "{report}");
    assert_eq!(report.findings[0].line, text[..at].lines().count(), "{report}");
}

#[test]
fn what_is_meant_otherwise_is_told_how() {
    let help = |text: &str| refused(text).findings.into_iter().find_map(|finding| finding.help);
    let large = PEER.replace("[[bgp.peer]]", "communities = [\"64512:100:1\"]\n[[bgp.peer]]");
    assert_eq!(help(&large).as_deref(), Some("a large community: use large_communities"));
    let named = BASE.replace("udp://192.0.2.53", "tls://dns.quad9.net:853");
    assert_eq!(help(&named).as_deref(), Some("give the address; put the name into server_name"));
    assert_eq!(help(&BASE.replace("192.0.2.53", "192.0.2.533")), None);
}

#[test]
fn a_domain_that_is_named_twice_is_said_to_be_and_is_no_other_upstream() {
    let own = "[[dns.upstream]]\nurl = \"udp://192.0.2.54\"\ndomains = [\"a.test\", \"b.test\"";
    let (_, warnings) = accepted(&format!("{BASE}{own}, \"A.test.\"]\n"));
    assert_eq!(found(&warnings), ["7:32 A.test. is named twice"]);
    assert_eq!(pointed(&warnings[0]), "\"A.test.\"");
    let other = own.replace("\"a.test\", \"b.test\"", "\"B.test\", \"A.test\"");
    let report = refused(&format!("{BASE}{own}]\n{other}]\n"));
    assert!(report.to_string().contains("the same upstream as dns.upstream[1]"), "{report}");
}

#[test]
fn an_empty_file_lacks_an_upstream_and_an_enforcer() {
    let report = refused("");
    let messages: Vec<&str> = report.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        ["nothing enforces: `nftables.mode` is \"off\" and there is no [[bgp.peer]]", "there is no upstream to ask"]
    );
}

#[test]
fn a_peer_that_is_not_required_enforces_nothing() {
    assert_eq!(
        peer_with("required = false"),
        ["8:1 nothing enforces: `nftables.mode` is \"off\" and no [[bgp.peer]] is a required enforcer"]
    );
}

#[test]
fn rules_on_a_peer() {
    assert_eq!(peer_with(""), [""; 0]);
    for (line, message) in [
        ("ttl_security = true\nmultihop = 3", "13:12 either `ttl_security` (an adjacent peer) or `multihop`, not both"),
        ("multihop = 1", "12:12 1: an adjacent peer needs no multihop; others are at least 2 hops away"),
        ("hold_time = \"2s\"", "12:13 2s: \"0s\", or whole seconds from 3s to 65535s"),
        ("hold_time = \"3500ms\"", "12:13 3500ms: \"0s\", or whole seconds from 3s to 65535s"),
        ("families = []", "12:12 no family: nothing could be announced"),
        ("families = [\"ipv4\", \"ipv4\"]", "12:12 a family stands here twice"),
        ("max_routes = 0", "12:14 zero: nothing could ever be opened"),
        ("passive = true", "12:11 waits for the peer to connect, and bgp.listen is empty"),
        ("local_address = \"2001:db8::2\"", "12:17 not of the same family as the peer's address 192.0.2.254"),
        ("local_address = \"192.0.2.254\"", "12:17 the peer's own address"),
        ("password = \"\"", "12:12 a TCP-MD5 password has 1 to 80 octets, this one 0"),
        ("settle = \"1s\"", "12:10 1s is not below gate.deadline (1s): every answer would be refused"),
        ("probe_ttl = 3", "12:13 3: 1 is answered by the router, 2 by the hop behind it"),
        (
            "multihop = 2\nconfirm = \"probe\"",
            "13:11 \"probe\" needs an adjacent router: its packets are handed to the router on the link",
        ),
        ("observer = \"edge9\"", "12:12 only for confirm = \"reflect\""),
        (
            "password_file = \"/nonexistent/secret\"",
            "12:17 /nonexistent/secret can't be read: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(peer_with(line), [message], "{line}");
    }
    for line in ["hold_time = \"0s\"", "multihop = 2", "settle = \"auto\"", "settle = \"80ms\"", "port = 1179"] {
        assert_eq!(peer_with(line), [""; 0], "{line}");
    }
}

/// What a reflector says proves nothing of the routers behind it: those must show it, each in a way of its own.
#[test]
fn a_reflectors_word_is_refused_unless_its_edges_confirm() {
    const LACKS: &str = "\"edge1\" forwards nothing, so its word (confirm = \"acked\") says nothing of the routers behind it: answers would \
                         leave before those forward";
    let behind = "forwards = false\n[[bgp.edge]]\nname = \"e1\"\naddress = \"192.0.2.201\"";
    let watch = "[[bgp.peer]]\nname = \"w1\"\naddress = \"192.0.2.201\"\nasn = 64512\nrole = \"observer\"";
    for (lines, messages) in [
        ("forwards = false".to_owned(), vec![format!("12:12 {LACKS}")]),
        (
            "forwards = false\nconfirm = \"refresh\"".to_owned(),
            vec![format!("12:12 {}", LACKS.replace("acked", "refresh"))],
        ),
        (format!("forwards = false\nobservers = [\"w1\"]\n{watch}\nrequired = false"), vec![format!("12:12 {LACKS}")]),
        (format!("{behind}\nrequired = false"), vec![format!("12:12 {LACKS}")]),
        (
            format!("confirm = \"probe\"\n{behind}"),
            vec!["12:11 \"probe\" asks whether this router forwards, and with forwards = false it doesn't".to_owned()],
        ),
        (
            format!("forwards = false\nobservers = [\"w2\", \"edge1\"]\n{watch}"),
            vec![
                "13:14 there is no peer called \"w2\"".to_owned(),
                "13:20 \"edge1\" is not an observer; set role = \"observer\" on it".to_owned(),
                "18:8 no peer names \"w1\" as its observer".to_owned(),
            ],
        ),
        (
            format!("{behind}\nprobe_ttl = 3"),
            vec!["16:13 3: 1 is answered by the router, 2 by the hop behind it".to_owned()],
        ),
        (
            behind.replace(".201", ".254"),
            vec!["15:11 is the address of peer \"edge1\", which forwards nothing".to_owned()],
        ),
        (behind.replace("\"e1\"", "\"edge1\""), vec!["14:8 \"edge1\" is the name of bgp.peer[0] already".to_owned()]),
        (behind.to_owned(), vec![]),
        (format!("forwards = false\nobservers = [\"w1\"]\n{watch}\nrequired = true"), vec![]),
        (format!("observers = [\"w1\"]\n{watch}"), vec![]),
    ] {
        let found = peer_with(&lines);
        let found: Vec<&String> = found.iter().filter(|line| !lines.contains("w2") || !line.contains(LACKS)).collect();
        assert_eq!(found, messages.iter().collect::<Vec<_>>(), "{lines}");
    }
    let external = format!("forwards = false\nobservers = [\"w1\"]\n{}", watch.replace("64512", "64513"));
    let found = peer_with(&external);
    assert!(
        found.len() == 1 && found[0].contains("\"w1\" is external: routers send it no route with NO_EXPORT"),
        "{found:?}"
    );
    let text = PEER.replace("[[bgp.peer]]", "communities = [\"65535:65282\"]\n[[bgp.peer]]");
    let found = warnings_of(&format!("{text}{behind}\n"));
    assert!(
        found.len() == 1 && found[0].contains("NO_ADVERTISE keeps \"edge1\" from passing the routes on"),
        "{found:?}"
    );
    let alone = format!("{BASE}[[bgp.edge]]\nname = \"e1\"\naddress = \"192.0.2.201\"\n");
    assert!(warnings_of(&alone).iter().any(|line| line.contains("there is no [[bgp.peer]] that gets routes")));
}

/// A session with oneself never comes up; a routing daemon on this host has loopback.
#[test]
fn this_host_is_no_peer_of_its_own() {
    let own = destguard::sys::interfaces::addresses().unwrap();
    for address in own.iter().filter(|address| !address.is_loopback() && address.is_ipv4()) {
        let found = warnings_of(&format!("{}\n", PEER.replace("192.0.2.254", &address.to_string())));
        assert!(found.iter().any(|line| line.contains("is an address of this host itself")), "{address}: {found:?}");
    }
    assert_eq!(warnings_of(&PEER.replace("192.0.2.254", "127.0.0.1")), [""; 0]);
}

#[test]
fn bfd_is_checked() {
    for (lines, messages) in [
        ("bfd_interval = \"1s\"", vec!["12:16 has no meaning without `bfd = true`"]),
        ("bfd_multihop = true", vec!["12:16 has no meaning without `bfd = true`"]),
        ("bfd = true\nbfd_interval = \"9ms\"", vec!["13:16 9ms: from 10ms to 60s"]),
        ("bfd = true\nbfd_interval = \"61s\"", vec!["13:16 61s: from 10ms to 60s"]),
        ("bfd = true\nbfd_multiplier = 0", vec!["13:18 zero: at least one packet must be missed"]),
        ("bfd = true\nbfd_interval = \"40ms\"", vec!["13:16 a pause of 120 ms ends the session"]),
        ("bfd = true", vec![]),
        ("bfd = true\nttl_security = true\nbfd_multihop = true", vec![]),
        ("bfd = true\nbfd_interval = \"50ms\"\nbfd_multiplier = 5", vec![]),
    ] {
        assert_eq!(peer_with(lines), messages, "{lines}");
    }
}

#[test]
fn internal_peers_take_no_multihop() {
    let text = PEER.replace("asn = 64513", "asn = 64512\nmultihop = 3");
    assert_eq!(found(&refused(&text).findings), ["12:12 only for external peers"]);
}

#[test]
fn names_and_addresses_of_peers_are_unique() {
    let text = format!("{PEER}[[bgp.peer]]\nname = \"edge1\"\naddress = \"192.0.2.254\"\nasn = 64513\n");
    assert_eq!(
        found(&refused(&text).findings),
        [
            "13:8 \"edge1\" is the name of bgp.peer[0] already",
            "14:11 192.0.2.254 is the address of bgp.peer[0] already"
        ]
    );
}

#[test]
fn two_sessions_to_one_router_have_one_key_where_the_guard_listens() {
    let sessions = |listen: &str, first: &str, second: &str| {
        let text = PEER.replace("[bgp]\n", &format!("[bgp]\nno_export = false\nlisten = [{listen}]\n"));
        let observer = "name = \"back\"\naddress = \"192.0.2.254\"\nlocal_address = \"192.0.2.3\"\nasn = 64513\nrole = \"observer\"\n";
        let text = format!("{text}{first}confirm = \"reflect\"\nobserver = \"back\"\n[[bgp.peer]]\n{observer}{second}");
        check::parse(Path::new(FILE), &with_inside(&text)).map(|_| ()).map_err(|report| found(&report.findings))
    };
    let (one, two) = ("password = \"one\"\n", "password = \"two\"\n");
    assert_eq!(sessions("\"192.0.2.1:179\"", one, one), Ok(()));
    let listen = "\"192.0.2.1:179\"";
    for second in [two, "", "password = \"one\"\ntcp_ao = \"hmac-sha-1-96\"\n"] {
        assert_eq!(sessions(listen, one, second), Ok(()), "each socket that connects has its own");
        let refused = sessions(listen, &format!("{one}passive = true\n"), second).unwrap_err();
        assert!(refused[0].contains("bgp.peer[0] has this address too, and another password"), "{refused:?}");
    }
}

#[test]
fn each_family_of_a_peer_needs_its_next_hop() {
    let text = PEER.replace("next_hop_ipv6 = \"2001:db8::1\"\n", "");
    assert_eq!(
        found(&refused(&text).findings),
        ["3:1 `bgp.next_hop_ipv6` is missing: peer \"edge1\" takes ipv6 routes"]
    );
    accepted(&format!("{text}families = [\"ipv4\"]\n"));
}

#[test]
fn ipv4_over_ipv6_next_hops_roles_and_the_way_to_stop_are_checked() {
    let text = PEER.replace("next_hop_ipv4 = \"192.0.2.1\"\n", "");
    let warning = "3:1 not set: peer \"edge1\" gets ipv4 routes with the ipv6 next hop, if it can (RFC 8950)";
    assert_eq!(found(&accepted(&text).1), [warning]);
    for role in ["provider", "route-server", "route-server-client", "customer", "peer"] {
        assert_eq!(peer_with(&format!("bgp_role = \"{role}\"")), [""; 0], "{role}");
    }
    assert!(peer_with("bgp_role = \"friend\"")[0].starts_with("12:12 "), "{:?}", peer_with("bgp_role = \"friend\""));
    let internal = PEER.replace("asn = 64513", "asn = 64512\nbgp_role = \"peer\"");
    assert_eq!(found(&refused(&internal).findings), ["12:12 only for external peers (RFC 9234 section 4)"]);
    let long = |lines: &str| PEER.replace("[[bgp.peer]]", &format!("{lines}\n[[bgp.peer]]"));
    let (config, _) = accepted(&long("long_lived_graceful_restart = \"7d\"\ncommunities = [\"no-llgr\"]"));
    assert_eq!(config.bgp.long_lived_graceful_restart.0.as_secs(), 7 * 86_400);
    let off = found(&refused(&long("long_lived_graceful_restart = \"1h\"\ngraceful_restart = \"0s\"")).findings);
    assert!(off[0].starts_with("8:31 ") && off[0].contains("graceful_restart is off"), "{off:?}");
    let most = found(&refused(&long("long_lived_graceful_restart = \"16777216s\"")).findings);
    assert!(most[0].contains("at most 16777215s"), "{most:?}");
    let drain = |span: &str| PEER.replace("[[bgp.peer]]", &format!("shutdown_drain = \"{span}\"\n[[bgp.peer]]"));
    assert_eq!(found(&refused(&drain("61s")).findings), ["8:18 61s: at most 60s"]);
    accepted(&drain("60s"));
}

#[test]
fn the_send_hold_time_is_twice_the_hold_time_at_least() {
    assert_eq!(peer_with("hold_time = \"9s\"\nsend_hold_time = \"18s\""), [""; 0]);
    assert_eq!(peer_with("hold_time = \"0s\"\nsend_hold_time = \"1s\""), [""; 0]);
    let short = peer_with("hold_time = \"9s\"\nsend_hold_time = \"17s\"");
    assert_eq!(short, ["13:18 17s is less than twice hold_time (9s) (RFC 9687 section 3.4)"]);
    assert_eq!(peer_with("send_hold_time = \"0s\""), ["12:18 0s: whole seconds, at least 1s"]);
}

/// `check` looks at this host's kernel too; that warning is not about the file.
#[test]
fn tcp_ao_needs_a_password_and_says_which_keys_are_its_own() {
    let about = |line: &str| {
        let mut all = peer_with(line);
        all.retain(|finding| !finding.contains("everybody") && !finding.contains("this host's kernel has no TCP-AO"));
        all
    };
    let good = "password = \"s3cret\"\ntcp_ao = \"hmac-sha-1-96\"\ntcp_ao_send_id = 0\ntcp_ao_recv_id = 255";
    assert_eq!(about(good), [""; 0]);
    assert_eq!(
        about("tcp_ao = \"aes-128-cmac-96\""),
        ["12:10 needs a `password` or a `password_file`: its master key"]
    );
    let other = about("password = \"s3cret\"\ntcp_ao = \"hmac-sha-256\"");
    assert!(other[0].starts_with("13:10 "), "{other:?}");
    assert_eq!(about("password = \"s3cret\"\ntcp_ao_send_id = 7"), ["13:18 has no meaning without `tcp_ao`"]);
    let long = about(&format!("tcp_ao = \"hmac-sha-1-96\"\npassword = \"{}\"", "x".repeat(81)));
    assert_eq!(long, ["13:12 a TCP-AO password has 1 to 80 octets, this one 81"]);
}

#[test]
fn a_router_is_not_its_own_next_hop() {
    let text = PEER.replace("next_hop_ipv4 = \"192.0.2.1\"", "next_hop_ipv4 = \"192.0.2.254\"");
    assert_eq!(
        found(&refused(&text).findings),
        ["6:17 is the address of peer \"edge1\": routers refuse a next hop that is themselves"]
    );
}

#[test]
fn an_observer_must_exist_and_be_one() {
    let reflect = |rest: &str| found(&refused(&format!("{PEER}confirm = \"reflect\"\n{rest}")).findings).join("\n");
    assert!(reflect("").contains("12:11 \"reflect\" needs an `observer`"));
    assert!(reflect("observer = \"nobody\"\n").contains("13:12 there is no peer called \"nobody\""));
    assert!(reflect("observer = \"edge1\"\n").contains("13:12 \"edge1\" is not an observer"));
}

#[test]
fn other_rules() {
    for (text, message) in [
        ("[dns]\nlisten = []\n", "6:10 no address to listen on: nobody could ask"),
        ("[dns]\nlisten = [\"[::1]:53\", \"[::1]:53\"]\n", "6:23 [::1]:53 stands here twice"),
        (
            "[dns]\nlisten = [\"192.0.2.53:53\"]\nclients = [\"192.0.2.0/24\"]\n",
            "2:7 192.0.2.53:53 is this guard itself",
        ),
        (
            "[dns]\nvirtual_addresses = [\"10.0.0.53\"]\n",
            "6:22 nothing listens on 10.0.0.53: no dns.listen, dns.tls, http.listen or bgp.listen names it",
        ),
        ("[dns]\nclients = []\n", "6:11 no client may ask; every question would be refused"),
        ("[dns]\nclients = [\"192.0.2.1/24\"]\n", "6:12 192.0.2.1/24 has bits set behind its prefix length"),
        ("[lease]\nmin = \"2h\"\nmax = \"1h\"\n", "6:7 lease.min (2h) is longer than lease.max (1h)"),
        ("[lease]\nmin = \"25h\"\n", "6:7 lease.min (25h) is longer than lease.max (1d)"),
        ("[lease]\ncapacity = 0\n", "6:12 zero: nothing could ever be opened"),
        ("[lease]\nburst_per_client = 0\n", "6:20 zero: nothing could ever be opened"),
        ("[gate]\ndeadline = \"0s\"\n", "6:12 zero: no answer could wait for its enforcers"),
        (
            "[addresses]\nopen = [\"192.0.2.1\"]\nnever = [\"192.0.2.0/24\"]\n",
            "6:9 192.0.2.1/32 is never opened: addresses.never has 192.0.2.0/24",
        ),
        ("[addresses]\nnat64 = \"2001:db8::/64\"\n", "6:9 2001:db8::/64 is not a /96"),
        ("inside = [\"lan0\"]\n", "5:10 only for the modes \"gateway\" and \"both\""),
        (
            "scope = \"client\"\n",
            "5:9 \"client\" only for the modes \"gateway\" and \"both\": a host by itself has no clients to tell apart",
        ),
        ("bridges = [\"*\"]\n", "5:12 \"*\" is more than bridges: name them, as in \"br-*\""),
        (
            "bridges = [\"br*0\"]\n",
            "5:12 \"br*0\" is neither an interface's name nor the beginning of names, as \"br-*\"",
        ),
        (
            "[bgp]\ncommunities = [\"65535:666\"]\n",
            "6:16 \"65535:666\" is BLACKHOLE (RFC 7999): routers would discard what is to be opened",
        ),
        (
            "[bgp]\nlarge_communities = [\"1:2\"]\n",
            "6:22 \"1:2\" is not a large community; write three numbers of at most 4294967295, as in \"64512:1:2\"",
        ),
        ("[bgp]\nnext_hop_ipv4 = \"127.0.0.1\"\n", "6:17 127.0.0.1 can't be a next hop"),
        ("[bgp]\nnext_hop_ipv4 = \"255.255.255.255\"\n", "6:17 255.255.255.255 can't be a next hop"),
        (
            "[bgp]\nnext_hop_ipv6 = \"fe80::1\"\n",
            "6:17 fe80::1 is of one link only, and routes lead there from all routers",
        ),
        ("[bgp]\nrouter_id = \"224.0.0.5\"\n", "6:13 224.0.0.5 is no host's address: some routers refuse it"),
        ("[bgp]\nlisten = [\"[fe80::1%eth0]:179\"]\n", "6:11 [fe80::1%eth0]:179 is of one link only"),
        (
            "[http]\nlisten = [\"[fe80::1]:80\"]\n",
            "6:11 fe80::1 is of one link only: name its interface, as in \"fe80::1%eth0\"",
        ),
        (
            "[[policy.private]]\ndomain = \"corp.example\"\nprefixes = []\n",
            "7:12 no prefix: the entry would do nothing",
        ),
    ] {
        assert_eq!(found(&refused(&format!("{BASE}{text}")).findings), [message], "{text}");
    }
    let gateway = BASE.replace("local", "gateway");
    assert_eq!(
        found(&refused(&gateway).findings),
        ["4:8 `nftables.inside` is missing: a gateway must know which interfaces it guards"]
    );
    accepted(&format!("{BASE}[http]\nlisten = [\"10.0.0.53:80\"]\n[dns]\nvirtual_addresses = [\"10.0.0.53\"]\n"));
    accepted(&format!("{gateway}inside = [\"lan0\"]\nredirect_dns = true\nscope = \"client\"\n"));
    accepted(&format!("{BASE}redirect_dns = true\nbridges = [\"docker0\", \"br-*\"]\n"));
    let url = BASE.replace("udp://192.0.2.53", "udp://resolver.example");
    let report = refused(&url);
    assert_eq!((report.findings[0].line, report.findings[0].column), (2, 7));
}

#[test]
fn dangerous_and_legal_is_a_warning() {
    let warned = |text: &str| found(&accepted(&format!("{BASE}{text}")).1);
    assert_eq!(warned(""), [""; 0]);
    for (text, start) in [
        ("[dns]\nlisten = [\"0.0.0.0:53\"]\nclients = [\"0.0.0.0/0\"]\n", "7:12 0.0.0.0/0: everybody may ask"),
        (
            "redirect_dns = true\nbridges = [\"br-*\"]\n",
            "5:16 questions from nftables.bridges come to the bridge's address, where the guard doesn't listen",
        ),
        (
            "redirect_dns = true\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:5335\"\n",
            "7:7 nftables.redirect_dns sends what a resolver on this host asks back to the guard",
        ),
        ("[dns]\nlisten = [\"0.0.0.0:53\"]\n", "6:11 other hosts reach this address, and all of them get REFUSED"),
        ("[gate]\non_deadline = \"answer\"\n", "6:15 answers may leave before"),
        ("on_stop = \"remove\"\n", "5:11 everything is reachable"),
        ("enforce = false\n", "5:11 audit"),
        ("[addresses]\nopen = [\"0.0.0.0/1\"]\n", "6:9 0.0.0.0/1 is open for ever"),
        ("[policy]\ndefault = \"deny\"\n", "6:11 nothing is allowed"),
        ("[http]\nlisten = [\"0.0.0.0:80\"]\n", "6:11 0.0.0.0:80: whoever reaches it"),
        ("[lease]\nburst_per_client = 8\n", "6:20 an answer of 16 new addresses (lease.per_answer) never fits into 8"),
        (
            "[lease]\nburst_per_domain = 15\n",
            "6:20 an answer of 16 new addresses (lease.per_answer) never fits into 15",
        ),
        ("[lease]\ncapacity = 10\n", "6:12 an answer of 16 addresses never fits into 10 leases"),
    ] {
        let warnings = warned(text);
        assert!(warnings.len() == 1 && warnings[0].starts_with(start), "{text}: {warnings:?}");
    }
    let hasty = warnings_of(&format!("{PEER}settle = \"auto\"\n[gate]\ndeadline = \"500ms\"\n"));
    assert_eq!(hasty, ["12:10 \"auto\" may want to wait up to 700ms, but gate.deadline (500ms) leaves room for 350ms"]);
    assert!(peer_with("max_routes = 200000")[0].contains("more than the 100000 of lease.capacity"));
    assert!(
        found(&accepted(&PEER.replace("[[bgp.peer]]", "linger = \"0s\"\n[[bgp.peer]]")).1)[0].contains("live flows")
    );
}

#[test]
fn a_password_that_everybody_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    std::fs::write(dir.path().join("secret"), "hunter2\n").unwrap();
    std::fs::write(&file, with_inside(&format!("{PEER}password_file = \"secret\"\n"))).unwrap();
    std::fs::set_permissions(dir.path().join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (config, warnings, _) = check::load(&file).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let peer = &config.bgp.peer[0];
    assert_eq!(peer.password_file.as_deref(), Some(dir.path().join("secret").as_path()), "relative to the file");
    assert_eq!(config::peer_password(peer).unwrap().as_deref(), Some("hunter2"), "without its line end");

    std::fs::set_permissions(dir.path().join("secret"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(found(&check::load(&file).unwrap().1)[0].contains("everybody on this host can read"));

    std::fs::write(&file, with_inside(&format!("{PEER}password = \"hunter2\"\n"))).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = check::load(&file).unwrap().1;
    assert!(found(&warnings)[0].starts_with("12:12 everybody on this host can read"), "{warnings:?}");
    assert!(!warnings[0].to_string().contains("hunter2"), "{}", warnings[0]);
}

#[test]
fn files_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    assert!(check::load(&file).unwrap_err().to_string().contains("No such file"));
    std::fs::write(&file, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert!(check::load(&file).unwrap_err().to_string().contains("line 2 is not UTF-8"));
    assert!(check::load(dir.path()).is_err());
}

#[test]
fn the_number_of_findings_is_bounded() {
    let text: String = (0..1_000).map(|index| format!("key{index} = 1\n")).collect();
    assert_eq!(refused(&text).findings.len(), 100);
}

/// Seen with Chromium 156 and Firefox 153: the first keeps an answer for a minute whatever its TTL, the second connects by it until a minute after its
/// end, while it asks anew.
#[test]
fn by_default_an_address_is_open_for_as_long_as_browsers_use_it() {
    let lease = accepted(BASE).0.lease;
    assert!(lease.min.0.as_secs() >= 60 && lease.grace.0.as_secs() > 60, "{lease:?}");
}

#[test]
fn the_default_file_says_the_defaults() {
    let written: Config = toml::from_str(config::default::TEXT).unwrap();
    assert_eq!(written, Config::default());
}

/// The default file with every "#key" uncommented.
fn uncommented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => setting.to_owned(),
        _ => line.to_owned(),
    };
    config::default::TEXT.lines().map(|line| uncomment(line) + "\n").collect()
}

#[test]
fn the_default_file_knows_every_key_and_no_other() {
    let all: Config = toml::from_str(&uncommented()).unwrap();
    let (upstream, peer) = (&all.dns.upstream[0], &all.bgp.peer[0]);
    assert!(upstream.client_key.is_some() && peer.observer.is_some() && all.addresses.nat64.is_some());
    // Every key that the schema has must be written somewhere in the file.
    let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    let mut keys = Vec::new();
    let mut tables = vec![&schema];
    tables.extend(schema["$defs"].as_object().unwrap().values());
    for table in tables {
        keys.extend(table["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone()));
    }
    assert!(keys.len() > 70, "{keys:?}");
    for key in keys {
        let written = uncommented().lines().any(|line| {
            line.starts_with(&format!("{key} = "))
                || line.trim_matches(['[', ']']).split('.').any(|part| part == key) && line.starts_with('[')
        });
        assert!(written, "`{key}` is not in the default file");
    }
}

#[test]
fn every_example_is_good() {
    let mut seen = 0;
    for entry in std::fs::read_dir("examples").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let (_, warnings, places) = check::load(&path).unwrap_or_else(|report| panic!("{report}"));
        assert!(warnings.is_empty(), "{}: {warnings:?}", path.display());
        assert!(places.contains_key("dns.upstream[0].url"), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 4, "{seen} examples");
}

#[test]
fn places_name_the_line_of_every_rule() {
    let text = format!("{BASE}[policy]\ndeny = [\n  \"a.example\",\n  \"b.example\",\n]\n");
    let (_, _, places) = check::parse(Path::new(FILE), &text).unwrap();
    assert_eq!(places.get("policy.deny[1]"), Some(&(8, 3)));
    assert_eq!(places.get("nftables.mode"), Some(&(4, 8)));
}

#[test]
fn what_is_shown_reads_back_the_same() {
    for entry in std::fs::read_dir("examples").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let (config, ..) = check::load(&path).unwrap();
            let shown = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<Config>(&shown).unwrap(), config, "{}", path.display());
        }
    }
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever the file holds, there is an answer, and every finding lies within the file.
        #[test]
        fn any_text_has_an_answer(text in "[\\[\\]a-z.=\"'# \n\t\u{e4}{}0-9,]{0,200}") {
            if let Err(report) = check::parse(Path::new(FILE), &text) {
                for finding in &report.findings {
                    prop_assert!(finding.line <= text.lines().count().max(1) + 1);
                    prop_assert!(finding.caret.end <= finding.source.chars().count().max(finding.caret.start));
                }
            }
        }

        /// Damage to a good file is always placed.
        #[test]
        fn a_damaged_file_has_an_answer(at in 0usize..2000, with in "[\\[\\]=\"\n,.x0\u{fc}]{0,3}") {
            let good = include_str!("../examples/network-wide.toml");
            let at = (0..=at.min(good.len())).rev().find(|at| good.is_char_boundary(*at)).unwrap();
            let text = format!("{}{with}{}", &good[..at], &good[at..]);
            if let Err(report) = check::parse(Path::new(FILE), &text) {
                prop_assert!(report.errors().count() > 0);
            }
        }
    }
}

#[test]
fn lists_and_groups_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let bad = file("bad.txt", "ok.test\na..b\n");
    let empty = file("empty.txt", "# nothing\n");
    let text = format!(
        "{BASE}[dns]\nclients = [\"10.0.0.0/8\"]\n\
         [[policy.list]]\nname = \"a\"\npath = \"{bad}\"\nformat = \"domains\"\naction = \"deny\"\n\
         [[policy.list]]\nname = \"a\"\npath = \"{empty}\"\nformat = \"domains\"\naction = \"deny\"\n\
         [[policy.group]]\nname = \"g\"\nclients = [\"10.1.0.0/16\", \"192.0.2.0/24\"]\nlists = [\"b\"]\nallow = [\"x y\"]\n\
         [[policy.group]]\nname = \"g\"\nclients = [\"10.1.0.0/16\"]\n\
         [[policy.group]]\nname = \"h\"\nclients = []\n"
    );
    let told = refused(&text).to_string();
    for wanted in [
        &format!("{bad}:2: \"a..b\" is not a domain name"),
        "another list is called \"a\" too",
        &format!("{empty} has no rule"),
        "no [[policy.list]] is called \"b\"",
        "nobody in 192.0.2.0/24 may ask",
        "\"x y\" is not a domain name",
        "every group needs a name of its own",
        "10.1.0.0/16 belongs to two groups",
        "nobody would be in the group",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is not in:\n{told}");
    }
    let good = file("good.txt", "ok.test\n");
    let text = format!(
        "{BASE}[dns]\nclients = [\"10.0.0.0/8\"]\n\
         [[policy.list]]\nname = \"a\"\npath = \"{good}\"\nformat = \"domains\"\naction = \"deny\"\neverybody = false\n\
         [[policy.group]]\nname = \"g\"\nclients = [\"10.1.0.0/16\"]\nlists = [\"a\"]\n"
    );
    assert_eq!(accepted(&text).1, []);
}

#[test]
fn a_network_that_does_not_name_its_own_prefixes_is_refused() {
    let Err(report) = check::parse(Path::new(FILE), PEER) else { panic!("nobody named them") };
    assert!(found(&report.findings)[0].contains("addresses.inside is missing"), "{report}");
    assert!(report.findings[0].help.as_ref().is_some_and(|help| help.contains("or write []")), "{report}");
    // Without routers nothing is drawn out.
    assert!(check::parse(Path::new(FILE), BASE).is_ok());
    let both = "[addresses]\ninside = [\"198.51.100.0/24\"]\n[[policy.private]]\ndomain = \"dmz.test\"\nprefixes = [\"198.51.100.128/25\"]\n";
    let warned = warnings_of(&format!("{PEER}{both}"));
    assert!(warned[0].contains("makes a host route inside your network"), "{warned:?}");
    assert_eq!(warnings_of(&format!("{PEER}[addresses]\ninside = []\n")), [] as [&str; 0], "the operator's word");
    let host_bits = format!("{PEER}[addresses]\ninside = [\"192.0.2.1/24\"]\n");
    assert!(!warnings_of(&host_bits).is_empty());
}
