//! States of a session, diagnostics, and why one went down, in an operator's words.

use std::fmt;

/// A session's state (RFC 5880 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Held down by the operator.
    AdminDown,
    /// Nothing is heard of the other end.
    #[default]
    Down,
    /// The other end is heard, but does not hear us yet.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// From the two bits of the packet; higher bits are ignored.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    /// The two bits of the packet.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why an end last left Up (RFC 5880 section 4.1, and IANA's registry); five bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// Nothing happened yet.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The other end said that its session is down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// An operator holds the session down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// From the packet's five bits; higher bits are ignored.
    #[must_use]
    pub fn new(bits: u8) -> Self {
        Self(bits & 0x1f)
    }

    /// The five bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            9 => "mis-connectivity defect",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// Why a session that was up went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was heard for the detection time.
    Expired,
    /// The neighbour said that its end is down, with its reason.
    Neighbor(Diagnostic),
    /// The neighbour's operator took its end down. This says nothing about the path (RFC 5882 section 3.2).
    NeighborAdmin,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => Diagnostic::DETECTION_TIME_EXPIRED.fmt(f),
            Self::Neighbor(Diagnostic::NONE) => Diagnostic::NEIGHBOR_DOWN.fmt(f),
            Self::Neighbor(its) => write!(f, "{} ({its})", Diagnostic::NEIGHBOR_DOWN),
            Self::NeighborAdmin => f.write_str("administratively down at the neighbor"),
        }
    }
}
