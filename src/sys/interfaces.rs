//! The addresses of this host's interfaces, as the kernel shows them under `/proc/net`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::on_link;

/// Where this host is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Its own addresses, without doubles, in order.
    pub addresses: Vec<IpAddr>,
    /// What it reaches without a router; nothing where that isn't asked for.
    pub on_link: on_link::Found,
}

/// Both, or the addresses alone.
///
/// # Errors
/// One can't be read; says which.
pub fn here(with_on_link: bool) -> Result<Here, String> {
    let addresses = addresses().map_err(|error| format!("this host's addresses can't be read: {error}"))?;
    let on_link = if with_on_link { on_link::read() } else { Ok(on_link::Found::default()) };
    let on_link = on_link.map_err(|error| format!("this host's on-link prefixes can't be read: {error}"))?;
    Ok(Here { addresses, on_link })
}

/// Every address of every interface of this network namespace, without doubles, in order.
///
/// # Errors
/// `/proc/net` can't be read.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut all: Vec<IpAddr> = ipv4(&fs::read_to_string("/proc/net/fib_trie")?).map(IpAddr::V4).collect();
    match fs::read_to_string("/proc/net/if_inet6") {
        Ok(text) => all.extend(ipv6(&text).map(IpAddr::V6)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The host prefixes of type LOCAL: a line `|-- 192.0.2.1` followed by `/32 host LOCAL`.
fn ipv4(fib_trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut leaf: Option<Ipv4Addr> = None;
    fib_trie.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim().parse().ok();
            return None;
        }
        if line.starts_with("/32 host LOCAL") { leaf } else { None }
    })
}

/// The first field of each line: 32 hexadecimal digits.
fn ipv6(if_inet6: &str) -> impl Iterator<Item = Ipv6Addr> {
    if_inet6.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok()).flatten().map(Ipv6Addr::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_found_and_others_are_not() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\nLocal:\n     \
                    |-- 192.0.2.1\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(ipv4(trie).collect::<Vec<_>>(), [Ipv4Addr::new(192, 0, 2, 1)]);
        let six = "20010db8000000000000000000000001 02 40 00 80     eth0\nbroken line\n";
        assert_eq!(ipv6(six).collect::<Vec<_>>(), ["2001:db8::1".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn loopback_is_there_where_it_is_up() {
        // Every machine that runs this test has at least one address or none at all; reading must work either way.
        addresses().unwrap();
    }
}
