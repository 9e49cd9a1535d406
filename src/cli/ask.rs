//! The commands that ask a running daemon.

use std::path::PathBuf;

use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::{Exit, complain, complain_plainly, say, show, table};
use crate::config::value::Span;
use crate::control::client::{self, ClientError, escape};
use crate::control::namespace::{self, Holder};
use crate::control::sources::Wish;
use crate::control::types::Confirmed;
use crate::control::types::{
    Disarmed, Excepted, Explained, Leases, Peers, Reloaded, Revoked, Status, Stopping, Versioned,
};
pub use crate::core::policy::view::Whose;
use crate::enforce::backend::PacketBackend;
use crate::enforce::packet_filters;

/// How long `--follow` lets the daemon wait for news, in seconds.
pub const NEWS: u32 = 15;

/// The daemon behind a control socket.
#[derive(Debug)]
pub struct Daemon {
    /// The path of the control socket.
    pub socket: PathBuf,
}

/// Why there is nothing to show.
pub enum Failure {
    /// The daemon, or the way to it.
    Client(ClientError),
    /// Something on this side.
    Here(String),
}

impl Failure {
    /// Prints it, and returns the exit code that fits.
    #[must_use]
    pub fn exit(self) -> Exit {
        match self {
            Self::Client(error @ ClientError::Unreachable { .. }) => complain_plainly(&error, Exit::Unreachable),
            Self::Client(error @ ClientError::Refused { code: StatusCode::BAD_REQUEST, .. }) => {
                complain(&error, Exit::Usage)
            }
            Self::Client(error) => complain(&error, Exit::Failed),
            Self::Here(message) => complain(&message, Exit::Failed),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str::<Versioned<T>>(text)
        .map(|versioned| versioned.body)
        .map_err(|error| Failure::Here(format!("the daemon answered what this version does not understand: {error}")))
}

pub(super) fn encode<T: serde::Serialize>(body: T) -> Result<String, Failure> {
    serde_json::to_string_pretty(&Versioned::new(body)).map_err(|error| Failure::Here(error.to_string()))
}

pub(super) fn finish(text: Result<String, Failure>) -> Exit {
    match text {
        Ok(text) => say(&text),
        Err(failure) => failure.exit(),
    }
}

fn explain_path(of: &str, whose: Whose<'_>) -> String {
    let client = whose.client.map_or_else(String::new, |client| format!("&client={}", escape(&client.to_string())));
    let group = whose.group.map_or_else(String::new, |group| format!("&group={}", escape(group)));
    format!("/api/v1/explain?of={}{client}{group}", escape(of))
}

impl Daemon {
    pub(super) fn ask(&self, method: Method, path: &str) -> Result<String, Failure> {
        Ok(runtime()?.block_on(client::ask(&self.socket, method, path))?)
    }

    /// Asks, and shows the answer to people or as it came to scripts.
    pub(super) fn show<T: DeserializeOwned + serde::Serialize>(
        &self,
        method: Method,
        path: &str,
        json: bool,
        human: impl FnOnce(&T) -> String,
    ) -> Exit {
        finish(self.ask(method, path).and_then(|text| {
            let body: T = decode(&text)?;
            if json { encode(body) } else { Ok(human(&body)) }
        }))
    }

    /// Runs `destguard status`.
    #[must_use]
    pub fn status(&self, json: bool) -> Exit {
        self.show(Method::GET, "/api/v1/status", json, |status: &Status| show::status(status, table::colours()))
    }

    /// `leases`: fetches page after page, so that the core is never kept long.
    #[must_use]
    pub fn leases(&self, of: Option<&str>, json: bool) -> Exit {
        let mut all = Leases::default();
        let mut after = None;
        loop {
            let of = of.map_or_else(String::new, |of| format!("of={}", escape(of)));
            let from = after
                .map_or_else(String::new, |after: std::net::IpAddr| format!("&after={}", escape(&after.to_string())));
            let page =
                self.ask(Method::GET, &format!("/api/v1/leases?{of}{from}")).and_then(|text| decode::<Leases>(&text));
            match page {
                Err(failure) => return failure.exit(),
                Ok(page) => {
                    all.leases.extend(page.leases);
                    after = page.next;
                }
            }
            if after.is_none() {
                break;
            }
        }
        finish(if json { encode(all) } else { Ok(show::leases(&all.leases, table::colours())) })
    }

    /// Runs `destguard explain`.
    #[must_use]
    pub fn explain(&self, of: &str, whose: Whose<'_>, json: bool) -> Exit {
        let path = explain_path(of, whose);
        self.show(Method::GET, &path, json, |explained: &Explained| show::explained(explained, table::colours()))
    }

    /// `test`: what a question would get; it opens nothing.
    #[must_use]
    pub fn test(&self, name: &str, whose: Whose<'_>, qtype: Option<&str>, json: bool) -> Exit {
        let path = explain_path(name, whose);
        finish(self.ask(Method::GET, &path).and_then(|text| {
            let mut explained: Explained = decode(&text)?;
            explained.answers.retain(|tried| qtype.is_none_or(|qtype| tried.qtype.eq_ignore_ascii_case(qtype)));
            if json { encode(explained) } else { Ok(show::tested(&explained)) }
        }))
    }

    /// Runs `destguard peers`.
    #[must_use]
    pub fn peers(&self, json: bool) -> Exit {
        self.show(Method::GET, "/api/v1/peers", json, |peers: &Peers| {
            show::peers(&peers.peers, table::colours()) + &show::confirmations(&peers.peers)
        })
    }

    /// Runs `destguard revoke`.
    #[must_use]
    pub fn revoke(&self, of: &str, json: bool) -> Exit {
        let path = format!("/api/v1/revoke?of={}", escape(of));
        self.show(Method::POST, &path, json, |revoked: &Revoked| show::revoked(revoked))
    }

    /// `deny`, `allow`; without a span the exception is undone.
    #[must_use]
    pub fn except(
        &self,
        word: &str,
        of: &str,
        client: Option<std::net::IpAddr>,
        span: Option<Span>,
        json: bool,
    ) -> Exit {
        let client = client.map_or_else(String::new, |client| format!("&client={}", escape(&client.to_string())));
        let span = span.map_or_else(String::new, |span| format!("&for={}", span.0.as_secs()));
        let path = format!("/api/v1/{word}?of={}{client}{span}", escape(of));
        self.show(Method::POST, &path, json, |excepted: &Excepted| show::excepted(excepted))
    }

    /// `reload`: a refused file is a configuration error, as with `check`.
    #[must_use]
    pub fn reload(&self, wish: Wish, json: bool) -> Exit {
        let confirm = wish.confirm.map(|wait| format!("&confirm={}", wait.as_secs())).unwrap_or_default();
        self.put(&format!("/api/v1/reload?dry_run={}{confirm}", wish.dry_run), json)
    }

    /// Runs `destguard undo`.
    #[must_use]
    pub fn undo(&self, json: bool) -> Exit {
        self.put("/api/v1/undo", json)
    }

    /// Runs `destguard confirm`.
    #[must_use]
    pub fn confirm(&self, json: bool) -> Exit {
        finish(self.ask(Method::POST, "/api/v1/confirm").and_then(|text| {
            let Confirmed { message } = decode(&text)?;
            if json { encode(Confirmed { message }) } else { Ok(message) }
        }))
    }

    fn put(&self, path: &str, json: bool) -> Exit {
        let (text, exit) = match self.ask(Method::POST, path) {
            Ok(text) => (text, Exit::Done),
            Err(Failure::Client(ClientError::Refused { code: StatusCode::UNPROCESSABLE_ENTITY, body, .. })) => {
                (body, Exit::Usage)
            }
            Err(failure) => return failure.exit(),
        };
        let shown = decode::<Reloaded>(&text).and_then(|reloaded| {
            if json {
                return encode(reloaded);
            }
            let mut out = String::new();
            if !reloaded.report.is_empty() {
                out.push_str(&format!("{}\n", reloaded.report.trim_end()));
            }
            for change in &reloaded.changes {
                out.push_str(&format!("  {}\n", table::clean(change)));
            }
            out.push_str(match (reloaded.applied, reloaded.dry_run, reloaded.changes.is_empty()) {
                (true, _, true) => "nothing differs\n",
                (true, _, false) => "applied\n",
                (false, true, true) => "nothing would change\n",
                (false, true, false) => "would be applied\n",
                (false, false, _) => "not applied: the old configuration stays in force\n",
            });
            if !reloaded.needs_restart.is_empty() {
                out.push_str("these need a restart, and keep their values until then:\n");
                for change in &reloaded.needs_restart {
                    out.push_str(&format!("  {}\n", table::clean(change)));
                }
            }
            if let Some(seconds) = reloaded.goes_back_in_seconds {
                out.push_str(&format!("on trial: destguard confirm within {seconds} s, or it is taken back\n"));
            }
            Ok(out)
        });
        match finish(shown) {
            Exit::Done => exit,
            other => other,
        }
    }

    /// Runs `destguard stop`.
    #[must_use]
    pub fn stop(&self, withdraw: bool, json: bool) -> Exit {
        let path = format!("/api/v1/stop?withdraw={withdraw}");
        self.show(Method::POST, &path, json, |stopping: &Stopping| stopping.message.clone())
    }

    /// `disarm`: through the guard of this network namespace, since it would put the table back, wherever its control socket is;
    /// else directly.
    #[must_use]
    pub fn disarm(json: bool) -> Exit {
        finish(disarm().and_then(|message| if json { encode(Disarmed { message }) } else { Ok(message) }))
    }
}

fn disarm() -> Result<String, Failure> {
    let guard = Daemon { socket: PathBuf::from(namespace::NAME) };
    let here = |error: &dyn std::fmt::Display| Failure::Here(error.to_string());
    let holder = runtime()?.block_on(namespace::holder()).map_err(|error| here(&error))?;
    let stranger = match holder {
        Holder::Guard(pid) => {
            let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            return match guard.ask(Method::POST, "/api/v1/disarm") {
                Ok(text) => {
                    Ok(format!("the guard of this network namespace{process}: {}", decode::<Disarmed>(&text)?.message))
                }
                // It turns strangers away without a word.
                Err(Failure::Client(ClientError::Broken(_))) => {
                    Err(Failure::Here(format!("the guard of this network namespace{process} did not answer: use sudo")))
                }
                Err(failure) => Err(failure),
            };
        }
        Holder::Stranger { pid, uid } => {
            let process = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            format!(
                " ({process} of user {uid} pretends to be one; if a guard runs all the same, it puts the table back: stop it)"
            )
        }
        Holder::Nobody => String::new(),
    };
    let removed = packet_filters::remove_all().map_err(|error| here(&error))?;
    let names = |backends: &[&PacketBackend]| backends.iter().map(|one| one.leaves).collect::<Vec<_>>().join(" and ");
    Ok(if removed.is_empty() {
        let all: Vec<_> = packet_filters::PACKETS.iter().collect();
        let none = names(&all);
        format!("no guard runs in this network namespace{stranger}, and there is no {none}: nothing was changed")
    } else {
        let gone = names(&removed);
        format!("no guard runs in this network namespace{stranger}; its {gone} was removed: everything is reachable")
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Here(format!("no runtime: {error}")))
}
