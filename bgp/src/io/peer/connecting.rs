//! Opening the TCP connection to a peer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::net::{TcpSocket, TcpStream};

use super::super::sys;
use crate::config::PeerConfig;

/// How long TCP may take to connect.
const CONNECT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long the first SYN is waited for, and any at most. The kernel sends a SYN again after 1, 3 and 7 s: a router that is back in between would
/// wait for it, and with a password it can't refuse before that. Each wait is twice as long as the one before, for peers that are far away.
const SYN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// A connection on its way.
pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Connects; `internal`: the peer is of our AS.
pub(super) fn connect(peer: PeerConfig, internal: bool, mark: Option<u32>) -> Connecting {
    Box::pin(async move {
        let target = sys::here(peer.address, peer.port, peer.zone.as_deref())?;
        let (begun, mut wait) = (Instant::now(), SYN.0);
        loop {
            let left = CONNECT.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let text = format!("no answer within {} s; is it up, {}", begun.elapsed().as_secs(), hint(&peer));
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            match syn(&peer, internal, mark, target, wait.min(left)).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => wait = (wait * 2).min(SYN.1),
                other => return other,
            }
        }
    })
}

/// One try to reach the peer.
async fn syn(
    peer: &PeerConfig,
    internal: bool,
    mark: Option<u32>,
    target: SocketAddr,
    wait: Duration,
) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(sys::outgoing(peer, internal, mark)?.into());
    match tokio::time::timeout(wait, socket.connect(target)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What to look at. Segments that TCP-MD5 or GTSM refuses vanish, so a wrong password looks like nobody there; and with a password a router that is
/// down can't refuse, since its kernel doesn't know the key.
fn hint(peer: &PeerConfig) -> &'static str {
    match (&peer.password, peer.ttl_security) {
        (Some(_), true) if peer.tcp_ao.is_some() => {
            "are TCP-AO's password, ids and algorithm the same, and ttl_security on at both ends?"
        }
        (Some(_), false) if peer.tcp_ao.is_some() => "are TCP-AO's password, ids and algorithm the same at both ends?",
        (Some(_), true) => "is the password the same, and ttl_security on at both ends?",
        (Some(_), false) => "is the password the same at both ends?",
        (None, true) => "is ttl_security on at both ends?",
        (None, false) => "is a password or ttl_security set at its end only?",
    }
}
