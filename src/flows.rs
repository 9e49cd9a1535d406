//! What routers report of flows, read as far as it matters here: between which addresses something lives.
//!
//! - [`netflow`]: NetFlow v5 and v9, IPFIX (RFC 7011). [`sflow`]: sFlow 5.
//!
//! A record that says that its flow is over, or was never answered, is left out: TCP with FIN or RST, or a SYN alone; IPFIX with the end of the flow
//! detected. Everything has a bound: octets of a datagram, templates and their fields, records.

use std::net::IpAddr;

use crate::config::schema::ExporterKind;

pub mod netflow;
pub mod sflow;

/// Longest datagram that is read: more than a jumbo frame.
pub const DATAGRAM: usize = 16 << 10;
/// TCP's flags (RFC 9293).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Why nothing, or not all, of a datagram was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It isn't what the exporter is said to send, or it is cut.
    Malformed,
    /// Its template has not come yet.
    WithoutTemplate,
}

/// Reads what one exporter sends.
#[derive(Debug)]
pub enum Decoder {
    /// With its templates.
    Netflow(Box<netflow::Decoder>),
    /// Needs no memory.
    Sflow,
}

impl Decoder {
    /// For an exporter of this kind; `None` when the library refuses its bounds, which a test excludes.
    #[must_use]
    pub fn new(kind: ExporterKind) -> Option<Self> {
        let version = match kind {
            ExporterKind::Sflow => return Some(Self::Sflow),
            ExporterKind::Netflow5 => 5,
            ExporterKind::Netflow9 => 9,
            ExporterKind::Ipfix => 10,
        };
        netflow::Decoder::new(version).map(Box::new).map(Self::Netflow)
    }

    /// Both ends of each living flow go to `each`, also those before what can't be read.
    ///
    /// # Errors
    /// [`Unread`].
    pub fn read(&mut self, datagram: &[u8], each: impl FnMut(IpAddr, IpAddr)) -> Result<(), Unread> {
        if datagram.len() > DATAGRAM {
            return Err(Unread::Malformed);
        }
        match self {
            Self::Netflow(decoder) => decoder.read(datagram, each),
            Self::Sflow => sflow::read(datagram, each).ok_or(Unread::Malformed),
        }
    }
}

/// Whether a flow with these flags of TCP, all its packets' together, lives.
fn lives(flags: u8) -> bool {
    flags & (FIN | RST) == 0 && flags & (SYN | ACK) != SYN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [ExporterKind; 4] =
        [ExporterKind::Ipfix, ExporterKind::Netflow9, ExporterKind::Netflow5, ExporterKind::Sflow];

    #[test]
    fn a_connection_that_is_over_or_unanswered_does_not_live() {
        assert!(lives(0) && lives(ACK) && lives(SYN | ACK));
        assert!(!lives(SYN) && !lives(ACK | FIN) && !lives(RST));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic_and_within_bounds(
            octets in proptest::collection::vec(any::<u8>(), 0..1500),
            version in prop_oneof![Just([0u8, 5]), Just([0, 9]), Just([0, 10]), any::<[u8; 2]>()],
            repeat in 1usize..4,
        ) {
            for kind in KINDS {
                let mut decoder = Decoder::new(kind).unwrap();
                let mut datagram = octets.clone();
                if datagram.len() >= 4 {
                    match kind {
                        ExporterKind::Sflow => datagram[..4].copy_from_slice(&[0, 0, 0, 5]),
                        _ => datagram[..2].copy_from_slice(&version),
                    }
                }
                for _ in 0..repeat {
                    let mut count = 0usize;
                    let _read = decoder.read(&datagram, |_, _| count += 1);
                    prop_assert!(count <= datagram.len(), "{} of {} octets", count, datagram.len());
                }
            }
        }
    }
}
