//! The file a user writes.
//!
//! - [`schema`]: its shape, with the defaults. [`value`]: durations, sizes, rates.
//! - [`check`]: every error and warning of a file at once, each with line and column; nothing is bound before it passes.
//! - [`default`]: the documented default file.

pub mod check;
pub mod default;
pub mod schema;
pub mod value;

pub use schema::Config;
