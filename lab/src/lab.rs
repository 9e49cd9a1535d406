//! A whole topology: namespaces, links, commands, daemons, in that order; and its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cleanup::Run;
use crate::error::Error;
use crate::image;
use crate::node::{Node, host};
use crate::process::tail;
use crate::sys;
use crate::topology::Topology;

/// A running lab. Removed when dropped, also by a panic; when the process is killed, by the shell in [`crate::cleanup`].
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    nodes: BTreeMap<String, Node>,
    run: Run,
}

/// How a lab is to be brought up.
#[derive(Clone, Debug)]
pub struct Builder {
    file: PathBuf,
    destguard: Option<PathBuf>,
    held: Vec<String>,
}

impl Builder {
    /// The binary that stands for destguard's image. Without it the environment's DESTGUARD_BIN counts.
    #[must_use]
    pub fn destguard(mut self, binary: impl Into<PathBuf>) -> Self {
        self.destguard = Some(binary.into());
        self
    }

    /// Does not start this node's daemons; [`Node::start`] does later.
    #[must_use]
    pub fn hold(mut self, node: &str) -> Self {
        self.held.push(node.to_owned());
        self
    }

    /// Brings it up, and waits until every daemon is ready.
    ///
    /// # Errors
    /// Whatever failed first; everything is removed again.
    pub fn up(self) -> Result<Lab, Error> {
        if !sys::is_root() {
            return Err(Error::NotRoot);
        }
        let topology = Topology::read(&self.file)?;
        let mut lab = Lab { topology, nodes: BTreeMap::new(), run: Run::begin()? };
        lab.make_nodes()?;
        lab.make_links()?;
        lab.run_commands()?;
        lab.start_daemons(&self)?;
        Ok(lab)
    }
}

impl Lab {
    /// Brings a topology up. The path is looked for from the current directory and the ones above it, so that tests of
    /// every crate of the workspace can name it from the workspace's root.
    ///
    /// # Errors
    /// Whatever failed first; everything is removed again.
    pub fn up(file: impl AsRef<Path>) -> Result<Self, Error> {
        Self::builder(file).up()
    }

    /// Like [`Lab::up`], with choices.
    #[must_use]
    pub fn builder(file: impl AsRef<Path>) -> Builder {
        let destguard = std::env::var_os("DESTGUARD_BIN").map(PathBuf::from);
        Builder { file: find(file.as_ref()), destguard, held: Vec::new() }
    }

    /// A node by its name.
    ///
    /// # Panics
    /// When the topology has none of that name: the test is wrong, not the lab.
    #[must_use]
    #[expect(clippy::panic, reason = "a harness: a wrong name is a mistake in the test, and every caller would unwrap")]
    pub fn node(&self, name: &str) -> &Node {
        match self.nodes.get(name) {
            Some(node) => node,
            None => panic!("the lab has no node {name:?}"),
        }
    }

    /// Every node of the lab, in the order of names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The run's id, which begins the name of each of its namespaces.
    #[must_use]
    pub fn id(&self) -> &str {
        self.run.id()
    }

    /// Logs and scratch of the run; removed with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.run.directory()
    }

    /// The last lines of every log.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for node in self.nodes.values() {
            for (name, log) in node.logs() {
                if !log.is_empty() {
                    text.push_str(&format!("--- {} {name}\n{}", node.name(), tail(&log, 40)));
                }
            }
        }
        text
    }

    /// Removes everything, and says when that failed. Dropping does the same.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn down(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        for node in self.nodes.values() {
            node.end();
        }
        self.run.end()
    }

    fn make_nodes(&mut self) -> Result<(), Error> {
        for (name, settings) in &self.topology.nodes {
            let namespace = format!("{}-{name}", self.run.id());
            self.run.record(&namespace)?;
            let node = Node::create(name, &namespace, settings, self.run.directory())?;
            self.nodes.insert(name.clone(), node);
        }
        Ok(())
    }

    /// Both ends are made inside their namespaces: no interface ever exists in the root one.
    fn make_links(&self) -> Result<(), Error> {
        for [a, b] in &self.topology.links {
            let (na, nb) = (self.node(&a.node), self.node(&b.node));
            let (ia, ib) = (a.interface.as_str(), b.interface.as_str());
            host(&[
                "ip",
                "-n",
                na.namespace(),
                "link",
                "add",
                ia,
                "type",
                "veth",
                "peer",
                "name",
                ib,
                "netns",
                nb.namespace(),
            ])?;
            host(&["ip", "-n", na.namespace(), "link", "set", ia, "up"])?;
            host(&["ip", "-n", nb.namespace(), "link", "set", ib, "up"])?;
        }
        Ok(())
    }

    fn run_commands(&self) -> Result<(), Error> {
        for node in self.nodes.values() {
            for line in &node.settings().exec {
                node.ok(line)?;
            }
        }
        Ok(())
    }

    /// After the commands, since those give the addresses: no daemon has to wait for a retry of its first connection.
    /// (containerlab starts the image first; there the daemons' own retries make up for it.)
    fn start_daemons(&self, wanted: &Builder) -> Result<(), Error> {
        let mut ranked = Vec::new();
        for node in self.nodes.values() {
            let held = wanted.held.iter().any(|name| name == node.name());
            let read = |path: &str| node.file(path).ok();
            match image::daemons(node.settings(), &read, wanted.destguard.as_deref()) {
                Ok(daemons) => {
                    let rank = daemons.rank;
                    node.set_daemons(daemons);
                    if !held {
                        ranked.push((rank, node));
                    }
                }
                // A held node may be used for something else, and then needs no daemon.
                Err(_) if held => {}
                Err(reason) => {
                    let path = self.topology.directory.clone();
                    return Err(Error::Topology { path, reason: format!("node {}: {reason}", node.name()) });
                }
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.iter().try_for_each(|(_, node)| node.start())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("lab {}: the daemons' logs\n{}", self.id(), self.logs());
        }
        if let Err(error) = self.end() {
            eprintln!("lab: {error}");
        }
    }
}

/// Looks for a relative path from here upwards.
fn find(file: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors().map(|directory| directory.join(file)).find(|path| path.exists()).unwrap_or_else(|| file.to_owned())
}
