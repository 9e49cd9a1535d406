//! What a lease knows of its enforcers, in little room.

use super::Moment;
use crate::core::event::Generation;
use crate::core::groups::GroupSet;
use crate::core::plan::{Planned, PlannedRoute, PlannedTimed};

/// A moment, or a plan's number, or none, in six octets: 8,900 years of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Six([u8; 6]);

/// Stands for itself and everything beyond it.
const MOST: u64 = (1 << 48) - 2;

impl Six {
    /// No moment, and no number.
    pub const NONE: Self = Self([u8::MAX; 6]);

    fn of(value: Option<u64>) -> Self {
        let Some(value) = value else { return Self::NONE };
        let [one, two, three, four, five, six, ..] = value.min(MOST).to_le_bytes();
        Self([one, two, three, four, five, six])
    }

    fn get(self) -> Option<u64> {
        let [one, two, three, four, five, six] = self.0;
        let value = u64::from_le_bytes([one, two, three, four, five, six, 0, 0]);
        match value {
            _ if self == Self::NONE => None,
            MOST => Some(u64::MAX),
            value => Some(value),
        }
    }

    /// The value as a moment.
    #[must_use]
    pub fn moment(self) -> Option<Moment> {
        self.get().map(Moment)
    }

    /// The value as a plan's number.
    #[must_use]
    pub fn plan(self) -> Option<Generation> {
        self.get().map(Generation)
    }
}

impl From<Option<Moment>> for Six {
    fn from(value: Option<Moment>) -> Self {
        Self::of(value.map(|moment| moment.0))
    }
}

impl From<Option<Generation>> for Six {
    fn from(value: Option<Generation>) -> Self {
        Self::of(value.map(|plan| plan.0))
    }
}

/// [`Planned`], but for a [`RouteRest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedPlan {
    ends: Six,
    timed: [Six; 2],
    route: Six,
    flags: u8,
}

/// What few routes have: groups, or none where they had some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRest {
    groups: Option<GroupSet>,
    last: Generation,
}

/// A timed enforcer refused.
const TIMED_REFUSED: u8 = 1;
/// A route enforcer refused.
const ROUTE_REFUSED: u8 = 1 << 1;
/// There is a [`RouteRest`].
const HAS_REST: u8 = 1 << 2;

impl PackedPlan {
    /// With what has to be kept elsewhere.
    #[must_use]
    pub fn pack(planned: Planned) -> (Self, Option<RouteRest>) {
        let is_plain = |route: &PlannedRoute| route.groups == Some(GroupSet::EMPTY) && route.last == route.opened;
        let rest = planned.route.filter(|route| !is_plain(route));
        let rest = rest.map(|route| RouteRest { groups: route.groups, last: route.last });
        let timed = planned.timed.as_ref();
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let packed = Self {
            ends: timed.map(|timed| timed.ends).into(),
            timed: [timed.map(|timed| timed.opened).into(), timed.map(|timed| timed.last).into()],
            route: planned.route.map(|route| route.opened).into(),
            flags: flag(TIMED_REFUSED, planned.timed_refused)
                | flag(ROUTE_REFUSED, planned.route_refused)
                | flag(HAS_REST, rest.is_some()),
        };
        (packed, rest)
    }

    /// The plan that opened the route.
    #[must_use]
    pub fn route_opened(&self) -> Option<Generation> {
        self.route.plan()
    }

    /// `rest`: what was to be kept elsewhere.
    #[must_use]
    pub fn unpack(&self, rest: impl FnOnce() -> Option<RouteRest>) -> Planned {
        let has = |flag: u8| self.flags & flag != 0;
        let timed = || {
            let [opened, last] = self.timed;
            Some(PlannedTimed { ends: self.ends.moment()?, opened: opened.plan()?, last: last.plan()? })
        };
        let route = || {
            let opened = self.route_opened()?;
            let plain = RouteRest { groups: Some(GroupSet::EMPTY), last: opened };
            let RouteRest { groups, last } = if has(HAS_REST) { rest()? } else { plain };
            Some(PlannedRoute { opened, last, groups })
        };
        let (timed_refused, route_refused) = (has(TIMED_REFUSED), has(ROUTE_REFUSED));
        Planned { timed: timed(), route: route(), timed_refused, route_refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        for value in [0, 1, 255, 1 << 40, MOST - 1] {
            assert_eq!(Six::from(Some(Moment(value))).moment(), Some(Moment(value)));
            assert_eq!(Six::from(Some(Generation(value))).plan(), Some(Generation(value)));
        }
        assert_eq!(Six::from(Some(Moment::NEVER)).moment(), Some(Moment::NEVER));
        assert_eq!(Six::from(Some(Moment(1 << 50))).moment(), Some(Moment::NEVER));
        assert_eq!(Six::from(None::<Moment>).moment(), None);
        let timed = PlannedTimed { ends: Moment(9), opened: Generation(1), last: Generation(2) };
        let some = GroupSet::of_places(5);
        let sets = [Some(GroupSet::EMPTY), None, Some(some)];
        for (groups, last) in sets.into_iter().flat_map(|groups| [(groups, 3), (groups, 4)]) {
            let route = PlannedRoute { opened: Generation(3), last: Generation(last), groups };
            for (timed, route) in [(None, None), (Some(timed), None), (None, Some(route)), (Some(timed), Some(route))] {
                for refused in [false, true] {
                    let planned = Planned { timed, route, timed_refused: refused, route_refused: !refused };
                    let (packed, rest) = PackedPlan::pack(planned);
                    assert_eq!(packed.unpack(|| rest), planned);
                    let plain = groups == Some(GroupSet::EMPTY) && last == 3;
                    assert_eq!(rest.is_some(), route.is_some() && !plain, "what nearly all have is not kept elsewhere");
                }
            }
        }
    }
}
