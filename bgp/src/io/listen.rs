//! Passive peers: listeners, and who may come in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::sys;
use crate::config::SpeakerConfig;

/// First and longest wait after an accept that failed for want of descriptors or memory.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Binds a listener with all options.
pub(super) fn bind(address: SocketAddr, config: &SpeakerConfig) -> io::Result<TcpListener> {
    let socket = sys::listener(address, &config.peers, config.mark)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever, and hands each connection to the peer it comes from. `peers` in the order of the configuration; a channel that is full means
/// that the peer connects faster than its task looks, then the connection is closed.
pub(super) async fn accept(listener: TcpListener, config: Arc<SpeakerConfig>, peers: Vec<mpsc::Sender<TcpStream>>) {
    let mut wait = BACK_OFF.0;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                wait = BACK_OFF.0;
                if let Err(reason) = hand_over(stream, from, &config, &peers) {
                    tracing::debug!(%from, reason, "connection refused");
                }
            }
            Err(error) if exhausted(&error) => {
                tracing::warn!(%error, "can't accept BGP connections for now");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
            // The connection is gone already (ECONNABORTED and the like); the next one is as good as ever.
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::task::yield_now().await;
            }
        }
    }
}

fn exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn hand_over(
    stream: TcpStream,
    from: SocketAddr,
    config: &SpeakerConfig,
    peers: &[mpsc::Sender<TcpStream>],
) -> Result<(), &'static str> {
    let local = stream.local_addr().map_err(|_| "it is gone already")?.ip();
    let mut theirs = config.peers.iter().zip(peers).filter(|(peer, _)| peer.address == from.ip()).peekable();
    if theirs.peek().is_none() {
        return Err("no such peer");
    }
    // Two sessions to one router differ by the address it connects to; the one that names it comes first.
    let meant = theirs.filter(|(peer, _)| peer.local_address.is_none_or(|wanted| wanted == local));
    let (peer, channel) = meant
        .max_by_key(|(peer, _)| peer.local_address.is_some())
        .ok_or("it came to an address that is not the peer's local_address")?;
    let socket = socket2::SockRef::from(&stream);
    if let Err(error) = sys::configure(&socket, peer, peer.asn == config.asn, false, config.mark) {
        tracing::warn!(peer = peer.name, %error, "connection refused");
        return Err("its options can't be set");
    }
    channel.try_send(stream).map_err(|_| "the peer connects too often")
}
