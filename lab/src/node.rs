//! One node: a network, mount and host name namespace, its files and its daemons.
//!
//! `/etc` and `/var` are overlays on the host's, `/run` is empty: what a node writes there is gone with it and nothing
//! of it reaches the host. Everything else is the host's file system.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::image::Daemons;
use crate::process::{Process, read_log, tail};
use crate::sys;
use crate::topology::{Bind, NodeSettings};
use crate::wait::wait_until;

const SETUP: &str = include_str!("setup.sh");
/// No command in a node may hang a test for ever.
const RUN_LIMIT: &str = "120";
/// For daemons to come up, on a machine that is busy.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A node. Cheap to clone; usable from any thread.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    network: File,
    /// Holds the mount namespace open.
    holder: Mutex<Child>,
    holder_pid: u32,
    logs: PathBuf,
    settings: NodeSettings,
    daemons: Mutex<Daemons>,
    running: Mutex<Vec<Process>>,
    next_log: AtomicU32,
}

impl Node {
    /// Makes the namespaces of a node, with its files and sysctls. `namespace` is recorded already.
    pub(crate) fn create(name: &str, namespace: &str, settings: &NodeSettings, run: &Path) -> Result<Self, Error> {
        host(&["ip", "netns", "add", namespace])?;
        let network_path = Path::new("/run/netns").join(namespace);
        let network = File::open(&network_path).map_err(Error::file(&network_path))?;
        let scratch = run.join(format!("{name}.scratch"));
        let logs = run.join(format!("{name}.logs"));
        for directory in [&scratch, &logs] {
            fs::create_dir_all(directory).map_err(Error::file(directory))?;
        }
        let place = format!("the namespaces of {name}");
        let mut holder = Command::new("nsenter")
            .arg(format!("--net={}", network_path.display()))
            .args(["--", "unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", SETUP, "setup.sh"])
            .arg(name)
            .arg(&scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .spawn()
            .map_err(Error::system(place.clone()))?;
        let mut said = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut said).map_err(Error::system(place.clone()))?;
        }
        if said.trim() != "ready" {
            let output = holder.wait_with_output().map_err(Error::system(place))?;
            return Err(command_error(name, "setup.sh", &output));
        }
        let node = Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                network,
                holder_pid: holder.id(),
                holder: Mutex::new(holder),
                logs,
                settings: settings.clone(),
                daemons: Mutex::default(),
                running: Mutex::default(),
                next_log: AtomicU32::new(0),
            }),
        };
        for bind in &settings.binds {
            node.put(bind)?;
        }
        node.set_sysctls()?;
        node.ok("ip link set lo up")?;
        Ok(node)
    }

    /// As in the topology file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The network namespace's name, as for `ip netns exec`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// What to put before a command line to run it in the node, for people.
    #[must_use]
    pub fn entrance(&self) -> String {
        format!("nsenter --target {} --mount --uts --net --", self.inner.holder_pid)
    }

    /// A command that will run in the node's namespaces, with the node's environment. It runs as the process whose id
    /// `Child::id` tells, so that it can be signalled.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--uts", "--net", "--target", &self.inner.holder_pid.to_string(), "--"])
            .arg(program)
            .envs(&self.inner.settings.env)
            .stdin(Stdio::null())
            .current_dir("/");
        command
    }

    /// Runs a shell command line to its end; after two minutes it is killed.
    ///
    /// # Errors
    /// [`Error::System`] when it could not be started. A failing command is not an error here.
    pub fn run(&self, line: &str) -> Result<Output, Error> {
        let mut command = self.command("timeout");
        command.args(["-k", "1", RUN_LIMIT, "sh", "-c", line]);
        command.output().map_err(Error::system(format!("{}: `{line}`", self.name())))
    }

    /// Runs a shell command line that must succeed; its stdout.
    ///
    /// # Errors
    /// [`Error::System`], [`Error::Command`].
    pub fn ok(&self, line: &str) -> Result<String, Error> {
        let output = self.run(line)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(command_error(self.name(), line, &output))
    }

    /// Starts a program that runs on until the guard is dropped; its output goes to a log.
    ///
    /// # Errors
    /// [`Error::System`], [`Error::File`].
    pub fn spawn(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<Process, Error> {
        let program = program.as_ref();
        let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
        self.spawn_named(&name, program, arguments)
    }

    fn spawn_named(&self, name: &str, program: &std::ffi::OsStr, arguments: &[&str]) -> Result<Process, Error> {
        let number = self.inner.next_log.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.logs.join(format!("{number:03}-{name}.log"));
        let log = File::create(&path).map_err(Error::file(&path))?;
        let both = log.try_clone().map_err(Error::file(&path))?;
        let child = self
            .command(program)
            .args(arguments)
            .stdout(log)
            .stderr(both)
            .spawn()
            .map_err(Error::system(format!("{}: {name}", self.name())))?;
        Ok(Process::new(name.to_owned(), child, path))
    }

    /// Runs `work` on a thread inside the node's network: sockets opened there stay in the node wherever they are used
    /// afterwards.
    ///
    /// # Errors
    /// [`Error::System`] when the namespace can't be entered. A panic of `work` goes on in the caller.
    pub fn in_namespace<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| sys::enter_network(&self.inner.network).map(|()| work()));
            match thread.join() {
                Ok(result) => result.map_err(Error::system(format!("the network of {}", self.name()))),
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// The path from outside of a file inside the node, for as long as the lab lives.
    #[must_use]
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        Path::new("/proc").join(self.inner.holder_pid.to_string()).join("root").join(relative)
    }

    /// The text of a file in the node.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn file(&self, inside: &str) -> Result<String, Error> {
        fs::read_to_string(self.path(inside)).map_err(Error::file(inside))
    }

    /// Writes a file in the node; its directories are made.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, inside: &str, text: &str) -> Result<(), Error> {
        let path = self.path(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::file(inside))?;
        }
        fs::write(path, text).map_err(Error::file(inside))
    }

    /// Starts the daemons that stand for the node's image, and waits until they are ready.
    ///
    /// # Errors
    /// [`Error::NotReady`] with the last of the log, [`Error::Command`].
    pub fn start(&self) -> Result<(), Error> {
        let daemons = self.inner.daemons.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for line in &daemons.prepare {
            self.ok(line)?;
        }
        for program in &daemons.programs {
            let Some((path, arguments)) = program.argv.split_first() else { continue };
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut process = self.spawn_named(&program.name, path.as_ref(), &arguments)?;
            let mut ended = false;
            let ready = program.ready.is_empty()
                || wait_until(READY_LIMIT, || {
                    ended = process.ended().is_some();
                    ended || self.run(&program.ready).is_ok_and(|output| output.status.success())
                });
            if ended || !ready {
                return Err(Error::NotReady {
                    node: self.name().to_owned(),
                    program: program.name.clone(),
                    reason: format!(
                        "{}\n{}",
                        if ended { "it ended" } else { "it does not answer" },
                        tail(&process.log(), 40)
                    ),
                });
            }
            self.running().push(process);
        }
        for line in &daemons.finish {
            self.ok(line)?;
        }
        Ok(())
    }

    /// Stops the node's daemons: SIGTERM, and SIGKILL after ten seconds.
    pub fn stop(&self) {
        let mut processes = std::mem::take(&mut *self.running());
        while let Some(mut process) = processes.pop() {
            if process.signal(libc::SIGTERM).is_ok() && process.wait(Duration::from_secs(10)).is_none() {
                eprintln!("lab: {}: {} did not stop on SIGTERM", self.name(), process.name());
            }
        }
    }

    /// Kills the node's daemons (SIGKILL), as a crash would.
    pub fn kill(&self) {
        self.running().clear();
    }

    /// Sends a signal to one of the node's daemons.
    ///
    /// # Errors
    /// [`Error::System`] when it is not running.
    pub fn signal(&self, program: &str, signal: i32) -> Result<(), Error> {
        let place = format!("{}: signal to {program}", self.name());
        let mut running = self.running();
        let process = running.iter_mut().find(|process| process.name() == program);
        let process = process
            .ok_or_else(|| Error::System { place: place.clone(), source: std::io::ErrorKind::NotFound.into() })?;
        process.signal(signal).map_err(Error::system(place))
    }

    /// The path of one of the node's daemons, running or not; for its command line client when they are one program.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<String> {
        let daemons = self.inner.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        let program = daemons.programs.iter().find(|program| program.name == name)?;
        program.argv.first().cloned()
    }

    /// The id of one of the node's daemons, as seen from outside.
    #[must_use]
    pub fn pid(&self, program: &str) -> Option<u32> {
        self.running().iter().find(|process| process.name() == program).map(Process::pid)
    }

    /// The logs of everything started in the node so far, each with its name.
    #[must_use]
    pub fn logs(&self) -> Vec<(String, String)> {
        let Ok(entries) = fs::read_dir(&self.inner.logs) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        paths
            .iter()
            .map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), read_log(path)))
            .collect()
    }

    pub(crate) fn settings(&self) -> &NodeSettings {
        &self.inner.settings
    }

    pub(crate) fn set_daemons(&self, daemons: Daemons) {
        *self.inner.daemons.lock().unwrap_or_else(PoisonError::into_inner) = daemons;
    }

    /// Ends everything of the node that this process knows; the rest is the cleaner's.
    pub(crate) fn end(&self) {
        self.kill();
        let mut holder = self.inner.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if holder.kill().is_ok() && holder.wait().is_err() {
            eprintln!("lab: the holder of {} can't be waited for", self.name());
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Process>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a file or directory into the node, so that nothing written there comes back to the source.
    fn put(&self, bind: &Bind) -> Result<(), Error> {
        let target = self.path(&bind.inside);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::file(&bind.inside))?;
        }
        let output = Command::new("cp").arg("-rT").arg(&bind.host).arg(&target).output();
        let output = output.map_err(Error::system("cp"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(command_error(self.name(), &format!("bind {}", bind.host.display()), &output))
    }

    fn set_sysctls(&self) -> Result<(), Error> {
        let sysctls = self.inner.settings.sysctls.clone();
        self.in_namespace(move || {
            for (name, value) in &sysctls {
                // /proc/sys/net shows the namespace of the thread that opens it.
                let path = Path::new("/proc/sys").join(name.replace('.', "/"));
                fs::write(&path, value).map_err(Error::file(path))?;
            }
            Ok(())
        })?
    }
}

/// Runs a command of the host that must succeed.
pub(crate) fn host(argv: &[&str]) -> Result<(), Error> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(Error::system(argv.join(" ")))?;
    if output.status.success() { Ok(()) } else { Err(command_error("host", &argv.join(" "), &output)) }
}

fn command_error(place: &str, command: &str, output: &Output) -> Error {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    Error::Command {
        place: place.to_owned(),
        command: command.to_owned(),
        reason: format!("{}\n{}{}", output.status, tail(&stdout, 20), tail(&stderr, 20)),
    }
}
