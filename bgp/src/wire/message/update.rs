//! UPDATE (RFC 4271 section 4.3, RFC 4760), read as RFC 7606 wants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::encode_message;
use crate::wire::attribute::{Attributes, Decoder, Outcome, put_known};
use crate::wire::error::{Action, EncodeError, Problem, ProblemKind, UpdateError, UpdateSubcode};
use crate::wire::iana::{AfiSafi, Families, Family, MessageType, attribute as code};
use crate::wire::nlri::{Nlri, Route};
use crate::wire::read::Reader;
use crate::wire::write::{begin16, end16};
use crate::wire::{DecodeContext, EncodeContext};

/// Most [`Update::problems`] kept of one message, but for those that disable a family; the rest are counted.
pub const MAX_PROBLEMS: usize = 32;

/// UPDATE. NLRI are borrowed from the message; [`Update::announced`] and [`Update::withdrawn`] walk them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The withdrawn routes field: IPv4.
    pub unreach: Nlri<'a>,
    /// The NLRI field: IPv4.
    pub reach: Nlri<'a>,
    /// MP_REACH_NLRI (RFC 4760): announced routes of any family.
    pub mp_reach: Option<MpReach<'a>>,
    /// MP_UNREACH_NLRI (RFC 4760): withdrawn routes of any family.
    pub mp_unreach: Option<MpUnreach<'a>>,
    /// All other attributes.
    pub attributes: Attributes,
    /// The routes it announces count as withdrawn (RFC 7606).
    pub treat_as_withdraw: bool,
    /// What was wrong with it, at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// How many more problems there were.
    pub problems_left_out: usize,
}

/// MP_REACH_NLRI (RFC 4760 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MpReach<'a> {
    /// Next hop of all its routes.
    pub next_hop: NextHop,
    /// Routes of the attribute, not read yet.
    pub nlri: Nlri<'a>,
}

/// MP_UNREACH_NLRI (RFC 4760 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MpUnreach<'a> {
    /// The routes; none: End-of-RIB.
    pub nlri: Nlri<'a>,
}

/// Next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Of an IPv4 route.
    Ipv4(Ipv4Addr),
    /// Of an IPv6 route, or of an IPv4 one by RFC 8950.
    Ipv6(Ipv6Addr),
    /// The same with the link-local address of the shared link (RFC 2545 section 3).
    Ipv6WithLinkLocal(Ipv6Addr, Ipv6Addr),
}

impl NextHop {
    /// The next hop; of two the global one.
    pub const fn address(self) -> IpAddr {
        match self {
            Self::Ipv4(address) => IpAddr::V4(address),
            Self::Ipv6(address) | Self::Ipv6WithLinkLocal(address, _) => IpAddr::V6(address),
        }
    }

    /// Appends length and octets.
    pub(in crate::wire) fn put(self, out: &mut BytesMut) {
        match self {
            Self::Ipv4(address) => {
                out.put_u8(4);
                out.put_u32(address.to_bits());
            }
            Self::Ipv6(address) => {
                out.put_u8(16);
                out.put_u128(address.to_bits());
            }
            Self::Ipv6WithLinkLocal(address, link_local) => {
                out.put_u8(32);
                out.put_u128(address.to_bits());
                out.put_u128(link_local.to_bits());
            }
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(address),
            IpAddr::V6(address) => Self::Ipv6(address),
        }
    }
}

impl<'a> Update<'a> {
    /// The UPDATE without anything: IPv4's End-of-RIB.
    pub fn empty() -> Self {
        Self {
            unreach: Nlri::empty(Family::Ipv4),
            reach: Nlri::empty(Family::Ipv4),
            mp_reach: None,
            mp_unreach: None,
            attributes: Attributes::default(),
            treat_as_withdraw: false,
            problems: vec![],
            problems_left_out: 0,
        }
    }

    /// Routes that it announces, of all families; none if it is to be treated as withdraw.
    pub fn announced(&self) -> impl Iterator<Item = Route> + use<'a> {
        let (classic, mp) = self.carried();
        let used = !self.treat_as_withdraw;
        classic.iter().chain(mp.into_iter().flat_map(|nlri| nlri.iter())).filter(move |_| used)
    }

    /// Routes that it withdraws, of all families, with those that it announces if it is to be treated as withdraw.
    pub fn withdrawn(&self) -> impl Iterator<Item = Route> + use<'a> {
        let (classic, mp) = self.carried();
        let used = self.treat_as_withdraw;
        let mp_unreach = self.mp_unreach.map(|mp| mp.nlri);
        let treated = classic.iter().chain(mp.into_iter().flat_map(|nlri| nlri.iter())).filter(move |_| used);
        self.unreach.iter().chain(mp_unreach.into_iter().flat_map(|nlri| nlri.iter())).chain(treated)
    }

    /// Number of routes that [`Update::announced`] gives; costs nothing.
    pub fn announced_len(&self) -> usize {
        if self.treat_as_withdraw { 0 } else { self.carried_len() }
    }

    /// Number of routes that [`Update::withdrawn`] gives; costs nothing.
    pub fn withdrawn_len(&self) -> usize {
        let unreach = self.unreach.len().saturating_add(self.mp_unreach.map_or(0, |mp| mp.nlri.len()));
        if self.treat_as_withdraw { unreach.saturating_add(self.carried_len()) } else { unreach }
    }

    /// The family whose End-of-RIB this is (RFC 4724 section 2).
    pub fn end_of_rib(&self) -> Option<Family> {
        let bare = self.unreach.is_empty()
            && self.reach.is_empty()
            && self.mp_reach.is_none()
            && self.problems.is_empty()
            && self.attributes == Attributes::default();
        match &self.mp_unreach {
            _ if !bare => None,
            None => Some(Family::Ipv4),
            Some(mp) if mp.nlri.is_empty() => Some(mp.nlri.family()),
            Some(_) => None,
        }
    }

    /// Families to ignore from now on (RFC 7606 "AFI/SAFI disable"): take them out of [`DecodeContext::families`].
    pub fn disabled_families(&self) -> Families {
        self.problems
            .iter()
            .filter_map(|problem| match problem.action {
                Action::DisableFamily(family) => family.family(),
                Action::Discard | Action::Withdraw => None,
            })
            .collect()
    }

    fn carried(&self) -> (Nlri<'a>, Option<Nlri<'a>>) {
        (self.reach, self.mp_reach.map(|mp| mp.nlri))
    }

    fn carried_len(&self) -> usize {
        self.reach.len().saturating_add(self.mp_reach.map_or(0, |mp| mp.nlri.len()))
    }

    /// Reads the body, header excluded; an error resets the session.
    pub(super) fn decode(body: &'a [u8], context: &DecodeContext) -> Result<Self, UpdateError> {
        let malformed = || UpdateError { subcode: UpdateSubcode::MalformedAttributeList, data: vec![] };
        let mut reader = Reader::new(body);
        let unreach = reader.block16().ok_or_else(malformed)?;
        let attributes = reader.block16().ok_or_else(malformed)?;
        let reach = reader.rest();

        let Outcome { attributes, mp_reach, mp_unreach, saw_mp_reach, mut problems } =
            Decoder::decode(attributes, context)?;
        if !reach.is_empty() || saw_mp_reach {
            let missing = (ProblemKind::Missing, Action::Withdraw);
            for (absent, attribute) in [
                (attributes.origin.is_none(), code::ORIGIN),
                (attributes.as_path.is_none(), code::AS_PATH),
                (attributes.next_hop.is_none() && !reach.is_empty(), code::NEXT_HOP),
            ] {
                // One that is there but broken is reported already.
                if absent && !problems.list.iter().any(|problem| problem.attribute == attribute) {
                    problems.add(attribute, missing, &[]);
                }
            }
        } else if let Some(error) = problems.withdraw.take() {
            // There may have been routes that the error hides (RFC 7606 section 5.2).
            return Err(error);
        }

        let mut classic = |octets| match Nlri::parse(Family::Ipv4, context.add_path, octets) {
            _ if octets.is_empty() => Nlri::empty(Family::Ipv4),
            _ if !context.families.ipv4 => {
                problems.add(0, (ProblemKind::NotNegotiated, Action::Discard), &[]);
                Nlri::empty(Family::Ipv4)
            }
            Some(nlri) => nlri,
            None => {
                problems.add(0, (ProblemKind::Nlri, Action::DisableFamily(Family::Ipv4.afi_safi())), &[]);
                Nlri::empty(Family::Ipv4)
            }
        };
        let (unreach, reach) = (classic(unreach), classic(reach));
        Ok(Self {
            unreach,
            reach,
            mp_reach,
            mp_unreach,
            attributes,
            treat_as_withdraw: problems.withdraw.is_some(),
            problems: problems.list,
            problems_left_out: problems.left_out,
        })
    }

    /// Appends the message as it stands; MP attributes come first (RFC 7606 section 5.1). `problems` say nothing here.
    pub fn encode(&self, context: &EncodeContext, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_message(out, MessageType::Update, context.limit(), |out| {
            let at = begin16(out);
            out.put_slice(self.unreach.octets());
            end16(out, at)?;
            let at = begin16(out);
            if let Some(mp) = &self.mp_reach {
                let mut value = BytesMut::new();
                put_family(&mut value, mp.nlri.family().afi_safi());
                mp.next_hop.put(&mut value);
                value.put_u8(0);
                value.put_slice(mp.nlri.octets());
                put_known(out, code::MP_REACH_NLRI, &value)?;
            }
            if let Some(mp) = &self.mp_unreach {
                let mut value = BytesMut::new();
                put_family(&mut value, mp.nlri.family().afi_safi());
                value.put_slice(mp.nlri.octets());
                put_known(out, code::MP_UNREACH_NLRI, &value)?;
            }
            self.attributes.encode(context, out)?;
            end16(out, at)?;
            out.put_slice(self.reach.octets());
            Ok(())
        })
    }
}

pub(in crate::wire) fn put_family(out: &mut BytesMut, family: AfiSafi) {
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}
