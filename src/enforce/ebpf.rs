//! Leases in a program at the sockets of a control group: whoever may not connect gets EPERM at once.
//!
//! ```text
//!   config --> rules --clang's object, loaded by aya--> program --link--> hooks of a cgroup   (at start, after a change, when another took it)
//!   core --Command--> driver of timed tables --batches--> lease tables                        (per answer)
//!   program --ring--> `denied`: where to, which process, which unit                           (every refusal)
//! ```
//!
//! Links and tables are pinned: they outlive the daemon, so a crash fails closed. A lease's end is a time of the boot clock, which the program
//! compares itself; so a lease ends when nobody is there to end it, and while the host sleeps too.
//!
//! It guards what the processes of this host begin: `nftables.mode = "local"`.

use crate::core::event::{EnforcerKind, EnforcerSpec};
use crate::core::narrow::NarrowKinds;

pub mod backend;
pub mod error;
pub mod layout;
pub mod program;
pub mod refusals;
pub mod sockets;
pub mod table;

pub use error::Error;
pub use program::{counters, is_left_behind};
pub use table::Table;

/// As the configuration and logs name it.
pub const NAME: &str = "ebpf";
/// Where links and tables are pinned.
pub const PINS: &str = "/sys/fs/bpf/destguard";

/// How the core is to see it.
#[must_use]
pub fn spec(capacity: usize) -> EnforcerSpec {
    EnforcerSpec {
        name: NAME.to_owned(),
        kind: EnforcerKind::Timed,
        required: true,
        max_addresses: capacity,
        ipv4: true,
        ipv6: true,
        narrow: NarrowKinds { ports: true, ..NarrowKinds::default() },
    }
}
