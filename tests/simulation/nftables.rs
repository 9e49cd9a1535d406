//! The driver's way into the simulated kernel: the transactions are the real ones, octet by octet.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use destguard::core::narrow::Narrow;
use destguard::enforce::nftables::elements::{Features, Key, Set, Timeout, Transaction};
use destguard::enforce::rules::Rules;
use destguard::enforce::timed::{Entry, Held, Installed, Table, TableError};

use super::kernel::Kernel;
use super::plan::{Defect, Linux};

const FULL: i32 = 23;
const NO_ENTRY: i32 = 2;
const SETS: [Set; 5] = [Set::Lease4, Set::Lease6, Set::ClientLease4, Set::Cut4, Set::Cut6];

/// A table of the simulated kernel.
pub struct Nftables {
    kernel: Arc<Mutex<Kernel>>,
    defect: Defect,
    grace: Duration,
    sequence: u32,
    /// Sets that are still to be listed.
    listing: Vec<Set>,
}

impl Nftables {
    /// In this kernel; `grace`: by so much elements are too short, where that is the defect.
    pub fn new(kernel: Arc<Mutex<Kernel>>, defect: Defect, grace: Duration) -> Self {
        Self { kernel, defect, grace, sequence: 1, listing: Vec::new() }
    }

    fn kernel(&self) -> Result<MutexGuard<'_, Kernel>, TableError> {
        let kernel = self.kernel.lock().unwrap();
        if kernel.fails { Err(TableError::Other("refused".into())) } else { Ok(kernel) }
    }

    /// What the probe finds out.
    fn features(&self) -> Features {
        let linux = self.kernel.lock().unwrap().linux();
        Features { refresh: linux == Linux::V6_12, destroy: linux != Linux::V5_10 }
    }
}

fn place(entry: &Entry) -> Option<(Set, Key)> {
    match *entry {
        Entry::Address(address) => Some((Key::Address(address).lease_set(), Key::Address(address))),
        Entry::Cut(address) => Some((if address.is_ipv4() { Set::Cut4 } else { Set::Cut6 }, Key::Address(address))),
        Entry::Pair((address, narrow)) => {
            let key = Key::pair(narrow.client()?, address)?;
            Some((key.lease_set(), key))
        }
    }
}

impl Table for Nftables {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn set(&mut self, _rules: &Rules) {}

    fn install(&mut self) -> Result<Installed, TableError> {
        let mut kernel = self.kernel()?;
        let fresh = !std::mem::replace(&mut kernel.there, true);
        if fresh {
            kernel.flush();
        }
        Ok(Installed { fresh, ..Installed::default() })
    }

    fn look(&mut self) -> Result<Option<String>, TableError> {
        Ok((!self.kernel()?.there).then(|| "the table is gone".to_owned()))
    }

    fn write(&mut self, remove: &[Entry], put: &[(Entry, Duration)]) -> Result<(), TableError> {
        let features = self.features();
        let mut transaction = Transaction::new(self.sequence);
        for set in SETS {
            let of_set = |entry: &Entry| place(entry).filter(|(of, _)| *of == set).map(|(_, key)| key);
            let keys: Vec<Key> = remove.iter().filter_map(of_set).collect();
            if !keys.is_empty() {
                transaction.remove(features, set, &keys);
            }
            let short = if self.defect == Defect::TooShort { self.grace } else { Duration::ZERO };
            let timed = |(entry, time): &(Entry, Duration)| {
                of_set(entry).map(|key| (key, Timeout::of(time.saturating_sub(short))))
            };
            let mut elements: Vec<(Key, Timeout)> = put.iter().filter_map(timed).collect();
            if self.defect == Defect::ForEverybody && set == Set::Lease4 {
                let opened = |(entry, time): &(Entry, Duration)| match entry {
                    Entry::Pair((address, _)) if address.is_ipv4() => {
                        Some((Key::Address(*address), Timeout::of(*time)))
                    }
                    _ => None,
                };
                elements.extend(put.iter().filter_map(opened));
            }
            match self.defect {
                _ if elements.is_empty() => {}
                Defect::PlainAdds => transaction.add(set, &elements),
                _ => transaction.put(features, set, &elements),
            }
        }
        if transaction.requests() == 0 {
            return Ok(());
        }
        let (octets, _, next) = transaction.finish();
        self.sequence = next;
        self.kernel()?.transact(&octets).map_err(|errno| match errno {
            FULL => TableError::Full("no room".into()),
            NO_ENTRY => TableError::Gone("it isn't there".into()),
            _ => TableError::Other(format!("errno {errno}").into()),
        })
    }

    fn has(&mut self, entries: &[Entry]) -> Result<Vec<bool>, TableError> {
        let kernel = self.kernel()?;
        let shown = |entry: &Entry| match place(entry) {
            Some((set, Key::Address(IpAddr::V4(address)))) => kernel.shows(set, &address.octets()),
            Some((set, Key::Address(IpAddr::V6(address)))) => kernel.shows(set, &address.octets()),
            Some((set, Key::Pair4(client, address))) => {
                kernel.shows(set, &[client.octets(), address.octets()].concat())
            }
            _ => false,
        };
        Ok(entries.iter().map(shown).collect())
    }

    fn list(&mut self) -> Result<(), TableError> {
        drop(self.kernel()?);
        self.listing = SETS.to_vec();
        Ok(())
    }

    fn listed(&mut self) -> Result<Option<Vec<Held>>, TableError> {
        let Some(set) = self.listing.pop() else { return Ok(None) };
        let held = |held: destguard::enforce::nftables::elements::Held| {
            let entry = match held.key {
                Key::Address(address) if matches!(set, Set::Cut4 | Set::Cut6) => Entry::Cut(address),
                Key::Address(address) => Entry::Address(address),
                Key::Pair4(client, address) => Entry::Pair((address.into(), Narrow::of_client(client.into()))),
                _ => return None,
            };
            Some(Held { entry, left: held.left })
        };
        Ok(Some(self.kernel()?.list(set).into_iter().filter_map(held).collect()))
    }

    fn holds(&self, entry: &Entry) -> bool {
        place(entry).is_some()
    }

    fn forget_flows(&mut self, _addresses: &[IpAddr]) -> Result<usize, TableError> {
        Ok(0)
    }

    fn remove(&mut self) -> Result<(), TableError> {
        let mut kernel = self.kernel()?;
        kernel.flush();
        kernel.there = false;
        Ok(())
    }
}
