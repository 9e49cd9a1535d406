//! AS_PATH in two and four octets, and its merge with AS4_PATH (RFC 4271 section 4.3, RFC 5065, RFC 6793).

use std::fmt;

use super::encode_as;
use crate::wire::PeerType;
use crate::wire::error::EncodeError;
use crate::wire::read::Reader;

/// AS_PATH (RFC 4271 section 5.1.2): the ASes that the route came through, nearest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath {
    /// Segments in order; none is empty when read.
    pub segments: Vec<Segment>,
}

/// One segment of an AS_PATH.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Ordered or not, within a confederation or not.
    pub kind: SegmentKind,
    /// AS numbers of the segment, four octets each.
    pub asns: Vec<u32>,
}

/// Path segment type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Type 1: an unordered set.
    Set,
    /// Type 2: in order, nearest first.
    Sequence,
    /// 3, RFC 5065.
    ConfederationSequence,
    /// 4, RFC 5065.
    ConfederationSet,
}

impl SegmentKind {
    const fn code(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfederationSequence => 3,
            Self::ConfederationSet => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Set,
            2 => Self::Sequence,
            3 => Self::ConfederationSequence,
            4 => Self::ConfederationSet,
            _ => return None,
        })
    }

    /// Whether the segment is of a confederation.
    pub const fn is_confederation(self) -> bool {
        matches!(self, Self::ConfederationSequence | Self::ConfederationSet)
    }

    const fn is_set(self) -> bool {
        matches!(self, Self::Set | Self::ConfederationSet)
    }
}

impl AsPath {
    /// A path of one sequence; of none if `asns` is empty.
    pub fn sequence(asns: impl Into<Vec<u32>>) -> Self {
        let asns = asns.into();
        let segment = (!asns.is_empty()).then_some(Segment { kind: SegmentKind::Sequence, asns });
        Self { segments: segment.into_iter().collect() }
    }

    /// What the originator of a route sends: empty to an internal peer, its own AS to an external one (RFC 4271
    /// section 5.1.2).
    pub fn originated(peer: PeerType, own_as: u32) -> Self {
        match peer {
            PeerType::Internal => Self::default(),
            PeerType::External => Self::sequence([own_as]),
        }
    }

    /// All AS numbers in order, sets included.
    pub fn asns(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().flat_map(|segment| segment.asns.iter().copied())
    }

    /// Number of hops: a set counts as one, confederation segments as none (RFC 4271 section 9.1.2.2, RFC 5065).
    pub fn hops(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| match segment.kind {
                SegmentKind::Sequence => segment.asns.len(),
                SegmentKind::Set => 1,
                SegmentKind::ConfederationSequence | SegmentKind::ConfederationSet => 0,
            })
            .fold(0, usize::saturating_add)
    }

    pub(super) fn needs_four_octets(&self) -> bool {
        self.asns().any(|asn| u16::try_from(asn).is_err())
    }

    pub(super) fn without_confederation(&self) -> Self {
        Self { segments: self.segments.iter().filter(|segment| !segment.kind.is_confederation()).cloned().collect() }
    }

    /// The attribute's value. Sequences of more than 255 are split; a set of more is [`EncodeError::TooLong`].
    pub(super) fn encode(&self, four_octet: bool) -> Result<Vec<u8>, EncodeError> {
        let mut value = vec![];
        for segment in &self.segments {
            if segment.kind.is_set() && segment.asns.len() > usize::from(u8::MAX) {
                return Err(EncodeError::TooLong);
            }
            for part in segment.asns.chunks(usize::from(u8::MAX)) {
                value.push(segment.kind.code());
                value.push(u8::try_from(part.len()).map_err(|_| EncodeError::TooLong)?);
                value.extend(part.iter().flat_map(|asn| encode_as(*asn, four_octet)));
            }
        }
        Ok(value)
    }

    /// Reads the attribute's value; `None` where RFC 7606 section 7.2 or RFC 7607 calls it malformed.
    pub(super) fn decode(value: &[u8], four_octet: bool) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut segments = vec![];
        while !reader.is_empty() {
            let kind = SegmentKind::from_code(reader.u8()?)?;
            let count = reader.u8().filter(|count| *count > 0)?;
            let mut asns = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let asn = if four_octet { reader.u32()? } else { u32::from(reader.u16()?) };
                if asn == 0 {
                    return None;
                }
                asns.push(asn);
            }
            segments.push(Segment { kind, asns });
        }
        Some(Self { segments })
    }

    /// The real path, from the AS_PATH of a two-octet peer and its AS4_PATH (RFC 6793 section 4.2.3).
    ///
    /// The hops that AS4_PATH lacks, added by speakers that did not know it, are taken from the front of `self`. An
    /// AS4_PATH that is longer than the path is ignored.
    pub(super) fn merge(self, as4_path: Self) -> Self {
        let Some(mut missing) = self.hops().checked_sub(as4_path.hops()) else { return self };
        let mut segments: Vec<Segment> = vec![];
        for mut segment in self.segments {
            match segment.kind {
                SegmentKind::ConfederationSequence | SegmentKind::ConfederationSet => {}
                _ if missing == 0 => break,
                SegmentKind::Set => missing = missing.saturating_sub(1),
                SegmentKind::Sequence => {
                    segment.asns.truncate(missing);
                    missing = missing.saturating_sub(segment.asns.len());
                }
            }
            segments.push(segment);
        }
        for segment in as4_path.segments {
            match segments.last_mut() {
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && segment.kind == SegmentKind::Sequence
                        && last.asns.len().saturating_add(segment.asns.len()) <= usize::from(u8::MAX) =>
                {
                    last.asns.extend(segment.asns);
                }
                _ => segments.push(segment),
            }
        }
        Self { segments }
    }
}

/// As routers show it: `64512 64513 {64514 64515}`, confederation segments in parentheses or square brackets.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            let asns = segment.asns.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            match segment.kind {
                SegmentKind::Sequence => f.write_str(&asns)?,
                SegmentKind::Set => write!(f, "{{{asns}}}")?,
                SegmentKind::ConfederationSequence => write!(f, "({asns})")?,
                SegmentKind::ConfederationSet => write!(f, "[{asns}]")?,
            }
        }
        Ok(())
    }
}
