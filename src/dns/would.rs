//! What audit notes of an answer, beside the answer itself: made where an answer is judged, kept with it in the cache.

use crate::dns::codec::ede::Ede;

/// What enforcement would have done to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Would {
    /// The label of the refusal.
    pub reason: &'static str,
    /// In words, as they are noted for who waits for the answer.
    pub words: String,
    /// What its client would have been told; the words noted for who gets it from the cache.
    pub ede: Ede,
}
