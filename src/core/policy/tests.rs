use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn build(default: Action, allow: &[&str], deny: &[&str]) -> Result<Policy, Vec<PolicyError>> {
    let mut config = Config::default();
    config.policy.default = default;
    config.policy.allow = allow.iter().map(|text| (*text).to_owned()).collect();
    config.policy.deny = deny.iter().map(|text| (*text).to_owned()).collect();
    Policy::new(&config)
}

fn policy(default: Action, allow: &[&str], deny: &[&str]) -> Policy {
    build(default, allow, deny).unwrap()
}

/// The names of `all` that are allowed.
fn allowed<'a>(policy: &Policy, all: &[&'a str]) -> Vec<&'a str> {
    all.iter().copied().filter(|text| !policy.judge(&name(text)).denies()).collect()
}

#[test]
fn without_rules_the_default_decides() {
    assert_eq!(policy(Action::Allow, &[], &[]).judge(&name("a.test")), Verdict { action: Action::Allow, rule: None });
    assert_eq!(policy(Action::Deny, &[], &[]).judge(&name(".")), Verdict { action: Action::Deny, rule: None });
}

#[test]
fn a_name_covers_itself_and_below() {
    let policy = policy(Action::Deny, &["d.test"], &[]);
    let all = ["d.test", "a.d.test", "a.b.d.test", "D.TEST", "notd.test", "d.test.evil", "test", "d", "."];
    assert_eq!(allowed(&policy, &all), ["d.test", "a.d.test", "a.b.d.test", "D.TEST"]);
}

#[test]
fn a_wildcard_covers_below_only() {
    let policy = policy(Action::Deny, &["*.d.test"], &[]);
    let all = ["d.test", "a.d.test", "a.b.d.test", "notd.test", "a.notd.test", "d.test.evil", "a.d.test.evil"];
    assert_eq!(allowed(&policy, &all), ["a.d.test", "a.b.d.test"]);
}

#[test]
fn an_equals_sign_covers_the_name_only() {
    let policy = policy(Action::Deny, &["=d.test"], &[]);
    assert_eq!(allowed(&policy, &["d.test", "a.d.test", "test", "notd.test"]), ["d.test"]);
}

#[test]
fn the_longest_match_decides() {
    let policy = policy(Action::Allow, &["ok.bad.test"], &["bad.test", "=x.ok.bad.test"]);
    let all = ["bad.test", "a.bad.test", "ok.bad.test", "a.ok.bad.test", "x.ok.bad.test", "a.x.ok.bad.test", "test"];
    assert_eq!(allowed(&policy, &all), ["ok.bad.test", "a.ok.bad.test", "a.x.ok.bad.test", "test"]);
}

#[test]
fn deny_wins_a_tie() {
    for (allow, deny) in [("d.test", "d.test"), ("=d.test", "d.test"), ("d.test", "=d.test")] {
        let policy = policy(Action::Allow, &[allow], &[deny]);
        assert!(policy.judge(&name("d.test")).denies(), "{allow} {deny}");
    }
    let both = policy(Action::Allow, &["*.d.test"], &["d.test"]);
    assert!(both.judge(&name("a.d.test")).denies());
    let apart = policy(Action::Deny, &["d.test"], &["*.d.test"]);
    assert_eq!(allowed(&apart, &["d.test", "a.d.test"]), ["d.test"]);
}

#[test]
fn the_root_stands_for_everything() {
    let policy = policy(Action::Allow, &["d.test"], &["."]);
    assert_eq!(allowed(&policy, &["d.test", "a.d.test", "test", "."]), ["d.test", "a.d.test"]);
}

#[test]
fn an_alias_is_denied_by_rules_but_not_by_the_default() {
    let policy = policy(Action::Deny, &["d.test"], &["ads.test"]);
    assert!(!policy.judge_alias(&name("cdn.example")).denies());
    assert!(policy.judge_alias(&name("x.ads.test")).denies());
    assert!(policy.judge(&name("cdn.example")).denies());
}

#[test]
fn the_rule_is_named_as_written_with_its_place() {
    let policy = policy(Action::Allow, &["Fine.Test"], &["a.test", "*.B.test.", "=c.test", "c.test"]);
    let rule = |text: &str| policy.judge(&name(text)).rule.map(|rule| policy.describe(rule).to_string());
    assert_eq!(rule("x.fine.test").as_deref(), Some("Fine.Test (policy.allow[0])"));
    assert_eq!(rule("a.test").as_deref(), Some("a.test (policy.deny[0])"));
    assert_eq!(rule("x.b.test").as_deref(), Some("*.B.test. (policy.deny[1])"));
    assert_eq!(rule("c.test").as_deref(), Some("=c.test (policy.deny[2])"), "the first of equals");
    assert_eq!(rule("x.c.test").as_deref(), Some("c.test (policy.deny[3])"));
    assert_eq!(rule("other.test"), None);
}

#[test]
fn every_wrong_rule_is_reported_and_says_what_to_write() {
    let long = "x".repeat(64);
    let errors =
        build(Action::Allow, &["", "ok.test", "a..b"], &["*", "a.*.test", "=", "*.", long.as_str(), "a b.test"]);
    let errors = errors.unwrap_err();
    let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "policy.allow[0]",
            "policy.allow[2]",
            "policy.deny[0]",
            "policy.deny[1]",
            "policy.deny[2]",
            "policy.deny[3]",
            "policy.deny[4]",
            "policy.deny[5]"
        ]
    );
    assert!(errors[2].to_string().contains("policy.default"), "{}", errors[2]);
}

#[test]
fn urls_and_rules_of_other_formats_are_no_names() {
    for text in [
        "https://example.com",
        "example.com/path",
        "example.com:53",
        "||example.com^",
        "a,b.test",
        "a\tb",
        "a b",
        "a@b.test",
    ] {
        assert!(text.parse::<Pattern>().is_err(), "{text}");
    }
    // Whoever means it can say it: RFC 2317 has such names.
    assert!(r"0\04725.2.0.192.in-addr.arpa".parse::<Pattern>().is_ok());
}

#[test]
fn a_wrong_rule_does_not_shift_the_places_of_others() {
    // Reported places come from the list as written even though building fails; what was read keeps its number.
    let policy = policy(Action::Allow, &["a.test", "a.test"], &["b.test", "b.test", "c.test"]);
    let rule = policy.judge(&name("c.test")).rule.map(|rule| policy.describe(rule).place);
    assert_eq!(rule.as_deref(), Some("policy.deny[2]"));
}

#[test]
fn unicode_names_become_a_labels() {
    let policy = policy(Action::Allow, &[], &["bücher.test", "*.пример.испытание", "=BÜRO.test"]);
    assert!(policy.judge(&name("www.xn--bcher-kva.test")).denies());
    assert!(policy.judge(&name("a.xn--e1afmkfd.xn--80akhbyknj4f")).denies());
    assert!(policy.judge(&name("xn--bro-hoa.test")).denies());
    assert!(build(Action::Allow, &[], &["a\u{0}b\u{fc}.test"]).is_err());
    assert!(build(Action::Allow, &[], &["\u{202e}\u{fc}.test"]).is_err());
}

#[test]
fn names_with_odd_octets_and_service_labels() {
    let policy = policy(Action::Allow, &[], &["_sip._tcp.test", r"a\.b.test", r"\255\000.test"]);
    assert!(policy.judge(&name("x._sip._tcp.test")).denies());
    assert!(policy.judge(&name(r"a\.b.test")).denies());
    assert!(!policy.judge(&name("a.b.test")).denies());
    assert!(policy.judge(&name(r"\255\000.test")).denies());
}

#[test]
fn registrable_domains() {
    for (asked, expected) in [
        ("www.example.com", "example.com"),
        ("example.com", "example.com"),
        ("a.b.c.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("com", "com"),
        (".", "."),
        ("x.y.corp.test", "corp.test"),
        ("me.github.io", "me.github.io"),
        ("x.me.github.io", "me.github.io"),
        ("x.y.xn--p1ai", "y.xn--p1ai"),
        (r"x.a\.b.com", r"a\.b.com"),
        ("A.Example.COM", "example.com"),
    ] {
        assert_eq!(registrable(&name(asked)), name(expected), "{asked}");
    }
}

/// Rules and names over few labels, so that they meet.
fn any_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(vec!["a", "b", "ab", "A"]), 1..5)
        .prop_map(|labels| labels.join("."))
}

fn any_rule() -> impl Strategy<Value = String> {
    (proptest::sample::select(vec!["", "*.", "="]), any_text()).prop_map(|(mark, text)| format!("{mark}{text}"))
}

/// Whether a rule covers a name, and with how many labels: on text, as the documentation says it.
fn covers(rule: &str, name: &str) -> Option<usize> {
    let (rule, name) = (rule.to_lowercase(), name.to_lowercase());
    let (hit, bare) = if let Some(bare) = rule.strip_prefix("*.") {
        (name.ends_with(&format!(".{bare}")), bare.to_owned())
    } else if let Some(bare) = rule.strip_prefix('=') {
        (name == bare, bare.to_owned())
    } else {
        (name == rule || name.ends_with(&format!(".{rule}")), rule.clone())
    };
    hit.then(|| bare.split('.').count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_longest_match(
        default in proptest::sample::select(vec![Action::Allow, Action::Deny]),
        allow in proptest::collection::vec(any_rule(), 0..8),
        deny in proptest::collection::vec(any_rule(), 0..8),
        asked in proptest::collection::vec(any_text(), 1..10),
    ) {
        let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
        let deny: Vec<&str> = deny.iter().map(String::as_str).collect();
        let policy = policy(default, &allow, &deny);
        for asked in &asked {
            let longest = |rules: &[&str]| rules.iter().filter_map(|rule| covers(rule, asked)).max();
            let expected = match (longest(&allow), longest(&deny)) {
                (None, None) => default,
                (allow, deny) if allow > deny => Action::Allow,
                _ => Action::Deny,
            };
            let verdict = policy.judge(&name(asked));
            prop_assert_eq!(verdict.action, expected, "{}", asked);
            if let Some(rule) = verdict.rule {
                let rule = policy.describe(rule);
                let best = longest(&allow).max(longest(&deny));
                prop_assert_eq!(covers(&rule.text, asked), best, "{} by {}", asked, rule);
            } else {
                prop_assert_eq!(longest(&allow).max(longest(&deny)), None);
            }
        }
    }
}
