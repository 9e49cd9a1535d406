//! How far a lease is at the enforcers, in the words of the glossary and in little room.
//!
//! ```text
//!  timed:          plan               acknowledged                plan
//!     unplanned ---------> planned ------------------> acked ------------> extending
//!         ^                 |  ^                        | ^                 |  |
//!         |                 |  +------ enforcer lost ---+ +- acknowledged --+  |
//!         +---- closed, or an element is missing -------+----------------------+
//!
//!  routes:         plan               confirmed                 a group joins
//!     unplanned ---------> planned ------------------> confirmed --------> sharing
//!                              ^                        |   ^                |
//!                              +-- enforcer, or route --+   +- confirmed ----+
//!                                  lost; planned anew
//! ```
//!
//! *In force* is what is acked and confirmed; where no enforcer of a kind is required, a plan alone is as good as its
//! word. What was refused stands in what is [`Planned`]: the next plan says it anew.

use super::packed::{PackedPlan, RouteRest, Six};
use crate::core::event::{EnforcerKind, Generation};
use crate::core::moment::Moment;
use crate::core::plan::{Planned, PlannedTimed, Waits};

/// Which kinds of enforcers gate answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Required {
    /// A timed one.
    pub timed: bool,
    /// One with routes.
    pub route: bool,
}

/// The first change that not every required timed enforcer has acknowledged: its plan, and the end it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lack {
    plan: Six,
    ends: Six,
}

impl Lack {
    fn of(planned: PlannedTimed) -> Self {
        Self { plan: Some(planned.last).into(), ends: Some(planned.ends).into() }
    }

    fn shortened(self, ends: Moment) -> Self {
        Self { ends: self.ends.moment().map(|known| known.min(ends)).into(), ..self }
    }
}

/// How far the timed enforcers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    /// They hold nothing that counts, and nothing is under way: the next plan says what they are to hold.
    Unplanned,
    /// A plan opened it, or a full state on its way has it; not all have acknowledged that.
    Planned(Lack),
    /// All that are required hold it until then.
    Acked(Six),
    /// All that are required hold it until then; not all have acknowledged a later plan.
    Extending(Six, Lack),
}

impl Timed {
    fn acked(self) -> Option<Moment> {
        match self {
            Self::Unplanned | Self::Planned(_) => None,
            Self::Acked(until) | Self::Extending(until, _) => until.moment(),
        }
    }

    fn lack(self) -> Option<Lack> {
        match self {
            Self::Unplanned | Self::Acked(_) => None,
            Self::Planned(lack) | Self::Extending(_, lack) => Some(lack),
        }
    }
}

/// How far the route enforcers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Nothing is under way: the next plan says what they are to hold.
    Unplanned,
    /// A plan opened it; not all that are required have it.
    Planned,
    /// All that are required have it, with all that it bears.
    Confirmed,
    /// All that are required have it, but not all that it bears.
    Sharing,
}

impl Route {
    /// `lacks`: there is a plan for it that not all of them have.
    fn of(is_confirmed: bool, lacks: bool) -> Self {
        match (is_confirmed, lacks) {
            (false, false) => Self::Unplanned,
            (false, true) => Self::Planned,
            (true, false) => Self::Confirmed,
            (true, true) => Self::Sharing,
        }
    }
}

/// How far a lease is at the enforcers. Its transitions are the only way from one state to another.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    planned: PackedPlan,
    timed: Timed,
    route: Route,
    in_force: Six,
}

impl Progress {
    /// Of a lease that was opened just now. Nothing of it is planned.
    pub(super) fn new() -> Self {
        Self {
            planned: PackedPlan::pack(Planned::default()).0,
            timed: Timed::Unplanned,
            route: Route::Unplanned,
            in_force: Six::NONE,
        }
    }

    /// What is planned; `rest`: what [`Progress::plan`] returned.
    pub(super) fn planned(&self, rest: impl FnOnce() -> Option<RouteRest>) -> Planned {
        self.planned.unpack(rest)
    }

    /// Until when every required timed enforcer has acknowledged it.
    #[must_use]
    pub fn acked(&self) -> Option<Moment> {
        self.timed.acked()
    }

    /// Whether every required route enforcer has the route, whatever it bears.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        matches!(self.route, Route::Confirmed | Route::Sharing)
    }

    /// Since when it is in force at every required enforcer.
    #[must_use]
    pub fn in_force_since(&self) -> Option<Moment> {
        self.in_force.moment()
    }

    /// The first plan that not every required timed enforcer has acknowledged.
    #[must_use]
    pub fn lacks_timed(&self) -> Option<Generation> {
        self.timed.lack()?.plan.plan()
    }

    /// The first plan for the route, or for what it bears, that not every required route enforcer has. `borne`: the
    /// first for what it bears alone.
    pub(super) fn lacks_route(&self, borne: impl FnOnce() -> Option<Generation>) -> Option<Generation> {
        match self.route {
            Route::Unplanned | Route::Confirmed => None,
            Route::Planned => self.planned.route_opened().into_iter().chain(borne()).min(),
            Route::Sharing => borne(),
        }
    }

    /// What of it waits for enforcers of this kind; `joined`: a group came to it since it was planned last.
    pub(super) fn waits(&self, kind: EnforcerKind, joined: bool) -> Waits {
        let unplanned = match kind {
            EnforcerKind::Timed => self.timed == Timed::Unplanned,
            EnforcerKind::Route => self.route == Route::Unplanned,
        };
        Waits { unplanned, joined }
    }

    /// This is planned from now on; how far it is follows by the other transitions. Returns what has to be kept
    /// elsewhere.
    #[must_use]
    pub(super) fn plan(&mut self, planned: Planned) -> Option<RouteRest> {
        let (packed, rest) = PackedPlan::pack(planned);
        self.planned = packed;
        rest
    }

    /// A plan said this to timed enforcers, or nothing new where it is what was planned `before`.
    ///
    /// After: closed there it is unplanned; where none is required it is acked; else it waits, while an earlier change
    /// waits still behind that: it comes into force with the first, and its end follows with the last.
    pub(super) fn plan_timed(&mut self, before: Option<PlannedTimed>, planned: Option<PlannedTimed>, required: bool) {
        self.timed = match (planned, self.timed) {
            (None, _) => Timed::Unplanned,
            (Some(planned), _) if !required => Timed::Acked(Some(planned.ends).into()),
            (Some(planned), Timed::Unplanned) => Timed::Planned(Lack::of(planned)),
            (Some(planned), Timed::Acked(until)) if before != Some(planned) => {
                Timed::Extending(until, Lack::of(planned))
            }
            (Some(_), known) => known,
        };
    }

    /// Every required timed enforcer has acknowledged all plans up to `upto`.
    ///
    /// Before: it lacked one of them. After: it is acked, and lacks at most what is `planned` behind `upto`. An end
    /// that moved earlier is the last word at once, also where no plan has said so yet: it is acked for no longer than
    /// until `ends`.
    pub(super) fn ack(&mut self, upto: Generation, planned: Option<PlannedTimed>, ends: Moment) {
        let Some(given) = self.timed.lack().and_then(|lack| lack.ends.moment()) else { return };
        let longest = self.timed.acked().map_or(given, |before| before.max(given));
        let until = |until: Moment| Six::from(Some(until.min(ends)));
        self.timed = match planned {
            Some(planned) if planned.last > upto => Timed::Extending(until(longest), Lack::of(planned)),
            Some(planned) => Timed::Acked(until(planned.ends)),
            None => Timed::Acked(until(longest)),
        };
    }

    /// Its end moved earlier. After: it is acked for no longer, also by what is under way: the enforcers will hold it
    /// for less before they may hold it for more.
    pub(super) fn shorten(&mut self, ends: Moment) {
        let shortened = |until: Six| until.moment().map(|until| until.min(ends)).into();
        self.timed = match self.timed {
            Timed::Unplanned => Timed::Unplanned,
            Timed::Planned(lack) => Timed::Planned(lack.shortened(ends)),
            Timed::Acked(until) => Timed::Acked(shortened(until)),
            Timed::Extending(until, lack) => Timed::Extending(shortened(until), lack.shortened(ends)),
        };
    }

    /// Timed enforcers hold it no more: it is closed there, or one of them lacks it. After: only a plan brings it on.
    pub(super) fn unplan_timed(&mut self) {
        self.timed = Timed::Unplanned;
    }

    /// A required timed enforcer was lost. After: what is `planned` comes with the full state, and waits for its
    /// acknowledgement; what is not waits for its plan.
    pub(super) fn lose_timed(&mut self, planned: Option<PlannedTimed>) {
        self.timed = planned.map_or(Timed::Unplanned, |planned| Timed::Planned(Lack::of(planned)));
    }

    /// Whether every required route enforcer has the route; `is_borne`: all of them have what it bears, too. After:
    /// where not, it waits for them, as far as it is planned.
    pub(super) fn set_route(&mut self, is_confirmed: bool, is_borne: bool) {
        let is_planned = self.planned.route_opened().is_some();
        self.route = Route::of(is_confirmed, !is_borne || (!is_confirmed && is_planned));
    }

    /// No route enforcer was told of it.
    pub(super) fn unplan_route(&mut self) {
        self.route = Route::Unplanned;
    }

    /// It is in force everywhere since `now`, or was before.
    pub(super) fn enter_force(&mut self, now: Moment) {
        self.in_force = self.in_force_since().or(Some(now)).into();
    }

    /// It is not in force any more.
    pub(super) fn leave_force(&mut self) {
        self.in_force = Six::NONE;
    }
}

/// How far a group's communities on a route are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Borne {
    /// No plan has put them on the route.
    Unplanned,
    /// This plan put them there; not every required route enforcer has them.
    Planned(Generation),
    /// Every required route enforcer has them, as this plan put them there; by none where no route is announced.
    Confirmed(Option<Generation>),
}

impl Borne {
    /// The plan that put them on the route.
    #[must_use]
    pub fn plan(self) -> Option<Generation> {
        match self {
            Self::Unplanned => None,
            Self::Planned(plan) => Some(plan),
            Self::Confirmed(plan) => plan,
        }
    }

    /// Whether every required route enforcer has them.
    #[must_use]
    pub fn is_confirmed(self) -> bool {
        matches!(self, Self::Confirmed(_))
    }

    /// The plan of which not every required route enforcer has them.
    #[must_use]
    pub fn lacks(self) -> Option<Generation> {
        match self {
            Self::Planned(plan) => Some(plan),
            Self::Unplanned | Self::Confirmed(_) => None,
        }
    }

    /// What was confirmed counts no more. After: it waits for the enforcers' word anew, or for its plan.
    #[must_use]
    pub(super) fn lost(self) -> Self {
        self.plan().map_or(Self::Unplanned, Self::Planned)
    }

    /// Every required enforcer has what this plan made.
    #[must_use]
    pub(super) fn confirmed(self) -> Self {
        match self {
            Self::Planned(plan) => Self::Confirmed(Some(plan)),
            known => known,
        }
    }
}
