//! Listeners of clients, of encrypted transports and of HTTP: bound first, then let through by the packet filter, then served; those that go are drained.

use crate::config::Config;
use crate::control::access;
use crate::daemon::reload::error::ReloadError;
use crate::daemon::shared::Shared;
use crate::daemon::{listening, own};
use crate::dns;

/// Bound and not served yet. Dropped, all is as before.
pub struct Change {
    dns: dns::listen::reload::Prepared,
    http: listening::Prepared,
    access: access::Prepared,
}

/// What of `new` applies.
pub fn live(wanted: &mut Config, new: &Config) {
    wanted.dns.listen.clone_from(&new.dns.listen);
    wanted.dns.tls.clone_from(&new.dns.tls);
    wanted.dns.workers = new.dns.workers;
    wanted.http.clone_from(&new.http);
}

/// Does all that can fail.
///
/// # Errors
/// In words, with the key; all is as before.
pub async fn prepare(shared: &Shared, config: &Config) -> Result<Change, ReloadError> {
    let dns = shared.listeners.prepare(config)?;
    let http = shared.listening.prepare(config)?;
    let access = shared.access.prepare(&config.http)?;
    let new = own::listeners(config, dns.ports(), http.ports());
    shared.switches.own(|own| own.listeners.extend(new)).await?;
    Ok(Change { dns, http, access })
}

/// Serves what is new, and drains what goes. What can't be started after all is named by `status`, and tried again.
pub async fn switch(shared: &Shared, config: &Config, change: Change) {
    if let Err(error) = shared.listeners.switch(change.dns) {
        tracing::error!(%error, "a new listener is not served yet");
    }
    // First: a new listener must not speak plain text for a moment.
    shared.access.switch(change.access);
    shared.listening.switch(change.http);
    forget_others(shared, config).await;
}

/// The packet filter lets answers leave from the listeners' ports alone.
pub async fn forget_others(shared: &Shared, config: &Config) {
    let all = own::listeners(config, shared.listeners.ports(), shared.listening.ports());
    if let Err(error) = shared.switches.own(|own| own.listeners = all).await {
        tracing::warn!(%error, "a port on which nothing listens any more stays among the guard's own");
    }
}
