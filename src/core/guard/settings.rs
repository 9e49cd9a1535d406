//! Other settings while the guard runs: what is new counts from now on, and what is there stays.

use std::net::IpAddr;

use super::Guard;
use crate::config::schema::{Gate as GateSettings, Lease as LeaseSettings};
use crate::core::budget::{BUCKETS, Buckets};
use crate::core::event::EnforcerKind;
use crate::core::share::Holder;

impl Guard {
    /// These are the settings of leases and of the gate from now on.
    pub(super) fn set(&mut self, lease: LeaseSettings, gate: GateSettings) {
        let own = &mut self.settings.lease;
        // Buckets of another rate begin full: who was over the old one may be under the new.
        if (own.new_per_client, own.burst_per_client) != (lease.new_per_client, lease.burst_per_client) {
            self.clients = client_buckets(&lease);
        }
        if (own.new_per_domain, own.burst_per_domain) != (lease.new_per_domain, lease.burst_per_domain) {
            self.domains = domain_buckets(&lease);
        }
        self.counts.capacity = lease.capacity;
        self.table.set_capacity(lease.capacity);
        self.enforcers.set_timed_budget(lease.capacity);
        *own = lease;
        self.settings.gate = gate;
    }

    /// Routes are announced from now on, or none is any more. O(leases).
    pub(super) fn announce(&mut self, announces: bool) {
        if announces == self.announces {
            return;
        }
        self.announces = announces;
        self.enforcers.announce(announces);
        if let Some(exchange) = &mut self.exchange {
            self.table.iter().for_each(|(address, _)| exchange.mark(address));
        }
        if !self.enforcers.has(EnforcerKind::Route) {
            return;
        }
        if self.enforcers.requires(EnforcerKind::Route) {
            // Nothing of it is at any router: nobody may use it before it is.
            self.table.lose(EnforcerKind::Route);
        }
        let addresses: Vec<IpAddr> = self.table.iter().map(|(address, _)| address).collect();
        addresses.into_iter().for_each(|address| self.marks.change(address));
        self.ask_anew();
    }
}

pub(super) fn client_buckets(lease: &LeaseSettings) -> Buckets<Holder> {
    Buckets::new(lease.new_per_client, lease.burst_per_client, BUCKETS)
}

pub(super) fn domain_buckets(lease: &LeaseSettings) -> Buckets<Holder> {
    Buckets::new(lease.new_per_domain, lease.burst_per_domain, BUCKETS)
}
