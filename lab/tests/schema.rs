//! Every topology file is valid containerlab, and the runner honours all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use lab::topology::Topology;
use serde_json::Value;

fn clab_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(".clab.yml") {
                found.push(path);
            }
        }
    }
    found
}

/// JSON Schema draft 7, as much of it as containerlab's schema uses. A keyword it does not know fails the test.
fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Value::Bool(allowed) = schema {
        return if *allowed { Ok(()) } else { Err(format!("{at}: not allowed")) };
    }
    let empty = serde_json::Map::new();
    for (keyword, says) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let target = root.pointer(says.as_str().unwrap().trim_start_matches('#')).unwrap();
                check(root, target, value, at)?;
            }
            "type" => {
                let types = says.as_array().cloned().unwrap_or_else(|| vec![says.clone()]);
                if !types.iter().any(|name| is(value, name.as_str().unwrap())) {
                    return Err(format!("{at}: {value} is not {says}"));
                }
            }
            "enum" => {
                if !says.as_array().unwrap().contains(value) {
                    return Err(format!("{at}: {value} is none of {says}"));
                }
            }
            "const" if says != value => return Err(format!("{at}: {value} is not {says}")),
            "required" if value.is_object() => {
                for key in says.as_array().unwrap() {
                    value.get(key.as_str().unwrap()).ok_or_else(|| format!("{at}: no {key}"))?;
                }
            }
            "properties" => {
                for (key, inner) in value.as_object().unwrap_or(&empty) {
                    if let Some(schema) = says.get(key) {
                        check(root, schema, inner, &format!("{at}.{key}"))?;
                    }
                }
            }
            "patternProperties" => {
                // Both patterns in use match every name that Topology::read lets pass.
                for (key, inner) in value.as_object().unwrap_or(&empty) {
                    for schema in says.as_object().unwrap().values() {
                        check(root, schema, inner, &format!("{at}.{key}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = |key: &String| {
                    schema.get("patternProperties").is_some()
                        || schema.get("properties").is_some_and(|properties| properties.get(key).is_some())
                };
                for (key, inner) in value.as_object().unwrap_or(&empty) {
                    if !known(key) {
                        check(root, says, inner, &format!("{at}.{key}"))?;
                    }
                }
            }
            "items" => {
                for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, says, inner, &format!("{at}[{index}]"))?;
                }
            }
            // A keyword of a later draft than the schema names; containerlab means a schema for each place.
            "prefixItems" => {
                for (inner, schema) in value.as_array().into_iter().flatten().zip(says.as_array().unwrap()) {
                    check(root, schema, inner, at)?;
                }
            }
            "additionalItems" => {
                let placed = schema.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                for inner in value.as_array().into_iter().flatten().skip(placed) {
                    check(root, says, inner, at)?;
                }
            }
            "minItems" | "maxItems" => {
                let (limit, length) = (says.as_u64().unwrap(), value.as_array().map_or(0, Vec::len) as u64);
                if value.is_array() && (if keyword == "minItems" { length < limit } else { length > limit }) {
                    return Err(format!("{at}: {length} items"));
                }
            }
            "anyOf" | "oneOf" => {
                let tried: Vec<_> =
                    says.as_array().unwrap().iter().map(|schema| check(root, schema, value, at)).collect();
                if !tried.iter().any(Result::is_ok) {
                    return Err(format!("{at}: {tried:?}"));
                }
            }
            "allOf" => {
                for schema in says.as_array().unwrap() {
                    check(root, schema, value, at)?;
                }
            }
            // Conditions on kinds and types that no file here uses; `then` counts only where `if` holds.
            "if" if check(root, says, value, at).is_ok() => {
                if let Some(then) = schema.get("then") {
                    check(root, then, value, at)?;
                }
            }
            "const"
            | "required"
            | "if"
            | "then"
            | "else"
            | "$id"
            | "$schema"
            | "title"
            | "definitions"
            | "description"
            | "markdownDescription"
            | "examples"
            | "default"
            | "pattern"
            | "uniqueItems"
            | "minimum"
            | "maximum"
            | "format"
            | "deprecated"
            | "deprecationMessage"
            | "minLength" => {}
            other => panic!("{at}: the schema says {other}, which this test does not know"),
        }
    }
    Ok(())
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    }
}

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/clab.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The kind of the router where it is not one that a namespace can stand for.
fn vendor(topology: &Value) -> Option<&str> {
    topology["topology"]["nodes"]["router"]["kind"].as_str().filter(|kind| *kind != "linux")
}

#[test]
fn every_topology_is_containerlabs_and_ours() {
    let schema = schema();
    let files = clab_files();
    assert!(files.len() >= 2, "{files:?}");
    let mut vendors = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        check(&schema, &schema, &value, &file.display().to_string()).unwrap();
        if let Some(vendor) = vendor(&value) {
            vendors.push(vendor.to_owned());
            // No namespace can stand for it: the runner says so, and brings nothing up by half.
            Topology::read(&file).unwrap_err();
            let directory = file.parent().unwrap();
            assert_eq!(directory.file_name().unwrap().to_str(), value["name"].as_str());
            let router = &value["topology"]["nodes"]["router"];
            let config = std::fs::read_to_string(directory.join(router["startup-config"].as_str().unwrap())).unwrap();
            for part in ["10.0.2.2", "fd00:2::2", "10.0.3.2", "65010", "65020", "lab-secret", "2001:db8:53::53"] {
                assert!(config.contains(part), "{}: no {part}", file.display());
            }
            assert!(directory.join("guard/destguard.toml").exists());
            continue;
        }
        let topology = Topology::read(&file).unwrap();
        // containerlab's convention: frr/frr.clab.yml has the name frr.
        let directory = file.parent().unwrap().file_name().unwrap();
        assert_eq!(file.file_name().unwrap().to_str().unwrap(), format!("{}.clab.yml", topology.name));
        assert_eq!(directory.to_str().unwrap(), topology.name);
        for (name, node) in &topology.nodes {
            assert!(!node.privileged && node.cap_add.contains(&"NET_ADMIN".to_owned()), "{}: {name}", file.display());
            for bind in &node.binds {
                assert!(bind.host.exists(), "{name}: {}", bind.host.display());
            }
            for line in &node.exec {
                // containerlab runs commands without a shell; the runner has one.
                let plain = !line.contains(['|', '&', ';', '<', '>', '$', '*', '`']);
                assert!(plain || line.starts_with("sh -c "), "{name}: {line}");
            }
        }
    }
    vendors.sort();
    assert_eq!(vendors, ["arista_ceos", "cisco_xrd", "juniper_vjunosrouter", "mikrotik_ros", "nokia_srlinux"]);
}

#[test]
fn the_check_finds_what_is_wrong() {
    let schema = schema();
    let good = "name: x\ntopology:\n  nodes:\n    a: {kind: linux}\n  links:\n    - endpoints: [\"a:e1\", \"a:e2\"]\n";
    let run = |text: &str| check(&schema, &schema, &serde_saphyr::from_str::<Value>(text).unwrap(), "x");
    run(good).unwrap();
    for (from, to) in [
        ("kind: linux", "kind: linix"),
        ("kind: linux", "knid: linux"),
        ("kind: linux", "kind: linux, exec: 5"),
        ("endpoints", "endpoint"),
        ("name: x\n", ""),
        ("nodes:", "noodles:"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good);
        run(&text).expect_err(to);
    }
}
