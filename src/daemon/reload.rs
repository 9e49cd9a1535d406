//! A new configuration in a running daemon: checked, compared, applied; on any error the old one stays.
//!
//! What can change without a restart is what [`with_live`] takes over. A change of any other key is named and waits for a restart, so that nobody
//! believes in force what is not; it keeps no other key from being applied.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;

use super::history::Former;
use super::hours;
use super::lists::Lists;
use super::neighbours;
use super::rules;
use super::sources::Shared;
use crate::check;
use crate::config::schema::{Nftables, NftablesMode};
use crate::config::{Config, Places};
use crate::control::sources::Wish;
use crate::control::types::Reloaded;
use crate::core::address::Admitted;
use crate::core::event::{Event, RevokeTarget};
use crate::core::exchange::guard_of;
use crate::core::groups::Groups;
use crate::core::guard::{Caused, Guard, PairCaused};
use crate::core::name::Name;
use crate::core::narrow::{Opening, PairId, Port, Who};
use crate::core::policy::Policy;
use crate::core::policy::list::LocalData;
use crate::core::policy::view::ViewId;
use crate::core_task::CoreHandle;
use crate::dns::Rules;

pub mod listeners;
pub mod upstreams;

/// How long after the gate's deadline an answer that was judged by old rules may still reach the core.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// [`read_anew`], counted.
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
        return Reloaded { needs_restart, ..refused(changes, error) };
    }
    super::early::keep(&shared.path, &old.state.dir);
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
        Err(error) => refused(Vec::new(), error),
    }
}

/// Puts a former configuration in force; returns what changed.
///
/// # Errors
/// Why it isn't.
pub async fn go_back(shared: &Shared, (config, places): Former) -> Result<Vec<String>, String> {
    let _applying = shared.applying.lock().await;
    let before = shared.config();
    let changes = difference(&before.0, &config).map_err(|error| error.to_string())?;
    let put = put(shared, config, places).await;
    shared.metrics.note_reload(put.is_ok());
    put?;
    shared.history.changed(before, None, changes.keys().cloned().collect());
    Ok(lines(&changes))
}

/// Puts a configuration in force that differs from the one before in live keys alone.
async fn put(shared: &Shared, config: Config, places: Places) -> Result<(), String> {
    let known = shared.lists.lists();
    let read = move || {
        let lists = Lists::load(&config, &known);
        (config, lists)
    };
    let (config, lists) = match tokio::task::spawn_blocking(read).await {
        Ok((config, Ok(lists))) => (config, lists),
        Ok((_, Err(errors))) => return Err(errors.join("\n")),
        Err(error) => return Err(format!("reading the lists failed: {error}")),
    };
    let (old, _) = shared.config();
    let routers = shared.routers.prepare(&old, &config, shared.switches.packets.is_some()).await?;
    let service = shared.service.prepare(&old, &config).await?;
    let change = shared.dns.prepare(&config).map_err(|error| error.to_string())?;
    let listeners = listeners::prepare(shared, &config).await?;
    let reached = upstreams::reach(shared, &config).await;
    let former = reached.is_ok().then(|| shared.dns.switch(change));
    let applied = match reached {
        Ok(()) => apply(shared, &config, lists, Judging::AsBefore).await,
        Err(error) => Err(error),
    };
    shared.left.notify_one();
    if let Err(error) = applied {
        if let Some(former) = former {
            shared.dns.switch(former);
        }
        drop(listeners);
        listeners::forget_others(shared, &shared.config().0).await;
        return Err(error);
    }
    listeners::switch(shared, &config, listeners).await;
    let settings = Box::new((config.lease.clone(), config.gate.clone()));
    shared.core.tell(Event::Settings(settings)).await.map_err(|error| error.to_string())?;
    neighbours::learn(shared, |known| known.with_parts(&config)).await.map_err(|error| error.to_string())?;
    shared.peers.set_deadline(config.gate.deadline.0);
    if let Some(prepared) = routers {
        shared.routers.change(&shared.core, prepared, &config).await?;
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

fn lines(changes: &BTreeMap<String, String>) -> Vec<String> {
    changes.iter().map(|(key, change)| format!("{key}: {change}")).collect()
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
pub async fn apply_lists(shared: &Shared, lists: Lists) -> Result<(), String> {
    let (config, _) = shared.config();
    apply(shared, &config, lists, Judging::Anew).await
}

/// From here on new questions and cached answers are judged by the new rules, and enforcers block or don't; then what the old ones opened is closed.
async fn apply(shared: &Shared, config: &Config, lists: Lists, judging: Judging) -> Result<(), String> {
    let here = rules::here(config, Some(&shared.peers))?;
    let now = hours::now(config)?;
    let rules = Arc::new(rules::rules(config, &lists, &here, &now)?.with_exceptions(&shared.exceptions.current()));
    let groups = Arc::new(Groups::new(&now.narrow(config))?);
    let (old, _) = shared.config();
    // What judges alike is the same, so that kept answers stay.
    let (before, is) = (shared.rules.load_full(), now == *shared.rules.load().views.hours());
    let same = is
        && judging == Judging::AsBefore
        && upstreams::judge_alike(&old, config)
        && shared.lists.lists().are_same(&lists);
    let rules = if same && here == shared.listening.here() { shared.rules.load_full() } else { rules };
    let old_groups = Arc::new(Groups::new(&before.views.hours().narrow(&old))?);
    shared.switches.packets_open(config).await?;
    if old.nftables.mode == NftablesMode::Off
        && config.nftables.mode != NftablesMode::Off
        && let Err(error) = filled(&shared.core).await
    {
        shared.switches.packets_close(&old).await?;
        return Err(error);
    }
    switch(shared, config, groups, rules).await?;
    if let Err(error) = shared.switches.packets_close(config).await {
        switch(shared, &old, old_groups, before).await?;
        shared.switches.packets_close(&old).await?;
        return Err(error.into());
    }
    shared.lists.set(lists);
    close_soon(shared).await
}

/// Waits until the kernel holds what is leased.
async fn filled(core: &CoreHandle) -> Result<(), String> {
    match tokio::time::timeout(super::HOLDING, core.held()).await {
        Ok(held) => held.map_err(|error| error.to_string()),
        Err(_) => Err("nftables: the kernel doesn't hold the leases in time".to_owned()),
    }
}

/// The resolver and the routes.
async fn switch(shared: &Shared, config: &Config, groups: Arc<Groups>, rules: Arc<Rules>) -> Result<(), String> {
    let tell = async |event| shared.core.tell(event).await.map_err(|error| error.to_string());
    // First: what is kept for a client's new group must be waited for by its new communities.
    tell(Event::Groups(groups)).await?;
    let announces = config.bgp_enforces();
    if announces {
        tell(Event::Announce(true)).await?;
    }
    // Before anything is answered that opens less than an address.
    if config.is_narrow() {
        tell(Event::Narrowly).await?;
    }
    shared.rules.store(rules);
    if !announces {
        tell(Event::Announce(false)).await?;
    }
    Ok(shared.switches.bgp(announces).await?)
}

/// Puts other rules in force, below the operator's exceptions, and closes what they forbid: now, and once more when answers that were judged by the old ones, and were on
/// their way to the core, have passed the gate. The caller holds [`Shared::applying`].
///
/// # Errors
/// The core has stopped.
pub async fn put_in_force(shared: &Shared, rules: Rules) -> Result<(), String> {
    shared.rules.store(Arc::new(rules.with_exceptions(&shared.exceptions.current())));
    close_soon(shared).await
}

async fn close_soon(shared: &Shared) -> Result<(), String> {
    let late = shared.config().0.gate.deadline.0.saturating_add(LATE);
    close_now_and_later(shared.core.clone(), shared.rules.clone(), late).await
}

async fn close_now_and_later(core: CoreHandle, rules: Arc<ArcSwap<Rules>>, late: Duration) -> Result<(), String> {
    close_what_is_forbidden(&core, rules.load_full()).await?;
    tokio::spawn(async move {
        tokio::time::sleep(late).await;
        if let Err(error) = close_what_is_forbidden(&core, rules.load_full()).await {
            tracing::debug!(%error, "nothing is left to be closed");
        }
    });
    Ok(())
}

fn refused(changes: Vec<String>, report: String) -> Reloaded {
    Reloaded { changes, report, ..Reloaded::default() }
}

/// "key: old -> new" for every value that differs. Secrets show that they changed only.
fn difference(old: &Config, new: &Config) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &serde_json::to_value(old)?, &mut before);
    flatten("", &serde_json::to_value(new)?, &mut after);
    let mut changes = BTreeMap::new();
    // That a list has become empty, or is no longer, its other lines say; only of one that may be left out it is a value of its own.
    let is_told = |key: &str, other: &BTreeMap<String, String>| {
        let parent = key.rsplit_once('.').map_or("", |(parent, _)| parent);
        let has = |start: String| other.range(start.clone()..).next().is_some_and(|(key, _)| key.starts_with(&start));
        !has(format!("{key}[")) && has(format!("{parent}."))
    };
    for key in before.keys().chain(after.keys()) {
        let (was, is) = (before.get(key), after.get(key));
        let empty = |value: Option<&String>| value.is_some_and(|value| value == EMPTY);
        if was.is_none() && empty(is) && !is_told(key, &before) || is.is_none() && empty(was) && !is_told(key, &after) {
            continue;
        }
        if was != is {
            let show = |value: Option<&String>| value.map_or("not set", String::as_str).to_owned();
            let change = if key.ends_with(".password") {
                "changed".to_owned()
            } else {
                format!("{} -> {}", show(was), show(is))
            };
            changes.insert(key.clone(), change);
        }
    }
    Ok(changes)
}

/// How an empty list is shown.
const EMPTY: &str = "[]";

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&below, value, out);
            }
        }
        Value::Array(list) if list.is_empty() => drop(out.insert(path.to_owned(), EMPTY.to_owned())),
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, out);
            }
        }
        Value::Null => {}
        value => {
            out.insert(path.to_owned(), value.to_string());
        }
    }
}

/// What the new rules no longer allow of what is open.
#[derive(Debug, Default, PartialEq, Eq)]
struct Forbidden {
    names: Vec<Name>,
    addresses: Vec<IpAddr>,
    /// Where there are pairs: what a question does not open any more.
    pairs: Vec<(PairId, Name)>,
    /// Likewise: what it opens other ports of.
    reopened: Vec<(PairId, Name, Vec<Port>)>,
}

/// A name is forbidden when the rules of everybody who asked for it deny it; where nobody is known, those of all. Leases are
/// everybody's: what one client may open stays open.
fn forbidden(guard: &Guard, rules: &Rules) -> Forbidden {
    // As question and as alias apart: what is denied as one may be allowed as the other, and either forbids it.
    let mut names: BTreeMap<(&Name, bool), bool> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, bool> = BTreeMap::new();
    for Caused { address, question, chain, clients, mark } in guard.causes() {
        let mut views: BTreeSet<ViewId> =
            clients.iter().map(|(client, _)| rules.views.of_marked(*client, mark)).collect();
        if views.is_empty() {
            views.extend(rules.views.all());
        }
        let allowed = |judge: &dyn Fn(&Policy) -> bool| views.iter().any(|view| judge(rules.views.policy(*view)));
        // A list's own answer for a name opens what that answer holds, and nothing else.
        let own = |policy: &Policy| policy.local_data(question).map(|data| is_of(address, chain, data));
        // Another guard's lease was judged by that guard; here it is the address that counts.
        let is_guards = guard_of(question).is_some();
        let asked = is_guards || allowed(&|policy| own(policy).is_some() || !policy.judge(question).denies());
        *names.entry((question, false)).or_insert(false) |= asked;
        for alias in chain {
            *names.entry((alias, true)).or_insert(false) |= allowed(&|policy| !policy.judge_alias(alias).denies());
        }
        let leads = may_be_open(rules, address, question, chain);
        let open = (leads || (is_guards && rules.filter.may_be_leased(address)))
            && allowed(&|policy| own(policy).unwrap_or(true))
            && allowed(&|policy| !policy.judge_answer(address).is_some_and(|verdict| verdict.denies()));
        *addresses.entry(address).or_insert(false) |= open;
    }
    let denied: BTreeSet<&Name> =
        names.into_iter().filter(|(_, allowed)| !*allowed).map(|((name, _), _)| name).collect();
    // What a client was answered with is judged by the rules of those alone who asked from there.
    let mut pairs: BTreeMap<(PairId, &Name), bool> = BTreeMap::new();
    for caused in guard.pair_causes() {
        *pairs.entry((caused.id, caused.question)).or_insert(false) |= pair_may_be_open(rules, caused);
    }
    let pairs = pairs.into_iter().filter(|(_, open)| !open).map(|((id, question), _)| (id, question.clone())).collect();
    let reopened = guard.pair_causes().filter_map(|caused| {
        let (id, question) = (caused.id, caused.question);
        let Opened::Ports(ports) = opened(rules, caused) else { return None };
        Some((id, question.clone(), ports))
    });
    Forbidden {
        reopened: reopened.collect(),
        pairs,
        names: denied.into_iter().cloned().collect(),
        addresses: addresses.into_iter().filter(|(_, open)| !open).map(|(address, _)| address).collect(),
    }
}

/// Whether a question may go on to open an address for those who asked it.
fn pair_may_be_open(rules: &Rules, caused: PairCaused<'_>) -> bool {
    let PairCaused { id: (address, narrow), question, chain, mark, restored } = caused;
    if opened(rules, caused) == Opened::Nothing {
        return false;
    }
    let Some(client) = narrow.client() else { return true };
    let allows = |view: ViewId| {
        let policy = rules.views.policy(view);
        let own = policy.local_data(question).map(|data| is_of(address, chain, data));
        own.unwrap_or_else(|| !policy.judge(question).denies())
            && chain.iter().all(|alias| !policy.judge_alias(alias).denies())
            && !policy.judge_answer(address).is_some_and(|verdict| verdict.denies())
    };
    let mut views = match restored {
        // As whom somebody asked before the restart nobody knows.
        true => rules.views.of_anybody(client),
        false => vec![rules.views.of_marked(client, mark)],
    }
    .into_iter();
    may_be_open(rules, address, question, chain) && views.any(allows)
}

/// What a question opens of what it opened, by the rules of the client whose pair it is, or else of whoever may ask it.
#[derive(Debug, PartialEq, Eq)]
enum Opened {
    /// The same.
    Same,
    /// Other ports.
    Ports(Vec<Port>),
    /// It is another application's, or nobody's any more.
    Nothing,
}

fn opened(rules: &Rules, caused: PairCaused<'_>) -> Opened {
    let PairCaused { id: (_, narrow), question, mark, restored, .. } = caused;
    let views: Vec<ViewId> = match narrow.who {
        Who::Anyone | Who::Application(_) => rules.views.all().collect(),
        Who::Client(client) if restored => rules.views.of_anybody(client),
        Who::Client(client) => vec![rules.views.of_marked(client, mark)],
    };
    let application = match narrow.who {
        Who::Application(number) => Some(number),
        Who::Anyone | Who::Client(_) => None,
    };
    let mut all = BTreeSet::new();
    for view in views.into_iter().filter(|view| !rules.views.policy(*view).judge(question).denies()) {
        match &*rules.openings_in(view, question) {
            [] => drop(all.insert(Opening::ALL)),
            openings => all.extend(openings.iter().copied()),
        }
    }
    // Nobody may ask: leases are judged by that.
    if all.is_empty() || all.contains(&Opening { application, to: narrow.to }) {
        return Opened::Same;
    }
    let ports: Vec<Port> = all.iter().filter(|one| one.application == application).map(|one| one.to).collect();
    if application.is_some() || ports.is_empty() {
        return Opened::Nothing;
    }
    Opened::Ports(if ports.contains(&Port::Any) { vec![Port::Any] } else { ports })
}

/// Whether the filter lets a lease stand. What has become this host's own needs none.
fn may_be_open(rules: &Rules, address: IpAddr, question: &Name, chain: &[Name]) -> bool {
    matches!(rules.filter.judge(address, question, chain), Ok(Admitted::Lease | Admitted::AlreadyOpen))
        && !rules.filter.is_gone_from_zone(address, question, chain)
}

/// Whether an address that was opened over `chain` may come of a list's own answer.
fn is_of(address: IpAddr, chain: &[Name], data: &[LocalData]) -> bool {
    data.iter().any(|data| match data {
        LocalData::Address(own) => *own == address && chain.is_empty(),
        LocalData::Alias(target) => chain.first() == Some(target),
        LocalData::Record(..) => false,
    })
}

/// Closes what `rules` no longer allow of what is open.
///
/// # Errors
/// The core has stopped.
pub async fn close_what_is_forbidden(core: &CoreHandle, rules: Arc<Rules>) -> Result<(), String> {
    let wrong = |error: crate::core_task::Stopped| error.to_string();
    let forbidden = core.inspect(move |guard, _| forbidden(guard, &rules)).await.map_err(wrong)?;
    if !forbidden.names.is_empty() {
        core.tell(Event::Forbid(forbidden.names)).await.map_err(wrong)?;
    }
    if !forbidden.pairs.is_empty() {
        core.tell(Event::ForbidPairs(forbidden.pairs)).await.map_err(wrong)?;
    }
    if !forbidden.reopened.is_empty() {
        core.tell(Event::Reopen(forbidden.reopened)).await.map_err(wrong)?;
    }
    for address in forbidden.addresses {
        core.tell(Event::Revoke(RevokeTarget::Address(address))).await.map_err(wrong)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy::schedule::Hours;
    use crate::sys::interfaces::Here;

    #[test]
    fn changes_are_shown_by_key_and_secrets_are_not() {
        let mut old = Config::default();
        let mut new = old.clone();
        new.policy.deny.push("bad.test".to_owned());
        new.lease.capacity = 5;
        let changes = difference(&old, &new).unwrap();
        assert_eq!(changes["policy.deny[0]"], "not set -> \"bad.test\"");
        assert_eq!(changes["lease.capacity"], "100000 -> 5");
        let peer = r#"{"name":"r","address":"192.0.2.1","asn":1,"password":"old"}"#;
        old.bgp.peer.push(serde_json::from_str(peer).unwrap());
        let group = |lists| {
            let mut config = Config::default();
            config.policy.group.push(toml::from_str("name = \"g\"\nclients = [\"10.0.0.0/8\"]\n").unwrap());
            config.policy.group[0].lists = lists;
            config
        };
        let changes = difference(&group(None), &group(Some(Vec::new()))).unwrap();
        assert_eq!(
            changes.into_iter().collect::<Vec<_>>(),
            [("policy.group[0].lists".to_owned(), "not set -> []".to_owned())]
        );
        assert_eq!(difference(&group(Some(Vec::new())), &group(None)).unwrap().len(), 1);
        assert!(difference(&Config::default(), &group(None)).unwrap().keys().all(|key| !key.ends_with("deny")));
        let mut changed = old.clone();
        changed.bgp.peer[0].password = Some("new".to_owned());
        assert_eq!(difference(&old, &changed).unwrap()["bgp.peer[0].password"], "changed");
    }

    #[test]
    fn new_rules_forbid_what_nobody_who_asked_may_ask() {
        use crate::core::event::{Admission, Grant, Ticket};
        use crate::core::guard::Settings;
        use crate::core::moment::Moment;
        let address = |last: u8| IpAddr::from([203, 0, 113, last]);
        let name = |text: &str| text.parse::<Name>().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let zone = directory.path().join("zone");
        let data = "@ SOA a. b. 1 1 1 1 1\ndata.test A 203.0.113.5\n32.7.113.0.203.rpz-ip CNAME .\n";
        std::fs::write(&zone, data).unwrap();
        let text = format!(
            "[policy]\ndeny = [\"=mixed.test\", \"=denied.test\"]\n\
             [[policy.private]]\ndomain = \".\"\nprefixes = [\"203.0.113.0/24\"]\n\
             [[policy.list]]\npath = \"{}\"\nformat = \"rpz\"\naction = \"deny\"\n\
             [[policy.group]]\nname = \"g\"\nclients = [\"10.0.0.0/8\"]\n",
            zone.display()
        );
        let config: Config = toml::from_str(&text).unwrap();
        let lists = Lists::load(&config, &Lists::default()).unwrap();
        let rules = rules::rules(&config, &lists, &Here::default(), &Hours::default()).unwrap();
        let (lease, gate) = (config.lease.clone(), config.gate.clone());
        let settings = Settings { lease, gate, linger: config.bgp.linger.0 };
        let shared = Guard::new(settings.clone(), Vec::new());
        let mut guards = [shared, Guard::new(settings, Vec::new()).for_single_clients()];
        let everybody = IpAddr::from([192, 0, 2, 1]);
        let group = IpAddr::from([10, 0, 0, 1]);
        for (client, question, last) in [
            (everybody, "fine.test", 1),
            (everybody, "denied.test", 2),
            (everybody, "mixed.test", 3),
            (group, "mixed.test", 3),
            (everybody, "data.test", 4),
            (everybody, "data.test", 5),
            (everybody, "trap.test", 7),
        ] {
            let admission = Admission {
                judged: 0,
                openings: Default::default(),
                whole: false,
                ticket: Ticket(u64::from(last)),
                client,
                mark: None,
                question: name(question),
                qtype: 1,
                chain: Arc::default(),
                domain: name("test"),
                grants: [Grant { address: address(last), ttl: 60 }].into(),
            };
            for guard in &mut guards {
                guard.handle(Event::Admit(admission.clone()), Moment(1));
                while guard.poll_output().is_some() {}
            }
        }
        let [shared, single] = guards.map(|guard| forbidden(&guard, &rules));
        for found in [&shared, &single] {
            assert_eq!(found.names, [name("denied.test")], "a group may still ask for the mixed one");
            assert_eq!(found.addresses, [address(4), address(7)]);
        }
        assert_eq!(shared.pairs, [], "leases are for everybody");
        let of = |last, question| ((address(last), crate::core::narrow::Narrow::of_client(everybody)), name(question));
        let denied = [of(2, "denied.test"), of(3, "mixed.test"), of(4, "data.test"), of(7, "trap.test")];
        assert_eq!(single.pairs, denied, "each client is judged by its own rules");
    }

    #[tokio::test]
    async fn an_answer_that_was_judged_by_the_old_rules_and_came_late_is_closed_as_well() {
        use crate::core::event::{Admission, Decision, Grant, Ticket};
        use crate::core::explain::LeaseFilter;
        use crate::core::guard::Settings;
        use crate::core_task::{Drivers, core_task};
        let config: Config = toml::from_str(
            "[policy]\ndeny = [\"late.test\"]\n\
             [[policy.private]]\ndomain = \".\"\nprefixes = [\"203.0.113.0/24\"]\n",
        )
        .unwrap();
        let rules = rules::rules(&config, &Lists::default(), &Here::default(), &Hours::default()).unwrap();
        let guard = Guard::new(
            Settings { lease: config.lease.clone(), gate: config.gate.clone(), linger: Duration::ZERO },
            Vec::new(),
        );
        let (_reports, reported) = tokio::sync::mpsc::channel(1);
        let drivers = Drivers { timed: Vec::new(), routes: None, journal: None, recorder: None };
        let (core, task) = core_task(guard, drivers, reported, crate::sys::clock::Clock::start());
        tokio::spawn(task);
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        close_now_and_later(core.clone(), rules, Duration::from_millis(500)).await.unwrap();
        for (question, last) in [("www.late.test", 1), ("fine.test", 2)] {
            let admission = Admission {
                judged: 0,
                openings: Default::default(),
                whole: false,
                ticket: Ticket(0),
                client: IpAddr::from([192, 0, 2, 1]),
                mark: None,
                question: question.parse().unwrap(),
                qtype: 1,
                chain: Arc::default(),
                domain: question.parse().unwrap(),
                grants: [Grant { address: IpAddr::from([203, 0, 113, last]), ttl: 600 }].into(),
            };
            assert!(matches!(core.admit(admission).await.unwrap(), Decision::Release { .. }));
        }
        let open = async || {
            let leases = core.inspect(|guard, now| guard.leases(&LeaseFilter::All, None, 9, now)).await.unwrap();
            leases.into_iter().map(|lease| lease.address).collect::<Vec<_>>()
        };
        let closed = async {
            while open().await.len() > 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), closed).await.unwrap();
        assert_eq!(open().await, [IpAddr::from([203, 0, 113, 2])]);
    }

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
