//! A reload: what other rules forbid is judged in slices, then all of it is in force with one turn.
//!
//! ```text
//!  Reload --> slice --timeout--> slice --> ... --> what was leased meanwhile, what waits --> in force, in one turn
//!               |                  |                            ^
//!  Admit -------+-- by the old rules, noted where it has passed +
//!                                                                        Admit by old rules --> judged again, or refused
//! ```
//!
//! Until that turn the old rules are in force, whole; from it on the new ones. The driver has nothing to do but to wait: while something is left to be
//! judged, [`Guard::poll_timeout`] is due at once. What waits at the gate is judged in the turn itself, and so is the last slice of what was
//! leased meanwhile: both are bounded.
//!
//! What an answer opened is everybody's, where leases are: a way to an address stays open as long as the rules of one who asked let it. Where leases
//! are for single clients, each pair is judged by its client's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Guard;
use crate::core::client::Clients;
use crate::core::ended::End;
use crate::core::event::{Event, Forbidden, ForbiddenPath, GuardWord, Refusal, Reload, Routers, Ticket};
use crate::core::gate::Waiting;
use crate::core::lease::{Cause, Lease, Remaining};
use crate::core::narrow::Narrow;
use crate::core::verdict::Path;
use rules::{Asked, Opened, Rules, Said, is_path, opens};

mod rules;

/// So many ways are judged between two turns: about a millisecond. In tests few, so that a reload takes many turns there.
const SLICE: usize = if cfg!(test) { 4 } else { 1024 };
/// Behind every address.
const LAST: IpAddr = IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::MAX));

/// A reload whose rules are judging.
#[derive(Debug)]
pub(super) struct Judging {
    reload: Box<Reload>,
    rules: Rules,
    /// Judged so far, in the order of addresses.
    until: Option<IpAddr>,
    /// Bounded by the leases.
    found: BTreeMap<IpAddr, Forbidden>,
    /// Leased anew, or for one more question, since they were judged.
    touched: BTreeSet<IpAddr>,
    /// Slices that all leases took: as many may be spent on what was leased meanwhile.
    slices: usize,
}

impl Judging {
    /// An address has one more cause.
    pub(super) fn touch(&mut self, address: IpAddr) {
        if self.until.is_some_and(|until| address <= until) {
            self.touched.insert(address);
            self.found.remove(&address);
        }
    }

    /// More is known of clients than when the reload began.
    pub(super) fn learn(&mut self, whom: &Arc<Clients>) {
        if let Some(clients) = &mut self.reload.clients {
            clients.clone_from(whom);
        }
    }
}

impl Guard {
    /// Begins a reload. What an earlier one, which is still judged, would change is changed with it.
    pub(super) fn reload(&mut self, reload: Reload) {
        let reload = match self.judging.take() {
            Some(before) => behind(*before.reload, reload),
            None => reload,
        };
        let Some(judge) = reload.judge.clone().filter(|_| reload.forbidden.is_none()) else {
            self.put_in_force(reload);
            return;
        };
        self.judging = Some(Judging {
            rules: Rules::new(judge, reload.narrowly),
            reload: Box::new(reload),
            until: None,
            found: BTreeMap::new(),
            touched: BTreeSet::new(),
            slices: 0,
        });
        self.judge_slice();
    }

    /// Whether a reload is not in force yet.
    #[must_use]
    pub fn is_reloading(&self) -> bool {
        self.judging.is_some()
    }

    /// The reload that came in force last, with what was forbidden; once.
    pub fn take_reloaded(&mut self) -> Option<Box<Reload>> {
        self.reloaded.take()
    }

    /// The same event as the rules in force have it: what was judged by others is judged again.
    #[must_use]
    pub fn judged(&self, event: Event) -> Event {
        let Some(judge) = &self.judge else { return event };
        match event {
            Event::Admit(mut admission) if admission.judged != judge.number() => {
                let view = judge.view_of(admission.client, admission.mark);
                let (question, chain) = (&admission.question, &*admission.chain);
                let mut paths = admission.grants.iter().map(|grant| Path { address: grant.address, question, chain });
                if !paths.all(|path| judge.path(view, path).opens()) {
                    return Event::Denied(admission.ticket);
                }
                admission.openings = judge.openings(view, question);
                admission.judged = judge.number();
                Event::Admit(admission)
            }
            Event::Guards(mut news) => {
                let opens = |what: &GuardWord| matches!(what, GuardWord::Until(_) | GuardWord::AtLeast(_));
                news.retain(|news| {
                    !opens(&news.what)
                        || self.table.get(news.address).is_some()
                        || judge.may_be_of_a_guard(news.address)
                });
                Event::Guards(news)
            }
            event => event,
        }
    }

    /// Judges one slice; behind the last one the reload is in force.
    pub(super) fn judge_slice(&mut self) {
        let Some(mut judging) = self.judging.take() else { return };
        let mut left = SLICE;
        for (address, lease) in self.table.range(None, judging.until) {
            if left == 0 {
                judging.slices += 1;
                self.judging = Some(judging);
                return;
            }
            self.judge_one(&mut judging, (address, lease), &mut left);
            judging.until = Some(address);
        }
        judging.until = Some(LAST);
        while let Some(address) = judging.touched.pop_first() {
            if left == 0 && judging.slices > 0 {
                judging.touched.insert(address);
                judging.slices -= 1;
                self.judging = Some(judging);
                return;
            }
            if let Some(lease) = self.table.get(address) {
                self.judge_one(&mut judging, (address, lease), &mut left);
            }
        }
        let Judging { reload, rules, found, .. } = judging;
        let mut forbidden = Forbidden { tickets: self.denied_tickets(&rules), ..Forbidden::default() };
        for (address, one) in found {
            // It may have ended meanwhile.
            if self.table.get(address).is_some() {
                forbidden.addresses.extend(one.addresses);
                forbidden.paths.extend(one.paths);
                forbidden.pairs.extend(one.pairs);
                forbidden.reopened.extend(one.reopened);
            }
        }
        self.put_in_force(Reload { forbidden: Some(forbidden), ..*reload });
    }

    fn judge_one(&self, judging: &mut Judging, (address, lease): (IpAddr, &Lease), left: &mut usize) {
        let mut forbidden = Forbidden::default();
        let said: Said<'_> = lease.causes().iter().map(|cause| (cause, judging.rules.cause(address, cause))).collect();
        *left = left.saturating_sub(said.len().max(1));
        if !said.is_empty() && said.iter().all(|(_, said)| !said.address) {
            forbidden.addresses.push(address);
        } else {
            let gone = said.iter().filter(|(cause, _)| !opens(&said, &cause.question, &cause.chain, cause.mark));
            let path = |cause: &Cause| ForbiddenPath {
                address,
                question: cause.question.clone(),
                chain: cause.chain.clone(),
                mark: cause.mark,
            };
            forbidden.paths.extend(gone.map(|(cause, _)| path(cause)));
            for (narrow, asked) in self.asked_of(address, lease, judging.rules.narrowly) {
                *left = left.saturating_sub(1);
                let id = (address, narrow);
                match judging.rules.pair(id, &asked, &said) {
                    Opened::Same => {}
                    Opened::Ports(ports) => {
                        forbidden.reopened.extend(asked.names.first().map(|question| (id, question.clone(), ports)))
                    }
                    Opened::Nothing => forbidden.pairs.push((id, asked.names, asked.mark)),
                }
            }
        }
        if forbidden != Forbidden::default() {
            judging.found.insert(address, forbidden);
        }
    }

    /// Every question behind every pair of an address; where there are none yet and will be, as they will be.
    fn asked_of(&self, address: IpAddr, lease: &Lease, narrowly: bool) -> Vec<(Narrow, Asked)> {
        let Some(pairs) = &self.pairs else {
            let names = |cause: &Cause| cause.names().cloned().collect();
            let asked = |cause: &Cause| Asked { names: names(cause), mark: cause.mark, restored: false };
            let causes = lease.causes().iter().filter(|_| narrowly);
            return causes.map(|cause| (Narrow::NOT, asked(cause))).collect();
        };
        let causes = pairs.of(address).flat_map(|(narrow, pair)| pair.causes.iter().map(move |cause| (narrow, cause)));
        let asked = causes.map(|(narrow, cause)| {
            let (names, mark, restored) = (cause.names.clone(), cause.mark, cause.is_restored());
            (narrow, Asked { names, mark, restored })
        });
        asked.collect()
    }

    /// Answers that wait, and would not be given by these rules, or would open something else.
    fn denied_tickets(&self, rules: &Rules) -> Vec<Ticket> {
        let judge = &rules.judge;
        let has_pairs = self.pairs.is_some();
        let queued = self.queue.iter().filter(|asked| {
            let admission = &asked.admission;
            let view = judge.view_of(admission.client, admission.mark);
            let (question, chain) = (&admission.question, &*admission.chain);
            let mut addresses = admission.grants.iter().map(|grant| grant.address);
            let denies = addresses.any(|address| !judge.path(view, Path { address, question, chain }).opens());
            denies || (has_pairs || rules.narrowly) && judge.openings(view, question) != admission.openings
        });
        let waiting =
            self.gate.iter().chain(self.fresh.iter().chain(&self.through).map(|(ticket, one)| (*ticket, one)));
        let waiting = waiting.filter(|(_, waiting)| {
            let Waiting { client, mark, question, chain, addresses, narrows, .. } = waiting;
            let view = judge.view_of(*client, *mark);
            let path = |address: &IpAddr| Path { address: *address, question, chain };
            let openings = judge.openings(view, question);
            let others = if has_pairs { self.narrows_of(*client, &openings) != *narrows } else { !openings.is_empty() };
            addresses.iter().any(|address| !judge.path(view, path(address)).opens())
                || (has_pairs || rules.narrowly) && others
        });
        queued.map(|asked| asked.admission.ticket).chain(waiting.map(|(ticket, _)| ticket)).collect()
    }

    /// All of it, at once.
    fn put_in_force(&mut self, reload: Reload) {
        // First: what is kept for a client's new group must be waited for by its new communities.
        if let Some(groups) = &reload.groups {
            self.regroup(groups.clone());
        }
        if let Some(announces) = reload.announces {
            self.announce(announces);
        }
        if let Some((lease, gate)) = &reload.settings {
            self.set(lease.clone(), gate.clone());
        }
        if reload.narrowly {
            self.narrow_from_now_on();
        }
        if let Some(clients) = &reload.clients {
            self.whom = clients.clone();
        }
        if let Some(judge) = &reload.judge {
            self.judge = Some(judge.clone());
        }
        if let Some(forbidden) = &reload.forbidden {
            self.close_forbidden(forbidden);
        }
        if let Some(Routers { enforcers, linger, exchange }) = &reload.routers {
            self.set_enforcers(enforcers.clone());
            self.set_linger(*linger);
            self.set_exchange(*exchange);
        }
        self.reloaded = Some(Box::new(reload));
    }

    fn close_forbidden(&mut self, forbidden: &Forbidden) {
        let Forbidden { addresses, paths, pairs, reopened, tickets } = forbidden;
        self.refuse_all(tickets);
        for (id, names, mark) in pairs {
            self.take_pair_back(*id, |cause| cause.names == *names && cause.mark == *mark);
        }
        self.reopen_pairs(reopened);
        addresses.iter().for_each(|address| self.revoke(*address));
        for of_address in paths.chunk_by(|one, other| one.address == other.address) {
            self.take_paths_back(of_address);
        }
    }

    /// Refuses these, wherever they wait.
    fn refuse_all(&mut self, tickets: &[Ticket]) {
        let gone: BTreeSet<Ticket> = tickets.iter().copied().collect();
        if gone.is_empty() {
            return;
        }
        self.fail_queued(|asked| gone.contains(&asked.admission.ticket), &Refusal::Revoked);
        self.fail_tickets(tickets.to_vec(), |_, _| Refusal::Revoked);
        let mut refused = Vec::new();
        for list in [&mut self.fresh, &mut self.through] {
            let (denied, left): (Vec<_>, Vec<_>) =
                std::mem::take(list).into_iter().partition(|(ticket, _)| gone.contains(ticket));
            *list = left;
            refused.extend(denied.into_iter().map(|(ticket, _)| ticket));
        }
        refused.into_iter().for_each(|ticket| self.refuse(ticket, Refusal::Revoked));
    }

    /// Takes ways from one address; what no other way holds open is closed.
    fn take_paths_back(&mut self, paths: &[ForbiddenPath]) {
        let Some(ForbiddenPath { address, .. }) = paths.first() else { return };
        let address = *address;
        let causes = self.table.get(address).map(|lease| lease.causes().clone()).unwrap_or_default();
        paths.iter().for_each(|path| self.shun(address, &causes, Some(&path.question)));
        let gone = |cause: &Cause| paths.iter().any(|path| is_path(cause, &path.question, &path.chain, path.mark));
        match self.table.take_causes(address, gone, self.now) {
            // A group may have gone with it.
            Remaining::Same => self.marks.taken_back(address),
            Remaining::Earlier => self.follow_earlier_end(address),
            Remaining::Nothing => {
                self.fail_tickets_of(address, |_, _| Refusal::Revoked);
                self.close(address, End::Forbidden);
                // What it was open for is not in the lease any more.
                self.ended.note(address, &causes, End::Forbidden, self.now);
            }
        }
    }
}

/// What both change; the later one decides.
fn behind(before: Reload, reload: Reload) -> Reload {
    Reload {
        settings: reload.settings.or(before.settings),
        routers: reload.routers.or(before.routers),
        announces: reload.announces.or(before.announces),
        groups: reload.groups.or(before.groups),
        clients: reload.clients.or(before.clients),
        narrowly: reload.narrowly || before.narrowly,
        judge: reload.judge.or(before.judge),
        forbidden: reload.forbidden,
    }
}
