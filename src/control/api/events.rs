//! `/api/v1/log/events`: the query log as it grows, as server-sent events.
//!
//! Each event has a page as `/api/v1/log` gives it; its id is where the next page starts, so that a browser that comes back goes on there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use tokio::sync::OwnedSemaphorePermit;

use prometheus_client::metrics::gauge::Gauge;

use super::log::LogQuery;
use super::{ApiError, App};
use crate::control::access::Reader;

/// Most who follow at one listener.
pub const FOLLOWERS: usize = 16;
/// Events that wait until a follower takes them.
const WAITING: usize = 4;
/// Something is sent at least so often, so that who is gone is found out and who is there stays.
const SIGN: Duration = Duration::from_secs(10);

/// That of one who follows, counted while it is held.
struct Place {
    _permit: OwnedSemaphorePermit,
    followers: Gauge,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, followers: Gauge) -> Self {
        followers.inc();
        Self { _permit: permit, followers }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.followers.dec();
    }
}

/// Answers `GET /api/v1/events` with what happens, as server-sent events.
pub async fn events(
    Extract(app): Extract<App>,
    Extension(reader): Extension<Reader>,
    headers: HeaderMap,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(mut query) = query?;
    query.read(&app, reader)?;
    let place = Arc::clone(&app.followers)
        .try_acquire_owned()
        .map_err(|_| ApiError(StatusCode::SERVICE_UNAVAILABLE, format!("{FOLLOWERS} follow the query log already")))?;
    let place = Place::new(place, app.sources.access().followers().clone());
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    query.after = last.unwrap_or(query.after);
    let (sender, body) = Channel::<Bytes>::new(WAITING);
    tokio::spawn(follow(app, reader, query, sender, place));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(body)).into_response())
}

/// Until the follower is gone, or the log no longer says what it asked for.
async fn follow(app: App, reader: Reader, mut query: LogQuery, mut to: Sender<Bytes>, _place: Place) {
    let access = app.sources.access();
    let mut sent: Option<Instant> = None;
    loop {
        // Read each time: a reload may hide what was shown.
        let Ok((log, wanted, hide)) = query.read(&app, reader) else { return };
        let page = log.since(query.after, &wanted, query.limit(), &hide);
        query.after = page.next;
        let silent = sent.is_some_and(|sent| sent.elapsed() < SIGN);
        let text = if !page.asked.is_empty() || page.lost || sent.is_none() {
            let Ok(json) = serde_json::to_string(&page) else { return };
            Some(format!("event: asked\nid: {}\ndata: {json}\n\n", page.next))
        } else {
            (!silent).then(|| ": nothing yet\n\n".to_owned())
        };
        if let Some(text) = text {
            if to.send_data(Bytes::from(text)).await.is_err() {
                return;
            }
            sent = Some(Instant::now());
        }
        tokio::select! {
            waited = tokio::time::timeout(SIGN, log.wait(query.after)) => drop(waited),
            () = access.over(reader) => return,
        }
    }
}
