//! Taking back: addresses and names lose their leases before their time.

use std::net::IpAddr;

use super::Guard;
use crate::core::ended::End;
use crate::core::event::{Refusal, Ticket};
use crate::core::gate::Waiting;
use crate::core::lease::Remaining;
use crate::core::name::Name;

impl Guard {
    /// Takes a lease out of the table.
    ///
    /// After: nobody may use the address unasked, and nothing is kept of it but how it ended. The next plan closes it
    /// wherever it is still open; until then the marks know what is planned of it.
    pub(super) fn drop_lease(&mut self, address: IpAddr, how: End) {
        self.enforcers.forget(address);
        self.flows.forget(address);
        if let Some(lease) = self.table.remove(address) {
            self.exchange.iter_mut().for_each(|exchange| exchange.is_over(address));
            if how != End::Expired {
                self.shun(address, lease.causes(), None);
            }
            self.ended.note(address, lease.causes(), how, self.now);
            self.marks.removed(address, lease.planned());
        }
        self.pairs_follow(address);
    }

    /// Closes an address before its time, everywhere, without lingering; on disk too. Answers that wait for it are the
    /// caller's.
    pub(super) fn close(&mut self, address: IpAddr, how: End) {
        if self.table.get(address).is_some() {
            self.counts.closed += 1;
            self.marks.journal(address);
            self.drop_lease(address, how);
        }
    }

    /// Takes an address back. After: there is no lease of it, no answer waits for it, and its flows are cut.
    pub(super) fn revoke(&mut self, address: IpAddr) {
        self.fail_tickets_of(address, |_, _| Refusal::Revoked);
        self.fail_queued(|asked| asked.holds(address), &Refusal::Revoked);
        self.close(address, End::Revoked);
        // What ended may be on disk, and would linger again after a restart with a longer linger.
        self.marks.journal(address);
        // Also where there is no lease: a flow may have outlived it.
        self.cuts.insert(address);
    }

    /// Takes a name's causes from every lease; what no other cause holds is closed, and its flows are cut.
    pub(super) fn take_back(&mut self, name: &Name) {
        let mut gone: Vec<(Ticket, Waiting)> = Vec::new();
        self.fail_queued(|asked| asked.bears(name), &Refusal::Revoked);
        for address in self.table.addresses_of(name) {
            let bearing: Vec<Ticket> = self.gate.tickets_of(address).filter(|t| self.gate.bears(*t, name)).collect();
            self.fail_tickets(bearing, |_, _| Refusal::Revoked);
            let causes = self.table.get(address).map(|lease| lease.causes().clone()).unwrap_or_default();
            self.shun(address, &causes, Some(name));
            match self.table.remove_causes(address, name, self.now) {
                Remaining::Same => {
                    // A group may have gone with it.
                    self.marks.taken_back(address);
                }
                Remaining::Earlier => self.follow_earlier_end(address),
                Remaining::Nothing => {
                    self.fail_tickets_of(address, |_, _| Refusal::Revoked);
                    self.close(address, End::Revoked);
                    // What it was open for is not in the lease any more.
                    self.ended.note(address, &causes, End::Revoked, self.now);
                    self.cuts.insert(address);
                }
            }
        }
        for list in [&mut self.fresh, &mut self.through] {
            let (bearing, left) = std::mem::take(list).into_iter().partition(|(_, waiting)| waiting.bears(name));
            *list = left;
            gone.extend::<Vec<_>>(bearing);
        }
        gone.into_iter().for_each(|(ticket, _)| self.refuse(ticket, Refusal::Revoked));
    }

    /// The end of a lease was moved earlier. After: so is that of its pairs, and enforcers and the disk are to hear of
    /// it.
    pub(super) fn follow_earlier_end(&mut self, address: IpAddr) {
        self.pairs_follow(address);
        self.marks.taken_back(address);
    }
}
