//! DNS for tests, written by hand so that it shares no code and no mistake with what it tests.
//!
//! [`message`] is the wire form; [`server`] a scripted authoritative server for the far side; [`client`] asks.

pub mod client;
pub mod message;
pub mod server;

pub use client::{Answer, Asker, Transport, ask, ask_over};
pub use message::{Data, Question, Record};
pub use server::{Forged, Reply, Server};

/// TYPE A.
pub const A: u16 = 1;
/// TYPE NS.
pub const NS: u16 = 2;
/// TYPE CNAME.
pub const CNAME: u16 = 5;
/// TYPE SOA.
pub const SOA: u16 = 6;
/// TYPE TXT.
pub const TXT: u16 = 16;
/// TYPE AAAA.
pub const AAAA: u16 = 28;
/// TYPE DNAME.
pub const DNAME: u16 = 39;
/// TYPE OPT, RFC 6891.
pub const OPT: u16 = 41;
/// TYPE SVCB, RFC 9460.
pub const SVCB: u16 = 64;
/// TYPE HTTPS, RFC 9460.
pub const HTTPS: u16 = 65;
/// QTYPE ANY.
pub const ANY: u16 = 255;

/// RCODE NOERROR.
pub const NOERROR: u8 = 0;
/// RCODE SERVFAIL.
pub const SERVFAIL: u8 = 2;
/// RCODE NXDOMAIN.
pub const NXDOMAIN: u8 = 3;
/// RCODE REFUSED.
pub const REFUSED: u8 = 5;
