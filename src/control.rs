//! HTTP and JSON for the command line, for metrics and for health.
//!
//! - [`types`]: every JSON shape that leaves the daemon.
//! - [`sources`]: what the daemon must be able to tell; [`denied`]: the bounded log of what was refused.
//! - [`api`]: the routes. [`listen`]: the unix socket with its checks, and the optional TCP listeners.
//! - [`status`]: one word for how the guard is.
//! - [`client`]: the other end, for the command line.

pub mod api;
pub mod client;
pub mod denied;
pub mod listen;
pub mod namespace;
mod page;
pub mod query_log;
mod seats;
pub mod sources;
pub mod status;
pub mod types;

pub use denied::{DeniedKind, DeniedLog};
pub use listen::{ControlSocket, serve_tcp};
pub use namespace::NamespaceName;
pub use query_log::QueryLog;
pub use sources::{CoreView, Sources};
