//! What the daemon counts of its core, its state and its configuration, taken over every second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::control::Sources;
use crate::control::status;
use crate::control::types::State;
use crate::core::counts::Counts;
use crate::core::explain::EnforcerView;
use crate::metrics::labelled;
use crate::store::health::Health;

/// How often the core's numbers are taken over into the metrics.
const REFRESH: Duration = Duration::from_secs(1);

/// The core's numbers, the guard's state and reloads.
#[derive(Debug, Default)]
pub struct DaemonMetrics {
    leases: Family<[(&'static str, &'static str); 1], Gauge>,
    capacity: Gauge,
    waiting: Gauge,
    generation: Gauge,
    answers: Family<[(&'static str, &'static str); 1], Counter>,
    shortened: Family<[(&'static str, &'static str); 1], Counter>,
    queued: Gauge,
    gate_timeouts: Counter,
    causes: Gauge,
    causes_dropped: Counter,
    group_sets: Gauge,
    held_by_flows: Gauge,
    flows_refused: Counter,
    client_leases: Gauge,
    changes: Family<[(&'static str, &'static str); 1], Counter>,
    in_force: Family<[(&'static str, String); 1], Gauge>,
    installed: Family<[(&'static str, String); 1], Gauge>,
    repairs: Family<[(&'static str, String); 2], Counter>,
    state: Family<[(&'static str, &'static str); 1], Gauge>,
    reloads: Family<[(&'static str, &'static str); 1], Counter>,
    last_reload: Gauge,
}

impl DaemonMetrics {
    /// Registers the daemon's own metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        labelled(
            registry,
            "leases",
            "Leases by state: ipv4 and ipv6 are active ones, pending ones are among them",
            &metrics.leases,
        );
        registry.register(
            "lease_capacity",
            "The most leases there may be, lingering routes included",
            metrics.capacity.clone(),
        );
        registry.register(
            "gate_waiting",
            "Answers that wait for their enforcers, or for tokens, now",
            metrics.waiting.clone(),
        );
        registry.register("generation", "Number of the last plan", metrics.generation.clone());
        labelled(registry, "gate_answers", "Answers that left the gate, by outcome", &metrics.answers);
        labelled(
            registry,
            "gate_answers_shortened",
            "Answers that had fewer addresses than were asked for, by the budget that left no more",
            &metrics.shortened,
        );
        registry.register(
            "gate_queued",
            "Answers that wait for tokens of their client or domain now (lease.new_per_client, lease.new_per_domain)",
            metrics.queued.clone(),
        );
        registry.register("gate_deadlines", "Answers whose gate deadline passed", metrics.gate_timeouts.clone());
        registry.register("lease_causes", "Questions and clients kept as causes of leases", metrics.causes.clone());
        registry.register(
            "lease_causes_dropped",
            "Causes forgotten because there were too many; leases are not shortened by it",
            metrics.causes_dropped.clone(),
        );
        registry.register(
            "flow_routes_held",
            "Routes whose lease has ended and that stay for live flows alone",
            metrics.held_by_flows.clone(),
        );
        registry.register(
            "flow_routes_refused",
            "Times a route ended though a flow lived, for want of room or share",
            metrics.flows_refused.clone(),
        );
        registry.register(
            "group_sets",
            "Different sets of groups whose communities routes bear; at 1024 answers that need another are refused",
            metrics.group_sets.clone(),
        );
        labelled(
            registry,
            "lease_changes",
            "Leases by what became of them: opened, extended, expired, closed before their time, or without room at the start",
            &metrics.changes,
        );
        registry.register(
            "client_leases",
            "Pairs of address and client, or of address and port, that are open (nftables.scope is \"client\", or names have ports); lease_capacity at most",
            metrics.client_leases.clone(),
        );
        labelled(
            registry,
            "enforcer_in_force",
            "1 while the enforcer holds what it acknowledged, 0 while it is starting or lost",
            &metrics.in_force,
        );
        labelled(registry, "enforcer_addresses", "Addresses that the enforcer holds", &metrics.installed);
        labelled(
            registry,
            "enforcer_repairs",
            "Things that an enforcer, or the lease journal, found otherwise than it believed, and repaired, by kind",
            &metrics.repairs,
        );
        labelled(
            registry,
            "state",
            "1 for what the guard is: enforcing, audit, degraded or starting; 0 for the others, by state",
            &metrics.state,
        );
        labelled(
            registry,
            "reloads",
            "Reloads of the configuration and ways back from one, by outcome: applied or refused",
            &metrics.reloads,
        );
        registry.register(
            "last_reload_timestamp_seconds",
            "When a configuration was last put in force, the start included, in seconds since 1970",
            metrics.last_reload.clone(),
        );
        metrics.put_in_force();
        metrics
    }

    /// Counts a reload.
    pub fn note_reload(&self, applied: bool) {
        self.reloads.get_or_create(&[("outcome", if applied { "applied" } else { "refused" })]).inc();
        if applied {
            self.put_in_force();
        }
    }

    fn put_in_force(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_reload.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    fn take_state(&self, now: State) {
        for state in [State::Enforcing, State::Audit, State::Degraded, State::Starting] {
            self.state.get_or_create(&[("state", state.as_str())]).set(i64::from(state == now));
        }
    }

    fn take_repairs(&self, enforcer: &str, repairs: &BTreeMap<&'static str, u64>) {
        for (kind, total) in repairs {
            let labels = [("enforcer", enforcer.to_owned()), ("kind", (*kind).to_owned())];
            up_to(&self.repairs.get_or_create(&labels), *total);
        }
    }

    fn take(&self, counts: &Counts, enforcers: &[EnforcerView]) {
        let set = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let set_total = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        for (state, value) in
            [("ipv4", counts.ipv4), ("ipv6", counts.ipv6), ("lingering", counts.lingering), ("pending", counts.pending)]
        {
            set(&self.leases.get_or_create(&[("state", state)]), value);
        }
        set(&self.capacity, counts.capacity);
        set(&self.waiting, counts.waiting);
        set(&self.causes, counts.causes);
        set(&self.group_sets, counts.group_sets);
        set(&self.held_by_flows, counts.held_by_flows);
        up_to(&self.flows_refused, counts.flows_refused);
        set(&self.client_leases, counts.pairs);
        set_total(&self.generation, counts.generation);
        up_to(&self.gate_timeouts, counts.gate_timeouts);
        up_to(&self.causes_dropped, counts.causes_dropped);
        let refused = &counts.refused;
        for (outcome, value) in [
            ("released", counts.released),
            ("deadline", refused.deadline),
            ("enforcer", refused.enforcer),
            ("family", refused.family),
            ("per_answer", refused.per_answer),
            ("per_client", refused.per_client),
            ("per_domain", refused.per_domain),
            ("route_budget", refused.route_budget),
            ("capacity", refused.capacity),
            ("revoked", refused.revoked),
        ] {
            up_to(&self.answers.get_or_create(&[("outcome", outcome)]), value);
        }
        let shortened = &counts.shortened;
        for (budget, value) in [
            ("per_answer", shortened.per_answer),
            ("per_client", shortened.per_client),
            ("per_domain", shortened.per_domain),
            ("route_budget", shortened.route_budget),
            ("capacity", shortened.capacity),
        ] {
            up_to(&self.shortened.get_or_create(&[("budget", budget)]), value);
        }
        set(&self.queued, counts.queued);
        for (change, value) in [
            ("opened", counts.opened),
            ("extended", counts.extended),
            ("expired", counts.expired),
            ("closed", counts.closed),
            ("without_room", counts.restore_dropped),
            ("of_guards_without_room", counts.guards_refused),
        ] {
            up_to(&self.changes.get_or_create(&[("change", change)]), value);
        }
        for enforcer in enforcers {
            let in_force = enforcer.state == crate::core::proof::EnforcerState::InForce;
            self.in_force.get_or_create(&[("enforcer", enforcer.name.clone())]).set(i64::from(in_force));
            set(&self.installed.get_or_create(&[("enforcer", enforcer.name.clone())]), enforcer.installed);
            self.take_repairs(&enforcer.name, &enforcer.repairs);
        }
    }
}

/// Counters never go back.
fn up_to(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// Keeps them current until the core is gone.
pub async fn follow(metrics: Arc<DaemonMetrics>, sources: Arc<dyn Sources>, journal: Health) {
    let started = Instant::now();
    let mut tick = tokio::time::interval(REFRESH);
    loop {
        tick.tick().await;
        let Ok((counts, enforcers)) = sources.core().overview().await else { return };
        metrics.take(&counts, &enforcers);
        metrics.take_repairs("journal", &journal.repairs());
        let Ok(status) = status::status(&*sources, started.elapsed()).await else { return };
        metrics.take_state(status.state);
    }
}
