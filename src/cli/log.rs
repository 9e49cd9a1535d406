//! `log`: the last questions, and what became of each.

use std::net::IpAddr;

use clap::Args;
use hyper::Method;

use super::ask::{Daemon, Failure, NEWS, decode, finish};
use super::table::{Table, clean, colours};
use super::{Exit, complain};
use crate::config::value::Span;
use crate::control::client::escape;
use crate::control::types::{Asked, AskedPage, Versioned};
use crate::sys::time_zone::with_millis;

/// Which of them.
#[derive(Clone, Debug, Default, Args)]
pub struct Wanted {
    /// Of this client, or of those of this prefix.
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    client: Option<String>,
    /// For this name, and those below it.
    #[arg(long)]
    name: Option<String>,
    /// Whose answer holds this address.
    #[arg(long)]
    address: Option<IpAddr>,
    /// Not older than this: "10m", "1h".
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// What became of them: released, cached, local, denied, filtered, refused, failed.
    #[arg(long)]
    fate: Option<String>,
    /// So many at most, the newest; up to 1000.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Keep showing what comes.
    #[arg(long)]
    follow: bool,
    /// Print JSON: one object, or with --follow one object a question.
    #[arg(long)]
    pub(super) json: bool,
}

impl Wanted {
    fn query(&self) -> String {
        let mut query = String::new();
        let texts =
            [("client", self.client.as_deref()), ("name", self.name.as_deref()), ("fate", self.fate.as_deref())];
        for (key, value) in texts.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            query.push_str(&format!("&{key}={}", escape(value)));
        }
        if let Some(address) = self.address {
            query.push_str(&format!("&address={}", escape(&address.to_string())));
        }
        if let Some(since) = self.since {
            query.push_str(&format!("&since={}", since.0.as_secs()));
        }
        if let Some(limit) = self.limit {
            query.push_str(&format!("&limit={limit}"));
        }
        query
    }
}

impl Daemon {
    /// `log`; with `--follow` until it is interrupted or the reader goes away.
    #[must_use]
    pub fn log(&self, wanted: &Wanted) -> Exit {
        let query = wanted.query();
        if !wanted.follow {
            return self.show(Method::GET, &format!("/api/v1/log?after=0{query}"), wanted.json, |page: &AskedPage| {
                if page.asked.is_empty() { "no question\n".to_owned() } else { columns(&page.asked, colours()) }
            });
        }
        let (mut after, mut wait, mut first) = (0, 0, true);
        loop {
            // What was shown first may be old; what comes now is new whatever its age.
            let page = self
                .ask(Method::GET, &format!("/api/v1/log?after={after}&wait={wait}{query}"))
                .and_then(|text| decode::<AskedPage>(&text));
            let page = match page {
                Ok(page) => page,
                Err(failure) => return failure.exit(),
            };
            if page.lost && !first {
                complain(&"more questions came than the log had room for: some are missing here", Exit::Done);
            }
            // A restarted daemon counts from the beginning.
            (after, wait, first) = (page.next, NEWS, false);
            if page.asked.is_empty() {
                continue;
            }
            let text = if wanted.json { objects(page.asked) } else { Ok(lines(&page.asked)) };
            match finish(text) {
                Exit::Done => {}
                other => return other,
            }
        }
    }
}

fn objects(asked: Vec<Asked>) -> Result<String, Failure> {
    let one = |asked| serde_json::to_string(&Versioned::new(asked)).map_err(|error| Failure::Here(error.to_string()));
    Ok(asked.into_iter().map(one).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// With what the reply says, where that isn't plain.
fn fate(one: &Asked) -> String {
    let rcode = if one.rcode == "NOERROR" { String::new() } else { format!(" {}", one.rcode) };
    format!("{}{rcode}", one.fate)
}

fn why(one: &Asked) -> String {
    let why = one.why.as_deref().unwrap_or_default();
    if one.audit { format!("would deny: {why}") } else { why.to_owned() }
}

fn columns(asked: &[Asked], colour: bool) -> String {
    let mut table = Table::new(&["time", "client", "name", "type", "fate", "took", "why, addresses"]);
    for one in asked {
        let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
        let last = [why(one), addresses.join(" ")];
        table.row([
            with_millis(one.time_ms),
            client_of(one),
            one.name.clone(),
            one.qtype.clone(),
            fate(one),
            if one.took_us == 0 { "-".to_owned() } else { span(one.took_us) },
            last.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  -> "),
        ]);
    }
    table.render(colour)
}

/// A line each, as they come.
fn lines(asked: &[Asked]) -> String {
    let mut out = String::new();
    for one in asked {
        let why = Some(why(one)).filter(|why| !why.is_empty());
        let why = why.map(|why| format!(": {}", clean(&why))).unwrap_or_default();
        let took = if one.took_us == 0 { String::new() } else { format!(", {}", span(one.took_us)) };
        let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { String::new() } else { format!("  -> {}", addresses.join(" ")) };
        out.push_str(&format!(
            "{}  {}  {} {}  {}{took}{why}{addresses}\n",
            with_millis(one.time_ms),
            clean(&client_of(one)),
            clean(&one.name),
            clean(&one.qtype),
            clean(&fate(one))
        ));
    }
    out
}

fn span(micros: u64) -> String {
    if micros < 10_000 {
        format!("{}.{} ms", micros / 1000, micros / 100 % 10)
    } else {
        format!("{} ms", micros / 1000)
    }
}

/// The address, and as whom it asked.
fn client_of(one: &Asked) -> String {
    let person = one.person.as_ref().map_or_else(String::new, |person| format!(" {person}"));
    format!("{}{person}", one.client)
}
