//! Encoded pieces of replays, shared by all peers with the same attributes while any replay is under way.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

/// Octets kept of a family, at most: peers that replay at the same time are not further apart than what their sockets hold. Who is
/// encodes for itself.
pub(super) const KEPT: usize = if cfg!(test) { 16 << 10 } else { 8 << 20 };

/// One piece: the announced routes behind its key up to `upto`, encoded.
#[derive(Clone, Debug)]
pub(super) struct Chunk<N> {
    /// Last prefix looked at; `None`: the piece goes to the end of the table.
    pub(super) upto: Option<N>,
    pub(super) octets: Bytes,
    pub(super) routes: usize,
}

/// Where a piece begins: in which pass, and behind which prefix.
type Start<N> = (u16, Option<N>);

/// The pieces of one family, for each style (set of attributes) by where they begin.
#[derive(Debug)]
pub(super) struct Chunks<N> {
    pieces: BTreeMap<u32, BTreeMap<Start<N>, Chunk<N>>>,
    /// In the order they were made; some may be gone already.
    made: VecDeque<(u32, Start<N>)>,
    octets: usize,
}

impl<N> Default for Chunks<N> {
    fn default() -> Self {
        Self { pieces: BTreeMap::new(), made: VecDeque::new(), octets: 0 }
    }
}

impl<N: Ord + Copy> Chunks<N> {
    pub(super) fn get(&self, style: u32, start: Start<N>) -> Option<&Chunk<N>> {
        self.pieces.get(&style)?.get(&start)
    }

    pub(super) fn put(&mut self, style: u32, start: Start<N>, chunk: Chunk<N>) {
        self.octets += chunk.octets.len();
        self.made.push_back((style, start));
        if let Some(old) = self.pieces.entry(style).or_default().insert(start, chunk) {
            self.octets -= old.octets.len();
        }
        while self.octets > KEPT || self.made.len() > KEPT / 64 {
            let Some((style, start)) = self.made.pop_front() else { break };
            if let Some(old) = self.pieces.get_mut(&style).and_then(|pieces| pieces.remove(&start)) {
                self.octets -= old.octets.len();
            }
        }
    }

    /// Where the next piece of the same pass begins: a piece that ends there keeps those behind it useful.
    pub(super) fn next(&self, style: u32, start: Start<N>) -> Option<N> {
        let pieces = self.pieces.get(&style)?;
        let ((pass, after), _) = pieces.range((Bound::Excluded(start), Bound::Unbounded)).next()?;
        after.filter(|_| *pass == start.0)
    }

    /// A route came or went: pieces that it lies in are old. There are few, and pieces may overlap, so all are asked.
    pub(super) fn forget(&mut self, net: N) {
        for pieces in self.pieces.values_mut() {
            pieces.retain(|(_, after), chunk| {
                let keep = Some(net) <= *after || chunk.upto.is_some_and(|upto| upto < net);
                if !keep {
                    self.octets -= chunk.octets.len();
                }
                keep
            });
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        assert_eq!(self.octets, self.pieces.values().flatten().map(|(_, chunk)| chunk.octets.len()).sum());
        self.octets
    }
}
