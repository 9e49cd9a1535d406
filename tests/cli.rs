//! The commands that need no daemon, and what happens when none runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output};

fn destguard(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_destguard")).args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = destguard(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_a_daemon_every_question_ends_with_3_and_the_cause() {
    for arguments in [
        ["status"].as_slice(),
        &["leases"],
        &["explain", "www.one.test"],
        &["peers"],
        &["denied"],
        &["denied", "--follow"],
        &["revoke", "192.0.2.1"],
        &["reload"],
    ] {
        let output = destguard(&[&["--socket", "/nonexistent/control.sock"], arguments].concat());
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "destguard is not running (no socket at /nonexistent/control.sock). Start it, or name its socket with --socket\n"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn scripts_get_errors_as_json() {
    let gone = ["--socket", "/nonexistent/control.sock"];
    let wrong = ["--config", "/nonexistent/destguard.toml"];
    for (of, arguments, code, words) in [
        (gone, ["status", "--json"].as_slice(), 3, "destguard is not running"),
        (gone, &["leases", "--json"], 3, "destguard is not running"),
        (gone, &["reload", "--dry-run", "--json"], 3, "destguard is not running"),
        (wrong, &["config", "show", "--json"], 2, "/nonexistent/destguard.toml"),
    ] {
        let output = destguard(&[&of, arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(said["error"].as_str().unwrap().contains(words) && said["version"] == 1, "{said}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [[].as_slice(), &["statsu"], &["explain"], &["router-config", "abacus"], &["status", "--yaml"]] {
        assert_eq!(destguard(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(destguard(&["--help"]).status.code(), Some(0));
    assert_eq!(destguard(&["--version"]).status.code(), Some(0));
}

#[test]
fn check_tells_every_error_and_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    std::fs::write(&file, "[dns]\nlisten = [\"x\"]\n[nftables]\nmod = \"local\"\n").unwrap();
    let file = file.to_str().unwrap();
    let output = destguard(&["check", "--config", file]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stdout).unwrap().replace(file, "FILE");
    assert_eq!(
        text,
        "FILE:1:1: error: there is no upstream to ask
    1 | [dns]
      | ^^^^^
      = add a [[dns.upstream]] with `url = \"udp://ADDRESS\"`

FILE:2:11: error: not an address with its port, as in \"192.0.2.1:53\" or \"[2001:db8::1]:53\"
    2 | listen = [\"x\"]
      |           ^^^

FILE:4:1: error: unknown key `mod`
    4 | mod = \"local\"
      | ^^^
      = did you mean `mode`?

FILE: 3 errors
"
    );
    let output = destguard(&["check", "--config", file, "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["version"], &json["ok"]), (&1.into(), &false.into()));
    assert_eq!(
        json["errors"][1],
        serde_json::json!({
            "severity": "error", "file": file, "line": 2, "column": 11, "key": "dns.listen[0]",
            "message": "not an address with its port, as in \"192.0.2.1:53\" or \"[2001:db8::1]:53\"",
            "source": "listen = [\"x\"]",
        })
    );
}

#[test]
fn run_refuses_a_wrong_file_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    let socket = dir.path().join("control.sock");
    std::fs::write(&file, "x = 1\n").unwrap();
    let output = destguard(&["--config", file.to_str().unwrap(), "--socket", socket.to_str().unwrap(), "run"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains(":1:1: error: unknown key `x`"));
    assert!(!socket.exists());
}

#[test]
fn the_default_file_the_schema_and_what_is_in_effect() {
    assert_eq!(stdout(&["config", "default"]), destguard::config::default::TEXT);
    let schema: serde_json::Value = serde_json::from_str(&stdout(&["config", "schema"])).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let shown = stdout(&["config", "show", "--config", "examples/single-host.toml"]);
    assert!(shown.contains("mode = \"local\"") && shown.contains("deadline = \"1s\""), "{shown}");
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&["config", "show", "--json", "--config", "examples/both.toml"])).unwrap();
    assert_eq!((&json["version"], &json["bgp"]["asn"]), (&1.into(), &64_512.into()));
}

#[test]
fn passwords_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    let text = std::fs::read_to_string("examples/network-wide.toml").unwrap();
    std::fs::write(&file, text.replace("asn = 64513\n", "asn = 64513\npassword = \"hunter2\"\n")).unwrap();
    for arguments in [["config", "show"].as_slice(), &["config", "show", "--json"], &["check"], &["check", "--json"]] {
        let shown = stdout(&[arguments, &["--config", file.to_str().unwrap()]].concat());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // Nor where the key is misspelt, or the line is no TOML.
    for line in [
        "pasword = \"hunter2\"",
        "passwrod = 'hunter2'",
        "Pass_Word = \"hunter2\"",
        "pasowrd = \"hunter2",
        "\"password\" = \"hunter2\" \"hunter2\"",
        "password \"hunter2\"",
        "password: hunter2",
        "password = hunter2",
        "password.of = \"hunter2\"",
        "secret = \"hunter2\"",
        "md5_key = \"hunter2\"",
        "[[bgp.peer]]\npeer = [{ name = \"x\", password = \"hunter2\" asn = 1 }]",
        "[[bgp.peer]]\npeer = [{ name = \"x, pass_word = \"hunter2\" asn = 1 }]",
    ] {
        std::fs::write(&file, text.replace("asn = 64513\n", &format!("asn = 64513\n{line}\n"))).unwrap();
        for more in [[].as_slice(), &["--json"]] {
            let output = destguard(&[["check", "--config", file.to_str().unwrap()].as_slice(), more].concat());
            let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(2), "{line}: {shown}");
            assert!(shown.contains("***") && !shown.contains("hunter2"), "{line}: {shown}");
        }
    }
    // Names and paths that hold such a word are shown.
    for line in ["local_addres = \"compass.test\"", "password_file = 5 # \"/etc/edge1\""] {
        std::fs::write(&file, text.replace("asn = 64513\n", &format!("asn = 64513\n{line}\n"))).unwrap();
        let output = destguard(&["check", "--config", file.to_str().unwrap()]);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_destguard"))
        .args(["config", "schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn router_configurations_hold_what_makes_them_safe() {
    for kind in ["frr", "bird", "gobgp", "openbgpd", "junos", "iosxr", "eos", "srlinux", "routeros"] {
        let of = |peer| stdout(&["router-config", kind, "--peer", peer, "--config", "examples/network-wide.toml"]);
        let text = of("edge1") + &of("edge2");
        // Both sessions, the guard's AS, the limit above the guard's own budget, the next hops where a router can check them.
        for part in ["64512", "64513", "55000", "192.0.2.2", "0.0.0.0/0", "::/0", "10.0.0.0/8", "198.51.100.0/24"] {
            assert!(text.contains(part), "{kind} without {part}:\n{text}");
        }
        if kind != "srlinux" {
            assert!(text.contains("192.0.2.1") && text.contains("2001:db8::1"), "{kind}:\n{text}");
        }
    }
    let one = stdout(&["router-config", "bird", "--peer", "edge2", "--config", "examples/network-wide.toml"]);
    assert!(one.contains("destguard_edge2") && !one.contains("destguard_edge1"));
    let both = destguard(&["router-config", "bird", "--config", "examples/network-wide.toml"]);
    assert_eq!(both.status.code(), Some(1), "one paste is for one router");
    assert!(String::from_utf8_lossy(&both.stderr).contains("--peer edge1 | --peer edge2"));
    let none = destguard(&["router-config", "frr", "--peer", "edge9", "--config", "examples/network-wide.toml"]);
    assert_eq!(none.status.code(), Some(1));
    let without = destguard(&["router-config", "frr", "--config", "examples/single-host.toml"]);
    assert_eq!(without.status.code(), Some(1));
}

/// What the file says of networks, confirmation and passwords is in what every router gets.
#[test]
fn router_configurations_follow_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    let example = std::fs::read_to_string("examples/network-wide.toml").unwrap();
    let inside = "inside = [\"192.0.2.0/24\", \"2001:db8::/48\"]";
    assert!(example.contains(inside));
    let generate = |kind: &str, config: &str| {
        std::fs::write(&file, config).unwrap();
        destguard(&["router-config", kind, "--peer", "edge1", "--config", file.to_str().unwrap()])
    };
    let text = |kind: &str, config: &str| String::from_utf8(generate(kind, config).stdout).unwrap();
    let reflect = "confirm = \"reflect\"\nobserver = \"watch\"";
    let watched = example.replacen("confirm = \"acked\"", reflect, 1)
        + "[[bgp.peer]]\nname = \"watch\"\nrole = \"observer\"\naddress = \"192.0.2.254\"\nasn = 64512\nlocal_address = \"192.0.2.3\"\n";
    for (kind, four, six) in [
        ("frr", "deny 203.0.0.0/16 le 32", "deny 2a01::/20 le 128"),
        ("bird", "203.0.0.0/16{16,32} ] then reject", "2a01::/20{20,128} ] then reject"),
        (
            "gobgp",
            "ip-prefix = \"203.0.0.0/16\"\n    masklength-range = \"16..32\"",
            "2a01::/20\"\n    masklength-range = \"20..128\"",
        ),
        ("openbgpd", "prefix 203.0.0.0/16 prefixlen 16 - 32", "prefix 2a01::/20 prefixlen 20 - 128"),
        ("junos", "203.0.0.0/16 prefix-length-range /16-/32", "2a01::/20 prefix-length-range /20-/128"),
        ("iosxr", "(203.0.0.0/16 le 32) then\n    drop", "(2a01::/20 le 128) then\n    drop"),
        ("eos", "deny 203.0.0.0/16 le 32", "deny 2a01::/20 le 128"),
        ("srlinux", "prefix 203.0.0.0/16 mask-length-range 16..32", "prefix 2a01::/20 mask-length-range 20..128"),
        (
            "routeros",
            "if (dst in 203.0.0.0/16 && dst-len in 16-32) { reject }",
            "2a01::/20 && dst-len in 20-128) { reject }",
        ),
    ] {
        let own = text(
            kind,
            &example.replace(inside, "inside = [\"203.0.0.0/16\", \"2a01::/20\"]\nnat64 = \"2a01:64::/96\""),
        );
        assert!(own.contains(four) && own.contains(six), "{kind}:\n{own}");
        // OpenBGPD's last rule decides.
        let translated = own.find("2a01:64::/96").unwrap();
        let refused = own.find("2a01::/20").unwrap();
        assert_eq!(translated < refused, kind != "openbgpd", "{kind}: the translator's prefix is taken:\n{own}");
        let plain = text(kind, &example);
        let run = ["frr", "bird", "gobgp", "openbgpd"].contains(&kind);
        assert_eq!(plain.contains("EXPERIMENTAL"), !run, "{kind}");
        assert!(
            plain.contains("edge1_192_0_2_2") || kind == "openbgpd",
            "two guards can be told apart: {kind}\n{plain}"
        );
        assert!(
            plain.contains("Remove every other default route") && plain.contains("Back, with your old default"),
            "{kind}"
        );
        // GoBGP can't add it, and where the router sends routes back nobody may.
        let keeps = |text: &str| {
            let lines = text.lines().filter(|line| !line.contains("they bear no"));
            lines.map(|line| line.to_lowercase().replace('_', "-")).any(|line| line.contains("no-advertise"))
        };
        assert_eq!(keeps(&plain), kind != "gobgp", "{kind}");
        let reflecting = text(kind, &watched);
        assert!(!keeps(&reflecting) && reflecting.contains("192.0.2.3"), "{kind}:\n{reflecting}");
    }
    // The observer's session by itself, for a router that has the routes from another.
    std::fs::write(&file, &watched).unwrap();
    for (kind, program, flags) in [("frr", "vtysh", ["-C", "-f"]), ("bird", "bird", ["-p", "-c"])] {
        let back = stdout(&["router-config", kind, "--peer", "watch", "--config", file.to_str().unwrap()]);
        assert!(
            back.contains("192.0.2.3") && !back.contains("blackhole") && back.contains("watch_192_0_2_3"),
            "{back}"
        );
        let router = dir.path().join("back");
        let head = if kind == "bird" { "router id 192.0.2.254;\nprotocol device {}\n" } else { "" };
        std::fs::write(&router, format!("{head}{back}")).unwrap();
        let judged = Command::new(program).args(flags).arg(&router).output().unwrap();
        let said = [judged.stdout, judged.stderr].concat();
        assert!(judged.status.success(), "{program}: {}\n{back}", String::from_utf8_lossy(&said));
    }
    let output = destguard(&["router-config", "junos", "--peer", "watch", "--config", file.to_str().unwrap()]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("docs/confirmation.md"));
    let quoted = example.replacen("ttl_security = true\n", "password = 'say \"it\"'\n", 1);
    for (kind, taken) in [("gobgp", true), ("openbgpd", true), ("frr", false), ("bird", false), ("iosxr", false)] {
        let output = generate(kind, &quoted);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), taken, "{kind}: {said}");
        assert_eq!(said.contains("the password of peer \"edge1\" can't be written for this router"), !taken, "{said}");
    }
}

/// One router with two guards: both texts are one configuration, whose names don't meet.
#[test]
fn one_router_takes_what_is_generated_for_two_guards() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    let example = std::fs::read_to_string("examples/network-wide.toml").unwrap();
    let other = example
        .replace("\"192.0.2.2\"", "\"192.0.2.3\"")
        .replace("next_hop_ipv4 = \"192.0.2.1\"", "next_hop_ipv4 = \"192.0.2.9\"");
    let text = |kind: &str, config: &str| {
        std::fs::write(&file, config).unwrap();
        stdout(&["router-config", kind, "--peer", "edge1", "--config", file.to_str().unwrap()])
    };
    for (kind, program, flags) in [("frr", "vtysh", ["-C", "-f"]), ("bird", "bird", ["-p", "-c"])] {
        let (first, second) = (text(kind, &example), text(kind, &other));
        let second = match kind {
            "bird" => second.split_once("# From here on it is this guard's alone.\n").unwrap().1.to_owned(),
            _ => second,
        };
        // Lists and policies with one name would become one.
        let named = |text: &str| -> std::collections::BTreeSet<String> {
            let words = text
                .lines()
                .filter(|line| !line.starts_with('!') && !line.starts_with('#'))
                .flat_map(str::split_whitespace);
            let names = words.filter(|word| word.to_lowercase().starts_with("destguard") && word.contains("edge1"));
            names.map(|word| word.trim_end_matches([';', '{', '}']).to_owned()).collect()
        };
        let both: Vec<String> = named(&first).intersection(&named(&second)).cloned().collect();
        assert!(both.is_empty() && !named(&first).is_empty(), "{kind}: {both:?}");
        let router = dir.path().join(kind);
        std::fs::write(&router, format!("{first}{second}")).unwrap();
        let judged = Command::new(program).args(flags).arg(&router).output().unwrap();
        let said = [judged.stdout, judged.stderr].concat();
        assert!(judged.status.success(), "{program}: {}\n{first}{second}", String::from_utf8_lossy(&said));
    }
}

/// The labs of routers that no test runs: their files hold what is printed today.
#[test]
fn the_labs_of_vendors_hold_what_is_printed() {
    for (lab, kind, file) in [
        ("ceos", "eos", "ceos.cfg"),
        ("xrd", "iosxr", "xrd.cfg"),
        ("srlinux", "srlinux", "srlinux.cfg"),
        ("routeros", "routeros", "routeros.rsc"),
        ("vjunos", "junos", "vjunos.cfg"),
    ] {
        let held = std::fs::read_to_string(format!("lab/{lab}/router/{file}")).unwrap();
        let printed = stdout(&["router-config", kind, "--config", &format!("lab/{lab}/guard/destguard.toml")]);
        let comment = if held.starts_with('!') { '!' } else { '#' };
        let body: String = printed.split_inclusive('\n').skip_while(|line| line.starts_with(comment)).collect();
        assert!(body.len() > 1000 && held.ends_with(&body), "lab/{lab}/router/{file} ends otherwise than:\n{body}");
    }
}

/// The programs' own parsers (packages frr and bird2).
#[test]
fn frr_and_bird_take_what_is_generated_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    let example = std::fs::read_to_string("examples/network-wide.toml").unwrap();
    let variants = [
        example.clone(),
        example.replace("ttl_security = true\n", "password = \"s3cret\"\nfamilies = [\"ipv4\"]\n"),
        example
            .replace(
                "asn = 64513\nlocal_address = \"192.0.2.2\"\nttl_security = true\n",
                "asn = 64513\nmultihop = 3\npassive = true\nbfd = true\n",
            )
            .replace("confirm = \"acked\"", "confirm = \"refresh\"")
            .replace("[bgp]\n", "[bgp]\nlisten = [\"192.0.2.2:179\"]\n"),
    ];
    let over_ipv6 = example.replace("next_hop_ipv4 = ", "#next_hop_ipv4 = ");
    let on_one_link =
        example.replace("\"192.0.2.254\"", "\"fe80::fe%lo\"").replacen("\"192.0.2.2\"\nttl", "\"fe80::2\"\nttl", 1);
    let variants = [variants.as_slice(), &[over_ipv6, on_one_link]].concat();
    for (index, variant) in variants.iter().enumerate() {
        assert!(index == 0 || *variant != example);
        std::fs::write(&file, variant).unwrap();
        for (kind, program, flags) in [("frr", "vtysh", ["-C", "-f"]), ("bird", "bird", ["-p", "-c"])] {
            for peer in ["edge1", "edge2"] {
                let router = dir.path().join(kind);
                let text = stdout(&["router-config", kind, "--peer", peer, "--config", file.to_str().unwrap()]);
                std::fs::write(&router, &text).unwrap();
                let judged = Command::new(program).args(flags).arg(&router).output().unwrap();
                let said = [judged.stdout, judged.stderr].concat();
                assert!(judged.status.success(), "{program}: {}\n{text}", String::from_utf8_lossy(&said));
            }
        }
    }
}

/// A protection that the kernel can't give is an error that names it, at once; where it can, the guard runs.
#[test]
fn tcp_ao_is_in_force_or_the_guard_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let (file, socket) = (dir.path().join("destguard.toml"), dir.path().join("control.sock"));
    let text = format!(
        "[dns]\nlisten = [\"127.0.0.1:0\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:9\"\n[state]\ndir = \"{}\"\n[addresses]\ninside = []\n[bgp]\nasn = \
         64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\nlisten = [\"127.0.0.1:0\"]\n[[bgp.peer]]\nname = \
         \"edge1\"\naddress = \"127.0.0.77\"\nasn = 64513\npassive = true\nfamilies = [\"ipv4\"]\npassword = \"lab\"\ntcp_ao = \
         \"aes-128-cmac-96\"\n",
        dir.path().display()
    );
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (file, socket) = (file.to_str().unwrap(), socket.to_str().unwrap());
    let known = destguard_bgp::io::sys::tcp_ao::known().unwrap();
    let checked = stdout(&["check", "--config", file]);
    assert_eq!(checked.contains("this host's kernel has no TCP-AO"), !known, "{checked}");
    let mut guard = Command::new(env!("CARGO_BIN_EXE_destguard"))
        .args(["--socket", socket, "run", "--config", file])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut runs = false;
    while !runs && guard.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline {
        runs = destguard(&["--socket", socket, "peers"]).status.success();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    if runs {
        assert!(stdout(&["--socket", socket, "stop"]).contains("stops"));
    }
    let output = guard.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((runs, output.status.success()), (known, known), "{said}");
    let named = "peer edge1: TCP-AO can't be set: this kernel has no TCP-AO";
    assert_eq!(said.contains(named), !known, "{said}");
}

/// The state directory of a running guard can't move: a reload says so, unless the command line's word stands above the file's anyway.
#[test]
fn a_state_directory_moves_with_a_restart_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, socket) = (path("destguard.toml"), path("control.sock"));
    let write = |state: &str| {
        let text = format!(
            "[dns]\nlisten = [\"127.0.0.1:0\"]\n[[dns.upstream]]\nurl = \"udp://127.0.0.1:9\"\n[state]\ndir = \"{}\"\n\
             [addresses]\ninside = []\n[bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\nlisten = [\"127.0.0.1:0\"]\n\
             [[bgp.peer]]\nname = \"edge1\"\naddress = \"127.0.0.77\"\nasn = 64513\npassive = true\nfamilies = [\"ipv4\"]\n",
            path(state)
        );
        std::fs::write(&file, text).unwrap();
    };
    for given in [false, true] {
        write("one");
        let three = path("three");
        let more: &[&str] = if given { &["--state-dir", &three] } else { &[] };
        let mut guard = Command::new(env!("CARGO_BIN_EXE_destguard"))
            .args(["--socket", &socket, "--config", &file, "run"])
            .args(more)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let mut runs = false;
        while !runs && guard.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline {
            runs = destguard(&["--socket", &socket, "peers"]).status.success();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        write("two");
        let reloaded = destguard(&["--socket", &socket, "reload"]);
        let stopped = destguard(&["--socket", &socket, "stop"]);
        if !stopped.status.success() {
            guard.kill().unwrap();
        }
        let output = guard.wait_with_output().unwrap();
        assert!(runs && stopped.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8([reloaded.stdout, reloaded.stderr].concat()).unwrap();
        assert!(reloaded.status.success(), "{told}");
        assert_eq!(told.contains("these need a restart") && told.contains("state.dir"), !given, "{told}");
        assert_eq!(dir.path().join("three").exists(), given);
    }
}

/// IPv4 routes with an IPv6 next hop are taken where the router can, and elsewhere it is said that they are not (RFC 8950); what OpenBGPD ignores
/// is said too.
#[test]
fn router_configurations_say_what_a_router_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("destguard.toml");
    let example = std::fs::read_to_string("examples/network-wide.toml").unwrap();
    let text = |kind: &str, config: &str| {
        std::fs::write(&file, config).unwrap();
        stdout(&["router-config", kind, "--peer", "edge1", "--config", file.to_str().unwrap()])
    };
    let over_ipv6 = example.replace("next_hop_ipv4 = ", "#next_hop_ipv4 = ");
    assert_ne!(over_ipv6, example);
    assert!(text("bird", &over_ipv6).contains("extended next hop on;"));
    assert!(text("frr", &over_ipv6).contains("capability extended-nexthop"));
    for kind in ["gobgp", "openbgpd", "junos", "iosxr", "eos", "srlinux", "routeros"] {
        let told = "IPv4 routes come with the IPv6 next hop 2001:db8::1 (RFC 8950)";
        assert!(text(kind, &over_ipv6).contains(told) && !text(kind, &example).contains(told), "{kind}");
    }
    let ignored = "OpenBGPD has ttl-security for external sessions only";
    let internal = example.replacen("asn = 64513", "asn = 64512", 1);
    for config in [&example, &internal] {
        let said = text("openbgpd", config);
        let is_internal = said.contains("AS 64512\n");
        assert_eq!(said.contains(ignored), is_internal && config.contains("ttl_security = true"), "{said}");
    }
}
