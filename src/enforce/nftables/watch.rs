//! Notices when somebody else changes our table: a reload of the distribution's firewall flushes every table, and until
//! ours is back, the host is open.

use std::io;

use tokio::io::unix::AsyncFd;

use super::TABLE;
use super::error::NftError;
use super::kernel::failed;
use super::wire::{self, NFPROTO_BRIDGE, NFPROTO_INET, SUBSYS_NFTABLES};
use crate::sys::netlink::Socket;

/// The kernel's `NFNLGRP_NFTABLES`: the group that hears of changes.
const GROUP: i32 = 7;
/// Room for notifications; when it isn't enough the kernel says so, which counts as a change.
const BUFFER: i32 = 4 << 20;
/// The longest datagram of notifications.
const DATAGRAM: usize = 64 << 10;

const NEW_GENERATION: u8 = 15;
const NEW_OBJECT: u8 = 18;
const GENERATION_PID: u16 = 2;
const GENERATION_NAME: u16 = 3;
/// In every nf_tables message but those about generations, the first attribute is the table's name.
const ANY_TABLE: u16 = 1;

/// A subscription to the changes of others.
pub struct Watch {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// Subscribes; what the socket with netlink port `own` does is not seen. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NftError::Netlink`].
    pub fn open(own: u32) -> Result<Self, NftError> {
        let open = || -> io::Result<AsyncFd<Socket>> {
            let socket = Socket::netfilter(BUFFER)?;
            socket.ignore_port(own)?;
            socket.join(GROUP)?;
            socket.watched()
        };
        let socket = open().map_err(|source| failed("subscribing to changes", source))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM] })
    }

    /// Waits until somebody else changed our table, and says who. Safe to drop while it waits.
    pub async fn changed(&mut self) -> String {
        loop {
            match self.socket.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => return format!("its changes can't be watched any more: {error}"),
            }
            if let Some(what) = self.take() {
                return what;
            }
        }
    }

    /// Takes everything that is queued; says what of it changed our table.
    pub fn take(&mut self) -> Option<String> {
        let mut touched = false;
        let mut who = None;
        loop {
            match self.socket.get_ref().receive(&mut self.buffer) {
                Ok(None) => break,
                Ok(Some(datagram)) => {
                    touched |= touches(datagram);
                    who = author(datagram).or(who);
                }
                Err(error) => {
                    tracing::debug!(%error, "notifications of nftables were lost");
                    touched = true;
                    if error.raw_os_error() != Some(libc::ENOBUFS) && error.kind() != io::ErrorKind::FileTooLarge {
                        break;
                    }
                }
            }
        }
        touched.then(|| match who {
            Some(who) => format!("the table inet {TABLE} was changed by {who}"),
            None => format!("the table inet {TABLE} was changed by somebody else"),
        })
    }
}

/// Whether one of the notifications is about our table. New values of a counter are not a change.
fn touches(datagram: &[u8]) -> bool {
    wire::messages(datagram).any(|message| {
        let [subsystem, kind] = message.kind.to_be_bytes();
        subsystem == SUBSYS_NFTABLES
            && kind != NEW_GENERATION
            && kind != NEW_OBJECT
            && matches!(message.family(), Some(NFPROTO_INET | NFPROTO_BRIDGE))
            && wire::find(message.attributes(), ANY_TABLE).is_some_and(|name| wire::text(name) == TABLE)
    })
}

/// The process that committed, as its last notification says.
fn author(datagram: &[u8]) -> Option<String> {
    let message =
        wire::messages(datagram).find(|message| message.kind == wire::kind(SUBSYS_NFTABLES, NEW_GENERATION))?;
    let name = wire::text(wire::find(message.attributes(), GENERATION_NAME)?);
    let pid = wire::find(message.attributes(), GENERATION_PID)?;
    let pid = u32::from_be_bytes(pid.try_into().ok()?);
    Some(format!("\"{name}\", process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            std::hint::black_box((touches(&octets), author(&octets)));
        }
    }
}
