//! The speaker as a backend: one, however many routers there are.

use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::guards::Judge;
use super::{BgpEnforcer, BgpError, BgpStatus, RunningBgp, metrics};
use crate::core::event::EnforcerSpec;
use crate::enforce::backend::{Backend, BackendStatus, Control, Later, LeftOut, Stop};
use crate::enforce::{Command, EnforceError, Reports};
use crate::sys::clock::Clock;

/// The speaker, before and while it runs.
pub struct BgpBackend {
    specs: Vec<EnforcerSpec>,
    state: State,
    control: Arc<BgpControl>,
}

enum State {
    /// As configured; `None` once it started, or failed to.
    Configured(Option<Box<(BgpEnforcer, Clock, Judge)>>),
    Running(Box<RunningBgp>),
}

/// Empty until the speaker runs.
#[derive(Debug, Default)]
struct BgpControl(OnceLock<BgpStatus>);

impl BgpBackend {
    /// Of a speaker that has not started. `judge`: what other guards lease passes it.
    #[must_use]
    pub fn new(enforcer: BgpEnforcer, clock: Clock, judge: Judge) -> Self {
        let specs = enforcer.specs().to_vec();
        let state = State::Configured(Some(Box::new((enforcer, clock, judge))));
        Self { specs, state, control: Arc::default() }
    }

    /// Binds the listeners and starts the sessions, unless it has.
    ///
    /// # Errors
    /// [`BgpError::Start`]; nothing runs then.
    pub async fn start(&mut self) -> Result<BgpStatus, BgpError> {
        if let State::Configured(configured) = &mut self.state
            && let Some(parts) = configured.take()
        {
            let (enforcer, clock, judge) = *parts;
            self.state = State::Running(Box::new(enforcer.start(clock, judge).await?));
        }
        match &self.state {
            State::Running(running) => Ok(self.control.0.get_or_init(|| running.status()).clone()),
            State::Configured(_) => Err(BgpError::FailedBefore),
        }
    }
}

impl Backend for BgpBackend {
    fn specs(&self) -> Vec<EnforcerSpec> {
        self.specs.clone()
    }

    fn install(&mut self) -> Later<'_, Result<Vec<LeftOut>, EnforceError>> {
        Box::pin(async { Ok(self.start().await.map(|_| Vec::new())?) })
    }

    fn control(&self) -> Arc<dyn Control> {
        self.control.clone()
    }

    fn run(self: Box<Self>, commands: mpsc::Receiver<Command>, reports: Reports) -> Later<'static, ()> {
        Box::pin(async {
            match self.state {
                State::Running(running) => running.run(commands, reports).await,
                State::Configured(_) => tracing::error!("the BGP speaker was not started"),
            }
        })
    }
}

impl Control for BgpControl {
    fn status(&self) -> BackendStatus {
        let not_bound = self.0.get().map(BgpStatus::not_bound).unwrap_or_default();
        let warnings = not_bound.into_iter().map(|(address, why)| format!("bgp.listen {address}: {why}")).collect();
        BackendStatus { name: "bgp", disarmed: false, warnings }
    }

    /// Routers hold what they were told for `bgp.graceful_restart` by themselves.
    fn stop(&self, how: Stop) -> Result<bool, EnforceError> {
        match (how, self.0.get()) {
            (Stop::Withdraw, Some(status)) => {
                status.withdraw_on_stop();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn register(&self, registry: &mut Registry) {
        if let Some(status) = self.0.get() {
            metrics::register(registry, status.clone());
        }
    }
}
