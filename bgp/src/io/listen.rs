//! Passive peers: listeners, and who may come in.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::{Shared, sys};
use crate::config::{PeerConfig, Role, SpeakerConfig};

/// First and longest wait after an accept that failed for want of descriptors or memory.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Between two attempts to bind an address that isn't there.
const AGAIN: Duration = Duration::from_secs(1);

/// Binds a listener with all options.
pub(super) fn bind(address: SocketAddr, config: &SpeakerConfig) -> io::Result<TcpListener> {
    let socket = sys::listener(address, &config.peers, config.mark)?;
    TcpListener::from_std(socket.into())
}

/// What a listener's socket is told of the peers: as long as it is the same, it needs no other socket.
pub(super) fn options(config: &SpeakerConfig) -> impl PartialEq + '_ {
    let connects = config.peers.iter().filter(|peer| !matches!(peer.role, Role::Edge | Role::Gone));
    let protected = connects.filter(|peer| peer.password.is_some() || peer.ttl_security);
    let options = protected.map(|peer| {
        (peer.address, &peer.zone, &peer.password, peer.tcp_ao, peer.ttl_security, peer.passive, peer.multihop)
    });
    (config.mark, options.collect::<Vec<_>>())
}

/// Whether a listener's address, or its whole family, isn't there now.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::ENODEV))
}

/// Like [`accept`], as soon as the address can be bound. `waiting` has it until then.
pub(super) async fn accept_later(address: SocketAddr, shared: Arc<Shared>, waiting: Waiting) {
    let listener = loop {
        tokio::time::sleep(AGAIN).await;
        match bind(address, &shared.config()) {
            Ok(listener) => break listener,
            Err(error) => waiting.note(address, Some(error.to_string())),
        }
    };
    waiting.note(address, None);
    tracing::info!(%address, "BGP is listened for from now on");
    accept(listener, shared).await;
}

/// Addresses that can't be bound yet, and why.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<Mutex<BTreeMap<SocketAddr, String>>>);

impl Waiting {
    pub(super) fn note(&self, address: SocketAddr, why: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(all.insert(address, why)),
            None => drop(all.remove(&address)),
        }
    }

    pub(super) fn all(&self) -> Vec<(SocketAddr, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(address, why)| (*address, why.clone())).collect()
    }
}

/// Accepts for ever, and hands each connection to the peer it comes from; a channel that is full means
/// that the peer connects faster than its task looks, then the connection is closed.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut wait = BACK_OFF.0;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                wait = BACK_OFF.0;
                if let Err(reason) = hand_over(stream, from, &shared) {
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

/// On several links there may be the same address.
fn is_from(peer: &PeerConfig, from: SocketAddr) -> bool {
    let scope = match from {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    peer.address == from.ip()
        && peer.zone.as_ref().is_none_or(|zone| sys::index(zone).is_ok_and(|index| index == scope))
}

fn hand_over(stream: TcpStream, from: SocketAddr, shared: &Shared) -> Result<(), &'static str> {
    let config = shared.config();
    let local = stream.local_addr().map_err(|_| "it is gone already")?.ip();
    let connects = |peer: &PeerConfig| !matches!(peer.role, Role::Edge | Role::Gone);
    let mut theirs =
        config.peers.iter().enumerate().filter(|(_, peer)| connects(peer) && is_from(peer, from)).peekable();
    if theirs.peek().is_none() {
        return Err("no such peer");
    }
    // Two sessions to one router differ by the address it connects to; the one that names it comes first.
    let meant = theirs.filter(|(_, peer)| peer.local_address.is_none_or(|wanted| wanted == local));
    let (index, peer) = meant
        .max_by_key(|(_, peer)| peer.local_address.is_some())
        .ok_or("it came to an address that is not the peer's local_address")?;
    let socket = socket2::SockRef::from(&stream);
    if let Err(error) = sys::configure(&socket, peer, peer.asn == config.asn, false, config.mark) {
        tracing::warn!(peer = peer.name, %error, "connection refused");
        return Err("its options can't be set");
    }
    let door = shared.door(index).ok_or("the peer is being changed")?;
    door.try_send(stream).map_err(|_| "the peer connects too often")
}
