//! Compares what the guard says (`leases --json`) with the kernel's sets and the router's table; and says when it doesn't enforce.
//!
//! The guard is asked before and after the look at the world, and a difference counts once it was seen three times in a row: what is
//! just being opened or closed differs for a moment, and nobody is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::World;
use super::place::Site;

/// Looks in a row after which a difference counts.
const LOOKS: u32 = 3;
/// The time between two looks at what the guard says.
const AGAIN: Duration = Duration::from_millis(500);
/// Both sides say whole seconds, and reading takes a while.
const ROUNDING: Duration = Duration::from_secs(2);

/// One address in one view of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    /// For whom; empty where that isn't told.
    clients: BTreeSet<IpAddr>,
    /// From the earliest to the latest moment at which it may end; `None` where that isn't told.
    ends: Option<(Instant, Instant)>,
    /// Not on its way in or out.
    settled: bool,
}

type View = BTreeMap<IpAddr, Held>;

/// Compares once a second until the end, and sooner while something differs.
pub fn watch(world: &World) {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    while !world.ended() {
        let begun = Instant::now();
        match look(&world.site).filter(|_| !world.was_disturbed(begun, Instant::now())) {
            Some(differences) => {
                world.counts().comparisons += 1;
                seen.retain(|text, _| differences.contains(text));
                for text in differences {
                    let count = seen.entry(text.clone()).or_insert(0);
                    *count += 1;
                    if *count == LOOKS {
                        world.counts().differences += 1;
                        world.fault("belief", text);
                    }
                }
            }
            // The guard is away, or somebody meddles; what it holds is compared afterwards.
            None => seen.clear(),
        }
        let next = begun + if seen.is_empty() { Duration::from_secs(1) } else { AGAIN };
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn look(site: &Site) -> Option<BTreeSet<String>> {
    let status = site.read("status")?;
    let before = believed(site)?;
    let world = match site.router() {
        Some(_) => routes(site)?,
        None => elements(site)?,
    };
    let after = believed(site)?;
    let mut all = differences(&before, &world, &after);
    // Nothing of what happens here but a restart is a reason for another state. A router that is late on a busy machine is counted by
    // the answers that missed the gate's deadline.
    if status["state"] != "enforcing" && !status["reasons"].to_string().contains("does not confirm") {
        all.insert(format!("state {}, reasons {}", status["state"], status["reasons"]));
    }
    Some(all)
}

fn differences(before: &View, world: &View, after: &View) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (address, belief) in after.iter().filter(|(_, belief)| belief.settled) {
        let Some(earlier) = before.get(address).filter(|earlier| earlier.settled) else { continue };
        // About to end.
        let last = belief.ends.is_some_and(|(first, _)| first <= Instant::now() + ROUNDING);
        let Some(held) = world.get(address) else {
            if !last {
                all.insert(format!("{address} is leased and not in force"));
            }
            continue;
        };
        if let (Some((_, held)), Some((believed, _))) = (held.ends, earlier.ends)
            && held + ROUNDING < believed
        {
            all.insert(format!("{address} ends too early"));
        }
        if let (Some((held, _)), Some((_, believed))) = (held.ends, belief.ends)
            && held > believed + ROUNDING
        {
            all.insert(format!("{address} ends too late"));
        }
        for client in earlier.clients.intersection(&belief.clients).filter(|_| !held.clients.is_empty() && !last) {
            if !held.clients.contains(client) {
                all.insert(format!("{address} is leased for {client} and not in force"));
            }
        }
        for client in held.clients.difference(&belief.clients).filter(|client| !earlier.clients.contains(client)) {
            all.insert(format!("{address} is in force for {client} and not leased"));
        }
    }
    for (address, held) in world {
        let last = held.ends.is_some_and(|(first, _)| first <= Instant::now() + ROUNDING);
        if !before.contains_key(address) && !after.contains_key(address) && !last {
            all.insert(format!("{address} is in force and not leased"));
        }
    }
    all
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// What the guard says.
fn believed(site: &Site) -> Option<View> {
    let begun = Instant::now();
    let leases = site.read("leases")?;
    let read = Instant::now();
    let mut view = View::new();
    for lease in leases["leases"].as_array()? {
        let held = lease["enforcers"].as_object().is_some_and(|all| all.values().all(|state| state == "open"));
        // Rounded up.
        let left = lease["ends_in_seconds"].as_u64()?;
        let first = begun + Duration::from_secs(left.saturating_sub(1));
        let ends = (first, read + Duration::from_secs(left));
        let per_client = site.place.terms().per_client;
        let clients = lease["clients"].as_array().into_iter().flatten().filter_map(address);
        view.insert(
            address(&lease["address"])?,
            Held {
                clients: clients.filter(|_| per_client).collect(),
                // Routes have no end of their own; that of a lingering one is its withdrawal.
                ends: Some(ends),
                settled: held && (lease["state"] == "installed" || lease["state"] == "lingering"),
            },
        );
    }
    Some(view)
}

/// What the kernel's lease sets hold.
fn elements(site: &Site) -> Option<View> {
    let begun = Instant::now();
    let output = site.guard().command("nft").args(["-j", "list", "table", "inet", "destguard"]).output().ok()?;
    let read = Instant::now();
    let all: Value = serde_json::from_slice(&output.stdout).ok()?;
    let prefix = if site.place.terms().per_client { "client_lease" } else { "lease" };
    let mut view = View::new();
    let sets = all["nftables"].as_array()?.iter().filter_map(|object| object.get("set"));
    for set in sets.filter(|set| set["name"].as_str().is_some_and(|name| name.starts_with(prefix))) {
        for element in set["elem"].as_array().into_iter().flatten() {
            let element = element.get("elem").unwrap_or(element);
            let left = Duration::from_secs(element["expires"].as_u64()?);
            let (client, to) = match element["val"]["concat"].as_array().map(Vec::as_slice) {
                Some([client, to]) => (address(client), address(to)?),
                _ => (None, address(&element["val"])?),
            };
            let ends = (begun + left, read + left + Duration::from_secs(1));
            let held = view.entry(to).or_default();
            held.clients.extend(client);
            held.settled = true;
            // An address is leased until the last of its clients' elements ends.
            held.ends = Some(held.ends.map_or(ends, |known| known.max(ends)));
        }
    }
    Some(view)
}

/// The host routes that the router's kernel has from its routing daemon.
fn routes(site: &Site) -> Option<View> {
    let router = site.router()?;
    let mut view = View::new();
    for family in ["-4", "-6"] {
        let output = router.command("ip").args([family, "-j", "route", "show"]).output().ok()?;
        let all: Value = serde_json::from_slice(&output.stdout).ok()?;
        for route in all.as_array()? {
            let ours = matches!(route["protocol"].as_str(), Some("bgp" | "bird")) && route.get("gateway").is_some();
            // Prefixes, the null route among them, don't parse as an address.
            if let Some(to) = address(&route["dst"]).filter(|_| ours && !is_upstream(&route["dst"])) {
                view.insert(to, Held { settled: true, ..Held::default() });
            }
        }
    }
    Some(view)
}

/// Routes that the router's own configuration has.
fn is_upstream(destination: &Value) -> bool {
    destination == "192.0.2.53" || destination == "2001:db8:53::53"
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

    fn view(from: u64, to: u64, now: Instant) -> View {
        let ends = Some((now + Duration::from_secs(from), now + Duration::from_secs(to)));
        View::from([(ADDRESS, Held { clients: BTreeSet::new(), ends, settled: true })])
    }

    #[test]
    fn an_element_that_is_missing_too_early_too_late_or_nobodys_is_a_difference() {
        let now = Instant::now();
        let belief = view(60, 61, now);
        let found = |world: &View| differences(&belief, world, &belief).into_iter().collect::<Vec<_>>().join(", ");
        assert_eq!(found(&view(60, 61, now)), "");
        assert_eq!(found(&view(58, 59, now)), "");
        assert_eq!(found(&view(56, 57, now)), "203.0.113.1 ends too early");
        assert_eq!(found(&view(64, 65, now)), "203.0.113.1 ends too late");
        assert_eq!(found(&View::new()), "203.0.113.1 is leased and not in force");
        let none = View::new();
        let stray = differences(&none, &belief, &none);
        assert_eq!(stray.into_iter().collect::<Vec<_>>(), ["203.0.113.1 is in force and not leased"]);
        // What came or went between the two looks is nobody's fault.
        assert!(differences(&none, &belief, &belief).is_empty() && differences(&belief, &belief, &none).is_empty());
    }
}
