//! The whole DNS side on loopback: real sockets, a scripted upstream, the real core with an enforcer in memory.

mod answers_and_leases;
mod audit;
mod budgets;
mod client_certificates;
mod dialogues;
mod dnssec;
mod encrypted;
mod encrypted_connections;
mod encrypted_ends;
mod encrypted_rules;
mod explain;
pub(super) mod harness;
mod listeners;
mod local_names;
mod malformed;
mod policy;
mod rare_answers;
mod rate_limits;
mod refusals;
mod reload;
mod reported_upstreams;
mod stale_answers;
mod transport;
mod unfinished_aliases;
mod upstreams;
mod zones;
