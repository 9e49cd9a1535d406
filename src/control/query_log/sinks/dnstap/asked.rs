//! When the question of a reply was asked.
//!
//! Questions and replies pass the sink's thread in order, so that it alone keeps them. Who asks the same twice at once, over DoH say, where every message may bear the
//! number 0, gets the later question's time.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::Tapped;

/// Questions that may wait for their replies. The oldest are forgotten.
const MOST: usize = 16_384;

/// Questions that have no reply yet, with the moment each of them came.
#[derive(Default)]
pub struct Asked {
    hasher: RandomState,
    open: HashMap<u64, (u64, Duration)>,
    /// In order; those that were answered or asked again stay in it.
    order: VecDeque<(u64, u64)>,
    next: u64,
}

/// Number and question of a message.
fn question(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (number, count) = (message.get(..2)?, message.get(4..6)?);
    if count != [0, 1] {
        return None;
    }
    let rest = message.get(12..)?;
    let mut end = 0usize;
    loop {
        match usize::from(*rest.get(end)?) {
            0 => return Some((number, rest.get(..end.saturating_add(5))?)),
            label if label < 64 => end = end.saturating_add(label).saturating_add(1),
            _ => return None,
        }
    }
}

impl Asked {
    /// Keeps a question's time; returns that of a reply's question, where it is known.
    pub fn pass<T: AsRef<[u8]>>(&mut self, tapped: &Tapped<T>, time: Duration) -> Option<Duration> {
        let (number, question) = question(tapped.octets.as_ref())?;
        let key = self.hasher.hash_one((tapped.way, tapped.client, tapped.port, number, question));
        if tapped.reply {
            return self.open.remove(&key).map(|(_, asked)| asked);
        }
        self.next = self.next.wrapping_add(1);
        self.open.insert(key, (self.next, time));
        self.order.push_back((key, self.next));
        while self.order.len() > MOST {
            let Some((key, nth)) = self.order.pop_front() else { break };
            if self.open.get(&key).is_some_and(|(kept, _)| *kept == nth) {
                self.open.remove(&key);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::way::Way;

    fn message(number: u16, name: u8) -> Vec<u8> {
        let number = number.to_be_bytes();
        [&number[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, name, 0, 0, 1, 0, 1]].concat()
    }

    fn tapped(reply: bool, way: Way, port: Option<u16>, octets: Vec<u8>) -> Tapped<Vec<u8>> {
        Tapped { way, reply, client: [192, 0, 2, 1].into(), port, local: None, octets }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_reply_has_the_time_of_its_own_question() {
        let mut asked = Asked::default();
        for (second, way, port, number, name) in [
            (1, Way::Udp, Some(1000), 7, b'a'),
            (2, Way::Udp, Some(1001), 7, b'a'),
            (3, Way::Udp, Some(1000), 8, b'a'),
            (4, Way::Https, None, 0, b'a'),
            (5, Way::Https, None, 0, b'b'),
            (6, Way::Quic, None, 0, b'b'),
        ] {
            assert_eq!(asked.pass(&tapped(false, way, port, message(number, name)), at(second)), None);
        }
        let mut replied = |way, port, number, name| asked.pass(&tapped(true, way, port, message(number, name)), at(9));
        assert_eq!(replied(Way::Quic, None, 0, b'b'), Some(at(6)));
        assert_eq!(replied(Way::Https, None, 0, b'b'), Some(at(5)));
        assert_eq!(replied(Way::Https, None, 0, b'a'), Some(at(4)));
        assert_eq!(replied(Way::Udp, Some(1000), 8, b'a'), Some(at(3)));
        assert_eq!(replied(Way::Udp, Some(1001), 7, b'a'), Some(at(2)));
        assert_eq!(replied(Way::Udp, Some(1000), 7, b'a'), Some(at(1)));
        assert_eq!(replied(Way::Udp, Some(1000), 7, b'a'), None, "it has been answered");
        assert_eq!(replied(Way::Udp, Some(1000), 9, b'a'), None, "nobody asked");
    }

    #[test]
    fn what_is_never_answered_is_forgotten() {
        let mut asked = Asked::default();
        for number in 0..=u16::MAX {
            asked.pass(&tapped(false, Way::Udp, Some(1), message(number, b'a')), at(1));
        }
        assert!(asked.open.len() <= MOST && asked.order.len() <= MOST);
        let mut replied = |number| asked.pass(&tapped(true, Way::Udp, Some(1), message(number, b'a')), at(2));
        assert_eq!((replied(0), replied(u16::MAX)), (None, Some(at(1))));
        for octets in [vec![], vec![0; 12], vec![0; 40], [&[0; 4][..], &[0, 1], &[0; 6], &[63; 80]].concat()] {
            assert_eq!(asked.pass(&tapped(false, Way::Udp, None, octets), at(1)), None);
        }
    }
}
