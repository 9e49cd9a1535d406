//! The file a user writes.
//!
//! - [`load`]: reads and checks a file; nothing is bound before it passes.
//! - [`schema`]: its shape, with the defaults. [`value`]: durations, sizes, rates. [`upstream`], [`community`]: strings
//!   with a meaning, parsed.
//! - [`read`]: syntax and shape, every error at once. [`check`]: what values mean together. [`report`]: how findings are
//!   shown.
//! - [`list_file`]: reads the files of `[[policy.list]]`.
//! - [`default`]: the documented default file.

use std::path::{Path, PathBuf};

pub mod check;
pub mod community;
pub mod default;
pub mod list_file;
pub mod read;
pub mod report;
pub mod schema;
pub mod upstream;
pub mod value;

use crate::dns::validate::anchor::is_file;

pub use community::Communities;
pub use report::{Finding, Report, Severity, Warning};
pub use schema::{Config, Places};
pub use upstream::{Transport, UpstreamUrl};

/// Most octets of a configuration file; lists have files of their own.
const MOST_OCTETS: u64 = 4 << 20;

/// Reads and checks a file. Paths in the returned configuration are relative to the file's directory no more.
///
/// # Errors
/// A report with every error of the file, each with its place.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>, Places), Report> {
    let text = read_text(path)?;
    parse(path, &text)
}

/// Like [`load`], from a text; `path` names it and is where relative paths start.
///
/// # Errors
/// See [`load`].
pub fn parse(path: &Path, text: &str) -> Result<(Config, Vec<Warning>, Places), Report> {
    let (mut document, mut config) = read::Document::read(path, text);
    resolve_paths(path, &mut config);
    check::check(path, &mut document, &config);
    let failed = document.has_errors();
    let places = document.places();
    let findings = document.into_findings();
    if failed { Err(Report { file: path.to_owned(), findings }) } else { Ok((config, findings, places)) }
}

fn read_text(path: &Path) -> Result<String, Report> {
    let unreadable = |reason: String| Report::unreadable(path, reason);
    let length = std::fs::metadata(path).map_err(|error| unreadable(format!("can't be read: {error}")))?.len();
    if length > MOST_OCTETS {
        return Err(unreadable(format!("has {length} octets; a configuration has at most {MOST_OCTETS}")));
    }
    let octets = std::fs::read(path).map_err(|error| unreadable(format!("can't be read: {error}")))?;
    String::from_utf8(octets).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(good).filter(|octet| **octet == b'\n').count().saturating_add(1);
        unreadable(format!("line {line} is not UTF-8 text"))
    })
}

/// Makes every path of the file relative to the file's directory.
fn resolve_paths(file: &Path, config: &mut Config) {
    let base = file.parent().unwrap_or(Path::new(""));
    let resolve = |path: &mut PathBuf| {
        if path.is_relative() && !path.as_os_str().is_empty() {
            *path = base.join(&*path);
        }
    };
    if let Some(anchor) = config.dns.dnssec.trust_anchor.as_mut().filter(|anchor| is_file(anchor)) {
        let mut path = PathBuf::from(anchor.trim());
        resolve(&mut path);
        // So that it is still seen to be a file, whatever stands in it: the key is a text.
        let path = if path.is_relative() { Path::new(".").join(path) } else { path };
        *anchor = path.to_string_lossy().into_owned();
    }
    let tls = &mut config.dns.tls;
    [&mut tls.certificate, &mut tls.key].into_iter().flatten().for_each(resolve);
    for upstream in &mut config.dns.upstream {
        [&mut upstream.ca, &mut upstream.client_certificate, &mut upstream.client_key]
            .into_iter()
            .flatten()
            .for_each(resolve);
    }
    config.policy.list.iter_mut().map(|list| &mut list.path).for_each(resolve);
    config.bgp.peer.iter_mut().filter_map(|peer| peer.password_file.as_mut()).for_each(resolve);
    resolve(&mut config.state.dir);
}

/// The TCP-MD5 key of a peer, from the file itself or from `password_file` without its line end.
///
/// # Errors
/// The file can't be read.
pub fn peer_password(peer: &schema::Peer) -> std::io::Result<Option<String>> {
    match (&peer.password, &peer.password_file) {
        (Some(password), _) => Ok(Some(password.clone())),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map(|text| Some(text.trim_end_matches(['\n', '\r']).to_owned()))
        }
        (None, None) => Ok(None),
    }
}
