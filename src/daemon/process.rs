//! What the daemon's own process may do, and what `status` says of it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use caps::CapSet;

use crate::config::Config;
use crate::config::schema::NftablesMode;
use crate::control::types;
use crate::enforce::iptables::{self, program::LOCK};
use crate::enforce::nftables;
use crate::sys::confine::{Confined, Needs, confine};
use crate::sys::privileges::PrivilegeError;

/// How far the process was confined when it started.
#[derive(Debug, Default)]
pub struct Process {
    confined: Confined,
    /// What went wrong with that, in words: a warning, where the kernel could do it.
    pub troubles: Vec<String>,
}

/// Confines the process, where the configuration wants it; before there are threads.
#[must_use]
pub fn confined(config: &Config, socket: &Path, not_given_up: Option<PrivilegeError>) -> Process {
    let troubles: Vec<String> = not_given_up.iter().map(ToString::to_string).collect();
    if !config.confine {
        let off = || Some("confine is false".to_owned());
        return Process { confined: Confined { calls: off(), files: off() }, troubles };
    }
    let beside = match socket.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
        _ => PathBuf::from("."),
    };
    let made = crate::sys::private::directory(&config.state.dir)
        .map_err(|error| format!("{}: {error}", config.state.dir.display()))
        .and_then(|()| std::fs::create_dir_all(&beside).map_err(|error| format!("{}: {error}", beside.display())));
    // Other modes of nftables come by reload, when nothing can be taken back any more.
    let nft = config.nftables.mode != NftablesMode::Off;
    // Where the query log may go, now or by reload.
    let logs = std::env::var_os("LOGS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute());
    let log = config.log.file.as_deref().filter(|file| file.is_absolute()).and_then(Path::parent);
    let pins = pins(config);
    let writes = made.map(|()| {
        let all = [Some(config.state.dir.as_path()), Some(beside.as_path()), logs.as_deref(), log, pins];
        all.into_iter().flatten().collect()
    });
    if nft && config.enforcer == iptables::BACKEND.name {
        // Of the programs of the legacy variant, which may make no file from now on.
        if let Err(error) = OpenOptions::new().create(true).append(true).mode(0o600).open(LOCK) {
            tracing::debug!(%error, "{LOCK} can't be made");
        }
    }
    let programs = if nft { programs() } else { Vec::new() };
    let confined = confine(&Needs { writes, programs, bpf: pins.is_some() });
    Process { confined, troubles }
}

/// What the enforcers of packets run: also of the one that is not used, since it takes away what an earlier run left.
fn programs() -> Vec<PathBuf> {
    let nft = nftables::program::PLACES.iter().map(PathBuf::from);
    nft.chain(iptables::program::all()).collect()
}

/// Where the eBPF enforcer pins what must outlive the daemon: when it is used, or an earlier run left something there.
#[cfg(feature = "ebpf")]
fn pins(config: &Config) -> Option<&'static Path> {
    use crate::enforce::ebpf;
    let used = config.enforcer == ebpf::NAME && config.nftables.mode != NftablesMode::Off;
    // All of it: somebody may remove the guard's own directory.
    (used || ebpf::is_left_behind()).then(|| Path::new(ebpf::PINS).parent()).flatten()
}

#[cfg(not(feature = "ebpf"))]
fn pins(_: &Config) -> Option<&'static Path> {
    None
}

impl Process {
    /// As it is now.
    #[must_use]
    pub fn view(&self) -> types::Process {
        let capabilities = caps::read(None, CapSet::Permitted);
        let mut names: Vec<String> =
            capabilities.unwrap_or_default().into_iter().map(|capability| capability.to_string()).collect();
        names.sort_unstable();
        types::Process {
            uid: crate::sys::privileges::user(),
            capabilities: names,
            system_calls: self.confined.calls.clone().unwrap_or_else(|| types::CONFINED.to_owned()),
            files: self.confined.files.clone().unwrap_or_else(|| types::CONFINED.to_owned()),
        }
    }
}
