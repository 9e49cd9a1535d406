//! Takes the place of a daemon that runs: its sockets are handed over, and what one daemon at a time has
//! is waited for.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::RunError;
use crate::control::client;
use crate::sys::handover::{self, Predecessor, Store};

/// How long what belongs to one daemon at a time may be held by the one that was replaced.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Has the daemon that runs hand its sockets over and end; `None`: there is none.
///
/// # Errors
/// It doesn't, or can't be asked.
pub fn replace(socket: &Path, store: &Store) -> Result<Option<Predecessor>, RunError> {
    let path = socket.to_owned();
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let asked = runtime.block_on(client::ask(&path, hyper::Method::POST, "/api/v1/hand-over"));
        asked.map(drop).map_err(|error| error.to_string())
    };
    if UnixStream::connect(socket).is_err_and(|error| nobody_listens(&error)) {
        return Ok(None);
    }
    handover::replace(socket, store, ask).map(Some).map_err(RunError::failed)
}

fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Opens what only one daemon may have, which the one before may be about to let go.
///
/// # Errors
/// The last attempt's.
pub async fn soon<T, E>(replacing: bool, mut open: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(_) if replacing && begun.elapsed() < LETTING_GO => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => return opened,
        }
    }
}
