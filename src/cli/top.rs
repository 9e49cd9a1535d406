//! `top`, and `denied` with what narrows it down.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use hyper::Method;
use ipnet::IpNet;

use super::Exit;
use super::ask::{Daemon, Failure, NEWS, decode, encode, finish};
use super::show;
use super::table::{Table, clean, colours, duration, number};
use crate::config::schema::Hide;
use crate::config::value::Span;
use crate::control::types::{Denied, DeniedPage, TopClient, TopPage, Versioned};

/// How far back and how many.
#[derive(Clone, Debug, Args)]
pub struct Wanted {
    /// Not older than this: "10m", "1h"; an hour unasked.
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// So many of each kind.
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub(super) json: bool,
}

impl Daemon {
    /// Runs `destguard top`.
    #[must_use]
    pub fn top(&self, wanted: &Wanted) -> Exit {
        let since = wanted.since.map(|since| format!("&since={}", since.0.as_secs())).unwrap_or_default();
        let path = format!("/api/v1/top?limit={}{since}", wanted.limit);
        self.show(Method::GET, &path, wanted.json, page)
    }

    /// `denied`; with `follow` until it is interrupted or the reader goes away, as JSON one object a line.
    #[must_use]
    pub fn denied(&self, follow: bool, only: &Only, json: bool) -> Exit {
        if !follow {
            return finish(self.ask(Method::GET, "/api/v1/denied").and_then(|text| {
                let mut page: DeniedPage = decode(&text)?;
                only.narrow(&mut page)?;
                match (json, page.denied.is_empty()) {
                    (true, _) => encode(page),
                    (false, true) => Ok("nothing was refused\n".to_owned()),
                    (false, false) => Ok(show::denied_table(&page.denied, colours())),
                }
            }));
        }
        let (mut after, mut wait) = (0, 0);
        loop {
            let page = self
                .ask(Method::GET, &format!("/api/v1/denied?after={after}&wait={wait}"))
                .and_then(|text| decode::<DeniedPage>(&text));
            let mut page = match page {
                Ok(page) => page,
                Err(failure) => return failure.exit(),
            };
            if let Err(failure) = only.narrow(&mut page) {
                return failure.exit();
            }
            // A restarted daemon counts from the beginning.
            after = page.next;
            wait = NEWS;
            if page.denied.is_empty() {
                continue;
            }
            let text = if json {
                serde_json::to_string(&Versioned::new(page)).map_err(|error| Failure::Here(error.to_string()))
            } else {
                Ok(show::denied(&page.denied))
            };
            match finish(text) {
                Exit::Done => {}
                other => return other,
            }
        }
    }
}

fn page(page: &TopPage) -> String {
    let mut out = if page.kept {
        format!("{} questions in the last {}\n", number_of(page.top.questions), duration(page.since_seconds))
    } else {
        "no questions are counted: log.queries is 0\n".to_owned()
    };
    let denied_head = if page.audit { "would be denied" } else { "denied" };
    let mut section = |heads: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return;
        }
        let mut table = Table::new(heads);
        rows.into_iter().for_each(|row| table.row(row));
        out.push_str(&format!("\n{}", table.render(colours())));
    };
    let clients = page.top.clients.iter();
    section(
        &["client", "questions", denied_head],
        clients.map(|one| vec![clean(&named(one)), number_of(one.questions), number_of(one.denied)]).collect(),
    );
    let names = page.top.names.iter();
    section(&["name", "questions"], names.map(|one| vec![clean(&one.name), number_of(one.questions)]).collect());
    let denied = page.top.denied.iter();
    section(
        &[denied_head, "times", "why"],
        denied
            .map(|one| vec![clean(&one.name), number_of(one.count), clean(one.why.as_deref().unwrap_or("-"))])
            .collect(),
    );
    let addresses = page.addresses.iter();
    section(
        &["refused packets to", "packets"],
        addresses.map(|one| vec![one.address.to_string(), number_of(one.packets)]).collect(),
    );
    out
}

fn number_of(value: u64) -> String {
    number(value)
}

/// The refusals that are shown; without any of it all are.
#[derive(Clone, Debug, Default, Args)]
pub struct Only {
    /// Of this client, or of those of this prefix.
    #[arg(long, value_name = "ADDRESS|PREFIX", value_parser = prefix)]
    client: Option<IpNet>,
    /// Of this kind; a "question" is what "name" is.
    #[arg(long, value_parser = ["name", "question", "address", "answer", "packet"])]
    kind: Option<String>,
    /// Not older than this: "10m", "1h".
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// Names, addresses and destinations by how often, so many.
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    pub(super) top: Option<usize>,
}

pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse::<IpNet>()).map_err(|_| "neither an address nor a prefix".to_owned())
}

impl Only {
    /// Leaves what is wanted.
    ///
    /// # Errors
    /// Clients are hidden, and one is wanted.
    pub fn narrow(&self, page: &mut DeniedPage) -> Result<(), Failure> {
        if self.client.is_some() && page.hidden.contains(&Hide::Clients) {
            let words = "log.hide has \"clients\": what was refused to one client is not told";
            return Err(Failure::Here(words.to_owned()));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let from = self.since.map_or(0, |since| now.saturating_sub(since.0.as_secs()));
        page.denied.retain(|entry| {
            let client = self.client.is_none_or(|net| {
                let client = entry.client.as_ref().and_then(|client| client.parse::<IpAddr>().ok());
                client.is_some_and(|client| net.contains(&client))
            });
            let kind = self
                .kind
                .as_ref()
                .is_none_or(|kind| *kind == entry.kind || (kind == "question" && entry.kind == "name"));
            client && kind && entry.time >= from
        });
        if let Some(most) = self.top {
            page.denied = often(std::mem::take(&mut page.denied), most);
        }
        Ok(())
    }
}

/// Those that were refused most often, whoever asked; each as it was the last time.
fn often(denied: Vec<Denied>, most: usize) -> Vec<Denied> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut all: Vec<(Denied, bool)> = Vec::new();
    for entry in denied {
        let key = (entry.kind.clone(), thing(&entry).to_owned());
        match places.get(&key).and_then(|place| all.get_mut(*place)) {
            Some((known, several)) => {
                *several |= (&known.client, &known.by) != (&entry.client, &entry.by);
                let count = known.count.saturating_add(entry.count);
                *known = Denied { count, ..entry };
            }
            None => {
                places.insert(key, all.len());
                all.push((entry, false));
            }
        }
    }
    all.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.count));
    all.truncate(most);
    // Of several clients none is named.
    let named = |(entry, several): (Denied, bool)| Denied {
        client: entry.client.filter(|_| !several),
        by: entry.by.filter(|_| !several),
        ..entry
    };
    all.into_iter().map(named).collect()
}

/// The same name is refused for several types.
fn thing(entry: &Denied) -> &str {
    entry.what.split(' ').next().unwrap_or_default()
}

/// The address, and as whom it asked.
fn named(one: &TopClient) -> String {
    let person = one.person.as_ref().map_or_else(String::new, |person| format!(" {person}"));
    format!("{}{person}", one.client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(kind: &str, what: &str, client: u8, time: u64, count: u64) -> Denied {
        Denied {
            number: time,
            time,
            kind: kind.to_owned(),
            what: what.to_owned(),
            client: Some(format!("192.0.2.{client}")),
            reason: "policy".to_owned(),
            count,
            audit: false,
            by: None,
        }
    }

    #[test]
    fn refusals_are_narrowed_down_and_counted() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let page = || DeniedPage {
            denied: vec![
                denied("name", "a.example A", 1, now - 500, 3),
                denied("name", "b.example A", 2, now - 50, 4),
                denied("name", "a.example AAAA", 2, now - 40, 2),
                denied("packet", "203.0.113.9:443/tcp", 2, now - 30, 9),
            ],
            next: 4,
            lost: 0,
            hidden: Vec::new(),
        };
        let only = |only: Only| {
            let mut page = page();
            assert!(only.narrow(&mut page).is_ok());
            page.denied.into_iter().map(|one| (one.what, one.count, one.client.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(only(Only::default()).len(), 4);
        assert_eq!(
            only(Only { client: Some("192.0.2.1".parse::<IpAddr>().unwrap().into()), ..Only::default() }).len(),
            1
        );
        assert_eq!(only(Only { client: Some("192.0.2.2/31".parse().unwrap()), ..Only::default() }).len(), 3);
        assert_eq!(only(Only { kind: Some("packet".to_owned()), ..Only::default() }).len(), 1);
        assert_eq!(only(Only { since: Some(Span::secs(100)), ..Only::default() }).len(), 3);
        let top = only(Only { top: Some(2), ..Only::default() });
        assert_eq!(top, [("203.0.113.9:443/tcp".to_owned(), 9, true), ("a.example AAAA".to_owned(), 5, false)]);
    }
}
