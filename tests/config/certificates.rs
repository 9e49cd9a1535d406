//! Certificates, keys, pins and trust anchors are tried before anything starts.

use super::*;

/// Certificates and keys as files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.pair("guard", 2001, 2099);
        files.pair("other", 2001, 2099);
        files.pair("expired", 2001, 2002);
        files.pair("future", 2098, 2099);
        files.write("empty", "");
        files.write("words", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n");
        files
    }

    /// NAME.pem and NAME.key, good from the first of January of one year to that of another.
    fn pair(&self, name: &str, from: i32, until: i32) {
        let mut params = rcgen::CertificateParams::new(vec!["guard.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        self.write(&format!("{name}.pem"), &params.self_signed(&key).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    /// The findings of `text` behind [`BASE`], with "line:column message"; the directory is shortened to DIR.
    fn found(&self, text: &str) -> Vec<String> {
        let path = self.0.path().display().to_string();
        let text = format!("{BASE}{}", text.replace("DIR", &path));
        let findings = match check::parse(Path::new(FILE), &text) {
            Ok((_, warnings, _)) => warnings,
            Err(report) => report.findings,
        };
        for finding in &findings {
            let pointed = pointed(finding);
            assert!(!pointed.trim().is_empty(), "no caret: {finding:?}");
        }
        found(&findings).iter().map(|finding| finding.replace(&path, "DIR")).collect()
    }
}

#[test]
fn certificates_and_keys_of_listeners_are_tried_before_they_are_needed() {
    let files = Files::new();
    let listener = |certificate: &str, key: &str| {
        files.found(&format!(
            "[dns.tls]\ncertificate = \"DIR/{certificate}\"\nkey = \"DIR/{key}\"\ndot = [\"127.0.0.1:853\"]\n"
        ))
    };
    assert_eq!(listener("guard.pem", "guard.key"), Vec::<String>::new());
    for (certificate, key, expected) in [
        ("absent.pem", "guard.key", "6:15 DIR/absent.pem"),
        ("guard.pem", "absent.key", "7:7 DIR/absent.key"),
        ("empty", "guard.key", "6:15 DIR/empty: holds no PEM certificate"),
        ("words", "guard.key", "6:15 DIR/words: "),
        ("guard.key", "other.key", "6:15 DIR/guard.key: holds no PEM certificate"),
        ("guard.pem", "other.pem", "7:7 DIR/other.pem: holds no PEM private key"),
        ("guard.pem", "empty", "7:7 DIR/empty: holds no PEM private key"),
        ("guard.pem", "other.key", "6:15 DIR/guard.pem: does not fit DIR/other.key: "),
        ("expired.pem", "expired.key", "6:15 the certificate in DIR/expired.pem ended on 2002-01-01"),
        ("future.pem", "future.key", "6:15 the certificate in DIR/future.pem not good before 2098-01-01"),
    ] {
        let found = listener(certificate, key);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{certificate} {key}: {found:?}");
    }
    // A date is a warning: clocks may be wrong, and the daemon must come up to answer those who don't look.
    let text = format!(
        "{BASE}[dns.tls]\ncertificate = \"DIR/expired.pem\"\nkey = \"DIR/expired.key\"\ndot = [\"127.0.0.1:853\"]\n"
    );
    let (_, warnings) = accepted(&text.replace("DIR", &files.0.path().display().to_string()));
    assert!(warnings[0].help.as_ref().unwrap().contains("renew"));
    let open = files
        .found("[dns.tls]\ncertificate = \"DIR/guard.pem\"\nkey = \"DIR/guard.key\"\ndot = [\"0.0.0.0:853\"]\ndoq = [\"[::]:853\"]\n");
    let refused = |place: &str| {
        format!("{place} other hosts reach this address, and all of them get REFUSED: dns.clients has only loopback")
    };
    assert_eq!(open, [refused("8:8"), refused("9:8")]);
    let found = files.found("[dns.tls]\ndoh = [\"127.0.0.1:443\"]\n");
    assert_eq!(found, ["6:7 needs `certificate` in [dns.tls]", "6:7 needs `key` in [dns.tls]"]);
}

#[test]
fn what_an_upstream_is_to_prove_is_tried_before_it_is_needed() {
    let files = Files::new();
    let upstream = |keys: &str| {
        files.found(&format!("[[dns.upstream]]\nurl = \"tls://192.0.2.54\"\nserver_name = \"dns.example\"\n{keys}\n"))
    };
    let good = "ca = \"DIR/guard.pem\"\nclient_certificate = \"DIR/other.pem\"\nclient_key = \"DIR/other.key\"\n\
                pins = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]";
    assert_eq!(upstream(good), Vec::<String>::new());
    let not_a_pin = "is not a pin; write \"sha256/\" and the base64 of the SHA-256 of the public key (SPKI)";
    for (keys, expected) in [
        ("ca = \"DIR/absent\"", "8:6 DIR/absent".to_owned()),
        ("ca = \"DIR/empty\"", "8:6 DIR/empty: holds no PEM certificate".to_owned()),
        ("ca = \"DIR/words\"", "8:6 DIR/words: ".to_owned()),
        ("ca = \"DIR/expired.pem\"", "8:6 the certificate in DIR/expired.pem ended on 2002-01-01".to_owned()),
        ("ca = \"DIR/guard.pem\"\npins = [\"sha256/AAAA\"]", format!("9:8 \"sha256/AAAA\" {not_a_pin}")),
        ("ca = \"DIR/guard.pem\"\npins = [\"md5/*\"]", format!("9:8 \"md5/*\" {not_a_pin}")),
        (
            "ca = \"DIR/guard.pem\"\nclient_certificate = \"DIR/other.pem\"",
            "9:22 needs `client_key` beside it".to_owned(),
        ),
        (
            "ca = \"DIR/guard.pem\"\nclient_key = \"DIR/other.key\"",
            "9:14 needs `client_certificate` beside it".to_owned(),
        ),
        (
            "ca = \"DIR/guard.pem\"\nclient_certificate = \"DIR/other.pem\"\nclient_key = \"DIR/guard.key\"",
            "9:22 DIR/other.pem: does not fit DIR/guard.key: ".to_owned(),
        ),
        (
            "ca = \"DIR/guard.pem\"\nclient_certificate = \"DIR/other.pem\"\nclient_key = \"DIR/expired.pem\"",
            "10:14 DIR/expired.pem: holds no PEM private key".to_owned(),
        ),
        (
            "ca = \"DIR/guard.pem\"\nclient_certificate = \"DIR/expired.pem\"\nclient_key = \"DIR/expired.key\"",
            "9:22 the certificate in DIR/expired.pem ended on 2002-01-01".to_owned(),
        ),
    ] {
        let found = upstream(keys);
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{keys}: {found:?}");
    }
    let found =
        files.found("[[dns.upstream]]\nurl = \"tls://192.0.2.54\"\nserver_name = \"a b\"\nca = \"DIR/guard.pem\"\n");
    assert_eq!(found, ["7:15 \"a b\" is neither a host name nor an address"]);
    let found =
        files.found("[[dns.upstream]]\nurl = \"udp://192.0.2.54\"\npins = [\"sha256/AAAA\"]\nca = \"DIR/guard.pem\"\n");
    assert_eq!(
        found,
        [
            "7:8 `pins` has no meaning for udp, which is not encrypted",
            "8:6 `ca` has no meaning for udp, which is not encrypted"
        ]
    );
}

#[test]
fn without_ca_the_roots_of_the_host_count() {
    let files = Files::new();
    let config = files.0.path().join("destguard.toml");
    std::fs::write(
        &config,
        "[[dns.upstream]]\nurl = \"tls://192.0.2.54\"\nserver_name = \"dns.example\"\n[nftables]\nmode = \"local\"\n",
    )
    .unwrap();
    // The variables by which OpenSSL and all who follow it are told where the roots are.
    let check = |roots: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_destguard"))
            .args(["check", "--config"])
            .arg(&config)
            .env("SSL_CERT_FILE", files.0.path().join(roots))
            .env("SSL_CERT_DIR", files.0.path().join("absent"))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, text) = check("guard.pem");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = check("empty");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("destguard.toml:2:7: error: no root certificates are installed here"), "{text}");
    assert!(text.contains("url = \"tls://192.0.2.54\"\n") && text.contains("^^^^^^"), "{text}");
}

#[test]
fn a_trust_anchor_is_read_before_anything_starts() {
    let with = |lines: &str| format!("{BASE}[dns.dnssec]\nvalidate = true\n{lines}");
    for (line, words) in [
        ("trust_anchor = \". IN DS 20326 8 2 E06D\"", "7:16 a digest of type 2 has 32 octets, not 2"),
        ("trust_anchor = \"\"", "7:16 there is no DS or DNSKEY record"),
        (
            "trust_anchor = \". IN A 192.0.2.1\"",
            "7:16 \". IN A 192.0.2.1\" is not a DS or DNSKEY record; write \". IN DS 20326 8 2 E06D...\"",
        ),
        (
            "insecure = [\"http://corp\"]",
            "7:13 \"http://corp\" is not a domain name: a domain name, not a URL or an address with a port",
        ),
    ] {
        assert_eq!(found(&refused(&with(line)).findings), [words], "{line}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("root key");
    let text = with(&format!("trust_anchor = \"{}\"", file.display()));
    let report = found(&refused(&text).findings);
    assert!(report[0].contains("root key can't be read: No such file"), "{report:?}");
    std::fs::write(&file, "; of the root\n. IN DNSKEY 257 3 8 !\n").unwrap();
    let report = found(&refused(&text).findings);
    assert!(report[0].ends_with("root key:2: \"!\" is not a key in base64"), "{report:?}");
    let ds = ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D";
    std::fs::write(&file, ds).unwrap();
    assert!(accepted(&text).1.is_empty());
    assert!(accepted(&with(&format!("trust_anchor = \"{ds}\""))).1.is_empty());
    // Relative to the file, like other paths.
    let relative = with("trust_anchor = \"./root key\"");
    assert!(check::parse(&directory.path().join(FILE), &relative).is_ok());
    // What an operator stumbles over.
    let forward = "[[dns.upstream]]\nurl = \"udp://192.0.2.54\"\ndomains = [\"corp.example\"]\n";
    let warned = found(&accepted(&format!("{forward}{}", with(""))).1);
    assert_eq!(warned, ["3:12 answers for corp.example are validated: if it is a private zone, they get SERVFAIL"]);
    assert!(accepted(&format!("{forward}{}", with("insecure = [\"corp.example\"]"))).1.is_empty());
    let anchored = with(&format!("trust_anchor = \"\"\"{ds}\ncorp.example{}\"\"\"", ds.trim_start_matches('.')));
    assert!(accepted(&format!("{forward}{anchored}")).1.is_empty());
    let without = format!("{BASE}[dns.dnssec]\ninsecure = [\"corp.example\"]\n");
    assert_eq!(found(&accepted(&without).1), ["6:12 `insecure` has no effect while nothing is validated"]);
}

#[test]
fn what_http_needs_is_tried_before_it_is_served() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    files.write("token", "0123456789abcdef\n");
    files.write("short", "0123\n");
    files.write("spaced", "0123456789 abcdef\n");
    files.write("open", "0123456789abcdef");
    for name in ["token", "short", "spaced"] {
        std::fs::set_permissions(files.0.path().join(name), std::fs::Permissions::from_mode(0o640)).unwrap();
    }
    std::fs::set_permissions(files.0.path().join("open"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let tls = "certificate = \"DIR/guard.pem\"\nkey = \"DIR/guard.key\"\n";
    for (text, expected) in [
        ("names = [\"guard.example\", \"b\u{fc}cher.example\"]\ntoken_file = \"DIR/token\"\n".to_owned(), ""),
        (format!("listen = [\"192.0.2.1:80\"]\n{tls}token_file = \"DIR/token\"\n"), ""),
        ("listen = [\"[::ffff:127.0.0.1]:80\"]\n".to_owned(), ""),
        (
            "listen = [\"192.0.2.1:80\"]\ntoken_file = \"DIR/token\"\n".to_owned(),
            "6:11 192.0.2.1:80: the token, and all that is read with it, passes in plain text",
        ),
        (format!("listen = [\"192.0.2.1:80\"]\n{tls}"), "6:11 192.0.2.1:80: whoever reaches it reads leases"),
        ("names = [\"*.example\"]\n".to_owned(), "6:10 \"*.example\" is not a domain name"),
        ("names = [\"guard:80\"]\n".to_owned(), "6:10 \"guard:80\" is not a domain name"),
        ("names = [\"a.example\", \"a.example\"]\n".to_owned(), "6:23 a.example stands here twice"),
        ("certificate = \"DIR/guard.pem\"\n".to_owned(), "6:15 needs `key` beside it"),
        ("key = \"DIR/guard.key\"\n".to_owned(), "6:7 needs `certificate` beside it"),
        ("certificate = \"DIR/guard.pem\"\nkey = \"DIR/other.key\"\n".to_owned(), "6:15 DIR/guard.pem: does not fit"),
        ("certificate = \"DIR/expired.pem\"\nkey = \"DIR/expired.key\"\n".to_owned(), "6:15 "),
        ("token_file = \"DIR/absent\"\n".to_owned(), "6:14 DIR/absent can't be read: No such file"),
        ("token_file = \"DIR\"\n".to_owned(), "6:14 DIR can't be read: Is a directory"),
        ("token_file = \"DIR/short\"\n".to_owned(), "6:14 DIR/short: a token has 16 characters at least, this one 4"),
        ("token_file = \"DIR/spaced\"\n".to_owned(), "6:14 DIR/spaced: a token is one line"),
        ("token_file = \"DIR/open\"\n".to_owned(), "6:14 everybody on this host can read DIR/open"),
        ("metrics_need_token = true\n".to_owned(), "6:22 there is no token that they could need"),
    ] {
        let found = files.found(&format!("[http]\n{text}"));
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{text}: {found:?}");
        assert!(found.iter().all(|one| one.starts_with(expected)), "{text}: {found:?}");
    }
}

#[test]
fn whoever_is_told_apart_by_more_than_an_address_can_be() {
    let files = Files::new();
    let people = |tls: &str, groups: &str| {
        files.found(&format!(
            "[dns.tls]\ncertificate = \"DIR/guard.pem\"\nkey = \"DIR/guard.key\"\ndoh = [\"127.0.0.1:8443\"]\n{tls}\n{groups}"
        ))
    };
    let group = |keys: &str| format!("[[policy.group]]\nname = \"g\"\n{keys}\n");
    let ca = "client_ca = \"DIR/other.pem\"";
    let hash = format!("sha256:{}", "0a".repeat(32));
    let two = |one: &str, other: &str| group(one) + &group(other).replace("\"g\"", "\"h\"");
    for (tls, groups, words) in [
        (ca, group("certificate = [\"*\", \"*.a.example\", \"a@b.example\"]\ndoh_path = \"/dns-query/kids\""), ""),
        ("", group(&format!("certificate = [\"{hash}\"]")), ""),
        ("require_client_certificate = true", group(&format!("certificate = [\"{hash}\"]")), ""),
        ("", group(""), "nobody would be in the group"),
        ("", group("certificate = [\"a.example\"]"), "needs dns.tls.client_ca"),
        (ca, group("certificate = [\"a*b\"]"), "is no name of a certificate"),
        (ca, group("certificate = [\"sha256:0a\"]"), "64 hexadecimal digits"),
        (
            ca,
            two("certificate = [\"a.example\"]", "certificate = [\"A.example\"]"),
            "policy.group[0].certificate[0] already",
        ),
        ("", group("doh_path = \"/dns-query\""), "is everybody's"),
        ("", group("doh_path = \"kids\""), "is no path"),
        ("", group("doh_path = \"/a?b\""), "is no path"),
        ("", two("doh_path = \"/a\"", "doh_path = \"/a\""), "policy.group[0] already"),
        ("client_ca = \"DIR/absent.pem\"", String::new(), "can't be read"),
        ("client_ca = \"DIR/words\"", String::new(), "DIR/words: "),
        (
            "client_ca = \"DIR/other.pem\"\nclient_crl = \"DIR/other.pem\"",
            String::new(),
            "holds no PEM list of revoked",
        ),
        ("client_crl = \"DIR/other.pem\"", String::new(), "needs `client_ca`"),
        ("require_client_certificate = true", String::new(), "nobody could ask"),
    ] {
        let found = people(tls, &groups);
        match words {
            "" => assert_eq!(found, Vec::<String>::new(), "{tls} {groups}"),
            words => assert!(found.iter().any(|line| line.contains(words)), "{tls} {groups}: {found:?}"),
        }
    }
    let plain = files.found(&group("certificate = [\"sha256:0a\"]\ndoh_path = \"/a\""));
    assert!(plain.iter().any(|line| line.contains("nothing is encrypted")), "{plain:?}");
}

#[test]
fn the_bits_that_tell_clients_apart_are_checked() {
    let client = |more: &str| {
        let text = format!(
            "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[nftables]\nmode = \"gateway\"\ninside = [\"lan0\"]\nscope = \"client\"\n{more}\n"
        );
        match check::parse(Path::new(FILE), &text) {
            Ok((_, warnings, _)) => found(&warnings),
            Err(report) => found(&report.findings),
        }
    };
    let prefix =
        |found: &[String]| found.iter().filter(|line| line.contains("bits") || line.contains("one client")).count();
    assert_eq!(prefix(&client("client_ipv6_prefix = 64")), 0);
    assert_eq!(prefix(&client("client_ipv6_prefix = 0")), 1);
    assert_eq!(prefix(&client("client_ipv6_prefix = 129")), 1);
    let group =
        "client_ipv6_prefix = 64\n[[policy.group]]\nname = \"one\"\nclients = [\"fd00:1::2/128\", \"fd00:2::/64\"]";
    assert_eq!(prefix(&client(group)), 1);
}
