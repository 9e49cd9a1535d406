//! Local zones as names, types and addresses: which zone a name belongs to, and what that zone says of it (RFC 1034 section 4.3.2, RFC 4592).
//!
//! The records themselves stand with [`crate::dns::zones`]. A name that is delegated away, or for which other upstreams are configured, is no zone's.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::answer::rtype;
use super::name::Name;

/// What a zone says of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Records of this type, of the question's name or of the wildcard that stands for it.
    Records {
        /// Who has them in the zone.
        owner: Name,
        /// The type asked for, or CNAME.
        rtype: u16,
    },
    /// The name exists, without such data.
    NoData,
    /// No such name.
    NoName,
}

/// The names of one zone.
#[derive(Clone, Debug)]
pub struct ZoneIndex {
    apex: Name,
    /// Every name that exists with its types; those between have none.
    names: HashMap<Name, SmallVec<[u16; 4]>>,
    addresses: HashSet<IpAddr>,
}

impl ZoneIndex {
    /// With nothing but its top.
    #[must_use]
    pub fn new(apex: Name) -> Self {
        let names = [(apex.clone(), SmallVec::new())].into_iter().collect();
        Self { apex, names, addresses: HashSet::new() }
    }

    /// The zone's name.
    #[must_use]
    pub fn apex(&self) -> &Name {
        &self.apex
    }

    /// A record of this name, which lies within the zone.
    pub fn add(&mut self, owner: &Name, rtype: u16) {
        let mut above = owner.parent();
        let types = self.names.entry(owner.clone()).or_default();
        if !types.contains(&rtype) {
            types.push(rtype);
        }
        while let Some(name) = above.filter(|name| name.is_within(&self.apex) && !self.names.contains_key(name)) {
            above = name.parent();
            self.names.insert(name, SmallVec::new());
        }
    }

    /// An address that a record of the zone holds.
    pub fn add_address(&mut self, address: IpAddr) {
        self.addresses.insert(address);
    }

    /// Whether a record of the zone holds it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether the zone has this very name, be it between others.
    #[must_use]
    pub fn has(&self, name: &Name) -> bool {
        self.names.contains_key(name)
    }

    /// What the zone says of a name within it.
    #[must_use]
    pub fn find(&self, name: &Name, qtype: u16) -> Found {
        if let Some((owner, types)) = self.names.get_key_value(name) {
            return found(owner, types, qtype);
        }
        // RFC 4592 section 3.3.1: only the wildcard right below the closest name that exists stands for it.
        let Some(encloser) = name.suffixes().skip(1).find(|suffix| self.names.contains_key(*suffix)) else {
            return Found::NoName;
        };
        let wildcard: SmallVec<[u8; 256]> = [1, b'*'].iter().chain(encloser).copied().collect();
        match self.names.get_key_value(&*wildcard) {
            Some((owner, types)) => found(owner, types, qtype),
            None => Found::NoName,
        }
    }
}

fn found(owner: &Name, types: &[u16], qtype: u16) -> Found {
    let kind = [qtype, rtype::CNAME].into_iter().find(|kind| types.contains(kind));
    kind.map_or(Found::NoData, |rtype| Found::Records { owner: owner.clone(), rtype })
}

/// All zones of a configuration.
#[derive(Clone, Debug, Default)]
pub struct ZoneSet {
    zones: Vec<Arc<ZoneIndex>>,
    places: HashMap<Name, usize>,
    cuts: HashSet<Name>,
}

impl ZoneSet {
    /// These zones, but for names at and below `cuts`, which others answer for.
    #[must_use]
    pub fn new(zones: Vec<Arc<ZoneIndex>>, cuts: impl IntoIterator<Item = Name>) -> Self {
        let places = zones.iter().enumerate().map(|(place, zone)| (zone.apex.clone(), place)).collect();
        Self { zones, places, cuts: cuts.into_iter().collect() }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// The zone that a name belongs to, by its place.
    #[must_use]
    pub fn place_of(&self, name: &Name) -> Option<usize> {
        if self.zones.is_empty() {
            return None;
        }
        for suffix in name.suffixes() {
            if let Some(place) = self.places.get(suffix) {
                return Some(*place);
            }
            if self.cuts.contains(suffix) {
                return None;
            }
        }
        None
    }

    /// Likewise, the zone itself.
    #[must_use]
    pub fn zone_of(&self, name: &Name) -> Option<&ZoneIndex> {
        self.zones.get(self.place_of(name)?).map(Arc::as_ref)
    }

    /// Zones that hold this address.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        self.zones.iter().filter(move |zone| zone.holds(address)).map(|zone| zone.apex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn records(owner: &str, rtype: u16) -> Found {
        Found::Records { owner: name(owner), rtype }
    }

    /// The zone of RFC 4592 section 2.2.1.
    fn example() -> ZoneIndex {
        let mut zone = ZoneIndex::new(name("example"));
        for (owner, kind) in [
            ("example", 6),
            ("example", 2),
            ("*.example", 16),
            ("*.example", 15),
            ("sub.*.example", 16),
            ("host1.example", 1),
            ("_ssh._tcp.host1.example", 33),
            ("_ssh._tcp.host2.example", 33),
        ] {
            zone.add(&name(owner), kind);
        }
        zone
    }

    #[test]
    fn wildcards_stand_for_what_rfc_4592_says() {
        let zone = example();
        let find = |text: &str, kind| zone.find(&name(text), kind);
        assert_eq!(find("host3.example", 15), records("*.example", 15));
        assert_eq!(find("host3.example", 1), Found::NoData, "the wildcard has no address");
        assert_eq!(find("foo.bar.example", 16), records("*.example", 16));
        assert_eq!(find("host1.example", 15), Found::NoData, "it exists");
        assert_eq!(find("sub.*.example", 15), Found::NoData, "it exists");
        assert_eq!(find("_telnet._tcp.host1.example", 33), Found::NoName, "_tcp.host1.example exists");
        assert_eq!(find("_tcp.host2.example", 33), Found::NoData, "between others");
        assert_eq!(find("host2.example", 15), Found::NoData, "between others");
        assert_eq!(find("ghost.*.example", 15), Found::NoName, "*.example exists, and has no wildcard");
        assert_eq!(find("HOST1.example", 1), records("host1.example", 1));
        assert_eq!(find("example", 28), Found::NoData);
    }

    #[test]
    fn an_alias_stands_for_every_type_but_its_own() {
        let mut zone = ZoneIndex::new(name("z"));
        zone.add(&name("a.z"), 5);
        zone.add(&name("*.w.z"), 5);
        assert_eq!(zone.find(&name("a.z"), 1), records("a.z", 5));
        assert_eq!(zone.find(&name("x.y.w.z"), 28), records("*.w.z", 5));
        assert_eq!(zone.find(&name("w.z"), 28), Found::NoData);
    }

    #[test]
    fn the_deepest_zone_answers_and_what_is_cut_off_nobody_does() {
        let zones = ["z", "b.a.z"].map(|text| Arc::new(ZoneIndex::new(name(text)))).to_vec();
        let set = ZoneSet::new(zones, [name("a.z"), name("x.b.a.z")]);
        let of = |text: &str| set.zone_of(&name(text)).map(|zone| zone.apex().to_string());
        assert_eq!(of("w.z").as_deref(), Some("z"));
        assert_eq!(of("a.z"), None);
        assert_eq!(of("c.a.z"), None);
        assert_eq!(of("b.a.z").as_deref(), Some("b.a.z"));
        assert_eq!(of("x.b.a.z"), None);
        assert_eq!(of("other"), None);
    }
}
