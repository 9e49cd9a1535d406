//! OPEN (RFC 4271 section 4.2) with optional parameters in both forms (RFC 5492, RFC 9072).

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

use super::encode_message;
use crate::wire::MAX_MESSAGE;
use crate::wire::capability::{Capability, decode_capabilities};
use crate::wire::error::{EncodeError, OpenError};
use crate::wire::iana::{AS_TRANS, AfiSafi, MessageType, VERSION, open_parameter};
use crate::wire::read::Reader;

/// An OPEN message (RFC 4271 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The speaker's AS: that of its four-octet AS capability where it has one. Not 0.
    pub asn: u32,
    /// Hold time, seconds: 0 or at least 3.
    pub hold_time: u16,
    /// BGP identifier; not 0.0.0.0 (RFC 6286).
    pub identifier: Ipv4Addr,
    /// Capabilities in the order sent; unknown ones are kept.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Families for which the OPEN has a multiprotocol capability, also ones that we don't speak.
    pub fn multiprotocol(&self) -> impl Iterator<Item = AfiSafi> {
        self.capabilities.iter().filter_map(|capability| match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        })
    }

    /// Appends the message. All capabilities go into one parameter; the extended form of RFC 9072 is used if it must.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let mut capabilities = BytesMut::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities)?;
        }
        encode_message(out, MessageType::Open, MAX_MESSAGE, |out| {
            out.put_u8(VERSION);
            out.put_u16(u16::try_from(self.two_octet_as()).unwrap_or(u16::MAX));
            out.put_u16(self.hold_time);
            out.put_u32(self.identifier.to_bits());
            // With its type and length the parameter must fit one octet, and 255 is taken by RFC 9072.
            let short = u8::try_from(capabilities.len()).ok().filter(|length| *length <= 252);
            match short {
                Some(0) => out.put_u8(0),
                Some(length) => {
                    out.put_u8(length.saturating_add(2));
                    out.put_u8(open_parameter::CAPABILITIES);
                    out.put_u8(length);
                }
                None => {
                    let length = u16::try_from(capabilities.len()).map_err(|_| EncodeError::TooLong)?;
                    out.put_u8(255);
                    out.put_u8(open_parameter::EXTENDED_LENGTH);
                    out.put_u16(length.checked_add(3).ok_or(EncodeError::TooLong)?);
                    out.put_u8(open_parameter::CAPABILITIES);
                    out.put_u16(length);
                }
            }
            out.put_slice(&capabilities);
            Ok(())
        })
    }

    /// Reads the body, header excluded, and checks what can be checked without configuration (RFC 4271 section 6.2).
    pub(super) fn decode(body: &[u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(body);
        let version = reader.u8().ok_or(OpenError::Unspecific)?;
        if version != VERSION {
            return Err(OpenError::UnsupportedVersion(version));
        }
        let asn = u32::from(reader.u16().ok_or(OpenError::Unspecific)?);
        let hold_time = reader.u16().ok_or(OpenError::Unspecific)?;
        let identifier = Ipv4Addr::from_bits(reader.u32().ok_or(OpenError::Unspecific)?);
        let capabilities = decode_parameters(&mut reader)?;
        let four_octet = capabilities.iter().rev().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        if asn == 0 || four_octet == Some(0) {
            return Err(OpenError::BadPeerAs(0));
        }
        if matches!(hold_time, 1 | 2) {
            return Err(OpenError::UnacceptableHoldTime(hold_time));
        }
        if identifier.is_unspecified() {
            return Err(OpenError::BadIdentifier);
        }
        Ok(Self { asn: four_octet.unwrap_or(asn), hold_time, identifier, capabilities })
    }

    /// What stands in the two-octet AS field.
    pub fn two_octet_as(&self) -> u32 {
        if self.asn > u32::from(u16::MAX) { AS_TRANS } else { self.asn }
    }
}

fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, OpenError> {
    let mut capabilities = vec![];
    let length = reader.u8().ok_or(OpenError::Unspecific)?;
    let extended = length != 0 && reader.rest().first() == Some(&open_parameter::EXTENDED_LENGTH);
    let parameters = if extended {
        // The one-octet length says nothing once the type is 255 (RFC 9072 section 2).
        reader.u8().and_then(|_| reader.block16())
    } else {
        reader.take(usize::from(length))
    };
    let mut parameters = Reader::new(parameters.ok_or(OpenError::Unspecific)?);
    if !reader.is_empty() {
        return Err(OpenError::Unspecific);
    }
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or(OpenError::Unspecific)?;
        let value = if extended { parameters.block16() } else { parameters.block8() };
        let value = value.ok_or(OpenError::Unspecific)?;
        match kind {
            open_parameter::CAPABILITIES => decode_capabilities(value, &mut capabilities)?,
            other => return Err(OpenError::UnsupportedParameter(other)),
        }
    }
    Ok(capabilities)
}
