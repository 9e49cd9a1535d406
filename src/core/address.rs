//! Which addresses may be opened at all: not those of the special-purpose registries, not the guard's own infrastructure, not what the
//! operator forbade, not the network's own prefixes, not the well-known public resolvers. The operator's words lift all but what is forbidden and the guard's own: `addresses.open` (already open, no lease needed),
//! `policy.private` (for the names of one domain) and `addresses.nat64`.
//!
//! What may not be opened may still be told: this host's own addresses are reached without a lease ([`Admitted::Here`]), so that its own public name is
//! answered; those of special-purpose space by `policy.private` alone.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};

use super::name::Name;
use super::policy::{PolicyError, RuleRef, name_from_user};
use super::zones::ZoneSet;
use crate::config::schema::{Config, PublicResolvers};
use crate::config::upstream::UpstreamUrl;

pub mod public_resolvers;
pub mod special;
#[cfg(test)]
mod tests;

use special::Special;

/// An IPv6 form that holds an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// ::ffff:0:0/96, RFC 4291 section 2.5.5.2. Never opened: a host that gets one connects over IPv4.
    Mapped,
    /// ::/96, RFC 4291 section 2.5.5.1 (deprecated). Never opened.
    Compatible,
    /// 2002::/16, RFC 3056.
    SixToFour,
    /// `addresses.nat64`, RFC 6052.
    Nat64,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mapped => "IPv4-mapped",
            Self::Compatible => "IPv4-compatible",
            Self::SixToFour => "6to4",
            Self::Nat64 => "NAT64",
        })
    }
}

/// Why an address is not opened and not passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It lies in `addresses.never`.
    Never(IpNet),
    /// It lies in `addresses.inside`.
    Inside(IpNet),
    /// It lies in a prefix on this link of the host.
    OnLink(IpNet, String),
    /// A router announces this prefix to the guard (`bgp.exclude_announced`); which.
    Announced(IpNet, String),
    /// It is the guard's own: a peer, next hop, upstream, local address; the label says which.
    Infrastructure(String),
    /// It lies in a block of the special-purpose registries.
    Special(&'static Special),
    /// It belongs to a well-known public resolver (`addresses.public_resolvers`); who runs it.
    PublicResolver(&'static str),
    /// IPv6 outside 2000::/3, in no registered block.
    NotGlobalUnicast,
    /// It holds an IPv4 address that may not be opened.
    Embedded {
        /// The form by which the address holds the other one.
        form: Form,
        /// The IPv4 address within it, which packets would reach in the end.
        inner: Ipv4Addr,
        /// The reason why the inner address may not be opened.
        reason: Box<Reason>,
    },
    /// A hint for a service whose target name is denied.
    Target {
        /// The target's name, as the record gives it.
        name: Name,
        /// The rule that denies the target; without one the default does.
        rule: Option<RuleRef>,
    },
    /// Allowed, but part of a signed set that must not be served in part to a client that set DO.
    SignedSet,
    /// Of the other address family than the client: from where it would connect can't be told, where addresses are open for single clients.
    OtherFamily,
    /// A hint of a record that is dropped since `mandatory` names a key that lost all its values, RFC 9460 section 8.
    Mandatory,
}

impl Reason {
    /// A short word for metrics: few values, never an address or a name.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Never(_) => "never",
            Self::Inside(_) | Self::OnLink(..) | Self::Announced(..) => "inside",
            Self::Infrastructure(_) => "infrastructure",
            Self::Special(_) | Self::NotGlobalUnicast => "special",
            Self::PublicResolver(_) => "public_resolver",
            Self::Embedded { .. } => "embedded",
            Self::Target { .. } => "target",
            Self::SignedSet => "signed_set",
            Self::OtherFamily => "other_family",
            Self::Mandatory => "mandatory",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never(net) => write!(f, "addresses.never holds {net}"),
            Self::Inside(net) => write!(f, "of this network (addresses.inside holds {net})"),
            Self::OnLink(net, interface) => {
                write!(f, "of this network ({net} is on-link at {interface}, addresses.on_link)")
            }
            Self::Announced(net, peer) => {
                write!(f, "of this network ({net} is announced by peer {peer}, bgp.exclude_announced)")
            }
            Self::Infrastructure(label) => write!(f, "the guard's own: {label}"),
            Self::Special(special) => write!(f, "{special}"),
            Self::PublicResolver(operator) => {
                write!(f, "a public resolver of {operator} (addresses.public_resolvers)")
            }
            Self::NotGlobalUnicast => f.write_str("outside 2000::/3 (IPv6 address space registry, RFC 4291)"),
            Self::Embedded { form, inner, reason } => write!(f, "{form} address of {inner}: {reason}"),
            Self::Target { name, rule: Some(rule) } => write!(f, "the service's name {name} is denied by {rule}"),
            Self::Target { name, rule: None } => write!(f, "the service's name {name} is denied"),
            Self::SignedSet => f.write_str("part of a signed set of which another part was removed"),
            Self::OtherFamily => f.write_str("not of the client's address family (nftables.scope is \"client\")"),
            Self::Mandatory => f.write_str("part of a service record whose mandatory keys were removed"),
        }
    }
}

/// How an address may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It needs a lease.
    Lease,
    /// It lies in `addresses.open`: no lease, no budget.
    AlreadyOpen,
    /// It is this host's own, and reached without a lease.
    Here,
    /// A local zone holds it, and clients reach it without the guard: it is the network's own, or leads no further than the client's link.
    Told,
}

/// An address that the guard itself needs.
#[derive(Clone, Debug)]
struct Own {
    label: String,
    /// Of an interface of this host.
    here: bool,
    /// Of an upstream and of nothing else.
    upstream: bool,
}

/// A row of `[[policy.private]]`, read once so that each answer is only compared.
#[derive(Clone, Debug)]
struct Private {
    domain: Name,
    prefixes: Vec<IpNet>,
}

impl Private {
    fn holds(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|net| net.contains(&address))
    }
}

/// Prefixes, asked by hash: one probe for each prefix length in use, however many prefixes there are.
#[derive(Clone, Debug, Default)]
struct NetSet {
    nets: HashSet<IpNet>,
    /// Lengths in use, the longest first.
    ipv4: Vec<u8>,
    ipv6: Vec<u8>,
}

impl FromIterator<IpNet> for NetSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut set = Self { nets: nets.into_iter().map(|net| net.trunc()).collect(), ..Self::default() };
        for net in &set.nets {
            let lengths = if matches!(net, IpNet::V4(_)) { &mut set.ipv4 } else { &mut set.ipv6 };
            lengths.push(net.prefix_len());
        }
        for lengths in [&mut set.ipv4, &mut set.ipv6] {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        set
    }
}

impl NetSet {
    /// The longest prefix that holds the address.
    fn find(&self, address: IpAddr) -> Option<IpNet> {
        let lengths = if address.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let nets = lengths.iter().filter_map(|length| IpNet::new(address, *length).ok());
        nets.map(|net| net.trunc()).find(|net| self.nets.contains(net))
    }
}

/// All that is known of addresses, ready to be asked. Never changed: a reload builds another.
#[derive(Clone, Debug)]
pub struct AddressFilter {
    never: NetSet,
    inside: NetSet,
    on_link: NetSet,
    /// The interface of each prefix in `on_link`.
    links: HashMap<IpNet, String>,
    announced: NetSet,
    /// The peer of each prefix in `announced`.
    announcers: HashMap<IpNet, String>,
    open: NetSet,
    infrastructure: HashMap<IpAddr, Own>,
    /// Routers are told routes; one for an upstream might cut the guard off from it.
    announces: bool,
    private: Vec<Private>,
    zones: Arc<ZoneSet>,
    nat64: Option<Ipv6Net>,
    public_resolvers: NetSet,
}

impl AddressFilter {
    /// From `[addresses]` and `[[policy.private]]`; [`infrastructure`] is added to `own`, the addresses of this host's interfaces, each
    /// with a word that says what it is.
    ///
    /// # Errors
    /// Every value that can't be used.
    pub fn new(config: &Config, own: &[(IpAddr, String)]) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Vec::new();
        let infrastructure = infrastructure(config).unwrap_or_else(|wrong| {
            errors.extend(wrong);
            Vec::new()
        });
        let mut private = Vec::new();
        for (place, entry) in config.policy.private.iter().enumerate() {
            match name_from_user(&entry.domain) {
                Ok(domain) => private.push(Private { domain, prefixes: entry.prefixes.clone() }),
                Err(reason) => errors.push(PolicyError {
                    key: format!("policy.private[{place}].domain"),
                    text: entry.domain.clone(),
                    reason: reason.to_string(),
                }),
            }
        }
        if let Some(net) = config.addresses.nat64.filter(|net| net.prefix_len() != 96) {
            errors.push(PolicyError {
                key: "addresses.nat64".to_owned(),
                text: net.to_string(),
                reason: "must be a /96, as in \"64:ff9b::/96\"".to_owned(),
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut all: HashMap<IpAddr, Own> = HashMap::new();
        for (address, label) in infrastructure.into_iter().chain(own.iter().cloned()) {
            if !address.is_unspecified() {
                let upstream = label.starts_with(UPSTREAM);
                let known = all.entry(plain(address)).or_insert(Own { label, here: false, upstream });
                known.upstream &= upstream;
            }
        }
        for (address, _) in own {
            if let Some(known) = all.get_mut(&plain(*address)) {
                known.here = true;
            }
        }
        Ok(Self {
            never: config.addresses.never.iter().copied().collect(),
            inside: config.addresses.inside.iter().copied().collect(),
            on_link: NetSet::default(),
            links: HashMap::new(),
            announced: NetSet::default(),
            announcers: HashMap::new(),
            open: config.addresses.open.iter().copied().collect(),
            infrastructure: all,
            announces: !config.bgp.peer.is_empty(),
            private,
            zones: Arc::default(),
            nat64: config.addresses.nat64,
            public_resolvers: match config.addresses.public_resolvers {
                PublicResolvers::Deny => public_resolvers::nets().collect(),
                PublicResolvers::Allow => NetSet::default(),
            },
        })
    }

    /// With prefixes that are on-link, each with its interface: they are the network's own.
    #[must_use]
    pub fn with_on_link<'a>(mut self, nets: impl IntoIterator<Item = (&'a IpNet, &'a String)>) -> Self {
        self.links = nets.into_iter().map(|(net, interface)| (net.trunc(), interface.clone())).collect();
        self.on_link = self.links.keys().copied().collect();
        self
    }

    /// With prefixes that routers announce to the guard, each with the peer's name: they are the network's own too.
    #[must_use]
    pub fn with_announced<'a>(mut self, nets: impl IntoIterator<Item = (&'a IpNet, &'a String)>) -> Self {
        self.announcers = nets.into_iter().map(|(net, peer)| (net.trunc(), peer.clone())).collect();
        self.announced = self.announcers.keys().copied().collect();
        self
    }

    /// With local zones: what they hold may be told for their names.
    #[must_use]
    pub fn with_zones(mut self, zones: Arc<ZoneSet>) -> Self {
        self.zones = zones;
        self
    }

    /// Whether an address lies in `addresses.open`, and nothing forbids it.
    #[must_use]
    pub fn is_open(&self, address: IpAddr) -> bool {
        self.open.find(address).is_some() && self.never.find(address).is_none()
    }

    /// Whether an address may be opened for `question` over the aliases `chain` (all of them).
    ///
    /// # Errors
    /// The reason why not.
    pub fn judge(&self, address: IpAddr, question: &Name, chain: &[Name]) -> Result<Admitted, Reason> {
        let forbidden = self.forbidden(address);
        if let Some(reason @ Reason::Never(_)) = forbidden {
            return Err(reason);
        }
        if self.open.find(address).is_some() {
            return Ok(Admitted::AlreadyOpen);
        }
        if let Some(own) = self.infrastructure.get(&address) {
            return self.judge_own(own, address, question, chain);
        }
        let embedded = self.embedded(address);
        if let Some((form, inner)) = embedded
            && let Some(reason) = self.forbidden(IpAddr::V4(inner))
        {
            return Err(Reason::Embedded { form, inner, reason: Box::new(reason) });
        }
        if self.is_private(address, question, chain) {
            return Ok(Admitted::Lease);
        }
        if self.is_of_zone(address, question, chain) {
            let without_guard = !can_be_elsewhere(address) || self.of_this_network(address).is_some();
            return Ok(if without_guard { Admitted::Told } else { Admitted::Lease });
        }
        match embedded {
            Some((Form::Nat64, inner)) if self.is_private(IpAddr::V4(inner), question, chain) => Ok(Admitted::Lease),
            // The operator's own prefix, whatever the registries say of it.
            Some((form @ (Form::Nat64 | Form::SixToFour), inner)) => {
                // A 6to4 prefix may be the network's own; that of a translator is so by its nature.
                if let Some(reason) = self.of_this_network(address).filter(|_| form == Form::SixToFour) {
                    return Err(reason);
                }
                match self.unwanted(IpAddr::V4(inner)) {
                    None => Ok(Admitted::Lease),
                    Some(reason) => Err(Reason::Embedded { form, inner, reason: Box::new(reason) }),
                }
            }
            _ => self.unwanted(address).map_or(Ok(Admitted::Lease), Err),
        }
    }

    /// What no exception lifts.
    fn forbidden(&self, address: IpAddr) -> Option<Reason> {
        if let Some(net) = self.never.find(address) {
            return Some(Reason::Never(net));
        }
        self.infrastructure.get(&address).map(|own| Reason::Infrastructure(own.label.clone()))
    }

    /// The guard's own addresses are never opened. This host's are told, in special-purpose space by the operator's word; so an upstream's is opened
    /// (a home router has a page of its own) where no router is told routes.
    fn judge_own(&self, own: &Own, address: IpAddr, question: &Name, chain: &[Name]) -> Result<Admitted, Reason> {
        let private = self.is_private(address, question, chain) || self.is_of_zone(address, question, chain);
        if own.here && (private || registries(address).is_none()) {
            Ok(Admitted::Here)
        } else if own.upstream && private && !self.announces {
            Ok(Admitted::Lease)
        } else {
            Err(Reason::Infrastructure(own.label.clone()))
        }
    }

    /// Why an address is the network's own.
    fn of_this_network(&self, address: IpAddr) -> Option<Reason> {
        let on_link = || {
            let net = self.on_link.find(address)?;
            Some(Reason::OnLink(net, self.links.get(&net)?.clone()))
        };
        let announced = || {
            let net = self.announced.find(address)?;
            Some(Reason::Announced(net, self.announcers.get(&net)?.clone()))
        };
        self.inside.find(address).map(Reason::Inside).or_else(on_link).or_else(announced)
    }

    /// What only the operator's words lift.
    fn unwanted(&self, address: IpAddr) -> Option<Reason> {
        if let Some(reason) = self.of_this_network(address) {
            return Some(reason);
        }
        let public = || self.public_resolvers.find(address).and_then(|_| public_resolvers::operator(address));
        registries(address).or_else(|| public().map(Reason::PublicResolver))
    }

    fn is_private(&self, address: IpAddr, question: &Name, chain: &[Name]) -> bool {
        // Each name by an entry of its own: whoever may point there may also point to another who may.
        self.may_have(address, chain.last().unwrap_or(question)) && self.may_lead_to(address, question, chain)
    }

    /// Whether the local zone in which the aliases end holds the address. A name of somebody else's can't lead to it.
    fn is_of_zone(&self, address: IpAddr, question: &Name, chain: &[Name]) -> bool {
        self.holds(address, chain.last().unwrap_or(question)) && self.may_lead_to(address, question, chain)
    }

    /// By an entry of `policy.private`.
    fn may_have(&self, address: IpAddr, name: &Name) -> bool {
        self.private.iter().any(|entry| entry.holds(address) && name.is_within(&entry.domain))
    }

    /// Whether every name lies where the operator says what it leads to.
    fn may_lead_to(&self, address: IpAddr, question: &Name, chain: &[Name]) -> bool {
        let may = |name: &Name| self.may_have(address, name) || self.zones.zone_of(name).is_some();
        may(question) && chain.iter().all(may)
    }

    fn holds(&self, address: IpAddr, name: &Name) -> bool {
        self.zones.zone_of(name).is_some_and(|zone| zone.holds(address))
    }

    /// Whether the local zone in which the aliases end has the address no more.
    #[must_use]
    pub fn is_gone_from_zone(&self, address: IpAddr, question: &Name, chain: &[Name]) -> bool {
        let end = chain.last().unwrap_or(question);
        self.zones.zone_of(end).is_some() && !self.holds(address, end)
    }

    /// Local zones that hold the address.
    pub fn zones_holding(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        self.zones.holding(address)
    }

    /// Entries of `policy.private`, by their place in the configuration, that hold this address or the IPv4 address inside, each with its domain.
    pub fn private_entries(&self, address: IpAddr) -> impl Iterator<Item = (usize, &Name)> {
        let inner = self.embedded(address).map(|(_, inner)| IpAddr::V4(inner));
        let holds = move |net: &IpNet| net.contains(&address) || inner.is_some_and(|inner| net.contains(&inner));
        let entries = self.private.iter().enumerate().filter(move |(_, private)| private.prefixes.iter().any(holds));
        entries.map(|(place, private)| (place, &private.domain))
    }

    /// Whether some name could open the address.
    #[must_use]
    pub fn may_be_leased(&self, address: IpAddr) -> bool {
        let root = Name::root();
        let mut domains = std::iter::once(&root).chain(self.private_entries(address).map(|(_, domain)| domain));
        domains.any(|domain| self.judge(address, domain, &[]) == Ok(Admitted::Lease))
    }

    /// The entry of `policy.private` without which an answer to `question` could not open the address; `None`: it needs none, or there is none.
    #[must_use]
    pub fn lifted_by(&self, address: IpAddr, question: &Name) -> Option<usize> {
        let (root, aliases): (_, &[Name]) = (Name::root(), &[]);
        let without = |place: &usize| self.private.get(*place).is_some_and(|private| private.domain != root);
        // Where even a question in no domain may open it, nothing is lifted.
        if self.judge(address, &root, aliases).is_ok()
            && self.private_entries(address).all(|(place, _)| without(&place))
        {
            return None;
        }
        self.private_entries(address).find(|(_, domain)| question.is_within(domain)).map(|(place, _)| place)
    }

    /// The IPv4 address inside, if the form holds one.
    pub(crate) fn embedded(&self, address: IpAddr) -> Option<(Form, Ipv4Addr)> {
        let IpAddr::V6(address) = address else { return None };
        let last = Ipv4Addr::from_bits(u32::try_from(address.to_bits() & 0xffff_ffff).ok()?);
        if self.nat64.is_some_and(|net| net.contains(&address)) {
            return Some((Form::Nat64, last));
        }
        match address.segments() {
            [0, 0, 0, 0, 0, 0xffff, _, _] => Some((Form::Mapped, last)),
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
            [0, 0, 0, 0, 0, 0, _, _] => Some((Form::Compatible, last)),
            [0x2002, high, low, ..] => {
                Some((Form::SixToFour, Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))))
            }
            _ => None,
        }
    }
}

/// Whether an address can be another host's beyond the client's own link.
#[must_use]
pub fn can_be_elsewhere(address: IpAddr) -> bool {
    let nowhere = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(nowhere || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// Why the registries forbid an address; 6to4 is not looked into here.
fn registries(address: IpAddr) -> Option<Reason> {
    match special::find(address) {
        Some(special) if special.admit => None,
        Some(special) => Some(Reason::Special(special)),
        None => match address {
            IpAddr::V6(v6) if v6.segments()[0] & 0xe000 != 0x2000 => Some(Reason::NotGlobalUnicast),
            _ => None,
        },
    }
}

/// An IPv4-mapped address as the IPv4 address it is.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// How the label of an upstream begins.
const UPSTREAM: &str = "upstream ";

/// The guard's own addresses that the configuration names: peers, local addresses, next hops, router id, upstreams, listeners. Each with the
/// key that named it.
///
/// # Errors
/// Upstreams whose address can't be read.
pub fn infrastructure(config: &Config) -> Result<Vec<(IpAddr, String)>, Vec<PolicyError>> {
    let mut all: Vec<(IpAddr, String)> = Vec::new();
    let mut errors = Vec::new();
    for (place, upstream) in config.dns.upstream.iter().enumerate() {
        match upstream.url.parse::<UpstreamUrl>() {
            Ok(url) => all.push((url.addr.ip(), format!("{UPSTREAM}{}", upstream.url))),
            Err(error) => errors.push(PolicyError {
                key: format!("dns.upstream[{place}].url"),
                text: upstream.url.clone(),
                reason: error.to_string(),
            }),
        }
    }
    let bgp = &config.bgp;
    for peer in &bgp.peer {
        all.push((*peer.address, format!("bgp.peer {}", peer.name)));
        all.extend(peer.local_address.map(|address| (address, format!("local_address of bgp.peer {}", peer.name))));
    }
    all.extend(bgp.edge.iter().map(|edge| (*edge.address, format!("bgp.edge {}", edge.name))));
    all.extend(bgp.service.addresses.iter().map(|address| (*address, "bgp.service.addresses".to_owned())));
    for peer in &bgp.service.peer {
        all.push((*peer.address, format!("bgp.service.peer {}", peer.name)));
        all.push((peer.local_address, format!("local_address of bgp.service.peer {}", peer.name)));
    }
    all.extend(bgp.router_id.map(|address| (IpAddr::V4(address), "bgp.router_id".to_owned())));
    all.extend(bgp.next_hop_ipv4.map(|address| (IpAddr::V4(address), "bgp.next_hop_ipv4".to_owned())));
    all.extend(bgp.next_hop_ipv6.map(|address| (IpAddr::V6(address), "bgp.next_hop_ipv6".to_owned())));
    let tls = &config.dns.tls;
    let listeners = [
        ("dns.listen", &config.dns.listen),
        ("dns.tls.dot", &tls.dot),
        ("dns.tls.doh", &tls.doh),
        ("dns.tls.doq", &tls.doq),
        ("bgp.listen", &bgp.listen),
        ("http.listen", &config.http.listen),
    ];
    for (key, sockets) in listeners {
        all.extend(sockets.iter().map(|socket| (socket.ip(), key.to_owned())));
    }
    if errors.is_empty() { Ok(all) } else { Err(errors) }
}
