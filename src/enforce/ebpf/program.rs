//! Loads the program with its rules, puts it at the hooks of a cgroup in one stroke, and pins what must outlive the daemon.
//!
//! ```text
//!   /sys/fs/bpf/destguard/  connect4 connect6 sendmsg4 sendmsg6 recvmsg4 recvmsg6   links: hold the program at the cgroup's hooks
//!                           1-lease4-126024 1-lease6-126024 1-cut-16384 ...         tables that outlive programs, by layout and room
//! ```
//!
//! Every change of the rules loads a new program with tables of rules of its own, filled before anything meets it. Then each link is given the new
//! program, by one call: a connection is judged by the old rules or by the new ones. Leases stay in their tables; where these get another size they are
//! copied before.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{CgroupSockAddr, Program as Loaded};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;

use super::error::Error;
use super::{PINS, layout};
use crate::enforce::nftables::{Count, Counters};
use crate::enforce::rules::Rules;
use crate::sys::bpf::{self, Link, Mounted, Shape, Table};

/// Counted up when what lies in a table that outlives programs means something else.
const LAYOUT: u32 = 1;
/// Entries of `answers`.
const ANSWERS: u32 = 65_536;
/// Octets of `refusals`: 4,000 of them wait to be read.
const REFUSALS: u32 = 1 << 18;
/// Entries of `cut`.
pub const CUTS: u32 = 16_384;

const HASH: u32 = 1;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const RING: u32 = 27;

/// Places in `counts`.
const ALLOWED: u32 = 0;
const REPLIES: u32 = 1;
const DENIED: u32 = 2;
const DNS_BYPASS: u32 = 3;
const LOST: u32 = 4;
const COUNTS: u32 = 5;

/// The programs and where they hang (`enum bpf_attach_type`). Those that refuse nothing come first.
const HOOKS: [(&str, u32); 6] =
    [("recvmsg4", 19), ("recvmsg6", 20), ("connect4", 10), ("connect6", 11), ("sendmsg4", 14), ("sendmsg6", 15)];

fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.bpf.o"))
}

/// Tables that outlive programs.
fn kept(rules: &Rules) -> [(&'static str, Shape); 6] {
    let shape = |kind, key: usize, value, most| Shape { kind, key: u32::try_from(key).unwrap_or(0), value, most };
    // What has ended takes room until it is swept away.
    let capacity = rules.capacity.saturating_add(rules.capacity / 4).saturating_add(1024);
    let leases = u32::try_from(capacity).unwrap_or(u32::MAX);
    [
        ("lease4", shape(HASH, layout::LEASE4, 8, leases)),
        ("lease6", shape(HASH, layout::LEASE6, 8, leases)),
        ("cut", shape(HASH, 16, 8, CUTS)),
        ("answers", shape(LRU_HASH, layout::ANSWER, 8, ANSWERS)),
        ("counts", shape(PERCPU_ARRAY, 4, 8, COUNTS)),
        ("refusals", shape(RING, 0, 0, REFUSALS)),
    ]
}

/// A name with a dot is refused.
fn pin_of((name, shape): (&str, Shape)) -> PathBuf {
    Path::new(PINS).join(format!("{LAYOUT}-{name}-{}", shape.most))
}

fn link_of(hook: &str) -> PathBuf {
    Path::new(PINS).join(hook)
}

/// The program in force, and the tables that it shares with this process.
pub struct Program {
    cgroup: u64,
    place: PathBuf,
    links: Vec<(&'static str, Link, bpf::LinkInfo)>,
    pins: Vec<(PathBuf, u32)>,
    /// Leases of each family.
    pub lease4: Table,
    /// Leases of IPv6 addresses.
    pub lease6: Table,
    /// What is closed also to replies.
    pub cut: Table,
    /// Who may be answered.
    pub answers: Table,
    here: HashMap<MapData, [u8; 16], u8>,
    known: BTreeSet<IpAddr>,
    /// The tables of leases are new and empty.
    pub fresh: bool,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("cgroup", &self.place).field("links", &self.links).finish_non_exhaustive()
    }
}

/// Makes the place for pins.
///
/// # Errors
/// [`Error::Pins`].
pub fn make_place() -> Result<(), Error> {
    let pins = |error: io::Error| Error::Pins(error.to_string());
    let above = Path::new(PINS).parent().unwrap_or(Path::new("/"));
    if bpf::mounted(above).map_err(pins)? != Mounted::Bpf {
        return Err(Error::Pins(format!("{} is of another file system", above.display())));
    }
    match fs::DirBuilder::new().mode(0o700).create(PINS) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(pins(error)),
        _ => Ok(()),
    }
}

/// The cgroup's directory and number.
fn open_cgroup(place: &Path) -> Result<(File, u64), Error> {
    let refused = |error: io::Error| Error::cgroup(place, format!("can't be used: {error}"));
    if bpf::mounted(place).map_err(refused)? != Mounted::Cgroup2 {
        return Err(Error::cgroup(place, "is none"));
    }
    let directory = File::open(place).map_err(refused)?;
    let number = directory.metadata().map_err(refused)?.ino();
    Ok((directory, number))
}

impl Program {
    /// Puts these rules in force for the processes of their cgroup; `here`: this host's own addresses.
    ///
    /// # Errors
    /// [`Error`]; what was in force before is in force.
    pub fn install(rules: &Rules, here: &[IpAddr]) -> Result<Self, Error> {
        make_place()?;
        let place = rules.special.cgroup.as_path();
        let (cgroup, number) = open_cgroup(place)?;
        let kept = kept(rules);
        let pins = kept.map(pin_of);
        for ((_, shape), pin) in kept.iter().zip(&pins) {
            take_wrong(*shape, pin)?;
        }
        let adopted: Vec<bool> = pins.iter().map(|pin| pin.exists()).collect();
        let mut ebpf = load(&kept, &pins)?;
        // All of them, before the first is put in force, and while the tables are there.
        let programs = programs(&mut ebpf)?;
        let lease4 = table(&mut ebpf, "lease4")?;
        let lease6 = table(&mut ebpf, "lease6")?;
        let mut fresh = false;
        for ((table, (name, shape)), adopted) in [&lease4, &lease6].into_iter().zip(kept).zip(&adopted) {
            fresh |= !adopted && !copy_others(table, name, shape)?;
        }
        let cut = table(&mut ebpf, "cut")?;
        let answers = table(&mut ebpf, "answers")?;
        fill(&mut ebpf, rules)?;
        let here_table = HashMap::try_from(take(&mut ebpf, "here")?).map_err(Error::map("own addresses"))?;
        let mut program = Self {
            cgroup: number,
            place: place.to_owned(),
            links: Vec::new(),
            pins: Vec::new(),
            lease4,
            lease6,
            cut,
            answers,
            here: here_table,
            known: BTreeSet::new(),
            fresh,
        };
        program.set_here(here)?;
        program.attach(&programs, cgroup.as_fd())?;
        for pin in pins {
            let id = pinned_id(&pin).map_err(Error::call(format!("reading {}", pin.display())))?;
            program.pins.push((pin, id));
        }
        program.sweep_pins();
        Ok(program)
    }

    /// Gives every link the new program, and makes those that aren't there.
    fn attach(&mut self, programs: &[Hung], cgroup: BorrowedFd<'_>) -> Result<(), Error> {
        let mut made: Vec<PathBuf> = Vec::new();
        let attached = programs.iter().try_for_each(|(hook, kind, program)| {
            let path = link_of(hook);
            let old = Link::pinned(&path).ok();
            let lives = old.as_ref().and_then(|link| link.info().ok()).is_some_and(|info| info.cgroup == self.cgroup);
            let link = match old {
                Some(link) if lives => {
                    link.update(program.as_fd()).map_err(Error::call(format!("giving {hook} a new program")))?;
                    link
                }
                _ => {
                    let link = Link::create(program.as_fd(), cgroup, *kind).map_err(|error| Error::Load {
                        reason: format!("{hook} of {}: {error}", self.place.display()),
                    })?;
                    pin_over(&link, &path)?;
                    made.push(path);
                    link
                }
            };
            let info = link.info().map_err(Error::call(format!("reading {hook}")))?;
            self.links.push((*hook, link, info));
            Ok(())
        });
        if attached.is_err() {
            // Where nothing was guarded nothing is, rather than the half of it.
            self.links.clear();
            made.iter().for_each(|path| forget(path));
        }
        attached
    }

    /// Takes away what earlier programs have left: tables of another size or layout.
    fn sweep_pins(&self) {
        let used = |path: &Path| {
            self.pins.iter().any(|(pin, _)| pin == path) || HOOKS.iter().any(|(hook, _)| link_of(hook) == path)
        };
        names().iter().filter(|path| !used(path)).for_each(|path| forget(path));
    }

    /// What isn't as it was installed: links that others took or gave another program, pins that are gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn look(&self) -> Result<Option<String>, Error> {
        for (hook, link, installed) in &self.links {
            let now = link.info().map_err(Error::call(format!("reading {hook}")))?;
            if now.cgroup != installed.cgroup {
                return Ok(Some(format!("{hook} was detached from {}", self.place.display())));
            }
            if now.program != installed.program {
                return Ok(Some(format!("{hook} was given another program")));
            }
            let pinned = Link::pinned(&link_of(hook)).and_then(|link| link.info());
            if pinned.is_ok_and(|pinned| pinned.id == installed.id) {
                continue;
            }
            return Ok(Some(format!("the pin {} is gone, or another's", link_of(hook).display())));
        }
        for (pin, id) in &self.pins {
            if pinned_id(pin).ok() != Some(*id) {
                return Ok(Some(format!("the pin {} is gone, or another's", pin.display())));
            }
        }
        let cgroup = fs::metadata(&self.place).map(|metadata| metadata.ino());
        if cgroup.is_ok_and(|number| number != self.cgroup) {
            return Ok(Some(format!("{} is another control group now", self.place.display())));
        }
        Ok(None)
    }

    /// This host's own addresses are these from now on.
    ///
    /// # Errors
    /// [`Error`].
    pub fn set_here(&mut self, here: &[IpAddr]) -> Result<(), Error> {
        let here: BTreeSet<IpAddr> = here.iter().copied().collect();
        for address in here.difference(&self.known) {
            self.here.insert(layout::address(*address), 1, 0).map_err(Error::map("own addresses"))?;
        }
        for address in self.known.difference(&here) {
            // It may be gone.
            drop(self.here.remove(&layout::address(*address)));
        }
        self.known = here;
        Ok(())
    }
}

/// Removes a pin whose table isn't as its name says.
fn take_wrong(shape: Shape, pin: &Path) -> Result<(), Error> {
    if !pin.exists() {
        return Ok(());
    }
    let found = bpf::pinned(pin).and_then(Table::of).map(|table| table.shape());
    if found.is_ok_and(|found| found == shape) {
        return Ok(());
    }
    tracing::warn!(pin = %pin.display(), "a table is not as it should be; it is made anew");
    fs::remove_file(pin).map_err(Error::call(format!("removing {}", pin.display())))
}

fn load(kept: &[(&'static str, Shape); 6], pins: &[PathBuf; 6]) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    for ((name, shape), pin) in kept.iter().zip(pins) {
        loader.map_max_entries(name, shape.most);
        loader.map_pin_path(name, pin.as_path());
    }
    loader.load(object()).map_err(|error| Error::load(&error))
}

/// A program and where it is to hang.
type Hung = (&'static str, u32, OwnedFd);

fn programs(ebpf: &mut Ebpf) -> Result<Vec<Hung>, Error> {
    let loaded = HOOKS.into_iter().map(|(hook, kind)| {
        let program: &mut CgroupSockAddr = match ebpf.program_mut(hook) {
            Some(Loaded::CgroupSockAddr(program)) => program,
            _ => return Err(Error::Lacks(hook)),
        };
        program.load().map_err(|error| Error::load(&error))?;
        let fd = program.fd().map_err(|error| Error::load(&error))?;
        Ok((hook, kind, fd.as_fd().try_clone_to_owned().map_err(Error::call("keeping a program"))?))
    });
    loaded.collect()
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or(Error::Lacks(name))
}

fn table(ebpf: &mut Ebpf, name: &'static str) -> Result<Table, Error> {
    let (Map::HashMap(data) | Map::LruHashMap(data)) = take(ebpf, name)? else { return Err(Error::Lacks(name)) };
    let fd = data.fd().as_fd().try_clone_to_owned();
    fd.and_then(Table::of).map_err(Error::call(format!("reading the table {name}")))
}

/// Takes the leases of a table of the same name that has another size; false: there is none.
fn copy_others(to: &Table, name: &str, shape: Shape) -> Result<bool, Error> {
    let start = format!("{LAYOUT}-{name}-");
    let own = pin_of((name, shape));
    let others = names()
        .into_iter()
        .filter(|path| *path != own && path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&start)));
    let mut copied = false;
    for path in others {
        let doing = || format!("copying {}", path.display());
        let from = bpf::pinned(&path).and_then(Table::of).map_err(Error::call(doing()))?;
        if (from.shape().key, from.shape().value) != (shape.key, shape.value) {
            continue;
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let read = from.each(|key, value| {
            keys.extend_from_slice(key);
            values.extend_from_slice(value);
        });
        // What has no room is refused when the full state comes.
        read.and_then(|()| to.put(&keys, &values)).map_err(Error::call(doing()))?;
        copied = true;
    }
    Ok(copied)
}

/// Fills a table of prefixes of each family.
fn fill_prefixes(ebpf: &mut Ebpf, names: (&'static str, &'static str), nets: &[IpNet]) -> Result<(), Error> {
    let (ipv4, ipv6) = layout::prefixes(nets);
    let mut trie: LpmTrie<_, [u8; 4], u8> = LpmTrie::try_from(take(ebpf, names.0)?).map_err(Error::map(names.0))?;
    for (length, address) in ipv4 {
        trie.insert(&Key::new(length, address), 1, 0).map_err(Error::map(names.0))?;
    }
    let mut trie: LpmTrie<_, [u8; 16], u8> = LpmTrie::try_from(take(ebpf, names.1)?).map_err(Error::map(names.1))?;
    for (length, address) in ipv6 {
        trie.insert(&Key::new(length, address), 1, 0).map_err(Error::map(names.1))?;
    }
    Ok(())
}

/// Fills the tables of rules.
fn fill(ebpf: &mut Ebpf, rules: &Rules) -> Result<(), Error> {
    fill_prefixes(ebpf, ("open4", "open6"), &rules.open)?;
    fill_prefixes(ebpf, ("doh4", "doh6"), &rules.special.doh)?;
    let mut services: HashMap<_, [u8; layout::LEASE6], u8> =
        HashMap::try_from(take(ebpf, "services")?).map_err(Error::map("local discovery"))?;
    for service in layout::discovery().filter(|_| rules.special.local_discovery) {
        services.insert(service, 1, 0).map_err(Error::map("local discovery"))?;
    }
    let mut own: HashMap<_, [u8; layout::LEASE6], u8> =
        HashMap::try_from(take(ebpf, "own")?).map_err(Error::map("own traffic"))?;
    for traffic in &rules.own.traffic {
        own.insert(layout::own(traffic), 1, 0).map_err(Error::map("own traffic"))?;
    }
    let mut listeners: HashMap<_, [u8; 4], u8> =
        HashMap::try_from(take(ebpf, "listeners")?).map_err(Error::map("own listeners"))?;
    for (transport, port) in rules.own.listeners.iter().filter(|(_, port)| *port != 0) {
        listeners.insert(layout::listener(*transport, *port), 1, 0).map_err(Error::map("own listeners"))?;
    }
    let mut settings: Array<_, u64> = Array::try_from(take(ebpf, "settings")?).map_err(Error::map("settings"))?;
    let mut value = [0; 8];
    value[..4].copy_from_slice(&u32::from(rules.config.enforce).to_ne_bytes());
    settings.set(0, u64::from_ne_bytes(value), 0).map_err(Error::map("settings"))
}

/// Pins a link at a name that may be taken: there is no moment without one.
fn pin_over(link: &Link, path: &Path) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-new");
    let beside = PathBuf::from(beside);
    forget(&beside);
    link.pin(&beside).map_err(Error::call(format!("pinning {}", beside.display())))?;
    fs::rename(&beside, path).map_err(Error::call(format!("pinning {}", path.display())))
}

fn pinned_id(pin: &Path) -> io::Result<u32> {
    Ok(Table::of(bpf::pinned(pin)?)?.id())
}

/// Everything that is pinned.
fn names() -> Vec<PathBuf> {
    fs::read_dir(PINS).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a pin can't be removed");
        }
        _ => {}
    }
}

/// Takes the program from its hooks, and everything of it from the kernel. What isn't there is no error.
///
/// # Errors
/// What is still there.
pub fn remove() -> Result<(), Error> {
    for (hook, _) in HOOKS {
        let path = link_of(hook);
        match Link::pinned(&path) {
            // Before Linux 5.9 it goes with its last descriptor.
            Ok(link) => drop(link.detach()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Without CAP_BPF: its last pin is gone soon.
            Err(error) => tracing::debug!(%error, hook, "it can't be detached before its pin goes"),
        }
        fs::remove_file(&path).map_err(Error::call(format!("removing {}", path.display())))?;
    }
    for path in names() {
        fs::remove_file(&path).map_err(Error::call(format!("removing {}", path.display())))?;
    }
    Ok(())
}

/// Whether a link is pinned, as far as this process may know.
#[must_use]
pub fn is_left_behind() -> bool {
    HOOKS.iter().any(|(hook, _)| link_of(hook).exists())
}

/// What the program counts, and the refusals that were lost.
///
/// # Errors
/// It isn't there.
pub fn counters() -> Result<(Counters, u64), Error> {
    let start = format!("{LAYOUT}-counts-");
    let path = Path::new(PINS).join(format!("{start}{COUNTS}"));
    let data = MapData::from_pin(&path).map_err(Error::map("reading the counters"))?;
    let counts: PerCpuArray<_, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(Error::map("reading the counters"))?;
    let sum = |place: u32| {
        let values = counts.get(&place, 0).map_err(Error::map("reading the counters"))?;
        Ok::<u64, Error>(values.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one)))
    };
    let count = |place| Ok::<Count, Error>(Count { packets: sum(place)?, bytes: 0 });
    let counters = Counters {
        allowed: count(ALLOWED)?,
        established: count(REPLIES)?,
        denied: count(DENIED)?,
        dns_bypass: count(DNS_BYPASS)?,
    };
    Ok((counters, sum(LOST)?))
}

fn ring() -> PathBuf {
    Path::new(PINS).join(format!("{LAYOUT}-refusals-{REFUSALS}"))
}

/// The ring of refusals, and its number.
///
/// # Errors
/// It isn't there.
pub fn refusals() -> Result<(RingBuf<MapData>, u32), Error> {
    let data = MapData::from_pin(ring()).map_err(Error::map("reading refusals"))?;
    let id = data.info().map_err(Error::map("reading refusals"))?.id();
    RingBuf::try_from(Map::RingBuf(data)).map(|ring| (ring, id)).map_err(Error::map("reading refusals"))
}

/// The number of the ring that is pinned.
#[must_use]
pub fn refusals_id() -> Option<u32> {
    pinned_id(&ring()).ok()
}
