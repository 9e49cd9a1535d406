//! Messages as octets (RFC 1035 section 4): read and written here alone.
//!
//! - [`wire`]: header, numbers of types and codes. [`query`]: what clients send.
//! - [`response`]: what upstreams send, read with hickory. [`reply`]: what goes out.
//! - [`ede`]: why an answer is refused, for the client (RFC 8914). [`cookie`]: whether a client is where it says (RFC 7873).

pub mod cookie;
pub mod ede;
pub mod query;
pub mod reply;
pub mod response;
pub mod wire;
