//! The name that a request bears.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::uri::Authority;

use super::{Asked, Refused};
use crate::core::name::Name;

/// Whether every name of a request is an address, "localhost" or one of ours: that of its URL and that of its one Host.
///
/// # Errors
/// Why it isn't answered.
pub fn judge(asked: &Asked<'_>, is_ours: impl Fn(&Name) -> bool) -> Result<(), Refused> {
    let &[host] = asked.hosts else { return Err(Refused::Host) };
    asked.authority.into_iter().chain([host]).try_for_each(|host| one(host, &is_ours))
}

fn one(host: &str, is_ours: impl Fn(&Name) -> bool) -> Result<(), Refused> {
    // Of no browser's doing; what would it be compared with?
    if host.contains('@') {
        return Err(Refused::Host);
    }
    let authority: Authority = host.parse().map_err(|_| Refused::Host)?;
    let bare = authority.host();
    let port = host.strip_prefix(bare).ok_or(Refused::Host)?;
    let digits = port.strip_prefix(':').unwrap_or(port);
    if !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(Refused::Host);
    }
    let address = match bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bare) => bare.split('%').next().is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok()),
        None => bare.parse::<Ipv4Addr>().is_ok(),
    };
    let localhost = bare.strip_suffix('.').unwrap_or(bare).eq_ignore_ascii_case("localhost");
    if address || localhost {
        return Ok(());
    }
    let name: Name = bare.parse().map_err(|_| Refused::Host)?;
    if is_ours(&name) { Ok(()) } else { Err(Refused::Name) }
}
