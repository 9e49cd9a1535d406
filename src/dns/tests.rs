//! The whole DNS side on loopback: real sockets, a scripted upstream, the real core with an enforcer in memory.

mod abuse;
mod audit;
mod budgets;
mod dialogues;
mod dnssec;
mod edges;
mod encrypted;
mod encrypted_life;
mod encrypted_rules;
mod explain;
mod field;
mod follow;
pub(super) mod harness;
mod hostile;
mod listeners;
mod local_names;
mod people;
mod policy;
mod refusals;
mod reload;
mod secure;
mod stale;
mod story;
mod transport;
mod upstreams;
mod zones;
