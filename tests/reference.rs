//! The references of keys and of the control interface, compared with the program. `UPDATE_DOCS=1 cargo test --test reference` writes what is generated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Keys that only a start takes over; `docs/operation.md` says why.
const NEEDS_RESTART: [&str; 3] = ["confine", "state.dir", "nftables.scope"];

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

fn schema() -> Value {
    let said = Command::new(env!("CARGO_BIN_EXE_destguard")).args(["config", "schema"]).output().unwrap();
    serde_json::from_slice(&said.stdout).unwrap()
}

/// What a `$ref` names, in the schema's definitions.
fn definition<'a>(schema: &'a Value, node: &Value) -> Option<(&'a str, &'a Value)> {
    let name = node["$ref"].as_str()?.strip_prefix("#/$defs/")?;
    schema["$defs"].as_object()?.get_key_value(name).map(|(name, definition)| (name.as_str(), definition))
}

/// A table's definition: of this key itself, or of each element; `true`: several.
fn table<'a>(schema: &'a Value, node: &'a Value) -> Option<(bool, &'a Value)> {
    let object = |node| definition(schema, node).map(|(_, of)| of).filter(|of| of["type"] == "object");
    let some = node["anyOf"].as_array().into_iter().flatten().find_map(object);
    match object(node).or(some) {
        Some(one) => Some((false, one)),
        None => object(&node["items"]).map(|each| (true, each)),
    }
}

/// The values that may stand there, in words.
fn kind(schema: &Value, node: &Value) -> String {
    if let Some((name, of)) = definition(schema, node) {
        return match name {
            "Duration" => "duration".to_owned(),
            "Size" => "size".to_owned(),
            "Rate" => "rate".to_owned(),
            _ => kind(schema, of),
        };
    }
    if let Some(several) = ["oneOf", "anyOf"].iter().find_map(|key| node[*key].as_array()) {
        let kinds: Vec<String> =
            several.iter().filter(|one| one["type"] != "null").map(|one| kind(schema, one)).collect();
        return kinds.join(", ");
    }
    if let Some(value) = node.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = node["enum"].as_array() {
        return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    }
    let of = |name: &str| match name {
        "string" => "text",
        "integer" | "number" => "number",
        "boolean" => "true or false",
        other => panic!("no word for {other}"),
    };
    match &node["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(schema, &node["items"])),
        Value::String(name) => of(name).to_owned(),
        Value::Array(names) => {
            let name = names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap();
            if name == "array" { format!("list of {}", kind(schema, &node["items"])) } else { of(name).to_owned() }
        }
        _ => "any".to_owned(),
    }
}

/// What each value of a word means, where the schema says so.
fn meanings(schema: &Value, node: &Value) -> String {
    let of = [node, &node["items"]].into_iter().find_map(|node| definition(schema, node)).map(|(_, of)| of);
    let nullable = || node["anyOf"].as_array()?.iter().find_map(|one| definition(schema, one)).map(|(_, of)| of);
    let values = of.or_else(nullable).and_then(|of| of["oneOf"].as_array());
    let said = values.into_iter().flatten().filter_map(|one| {
        let value = one["const"].as_str()?;
        Some(format!("`{value}`: {}", one["description"].as_str()?.trim_end_matches('.')))
    });
    said.collect::<Vec<_>>().join("; ")
}

fn write_table(schema: &Value, (path, several): (&str, bool), of: &Value, about: &str, out: &mut String) {
    if !path.is_empty() {
        let title = if several { format!("[[{path}]]") } else { format!("[{path}]") };
        out.push_str(&format!("\n## `{title}`\n\n{about}\n"));
    }
    let required: BTreeSet<&str> = of["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut rows = String::new();
    let mut below = Vec::new();
    for (key, node) in of["properties"].as_object().unwrap() {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let what = node["description"].as_str().unwrap_or_else(|| panic!("{at} has no description"));
        if let Some((several, inner)) = table(schema, node) {
            below.push((at, several, inner, what));
            continue;
        }
        let default = match &node["default"] {
            _ if required.contains(key.as_str()) => "required".to_owned(),
            Value::Null => "none".to_owned(),
            value => format!("`{value}`"),
        };
        let meanings = meanings(schema, node);
        let meanings = if meanings.is_empty() { meanings } else { format!(" {meanings}.") };
        let restart = if NEEDS_RESTART.contains(&at.as_str()) { " Needs a restart." } else { "" };
        let row = format!("| `{key}` | {} | {default} | {what}{meanings}{restart} |", kind(schema, node));
        rows.push_str(&row.replace('\n', " "));
        rows.push('\n');
    }
    if !rows.is_empty() {
        out.push_str(&format!("\n| key | value | default | what |\n|---|---|---|---|\n{rows}"));
    }
    for (path, several, inner, about) in below {
        write_table(schema, (&path, several), inner, about, out);
    }
}

#[test]
fn the_reference_of_keys_is_of_this_program() {
    let schema = schema();
    let mut out = String::from(
        "# Keys\n\nEvery key of the configuration file, made from the program's own schema (`destguard config schema`). `destguard config default` prints\n\
         a file with all of them. All keys apply by `destguard reload` unless it says \"Needs a restart\". A duration is a number and a unit:\n\
         `\"300ms\"`, `\"30s\"`, `\"5m\"`, `\"24h\"`, `\"30d\"`. A size has `B`, `KiB`, `MiB` or `GiB`. A rate is a number for each `s`, `m` or `h`: `\"100/s\"`.\n",
    );
    write_table(&schema, ("", false), &schema, "", &mut out);
    let path = docs("keys.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &out).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == out, "docs/keys.md is not of this program; UPDATE_DOCS=1 cargo test --test reference writes it");
}

/// Paths of routes in the source, but for the page's own files.
fn routes() -> BTreeSet<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control");
    let mut files = vec![sources.join("api.rs")];
    let below = std::fs::read_dir(sources.join("api")).unwrap().map(|entry| entry.unwrap().path());
    files.extend(below.filter(|path| path.extension().is_some_and(|end| end == "rs")));
    let mut found = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let after = text.split(".route(").skip(1);
        found.extend(after.filter_map(|rest| Some(rest.trim_start().strip_prefix('"')?.split('"').next()?.to_owned())));
    }
    found.retain(|path| path.starts_with("/api/") || ["/metrics", "/health", "/ready"].contains(&path.as_str()));
    found
}

#[test]
fn every_route_stands_in_the_reference() {
    let text = std::fs::read_to_string(docs("control-api.md")).unwrap();
    let named = |line: &str| line.split('`').skip(1).step_by(2).next().map(str::to_owned);
    let documented: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("| `GET /") || line.starts_with("| `POST /"))
        .filter_map(|line| Some(named(line)?.split_whitespace().nth(1)?.split('?').next()?.to_owned()))
        .collect();
    let routes = routes();
    assert!(routes.len() > 15, "{routes:?}");
    assert_eq!(documented, routes, "docs/control-api.md and the routes of src/control/api.rs");
}
