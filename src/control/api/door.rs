//! What stands before the routes over TCP.

use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiError;
use crate::control::access::Way;
use crate::control::access::{Access, Asked, Refused};

/// Of one listener.
#[derive(Clone)]
pub struct Door {
    /// Who may read.
    pub access: Access,
    /// It is reached from this host alone.
    pub loopback: bool,
}

fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Lets in who may read.
pub async fn enter(
    Extract(door): Extract<Door>,
    ConnectInfo(way): ConnectInfo<Way>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let hosts: Vec<&str> = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("")).collect();
    let asked = Asked {
        authority: request.uri().authority().map(|authority| authority.as_str()),
        hosts: &hosts,
        site: only(headers, "sec-fetch-site"),
        authorization: only(headers, "authorization"),
        path: request.uri().path(),
        tls: way.tls,
        loopback: door.loopback,
    };
    match door.access.judge(&asked) {
        Ok(reader) => {
            request.extensions_mut().insert(reader);
            let mut response = next.run(request).await;
            // What browsers keep, others may read.
            response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
            response
        }
        Err(why) => refusal(why),
    }
}

fn refusal(why: Refused) -> Response {
    let (code, words) = match why {
        Refused::Name => (
            StatusCode::MISDIRECTED_REQUEST,
            "the guard isn't known by this name: ask by address, or add the name to `http.names`",
        ),
        Refused::Host => (StatusCode::BAD_REQUEST, "one Host is needed, with an address or a name"),
        Refused::Site => (StatusCode::FORBIDDEN, "pages of other sites are told nothing"),
        Refused::Token => (
            StatusCode::UNAUTHORIZED,
            "the token of `http.token_file` is needed: as password with any user, or as bearer token",
        ),
        Refused::Plain => (StatusCode::MISDIRECTED_REQUEST, "TLS is spoken here by now: connect again"),
    };
    let mut response = ApiError(code, words.to_owned()).into_response();
    let headers = response.headers_mut();
    match why {
        Refused::Token => {
            let basic = HeaderValue::from_static("Basic realm=\"destguard\", charset=\"UTF-8\"");
            headers.append(header::WWW_AUTHENTICATE, basic);
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"destguard\""));
        }
        Refused::Plain => drop(headers.insert(header::CONNECTION, HeaderValue::from_static("close"))),
        Refused::Name | Refused::Host | Refused::Site => {}
    }
    response
}
