//! The shape of the configuration file, with its defaults. Unknown keys are errors. What values mean together is
//! judged in [`crate::check`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{Rate, Settle, Size, Span};
use crate::config::endpoint::{Endpoint, Host};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether the guard blocks, or only says what it would block.
    pub mode: Mode,
    /// Whether the daemon gives up system calls and places to write to that it doesn't need.
    pub confine: bool,
    /// What enforces on this host, as `[nftables]` says.
    pub enforcer: String,
    /// The resolver that clients use.
    pub dns: Dns,
    /// Which names may be asked.
    pub policy: Policy,
    /// Which addresses are always or never open.
    pub addresses: Addresses,
    /// How long an address stays open, and how many.
    pub lease: Lease,
    /// How long an answer waits for its enforcers.
    pub gate: Gate,
    /// Enforcement on this host or Linux gateway.
    pub nftables: Nftables,
    /// Where processes of this host are guarded with `enforcer = "ebpf"`.
    pub ebpf: Ebpf,
    /// Enforcement on routers.
    pub bgp: Bgp,
    /// Live flows keep routes.
    pub flows: Flows,
    /// What survives a restart.
    pub state: State,
    /// The query log.
    pub log: Log,
    /// Metrics, health and the web page over TCP.
    pub http: Http,
}

impl Config {
    /// Says where fetched lists lie; again after `state.dir` changed.
    pub fn place_lists(&mut self) {
        let state = &self.state.dir;
        self.policy.list.iter_mut().for_each(|list| list.place(state));
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            confine: true,
            enforcer: "nftables".to_owned(),
            dns: Dns::default(),
            policy: Policy::default(),
            addresses: Addresses::default(),
            lease: Lease::default(),
            gate: Gate::default(),
            nftables: Nftables::default(),
            ebpf: Ebpf::default(),
            bgp: Bgp::default(),
            flows: Flows::default(),
            state: State::default(),
            log: Log::default(),
            http: Http::default(),
        }
    }
}

/// Whether the guard blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The guard blocks what policy, filter, budgets and gate refuse.
    #[default]
    Enforce,
    /// Policy, filter, budgets, gate and enforcers say what they would have done; nothing is blocked.
    Audit,
}

/// The section `[dns]`: whom the guard answers, and whom it asks.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// UDP and TCP listeners.
    #[schemars(with = "Vec<String>")]
    pub listen: Vec<Endpoint>,
    /// Addresses of listeners, of any kind, that move between hosts (VRRP, CARP): not to have them now is no trouble.
    pub virtual_addresses: Vec<IpAddr>,
    /// Who may ask; others get REFUSED.
    #[schemars(with = "Vec<String>")]
    pub clients: Vec<IpNet>,
    /// UDP threads; 0 = one per core.
    pub workers: usize,
    /// Answer special-use names (localhost, .onion, .local, home.arpa, private reverse zones, canaries) here and forward none of them.
    pub local_names: bool,
    /// Most replies over UDP to one client network (/24, /56) whose address no DNS cookie vouches for; without it any number.
    pub rate_limit: Option<Rate>,
    /// Encrypted front ends.
    pub tls: DnsTls,
    /// Where questions go; tried by health.
    pub upstream: Vec<Upstream>,
    /// What is kept of answers.
    pub cache: Cache,
    /// Validation of answers here, by DNSSEC.
    pub dnssec: Dnssec,
    /// Zones that are answered here.
    pub zone: Vec<Zone>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            listen: [SocketAddr::from((Ipv4Addr::LOCALHOST, 53)), SocketAddr::from((Ipv6Addr::LOCALHOST, 53))]
                .map(Endpoint::from)
                .to_vec(),
            virtual_addresses: Vec::new(),
            clients: ["127.0.0.0/8", "::1/128"].iter().filter_map(|net| net.parse().ok()).collect(),
            workers: 0,
            local_names: true,
            rate_limit: None,
            tls: DnsTls::default(),
            upstream: Vec::new(),
            cache: Cache::default(),
            dnssec: Dnssec::default(),
            zone: Vec::new(),
        }
    }
}

/// The section `[dns.tls]`: encrypted ways for clients.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnsTls {
    /// File of PEM certificates, the guard's own first.
    pub certificate: Option<PathBuf>,
    /// File of the certificate's key, as PEM.
    pub key: Option<PathBuf>,
    /// DNS over TLS listeners (RFC 7858).
    #[schemars(with = "Vec<String>")]
    pub dot: Vec<Endpoint>,
    /// DNS over HTTPS listeners (RFC 8484).
    #[schemars(with = "Vec<String>")]
    pub doh: Vec<Endpoint>,
    /// DNS over QUIC listeners (RFC 9250).
    #[schemars(with = "Vec<String>")]
    pub doq: Vec<Endpoint>,
    /// PEM certificates of the CAs whose clients `policy.group.certificate` names.
    pub client_ca: Option<PathBuf>,
    /// PEM lists of what these CAs have revoked.
    pub client_crl: Option<PathBuf>,
    /// Who shows no certificate may not ask over DoT, DoH or DoQ.
    pub require_client_certificate: bool,
}

/// A row of `[[dns.upstream]]`: one resolver that is asked.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// `udp:// tcp:// tls:// https:// quic://` and an address, port optional.
    pub url: String,
    /// Name the server's certificate must bear; without it the address in `url`.
    #[serde(default)]
    pub server_name: Option<String>,
    /// PEM roots; without it the platform's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// "sha256/BASE64" of public keys (SPKI): one of them must be the server's, beside a good chain.
    #[serde(default)]
    pub pins: Vec<String>,
    /// PEM chain for mutual TLS.
    #[serde(default)]
    pub client_certificate: Option<PathBuf>,
    /// PEM key for mutual TLS.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// Conditional forwarding: only names within these; empty = everything.
    #[serde(default)]
    pub domains: Vec<String>,
}

/// The section `[dns.cache]`: how much is kept of answers, and how long.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Most octets kept.
    pub size: Size,
    /// Ask again shortly before a popular entry ends.
    pub prefetch: bool,
    /// How long after its end an answer may be served when no upstream answers; zero = never.
    pub serve_stale: Span,
}

impl Default for Cache {
    fn default() -> Self {
        Self { size: Size(64 << 20), prefetch: true, serve_stale: Span::secs(0) }
    }
}

/// The section `[dns.dnssec]`: whether and by which keys answers are validated here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dnssec {
    /// Validate answers here; what is bogus gets SERVFAIL.
    pub validate: bool,
    /// DS or DNSKEY in presentation form, or a file of them; without it the root's.
    pub trust_anchor: Option<String>,
    /// Domains whose answers are not validated, though a zone above says that they are signed or don't exist: private zones (RFC 7646).
    pub insecure: Vec<String>,
}

/// What happens to a name that no rule matches, or what a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let it resolve.
    #[default]
    Allow,
    /// Answer that the name does not exist (NXDOMAIN).
    Deny,
}

/// The section `[policy]`: which names clients may resolve.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// For names that nothing matches.
    pub default: Action,
    /// "example.com": itself and below; "*.x": below only; "=x": itself only. Ports may follow, as in "db.x:5432" or "x:443/tcp+udp".
    pub allow: Vec<String>,
    /// Likewise; the longest match decides, deny wins a tie.
    pub deny: Vec<String>,
    /// Time zone of schedules, as "Europe/Berlin"; absent: the host's.
    pub timezone: Option<String>,
    /// Files of names.
    pub list: Vec<PolicyList>,
    /// Clients with rules of their own.
    pub group: Vec<Group>,
    /// Names that open single ports.
    pub rule: Vec<Rule>,
    /// Names whose answers may lie in otherwise filtered prefixes.
    pub private: Vec<Private>,
}

/// How a list file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListFormat {
    /// One name a line.
    Domains,
    /// An address and names, as in `/etc/hosts`.
    Hosts,
    /// Rules of ad blockers, as `||name^`.
    Adblock,
    /// A response policy zone as master file.
    Rpz,
}

/// A row of `[[policy.private]]`: a domain that may point into filtered prefixes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Private {
    /// The question and every name of the chain must lie in it.
    pub domain: String,
    /// Where its answers may lie although the address filter would remove them.
    #[schemars(with = "Vec<String>")]
    pub prefixes: Vec<IpNet>,
}

/// What becomes of addresses of well-known public resolvers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PublicResolvers {
    /// Filtered: a client that reaches one resolves past the guard.
    #[default]
    Deny,
    /// Like any other.
    Allow,
}

/// What becomes of addresses that this host reaches without a router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLink {
    /// Their prefixes are the network's own, as those of `inside`.
    #[default]
    Inside,
    /// Like any other.
    Ignore,
}

/// The section `[addresses]`: which addresses may be leased, and which are open anyway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Addresses {
    /// Always open, no question needed: an address or a prefix.
    #[serde(with = "super::value::nets")]
    #[schemars(with = "Vec<String>")]
    pub open: Vec<IpNet>,
    /// Never opened: an address or a prefix.
    #[serde(with = "super::value::nets")]
    #[schemars(with = "Vec<String>")]
    pub never: Vec<IpNet>,
    /// The network's own prefixes: opened only by what `open` or `policy.private` says. A route for one of them would draw its traffic out.
    #[serde(with = "super::value::nets")]
    #[schemars(with = "Vec<String>")]
    pub inside: Vec<IpNet>,
    /// Whether the prefixes on this host's own links are the network's own too.
    pub on_link: OnLink,
    /// Whether answers may open addresses of well-known public resolvers.
    pub public_resolvers: PublicResolvers,
    /// Servers of DNS over HTTPS, an address or a prefix: refused on port 443 as other resolvers are on 53 and 853, also while they are leased. Needs nftables.
    #[serde(with = "super::value::nets")]
    #[schemars(with = "Vec<String>")]
    pub doh: Vec<IpNet>,
    /// local: this host may ask its own links for names and devices, and answer there (mDNS, LLMNR, SSDP).
    pub local_discovery: bool,
    /// The operator's own NAT64 prefix (/96): AAAA within it are judged by the IPv4 address inside and opened. Without it
    /// they are filtered.
    #[schemars(with = "Option<String>")]
    pub nat64: Option<ipnet::Ipv6Net>,
}

/// What a client gets when the gate's deadline passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDeadline {
    /// SERVFAIL with an Extended DNS Error.
    #[default]
    Servfail,
    /// The answer all the same.
    Answer,
}

/// The section `[gate]`: how long answers wait for their addresses.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// How long an answer waits for its enforcers.
    pub deadline: Span,
    /// What happens then.
    pub on_deadline: OnDeadline,
}

impl Default for Gate {
    fn default() -> Self {
        Self { deadline: Span::secs(1), on_deadline: OnDeadline::Servfail }
    }
}

/// Which hooks are guarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NftablesMode {
    /// No nftables enforcement.
    #[default]
    Off,
    /// This host's own traffic (`output`).
    Local,
    /// Forwarded traffic (`forward`).
    Gateway,
    /// This host's own and forwarded traffic.
    Both,
}

/// Whom an answer opens its addresses for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everybody behind the guard.
    #[default]
    Shared,
    /// Only the client that was answered, by the address from which it asked: for the modes gateway and both.
    Client,
}

impl Config {
    /// Whether nothing is blocked, and everything only said.
    #[must_use]
    pub fn audits(&self) -> bool {
        self.mode == Mode::Audit
    }

    /// Whether nftables blocks.
    #[must_use]
    pub fn nftables_enforces(&self) -> bool {
        self.nftables.enforce && !self.audits()
    }

    /// Whether routes are announced.
    #[must_use]
    pub fn bgp_enforces(&self) -> bool {
        self.bgp.enforce && !self.audits()
    }

    /// Whether addresses are open only for the clients that were answered with them.
    #[must_use]
    pub fn per_client(&self) -> bool {
        self.nftables.scope == Scope::Client && self.nftables.mode != NftablesMode::Off
    }

    /// Whether leases may be less than an address for everybody.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.per_client() || self.narrows_ports() || !self.nftables.application.is_empty()
    }
}

/// What becomes of the table when the daemon stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// Stays: fail closed.
    #[default]
    Keep,
    /// Removed: fail open.
    Remove,
}

/// Bits of an IPv6 address.
pub const WHOLE_IPV6: u8 = 128;

/// The section `[nftables]`: which packets are judged, and how.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Nftables {
    /// The traffic that is guarded.
    pub mode: NftablesMode,
    /// false = audit: count and log, block nothing.
    pub enforce: bool,
    /// Whom an answer opens its addresses for.
    pub scope: Scope,
    /// With scope = "client": IPv6 addresses that have so many bits in common are one client; 64 is one network of hosts.
    pub client_ipv6_prefix: u8,
    /// gateway: interfaces whose hosts are guarded.
    pub inside: Vec<String>,
    /// Bridges of containers and virtual machines on this host, whose traffic is guarded too; "br-*" is every interface whose name begins so.
    pub bridges: Vec<String>,
    /// Send port 53 for other servers to this guard: of hosts behind `inside` and `bridges`, and (local) of this host itself.
    pub redirect_dns: bool,
    /// When the daemon stops.
    pub on_stop: OnStop,
    /// local: names that are for one application of this host.
    pub application: Vec<Application>,
}

impl Default for Nftables {
    fn default() -> Self {
        Self {
            mode: NftablesMode::Off,
            enforce: true,
            scope: Scope::Shared,
            client_ipv6_prefix: WHOLE_IPV6,
            inside: Vec::new(),
            bridges: Vec::new(),
            redirect_dns: false,
            on_stop: OnStop::Keep,
            application: Vec::new(),
        }
    }
}

/// The section `[bgp]`: the guard as a BGP speaker.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bgp {
    /// Our AS; required with a peer.
    pub asn: Option<u32>,
    /// BGP identifier; required with a peer.
    pub router_id: Option<Ipv4Addr>,
    /// Where routers send opened IPv4 traffic.
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Where routers send opened IPv6 traffic.
    pub next_hop_ipv6: Option<Ipv6Addr>,
    /// "64512:100", RFC 1997.
    pub communities: Vec<String>,
    /// "64512:1:2", RFC 8092.
    pub large_communities: Vec<String>,
    /// NO_EXPORT on every route.
    pub no_export: bool,
    /// To internal peers.
    pub local_pref: u32,
    /// A route outlives its lease by this.
    pub linger: Span,
    /// `addresses.open` too, each prefix exactly as written.
    pub announce_open: bool,
    /// Host routes for `dns.upstream`.
    pub announce_upstreams: bool,
    /// Networks that a peer announces to the guard are the network's own, as those of `addresses.inside`; none shorter than /8 (IPv6: /16).
    pub exclude_announced: bool,
    /// false = audit: sessions up, nothing announced.
    pub enforce: bool,
    /// For passive peers.
    #[schemars(with = "Vec<String>")]
    pub listen: Vec<Endpoint>,
    /// RFC 4724; zero = off.
    pub graceful_restart: Span,
    /// RFC 9494: routers that can keep the routes so much longer, as a last resort; zero = off.
    pub long_lived_graceful_restart: Span,
    /// Before routes are withdrawn for good, they bear GRACEFUL_SHUTDOWN (RFC 8326) for so long; zero = not at all.
    pub shutdown_drain: Span,
    /// Routers that have a session with the guard.
    pub peer: Vec<Peer>,
    /// Routers that others bring the routes to.
    pub edge: Vec<Edge>,
    /// The guard's own anycast addresses.
    pub service: Service,
}

impl Default for Bgp {
    fn default() -> Self {
        Self {
            asn: None,
            router_id: None,
            next_hop_ipv4: None,
            next_hop_ipv6: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            no_export: true,
            exclude_announced: false,
            local_pref: 100,
            linger: Span::secs(600),
            announce_open: true,
            announce_upstreams: false,
            enforce: true,
            listen: Vec::new(),
            graceful_restart: Span::secs(120),
            long_lived_graceful_restart: Span::secs(0),
            shutdown_drain: Span::secs(0),
            peer: Vec::new(),
            edge: Vec::new(),
            service: Service::default(),
        }
    }
}

/// What counts as the peer's word that a route is open there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confirm {
    /// Written to the socket.
    Sent,
    /// The peer's TCP has the octets.
    #[default]
    Acked,
    /// The peer answered a ROUTE-REFRESH sent behind the UPDATE.
    Refresh,
    /// The router sent the prefix back on the observer session.
    Reflect,
    /// A packet through the router to the address was answered.
    Probe,
}

/// What a peer is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Gets the routes.
    #[default]
    Enforcer,
    /// Receives, never announces.
    Observer,
    /// Another guard, or a route reflector between guards alone: each tells the others its leases, which hold them too.
    Guard,
}

/// Our role towards an external peer, RFC 9234.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BgpRole {
    /// We are its provider.
    Provider,
    /// We are a route server to it.
    RouteServer,
    /// It is a route server to us.
    RouteServerClient,
    /// We are its customer.
    Customer,
    /// We are peers: neither is the other's provider.
    Peer,
}

/// An algorithm of TCP-AO, RFC 5926.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AoAlgorithm {
    /// HMAC with SHA-1, cut to 96 bits.
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1,
    /// CMAC with AES-128, cut to 96 bits.
    #[serde(rename = "aes-128-cmac-96")]
    Aes128Cmac,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Unicast routes of IPv4.
    Ipv4,
    /// Unicast routes of IPv6.
    Ipv6,
}

/// A row of `[[bgp.peer]]`: one router that gets the routes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// As shown to users; unique.
    pub name: String,
    /// The peer's address; a link-local one names its interface.
    #[schemars(with = "String")]
    pub address: Host,
    /// The peer's AS; same as `bgp.asn`: internal.
    pub asn: u32,
    /// The peer's port.
    #[serde(default = "defaults::port")]
    pub port: u16,
    /// The address we connect from.
    #[serde(default)]
    pub local_address: Option<IpAddr>,
    /// Wait for the peer to connect.
    #[serde(default)]
    pub passive: bool,
    /// TCP-MD5, RFC 2385; with `tcp_ao` its master key.
    #[serde(default)]
    pub password: Option<String>,
    /// A file that holds it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// TCP-AO, RFC 5925, instead of TCP-MD5, where the kernel has it: the algorithm.
    #[serde(default)]
    pub tcp_ao: Option<AoAlgorithm>,
    /// KeyID of the segments we send.
    #[serde(default = "defaults::ao_id")]
    pub tcp_ao_send_id: u8,
    /// KeyID of the peer's segments.
    #[serde(default = "defaults::ao_id")]
    pub tcp_ao_recv_id: u8,
    /// GTSM, RFC 5082.
    #[serde(default)]
    pub ttl_security: bool,
    /// Hops to the peer, for external peers that are not adjacent.
    #[serde(default)]
    pub multihop: Option<u8>,
    /// Proposed hold time.
    #[serde(default = "defaults::hold_time")]
    pub hold_time: Span,
    /// A router that takes nothing off its connection for so long is given up, RFC 9687; at least twice the hold time.
    #[serde(default = "defaults::send_hold_time")]
    pub send_hold_time: Span,
    /// Families of routes that the session is to carry.
    #[serde(default = "defaults::families")]
    pub families: Vec<Family>,
    /// Route budget; keep below the router's maximum-prefix.
    #[serde(default = "defaults::max_routes")]
    pub max_routes: usize,
    /// Its confirmation gates answers.
    #[serde(default = "defaults::yes")]
    pub required: bool,
    /// What counts as confirmation.
    #[serde(default)]
    pub confirm: Confirm,
    /// Waited after it.
    #[serde(default)]
    pub settle: Settle,
    /// For `reflect`: the peer entry on which the router sends routes back.
    #[serde(default)]
    pub observer: Option<String>,
    /// Whether it forwards packets itself; a route reflector or route server doesn't, and its word says nothing of the routers behind it.
    #[serde(default = "defaults::yes")]
    pub forwards: bool,
    /// Peer entries with role = "observer", each on a router behind this one: what it sends there is in force on it.
    #[serde(default)]
    pub observers: Vec<String>,
    /// TTL of data-path probes: 1 is answered by the router, 2 by its next hop (for routers that answer before they look the route up).
    #[serde(default = "defaults::probe_ttl")]
    pub probe_ttl: u8,
    /// What the peer is for.
    #[serde(default)]
    pub role: Role,
    /// Our role towards it (RFC 9234): the session comes up only with the counterpart, or with a peer that names none.
    #[serde(default)]
    pub bgp_role: Option<BgpRole>,
    /// BFD beside the session, RFC 5880 to 5883.
    #[serde(default)]
    pub bfd: bool,
    /// How often BFD packets go out, and may come in; the slower end decides.
    #[serde(default = "defaults::bfd_interval")]
    pub bfd_interval: Span,
    /// So many BFD packets may be lost in a row.
    #[serde(default = "defaults::bfd_multiplier")]
    pub bfd_multiplier: u8,
    /// Multihop BFD: for internal peers that are not adjacent, and for FRR with `ttl_security`; `multihop` implies it.
    #[serde(default)]
    pub bfd_multihop: bool,
}

/// `[[bgp.edge]]`: a router that forwards and gets the routes from others, so that it has no session with the guard. It is asked by probes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// As shown to users; unique among peers and edges.
    pub name: String,
    /// Its address on a link of this host; a link-local one names its interface.
    #[schemars(with = "String")]
    pub address: Host,
    /// Our address there, where there are several.
    #[serde(default)]
    pub local_address: Option<IpAddr>,
    /// Of which routes it is asked.
    #[serde(default = "defaults::families")]
    pub families: Vec<Family>,
    /// Answers wait for it.
    #[serde(default = "defaults::yes")]
    pub required: bool,
    /// TTL of the probes: 1 is answered by the router, 2 by its next hop.
    #[serde(default = "defaults::probe_ttl")]
    pub probe_ttl: u8,
}

mod application;
mod defaults;
mod ebpf;
mod flows;
mod group;
mod http;
mod lease;
mod list;
mod log;
mod rule;
mod service;
mod zone;

pub use application::Application;
pub use ebpf::Ebpf;
pub use flows::{Exporter, ExporterKind, Flows};
pub use group::Group;
pub use http::Http;
pub use lease::Lease;
pub use list::{FETCHED, PolicyList};
pub use log::{Hide, Log};
pub use rule::{Rule, split_ports};
pub use service::{Service, ServicePeer};
pub use zone::Zone;

/// The section `[state]`: where the guard keeps what must survive a restart.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Where the leases are kept.
    pub dir: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/lib/destguard") }
    }
}

/// Where a key of the file stands: line and column, from 1. Filled by [`crate::check`] for the keys that `explain` cites.
pub type Places = BTreeMap<String, (usize, usize)>;
