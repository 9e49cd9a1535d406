//! What the rules counted, read by `iptables-save -c`.

use super::program::{ProgramError, Programs};
use super::rules::Family;
use crate::enforce::nftables::{Count, Counters};

/// All of it, over these families, since the rules were put in force.
///
/// # Errors
/// The program's words.
pub fn read(programs: &Programs, families: &[Family]) -> Result<Counters, ProgramError> {
    let mut counters = Counters::default();
    for family in families {
        counters = sum(counters, parse(&programs.saved_text(*family, "filter", true)?));
    }
    Ok(counters)
}

/// The counters of two families as one.
#[must_use]
pub fn sum(one: Counters, other: Counters) -> Counters {
    let both = |one: Count, other: Count| Count {
        packets: one.packets.saturating_add(other.packets),
        bytes: one.bytes.saturating_add(other.bytes),
    };
    Counters {
        allowed: both(one.allowed, other.allowed),
        established: both(one.established, other.established),
        denied: both(one.denied, other.denied),
        dns_bypass: both(one.dns_bypass, other.dns_bypass),
    }
}

fn parse(text: &str) -> Counters {
    let mut counters = Counters::default();
    for line in text.lines() {
        let Some((count, rule)) = line.strip_prefix('[').and_then(|line| line.split_once("] -A ")) else { continue };
        let Some((packets, bytes)) = count.split_once(':') else { continue };
        let (Ok(packets), Ok(bytes)) = (packets.parse(), bytes.parse()) else { continue };
        let count = Counters::default();
        let this = Count { packets, bytes };
        let count = match rule.split(' ').next() {
            Some("destguard-allow") => Counters { allowed: this, ..count },
            Some("destguard-est") => Counters { established: this, ..count },
            Some("destguard-deny" | "destguard-bad") => Counters { denied: this, ..count },
            Some("destguard-dns") => Counters { dns_bypass: this, ..count },
            _ => continue,
        };
        counters = sum(counters, count);
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_chains_that_count() {
        let text = "*filter\n:destguard-allow - [9:9]\n[3:180] -A destguard-allow -j RETURN\n[1:60] -A destguard-deny -g destguard-refuse\n\
                    [2:80] -A destguard-bad -j DROP\n[7:7] -A OUTPUT -j destguard-out\n[x:1] -A destguard-dns -j X\n";
        let counters = parse(text);
        assert_eq!(counters.allowed, Count { packets: 3, bytes: 180 });
        assert_eq!(counters.denied, Count { packets: 3, bytes: 140 });
        assert_eq!((counters.dns_bypass, counters.established), (Count::default(), Count::default()));
    }
}
