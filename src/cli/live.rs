//! `check --live`: how it looks.

use std::path::Path;

use super::table::{Table, Tone, colours, paint};
use super::{Exit, complain, say};
use crate::check;
use crate::config::report;
use crate::config::schema::NftablesMode;
use crate::live::{Live, Server, Verdict, host, judge};

/// Most lines of one list that are shown to people.
const SHOWN: usize = 40;

/// `check --live`. The configuration's findings come first; without a good one there is nothing to judge by.
#[must_use]
pub fn check(file: &Path, json: bool) -> Exit {
    let (config, warnings) = match check::load(file) {
        Ok((config, warnings, _)) => (config, warnings),
        Err(_) => return super::configuration::check(file, json),
    };
    let live = judge(&config, &host::see(&config));
    if json {
        let whole = report::to_json(file, &warnings).and_then(|text| serde_json::from_str(&text)).and_then(
            |mut whole: serde_json::Map<String, serde_json::Value>| {
                whole.insert("live".to_owned(), serde_json::to_value(&live)?);
                serde_json::to_string_pretty(&whole)
            },
        );
        return match whole {
            Ok(text) => say(&text),
            Err(error) => complain(&error, Exit::Failed),
        };
    }
    let mut text: String = warnings.iter().map(|finding| format!("{finding}\n\n")).collect();
    text.push_str(&report::summary(file, &warnings));
    text.push_str("\n\n");
    text.push_str(&show(&live, colours()));
    say(&text)
}

fn show(live: &Live, colour: bool) -> String {
    let mut out = Vec::new();
    let mode = match live.mode {
        NftablesMode::Off => "off",
        NftablesMode::Local => "local",
        NftablesMode::Gateway => "gateway",
        NftablesMode::Both => "both",
    };
    let armed = if live.armed { "in force now" } else { "not in force yet" };
    out.push(format!(
        "nftables.mode = \"{mode}\", {armed}. What is refused unless the guard answers with its address:\n"
    ));
    let mut section = |title: &str, count: usize, rows: Vec<Vec<String>>, titles: &[&str]| {
        let mut text = format!("{}\n", paint(&format!("{title}: {count}"), Tone::Head, colour));
        if !rows.is_empty() {
            let mut table = Table::new(titles);
            let more = rows.len().saturating_sub(SHOWN);
            rows.into_iter().take(SHOWN).for_each(|row| table.row(row));
            text.push_str(&table.render(false));
            if more > 0 {
                text.push_str(&format!("... and {more} more (--json lists them)\n"));
            }
        }
        out.push(text);
    };
    let connections = live.connections.iter().map(|one| {
        let ends = [one.local.to_string(), one.remote.to_string()];
        let [local, remote] = ends;
        vec![one.protocol.to_owned(), local, remote, one.program.clone(), connection(one.verdict)]
    });
    section(
        "Connections of this host",
        live.connections.len(),
        connections.collect(),
        &["PROTO", "LOCAL", "REMOTE", "PROGRAM", "AT THE START"],
    );
    let flows = live
        .flows
        .iter()
        .map(|one| vec![one.protocol.clone(), one.client.to_string(), one.remote.to_string(), connection(one.verdict)]);
    section("Forwarded flows", live.flows.len(), flows.collect(), &["PROTO", "CLIENT", "REMOTE", "AT THE START"]);
    let listeners =
        live.listeners.iter().map(|one| vec![one.protocol.to_owned(), one.local.to_string(), one.program.clone()]);
    section(
        "Ports whose replies leave because the kernel tracks the flow (a notrack rule would stop them)",
        live.listeners.len(),
        listeners.collect(),
        &["PROTO", "LOCAL", "PROGRAM"],
    );
    let servers: [(&str, &[Server], &str); 3] = [
        ("DHCP servers", &live.dhcp, "refused"),
        (
            "Time servers",
            &live.ntp,
            "refused once a lease of it ends: write its name into lease.preload, or its address into addresses.open",
        ),
        ("Resolvers other than this guard", &live.resolvers, "refused: have the guard asked instead"),
    ];
    for (title, list, refused) in servers {
        let rows = list.iter().map(|one| {
            let effect = if one.verdict == Verdict::Open { "passes" } else { refused };
            vec![one.server.clone(), one.seen.clone(), effect.to_owned()]
        });
        section(title, list.len(), rows.collect(), &["SERVER", "SEEN IN", "THEN"]);
    }
    out.extend(live.notes.iter().map(|note| format!("note: {note}\n")));
    out.join("\n")
}

fn connection(verdict: Verdict) -> String {
    match verdict {
        Verdict::Open => "passes",
        Verdict::Refused => "lives on; a new one is refused",
        Verdict::Ends => "ends: DNS that goes round the guard",
    }
    .to_owned()
}
