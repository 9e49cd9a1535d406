//! Each image that a topology names has a recipe here or is a vendor's, and the recipes hold what the labs need. Without Docker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Of which a user brings their own: see each vendor's terms.
const VENDORS: [&str; 5] = [
    "ceos:4.32.0F",
    "ghcr.io/nokia/srlinux:24.10.1",
    "ios-xr/xrd-control-plane:24.2.1",
    "vrnetlab/juniper_vjunos-router:23.4R2",
    "vrnetlab/mikrotik_routeros:7.15",
];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = here().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn topologies() -> Vec<PathBuf> {
    let labs = std::fs::read_dir(here()).unwrap().map(|entry| entry.unwrap().path());
    let files = labs.map(|lab| lab.join(format!("{}.clab.yml", lab.file_name().unwrap().to_string_lossy())));
    files.filter(|file| file.exists()).collect()
}

/// Everything that stands behind `image:` in a file.
fn images(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match inner.as_str() {
                    Some(image) if key == "image" => _ = found.insert(image.to_owned()),
                    _ => images(inner, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| images(inner, found)),
        _ => {}
    }
}

/// Stages of the Dockerfile, with all that those hold which each stands on.
fn stages() -> BTreeMap<String, String> {
    let mut stages: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in read("images/Dockerfile").lines() {
        if let Some(words) = line.strip_prefix("FROM ") {
            let (from, name) = words.split_once(" AS ").unwrap();
            let below = stages.get(from).cloned();
            assert!(below.is_some() || from == "${BASE}", "{line}: no such stage before it");
            current = name.to_owned();
            stages.insert(current.clone(), below.unwrap_or_default());
        } else if !current.is_empty() {
            let text = stages.get_mut(&current).unwrap();
            text.push_str(line);
            text.push('\n');
        }
    }
    stages
}

/// Image and stage, as `images/build` has them.
fn recipes() -> BTreeMap<String, String> {
    let script = read("images/build");
    let (_, list) = script.split_once("\nall=(\n").unwrap();
    let (list, _) = list.split_once("\n)\n").unwrap();
    list.lines()
        .map(|line| line.trim().split_once('=').unwrap())
        .map(|(image, stage)| (image.to_owned(), stage.to_owned()))
        .collect()
}

#[test]
fn every_image_has_a_recipe_or_is_a_vendors() {
    let mut named = BTreeSet::new();
    for file in topologies() {
        images(&serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap(), &mut named);
    }
    let (recipes, stages) = (recipes(), stages());
    let full = |image: &str| if image.contains(':') { image.to_owned() } else { format!("{image}:latest") };
    for image in &named {
        assert!(recipes.contains_key(&full(image)) || VENDORS.contains(&image.as_str()), "{image} comes from nowhere");
    }
    for vendor in VENDORS {
        assert!(named.contains(vendor), "{vendor} is no lab's");
    }
    for (image, stage) in &recipes {
        assert!(stages.contains_key(stage), "{image}: no stage {stage}");
        assert!(named.iter().any(|other| full(other) == *image), "{image} is no lab's");
    }
}

#[test]
fn recipes_hold_what_the_labs_need() {
    let stages = stages();
    for (stage, needs) in [
        ("host", &["iproute2", "dnsutils", "busybox", "iputils-ping"][..]),
        ("internet", &["dnsmasq-base", "COPY internet/", "internet/serve"]),
        ("bird", &["bird2", "/etc/bird/bird.conf", "/run/bird"]),
        ("frr", &[" frr ", "COPY frr/", "frr/serve"]),
        ("gobgp", &["gobgpd", "--config-file=/etc/gobgp/gobgpd.toml"]),
        ("openbgpd", &["openbgpd", "/etc/bgpd.conf", "-m 600"]),
        ("destguard", &["nftables", "COPY destguard ", "/etc/destguard/destguard.toml"]),
    ] {
        for need in needs {
            assert!(stages[stage].contains(need), "stage {stage} lacks {need}:\n{}", stages[stage]);
        }
    }
    // What is copied in is there, and what a container begins with has a shell's leave to fail.
    for script in ["images/internet/serve", "images/frr/serve"] {
        assert!(read(script).contains("\nset -e\n") && read(script).contains("\nexec "), "{script}");
    }
    // The far side's names lead to addresses that the guards may open.
    let names = read("images/internet/names.conf");
    for address in ["203.0.113.80", "2001:db8:ff::80"] {
        assert!(names.contains(address), "{address}");
    }
    for file in topologies() {
        for guard in ["guard", "guard1", "gateway", "laptop"] {
            let Ok(text) = std::fs::read_to_string(file.parent().unwrap().join(guard).join("destguard.toml")) else {
                continue;
            };
            assert!(text.contains("203.0.113.0/24") && text.contains("2001:db8:ff::/48"), "{}", file.display());
        }
    }
}

/// What can't be shown is said before anything is built.
#[test]
fn containers_says_what_it_can_not_show() {
    for (lab, says) in [("ceos", "ceos needs its vendor's image"), ("nothing", "no lab \"nothing\" in lab/")] {
        let output = Command::new(here().join("containers")).arg(lab).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(says), "{lab}: {text}");
    }
}

/// `lab/containers` knows every lab that needs no vendor's image, and no other.
#[test]
fn containers_shows_every_lab_that_needs_no_vendor() {
    let script = read("containers");
    let list = script
        .lines()
        .find_map(|line| line.split_once("labs=(")?.1.strip_suffix(')').filter(|list| !list.contains('"')));
    let mut listed: Vec<&str> = list.unwrap().split(' ').collect();
    listed.sort_unstable();
    let mut free = Vec::new();
    for file in topologies() {
        let mut named = BTreeSet::new();
        images(&serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap(), &mut named);
        if named.iter().all(|image| !VENDORS.contains(&image.as_str())) {
            free.push(file.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    free.sort();
    assert_eq!(listed, free);
}
