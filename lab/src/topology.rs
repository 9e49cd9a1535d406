//! The containerlab file: what of it the runner honours, and the order in which settings are merged.
//!
//! Settings of a node come from `defaults`, then `kinds`, then `groups`, then the node; the most specific wins. Maps
//! merge key by key, `exec` and `binds` are appended in that order (of two binds to one place the later wins). A key that
//! is not honoured is an error, so that nothing is silently different from containerlab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// What ends of links may be called that are no nodes: the machine itself, its bridge, and so on.
const RESERVED: [&str; 6] = ["host", "mgmt-net", "macvlan", "vxlan", "vxlan-stitch", "dummy"];

/// A topology, merged and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The lab's name.
    pub name: String,
    /// The nodes, by name.
    pub nodes: BTreeMap<String, NodeSettings>,
    /// Pairs of ends.
    pub links: Vec<[Endpoint; 2]>,
    /// Where the file lies; binds are relative to it.
    pub directory: PathBuf,
}

/// What one node is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// "linux" or "bridge".
    pub kind: String,
    /// A container image; stands for local daemons.
    pub image: String,
    /// Commands run once all links are up, in order.
    pub exec: Vec<String>,
    /// Files and directories put into the node.
    pub binds: Vec<Bind>,
    /// For every program of the node.
    pub env: BTreeMap<String, String>,
    /// Dotted, as for sysctl(8).
    pub sysctls: BTreeMap<String, String>,
    /// Replaces the image's program.
    pub entrypoint: Option<String>,
    /// The program's arguments.
    pub cmd: Option<String>,
    /// As a container it may do everything. Here every node may do what root may in its namespaces.
    pub privileged: bool,
    /// What it may do besides as a container.
    pub cap_add: Vec<String>,
}

/// A file of the host that a node sees: `host:inside[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Relative to the topology file.
    pub host: PathBuf,
    /// Absolute, in the node.
    pub inside: PathBuf,
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The node's name.
    pub node: String,
    /// The interface's name in it.
    pub interface: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    topology: RawTopology,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTopology {
    #[serde(default)]
    defaults: RawNode,
    #[serde(default)]
    kinds: BTreeMap<String, RawNode>,
    #[serde(default)]
    groups: BTreeMap<String, RawNode>,
    nodes: BTreeMap<String, Option<RawNode>>,
    #[serde(default)]
    links: Vec<RawLink>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawNode {
    kind: Option<String>,
    image: Option<String>,
    group: Option<String>,
    exec: Vec<String>,
    binds: Vec<String>,
    env: BTreeMap<String, Scalar>,
    sysctls: BTreeMap<String, Scalar>,
    labels: BTreeMap<String, Scalar>,
    entrypoint: Option<String>,
    cmd: Option<String>,
    network_mode: Option<String>,
    privileged: Option<bool>,
    cap_add: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    endpoints: Vec<String>,
}

/// YAML writes numbers and truth values without quotes; they are text to the node all the same.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Truth(bool),
    Number(i64),
    Text(String),
}

impl From<Scalar> for String {
    fn from(value: Scalar) -> Self {
        match value {
            Scalar::Truth(truth) => truth.to_string(),
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text,
        }
    }
}

impl RawNode {
    /// `other` is more specific.
    fn overlay(&mut self, other: &Self) {
        let text = |mine: &mut Option<String>, theirs: &Option<String>| {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        };
        text(&mut self.kind, &other.kind);
        text(&mut self.image, &other.image);
        text(&mut self.group, &other.group);
        text(&mut self.entrypoint, &other.entrypoint);
        text(&mut self.cmd, &other.cmd);
        text(&mut self.network_mode, &other.network_mode);
        self.privileged = other.privileged.or(self.privileged);
        self.cap_add
            .extend(other.cap_add.iter().filter(|name| !self.cap_add.contains(name)).cloned().collect::<Vec<_>>());
        self.exec.extend(other.exec.iter().cloned());
        self.binds.extend(other.binds.iter().cloned());
        self.env.extend(other.env.clone());
        self.sysctls.extend(other.sysctls.clone());
        self.labels.extend(other.labels.clone());
    }
}

impl Topology {
    /// Reads and merges a file.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Topology`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        let path = path.canonicalize().map_err(Error::file(path))?;
        let directory = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
        Self::parse(&text, directory).map_err(|reason| Error::Topology { path, reason })
    }

    /// Merges the text of a file that lies in `directory`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str, directory: PathBuf) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let raw = file.topology;
        let mut nodes = BTreeMap::new();
        for (name, node) in raw.nodes {
            if !valid_name(&name) {
                return Err(format!("node name {name:?}: letters, digits, - and _ only, at most 32"));
            }
            if RESERVED.contains(&name.as_str()) {
                return Err(format!("node name {name:?}: in links it means something else to containerlab"));
            }
            let node = node.unwrap_or_default();
            let kind = node.kind.clone().or_else(|| raw.defaults.kind.clone());
            let kind = kind.ok_or_else(|| format!("node {name}: no kind"))?;
            let of_kind = raw.kinds.get(&kind);
            let group = node.group.clone().or_else(|| of_kind.and_then(|k| k.group.clone()));
            let group = group.or_else(|| raw.defaults.group.clone());
            let mut merged = raw.defaults.clone();
            if let Some(of_kind) = of_kind {
                merged.overlay(of_kind);
            }
            if let Some(group) = group {
                let of_group = raw.groups.get(&group).ok_or_else(|| format!("node {name}: no group {group:?}"))?;
                merged.overlay(of_group);
            }
            merged.overlay(&node);
            let settings = settle(merged, kind, &directory).map_err(|reason| format!("node {name}: {reason}"))?;
            nodes.insert(name, settings);
        }
        let mut links = Vec::new();
        for link in raw.links {
            let ends: Vec<Endpoint> = link.endpoints.iter().map(|end| endpoint(end)).collect::<Result<_, _>>()?;
            let ends: [Endpoint; 2] = ends.try_into().map_err(|_| "a link has two endpoints".to_owned())?;
            for end in &ends {
                if !nodes.contains_key(&end.node) {
                    return Err(format!("link to {}: no such node", end.node));
                }
            }
            links.push(ends);
        }
        Ok(Self { name: file.name, nodes, links, directory })
    }
}

fn settle(raw: RawNode, kind: String, directory: &Path) -> Result<NodeSettings, String> {
    if kind != "linux" {
        return Err(format!("kind {kind:?} has no namespace form; only \"linux\" has"));
    }
    // The management network would be a second way around the routers.
    match raw.network_mode.as_deref() {
        Some("none") => {}
        other => return Err(format!("network-mode must be \"none\", not {other:?}")),
    }
    let mut binds: Vec<Bind> = Vec::new();
    for text in &raw.binds {
        let bind = bind(text, directory)?;
        binds.retain(|known| known.inside != bind.inside);
        binds.push(bind);
    }
    let strings = |map: BTreeMap<String, Scalar>| map.into_iter().map(|(key, value)| (key, value.into())).collect();
    Ok(NodeSettings {
        kind,
        image: raw.image.unwrap_or_default(),
        // containerlab's escape for its own variables
        exec: raw.exec.iter().map(|command| command.replace("$$", "$")).collect(),
        binds,
        env: strings(raw.env),
        sysctls: strings(raw.sysctls),
        entrypoint: raw.entrypoint,
        cmd: raw.cmd,
        // containerlab's default.
        privileged: raw.privileged.unwrap_or(true),
        cap_add: raw.cap_add,
    })
}

fn bind(text: &str, directory: &Path) -> Result<Bind, String> {
    let mut parts = text.split(':');
    let (Some(host), Some(inside), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(format!("bind {text:?} is not host:inside[:ro]"));
    };
    if !matches!(mode, None | Some("ro" | "rw")) {
        return Err(format!("bind {text:?}: mode is ro or rw"));
    }
    if !inside.starts_with('/') {
        return Err(format!("bind {text:?}: the inside path is not absolute"));
    }
    Ok(Bind { host: directory.join(host), inside: PathBuf::from(inside) })
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (node, interface) = text.split_once(':').ok_or_else(|| format!("endpoint {text:?} is not node:interface"))?;
    if interface.is_empty() || interface.len() > 15 || interface == "eth0" {
        return Err(format!("endpoint {text:?}: an interface name has 1 to 15 letters and is not eth0"));
    }
    Ok(Endpoint { node: node.to_owned(), interface: interface.to_owned() })
}

fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests;
