//! `[[nftables.application]]`

use super::{accepted, found, refused};

const ONE: &str = "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[policy]\ndefault = \"deny\"\nallow = [\"good.test\"]\n[nftables]\nmode = \"local\"\n";

#[test]
fn an_application_is_known_by_one_thing_and_has_names() {
    let (config, warnings) = accepted(&format!(
        "{ONE}[[nftables.application]]\nname = \"web\"\nunit = \"web\"\nnames = [\"www.good.test\"]\n"
    ));
    assert_eq!((config.nftables.application.len(), found(&warnings)), (1, vec![]));
    let of = |more: &str| {
        let text =
            format!("{ONE}[[nftables.application]]\nname = \"a\"\nuser = \"1\"\nnames = [\"good.test\"]\n{more}");
        found(&refused(&text).findings)
    };
    let said = of("[[nftables.application]]\nname = \"a\"\nuser = \"1\"\nnames = []\n").join("\n");
    for part in ["is called \"a\" too", "is the same", "no name"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for (entry, part) in [
        ("name = \"b\"\nnames = [\"good.test\"]", "says who it is"),
        ("name = \"b\"\nunit = \"a/b\"\nnames = [\"good.test\"]", "a unit's name"),
        ("name = \"b\"\ncgroup = \"a\"\nnames = [\"good.test\"]", "begins with a slash"),
        ("name = \"b\"\nuser = \"2\"\ncgroup = \"/a\"\nnames = [\"good.test\"]", "either"),
        ("name = \"b c\"\nuser = \"2\"\nnames = [\"good.test\"]", "letters, digits"),
        ("name = \"b\"\nuser = \"2\"\nnames = [\"a.*.test\"]", "can't be used"),
        ("name = \"b\"\nuser = \"2\"\nnames = [\"good.test:0\"]", "no port"),
    ] {
        let said = of(&format!("[[nftables.application]]\n{entry}\n")).join("\n");
        assert!(said.contains(part), "{entry}: {said}");
    }
}

#[test]
fn what_reaches_nothing_is_a_warning() {
    let (_, warnings) = accepted(&format!(
        "{ONE}[[nftables.application]]\nname = \"a\"\nuser = \"no such user\"\nnames = [\"good.test\", \"bad.test\"]\n"
    ));
    let said = found(&warnings).join("\n");
    assert!(said.contains("no user \"no such user\"") && said.contains("the policy refuses \"bad.test\""), "{said}");
}

#[test]
fn a_gateway_alone_has_no_applications() {
    let text = ONE.replace("mode = \"local\"", "mode = \"gateway\"\ninside = [\"lan0\"]");
    let report =
        refused(&format!("{text}[[nftables.application]]\nname = \"a\"\nuser = \"1\"\nnames = [\"good.test\"]\n"));
    assert!(found(&report.findings).join("\n").contains("only for the modes \"local\" and \"both\""));
}
