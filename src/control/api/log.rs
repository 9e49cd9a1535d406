//! `/api/v1/log`: the query log.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State as Extract};
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::Deserialize;

use super::{ApiError, App, PATIENCE, Reply, reply};
use crate::config::schema::Hide;
use crate::control::access::Reader;
use crate::control::query_log::{Fate, PAGE, QueryLog, Wanted};
use crate::control::types::{AskedPage, TopPage};
use crate::core::name::Name;

/// Whom and what, from where on, and how long to wait for something new.
#[derive(Deserialize)]
pub struct LogQuery {
    client: Option<String>,
    name: Option<String>,
    address: Option<String>,
    fate: Option<String>,
    /// Seconds: what is older is left out.
    since: Option<u64>,
    #[serde(default)]
    pub(super) after: u64,
    #[serde(default)]
    wait: u64,
    limit: Option<usize>,
}

/// Entries shown unless more are asked for.
const LIMIT: usize = 100;

pub(super) fn bad(error: String) -> ApiError {
    ApiError(StatusCode::BAD_REQUEST, error)
}

pub(super) fn prefix(text: &str) -> Result<IpNet, ApiError> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse::<IpNet>()).map_err(|_| bad(format!("{text:?} is neither an address nor a prefix")))
}

/// How far back, and how many of each kind.
#[derive(Deserialize)]
pub struct TopQuery {
    /// Seconds: what is older is left out.
    since: Option<u64>,
    limit: Option<usize>,
}

/// An hour, unless something else is asked for.
const RECENTLY: u64 = 3600;
/// Most of each kind, and how many there are unasked.
const TOP: (usize, usize) = (1000, 10);

/// Who asked most.
pub async fn top(
    Extract(app): Extract<App>,
    Extension(reader): Extension<Reader>,
    query: Result<Query<TopQuery>, QueryRejection>,
) -> Reply<TopPage> {
    let Query(TopQuery { since, limit }) = query?;
    may_know(reader)?;
    let since_seconds = since.unwrap_or(RECENTLY);
    let most = limit.unwrap_or(TOP.1).min(TOP.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let from = now.saturating_sub(Duration::from_secs(since_seconds)).as_millis();
    let (log, hide) = app.sources.query_log();
    // With the names go the addresses.
    let shows = !hide.contains(&Hide::Names);
    let addresses =
        app.sources.denied().top_addresses(Duration::from_secs(since_seconds), if shows { most } else { 0 });
    let (kept, audit) = (log.keeps(), app.sources.audits());
    // The log may be long.
    let count = move || log.top(u64::try_from(from).unwrap_or(u64::MAX), most, &hide);
    let top = tokio::task::spawn_blocking(count).await;
    let top = top.map_err(|error| ApiError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    reply(TopPage { since_seconds, kept, audit, top, addresses })
}

impl LogQuery {
    fn wanted(&self, now: Duration) -> Result<Wanted, ApiError> {
        let since = self.since.map(|ago| now.saturating_sub(Duration::from_secs(ago)));
        let name = |text: &String| text.parse::<Name>().map_err(|error| bad(format!("{text:?} is no name: {error}")));
        let address = |text: &String| text.parse::<IpAddr>().map_err(|_| bad(format!("{text:?} is no address")));
        let fate = |text: &String| {
            let known = || Fate::ALL.map(Fate::as_str).join(", ");
            let found = Fate::ALL.into_iter().find(|fate| fate.as_str() == text);
            found.ok_or_else(|| bad(format!("{text:?} is no fate: {}", known())))
        };
        Ok(Wanted {
            client: self.client.as_deref().map(prefix).transpose()?,
            name: self.name.as_ref().map(name).transpose()?,
            address: self.address.as_ref().map(address).transpose()?,
            fate: self.fate.as_ref().map(fate).transpose()?,
            since: since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}

/// Who asks for what is the operator's to know.
pub(super) fn may_know(reader: Reader) -> Result<(), ApiError> {
    let words = "beyond loopback the query log is told only under TLS with a token: `http.certificate`, `http.key`, `http.token_file`";
    if reader.knows { Ok(()) } else { Err(ApiError(StatusCode::FORBIDDEN, words.to_owned())) }
}

impl LogQuery {
    /// Entries of a page.
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT).min(PAGE)
    }

    /// The log, what is wanted of it, and what it doesn't tell.
    pub(super) fn read(&self, app: &App, reader: Reader) -> Result<(QueryLog, Wanted, Vec<Hide>), ApiError> {
        may_know(reader)?;
        if app.sources.access().is_over(reader) {
            return Err(ApiError(StatusCode::FORBIDDEN, "who may read has changed: ask again".to_owned()));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wanted = self.wanted(now)?;
        let (log, hide) = app.sources.query_log();
        if !log.keeps() {
            return Err(ApiError(StatusCode::CONFLICT, "no query log is kept: log.queries is 0".to_owned()));
        }
        if hide.contains(&Hide::Names) && (wanted.name.is_some() || wanted.address.is_some()) {
            return Err(bad("log.hide has \"names\": the log can't be searched for a name or an address".to_owned()));
        }
        if hide.contains(&Hide::Clients) && wanted.client.is_some() {
            return Err(bad("log.hide has \"clients\": the log can't be searched for a client".to_owned()));
        }
        Ok((log, wanted, hide))
    }
}

/// Answers `GET /api/v1/log` with the questions that were asked.
pub async fn log(
    Extract(app): Extract<App>,
    Extension(reader): Extension<Reader>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Reply<AskedPage> {
    let Query(query) = query?;
    let (log, ..) = query.read(&app, reader)?;
    let wait = Duration::from_secs(query.wait).min(PATIENCE);
    // Either something came, or there is nothing new to show.
    drop(tokio::time::timeout(wait, log.wait(query.after)).await);
    // Again: a reload may hide what was shown.
    let (log, wanted, hide) = query.read(&app, reader)?;
    reply(log.since(query.after, &wanted, query.limit(), &hide))
}
