//! One guard for one network namespace. Who guards one holds a name in it, by which `disarm` finds it.
//!
//! The name is an abstract unix socket's: it belongs to the namespace, not to a file system, and is free again when its
//! process ends, however that ends. Anybody may take a free name, so it counts only in the hands of root or of our own
//! user: nobody else can keep a guard from starting, or say in its place that it disarmed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::listen;
use super::sources::Sources;

/// The name; a path that begins with a zero octet is none of a file.
pub const NAME: &str = "\0destguard/nftables";
/// How often, and in which steps, a name is tried that was just given up.
const TRIES: u32 = 20;
const STEP: Duration = Duration::from_millis(50);

/// Who holds the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody holds the name, so that it may be taken.
    Nobody,
    /// A guard: its process, where that is known.
    Guard(Option<i32>),
    /// Somebody who is neither root nor our own user.
    Stranger {
        /// The process, where that is known.
        pid: Option<i32>,
        /// The user that the holder runs as, by number.
        uid: u32,
    },
}

/// Looks who holds the name in this thread's network namespace. Needs a tokio runtime.
///
/// # Errors
/// The system's.
pub async fn holder() -> io::Result<Holder> {
    let stream = match UnixStream::connect(Path::new(NAME)).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
    };
    let peer = stream.peer_cred()?;
    let (pid, uid) = (peer.pid(), peer.uid());
    let ours = uid == 0 || uid == own_user()?;
    Ok(if ours { Holder::Guard(pid) } else { Holder::Stranger { pid, uid } })
}

/// Our own user, as others see it.
fn own_user() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// The name, held.
#[derive(Debug)]
pub struct NamespaceName {
    listener: UnixListener,
    user: u32,
}

impl NamespaceName {
    /// Takes the name. `None`: a stranger holds it, which is said in the log and keeps nobody from guarding. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// `AddrInUse` when another guard runs here, and the system's.
    pub async fn take() -> io::Result<Option<Self>> {
        for _ in 0..TRIES {
            match UnixListener::bind(Path::new(NAME)) {
                Ok(listener) => return Ok(Some(Self { listener, user: own_user()? })),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
            match holder().await? {
                Holder::Guard(pid) => {
                    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                    let words = format!(
                        "another destguard{process} guards this network namespace: stop it, or set nftables.mode = \"off\""
                    );
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, words));
                }
                Holder::Stranger { pid, uid } => {
                    tracing::warn!(
                        ?pid,
                        uid,
                        "a stranger holds the name by which a network namespace has one guard: a second one would not be noticed, \
                         and `destguard disarm` will not find this one"
                    );
                    return Ok(None);
                }
                // It is ending.
                Holder::Nobody => tokio::time::sleep(STEP).await,
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "another destguard is ending in this network namespace"))
    }

    /// Serves what the control socket serves, to root and our own user, until the task is dropped.
    pub async fn serve(self, sources: Arc<dyn Sources>) {
        listen::serve_privately(self.listener, self.user, sources).await;
    }
}
