//! The whole DNS side on loopback: real sockets, a scripted upstream, the real core with an enforcer in memory.

pub(super) mod harness;
mod hostile;
mod local_names;
mod policy;
mod story;
mod transport;
mod upstreams;
