//! sFlow version 5 (sflow.org): flow samples, their sampled headers, and their records of IPv4 and IPv6. Everything else is stepped over.
//!
//! An own parser, since the two addresses are some lines, and no reader of it is kept up as those of NetFlow are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::lives;

/// `flow_sample` and `flow_sample_expanded`, and the octets in front of the number of their records.
const SAMPLES: [(u32, usize); 2] = [(1, 28), (3, 40)];
const RAW_HEADER: u32 = 1;
const SAMPLED_IPV4: u32 = 3;
const SAMPLED_IPV6: u32 = 4;
/// Protocols of a sampled header.
const ETHERNET: u32 = 1;
const IPV4: u32 = 11;
const IPV6: u32 = 12;
/// Of what lies in a frame.
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const TCP: u8 = 6;

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(octets)?;
        self.0 = left;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        let (taken, left) = self.0.split_first_chunk::<4>()?;
        self.0 = left;
        Some(u32::from_be_bytes(*taken))
    }

    /// A kind, a length and as much, as XDR has it.
    fn part(&mut self) -> Option<(u32, Rest<'a>)> {
        let kind = self.number()?;
        let length = usize::try_from(self.number()?).ok()?;
        Some((kind, Rest(self.take(length)?)))
    }
}

/// Both ends of each packet that was sampled go to `each`; `None`: it is malformed, from some place on.
pub fn read(datagram: &[u8], mut each: impl FnMut(IpAddr, IpAddr)) -> Option<()> {
    let mut rest = Rest(datagram);
    if rest.number()? != 5 {
        return None;
    }
    match rest.number()? {
        1 => rest.take(4)?,
        2 => rest.take(16)?,
        _ => return None,
    };
    // Sub-agent, sequence, uptime.
    rest.take(12)?;
    let samples = rest.number()?;
    for _ in 0..samples {
        let (kind, mut sample) = rest.part()?;
        let Some((_, before)) = SAMPLES.iter().find(|(known, _)| *known == kind) else { continue };
        sample.take(*before)?;
        let records = sample.number()?;
        for _ in 0..records {
            let (kind, record) = sample.part()?;
            if let Some((from, to)) = packet(kind, record)? {
                each(from, to);
            }
        }
    }
    Some(())
}

/// `None`: malformed; `Some(None)`: nothing that lives, or nothing that is known.
fn packet(kind: u32, mut record: Rest<'_>) -> Option<Option<(IpAddr, IpAddr)>> {
    match kind {
        RAW_HEADER => {
            let protocol = record.number()?;
            record.take(8)?;
            let length = usize::try_from(record.number()?).ok()?;
            let header = record.take(length)?;
            Some(match protocol {
                ETHERNET => frame(header),
                IPV4 => ipv4(header),
                IPV6 => ipv6(header),
                _ => None,
            })
        }
        SAMPLED_IPV4 => {
            let octets = record.take(32)?;
            let protocol = number(octets, 4)?;
            let ends = (v4(octets, 8)?, v4(octets, 12)?);
            Some(alive(protocol == u32::from(TCP), octets.get(27), ends))
        }
        SAMPLED_IPV6 => {
            let octets = record.take(56)?;
            let protocol = number(octets, 4)?;
            let ends = (v6(octets, 8)?, v6(octets, 24)?);
            Some(alive(protocol == u32::from(TCP), octets.get(51), ends))
        }
        _ => Some(None),
    }
}

fn alive(tcp: bool, flags: Option<&u8>, ends: (IpAddr, IpAddr)) -> Option<(IpAddr, IpAddr)> {
    (!tcp || flags.is_some_and(|flags| lives(*flags))).then_some(ends)
}

fn frame(octets: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let mut rest = octets.get(12..)?;
    // Two tags at most.
    for _ in 0..3 {
        let (kind, behind) = rest.split_first_chunk::<2>()?;
        match u16::from_be_bytes(*kind) {
            TYPE_IPV4 => return ipv4(behind),
            TYPE_IPV6 => return ipv6(behind),
            kind if TAGS.contains(&kind) => rest = behind.get(2..)?,
            _ => return None,
        }
    }
    None
}

fn ipv4(octets: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let first = octets.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let ends = (v4(octets, 12)?, v4(octets, 16)?);
    let whole = u16::from_be_bytes([*octets.get(6)?, *octets.get(7)?]) & 0x1fff == 0;
    let behind = usize::from(first & 0x0f).saturating_mul(4);
    alive(*octets.get(9)? == TCP && whole, octets.get(behind.saturating_add(13)), ends)
}

fn ipv6(octets: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if octets.first()? >> 4 != 6 {
        return None;
    }
    let ends = (v6(octets, 8)?, v6(octets, 24)?);
    alive(*octets.get(6)? == TCP, octets.get(53), ends)
}

fn number(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|value| u32::from_be_bytes(*value))
}

fn v4(octets: &[u8], at: usize) -> Option<IpAddr> {
    octets.get(at..)?.first_chunk::<4>().map(|value| Ipv4Addr::from(*value).into())
}

fn v6(octets: &[u8], at: usize) -> Option<IpAddr> {
    octets.get(at..)?.first_chunk::<16>().map(|value| Ipv6Addr::from(*value).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: u32, body: Vec<u8>) -> Vec<u8> {
        let mut out = kind.to_be_bytes().to_vec();
        out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    fn datagram(samples: &[Vec<u8>]) -> Vec<u8> {
        let mut out = [5u32, 1, 0x0a00_0001, 0, 1, 1].map(u32::to_be_bytes).concat();
        out.extend(u32::try_from(samples.len()).unwrap().to_be_bytes());
        out.extend(samples.concat());
        out
    }

    fn sample(kind: u32, before: usize, records: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![0; before];
        body.extend(u32::try_from(records.len()).unwrap().to_be_bytes());
        body.extend(records.concat());
        part(kind, body)
    }

    fn raw(protocol: u32, header: &[u8]) -> Vec<u8> {
        let mut body = [protocol, 1500, 4, u32::try_from(header.len()).unwrap()].map(u32::to_be_bytes).concat();
        body.extend(header);
        part(RAW_HEADER, body)
    }

    fn header_v4(flags: u8) -> Vec<u8> {
        let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 203, 0, 113, 9];
        header.extend([0; 13]);
        header.extend([flags, 0, 0]);
        header
    }

    fn seen(datagram: &[u8]) -> (Vec<String>, bool) {
        let mut all = Vec::new();
        let whole = read(datagram, |from, to| all.push(format!("{from} {to}"))).is_some();
        (all, whole)
    }

    #[test]
    fn headers_and_records_tell_both_ends_of_what_lives() {
        let mut tagged = vec![0; 12];
        tagged.extend([0x81, 0, 0, 7, 0x08, 0]);
        tagged.extend(header_v4(0x10));
        let mut six = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        six.extend(["2001:db8::1", "2001:db8::2"].map(|end| end.parse::<Ipv6Addr>().unwrap().octets()).concat());
        let mut four = [60u32, 17].map(u32::to_be_bytes).concat();
        four.extend([10, 0, 0, 2, 203, 0, 113, 8]);
        four.extend([0; 16]);
        let whole = datagram(&[
            part(2, vec![1; 20]),
            sample(1, 28, &[raw(ETHERNET, &tagged), part(1001, vec![0; 4])]),
            sample(3, 40, &[raw(IPV4, &header_v4(0x11)), raw(IPV6, &six), part(SAMPLED_IPV4, four)]),
        ]);
        let all = ["10.0.0.1 203.0.113.9", "2001:db8::1 2001:db8::2", "10.0.0.2 203.0.113.8"];
        assert_eq!(seen(&whole), (all.map(str::to_owned).to_vec(), true));
        for end in 0..whole.len() {
            assert!(!seen(&whole[..end]).1, "cut at {end}");
        }
        let endless = datagram(&[]).into_iter().rev().skip(4).rev().chain([0xff; 4]).collect::<Vec<u8>>();
        assert_eq!(seen(&endless), (vec![], false));
    }
}
