//! `wait-ready`: for jobs and entrypoints that must not begin before the guard answers.

use std::time::{Duration, Instant};

use clap::Args;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::Exit;
use super::ask::{Daemon, Failure};
use crate::config::value::Span;
use crate::control::client::ClientError;
use crate::control::types::Versioned;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What is waited for, and how long.
#[derive(Clone, Debug, Args)]
pub struct Wanted {
    /// How long at most: "30s", "5m".
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    timeout: Span,
}

/// What `/ready` says.
#[derive(Debug, Deserialize)]
struct Well {
    state: String,
    reasons: Vec<String>,
}

/// How one look ended.
enum Seen {
    Ready,
    /// Why not; who asks again may hear another word.
    NotYet(Failure),
    /// No later look would say anything else.
    Never(Failure),
}

impl Daemon {
    /// `wait-ready`: done as soon as every enforcer is in force with what was restored, and the guard answers.
    #[must_use]
    pub fn wait_ready(&self, wanted: &Wanted) -> Exit {
        let began = Instant::now();
        loop {
            let (failure, ended) = match self.look() {
                Seen::Ready => return Exit::Done,
                Seen::NotYet(failure) => (failure, began.elapsed() >= wanted.timeout.0),
                Seen::Never(failure) => (failure, true),
            };
            if ended {
                return failure.exit();
            }
            std::thread::sleep(PAUSE.min(wanted.timeout.0.saturating_sub(began.elapsed())));
        }
    }

    fn look(&self) -> Seen {
        match self.ask(Method::GET, "/ready") {
            Ok(_) => Seen::Ready,
            Err(Failure::Client(ClientError::Refused { code: StatusCode::SERVICE_UNAVAILABLE, body, .. })) => {
                Seen::NotYet(Failure::Here(not_ready(&body)))
            }
            Err(Failure::Client(ClientError::Unreachable { path, source })) => {
                let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
                let failure = Failure::Client(ClientError::Unreachable { path, source });
                if denied { Seen::Never(failure) } else { Seen::NotYet(failure) }
            }
            // Taken, and broken off: it starts or ends just now.
            Err(failure @ Failure::Client(ClientError::Broken(_))) => Seen::NotYet(failure),
            Err(failure) => Seen::Never(failure),
        }
    }
}

fn not_ready(body: &str) -> String {
    match serde_json::from_str::<Versioned<Well>>(body) {
        Ok(Versioned { body: Well { state, reasons }, .. }) if reasons.is_empty() => format!("not ready: {state}"),
        Ok(Versioned { body: Well { state, reasons }, .. }) => format!("not ready: {state}: {}", reasons.join("; ")),
        Err(_) => "not ready".to_owned(),
    }
}
