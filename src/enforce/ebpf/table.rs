//! The tables of the program, as the driver of timed tables wants them. What has ended opens nothing; it is swept away when the tables are listed, and
//! when one of them is full.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::error::Error;
use super::layout;
use super::program::{CUTS, Program};
use super::{program, sockets};
use crate::core::narrow::{Narrow, Port, Who};
use crate::enforce::rules::Rules;
use crate::enforce::timed::{self, Entry, Held, Installed, TableError};
use crate::sys::bpf::{self, Place};
use crate::sys::{clock, interfaces};

/// The tables, by the order in which they are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    Lease4,
    Lease6,
    Cut,
}

const ALL: [Which; 3] = [Which::Lease4, Which::Lease6, Which::Cut];

impl Which {
    fn name(self) -> &'static str {
        match self {
            Self::Lease4 => "lease4",
            Self::Lease6 => "lease6",
            Self::Cut => "cut",
        }
    }
}

impl Program {
    fn table(&self, which: Which) -> &bpf::Table {
        match which {
            Which::Lease4 => &self.lease4,
            Which::Lease6 => &self.lease6,
            Which::Cut => &self.cut,
        }
    }

    /// Removes what has ended.
    fn sweep(&self, which: Which) -> Result<(), Error> {
        let now = clock::since_boot();
        let mut ended = Vec::new();
        let table = self.table(which);
        let read = table.each(|key, value| {
            if layout::read_ends(value).is_none_or(|ends| ends <= now) {
                ended.extend_from_slice(key);
            }
        });
        read.and_then(|()| table.remove(&ended)).map_err(Error::call(format!("sweeping {}", which.name())))
    }

    /// Puts all of them, or fails.
    fn put(&self, which: Which, keys: &[u8], values: &[u8]) -> Result<(), Error> {
        let table = self.table(which);
        let doing = || Error::call(format!("writing {}", which.name()));
        let shape = table.shape();
        let (key, value) = (usize::try_from(shape.key).unwrap_or(1), usize::try_from(shape.value).unwrap_or(1));
        let all = keys.len() / key.max(1);
        let done = table.put(keys, values).map_err(doing())?;
        if done == all {
            return Ok(());
        }
        self.sweep(which)?;
        let rest = |octets: &[u8], size: usize| octets.get(done.saturating_mul(size)..).unwrap_or_default().to_vec();
        let (keys, values) = (rest(keys, key), rest(values, value));
        match table.put(&keys, &values).map_err(doing())? {
            put if put.saturating_add(done) == all => Ok(()),
            _ => Err(Error::Full { name: which.name(), most: shape.most }),
        }
    }
}

/// Where an entry lies; `None`: no connection can be judged by it.
fn place(entry: &Entry) -> Option<(Which, Vec<u8>)> {
    let mut key = Vec::with_capacity(layout::LEASE6);
    let which = match entry {
        Entry::Address(address) => {
            layout::put_key((*address, Port::Any), &mut key);
            family(*address)
        }
        Entry::Pair((address, Narrow { who: Who::Anyone, to })) => {
            layout::put_key((*address, *to), &mut key);
            family(*address)
        }
        Entry::Cut(address) => {
            key.extend(layout::address(*address));
            Which::Cut
        }
        // A host by itself has no clients, and this one can't tell applications apart.
        Entry::Pair(_) => return None,
    };
    Some((which, key))
}

fn family(address: IpAddr) -> Which {
    if address.is_ipv4() { Which::Lease4 } else { Which::Lease6 }
}

fn entry(which: Which, key: &[u8]) -> Option<Entry> {
    match which {
        Which::Lease4 | Which::Lease6 => match layout::key(key)? {
            (address, Port::Any) => Some(Entry::Address(address)),
            (address, to) => Some(Entry::Pair((address, Narrow { who: Who::Anyone, to }))),
        },
        Which::Cut => Some(Entry::Cut(layout::plain(key)?)),
    }
}

impl From<Error> for TableError {
    fn from(error: Error) -> Self {
        match error {
            Error::Full { .. } => Self::Full(error.into()),
            other => Self::Other(other.into()),
        }
    }
}

/// The program of a cgroup, and its tables.
#[derive(Debug)]
pub struct Table {
    rules: Rules,
    program: Option<Program>,
    /// What is listed next, and how far it is.
    listing: Option<(Which, Place)>,
    /// The addresses of this host couldn't be read; it was told of.
    blind: bool,
}

impl Table {
    /// Touches nothing yet.
    #[must_use]
    pub fn new(rules: &Rules) -> Self {
        Self { rules: rules.clone(), program: None, listing: None, blind: false }
    }

    fn program(&self) -> Result<&Program, TableError> {
        self.program.as_ref().ok_or_else(|| TableError::Gone("the program isn't in force".into()))
    }

    /// Tells the program what this host's own addresses are.
    fn learn_here(&mut self) -> Result<(), Error> {
        let Some(program) = self.program.as_mut() else { return Ok(()) };
        match interfaces::addresses() {
            Ok(here) => {
                self.blind = false;
                program.set_here(&here)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.blind, true) {
                    tracing::warn!(%error, "this host's own addresses can't be read: they stay as they were");
                }
                Ok(())
            }
        }
    }
}

impl timed::Table for Table {
    fn name(&self) -> &'static str {
        super::NAME
    }

    fn set(&mut self, rules: &Rules) {
        self.rules = rules.clone();
    }

    fn install(&mut self) -> Result<Installed, TableError> {
        let here = interfaces::addresses().map_err(Error::call("this host's own addresses can't be read"))?;
        let program = Program::install(&self.rules, &here)?;
        let fresh = program.fresh;
        self.program = Some(program);
        self.listing = None;
        Ok(Installed { fresh, ..Installed::default() })
    }

    fn look(&mut self) -> Result<Option<String>, TableError> {
        self.learn_here()?;
        match &self.program {
            Some(program) => Ok(program.look()?),
            None => Ok(Some("the program isn't in force".to_owned())),
        }
    }

    fn write(&mut self, remove: &[Entry], put: &[(Entry, Duration)]) -> Result<(), TableError> {
        let program = self.program()?;
        let mut removed: BTreeMap<Which, Vec<u8>> = BTreeMap::new();
        for (which, key) in remove.iter().filter_map(place) {
            removed.entry(which).or_default().extend(key);
        }
        for (which, keys) in removed {
            let doing = format!("removing from {}", which.name());
            program.table(which).remove(&keys).map_err(Error::call(doing))?;
        }
        let now = clock::since_boot();
        let mut opened: BTreeMap<Which, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
        for (entry, time) in put {
            let Some((which, key)) = place(entry) else { continue };
            let (keys, values) = opened.entry(which).or_default();
            keys.extend(key);
            values.extend(layout::ends(now.saturating_add(*time)));
        }
        for (which, (keys, values)) in opened {
            program.put(which, &keys, &values)?;
        }
        Ok(())
    }

    fn has(&mut self, entries: &[Entry]) -> Result<Vec<bool>, TableError> {
        let program = self.program()?;
        let now = clock::since_boot();
        let there = entries.iter().map(|entry| {
            let Some((which, key)) = place(entry) else { return Ok(false) };
            let doing = format!("reading {}", which.name());
            let value = program.table(which).get(&key).map_err(Error::call(doing))?;
            Ok(value.and_then(|value| layout::read_ends(&value)).is_some_and(|ends| ends > now))
        });
        there.collect()
    }

    fn list(&mut self) -> Result<(), TableError> {
        self.program()?;
        self.listing = Some((Which::Lease4, Place::default()));
        Ok(())
    }

    fn listed(&mut self) -> Result<Option<Vec<Held>>, TableError> {
        let Some((which, mut at)) = self.listing.take() else { return Ok(None) };
        let program = self.program()?;
        let doing = || Error::call(format!("listing {}", which.name()));
        let table = program.table(which);
        let now = clock::since_boot();
        let (mut held, mut wrong) = (Vec::new(), Vec::new());
        let more = table.part(&mut at, |key, value| {
            let ends = layout::read_ends(value).filter(|ends| *ends > now);
            match (entry(which, key), ends) {
                (Some(entry), Some(ends)) => held.push(Held { entry, left: Some(ends.saturating_sub(now)) }),
                _ => wrong.extend_from_slice(key),
            }
        });
        let more = more.map_err(doing())?;
        // Ended, or nothing that this guard wrote.
        table.remove(&wrong).map_err(doing())?;
        self.listing = match more {
            true => Some((which, at)),
            false => ALL.into_iter().find(|next| *next > which).map(|next| (next, Place::default())),
        };
        if self.listing.is_none() && held.is_empty() {
            return Ok(None);
        }
        Ok(Some(held))
    }

    fn holds(&self, entry: &Entry) -> bool {
        place(entry).is_some()
    }

    fn forget_flows(&mut self, addresses: &[IpAddr]) -> Result<usize, TableError> {
        let program = self.program()?;
        let wanted: HashSet<IpAddr> = addresses.iter().copied().collect();
        let mut forgotten = Vec::new();
        let read = program.answers.each(|key, _| {
            if layout::answered(key).is_some_and(|peer| wanted.contains(&peer)) {
                forgotten.extend_from_slice(key);
            }
        });
        read.and_then(|()| program.answers.remove(&forgotten)).map_err(Error::call("forgetting answers"))?;
        Ok(sockets::end(&wanted).map_err(Error::call("ending connections"))?)
    }

    fn remove(&mut self) -> Result<(), TableError> {
        self.program = None;
        self.listing = None;
        Ok(program::remove()?)
    }

    fn cuts(&self) -> usize {
        usize::try_from(CUTS / 2).unwrap_or(0)
    }
}
