//! The routes.
//!
//! | route | method | over TCP too |
//! |---|---|---|
//! | `/api/v1/status`, `/api/v1/leases?of=&after=&limit=`, `/api/v1/explain?of=&client=&group=`, `/api/v1/peers`, `/api/v1/denied?after=&wait=`, `/api/v1/history` | GET | yes |
//! | `/api/v1/log?client=&name=&address=&fate=&since=&after=&wait=&limit=`, `/api/v1/log/events` (the same as server-sent events), `/api/v1/top?since=&limit=`, `/api/v1/suggest?client=&since=` | GET | over loopback, or under TLS with a token |
//! | `/api/v1/revoke?of=`, `/api/v1/deny?of=&for=`, `/api/v1/allow?of=&for=&client=`, `/api/v1/reload?dry_run=&confirm=`, `/api/v1/undo`, `/api/v1/confirm`, `/api/v1/disarm`, `/api/v1/stop?withdraw=`, `/api/v1/hand-over`, `/api/v1/restarting` | POST | no |
//! | `/metrics`, `/health`, `/ready` | GET | yes |
//! | `/` (the page for a browser) | GET | only there |

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::access::Reader;
use super::sources::{Change, Sources, Subject, Wish};
use super::status;
use super::types::{
    Disarmed, EndedLease, Excepted, Explained, Failed, Judgement, Leases, Past, Peers, Reloaded, Revoked, State,
    Status, Stays, Stopping, Tried, Versioned,
};
use crate::config::schema::Action;
use crate::control::types::Confirmed;
use crate::core::event::RevokeTarget;
use crate::core::explain::{LeaseFilter, LeaseView};
use crate::core::name::Name;
use crate::core::policy::view::Whose;
use crate::core::policy::{Pattern, name_from_user};
use crate::core_task::Stopped;

mod door;
mod events;
mod log;
mod suggest;

use door::Door;

/// Most leases of one page; a page is made on the core's own task, so it must be short.
pub const PAGE: usize = 1000;
/// Most addresses that `explain` shows of one name.
const EXPLAINED: usize = 64;
/// The longest that `denied` waits for something new.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// A core that has not answered after this is not well.
const CORE_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct App {
    sources: Arc<dyn Sources>,
    started: Instant,
    /// Who asks is the operator: what costs others something may be done.
    trusted: bool,
    /// Places of those who follow the query log.
    followers: Arc<Semaphore>,
}

impl App {
    fn new(sources: Arc<dyn Sources>, trusted: bool) -> Self {
        let followers = Arc::new(Semaphore::new(events::FOLLOWERS));
        Self { sources, started: Instant::now(), trusted, followers }
    }
}

/// What is not a success, for scripts.
struct ApiError(StatusCode, String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(Versioned::new(Failed { error: self.1 }))).into_response()
    }
}

impl From<Stopped> for ApiError {
    fn from(error: Stopped) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, error.body_text())
    }
}

type Reply<T> = Result<Json<Versioned<T>>, ApiError>;

#[expect(clippy::unnecessary_wraps, reason = "it ends every handler, and handlers can fail")]
fn reply<T: Serialize>(body: T) -> Reply<T> {
    Ok(Json(Versioned::new(body)))
}

fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/status", get(show_status))
        .route("/api/v1/leases", get(leases))
        .route("/api/v1/explain", get(explain))
        .route("/api/v1/peers", get(peers))
        .route("/api/v1/denied", get(denied))
        .route("/api/v1/history", get(history))
        .route("/api/v1/log", get(log::log))
        .route("/api/v1/top", get(log::top))
        .route("/api/v1/suggest", get(suggest::suggest))
        .route("/api/v1/log/events", get(events::events))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .fallback(|| async { ApiError(StatusCode::NOT_FOUND, "there is no such route".to_owned()) })
}

/// Everything, for the unix socket.
pub fn control(sources: Arc<dyn Sources>) -> Router {
    routes()
        .route("/api/v1/revoke", post(revoke))
        .route("/api/v1/deny", post(deny))
        .route("/api/v1/allow", post(allow))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/undo", post(undo))
        .route("/api/v1/confirm", post(confirm))
        .route("/api/v1/disarm", post(disarm))
        .route("/api/v1/stop", post(stop))
        .route("/api/v1/hand-over", post(hand_over))
        .route("/api/v1/restarting", post(restarting))
        .layer(Extension(Reader::OPERATOR))
        .with_state(App::new(sources, true))
}

/// What may be seen over TCP, by those whom [`Access`](super::Access) lets in.
pub fn read_only(sources: Arc<dyn Sources>, loopback: bool) -> Router {
    let door = Door { access: sources.access(), loopback };
    let inner = routes().merge(super::page::routes()).with_state(App::new(sources, false));
    inner.layer(middleware::from_fn_with_state(door, door::enter))
}

async fn status_of(app: &App) -> Result<Status, ApiError> {
    let status = status::status(&*app.sources, app.started.elapsed());
    match tokio::time::timeout(CORE_PATIENCE, status).await {
        Ok(status) => Ok(status?),
        Err(_) => Err(ApiError(StatusCode::SERVICE_UNAVAILABLE, "the core does not answer".to_owned())),
    }
}

async fn show_status(Extract(app): Extract<App>) -> Reply<Status> {
    reply(status_of(&app).await?)
}

/// What `leases` can be asked.
#[derive(Deserialize)]
struct LeasesQuery {
    of: Option<String>,
    after: Option<IpAddr>,
    limit: Option<usize>,
}

fn bad_subject(text: &str) -> ApiError {
    ApiError(StatusCode::BAD_REQUEST, format!("\"{text}\" is neither an address nor a domain name"))
}

async fn leases(Extract(app): Extract<App>, query: Result<Query<LeasesQuery>, QueryRejection>) -> Reply<Leases> {
    let Query(query) = query?;
    let filter = match query.of.as_deref() {
        None => LeaseFilter::All,
        Some(text) => {
            if let Ok(address) = text.parse() {
                LeaseFilter::Address(address)
            } else if let Ok(prefix) = text.parse::<IpNet>() {
                LeaseFilter::Prefix(prefix)
            } else {
                LeaseFilter::Name(name(text)?)
            }
        }
    };
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let page = app.sources.core().leases(filter, query.after, limit).await?;
    let next = if page.len() == limit { page.last().map(|lease| lease.address) } else { None };
    reply(Leases { leases: page.into_iter().map(Into::into).collect(), next })
}

/// What is asked about.
#[derive(Deserialize)]
struct Of {
    of: String,
}

fn subject(text: &str) -> Result<Subject, ApiError> {
    if let Ok(address) = text.parse() {
        return Ok(Subject::Address(address));
    }
    name(text).map(Subject::Name)
}

/// Any name in presentation form; in Unicode, as the configuration takes it, its A-labels.
fn name(text: &str) -> Result<Name, ApiError> {
    // No top-level domain is a number, so that this is a slip in an address or prefix.
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if last.starts_with(|c: char| c.is_ascii_digit()) && last.chars().all(|c| c.is_ascii_digit() || c == '/') {
        return Err(bad_subject(text));
    }
    let read = if text.is_ascii() { text.parse().ok() } else { name_from_user(text).ok() };
    read.ok_or_else(|| bad_subject(text))
}

/// What `explain` can be asked.
#[derive(Deserialize)]
struct ExplainQuery {
    of: String,
    client: Option<IpAddr>,
    group: Option<String>,
}

async fn explain(Extract(app): Extract<App>, query: Result<Query<ExplainQuery>, QueryRejection>) -> Reply<Explained> {
    let Query(ExplainQuery { of, client, group }) = query?;
    let subject = subject(&of)?;
    if let Some(group) = &group
        && !app.sources.has_group(group)
    {
        return Err(ApiError(StatusCode::BAD_REQUEST, format!("no [[policy.group]] is called \"{group}\"")));
    }
    let whose = Whose { client, group: group.as_deref() };
    let core = app.sources.core();
    let (mut ended, mut answers, mut refused) = (Vec::new(), Vec::new(), None);
    let (addresses, now) = match &subject {
        Subject::Address(address) => {
            let known = core.known(*address).await?;
            let now = app.sources.judge(&subject, whose, &known.causes);
            ended.extend(known.ended.map(EndedLease::from));
            refused = app.sources.denied().packets_to(*address);
            (known.lease.into_iter().collect(), now)
        }
        Subject::Name(name) => {
            let mut now = app.sources.judge(&subject, whose, &[]);
            // Strangers can't have upstreams asked.
            if app.trusted && now.verdict == "allowed" {
                answers = app.sources.try_name(name, whose).await;
                now = in_all(now, &answers);
            }
            ended.extend(core.ended_of_name(name.clone(), EXPLAINED).await?.into_iter().map(EndedLease::from));
            (core.explain_name(name.clone(), EXPLAINED).await?, now)
        }
    };
    // A lease that some enforcer still has to confirm is not open.
    let leased = addresses.iter().any(|address| address.state != crate::core::explain::LeaseState::Pending);
    let open = leased || now.verdict == "always open";
    let addresses = addresses.into_iter().map(Into::into).collect();
    reply(Explained { query: of, open, now, addresses, answers, ended, refused })
}

/// What becomes of questions for a name that may be asked: allowed where one type is.
fn in_all(now: Judgement, answers: &[Tried]) -> Judgement {
    let opens =
        |tried: &Tried| tried.verdict == "allowed" && tried.addresses.iter().any(|one| one.verdict != "filtered");
    if answers.iter().any(opens) {
        return now;
    }
    let worst =
        ["denied", "filtered", "failed"].iter().find_map(|word| answers.iter().find(|one| one.verdict == *word));
    worst.map_or(now, |worst| Judgement {
        verdict: worst.verdict.clone(),
        reason: worst.reason.clone(),
        rule: worst.rule.clone(),
        place: worst.place.clone(),
    })
}

async fn peers(Extract(app): Extract<App>) -> Reply<Peers> {
    let mut peers = app.sources.peers();
    if let Ok((_, enforcers)) = app.sources.core().overview().await {
        status::would_advertise(&mut peers, &enforcers);
    }
    reply(Peers { peers })
}

/// From where, and how long to wait for something new.
#[derive(Deserialize)]
struct DeniedQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: u64,
}

async fn denied(
    Extract(app): Extract<App>,
    query: Result<Query<DeniedQuery>, QueryRejection>,
) -> Reply<super::types::DeniedPage> {
    let Query(DeniedQuery { after, wait }) = query?;
    let log = app.sources.denied();
    let wait = Duration::from_secs(wait).min(PATIENCE);
    // Either something came, or there is nothing new to show.
    drop(tokio::time::timeout(wait, log.wait(after)).await);
    let mut page = log.since(after);
    let (queries, hide) = app.sources.query_log();
    page.denied.iter_mut().for_each(|entry| queries.hide(entry, &hide));
    page.hidden = hide;
    reply(page)
}

async fn history(Extract(app): Extract<App>) -> Reply<Past> {
    reply(app.sources.plots().past())
}

/// The leases of a target.
async fn leased(app: &App, target: &RevokeTarget) -> Result<Vec<LeaseView>, ApiError> {
    let filter = match target {
        RevokeTarget::Address(address) => LeaseFilter::Address(*address),
        RevokeTarget::Name(name) => LeaseFilter::Name(name.clone()),
    };
    let mut leases: Vec<LeaseView> = Vec::new();
    loop {
        let last = leases.last().map(|lease| lease.address);
        let page = app.sources.core().leases(filter.clone(), last, PAGE).await?;
        let more = page.len() == PAGE;
        leases.extend(page);
        if !more {
            return Ok(leases);
        }
    }
}

/// What became of leases that were there before: those that are closed, and those that others hold.
async fn became(app: &App, before: Vec<LeaseView>) -> Result<(Vec<IpAddr>, Vec<Stays>), ApiError> {
    let (mut closed, mut stays) = (Vec::new(), Vec::new());
    for lease in before {
        let address = lease.address;
        match app.sources.core().leases(LeaseFilter::Address(address), None, 1).await?.pop() {
            Some(LeaseView { names, ends_in_seconds, .. }) => stays.push(Stays { address, names, ends_in_seconds }),
            None => closed.push(address),
        }
    }
    Ok((closed, stays))
}

async fn revoke(Extract(app): Extract<App>, query: Result<Query<Of>, QueryRejection>) -> Reply<Revoked> {
    let Query(Of { of }) = query?;
    let target = match subject(&of)? {
        Subject::Address(address) => RevokeTarget::Address(address),
        Subject::Name(name) => RevokeTarget::Name(name),
    };
    let before = leased(&app, &target).await?;
    // Before the leases: whoever asks meanwhile must be admitted.
    let forgotten = match &target {
        RevokeTarget::Name(name) => app.sources.forget_answers(name),
        // What is kept of it is admitted anew before it is given again.
        RevokeTarget::Address(_) => 0,
    };
    if before.is_empty() && forgotten == 0 {
        return Err(ApiError(StatusCode::NOT_FOUND, format!("nothing is leased for {of}")));
    }
    app.sources.core().revoke(target.clone()).await?;
    // The core takes requests in order, so this view is from behind the revocation.
    let (addresses, stays) = became(&app, before).await?;
    tracing::info!(target = %of, "revoked by the operator");
    reply(Revoked { target: of, addresses, stays, forgotten })
}

/// What `deny` and `allow` are asked.
#[derive(Deserialize)]
struct ExceptQuery {
    of: String,
    /// Seconds; absent: undo it.
    #[serde(rename = "for")]
    span: Option<u64>,
    client: Option<IpAddr>,
}

async fn except(app: App, action: Action, query: ExceptQuery) -> Reply<Excepted> {
    let ExceptQuery { of, span, client } = query;
    let pattern: Pattern =
        of.parse().map_err(|error| ApiError(StatusCode::BAD_REQUEST, format!("\"{of}\" can't be used: {error}")))?;
    let target = RevokeTarget::Name(pattern.name);
    let change = Change { name: of.clone(), action, client, span: span.map(Duration::from_secs) };
    whole(async move {
        let before = leased(&app, &target).await?;
        let made =
            app.sources.except(change).await.map_err(|error| ApiError(StatusCode::CONFLICT, error.to_string()))?;
        let (closed, mut stays) = became(&app, before).await?;
        if action == Action::Allow || made.is_none() {
            stays.clear();
        }
        reply(Excepted { target: of, action, client, ends_in_seconds: made.map(|span| span.as_secs()), closed, stays })
    })
    .await?
}

async fn deny(Extract(app): Extract<App>, query: Result<Query<ExceptQuery>, QueryRejection>) -> Reply<Excepted> {
    except(app, Action::Deny, query?.0).await
}

async fn allow(Extract(app): Extract<App>, query: Result<Query<ExceptQuery>, QueryRejection>) -> Reply<Excepted> {
    except(app, Action::Allow, query?.0).await
}

/// Does what a client asked for to its end, also when the client goes away meanwhile: half a reload would be worse than none.
async fn whole<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| ApiError(StatusCode::INTERNAL_SERVER_ERROR, format!("the attempt failed: {error}")))
}

async fn reload(Extract(app): Extract<App>, Query(words): Query<ReloadWords>) -> Result<Response, ApiError> {
    let wish = Wish { dry_run: words.dry_run, confirm: words.confirm.map(Duration::from_secs) };
    told(whole(async move { app.sources.reload(wish).await }).await?)
}

/// What can be said of a reload.
#[derive(Deserialize)]
struct ReloadWords {
    #[serde(default)]
    dry_run: bool,
    /// Seconds in which it must be confirmed, else the former configuration returns.
    confirm: Option<u64>,
}

async fn undo(Extract(app): Extract<App>) -> Result<Response, ApiError> {
    told(whole(async move { app.sources.undo().await }).await?)
}

#[allow(clippy::unnecessary_wraps, reason = "what handlers return")]
fn told(outcome: Reloaded) -> Result<Response, ApiError> {
    let done = outcome.applied || outcome.dry_run;
    let code = if done { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok((code, Json(Versioned::new(outcome))).into_response())
}

async fn confirm(Extract(app): Extract<App>) -> Reply<Confirmed> {
    match app.sources.confirm() {
        Ok(message) => reply(Confirmed { message }),
        Err(error) => Err(ApiError(StatusCode::CONFLICT, error.to_string())),
    }
}

async fn disarm(Extract(app): Extract<App>) -> Reply<Disarmed> {
    match whole(async move { app.sources.disarm().await }).await? {
        Ok(message) => reply(Disarmed { message }),
        Err(error) => Err(ApiError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// How to stop.
#[derive(Deserialize)]
struct StopQuery {
    #[serde(default)]
    withdraw: bool,
}

async fn stop(Extract(app): Extract<App>, query: Result<Query<StopQuery>, QueryRejection>) -> Reply<Stopping> {
    let Query(StopQuery { withdraw }) = query?;
    match app.sources.stop(withdraw) {
        Ok(message) => reply(Stopping { message }),
        Err(error) => Err(ApiError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn hand_over(Extract(app): Extract<App>) -> Reply<Stopping> {
    match whole(async move { tokio::task::spawn_blocking(move || app.sources.hand_over()).await }).await? {
        Ok(Ok(message)) => reply(Stopping { message }),
        Ok(Err(error)) => Err(ApiError(StatusCode::CONFLICT, error.to_string())),
        Err(error) => Err(ApiError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn restarting(Extract(app): Extract<App>) -> Reply<Stopping> {
    match app.sources.restarting() {
        Ok(message) => reply(Stopping { message }),
        Err(error) => Err(ApiError(StatusCode::CONFLICT, error.to_string())),
    }
}

async fn metrics(Extract(app): Extract<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let text = app.sources.metrics().map_err(|error| ApiError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let open = accept.contains("application/openmetrics-text");
    let (kind, text) = if open {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", crate::metrics::plain(&text))
    };
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// What `/health` and `/ready` answer.
#[derive(Serialize)]
struct Well {
    ok: bool,
    state: State,
    reasons: Vec<String>,
    warnings: Vec<String>,
}

/// The daemon lives and its core answers.
async fn health(Extract(app): Extract<App>) -> Reply<Well> {
    let status = status_of(&app).await?;
    reply(Well { ok: true, state: status.state, reasons: status.reasons, warnings: status.warnings })
}

/// The guard does what it is configured to do.
async fn ready(Extract(app): Extract<App>) -> Result<Response, ApiError> {
    let status = status_of(&app).await?;
    let ok = matches!(status.state, State::Enforcing | State::Audit);
    let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let well = Well { ok, state: status.state, reasons: status.reasons, warnings: status.warnings };
    Ok((code, Json(Versioned::new(well))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_unicode_is_that_of_its_a_labels() {
        let of = |text: &str| subject(text).map_err(|error| error.1);
        let expected: Name = "xn--bcher-kva.example".parse().unwrap();
        for text in ["b\u{fc}cher.example", "B\u{dc}CHER.example.", "bu\u{308}cher.example", "xn--bcher-kva.example"] {
            assert_eq!(of(text), Ok(Subject::Name(expected.clone())), "{text}");
            assert_eq!(name(text).ok(), Some(expected.clone()), "{text}");
        }
        // No such characters in a name, and no such name.
        for text in ["b\u{fc}cher example", "\u{fc}..example"] {
            assert_eq!(of(text), Err(format!("\"{text}\" is neither an address nor a domain name")));
        }
        for text in ["1.2.3", "1.2.3.4.5", "1.2.3.4/33", "300.1.1.1", "7", "1.2.3.4."] {
            assert_eq!(of(text), Err(format!("\"{text}\" is neither an address nor a domain name")));
        }
        assert!(
            of("1.0.0.127.in-addr.arpa").is_ok() && of("0/25.2.0.192.in-addr.arpa").is_ok() && of("1.2.3.x4").is_ok()
        );
        // Octets that stand in cached names are shown escaped and can be asked for as they are shown.
        assert!(of("a\\032b.example").is_ok() && of("a/b.example").is_ok());
    }
}
