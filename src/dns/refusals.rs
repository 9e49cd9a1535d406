//! What was refused, for `destguard denied`: questions in the words of the log that all parts share.

use std::net::IpAddr;

use crate::control::{DeniedKind, DeniedLog};
use crate::core::name::Name;

/// The DNS side's way into the log.
#[derive(Clone, Debug, Default)]
pub struct Refusals(pub DeniedLog);

impl Refusals {
    /// Notes one. `reason` is one of a fixed set of words, as in the metrics; `text` says it in words, with the rule or the
    /// addresses; `ede` is the Extended DNS Error code of the reply.
    pub fn push(&self, client: IpAddr, name: &Name, qtype: u16, reason: &'static str, text: &str, ede: u16) {
        let kind = match reason {
            "policy" => DeniedKind::Name,
            "filter" | "filtered" => DeniedKind::Address,
            _ => DeniedKind::Answer,
        };
        let what = format!("{name} {}", hickory_proto::rr::RecordType::from(qtype));
        self.0.record(kind, &what, Some(client), &format!("{reason}: {text} (EDE {ede})"));
    }
}
