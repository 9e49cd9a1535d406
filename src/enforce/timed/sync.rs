//! Makes the table equal to the full state. What it holds as it should be is left alone, so that nothing is closed meanwhile, after a crash neither.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::driver::{Driver, State};
use super::written::agrees;
use super::{Entry, Table, TableError};
use crate::core::event::{Event, Generation};
use crate::core::moment::Moment;
use crate::core::narrow::PairId;

impl<T: Table> Driver<T> {
    pub(super) fn sync(&mut self, generation: Generation, leases: &[(IpAddr, Moment)], pairs: &[(PairId, Moment)]) {
        self.schedule.stop();
        for address in leases.iter().map(|(address, _)| address).chain(pairs.iter().map(|((address, _), _)| address)) {
            self.cut.remove(address);
        }
        let wanted = self.wanted(leases, pairs);
        match self.make_equal(wanted) {
            Ok(()) => {
                self.state = State::Synced;
                self.report(Event::Applied { enforcer: self.settings.id, generation });
            }
            Err(error) => self.lose_for(&error),
        }
    }

    fn wanted(&self, leases: &[(IpAddr, Moment)], pairs: &[(PairId, Moment)]) -> BTreeMap<Entry, Moment> {
        let now = self.settings.clock.now();
        let leases = leases.iter().map(|(address, ends)| ((*address, None), *ends));
        let pairs = pairs.iter().map(|((address, narrow), ends)| ((*address, Some(*narrow)), *ends));
        let mut wanted: BTreeMap<Entry, Moment> = BTreeMap::new();
        for (about, ends) in leases.chain(pairs).filter(|(_, ends)| *ends > now) {
            let Some(entry) = self.entry(about) else { continue };
            let until = wanted.entry(entry).or_insert(Moment::ZERO);
            // The later end of two counts.
            *until = self.padded(ends).max(*until);
        }
        let cuts = self.cut.iter().filter(|(_, ends)| **ends > now);
        wanted.extend(cuts.map(|(address, ends)| (Entry::Cut(*address), *ends)));
        wanted
    }

    fn make_equal(&mut self, mut wanted: BTreeMap<Entry, Moment>) -> Result<(), TableError> {
        let clock = self.settings.clock;
        let (grain, longest) = (self.table.grain(), self.table.longest());
        self.written.clear();
        let mut remove = Vec::new();
        self.table.list()?;
        // A part may be read while the one before is given away.
        let mut times = [clock.now(); 2];
        while let Some(part) = self.table.listed()? {
            let [from, before] = times;
            let to = clock.now();
            for held in part {
                match wanted.get(&held.entry) {
                    None if self.written.get(&held.entry).is_some() => {}
                    None => remove.push(held.entry),
                    Some(until) if agrees(held.left, *until, grain, (from, to)) => {
                        let latest = held.left.map_or(*until, |left| to.plus(left).plus(grain)).max(*until);
                        self.written.keep(held.entry, *until, latest);
                        wanted.remove(&held.entry);
                    }
                    Some(_) => {}
                }
            }
            times = [before, to];
        }
        let put: Vec<(Entry, Moment)> = wanted.into_iter().collect();
        tracing::debug!(stay = self.written.len(), put = put.len(), remove = remove.len(), ?longest, "the full state");
        self.write(&remove, &put)
    }
}
