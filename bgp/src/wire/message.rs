//! The five messages (RFC 4271 section 4, RFC 2918), their frame, and the way in and out.

mod notification;
mod open;
mod update;

pub use notification::{MAX_SHUTDOWN_TEXT, Notification};
pub use open::Open;
pub(super) use update::put_family;
pub use update::{MAX_PROBLEMS, MpReach, MpUnreach, NextHop, Update};

use bytes::{BufMut, BytesMut};

use super::error::{DecodeError, EncodeError, HeaderError};
use super::iana::{AfiSafi, MessageType};
use super::read::Reader;
use super::write::{all_or_nothing, begin_message, end_message};
use super::{DecodeContext, EncodeContext, HEADER, MAX_MESSAGE};

/// A message. Lives briefly and moves once, so UPDATE is not boxed; that borrows its
/// NLRI from the octets it was decoded from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)]
pub enum Message<'a> {
    /// Type 1: OPEN (RFC 4271 section 4.2).
    Open(Open),
    /// Type 2: UPDATE (RFC 4271 section 4.3).
    Update(Update<'a>),
    /// Type 3: NOTIFICATION (RFC 4271 section 4.5).
    Notification(Notification),
    /// Type 4: KEEPALIVE (RFC 4271 section 4.4).
    Keepalive,
    /// Type 5: ROUTE-REFRESH (RFC 2918).
    RouteRefresh(RouteRefresh),
}

/// ROUTE-REFRESH (RFC 2918 section 3, RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteRefresh {
    /// The family; may be one that was not negotiated.
    pub family: AfiSafi,
    /// What it says; without RFC 7313 always a request.
    pub subtype: RefreshSubtype,
}

/// Message subtype of ROUTE-REFRESH (RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefreshSubtype {
    /// 0: send everything again.
    Request,
    /// 1, BoRR: the replay begins.
    Begin,
    /// 2, EoRR: the replay is complete.
    End,
    /// Must be ignored, and should be logged (RFC 7313 section 5).
    Unknown(u8),
}

impl RefreshSubtype {
    const fn code(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Begin => 1,
            Self::End => 2,
            Self::Unknown(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Request,
            1 => Self::Begin,
            2 => Self::End,
            code => Self::Unknown(code),
        }
    }
}

/// Length of the message at the start of `buffer`, octets, once its header is there; `None` while it isn't.
///
/// Checks marker, type and length (RFC 4271 section 6.1) as soon as their octets are there, so that a stream of rubbish
/// is refused early. The length is at most [`DecodeContext::limit`]; the caller waits for that many octets.
pub fn frame(buffer: &[u8], context: &DecodeContext) -> Result<Option<usize>, HeaderError> {
    if buffer.iter().take(16).any(|octet| *octet != 0xFF) {
        return Err(HeaderError::NotSynchronized);
    }
    let mut reader = Reader::new(buffer);
    let (Some(_marker), Some(length), Some(kind)) = (reader.take(16), reader.u16(), reader.u8()) else {
        return Ok(None);
    };
    let bad_length = HeaderError::BadLength(length);
    let size = usize::from(length);
    if size < HEADER || size > context.limit() {
        return Err(bad_length);
    }
    let kind = MessageType::from_code(kind).ok_or(HeaderError::BadType(kind))?;
    let fits = match kind {
        MessageType::Keepalive => size == HEADER,
        MessageType::Open => size >= kind.min_len() && size <= MAX_MESSAGE,
        // Its length is judged with its subtype (RFC 7313 section 5).
        MessageType::RouteRefresh => true,
        MessageType::Update | MessageType::Notification => size >= kind.min_len(),
    };
    if fits { Ok(Some(size)) } else { Err(bad_length) }
}

impl<'a> Message<'a> {
    /// Reads one whole message: exactly the octets that [`frame`] measured.
    ///
    /// An error ends the session; [`Notification::from`] makes its last message of it. Errors that need not end it are
    /// in [`Update::problems`].
    pub fn decode(octets: &'a [u8], context: &DecodeContext) -> Result<Self, DecodeError> {
        let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
        if frame(octets, context)? != Some(octets.len()) {
            return Err(HeaderError::BadLength(length).into());
        }
        let body = octets.get(HEADER..).unwrap_or_default();
        match octets.get(18).copied().and_then(MessageType::from_code) {
            Some(MessageType::Open) => Ok(Self::Open(Open::decode(body)?)),
            Some(MessageType::Update) => Ok(Self::Update(Update::decode(body, context)?)),
            Some(MessageType::Notification) => {
                Notification::decode(body).map(Self::Notification).ok_or_else(|| HeaderError::BadLength(length).into())
            }
            Some(MessageType::Keepalive) => Ok(Self::Keepalive),
            Some(MessageType::RouteRefresh) => {
                RouteRefresh::decode(octets, length, body, context).map(Self::RouteRefresh)
            }
            None => Err(HeaderError::BadType(0).into()),
        }
    }

    /// Appends the whole message, header included, to `out`. On an error `out` stays as it was.
    pub fn encode(&self, context: &EncodeContext, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Open(open) => open.encode(out),
            Self::Update(update) => update.encode(context, out),
            Self::Notification(notification) => {
                notification.encode(context, out);
                Ok(())
            }
            Self::Keepalive => {
                encode_keepalive(out);
                Ok(())
            }
            Self::RouteRefresh(refresh) => {
                refresh.encode(out);
                Ok(())
            }
        }
    }

    /// The message's type.
    pub const fn kind(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::Open,
            Self::Update(_) => MessageType::Update,
            Self::Notification(_) => MessageType::Notification,
            Self::Keepalive => MessageType::Keepalive,
            Self::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }
}

/// Appends a KEEPALIVE, 19 octets.
pub fn encode_keepalive(out: &mut BytesMut) {
    out.put_bytes(0xFF, 16);
    out.put_u16(19);
    out.put_u8(MessageType::Keepalive.code());
}

impl RouteRefresh {
    /// Appends the message, 23 octets. Without RFC 7313 only a request may be sent.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_bytes(0xFF, 16);
        out.put_u16(23);
        out.put_u8(MessageType::RouteRefresh.code());
        out.put_u16(self.family.afi);
        out.put_u8(self.subtype.code());
        out.put_u8(self.family.safi);
    }

    fn decode(whole: &[u8], length: u16, body: &[u8], context: &DecodeContext) -> Result<Self, DecodeError> {
        let subtype = match body.get(2).copied() {
            Some(code) if context.enhanced_route_refresh => RefreshSubtype::from_code(code),
            _ => RefreshSubtype::Request,
        };
        match (body, subtype) {
            ([a, b, _, safi], subtype) => {
                Ok(Self { family: AfiSafi { afi: u16::from_be_bytes([*a, *b]), safi: *safi }, subtype })
            }
            (_, RefreshSubtype::Begin | RefreshSubtype::End) => Err(DecodeError::RouteRefresh(whole.to_vec())),
            _ => Err(HeaderError::BadLength(length).into()),
        }
    }
}

/// Appends a message of `kind` whose body `write` appends; takes all back on an error or if it exceeds `limit` octets.
fn encode_message(
    out: &mut BytesMut,
    kind: MessageType,
    limit: usize,
    write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    all_or_nothing(out, |out| {
        let start = begin_message(out, kind);
        write(out)?;
        end_message(out, start, limit)
    })
}
