//! Keeps what is known of clients: who is on link, as the kernel's neighbour table says.

use std::sync::Arc;
use std::time::Duration;

use crate::core::client::Clients;
use crate::core::event::Event;
use crate::core_task::{CoreHandle, Stopped};
use crate::dns::View;
use crate::sys::neighbours::Neighbours;

/// The first change is told at once, since whoever is new on link asks at once. What comes within so long after it is told together; longer
/// where the table is long, of which a copy is made each time.
const TOGETHER: Duration = Duration::from_millis(10);
/// So many entries more take a millisecond more.
const ENTRIES: u32 = 256;
/// After an error of the socket, the table is read anew that much later.
const AGAIN: Duration = Duration::from_secs(10);

/// Follows the table until the task ends.
pub async fn follow(dns: View, core: CoreHandle) {
    loop {
        if let Err(error) = follow_once(&dns, &core).await {
            tracing::warn!(%error, "the neighbour table can't be read: clients are told apart by their addresses alone");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_once(dns: &View, core: &CoreHandle) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut neighbours = Neighbours::open()?;
    loop {
        let stations = Arc::new(neighbours.stations().clone());
        learn(dns, core, |known| known.with_stations(stations.clone())).await?;
        let more = u32::try_from(stations.len()).unwrap_or(u32::MAX) / ENTRIES;
        tokio::time::sleep(TOGETHER + Duration::from_millis(more.into())).await;
        neighbours.changed().await?;
    }
}

/// Puts more knowledge in the place of what was known, for listeners and core alike.
///
/// # Errors
/// The core is gone.
pub async fn learn(dns: &View, core: &CoreHandle, more: impl Fn(&Clients) -> Clients) -> Result<(), Stopped> {
    let whom = dns.whom();
    whom.rcu(|known| more(known));
    // Whoever tells last tells the latest.
    core.tell(Event::Clients(whom.load_full())).await
}
