//! NetFlow and IPFIX by the crate `netflow_parser`, with its bounds set low. Templates are kept by observation domain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netflow_parser::variable_versions::field_types::FlowEndReason;
use netflow_parser::variable_versions::ipfix::FlowSetBody as IpfixBody;
use netflow_parser::variable_versions::ipfix::lookup::{IANAIPFixField, IPFixField};
use netflow_parser::variable_versions::v9::FlowSetBody as V9Body;
use netflow_parser::{AutoScopedParser, FieldValue, NetflowPacket, NetflowParser, V9Field};

use super::{ACK, FIN, RST, SYN, Unread, lives};

/// Templates of one observation domain.
const TEMPLATES: usize = 128;
/// Fields of a template.
const FIELDS: usize = 128;
/// Observation domains, such as line cards.
const DOMAINS: usize = 16;
/// Records of one set, and values of one message.
const RECORDS: usize = 1024;
const VALUES: usize = 32 << 10;

/// Reads what one exporter sends.
#[derive(Debug)]
pub struct Decoder(AutoScopedParser);

impl Decoder {
    /// Of this version alone.
    #[must_use]
    pub fn new(version: u16) -> Option<Self> {
        let builder = NetflowParser::builder()
            .with_cache_size(TEMPLATES)
            .with_max_field_count(FIELDS)
            .with_max_records_per_flowset(RECORDS)
            .with_max_decoded_field_values_per_message(VALUES)
            .with_max_error_sample_size(16)
            .with_allowed_versions(&[version]);
        AutoScopedParser::try_with_builder(builder).ok()?.with_max_sources(DOMAINS).ok().map(Self)
    }

    /// See [`super::Decoder::read`].
    ///
    /// # Errors
    /// [`Unread`].
    pub fn read(&mut self, datagram: &[u8], mut each: impl FnMut(IpAddr, IpAddr)) -> Result<(), Unread> {
        // Every decoder has one exporter, whose port may change.
        let source = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let parsed = self.0.parse_from_source(source, datagram);
        let (mut untold, mut any) = (false, false);
        for packet in &parsed.packets {
            any = true;
            match packet {
                NetflowPacket::V5(packet) => {
                    for flow in packet.flowsets.iter().filter(|flow| lives(flow.tcp_flags)) {
                        each(flow.src_addr.into(), flow.dst_addr.into());
                    }
                }
                NetflowPacket::V9(packet) => {
                    for set in &packet.flowsets {
                        match &set.body {
                            V9Body::Data(data) => {
                                data.fields.iter().for_each(|record| v9(record).tell(&mut each));
                            }
                            V9Body::NoTemplate(_) => untold = true,
                            _ => {}
                        }
                    }
                }
                NetflowPacket::IPFix(packet) => {
                    for set in &packet.flowsets {
                        match &set.body {
                            IpfixBody::Data(data) => {
                                data.fields.iter().for_each(|record| ipfix(record).tell(&mut each));
                            }
                            IpfixBody::V9Data(data) => {
                                data.fields.iter().for_each(|record| v9(record).tell(&mut each));
                            }
                            IpfixBody::NoTemplate(_) => untold = true,
                            _ => {}
                        }
                    }
                }
                _ => return Err(Unread::Malformed),
            }
        }
        match parsed.error {
            Some(_) => Err(Unread::Malformed),
            None if untold => Err(Unread::WithoutTemplate),
            None if any => Ok(()),
            None => Err(Unread::Malformed),
        }
    }
}

/// What of a record matters.
#[derive(Default)]
struct Record {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    over: bool,
}

impl Record {
    fn take(&mut self, value: &FieldValue) {
        match value {
            FieldValue::TcpControlBits(bits, _) => {
                let set = [(bits.fin, FIN), (bits.syn, SYN), (bits.rst, RST), (bits.ack, ACK)];
                let flags = set.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
                self.over |= !lives(flags);
            }
            FieldValue::FlowEndReason(reason) => self.over |= *reason == FlowEndReason::EndOfFlow,
            _ => {}
        }
    }

    fn tell(self, each: &mut impl FnMut(IpAddr, IpAddr)) {
        if let (Some(source), Some(destination), false) = (self.source, self.destination, self.over) {
            each(source, destination);
        }
    }
}

fn address(value: &FieldValue) -> Option<IpAddr> {
    match value {
        FieldValue::Ip4Addr(address) => Some((*address).into()),
        FieldValue::Ip6Addr(address) => Some((*address).into()),
        _ => None,
    }
    // A template may name the addresses of both families; the other's are zero.
    .filter(|address: &IpAddr| !address.is_unspecified())
}

fn v9(fields: &[(V9Field, FieldValue)]) -> Record {
    let mut record = Record::default();
    for (field, value) in fields {
        match field {
            V9Field::Ipv4SrcAddr | V9Field::Ipv6SrcAddr => record.source = address(value).or(record.source),
            V9Field::Ipv4DstAddr | V9Field::Ipv6DstAddr => record.destination = address(value).or(record.destination),
            _ => record.take(value),
        }
    }
    record
}

fn ipfix(fields: &[(IPFixField, FieldValue)]) -> Record {
    let mut record = Record::default();
    for (field, value) in fields {
        let IPFixField::IANA(field) = field else { continue };
        match field {
            IANAIPFixField::SourceIpv4address | IANAIPFixField::SourceIpv6address => {
                record.source = address(value).or(record.source);
            }
            IANAIPFixField::DestinationIpv4address | IANAIPFixField::DestinationIpv6address => {
                record.destination = address(value).or(record.destination);
            }
            IANAIPFixField::TcpControlBits | IANAIPFixField::FlowEndReason => record.take(value),
            _ => {}
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of version 9 or 10 with these sets.
    fn message(version: u16, domain: u32, sets: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (id, set) in sets {
            body.extend(id.to_be_bytes());
            body.extend(u16::try_from(set.len() + 4).unwrap().to_be_bytes());
            body.extend(set);
        }
        let mut out = version.to_be_bytes().to_vec();
        if version == 9 {
            out.extend(u16::try_from(sets.len()).unwrap().to_be_bytes());
            out.extend([0; 12]);
        } else {
            out.extend(u16::try_from(body.len() + 16).unwrap().to_be_bytes());
            out.extend([0; 8]);
        }
        out.extend(domain.to_be_bytes());
        out.extend(body);
        out
    }

    fn template(id: u16, fields: &[(u16, u16)]) -> Vec<u8> {
        let mut out = id.to_be_bytes().to_vec();
        out.extend(u16::try_from(fields.len()).unwrap().to_be_bytes());
        for (field, length) in fields {
            out.extend(field.to_be_bytes());
            out.extend(length.to_be_bytes());
        }
        out
    }

    fn seen(decoder: &mut Decoder, datagram: &[u8]) -> (Vec<String>, Result<(), Unread>) {
        let mut all = Vec::new();
        let read = decoder.read(datagram, |from, to| all.push(format!("{from} {to}")));
        (all, read)
    }

    #[test]
    fn records_are_read_by_the_template_of_their_own_domain() {
        for (version, id) in [(9, 0), (10, 2)] {
            let mut decoder = Decoder::new(version).unwrap();
            let data = |flags: u8| {
                let mut data = vec![10, 0, 0, 1, 203, 0, 113, 9, flags];
                data.extend([0; 3]);
                data
            };
            let without = seen(&mut decoder, &message(version, 1, &[(300, data(ACK))]));
            assert_eq!(without, (vec![], Err(Unread::WithoutTemplate)));
            let known = (id, template(300, &[(8, 4), (12, 4), (6, 1)]));
            let read = seen(&mut decoder, &message(version, 1, &[known, (300, data(ACK))]));
            assert_eq!(read, (vec!["10.0.0.1 203.0.113.9".to_owned()], Ok(())), "version {version}");
            assert_eq!(seen(&mut decoder, &message(version, 1, &[(300, data(ACK | FIN))])), (vec![], Ok(())));
            let other = seen(&mut decoder, &message(version, 2, &[(300, data(ACK))]));
            assert_eq!(other, (vec![], Err(Unread::WithoutTemplate)), "another domain's");
            let six = (id, template(301, &[(27, 16), (28, 16)]));
            let ends = ["2001:db8::1", "2001:db8::2"].map(|end| end.parse::<std::net::Ipv6Addr>().unwrap().octets());
            let read = seen(&mut decoder, &message(version, 1, &[six, (301, ends.concat())]));
            assert_eq!(read.0, ["2001:db8::1 2001:db8::2"]);
        }
    }

    #[test]
    fn a_flood_of_templates_takes_bounded_room_and_another_version_is_refused() {
        for (version, id) in [(9, 0), (10, 2)] {
            let mut decoder = Decoder::new(version).unwrap();
            for domain in 0..40 {
                for number in 256..1256 {
                    let known = (id, template(number, &[(8, 4), (12, 4)]));
                    assert_eq!(seen(&mut decoder, &message(version, domain, &[known])).1, Ok(()));
                }
            }
            let info: Vec<_> = if version == 9 {
                decoder.0.v9_info().into_iter().map(|(_, info)| info.v9.current_size).collect()
            } else {
                decoder.0.ipfix_info().into_iter().map(|(_, info)| info.ipfix.current_size).collect()
            };
            assert!(info.len() <= DOMAINS && info.iter().all(|size| *size <= TEMPLATES), "{info:?}");
            let many: Vec<(u16, u16)> = (0..5000).map(|_| (8, 4)).collect();
            let large = (id, template(300, &many[..4000]));
            drop(seen(&mut decoder, &message(version, 1, &[large, (300, vec![1; 100])])));
            let other = if version == 9 { 10 } else { 9 };
            assert_eq!(seen(&mut decoder, &message(other, 1, &[])), (vec![], Err(Unread::Malformed)));
        }
    }
}
