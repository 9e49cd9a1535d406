//! Shares of a table with a bound: nobody fills it, and whoever comes next finds room.
//!
//! A holder may take one more while it holds no more than is free afterwards (the dynamic threshold of shared buffers, Choudhury and Hahne 1998).
//! So a single greedy holder ends at a half, two that come at once at a third each, one that comes later at half of what was left. Nobody's
//! part is set beforehand, nothing is ever taken away, and who holds little never notices. [`LEAST`] are let in whatever is free. Who counts for many
//! ([`Holder::parts`]) may hold as much as many.
//! What a holder takes beyond half its threshold is to be short-lived ([`Shares::is_great`]): so the greatest shrink first.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::LazyLock;

/// What a holder may have as long as there is room at all: a page or two.
pub const LEAST: usize = 128;

/// Who holds what: by hash, so that it costs little to remember, and how many it counts for. Nobody's things are counted for nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(u64);

/// Draws the hashes of this process: nobody outside can choose a name that falls to another's.
static NAMED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// For tables of [`Holder`], which is a hash already: its bits, with the parts at the low end.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfHolder(u64);

impl Hasher for OfHolder {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.write_u64(u64::from(*octet)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = self.0.rotate_left(8) ^ value.rotate_left(u64::BITS - PARTS);
    }
}

/// Makes the hashers of maps whose keys are [`Holder`]s.
pub type HashHolder = BuildHasherDefault<OfHolder>;

/// Where the parts stand in a [`Holder`].
const PARTS: u32 = 56;

impl Holder {
    /// Not counted: somebody unknown.
    pub const NOBODY: Self = Self(0);

    /// Of what names it.
    #[must_use]
    pub fn of(name: &(impl Hash + ?Sized)) -> Self {
        Self(NAMED.hash_one(name) >> (64 - PARTS)).with_parts(1)
    }

    /// The same, counting for so many; one at least.
    #[must_use]
    pub fn with_parts(self, parts: u8) -> Self {
        if self == Self::NOBODY {
            return self;
        }
        let own = self.0 & ((1 << PARTS) - 1);
        Self(own | u64::from(parts.max(1)) << PARTS)
    }

    /// Which of so many it falls to.
    #[must_use]
    pub fn spread(self, among: usize) -> usize {
        usize::try_from(self.0 & 0xffff_ffff).unwrap_or(0) % among.max(1)
    }

    /// How many it counts for.
    #[must_use]
    pub fn parts(self) -> u8 {
        u8::try_from(self.0 >> PARTS).unwrap_or(1).max(1)
    }
}

/// Whether somebody who would then hold so many may take them, where so many would still be free: the rule of all tables. `least` are let in
/// whatever is free.
#[must_use]
pub fn may_hold(holder: Holder, then: usize, free: usize, least: usize) -> bool {
    let parts = usize::from(holder.parts());
    holder == Holder::NOBODY || then <= least.saturating_mul(parts) || then <= free.saturating_mul(parts)
}

/// How much each holder has of a table. No larger than the table.
#[derive(Debug, Default)]
pub struct Shares {
    held: HashMap<Holder, usize, HashHolder>,
}

impl Shares {
    /// It took one.
    pub fn add(&mut self, holder: Holder) {
        if holder != Holder::NOBODY {
            *self.held.entry(holder).or_default() += 1;
        }
    }

    /// It gave one back.
    pub fn remove(&mut self, holder: Holder) {
        if let Some(held) = self.held.get_mut(&holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&holder);
            }
        }
    }

    /// How many it has.
    #[must_use]
    pub fn of(&self, holder: Holder) -> usize {
        self.held.get(&holder).copied().unwrap_or(0)
    }

    /// Whether it may take so many more where so many are free.
    #[must_use]
    pub fn may_take(&self, holder: Holder, count: usize, free: usize) -> bool {
        count == 0 || may_hold(holder, self.of(holder).saturating_add(count), free.saturating_sub(count), LEAST)
    }

    /// Whether it has more than half of what it may have.
    #[must_use]
    pub fn is_great(&self, holder: Holder, free: usize) -> bool {
        let (held, parts) = (self.of(holder), usize::from(holder.parts()));
        held > LEAST.saturating_mul(parts) && held > free.saturating_mul(parts) / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of every table of this size.
    const SIZE: usize = 40 * LEAST;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However three greedy holders take and give back, of whom the last counts for three, nobody ever holds more than its part, and somebody
        /// new finds room.
        #[test]
        fn nobody_fills_a_table(steps in prop::collection::vec((0..3u8, prop::bool::weighted(0.9), 1..400usize), 1..200)) {
            let mut shares = Shares::default();
            let mut used = 0;
            for (name, takes, count) in steps {
                let parts = if name == 2 { 3 } else { 1 };
                let holder = Holder::of(&name).with_parts(parts);
                for _ in 0..count {
                    if !takes && shares.of(holder) > 0 {
                        shares.remove(holder);
                        used -= 1;
                    } else if takes && used < SIZE && shares.may_take(holder, 1, SIZE - used) {
                        shares.add(holder);
                        used += 1;
                        let held = shares.of(holder);
                        let parts = usize::from(parts);
                        prop_assert!(held <= parts * LEAST.max(SIZE - used), "{held} of {used}");
                    }
                }
            }
            let all = [(0u8, 1), (1, 1), (2, 3)].map(|(name, parts)| Holder::of(&name).with_parts(parts));
            prop_assert_eq!(all.into_iter().map(|holder| shares.of(holder)).sum::<usize>(), used);
            let new = Holder::of("new");
            for _ in 0..LEAST {
                prop_assert!(used < SIZE && shares.may_take(new, 1, SIZE - used), "{used}");
                shares.add(new);
                used += 1;
            }
        }
    }

    #[test]
    fn one_ends_at_a_half_two_at_a_third_and_what_is_given_back_is_for_all() {
        let greedy = |holders: &[&str]| {
            let (mut shares, mut used) = (Shares::default(), 0);
            for _ in 0..SIZE {
                for holder in holders.iter().map(|name| Holder::of(*name)) {
                    if shares.may_take(holder, 1, SIZE - used) {
                        shares.add(holder);
                        used += 1;
                    }
                }
            }
            (shares, used)
        };
        let (mut shares, used) = greedy(&["one"]);
        assert_eq!(used, SIZE / 2);
        let one = Holder::of("one");
        assert!(shares.is_great(one, SIZE - used) && !shares.is_great(Holder::of("two"), SIZE - used));
        (0..used).for_each(|_| shares.remove(one));
        assert!(shares.held.is_empty());
        assert_eq!(greedy(&["one", "two"]).1 / 2, SIZE / 3);
        assert_eq!(greedy(&[]).1, 0);
        assert!(shares.may_take(Holder::NOBODY, SIZE, 0));
    }

    #[test]
    fn who_counts_for_many_may_hold_as_much_as_many() {
        let mut shares = Shares::default();
        let (one, many) = (Holder::of("one"), Holder::of("many").with_parts(3));
        assert_eq!((one.parts(), many.parts(), Holder::NOBODY.with_parts(3)), (1, 3, Holder::NOBODY));
        assert_eq!(many.with_parts(1), Holder::of("many"));
        let mut used = 0;
        while shares.may_take(many, 1, SIZE - used) {
            shares.add(many);
            used += 1;
        }
        assert_eq!(used, SIZE * 3 / 4);
        assert!(shares.is_great(many, SIZE - used) && shares.may_take(one, LEAST, SIZE - used));
    }
}
