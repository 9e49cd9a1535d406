//! Leases of other guards, and what these are told of ours.
//!
//! Another guard's lease is a cause like a question's, in a share of its own of the table, never longer than
//! `lease.max`; nothing waits for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::Guard;
use super::admit::SHORTEST;
use crate::core::ended::End;
use crate::core::event::{GuardNews, GuardWord, Output, Refusal, Shared};
use crate::core::exchange::{Exchange, SLACK, guard_of, name_of};
use crate::core::lease::{ByFamily, Cause, Clients, Lease, Remaining};
use crate::core::moment::Moment;
use crate::core::name::Name;
use crate::core::share::Holder;

/// A guard stands for many clients: of a table it may hold so many times what is left free.
const PARTS: u8 = 4;

/// In whose share the leases of a guard are.
pub(super) fn holder_of(guard: Ipv4Addr) -> Holder {
    Holder::of(&("guard", guard)).with_parts(PARTS)
}

impl Guard {
    /// There are other guards to be told, or none any more. O(leases).
    pub(super) fn set_exchange(&mut self, own: Option<Ipv4Addr>) {
        if own == self.exchange.as_ref().map(Exchange::own) {
            return;
        }
        // What they were told before is told again, or their sessions are gone.
        self.exchange = own.map(Exchange::new);
        if let Some(exchange) = &mut self.exchange {
            self.table.iter().for_each(|(address, _)| exchange.mark(address));
        }
    }

    /// Takes in what another guard says.
    pub(super) fn heed_guard(&mut self, GuardNews { address, guard, by, what }: GuardNews) {
        let Some(exchange) = &mut self.exchange else { return };
        let name = name_of(guard);
        let lease = self.table.get(address);
        let cause = lease.and_then(|lease| lease.causes().iter().find(|cause| cause.question == name));
        let active = lease.is_some_and(Lease::is_active);
        let known = cause.map(|cause| cause.ends).filter(|_| active);
        exchange.orphan(address, guard, what == GuardWord::Orphaned && known.is_some());
        let longest = self.now.plus(self.settings.lease.max.0.max(SHORTEST));
        match (what, known) {
            (GuardWord::Orphaned, _) => {}
            (GuardWord::TakenBack, Some(_)) => self.take_guard_back(address, &name),
            (GuardWord::TakenBack, None) => {}
            (GuardWord::Until(ends), Some(known)) if ends.min(longest).plus(SLACK) < known => {
                self.take_guard_back(address, &name);
                self.take_in(address, ends.min(longest), name, holder_of(by));
            }
            (GuardWord::Until(ends) | GuardWord::AtLeast(ends), known) => {
                // An echo of what we told ourselves, or what was closed here: only the guard's own word counts.
                let barred = || exchange.is_ours(address) || exchange.is_shunned(address, guard, self.now);
                if known.is_none() && matches!(what, GuardWord::AtLeast(_)) && barred() {
                    return;
                }
                if matches!(what, GuardWord::Until(_)) {
                    exchange.forgive(address, guard);
                }
                let ends = ends.min(longest);
                if known.is_none_or(|known| ends > known) {
                    self.take_in(address, ends, name, holder_of(by));
                }
            }
        }
    }

    fn take_in(&mut self, address: IpAddr, ends: Moment, name: Name, holder: Holder) {
        if ends <= self.now {
            return;
        }
        let lease = self.table.get(address);
        let is_new = lease.is_none();
        let (mut new, mut opened) = (ByFamily::default(), ByFamily::default());
        *new.of(address) += usize::from(is_new);
        *opened.of(address) += usize::from(lease.is_none_or(|lease| !lease.is_active()));
        let has_room = self.enforcers.cannot_hold(address).is_none()
            && self.room(new, opened).is_ok()
            && self.table.shares().may_take(holder, new.total(), self.free());
        // Where leases are for single clients, nobody here has asked for it.
        if !has_room || self.pairs.is_some() {
            self.counts.guards_refused += 1;
            return;
        }
        let cause = Cause {
            question: name,
            qtype: None,
            chain: Arc::default(),
            group: None,
            mark: None,
            clients: Clients::new(),
            ends,
            tag: 0,
        };
        self.grant(address, ends, cause);
        if is_new {
            self.table.hold(address, [holder, Holder::NOBODY]);
        }
    }

    fn take_guard_back(&mut self, address: IpAddr, name: &Name) {
        let causes = self.table.get(address).map(|lease| lease.causes().clone()).unwrap_or_default();
        match self.table.remove_causes(address, name, self.now) {
            Remaining::Same => self.marks.taken_back(address),
            Remaining::Earlier => self.follow_earlier_end(address),
            Remaining::Nothing => {
                self.fail_tickets_of(address, |_, _| Refusal::Revoked);
                self.close(address, End::Revoked);
                self.ended.note(address, &causes, End::Revoked, self.now);
            }
        }
    }

    /// Causes were taken from an address before their ends: those of guards don't come back because another one passes
    /// them on.
    pub(super) fn shun(&mut self, address: IpAddr, causes: &[Cause], name: Option<&Name>) {
        let Some(exchange) = &mut self.exchange else { return };
        let gone = causes.iter().filter(|cause| name.is_none_or(|name| cause.question == *name));
        for cause in gone.filter(|cause| cause.ends > self.now) {
            if let Some(guard) = guard_of(&cause.question) {
                exchange.shun(address, guard, cause.ends, self.now);
            }
        }
    }

    /// Tells other guards what has changed of our leases.
    pub(super) fn tell_guards(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        exchange.take_due(self.now).into_iter().for_each(|address| exchange.mark(address));
        let mut all = Vec::new();
        for address in exchange.take_marked() {
            let lease = self.table.get(address).filter(|lease| lease.is_active());
            let news: Option<Shared> = exchange.news(address, lease, self.announces, self.now);
            all.extend(news.map(|news| (address, news)));
        }
        self.counts.shared = exchange.len();
        if !all.is_empty() {
            self.outputs.push_back(Output::Share(all));
        }
    }

    /// How many leases each other guard has here, by its router id. O(leases).
    #[must_use]
    pub fn guards(&self) -> BTreeMap<Ipv4Addr, usize> {
        let mut all = BTreeMap::new();
        if self.exchange.is_none() {
            return all;
        }
        let causes = self.table.iter().flat_map(|(_, lease)| lease.causes());
        for guard in causes.filter_map(|cause| guard_of(&cause.question)) {
            *all.entry(guard).or_default() += 1;
        }
        all
    }
}
