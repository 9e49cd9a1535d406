//! What comes in force, or goes, by itself while the daemon runs: each task looks at one thing, and puts it
//! in force as a reload does.
//!
//! Each holds [`Shared::applying`](super::shared::Shared::applying) meanwhile, so that one set of rules follows the other.

pub mod addresses;
pub mod exceptions;
pub mod files;
pub mod hours;
pub mod trial;
