//! What an established peer says of its own routes, for who follows that.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::table::classes::Extra;
use crate::wire::iana::Family;
use crate::wire::message::Update;

/// What a peer says of the routes it has for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// BoRR (RFC 7313): the replay that was asked for begins.
    Begin(Family),
    /// EoRR: it is complete.
    End(Family),
    /// End-of-RIB (RFC 4724 section 2): all that the peer had for us when the session came up was sent.
    Whole(Family),
    /// One UPDATE, with the routes that it announces and withdraws.
    Routes {
        /// Announced, in order.
        announced: Vec<IpNet>,
        /// Withdrawn, in order.
        withdrawn: Vec<IpNet>,
        /// The announced ones bear this.
        bears: Arc<Extra>,
        /// The last AS of their path; `None` for an empty one.
        origin: Option<u32>,
        /// ORIGINATOR_ID (RFC 4456): a reflector passed them on, from this speaker.
        originator: Option<Ipv4Addr>,
    },
}

impl Heard {
    pub(super) fn update(update: &Update<'_>) -> Self {
        let path = update.attributes.as_path.as_ref();
        let large = &update.attributes.large_communities;
        let large = large.iter().map(|community| [community.global, community.first, community.second]).collect();
        let bears = Extra::new(update.attributes.communities.clone(), large);
        let last = path.and_then(|path| path.segments.last()).and_then(|segment| segment.asns.last());
        Self::Routes {
            announced: update.announced().map(|route| route.prefix).collect(),
            withdrawn: update.withdrawn().map(|route| route.prefix).collect(),
            bears: Arc::new(bears),
            origin: last.copied(),
            originator: update.attributes.originator_id,
        }
    }
}
