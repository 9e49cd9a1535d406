//! DNS over HTTPS for clients (RFC 8484): HTTP/2 over TLS, GET and POST on [`PATH`].

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use super::encrypted::{Activity, Busy, LOOK, Transport, Unanswered, answer, idle_time};
use super::tcp::Connections;
use crate::dns::codec::wire::{HEADER, rtype, skip_name, u16_at, u32_at};
use crate::dns::resolver::Resolver;
use crate::dns::tls::base64;
use crate::dns::upstream::DNS_MESSAGE;

/// Where questions are taken; the path of the usual URI template "/dns-query{?dns}".
pub const PATH: &str = "/dns-query";
/// Requests in flight on one connection; HTTP/2 tells the client.
const STREAMS: u32 = 128;
/// How long a request's body may take.
const BODY: Duration = Duration::from_secs(5);
/// How long the end of a connection may take once it was said.
const FAREWELL: Duration = Duration::from_secs(1);
/// A client with a request in flight is pinged this often, and given up when it doesn't answer in time.
const PING: Duration = Duration::from_secs(10);

/// Ends a stream without a response; hyper resets it (INTERNAL_ERROR), and the connection goes on.
#[derive(Debug, thiserror::Error)]
#[error("no response")]
struct NoResponse;

/// Serves one connection until the client ends it, falls silent, or the guard stops.
pub async fn converse(
    stream: TlsStream<TcpStream>,
    client: IpAddr,
    resolver: &Arc<Resolver>,
    connections: &Connections,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let activity = Activity::begin();
    let local = stream.get_ref().0.local_addr().map(|address| address.ip()).ok();
    let service = {
        let (resolver, activity) = (resolver.clone(), activity.clone());
        service_fn(move |request| {
            let (resolver, busy) = (resolver.clone(), Busy::new(&activity));
            async move {
                let response = respond(&resolver, client, local, request).await;
                drop(busy);
                response
            }
        })
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            ended = &mut connection => return ended.map_err(io::Error::other),
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(LOOK) => {
                if activity.idle() > idle_time(connections) {
                    break;
                }
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(FAREWELL, connection).await {
        Ok(ended) => ended.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

async fn respond(
    resolver: &Arc<Resolver>,
    client: IpAddr,
    local: Option<IpAddr>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, NoResponse> {
    let message = match message_of(request).await {
        Ok(message) => message,
        Err(status) => {
            resolver.metrics.refuse("http");
            return Ok(plain(status));
        }
    };
    Ok(match answer(resolver, &message, client, local, Transport::Https).await {
        Ok(reply) => {
            let age = format!("max-age={}", least_ttl(&reply.octets));
            // It counts as waiting until the last of it was written.
            let mut response = Response::new(Full::new(Bytes::from_owner(reply)));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(DNS_MESSAGE));
            if let Ok(age) = HeaderValue::from_str(&age) {
                headers.insert(header::CACHE_CONTROL, age);
            }
            response
        }
        Err(Unanswered::NoQuestion) => plain(StatusCode::BAD_REQUEST),
        Err(Unanswered::Late) => plain(StatusCode::GATEWAY_TIMEOUT),
        // As over UDP and TCP there is nothing to read. To wait in silence would only hold the stream.
        Err(Unanswered::Silence) => return Err(NoResponse),
    })
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        const ALLOW: HeaderName = header::ALLOW;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// The DNS message of a request, or the status that says what is wrong with it (RFC 8484 sections 4.1 and 4.2.1).
async fn message_of(request: Request<Incoming>) -> Result<Vec<u8>, StatusCode> {
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    match *request.method() {
        Method::GET => {
            let query = request.uri().query().unwrap_or_default();
            let encoded = query.split('&').find_map(|part| part.strip_prefix("dns=")).ok_or(StatusCode::BAD_REQUEST)?;
            base64(encoded.as_bytes()).ok_or(StatusCode::BAD_REQUEST)
        }
        Method::POST => {
            let media = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
            if !media.eq_ignore_ascii_case(DNS_MESSAGE.as_bytes()) {
                return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
            let body = Limited::new(request.into_body(), usize::from(u16::MAX)).collect();
            match tokio::time::timeout(BODY, body).await {
                Ok(Ok(body)) => Ok(body.to_bytes().into()),
                Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
                Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
                Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
            }
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// The least TTL of a reply of the guard's own, OPT left out; 0 without records (RFC 8484 section 5.1).
fn least_ttl(reply: &[u8]) -> u32 {
    let count = |at| u16_at(reply, at).map_or(0, u32::from);
    let mut at = HEADER;
    for _ in 0..count(4) {
        at = skip_name(reply, at).map_or(reply.len(), |end| end.saturating_add(4));
    }
    let mut least = None;
    for _ in 0..count(6).saturating_add(count(8)).saturating_add(count(10)) {
        let Some(fixed) = skip_name(reply, at) else { break };
        let (Some(kind), Some(ttl), Some(len)) =
            (u16_at(reply, fixed), u32_at(reply, fixed.saturating_add(4)), u16_at(reply, fixed.saturating_add(8)))
        else {
            break;
        };
        if kind != rtype::OPT {
            least = Some(least.map_or(ttl, |least: u32| least.min(ttl)));
        }
        at = fixed.saturating_add(10).saturating_add(usize::from(len));
    }
    least.unwrap_or(0)
}
