//! Reads the path attributes of an UPDATE. Each attribute's reader answers with its RFC 7606 treatment.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::expected_flags;
use super::{Aggregator, AsPath, Attributes, EXTENDED, LargeCommunity, OPTIONAL, Origin, TRANSITIVE, UnknownAttribute};
use crate::wire::error::{Action, Problem, ProblemKind, UpdateError, UpdateSubcode};
use crate::wire::iana::{AS_TRANS, AfiSafi, Family, attribute as code};
use crate::wire::message::{MAX_PROBLEMS, MpReach, MpUnreach, NextHop};
use crate::wire::nlri::Nlri;
use crate::wire::read::Reader;
use crate::wire::{DecodeContext, PeerType};

/// Why an attribute is malformed, and what is done.
type Fault = (ProblemKind, Action);

const BAD_LENGTH: Fault = (ProblemKind::Length, Action::Withdraw);

/// What the attributes gave.
pub(in crate::wire) struct Outcome<'a> {
    pub(in crate::wire) attributes: Attributes,
    pub(in crate::wire) mp_reach: Option<MpReach<'a>>,
    pub(in crate::wire) mp_unreach: Option<MpUnreach<'a>>,
    /// MP_REACH_NLRI was there, whether or not it could be used.
    pub(in crate::wire) saw_mp_reach: bool,
    pub(in crate::wire) problems: Problems,
}

/// Errors found so far, bounded.
#[derive(Default)]
pub(in crate::wire) struct Problems {
    pub(in crate::wire) list: Vec<Problem>,
    pub(in crate::wire) left_out: usize,
    /// The first error that asks for treat-as-withdraw, as the session reset that it may become.
    pub(in crate::wire) withdraw: Option<UpdateError>,
}

impl Problems {
    /// Notes an error; `octets` is the attribute as received, or empty.
    pub(in crate::wire) fn add(&mut self, attribute: u8, (kind, action): (ProblemKind, Action), octets: &[u8]) {
        if action == Action::Withdraw && self.withdraw.is_none() {
            let subcode = kind.subcode(attribute);
            let data = match subcode {
                UpdateSubcode::MalformedAttributeList
                | UpdateSubcode::MalformedAsPath
                | UpdateSubcode::InvalidNetworkField => vec![],
                UpdateSubcode::MissingWellKnown => vec![attribute],
                _ => octets.to_vec(),
            };
            self.withdraw = Some(UpdateError { subcode, data });
        }
        // There are at most four of the second kind, and they must not be lost.
        if self.list.len() < MAX_PROBLEMS || matches!(action, Action::DisableFamily(_)) {
            self.list.push(Problem { attribute, kind, action });
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }
}

/// Reads one attribute list.
pub(in crate::wire) struct Decoder<'a, 'c> {
    context: &'c DecodeContext,
    out: Outcome<'a>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

impl<'a, 'c> Decoder<'a, 'c> {
    /// Reads the whole list; an error resets the session.
    pub(in crate::wire) fn decode(octets: &'a [u8], context: &'c DecodeContext) -> Result<Outcome<'a>, UpdateError> {
        let out = Outcome {
            attributes: Attributes::default(),
            mp_reach: None,
            mp_unreach: None,
            saw_mp_reach: false,
            problems: Problems::default(),
        };
        let mut decoder = Decoder { context, out, as4_path: None, as4_aggregator: None };
        let mut seen = [false; 256];
        let mut reader = Reader::new(octets);
        while !reader.is_empty() {
            let start = reader.rest();
            let Some((flags, attribute, value)) = split(&mut reader) else {
                // Where the next attribute begins is unknown; the enclosing length still says where the NLRI do
                // (RFC 7606 section 4).
                let attribute = start.get(1).copied().unwrap_or(0);
                decoder.out.problems.add(attribute, (ProblemKind::Truncated, Action::Withdraw), start);
                break;
            };
            let whole = start.get(..start.len().saturating_sub(reader.len())).unwrap_or_default();
            let duplicate = seen.get_mut(usize::from(attribute)).is_some_and(|seen| std::mem::replace(seen, true));
            decoder.attribute(flags, attribute, value, whole, duplicate)?;
        }
        decoder.merge();
        Ok(decoder.out)
    }

    /// Reads one attribute (RFC 7606 section 3).
    fn attribute(
        &mut self,
        flags: u8,
        attribute: u8,
        value: &'a [u8],
        whole: &[u8],
        duplicate: bool,
    ) -> Result<(), UpdateError> {
        let multiprotocol = matches!(attribute, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI);
        if duplicate && multiprotocol {
            return Err(UpdateError { subcode: UpdateSubcode::MalformedAttributeList, data: vec![] });
        }
        let result = if duplicate {
            Err((ProblemKind::Duplicate, Action::Discard))
        } else if multiprotocol {
            return self.multiprotocol(flags, attribute, value, whole);
        } else if !self.is_allowed(attribute) {
            Err((ProblemKind::NotAllowed, Action::Discard))
        } else {
            match expected_flags(attribute) {
                None if flags & OPTIONAL == 0 => {
                    let subcode = UpdateSubcode::UnrecognizedWellKnown;
                    return Err(UpdateError { subcode, data: whole.to_vec() });
                }
                None => {
                    let value = value.to_vec();
                    self.out.attributes.unknown.push(UnknownAttribute {
                        flags: flags & !EXTENDED,
                        code: attribute,
                        value,
                    });
                    Ok(())
                }
                Some(expected) if (flags ^ expected) & (OPTIONAL | TRANSITIVE) != 0 => {
                    Err((ProblemKind::Flags, Action::Withdraw))
                }
                Some(_) => self.known(attribute, value),
            }
        };
        if let Err(fault) = result {
            self.out.problems.add(attribute, fault, whole);
        }
        Ok(())
    }

    /// Attributes that only some peers may send; from others they are discarded whatever they hold (RFC 7606 sections
    /// 7.5, 7.9 and 7.10; RFC 6793 section 4.1).
    fn is_allowed(&self, attribute: u8) -> bool {
        match attribute {
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST => self.context.peer_type == PeerType::Internal,
            code::AS4_PATH | code::AS4_AGGREGATOR => !self.context.four_octet_as,
            _ => true,
        }
    }

    /// Reads the value of a known attribute (RFC 7606 section 7).
    fn known(&mut self, attribute: u8, value: &[u8]) -> Result<(), Fault> {
        let four_octet = self.context.four_octet_as;
        let out = &mut self.out.attributes;
        match attribute {
            code::ORIGIN => {
                let [origin] = fixed(value)?;
                out.origin = Some(Origin::from_code(origin).ok_or((ProblemKind::Value, Action::Withdraw))?);
            }
            code::AS_PATH => {
                let malformed = (ProblemKind::Value, Action::Withdraw);
                let path = AsPath::decode(value, four_octet).ok_or(malformed)?;
                // Confederation segments have no business outside of one (RFC 5065 section 5).
                let confederation = path.segments.iter().any(|segment| segment.kind.is_confederation());
                if confederation && self.context.peer_type == PeerType::External {
                    return Err(malformed);
                }
                out.as_path = Some(path);
            }
            code::NEXT_HOP => out.next_hop = Some(Ipv4Addr::from(fixed::<4>(value)?)),
            code::MULTI_EXIT_DISC => out.med = Some(u32::from_be_bytes(fixed(value)?)),
            code::LOCAL_PREF => out.local_pref = Some(u32::from_be_bytes(fixed(value)?)),
            code::ATOMIC_AGGREGATE if value.is_empty() => out.atomic_aggregate = true,
            code::ATOMIC_AGGREGATE => return Err((ProblemKind::Length, Action::Discard)),
            code::AGGREGATOR => out.aggregator = Some(aggregator(value, four_octet)?),
            code::COMMUNITIES => out.communities = list(value)?.into_iter().map(u32::from_be_bytes).collect(),
            code::ORIGINATOR_ID => out.originator_id = Some(Ipv4Addr::from(fixed::<4>(value)?)),
            code::CLUSTER_LIST => out.cluster_list = list::<4>(value)?.into_iter().map(Ipv4Addr::from).collect(),
            code::EXTENDED_COMMUNITIES => out.extended_communities = list(value)?,
            code::LARGE_COMMUNITIES => {
                out.large_communities = list::<12>(value)?.iter().filter_map(|octets| large(octets)).collect();
            }
            code::OTC => out.otc = Some(u32::from_be_bytes(fixed(value)?)),
            code::AS4_PATH => {
                let path = AsPath::decode(value, true).ok_or((ProblemKind::Value, Action::Discard))?;
                self.as4_path = Some(path.without_confederation());
            }
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(value, true)?),
            _ => {}
        }
        Ok(())
    }

    /// Reads MP_REACH_NLRI or MP_UNREACH_NLRI (RFC 4760). An error costs the family, not the session (RFC 7606
    /// sections 5.3 and 7.11), unless not even the family can be read.
    fn multiprotocol(&mut self, flags: u8, attribute: u8, value: &'a [u8], whole: &[u8]) -> Result<(), UpdateError> {
        let reach = attribute == code::MP_REACH_NLRI;
        self.out.saw_mp_reach |= reach;
        let mut reader = Reader::new(value);
        let (Some(afi), Some(safi)) = (reader.u16(), reader.u8()) else {
            return Err(UpdateError { subcode: UpdateSubcode::OptionalAttribute, data: whole.to_vec() });
        };
        let numbers = AfiSafi { afi, safi };
        let Some(family) = numbers.family().filter(|family| self.context.families.contains(*family)) else {
            self.out.problems.add(attribute, (ProblemKind::NotNegotiated, Action::Discard), whole);
            return Ok(());
        };
        let result = if (flags ^ OPTIONAL) & (OPTIONAL | TRANSITIVE) != 0 {
            Err(ProblemKind::Flags)
        } else if reach {
            mp_reach(&mut reader, family, self.context).map(|reach| self.out.mp_reach = Some(reach))
        } else {
            Nlri::parse(family, self.context.add_path, reader.rest())
                .map(|nlri| self.out.mp_unreach = Some(MpUnreach { nlri }))
                .ok_or(ProblemKind::Nlri)
        };
        if let Err(kind) = result {
            self.out.problems.add(attribute, (kind, Action::DisableFamily(numbers)), whole);
        }
        Ok(())
    }

    /// Puts the numbers of a two-octet peer right (RFC 6793 section 4.2.3).
    fn merge(&mut self) {
        let attributes = &mut self.out.attributes;
        if let Some(aggregator) = attributes.aggregator
            && !self.context.four_octet_as
        {
            if aggregator.asn != AS_TRANS {
                // Somebody without four-octet numbers aggregated since: both attributes are out of date.
                return;
            }
            attributes.aggregator = self.as4_aggregator.or(Some(aggregator));
        }
        if let Some(as4_path) = self.as4_path.take() {
            attributes.as_path = attributes.as_path.take().map(|path| path.merge(as4_path));
        }
    }
}

/// Takes flags, type and value off the front; `None` if they run over the end.
fn split<'a>(reader: &mut Reader<'a>) -> Option<(u8, u8, &'a [u8])> {
    let (flags, attribute) = (reader.u8()?, reader.u8()?);
    let value = if flags & EXTENDED != 0 { reader.block16()? } else { reader.block8()? };
    Some((flags, attribute, value))
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Fault> {
    value.try_into().map_err(|_| BAD_LENGTH)
}

/// A list of fixed-size elements that must not be empty (RFC 7606 sections 7.8, 7.10, 7.14; RFC 8092 section 6).
fn list<const N: usize>(value: &[u8]) -> Result<Vec<[u8; N]>, Fault> {
    match value.as_chunks::<N>() {
        ([], _) => Err(BAD_LENGTH),
        (elements, []) => Ok(elements.to_vec()),
        _ => Err(BAD_LENGTH),
    }
}

fn large(octets: &[u8]) -> Option<LargeCommunity> {
    let mut reader = Reader::new(octets);
    Some(LargeCommunity { global: reader.u32()?, first: reader.u32()?, second: reader.u32()? })
}

/// Any error in it is "attribute discard" (RFC 7606 section 7.7, RFC 6793 section 6, RFC 7607).
fn aggregator(value: &[u8], four_octet: bool) -> Result<Aggregator, Fault> {
    let mut reader = Reader::new(value);
    let read = |reader: &mut Reader<'_>| {
        let asn = if four_octet { reader.u32()? } else { u32::from(reader.u16()?) };
        let address = Ipv4Addr::from_bits(reader.u32()?);
        reader.is_empty().then_some(Aggregator { asn, address })
    };
    match read(&mut reader) {
        None => Err((ProblemKind::Length, Action::Discard)),
        Some(aggregator) if aggregator.asn == 0 => Err((ProblemKind::Value, Action::Discard)),
        Some(aggregator) => Ok(aggregator),
    }
}

fn mp_reach<'a>(reader: &mut Reader<'a>, family: Family, context: &DecodeContext) -> Result<MpReach<'a>, ProblemKind> {
    let next_hop = reader.block8().ok_or(ProblemKind::Length)?;
    let next_hop = next_hop_of(next_hop, family, context).ok_or(ProblemKind::Length)?;
    let _reserved = reader.u8().ok_or(ProblemKind::Length)?;
    let nlri = Nlri::parse(family, context.add_path, reader.rest()).ok_or(ProblemKind::Nlri)?;
    Ok(MpReach { next_hop, nlri })
}

/// IPv6 next hops have 16 or 32 octets (RFC 2545 section 3); IPv4 routes may have them too by RFC 8950.
fn next_hop_of(octets: &[u8], family: Family, context: &DecodeContext) -> Option<NextHop> {
    let mut reader = Reader::new(octets);
    let next_hop = match (octets.len(), family) {
        (4, Family::Ipv4) => NextHop::Ipv4(Ipv4Addr::from(reader.array::<4>()?)),
        (16 | 32, Family::Ipv4) if !context.extended_next_hop => return None,
        (16, _) => NextHop::Ipv6(Ipv6Addr::from(reader.array::<16>()?)),
        (32, _) => {
            let global = Ipv6Addr::from(reader.array::<16>()?);
            NextHop::Ipv6WithLinkLocal(global, Ipv6Addr::from(reader.array::<16>()?))
        }
        _ => return None,
    };
    Some(next_hop)
}
