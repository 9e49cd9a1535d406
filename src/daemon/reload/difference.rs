//! What two configurations differ in, by key.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::config::Config;

/// "key: old -> new" for every value that differs. Secrets show that they changed only.
pub(super) fn difference(old: &Config, new: &Config) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &serde_json::to_value(old)?, &mut before);
    flatten("", &serde_json::to_value(new)?, &mut after);
    let mut changes = BTreeMap::new();
    // That a list has become empty, or is no longer, its other lines say; only of one that may be left out it is a value of its own.
    let is_told = |key: &str, other: &BTreeMap<String, String>| {
        let parent = key.rsplit_once('.').map_or("", |(parent, _)| parent);
        let has = |start: String| other.range(start.clone()..).next().is_some_and(|(key, _)| key.starts_with(&start));
        !has(format!("{key}[")) && has(format!("{parent}."))
    };
    for key in before.keys().chain(after.keys()) {
        let (was, is) = (before.get(key), after.get(key));
        let empty = |value: Option<&String>| value.is_some_and(|value| value == EMPTY);
        if was.is_none() && empty(is) && !is_told(key, &before) || is.is_none() && empty(was) && !is_told(key, &after) {
            continue;
        }
        if was != is {
            let show = |value: Option<&String>| value.map_or("not set", String::as_str).to_owned();
            let change = if key.ends_with(".password") {
                "changed".to_owned()
            } else {
                format!("{} -> {}", show(was), show(is))
            };
            changes.insert(key.clone(), change);
        }
    }
    Ok(changes)
}

/// How an empty list is shown.
const EMPTY: &str = "[]";

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&below, value, out);
            }
        }
        Value::Array(list) if list.is_empty() => drop(out.insert(path.to_owned(), EMPTY.to_owned())),
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, out);
            }
        }
        Value::Null => {}
        value => {
            out.insert(path.to_owned(), value.to_string());
        }
    }
}

/// One line for each.
pub(super) fn lines(changes: &BTreeMap<String, String>) -> Vec<String> {
    changes.iter().map(|(key, change)| format!("{key}: {change}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_by_key_and_secrets_are_not() {
        let mut old = Config::default();
        let mut new = old.clone();
        new.policy.deny.push("bad.test".to_owned());
        new.lease.capacity = 5;
        let changes = difference(&old, &new).unwrap();
        assert_eq!(changes["policy.deny[0]"], "not set -> \"bad.test\"");
        assert_eq!(changes["lease.capacity"], "100000 -> 5");
        let peer = r#"{"name":"r","address":"192.0.2.1","asn":1,"password":"old"}"#;
        old.bgp.peer.push(serde_json::from_str(peer).unwrap());
        let group = |lists| {
            let mut config = Config::default();
            config.policy.group.push(toml::from_str("name = \"g\"\nclients = [\"10.0.0.0/8\"]\n").unwrap());
            config.policy.group[0].lists = lists;
            config
        };
        let changes = difference(&group(None), &group(Some(Vec::new()))).unwrap();
        assert_eq!(
            changes.into_iter().collect::<Vec<_>>(),
            [("policy.group[0].lists".to_owned(), "not set -> []".to_owned())]
        );
        assert_eq!(difference(&group(Some(Vec::new())), &group(None)).unwrap().len(), 1);
        assert!(difference(&Config::default(), &group(None)).unwrap().keys().all(|key| !key.ends_with("deny")));
        let mut changed = old.clone();
        changed.bgp.peer[0].password = Some("new".to_owned());
        assert_eq!(difference(&old, &changed).unwrap()["bgp.peer[0].password"], "changed");
    }
}
