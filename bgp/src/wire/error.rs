//! What can be wrong with a message, 1:1 with the NOTIFICATION that answers it, and what RFC 7606 does instead.

use thiserror::Error;

use super::iana::{AfiSafi, error_code};
use super::message::Notification;

/// A message that ends the session; [`Notification::from`] gives the answer to send.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Error code 1: the header of a message is wrong.
    #[error("message header: {0}")]
    Header(#[from] HeaderError),
    /// Error code 2: an OPEN is wrong.
    #[error("OPEN: {0}")]
    Open(#[from] OpenError),
    /// Error code 3: an UPDATE is wrong.
    #[error("UPDATE: {0}")]
    Update(#[from] UpdateError),
    /// Code 7, RFC 7313 section 5: a BoRR or EoRR of the wrong length; holds the whole message, header included.
    #[error("ROUTE-REFRESH: wrong length")]
    RouteRefresh(Vec<u8>),
}

/// Message Header Error subcodes (RFC 4271 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// 1: the marker is not all ones.
    #[error("connection not synchronized")]
    NotSynchronized,
    /// 2: holds the length field.
    #[error("bad length {0}")]
    BadLength(u16),
    /// 3: holds the type field.
    #[error("bad type {0}")]
    BadType(u8),
}

/// OPEN Message Error subcodes (RFC 4271 section 6.2, RFC 5492, RFC 9234).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// 0: an optional parameter or the capability list is malformed.
    #[error("malformed optional parameter")]
    Unspecific,
    /// 1: holds the version that was offered.
    #[error("unsupported version {0}")]
    UnsupportedVersion(u8),
    /// 2: holds the AS that was offered (0 always is refused, RFC 7607).
    #[error("bad peer AS {0}")]
    BadPeerAs(u32),
    /// 3: zero, or ours at an internal peer (RFC 6286).
    #[error("bad BGP identifier")]
    BadIdentifier,
    /// 4: holds the parameter's type.
    #[error("unsupported optional parameter {0}")]
    UnsupportedParameter(u8),
    /// 6: 1 or 2 seconds.
    #[error("unacceptable hold time {0}")]
    UnacceptableHoldTime(u16),
    /// 7: the peer lacks what we require; holds those capabilities, encoded (RFC 5492 section 3).
    #[error("unsupported capability")]
    UnsupportedCapability(Vec<u8>),
    /// 11: the roles don't fit together, or the peer has several (RFC 9234 section 4.2).
    #[error("role mismatch")]
    RoleMismatch,
}

/// An UPDATE that no milder treatment of RFC 7606 can save.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{subcode}")]
pub struct UpdateError {
    /// What was wrong.
    pub subcode: UpdateSubcode,
    /// The erroneous attribute (type, length and value) where the subcode asks for it; else empty.
    pub data: Vec<u8>,
}

/// UPDATE Message Error subcodes (RFC 4271 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum UpdateSubcode {
    /// Subcode 1: malformed attribute list.
    #[error("malformed attribute list")]
    MalformedAttributeList,
    /// Subcode 2: unrecognized well-known attribute.
    #[error("unrecognized well-known attribute")]
    UnrecognizedWellKnown,
    /// Subcode 3: missing well-known attribute.
    #[error("missing well-known attribute")]
    MissingWellKnown,
    /// Subcode 4: attribute flags error.
    #[error("attribute flags error")]
    AttributeFlags,
    /// Subcode 5: attribute length error.
    #[error("attribute length error")]
    AttributeLength,
    /// Subcode 6: invalid ORIGIN.
    #[error("invalid ORIGIN")]
    InvalidOrigin,
    /// Subcode 8: invalid NEXT_HOP.
    #[error("invalid NEXT_HOP")]
    InvalidNextHop,
    /// Subcode 9: optional attribute error.
    #[error("optional attribute error")]
    OptionalAttribute,
    /// Subcode 10: invalid network field.
    #[error("invalid network field")]
    InvalidNetworkField,
    /// Subcode 11: malformed AS_PATH.
    #[error("malformed AS_PATH")]
    MalformedAsPath,
}

impl UpdateSubcode {
    /// The subcode on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::MalformedAttributeList => 1,
            Self::UnrecognizedWellKnown => 2,
            Self::MissingWellKnown => 3,
            Self::AttributeFlags => 4,
            Self::AttributeLength => 5,
            Self::InvalidOrigin => 6,
            Self::InvalidNextHop => 8,
            Self::OptionalAttribute => 9,
            Self::InvalidNetworkField => 10,
            Self::MalformedAsPath => 11,
        }
    }
}

/// How RFC 7606 section 2 treats an error; from mildest to hardest. Session reset is [`UpdateError`] instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The attribute is ignored, the routes stay.
    Discard,
    /// The routes of the UPDATE count as withdrawn.
    Withdraw,
    /// The family is ignored from now on, for as long as the session lasts (RFC 4760 section 7).
    DisableFamily(AfiSafi),
}

/// One error in an UPDATE that did not end the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("attribute {attribute}: {kind}")]
pub struct Problem {
    /// Type code of the attribute; 0 for the classic withdrawn routes and NLRI fields.
    pub attribute: u8,
    /// What was wrong.
    pub kind: ProblemKind,
    /// What was done.
    pub action: Action,
}

/// What was wrong with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ProblemKind {
    /// The Optional or Transitive bit is not the attribute's (RFC 7606 section 3.c).
    #[error("wrong flags")]
    Flags,
    /// The length cannot be that of this attribute.
    #[error("wrong length")]
    Length,
    /// A value that the attribute cannot have.
    #[error("wrong value")]
    Value,
    /// A second one of the same type; the first counts (RFC 7606 section 3.g).
    #[error("duplicate")]
    Duplicate,
    /// A mandatory attribute is absent (RFC 7606 section 3.d).
    #[error("missing")]
    Missing,
    /// The attribute list ends within this attribute (RFC 7606 section 4).
    #[error("truncated")]
    Truncated,
    /// Not allowed from this kind of peer, such as LOCAL_PREF from an external one.
    #[error("not allowed from this peer")]
    NotAllowed,
    /// A multiprotocol attribute of a family that was not negotiated.
    #[error("family not negotiated")]
    NotNegotiated,
    /// NLRI that cannot be read (RFC 7606 section 5.3).
    #[error("malformed NLRI")]
    Nlri,
}

impl ProblemKind {
    /// The subcode to use when RFC 7606 section 5.2 turns this into a session reset.
    pub(super) const fn subcode(self, attribute: u8) -> UpdateSubcode {
        use super::iana::attribute as code;
        match self {
            Self::Flags => UpdateSubcode::AttributeFlags,
            Self::Length => UpdateSubcode::AttributeLength,
            Self::Missing => UpdateSubcode::MissingWellKnown,
            Self::Duplicate | Self::Truncated => UpdateSubcode::MalformedAttributeList,
            Self::Nlri => UpdateSubcode::InvalidNetworkField,
            Self::Value | Self::NotAllowed | Self::NotNegotiated => match attribute {
                code::ORIGIN => UpdateSubcode::InvalidOrigin,
                code::AS_PATH => UpdateSubcode::MalformedAsPath,
                code::NEXT_HOP => UpdateSubcode::InvalidNextHop,
                _ => UpdateSubcode::OptionalAttribute,
            },
        }
    }
}

/// Why something could not be encoded. The buffer then is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The message, or a part of it, would exceed its limit.
    #[error("too long")]
    TooLong,
    /// The peer did not negotiate what this needs.
    #[error("not negotiated")]
    NotNegotiated,
    /// A prefix or next hop of another family than the UPDATE's.
    #[error("wrong family")]
    WrongFamily,
}

impl From<HeaderError> for Notification {
    fn from(error: HeaderError) -> Self {
        let (subcode, data) = match error {
            HeaderError::NotSynchronized => (1, vec![]),
            HeaderError::BadLength(length) => (2, length.to_be_bytes().to_vec()),
            HeaderError::BadType(kind) => (3, vec![kind]),
        };
        Self { code: error_code::MESSAGE_HEADER, subcode, data }
    }
}

impl From<OpenError> for Notification {
    fn from(error: OpenError) -> Self {
        let (subcode, data) = match error {
            OpenError::Unspecific => (0, vec![]),
            OpenError::UnsupportedVersion(_) => (1, u16::from(super::iana::VERSION).to_be_bytes().to_vec()),
            OpenError::BadPeerAs(_) => (2, vec![]),
            OpenError::BadIdentifier => (3, vec![]),
            OpenError::UnsupportedParameter(_) => (4, vec![]),
            OpenError::UnacceptableHoldTime(_) => (6, vec![]),
            OpenError::UnsupportedCapability(capabilities) => (7, capabilities),
            OpenError::RoleMismatch => (11, vec![]),
        };
        Self { code: error_code::OPEN, subcode, data }
    }
}

impl From<UpdateError> for Notification {
    fn from(error: UpdateError) -> Self {
        Self { code: error_code::UPDATE, subcode: error.subcode.code(), data: error.data }
    }
}

impl From<DecodeError> for Notification {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Header(error) => error.into(),
            DecodeError::Open(error) => error.into(),
            DecodeError::Update(error) => error.into(),
            DecodeError::RouteRefresh(message) => Self { code: error_code::ROUTE_REFRESH, subcode: 1, data: message },
        }
    }
}
