//! What other guards are told of our leases: address, end, and whether it was taken back before.
//!
//! ```text
//!             leased              renewed                 30 s behind its end
//!   (none) ----------> told <-----------+                +--------------------> (none)
//!                      |  ^ |           |                |
//!                      |  | +-----------+----------------+
//!            taken back|  |leased again                  |
//!                      v  |                              |
//!                    taken back -------------------------+
//! ```
//!
//! A guard's leases are causes like a question's: their name is made of its router id ([`name_of`]). What a cause of that kind alone holds open is not told
//! as ours, so that no lease goes round in circles; only when its guard is gone is it passed on, in that guard's name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::event::Shared;
use super::lease::Lease;
use super::moment::Moment;
use super::name::Name;

/// Below this are the names of guards. No question leads there: what is below `invalid` is answered here (RFC 6761 section 6.4), and policy never sees it.
const BELOW: &str = "guard.invalid";
/// Others hold a lease to its end as it was told, rounded up to 30 s; then nothing need be told any more.
const TAIL: Duration = Duration::from_secs(31);
/// Most leases of others that were closed here.
const MOST_SHUNNED: usize = 1 << 17;
/// A guard says no less by this: ends are rounded, and clocks differ.
pub const SLACK: Duration = Duration::from_secs(31);

/// The name that stands for a guard among the causes of a lease.
#[must_use]
pub fn name_of(guard: Ipv4Addr) -> Name {
    let [a, b, c, d] = guard.octets();
    // Digits and hyphens: a name in any case.
    format!("{a}-{b}-{c}-{d}.{BELOW}").parse().unwrap_or_else(|_| Name::root())
}

/// The guard that a name stands for.
#[must_use]
pub fn guard_of(name: &Name) -> Option<Ipv4Addr> {
    let mut labels = name.labels();
    let first = labels.next()?;
    // Nearly no name gets further.
    if labels.next() != Some(b"guard") || labels.next() != Some(b"invalid") || labels.next().is_some() {
        return None;
    }
    std::str::from_utf8(first).ok()?.replace('-', ".").parse().ok()
}

/// What was told of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    ends: Moment,
    of: Option<Ipv4Addr>,
    taken_back: bool,
}

/// What other guards were told. Bounded by the leases, and those that were taken back before their ends.
#[derive(Debug)]
pub struct Exchange {
    /// What others pass on to us as ours, who have forgotten it, is ours again.
    own: Ipv4Addr,
    told: HashMap<IpAddr, Told>,
    due: BTreeSet<(Moment, IpAddr)>,
    marked: BTreeSet<IpAddr>,
    /// Leases of guards that nobody tells of any more.
    orphans: BTreeSet<(IpAddr, Ipv4Addr)>,
    /// Leases of guards that were closed here before their ends: who passes them on doesn't open them again. At most [`MOST_SHUNNED`].
    shunned: BTreeMap<(IpAddr, Ipv4Addr), Moment>,
}

impl Exchange {
    /// Nothing was told yet by the guard with this router id.
    #[must_use]
    pub fn new(own: Ipv4Addr) -> Self {
        Self {
            own,
            told: HashMap::new(),
            due: BTreeSet::new(),
            marked: BTreeSet::new(),
            orphans: BTreeSet::new(),
            shunned: BTreeMap::new(),
        }
    }

    /// A guard's lease, which would have lasted until then, was closed here.
    pub fn shun(&mut self, address: IpAddr, guard: Ipv4Addr, ends: Moment, now: Moment) {
        if self.shunned.len() >= MOST_SHUNNED {
            self.shunned.retain(|_, ends| *ends > now);
        }
        if self.shunned.len() < MOST_SHUNNED {
            self.shunned.insert((address, guard), ends.plus(TAIL));
        }
    }

    /// Whether a guard's lease was closed here and would still last.
    #[must_use]
    pub fn is_shunned(&self, address: IpAddr, guard: Ipv4Addr, now: Moment) -> bool {
        self.shunned.get(&(address, guard)).is_some_and(|ends| *ends > now)
    }

    /// The guard itself leases it anew.
    pub fn forgive(&mut self, address: IpAddr, guard: Ipv4Addr) {
        self.shunned.remove(&(address, guard));
    }

    /// Our router id.
    #[must_use]
    pub fn own(&self) -> Ipv4Addr {
        self.own
    }

    /// Something of this lease may have changed.
    pub fn mark(&mut self, address: IpAddr) {
        self.marked.insert(address);
    }

    /// Those that were marked.
    pub fn take_marked(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.marked)
    }

    /// Whether somebody tells of a guard's lease.
    pub fn orphan(&mut self, address: IpAddr, guard: Ipv4Addr, is: bool) {
        let changed = if is { self.orphans.insert((address, guard)) } else { self.orphans.remove(&(address, guard)) };
        if changed {
            self.mark(address);
        }
    }

    /// The lease is gone from the table.
    pub fn is_over(&mut self, address: IpAddr) {
        let all = (address, Ipv4Addr::UNSPECIFIED)..=(address, Ipv4Addr::BROADCAST);
        while let Some(orphan) = self.orphans.range(all.clone()).next().copied() {
            self.orphans.remove(&orphan);
        }
        self.mark(address);
    }

    /// Whether we told of it in our own name, and it was not over.
    #[must_use]
    pub fn is_ours(&self, address: IpAddr) -> bool {
        self.told.get(&address).is_some_and(|told| told.of.is_none())
    }

    /// Addresses of which something is told.
    #[must_use]
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether nothing is told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// When something need not be told any more.
    #[must_use]
    pub fn next_timer(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Until when a lease is ours, or that of a guard of which nobody tells; `None` where it is neither.
    fn wanted(&self, address: IpAddr, lease: &Lease, now: Moment) -> Option<(Moment, Option<Ipv4Addr>)> {
        let is_own = |name: &Name| guard_of(name).is_none_or(|guard| guard == self.own);
        let own = lease.causes().iter().filter(|cause| is_own(&cause.question)).map(|cause| cause.ends).max();
        if let Some(ends) = own.filter(|ends| *ends > now) {
            return Some((ends.min(lease.ends()), None));
        }
        let orphaned = lease.causes().iter().filter_map(|cause| {
            let guard = guard_of(&cause.question).filter(|guard| self.orphans.contains(&(address, *guard)))?;
            Some((cause.ends.min(lease.ends()), Some(guard)))
        });
        orphaned.max()
    }

    /// What is to be told of an address now. `lease`: where it is active; `tells`: whether anything is told at all.
    pub fn news(&mut self, address: IpAddr, lease: Option<&Lease>, tells: bool, now: Moment) -> Option<Shared> {
        let wanted = lease.filter(|_| tells).and_then(|lease| self.wanted(address, lease, now));
        let told = self.told.get(&address).copied();
        match (told, wanted.filter(|(ends, _)| *ends > now)) {
            (told, Some((ends, of))) => {
                if told.is_some_and(|told| !told.taken_back && told.of == of && told.ends == ends) {
                    return None;
                }
                self.put(address, Told { ends, of, taken_back: false });
                Some(Shared::Until(ends, of))
            }
            (Some(told), None) if told.ends.plus(TAIL) <= now || !tells => {
                self.forget(address);
                Some(Shared::Nothing)
            }
            // Over in its time: so it is for those who hold it.
            (Some(told), None) if told.taken_back || told.ends <= now => None,
            (Some(told), None) if told.of.is_some() => {
                // Of another guard's lease only that guard says that it is over.
                self.forget(address);
                Some(Shared::Nothing)
            }
            (Some(told), None) => {
                self.put(address, Told { taken_back: true, ..told });
                Some(Shared::TakenBack)
            }
            (None, None) => None,
        }
    }

    fn put(&mut self, address: IpAddr, told: Told) {
        self.forget(address);
        self.due.insert((told.ends.plus(TAIL), address));
        self.told.insert(address, told);
    }

    fn forget(&mut self, address: IpAddr) {
        if let Some(told) = self.told.remove(&address) {
            self.due.remove(&(told.ends.plus(TAIL), address));
        }
    }

    /// Addresses of which nothing need be told any more.
    pub fn take_due(&mut self, now: Moment) -> Vec<IpAddr> {
        self.due
            .range(..=(now, IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::MAX))))
            .map(|(_, address)| *address)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_has_a_name_and_no_other_name_is_a_guard() {
        let guard = Ipv4Addr::new(192, 0, 2, 7);
        assert_eq!(name_of(guard).to_string(), "192-0-2-7.guard.invalid");
        assert_eq!(guard_of(&name_of(guard)), Some(guard));
        for other in
            ["guard.invalid", "x.guard.invalid", "1-2-3.guard.invalid", "1-2-3-4.guard.invalid.test", "a.test", "."]
        {
            assert_eq!(guard_of(&other.parse().unwrap()), None, "{other}");
        }
    }
}
