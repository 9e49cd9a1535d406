//! Where the control interface is reached: a unix socket for the command line, and TCP for who may only look.
//!
//! Both take at most [`CONNECTIONS`] connections at once, over TCP at most [`PER_SOURCE`] of one source; who comes then takes the seat of whoever has waited longest
//! ([`super::seats`]). A connection on which nothing was answered for [`SILENCE`] is closed. So neither silent ones, nor those that send a request or take an answer octet
//! by octet, can keep others out.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::{Instant, Sleep};

use super::access::Access;
use super::access::Way;
use super::api;
use super::seats::{Seat, Seats};
use super::sources::Sources;
use super::stream::Stream;
use crate::core::client::prefix;
use crate::sys::descriptors::Use;

/// Most connections of one listener.
const CONNECTIONS: usize = 64;
/// Most of them from one IPv4 address, or from one /64 of IPv6.
const PER_SOURCE: usize = 16;
/// A connection is closed when nothing was answered on it for so long. Longer than the longest answer takes ([`api::PATIENCE`]).
const SILENCE: Duration = Duration::from_secs(40);
/// Wait after an accept that failed for want of descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);

/// The bound control socket. Its file is removed when this is dropped, unless another one took its place.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The socket's file, as it was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
    uid: u32,
    gid: u32,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket's file stays behind");
        }
    }
}

impl ControlSocket {
    /// Binds `path`, mode 0660. A socket file that nobody listens on any more is replaced; one that a running daemon
    /// listens on, and anything that is not a socket, is left alone. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system's, and `AddrInUse` when another daemon runs.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        // Until here the umask decided; strangers that were quicker are turned away by their credentials.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        let meta = std::fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), inode: meta.ino(), uid: meta.uid(), gid: meta.gid() };
        Ok(Self { listener, file })
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, sources: Arc<dyn Sources>) {
        let Self { listener, file } = self;
        let (uid, gid) = (file.uid, file.gid);
        let guarded = Places::new(Guarded { listener, uid, gid: Some(gid) });
        serve(guarded, api::control(sources)).await;
        drop(file);
    }
}

/// Removes the file of a daemon that is gone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is not a socket", path.display())));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, format!("a daemon listens on {} already", path.display())))
        }
    }
}

/// Serves everything to root and this user until the task is dropped.
pub(super) async fn serve_privately(listener: UnixListener, uid: u32, sources: Arc<dyn Sources>) {
    let guarded = Guarded { listener, uid, gid: None };
    serve(Places::new(guarded), api::control(sources)).await;
}

/// Serves the read-only part over TCP until the task is dropped.
pub async fn serve_tcp(listener: TcpListener, sources: Arc<dyn Sources>) {
    // Behind IPv6's address of everything stands IPv4 too, so only what is loopback itself counts.
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let places = Places::new(Tcp { listener, access: sources.access() });
    let router = api::read_only(sources, loopback);
    told(axum::serve(places, router.into_make_service_with_connect_info::<Way>()).await);
}

async fn serve(places: Places<Guarded>, router: axum::Router) {
    told(axum::serve(places, router).await);
}

fn told(ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the control interface has stopped");
    }
}

impl Connected<IncomingStream<'_, Places<Tcp>>> for Way {
    fn connect_info(stream: IncomingStream<'_, Places<Tcp>>) -> Self {
        *stream.remote_addr()
    }
}

/// Something that accepts, and can fail.
trait Accept: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// A connection, who counts as its source, and how it came.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Option<IpAddr>, Way)>> + Send;
}

struct Tcp {
    listener: TcpListener,
    access: Access,
}

impl Accept for Tcp {
    type Io = Stream;
    async fn accept(&mut self) -> io::Result<(Stream, Option<IpAddr>, Way)> {
        let (stream, from) = self.listener.accept().await?;
        // The last ones are the control socket's.
        let stream = Use::Http.within(stream)?;
        let acceptor = self.access.acceptor();
        let way = Way { tls: acceptor.is_some() };
        Ok((Stream::new(stream, acceptor.as_ref()), Some(prefix(from.ip().to_canonical())), way))
    }
}

/// A unix listener that turns strangers away.
struct Guarded {
    listener: UnixListener,
    uid: u32,
    /// Whose members are no strangers either.
    gid: Option<u32>,
}

impl Accept for Guarded {
    type Io = UnixStream;
    async fn accept(&mut self) -> io::Result<(UnixStream, Option<IpAddr>, Way)> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = stream.peer_cred()?;
            if may_control(&peer, self.uid, self.gid) {
                return Ok((stream, None, Way::default()));
            }
            tracing::warn!(uid = peer.uid(), gid = peer.gid(), "turned away from the control socket");
        }
    }
}

/// Root, the daemon's own user, and members of the socket's group.
fn may_control(peer: &UCred, uid: u32, gid: Option<u32>) -> bool {
    let member = |gid| peer.gid() == gid || peer.pid().is_some_and(|pid| in_group(pid, gid));
    peer.uid() == 0 || peer.uid() == uid || gid.is_some_and(member)
}

/// Whether a process has `gid` among its supplementary groups. The file's mode has let it in already; this is the second lock.
fn in_group(pid: i32, gid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let groups = text.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_ascii_whitespace().any(|group| group.parse() == Ok(gid)))
}

/// Bounds the connections of a listener, and their silence.
struct Places<A> {
    accept: A,
    seats: Seats,
}

impl<A> Places<A> {
    fn new(accept: A) -> Self {
        Self { accept, seats: Seats::new(CONNECTIONS, PER_SOURCE) }
    }
}

impl<A: Accept> Listener for Places<A> {
    type Io = Connection<A::Io>;
    type Addr = Way;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.accept.accept().await {
                Ok((io, source, way)) => match self.seats.take(source) {
                    Some(seat) => return (Connection::new(io, SILENCE, seat), way),
                    None => tracing::debug!(?source, "there are too many connections to the control interface"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Way::default())
    }
}

/// A connection with its seat and its patience.
struct Connection<S> {
    io: S,
    /// How long it may last until something is answered.
    patience: Duration,
    silence: Pin<Box<Sleep>>,
    seat: Seat,
}

impl<S> Connection<S> {
    fn new(io: S, patience: Duration, seat: Seat) -> Self {
        Self { io, patience, silence: Box::pin(tokio::time::sleep(patience)), seat }
    }

    fn answered(&mut self) {
        let until = Instant::now() + self.patience;
        self.silence.as_mut().reset(until);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // First: who sends octet by octet always has something to be read.
        if self.silence.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.seat.is_lost(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.seat.read();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.seat.is_lost(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if written.is_ready() {
            self.seat.wrote();
            self.answered();
            return written;
        }
        self.silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn seat() -> Seat {
        Seats::new(1, 1).take(None).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_comes_octet_by_octet_does_not_keep_its_place() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let mut ours = Connection::new(ours, Duration::from_millis(200), seat());
        let drip = tokio::spawn(async move {
            while theirs.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut octet = [0];
        let error = async {
            loop {
                if let Err(error) = ours.read_exact(&mut octet).await {
                    return error;
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(10), error).await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(ours);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn who_is_answered_again_and_again_stays() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let patience = Duration::from_millis(1000);
        let mut ours = Connection::new(ours, patience, seat());
        let began = Instant::now();
        let mut octet = [0];
        while began.elapsed() < 2 * patience {
            theirs.write_all(b"x").await.unwrap();
            ours.read_exact(&mut octet).await.unwrap();
            ours.write_all(b"y").await.unwrap();
            theirs.read_exact(&mut octet).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
