//! Other upstreams in a running daemon.
//!
//! ```text
//!  way to the new ones open --> they are asked --> what is in flight to the old ones ends --> way to those closed
//! ```
//!
//! Both ways are open meanwhile, so that a question that was asked of an old upstream has the same chance as without the reload. The way is the guard's
//! own packet filter, and routers that null-route what isn't announced to them (`bgp.announce_upstreams`; `addresses.open` likewise).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::config::schema::{Dns, Lease};
use crate::core::address::infrastructure;
use crate::daemon::own;
use crate::daemon::reload::error::ReloadError;
use crate::daemon::shared::Shared;
use crate::dns::upstream::TOTAL;
use crate::enforce::{EnforceError, bgp};

/// How long a question may be on its way to an old upstream: twice its time, for one whose answer is looked at twice.
const LATE: Duration = TOTAL.saturating_mul(2);

/// What of `[dns]` can be in force without a restart.
pub(super) fn live(old: &Dns, new: &Dns) -> Dns {
    Dns { listen: old.listen.clone(), workers: old.workers, tls: old.tls.clone(), ..new.clone() }
}

/// Whether questions and kept answers are judged alike under both, so that what is kept stays.
pub(super) fn judge_alike(old: &Config, new: &Config) -> bool {
    let dns = Dns {
        clients: new.dns.clients.clone(),
        virtual_addresses: new.dns.virtual_addresses.clone(),
        rate_limit: new.dns.rate_limit,
        cache: new.dns.cache.clone(),
        listen: new.dns.listen.clone(),
        workers: new.dns.workers,
        tls: new.dns.tls.clone(),
        ..old.dns.clone()
    };
    let lease = Lease {
        min: old.lease.min,
        grace: old.lease.grace,
        max: old.lease.max,
        per_answer: old.lease.per_answer,
        ..new.lease.clone()
    };
    let alike =
        Config { dns, lease, http: new.http.clone(), gate: new.gate.clone(), log: new.log.clone(), ..old.clone() };
    // Where the guard itself is, no answer may lead. Behind other enforcers each answer goes through the gate again.
    alike == *new && own_addresses(old) == own_addresses(new)
}

fn own_addresses(config: &Config) -> Option<BTreeSet<IpAddr>> {
    Some(infrastructure(config).ok()?.into_iter().map(|(address, _)| address).collect())
}

/// Opens the way to the upstreams of a configuration, beside that to those in force. Before they are asked.
///
/// # Errors
/// Why all is as it was.
pub(super) async fn reach(shared: &Shared, config: &Config) -> Result<(), ReloadError> {
    let traffic = own::traffic(config);
    shared.switches.own(|own| own.traffic.extend(traffic)).await?;
    let mut open = bgp::open(&shared.config().0).map_err(EnforceError::from)?;
    open.extend(bgp::open(config).map_err(EnforceError::from)?);
    Ok(shared.switches.open(open).await?)
}

/// Closes the way to those that aren't asked any more, once nothing was changed for as long as a question may be on its way; and whatever else the
/// packet filter lets pass beside the configuration in force, where a reload failed halfway. What is refused is tried again.
pub async fn follow(shared: Arc<Shared>) {
    loop {
        shared.left.notified().await;
        while tokio::time::timeout(LATE, shared.left.notified()).await.is_ok() {}
        let _applying = shared.applying.lock().await;
        let left = leave(&shared, &shared.config().0).await;
        shared.stays_open.store(left.as_ref().err().map(|error| Arc::new(error.to_string())));
        if let Err(error) = left {
            tracing::error!(%error, "what another configuration let pass stays open, and is tried again");
            shared.left.notify_one();
        }
    }
}

async fn leave(shared: &Shared, config: &Config) -> Result<(), ReloadError> {
    // Each is closed, whatever becomes of the others.
    let packets = shared.switches.packets_close(config).await;
    let traffic = shared.switches.own(|own| own.traffic = own::traffic(config)).await;
    shared.switches.open(bgp::open(config).map_err(EnforceError::from)?).await?;
    Ok(packets.and(traffic)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_judges_nothing_keeps_what_is_kept() {
        let parse = |text: &str| toml::from_str::<Config>(text).unwrap();
        let old = Config::default();
        for same in [
            "",
            "[dns]\nclients = [\"192.0.2.0/24\"]\nrate_limit = \"5/s\"\nvirtual_addresses = [\"192.0.2.9\"]\n",
            "[dns]\nlisten = [\"127.0.0.1:53\", \"[::1]:5353\"]\nworkers = 3\n[dns.tls]\ndot = [\"127.0.0.1:853\"]\n[http]\nlisten = []\n",
            "[lease]\ncapacity = 5\nburst_per_client = 9\n",
            "[dns.cache]\nsize = \"1MiB\"\nprefetch = false\nserve_stale = \"1h\"\n[gate]\ndeadline = \"2s\"\n[log]\nqueries = 5\n",
        ] {
            assert!(judge_alike(&old, &parse(same)), "{same}");
        }
        for other in [
            "mode = \"audit\"\n",
            "[dns]\nlisten = [\"192.0.2.9:53\"]\n",
            "[policy]\ndeny = [\"a.test\"]\n",
            "[addresses]\nopen = [\"192.0.2.1\"]\n",
            "[lease]\ngrace = \"1s\"\n",
            "[dns]\nlocal_names = false\n",
            "[dns.dnssec]\nvalidate = true\n",
            "[[dns.upstream]]\nurl = \"udp://192.0.2.1\"\n",
            "[nftables]\nmode = \"gateway\"\nscope = \"client\"\n",
            "[lease]\nmax = \"1h\"\n",
            "[lease]\nper_answer = 1\n",
            "[bgp]\nenforce = false\n",
        ] {
            assert!(!judge_alike(&old, &parse(other)), "{other}");
        }
    }
}
