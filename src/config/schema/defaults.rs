//! Defaults of single keys; those of whole tables stand beside them.

use super::{Family, Size, Span};

pub fn port() -> u16 {
    179
}
pub fn share() -> u8 {
    1
}
pub fn ao_id() -> u8 {
    1
}
pub fn hold_time() -> Span {
    Span::secs(90)
}
pub fn send_hold_time() -> Span {
    Span::secs(480)
}
pub fn families() -> Vec<Family> {
    vec![Family::Ipv4, Family::Ipv6]
}
pub fn max_routes() -> usize {
    50_000
}
pub fn probe_ttl() -> u8 {
    1
}
pub fn yes() -> bool {
    true
}
pub fn flow_interval() -> Span {
    Span::secs(60)
}
pub fn bfd_interval() -> Span {
    Span(std::time::Duration::from_millis(300))
}
pub fn bfd_multiplier() -> u8 {
    3
}
pub fn refresh() -> Span {
    Span::secs(86_400)
}
pub fn list_size() -> Size {
    Size(64 << 20)
}
pub fn zone_ttl() -> Span {
    Span::secs(300)
}
