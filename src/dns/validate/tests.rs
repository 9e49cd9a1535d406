//! The validator before a small Internet in memory, as it is and as attackers change it.

mod answers;
pub(in crate::dns) mod bounds;
mod chain;
mod forged;
mod several_upstreams;
mod single_details;
pub(in crate::dns) mod zones;

/// What the zones need of the crate.
mod outside {
    pub use super::super::{Pick, Source};
    pub use crate::core::name::Name;
    pub use crate::dns::codec::wire::rtype;
    pub use crate::dns::upstream::AskError;
    pub use crate::dns::upstream::query::Query;
}

use self::zones::*;
use super::*;
use crate::core::answer::RecordData;
use crate::core::name::Name;
use crate::dns::codec::wire::rtype;

const NSEC: Option<Denial> = Some(Denial::Nsec);
const NSEC3: Option<Denial> = Some(Denial::Nsec3 { iterations: 5, opt_out: false });
const OPT_OUT: Option<Denial> = Some(Denial::Nsec3 { iterations: 0, opt_out: true });

/// The root, "test" (NSEC3), below it a zone with NSEC, one with NSEC3, one with opt-out, one unsigned.
fn internet() -> Internet {
    let mut root = Zone::new(".", NSEC);
    let mut test = Zone::new("test", NSEC3);
    let mut zones = Vec::new();
    for (text, denial) in [("nsec.test", NSEC), ("nsec3.test", NSEC3), ("out.test", OPT_OUT), ("plain.test", None)] {
        let mut zone = Zone::new(text, denial);
        let at = |label: &str| format!("{label}.{text}");
        zone.address(&at("www"), 1);
        zone.address(&at("www"), 2);
        zone.address(&at("deep.empty"), 3);
        zone.address(&at("*.wild"), 4);
        zone.alias(&at("*.wildalias"), "www.nsec.test");
        zone.alias(&at("alias"), &at("www"));
        zone.alias(&at("out"), "www.plain.test");
        zone.alias(&at("in"), "www.nsec.test");
        zone.alias(&at("nowhere"), "none.nsec.test");
        zone.add(&at("tree"), rtype::DNAME, name("nsec.test").wire());
        zone.add(&at("mail"), 15, b"\x00\x0a\x04WWW2\x04Test\x00");
        zone.add(&at("text"), TXT, b"\x05hello");
        test.delegate(&zone);
        zones.push(zone);
    }
    // An unsigned zone in a span of opt-out.
    let mut loose = Zone::new("loose.out.test", None);
    loose.address("www.loose.out.test", 9);
    zones.iter_mut().find(|zone| zone.name == name("out.test")).unwrap().delegate(&loose);
    zones.push(loose);
    root.delegate(&test);
    zones.extend([root, test]);
    Internet::new(zones)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Trusts the Internet's root.
fn validator(internet: &Internet) -> Validator {
    let root = internet.zones.iter().find(|zone| zone.name == Name::root()).unwrap().ds();
    let anchor =
        format!(". IN DS {} {} {} {}", u16::from_be_bytes([root[0], root[1]]), root[2], root[3], hex(&root[4..]));
    with(&anchor, &[])
}

fn with(anchor: &str, insecure: &[&str]) -> Validator {
    let dnssec = Dnssec {
        validate: true,
        trust_anchor: Some(anchor.to_owned()),
        insecure: insecure.iter().map(ToString::to_string).collect(),
    };
    let metrics = Metrics::register(&mut crate::metrics::registry());
    let mut validator = Validator::new(&dnssec, &metrics).unwrap().unwrap();
    validator.clock = || NOW;
    validator
}

/// What a test looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Response code, last octets of the addresses.
    Secure(u16, Vec<u8>),
    Insecure(u16, Vec<u8>),
    /// Bogus: the client gets this code of an extended error.
    Bogus(u16),
    /// Too much to check: the client gets this text of an extended error.
    TooMuch(String),
    Unreached,
    Malformed,
}
use Seen::*;

fn ask(text: &str, qtype: u16) -> Query {
    Query {
        name: name(text),
        qtype,
        dnssec_ok: false,
        checking_disabled: false,
        plain: false,
        whose: crate::core::client::Claim::NOBODY,
    }
}

async fn look(validator: &Validator, internet: &Internet, text: &str, qtype: u16) -> Seen {
    sight(validator.ask(internet, &ask(text, qtype)).await)
}

fn sight(got: Result<Checked, AskError>) -> Seen {
    match got {
        Ok(Checked::Response(response)) => {
            let mut last: Vec<u8> = response
                .answers
                .iter()
                .filter_map(|record| match record.data {
                    RecordData::A(ip) => Some(ip.octets()[3]),
                    _ => None,
                })
                .collect();
            last.sort_unstable();
            if response.authentic { Secure(response.rcode, last) } else { Insecure(response.rcode, last) }
        }
        Ok(Checked::Refused("bogus", ede)) => Bogus(ede.code),
        Ok(Checked::Refused(TOO_MUCH, ede)) => TooMuch(ede.text.into_owned()),
        Ok(Checked::Malformed) => Malformed,
        other => {
            assert!(matches!(other, Err(_) | Ok(Checked::Refused("dnssec", _))), "{other:?}");
            Unreached
        }
    }
}

async fn fresh(internet: &Internet, text: &str, qtype: u16) -> Seen {
    look(&validator(internet), internet, text, qtype).await
}
