//! Compares what the kernel holds with the ruleset that was installed.
//!
//! Chains and sets are compared whole; a rule by its comment, its place and what it does: verdicts, counters and the
//! sets it looks into. What [`applications`] writes it compares itself. The rest of a rule is written differently by different versions of `nft`.

use std::collections::BTreeSet;

use ::nftables::schema::{Chain, NfListObject, Set};
use serde_json::Value;

use super::error::NftError;
use super::ruleset::Ruleset;
use super::{TABLE, applications};

/// Keys of a statement that are verdicts or stand for one.
const DOING: [&str; 7] = ["accept", "drop", "reject", "redirect", "jump", "goto", "return"];

/// Compares `json`, from `nft -j -t list ruleset`, with the ruleset. Other tables are passed over.
///
/// # Errors
/// [`NftError::ReadBack`], naming the first chain, set or rule that differs.
pub fn verify(ruleset: &Ruleset, json: &str) -> Result<(), NftError> {
    let held = Held::read(json)?;
    compare_names(
        "chain",
        ruleset.chains.iter().map(|chain| chain.name.as_ref()),
        held.chains.iter().map(|chain| chain.name.as_ref()).filter(|name| !applications::is_ours(name)),
    )?;
    compare_names(
        "set",
        ruleset.sets.iter().map(|set| set.name.as_ref()),
        held.sets.iter().map(|set| set.name.as_ref()).filter(|name| !applications::is_ours(name)),
    )?;
    for wanted in &ruleset.chains {
        if !held.chains.iter().any(|chain| same_chain(wanted, chain)) {
            return differs(format!("chain {} has another type, hook, priority or policy", wanted.name));
        }
    }
    for wanted in &ruleset.sets {
        if !held.sets.iter().any(|set| same_set(wanted, set)) {
            return differs(format!("set {} has another type, flags or size", wanted.name));
        }
    }
    for chain in ruleset.chains.iter().filter(|chain| chain.name != applications::CHAIN) {
        let wanted: Vec<Gist> = ruleset
            .rules
            .iter()
            .filter(|rule| rule.chain == chain.name)
            .filter_map(|rule| serde_json::to_value(rule).ok())
            .map(|rule| Gist::of(&rule))
            .collect();
        let found: Vec<Gist> =
            held.rules.iter().filter(|rule| text(rule, "chain") == chain.name).map(Gist::of).collect();
        if let Some((wanted, _)) = wanted.iter().zip(&found).find(|(wanted, found)| wanted != found) {
            return differs(format!("rule \"{}\" of chain {} is another", wanted.comment, chain.name));
        }
        if wanted.len() != found.len() {
            return differs(format!("chain {} has {} rules instead of {}", chain.name, found.len(), wanted.len()));
        }
    }
    Ok(())
}

/// The table's objects. Counters are left out: their values may exceed what the typed schema holds.
#[derive(Default)]
struct Held {
    chains: Vec<Chain<'static>>,
    sets: Vec<Set<'static>>,
    rules: Vec<Value>,
}

impl Held {
    fn read(json: &str) -> Result<Self, NftError> {
        let unreadable =
            |error: serde_json::Error| NftError::ReadBack { what: format!("its JSON can't be read: {error}") };
        let whole: Value = serde_json::from_str(json).map_err(unreadable)?;
        let mut held = Self::default();
        for object in whole.get("nftables").and_then(Value::as_array).into_iter().flatten() {
            let ours = |kind| {
                let object: Option<&Value> = object.get(kind);
                object.filter(|object| text(object, "family") == "inet" && text(object, "table") == TABLE)
            };
            if let Some(rule) = ours("rule") {
                held.rules.push(rule.clone());
            } else if ours("chain").is_some() || ours("set").is_some() {
                match serde_json::from_value(object.clone()).map_err(unreadable)? {
                    NfListObject::Chain(chain) => held.chains.push(chain),
                    NfListObject::Set(set) => held.sets.push(*set),
                    _ => {}
                }
            }
        }
        Ok(held)
    }
}

fn differs(what: String) -> Result<(), NftError> {
    Err(NftError::ReadBack { what })
}

fn compare_names<'a>(
    what: &str,
    wanted: impl Iterator<Item = &'a str>,
    found: impl Iterator<Item = &'a str>,
) -> Result<(), NftError> {
    let wanted: BTreeSet<_> = wanted.collect();
    let found: BTreeSet<_> = found.collect();
    if let Some(missing) = wanted.difference(&found).next() {
        return differs(format!("{what} {missing} is missing"));
    }
    match found.difference(&wanted).next() {
        Some(foreign) => differs(format!("{what} {foreign} is not ours")),
        None => Ok(()),
    }
}

fn same_chain(wanted: &Chain<'_>, found: &Chain<'_>) -> bool {
    wanted.name == found.name
        && wanted._type == found._type
        && wanted.hook == found.hook
        && wanted.prio == found.prio
        && wanted.policy == found.policy
}

fn same_set(wanted: &Set<'_>, found: &Set<'_>) -> bool {
    wanted.name == found.name
        && wanted.set_type == found.set_type
        && wanted.flags.clone().unwrap_or_default() == found.flags.clone().unwrap_or_default()
        && (wanted.size.is_none() || wanted.size == found.size)
}

/// What of a rule matters.
#[derive(Debug, PartialEq, Eq)]
struct Gist {
    comment: String,
    statements: usize,
    doing: Vec<String>,
}

impl Gist {
    fn of(rule: &Value) -> Self {
        let statements = rule.get("expr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut doing = Vec::new();
        for statement in statements {
            for key in DOING {
                if let Some(value) = statement.get(key) {
                    doing.push(format!("{key} {}", text(value, "target")));
                }
            }
            if let Some(counter) = statement.get("counter").and_then(Value::as_str) {
                doing.push(format!("counter {counter}"));
            }
            if let Some(matched) = statement.get("match")
                && let Some(set) = matched.get("right").and_then(Value::as_str)
                && set.starts_with('@')
            {
                doing.push(format!("{} {set}", text(matched, "op")));
            }
        }
        // Matches that follow from others ("nfproto ipv4" before "ip daddr") may be shown or not.
        let statements = statements.iter().filter(|statement| statement.get("match").is_none()).count();
        Self { comment: text(rule, "comment").to_owned(), statements, doing }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
