//! A BGP-4 speaker that announces host routes and knows when they are in force.
//!
//! Crate map, most important first:
//!
//! * `session`: the pure session machine, `(state, input, now) -> outputs` (RFC 4271 section 8).
//! * `table`: the routes to announce, shared by all peers.
//! * [`wire`]: messages to octets and back; knows no clock, no socket and no state.
//! * `io` (feature `io`): the tokio driver, the only part that touches sockets.

// pub mod session;
// pub mod table;
// #[cfg(feature = "io")]
// pub mod io;
pub mod wire;
