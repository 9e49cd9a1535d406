//! What was there before the guard: connections live on, flows to other resolvers don't.
//!
//! The kernel lists flows from the first rule on that asks for them. A connection from before that is not in the list, and
//! its next packet would be refused as a new one's. So at the first installation:
//!
//! 1. a table with one rule that refuses nothing has the kernel begin its list ([`super::ruleset::tracking`]);
//! 2. what the kernel's sockets say is entered there ([`adopt`]): this host's own connections, also those that are silent;
//! 3. the ruleset takes that table's place. What a gateway forwards has no socket here: see the rule "adopt".

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::conntrack::{self, Flow, Older, Stage};
use super::error::NftError;
use super::kernel::Kernel;
use super::routes::Ways;
use super::ruleset;
use super::ruleset::Settings;
use super::sockets::{self, Socket, State};
use crate::enforce::rules::Transport;
use crate::sys::interfaces;
use crate::sys::netlink::interface_index;

/// The kernel's own defaults, in seconds.
const TCP_ESTABLISHED: u32 = 432_000;
const TCP_ASKED: u32 = 120;
const UDP_STREAM: u32 = 120;

/// Makes this host's own connections known to conntrack; returns how many were not.
///
/// # Errors
/// [`NftError`], of the kernel's sockets or of conntrack.
pub fn adopt() -> Result<usize, NftError> {
    let all =
        sockets::all().map_err(|source| NftError::Netlink { doing: "listing this host's connections", source })?;
    let established = conntrack::kept_for("tcp_timeout_established", TCP_ESTABLISHED);
    let stream = conntrack::kept_for("udp_timeout_stream", UDP_STREAM);
    conntrack::adopt(&older(&all, established, stream))
}

/// The connections among sockets. Who began one isn't told: where its own port takes connections, the other end did.
fn older(all: &[Socket], established: u32, stream: u32) -> Vec<Older> {
    let listeners: HashSet<(Transport, SocketAddr)> = all
        .iter()
        .filter(|socket| socket.state == State::Listening)
        .map(|socket| (socket.transport, socket.local))
        .collect();
    let anywhere = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
    let listening = |socket: &Socket| {
        let (transport, local) = (socket.transport, socket.local);
        let mut addresses = anywhere.into_iter().chain([local.ip()]);
        addresses.any(|address| listeners.contains(&(transport, SocketAddr::new(address, local.port()))))
    };
    let mut found = Vec::new();
    for socket in all {
        let (local, remote) = (socket.local, socket.remote);
        if local.is_ipv4() != remote.is_ipv4() || remote.ip().is_loopback() || remote.port() == 0 {
            continue;
        }
        let stage = match socket.state {
            State::Connected | State::Closing | State::WasAsked => Stage::Established,
            State::Asked => Stage::Asked,
            State::Over | State::Listening => continue,
        };
        let seconds = match (socket.transport, stage) {
            (Transport::Tcp, Stage::Established) => established,
            (Transport::Tcp, Stage::Asked) => TCP_ASKED,
            (Transport::Udp, _) => stream,
        };
        let (source, destination) = if listening(socket) { (remote, local) } else { (local, remote) };
        found.push(Older { transport: socket.transport, source, destination, stage, seconds });
    }
    found
}

/// Ends the flows of hosts behind guarded interfaces to other resolvers, and this host's own where they are to be redirected; returns how many. The
/// ruleset refuses their packets anyway: this lets destination NAT, which looks at first packets only, and flow offload see them anew.
///
/// # Errors
/// [`NftError`].
pub fn end_foreign_dns(kernel: &mut Kernel, settings: &Settings) -> Result<usize, NftError> {
    let inside = guarded_interfaces(&settings.inside, &settings.bridges)?;
    let mut ways = Ways::open().map_err(|source| NftError::Netlink { doing: "opening a socket for routes", source })?;
    let own: HashSet<SocketAddr> = settings.own.iter().map(|own| SocketAddr::new(own.address, own.port)).collect();
    let redirected = settings.local() && settings.redirect_dns;
    conntrack::end(kernel, |flow| {
        is_foreign_dns(flow, &inside, &mut ways)
            || redirected && !own.contains(&flow.destination) && is_foreign_question(flow, &mut ways)
    })
}

/// The numbers of the interfaces that are there now.
///
/// # Errors
/// The kernel doesn't list them.
pub fn guarded_interfaces(inside: &[String], bridges: &[String]) -> Result<Vec<u32>, NftError> {
    let mut all: Vec<u32> = inside.iter().filter_map(|name| interface_index(name)).collect();
    if !bridges.is_empty() {
        let found = interfaces::like(bridges)
            .map_err(|source| NftError::Netlink { doing: "listing this host's interfaces", source })?;
        all.extend(found.into_iter().map(|(_, number)| number));
    }
    Ok(all)
}

/// Whether a flow of this host goes to another's port 53, and was not redirected.
fn is_foreign_question(flow: &Flow, ways: &mut Ways) -> bool {
    let mut local = |address| ways.to(address).is_some_and(|way| way.local);
    is_dns(flow.protocol, flow.destination)
        && flow.destination == flow.arrives
        && local(flow.source.ip())
        && !local(flow.destination.ip())
}

/// Whether a flow of a host behind `inside` goes to a resolver elsewhere. A flow that was found in its middle may seem to
/// have been begun by the resolver.
pub fn is_foreign_dns(flow: &Flow, inside: &[u32], ways: &mut Ways) -> bool {
    let (client, resolver) = if is_dns(flow.protocol, flow.destination) {
        (flow.source, flow.arrives)
    } else if is_dns(flow.protocol, flow.source) && u32::from(flow.arrives.port()) >= ruleset::SERVER_PORTS {
        (flow.arrives, flow.source)
    } else {
        return false;
    };
    is_forwarded(client.ip(), resolver.ip(), inside, ways)
}

/// Whether a client is behind one of these interfaces, and `remote` is not this host.
pub fn is_forwarded(client: IpAddr, remote: IpAddr, inside: &[u32], ways: &mut Ways) -> bool {
    let behind =
        ways.to(client).is_some_and(|way| !way.local && way.interface.is_some_and(|number| inside.contains(&number)));
    behind && !ways.to(remote).is_some_and(|way| way.local)
}

/// Whether it is DNS, in the clear or over TLS or QUIC.
pub fn is_dns(protocol: u8, to: SocketAddr) -> bool {
    let streams = [libc::IPPROTO_TCP, libc::IPPROTO_UDP];
    streams.contains(&i32::from(protocol)) && ruleset::RESOLVER_PORTS.contains(&to.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(transport: Transport, state: State, local: &str, remote: &str) -> Socket {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        Socket { transport, state, local, remote, uid: 0, inode: 1, mark: None, group: None }
    }

    #[test]
    fn connections_are_found_with_who_began_them() {
        let all = [
            socket(Transport::Tcp, State::Listening, "0.0.0.0:22", "0.0.0.0:0"),
            socket(Transport::Tcp, State::Connected, "10.0.0.1:22", "10.0.0.9:5000"),
            socket(Transport::Tcp, State::Closing, "10.0.0.1:4000", "192.0.2.1:443"),
            socket(Transport::Tcp, State::Asked, "10.0.0.1:4001", "192.0.2.1:443"),
            socket(Transport::Tcp, State::Over, "10.0.0.1:4002", "192.0.2.1:443"),
            socket(Transport::Tcp, State::Connected, "127.0.0.1:4002", "127.0.0.1:443"),
            socket(Transport::Udp, State::Connected, "10.0.0.1:22", "192.0.2.1:443"),
            socket(Transport::Udp, State::Listening, "0.0.0.0:68", "0.0.0.0:0"),
        ];
        let found: Vec<(String, Stage, u32)> = older(&all, 7, 8)
            .iter()
            .map(|flow| (format!("{} {}", flow.source, flow.destination), flow.stage, flow.seconds))
            .collect();
        let wanted = [
            ("10.0.0.9:5000 10.0.0.1:22", Stage::Established, 7),
            ("10.0.0.1:4000 192.0.2.1:443", Stage::Established, 7),
            ("10.0.0.1:4001 192.0.2.1:443", Stage::Asked, TCP_ASKED),
            ("10.0.0.1:22 192.0.2.1:443", Stage::Established, 8),
        ];
        assert_eq!(found, wanted.map(|(ends, stage, seconds)| (ends.to_owned(), stage, seconds)));
    }
}
