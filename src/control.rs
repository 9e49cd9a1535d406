//! HTTP and JSON for the command line, for metrics and for health.
//!
//! - [`types`]: every JSON shape that leaves the daemon.
//! - [`sources`]: what the daemon must be able to tell; [`denied`]: the bounded log of what was refused.
//! - [`api`]: the routes. [`listen`]: the unix socket with its checks, and the optional TCP listeners; [`access`]: who may read over these.
//! - [`history`]: the last hour and day, for the page's plots.
//! - [`query_log`]: the last questions. [`usage`]: what was asked for and used in audit, for `suggest`.
//! - [`status`]: one word for how the guard is. [`sessions`]: BGP sessions as they are shown.
//! - [`client`]: the other end, for the command line.

pub mod access;
pub mod api;
pub mod client;
pub mod denied;
pub mod history;
pub mod listen;
pub mod namespace;
mod page;
pub mod ports;
pub mod query_log;
mod seats;
pub mod sessions;
pub mod sources;
pub mod status;
mod stream;
pub mod types;
pub mod usage;

pub use access::Access;
pub use denied::{DeniedKind, DeniedLog};
pub use listen::{ControlSocket, serve_tcp};
pub use namespace::NamespaceName;
pub use query_log::QueryLog;
pub use sources::{CoreView, Sources};
pub use usage::Usage;
