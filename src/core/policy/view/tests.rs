use super::*;
use crate::config::schema::{Action, ListFormat};
use crate::core::policy::ListFile;

fn views(text: &str) -> Views {
    let config: Config = toml::from_str(text).unwrap();
    let lists: Vec<Arc<Table>> = ["listed.test\n", "kids.test\n"]
        .iter()
        .zip(["a.txt", "b.txt"])
        .map(|(content, path)| {
            let file =
                ListFile { path, format: ListFormat::Domains, action: Action::Deny, content: content.as_bytes() };
            Arc::new(Table::from_list(&file).unwrap().0)
        })
        .collect();
    Views::new(&config, &lists).unwrap()
}

const TEXT: &str = r#"
[policy]
deny = ["all.test"]
[[policy.list]]
path = "a.txt"
format = "domains"
action = "deny"
[[policy.list]]
name = "kids"
path = "b.txt"
format = "domains"
action = "deny"
everybody = false
[[policy.group]]
name = "children"
clients = ["10.5.0.0/16", "2001:db8:5::/48"]
lists = ["kids"]
[[policy.group]]
name = "locked"
clients = ["10.5.7.0/24"]
default = "deny"
allow = ["school.test"]
"#;

#[test]
fn clients_are_judged_by_their_own_rules() {
    let views = views(TEXT);
    let denied = |client: &str| {
        let policy = views.policy(views.of(client.parse().unwrap()));
        ["all.test", "listed.test", "kids.test", "school.test", "other.test"]
            .into_iter()
            .filter(|name| policy.judge(&name.parse().unwrap()).denies())
            .collect::<Vec<_>>()
    };
    assert_eq!(denied("192.0.2.1"), ["all.test", "listed.test"]);
    assert_eq!(denied("10.5.0.1"), ["kids.test"]);
    assert_eq!(denied("2001:db8:5::1"), ["kids.test"]);
    assert_eq!(
        denied("10.5.7.1"),
        ["all.test", "listed.test", "kids.test", "other.test"],
        "the longest prefix decides"
    );
    let locked = views.of("10.5.7.1".parse().unwrap());
    assert_eq!((views.name(locked), views.name(0)), (Some("locked"), None));
    let words = |text: &str| views.policy(locked).words(views.policy(locked).judge(&text.parse().unwrap()));
    assert_eq!(words("x.school.test"), "school.test (policy.group[1].allow[0])");
    assert_eq!(words("listed.test"), "listed.test (a.txt:1)");
    assert_eq!(words("all.test"), "policy.default");
}

#[test]
fn a_list_is_kept_once_however_many_groups_share_it() {
    let views = views(TEXT);
    assert!(Arc::ptr_eq(&views.policy(0).layers[1], &views.policy(2).layers[1]));
}

#[test]
fn other_lists_leave_the_views_what_they_are_and_other_groups_do_not() {
    let (one, other) = (views(TEXT), views(TEXT));
    assert!(one.same_clients(&other));
    assert!(!one.same_clients(&views(&TEXT.replace("10.5.7.0/24", "10.5.8.0/24"))));
}

#[test]
fn wrong_rules_of_a_group_are_named_by_their_key() {
    let config: Config = toml::from_str(&TEXT.replace("school.test", "a..b")).unwrap();
    let errors = Views::new(&config, &[]).unwrap_err();
    assert_eq!(errors[0].key, "policy.group[1].allow[0]");
}
