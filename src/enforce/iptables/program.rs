//! The programs: where they are, which of the two variants a host uses, and what they say. For rules only, never per answer.
//!
//! `iptables` comes as "legacy", with tables of its own in the kernel, and as "nft", with tables of nf_tables. A host may have both, and rules in both are in force.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::rules::{Family, Saved};

/// Where they may be. Fixed, since what runs with our privileges must not depend on `PATH`.
const PLACES: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/run/current-system/sw/bin"];
/// What those of the legacy variant lock, against each other.
pub const LOCK: &str = "/run/xtables.lock";
/// How long they wait for it, in seconds.
const PATIENCE: &str = "10";
/// The longest standard error that is passed on.
const WORDS: usize = 600;

/// Why the programs did not do as they were told.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// This host lacks them.
    #[error("iptables-restore and ip6tables-restore were not found in {}; the package iptables has them", PLACES.join(", "))]
    Missing,
    /// None of them was chosen.
    #[error("there is no iptables")]
    NoneChosen,
    /// No rules were put in force by them.
    #[error("nothing is installed")]
    NotUsed,
    /// One can't be run, or can't be told or heard.
    #[error("{}: {source}", path.display())]
    Run {
        /// The program's path.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// One ended with an error.
    #[error("{}: {said}", path.display())]
    Refused {
        /// The program's path.
        path: PathBuf,
        /// Its standard error, shortened and on one line.
        said: String,
    },
}

impl ProgramError {
    fn run(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Run { path: path.to_owned(), source }
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// Tables of nf_tables.
    Nft,
    /// Tables of its own.
    Legacy,
}

impl Variant {
    /// As it is named.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// `save` and `restore` of one variant, for both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Which of the two programs it is, legacy or over nf_tables.
    pub variant: Variant,
    save: [PathBuf; 2],
    restore: [PathBuf; 2],
}

fn find(name: &str) -> Option<PathBuf> {
    PLACES.into_iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

/// The variant that goes by the plain name.
fn default_variant() -> Option<Variant> {
    let said = Command::new(find("iptables")?).arg("--version").output().ok()?;
    let nft = String::from_utf8_lossy(&said.stdout).contains("nf_tables");
    Some(if nft { Variant::Nft } else { Variant::Legacy })
}

/// Every program that may be run.
#[must_use]
pub fn all() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for family in ["iptables", "ip6tables"] {
        all.extend(find(family));
        for variant in ["", "-nft", "-legacy"] {
            all.extend(["save", "restore"].into_iter().filter_map(|word| find(&format!("{family}{variant}-{word}"))));
        }
    }
    all
}

impl Programs {
    fn of(variant: Variant, default: Option<Variant>) -> Option<Self> {
        let named = |infix: &str| {
            let both = |word: &str| {
                Some([find(&format!("iptables{infix}-{word}"))?, find(&format!("ip6tables{infix}-{word}"))?])
            };
            Some(Self { variant, save: both("save")?, restore: both("restore")? })
        };
        named(&format!("-{}", variant.name())).or_else(|| named("").filter(|_| default == Some(variant)))
    }

    /// Those that this host has.
    ///
    /// # Errors
    /// None.
    pub fn available() -> Result<Vec<Self>, ProgramError> {
        let default = default_variant();
        let all: Vec<Self> =
            [Variant::Nft, Variant::Legacy].into_iter().filter_map(|variant| Self::of(variant, default)).collect();
        if all.is_empty() {
            return Err(ProgramError::Missing);
        }
        Ok(all)
    }

    /// The variant to use: where our rules are, else where the only rules of others are, else what `iptables` is.
    ///
    /// # Errors
    /// None is there, or the kernel's.
    pub fn choose() -> Result<Self, ProgramError> {
        let mut all = Self::available()?;
        if all.len() > 1 {
            // What can't be read is not used.
            let saved: Vec<Saved> =
                all.iter().map(|programs| programs.save(Family::V4, "filter").unwrap_or_default()).collect();
            let only = |holds: fn(&Saved) -> bool| {
                let mut found = saved.iter().enumerate().filter(|(_, saved)| holds(saved)).map(|(place, _)| place);
                found.next().filter(|_| found.next().is_none())
            };
            let default = default_variant();
            let by_name = || all.iter().position(|programs| Some(programs.variant) == default);
            let place = only(Saved::has_ours).or_else(|| only(Saved::is_used)).or_else(by_name).unwrap_or(0);
            return Ok(all.swap_remove(place));
        }
        all.pop().ok_or(ProgramError::NoneChosen)
    }

    /// What a table holds. One that nobody has used yet is not made by this.
    ///
    /// # Errors
    /// The program's words.
    pub fn save(&self, family: Family, table: &str) -> Result<Saved, ProgramError> {
        self.saved_text(family, table, false).map(|text| Saved::read(&text))
    }

    /// The same as text, with counters where they are wanted.
    ///
    /// # Errors
    /// The program's words.
    pub fn saved_text(&self, family: Family, table: &str, counters: bool) -> Result<String, ProgramError> {
        if self.variant == Variant::Legacy && !legacy_has(family, table) {
            return Ok(String::new());
        }
        let path = &self.save[usize::from(family == Family::V6)];
        let mut command = Command::new(path);
        command.args(["-t", table]);
        if counters {
            command.arg("-c");
        }
        let output = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(ProgramError::run(path))?;
        if !output.status.success() {
            return Err(words(path, &output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Changes a table in one step.
    ///
    /// # Errors
    /// The program's words: nothing was changed.
    pub fn restore(&self, family: Family, text: &str) -> Result<(), ProgramError> {
        let path = &self.restore[usize::from(family == Family::V6)];
        let mut child = Command::new(path)
            .args(["--noflush", "-w", PATIENCE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ProgramError::run(path))?;
        // It says little before it has read all, so neither side waits for the other.
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(ProgramError::run(path))?;
        if !output.status.success() {
            return Err(words(path, &output.stderr));
        }
        written.map_err(ProgramError::run(path))
    }
}

/// Whether the legacy variant has this table. To ask the program would make it.
fn legacy_has(family: Family, table: &str) -> bool {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match std::fs::read_to_string(names) {
        Ok(names) => names.lines().any(|name| name == table),
        // Only root may read it; there may be one.
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

fn words(path: &Path, said: &[u8]) -> ProgramError {
    let said = String::from_utf8_lossy(said);
    let said: Vec<&str> =
        said.lines().map(str::trim).filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let said: String = said.join("; ").chars().take(WORDS).collect();
    ProgramError::Refused { path: path.to_owned(), said }
}
