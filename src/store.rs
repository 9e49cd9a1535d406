//! Leases on disk, so that kill -9 at any instant loses none and lengthens none.
//!
//! - [`record`]: the octets of one record, with its checksum.
//! - [`journal`]: the file: appended before an answer leaves, compacted by an atomic rename, read back at start.

pub mod journal;
pub mod record;
