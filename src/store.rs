//! Leases on disk, so that kill -9 at any instant loses none and lengthens none.
//!
//! - [`record`]: the octets of one record.
//! - [`frame`]: the octets of a file of records, so that damage to some costs no others.
//! - [`past`]: what of a file is alive now.
//! - [`journal`]: the file: appended before an answer leaves, compacted by an atomic rename, read back at start.
//! - [`exceptions`]: the file of the operator's exceptions.
//! - [`usage`]: the file of what was asked for in audit.
//! - [`whole`]: how these two files are written and read.
//! - [`lists`]: the last readable copies of the lists.
//! - [`place`]: where it lies, and whether it is still what it should be there.
//! - [`health`]: what is wrong with it.

pub mod exceptions;
pub mod frame;
pub mod health;
pub mod journal;
pub mod lists;
pub mod past;
pub mod place;
pub mod record;
pub mod usage;
pub mod whole;
