//! What some routes bear beyond the communities of every route. Routes with the same extra communities are one *class*; a
//! route keeps the class's number (16 bits) only, and UPDATEs are packed class by class.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Most classes at once, [`PLAIN`] included.
pub const MOST_CLASSES: usize = 4096;
/// The class of routes without extra communities.
pub const PLAIN: u16 = 0;

/// Communities of some routes, beside those of every route. Sorted, unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extra {
    standard: Vec<u32>,
    large: Vec<[u32; 3]>,
}

impl Extra {
    /// RFC 1997 and RFC 8092 communities, in any order.
    #[must_use]
    pub fn new(mut standard: Vec<u32>, mut large: Vec<[u32; 3]>) -> Self {
        standard.sort_unstable();
        standard.dedup();
        large.sort_unstable();
        large.dedup();
        Self { standard, large }
    }

    /// Returns the standard communities (RFC 1997), in order.
    #[must_use]
    pub fn standard(&self) -> &[u32] {
        &self.standard
    }

    /// Returns the large communities (RFC 8092), in order.
    #[must_use]
    pub fn large(&self) -> &[[u32; 3]] {
        &self.large
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.standard.is_empty() && self.large.is_empty()
    }

    /// Whether all of the other's are among these.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let standard = other.standard.iter().all(|community| self.standard.binary_search(community).is_ok());
        standard && other.large.iter().all(|community| self.large.binary_search(community).is_ok())
    }
}

/// What is to become of a host route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// The route is withdrawn.
    Withdrawn,
    /// Announced, with what every route bears.
    Plain,
    /// Announced, with these communities as well.
    With(Arc<Extra>),
}

impl From<bool> for Want {
    /// Whether it is to be announced.
    fn from(announce: bool) -> Self {
        if announce { Self::Plain } else { Self::Withdrawn }
    }
}

#[derive(Clone, Debug)]
struct Class {
    extra: Arc<Extra>,
    /// Announced routes of it.
    routes: usize,
}

/// All classes. A number is given away again once no announced route has it.
#[derive(Debug)]
pub struct Classes {
    all: Vec<Class>,
    numbers: BTreeMap<Arc<Extra>, u16>,
    /// Changes whenever a number gets another meaning, or a new one is given.
    version: u64,
    /// Routes that found no number left.
    refused: u64,
}

impl Default for Classes {
    fn default() -> Self {
        let plain = Class { extra: Arc::default(), routes: 0 };
        Self { all: vec![plain], numbers: BTreeMap::new(), version: 0, refused: 0 }
    }
}

impl Classes {
    /// The number of a set of communities; [`PLAIN`] for an empty one, and, counted, where there is no number left.
    pub(super) fn number(&mut self, extra: &Arc<Extra>) -> u16 {
        if extra.is_empty() {
            return PLAIN;
        }
        if let Some(number) = self.numbers.get(extra) {
            return *number;
        }
        let class = Class { extra: Arc::clone(extra), routes: 0 };
        let number = if self.all.len() < MOST_CLASSES {
            self.all.push(class);
            self.all.len() - 1
        } else if let Some(free) = self.all.iter().skip(1).position(|class| class.routes == 0) {
            let number = free + 1;
            if let Some(place) = self.all.get_mut(number) {
                self.numbers.remove(&place.extra);
                *place = class;
            }
            number
        } else {
            self.refused = self.refused.saturating_add(1);
            return PLAIN;
        };
        let number = u16::try_from(number).unwrap_or(PLAIN);
        self.version += 1;
        self.numbers.insert(Arc::clone(extra), number);
        number
    }

    pub(super) fn joins(&mut self, number: u16) {
        if let Some(class) = self.all.get_mut(usize::from(number)) {
            class.routes += 1;
        }
    }

    pub(super) fn leaves(&mut self, number: u16) {
        if let Some(class) = self.all.get_mut(usize::from(number)) {
            class.routes = class.routes.saturating_sub(1);
        }
    }

    /// Numbers that were ever given away at the same time, [`PLAIN`] included.
    pub(super) fn known(&self) -> usize {
        self.all.len()
    }

    /// The first of these numbers that a route has; the last of them stands for all numbers from it on.
    pub(super) fn used(&self, numbers: std::ops::RangeInclusive<u16>) -> Option<u16> {
        let (begin, last) = (usize::from(*numbers.start()), usize::from(*numbers.end()));
        let found = self.all.iter().skip(begin).position(|class| class.routes > 0)? + begin;
        if begin > last { None } else { u16::try_from(found.min(last)).ok() }
    }

    /// The communities of all numbers, in order; the first is [`PLAIN`].
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Extra>> {
        self.all.iter().map(|class| &class.extra)
    }

    /// See the field.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Classes with a route, [`PLAIN`] not counted; and routes that found no number left, ever.
    #[must_use]
    pub fn usage(&self) -> (usize, u64) {
        (self.all.iter().skip(1).filter(|class| class.routes > 0).count(), self.refused)
    }
}
