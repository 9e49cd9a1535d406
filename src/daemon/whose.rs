//! Which unit, user and process of this host sent a packet that was refused: as far as the kernel tells.
//!
//! The user comes with the packet. Control group and process are those of the socket that sent it, if it is still there: a program that was refused closes it
//! soon. So they may be absent, and nothing depends on them. The process is sure only where its open files may be read (CAP_SYS_PTRACE, or the same
//! user); else it is what runs in the socket's control group, as a guess.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::control::types::Sender;
use crate::enforce::nftables::packets::Packet;
use crate::enforce::nftables::sockets;
use crate::sys::{cgroups, users};

/// Most control groups and users whose names are kept.
const KEPT: usize = 256;
/// Most directories that are walked through for one control group.
const WALKED: usize = 4096;
/// Most processes of a group, and open files of each, that are looked at.
const PROCESSES: usize = 64;
const FILES: usize = 1024;
const PROC: &str = "/proc";

/// What is known already.
#[derive(Debug, Default)]
pub struct Whose {
    root: Option<PathBuf>,
    paths: HashMap<u64, Option<String>>,
    names: HashMap<u32, Option<String>>,
}

impl Whose {
    /// Blocks for some milliseconds at worst. `None`: not of this host.
    pub fn sent(&mut self, packet: &Packet) -> Option<Sender> {
        let uid = packet.user?;
        let mut sender = Sender { uid, user: self.user(uid), ..Sender::default() };
        let Some(socket) = packet.from().and_then(|(transport, local, remote)| sockets::find(transport, local, remote))
        else {
            return Some(sender);
        };
        let Some(path) = socket.group.and_then(|group| self.path(group)) else { return Some(sender) };
        if let Some(root) = &self.root
            && let Some((name, sure)) = process(&root.join(path.trim_start_matches('/')), socket.inode)
        {
            sender.process = Some(name);
            sender.guess = !sure;
        }
        sender.unit = unit(&path);
        sender.cgroup = Some(path);
        Some(sender)
    }

    /// Who it is of whom all numbers are known. Blocks as [`Self::sent`].
    #[cfg(feature = "ebpf")]
    pub fn is(&mut self, uid: u32, group: u64, process: (u32, String)) -> Sender {
        let (pid, name) = process;
        let path = self.path(group);
        Sender {
            uid,
            user: self.user(uid),
            unit: path.as_deref().and_then(unit),
            cgroup: path,
            process: Some(name).filter(|name| !name.is_empty()),
            pid: Some(pid),
            guess: false,
        }
    }

    fn user(&mut self, uid: u32) -> Option<String> {
        if self.names.len() >= KEPT {
            self.names.clear();
        }
        self.names.entry(uid).or_insert_with(|| users::name_of(uid)).clone()
    }

    fn path(&mut self, group: u64) -> Option<String> {
        if let Some(known) = self.paths.get(&group) {
            return known.clone();
        }
        if self.root.is_none() {
            self.root = cgroups::mounted();
        }
        let found = cgroups::path_of(self.root.as_ref()?, group, WALKED);
        if self.paths.len() >= KEPT {
            self.paths.clear();
        }
        self.paths.insert(group, found.clone());
        found
    }
}

/// The process of this group that has the socket open; else, as a guess, the one whose name all its processes bear.
fn process(group: &Path, inode: u32) -> Option<(String, bool)> {
    let listed = fs::read_to_string(group.join("cgroup.procs")).ok()?;
    let pids: Vec<u32> =
        listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).take(PROCESSES).collect();
    let socket = format!("socket:[{inode}]");
    let owner = pids.iter().find(|pid| {
        let files = fs::read_dir(format!("{PROC}/{pid}/fd")).ok().into_iter().flatten().flatten().take(FILES);
        inode != 0
            && files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|to| *to.as_os_str() == *socket))
    });
    let name = |pid: &u32| Some(fs::read_to_string(format!("{PROC}/{pid}/comm")).ok()?.trim_end().to_owned());
    if let Some(owner) = owner {
        return Some((name(owner)?, true));
    }
    let mut names = pids.iter().filter_map(name);
    let first = names.next()?;
    names.all(|other| other == first).then_some((first, false))
}

/// The unit of a control group: the first part that is no slice; of a user's manager the next one.
fn unit(path: &str) -> Option<String> {
    let is_unit = |part: &&str| [".service", ".scope"].iter().any(|suffix| part.ends_with(suffix));
    let mut parts = path.split('/').filter(|part| !part.is_empty() && !part.ends_with(".slice"));
    let first = parts.next().filter(is_unit)?;
    let of_user = first.starts_with("user@").then(|| parts.next().filter(is_unit)).flatten();
    Some(of_user.unwrap_or(first).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_from_paths() {
        for (path, wanted) in [
            ("/system.slice/web.service", Some("web.service")),
            ("/system.slice/web.service/below", Some("web.service")),
            ("/user.slice/user-7.slice/user@7.service/app.slice/sync.service", Some("sync.service")),
            ("/user.slice/user-7.slice/user@7.service/init.scope", Some("init.scope")),
            ("/user.slice/user-7.slice/session-1.scope", Some("session-1.scope")),
            ("/docker/0123", None),
            ("/", None),
        ] {
            assert_eq!(unit(path).as_deref(), wanted, "{path}");
        }
    }
}
