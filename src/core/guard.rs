//! In work: the owner of the lease table, the gate and the plans.

use std::net::IpAddr;

use super::event::{EnforcerSpec, Event, Output};
use super::explain::{Counts, EnforcerView, Explanation, LeaseFilter, LeaseView};
use super::moment::Moment;
use super::name::Name;
use crate::config::schema::{Gate, Lease};

/// Owner of all pure state.
#[derive(Debug)]
pub struct Guard {}

/// What the core needs of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[lease]`
    pub lease: Lease,
    /// `[gate]`
    pub gate: Gate,
    /// `bgp.linger`
    pub linger: std::time::Duration,
}

impl Guard {
    /// An empty guard.
    #[must_use]
    pub fn new(_settings: Settings, _enforcers: Vec<EnforcerSpec>) -> Self {
        Self {}
    }

    /// Takes an event; what follows from it comes out of [`Guard::poll_output`].
    pub fn handle(&mut self, _event: Event, _now: Moment) {}

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When [`Guard::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        None
    }

    /// Ends what is due.
    pub fn handle_timeout(&mut self, _now: Moment) {}

    /// Leases that `filter` selects, in the order of their addresses, at most `limit`, only those after the address `after`.
    #[must_use]
    pub fn leases(&self, _filter: &LeaseFilter, _after: Option<IpAddr>, _limit: usize, _now: Moment) -> Vec<LeaseView> {
        Vec::new()
    }

    /// Why an address is open; `None` when it isn't leased.
    #[must_use]
    pub fn explain(&self, _address: IpAddr, _now: Moment) -> Option<Explanation> {
        None
    }

    /// Every address that a name opened, as question or alias, at most `limit`.
    #[must_use]
    pub fn explain_name(&self, _name: &Name, _limit: usize, _now: Moment) -> Vec<Explanation> {
        Vec::new()
    }

    /// Gauges and counters; costs nothing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Every enforcer, in the order of their ids.
    #[must_use]
    pub fn enforcers(&self, _now: Moment) -> Vec<EnforcerView> {
        Vec::new()
    }
}
