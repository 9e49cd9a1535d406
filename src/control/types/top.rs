//! Who asked most, as `top` shows it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The body of `top`: who asked most, and what was asked for and refused most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Top {
    /// Questions that were counted: those that the query log still has.
    pub questions: u64,
    /// Who asked most.
    pub clients: Vec<TopClient>,
    /// What was asked for most.
    pub names: Vec<TopName>,
    /// What was denied, filtered or refused most.
    pub denied: Vec<TopDenied>,
}

/// A client and how much it asked within the span.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TopClient {
    /// Its address; a hash where clients are hidden.
    pub client: String,
    /// As whom it asked, where more is known; a hash where clients are hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// How often it asked.
    pub questions: u64,
    /// Of these, denied, filtered or refused.
    pub denied: u64,
}

/// A name and how often it was asked for within the span.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TopName {
    /// The name; a hash where names are hidden.
    pub name: String,
    /// How often it was asked for.
    pub questions: u64,
}

/// One name that was denied.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TopDenied {
    /// The name; a hash where names are hidden.
    pub name: String,
    /// Questions for the name that were denied.
    pub count: u64,
    /// Why, the last time.
    pub why: Option<String>,
}

/// Where packets went that were refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TopAddress {
    /// The address that the packets were sent to.
    pub address: IpAddr,
    /// How many the log was told of.
    pub packets: u64,
}

/// The answer to `GET /api/v1/top`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TopPage {
    /// How far back it was looked.
    pub since_seconds: u64,
    /// Whether questions are kept (`log.queries`): else none are counted.
    #[serde(default)]
    pub kept: bool,
    /// What is denied here would be: the guard is in audit.
    #[serde(default)]
    pub audit: bool,
    /// Of the query log.
    #[serde(flatten)]
    pub top: Top,
    /// Destinations of refused packets, since the start.
    pub addresses: Vec<TopAddress>,
}
