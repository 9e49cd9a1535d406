use std::iter;

use super::*;

fn audit() -> Config {
    Config { mode: crate::config::schema::Mode::Audit, ..Config::default() }
}

fn usage(config: &Config) -> Usage {
    let usage = Usage::default();
    usage.configure(config);
    usage
}

fn ask(usage: &Usage, client: &str, name: &str, got: Got, now: u64) {
    let name: Name = name.parse().unwrap();
    usage.asked(client.parse().unwrap(), name.wire(), got, now, iter::empty());
}

fn names(used: &Used) -> Vec<(&str, Got, u64, u64, u64)> {
    let mut names: Vec<_> = used
        .names
        .iter()
        .map(|one| (one.name.as_str(), one.got, one.seen.count, one.seen.first, one.seen.last))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_best_outcome_counts_with_all_questions() {
    let usage = usage(&audit());
    ask(&usage, "10.0.0.1", "a.example", Got::Nothing, 100);
    ask(&usage, "10.0.0.1", "a.example", Got::Data, 110);
    ask(&usage, "10.0.0.1", "A.example", Got::Nothing, 500);
    ask(&usage, "10.0.0.1", "a.example", Got::Filtered, 90);
    ask(&usage, "10.0.0.1", "none.example", Got::Nothing, 120);
    ask(&usage, "10.0.0.1", "4.3.2.10.in-addr.arpa", Got::Data, 130);
    ask(&usage, "10.0.0.1", "5.3.2.10.in-addr.arpa", Got::Data, 131);
    let used = usage.used();
    assert_eq!(used.since, Some(90));
    assert_eq!(
        names(&used),
        [
            ("a.example", Got::Data, 4, 90, 500),
            ("in-addr.arpa", Got::Data, 2, 130, 131),
            ("none.example", Got::Nothing, 1, 120, 120)
        ]
    );
}

#[test]
fn clients_are_told_apart_by_prefix() {
    let usage = usage(&audit());
    for client in ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "::ffff:10.0.0.1"] {
        ask(&usage, client, "a.example", Got::Data, 100);
    }
    let used = usage.used();
    assert_eq!(used.names.len(), 3);
    let of = |net: &str| used.names_of(Some(net.parse().unwrap()), 0)["a.example"].len();
    assert_eq!([of("10.0.0.0/24"), of("10.0.0.1/32"), of("2001:db8::1/128")], [2, 1, 1]);
    assert!(used.names_of(Some("10.0.1.0/24".parse().unwrap()), 0).is_empty());
    assert!(used.names_of(None, 101).is_empty());
}

#[test]
fn made_up_names_push_out_nothing_that_leads_somewhere_and_one_client_pushes_out_its_own() {
    let usage = usage(&audit());
    ask(&usage, "10.0.0.1", "quiet.example", Got::Data, 1);
    ask(&usage, "10.0.0.2", "often.example", Got::Data, 1);
    for n in 0..3 * (PARTS * NAMES) as u64 {
        if n % 1000 == 0 {
            ask(&usage, "10.0.0.2", "often.example", Got::Data, 1 + n);
        }
        ask(&usage, "10.0.0.2", &format!("n{n}.example"), Got::Data, 1 + n);
        ask(&usage, "10.0.0.2", &format!("x{n}.example"), Got::Nothing, 1 + n);
    }
    let used = usage.used();
    let has = |name: &str| used.names.iter().any(|one| one.name == name);
    assert!(has("quiet.example") && has("often.example"));
    assert!(used.names.len() <= PARTS * (NAMES + NOWHERE));
    assert!(used.forgotten > (PARTS * NAMES) as u64);
}

#[test]
fn what_is_hidden_is_not_kept() {
    let usage = usage(&audit());
    ask(&usage, "10.0.0.1", "a.example", Got::Data, 100);
    ask(&usage, "10.0.0.2", "a.example", Got::Data, 200);
    let hiding = |hide| {
        let mut config = audit();
        config.log.hide = vec![hide];
        config
    };
    usage.configure(&hiding(Hide::Clients));
    let used = usage.used();
    assert_eq!(names(&used), [("a.example", Got::Data, 2, 100, 200)]);
    assert_eq!(used.names[0].client, ANYBODY);
    assert!(usage.take_changed(), "what is on disk is to be replaced");
    usage.configure(&hiding(Hide::Names));
    ask(&usage, "10.0.0.1", "b.example", Got::Data, 300);
    assert_eq!(usage.used(), Used::default());
    assert!(usage.take_changed());
}

#[test]
fn only_in_audit_and_over_a_restart() {
    let off = usage(&Config::default());
    ask(&off, "10.0.0.1", "a.example", Got::Data, 100);
    assert_eq!(off.used(), Used::default());
    let first = usage(&audit());
    let (client, address) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([203, 0, 113, 9]));
    let name: Name = "a.example".parse().unwrap();
    first.asked(client, name.wire(), Got::Data, 100, iter::once(address));
    first.sent(client, address, "tcp/443".to_owned(), 110);
    first.sent(client, address, "tcp/443".to_owned(), 120);
    first.sent(client, [203, 0, 113, 10].into(), "udp/123".to_owned(), 130);
    let used = first.used();
    let addresses = used.addresses_of(None, 0);
    assert_eq!(addresses[&address][0].name.as_deref(), Some("a.example"));
    assert_eq!(addresses[&address][0].seen, Seen { count: 2, first: 110, last: 120 });
    assert_eq!(addresses[&IpAddr::from([203, 0, 113, 10])][0].name, None);
    let second = usage(&audit());
    second.load(used.clone());
    assert_eq!(second.used(), used);
    ask(&second, "10.0.0.1", "a.example", Got::Data, 400);
    assert_eq!(names(&second.used()), [("a.example", Got::Data, 2, 100, 400)]);
}
