//! A replay: one reader's walk over the table, and the pieces it is given in.
//!
//! An UPDATE holds routes of one class only. So that messages are full whatever the order of addresses, a walk takes one class
//! after the other, and those behind the first few together, in larger pieces.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use ipnet::IpNet;

use super::chunks::{Chunk, Chunks};
use super::classes::Classes;
use super::{Batch, Entry, Replay, Room, SCAN};
use crate::wire::iana::Family;

/// So many classes have a pass each. Every pass looks at every route of the family.
pub(super) const OWN: u16 = 16;
/// Pieces of the pass that all others share are so many times larger.
const SHARED: usize = 4;

/// The pass that brings a class.
const fn pass(class: u16) -> u16 {
    if class < OWN { class } else { OWN }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<N> {
    pub(super) kind: Replay,
    /// The pass, and the prefix behind which it goes on; `None`: the head of the first.
    at: Option<(u16, Option<N>)>,
    begun: bool,
    /// It also brings what a cut log lost.
    repairs: bool,
    /// The peer asked again meanwhile.
    pub(super) again: bool,
}

impl<N> Walk<N> {
    pub(super) const fn new(kind: Replay) -> Self {
        Self { kind, at: None, begun: false, repairs: false, again: false }
    }
}

/// Starts a walk from the table's head: one under way may have passed what lost entries announced.
pub(super) fn restart<N>(walk: &mut Option<Walk<N>>, negotiated: bool) {
    match walk {
        Some(walk) => {
            walk.at = None;
            walk.repairs = true;
        }
        None if negotiated => *walk = Some(Walk::new(Replay::Repair)),
        None => {}
    }
}

/// The peer asks for the family.
pub(super) fn ask<N>(walk: &mut Option<Walk<N>>) {
    match walk {
        Some(walk) if !walk.begun && walk.kind == Replay::Refresh => {}
        Some(walk) => walk.again = true,
        None => *walk = Some(Walk::new(Replay::Refresh)),
    }
}

/// A style, and what encodes the announcements of a batch in it.
pub(super) type Make<'a> = (u32, &'a mut dyn FnMut(&Batch) -> Option<Bytes>);

/// The routes of one family, and what is kept of their replays.
pub(super) struct Routes<'t, N> {
    pub(super) family: Family,
    pub(super) routes: &'t BTreeMap<N, Entry>,
    pub(super) chunks: &'t mut Chunks<N>,
    pub(super) classes: &'t Classes,
}

impl<N: Ord + Copy + Into<IpNet>> Routes<'_, N> {
    /// Gives the next piece of a walk; says how many routes are in it.
    pub(super) fn step(&mut self, walk: &mut Walk<N>, room: &Room, batch: &mut Batch, make: Option<Make<'_>>) -> usize {
        if !walk.begun {
            walk.begun = true;
            if walk.kind == Replay::Refresh {
                batch.begin = Some(self.family);
            }
        }
        // Who asked to hear everything again hears of new routes too then.
        batch.replay = Some(if walk.repairs && walk.kind == Replay::Refresh { Replay::Repair } else { walk.kind });
        let first = || self.classes.used(0..=OWN).map(|pass| (pass, None));
        let Some((own, after)) = walk.at.or_else(first) else {
            batch.end = Some((self.family, walk.kind));
            return 0;
        };
        let (upto, count) = match make {
            Some((style, make)) => self.shared(own, after, room, batch, style, make),
            None => self.gather(own, after, None, room, batch),
        };
        // What joins a class that was passed over comes by the log.
        walk.at = match upto {
            Some(upto) => Some((own, Some(upto))),
            None => self.classes.used(own.saturating_add(1)..=OWN).map(|pass| (pass, None)),
        };
        if walk.at.is_none() {
            batch.end = Some((self.family, walk.kind));
        }
        count
    }

    /// A piece that was encoded before, or a new one that is kept.
    fn shared(
        &mut self,
        own: u16,
        after: Option<N>,
        room: &Room,
        batch: &mut Batch,
        style: u32,
        make: &mut dyn FnMut(&Batch) -> Option<Bytes>,
    ) -> (Option<N>, usize) {
        if let Some(chunk) = self.chunks.get(style, (own, after)) {
            batch.encoded = Some(chunk.octets.clone());
            return (chunk.upto, chunk.routes);
        }
        // A little more than wanted, if that ends where a kept piece begins.
        let next = self.chunks.next(style, (own, after));
        let (upto, count) = self.gather(own, after, next, room, batch);
        if let Some(octets) = make(batch) {
            self.chunks.put(style, (own, after), Chunk { upto, octets: octets.clone(), routes: count });
            batch.encoded = Some(octets);
            batch.forget_announcements();
        }
        (upto, count)
    }

    /// Routes of a pass behind `after`; up to where (`None`: the pass is through) and how many.
    fn gather(
        &self,
        own: u16,
        after: Option<N>,
        next: Option<N>,
        room_for: &Room,
        batch: &mut Batch,
    ) -> (Option<N>, usize) {
        let room = room_for.of(self.family, own) * if own == OWN { SHARED } else { 1 };
        let most = if next.is_some() { room + room / 4 } else { room };
        let message = room_for.message(self.family, own);
        let (mut at, mut count, mut at_room, mut at_full) = (after, 0, (after, 0), (after, 0));
        let mut whole = true;
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        for (scanned, (net, entry)) in self.routes.range(behind).enumerate() {
            if count >= most || scanned >= SCAN || (at.is_some() && at == next) {
                whole = false;
                break;
            }
            at = Some(*net);
            if entry.announced() && pass(entry.class()) == own {
                batch.announce((*net).into(), entry.class());
                count += 1;
            }
            if count <= room {
                at_room = (at, count);
            }
            if count % message == 0 {
                at_full = (at, count);
            }
        }
        if !whole && at != next && count > room {
            // The kept piece is too far away after all.
            batch.truncate_announcements(at_room.1);
            (at, count) = at_room;
        } else if !whole && at != next && count < room && at_full.1 > 0 {
            // Too far for one call: the message that is not full is for the next.
            batch.truncate_announcements(at_full.1);
            (at, count) = at_full;
        }
        (if whole { None } else { at }, count)
    }
}
