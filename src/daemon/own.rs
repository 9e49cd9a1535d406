//! The guard's own traffic, which no packet filter may stop.

use crate::config::schema::ServicePeer;
use crate::config::value::Target;
use crate::config::{self, Config};
use crate::enforce::bgp::bfd_port;
use crate::enforce::rules::{OwnTraffic, Transport};

/// Where the guard itself connects to.
pub fn traffic(config: &Config) -> Vec<OwnTraffic> {
    let mut own = Vec::new();
    for upstream in &config.dns.upstream {
        // A URL that can't be read was refused by the check.
        let Ok(url) = upstream.url.parse::<config::UpstreamUrl>() else { continue };
        let (address, port) = (url.addr.ip(), url.addr.port());
        let transports: &[Transport] = match url.transport {
            config::Transport::Udp => &[Transport::Udp, Transport::Tcp],
            config::Transport::Quic => &[Transport::Udp],
            config::Transport::Tcp | config::Transport::Tls | config::Transport::Https => &[Transport::Tcp],
        };
        own.extend(transports.iter().map(|&transport| OwnTraffic { address, transport, port }));
    }
    let service = config.bgp.service.peer.iter().map(ServicePeer::as_peer);
    for peer in config.bgp.peer.iter().cloned().chain(service) {
        let to = |transport, port| OwnTraffic { address: *peer.address, transport, port };
        own.push(to(Transport::Tcp, peer.port));
        own.extend(peer.bfd.then(|| to(Transport::Udp, bfd_port(&peer))));
    }
    own.extend(
        [&config.log.syslog, &config.log.dnstap]
            .into_iter()
            .flatten()
            .filter_map(|target| match target {
                Target::Unix(_) => None,
                Target::Udp(to) => Some((Transport::Udp, to)),
                Target::Tcp(to) => Some((Transport::Tcp, to)),
            })
            .map(|(transport, to)| OwnTraffic { address: to.ip(), transport, port: to.port() }),
    );
    own
}

/// The ports that the guard itself answers from.
pub fn listeners(config: &Config, (tcp, udp): (Vec<u16>, Vec<u16>), http: Vec<u16>) -> Vec<(Transport, u16)> {
    let bgp = config.bgp.listen.iter().map(|address| address.port());
    let tcp = tcp.into_iter().chain(http).chain(bgp).map(|port| (Transport::Tcp, port));
    tcp.chain(udp.into_iter().map(|port| (Transport::Udp, port))).collect()
}
