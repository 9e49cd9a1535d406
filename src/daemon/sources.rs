//! What the daemon tells the control interface.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::exceptions::{self, ExceptionState};
use super::history::History;
use super::listening::Listening;
use super::lists::ListState;
use super::process::Process;
use super::routers::Routers;
use super::switch::Switches;
use super::{judge, reload};
use crate::config::schema::{Hide, NftablesMode, OnDeadline};
use crate::config::{Config, Places};
use crate::control::sources::{CoreView, Later, Sources, Subject};
use crate::control::types::{self, Judgement, List, LoggedError, Peer, Reloaded, Tried, Upstream};
use crate::control::{DeniedLog, QueryLog};
use crate::core::explain::{Counts, EnforcerView};
use crate::core::name::Name;
use crate::core_task::CoreHandle;
use crate::daemon::reload::Wish;
use crate::dns::codec::wire::rtype;
use crate::dns::upstream::UpstreamStatus;
use crate::dns::{Listeners, Rules, View};
use crate::enforce::bgp::BgpStatus;
use crate::enforce::nftables;
use crate::store::health::Health;
use crate::sys::disk;

/// The answer to `stop` leaves in this time.
const ANSWERED: Duration = Duration::from_millis(100);

/// What several tasks of the daemon share.
pub struct Shared {
    /// The core.
    pub core: CoreHandle,
    /// The configuration in force, and where its keys stand.
    pub config: Mutex<(Config, Places)>,
    /// The file.
    pub path: PathBuf,
    /// What stands above the file's `state.dir`, when it was given.
    pub state_dir: Option<PathBuf>,
    /// What questions and addresses are judged by.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The list files.
    pub lists: ListState,
    /// The operator's exceptions.
    pub exceptions: ExceptionState,
    /// Held by whoever puts other rules in force.
    pub applying: tokio::sync::Mutex<()>,
    /// The DNS side.
    pub dns: View,
    /// Its listeners.
    pub listeners: Arc<Listeners>,
    /// The other listeners, and this host's addresses.
    pub listening: Listening,
    /// What was refused.
    pub denied: DeniedLog,
    /// The BGP side.
    pub peers: BgpStatus,
    /// What it was told.
    pub routers: Routers,
    /// Takes the nftables table away, when there is one.
    pub nftables: Option<nftables::Disarmer>,
    /// How the lease journal is.
    pub journal: Health,
    /// Whether enforcers block.
    pub switches: Switches,
    /// All metrics.
    pub registry: Mutex<Registry>,
    /// Told when the operator wants the daemon to end.
    pub stop: Arc<tokio::sync::Notify>,
    /// The sockets that the next process gets.
    pub store: Arc<crate::sys::handover::Store>,
    /// Where it waits for them.
    pub successor: std::path::PathBuf,
    /// What was in force before.
    pub history: History,
    /// What the process may do.
    pub process: Process,
    /// Told when upstreams may be asked no more.
    pub left: tokio::sync::Notify,
}

impl Shared {
    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> (Config, Places) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another configuration is in force.
    pub fn set_config(&self, config: Config, places: Places) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = (config, places);
    }

    /// Addresses of the file that nobody reaches: wrong ones, odd ones.
    fn missing(&self) -> (Vec<String>, Vec<String>) {
        self.listening.missing(&self.config().0, &self.listeners, Some(&self.peers))
    }

    /// What may soon be wrong with the disk that leases are kept on. What is wrong the journal says.
    fn disk(&self) -> Option<String> {
        let directory = self.config.lock().unwrap_or_else(PoisonError::into_inner).0.state.dir.clone();
        let room = disk::room(&directory).ok().filter(|room| room.percent >= disk::NEARLY && !room.is_full())?;
        Some(format!("the disk of the state directory {} is {} % full", directory.display(), room.percent))
    }
}

impl Shared {
    /// Once the answer to who wants it has left.
    fn stop_soon(&self) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERED).await;
            stop.notify_one();
        });
    }
}

/// What is wrong while [`nftables::is_left_behind`] and there is no enforcer for it.
pub const LEFT_BEHIND: &str = "nftables.mode is \"off\", but the table inet destguard of an earlier run is still in the kernel and \
                               goes on blocking what has no lease there; `destguard disarm` removes it";

/// Behind a verdict that denies, in audit.
const ONLY_NOTED: &str = "; the guard is in audit, so that this is only noted and the answer leaves whole";
/// Most prefixes of the network itself that `status` shows.
const MOST_INSIDE: usize = 64;
/// Most errors that `status` shows.
const ERRORS: usize = 8;

impl Sources for Shared {
    fn core(&self) -> &dyn CoreView {
        &self.core
    }

    fn denied(&self) -> &DeniedLog {
        &self.denied
    }

    fn denied_count(&self) -> u64 {
        self.dns.status().denied
    }

    fn would_refuse(&self) -> u64 {
        self.dns.status().would_refuse
    }

    fn audits(&self) -> bool {
        self.rules.load().audit
    }

    fn peers(&self) -> Vec<Peer> {
        self.peers.peers()
    }

    fn upstreams(&self) -> Vec<Upstream> {
        self.dns.status().upstreams.into_iter().map(upstream).collect()
    }

    fn lists(&self) -> Vec<List> {
        self.lists.views()
    }

    fn audit(&self) -> Vec<String> {
        let (config, _) = self.config();
        let mut audit = Vec::new();
        if config.audits() {
            audit.push("mode = \"audit\"".to_owned());
        }
        if config.nftables.mode != NftablesMode::Off && !config.nftables.enforce {
            audit.push("nftables.enforce is false".to_owned());
        }
        if self.nftables.as_ref().is_some_and(nftables::Disarmer::is_disarmed) {
            audit.push("nftables was disarmed".to_owned());
        }
        if !config.bgp.peer.is_empty() && !config.bgp.enforce {
            audit.push("bgp.enforce is false".to_owned());
        }
        if config.gate.on_deadline == OnDeadline::Answer {
            audit.push("gate.on_deadline is \"answer\"".to_owned());
        }
        audit
    }

    fn troubles(&self) -> Vec<String> {
        let mut troubles = self.journal.reasons();
        troubles.extend(self.lists.troubles());
        if self.nftables.is_none() && nftables::is_left_behind() {
            troubles.push(LEFT_BEHIND.to_owned());
        }
        troubles.extend(self.missing().0);
        troubles.extend(self.switches.left_out().iter().map(|feature| feature.effect().to_owned()));
        troubles
    }

    fn query_log(&self) -> (QueryLog, Vec<Hide>) {
        let hide = self.config.lock().unwrap_or_else(PoisonError::into_inner).0.log.hide.clone();
        (self.dns.query_log(), hide)
    }

    fn process(&self) -> types::Process {
        self.process.view()
    }

    fn inside(&self) -> Vec<String> {
        let (config, _) = self.config();
        let configured = config.addresses.inside.iter().map(|net| format!("{net} (addresses.inside)"));
        let on_link = self.listening.here().on_link.nets;
        let on_link = on_link.iter().map(|(net, interface)| format!("{net} (on-link at {interface})"));
        configured.chain(on_link).take(MOST_INSIDE).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let unlocked = self.nftables.as_ref().and_then(nftables::Disarmer::unlocked).map(|why| {
            format!("when another program flushes the ruleset, the host is open until the table is back (Linux 5.12 can do better): {why}")
        });
        let here = self.listening.here();
        let too_large = here.on_link.too_large.iter().map(|(net, interface)| {
            format!("{net} is on-link at {interface}: too large to be this network's own, so that addresses.inside must name what is")
        });
        let too_large: Vec<String> = too_large.take(ERRORS).collect();
        let process = self.process.troubles.iter().map(|why| format!("the daemon may do more than it needs: {why}"));
        let disk = self.disk().into_iter().chain(self.exceptions.trouble());
        let trial = self.history.trial().map(|left| {
            format!("a change is on trial: `destguard confirm` within {} s, or it is taken back", left.as_secs())
        });
        let apart = self.history.apart();
        let apart = (!apart.is_empty())
            .then(|| format!("the file says other things than are in force, of: {}", apart.join(", ")));
        disk.chain(process).chain(self.missing().1).chain(unlocked).chain(too_large).chain(trial).chain(apart).collect()
    }

    fn exceptions(&self) -> Vec<types::Exception> {
        self.exceptions.views()
    }

    fn except(&self, change: exceptions::Change) -> Later<'_, Result<Option<Duration>, String>> {
        Box::pin(exceptions::change(self, change))
    }

    fn forget_answers(&self, name: &Name) -> usize {
        let (dns, name) = (self.dns.clone(), name.clone());
        let forgotten = dns.forget(&name);
        // What had passed the gate by then is kept a moment later.
        let late = self.config().0.gate.deadline.0.saturating_add(reload::LATE);
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            let late = dns.forget(&name);
            if late > 0 {
                tracing::debug!(late, "answers that were on their way are forgotten");
            }
        });
        forgotten
    }

    fn errors(&self) -> Vec<LoggedError> {
        // What is wrong with a list stays there until it is mended, however much is logged since.
        let mut errors = self.lists.errors();
        for (at, message) in crate::sys::log::recent() {
            if !errors.iter().any(|known| message.starts_with(&known.message)) {
                errors.push(LoggedError { seconds_ago: at.elapsed().as_secs(), message });
            }
        }
        errors.sort_by_key(|error| error.seconds_ago);
        errors.truncate(ERRORS);
        errors
    }

    fn judge(&self, subject: &Subject, client: Option<IpAddr>, causes: &[(Name, Vec<Name>)]) -> Judgement {
        let (config, places) = self.config();
        let place = |key: &str| judge::place_of(&places, &self.path, key);
        let list = |path: &str| judge::list_of(&config, path);
        let written = judge::Written { place: &place, list: &list };
        let rules = self.rules.load();
        let mut now = judge::judge(&rules, subject, client, causes, written);
        if rules.audit && matches!(now.verdict.as_str(), "denied" | "filtered") {
            now.reason.push_str(ONLY_NOTED);
        }
        now
    }

    fn try_name(&self, name: &Name, client: Option<IpAddr>) -> Later<'_, Vec<Tried>> {
        let name = name.clone();
        Box::pin(async move {
            let (v4, v6) = tokio::join!(
                self.dns.try_question(&name, rtype::A, client),
                self.dns.try_question(&name, rtype::AAAA, client)
            );
            let (config, places) = self.config();
            let place = |key: &str| judge::place_of(&places, &self.path, key);
            let list = |path: &str| judge::list_of(&config, path);
            let written = judge::Written { place: &place, list: &list };
            let rules = self.rules.load();
            let in_words = |tried| {
                let mut tried = judge::tried(&rules, &name, tried, written);
                if rules.audit && matches!(tried.verdict.as_str(), "denied" | "filtered") {
                    tried.reason.push_str(ONLY_NOTED);
                }
                tried
            };
            [v4, v6].into_iter().map(in_words).collect()
        })
    }

    fn metrics(&self) -> Result<String, String> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        crate::metrics::encode(&registry).map_err(|error| error.to_string())
    }

    fn reload(&self, wish: Wish) -> Later<'_, Reloaded> {
        Box::pin(reload::reload(self, wish))
    }

    fn undo(&self) -> Later<'_, Reloaded> {
        Box::pin(reload::undo(self))
    }

    fn confirm(&self) -> Result<String, String> {
        match self.history.confirm() {
            true => Ok("confirmed: the change stays".to_owned()),
            false => Err("no change waits to be confirmed".to_owned()),
        }
    }

    fn stop(&self, withdraw: bool) -> Result<String, String> {
        let (config, _) = self.config();
        let message = match Some(&self.peers).filter(|_| !config.bgp.peer.is_empty()) {
            None => "the guard stops".to_owned(),
            Some(peers) if withdraw => {
                peers.withdraw_on_stop();
                "the guard stops; its routes are withdrawn".to_owned()
            }
            Some(_) if config.bgp.graceful_restart.0.is_zero() => {
                "the guard stops; its routes are withdrawn, since bgp.graceful_restart is off".to_owned()
            }
            Some(_) => {
                let long_lived = config.bgp.long_lived_graceful_restart;
                let longer = if long_lived.0.is_zero() { String::new() } else { format!(" and then {long_lived}") };
                format!("the guard stops; routers keep its routes for {}{longer} at most", config.bgp.graceful_restart)
            }
        };
        tracing::info!(withdraw, "stopped by the operator");
        self.stop_soon();
        Ok(message)
    }

    fn hand_over(&self) -> Result<String, String> {
        self.store.hand_over(&self.successor)?;
        if let Some(nftables) = &self.nftables {
            nftables.keep();
        }
        tracing::info!("another process takes over");
        self.stop_soon();
        Ok("the guard ends; its sockets are yours".to_owned())
    }

    fn disarm(&self) -> Later<'_, Result<String, String>> {
        let disarmer = self.nftables.clone();
        Box::pin(async {
            // Without an enforcer of our own there may still be the table of an earlier configuration.
            let disarm = move || disarmer.map_or_else(nftables::disarm, |disarmer| disarmer.disarm());
            match tokio::task::spawn_blocking(disarm).await {
                Ok(Ok(())) => {
                    Ok("the nftables table is removed; nothing is guarded here until the daemon starts again"
                        .to_owned())
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(format!("the attempt failed: {error}")),
            }
        })
    }
}

fn upstream(status: UpstreamStatus) -> Upstream {
    let state = match (status.healthy, status.replied) {
        (false, _) => "broken",
        (true, false) => "unknown",
        (true, true) => "healthy",
    };
    Upstream {
        url: status.url,
        healthy: status.healthy && status.replied,
        state: state.to_owned(),
        asked: status.queries,
        failed: status.failures,
        rtt_ms: status.rtt.map(|rtt| u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX)),
        last_error: status.last_error,
    }
}

/// How often the core's numbers are taken over into the metrics.
const REFRESH: Duration = Duration::from_secs(1);

/// The core's numbers as metrics.
#[derive(Debug, Default)]
struct CoreMetrics {
    leases: Family<[(&'static str, &'static str); 1], Gauge>,
    capacity: Gauge,
    waiting: Gauge,
    generation: Gauge,
    answers: Family<[(&'static str, &'static str); 1], Gauge>,
    shortened: Family<[(&'static str, &'static str); 1], Gauge>,
    queued: Gauge,
    gate_timeouts: Gauge,
    causes: Gauge,
    causes_dropped: Gauge,
    group_sets: Gauge,
    client_leases: Gauge,
    changes: Family<[(&'static str, &'static str); 1], Gauge>,
    in_force: Family<[(&'static str, String); 1], Gauge>,
    installed: Family<[(&'static str, String); 1], Gauge>,
    repairs: Family<[(&'static str, String); 2], Counter>,
}

impl CoreMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "leases",
            "Leases by state: ipv4 and ipv6 are active ones, pending ones are among them",
            metrics.leases.clone(),
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
        registry.register(
            "gate_answers",
            "Answers that left the gate since the start, by outcome",
            metrics.answers.clone(),
        );
        registry.register(
            "gate_answers_shortened",
            "Answers since the start that had fewer addresses than were asked for, by the budget that left no more",
            metrics.shortened.clone(),
        );
        registry.register(
            "gate_queued",
            "Answers that wait for tokens of their client or domain now (lease.new_per_client, lease.new_per_domain)",
            metrics.queued.clone(),
        );
        registry.register(
            "gate_deadlines",
            "Answers whose gate deadline passed since the start",
            metrics.gate_timeouts.clone(),
        );
        registry.register("lease_causes", "Questions and clients kept as causes of leases", metrics.causes.clone());
        registry.register(
            "lease_causes_dropped",
            "Causes forgotten since the start because there were too many; leases are not shortened by it",
            metrics.causes_dropped.clone(),
        );
        registry.register(
            "group_sets",
            "Different sets of groups whose communities routes bear; at 1024 answers that need another are refused",
            metrics.group_sets.clone(),
        );
        registry.register(
            "lease_changes",
            "Leases since the start by what became of them: opened, extended, expired, closed before their time, or without room at the start",
            metrics.changes.clone(),
        );
        registry.register(
            "client_leases",
            "Pairs of client and address that are open (nftables.scope is \"client\"); lease_capacity at most",
            metrics.client_leases.clone(),
        );
        registry.register(
            "enforcer_in_force",
            "1 while the enforcer holds what it acknowledged, 0 while it is starting or lost",
            metrics.in_force.clone(),
        );
        registry.register("enforcer_addresses", "Addresses that the enforcer holds", metrics.installed.clone());
        registry.register(
            "enforcer_repairs",
            "Things that an enforcer, or the lease journal, found otherwise than it believed, and repaired, by kind",
            metrics.repairs.clone(),
        );
        metrics
    }

    fn take_repairs(&self, enforcer: &str, repairs: &BTreeMap<&'static str, u64>) {
        for (kind, total) in repairs {
            let labels = [("enforcer", enforcer.to_owned()), ("kind", (*kind).to_owned())];
            let counter = self.repairs.get_or_create(&labels);
            counter.inc_by(total.saturating_sub(counter.get()));
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
        set(&self.client_leases, counts.pairs);
        set_total(&self.generation, counts.generation);
        set_total(&self.gate_timeouts, counts.gate_timeouts);
        set_total(&self.causes_dropped, counts.causes_dropped);
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
            set_total(&self.answers.get_or_create(&[("outcome", outcome)]), value);
        }
        let shortened = &counts.shortened;
        for (budget, value) in [
            ("per_answer", shortened.per_answer),
            ("per_client", shortened.per_client),
            ("per_domain", shortened.per_domain),
            ("route_budget", shortened.route_budget),
            ("capacity", shortened.capacity),
        ] {
            set_total(&self.shortened.get_or_create(&[("budget", budget)]), value);
        }
        set(&self.queued, counts.queued);
        for (change, value) in [
            ("opened", counts.opened),
            ("extended", counts.extended),
            ("expired", counts.expired),
            ("closed", counts.closed),
            ("without_room", counts.restore_dropped),
        ] {
            set_total(&self.changes.get_or_create(&[("change", change)]), value);
        }
        for enforcer in enforcers {
            let in_force = enforcer.state == crate::core::explain::EnforcerState::InForce;
            self.in_force.get_or_create(&[("enforcer", enforcer.name.clone())]).set(i64::from(in_force));
            set(&self.installed.get_or_create(&[("enforcer", enforcer.name.clone())]), enforcer.installed);
            self.take_repairs(&enforcer.name, &enforcer.repairs);
        }
    }
}

/// Registers the core's metrics; the returned task keeps them current.
pub fn core_metrics(
    registry: &mut Registry,
    core: CoreHandle,
    journal: Health,
) -> impl Future<Output = ()> + Send + 'static {
    let metrics = CoreMetrics::register(registry);
    async move {
        let mut tick = tokio::time::interval(REFRESH);
        loop {
            tick.tick().await;
            let Ok((counts, enforcers)) = core.overview().await else { return };
            metrics.take(&counts, &enforcers);
            metrics.take_repairs("journal", &journal.repairs());
        }
    }
}
