//! What the enforcers must change: the difference between what is planned of an address and what it should be.
//!
//! Nothing is sent while events are taken in; addresses are only marked. When the outputs are drained, one plan serves
//! all that happened: announce and withdraw of one address within a batch leave nothing, and each address occurs at
//! most once in a plan.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::event::{ASKED, Change, EnforcerKind, Generation, QueryPath, QueryPaths};
use super::groups::GroupSet;
use super::moment::Moment;

/// A lease's end is not moved for less than this: what it would gain is not worth a round trip to the kernel and a
/// record on disk. `lease.grace` covers it.
pub const LEAST_EXTENSION: Duration = Duration::from_secs(1);

/// Whether an end has moved on for the disk too: in whole steps of about [`LEAST_EXTENSION`], so that many small ones add up.
#[must_use]
pub fn moves_on(before: Moment, ends: Moment) -> bool {
    let steps = |moment: Moment| u128::from(moment.0) / LEAST_EXTENSION.as_millis();
    steps(ends) > steps(before)
}

/// What the last plan that concerned an address made of it at the timed enforcers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedTimed {
    /// The end they know.
    pub ends: Moment,
    /// The plan that opened the address.
    pub opened: Generation,
    /// The plan that last changed its end.
    pub last: Generation,
}

/// Likewise at the route enforcers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRoute {
    /// The plan that opened the address.
    pub opened: Generation,
    /// The plan that last changed its groups.
    pub last: Generation,
    /// The groups whose communities it bears; `None` when what was planned has no name any more.
    pub groups: Option<GroupSet>,
}

/// What is planned of one address: what the enforcers hold of it once they have answered every plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Timed enforcers; `None` = closed, or expired there by itself.
    pub timed: Option<PlannedTimed>,
    /// What is planned for route enforcers.
    pub route: Option<PlannedRoute>,
    /// A timed enforcer refused, or lacks it: some hold it and some don't. To close it all must be told so, to open it
    /// too.
    pub timed_refused: bool,
    /// A route enforcer refused; likewise.
    pub route_refused: bool,
}

/// What of an address waits for enforcers of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Nothing: it was closed, and perhaps opened again, since it was planned last.
    pub unplanned: bool,
    /// A group joined it since it was planned last.
    pub joined: bool,
}

impl Planned {
    /// An enforcer of this kind refused the plans of which `refused` says so.
    ///
    /// Before: the last plan that concerned the address may be among them. After: if so, and nothing waits for that
    /// plan, the next one says the same again though nothing differs. What waits is found by who waits.
    #[must_use]
    pub fn anew(mut self, kind: EnforcerKind, refused: impl Fn(Generation) -> bool, waits: Waits) -> Self {
        let Waits { unplanned, joined } = waits;
        match kind {
            EnforcerKind::Timed => {
                self.timed_refused |= unplanned && self.timed.is_some_and(|timed| refused(timed.opened));
            }
            EnforcerKind::Route if unplanned && self.route.is_some_and(|route| refused(route.opened)) => {
                self.route_refused = true;
            }
            EnforcerKind::Route if joined || unplanned => {
                if let Some(route) = self.route.as_mut().filter(|route| refused(route.last)) {
                    route.groups = None;
                }
            }
            EnforcerKind::Route => {}
        }
        self
    }

    /// An enforcer of this kind does not hold what is planned: the next plan says it anew to all of its kind.
    #[must_use]
    pub fn refused(self, kind: EnforcerKind) -> Self {
        match kind {
            EnforcerKind::Timed => Self { timed_refused: true, ..self },
            EnforcerKind::Route => Self { route_refused: true, ..self },
        }
    }

    /// No route enforcer was told of it.
    #[must_use]
    pub fn without_route(self) -> Self {
        Self { route: None, route_refused: false, ..self }
    }

    /// The set of groups that its route bears has another name now, or none.
    #[must_use]
    pub fn with_groups_renamed(self, rename: impl FnOnce(GroupSet) -> Option<GroupSet>) -> Self {
        let route = self.route.map(|route| PlannedRoute { groups: route.groups.and_then(rename), ..route });
        Self { route, ..self }
    }
}

/// What an address should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Open at timed enforcers until then.
    pub timed: Option<Moment>,
    /// Open at route enforcers, with the communities of these groups.
    pub route: Option<GroupSet>,
}

/// The changes of one address, and what is planned of it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// For timed enforcers.
    pub timed: Option<Change>,
    /// For route enforcers.
    pub route: Option<Change>,
    /// What is planned of it behind the change.
    pub planned: Planned,
}

/// What must change for `address` to get from what is `planned` to what is `wanted` in the plan `generation`.
#[must_use]
pub fn difference(
    address: IpAddr,
    planned: Planned,
    wanted: Wanted,
    generation: Generation,
    now: Moment,
) -> Difference {
    // What has ended is gone from a timed enforcer without our help.
    let alive = planned.timed.filter(|timed| timed.ends > now);
    let fresh = |ends| Some(PlannedTimed { ends, opened: generation, last: generation });
    let (timed, planned_timed) = match (alive, wanted.timed) {
        (None, None) => (None, None),
        (None, Some(ends)) => (Some(Change::Open { address, ends }), fresh(ends)),
        (Some(_), None) => (Some(Change::Close { address }), None),
        (Some(_), Some(ends)) if planned.timed_refused => (Some(Change::Open { address, ends }), fresh(ends)),
        (Some(old), Some(ends)) if ends == old.ends => (None, Some(old)),
        (Some(old), Some(ends)) => {
            let change = Change::Extend { address, ends };
            (Some(change), Some(PlannedTimed { ends, opened: old.opened, last: generation }))
        }
    };
    let (route, planned_route) = match (planned.route, wanted.route) {
        (old, Some(groups)) if old.is_none() || planned.route_refused => {
            let change = if groups.is_empty() {
                Change::Open { address, ends: wanted.timed.unwrap_or(now) }
            } else {
                Change::Announce { address, groups, new: true }
            };
            (Some(change), Some(PlannedRoute { opened: generation, last: generation, groups: Some(groups) }))
        }
        (Some(old), Some(groups)) if old.groups != Some(groups) => {
            let change = Change::Announce { address, groups, new: false };
            (Some(change), Some(PlannedRoute { opened: old.opened, last: generation, groups: Some(groups) }))
        }
        (Some(_), None) => (Some(Change::Close { address }), None),
        (old, _) => (None, old),
    };
    Difference { timed, route, planned: Planned { timed: planned_timed, route: planned_route, ..Planned::default() } }
}

/// What is due for an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// It may need a change.
    pub change: bool,
    /// It must be written to disk, or its closing.
    pub journal: bool,
    /// Questions that have opened it, or made it last longer, since it was last written.
    pub paths: QueryPaths,
    /// All its questions are to be written, not these alone.
    pub whole: bool,
    /// A part of it was taken back: what was on disk before must not count any more, whatever becomes of the record
    /// that says so.
    pub anew: bool,
}

/// Addresses whose plan is due. Bounded by the lease table and what a batch of events removes from it.
#[derive(Debug, Default)]
pub struct Marks {
    due: BTreeMap<IpAddr, Mark>,
    /// What is planned still of addresses that are not in the table any more.
    removed: BTreeMap<IpAddr, Planned>,
}

impl Marks {
    /// The address may need a change.
    pub fn change(&mut self, address: IpAddr) {
        self.due.entry(address).or_default().change = true;
    }

    /// The address must be written to disk with all its questions, or its closing.
    pub fn journal(&mut self, address: IpAddr) {
        let mark = self.due.entry(address).or_default();
        (mark.journal, mark.whole) = (true, true);
    }

    /// The address was asked for by this question, which must be written to disk.
    pub fn asked(&mut self, address: IpAddr, path: QueryPath) {
        let mark = self.due.entry(address).or_default();
        mark.journal = true;
        // What gets longer than all that is kept is written as such.
        mark.whole |= mark.paths.len() >= ASKED;
        if mark.whole {
            return;
        }
        match mark.paths.iter_mut().find(|other| other.is_same(&path)) {
            Some(known) => known.ends = known.ends.max(path.ends),
            None => mark.paths.push(path),
        }
    }

    /// Likewise; a part of it was taken back.
    pub fn taken_back(&mut self, address: IpAddr) {
        let mark = self.due.entry(address).or_default();
        (mark.change, mark.journal, mark.whole, mark.anew) = (true, true, true, true);
    }

    /// What is on disk of the address is what it should be.
    pub fn is_on_disk(&mut self, address: IpAddr) {
        if let Some(mark) = self.due.get_mut(&address) {
            mark.journal = false;
        }
    }

    /// The lease is gone from the table; this is what is planned of it still.
    pub fn removed(&mut self, address: IpAddr, planned: Planned) {
        self.change(address);
        if planned != Planned::default() {
            self.removed.insert(address, planned);
        }
    }

    /// What is planned still of an address that comes (back) into the table.
    pub fn take_removed(&mut self, address: IpAddr) -> Planned {
        self.removed.remove(&address).unwrap_or_default()
    }

    /// Addresses marked with a change, in order.
    pub fn changed(&self) -> impl Iterator<Item = IpAddr> {
        self.due.iter().filter(|(_, mark)| mark.change).map(|(address, _)| *address)
    }

    /// What is planned still of an address that left the table since the last plan.
    #[must_use]
    pub fn removed_of(&self, address: IpAddr) -> Option<Planned> {
        self.removed.get(&address).copied()
    }

    /// Addresses that left the table since the last plan, of which what is planned is `meant`.
    pub fn removed_where(&self, meant: impl Fn(&Planned) -> bool) -> Vec<IpAddr> {
        self.removed.iter().filter(|(_, planned)| meant(planned)).map(|(address, _)| *address).collect()
    }

    /// An enforcer refused plans of an address that left the table since the last plan: see [`Planned::anew`]. Returns
    /// what was planned before, and what is now.
    pub fn plan_removed_anew(
        &mut self,
        address: IpAddr,
        kind: EnforcerKind,
        refused: impl Fn(Generation) -> bool,
    ) -> Option<(Planned, Planned)> {
        let planned = self.removed.get_mut(&address)?;
        let before = *planned;
        *planned = before.anew(kind, refused, Waits { unplanned: true, joined: false });
        Some((before, *planned))
    }

    /// Nobody holds the routes of addresses that left the table since the last plan.
    pub fn forget_removed_routes(&mut self) {
        self.removed.values_mut().for_each(|planned| *planned = planned.without_route());
    }

    /// Sets of groups have other names from now on; see [`Planned::with_groups_renamed`].
    pub fn rename_groups(&mut self, mut rename: impl FnMut(GroupSet) -> Option<GroupSet>) {
        self.removed.values_mut().for_each(|planned| *planned = planned.with_groups_renamed(&mut rename));
    }

    /// Everything that is marked, in order; clears the marks.
    pub fn take(&mut self) -> BTreeMap<IpAddr, Mark> {
        std::mem::take(&mut self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const NOW: Moment = Moment(1000);

    fn planned(ends: u64) -> Planned {
        let generation = Generation(3);
        Planned {
            timed: Some(PlannedTimed { ends: Moment(ends), opened: generation, last: generation }),
            route: Some(PlannedRoute { opened: generation, last: generation, groups: Some(GroupSet::EMPTY) }),
            ..Planned::default()
        }
    }

    fn wanted(ends: u64) -> Wanted {
        Wanted { timed: Some(Moment(ends)), route: Some(GroupSet::EMPTY) }
    }

    fn changes(planned: Planned, wanted: Wanted) -> (Option<Change>, Option<Change>) {
        let found = difference(HERE, planned, wanted, Generation(9), NOW);
        (found.timed, found.route)
    }

    #[test]
    fn timed_and_routes_differ_as_they_must() {
        let open = |ends| Some(Change::Open { address: HERE, ends: Moment(ends) });
        let close = Some(Change::Close { address: HERE });
        assert_eq!(changes(Planned::default(), Wanted::default()), (None, None));
        assert_eq!(changes(Planned::default(), wanted(5000)), (open(5000), open(5000)));
        assert_eq!(
            changes(planned(5000), wanted(7000)),
            (Some(Change::Extend { address: HERE, ends: Moment(7000) }), None),
            "routes do not hear of extensions"
        );
        assert_eq!(
            changes(planned(5000), wanted(4000)),
            (Some(Change::Extend { address: HERE, ends: Moment(4000) }), None),
            "moving earlier is no opening that could be refused"
        );
        assert_eq!(changes(planned(5000), Wanted { timed: None, route: Some(GroupSet::EMPTY) }), (close, None));
        assert_eq!(
            changes(planned(1000), Wanted { timed: None, route: Some(GroupSet::EMPTY) }),
            (None, None),
            "expired by itself"
        );
        assert_eq!(changes(planned(1000), Wanted::default()), (None, close));
        assert_eq!(changes(planned(1000), wanted(5000)), (open(5000), None), "back from lingering");
        assert_eq!(changes(planned(5000), Wanted::default()), (close, close));
    }

    #[test]
    fn what_one_refused_is_told_anew_to_all() {
        let (open, close) =
            (Some(Change::Open { address: HERE, ends: Moment(5000) }), Some(Change::Close { address: HERE }));
        let refused = Planned { timed_refused: true, route_refused: true, ..planned(5000) };
        assert_eq!(changes(refused, wanted(5000)), (open, open));
        assert_eq!(changes(refused, Wanted::default()), (close, close));
        let by_timed = Planned { timed_refused: true, ..planned(5000) };
        assert_eq!(changes(by_timed, wanted(5000)), (open, None));
        assert_eq!(
            difference(HERE, refused, wanted(5000), Generation(9), NOW).planned.route.unwrap().opened,
            Generation(9)
        );
    }

    #[test]
    fn an_extension_keeps_the_generation_that_opened() {
        let found = difference(HERE, planned(5000), wanted(7000), Generation(9), NOW).planned;
        let timed = found.timed.unwrap();
        assert_eq!((timed.opened, timed.last), (Generation(3), Generation(9)));
        assert_eq!(found.route.unwrap().opened, Generation(3));
    }
}
