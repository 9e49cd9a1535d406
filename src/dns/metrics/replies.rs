//! Replies to clients, counted by transport, type and rcode where they go out. A fixed table of counters: no lock, no memory for each question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::core::way::Way;
use crate::dns::codec::wire::{HEADER, rcode, rtype, skip_name, u16_at};

/// Their labels, in the order of [`Way`].
const WAYS: [&str; 5] = ["udp", "tcp", "dot", "doh", "doq"];
/// Types with a label of their own; all others share the last.
const TYPES: [(u16, &str); 15] = [
    (rtype::A, "A"),
    (rtype::NS, "NS"),
    (rtype::CNAME, "CNAME"),
    (rtype::SOA, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (rtype::AAAA, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (rtype::DS, "DS"),
    (rtype::DNSKEY, "DNSKEY"),
    (rtype::SVCB, "SVCB"),
    (rtype::HTTPS, "HTTPS"),
    (rtype::ANY, "ANY"),
];
/// Codes with a label of their own; all others share the last.
const CODES: [(u16, &str); 9] = [
    (rcode::NOERROR, "NOERROR"),
    (rcode::FORMERR, "FORMERR"),
    (rcode::SERVFAIL, "SERVFAIL"),
    (rcode::NXDOMAIN, "NXDOMAIN"),
    (rcode::NOTIMP, "NOTIMP"),
    (rcode::REFUSED, "REFUSED"),
    (rcode::NOTAUTH, "NOTAUTH"),
    (rcode::BADVERS, "BADVERS"),
    (rcode::BADCOOKIE, "BADCOOKIE"),
];
const OTHER: &str = "other";
const ROW: usize = CODES.len() + 1;
const BLOCK: usize = (TYPES.len() + 1) * ROW;

/// The counters; cheap to clone.
#[derive(Clone, Debug)]
pub struct Replies(Arc<[AtomicU64]>);

impl Default for Replies {
    fn default() -> Self {
        Self((0..WAYS.len() * BLOCK).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Replies {
    /// Counts a reply of the guard's own making. What is no message isn't counted.
    pub fn count(&self, way: Way, reply: &[u8]) {
        let Some((qtype, code)) = type_and_code(reply) else { return };
        let kind = TYPES.iter().position(|(number, _)| Some(*number) == qtype).unwrap_or(TYPES.len());
        let code = CODES.iter().position(|(number, _)| *number == code).unwrap_or(CODES.len());
        if let Some(counter) = self.0.get(way as usize * BLOCK + kind * ROW + code) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The type that was asked for, if a question is there, and the code, the extended ones too (RFC 6891 section 6.1.3).
fn type_and_code(reply: &[u8]) -> Option<(Option<u16>, u16)> {
    let low = u16::from(reply.get(3)? & 0x0f);
    let mut at = HEADER;
    let mut qtype = None;
    if u16_at(reply, 4)? > 0 {
        let end = skip_name(reply, at)?;
        qtype = u16_at(reply, end);
        at = end.checked_add(4)?;
    }
    // Only errors have extended codes, and in an error of the guard's own the OPT comes right behind the question.
    let bare = u16_at(reply, 6)? == 0 && u16_at(reply, 8)? == 0 && u16_at(reply, 10)? > 0;
    let opt = bare.then(|| reply.get(at..at.checked_add(6)?)).flatten();
    let high = opt.filter(|opt| opt.starts_with(&[0, 0, 41])).and_then(|opt| opt.get(5)).copied().unwrap_or_default();
    Some((qtype, u16::from(high) << 4 | low))
}

impl Collector for Replies {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let help = "Replies to clients, by transport, type and rcode";
        let mut family = encoder.encode_descriptor("dns_replies", help, None, MetricType::Counter)?;
        let label = |table: &[(u16, &'static str)], place: usize| table.get(place).map_or(OTHER, |(_, label)| *label);
        for (place, count) in self.0.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let way = WAYS.get(place / BLOCK).copied().unwrap_or(OTHER);
            let kind = label(&TYPES, place % BLOCK / ROW);
            let code = label(&CODES, place % ROW);
            let labels = [("transport", way), ("type", kind), ("rcode", code)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::codec::query::ClientEdns;
    use crate::dns::codec::reply::{ReplyHead, error};

    fn said(replies: &Replies) -> Vec<String> {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(replies.clone()));
        let text = crate::metrics::encode(&registry).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_reply_counts_under_what_its_client_sees() {
        let replies = Replies::default();
        let question = |kind: u8| [b"\x01a\x07example\x00\x00".as_slice(), &[kind], b"\x00\x01"].concat();
        let reply = |kind: u8, code: u16, edns: bool| {
            let edns = edns.then_some(ClientEdns { size: 1232, dnssec_ok: false, cookie: None });
            let octets = question(kind);
            let mut out = Vec::new();
            error(code, &ReplyHead { id: 7, flags: 0x0100, octets: &octets, edns, limit: 1232 }, None, &mut out);
            out
        };
        replies.count(Way::Udp, &reply(1, 3, true));
        replies.count(Way::Udp, &reply(1, 3, false));
        replies.count(Way::Quic, &reply(65, rcode::BADCOOKIE, true));
        replies.count(Way::Tcp, &reply(99, rcode::BADVERS, true));
        replies.count(Way::Https, &[0; 12]);
        replies.count(Way::Https, &[0; 11]);
        let line = |way: &str, kind: &str, code: &str, count: u8| {
            format!("dns_replies_total{{transport=\"{way}\",type=\"{kind}\",rcode=\"{code}\"}} {count}")
        };
        let wanted = [
            line("udp", "A", "NXDOMAIN", 2),
            line("tcp", "other", "BADVERS", 1),
            line("doh", "other", "NOERROR", 1),
            line("doq", "HTTPS", "BADCOOKIE", 1),
        ];
        assert_eq!(said(&replies), wanted);
    }
}
