//! The lock before the network: the ruleset of the configuration with empty sets, while no daemon runs yet.
//!
//! A host that boots is open until its guard has started. `destguard lock`, before the network comes up, puts in force what the daemon
//! will take over: everything is refused but the guard's own traffic and what is always open. It stays through a crash, a restart and an upgrade,
//! as any table of the guard does.

use std::path::{Path, PathBuf};

use super::error::RunError;
use super::{own, switch};
use crate::config::schema::{Config, NftablesMode};
use crate::core::event::EnforcerId;
use crate::enforce::packet_filters;
use crate::enforce::rules::Own;
use crate::sys::clock::Clock;

/// The configuration that was in force last, in the state directory: what the lock is made of where the file can't be read.
pub const LAST: &str = "in-force.toml";

/// What `lock` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locked {
    /// The table stands now.
    Now,
    /// It stood already, with whatever it holds.
    Before,
    /// The configuration blocks nothing on this host, and why.
    Nothing(&'static str),
}

/// Puts the ruleset in force, where none is. `state_dir` is where [`LAST`] lies if the configuration can't say it. The second value says which file was
/// used in place of the configuration, and why.
///
/// # Errors
/// No file can be read, or the kernel's.
pub fn lock(path: &Path, state_dir: &Path) -> Result<(Locked, Option<String>), RunError> {
    let (config, instead) = match read(path) {
        Ok(config) => (config, None),
        Err(error) => {
            let last = state_dir.join(LAST);
            let why = format!("{}: {error}", path.display());
            let config = read(&last).map_err(|other| {
                RunError::failed(format!("{why}; nor can the last one: {}: {other}", last.display()))
            })?;
            (config, Some(format!("{why}; {} is used, which was in force last", last.display())))
        }
    };
    if config.nftables.mode == NftablesMode::Off {
        return Ok((Locked::Nothing("nftables.mode is off"), instead));
    }
    if !config.nftables_enforces() {
        return Ok((Locked::Nothing("it is in audit"), instead));
    }
    let unknown = || RunError::failed(format!("enforcer: there is no {:?}", config.enforcer));
    let backend = packet_filters::named(&config.enforcer).ok_or_else(unknown)?;
    if (backend.is_there)().map_err(RunError::failed)? {
        return Ok((Locked::Before, instead));
    }
    let listeners = own::listeners(&config, ports(&config), http(&config));
    let own = Own { traffic: own::traffic(&config), listeners };
    let mut packets =
        (backend.make)(&switch::rules(&config, own), Clock::start(), EnforcerId(0)).map_err(RunError::failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(RunError::failed)?;
    runtime.block_on(packets.install()).map_err(RunError::failed)?;
    Ok((Locked::Now, instead))
}

/// Only what the file says counts here: a list or a certificate that is missing keeps nobody from being locked.
fn read(path: &Path) -> Result<Config, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    toml::from_str(&text).map_err(|error| error.message().to_owned())
}

fn ports(config: &Config) -> (Vec<u16>, Vec<u16>) {
    let (dns, tls) = (&config.dns, &config.dns.tls);
    let plain = || dns.listen.iter().map(|address| address.port());
    let tcp = plain().chain(tls.dot.iter().chain(&tls.doh).map(|address| address.port())).collect();
    (tcp, plain().chain(tls.doq.iter().map(|address| address.port())).collect())
}

fn http(config: &Config) -> Vec<u16> {
    config.http.listen.iter().map(|address| address.port()).collect()
}

/// Keeps a copy of the configuration that is in force now. That it can't be kept is only said.
pub fn keep(path: &Path, state_dir: &Path) {
    let kept = std::fs::read(path).and_then(|text| crate::sys::private::replace(&state_dir.join(LAST), &[&text]));
    if let Err(error) = kept {
        tracing::warn!(%error, directory = %state_dir.display(), "the configuration in force can't be kept for `destguard lock`");
    }
}

/// Where the state lies if nobody says so.
#[must_use]
pub fn state_dir() -> PathBuf {
    Config::default().state.dir
}
