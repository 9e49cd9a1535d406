//! BFD control packets (RFC 5880 section 4.1) and the checks of a received one that need no session (section 6.8.6).
//!
//! ```text
//!   0                   1                   2                   3
//!   |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//!   |                       My Discriminator                        |
//!   |                      Your Discriminator                       |
//!   |                    Desired Min TX Interval                    |   microseconds, as are the next two
//!   |                   Required Min RX Interval                    |
//!   |                 Required Min Echo RX Interval                 |
//! ```

use super::state::{Diagnostic, State};

/// Octets of a packet without authentication.
pub const LENGTH: usize = 24;
/// The protocol's version.
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// A control packet without authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: the sender wants an answer at once.
    pub poll: bool,
    /// F: this is that answer.
    pub is_final: bool,
    /// C: the sender's BFD outlives its control plane.
    pub independent: bool,
    /// D: the sender wants no periodic packets while both ends are up.
    pub demand: bool,
    /// So many packets may be lost; not zero.
    pub multiplier: u8,
    /// The sender's name for the session; not zero.
    pub my_discriminator: u32,
    /// The receiver's name for it; zero = not known yet.
    pub your_discriminator: u32,
    /// The sender wants to send this often, microseconds.
    pub desired_min_tx: u32,
    /// The sender can take packets this often, microseconds; zero = not at all.
    pub required_min_rx: u32,
    /// The same for echo packets; zero = no echo.
    pub required_min_echo_rx: u32,
}

/// Why a packet is discarded. Nobody is told; such packets are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Not a whole packet.
    #[error("{0} octets are too few")]
    Short(usize),
    /// Of another version.
    #[error("version {0}")]
    Version(u8),
    /// The length field is below the least, or above what came.
    #[error("length field {0} of {1} octets")]
    Length(u8, usize),
    /// Detect Mult is zero.
    #[error("detect multiplier 0")]
    Multiplier,
    /// M, which is for extensions that we don't have.
    #[error("multipoint bit")]
    Multipoint,
    /// My Discriminator is zero.
    #[error("my discriminator 0")]
    MyDiscriminator,
    /// Your Discriminator is zero although the sender is past Down.
    #[error("your discriminator 0 in state {0}")]
    YourDiscriminator(State),
    /// A: no session of ours uses authentication.
    #[error("authentication, which is not configured")]
    Authentication,
}

impl Packet {
    /// Reads a packet. What the length field leaves over is ignored, as is allowed.
    ///
    /// # Errors
    /// [`PacketError`]: the packet must be discarded.
    pub fn decode(octets: &[u8]) -> Result<Self, PacketError> {
        let Some(head) = octets.first_chunk::<LENGTH>() else { return Err(PacketError::Short(octets.len())) };
        let [first, flags, multiplier, length, rest @ ..] = head;
        let (version, flags, multiplier, length) = (first >> 5, *flags, *multiplier, *length);
        if version != VERSION {
            return Err(PacketError::Version(version));
        }
        let least = if flags & AUTHENTICATION == 0 { LENGTH } else { LENGTH + 2 };
        if usize::from(length) < least || usize::from(length) > octets.len() {
            return Err(PacketError::Length(length, octets.len()));
        }
        if multiplier == 0 {
            return Err(PacketError::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        let word = |at: usize| {
            let four = rest.get(at * 4..).and_then(|from| from.first_chunk::<4>());
            four.map_or(0, |four| u32::from_be_bytes(*four))
        };
        let state = State::from_bits(flags >> 6);
        let (my_discriminator, your_discriminator) = (word(0), word(1));
        if my_discriminator == 0 {
            return Err(PacketError::MyDiscriminator);
        }
        if your_discriminator == 0 && matches!(state, State::Init | State::Up) {
            return Err(PacketError::YourDiscriminator(state));
        }
        if flags & AUTHENTICATION != 0 {
            return Err(PacketError::Authentication);
        }
        Ok(Self {
            diagnostic: Diagnostic::new(*first),
            state,
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            independent: flags & INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: word(2),
            required_min_rx: word(3),
            required_min_echo_rx: word(4),
        })
    }

    /// The packet's octets.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let bit = |set: bool, value: u8| if set { value } else { 0 };
        let flags = self.state.bits() << 6
            | bit(self.poll, POLL)
            | bit(self.is_final, FINAL)
            | bit(self.independent, INDEPENDENT)
            | bit(self.demand, DEMAND);
        let mut octets = [0; LENGTH];
        let head = [VERSION << 5 | self.diagnostic.bits(), flags, self.multiplier, LENGTH as u8];
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        let all = head.into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (to, from) in octets.iter_mut().zip(all) {
            *to = from;
        }
        octets
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Version 1, Up, P, multiplier 3.
    const UP: [u8; LENGTH] =
        [0x20, 0xe0, 3, 24, 0, 0, 0, 7, 0xde, 0xad, 0xbe, 0xef, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0xc3, 0x50];

    fn up() -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state: State::Up,
            poll: true,
            is_final: false,
            independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator: 7,
            your_discriminator: 0xdead_beef,
            desired_min_tx: 300_000,
            required_min_rx: 300_000,
            required_min_echo_rx: 50_000,
        }
    }

    /// `UP` with some octets changed.
    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut octets = UP.to_vec();
        for (at, value) in changes {
            octets[*at] = *value;
        }
        octets
    }

    #[test]
    fn known_packets_both_ways() {
        let other = Packet {
            diagnostic: Diagnostic::DETECTION_TIME_EXPIRED,
            state: State::Down,
            poll: false,
            is_final: true,
            independent: true,
            demand: true,
            your_discriminator: 0,
            ..up()
        };
        let octets = with(&[(0, 0x21), (1, 0x5a), (8, 0), (9, 0), (10, 0), (11, 0)]);
        for (octets, packet) in [(UP.to_vec(), up()), (octets, other)] {
            assert_eq!(Packet::decode(&octets), Ok(packet));
            assert_eq!(packet.encode().to_vec(), octets);
        }
    }

    #[test]
    fn what_must_be_discarded_is() {
        let zero = [(8, 0), (9, 0), (10, 0), (11, 0)];
        let zero_and = |flags: u8| {
            let mut changes = zero.to_vec();
            changes.push((1, flags));
            with(&changes)
        };
        let cases = [
            (UP[..23].to_vec(), PacketError::Short(23)),
            (Vec::new(), PacketError::Short(0)),
            (with(&[(0, 0x00)]), PacketError::Version(0)),
            (with(&[(0, 0x40)]), PacketError::Version(2)),
            (with(&[(3, 23)]), PacketError::Length(23, 24)),
            (with(&[(3, 25)]), PacketError::Length(25, 24)),
            // With authentication the least is 26.
            (with(&[(1, 0xe4)]), PacketError::Length(24, 24)),
            (with(&[(2, 0)]), PacketError::Multiplier),
            (with(&[(1, 0xe1)]), PacketError::Multipoint),
            (with(&[(7, 0)]), PacketError::MyDiscriminator),
            (zero_and(0xc0), PacketError::YourDiscriminator(State::Up)),
            (zero_and(0x80), PacketError::YourDiscriminator(State::Init)),
        ];
        for (octets, error) in cases {
            assert_eq!(Packet::decode(&octets), Err(error), "{octets:02x?}");
        }
        let mut signed = with(&[(1, 0xe4), (3, 26)]);
        signed.extend([1, 2]);
        assert_eq!(Packet::decode(&signed), Err(PacketError::Authentication));
        for flags in [0x00, 0x40] {
            assert!(Packet::decode(&zero_and(flags)).is_ok());
        }
        let mut longer = UP.to_vec();
        longer.extend([0; 9]);
        assert_eq!(Packet::decode(&longer), Ok(up()));
    }

    proptest! {
        #[test]
        fn no_octets_hurt(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(packet) = Packet::decode(&octets) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }

        /// Near misses: a good packet with one octet changed is refused, or means exactly what its octets say.
        #[test]
        fn one_wrong_octet(at in 0..LENGTH, value: u8) {
            let octets = with(&[(at, value)]);
            if let Ok(packet) = Packet::decode(&octets) {
                prop_assert_eq!(packet.encode().to_vec(), octets);
            }
        }
    }
}
