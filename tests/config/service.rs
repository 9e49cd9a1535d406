//! `[bgp.service]`

use super::found;
use std::path::Path;

/// What is said of the guard's service with these edits, in order.
fn said(edits: &[(&str, &str)]) -> Vec<String> {
    let mut text = "[dns]
listen = [\"0.0.0.0:53\"]
clients = [\"192.0.2.0/24\"]
[[dns.upstream]]
url = \"udp://192.0.2.54\"
[addresses]
inside = []
[bgp]
asn = 64512
router_id = \"192.0.2.2\"
next_hop_ipv4 = \"192.0.2.1\"
[[bgp.peer]]
name = \"edge1\"
address = \"192.0.2.254\"
local_address = \"192.0.2.2\"
asn = 64513
families = [\"ipv4\"]
[bgp.service]
addresses = [\"192.0.2.53\"]
[[bgp.service.peer]]
name = \"anycast\"
address = \"192.0.2.254\"
local_address = \"192.0.2.3\"
asn = 64513
"
    .to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let findings = match destguard::check::parse(Path::new("destguard.toml"), &text) {
        Ok((_, warnings, _)) => warnings,
        Err(report) => report.findings,
    };
    found(&findings)
}

#[test]
fn what_would_lead_clients_astray_is_refused() {
    assert_eq!(said(&[]), [""; 0]);
    let service = "[\"192.0.2.53\"]";
    for (edits, part) in [
        (&[("listen = [\"0.0.0.0:53\"]", "listen = [\"192.0.2.2:53\"]")][..], "would reach nobody"),
        (&[(service, "[\"127.0.0.53\"]")], "can't be announced as a service address"),
        (&[(service, "[\"224.0.0.53\"]")], "can't be announced as a service address"),
        (&[(service, "[\"169.254.0.53\"]")], "can't be announced as a service address"),
        (&[(service, "[\"192.0.2.53\", \"192.0.2.53\"]")], "stands here twice"),
        (&[(service, "[\"192.0.2.54\"]")], "is in use already: upstream"),
        (&[(service, "[\"192.0.2.2\"]")], "is in use already: local_address of bgp.peer edge1"),
        (&[(service, "[\"2001:db8::53\"]")], "none has an ipv6 session"),
        (&[(service, "[]")], "there is nothing to announce"),
        (&[("inside = []", "inside = []\nopen = [\"192.0.2.53/32\"]")], "stands in addresses.open too"),
        (&[("\"192.0.2.3\"", "\"192.0.2.2\"")], "is the local_address of bgp.peer \"edge1\" already"),
        (&[("local_address = \"192.0.2.2\"\n", "")], "is a session with the same router and has no local_address"),
        (&[("\"anycast\"", "\"edge1\"")], "is the name of a bgp.peer or bgp.edge already"),
        (&[("\"192.0.2.3\"", "\"192.0.2.3\"\nbfd = false")], "off: when this host falls silent"),
        (&[("[bgp.service]", "[bgp.service]\ndrain = \"11s\"")], "at most 10s"),
        (&[("[bgp.service]", "[bgp.service]\ncommunities = [\"x\"]")], "x"),
        (&[("asn = 64512", "asn = 64512\nenforce = false")], "the service addresses are not announced"),
    ] {
        let said = said(edits);
        assert!(said.iter().any(|line| line.contains(part)), "{edits:?}: {said:#?}");
    }
}
