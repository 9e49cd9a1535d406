//! How queries reach upstreams: datagrams and streams.
//!
//! - [`udp`]: datagrams, in batches, for one owner of sockets. [`udp_task`]: the same for all tasks together.
//! - `tcp`: TCP and DoT. `https`: DoH; `age`: how long a response lay in HTTP caches. `quic`: DoQ. `dial`: how they connect.

pub(super) mod age;
pub(crate) mod dial;
pub(super) mod https;
pub(super) mod quic;
pub(super) mod streams;
pub(super) mod tcp;
pub mod udp;
pub mod udp_task;
