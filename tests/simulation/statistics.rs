//! What a simulated hour consisted of.

use std::fmt;

/// Counts. Two runs of one plan have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Questions that clients asked.
    pub asked: u64,
    /// Answers that were released.
    pub released: u64,
    /// Of them those from the cache.
    pub cached: u64,
    /// Refused at the gate.
    pub refused: u64,
    /// Questions that a daemon that was down, or went down, left without an answer.
    pub lost: u64,
    /// Connects that had to succeed.
    pub connected: u64,
    /// Faults that the plan put in.
    pub faults: u64,
    /// Times that belief was compared with the world.
    pub compared: u64,
    /// Of all answers, in order.
    pub sum: u64,
}

impl Seen {
    /// With another hour.
    pub fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.released += other.released;
        self.cached += other.cached;
        self.refused += other.refused;
        self.lost += other.lost;
        self.connected += other.connected;
        self.faults += other.faults;
        self.compared += other.compared;
        self.sum ^= other.sum;
    }

    /// Takes note of what two runs must have in common.
    pub fn note(&mut self, words: &[u64]) {
        for word in words {
            self.sum = (self.sum ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(17);
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, released, cached, refused, lost, connected, faults, compared, sum } = self;
        write!(f, "{asked} questions, {released} answers ({cached} from the cache), {refused} refused, {lost} lost, ")?;
        write!(f, "{connected} connects, {faults} faults, belief compared {compared} times, sum {sum:x}")
    }
}
