//! What is known of a response before it is judged: of an upstream's, a validated one's, or a local zone's.

use crate::dns::codec::ede::Ede;
use crate::dns::codec::response::{self, Response};

/// What came of reading a response.
#[derive(Clone, Debug)]
pub enum Checked {
    /// It may be judged.
    Response(Response),
    /// It can't be read.
    Malformed,
    /// It must not be used: the label of the refusal, and what the client is told.
    Refused(&'static str, Ede),
}

impl Checked {
    /// Reads a response that nobody validated.
    #[must_use]
    pub fn read(message: &[u8]) -> Self {
        response::read(message).map_or(Self::Malformed, Self::Response)
    }
}
