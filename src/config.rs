//! The file a user writes.
//!
//! - [`schema`]: its shape, with the defaults. [`value`]: durations, sizes, rates. [`window`]: hours of the week. [`upstream`], [`community`]: strings
//!   with a meaning, parsed.
//!   [`endpoint`]: addresses, with the interface where they need one.
//! - [`read`]: syntax and shape, every error at once. [`report`]: how findings are shown. What values mean
//!   together is [`crate::check`]'s.
//! - [`list_file`]: reads the files of `[[policy.list]]`.
//! - [`default`]: the documented default file.

use std::path::{Path, PathBuf};

pub mod community;
pub mod default;
pub mod endpoint;
pub mod https_url;
pub mod list_file;
pub mod read;
pub mod report;
pub mod schema;
pub mod upstream;
pub mod value;
pub mod window;

pub use community::Communities;
pub use report::{Finding, Report, Severity, Warning};
pub use schema::{Config, Places};
pub use upstream::{Transport, UpstreamUrl};

/// Whether a trust anchor is the name of a file. Records contain blanks; names of files that do must be written with "./" or "/" in front.
#[must_use]
pub fn names_a_file(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && !text.contains([' ', '\t', '\n']) || text.starts_with('/') || text.starts_with("./")
}

/// Makes every path of the file relative to the file's directory.
pub fn resolve_paths(file: &Path, config: &mut Config) {
    let base = file.parent().unwrap_or(Path::new(""));
    let resolve = |path: &mut PathBuf| {
        if path.is_relative() && !path.as_os_str().is_empty() {
            *path = base.join(&*path);
        }
    };
    if let Some(anchor) = config.dns.dnssec.trust_anchor.as_mut().filter(|anchor| names_a_file(anchor)) {
        let mut path = PathBuf::from(anchor.trim());
        resolve(&mut path);
        // So that it is still seen to be a file, whatever stands in it: the key is a text.
        let path = if path.is_relative() { Path::new(".").join(path) } else { path };
        *anchor = path.to_string_lossy().into_owned();
    }
    let tls = &mut config.dns.tls;
    [&mut tls.certificate, &mut tls.key, &mut tls.client_ca, &mut tls.client_crl]
        .into_iter()
        .flatten()
        .for_each(resolve);
    for upstream in &mut config.dns.upstream {
        [&mut upstream.ca, &mut upstream.client_certificate, &mut upstream.client_key]
            .into_iter()
            .flatten()
            .for_each(resolve);
    }
    for zone in &mut config.dns.zone {
        [zone.file.as_mut(), zone.hosts.as_mut()].into_iter().flatten().for_each(resolve);
    }
    for list in &mut config.policy.list {
        [Some(&mut list.path), list.ca.as_mut()].into_iter().flatten().for_each(resolve);
    }
    let http = &mut config.http;
    [&mut http.certificate, &mut http.key, &mut http.token_file].into_iter().flatten().for_each(resolve);
    config.bgp.peer.iter_mut().filter_map(|peer| peer.password_file.as_mut()).for_each(resolve);
    config.bgp.service.peer.iter_mut().filter_map(|peer| peer.password_file.as_mut()).for_each(resolve);
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
