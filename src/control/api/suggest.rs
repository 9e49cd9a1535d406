//! `/api/v1/suggest`: what was used in audit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State as Extract};
use axum::http::StatusCode;
use serde::Deserialize;

use super::log::{bad, may_know, prefix};
use super::{ApiError, App, Reply, reply};
use crate::config::schema::Hide;
use crate::control::access::Reader;
use crate::control::types::Suggested;

/// Whose, and how far back.
#[derive(Deserialize)]
pub struct SuggestQuery {
    client: Option<String>,
    /// Seconds: what is older is left out.
    since: Option<u64>,
}

/// Answers `GET /api/v1/suggest` with rules that would allow what was asked.
pub async fn suggest(
    Extract(app): Extract<App>,
    Extension(reader): Extension<Reader>,
    query: Result<Query<SuggestQuery>, QueryRejection>,
) -> Reply<Suggested> {
    let Query(SuggestQuery { client, since }) = query?;
    may_know(reader)?;
    let client = client.as_deref().map(prefix).transpose()?;
    let (_, hide) = app.sources.query_log();
    if hide.contains(&Hide::Names) {
        let words = "log.hide has \"names\": names are not kept, so that none can be suggested".to_owned();
        return Err(ApiError(StatusCode::CONFLICT, words));
    }
    if hide.contains(&Hide::Clients) && client.is_some() {
        return Err(bad("log.hide has \"clients\": what one client used is not known".to_owned()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = since.map_or(0, |ago| now.saturating_sub(Duration::from_secs(ago)).as_secs());
    let sources = app.sources.clone();
    // There may be many names.
    let made = tokio::task::spawn_blocking(move || sources.suggest(client, since)).await;
    reply(made.map_err(|error| ApiError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?)
}
