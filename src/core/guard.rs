//! In work: the owner of the lease table, the gate and the plans.

use super::event::{EnforcerSpec, Event, Output};
use super::moment::Moment;
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
}
