//! Addresses of well-known public resolvers. Behind each of them DNS over HTTPS or TLS is served, so that one answer that opens such an
//! address, whoever's name it stands under, lets every client resolve past the guard. They are not opened unless
//! `addresses.public_resolvers = "allow"`.
//!
//! This table can't be complete. With everything else closed, a resolver that is not in it is reached only after some name led to its
//! address; its own name belongs on a deny list.
//!
//! Sources: the pages on which the operators publish their addresses, read in 2026. Prefixes stand only where the operator gives each
//! customer an address of its own out of them.

use std::net::IpAddr;

use ipnet::IpNet;

/// Who, and its addresses or prefixes.
pub const TABLE: &[(&str, &[&str])] = &[
    ("114DNS", &["114.114.114.114", "114.114.115.115"]),
    (
        "AdGuard",
        &[
            "94.140.14.14",
            "94.140.14.15",
            "94.140.14.140",
            "94.140.14.141",
            "94.140.15.15",
            "94.140.15.16",
            "2a10:50c0::ad1:ff",
            "2a10:50c0::ad2:ff",
            "2a10:50c0::bad1:ff",
            "2a10:50c0::bad2:ff",
            "2a10:50c0::1:ff",
            "2a10:50c0::2:ff",
        ],
    ),
    ("Alibaba", &["223.5.5.5", "223.6.6.6", "2400:3200::1", "2400:3200:baba::1"]),
    ("CIRA Canadian Shield", &["149.112.121.0/24", "149.112.122.0/24", "2620:10a:80bb::/48", "2620:10a:80bc::/48"]),
    ("CleanBrowsing", &["185.228.168.0/24", "185.228.169.0/24", "2a0d:2a00:1::/48", "2a0d:2a00:2::/48"]),
    (
        "Cloudflare",
        &[
            "1.1.1.1",
            "1.1.1.2",
            "1.1.1.3",
            "1.0.0.1",
            "1.0.0.2",
            "1.0.0.3",
            "104.16.248.249",
            "104.16.249.249",
            "162.159.36.0/24",
            "162.159.46.0/24",
            "162.159.61.3",
            "162.159.61.4",
            "172.64.36.0/24",
            "172.64.41.3",
            "172.64.41.4",
            "2606:4700:4700::/48",
            "2606:4700::6810:f8f9",
            "2606:4700::6810:f9f9",
            "2803:f800:53::3",
            "2803:f800:53::4",
            "2a06:98c1:52::3",
            "2a06:98c1:52::4",
        ],
    ),
    ("Comodo", &["8.26.56.26", "8.20.247.20"]),
    ("Control D", &["76.76.2.0/24", "76.76.10.0/24", "2606:1a40::/48", "2606:1a40:1::/48"]),
    ("Digitale Gesellschaft", &["185.95.218.42", "185.95.218.43", "2a05:fc84::42", "2a05:fc84::43"]),
    ("DNS.SB", &["185.222.222.222", "45.11.45.11", "2a09::", "2a11::"]),
    ("DNS4EU", &["86.54.11.0/24", "2a13:1001::86:54:11:0/112"]),
    ("DNSPod", &["119.29.29.29", "1.12.12.12", "120.53.53.53", "2402:4e00::"]),
    ("Freifunk München", &["5.1.66.255", "185.150.99.255", "2001:678:e68:f000::", "2001:678:ed0:f000::"]),
    (
        "Google",
        &[
            "8.8.8.8",
            "8.8.4.4",
            "2001:4860:4860::8888",
            "2001:4860:4860::8844",
            "2001:4860:4860::6464",
            "2001:4860:4860::64",
        ],
    ),
    ("Hurricane Electric", &["74.82.42.42", "2001:470:20::2"]),
    ("Level 3", &["4.2.2.1", "4.2.2.2", "4.2.2.3", "4.2.2.4", "4.2.2.5", "4.2.2.6"]),
    ("Mullvad", &["194.242.2.0/24", "2a07:e340::/48"]),
    ("NextDNS", &["45.90.28.0/24", "45.90.30.0/24", "2a07:a8c0::/32", "2a07:a8c1::/32"]),
    (
        "OpenDNS",
        &[
            "208.67.220.0/24",
            "208.67.222.0/24",
            "146.112.41.2",
            "146.112.41.3",
            "2620:119:35::/48",
            "2620:119:53::/48",
            "2620:119:fc::2",
            "2620:119:fc::3",
        ],
    ),
    ("Quad101", &["101.101.101.101", "101.102.103.104", "2001:de4::101", "2001:de4::102"]),
    (
        "Quad9",
        &[
            "9.9.9.9",
            "9.9.9.10",
            "9.9.9.11",
            "9.9.9.12",
            "149.112.112.9",
            "149.112.112.10",
            "149.112.112.11",
            "149.112.112.12",
            "149.112.112.112",
            "2620:fe::9",
            "2620:fe::10",
            "2620:fe::11",
            "2620:fe::12",
            "2620:fe::fe",
            "2620:fe::fe:9",
            "2620:fe::fe:10",
            "2620:fe::fe:11",
            "2620:fe::fe:12",
        ],
    ),
    ("SafeDNS", &["195.46.39.39", "195.46.39.40"]),
    ("SWITCH", &["130.59.31.248", "130.59.31.251", "2001:620:0:ff::2", "2001:620:0:ff::3"]),
    ("UltraDNS Public", &["64.6.64.6", "64.6.65.6", "156.154.70.0/24", "156.154.71.0/24"]),
    ("Wikimedia", &["185.71.138.138", "2001:67c:930::1"]),
    (
        "Yandex",
        &[
            "77.88.8.1",
            "77.88.8.2",
            "77.88.8.3",
            "77.88.8.7",
            "77.88.8.8",
            "77.88.8.88",
            "2a02:6b8::feed:ff",
            "2a02:6b8:0:1::feed:ff",
            "2a02:6b8::feed:bad",
            "2a02:6b8:0:1::feed:bad",
            "2a02:6b8::feed:a11",
            "2a02:6b8:0:1::feed:a11",
        ],
    ),
];

/// An entry of the table, read.
fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Every prefix of the table, of both families.
pub fn nets() -> impl Iterator<Item = IpNet> {
    TABLE.iter().flat_map(|(_, texts)| texts.iter().filter_map(|text| net(text)))
}

/// Whose address this is. Walks the whole table: for the few addresses that [`nets`] hold.
#[must_use]
pub fn operator(address: IpAddr) -> Option<&'static str> {
    let holds = |text: &&str| net(text).is_some_and(|net| net.contains(&address));
    TABLE.iter().find(|(_, texts)| texts.iter().any(&holds)).map(|(operator, _)| *operator)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::core::address::special;

    #[test]
    fn every_entry_is_a_global_address_or_prefix_and_stands_once() {
        let mut seen = HashSet::new();
        for (operator, texts) in TABLE {
            for text in *texts {
                let net = net(text).unwrap_or_else(|| panic!("{operator}: {text}"));
                assert_eq!(net, net.trunc(), "{operator}: {text}");
                assert!(seen.insert(net), "{operator}: {text} twice");
                assert!(special::find(net.addr()).is_none_or(|special| special.admit), "{operator}: {text}");
                assert_eq!(super::operator(net.addr()), Some(*operator), "{text}");
            }
        }
        assert_eq!(nets().count(), seen.len());
    }
}
