//! Granting: an address is opened, or its lease gets one more cause.

use std::net::IpAddr;

use super::Guard;
use crate::core::lease::Cause;
use crate::core::moment::Moment;
use crate::core::plan::LEAST_EXTENSION;

impl Guard {
    /// Opens an address, or gives its lease one more cause. An end only moves later here.
    ///
    /// Before: there is room for the address. After: it is leased until `ends` at least, for the cause and its group;
    /// what enforcers and the disk lack of that is marked.
    pub(super) fn grant(&mut self, address: IpAddr, ends: Moment, cause: Cause) {
        let group = cause.group;
        self.judging.iter_mut().for_each(|judging| judging.touch(address));
        self.exchange.iter_mut().for_each(|exchange| exchange.mark(address));
        self.grant_lease(address, ends, cause);
        if let Some(group) = group
            && self.table.share(address, group, ends, self.settings.linger)
        {
            self.marks.change(address);
            self.marks.journal(address);
        }
    }

    /// The same but for the cause's group.
    fn grant_lease(&mut self, address: IpAddr, ends: Moment, cause: Cause) {
        let known = self.table.get(address).map(|lease| (lease.is_active(), lease.ends()));
        match known {
            None => {
                // Closed since the last plan: enforcers hold it still, and the next plan is the difference to that.
                let planned = self.marks.take_removed(address);
                self.table.open(address, ends, cause, planned, self.now);
                self.ended.forget(address);
                self.counts.opened += 1;
                self.marks.journal(address);
            }
            Some((active, known)) => {
                let moves = !active || ends >= known.plus(LEAST_EXTENSION);
                if moves {
                    self.table.extend(address, ends, self.now);
                    *(if active { &mut self.counts.extended } else { &mut self.counts.opened }) += 1;
                }
                let path = cause.path();
                let is_news = self.table.add_cause(address, cause, self.now);
                // What lingers is on disk as ended: only a whole record opens it there.
                if !active {
                    self.flows.release(address);
                    self.marks.journal(address);
                } else if moves || is_news {
                    self.marks.asked(address, path);
                }
                if !moves {
                    return;
                }
            }
        }
        self.marks.change(address);
    }
}
