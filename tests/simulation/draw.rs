//! Numbers drawn from a seed (splitmix64). Each thing draws its own: what is left out when a plan shrinks changes
//! nothing for the others.

use std::ops::RangeInclusive;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The stream of whatever these numbers name.
    pub fn of(names: &[u64]) -> Self {
        let mut draw = Self(0x5851_f42d_4c95_7f2d);
        for name in names {
            draw.0 ^= name.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            draw.next();
        }
        draw
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; zero where that is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// A number of this range.
    pub fn between(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// Whether a chance of so many in a hundred comes true.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}
