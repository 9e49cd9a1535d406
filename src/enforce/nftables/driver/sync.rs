//! Makes the sets equal to the full state, in one transaction. What the kernel holds as it should be is left alone, see [`fit`](super::super::fit).

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::time::Instant;

use super::{Driver, State, cut_set, has_set, key_of, left, of_state};
use crate::config::schema::Scope;
use crate::core::event::{Event, Generation};
use crate::core::moment::Moment;
use crate::core::narrow::PairId;
use crate::enforce::nftables::elements::{Key, Set, Timeout};
use crate::enforce::nftables::error::NftError;
use crate::enforce::nftables::fit::{Fit, MOST_READ, fit};
use crate::enforce::nftables::{PAD, TABLE};

/// Keys with the moments at which their elements are to end: each key once, in order.
type Wanted = BTreeMap<Set, Vec<(Key, Moment)>>;

impl Driver {
    pub(super) fn sync(&mut self, generation: Generation, leases: &[(IpAddr, Moment)], pairs: &[(PairId, Moment)]) {
        for address in of_state(leases, pairs) {
            self.cut.remove(&address);
        }
        let wanted = self.wanted(leases, pairs);
        let fits = self.fits(&wanted);
        let mut written = self.write_all(&wanted, &fits);
        if let Err(NftError::Full) = written
            && !fits.is_empty()
        {
            // Some old kernels need room to remove anything.
            written = self.write_all(&wanted, &BTreeMap::new());
        }
        match written {
            Ok(()) => {
                self.state = State::Synced;
                if !fits.is_empty() {
                    // The kernel may have moved elements about while it was read: what should not be there is looked for once more.
                    self.schedule.sweep = Instant::now();
                }
                self.report(Event::Applied { enforcer: self.settings.id, generation });
            }
            Err(error) => self.lose_for(&error),
        }
    }

    fn wanted(&self, leases: &[(IpAddr, Moment)], pairs: &[(PairId, Moment)]) -> Wanted {
        let now = self.settings.clock.now();
        let mut wanted: Wanted = self.sets().into_iter().map(|set| (set, Vec::new())).collect();
        // Where they are for single clients, leases open nothing.
        let whole = leases.iter().filter(|_| self.settings.scope == Scope::Shared);
        let whole = whole.map(|(address, ends)| (Key::Address(*address), *ends));
        let narrow = pairs.iter().filter_map(|((address, narrow), ends)| Some((key_of(*address, *narrow)?, *ends)));
        let is_there = has_set(&self.installer.settings().applications);
        let narrow = narrow.filter(|(key, _)| is_there(key));
        let held: Vec<(Key, Moment)> = whole.chain(narrow).collect();
        for (key, ends) in held.into_iter().filter(|(_, ends)| *ends > now) {
            wanted.entry(key.lease_set()).or_default().push((key, ends));
        }
        for (address, ends) in self.cut.iter().filter(|(_, ends)| **ends > now) {
            wanted.entry(cut_set(*address)).or_default().push((Key::Address(*address), *ends));
        }
        for elements in wanted.values_mut() {
            // One address twice would be added twice; the later end counts.
            elements.sort_unstable();
            elements.dedup_by(|later, first| {
                let same = later.0 == first.0;
                if same {
                    first.1 = later.1;
                }
                same
            });
        }
        wanted
    }

    /// What each set lacks, of those in which most may stay. A set that can't be read is written as a whole.
    fn fits(&mut self, wanted: &Wanted) -> BTreeMap<Set, Fit> {
        let clock = self.settings.clock;
        let mut fits = BTreeMap::new();
        let Some(link) = self.link.as_mut() else { return fits };
        for (set, wanted) in wanted.iter().filter(|(_, wanted)| (1..=MOST_READ).contains(&wanted.len())) {
            let padded: Vec<(Key, Moment)> = wanted.iter().map(|(key, ends)| (*key, ends.plus(PAD))).collect();
            match link.kernel.dump_dated(TABLE, *set, clock) {
                Ok(held) => fits.extend(fit(&padded, held).map(|fit| (*set, fit))),
                Err(error) => {
                    tracing::debug!(%error, set = %set.name(), "it can't be read, so it is written as a whole")
                }
            }
        }
        fits
    }

    fn write_all(&mut self, wanted: &Wanted, fits: &BTreeMap<Set, Fit>) -> Result<(), NftError> {
        let now = self.settings.clock.now();
        let Some(link) = self.link.as_mut() else { return Err(NftError::Gone) };
        let features = link.kernel.features;
        let mut transaction = link.kernel.transaction();
        let mut written: Vec<(Set, Vec<(Key, Timeout)>)> = Vec::new();
        for (set, wanted) in wanted {
            let elements: Vec<(Key, Timeout)> = match fits.get(set) {
                // What is over meanwhile ends by itself where it is.
                Some(fit) => fit.put.iter().map(|(key, until)| (*key, Timeout::of(now.until(*until)))).collect(),
                None => wanted.iter().map(|(key, ends)| (*key, left(now, *ends))).collect(),
            };
            match fits.get(set) {
                Some(fit) => {
                    transaction.remove(features, *set, &fit.remove);
                    transaction.put(features, *set, &elements);
                }
                None => {
                    transaction.flush(*set);
                    transaction.add(*set, &elements);
                }
            }
            written.push((*set, elements));
        }
        link.kernel.commit("writing all leases", transaction)?;
        let done = self.settings.clock.now();
        self.written.clear();
        for (set, elements) in written {
            elements.into_iter().for_each(|(key, timeout)| self.written.put((set, key), timeout, now, done));
        }
        for (set, fit) in fits {
            fit.stay.iter().for_each(|(key, until, latest)| self.written.keep((*set, *key), *until, *latest));
        }
        Ok(())
    }
}
