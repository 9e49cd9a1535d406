//! `check --live` names what would be refused, and what it names is refused.

use std::process::{Command, Output};

use serde_json::Value;

use super::namespace::{alone, without_privileges};
use super::*;

fn check(nftables: &str, words: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("destguard.toml");
    let text = format!(
        "[[dns.upstream]]\nurl = \"udp://10.9.1.5:53\"\n[addresses]\nopen = [\"10.9.1.4/32\"]\n[nftables]\n{nftables}\n"
    );
    std::fs::write(&file, text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_destguard"))
        .args(["check", "--live", "--config"])
        .arg(&file)
        .args(words)
        .output();
    let output = output.expect("destguard");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn live(nftables: &str) -> Value {
    let whole: Value = serde_json::from_slice(&check(nftables, &["--json"]).stdout).expect("JSON");
    assert_eq!((&whole["version"], &whole["ok"]), (&Value::from(1), &Value::from(true)), "{whole}");
    whole["live"].clone()
}

/// Remote end and verdict of each.
fn told(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut told: Vec<_> =
        list.as_array().expect("a list").iter().map(|one| (text(&one["remote"]), text(&one["verdict"]))).collect();
    told.sort();
    told
}

#[test]
fn what_check_live_names_is_what_is_refused() {
    alone(|| {
        let peer = host_and_peer();
        let mut flows = opened(&both(1, 2), 80);
        let _open = open("10.9.1.4", 80).expect("connected");
        let _resolver = open("10.9.1.3", 853).expect("connected");
        let time = flow_udp(0, "10.9.1.2:123");
        serve(&[8022]);
        let mut inbound = peer.within(|| opened(&both(1, 1), 8022));
        assert!(all_alive(&mut flows) && all_alive(&mut inbound));
        let local = "mode = \"local\"";
        let seen = live(local);
        assert_eq!((&seen["mode"], &seen["armed"]), (&Value::from("local"), &Value::from(false)));
        let wanted = [
            ("10.9.1.2:123", "refused"),
            ("10.9.1.2:80", "refused"),
            ("10.9.1.3:853", "ends"),
            ("[2001:db8:1::2]:80", "refused"),
        ];
        assert_eq!(
            told(&seen["connections"]),
            wanted.map(|(to, verdict)| (to.to_owned(), verdict.to_owned())),
            "{seen}"
        );
        let program = seen["connections"][0]["program"].as_str().expect("text");
        assert!(program.ends_with(&format!("process {}", std::process::id())), "{program}");
        let listeners = seen["listeners"].to_string();
        assert!(listeners.contains(":8022"), "{listeners}");
        assert!(seen["ntp"].to_string().contains("10.9.1.2") && seen["resolvers"].to_string().contains("10.9.1.3"));
        let text = String::from_utf8(check(local, &[]).stdout).expect("text");
        for part in ["not in force yet", "10.9.1.2:80", "lives on; a new one is refused", "10.9.1.3:853", "ends: DNS"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let without = without_privileges(|| String::from_utf8(check(local, &[]).stdout).expect("text"));
        assert!(without.contains("run this as root") && without.contains("10.9.1.2:80"), "{without}");

        // The world agrees.
        install(&config(NftablesMode::Local));
        assert!(all_alive(&mut flows) && all_alive(&mut inbound));
        assert_eq!(connect("10.9.1.2", 80), Met::Refused);
        // With a lease it is no longer named.
        run("nft add element inet destguard lease4 '{ 10.9.1.2 timeout 60s }'");
        let seen = live(local);
        assert_eq!(seen["armed"], true);
        let wanted = [("10.9.1.3:853", "ends"), ("[2001:db8:1::2]:80", "refused")];
        assert_eq!(
            told(&seen["connections"]),
            wanted.map(|(to, verdict)| (to.to_owned(), verdict.to_owned())),
            "{seen}"
        );
        drop(time);
    });
}

#[test]
fn check_live_names_flows_that_a_gateway_forwards() {
    alone(|| {
        let (client, server) = client_and_server();
        let gateway = "mode = \"gateway\"\ninside = [\"in0\", \"in9\"]";
        let seen = live(gateway);
        let notes = seen["notes"].to_string();
        assert!(notes.contains("tracks no flows yet") && notes.contains("no interface \\\"in9\\\""), "{notes}");
        run("nft add table inet other; nft add chain inet other c '{ type filter hook forward priority 0; }'; \
             nft add rule inet other c ct state established accept");
        let _flows = client.within(|| [open("10.9.2.2", 80), open("10.9.2.2", 853), open("2001:db8:2::2", 80)]);
        let _inbound = server.within(|| open("10.9.1.2", 80));
        let seen = live(gateway);
        let wanted = [("10.9.2.2:80", "refused"), ("10.9.2.2:853", "ends"), ("[2001:db8:2::2]:80", "refused")];
        assert_eq!(told(&seen["flows"]), wanted.map(|(to, verdict)| (to.to_owned(), verdict.to_owned())), "{seen}");
        assert_eq!(seen["connections"], Value::Array(Vec::new()), "a gateway's own are free");
    });
}
