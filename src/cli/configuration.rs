//! The commands that need only the file.

use std::path::Path;

use super::{Exit, RouterKind, complain, router_config, say};
use crate::check;
use crate::config::{self, report};

/// Runs `destguard check`.
#[must_use]
pub fn check(file: &Path, json: bool) -> Exit {
    let mut applications = Vec::new();
    let (findings, exit) = match check::load(file) {
        // A list that a running guard would live with.
        Ok((_, findings, _)) if findings.iter().any(|finding| finding.severity == report::Severity::Error) => {
            (findings, Exit::Usage)
        }
        Ok((config, warnings, _)) => {
            applications = crate::daemon::applications::now(&config);
            (warnings, Exit::Done)
        }
        Err(refused) => (refused.findings, Exit::Usage),
    };
    let printed = if json {
        match report::to_json(file, &findings) {
            Ok(text) => say(&text),
            Err(error) => complain(&error, Exit::Failed),
        }
    } else {
        let mut text: String = findings.iter().map(|finding| format!("{finding}\n\n")).collect();
        for one in &applications {
            text.push_str(&format!("application {one}\n"));
        }
        text.push_str(&report::summary(file, &findings));
        say(&text)
    };
    if printed == Exit::Done { exit } else { printed }
}

/// Runs `destguard config show`.
#[must_use]
pub fn show(file: &Path, json: bool) -> Exit {
    let mut config = match check::load(file) {
        Ok((config, ..)) => config,
        Err(refused) => return complain(&refused, Exit::Usage),
    };
    let service = config.bgp.service.peer.iter_mut().map(|peer| &mut peer.password);
    for password in config.bgp.peer.iter_mut().map(|peer| &mut peer.password).chain(service).flatten() {
        "***".clone_into(password);
    }
    let text = if json {
        serde_json::to_string_pretty(&crate::control::types::Versioned::new(config)).map_err(|error| error.to_string())
    } else {
        toml::to_string(&config).map_err(|error| error.to_string())
    };
    match text {
        Ok(text) => say(&text),
        Err(error) => complain(&error, Exit::Failed),
    }
}

/// Runs `destguard config schema`.
#[must_use]
pub fn schema() -> Exit {
    match serde_json::to_string_pretty(&schemars::schema_for!(config::Config)) {
        Ok(text) => say(&text),
        Err(error) => complain(&error, Exit::Failed),
    }
}

/// Runs `destguard router-config`.
#[must_use]
pub fn router(file: &Path, kind: RouterKind, peer: Option<&str>) -> Exit {
    let config = match check::load(file) {
        Ok((config, ..)) => config,
        Err(refused) => return complain(&refused, Exit::Usage),
    };
    match router_config::generate(&config, kind, peer) {
        Ok(text) => say(&text),
        Err(error) => complain(&error, Exit::Failed),
    }
}
