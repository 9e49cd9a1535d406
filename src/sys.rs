//! The operating system: clock, notify socket, signals, socket options.

pub mod bundles;
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
pub mod rtnetlink;
pub mod udp;

/// Firewall mark on every socket that the guard opens towards its upstreams, peers and clients. The nftables ruleset lets
/// packets that bear it reach just those upstreams and peers, and leave from just the guard's own listening ports. Setting
/// a mark needs CAP_NET_ADMIN, so other processes can't borrow the way.
pub const MARK: u32 = 0x6467_0001;
