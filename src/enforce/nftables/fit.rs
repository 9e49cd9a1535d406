//! What has to be written so that a set holds what it should, given what it holds. Pure.
//!
//! After a crash the kernel holds nearly everything as it should be. To read 100,000 elements takes it a tenth of the time in which they
//! are removed and added again, and none of them is touched.

use std::cmp::Ordering;
use std::time::Duration;

use super::elements::{Held, Key};
use crate::core::moment::Moment;

/// By how much an element may end before it should, and stay. Less than what the comparison tolerates, which is not to find it wrong later.
pub const EARLY: Duration = Duration::from_millis(100);
/// By how much after it. An element's time begins when the kernel takes it in, and of many at once the last come some 100 ms after the first.
/// With [`super::PAD`] it is still below the second within which a lease must have ended.
pub const LATE: Duration = Duration::from_millis(400);
/// For each element that stays so many may be written, and the set is still not better emptied and filled.
const WRITTEN: usize = 4;
/// Beyond so many elements a set is not read: that takes time with the square of their number.
pub const MOST_READ: usize = 400_000;

/// An element, and between which moments it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The element as the kernel said it.
    pub held: Held,
    /// Not before this,
    pub from: Moment,
    /// nor after this.
    pub to: Moment,
}

impl Dated {
    fn latest(&self) -> Moment {
        self.held.left.map_or(Moment::NEVER, |left| self.to.plus(left))
    }
}

/// What becomes of one set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// Stay as they are; with the moments at which they are to end, and end at the latest.
    pub stay: Vec<(Key, Moment, Moment)>,
    /// To be removed, before anything is put.
    pub remove: Vec<Key>,
    /// To be put, with their ends.
    pub put: Vec<(Key, Moment)>,
}

/// `wanted`: every key once, in order, with its end. `None`: the set is better emptied and filled, since little would stay, or since it was
/// read while the kernel moved its elements about, and some may not have been seen.
#[must_use]
pub fn fit(wanted: &[(Key, Moment)], mut held: Vec<Dated>) -> Option<Fit> {
    held.sort_unstable_by_key(|dated| dated.held.key);
    if held.windows(2).any(|pair| matches!(pair, [one, other] if one.held.key == other.held.key)) {
        return None;
    }
    let mut fit = Fit::default();
    let mut held = held.into_iter().peekable();
    for (key, ends) in wanted {
        while let Some(foreign) = held.next_if(|dated| dated.held.key < *key) {
            fit.remove.push(foreign.held.key);
        }
        let found = held.next_if(|dated| dated.held.key.cmp(key) == Ordering::Equal);
        match found {
            Some(dated) if agrees(&dated, *ends) => fit.stay.push((*key, *ends, dated.latest().max(*ends))),
            // No later end can be given to one that has none.
            Some(Dated { held: Held { left: None, .. }, .. }) => {
                fit.remove.push(*key);
                fit.put.push((*key, *ends));
            }
            _ => fit.put.push((*key, *ends)),
        }
    }
    fit.remove.extend(held.map(|dated| dated.held.key));
    (fit.stay.len().saturating_mul(WRITTEN) > fit.put.len().saturating_add(fit.remove.len())).then_some(fit)
}

/// Whether it surely ends when it should.
fn agrees(dated: &Dated, ends: Moment) -> bool {
    let Some(left) = dated.held.left else { return false };
    dated.from.plus(left) >= ends.minus(EARLY) && dated.latest() <= ends.plus(LATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn key(last: u8) -> Key {
        Key::Address(IpAddr::from([192, 0, 2, last]))
    }

    fn dated(last: u8, left: Option<u64>, from: u64, to: u64) -> Dated {
        let left = left.map(Duration::from_millis);
        Dated { held: Held { key: key(last), left }, from: Moment(from), to: Moment(to) }
    }

    fn wanted(keys: &[(u8, u64)]) -> Vec<(Key, Moment)> {
        keys.iter().map(|(last, ends)| (key(*last), Moment(*ends))).collect()
    }

    #[test]
    fn what_is_as_it_should_be_stays() {
        let wanted = wanted(&[(2, 9_000), (3, 9_000), (4, 9_000), (5, 9_000), (6, 9_000), (7, 9_000), (8, 9_000)]);
        let held = vec![
            dated(9, Some(8_000), 1_000, 1_001),
            dated(1, Some(8_000), 1_000, 1_001),
            dated(2, Some(8_000), 1_000, 1_001),
            dated(3, Some(7_910), 1_000, 1_001),
            dated(4, Some(8_390), 1_000, 1_001),
            dated(5, Some(7_000), 1_000, 1_001),
            dated(7, Some(8_000), 1_000, 1_001),
            dated(8, Some(8_000), 1_000, 1_001),
        ];
        let found = fit(&wanted, held).unwrap();
        let keys = |list: &[(Key, Moment)]| list.iter().map(|(key, _)| *key).collect::<Vec<_>>();
        let stay: Vec<_> = found.stay.iter().map(|(key, ends, latest)| (*key, ends.0, latest.0)).collect();
        let latest = [(2, 9_001), (3, 9_000), (4, 9_391), (7, 9_001), (8, 9_001)];
        assert_eq!(stay, latest.map(|(last, latest)| (key(last), 9_000, latest)));
        assert_eq!(keys(&found.put), [5, 6].map(key), "one ends too early, one isn't there");
        assert_eq!(found.remove, [1, 9].map(key), "nobody wants them");
    }

    #[test]
    fn what_may_end_otherwise_is_written() {
        let one = |left, from, to| {
            // Others, so that enough stays.
            let mut held: Vec<Dated> = (10..20).map(|last| dated(last, Some(8_000), 1_000, 1_000)).collect();
            held.push(dated(1, left, from, to));
            let wanted: Vec<(u8, u64)> =
                std::iter::once((1, 9_000)).chain((10..20).map(|last| (last, 9_000))).collect();
            let found = fit(&super::tests::wanted(&wanted), held).unwrap();
            (found.remove, found.put)
        };
        let put = (vec![], vec![(key(1), Moment(9_000))]);
        assert_eq!(one(Some(8_000), 1_000, 1_050), (vec![], vec![]));
        assert_eq!(one(Some(8_000), 1_000, 1_500), put, "it may have been read late, and then ends late");
        assert_eq!(one(Some(8_000), 700, 1_000), put, "it may have been read early, and then ends early");
        assert_eq!(one(Some(20_000), 1_000, 1_000), put);
        let for_ever = (vec![key(1)], put.1.clone());
        assert_eq!(one(None, 1_000, 1_000), for_ever, "what never ends is taken away first");
    }

    #[test]
    fn a_set_that_is_empty_or_was_moved_about_is_filled_anew() {
        let wanted = wanted(&[(1, 9_000), (2, 9_000)]);
        assert_eq!(fit(&wanted, Vec::new()), None);
        let held: Vec<Dated> = [1, 2, 2].map(|last| dated(last, Some(8_000), 1_000, 1_000)).to_vec();
        assert_eq!(fit(&wanted, held.clone()), None, "one was read twice, so another may not have been read");
        assert!(fit(&wanted, held[..2].to_vec()).is_some());
        assert_eq!(fit(&[], vec![dated(1, Some(8_000), 1_000, 1_000)]), None);
    }
}
