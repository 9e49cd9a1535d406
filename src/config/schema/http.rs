//! `[http]`

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::endpoint::Endpoint;

/// The section `[http]`: page, API and metrics over TCP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Listeners over TCP for page, API and metrics.
    #[schemars(with = "Vec<String>")]
    pub listen: Vec<Endpoint>,
    /// Names that page and API may be asked by, beside addresses, `localhost` and the names in the certificate.
    pub names: Vec<String>,
    /// Chain of certificates, the guard's own first. With it all listeners speak TLS.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// File of one line: what page and API must be told, as a password with any user or as a bearer token.
    pub token_file: Option<PathBuf>,
    /// `/metrics` needs the token too; `/health` and `/ready` never do.
    pub metrics_need_token: bool,
}
