//! What four codecs say that an UPDATE means, in one neutral form; and a source of messages to ask them about.
//!
//! * [`Ours`] is destguard-bgp.
//! * [`Netgauze`] and [`Bgpkit`] are the two oracles that must agree with it.
//! * [`BgpRs`] is an older one with known limits (see [`BgpRs`]); counts only where it gives an answer.

mod bgp_rs_codec;
mod bgpkit;
mod generate;
mod netgauze;
mod ours;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

pub use bgp_rs_codec::BgpRs;
pub use bgpkit::Bgpkit;
pub use generate::Generator;
pub use netgauze::Netgauze;
pub use ours::{DECODE, ENCODE, Ours};

/// What an UPDATE says. Absent and empty lists are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    pub announced: BTreeSet<IpNet>,
    pub withdrawn: BTreeSet<IpNet>,
    /// The attribute NEXT_HOP, where there is one.
    pub next_hop: Option<IpAddr>,
    /// Global next hop of MP_REACH_NLRI.
    pub mp_next_hop: Option<IpAddr>,
    pub origin: Option<u8>,
    /// Segments: is it a set, and its numbers.
    pub as_path: Option<Vec<(bool, Vec<u32>)>>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<(u32, IpAddr)>,
    pub communities: Vec<u32>,
    pub originator_id: Option<IpAddr>,
    pub cluster_list: Vec<IpAddr>,
    pub large_communities: Vec<[u32; 3]>,
    pub otc: Option<u32>,
}

/// What a codec says about a whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An UPDATE without any complaint.
    Update(Box<Meaning>),
    /// Another message, by its type code.
    Other(u8),
    /// Refused, or read with complaints.
    Refused(String),
    /// The codec cannot express this message; it has no vote.
    Abstains,
}

/// A codec under comparison. Messages have four-octet AS numbers and no path identifiers.
pub trait Codec {
    /// What the message means.
    fn read(octets: &[u8]) -> Verdict;
    /// Reads the message and writes it again; `None` if it cannot.
    fn rewrite(octets: &[u8]) -> Option<Vec<u8>>;
}
