//! What must hold between the core and its drivers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::core::event::{EnforcerId, EnforcerKind, EnforcerSpec, Grant, Ticket};
use crate::core::guard::Settings;
use crate::core::journal::{Alive, JournalRecord};

/// A disk that is full while the flag is set, and stays behind until it is told to try again.
struct Disk {
    full: Arc<AtomicBool>,
    behind: Option<Moment>,
}

impl Journal for Disk {
    fn write(&mut self, records: Vec<JournalRecord>, _: Option<&dyn Alive>, now: Moment) -> std::io::Result<()> {
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

    fn is_long(&self) -> bool {
        false
    }
}

fn admission() -> Admission {
    Admission {
        judged: 0,
        openings: Default::default(),
        whole: false,
        ticket: Ticket(0),
        client: "192.0.2.1".parse().unwrap(),
        mark: None,
        question: "www.shop.test".parse().unwrap(),
        qtype: 1,
        chain: Arc::default(),
        domain: "shop.test".parse().unwrap(),
        grants: [Grant { address: "203.0.113.7".parse().unwrap(), ttl: 60 }].into(),
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
        narrow: Default::default(),
    };
    let clock = Clock::start();
    let (commands, mut told) = mpsc::channel(16);
    let (reports, inbox) = mpsc::channel(16);
    let full = Arc::new(AtomicBool::new(true));
    let drivers = Drivers {
        timed: vec![(EnforcerId(0), commands)],
        routes: None,
        journal: Some(Box::new(Disk { full: full.clone(), behind: None })),
        recorder: None,
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
    let counts = core.inspect(|guard, _| guard.counts()).await.unwrap();
    assert_eq!((counts.released, counts.refused.enforcer), (0, 2), "they are counted as what became of them");
    full.store(false, Ordering::Release);
    let written = async {
        while !matches!(core.admit(admission()).await.unwrap(), Decision::Release { .. }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
}

fn opening(address: [u8; 4], grants: usize) -> Admission {
    let grant = Grant { address: address.into(), ttl: 60 };
    let other = |n| Grant { address: [192, 0, 2, n].into(), ttl: 60 };
    Admission {
        judged: 0,
        openings: Default::default(),
        whole: false,
        ticket: Ticket(0),
        client: [198, 51, 100, 1].into(),
        mark: None,
        question: "name.example".parse().unwrap(),
        qtype: 1,
        chain: Arc::default(),
        domain: "name.example".parse().unwrap(),
        grants: std::iter::once(grant).chain((0..).take(grants - 1).map(other)).collect(),
    }
}

#[tokio::test]
async fn the_decisions_on_a_batch_come_back_together_under_their_numbers() {
    let (lease, gate) = (crate::config::schema::Lease::default(), crate::config::schema::Gate::default());
    let too_many = lease.per_answer + 1;
    let settings = Settings { lease, gate, linger: Duration::ZERO };
    let drivers = Drivers { timed: Vec::new(), routes: None, journal: None, recorder: None };
    let (_reports, reported) = mpsc::channel(1);
    let (core, task) = core_task(Guard::new(settings, Vec::new()), drivers, reported, Clock::start());
    let mailbox = Mailbox::new().unwrap();
    let mut poll = crate::sys::poll::Poll::new().unwrap();
    poll.add(std::os::fd::AsFd::as_fd(mailbox.bell()), 1).unwrap();
    let mut decided = Vec::new();
    // Somebody asked before.
    core.requests.try_send(Request::Event(Event::Guards(Vec::new()))).unwrap();
    core.try_admit(
        vec![
            (7, opening([203, 0, 113, 1], 1)),
            (8, Admission { whole: true, ..opening([203, 0, 113, 2], too_many) }),
            (9, opening([203, 0, 113, 3], 2)),
        ],
        &mailbox,
        &mut decided,
    )
    .unwrap();
    assert!(decided.is_empty());
    tokio::spawn(task);
    let (mut decisions, mut seen) = (Vec::new(), 0);
    while seen == 0 {
        tokio::task::yield_now().await;
        poll.wait(Duration::ZERO).unwrap();
        if poll.ready(0).is_some() {
            mailbox.take(&mut decisions);
            seen = decisions.len();
        }
    }
    decisions.sort_by_key(|(number, _)| *number);
    assert!(matches!(&decisions[0], (7, Decision::Release { leases, .. }) if leases.len() == 1), "{decisions:?}");
    assert!(matches!(decisions[1], (8, Decision::Refuse(crate::core::event::Refusal::PerAnswer))), "{decisions:?}");
    assert!(matches!(&decisions[2], (9, Decision::Release { leases, .. }) if leases.len() == 2), "{decisions:?}");
    poll.wait(Duration::ZERO).unwrap();
    assert_eq!(poll.ready(0), None, "nothing is left");
}

#[tokio::test]
async fn told_to_stop_it_ends_though_others_hold_it_and_so_do_the_enforcers_channels() {
    let (lease, gate) = (crate::config::schema::Lease::default(), crate::config::schema::Gate::default());
    let (commands, mut told) = mpsc::channel(16);
    let drivers = Drivers { timed: Vec::new(), routes: Some(commands), journal: None, recorder: None };
    let (_reports, reported) = mpsc::channel(1);
    let settings = Settings { lease, gate, linger: Duration::ZERO };
    let (core, task) = core_task(Guard::new(settings, Vec::new()), drivers, reported, Clock::start());
    let task = tokio::spawn(task);
    let other = core.clone();
    core.stop().await;
    tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
    assert!(told.recv().await.is_none());
    other.inspect(|_, _| ()).await.unwrap_err();
    other.stop().await;
}

#[tokio::test]
async fn a_batch_that_finds_no_room_comes_back() {
    let settings = Settings {
        lease: crate::config::schema::Lease::default(),
        gate: crate::config::schema::Gate::default(),
        linger: Duration::ZERO,
    };
    let drivers = Drivers { timed: Vec::new(), routes: None, journal: None, recorder: None };
    let (_reports, reported) = mpsc::channel(1);
    let (core, task) = core_task(Guard::new(settings, Vec::new()), drivers, reported, Clock::start());
    let mailbox = Mailbox::new().unwrap();
    for _ in 0..REQUESTS {
        core.requests.try_send(Request::Event(Event::Guards(Vec::new()))).unwrap();
    }
    let batch = vec![(1, opening([203, 0, 113, 1], 1))];
    let mut decided = Vec::new();
    let NotTaken::Full(batch) = core.try_admit(batch, &mailbox, &mut decided).unwrap_err() else { panic!("not full") };
    assert_eq!(batch.len(), 1);
    drop(task);
    assert!(matches!(core.try_admit(batch, &mailbox, &mut decided), Err(NotTaken::Stopped(batch)) if batch.len() == 1));
    assert!(decided.is_empty());
}

/// A journal that says how it was written to, and does what it is told.
struct Told {
    /// For each write: the number of records, and whether all that is alive came along.
    writes: Arc<Mutex<Vec<(usize, bool)>>>,
    long: bool,
    fails: bool,
}

impl Journal for Told {
    fn write(&mut self, records: Vec<JournalRecord>, alive: Option<&dyn Alive>, _: Moment) -> std::io::Result<()> {
        assert!(!self.fails, "a defect");
        self.writes.lock().unwrap().push((records.len(), alive.is_some()));
        Ok(())
    }

    fn retry(&self) -> Option<Moment> {
        None
    }

    fn is_long(&self) -> bool {
        self.long
    }
}

fn short_leases() -> Settings {
    let mut lease = crate::config::schema::Lease::default();
    (lease.min.0, lease.grace.0) = (Duration::ZERO, Duration::ZERO);
    Settings { lease, gate: crate::config::schema::Gate::default(), linger: Duration::ZERO }
}

#[tokio::test]
async fn a_worker_that_finds_the_core_idle_has_its_decisions_at_once_and_the_lease_ends_in_time() {
    let (commands, mut told) = mpsc::channel(64);
    let drivers = Drivers { timed: Vec::new(), routes: Some(commands), journal: None, recorder: None };
    let (_reports, reported) = mpsc::channel(1);
    let spec = EnforcerSpec {
        name: "edge".to_owned(),
        kind: EnforcerKind::Route,
        required: false,
        max_addresses: 100,
        ipv4: true,
        ipv6: true,
        narrow: Default::default(),
    };
    let (core, task) = core_task(Guard::new(short_leases(), vec![spec]), drivers, reported, Clock::start());
    tokio::spawn(task);
    // From here on the task sleeps until something is due, and nothing is.
    core.inspect(|_, _| ()).await.unwrap();
    let mailbox = Mailbox::new().unwrap();
    let mut decided = Vec::new();
    let mut opened = opening([203, 0, 113, 1], 1);
    opened.grants = [Grant { address: [203, 0, 113, 1].into(), ttl: 1 }].into();
    core.try_admit(vec![(7, opened)], &mailbox, &mut decided).unwrap();
    assert!(matches!(decided.as_slice(), [(7, Decision::Release { leases, .. })] if leases.len() == 1), "{decided:?}");
    mailbox.take(&mut decided);
    assert!(decided.is_empty(), "once");
    let Some(Command::Apply { changes, .. }) = told.recv().await else { panic!("not told") };
    assert!(matches!(changes.as_slice(), [crate::core::event::Change::Open { .. }]), "{changes:?}");
    // It must have heard of the new end.
    let closed = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap();
    let Some(Command::Apply { changes, .. }) = closed else { panic!("not told") };
    assert!(matches!(changes.as_slice(), [crate::core::event::Change::Close { .. }]), "{changes:?}");
}

#[tokio::test]
async fn a_worker_leaves_what_would_wait_to_the_task() {
    let (commands, mut told) = mpsc::channel(1);
    let drivers = Drivers { timed: Vec::new(), routes: Some(commands.clone()), journal: None, recorder: None };
    let (_reports, reported) = mpsc::channel(1);
    let spec = EnforcerSpec {
        name: "edge".to_owned(),
        kind: EnforcerKind::Route,
        required: false,
        max_addresses: 100,
        ipv4: true,
        ipv6: true,
        narrow: Default::default(),
    };
    let (core, task) = core_task(Guard::new(short_leases(), vec![spec]), drivers, reported, Clock::start());
    tokio::spawn(task);
    // The channel is full.
    commands.try_send(Command::Restored).unwrap();
    let (mailbox, mut decided) = (Mailbox::new().unwrap(), Vec::new());
    core.try_admit(vec![(7, opening([203, 0, 113, 1], 1))], &mailbox, &mut decided).unwrap();
    assert!(decided.is_empty());
    let taken = async {
        while decided.is_empty() {
            told.try_recv().ok();
            tokio::task::yield_now().await;
            mailbox.take(&mut decided);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.unwrap();
    assert!(matches!(decided.as_slice(), [(7, Decision::Release { .. })]), "{decided:?}");
}

#[tokio::test]
async fn a_journal_that_grew_in_workers_turns_is_made_shorter_by_the_task() {
    let writes: Arc<Mutex<Vec<_>>> = Arc::default();
    let journal = Told { writes: writes.clone(), long: true, fails: false };
    let drivers = Drivers { timed: Vec::new(), routes: None, journal: Some(Box::new(journal)), recorder: None };
    let (_reports, reported) = mpsc::channel(1);
    let (core, task) = core_task(Guard::new(short_leases(), Vec::new()), drivers, reported, Clock::start());
    tokio::spawn(task);
    core.tell(Event::Restore(Vec::new())).await.unwrap();
    core.tell(Event::RestorePairs(Vec::new())).await.unwrap();
    core.inspect(|_, _| ()).await.unwrap();
    // The turn that looked ends.
    let (mailbox, mut decided) = (Mailbox::new().unwrap(), Vec::new());
    while core.shared.core.try_lock().is_err() {
        tokio::task::yield_now().await;
    }
    writes.lock().unwrap().clear();
    core.try_admit(vec![(7, opening([203, 0, 113, 1], 1))], &mailbox, &mut decided).unwrap();
    assert!(matches!(decided.as_slice(), [(7, Decision::Release { .. })]), "{decided:?}");
    assert_eq!(*writes.lock().unwrap(), [(1, false)], "on disk before it is released, and no more than that");
    let shortened = async {
        while writes.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), shortened).await.unwrap();
    assert_eq!(writes.lock().unwrap()[1], (0, true));
}

#[tokio::test]
async fn a_defect_in_a_workers_turn_ends_the_core_and_not_the_worker() {
    let journal = Told { writes: Arc::default(), long: false, fails: true };
    let (commands, mut told) = mpsc::channel(64);
    let drivers =
        Drivers { timed: Vec::new(), routes: Some(commands), journal: Some(Box::new(journal)), recorder: None };
    let (_reports, reported) = mpsc::channel(1);
    let (core, task) = core_task(Guard::new(short_leases(), Vec::new()), drivers, reported, Clock::start());
    let task = tokio::spawn(task);
    let (mailbox, mut decided) = (Mailbox::new().unwrap(), Vec::new());
    core.try_admit(vec![(7, opening([203, 0, 113, 1], 1))], &mailbox, &mut decided).unwrap();
    assert!(decided.is_empty(), "{decided:?}");
    tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
    assert!(told.recv().await.is_none(), "the enforcers hear that it is over");
    let again = core.try_admit(vec![(8, opening([203, 0, 113, 2], 1))], &mailbox, &mut decided);
    assert!(matches!(again, Err(NotTaken::Stopped(batch)) if batch.len() == 1));
}

#[test]
fn each_batch_hears_both_however_much_the_other_has_to_say() {
    let (reports, mut reported) = mpsc::channel(REPORTS);
    let (requests, mut requested) = mpsc::channel(REQUESTS);
    while reports.try_send(Event::Slept).is_ok() {}
    let look = || Request::Inspect(Box::new(|_, _| ()));
    assert!(requests.try_send(look()).is_ok());
    let taken: Vec<Request> = batch(&mut requested, &mut reported).collect();
    assert_eq!(taken.len(), BATCH);
    assert_eq!(taken.iter().filter(|request| matches!(request, Request::Inspect(_))).count(), 1);
    // The other way round.
    while reported.try_recv().is_ok() {}
    while requests.try_send(look()).is_ok() {}
    assert!(reports.try_send(Event::Slept).is_ok());
    let taken: Vec<Request> = batch(&mut requested, &mut reported).collect();
    assert_eq!(taken.len(), BATCH);
    assert_eq!(taken.iter().filter(|request| matches!(request, Request::Event(_))).count(), 1);
}

#[tokio::test]
async fn a_reload_is_in_force_when_it_says_so_and_answers_by_former_rules_are_judged_again() {
    use crate::core::address::AddressFilter;
    use crate::core::judge::Judge;
    use crate::core::policy::view::Views;
    let config: crate::config::schema::Config = toml::from_str(
        "[policy]\ndeny = [\"late.test\"]\n[[policy.private]]\ndomain = \".\"\nprefixes = [\"203.0.113.0/24\"]\n",
    )
    .unwrap();
    let settings = Settings { lease: config.lease.clone(), gate: config.gate.clone(), linger: Duration::ZERO };
    let (_reports, reported) = mpsc::channel(1);
    let drivers = Drivers { timed: Vec::new(), routes: None, journal: None, recorder: None };
    let (core, task) = core_task(Guard::new(settings, Vec::new()), drivers, reported, Clock::start());
    tokio::spawn(task);
    // More than a slice.
    for last in 0..100 {
        let question = if last % 2 == 0 { "early.test" } else { "www.late.test" };
        let asked = Admission { question: question.parse().unwrap(), ..opening([203, 0, 113, last], 1) };
        assert!(matches!(core.admit(asked).await.unwrap(), Decision::Release { .. }));
    }
    let (views, filter) = (Views::new(&config, &[]).unwrap(), AddressFilter::new(&config, &[]).unwrap());
    let judge = Some(Judge::new(1, Arc::new(views), Arc::new(filter), Arc::default()));
    core.reload(Reload { judge, ..Reload::default() }).await.unwrap();
    assert_eq!(core.inspect(|guard, _| guard.stored_count()).await.unwrap(), 50);
    for (question, is_released) in [("www.late.test", false), ("fine.test", true)] {
        let asked = Admission { question: question.parse().unwrap(), ..opening([203, 0, 113, 200], 1) };
        let decision = core.admit(asked).await.unwrap();
        assert_eq!(matches!(decision, Decision::Release { .. }), is_released, "{question}: {decision:?}");
    }
}
