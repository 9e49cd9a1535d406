//! NOTIFICATION (RFC 4271 section 4.5), the text of RFC 9003 and the Hard Reset of RFC 8538.

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::wire::iana::{Cease, FsmError, MessageType, error_code};
use crate::wire::read::Reader;
use crate::wire::write::{begin_message, set16};
use crate::wire::{EncodeContext, HEADER};

/// Longest text of a shutdown or reset, octets of UTF-8 (RFC 9003 section 2).
pub const MAX_SHUTDOWN_TEXT: usize = 255;

/// NOTIFICATION: the reason why a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code, see [`error_code`].
    pub code: u8,
    /// Error subcode; 0 is "unspecific".
    pub subcode: u8,
    /// Depends on code and subcode.
    pub data: Vec<u8>,
}

impl Notification {
    /// Hold Timer Expired (RFC 4271 section 6.5).
    pub const fn hold_timer_expired() -> Self {
        Self { code: error_code::HOLD_TIMER_EXPIRED, subcode: 0, data: vec![] }
    }

    /// Send Hold Timer Expired (RFC 9687 section 4).
    pub const fn send_hold_timer_expired() -> Self {
        Self { code: error_code::SEND_HOLD_TIMER_EXPIRED, subcode: 0, data: vec![] }
    }

    /// A message that the session's state does not allow (RFC 6608); data is the type of that message.
    pub fn unexpected(state: FsmError, message: MessageType) -> Self {
        Self { code: error_code::FSM, subcode: state.code(), data: vec![message.code()] }
    }

    /// Cease without data (RFC 4486).
    pub const fn cease(reason: Cease) -> Self {
        Self { code: error_code::CEASE, subcode: reason.code(), data: vec![] }
    }

    /// Administrative Shutdown with a text, cut to [`MAX_SHUTDOWN_TEXT`] octets at a character (RFC 9003).
    pub fn shutdown(text: &str) -> Self {
        Self { data: text_data(text), ..Self::cease(Cease::AdministrativeShutdown) }
    }

    /// Administrative Reset with a text, cut to [`MAX_SHUTDOWN_TEXT`] octets at a character (RFC 9003).
    pub fn reset(text: &str) -> Self {
        Self { data: text_data(text), ..Self::cease(Cease::AdministrativeReset) }
    }

    /// Hard Reset: the peer must drop our routes although graceful restart is on; carries the reason (RFC 8538).
    pub fn hard_reset(reason: &Self) -> Self {
        let mut data = vec![reason.code, reason.subcode];
        data.extend_from_slice(&reason.data);
        Self { data, ..Self::cease(Cease::HardReset) }
    }

    /// Whether this is a Hard Reset.
    pub fn is_hard_reset(&self) -> bool {
        self.code == error_code::CEASE && self.subcode == Cease::HardReset.code()
    }

    /// The reason within a Hard Reset; `None` for any other, or if it carries none.
    pub fn hard_reset_reason(&self) -> Option<Self> {
        match self.data.as_slice() {
            [code, subcode, data @ ..] if self.is_hard_reset() => {
                Some(Self { code: *code, subcode: *subcode, data: data.to_vec() })
            }
            _ => None,
        }
    }

    /// The text of a shutdown or reset (RFC 9003), also within a Hard Reset.
    ///
    /// Invalid UTF-8 is replaced, control characters too, so that it can go into a log. `None` if there is none or its
    /// length is wrong.
    pub fn text(&self) -> Option<String> {
        if let Some(reason) = self.hard_reset_reason() {
            return if reason.is_hard_reset() { None } else { reason.text() };
        }
        let carries_text =
            matches!(Cease::from_code(self.subcode), Some(Cease::AdministrativeShutdown | Cease::AdministrativeReset));
        if self.code != error_code::CEASE || !carries_text {
            return None;
        }
        let text = Reader::new(&self.data).block8().filter(|text| !text.is_empty())?;
        Some(String::from_utf8_lossy(text).replace(char::is_control, "\u{FFFD}"))
    }

    /// Appends the message; data beyond the limit is cut, as a reason must never fail to be sent.
    pub fn encode(&self, context: &EncodeContext, out: &mut BytesMut) {
        let room = context.limit().saturating_sub(HEADER).saturating_sub(2);
        let data = self.data.get(..room).unwrap_or(&self.data);
        let start = begin_message(out, MessageType::Notification);
        out.put_u8(self.code);
        out.put_u8(self.subcode);
        out.put_slice(data);
        let length = out.len().saturating_sub(start);
        set16(out, start.saturating_add(16), u16::try_from(length).unwrap_or(u16::MAX));
    }

    /// Reads the body, header excluded; `None` if it is too short.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        match body {
            [code, subcode, data @ ..] => Some(Self { code: *code, subcode: *subcode, data: data.to_vec() }),
            _ => None,
        }
    }
}

fn text_data(text: &str) -> Vec<u8> {
    let mut end = text.len().min(MAX_SHUTDOWN_TEXT);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let text = text.get(..end).unwrap_or_default().as_bytes();
    let mut data = vec![u8::try_from(text.len()).unwrap_or(0)];
    data.extend_from_slice(text);
    data
}

/// Names of code and subcode as IANA has them, and the text where there is one.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = (self.code, self.subcode);
        match (code_name(code), subcode_name(code, subcode)) {
            (Some(code), Some(subcode)) => write!(f, "{code}: {subcode}")?,
            (Some(name), None) if subcode == 0 => f.write_str(name)?,
            (Some(name), None) => write!(f, "{name}: subcode {subcode}")?,
            (None, _) => write!(f, "code {code} subcode {subcode}")?,
        }
        if let Some(reason) = self.hard_reset_reason()
            && !reason.is_hard_reset()
        {
            return write!(f, " ({reason})");
        }
        match self.text() {
            Some(text) => write!(f, " \"{text}\""),
            None => Ok(()),
        }
    }
}

const fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        error_code::MESSAGE_HEADER => "Message Header Error",
        error_code::OPEN => "OPEN Message Error",
        error_code::UPDATE => "UPDATE Message Error",
        error_code::HOLD_TIMER_EXPIRED => "Hold Timer Expired",
        error_code::FSM => "Finite State Machine Error",
        error_code::CEASE => "Cease",
        error_code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
        error_code::SEND_HOLD_TIMER_EXPIRED => "Send Hold Timer Expired",
        _ => return None,
    })
}

const fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (1, 1) => "Connection Not Synchronized",
        (1, 2) => "Bad Message Length",
        (1, 3) => "Bad Message Type",
        (2, 1) => "Unsupported Version Number",
        (2, 2) => "Bad Peer AS",
        (2, 3) => "Bad BGP Identifier",
        (2, 4) => "Unsupported Optional Parameter",
        (2, 6) => "Unacceptable Hold Time",
        (2, 7) => "Unsupported Capability",
        (2, 11) => "Role Mismatch",
        (3, 1) => "Malformed Attribute List",
        (3, 2) => "Unrecognized Well-known Attribute",
        (3, 3) => "Missing Well-known Attribute",
        (3, 4) => "Attribute Flags Error",
        (3, 5) => "Attribute Length Error",
        (3, 6) => "Invalid ORIGIN Attribute",
        (3, 8) => "Invalid NEXT_HOP Attribute",
        (3, 9) => "Optional Attribute Error",
        (3, 10) => "Invalid Network Field",
        (3, 11) => "Malformed AS_PATH",
        (5, 1) => "Receive Unexpected Message in OpenSent State",
        (5, 2) => "Receive Unexpected Message in OpenConfirm State",
        (5, 3) => "Receive Unexpected Message in Established State",
        (6, 1) => "Maximum Number of Prefixes Reached",
        (6, 2) => "Administrative Shutdown",
        (6, 3) => "Peer De-configured",
        (6, 4) => "Administrative Reset",
        (6, 5) => "Connection Rejected",
        (6, 6) => "Other Configuration Change",
        (6, 7) => "Connection Collision Resolution",
        (6, 8) => "Out of Resources",
        (6, 9) => "Hard Reset",
        (6, 10) => "BFD Down",
        (7, 1) => "Invalid Message Length",
        _ => return None,
    })
}
