//! A new configuration in a running daemon: checked, compared, applied; on any error the old one stays.
//!
//! What can change without a restart is what [`with_live`] takes over. A change of any other key is named and waits for a restart, so that nobody
//! believes in force what is not; it keeps no other key from being applied.
//!
//! ```text
//!   prepare: lists, rules, routers, listeners, ...   (an error: all stays as it was)
//!   packet filter lets pass what old and new let pass
//!   core: one Reload, judged in slices, in force with one turn
//!   resolver: the new rules      (what it judged by the old ones, the core judges again)
//!   packet filter lets pass what new lets pass
//! ```
//!
//! Lists, schedules, exceptions and this host's own addresses go the same way when they change by themselves ([`apply_lists`], [`put_in_force`]).

use std::sync::Arc;

use super::early;
use super::enforcers::HOLDING;
use super::history::Former;
use super::hours;
use super::lists::Lists;
use super::neighbours;
use super::routers;
use super::rules;
use super::shared::Shared;
use crate::check;
use crate::config::schema::{Nftables, NftablesMode};
use crate::config::{Config, Places};
use crate::control::sources::Wish;
use crate::control::types::Reloaded;
use crate::core::event::Reload;
use crate::core::groups::Groups;
use crate::core_task::CoreHandle;
use crate::dns::Rules;

mod difference;
pub mod error;
pub mod listeners;
pub mod upstreams;

use difference::{difference, lines};
use error::ReloadError;

/// Reads the file anew, applies what changed, and counts how it went.
pub async fn reload(shared: &Shared, wish: Wish) -> Reloaded {
    let dry_run = wish.dry_run;
    let reloaded = read_anew(shared, wish).await;
    if !dry_run {
        shared.metrics.note_reload(reloaded.applied);
        shared.lists.fetch_again();
    }
    reloaded
}

/// Reads the file anew, and every list that changed. What needs a restart keeps its value and is named; the rest is applied.
async fn read_anew(shared: &Shared, wish: Wish) -> Reloaded {
    let _applying = shared.applying.lock().await;
    let path = shared.path.clone();
    // Off the runtime's threads: lists may be large.
    let loaded = match tokio::task::spawn_blocking(move || check::load(&path)).await {
        Ok(loaded) => loaded,
        Err(error) => return refused(Vec::new(), format!("reading the file failed: {error}")),
    };
    let (mut config, warnings, places) = match loaded {
        Ok(loaded) => loaded,
        Err(report) => return refused(Vec::new(), report.to_string()),
    };
    let before = shared.config();
    let (old, _) = &before;
    // Given on the command line, it stands above the file's: not a change.
    if let Some(directory) = &shared.state_dir {
        config.state.dir.clone_from(directory);
        config.place_lists();
    }
    let wanted = with_live(old, &config, shared.switches.packets.is_some());
    let (changes, needs_restart) = match (difference(old, &wanted), difference(&wanted, &config)) {
        (Ok(changes), Ok(apart)) => (lines(&changes), apart),
        (Err(error), _) | (_, Err(error)) => {
            return refused(Vec::new(), format!("the configurations can't be compared: {error}"));
        }
    };
    let keys: Vec<String> = needs_restart.keys().cloned().collect();
    let needs_restart = lines(&needs_restart);
    let report = warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    if wish.dry_run {
        return Reloaded { applied: false, dry_run: true, changes, needs_restart, report, ..Reloaded::default() };
    }
    if let Err(error) = put(shared, wanted, places).await {
        return Reloaded { needs_restart, ..refused(changes, error.to_string()) };
    }
    early::keep(&shared.path, &old.state.dir);
    if !changes.is_empty() || wish.confirm.is_some() {
        shared.history.changed(before, wish.confirm, keys);
    } else {
        shared.history.set_apart(keys);
    }
    let goes_back_in = wish.confirm.map(|wait| wait.as_secs());
    Reloaded { applied: true, changes, needs_restart, report, goes_back_in_seconds: goes_back_in, dry_run: false }
}

/// Goes back to what was in force before the last change; once more: to the change.
pub async fn undo(shared: &Shared) -> Reloaded {
    let Some(former) = shared.history.before() else {
        return refused(Vec::new(), "nothing was changed since the start".to_owned());
    };
    match go_back(shared, former).await {
        Ok(changes) => {
            let report =
                format!("{} still says otherwise: mend it before the next reload or start", shared.path.display());
            Reloaded { applied: true, changes, report, ..Reloaded::default() }
        }
        Err(error) => refused(Vec::new(), error.to_string()),
    }
}

/// Puts a former configuration in force; returns what changed.
///
/// # Errors
/// Why it isn't.
pub async fn go_back(shared: &Shared, (config, places): Former) -> Result<Vec<String>, ReloadError> {
    let _applying = shared.applying.lock().await;
    let before = shared.config();
    let changes = difference(&before.0, &config)?;
    let put = put(shared, config, places).await;
    shared.metrics.note_reload(put.is_ok());
    put?;
    shared.history.changed(before, None, changes.keys().cloned().collect());
    Ok(lines(&changes))
}

/// Puts a configuration in force that differs from the one before in live keys alone.
async fn put(shared: &Shared, config: Config, places: Places) -> Result<(), ReloadError> {
    let known = shared.lists.lists();
    let read = move || {
        let lists = Lists::load(&config, &known);
        (config, lists)
    };
    let (config, lists) = tokio::task::spawn_blocking(read).await?;
    let lists = lists.map_err(ReloadError::Lists)?;
    let (old, _) = shared.config();
    let routers = shared.routers.prepare(&old, &config, shared.switches.packets.is_some()).await?;
    let service = shared.service.prepare(&old, &config).await?;
    let change = shared.dns.prepare(&config)?;
    let listeners = listeners::prepare(shared, &config).await?;
    let other_routers = routers.is_some();
    let reached = upstreams::reach(shared, &config).await;
    let former = reached.is_ok().then(|| shared.dns.switch(change));
    let whom = shared.dns.whom();
    whom.rcu(|known| known.with_parts(&config));
    let beside = Reload { clients: Some(whom.load_full()), ..Reload::default() };
    let applied = match reached {
        Ok(()) => apply(shared, &config, lists, Judging::AsBefore, (beside, routers)).await,
        Err(error) => Err(error),
    };
    shared.left.notify_one();
    if let Err(error) = applied {
        if let Err(stopped) = neighbours::learn(&shared.dns, &shared.core, |known| known.with_parts(&old)).await {
            tracing::debug!(%stopped, "nobody wants to know who clients are");
        }
        if let Some(former) = former {
            shared.dns.switch(former);
        }
        drop(listeners);
        listeners::forget_others(shared, &shared.config().0).await;
        return Err(error);
    }
    listeners::switch(shared, &config, listeners).await;
    shared.peers.set_deadline(config.gate.deadline.0);
    if other_routers {
        shared.listening.set_bgp(&config);
    }
    if let Some(prepared) = service {
        shared.service.change(prepared).await;
    }
    shared.dns.query_log().configure(&config);
    shared.dns.usage().configure(&config);
    shared.flows.set(&config);
    shared.set_config(config, places);
    Ok(())
}

/// What of `new` can be in force without a restart; the rest is `old`'s. `packets`: the daemon started with a packet filter, and may change it: else it
/// has given up the right to.
fn with_live(old: &Config, new: &Config, packets: bool) -> Config {
    let mut wanted = old.clone();
    wanted.mode = new.mode;
    wanted.dns = upstreams::live(&old.dns, &new.dns);
    if packets && old.per_client() == new.per_client() {
        wanted.nftables = new.nftables.clone();
    } else if packets && old.nftables.mode != NftablesMode::Off && new.nftables.mode != NftablesMode::Off {
        wanted.nftables = Nftables { scope: old.nftables.scope, ..new.nftables.clone() };
    }
    if old.per_client() {
        // What is open would be open for others than it was opened for.
        wanted.nftables.client_ipv6_prefix = old.nftables.client_ipv6_prefix;
    }
    wanted.ebpf = new.ebpf.clone();
    wanted.bgp = new.bgp.clone();
    wanted.policy = new.policy.clone();
    listeners::live(&mut wanted, new);
    wanted.lease = new.lease.clone();
    wanted.gate = new.gate.clone();
    wanted.log = new.log.clone();
    wanted.flows = new.flows.clone();
    wanted.addresses = new.addresses.clone();
    wanted
}

/// Whether answers may be judged as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judging {
    /// Where configuration and lists say the same.
    AsBefore,
    /// The lists or the operator's exceptions are others.
    Anew,
}

/// Puts other lists or exceptions in force. The caller holds [`Shared::applying`].
///
/// # Errors
/// Why the old ones stay.
pub async fn apply_lists(shared: &Shared, lists: Lists) -> Result<(), ReloadError> {
    let (config, _) = shared.config();
    apply(shared, &config, lists, Judging::Anew, (Reload::default(), None)).await
}

/// What the core is told of a configuration, beside rules and routers.
fn told(config: &Config, groups: Arc<Groups>, beside: Reload) -> Reload {
    Reload {
        settings: Some((config.lease.clone(), config.gate.clone())),
        announces: Some(config.bgp_enforces()),
        groups: Some(groups),
        narrowly: config.is_narrow(),
        ..beside
    }
}

/// Puts a configuration in force with its lists, and what was prepared `beside` it: for the core, and of the routers.
async fn apply(
    shared: &Shared,
    config: &Config,
    lists: Lists,
    judging: Judging,
    (beside, routers): (Reload, Option<routers::Prepared>),
) -> Result<(), ReloadError> {
    let here = rules::here(config, Some(&shared.peers))?;
    let now = hours::now(config)?;
    let rules = Arc::new(rules::rules(config, &lists, &here, &now)?.with_exceptions(&shared.exceptions.current()));
    let groups = Arc::new(Groups::new(&now.narrow(config))?);
    let (old, _) = shared.config();
    // What judges alike is the same, so that kept answers stay.
    let before = shared.rules.load_full();
    let same = now == *before.views.hours()
        && judging == Judging::AsBefore
        && upstreams::judge_alike(&old, config)
        && shared.lists.lists().are_same(&lists)
        && here == shared.listening.here();
    let rules = if same { before.clone() } else { rules };
    let old_groups = Arc::new(Groups::new(&before.views.hours().narrow(&old))?);
    shared.switches.packets_open(config).await?;
    if old.nftables.mode == NftablesMode::Off
        && config.nftables.mode != NftablesMode::Off
        && let Err(error) = filled(&shared.core).await
    {
        shared.switches.packets_close(&old).await?;
        return Err(error);
    }
    switch(shared, config, told(config, groups, beside), rules, routers).await?;
    if let Err(error) = shared.switches.packets_close(config).await {
        return Err(match back(shared, config, &old, old_groups, before).await {
            Ok(()) => error.into(),
            Err(back) => {
                shared.stays_open.store(Some(Arc::new(back.to_string())));
                ReloadError::Halfway { error, back: Box::new(back) }
            }
        });
    }
    shared.lists.set(lists);
    Ok(())
}

/// Goes back to `old` and the rules `before`, when all but the packet filter has taken `config` already. What the packet filter refuses of that
/// too is tried again by [`upstreams::follow`].
async fn back(
    shared: &Shared,
    config: &Config,
    old: &Config,
    groups: Arc<Groups>,
    before: Arc<Rules>,
) -> Result<(), ReloadError> {
    let routers = shared.routers.prepare(config, old, shared.switches.packets.is_some()).await?;
    switch(shared, old, told(old, groups, Reload::default()), before, routers).await?;
    Ok(shared.switches.packets_close(old).await?)
}

/// Waits until the kernel holds what is leased.
async fn filled(core: &CoreHandle) -> Result<(), ReloadError> {
    match tokio::time::timeout(HOLDING, core.held()).await {
        Ok(held) => Ok(held?),
        Err(_) => Err(ReloadError::Unheld),
    }
}

/// The core, the resolver and the routers. From when the core has it nothing is open that the rules forbid, and answers that were judged by
/// others are judged again.
async fn switch(
    shared: &Shared,
    config: &Config,
    told: Reload,
    rules: Arc<Rules>,
    routers: Option<routers::Prepared>,
) -> Result<(), ReloadError> {
    let routers_told = routers.as_ref().map(|prepared| prepared.told(config));
    shared.core.reload(Reload { judge: Some(rules.judge()), routers: routers_told, ..told }).await?;
    shared.rules.store(rules);
    shared.switches.bgp(config.bgp_enforces()).await?;
    if let Some(prepared) = routers {
        shared.routers.change(prepared).await?;
    }
    Ok(())
}

/// Puts other rules in force, below the operator's exceptions. The caller holds [`Shared::applying`].
///
/// # Errors
/// The core has stopped.
pub async fn put_in_force(shared: &Shared, rules: Rules) -> Result<(), ReloadError> {
    let rules = Arc::new(rules.with_exceptions(&shared.exceptions.current()));
    shared.core.reload(Reload { judge: Some(rules.judge()), ..Reload::default() }).await?;
    shared.rules.store(rules);
    Ok(())
}

fn refused(changes: Vec<String>, report: String) -> Reloaded {
    Reloaded { changes, report, ..Reloaded::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_keeps_its_value_and_the_rest_is_taken_over() {
        let parse = |text: &str| toml::from_str::<Config>(text).unwrap();
        let old = parse("[lease]\ncapacity = 50\n[nftables]\nmode = \"local\"\n");
        let new = parse(
            "mode = \"audit\"\n[dns]\nlisten = [\"127.0.0.1:5353\"]\nworkers = 3\nlocal_names = false\n\
             [dns.cache]\nsize = \"1MiB\"\n[dns.dnssec]\nvalidate = true\n[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[lease]\ncapacity = 90\nmin = \"90s\"\n\
             [policy]\ndeny = [\"evil.example\"]\n[addresses]\nopen = [\"192.0.2.1\"]\ninside = [\"198.51.100.0/24\"]\n\
             [nftables]\nmode = \"both\"\nenforce = false\n[gate]\ndeadline = \"2s\"\n[http]\nnames = [\"guard.example\"]\ntoken_file = \"token\"\n",
        );
        let wanted = with_live(&old, &new, true);
        let keys = |one: &Config, other: &Config| difference(one, other).unwrap().into_keys().collect::<Vec<_>>();
        assert_eq!(
            keys(&old, &wanted),
            [
                "addresses.inside[0]",
                "addresses.open[0]",
                "dns.cache.size",
                "dns.dnssec.validate",
                "dns.listen[0]",
                "dns.listen[1]",
                "dns.local_names",
                "dns.upstream[0].url",
                "dns.workers",
                "gate.deadline",
                "http.names[0]",
                "http.token_file",
                "lease.capacity",
                "lease.min",
                "mode",
                "nftables.enforce",
                "nftables.mode",
                "policy.deny[0]"
            ]
        );
        let waits = keys(&wanted, &new);
        assert_eq!(waits, Vec::<String>::new());
        let off = parse("[nftables]\nmode = \"off\"\n");
        assert!(keys(&with_live(&old, &off, true), &off).is_empty());
        assert_eq!(keys(&with_live(&off, &old, false), &old), ["nftables.mode"], "it can't any more");
        let single = parse("[nftables]\nmode = \"both\"\nscope = \"client\"\n");
        assert_eq!(keys(&with_live(&old, &single, true), &single), ["nftables.scope"]);
        let wide = parse("[nftables]\nmode = \"both\"\nscope = \"client\"\nclient_ipv6_prefix = 64\n");
        assert_eq!(keys(&with_live(&single, &wide, true), &wide), ["nftables.client_ipv6_prefix"]);
        assert_eq!(keys(&with_live(&wide, &single, true), &single), ["nftables.client_ipv6_prefix"]);
    }
}
