//! The operating system: clock, notify socket, signals, socket options.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;
use crate::config::schema::NftablesMode;

#[cfg(feature = "ebpf")]
pub mod bpf;
pub mod bundles;
pub mod cgroups;
pub mod clock;
pub mod confine;
pub mod connected;
pub mod descriptors;
pub mod disk;
pub mod endpoint;
pub mod handover;
pub mod interfaces;
pub mod log;
pub mod memory;
pub mod neighbours;
pub mod netlink;
pub mod on_link;
pub mod poll;
pub mod private;
pub mod privileges;
pub mod process;
pub mod rtnetlink;
pub mod time_zone;
pub mod udp;
pub mod users;
pub mod xtables;

/// Firewall mark on every socket that the guard opens towards its upstreams, peers and clients. The nftables ruleset lets
/// packets that bear it reach just those upstreams and peers, and leave from just the guard's own listening ports. Setting
/// a mark needs CAP_NET_ADMIN, so other processes can't borrow the way.
pub const MARK: u32 = 0x6467_0001;

/// Whether nftables guarded when the daemon started.
static GUARDED: AtomicBool = AtomicBool::new(false);

/// From now on sockets bear the mark also while `nftables.mode` is off: it may be another again, and they stay.
pub fn keep_marking() {
    GUARDED.store(true, Ordering::Relaxed);
}

/// The mark of sockets, where the guard's own packet filter is there to ask for it.
#[must_use]
pub fn mark(config: &Config) -> Option<u32> {
    (config.nftables.mode != NftablesMode::Off || GUARDED.load(Ordering::Relaxed)).then_some(MARK)
}
