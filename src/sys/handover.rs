//! Listening sockets that outlive the process that bound them, so that a restart loses no question: what the kernel has queued is read by the next process.
//!
//! ```text
//!   systemd   every socket lies in the unit's descriptor store (FDSTORE) beside the process, and comes back as LISTEN_FDS
//!   else      `destguard run --replace` asks the running one, which sends its sockets (SCM_RIGHTS), ends its questions and then itself
//! ```
//!
//! A socket has a name, `KEY/ADDRESS` of the configuration with `_` for `:`. What it is bound to it says itself. The next process takes what its configuration
//! still wants; the rest is closed, and leaves the store.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use sendfd::{RecvWithFd as _, SendWithFd as _};
use socket2::{Socket, Type};

use super::privileges::user;

/// Descriptors in one message; the kernel takes 253.
const AT_ONCE: usize = 64;
/// Octets of a name.
const NAME: usize = 255;
/// The most sockets that are taken over.
const MOST: usize = 4096;
/// How long either side of a hand-over may keep silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the one before may take to end.
const ENDING: Duration = Duration::from_secs(60);

/// One that somebody else bound.
#[derive(Debug)]
struct Found {
    name: String,
    socket: Socket,
}

/// Sockets to be taken over, and those to be handed on.
#[derive(Debug, Default)]
pub struct Store {
    /// Whether anything is handed on.
    keeps: bool,
    found: Mutex<Vec<Found>>,
    kept: Mutex<BTreeMap<String, Vec<OwnedFd>>>,
}

/// How a listener's sockets are called.
#[must_use]
pub fn name(key: &str, address: SocketAddr) -> String {
    format!("{key}/{address}").replace(':', "_")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why one daemon doesn't follow another.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// systemd keeps the sockets itself, and gives them to the next process.
    #[error("systemd runs this guard and keeps its sockets: systemctl restart destguard")]
    Systemd,
    /// The socket between the two.
    #[error("{}: {source}", place.display())]
    Socket {
        /// The path of the socket.
        place: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// Somebody waits who must not have the sockets.
    #[error("{} is of user {uid}: sockets go to root and to the daemon's own user alone", place.display())]
    Stranger {
        /// The path of the socket where it waits.
        place: PathBuf,
        /// The user that it runs as, by number.
        uid: u32,
    },
    /// A socket's name that has no room in a message.
    #[error("{0}: too long")]
    LongName(String),
    /// A message that the kernel took in part.
    #[error("{}: a message was cut", .0.display())]
    Cut(PathBuf),
    /// The daemon that was asked to hand over said no, or nothing.
    #[error(transparent)]
    Asked(Box<dyn std::error::Error + Send + Sync>),
    /// It handed over, and goes on.
    #[error("the guard that was to be replaced doesn't end: {0}")]
    Stays(#[source] io::Error),
}

impl HandOverError {
    fn at(place: &Path) -> impl Fn(io::Error) -> Self {
        |source| Self::Socket { place: place.to_owned(), source }
    }
}

impl Store {
    /// Hands on what it is given. With what systemd kept for this process; to be made before others open descriptors by number.
    #[must_use]
    pub fn new() -> Self {
        let store = Self { keeps: true, ..Self::default() };
        match sd_notify::listen_fds_with_names() {
            Ok(all) => {
                // SAFETY: systemd gave these to this process alone, and nobody has taken them yet: this is called once.
                all.for_each(|(fd, name)| store.add(name, unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            Err(error) => tracing::warn!(%error, "the sockets of an earlier process can't be taken over"),
        }
        store
    }

    /// One that another process bound.
    fn add(&self, name: String, fd: OwnedFd) {
        lock(&self.found).push(Found { name, socket: fd.into() });
    }

    /// Those that are bound to exactly this address, of this type, with or without IPv4. With port 0 those of this key on any port.
    #[must_use]
    pub fn take(&self, key: &str, address: SocketAddr, kind: Type, v6_only: bool) -> Vec<Socket> {
        let fits = |found: &Found| {
            let socket = &found.socket;
            let Some(bound) = socket.local_addr().ok().and_then(|bound| bound.as_socket()) else { return false };
            let at = if address.port() == 0 {
                bound.ip() == address.ip() && found.name.split('/').next() == Some(key)
            } else {
                bound == address
            };
            let listens = kind != Type::STREAM || socket.is_listener().unwrap_or(false);
            let only = address.is_ipv4() || socket.only_v6().ok() == Some(v6_only);
            // One that was on its way out is connected, so that nothing new comes to it.
            at && listens && only && socket.r#type().ok() == Some(kind) && socket.peer_addr().is_err()
        };
        let mut found = lock(&self.found);
        found.extract_if(.., |found| fits(found)).map(|found| found.socket).collect()
    }

    /// The one that we serve already at exactly this address.
    #[must_use]
    pub fn share(&self, key: &str, address: SocketAddr, kind: Type, v6_only: bool) -> Option<Socket> {
        let kept = lock(&self.kept);
        let same = kept.get(&name(key, address))?.iter().filter_map(|fd| fd.try_clone().ok().map(Socket::from));
        let fits = |socket: &Socket| {
            let only = address.is_ipv4() || socket.only_v6().ok() == Some(v6_only);
            only && socket.r#type().ok() == Some(kind)
        };
        same.into_iter().find(fits)
    }

    /// Hands these on under this name, and none else that had it.
    pub fn keep(&self, name: &str, sockets: &[BorrowedFd<'_>]) {
        if !self.keeps {
            return;
        }
        let all: io::Result<Vec<OwnedFd>> = sockets.iter().map(BorrowedFd::try_clone_to_owned).collect();
        let told = all.and_then(|all| {
            lock(&self.kept).insert(name.to_owned(), all);
            forget(name)?;
            for some in sockets.chunks(AT_ONCE) {
                // Nobody is to look whether they are still good: an error of one client's network isn't the socket's.
                let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
                sd_notify::notify_with_fds(&state, some)?;
            }
            Ok(())
        });
        if let Err(error) = told {
            tracing::warn!(name, %error, "a socket can't be kept for a restart");
        }
    }

    /// It is to be closed: nobody else may hold it.
    pub fn let_go(&self, name: &str) {
        if lock(&self.kept).remove(name).is_some()
            && let Err(error) = forget(name)
        {
            tracing::warn!(name, %error, "a closed socket stays in systemd's store");
        }
    }

    /// Closes what nobody has taken.
    pub fn settle(&self) {
        let left = std::mem::take(&mut *lock(&self.found));
        let mut names: Vec<&str> = left.iter().map(|found| found.name.as_str()).collect();
        names.dedup();
        for name in names {
            tracing::info!(name, "a socket of the process before is closed: nothing is to be served there");
            if !lock(&self.kept).contains_key(name)
                && let Err(error) = forget(name)
            {
                tracing::warn!(name, %error, "a closed socket stays in systemd's store");
            }
        }
    }

    /// Sends all to the process that waits behind `successor` (see [`replace`]). It must be root's or our own user's.
    ///
    /// # Errors
    /// See [`HandOverError`]; what was sent by then is of no use.
    pub fn hand_over(&self, successor: &Path) -> Result<(), HandOverError> {
        if std::env::var_os("NOTIFY_SOCKET").is_some() && sd_notify::booted().unwrap_or(false) {
            return Err(HandOverError::Systemd);
        }
        let wrong = HandOverError::at(successor);
        let stream = UnixStream::connect(successor).map_err(&wrong)?;
        let uid = peer_uid(&stream).map_err(&wrong)?;
        if uid != 0 && uid != user() {
            return Err(HandOverError::Stranger { place: successor.to_owned(), uid });
        }
        stream.set_write_timeout(Some(PATIENCE)).map_err(&wrong)?;
        let kept = lock(&self.kept);
        for (name, sockets) in kept.iter() {
            for socket in sockets {
                // A message is as long as the longest name, so that none is cut or joined with the next.
                let mut text = [0; NAME];
                let used = text.get_mut(..name.len()).ok_or_else(|| HandOverError::LongName(name.clone()))?;
                used.copy_from_slice(name.as_bytes());
                let sent = stream.send_with_fd(&text, &[socket.as_raw_fd()]).map_err(&wrong)?;
                if sent != NAME {
                    return Err(HandOverError::Cut(successor.to_owned()));
                }
            }
        }
        (&stream).write_all(&[0; NAME]).map_err(wrong)?;
        // It is open until this process ends, which is how the successor knows.
        std::mem::forget(stream);
        Ok(())
    }
}

/// Has systemd close what it keeps under this name.
fn forget(name: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or_default();
    // SAFETY: `peer` has room for `length` octets and lives until after the call.
    let done = unsafe {
        let value = std::ptr::from_mut(&mut peer).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &mut length)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(peer.uid) }
}

/// Where a successor waits for the sockets of the daemon with this control socket.
#[must_use]
pub fn successor(control: &Path) -> PathBuf {
    let mut path = control.to_owned().into_os_string();
    path.push(".successor");
    path.into()
}

/// The daemon that hands over, until it has ended.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// Takes the sockets of the daemon behind the control socket into `store`; `ask` has it send them. From then on it ends.
///
/// # Errors
/// See [`HandOverError`]; it goes on.
pub fn replace<E>(
    control: &Path,
    store: &Store,
    ask: impl FnOnce() -> Result<(), E>,
) -> Result<Predecessor, HandOverError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = successor(control);
    let wrong = HandOverError::at(&path);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    let owner = std::fs::metadata(control).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).map_err(&wrong)?;
    let listener = open_to_all(&path).map_err(&wrong)?;
    let waiting = Waiting(&path);
    ask().map_err(|error| HandOverError::Asked(error.into()))?;
    listener.set_nonblocking(true).map_err(&wrong)?;
    let until = Instant::now() + PATIENCE;
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => match peer_uid(&stream) {
                Ok(uid) if [0, user(), owner].contains(&uid) => break stream,
                _ => {}
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(wrong(error)),
        }
    };
    drop(waiting);
    stream.set_nonblocking(false).map_err(&wrong)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(&wrong)?;
    receive(&stream, store).map_err(wrong)?;
    Ok(Predecessor(stream))
}

/// The one before may be another user's. Who connects is known by its credentials; the file's mode is set as it is made, since a path may lead elsewhere later.
fn open_to_all(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: takes no pointer and can't fail; no other thread makes files yet.
    let before = unsafe { libc::umask(0) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    listener
}

fn receive(stream: &UnixStream, store: &Store) -> io::Result<()> {
    for _ in 0..MOST {
        let (mut text, mut fds): ([u8; NAME], [RawFd; 1]) = ([0; NAME], [-1]);
        let (mut read, count) = stream.recv_with_fd(&mut text, &mut fds)?;
        // SAFETY: the kernel has just put it among ours, and nobody else knows it.
        let socket = (count == 1).then(|| unsafe { OwnedFd::from_raw_fd(fds[0]) });
        while let Some(rest) = text.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match (&mut &*stream).read(rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => read += more,
            }
        }
        let used = text.iter().position(|octet| *octet == 0).unwrap_or(NAME);
        let name = String::from_utf8_lossy(text.get(..used).unwrap_or_default()).into_owned();
        match socket {
            Some(socket) => {
                close_on_exec(socket.as_fd())?;
                store.add(name, socket);
            }
            None if name.is_empty() => return Ok(()),
            None => return Err(io::Error::other(format!("{name} came without its socket"))),
        }
    }
    Err(io::Error::other("too many sockets"))
}

fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer.
    let done = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Predecessor {
    /// Waits until it has ended.
    ///
    /// # Errors
    /// It doesn't.
    pub fn wait(mut self) -> Result<(), HandOverError> {
        let wrong = HandOverError::Stays;
        self.0.set_read_timeout(Some(ENDING)).map_err(wrong)?;
        match self.0.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(wrong(io::ErrorKind::InvalidData.into())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(wrong(error)),
        }
    }
}

/// The successor's own socket file, while it waits.
struct Waiting<'a>(&'a Path);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(self.0) {
            tracing::debug!(%error, "the socket of a hand-over stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sockets_come_over_with_their_names_and_what_waits_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control");
        let _daemon = UnixListener::bind(&control).unwrap();
        let old = Store { keeps: true, ..Store::default() };
        let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (at_udp, at_tcp) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        old.keep(&name("dns.listen", at_udp), &[udp.as_fd()]);
        old.keep(&name("http.listen", at_tcp), &[tcp.as_fd()]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"asked before", at_udp).unwrap();
        drop((udp, tcp));

        let new = Store::default();
        let sent = replace(&control, &new, || old.hand_over(&successor(&control))).unwrap();
        assert!(!successor(&control).exists());
        drop((old, sent));
        let none = new.take("dns.listen", at_tcp, Type::DGRAM, false);
        assert!(none.is_empty(), "another type");
        let by_key = new.take("dns.listen", "127.0.0.1:0".parse().unwrap(), Type::STREAM, false);
        assert!(by_key.is_empty(), "another key's");
        let mut udp = new.take("dns.listen", "127.0.0.1:0".parse().unwrap(), Type::DGRAM, false);
        let tcp = new.take("dns.tls.dot", at_tcp, Type::STREAM, false);
        assert_eq!((udp.len(), tcp.len(), lock(&new.found).len()), (1, 1, 0));
        let udp: UdpSocket = udp.pop().unwrap().into();
        let mut buffer = [0; 32];
        let length = udp.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"asked before");
    }
}
