use super::*;

const TOKEN: &str = "0123456789abcdef";

fn access(http: &Http) -> Access {
    let access = Access::default();
    access.switch(access.prepare(http).unwrap());
    access
}

fn http(names: &[&str]) -> Http {
    Http { names: names.iter().map(|name| (*name).to_owned()).collect(), ..Http::default() }
}

fn asked<'a>(hosts: &'a [&'a str]) -> Asked<'a> {
    Asked { hosts, path: "/api/v1/status", loopback: true, ..Asked::default() }
}

#[test]
fn only_addresses_localhost_and_configured_names_are_answered() {
    let access = access(&http(&["guard.example", "b\u{fc}cher.example"]));
    let says = |host: &str| access.judge(&asked(&[host])).map(drop);
    for host in [
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:8080",
        "[fe80::1%25eth0]:80",
        "localhost",
        "LocalHost:1",
        "localhost.",
        "guard.example",
        "GUARD.example:8080",
        "guard.example.",
        "xn--bcher-kva.example",
    ] {
        assert_eq!(says(host), Ok(()), "{host}");
    }
    for host in [
        "evil.test",
        "evil.test:8080",
        "guard.example.evil.test",
        "www.guard.example",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "a.localhost",
        "0x7f.1",
        "2130706433",
        "127.1",
    ] {
        assert_eq!(says(host), Err(Refused::Name), "{host}");
    }
    for host in [
        "",
        ":80",
        "::1",
        "[::1",
        "[evil.test]",
        "evil.test@127.0.0.1",
        "127.0.0.1/",
        "127.0.0.1 evil.test",
        "127.0.0.1:x",
    ] {
        assert!(says(host).is_err(), "{host}");
    }
}

#[test]
fn every_name_that_a_request_bears_is_looked_at() {
    let access = access(&http(&[]));
    assert_eq!(access.judge(&asked(&[])), Err(Refused::Host));
    assert_eq!(access.judge(&asked(&["127.0.0.1", "127.0.0.1"])), Err(Refused::Host));
    assert_eq!(access.judge(&asked(&["127.0.0.1", "evil.test"])), Err(Refused::Host));
    let absolute = |authority| Asked { authority: Some(authority), ..asked(&["127.0.0.1"]) };
    assert!(access.judge(&absolute("127.0.0.1:80")).is_ok());
    assert_eq!(access.judge(&absolute("evil.test")), Err(Refused::Name));
    let other = Asked { authority: Some("127.0.0.1"), ..asked(&["evil.test"]) };
    assert_eq!(access.judge(&other), Err(Refused::Name));
    for path in ["/metrics", "/health", "/ready"] {
        assert!(access.judge(&Asked { path, ..asked(&["evil.test"]) }).is_ok(), "{path}");
    }
    for path in ["/metrics/", "//metrics", "/METRICS", "/", "/page.js"] {
        assert!(access.judge(&Asked { path, ..asked(&["evil.test"]) }).is_err(), "{path}");
    }
}

#[test]
fn pages_of_other_sites_are_told_nothing() {
    let access = access(&http(&[]));
    let from = |site, path| access.judge(&Asked { site: Some(site), path, ..asked(&["127.0.0.1"]) }).map(drop);
    for site in ["cross-site", "same-site", "else"] {
        assert_eq!(from(site, "/api/v1/log/events"), Err(Refused::Site));
        assert_eq!(from(site, "/"), Ok(()), "a link leads here");
    }
    assert_eq!(from("same-origin", "/api/v1/status"), Ok(()));
    assert_eq!(from("none", "/api/v1/status"), Ok(()));
}

#[test]
fn a_token_is_told_as_bearer_or_password() {
    let token = Token::new(TOKEN.as_bytes()).unwrap();
    // user:0123456789abcdef, :0123456789abcdef, 0123456789abcdef, user:0123456789abcdeX
    let [named, bare, no_colon, wrong] = [
        "dXNlcjowMTIzNDU2Nzg5YWJjZGVm",
        "OjAxMjM0NTY3ODlhYmNkZWY=",
        "MDEyMzQ1Njc4OWFiY2RlZg==",
        "dXNlcjowMTIzNDU2Nzg5YWJjZGVY",
    ];
    for header in
        [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}"), format!("Basic {named}"), format!("basic {bare}")]
    {
        assert!(token.is_told(Some(&header)), "{header}");
    }
    for header in [
        format!("Basic {no_colon}"),
        format!("Basic {wrong}"),
        format!("Bearer {TOKEN}0"),
        format!("Bearer {}", &TOKEN[1..]),
        format!("Bearer{TOKEN}"),
        format!("Digest {TOKEN}"),
        "Bearer ".to_owned(),
        "Basic *".to_owned(),
        TOKEN.to_owned(),
        String::new(),
    ] {
        assert!(!token.is_told(Some(&header)), "{header}");
    }
    assert!(!token.is_told(None));
    for bad in ["", "short", "with a space in it", "with\ttabs-and-more"] {
        assert!(Token::new(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn with_a_token_only_health_and_if_wanted_metrics_are_open() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let mut http = Http { token_file: Some(file), ..Http::default() };
    let access = access(&http);
    let ask = |path, authorization| {
        access.judge(&Asked { path, authorization, ..asked(&["127.0.0.1"]) }).map(|reader| reader.knows)
    };
    let right = format!("Bearer {TOKEN}");
    assert_eq!(ask("/", None), Err(Refused::Token));
    assert_eq!(ask("/api/v1/status", None), Err(Refused::Token));
    assert_eq!(ask("/api/v1/status", Some(&right)), Ok(true));
    assert!(ask("/metrics", None).is_ok() && ask("/health", None).is_ok() && ask("/ready", None).is_ok());
    let before = access.judge(&Asked { authorization: Some(&right), ..asked(&["127.0.0.1"]) }).unwrap();
    assert!(!access.is_over(before) && !access.is_over(Reader::OPERATOR));
    access.switch(access.prepare(&http).unwrap());
    assert!(!access.is_over(before), "a reload that changes nothing");

    http.metrics_need_token = true;
    access.switch(access.prepare(&http).unwrap());
    assert!(access.is_over(before) && !access.is_over(Reader::OPERATOR));
    assert_eq!(ask("/metrics", None), Err(Refused::Token));
    assert!(ask("/metrics", Some(&right)).is_ok() && ask("/health", None).is_ok());
}

#[test]
fn who_asks_for_what_is_told_over_loopback_or_under_tls_with_a_token() {
    let token = Token::new(TOKEN.as_bytes()).ok();
    let told = format!("Bearer {TOKEN}");
    for (with_token, tls, loopback, knows) in [
        (false, false, true, true),
        (false, false, false, false),
        (false, true, false, false),
        (true, false, false, false),
        (true, true, false, true),
        (true, false, true, true),
    ] {
        let rules = Rules { token: token.clone().filter(|_| with_token), ..Rules::default() };
        let asked = Asked { tls, loopback, authorization: Some(&told), ..asked(&["127.0.0.1"]) };
        assert_eq!(rules.judge(&asked).unwrap().knows, knows, "{with_token} {tls} {loopback}");
    }
}
