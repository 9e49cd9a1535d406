//! One leased address. There may be some hundred thousand: what few have lies in a box of its own, and what all have is
//! packed.
//!
//! Nobody but the table changes a lease, and only by what is one step of its life: each says what holds before and
//! after. What the table keeps twice follows by [`super::LeaseTable`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::packed::{RouteRest, Six};
use super::progress::{Borne, Progress, Required};
use super::{Cause, Causes, Share};
use crate::core::event::{EnforcerKind, Generation, LeaseHandle, QueryPaths, keep_the_last};
use crate::core::groups::{Group, GroupSet};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::plan::{Planned, PlannedRoute, Wanted};
use crate::core::share::Holder;

/// One leased address.
#[derive(Clone, Debug)]
pub struct Lease {
    handle: LeaseHandle,
    causes: Causes,
    holders: [Holder; 2],
    rare: Option<Box<Rare>>,
    begun: Six,
    ends: Six,
    progress: Progress,
}

/// One for each address: its size matters.
const _: () = assert!(size_of::<Lease>() <= 200);

/// What few leases have.
#[derive(Clone, Debug, Default)]
struct Rare {
    lingers: Option<Moment>,
    fallback: Option<Moment>,
    shares: Vec<Share>,
    /// Of what is planned for its route.
    rest: Option<RouteRest>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self { lingers, fallback, shares, rest } = self;
        lingers.is_none() && fallback.is_none() && shares.is_empty() && rest.is_none()
    }
}

/// What is known of it.
impl Lease {
    /// When it was opened.
    #[must_use]
    pub fn begun(&self) -> Moment {
        self.begun.moment().unwrap_or(Moment::NEVER)
    }

    /// End of the lease; in the past while it lingers.
    #[must_use]
    pub fn ends(&self) -> Moment {
        self.ends.moment().unwrap_or(Moment::NEVER)
    }

    /// Why; never empty.
    #[must_use]
    pub fn causes(&self) -> &Causes {
        &self.causes
    }

    /// In whose share it is: the client and the domain that opened it.
    #[must_use]
    pub fn holders(&self) -> [Holder; 2] {
        self.holders
    }

    /// How far it is at the enforcers.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What is planned of it.
    #[must_use]
    pub fn planned(&self) -> Planned {
        self.progress.planned(|| self.rare.as_ref()?.rest)
    }

    /// Lingering: when its route goes.
    #[must_use]
    pub fn lingers(&self) -> Option<Moment> {
        self.rare.as_ref()?.lingers
    }

    /// Opened again while it lingered, not in force since: the end of lingering to fall back to.
    #[must_use]
    pub fn fallback(&self) -> Option<Moment> {
        self.rare.as_ref()?.fallback
    }

    /// The groups that asked, in order of their numbers.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        self.rare.as_ref().map_or(&[], |rare| &rare.shares)
    }

    /// Whether it is active, not lingering.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.lingers().is_none()
    }

    /// What the enforcers should hold of it.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted { timed: self.is_active().then_some(self.ends()), route: Some(self.groups()) }
    }

    /// The groups whose communities the route is to bear.
    #[must_use]
    pub fn groups(&self) -> GroupSet {
        self.shares().iter().map(|share| share.group).collect()
    }

    /// A group's part in it.
    #[must_use]
    pub fn share(&self, group: Group) -> Option<&Share> {
        self.shares().iter().find(|share| share.group == group)
    }

    /// What the hot path reads for clients of this group, or without one.
    #[must_use]
    pub fn handle_of(&self, group: Option<Group>) -> &LeaseHandle {
        group.and_then(|group| self.share(group)).map_or(&self.handle, |share| &share.handle)
    }

    /// Whether every required route enforcer has its route, with the communities of this group.
    #[must_use]
    pub fn has_route(&self, group: Option<Group>) -> bool {
        self.progress.is_confirmed()
            && group.is_none_or(|group| self.share(group).is_some_and(|share| share.borne.is_confirmed()))
    }

    /// The first plan for its route, or for what that bears, that not every required route enforcer has.
    #[must_use]
    pub fn lacks_route(&self) -> Option<Generation> {
        self.progress.lacks_route(|| self.lacks_borne())
    }

    /// The first plan for what its route bears that not every required route enforcer has.
    fn lacks_borne(&self) -> Option<Generation> {
        self.shares().iter().filter_map(|share| share.borne.lacks()).min()
    }

    /// The questions without doubles, each until its last cause ends; of more than [`crate::core::event::ASKED`] those
    /// that end last.
    #[must_use]
    pub fn paths(&self) -> QueryPaths {
        let mut paths = QueryPaths::new();
        for cause in &self.causes {
            match paths.iter_mut().find(|known| known.question == cause.question && known.chain == cause.chain) {
                Some(known) => known.ends = known.ends.max(cause.ends),
                None => paths.push(cause.path()),
            }
        }
        keep_the_last(&mut paths);
        paths
    }

    /// Question names, without doubles, in order.
    #[must_use]
    pub fn questions(&self) -> Vec<Name> {
        if let [cause] = self.causes.as_slice() {
            return vec![cause.question.clone()];
        }
        let set: BTreeSet<&Name> = self.causes.iter().map(|cause| &cause.question).collect();
        set.into_iter().cloned().collect()
    }

    /// When the lease itself, or its lingering, ends.
    #[must_use]
    pub fn own_timer(&self) -> Moment {
        self.lingers().unwrap_or(self.ends())
    }

    /// When something of it ends next.
    pub(super) fn timer(&self) -> Moment {
        self.shares().iter().map(|share| share.gone).fold(self.own_timer(), Moment::min)
    }
}

/// The steps of its life, which the table alone takes.
impl Lease {
    /// Opened just now. What is `planned` of it is what enforcers were told of the address before.
    #[must_use]
    pub(super) fn new(address: IpAddr, ends: Moment, cause: Cause, planned: Planned, now: Moment) -> Self {
        let mut lease = Self {
            handle: LeaseHandle::new(address, ends),
            causes: smallvec::smallvec![cause],
            holders: [Holder::NOBODY; 2],
            rare: None,
            begun: Some(now).into(),
            ends: Some(ends).into(),
            progress: Progress::new(),
        };
        lease.plan(planned);
        lease
    }

    /// Counts it for those who opened it; returns for whom it was counted before.
    pub(super) fn hold(&mut self, holders: [Holder; 2]) -> [Holder; 2] {
        std::mem::replace(&mut self.holders, holders)
    }

    /// Its causes, to change them: they must not be empty for longer than one step of the table.
    pub(super) fn causes_mut(&mut self) -> &mut Causes {
        &mut self.causes
    }

    /// Its end moves, whichever way. After: it is active; if it lingered, it can fall back to that until it is in
    /// force.
    pub(super) fn set_end(&mut self, ends: Moment, now: Moment) {
        if let Some(lingers) = self.lingers() {
            self.rarely(|rare| (rare.lingers, rare.fallback) = (None, Some(lingers)));
            self.begun = Some(now).into();
        }
        self.ends = Some(ends).into();
    }

    /// Its end moves earlier, for everybody. After: nobody believes it for longer, whatever enforcers hold.
    pub(super) fn set_earlier_end(&mut self, ends: Moment, now: Moment) {
        self.set_end(ends, now);
        self.progress.shorten(ends);
        self.handle.set_ends(self.handle.ends().min(ends));
        for share in self.shares() {
            share.handle.set_ends(share.handle.ends().min(ends).min(share.ends));
        }
    }

    /// It has ended, and its route stays until then, or until another moment if it lingered already. After: it is in
    /// force for nobody, and unplanned at timed enforcers, where it ends by itself.
    pub(super) fn linger(&mut self, until: Moment) {
        self.leave_force();
        self.rarely(|rare| (rare.lingers, rare.fallback) = (Some(until), None));
        self.progress.unplan_timed();
    }

    /// Routes outlive leases by another time. After: so does this one, also what lingers.
    pub(super) fn move_linger(&mut self, moved: impl Fn(Moment) -> Moment) {
        if self.rare.is_none() {
            return;
        }
        self.rarely(|rare| {
            rare.lingers = rare.lingers.map(&moved);
            rare.fallback = rare.fallback.map(&moved);
            rare.shares.iter_mut().for_each(|share| share.gone = moved(share.gone));
        });
    }

    /// It is closed. After: nobody may use it unasked.
    pub(super) fn close(&mut self) {
        self.leave_force();
    }

    /// Gives it a handle of its own anew. After: who has the old one asks again.
    pub(super) fn renew_handle(&mut self, address: IpAddr) {
        self.out_of_force();
        self.handle = LeaseHandle::new(address, self.ends());
    }

    /// Changes the list of the groups, which stays in order.
    pub(super) fn change_shares<T>(&mut self, change: impl FnOnce(&mut Vec<Share>) -> T) -> T {
        let mut shares = self.take_shares();
        let changed = change(&mut shares);
        if !shares.is_empty() {
            self.rarely(|rare| rare.shares = shares);
        }
        changed
    }

    /// Leaves no group.
    pub(super) fn take_shares(&mut self) -> Vec<Share> {
        let mut taken = Vec::new();
        if !self.shares().is_empty() {
            self.rarely(|rare| taken = std::mem::take(&mut rare.shares));
        }
        taken
    }

    fn shares_mut(&mut self) -> &mut [Share] {
        self.rare.as_mut().map_or(&mut [], |rare| &mut rare.shares)
    }

    /// Changes what few leases have.
    fn rarely(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().unwrap_or_default();
        change(&mut rare);
        self.rare = (!rare.is_empty()).then_some(rare);
    }
}

/// Its way through the enforcers.
impl Lease {
    /// A plan said this to the enforcers.
    ///
    /// Before: the plan was the difference to what was planned so far. After: what no enforcer is required to hold is
    /// in force at once; all else waits for their word.
    pub(super) fn follow_plan(&mut self, planned: Planned, required: Required, now: Moment) {
        let before = self.planned();
        self.plan(planned);
        self.progress.plan_timed(before.timed, planned.timed, required.timed);
        match planned.route {
            Some(route) => self.follow_route_plan(route, before.route, required),
            // Only where none is announced.
            None => {
                self.progress.set_route(true, true);
                self.shares_mut().iter_mut().for_each(|share| share.borne = Borne::Confirmed(None));
            }
        }
        if !required.timed || !required.route {
            self.enter_force(now);
        }
    }

    fn follow_route_plan(&mut self, route: PlannedRoute, before: Option<PlannedRoute>, required: Required) {
        // Only the newest opening counts.
        let opened = before.is_none_or(|before| before.opened != route.opened);
        for share in self.shares_mut() {
            if opened || share.borne.plan().is_none() {
                // What it bears it has borne since the last plan that changed that, at the latest.
                share.borne = Borne::Planned(route.last);
                share.handle.set_in_force(false);
            }
        }
        if required.route {
            self.wait_for_route(self.progress.is_confirmed() && !opened);
        } else {
            self.progress.set_route(true, true);
            self.shares_mut().iter_mut().for_each(|share| share.borne = share.borne.confirmed());
        }
    }

    /// Whether its route is confirmed. After: it waits for the first plan for it, or for what it bears, that an
    /// enforcer lacks.
    fn wait_for_route(&mut self, is_confirmed: bool) {
        self.progress.set_route(is_confirmed, self.lacks_borne().is_none());
    }

    /// Every required timed enforcer has acknowledged all plans up to this one, of which the lease lacked one. After:
    /// it is acked, and in force where it is confirmed too.
    pub(super) fn ack(&mut self, upto: Generation, now: Moment) {
        self.progress.ack(upto, self.planned().timed, self.ends());
        self.enter_force(now);
    }

    /// Every required route enforcer has the address as the plans made it of which `holds` says so. After: that is
    /// confirmed, and in force where it is acked too. Returns whether there is anything new.
    pub(super) fn confirm(&mut self, holds: impl Fn(Generation) -> bool, now: Moment) -> bool {
        let was_confirmed = self.progress.is_confirmed();
        let is_confirmed = was_confirmed || self.planned().route.is_some_and(|route| holds(route.opened));
        let mut news = is_confirmed && !was_confirmed;
        for share in self.shares_mut().iter_mut().filter(|share| share.borne.lacks().is_some_and(&holds)) {
            share.borne = share.borne.confirmed();
            news = true;
        }
        if news {
            self.wait_for_route(is_confirmed);
            self.enter_force(now);
        }
        news
    }

    /// A required enforcer of this kind was lost. After: it is in force for nobody, and waits for what it is planned to
    /// be.
    pub(super) fn lose(&mut self, kind: EnforcerKind) {
        self.leave_force();
        match kind {
            // What is not planned as it is gets on with its plan.
            EnforcerKind::Timed => self.progress.lose_timed(self.planned().timed.filter(|_| self.is_active())),
            EnforcerKind::Route => {
                self.shares_mut().iter_mut().for_each(|share| share.borne = share.borne.lost());
                self.wait_for_route(false);
            }
        }
    }

    /// A required route enforcer has the route no more. After: it is in force for nobody until that is confirmed anew;
    /// what it bears comes back with it.
    pub(super) fn lose_route(&mut self) {
        self.leave_force();
        self.wait_for_route(false);
    }

    /// Other route enforcers are required than before; `holds` says of a plan whether each of them has the address as
    /// that plan made it. After: what one of them lacks is not in force.
    pub(super) fn recheck_route(&mut self, holds: impl Fn(Generation) -> bool) {
        let lacks = self.progress.is_confirmed() && self.planned().route.is_some_and(|route| !holds(route.opened));
        let lost =
            |share: &&mut Share| share.borne.is_confirmed() && share.borne.plan().is_some_and(|plan| !holds(plan));
        let mut less = false;
        for share in self.shares_mut().iter_mut().filter(lost) {
            share.borne = share.borne.lost();
            share.handle.set_in_force(false);
            less = true;
        }
        if lacks {
            self.lose_route();
        } else if less {
            self.wait_for_route(self.progress.is_confirmed());
        }
    }

    /// No route enforcer was told of it. After: it is in force for nobody until its route is planned; then at once
    /// where nobody waits for routers.
    pub(super) fn unplan_route(&mut self) {
        self.out_of_force();
        self.plan(self.planned().without_route());
        self.progress.unplan_route();
        self.shares_mut().iter_mut().for_each(|share| share.borne = Borne::Unplanned);
    }

    /// A timed enforcer lacks it, which it was told to hold. After: the next plan opens it there anew; where that
    /// enforcer is required it is in force for nobody until then, and closed should that be refused.
    pub(super) fn miss(&mut self, is_required: bool) {
        self.plan(self.planned().refused(EnforcerKind::Timed));
        if is_required {
            self.leave_force();
            self.progress.unplan_timed();
        }
    }

    /// An enforcer of this kind refused what is planned. After: the next plan says it anew to all of its kind, or
    /// closes it there.
    pub(super) fn refuse(&mut self, kind: EnforcerKind) {
        self.plan(self.planned().refused(kind));
    }

    /// An enforcer of this kind refused the plans of which `refused` says so: see [`Planned::anew`]. Returns what was
    /// planned before, and what is now.
    pub(super) fn plan_anew(&mut self, kind: EnforcerKind, refused: impl Fn(Generation) -> bool) -> (Planned, Planned) {
        let joined = self.shares().iter().any(|share| share.borne.plan().is_none());
        let before = self.planned();
        let planned = before.anew(kind, refused, self.progress.waits(kind, joined));
        self.plan(planned);
        (before, planned)
    }

    /// The set of groups that is planned has another name now, or none.
    pub(super) fn rename_groups(&mut self, rename: impl FnOnce(GroupSet) -> Option<GroupSet>) {
        self.plan(self.planned().with_groups_renamed(rename));
    }

    /// This is planned of it; how far it is does not follow.
    fn plan(&mut self, planned: Planned) {
        let rest = self.progress.plan(planned);
        if self.rare.as_ref().and_then(|rare| rare.rest) != rest {
            self.rarely(|rare| rare.rest = rest);
        }
    }

    /// Lets the hot path use what every required enforcer holds, until the end that they know.
    fn enter_force(&mut self, now: Moment) {
        let (true, Some(until), true) = (self.is_active(), self.progress.acked(), self.progress.is_confirmed()) else {
            return;
        };
        self.handle.set_ends(until);
        self.handle.set_in_force(true);
        self.progress.enter_force(now);
        if self.fallback().is_some() {
            self.rarely(|rare| rare.fallback = None);
        }
        for share in self.shares().iter().filter(|share| share.borne.is_confirmed()) {
            share.handle.set_ends(until.min(share.ends));
            share.handle.set_in_force(true);
        }
    }

    /// Nobody may use it unasked, and it counts as not in force.
    fn leave_force(&mut self) {
        self.out_of_force();
        self.progress.leave_force();
    }

    /// Nobody may use it unasked.
    fn out_of_force(&self) {
        self.handle.set_in_force(false);
        self.shares().iter().for_each(|share| share.handle.set_in_force(false));
    }
}
