//! A service manager as systemd is one to the daemon: it is told when that is ready, and keeps descriptors by name for the next process.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sendfd::RecvWithFd as _;

use super::{DESTGUARD, PATIENCE, ended, run};

pub struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    /// The descriptor store.
    pub store: BTreeMap<String, Vec<OwnedFd>>,
    child: Option<Child>,
}

impl Manager {
    pub fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { path: path.to_owned(), socket, store: BTreeMap::new(), child: None }
    }

    /// Starts it with what is in the store, and waits until it is ready.
    pub fn start(&mut self, words: &[String], log: Stdio) {
        let all: Vec<(&str, i32)> =
            self.store.iter().flat_map(|(name, fds)| fds.iter().map(|fd| (name.as_str(), fd.as_raw_fd()))).collect();
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh", DESTGUARD])
            .args(words)
            .stdout(Stdio::null())
            .stderr(log);
        command.env("NOTIFY_SOCKET", &self.path);
        if !all.is_empty() {
            command.env("LISTEN_FDS", all.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        let fds: Vec<i32> = all.iter().map(|(_, fd)| *fd).collect();
        // SAFETY: only dup(2)s of descriptors that live until the child has its program; above those that are to be theirs first.
        unsafe {
            command.pre_exec(move || {
                let high: Vec<i32> = fds.iter().map(|fd| libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 500)).collect();
                for (fd, place) in high.iter().zip(3..) {
                    if libc::dup2(*fd, place) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        self.child = Some(command.spawn().unwrap());
        while !self.hear().expect("it says nothing") {}
    }

    /// Takes one message, if there is one. True: it is ready.
    fn hear(&mut self) -> Option<bool> {
        let (mut text, mut fds) = ([0; 4096], [-1; 253]);
        let (length, count) = match self.socket.recv_with_fd(&mut text, &mut fds) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            taken => taken.unwrap(),
        };
        // SAFETY: the kernel has just given them to us.
        let fds: Vec<OwnedFd> = fds[..count].iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect();
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        if let Some(name) = value("FDNAME") {
            assert!(name.len() <= 255 && name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':'), "{name}");
            if value("FDSTOREREMOVE") == Some("1") {
                self.store.remove(name);
            } else if value("FDSTORE") == Some("1") {
                self.store.entry(name.to_owned()).or_default().extend(fds);
            }
        }
        Some(value("READY") == Some("1"))
    }

    /// Hears what is left to be heard.
    pub fn listen(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.hear().is_some() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        run(&format!("kill -TERM {}", child.id()));
        assert!(ended(&mut child).success());
        self.listen();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
