//! This host's own addresses and what is on-link, followed as the kernel tells of them. None of them is ever
//! opened, and those that the configuration listens on are served as they come.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::control::Sources;
use crate::daemon::shared::Shared;
use crate::daemon::{reload, rules};
use crate::sys::interfaces::Here;
use crate::sys::netlink::Socket as Netlink;
use crate::sys::on_link;

/// How often this host's own addresses are read anew although the kernel told of no change.
const INTERFACES: Duration = Duration::from_secs(10);
/// Changes seldom come alone: they are read together.
const GATHERED: Duration = Duration::from_millis(50);
/// Notifications taken in one go.
const MOST: usize = 1024;

/// Links, addresses, routes and prefixes that a router advertises.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_PREFIX,
];

/// Tells of changes of interfaces, addresses and what is on-link.
struct Changes(Option<AsyncFd<Netlink>>);

impl Changes {
    fn new() -> Self {
        let opened = Netlink::open(libc::NETLINK_ROUTE, 1 << 20).and_then(|socket| {
            // A router's table may change all the time; what is on-link no routing daemon makes.
            socket.ignore_routes_but_of(&on_link::PROTOCOLS)?;
            for group in GROUPS {
                socket.join(i32::try_from(group).unwrap_or_default())?;
            }
            socket.watched()
        });
        if let Err(error) = &opened {
            tracing::warn!(%error, "changes of this host's addresses are seen only every {} s", INTERFACES.as_secs());
        }
        Self(opened.ok())
    }

    /// Waits for the next one. What was lost is one too.
    async fn next(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        match socket.readable().await {
            Ok(mut ready) => {
                // What they say is read from the kernel anyway.
                let mut buffer = [0; 16 * 1024];
                for _ in 0..MOST {
                    if matches!(socket.get_ref().receive(&mut buffer), Ok(None)) {
                        break;
                    }
                }
                ready.clear_ready();
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for changes of this host's addresses");
                std::future::pending().await
            }
        }
    }
}

/// Keeps this host's own addresses and what is on-link out of what may be opened, and serves what is to be listened on, also when they change.
pub async fn follow(shared: Arc<Shared>, mut known: Here) {
    let changes = Changes::new();
    let mut tick = tokio::time::interval(INTERFACES);
    let sources: Arc<dyn Sources> = shared.clone();
    let mut networks = shared.peers.watch_networks();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = changes.next() => tokio::time::sleep(GATHERED).await,
            Ok(()) = networks.changed() => {
                tokio::time::sleep(GATHERED).await;
                networks.mark_unchanged();
            }
        }
        let now = match rules::here(&shared.config().0, Some(&shared.peers)) {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "what was known last is used");
                continue;
            }
        };
        shared.listening.set_here(&now);
        shared.listeners.look();
        shared.listening.look(&sources);
        if now != known {
            let _applying = shared.applying.lock().await;
            let config = shared.config().0;
            let hours = shared.rules.load().views.hours().clone();
            let made = rules::rules(&config, &shared.lists.lists(), &now, &hours);
            let closed = match made {
                Ok(rules) => reload::put_in_force(&shared, rules).await,
                Err(error) => Err(error.into()),
            };
            match closed {
                Ok(()) => known = now,
                // Tried again the next time.
                Err(error) => tracing::error!(%error, "the address filter can't be made anew"),
            }
        }
    }
}
