//! How the daemon's answers look to people.

use super::table::{Table, Tone, clean, duration, number, paint};
use crate::config::schema::Action;
use crate::control::ports::OpenPort;
use crate::control::types::{
    AddressExplained, Advertised, Bfd, CONFINED, CauseClient, Denied, EndedLease, Excepted, Explained, Judgement,
    Lease, Peer, Process, Revoked, Service, State, Status, Stays, Tried,
};
use crate::sys::time_zone::time;

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// The first few, and how many more there are.
fn few<T: ToString>(items: &[T], most: usize) -> String {
    let shown: Vec<String> = items.iter().take(most).map(ToString::to_string).collect();
    match items.len().saturating_sub(most) {
        0 if items.is_empty() => "-".to_owned(),
        0 => shown.join(", "),
        more => format!("{}, {more} more", shown.join(", ")),
    }
}

/// The reason of a guard that is in audit as a whole.
const AUDIT: &str = "mode = \"audit\"";

/// The text of `status`, which fits one screen.
#[must_use]
pub fn status(status: &Status, colour: bool) -> String {
    let (word, tone) = match status.state {
        State::Enforcing => ("enforcing", Tone::Good),
        State::Audit if status.reasons.iter().any(|reason| reason == AUDIT) => {
            ("AUDIT (nothing is blocked): mode = \"audit\"", Tone::Warn)
        }
        State::Audit => ("AUDIT (what is listed below blocks nothing)", Tone::Warn),
        State::Degraded => ("degraded", Tone::Bad),
        State::Starting => ("starting", Tone::Warn),
    };
    let mut out = format!("destguard is {}, up {}\n", paint(word, tone, colour), duration(status.uptime_seconds));
    for reason in &status.reasons {
        out.push_str(&format!("  - {}\n", clean(reason)));
    }
    for warning in &status.warnings {
        out.push_str(&format!("  warning: {}\n", clean(warning)));
    }
    let leases = &status.leases;
    out.push_str(&format!(
        "\nleases   {} of {} (IPv4 {}, IPv6 {}), {} pending, {} lingering{}\n",
        number(leases.active),
        number(leases.capacity),
        number(leases.ipv4),
        number(leases.ipv6),
        number(leases.pending),
        number(leases.lingering),
        if leases.held_by_flows > 0 {
            format!(", {} of these for live flows", number(leases.held_by_flows))
        } else {
            String::new()
        }
    ));
    let answers = &status.answers;
    out.push_str(&format!(
        "answers  {} released, {} denied, {} refused, {} held now, {} gate timeouts\n",
        number(answers.released),
        number(answers.denied),
        number(answers.refused),
        number(answers.held),
        number(answers.gate_timeouts)
    ));
    if answers.would_refuse > 0 || status.reasons.iter().any(|reason| reason == AUDIT) {
        let count = number(answers.would_refuse);
        out.push_str(&format!("audit    {count} would have been refused or answered in part: `destguard denied`\n"));
    }
    out.push_str(&process(&status.process));
    if !status.inside.is_empty() {
        let (shown, rest) = status.inside.split_at(status.inside.len().min(SHOWN_INSIDE));
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more (--json)", rest.len()) };
        out.push_str(&format!("inside   {}{more}\n", clean(&shown.join(", "))));
    }
    if !status.enforcers.is_empty() {
        let mut table = Table::new(&["enforcer", "state", "since", "holds", "of", "required", "last error"]);
        for enforcer in &status.enforcers {
            table.row([
                enforcer.name.clone(),
                if enforcer.behind { format!("{}, behind", enforcer.state) } else { enforcer.state.clone() },
                duration(enforcer.since_seconds),
                number(enforcer.installed),
                number(enforcer.max_addresses),
                yes(enforcer.required),
                or_dash(enforcer.last_error.as_ref()),
            ]);
        }
        out.push_str(&format!("\n{}", table.render(colour)));
    }
    if !status.peers.is_empty() {
        out.push_str(&format!("\n{}", peers(&status.peers, colour)));
    }
    if let Some(service) = &status.service {
        out.push_str(&format!("\n{}", self::service(service, colour)));
    }
    if !status.upstreams.is_empty() {
        let mut table = Table::new(&["upstream", "state", "asked", "failed", "rtt", "last error"]);
        for upstream in &status.upstreams {
            table.row([
                upstream.url.clone(),
                upstream.state.clone(),
                number(upstream.asked),
                number(upstream.failed),
                upstream.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt}ms")),
                or_dash(upstream.last_error.as_ref()),
            ]);
        }
        out.push_str(&format!("\n{}", table.render(colour)));
    }
    if !status.lists.is_empty() {
        let mut table = Table::new(&["list", "rules", "skipped", "denied instead", "surplus", "sha256", "fetched"]);
        for list in &status.lists {
            let numbers = [list.rules, list.skipped, list.denied_instead, list.surplus].map(number);
            let sum = list.sha256.as_ref().map(|sum| sum.chars().take(12).collect());
            let fetched = list.fetch.as_ref().map(|fetch| match fetch.seconds_ago {
                Some(seconds) => format!("{} ago", duration(seconds)),
                None => "never".to_owned(),
            });
            let last = [or_dash(sum.as_ref()), or_dash(fetched.as_ref())];
            table.row(std::iter::once(list.name.as_ref().unwrap_or(&list.path).clone()).chain(numbers).chain(last));
        }
        out.push_str(&format!("\n{}", table.render(colour)));
        for warning in status.lists.iter().flat_map(|list| &list.warnings) {
            out.push_str(&format!("  {}\n", clean(warning)));
        }
    }
    if !status.zones.is_empty() {
        let mut table = Table::new(&["zone", "from", "records", "skipped", "sha256", "read"]);
        for zone in &status.zones {
            let sum = zone.sha256.as_ref().map(|sum| sum.chars().take(12).collect());
            table.row([
                zone.name.clone(),
                zone.source.clone().unwrap_or_else(|| "records".to_owned()),
                number(zone.records),
                number(zone.skipped),
                or_dash(sum.as_ref()),
                format!("{} ago", duration(zone.seconds_ago)),
            ]);
        }
        out.push_str(&format!("\n{}", table.render(colour)));
    }
    if !status.applications.is_empty() {
        let mut table = Table::new(&["application", "who", "control groups now"]);
        for one in &status.applications {
            let groups = match (&one.trouble, one.groups) {
                (Some(trouble), _) => trouble.clone(),
                (None, 0) => "-".to_owned(),
                (None, groups) if groups > one.cgroups.len() => format!("{}, {groups} in all", few(&one.cgroups, 4)),
                (None, _) => few(&one.cgroups, 4),
            };
            table.row([one.name.clone(), one.who.clone(), groups]);
        }
        out.push_str(&format!("\n{}", table.render(colour)));
    }
    for one in &status.out_of_hours {
        let until = one.until.as_ref().map_or_else(String::new, |until| format!(" until {until}"));
        out.push_str(&clean(&format!("the {} is out of its hours{until}", one.what)));
        out.push('\n');
    }
    if !status.exceptions.is_empty() {
        let mut table = Table::new(&["exception", "name", "client", "ends in"]);
        for exception in &status.exceptions {
            table.row([
                match exception.action {
                    Action::Deny => "deny".to_owned(),
                    Action::Allow => "allow".to_owned(),
                },
                exception.name.clone(),
                exception.client.map_or_else(|| "everybody".to_owned(), |client| client.to_string()),
                duration(exception.ends_in_seconds),
            ]);
        }
        out.push_str(&format!("\n{}", table.render(colour)));
    }
    if !status.errors.is_empty() {
        out.push_str(&format!("\n{}\n", paint("last errors", Tone::Head, colour)));
        for error in &status.errors {
            out.push_str(&format!("  {} ago: {}\n", duration(error.seconds_ago), clean(&error.message)));
        }
    }
    out
}

/// The guard's own anycast addresses and their sessions.
fn service(service: &Service, colour: bool) -> String {
    let (word, tone) = if service.announced { ("announced", Tone::Good) } else { ("not announced", Tone::Warn) };
    let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    let why = service.reason.as_ref().map_or_else(String::new, |why| format!(": {}", clean(why)));
    let (word, since) = (paint(word, tone, colour), duration(service.since_seconds));
    let mut out = format!("service  {} {word} for {since}{why}\n", addresses.join(", "));
    let mut table = Table::new(&["service peer", "address", "state", "since", "announced", "bfd", "last error"]);
    for peer in &service.peers {
        table.row([
            peer.name.clone(),
            peer.address.to_string(),
            peer.state.clone(),
            duration(peer.since_seconds),
            number(peer.advertised),
            peer.bfd.as_ref().map_or_else(|| "-".to_owned(), |bfd| bfd.state.clone()),
            or_dash(peer.last_error.as_ref()),
        ]);
    }
    out.push_str(&table.render(colour));
    out
}

/// Prefixes of the network itself on one line.
const SHOWN_INSIDE: usize = 6;

/// A table of leases.
#[must_use]
pub fn leases(leases: &[Lease], colour: bool) -> String {
    if leases.is_empty() {
        return "no leases\n".to_owned();
    }
    let mut heads = vec!["address", "state", "ends in", "names", "clients", "enforcers"];
    let groups = leases.iter().any(|lease| !lease.groups.is_empty());
    if groups {
        heads.insert(5, "groups");
    }
    let mut table = Table::new(&heads);
    for lease in leases {
        let enforcers: Vec<String> = lease.enforcers.iter().map(|(name, state)| format!("{name} {state}")).collect();
        let mut row = vec![
            lease.address.to_string(),
            lease.state.clone(),
            duration(lease.ends_in_seconds),
            match (lease.ports.is_empty(), lease.applications.is_empty()) {
                (true, true) => few(&lease.names, 2),
                (true, false) => format!("{} (for {} only)", few(&lease.names, 2), few(&lease.applications, 3)),
                (false, true) => format!("{} ({} only)", few(&lease.names, 2), few(&lease.ports, 3)),
                (false, false) => {
                    let (ports, applications) = (few(&lease.ports, 3), few(&lease.applications, 3));
                    format!("{} ({ports} for {applications} only)", few(&lease.names, 2))
                }
            },
            few(&lease.clients, 2),
        ];
        if groups {
            row.push(few(&lease.groups, 4));
        }
        row.push(few(&enforcers, 4));
        table.row(row);
    }
    table.render(colour)
}

/// Why something is open or not.
#[must_use]
pub fn explained(explained: &Explained, colour: bool) -> String {
    let is_address = explained.query.parse::<std::net::IpAddr>().is_ok();
    let opening = !explained.open && !explained.addresses.is_empty();
    let word = match (explained.open, opening) {
        (true, _) => paint("open", Tone::Good, colour),
        (false, true) => paint("opening", Tone::Warn, colour),
        (false, false) => paint("closed", Tone::Bad, colour),
    };
    let mut out = format!("{} is {word}", clean(&explained.query));
    if opening {
        out.push_str(": not every required enforcer has confirmed it");
    } else if !explained.open {
        out.push_str(&format!(": {}", past(&explained.ended, is_address)));
        if is_address {
            out.push_str(&format!("; {}.", verdict_of_address(&explained.now)));
        }
    }
    if let Some(refused) = &explained.refused {
        let clients = few(&refused.clients.iter().map(|one| one.client).collect::<Vec<_>>(), 3);
        let last = refused.clients.first().map_or(0, |one| one.last_seconds_ago);
        let packets = if refused.packets == 1 { "packet" } else { "packets" };
        let stop = if explained.open || opening { "." } else { "" };
        out.push_str(&format!("{stop} {} {packets} refused ({clients}, last {})", number(refused.packets), ago(last)));
    }
    out.push('\n');
    for address in &explained.addresses {
        out.push_str(&address_explained(address, colour));
    }
    // Of a closed address the first line has said it.
    if explained.open || opening || !is_address {
        out.push_str(&format!("\nnow: {}\n", judgement(&explained.now)));
    }
    for tried in &explained.answers {
        out.push_str(&format!("  {}: {}\n", clean(&tried.qtype), answer(tried)));
    }
    out
}

/// What a question for a name would get, type by type.
#[must_use]
pub fn tested(explained: &Explained) -> String {
    let mut out = format!("{}: {}\n", clean(&explained.query), judgement(&explained.now));
    for tried in &explained.answers {
        let chain: String = tried.chain.iter().map(|name| format!(" -> {}", clean(name))).collect();
        out.push_str(&format!("  {}{chain}: {}\n", clean(&tried.qtype), answer(tried)));
    }
    if explained.answers.is_empty() {
        out.push_str("  nobody was asked\n");
    }
    out
}

/// "4 s ago", "3m 10s ago".
fn process(process: &Process) -> String {
    // A daemon of an earlier version says nothing of it.
    if process.system_calls.is_empty() {
        return String::new();
    }
    let capabilities =
        if process.capabilities.is_empty() { "no capabilities".to_owned() } else { process.capabilities.join(" ") };
    let mut parts = vec![format!("uid {}", process.uid), capabilities];
    match (process.system_calls.as_str(), process.files.as_str()) {
        (CONFINED, CONFINED) => parts.push("system calls and writing confined".to_owned()),
        (CONFINED, why) => parts.push(format!("system calls confined, writing not: {why}")),
        (why, CONFINED) => parts.push(format!("writing confined, system calls not: {why}")),
        (calls, files) if calls == files => parts.push(format!("not confined: {calls}")),
        (calls, files) => parts.push(format!("not confined: {calls}; {files}")),
    }
    format!("process  {}\n", clean(&parts.join(", ")))
}

fn ago(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds} s ago") } else { format!("{} ago", duration(seconds)) }
}

/// How long something closed has been that.
fn past(ended: &[EndedLease], is_address: bool) -> String {
    let Some(last) = ended.iter().min_by_key(|ended| ended.seconds_ago) else {
        return if is_address { "nobody was answered with it" } else { "nobody was answered with its addresses" }
            .to_owned();
    };
    let (when, how) = (ago(last.seconds_ago), clean(&last.how));
    if is_address {
        return format!("it was open for {} until {when} ({how})", clean(&few(&last.names, 3)));
    }
    let addresses: Vec<_> = ended.iter().map(|ended| ended.address).collect();
    format!("{} was open for it until {when} ({how})", few(&addresses, 3))
}

fn verdict_of_address(now: &Judgement) -> String {
    match now.verdict.as_str() {
        "allowed" => match cited(now) {
            cited if cited.is_empty() => "not filtered".to_owned(),
            cited => format!("not filtered{cited}: {}", clean(&now.reason)),
        },
        _ => judgement(now),
    }
}

/// What a question of one type would get.
fn answer(tried: &Tried) -> String {
    let mut out = clean(&tried.verdict);
    if !tried.reason.is_empty() {
        out.push_str(&format!(", {}", clean(&tried.reason)));
    }
    out.push_str(&cite(tried.rule.as_ref(), tried.place.as_ref()));
    if !tried.chain.is_empty() {
        out.push_str(&format!(", via {}", clean(&tried.chain.join(", "))));
    }
    for one in &tried.addresses {
        let does = match one.verdict.as_str() {
            "allowed" => "would be opened",
            "always open" => "is always open",
            _ => "is taken out",
        };
        let why = one.reason.as_ref().map_or_else(String::new, |why| format!(": {}", clean(why)));
        out.push_str(&format!("\n    {} {does}{}{why}", one.address, cite(one.rule.as_ref(), one.place.as_ref())));
    }
    out
}

/// Rule and place in parentheses.
fn cite(rule: Option<&String>, place: Option<&String>) -> String {
    match (rule, place) {
        (Some(list), Some(place)) if list.starts_with("list ") => format!(" ({}, {})", clean(list), clean(place)),
        (Some(rule), Some(place)) => format!(" ({} at {})", clean(rule), clean(place)),
        (Some(one), None) | (None, Some(one)) => format!(" ({})", clean(one)),
        (None, None) => String::new(),
    }
}

fn cited(now: &Judgement) -> String {
    cite(now.rule.as_ref(), now.place.as_ref())
}

fn judgement(now: &Judgement) -> String {
    let mut out = clean(&now.verdict);
    if !now.reason.is_empty() {
        out.push_str(&format!(", {}", clean(&now.reason)));
    }
    out.push_str(&cited(now));
    out
}

fn address_explained(address: &AddressExplained, colour: bool) -> String {
    let mut out = format!(
        "\n{}: {} for {}, ends in {}",
        paint(&address.address.to_string(), Tone::Head, colour),
        clean(&address.state),
        duration(address.age_seconds),
        duration(address.ends_in_seconds)
    );
    if let Some(route) = address.route_ends_in_seconds {
        out.push_str(&format!(", routes in {}", duration(route)));
    }
    if let Some((now, most)) = address.held_by_flow_seconds {
        let (now, most) = (duration(now), duration(most));
        out.push_str(&format!(", held open by a live flow: {now} after its last report, {most} at most"));
    }
    if address.waiting > 0 {
        out.push_str(&format!(", {} answers wait for it", address.waiting));
    }
    out.push('\n');
    for cause in &address.causes {
        let qtype = cause.qtype.map_or_else(|| "(before a restart)".to_owned(), type_name);
        let via = if cause.chain.is_empty() { String::new() } else { format!(" via {}", cause.chain.join(", ")) };
        let ends = match cause.ends_in_seconds {
            0 => "ended".to_owned(),
            seconds => format!("ends in {}", duration(seconds)),
        };
        out.push_str(&format!("  {} {qtype}{}, {ends}\n", clean(&cause.question), clean(&via)));
        let clients: Vec<String> = cause.clients.iter().map(|client| client.client.to_string()).collect();
        if !clients.is_empty() {
            let group = cause.group.as_ref().map_or_else(String::new, |group| format!(" of group {}", clean(group)));
            let known = cause.known_by.as_ref().map_or_else(String::new, |by| format!(", known by {}", clean(by)));
            out.push_str(&format!("    asked by {}{group}{known}\n", few(&clients, 8)));
        }
    }
    if let Some(clients) = &address.open_for {
        let client = |client: &CauseClient| format!("{} for {}", client.client, duration(client.ends_in_seconds));
        let clients: Vec<String> = clients.iter().map(client).collect();
        let whom = if clients.is_empty() { "nobody".to_owned() } else { few(&clients, 8) };
        out.push_str(&format!("  open to {whom}, and to nobody else\n"));
    }
    for open in address.open_ports.iter().flatten() {
        let whom = match (&open.application, open.client) {
            (Some(application), _) => format!(" to application {}", clean(application)),
            (None, Some(client)) => format!(" to {client}"),
            (None, None) => String::new(),
        };
        let (port, names, ends) = (clean(&open.port), few(&open.names, 4), duration(open.ends_in_seconds));
        out.push_str(&format!("  {port} open{whom} by {names} for {ends}\n"));
    }
    if let Some(ports) = &address.open_ports {
        let to_all = |open: &&OpenPort| open.application.is_none();
        let whole = ports.iter().filter(to_all).any(|open| open.port == "all ports");
        let bound = !ports.iter().all(|open| to_all(&open));
        out.push_str(match (whole, bound) {
            (true, false) => "  a name without ports opens all of it\n",
            (true, true) => "  a name that is no application's, without ports, opens all of it to everybody\n",
            (false, false) => "  no other port of it is open\n",
            (false, true) => "  nothing else of it is open to anybody\n",
        });
        if address.route_ends_in_seconds.is_some() {
            out.push_str("  routes know no ports: routers let pass all of it\n");
        }
    }
    for group in &address.groups {
        let ends = match group.ends_in_seconds {
            0 => "ended, its communities linger".to_owned(),
            seconds => format!("ends in {}", duration(seconds)),
        };
        let force = if group.in_force { "" } else { ", not confirmed yet" };
        out.push_str(&format!("  group {}: {ends}{force}\n", clean(&group.name)));
    }
    for hold in &address.enforcers {
        let since = hold.since_seconds.map_or_else(String::new, |since| format!(" for {}", duration(since)));
        let required = if hold.required { ", required" } else { "" };
        out.push_str(&format!("  {}: {}{since}{required}\n", clean(&hold.name), clean(&hold.state)));
    }
    out
}

/// The types that open addresses by name, others as RFC 3597 writes them.
fn type_name(qtype: u16) -> String {
    match qtype {
        1 => "A".to_owned(),
        28 => "AAAA".to_owned(),
        64 => "SVCB".to_owned(),
        65 => "HTTPS".to_owned(),
        255 => "ANY".to_owned(),
        other => format!("TYPE{other}"),
    }
}

/// Routes of one family; in audit those that there would be.
fn advertised(peer: &Peer, of: impl Fn(&Advertised) -> usize) -> String {
    match &peer.would_advertise {
        Some(would) => format!("0 (audit: {})", number(of(would))),
        None => number(of(&peer.advertised)),
    }
}

/// A table of sessions.
#[must_use]
pub fn peers(peers: &[Peer], colour: bool) -> String {
    if peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let mut table = Table::new(&[
        "peer",
        "address",
        "asn",
        "state",
        "since",
        "BFD",
        "IPv4",
        "IPv6",
        "confirm",
        "latency",
        "last error",
    ]);
    for peer in peers {
        table.row([
            peer.name.clone(),
            peer.address.to_string(),
            // An edge has no session that would tell.
            if peer.asn == 0 { "-".to_owned() } else { peer.asn.to_string() },
            peer.state.clone(),
            duration(peer.since_seconds),
            peer.bfd.as_ref().map_or_else(|| "-".to_owned(), Bfd::words),
            advertised(peer, |routes| routes.ipv4),
            advertised(peer, |routes| routes.ipv6),
            peer.confirm.clone(),
            peer.confirmations.as_ref().and_then(|seen| seen.p50_us).map_or_else(|| "-".to_owned(), millis),
            or_dash(peer.last_error.as_ref()),
        ]);
    }
    table.render(colour)
}

/// A line for each peer that confirms: how long it took, what was learnt, what is outstanding.
#[must_use]
pub fn confirmations(peers: &[Peer]) -> String {
    let mut out = String::new();
    for (peer, guard) in peers.iter().filter_map(|peer| Some((peer, peer.guard?))) {
        let mut line = format!("{}: tells of {} leases", clean(&peer.name), number(guard.leases));
        let vain = guard.without_room.saturating_add(guard.without_end);
        if vain > 0 {
            line.push_str(&format!("; {vain} announcements not taken in"));
        }
        out.push_str(&line);
        out.push('\n');
    }
    for peer in peers {
        let Some(confirmations) = &peer.confirmations else { continue };
        let mut parts = Vec::new();
        if confirmations.count > 0 {
            let longest = confirmations.histogram.iter().rev().find_map(|(bound, _)| *bound);
            let within = |micros: Option<u64>| match (micros, longest) {
                (Some(micros), _) => millis(micros),
                // Above the last bound.
                (None, Some(longest)) => format!("over {}", millis(longest)),
                (None, None) => "long".to_owned(),
            };
            let (median, high) = (within(confirmations.p50_us), within(confirmations.p99_us));
            parts.push(format!("confirm p50 {median}, p99 {high} ({})", number(confirmations.count)));
        }
        if let Some(learnt) = &confirmations.learnt {
            let shown = match (learnt.p50_ms, learnt.p99_ms) {
                (Some(median), Some(high)) => format!(": median {median}ms, 99% {high}ms"),
                _ => String::new(),
            };
            let samples = number(learnt.samples);
            parts.push(format!("settle {}ms, learnt from {samples} probes{shown}", confirmations.settle_ms));
        }
        if confirmations.unverified > 0 {
            parts.push(format!("{} routes not verified yet", number(confirmations.unverified)));
        }
        if confirmations.borrowed > 0 {
            parts.push(format!("{} routes by another guard's path", number(confirmations.borrowed)));
        }
        if confirmations.closing > 0 || confirmations.close_latency_ms.is_some() {
            let median =
                confirmations.close_latency_ms.map_or_else(String::new, |median| format!(" (median {median}ms)"));
            parts.push(format!("{} withdrawals not reflected yet{median}", number(confirmations.closing)));
        }
        if !parts.is_empty() {
            out.push_str(&format!("{}: {}\n", clean(&peer.name), parts.join("; ")));
        }
    }
    out
}

/// Microseconds as "0.25 ms", "25 ms".
fn millis(micros: u64) -> String {
    let text = format!("{}.{:03}", micros / 1000, micros % 1000);
    format!("{} ms", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The text of `denied` in columns, with a line for each refusal.
#[must_use]
pub fn denied_table(denied: &[Denied], colour: bool) -> String {
    let mut table = Table::new(&["time", "kind", "client", "what", "times", "why"]);
    for entry in denied {
        table.row([
            time(entry.time),
            entry.kind.clone(),
            entry.by.as_ref().map_or_else(|| or_dash(entry.client.as_ref()), ToString::to_string),
            entry.what.clone(),
            number(entry.count),
            format!("{}{}", if entry.audit { "would deny: " } else { "" }, entry.reason),
        ]);
    }
    table.render(colour)
}

/// One line each, as they come.
#[must_use]
pub fn denied(denied: &[Denied]) -> String {
    let mut out = String::new();
    for entry in denied {
        let client = entry.client.as_ref().map_or_else(String::new, |client| format!(" for {}", clean(client)));
        let by = entry.by.as_ref().map_or_else(String::new, |by| format!(" ({})", clean(&by.to_string())));
        let times = if entry.count > 1 { format!(" ({} times)", number(entry.count)) } else { String::new() };
        out.push_str(&format!(
            "{}  {:7}  {}{client}{by}: {}{}{times}\n",
            time(entry.time),
            clean(&entry.kind),
            clean(&entry.what),
            if entry.audit { "would deny: " } else { "" },
            clean(&entry.reason)
        ));
    }
    out
}

/// What was closed, what stays, and what that means.
#[must_use]
pub fn revoked(revoked: &Revoked) -> String {
    let target = clean(&revoked.target);
    let mut out = if revoked.addresses.is_empty() {
        format!("{target}: nothing closed\n")
    } else {
        let addresses: Vec<String> = revoked.addresses.iter().map(ToString::to_string).collect();
        format!("{target}: closed {}\n", addresses.join(", "))
    };
    out.push_str(&stays(&revoked.stays));
    if revoked.forgotten > 0 {
        let answers = if revoked.forgotten == 1 { "kept answer" } else { "kept answers" };
        out.push_str(&format!("  {} {answers} forgotten\n", number(revoked.forgotten)));
    }
    out.push_str(if revoked.target.parse::<std::net::IpAddr>().is_ok() {
        "  the next answer with it opens it again\n"
    } else {
        "  the next question for it opens it again; `destguard deny NAME --for 1h` prevents that\n"
    });
    out
}

fn stays(stays: &[Stays]) -> String {
    let line = |one: &Stays| {
        let (names, ends) = (clean(&few(&one.names, 3)), duration(one.ends_in_seconds));
        format!("  {} stays open for {ends}: {names} holds it\n", one.address)
    };
    stays.iter().map(line).collect()
}

/// What an exception does.
#[must_use]
pub fn excepted(excepted: &Excepted) -> String {
    let target = clean(&excepted.target);
    let word = match excepted.action {
        Action::Deny => "denied",
        Action::Allow => "allowed",
    };
    let client = excepted.client.map_or_else(String::new, |client| format!(" to {client}"));
    let mut out = match excepted.ends_in_seconds {
        Some(seconds) => format!("{target}: {word}{client} for {}\n", duration(seconds)),
        None => format!("{target}: no longer {word}{client} by an exception; the configuration decides\n"),
    };
    if !excepted.closed.is_empty() {
        let addresses: Vec<String> = excepted.closed.iter().map(ToString::to_string).collect();
        out.push_str(&format!("  closed {}\n", addresses.join(", ")));
    }
    out + &stays(&excepted.stays)
}
