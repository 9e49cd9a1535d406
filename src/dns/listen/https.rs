//! DNS over HTTPS for clients (RFC 8484): GET, HEAD and POST on [`HTTPS_PATH`], and on those of groups (`policy.group.doh_path`), over TLS. HTTP/2 is for those who negotiate it (ALPN); everybody else
//! gets HTTP/1.1, as `wget`, Python and Node's `fetch` speak it.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::server::TlsStream;

use super::encrypted::{self, LOOK, Unanswered, answer, idle_time};
use super::seats::{Busy, Seat};
use super::tcp::Connections;
use crate::dns::codec::wire::{HEADER, rtype, skip_name, u16_at, u32_at};
use crate::dns::resolver::Resolver;
use crate::dns::transport::{HTTPS_PATH, Transport};
use crate::dns::upstream::DNS_MESSAGE;
use crate::tls::base64;
use crate::tls::people::{Shown, Trust};

/// The protocols that clients may choose from, the best first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Requests in flight on one connection; HTTP/2 tells the client.
const STREAMS: u32 = 128;
/// Octets of a request's head: a GET bears the whole question in it.
const HEAD: usize = 16 * 1024;
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

/// What a connection has shown, and who says what that is worth.
struct Believed {
    trust: Arc<Trust>,
    shown: Shown,
    /// It is worth nothing any more.
    no_longer: Notify,
}

/// Serves one connection until the client ends it, falls silent, or the guard stops.
pub async fn converse(
    (stream, shown): (TlsStream<TcpStream>, Shown),
    client: IpAddr,
    resolver: &Arc<Resolver>,
    (connections, seat): (&Connections, &Seat),
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let activity = seat.activity().clone();
    let (tcp, tls) = stream.get_ref();
    let local = tcp.local_addr().map(|address| address.ip()).ok();
    let is_h2 = tls.alpn_protocol() == Some(ALPN[0]);
    let believed = Arc::new(Believed { trust: connections.trust().clone(), shown, no_longer: Notify::new() });
    let service = {
        let (resolver, activity, believed) = (resolver.clone(), activity.clone(), believed.clone());
        service_fn(move |request| {
            let (resolver, busy, believed) = (resolver.clone(), Busy::new(&activity), believed.clone());
            async move {
                let response = respond(&resolver, client, (local, &believed), request).await;
                drop(busy);
                response
            }
        })
    };
    let stream = TokioIo::new(stream);
    let ended = async {
        let crowded = async {
            while activity.idle() <= idle_time(connections) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = crowded => {}
            () = seat.displaced() => {}
            () = believed.no_longer.notified() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    };
    if is_h2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD as u32)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(stream, service);
        attend(connection, |connection| connection.graceful_shutdown(), ended).await
    } else {
        // A request that is never whole ends with the connection's idle time.
        let connection = http1::Builder::new().max_buf_size(HEAD).half_close(true).serve_connection(stream, service);
        attend(connection, |connection| connection.graceful_shutdown(), ended).await
    }
}

/// Serves until the client ends it, or until `ended` and then what is in flight.
async fn attend<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    farewell: impl FnOnce(Pin<&mut C>),
    ended: impl Future<Output = ()>,
) -> io::Result<()> {
    tokio::pin!(connection);
    tokio::select! {
        result = &mut connection => return result.map_err(io::Error::other),
        () = ended => {}
    }
    farewell(connection.as_mut());
    match tokio::time::timeout(FAREWELL, connection).await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

async fn respond(
    resolver: &Arc<Resolver>,
    client: IpAddr,
    (local, believed): (Option<IpAddr>, &Believed),
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, NoResponse> {
    let bare = request.method() == Method::HEAD;
    let path = Some(request.uri().path()).filter(|path| *path != HTTPS_PATH).map(str::to_owned);
    let taken = path.as_deref().is_none_or(|path| resolver.rules.load().views.has_path(path));
    let message = match message_of(request, taken).await {
        Ok(message) => message,
        Err(status) => {
            resolver.metrics.refuse("http");
            return Ok(plain(status));
        }
    };
    let Ok(who) = encrypted::who(client, Some((&believed.trust, &believed.shown)), path.as_deref()) else {
        resolver.metrics.drop_packet(encrypted::CERTIFICATE);
        believed.no_longer.notify_one();
        return Ok(plain(StatusCode::FORBIDDEN));
    };
    Ok(match answer(resolver, &message, &who, local, Transport::Https).await {
        Ok(reply) => {
            let age = format!("max-age={}", least_ttl(&reply.octets));
            let len = reply.octets.len();
            // It counts as waiting until the last of it was written.
            let body = if bare { Full::default() } else { Full::new(Bytes::from_owner(reply)) };
            let mut response = Response::new(body);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
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
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    response
}

/// The DNS message of a request at a path where questions are `taken`, or the status that says what is wrong with it (RFC 8484 sections 4.1 and 4.2.1). The body is read to its end before
/// anything is said: what is malformed in it ends the stream (RFC 9113 section 8.1.1).
async fn message_of(request: Request<Incoming>, taken: bool) -> Result<Vec<u8>, StatusCode> {
    let told = if taken { message_in(&request) } else { Err(StatusCode::NOT_FOUND) };
    let body = Limited::new(request.into_body(), usize::from(u16::MAX)).collect();
    let body = match tokio::time::timeout(BODY, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    };
    match told? {
        Some(message) => Ok(message),
        None => body,
    }
}

/// The message in a request's head; `None`: it is the body.
fn message_in(request: &Request<Incoming>) -> Result<Option<Vec<u8>>, StatusCode> {
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::POST) {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !is_accepted(request.headers()) {
        return Err(StatusCode::NOT_ACCEPTABLE);
    }
    if request.method() != Method::POST {
        let query = request.uri().query().unwrap_or_default();
        let encoded = query.split('&').find_map(|part| part.strip_prefix("dns=")).ok_or(StatusCode::BAD_REQUEST)?;
        return base64(unescaped(encoded).as_bytes()).map(Some).ok_or(StatusCode::BAD_REQUEST);
    }
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match media {
        Some(media) if essence(media).eq_ignore_ascii_case(DNS_MESSAGE) => Ok(None),
        _ => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// A media type without its parameters (RFC 9110 section 8.3.1); the one of DNS messages has none that would change what it means.
fn essence(media: &str) -> &str {
    media.split_once(';').map_or(media, |(essence, _)| essence).trim()
}

/// Whether the client takes DNS messages: it doesn't say, or they are in one of its ranges (RFC 9110 section 12.5.1).
fn is_accepted(headers: &HeaderMap) -> bool {
    let mut ranges =
        headers.get_all(header::ACCEPT).iter().flat_map(|value| value.to_str().unwrap_or("*/*").split(','));
    let fits = |range: &str| {
        let fits = ["*/*", "application/*", DNS_MESSAGE].iter().any(|known| essence(range).eq_ignore_ascii_case(known));
        let weight = range.split(';').skip(1).find_map(|part| part.trim().strip_prefix("q="));
        // An empty list says nothing.
        essence(range).is_empty() || fits && weight.and_then(|weight| weight.trim().parse::<f32>().ok()) != Some(0.0)
    };
    !headers.contains_key(header::ACCEPT) || ranges.any(fits)
}

/// Padding has no place here (RFC 8484 section 6), but some libraries write it, as forms do.
fn unescaped(encoded: &str) -> Cow<'_, str> {
    if !encoded.contains('%') {
        return Cow::Borrowed(encoded);
    }
    Cow::Owned(encoded.replace("%3D", "=").replace("%3d", "="))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_media_types_are_understood() {
        for (accept, expected) in [
            (&["application/dns-message"][..], true),
            (&["Application/DNS-Message;charset=utf-8"], true),
            (&["text/html", "*/*;q=0.1"], true),
            (&["application/dns-json, application/*; q=0.5"], true),
            (&["application/dns-json"], false),
            (&["text/html,application/dns-message;q=0"], false),
            (&["application/dns-message; q=0.000"], false),
            (&[""], true),
            (&[], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(is_accepted(&headers), expected, "{accept:?}");
        }
    }
}
