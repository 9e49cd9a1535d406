//! Rules and sets as one timed table.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ipset::{Element, Kind, LONGEST, SetError, Sets, Shape};
use super::program::{ProgramError, Programs, Variant};
use super::rules::{self, Chains, FILTER, Family, Saved, Set, TABLES, TableOf};
use super::{CUTS, counters};
use crate::config::schema::Scope;
use crate::core::narrow::{HOST, Narrow, Port, Who};
use crate::enforce::nftables::kernel::Kernel;
use crate::enforce::nftables::ruleset::Settings;
use crate::enforce::nftables::wire::{self, F_REQUEST, SUBSYS_NFTABLES, Writer};
use crate::enforce::nftables::{Counters, arming, conntrack};
use crate::enforce::rules::Rules;
use crate::enforce::timed::{Entry, Held, Installed, Table, TableError};
use crate::sys::xtables;

/// How long connections from before are found.
const ADOPT: u32 = 300;
/// The least time between two readings of all rules, while nothing seems to have changed.
const READ_PAUSE: Duration = Duration::from_secs(5);
/// And how much longer than one takes: while nothing seems to have changed, and while something does.
const READ_SHARE: u32 = 200;
const READ_SHARE_CHANGED: u32 = 20;
/// How long the kernel may take to let go of a set that no rule uses any more.
const LETTING_GO: Duration = Duration::from_secs(3);

/// What others see of it: see [`counters`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Once they are chosen.
    pub(super) programs: Option<Programs>,
    /// What was counted before rules were replaced.
    pub(super) base: Counters,
}

/// Rules and sets of this network namespace.
#[derive(Debug)]
pub(super) struct Filter {
    rules: Rules,
    families: Vec<Family>,
    sets: Option<Sets>,
    list: Option<(Sets, VecDeque<(Set, Family)>)>,
    /// As they were read back behind the last installation.
    installed: BTreeMap<(Family, usize), Saved>,
    /// Whether this process has guarded this host, and hosts behind it.
    guarded: Option<(bool, bool)>,
    /// What the kernel said of the rules when they were read last.
    token: Option<Vec<u8>>,
    /// When they were read last, and how long that took.
    read: (Instant, Duration),
    seen: Arc<Mutex<Seen>>,
}

impl From<SetError> for TableError {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Full(_) => Self::Full(error.into()),
            SetError::Gone(_) => Self::Gone(error.into()),
            _ => Self::Other(error.into()),
        }
    }
}

impl From<ProgramError> for TableError {
    fn from(error: ProgramError) -> Self {
        Self::Other(error.into())
    }
}

/// The families that this kernel has.
fn families() -> Vec<Family> {
    let six = Path::new("/proc/sys/net/ipv6").exists();
    Family::ALL.into_iter().filter(|family| *family == Family::V4 || six).collect()
}

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Where an entry is held; `None`: nowhere.
fn place(entry: &Entry) -> Option<(Set, Family, Element)> {
    let element = |first, port, second| Element { first, port, second };
    let (set, address, element) = match *entry {
        Entry::Address(address) => (Set::Lease, address, element(address, None, None)),
        Entry::Cut(address) => (Set::Cut, address, element(address, None, None)),
        Entry::Pair((address, Narrow { who, to })) => {
            let port = match to {
                Port::Any => None,
                Port::Of { protocol, port } => Some((protocol, port)),
            };
            match (who, port) {
                // What the driver makes of it is an address.
                (Who::Anyone | Who::Client(HOST), None) | (Who::Application(_), _) => return None,
                // This host's own: the chains of what is forwarded look for the client as well, where there are clients.
                (Who::Anyone | Who::Client(HOST), Some(_)) => (Set::Port, address, element(address, port, None)),
                (Who::Client(client), _) if client.is_ipv4() != address.is_ipv4() => return None,
                (Who::Client(client), None) => (Set::Pair, address, element(client, None, Some(address))),
                (Who::Client(client), Some(_)) => (Set::PairPort, address, element(client, port, Some(address))),
            }
        }
    };
    Some((set, family(address), element))
}

fn entry(set: Set, element: &Element, scope: Scope) -> Option<Entry> {
    let to = element.port.map_or(Port::Any, |(protocol, port)| Port::Of { protocol, port });
    match set {
        Set::Lease => Some(Entry::Address(element.first)),
        Set::Cut => Some(Entry::Cut(element.first)),
        Set::Port => {
            let who = if scope == Scope::Client { Who::Client(HOST) } else { Who::Anyone };
            Some(Entry::Pair((element.first, Narrow { who, to })))
        }
        Set::Pair | Set::PairPort => {
            Some(Entry::Pair((element.second?, Narrow { who: Who::Client(element.first), to })))
        }
        Set::Adopt => None,
    }
}

impl Filter {
    pub(super) fn new(rules: &Rules, seen: Arc<Mutex<Seen>>) -> Self {
        Self {
            rules: rules.clone(),
            families: families(),
            sets: None,
            list: None,
            installed: BTreeMap::new(),
            guarded: None,
            token: None,
            read: (Instant::now(), Duration::ZERO),
            seen,
        }
    }

    fn sets(&mut self) -> Result<&mut Sets, TableError> {
        if self.sets.is_none() {
            self.sets = Some(Sets::open()?);
        }
        self.sets.as_mut().ok_or_else(|| TableError::Other("no socket".into()))
    }

    fn programs(&self) -> Result<Programs, TableError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.programs.is_none() {
            let chosen = Programs::choose()?;
            tracing::info!(variant = chosen.variant.name(), "iptables is used");
            seen.programs = Some(chosen);
        }
        seen.programs.clone().ok_or_else(|| ProgramError::NoneChosen.into())
    }

    /// Makes the sets that the rules look into, and lets those that are there grow. Returns whether leases may be gone, and whether they were moved.
    fn make_sets(&mut self) -> Result<(bool, bool), TableError> {
        let (mut fresh, mut moved) = (false, false);
        let rules = &self.rules;
        let needed = |family: &Family| {
            let needed = Set::ALL.into_iter().filter(|set| set.is_needed(rules));
            let family = *family;
            needed.map(move |set| (set, family, set.shape(family, rules))).collect::<Vec<_>>()
        };
        let wanted: Vec<(Set, Family, Shape)> = self.families.iter().flat_map(needed).collect();
        for (set, family, shape) in wanted {
            let name = set.name(family);
            let sets = self.sets()?;
            match sets.shape(name)? {
                Some(found) if found.kind == shape.kind && (found.ipv4 == shape.ipv4 || shape.kind == Kind::Ports) => {
                    if found.most < shape.most {
                        grow(sets, name, shape)?;
                        moved = true;
                    }
                }
                found => {
                    if found.is_some() || sets.is_there(name)? {
                        tracing::warn!("ipset {name} can't be taken over and is made anew");
                        remove_rules()?;
                        destroy(sets, name)?;
                    }
                    sets.create(name, shape)?;
                    fresh |= set != Set::Cut && set != Set::Adopt;
                }
            }
        }
        Ok((fresh, moved))
    }

    /// Sets of other rules.
    fn remove_unused(&mut self) -> Result<(), TableError> {
        let rules = self.rules.clone();
        for family in Family::ALL {
            for set in Set::ALL.into_iter().filter(|set| !set.is_needed(&rules)) {
                destroy(self.sets()?, set.name(family))?;
            }
        }
        Ok(())
    }

    /// Has connections live on that were there before the host, or those behind it, were guarded.
    fn adopt(&mut self, programs: &Programs, found: &Saved) -> Result<(), TableError> {
        let (local, gateway) = match self.guarded {
            Some((local, gateway)) => (!local, !gateway),
            None => (found.jumps("OUTPUT", "destguard-out").0 == 0, found.jumps("FORWARD", "destguard-fwd").0 == 0),
        };
        let (local, gateway) = (local && rules::local(&self.rules), gateway && rules::forwards(&self.rules));
        if !local && !gateway {
            return Ok(());
        }
        if !found.has_ours() {
            for family in self.families.clone() {
                let found = programs.save(family, FILTER.name)?;
                put(programs, family, &FILTER, &rules::tracking(), &found)?;
            }
        }
        if local {
            match arming::adopt() {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "connections from before the start go on"),
                Err(error) => {
                    tracing::warn!(%error, "connections from before the start may end: they can't be made known");
                }
            }
        }
        if gateway {
            for family in self.families.clone() {
                self.sets()?.add_ports(Set::Adopt.name(family), ADOPT)?;
            }
        }
        Ok(())
    }

    fn replace_rules(&mut self, programs: &Programs) -> Result<(), TableError> {
        let before = counters::read(programs, &self.families).unwrap_or_default();
        for family in self.families.clone() {
            for table in TABLES {
                let wanted = rules::of(table, &self.rules, family);
                let found = programs.save(family, table.name)?;
                put(programs, family, table, &wanted, &found)?;
            }
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.base = counters::sum(seen.base, before);
        Ok(())
    }

    /// Reads all rules back, and sees that every one is there.
    fn verify(&mut self, programs: &Programs) -> Result<(), TableError> {
        let token = self.token(programs);
        let begin = Instant::now();
        let mut installed = BTreeMap::new();
        for family in self.families.clone() {
            for (place, table) in TABLES.into_iter().enumerate() {
                let wanted = rules::of(table, &self.rules, family);
                let saved = programs.save(family, table.name)?;
                let own = saved.own();
                let counts = own.iter().map(|(chain, rules)| (chain.as_str(), Some(rules.len())));
                let all_there = own.len() == wanted.0.len()
                    && counts.into_iter().all(|(chain, count)| wanted.count(chain) == count)
                    && table.jumps.iter().all(|(from, to)| {
                        saved.jumps(from, to) == if wanted.count(to).is_some() { (1, true) } else { (0, false) }
                    });
                if !all_there {
                    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
                    let what = format!("table {} of {program} was read back otherwise than it was written", table.name);
                    return Err(TableError::Other(what.into()));
                }
                installed.insert((family, place), saved);
            }
        }
        (self.installed, self.token, self.read) = (installed, token, (Instant::now(), begin.elapsed()));
        Ok(())
    }

    /// What changes when rules do; `None`: the kernel doesn't say.
    fn token(&self, programs: &Programs) -> Option<Vec<u8>> {
        match programs.variant {
            Variant::Legacy => {
                let mut token = Vec::new();
                for family in &self.families {
                    token.extend(xtables::filter_info(*family == Family::V4).ok()?);
                }
                Some(token)
            }
            Variant::Nft => generation(),
        }
    }

    /// What of the rules is not as it was read back.
    fn difference(&mut self, programs: &Programs) -> Result<Option<String>, TableError> {
        let token = self.token(programs);
        let begin = Instant::now();
        let mut difference = None;
        for ((family, place), before) in &self.installed {
            let Some(table) = TABLES.get(*place).filter(|_| before.has_ours()) else { continue };
            let now = programs.save(*family, table.name)?;
            difference = difference.or_else(|| {
                let what = rules::difference(table, before, &now)?;
                Some(format!("{}: {what}", if *family == Family::V4 { "iptables" } else { "ip6tables" }))
            });
        }
        (self.token, self.read) = (token, (Instant::now(), begin.elapsed()));
        Ok(difference)
    }
}

/// The generation of nf_tables: each transaction of anybody counts it up.
fn generation() -> Option<Vec<u8>> {
    const GET_GENERATION: u8 = 16;
    const GENERATION: u16 = 1;
    let mut kernel = Kernel::open().ok()?;
    let sequence = kernel.next_sequence();
    let mut writer = Writer::default();
    let message = writer.begin(wire::kind(SUBSYS_NFTABLES, GET_GENERATION), F_REQUEST, sequence, 0, 0);
    writer.end(message);
    let mut found = None;
    let asked = kernel.ask("asking for the generation", sequence, writer.octets(), |message| {
        found = wire::find(message.attributes(), GENERATION).map(<[u8]>::to_vec);
    });
    asked.ok().and(found)
}

fn put(programs: &Programs, family: Family, table: &TableOf, wanted: &Chains, found: &Saved) -> Result<(), TableError> {
    let Some(text) = rules::replacing(table, wanted, found) else { return Ok(()) };
    Ok(programs.restore(family, &text)?)
}

/// Gives a set room for more, with what it holds.
fn grow(sets: &mut Sets, name: &str, shape: Shape) -> Result<(), TableError> {
    let larger = format!("{name}-new");
    sets.destroy(&larger)?;
    sets.create(&larger, shape)?;
    let mut list = Sets::open()?;
    list.list(name)?;
    while let Some(part) = list.listed(name)? {
        // What is left was rounded down.
        let part: Vec<(Element, u32)> = part
            .into_iter()
            .filter_map(|(element, left)| Some((element, left?.saturating_add(1).min(longest()))))
            .collect();
        sets.add(&larger, &part)?;
    }
    sets.swap(name, &larger)?;
    Ok(destroy(sets, &larger)?)
}

fn longest() -> u32 {
    u32::try_from(LONGEST.as_secs()).unwrap_or(u32::MAX)
}

/// Removes a set. The kernel lets go of it a little after the last rule.
fn destroy(sets: &mut Sets, name: &str) -> Result<(), SetError> {
    let begin = Instant::now();
    loop {
        match sets.destroy(name) {
            Err(SetError::Busy(_)) if begin.elapsed() < LETTING_GO => std::thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
}

/// Removes our rules from every variant.
fn remove_rules() -> Result<(), TableError> {
    for programs in Programs::available()? {
        remove_rules_of(&programs)?;
    }
    Ok(())
}

fn remove_rules_of(programs: &Programs) -> Result<(), TableError> {
    for family in families() {
        for table in TABLES {
            let found = programs.save(family, table.name)?;
            if found.has_ours() {
                put(programs, family, table, &Chains::default(), &found)?;
            }
        }
    }
    Ok(())
}

/// Removes our rules and sets.
pub(super) fn remove_all() -> Result<(), TableError> {
    if Programs::available().is_ok() {
        remove_rules()?;
    }
    let mut sets = Sets::open()?;
    for family in Family::ALL {
        for set in Set::ALL {
            match destroy(&mut sets, set.name(family)) {
                // A kernel without ipsets has none of ours.
                Ok(()) | Err(SetError::Other { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Whether anything of ours is there: rules can't be without the sets they look into.
pub(super) fn is_there() -> Result<bool, SetError> {
    // To ask would load the module, on every host that never had an ipset.
    let modules = Path::new("/sys/module");
    if modules.is_dir() && !modules.join("ip_set").exists() {
        return Ok(false);
    }
    let mut sets = Sets::open()?;
    match sets.is_there(Set::Lease.name(Family::V4)) {
        // A kernel without ipsets has none of ours.
        Err(SetError::Other { .. }) => Ok(false),
        other => other,
    }
}

impl Table for Filter {
    fn name(&self) -> &'static str {
        "iptables"
    }

    fn set(&mut self, rules: &Rules) {
        self.rules = rules.clone();
    }

    fn install(&mut self) -> Result<Installed, TableError> {
        let programs = self.programs()?;
        let (fresh, moved) = self.make_sets()?;
        let found = programs.save(Family::V4, FILTER.name)?;
        self.adopt(&programs, &found)?;
        self.replace_rules(&programs)?;
        self.verify(&programs)?;
        self.guarded = Some((rules::local(&self.rules), rules::forwards(&self.rules)));
        for other in Programs::available()? {
            if other.variant != programs.variant {
                remove_rules_of(&other)?;
            }
        }
        self.remove_unused()?;
        let settings = Settings::of(&self.rules);
        if self.rules.config.enforce && (rules::forwards(&self.rules) || self.rules.config.redirect_dns) {
            match Kernel::open().and_then(|mut kernel| arming::end_foreign_dns(&mut kernel, &settings)) {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "flows to other resolvers were ended"),
                Err(error) => tracing::warn!(%error, "flows to other resolvers are refused, but can't be redirected"),
            }
        }
        Ok(Installed { fresh, moved, left_out: Vec::new() })
    }

    fn look(&mut self) -> Result<Option<String>, TableError> {
        let programs = self.programs()?;
        let (at, took) = self.read;
        let token = self.token(&programs);
        let same = token.is_some() && token == self.token;
        let pause = if same { READ_PAUSE.max(took * READ_SHARE) } else { took * READ_SHARE_CHANGED };
        if at.elapsed() < pause {
            return Ok(None);
        }
        self.difference(&programs)
    }

    fn write(&mut self, remove: &[Entry], put: &[(Entry, Duration)]) -> Result<(), TableError> {
        let mut removed: BTreeMap<(Set, Family), Vec<Element>> = BTreeMap::new();
        for entry in remove {
            let Some((set, family, element)) = place(entry) else { continue };
            removed.entry((set, family)).or_default().push(element);
        }
        let mut added: BTreeMap<(Set, Family), Vec<(Element, u32)>> = BTreeMap::new();
        for (entry, time) in put {
            let Some((set, family, element)) = place(entry) else { continue };
            let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).clamp(1, longest());
            added.entry((set, family)).or_default().push((element, seconds));
        }
        let sets = self.sets()?;
        for ((set, family), elements) in removed {
            match sets.remove(set.name(family), &elements) {
                Err(SetError::Gone(_)) if !added.contains_key(&(set, family)) => {}
                other => other?,
            }
        }
        for ((set, family), elements) in added {
            sets.add(set.name(family), &elements)?;
        }
        Ok(())
    }

    fn has(&mut self, entries: &[Entry]) -> Result<Vec<bool>, TableError> {
        let sets = self.sets()?;
        let has = |entry: &Entry| {
            let Some((set, family, element)) = place(entry) else { return Ok(false) };
            Ok(sets.has(set.name(family), &element)?)
        };
        entries.iter().map(has).collect()
    }

    fn list(&mut self) -> Result<(), TableError> {
        let families = &self.families;
        let all = Set::ALL.into_iter().filter(|set| *set != Set::Adopt && set.is_needed(&self.rules));
        let names = all.flat_map(|set| families.iter().map(move |family| (set, *family))).collect::<VecDeque<_>>();
        let mut sets = Sets::open()?;
        if let Some((set, family)) = names.front() {
            sets.list(set.name(*family))?;
        }
        self.list = Some((sets, names));
        Ok(())
    }

    fn listed(&mut self) -> Result<Option<Vec<Held>>, TableError> {
        let Some((mut sets, mut names)) = self.list.take() else { return Ok(None) };
        let Some((set, family)) = names.front().copied() else { return Ok(None) };
        let scope = self.rules.config.scope;
        let held = match sets.listed(set.name(family))? {
            Some(part) => part
                .into_iter()
                .filter_map(|(element, left)| {
                    let left = left.map(|seconds| Duration::from_secs(u64::from(seconds)));
                    Some(Held { entry: entry(set, &element, scope)?, left })
                })
                .collect(),
            None => {
                names.pop_front();
                let Some((set, family)) = names.front() else { return Ok(None) };
                sets.list(set.name(*family))?;
                Vec::new()
            }
        };
        self.list = Some((sets, names));
        Ok(Some(held))
    }

    fn holds(&self, entry: &Entry) -> bool {
        place(entry).is_some_and(|(_, family, _)| self.families.contains(&family))
    }

    fn forget_flows(&mut self, addresses: &[IpAddr]) -> Result<usize, TableError> {
        let cut = Kernel::open().and_then(|mut kernel| conntrack::cut(&mut kernel, addresses));
        cut.map_err(|error| TableError::Other(error.into()))
    }

    fn remove(&mut self) -> Result<(), TableError> {
        self.guarded = Some((false, false));
        self.installed.clear();
        remove_all()
    }

    fn grain(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn longest(&self) -> Duration {
        LONGEST
    }

    fn cuts(&self) -> usize {
        usize::try_from(CUTS / 2).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_found_again_as_what_it_was() {
        let (one, client) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([10, 0, 0, 7]));
        let to = Port::Of { protocol: 6, port: 443 };
        let pair = |who, to| Entry::Pair((one, Narrow { who, to }));
        let both = [Entry::Address(one), Entry::Cut(one)];
        let shared = [pair(Who::Anyone, to)];
        let clients =
            [pair(Who::Client(HOST), to), pair(Who::Client(client), to), pair(Who::Client(client), Port::Any)];
        for (scope, entries) in
            [(Scope::Shared, both.iter().chain(&shared)), (Scope::Client, both.iter().chain(&clients))]
        {
            for held in entries {
                let (set, family, element) = place(held).unwrap();
                assert_eq!((entry(set, &element, scope), family), (Some(*held), Family::V4));
            }
        }
        assert_eq!(place(&pair(Who::Client("2001:db8::7".parse().unwrap()), to)), None, "no packet can go there");
        assert_eq!(place(&pair(Who::Application(1), Port::Any)), None);
    }
}
