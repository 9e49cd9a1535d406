//! What a user sees of a configuration: every error at once, at its place.

use std::path::Path;

use destguard::config::{self, Report};

fn refused(text: &str) -> Report {
    config::parse(Path::new("destguard.toml"), text).expect_err("the file has errors")
}

/// Line, column and message of every finding.
#[allow(dead_code)]
fn found(report: &Report) -> Vec<(usize, usize, &str)> {
    report.findings.iter().map(|finding| (finding.line, finding.column, finding.message.as_str())).collect()
}

#[test]
fn probe() {
    let text = r#"
[dns]
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
allow = ["a..b", "https://x.example/", "*.x.*", "bücher.example"]
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
[state]
dir = 5
[addresses]
open = ["1.2.3.4", "x"]
"#;
    println!("{}", refused(text));
    println!(
        "{}",
        refused("[dns\nlisten = [\"x\"]\nfoo = \n[bgp]\nasn = 1 2\npassword = \"abc\n[[bgp.peer]]\nname=\"x\"\n")
    );
    println!("{}", refused(""));
}
