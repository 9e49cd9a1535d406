//! `/api/v1/log`: the query log.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::Deserialize;

use super::{ApiError, App, PATIENCE, Reply, reply};
use crate::control::query_log::{Fate, PAGE, Wanted};
use crate::control::types::AskedPage;
use crate::core::name::Name;

/// Whom and what, from where on, and how long to wait for something new.
#[derive(Deserialize)]
pub struct LogQuery {
    client: Option<String>,
    name: Option<String>,
    address: Option<String>,
    fate: Option<String>,
    /// Seconds ago.
    since: Option<u64>,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: u64,
    limit: Option<usize>,
}

/// Entries shown unless more are asked for.
const LIMIT: usize = 100;

fn bad(error: String) -> ApiError {
    ApiError(StatusCode::BAD_REQUEST, error)
}

fn prefix(text: &str) -> Result<IpNet, ApiError> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse::<IpNet>()).map_err(|_| bad(format!("{text:?} is neither an address nor a prefix")))
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

/// The handler.
pub async fn log(Extract(app): Extract<App>, query: Result<Query<LogQuery>, QueryRejection>) -> Reply<AskedPage> {
    let Query(query) = query?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wanted = query.wanted(now)?;
    let (log, hide) = app.sources.query_log();
    if !log.keeps() {
        return Err(ApiError(StatusCode::CONFLICT, "no query log is kept: log.queries is 0".to_owned()));
    }
    if hide.contains(&crate::config::schema::Hide::Names) && (wanted.name.is_some() || wanted.address.is_some()) {
        return Err(bad("log.hide has \"names\": the log can't be searched for a name or an address".to_owned()));
    }
    if hide.contains(&crate::config::schema::Hide::Clients) && wanted.client.is_some() {
        return Err(bad("log.hide has \"clients\": the log can't be searched for a client".to_owned()));
    }
    let wait = Duration::from_secs(query.wait).min(PATIENCE);
    // Either something came, or there is nothing new to show.
    drop(tokio::time::timeout(wait, log.wait(query.after)).await);
    reply(log.since(query.after, &wanted, query.limit.unwrap_or(LIMIT).min(PAGE), &hide))
}
