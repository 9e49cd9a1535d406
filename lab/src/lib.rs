//! A containerlab topology as network namespaces, and what tests need inside them.
//!
//! ```no_run
//! # fn main() -> Result<(), lab::Error> {
//! let lab = lab::Lab::up("lab/frr/frr.clab.yml")?;
//! let seen = lab.node("client").run("ping -c1 -W1 10.0.1.1")?;
//! assert!(seen.status.success());
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! What a file says:
//! - [`topology`]: the containerlab file, its merge order, and what of it is honoured.
//! - [`image`]: which local daemons stand for a container image.
//!
//! What is brought up:
//! - [`lab`](mod@lab): the whole topology; [`node`]: one node; [`process`]: one program in a node.
//! - [`cleanup`]: removes everything, also when the owner was killed.
//!
//! What tests use inside:
//! - [`dns`]: a scripted upstream and a client; [`tcp`]: accept servers and connect probes;
//!   [`routes`]: when a route came into the kernel; [`wait`]: polling with a deadline.
//!
//! What the `lab` program does beside:
//! - [`demo`]: the story that `./lab/demo` shows; [`mod@bench`]: what the guard costs; [`bench_start`]: how long it takes to begin again; [`bench_guards`]: what telling other guards costs; [`bench_dns`]: its
//!   resolver beside others; [`bench_bgp`]: its speaker beside others; [`soak`]: whether it grows; [`reload_soak`]: whether changes cost a
//!   question;
//!   [`live`]: whether every connect goes as promised; [`attack`]: whether a hostile client costs only itself; [`faults`]: what faults
//!   cost.

#![warn(missing_docs)]

pub mod attack;
pub mod bench;
pub mod bench_bgp;
pub mod bench_dns;
pub mod bench_guards;
pub mod bench_start;
pub mod cleanup;
pub mod demo;
pub mod dns;
mod error;
pub mod faults;
pub mod image;
pub mod lab;
pub mod live;
pub mod node;
pub mod process;
pub mod reload_soak;
pub mod routes;
pub mod soak;
mod sys;
pub mod tcp;
pub mod topology;
pub mod wait;

pub use error::Error;
pub use lab::{Builder, Lab};
pub use node::Node;
pub use process::Process;
pub use wait::wait_until;
