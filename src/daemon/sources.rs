//! What the daemon tells the control interface, and does for it.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::containers::unguarded;
use super::shared::Shared;
use super::{applications, changes, enforcers, hours, judge, reload, suggest};
use crate::config::schema::{Hide, NftablesMode, OnDeadline};
use crate::control::history::Plots;
use crate::control::sessions;
use crate::control::sources::{Change, CoreView, Later, Sources, Subject, Undone, Wish};
use crate::control::types::{self, Judgement, List, LoggedError, Peer, Reloaded, Tried, Upstream};
use crate::control::{Access, DeniedLog, QueryLog};
use crate::core::name::Name;
use crate::core::policy::view::Whose;
use crate::dns::codec::wire::rtype;
use crate::dns::upstream::UpstreamStatus;
use crate::enforce::backend::Stop;
use crate::enforce::{EnforceError, packet_filters};
use crate::sys::disk;

/// The answer to `stop` leaves in this time.
const ANSWERED: Duration = Duration::from_millis(100);

impl Shared {
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

    /// Once the answer to who wants it has left.
    fn stop_soon(&self) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERED).await;
            stop.notify_one();
        });
    }

    /// The packet filter stays as it is when this process ends.
    fn keep_filter(&self) -> Result<(), EnforceError> {
        self.filter.as_ref().map_or(Ok(()), |filter| filter.stop(Stop::Keep).map(drop))
    }
}

/// How long after the gate's deadline an answer may still be kept.
const LATE: Duration = Duration::from_secs(1);
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

    fn access(&self) -> Access {
        self.access.clone()
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
        let now = Instant::now();
        self.peers.peers().into_iter().map(|view| sessions::peer(view, now)).collect()
    }

    fn service(&self) -> Option<types::Service> {
        self.service.view().map(|view| sessions::service(view, Instant::now()))
    }

    fn upstreams(&self) -> Vec<Upstream> {
        self.dns.status().upstreams.into_iter().map(upstream).collect()
    }

    fn lists(&self) -> Vec<List> {
        self.lists.views()
    }

    fn zones(&self) -> Vec<types::Zone> {
        self.lists.zones().views()
    }

    fn applications(&self) -> Vec<types::Application> {
        applications::now(&self.config().0)
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
        if let Some(status) = self.filter.as_ref().map(|filter| filter.status()).filter(|status| status.disarmed) {
            audit.push(format!("{} was disarmed", status.name));
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
        if self.filter.is_none() {
            troubles.extend(packet_filters::left_behind(None).map(enforcers::left_behind));
        }
        troubles.extend(self.missing().0);
        troubles.extend(self.switches.left_out());
        if let Some(why) = &*self.stays_open.load() {
            troubles.push(format!("what another configuration let pass stays open, and is tried again: {why}"));
        }
        troubles
    }

    fn query_log(&self) -> (QueryLog, Vec<Hide>) {
        let hide = self.config.lock().unwrap_or_else(PoisonError::into_inner).0.log.hide.clone();
        (self.dns.query_log(), hide)
    }

    fn suggest(&self, client: Option<IpNet>, since: u64) -> types::Suggested {
        suggest::suggest(&self.dns.usage().used(), &self.rules.load(), client, since)
    }

    fn plots(&self) -> Plots {
        self.plots.clone()
    }

    fn process(&self) -> types::Process {
        self.process.view()
    }

    fn inside(&self) -> Vec<String> {
        let (config, _) = self.config();
        let configured = config.addresses.inside.iter().map(|net| format!("{net} (addresses.inside)"));
        let on_link = self.listening.here().on_link.nets;
        let on_link = on_link.iter().map(|(net, interface)| format!("{net} (on-link at {interface})"));
        let announced = self.listening.here().announced;
        let announced = announced.iter().map(|(net, peer)| format!("{net} (announced by {peer})"));
        configured.chain(on_link).chain(announced).take(MOST_INSIDE).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let filter = self.filter.as_ref().map(|filter| filter.status().warnings).unwrap_or_default();
        let here = self.listening.here();
        let too_large = here.on_link.too_large.iter().map(|(net, interface)| {
            format!("{net} is on-link at {interface}: too large to be this network's own, so that addresses.inside must name what is")
        });
        let too_large: Vec<String> = too_large.take(ERRORS).collect();
        let beyond = self
            .peers
            .network_counts()
            .into_iter()
            .filter(|(.., beyond)| *beyond > 0 && self.config().0.bgp.exclude_announced);
        let beyond = beyond.map(|(peer, ..)| {
            format!("{peer} announces more networks than are kept: those beyond the first 4,096 may be leased (bgp.exclude_announced)")
        });
        let beyond: Vec<String> = beyond.collect();
        let process = self.process.troubles.iter().map(|why| format!("the daemon may do more than it needs: {why}"));
        let disk = self.disk().into_iter().chain(self.exceptions.trouble()).chain(self.lists.fetch_warnings());
        let disk = disk.chain(self.preloaded.warnings()).chain(self.flows.warnings());
        let trial = self.history.trial().map(|left| {
            format!("a change is on trial: `destguard confirm` within {} s, or it is taken back", left.as_secs())
        });
        let apart = self.history.apart();
        let apart = (!apart.is_empty())
            .then(|| format!("the file says other things than are in force, of: {}", apart.join(", ")));
        let log = self.dns.query_log().troubles();
        disk.chain(process)
            .chain(unguarded(&self.config().0))
            .chain(log)
            .chain(self.service.warnings())
            .chain(self.missing().1)
            .chain(filter)
            .chain(too_large)
            .chain(beyond)
            .chain(trial)
            .chain(apart)
            .collect()
    }

    fn out_of_hours(&self) -> Vec<types::Scheduled> {
        hours::views(&self.config().0, self.rules.load().views.hours(), jiff::Timestamp::now())
    }

    fn in_hours(&self) -> Vec<types::Scheduled> {
        hours::in_force(&self.config().0, self.rules.load().views.hours(), jiff::Timestamp::now())
    }

    fn exceptions(&self) -> Vec<types::Exception> {
        self.exceptions.views()
    }

    fn except(&self, change: Change) -> Later<'_, Result<Option<Duration>, Undone>> {
        Box::pin(async move { changes::exceptions::change(self, change).await.map_err(Undone::failed) })
    }

    fn forget_answers(&self, name: &Name) -> usize {
        let (dns, name) = (self.dns.clone(), name.clone());
        let forgotten = dns.forget(&name);
        // What had passed the gate by then is kept a moment later.
        let late = self.config().0.gate.deadline.0.saturating_add(LATE);
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

    fn judge(&self, subject: &Subject, whose: Whose<'_>, causes: &[(Name, Vec<Name>)]) -> Judgement {
        let (config, places) = self.config();
        let place = |key: &str| judge::place_of(&places, &self.path, key);
        let list = |path: &str| judge::list_of(&config, path);
        let written = judge::Written { place: &place, list: &list };
        let rules = self.rules.load();
        let mut now = judge::judge(&rules, subject, whose, causes, written);
        if rules.audit && matches!(now.verdict.as_str(), "denied" | "filtered") {
            now.reason.push_str(ONLY_NOTED);
        }
        let out = hours::notes(&config, rules.views.hours(), &self.lists.lists(), subject, whose.client);
        append(&mut now.reason, &out);
        now
    }

    fn has_group(&self, group: &str) -> bool {
        self.config().0.policy.group.iter().any(|known| known.name == group)
    }

    fn try_name<'a>(&'a self, name: &Name, whose: Whose<'a>) -> Later<'a, Vec<Tried>> {
        let name = name.clone();
        Box::pin(async move {
            let (v4, v6) = tokio::join!(
                self.dns.try_question(&name, rtype::A, whose),
                self.dns.try_question(&name, rtype::AAAA, whose)
            );
            let (config, places) = self.config();
            let place = |key: &str| judge::place_of(&places, &self.path, key);
            let list = |path: &str| judge::list_of(&config, path);
            let written = judge::Written { place: &place, list: &list };
            let rules = self.rules.load();
            let subject = Subject::Name(name.clone());
            let out = hours::notes(&config, rules.views.hours(), &self.lists.lists(), &subject, whose.client);
            let in_words = |tried| {
                let mut tried = judge::tried(&rules, &name, tried, written);
                if rules.audit && matches!(tried.verdict.as_str(), "denied" | "filtered") {
                    tried.reason.push_str(ONLY_NOTED);
                }
                append(&mut tried.reason, &out);
                tried
            };
            [v4, v6].into_iter().map(in_words).collect()
        })
    }

    fn metrics(&self) -> Result<String, Undone> {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        crate::metrics::encode_all(&registry).map_err(Undone::failed)
    }

    fn reload(&self, wish: Wish) -> Later<'_, Reloaded> {
        Box::pin(reload::reload(self, wish))
    }

    fn undo(&self) -> Later<'_, Reloaded> {
        Box::pin(reload::undo(self))
    }

    fn confirm(&self) -> Result<String, Undone> {
        match self.history.confirm() {
            true => Ok("confirmed: the change stays".to_owned()),
            false => Err(Undone::NothingToConfirm),
        }
    }

    fn stop(&self, withdraw: bool) -> Result<String, Undone> {
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

    fn restarting(&self) -> Result<String, Undone> {
        self.keep_filter().map_err(Undone::failed)?;
        tracing::info!("systemd starts the guard again: the packet filter stays as it is");
        Ok("the packet filter stays as it is until the guard is back".to_owned())
    }

    fn hand_over(&self) -> Result<String, Undone> {
        self.store.hand_over(&self.successor).map_err(Undone::failed)?;
        self.keep_filter().map_err(Undone::failed)?;
        tracing::info!("another process takes over");
        self.stop_soon();
        Ok("the guard ends; its sockets are yours".to_owned())
    }

    fn disarm(&self) -> Later<'_, Result<String, Undone>> {
        let filter = self.filter.clone();
        Box::pin(async {
            // Without an enforcer of our own there may still be what an earlier configuration left.
            let disarm = move || match filter {
                Some(filter) => filter.stop(Stop::Disarm).map(|_| filter.status().name),
                None => packet_filters::remove_all()
                    .map(|removed| removed.first().map_or("nftables", |backend| backend.name)),
            };
            match tokio::task::spawn_blocking(disarm).await {
                Ok(Ok(name)) => {
                    Ok(format!("the {name} table is removed; nothing is guarded here until the daemon starts again"))
                }
                Ok(Err(error)) => Err(Undone::failed(error)),
                Err(error) => Err(Undone::failed(format!("the attempt failed: {error}"))),
            }
        })
    }
}

/// Behind a reason, or in place of none.
fn append(reason: &mut String, note: &str) {
    reason.push_str(if reason.is_empty() { note.trim_start_matches("; ") } else { note });
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
