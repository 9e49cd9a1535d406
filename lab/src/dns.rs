//! DNS for tests, written by hand so that it shares no code and no mistake with what it tests.
//!
//! [`message`] is the wire form; [`server`] a scripted authoritative server for the far side; [`client`] asks.

pub mod client;
pub mod message;
pub mod server;

pub use client::{Answer, Asker, Transport, ask, ask_over};
pub use message::{Data, Question, Record};
pub use server::{Forged, Reply, Server};

/// The type of IPv4 addresses.
pub const A: u16 = 1;
/// The type of a zone's servers.
pub const NS: u16 = 2;
/// The type of an alias for one name.
pub const CNAME: u16 = 5;
/// The type of a zone's first record.
pub const SOA: u16 = 6;
/// The type of texts.
pub const TXT: u16 = 16;
/// The type of IPv6 addresses.
pub const AAAA: u16 = 28;
/// The type of an alias for all names below another.
pub const DNAME: u16 = 39;
/// TYPE OPT, RFC 6891.
pub const OPT: u16 = 41;
/// TYPE SVCB, RFC 9460.
pub const SVCB: u16 = 64;
/// TYPE HTTPS, RFC 9460.
pub const HTTPS: u16 = 65;
/// The question for every type.
pub const ANY: u16 = 255;

/// The response code NOERROR: the answer is good.
pub const NOERROR: u8 = 0;
/// The response code SERVFAIL: the server can't answer.
pub const SERVFAIL: u8 = 2;
/// The response code NXDOMAIN: the name doesn't exist.
pub const NXDOMAIN: u8 = 3;
/// The response code REFUSED: the server won't answer.
pub const REFUSED: u8 = 5;
