//! The whole DNS side on loopback: real sockets, a scripted upstream, the real core with an enforcer in memory.

mod encrypted;
pub(super) mod harness;
mod hostile;
mod local_names;
mod policy;
mod secure;
mod story;
mod transport;
mod upstreams;
