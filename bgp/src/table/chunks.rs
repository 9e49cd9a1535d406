//! Encoded pieces of replays, shared by all peers with the same attributes while any replay is under way.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// One piece: the announced routes behind its key up to `upto`, encoded.
#[derive(Clone, Debug)]
pub(super) struct Chunk<N> {
    /// Last prefix looked at; `None`: the piece goes to the end of the table.
    pub(super) upto: Option<N>,
    pub(super) octets: Bytes,
    pub(super) routes: usize,
}

/// The pieces of one family, for each style (set of attributes) by the prefix behind which they begin.
#[derive(Debug)]
pub(super) struct Chunks<N>(BTreeMap<u32, BTreeMap<Option<N>, Chunk<N>>>);

impl<N> Default for Chunks<N> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<N: Ord + Copy> Chunks<N> {
    pub(super) fn get(&self, style: u32, after: Option<N>) -> Option<&Chunk<N>> {
        self.0.get(&style)?.get(&after)
    }

    pub(super) fn put(&mut self, style: u32, after: Option<N>, chunk: Chunk<N>) {
        self.0.entry(style).or_default().insert(after, chunk);
    }

    /// Where the next piece behind `after` begins: a piece that ends there keeps those behind it useful.
    pub(super) fn next(&self, style: u32, after: Option<N>) -> Option<N> {
        let pieces = self.0.get(&style)?;
        pieces.range((Bound::Excluded(after), Bound::Unbounded)).next().and_then(|(start, _)| *start)
    }

    /// A route came or went: pieces that it lies in are old. There are few, and pieces may overlap, so all are asked.
    pub(super) fn forget(&mut self, net: N) {
        for pieces in self.0.values_mut() {
            pieces.retain(|start, chunk| Some(net) <= *start || chunk.upto.is_some_and(|upto| upto < net));
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
