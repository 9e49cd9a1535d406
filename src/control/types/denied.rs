//! What was refused, as `denied` shows it.

use serde::{Deserialize, Serialize};

use crate::config::schema::Hide;

/// The body of `denied`: what was refused lately, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct DeniedPage {
    /// What was refused on this page, oldest first.
    pub denied: Vec<Denied>,
    /// The number to ask on `after`.
    pub next: u64,
    /// Entries that the log had no room to keep since `after`.
    pub lost: u64,
    /// What is a hash: `log.hide`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<Hide>,
}

/// One thing that was refused, and how often in a row.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Denied {
    /// Grows with every change of the log.
    pub number: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// "name" (policy), "address" (filter), "answer" (budget or gate) or "packet" (nftables).
    pub kind: String,
    /// The name, the address, or the packet's destination; a hash where `log.hide` says so.
    pub what: String,
    /// Who asked or sent; a hash where `log.hide` says so.
    pub client: Option<String>,
    /// The reason for the refusal, in words.
    pub reason: String,
    /// The same in a row.
    pub count: u64,
    /// It was only said: in audit nothing is refused.
    #[serde(default)]
    pub audit: bool,
    /// Who on this host sent it, where it was a packet of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Sender>,
}

/// Who on this host sent a packet. All but the user may be unknown: the socket is gone soon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Sender {
    /// The user's number.
    pub uid: u32,
    /// The user's name, where the number has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The unit of systemd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The process by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its number, of the last one where it was refused in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The process is only what runs in that control group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guess: bool,
}

impl Sender {
    /// Whether it is the same but for the process's number: a program that is started again and again is one.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        Self { pid: None, ..self.clone() } == Self { pid: None, ..other.clone() }
    }
}

impl std::fmt::Display for Sender {
    /// "web.service, user www-data, nginx"; what is a guess ends in a question mark.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(group) = self.unit.as_ref().or(self.cgroup.as_ref()) {
            write!(f, "{group}, ")?;
        }
        match &self.user {
            Some(user) => write!(f, "user {user}")?,
            None => write!(f, "user {}", self.uid)?,
        }
        if let Some(process) = &self.process {
            write!(f, ", {process}{}", if self.guess { "?" } else { "" })?;
            if let Some(pid) = self.pid {
                write!(f, " ({pid})")?;
            }
        }
        Ok(())
    }
}
