//! The documented default file, as `destguard config default` prints it.

/// Every key, with what it means and its default. Lines that begin with "#" and a letter or bracket directly behind it are
/// settings to uncomment; "# " begins prose.
pub const TEXT: &str = include_str!("default.toml");
