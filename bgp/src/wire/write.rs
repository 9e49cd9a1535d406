//! Lengths that are written before they are known, and the message frame.

use bytes::{BufMut, BytesMut};

use super::error::EncodeError;
use super::iana::MessageType;

/// Writes a placeholder for a length of one octet; returns where it stands.
pub(super) fn begin8(out: &mut BytesMut) -> usize {
    let at = out.len();
    out.put_u8(0);
    at
}

/// Writes a placeholder for a length of two octets; returns where it stands.
pub(super) fn begin16(out: &mut BytesMut) -> usize {
    let at = out.len();
    out.put_u16(0);
    at
}

/// Fills in a 1-octet length: all octets since its placeholder.
pub(super) fn end8(out: &mut BytesMut, at: usize) -> Result<(), EncodeError> {
    let length = out.len().saturating_sub(at).saturating_sub(1);
    let value = u8::try_from(length).map_err(|_| EncodeError::TooLong)?;
    if let Some(place) = out.get_mut(at) {
        *place = value;
    }
    Ok(())
}

/// Fills in a 2-octet length: all octets since its placeholder.
pub(super) fn end16(out: &mut BytesMut, at: usize) -> Result<(), EncodeError> {
    let length = out.len().saturating_sub(at).saturating_sub(2);
    set16(out, at, u16::try_from(length).map_err(|_| EncodeError::TooLong)?);
    Ok(())
}

/// Overwrites the two octets at `at`.
pub(super) fn set16(out: &mut BytesMut, at: usize, value: u16) {
    if let Some(place) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *place = value.to_be_bytes();
    }
}

/// Writes the header of a message; its length is filled in by [`end_message`].
pub(super) fn begin_message(out: &mut BytesMut, kind: MessageType) -> usize {
    let start = out.len();
    out.put_bytes(0xFF, 16);
    out.put_u16(0);
    out.put_u8(kind.code());
    start
}

/// Fills in the length of the message that began at `start`; refuses one longer than `limit`.
pub(super) fn end_message(out: &mut BytesMut, start: usize, limit: usize) -> Result<(), EncodeError> {
    let length = out.len().saturating_sub(start);
    if length > limit {
        return Err(EncodeError::TooLong);
    }
    let value = u16::try_from(length).map_err(|_| EncodeError::TooLong)?;
    set16(out, start.saturating_add(16), value);
    Ok(())
}

/// Runs `write` and takes back what it wrote if it fails.
pub(super) fn all_or_nothing<T>(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<T, EncodeError>,
) -> Result<T, EncodeError> {
    let start = out.len();
    let result = write(out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}
