//! Replies to names that are answered without asking anybody ([`crate::core::local_names`]).

use std::net::IpAddr;

use crate::core::local_names::Local;
use crate::core::name::Name;
use crate::dns::codec::ede::{Ede, code};
use crate::dns::codec::reply::{self, Body, BodyWriter, OWN_TTL, Section};
use crate::dns::codec::wire::{rcode, rtype};

/// The message, and the extended error that says where it comes from.
#[must_use]
pub fn reply(name: &Name, qtype: u16, local: &Local, why: &'static str) -> (Body, Ede) {
    let body = match local {
        Local::NoName => reply::own_negative(name, qtype, rcode::NXDOMAIN),
        Local::NoData => reply::own_negative(name, qtype, rcode::NOERROR),
        Local::Addresses(addresses) => {
            let mut writer = BodyWriter::new(name, qtype, rcode::NOERROR);
            for address in addresses {
                match address {
                    IpAddr::V4(v4) => writer.record(Section::Answer, name, rtype::A, OWN_TTL, &v4.octets(), None),
                    IpAddr::V6(v6) => writer.record(Section::Answer, name, rtype::AAAA, OWN_TTL, &v6.octets(), None),
                }
            }
            // Two addresses are never too long.
            writer.finish().unwrap_or_default()
        }
    };
    (body, Ede::new(code::SYNTHESIZED, format!("answered here: {why}")))
}
