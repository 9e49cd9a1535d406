//! `bgp.communities` and `bgp.large_communities`, parsed.

use super::schema::Bgp;

/// RFC 1997 NO_EXPORT.
pub const NO_EXPORT: u32 = 0xffff_ff01;
/// RFC 9494 LLGR_STALE: a router's own mark of a route whose speaker is away, and a reason to prefer any other. Refused.
pub const LLGR_STALE: u32 = 0xffff_0006;
/// RFC 9494 NO_LLGR: a router drops the route when the restart time is over, also where `bgp.long_lived_graceful_restart` is on.
pub const NO_LLGR: u32 = 0xffff_0007;
/// RFC 7999 BLACKHOLE: would have routers discard what the guard wants opened, so it is refused.
pub const BLACKHOLE: u32 = 0xffff_029a;

/// Why a text is no community that routes may bear.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommunityError {
    /// No community of RFC 1997.
    #[error("\"{0}\" is not a community; write two numbers of at most 65535, as in \"64512:100\"")]
    Standard(String),
    /// The one by which routers discard.
    #[error("\"{0}\" is BLACKHOLE (RFC 7999): routers would discard what is to be opened")]
    Blackhole(String),
    /// The one by which routers mark what is stale.
    #[error("\"{0}\" is LLGR_STALE (RFC 9494): a mark of routers, not for routes that are fresh")]
    Stale(String),
    /// No community of RFC 8092.
    #[error("\"{0}\" is not a large community; write three numbers of at most 4294967295, as in \"64512:1:2\"")]
    Large(String),
}

/// The communities that every route bears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Communities {
    /// RFC 1997, the AS in the upper 16 bits; NO_EXPORT included when `bgp.no_export` says so. Sorted, unique.
    pub standard: Vec<u32>,
    /// RFC 8092: global administrator and two local parts. Sorted, unique.
    pub large: Vec<[u32; 3]>,
}

impl Communities {
    /// Those of a checked configuration.
    ///
    /// # Errors
    /// The first one that isn't one; none in a configuration that was checked.
    pub fn of(bgp: &Bgp) -> Result<Self, CommunityError> {
        let mut standard = bgp.communities.iter().map(|text| standard(text)).collect::<Result<Vec<_>, _>>()?;
        if bgp.no_export {
            standard.push(NO_EXPORT);
        }
        let mut large = bgp.large_communities.iter().map(|text| large(text)).collect::<Result<Vec<_>, _>>()?;
        standard.sort_unstable();
        standard.dedup();
        large.sort_unstable();
        large.dedup();
        Ok(Self { standard, large })
    }
}

/// "64512:100", or the name of a well-known one.
///
/// # Errors
/// Anything else, and BLACKHOLE.
pub fn standard(text: &str) -> Result<u32, CommunityError> {
    let value = match text {
        "no-export" => NO_EXPORT,
        "no-advertise" => 0xffff_ff02,
        "no-export-subconfed" => 0xffff_ff03,
        "no-peer" => 0xffff_ff04,
        "no-llgr" => NO_LLGR,
        _ => text
            .split_once(':')
            .and_then(|(upper, lower)| Some((number::<u16>(upper)?, number::<u16>(lower)?)))
            .map(|(upper, lower)| (u32::from(upper) << 16) | u32::from(lower))
            .ok_or_else(|| CommunityError::Standard(text.to_owned()))?,
    };
    if value == BLACKHOLE {
        return Err(CommunityError::Blackhole(text.to_owned()));
    }
    if value == LLGR_STALE {
        return Err(CommunityError::Stale(text.to_owned()));
    }
    Ok(value)
}

/// What a text that isn't one of `bgp.communities` may be meant as.
#[must_use]
pub fn meant(text: &str) -> Option<&'static str> {
    large(text).is_ok().then_some("a large community: use large_communities")
}

/// "64512:1:2".
///
/// # Errors
/// Anything else.
pub fn large(text: &str) -> Result<[u32; 3], CommunityError> {
    let parts: Option<Vec<u32>> = text.split(':').map(number::<u32>).collect();
    let parts = parts.and_then(|parts| <[u32; 3]>::try_from(parts).ok());
    parts.ok_or_else(|| CommunityError::Large(text.to_owned()))
}

/// Digits only: `parse` alone would take "+1".
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_parse() {
        assert_eq!(standard("64512:100"), Ok(0xfc00_0064));
        assert_eq!(standard("no-export"), Ok(NO_EXPORT));
        assert_eq!(standard("no-llgr"), standard("65535:7"));
        assert_eq!(large("4200000000:1:2"), Ok([4_200_000_000, 1, 2]));
        for wrong in ["", "1", "65536:1", "1:2:3", "+1:2", "a:b", "1:-2", "65535:666", "65535:6"] {
            assert!(standard(wrong).is_err(), "{wrong}");
            assert_eq!(meant(wrong).is_some(), wrong == "1:2:3", "{wrong}");
        }
        for wrong in ["", "1:2", "1:2:3:4", "4294967296:0:0", "1::2"] {
            assert!(large(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_export_is_added_once() {
        let bgp = Bgp { communities: vec!["no-export".into(), "64512:1".into(), "64512:1".into()], ..Bgp::default() };
        assert_eq!(Communities::of(&bgp).unwrap().standard, [0xfc00_0001, NO_EXPORT]);
    }
}
