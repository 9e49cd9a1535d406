//! destguard: connect only to what DNS told you.
//!
//! A client asks a name; the guard resolves it, binds the answer to the question, judges it, turns every
//! address of it into a *lease*, has every *enforcer* (nftables, BGP peers) open the address, waits until they say
//! so, and only then releases the answer.
//!
//! # Map
//!
//! The pure part, on a virtual clock, without sockets, tasks or logs it depends on:
//! - [`core`]: answer binding, policy, leases, the gate, plans for the enforcers.
//!
//! The drivers around it:
//! - [`dns`]: listeners, cache and upstreams; the only module that names hickory.
//! - [`enforce`]: what opens and closes addresses; nftables and BGP behind one trait.
//! - [`flows`]: what routers report of flows.
//! - [`tls`]: keys and certificates, both ways.
//! - [`store`]: leases on disk.
//! - [`control`]: HTTP and JSON for the command line, metrics, health.
//! - [`sys`]: the operating system: notify socket, signals, socket options.
//!
//! What ties them together:
//! - [`config`]: the file a user writes. [`check`]: reads it and judges it as a whole, before anything is bound.
//! - [`core_task`]: the one task that owns the core.
//! - [`daemon`]: spawns every task; its head shows all tasks and channels.
//! - [`recording`]: what the core hears, in a file, and what it makes of it again.
//! - [`live`]: what the guard would refuse on this host as it is now.
//! - [`cli`]: the command line.

#![warn(missing_docs)]

pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod core_task;
pub mod daemon;
pub mod dns;
pub mod enforce;
pub mod flows;
pub mod live;
pub mod metrics;
pub mod recording;
pub mod store;
pub mod sys;
pub mod tls;
