//! A BGP-4 speaker that announces host routes and knows when they are in force.
//!
//! Crate map, most important first:
//!
//! * [`session`]: the pure session machine, `(state, input, now) -> outputs` (RFC 4271 section 8).
//! * [`table`]: the routes to announce, shared by all peers.
//! * [`adj_out`]: what of it one session is sent, as octets.
//! * [`confirm`]: from octets written to generations in force.
//! * [`leases`]: what other guards say of theirs.
//! * [`bfd`]: is the path to a router alive (RFC 5880)?
//! * [`wire`]: messages to octets and back; knows no clock, no socket and no state.
//! * `io` (feature `io`): the tokio driver, the only part that touches sockets.
//!
//! What they are told and what they show: [`config`], [`status`].

#![warn(missing_docs)]

pub mod adj_out;
pub mod bfd;
pub mod config;
pub mod confirm;
#[cfg(feature = "io")]
pub mod io;
pub mod leases;
// Without the driver nobody follows what peers announce.
#[cfg_attr(not(feature = "io"), allow(dead_code))]
pub mod networks;
pub mod session;
pub mod status;
pub mod table;
pub mod wire;
