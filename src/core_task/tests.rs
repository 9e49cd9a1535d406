//! What must hold between the core and its drivers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::core::event::{EnforcerId, EnforcerKind, EnforcerSpec, Grant};
use crate::core::guard::Settings;

/// A disk that is full while the flag is set, and stays behind until it is told to try again.
struct Disk {
    full: Arc<AtomicBool>,
    behind: Option<Moment>,
}

impl Journal for Disk {
    fn write(&mut self, records: &[JournalRecord], now: Moment) -> std::io::Result<()> {
        let failed = self.behind.is_some_and(|retry| now < retry);
        if failed || (self.full.load(Ordering::Acquire) && (self.behind.is_some() || !records.is_empty())) {
            self.behind.get_or_insert(now.plus(Duration::from_millis(50)));
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.behind = None;
        Ok(())
    }

    fn retry(&self) -> Option<Moment> {
        self.behind
    }
}

fn admission() -> Admission {
    Admission {
        ticket: Ticket(0),
        client: "192.0.2.1".parse().unwrap(),
        question: "www.shop.test".parse().unwrap(),
        qtype: 1,
        chain: Vec::new(),
        domain: "shop.test".parse().unwrap(),
        grants: vec![Grant { address: "203.0.113.7".parse().unwrap(), ttl: 60 }],
    }
}

#[tokio::test]
async fn an_answer_is_not_released_in_a_later_turn_when_its_lease_could_not_be_written() {
    let config = crate::config::schema::Config::default();
    let settings = Settings { lease: config.lease, gate: config.gate, linger: Duration::from_secs(60) };
    let spec = EnforcerSpec {
        name: "nftables".to_owned(),
        kind: EnforcerKind::Timed,
        required: true,
        max_addresses: 100,
        ipv4: true,
        ipv6: true,
    };
    let clock = Clock::start();
    let (commands, mut told) = mpsc::channel(16);
    let (reports, inbox) = mpsc::channel(16);
    let full = Arc::new(AtomicBool::new(true));
    let drivers = Drivers {
        timed: vec![(EnforcerId(0), commands)],
        routes: None,
        journal: Some(Box::new(Disk { full: full.clone(), behind: None })),
    };
    let (core, task) = core_task(Guard::new(settings, vec![spec]), drivers, inbox, clock);
    tokio::spawn(task);
    // The kernel opens what it is told, a turn of the core later than the lease was to be written.
    tokio::spawn(async move {
        let enforcer = EnforcerId(0);
        while let Some(command) = told.recv().await {
            if let Command::Sync { generation, .. } | Command::Apply { generation, .. } = command {
                reports.send(Event::Applied { enforcer, generation }).await.unwrap();
            }
        }
    });
    core.tell(Event::WantSync { enforcer: EnforcerId(0) }).await.unwrap();
    let decision = core.admit(admission()).await.unwrap();
    assert!(
        matches!(&decision, Decision::Refuse(crate::core::event::Refusal::Enforcer { name, .. }) if name == "state")
    );
    // The address is open by now; that alone must not release a second answer for it.
    let decision = core.admit(admission()).await.unwrap();
    assert!(matches!(decision, Decision::Refuse(_)), "{decision:?}");
    full.store(false, Ordering::Release);
    let written = async {
        while !matches!(core.admit(admission()).await.unwrap(), Decision::Release { .. }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
}
