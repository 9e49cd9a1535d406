//! Capabilities of OPEN (RFC 5492), and what two OPENs agree on.

mod negotiate;

pub use negotiate::{Negotiated, check_open, negotiate};

use bytes::{BufMut, BytesMut};

use super::error::{EncodeError, OpenError};
use super::iana::{AfiSafi, Role, capability as code};
use super::read::Reader;
use super::write::{begin8, end8};

/// Octets of host and domain name together that fit beside their lengths.
const MAX_NAMES: usize = 253;

/// Longest Restart Time, seconds (12 bits, RFC 4724 section 3).
pub const MAX_RESTART_TIME: u16 = 0x0FFF;
/// Longest Long-lived Stale Time, seconds (24 bits, RFC 9494 section 4.1).
pub const MAX_STALE_TIME: u32 = 0x00FF_FFFF;

/// One capability, as the speaker of the OPEN has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// 1, RFC 4760: can exchange routes of this family.
    Multiprotocol(AfiSafi),
    /// 2, RFC 2918.
    RouteRefresh,
    /// 5, RFC 8950: families, each with the AFI that its next hop may have.
    ExtendedNextHop(Vec<(AfiSafi, u16)>),
    /// 6, RFC 8654.
    ExtendedMessage,
    /// 9, RFC 9234.
    Role(Role),
    /// 64, RFC 4724 and RFC 8538.
    GracefulRestart(GracefulRestart),
    /// 65, RFC 6793: the speaker's AS.
    FourOctetAs(u32),
    /// 69, RFC 7911.
    AddPath(Vec<(AfiSafi, AddPathMode)>),
    /// 70, RFC 7313.
    EnhancedRouteRefresh,
    /// 71, RFC 9494.
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// 73: names to show to an operator; whatever octets the peer sent, made valid UTF-8.
    Fqdn {
        /// Host name; together with the domain name at most 253 octets.
        host: String,
        /// Domain name of the speaker.
        domain: String,
    },
    /// 128: route refresh before it had a number; we neither offer nor use it.
    OldRouteRefresh,
    /// One that we don't know, or whose value cannot be that of its code: has no effect.
    Raw {
        /// Code of the capability.
        code: u8,
        /// Octets of the value, as received.
        value: Vec<u8>,
    },
}

/// Graceful Restart (RFC 4724 section 3, RFC 8538 section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the speaker has restarted; the peer must not wait for its End-of-RIB.
    pub restarting: bool,
    /// N: NOTIFICATION and hold timer expiry keep routes too (RFC 8538).
    pub notification: bool,
    /// Restart Time, seconds, at most [`MAX_RESTART_TIME`].
    pub time: u16,
    /// Families whose routes the speaker can keep.
    pub families: Vec<RestartFamily>,
}

/// One family of Graceful Restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartFamily {
    /// Family that the entry is about.
    pub family: AfiSafi,
    /// F: forwarding state was kept over the restart.
    pub forwarding: bool,
}

/// One family of Long-Lived Graceful Restart (RFC 9494 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLivedFamily {
    /// Family that the entry is about.
    pub family: AfiSafi,
    /// F: forwarding state was kept over the restart.
    pub forwarding: bool,
    /// How long stale routes are kept, seconds, at most [`MAX_STALE_TIME`].
    pub stale_time: u32,
}

/// Send/Receive of ADD-PATH (RFC 7911 section 4); an entry with another value is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPathMode {
    /// 1: the speaker can receive several paths.
    Receive,
    /// 2: the speaker can send several paths.
    Send,
    /// Value 3: it sends and receives several paths.
    Both,
}

impl AddPathMode {
    const fn code(self) -> u8 {
        match self {
            Self::Receive => 1,
            Self::Send => 2,
            Self::Both => 3,
        }
    }

    /// Whether the speaker can send several paths.
    pub const fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    /// Whether the speaker can receive several paths.
    pub const fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

impl Capability {
    /// Capability code on the wire.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => code::MULTIPROTOCOL,
            Self::RouteRefresh => code::ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => code::EXTENDED_NEXT_HOP,
            Self::ExtendedMessage => code::EXTENDED_MESSAGE,
            Self::Role(_) => code::ROLE,
            Self::GracefulRestart(_) => code::GRACEFUL_RESTART,
            Self::FourOctetAs(_) => code::FOUR_OCTET_AS,
            Self::AddPath(_) => code::ADD_PATH,
            Self::EnhancedRouteRefresh => code::ENHANCED_ROUTE_REFRESH,
            Self::LongLivedGracefulRestart(_) => code::LONG_LIVED_GRACEFUL_RESTART,
            Self::Fqdn { .. } => code::FQDN,
            Self::OldRouteRefresh => code::OLD_ROUTE_REFRESH,
            Self::Raw { code, .. } => *code,
        }
    }

    /// Writes code, length and value.
    ///
    /// Fails with [`EncodeError::TooLong`] if the value exceeds 255 octets; the caller takes back what was written.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u8(self.code());
        let at = begin8(out);
        match self {
            Self::Multiprotocol(family) => {
                out.put_u16(family.afi);
                out.put_u8(0);
                out.put_u8(family.safi);
            }
            Self::RouteRefresh | Self::ExtendedMessage | Self::EnhancedRouteRefresh | Self::OldRouteRefresh => {}
            Self::ExtendedNextHop(families) => {
                for (family, next_hop) in families {
                    out.put_u16(family.afi);
                    out.put_u16(u16::from(family.safi));
                    out.put_u16(*next_hop);
                }
            }
            Self::Role(role) => out.put_u8(role.code()),
            Self::GracefulRestart(restart) => restart.encode(out),
            Self::FourOctetAs(asn) => out.put_u32(*asn),
            Self::AddPath(families) => {
                for (family, mode) in families {
                    put_family(out, *family);
                    out.put_u8(mode.code());
                }
            }
            Self::LongLivedGracefulRestart(families) => {
                for entry in families {
                    put_family(out, entry.family);
                    let flags = if entry.forwarding { 0x80 } else { 0u32 };
                    out.put_u32((flags << 24) | entry.stale_time.min(MAX_STALE_TIME));
                }
            }
            Self::Fqdn { host, domain } => {
                for name in [host, domain] {
                    let at = begin8(out);
                    out.put_slice(name.as_bytes());
                    end8(out, at)?;
                }
            }
            Self::Raw { value, .. } => out.put_slice(value),
        }
        end8(out, at)
    }

    /// Reads one capability; a value that its code cannot have gives [`Capability::Raw`].
    pub fn decode(code: u8, value: &[u8]) -> Self {
        Self::known(code, value).unwrap_or_else(|| Self::Raw { code, value: value.to_vec() })
    }

    fn known(code: u8, value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let capability = match code {
            code::MULTIPROTOCOL => {
                let (afi, _reserved, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
                Self::Multiprotocol(AfiSafi { afi, safi })
            }
            code::ROUTE_REFRESH => Self::RouteRefresh,
            code::EXTENDED_NEXT_HOP => {
                let mut families = vec![];
                while !reader.is_empty() {
                    let (afi, safi, next_hop) = (reader.u16()?, reader.u16()?, reader.u16()?);
                    families.push((AfiSafi { afi, safi: u8::try_from(safi).ok()? }, next_hop));
                }
                Self::ExtendedNextHop(families)
            }
            code::EXTENDED_MESSAGE => Self::ExtendedMessage,
            code::ROLE => Self::Role(Role::from_code(reader.u8()?)?),
            code::GRACEFUL_RESTART => Self::GracefulRestart(GracefulRestart::decode(&mut reader)?),
            code::FOUR_OCTET_AS => Self::FourOctetAs(reader.u32()?),
            code::ADD_PATH => {
                let mut families = vec![];
                while !reader.is_empty() {
                    let family = family(&mut reader)?;
                    let mode = match reader.u8()? {
                        1 => AddPathMode::Receive,
                        2 => AddPathMode::Send,
                        3 => AddPathMode::Both,
                        _ => continue,
                    };
                    families.push((family, mode));
                }
                Self::AddPath(families)
            }
            code::ENHANCED_ROUTE_REFRESH => Self::EnhancedRouteRefresh,
            code::LONG_LIVED_GRACEFUL_RESTART => {
                let mut families = vec![];
                while !reader.is_empty() {
                    let (family, word) = (family(&mut reader)?, reader.u32()?);
                    families.push(LongLivedFamily {
                        family,
                        forwarding: word & 0x8000_0000 != 0,
                        stale_time: word & MAX_STALE_TIME,
                    });
                }
                Self::LongLivedGracefulRestart(families)
            }
            code::FQDN => {
                let host = text(reader.block8()?);
                // Some speakers leave out an empty domain's length.
                let domain = if reader.is_empty() { String::new() } else { text(reader.block8()?) };
                // Made valid, or with the length that was left out, the names can outgrow the capability.
                if host.len().saturating_add(domain.len()) > MAX_NAMES {
                    return None;
                }
                Self::Fqdn { host, domain }
            }
            code::OLD_ROUTE_REFRESH => Self::OldRouteRefresh,
            _ => return None,
        };
        reader.is_empty().then_some(capability)
    }
}

impl GracefulRestart {
    fn encode(&self, out: &mut BytesMut) {
        let flags = if self.restarting { 0x8000 } else { 0 } | if self.notification { 0x4000 } else { 0 };
        out.put_u16(flags | self.time.min(MAX_RESTART_TIME));
        for entry in &self.families {
            put_family(out, entry.family);
            out.put_u8(if entry.forwarding { 0x80 } else { 0 });
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let word = reader.u16()?;
        let mut families = vec![];
        while !reader.is_empty() {
            let (family, flags) = (family(reader)?, reader.u8()?);
            families.push(RestartFamily { family, forwarding: flags & 0x80 != 0 });
        }
        Some(Self {
            restarting: word & 0x8000 != 0,
            notification: word & 0x4000 != 0,
            time: word & MAX_RESTART_TIME,
            families,
        })
    }
}

/// Reads the capabilities of one optional parameter (RFC 5492 section 4).
///
/// Fails with [`OpenError::Unspecific`] if a length runs over the end.
pub fn decode_capabilities(octets: &[u8], into: &mut Vec<Capability>) -> Result<(), OpenError> {
    let mut reader = Reader::new(octets);
    while !reader.is_empty() {
        let code = reader.u8().ok_or(OpenError::Unspecific)?;
        let value = reader.block8().ok_or(OpenError::Unspecific)?;
        into.push(Capability::decode(code, value));
    }
    Ok(())
}

fn family(reader: &mut Reader<'_>) -> Option<AfiSafi> {
    let (afi, safi) = (reader.u16()?, reader.u8()?);
    Some(AfiSafi { afi, safi })
}

fn put_family(out: &mut BytesMut, family: AfiSafi) {
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}

/// Text that an operator reads: what is not UTF-8 becomes a question mark, so that it never grows.
fn text(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('?');
        }
    }
    text
}
