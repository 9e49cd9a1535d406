//! Extended DNS Errors (RFC 8914): why an answer is not what the client hoped for. One table says which code each refusal gets.

use std::borrow::Cow;

use crate::core::event::Refusal;

/// Codes of the IANA registry "Extended DNS Error Codes".
pub mod code {
    /// "Other Error": the text alone says what is wrong.
    pub const OTHER: u16 = 0;
    /// Forged Answer: the operator's data in place of the upstream's.
    pub const FORGED: u16 = 4;
    /// Stale Answer: the upstreams don't answer.
    pub const STALE: u16 = 3;
    /// Unsupported DNSKEY Algorithm.
    pub const DNSKEY_ALGORITHM: u16 = 1;
    /// DNSSEC Indeterminate: the keys can't be had.
    pub const DNSSEC_INDETERMINATE: u16 = 5;
    /// DNSSEC Bogus: a signature is wrong, or what is signed says otherwise.
    pub const DNSSEC_BOGUS: u16 = 6;
    /// "Signature Expired": the signatures of an answer are too old.
    pub const SIGNATURE_EXPIRED: u16 = 7;
    /// Signature Not Yet Valid.
    pub const SIGNATURE_NOT_YET_VALID: u16 = 8;
    /// DNSKEY Missing: none fits the parent's DS, or the signature.
    pub const DNSKEY_MISSING: u16 = 9;
    /// "RRSIGs Missing": records that must be signed have no signature.
    pub const RRSIGS_MISSING: u16 = 10;
    /// NSEC Missing: nothing proves that there is nothing.
    pub const NSEC_MISSING: u16 = 12;
    /// "Not Ready": the guard can't answer yet.
    pub const NOT_READY: u16 = 14;
    /// Blocked: by the operator's policy.
    pub const BLOCKED: u16 = 15;
    /// Filtered: as the user asked; here: the addresses may not be opened.
    pub const FILTERED: u16 = 17;
    /// Prohibited: this client may not ask.
    pub const PROHIBITED: u16 = 18;
    /// Stale NXDOMAIN Answer.
    pub const STALE_NXDOMAIN: u16 = 19;
    /// Not Authoritative: asked without recursion.
    pub const NOT_AUTHORITATIVE: u16 = 20;
    /// Not Supported: this type or class.
    pub const NOT_SUPPORTED: u16 = 21;
    /// No Reachable Authority: no upstream answered.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// Network Error: talking to the upstream failed.
    pub const NETWORK_ERROR: u16 = 23;
    /// Invalid Data: the upstream's response can't be used.
    pub const INVALID_DATA: u16 = 24;
    /// Synthesized: answered here without asking anybody.
    pub const SYNTHESIZED: u16 = 29;
}

/// Most octets of text that go into a reply.
const TEXT_MAX: usize = 120;

/// One extended error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ede {
    /// The code of the registry (INFO-CODE).
    pub code: u16,
    /// The words for people (EXTRA-TEXT); empty where the code says all.
    pub text: Cow<'static, str>,
}

impl Ede {
    /// With a text; a long one is cut at a character.
    #[must_use]
    pub fn new(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        if text.len() <= TEXT_MAX {
            return Self { code, text };
        }
        let mut end = TEXT_MAX;
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        Self { code, text: Cow::Owned(text.get(..end).unwrap_or_default().to_owned()) }
    }
}

/// The code, text and metric label of a refusal by the gate.
///
/// | refusal | code |
/// |---|---|
/// | the deadline passed, an enforcer refused | 23 Network Error: the fault lies between the guard and its enforcer |
/// | over a budget of answer, client or domain | 18 Prohibited |
/// | route budget, lease table full, wrong family | 0 Other: the guard's own limit |
/// | revoked while it waited | 15 Blocked |
#[must_use]
pub fn of_refusal(refusal: &Refusal) -> (Ede, &'static str) {
    match refusal {
        Refusal::Deadline { waiting_for } => {
            (Ede::new(code::NETWORK_ERROR, format!("not confirmed in time by {}", waiting_for.join(", "))), "deadline")
        }
        Refusal::Enforcer { name, .. } => (Ede::new(code::NETWORK_ERROR, format!("{name} refused")), "enforcer"),
        Refusal::Family { name } => (Ede::new(code::OTHER, format!("{name} can't hold this address family")), "family"),
        Refusal::PerAnswer => {
            (Ede::new(code::PROHIBITED, "too many addresses in one answer that can't be given in part"), "per_answer")
        }
        Refusal::PerClient => (Ede::new(code::PROHIBITED, "too many new addresses for this client"), "per_client"),
        Refusal::PerDomain => (Ede::new(code::PROHIBITED, "too many new addresses for this domain"), "per_domain"),
        Refusal::RouteBudget { name } => {
            (Ede::new(code::OTHER, format!("the route budget of {name} is used up")), "route_budget")
        }
        Refusal::Capacity => {
            (Ede::new(code::OTHER, "the lease table has no room left for this client or domain"), "capacity")
        }
        Refusal::Revoked => (Ede::new(code::BLOCKED, "revoked"), "revoked"),
    }
}
