//! Removes a run's namespaces and processes: at its end, after a panic, and when the owner was killed.
//!
//! Every run has a directory below [`RUNS`] with its owner's process id and its namespaces. Beside it waits a small
//! shell (`destroy.sh`) on a pipe that only the owner holds. However the owner ends, the pipe closes and the shell
//! cleans up. There is no second way, so that the end of every test shows that the way for crashes works. What is left
//! when the shell was killed too is found by [`destroy_stale`].

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;

/// Where runs are recorded.
pub const RUNS: &str = "/run/dg-lab";

const DESTROY: &str = include_str!("destroy.sh");

/// One run's directory, and the shell that waits for its end.
#[derive(Debug)]
pub struct Run {
    id: String,
    directory: PathBuf,
    cleaner: Option<Child>,
}

impl Run {
    /// Begins a run. Its id is unique on this machine while this process lives.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::System`].
    pub fn begin() -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let id = format!("dg{pid}x{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(RUNS).join(&id);
        if directory.exists() {
            // An earlier process of the same id; it can't be alive.
            destroy(&directory)?;
        }
        fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
        let owner = format!("{pid} {}\n", started(pid).unwrap_or_default());
        write(&directory.join("owner"), &owner)?;
        let cleaner = Command::new("sh")
            .args(["-c", DESTROY, "destroy.sh"])
            .arg(&directory)
            .arg("wait")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Ctrl-C at a terminal goes to the whole foreground group; this one must outlive it.
            .process_group(0)
            .spawn()
            .map_err(Error::system("the cleaning shell"))?;
        Ok(Self { id, directory, cleaner: Some(cleaner) })
    }

    /// "dg1234x0": begins the name of every namespace of the run.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Logs and scratch of the run.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Records a namespace; to be called before it is made.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn record(&self, namespace: &str) -> Result<(), Error> {
        let path = self.directory.join("namespaces");
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file(&path))?;
        writeln!(file, "{namespace}").map_err(Error::file(&path))
    }

    /// Removes everything and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::Command`] when something could not be removed; it stays recorded for [`destroy_stale`].
    pub fn end(&mut self) -> Result<(), Error> {
        let Some(mut cleaner) = self.cleaner.take() else { return Ok(()) };
        drop(cleaner.stdin.take());
        let status = cleaner.wait().map_err(Error::system("the cleaning shell"))?;
        if status.success() && !self.directory.exists() { Ok(()) } else { destroy(&self.directory) }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("lab: {error}");
        }
    }
}

/// Removes the runs whose owner is dead; running ones stay. The names of those removed.
///
/// # Errors
/// [`Error::File`], [`Error::Command`].
pub fn destroy_stale() -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(RUNS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(removed),
        Err(error) => return Err(Error::File { path: RUNS.into(), source: error }),
    };
    for entry in entries {
        let path = entry.map_err(Error::file(RUNS))?.path();
        if !owner_alive(&path) {
            destroy(&path)?;
            removed.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    Ok(removed)
}

fn destroy(directory: &Path) -> Result<(), Error> {
    let output = Command::new("sh")
        .args(["-c", DESTROY, "destroy.sh"])
        .arg(directory)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system("destroy.sh"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        place: "host".to_owned(),
        command: format!("destroy.sh {}", directory.display()),
        reason: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A process id comes round again; its start time tells two apart.
fn owner_alive(run: &Path) -> bool {
    let Ok(owner) = fs::read_to_string(run.join("owner")) else {
        // Just being made, or broken. A young one may be in the making.
        return fs::metadata(run)
            .and_then(|data| data.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 10));
    };
    let mut words = owner.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let start = words.next();
    pid.is_some_and(|pid| started(pid).is_some_and(|now| Some(now.as_str()) == start))
}

/// When a process began, in clock ticks since boot (field 22 of proc(5) stat); `None` when there is none.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in brackets and may hold blanks.
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::file(path))
}
