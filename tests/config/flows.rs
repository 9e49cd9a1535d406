//! `[flows]`

use super::*;

fn found(flows: &str) -> Vec<String> {
    let findings = match check::parse(Path::new(FILE), &format!("{BASE}{flows}")) {
        Ok((_, warnings, _)) => warnings,
        Err(report) => report.findings,
    };
    super::found(&findings)
}

#[test]
fn who_may_report_flows_and_where_is_checked_together() {
    let exporter = |lines: &str| {
        format!(
            "[flows]\nlisten = [\"127.0.0.1:2055\"]\n[[flows.exporter]]\naddress = \"192.0.2.9\"\nkind = \"ipfix\"\n{lines}"
        )
    };
    let one = |text: &str, word: &str| {
        let found = found(text);
        assert!(found.iter().any(|line| line.contains(word)), "{text}: {found:?}");
    };
    one(&exporter(""), "there is no [[bgp.peer]]");
    one("[flows]\nlisten = [\"127.0.0.1:2055\"]\n", "nobody may send flows here");
    one("[flows]\nlisten = [\"127.0.0.1:0\"]\n", "has no port");
    one("[[flows.exporter]]\naddress = \"192.0.2.9\"\nkind = \"sflow\"\n", "exporters have nowhere to send to");
    one(&exporter("interval = \"2h\"\n"), "is not between 1s and 1h");
    one(
        &exporter("[[flows.exporter]]\naddress = \"192.0.2.9\"\nkind = \"sflow\"\n"),
        "that of flows.exporter[0] already",
    );
    one(&exporter("").replace("192.0.2.9", "0.0.0.0"), "nobody sends from");
    one("[flows]\nmax = \"0s\"\n", "is not between 1s and 7d");
    one("[flows]\nconntrack = true\n", "this host sees no connections of others");
    one(&exporter("").replace("ipfix", "ipfx"), "ipfx");
}
