//! Routers come, go and lose their sessions: by faults, and by reloads, as `src/daemon/routers.rs` carries them out.
//!
//! ```text
//!   a reload takes one out -> core: waits for it no more -> speaker: ends the session -> its routes are gone
//!   a reload adds one      -> core: waits for nobody yet -> session, whole table, Applied -> core: waits for it too
//! ```

use std::time::Duration;

use destguard::core::event::{self, EnforcerId, EnforcerKind, EnforcerSpec, Event, Listed};

use super::daemon::{NFTABLES, spec};
use super::draw::Draw;
use super::names::number;
use super::plan::{Defect, Millis};
use super::promises::Promise;
use super::router::{RESTART_TIME, Routers};
use super::world::{Happening, World};

/// The speaker ends a session so long after the core heard of the reload, at most.
const COMMITS: Millis = 50;
/// A router that is told that it is configured no more has no route of ours after this.
const TOLD: Millis = 2_000;
/// The world is looked at once a second.
const LOOK: Millis = 1_000;

fn name(place: usize) -> String {
    format!("edge{place}")
}

impl Routers {
    /// The core is about to hear this. Answers wait for a router that was added from when it has told of all plans
    /// that there were.
    pub fn hear(&mut self, event: &Event) {
        let Event::Applied { enforcer, generation } = event else { return };
        for router in self.all.iter_mut().filter(|router| router.listed && router.enforcer == *enforcer) {
            router.joined |= *generation >= router.joins_at;
        }
    }
}

impl World {
    /// The enforcers that a daemon starts with: it waits for all of them.
    pub fn first_specs(&mut self) -> Vec<EnforcerSpec> {
        let mut specs = vec![spec("nftables", EnforcerKind::Timed)];
        for (place, router) in self.routers.all.iter_mut().enumerate().filter(|(_, router)| router.listed) {
            router.enforcer = EnforcerId(u16::try_from(specs.len()).unwrap());
            // What was told before it had all is not there yet.
            router.excused |= !std::mem::replace(&mut router.joined, true);
            specs.push(spec(&name(place), EnforcerKind::Route));
        }
        specs
    }

    /// How long routes outlive their leases, by the configuration in force.
    pub fn linger(&self) -> Millis {
        if self.routers.listed().next().is_some() { self.plan.linger * 1_000 } else { 0 }
    }

    /// A session that is to be comes up soon.
    pub fn expect_session(&mut self, place: usize) {
        let router = &self.routers.all[place];
        if router.listed {
            let number = place as u64;
            let delay = Draw::of(&[self.plan.seed, 5, self.runs, number, self.now]).between(200..=2_000);
            self.put(self.now + delay, Happening::SessionUp(place, router.session));
        }
    }

    /// A session comes up.
    pub fn session_up(&mut self, place: usize, session: u64) {
        let (now, delay) = (self.now, self.router_delay());
        let router = &self.routers.all[place];
        let Some(daemon) = &mut self.daemon else { return };
        if session != router.session || router.is_up() || !router.listed {
            return;
        }
        if self.plan.defect == Defect::ThereAtOnce {
            let (enforcer, generation) = (router.enforcer, daemon.last_routes);
            daemon.report(1 + place, Event::Applied { enforcer, generation }, now);
        }
        self.routers.connect(place, now, 1 + delay);
    }

    /// A session ends by itself.
    pub fn lose_router(&mut self, place: usize, down: Millis, keeps: bool) {
        if !self.routers.all.get(place).is_some_and(|router| router.is_up()) {
            return;
        }
        self.routers.disconnect(place, keeps);
        let router = &mut self.routers.all[place];
        router.excused |= !keeps;
        let session = router.session;
        self.book.trouble(self.now + down);
        self.tell_lost(place);
        self.put(self.now + down, Happening::SessionUp(place, session));
        self.keeps_stale(place);
    }

    /// A session ended, and the router keeps the routes, but not for ever.
    pub fn keeps_stale(&mut self, place: usize) {
        let router = &mut self.routers.all[place];
        let until = self.now + RESTART_TIME;
        router.gone_by = router.gone_by.max(until + LOOK);
        let session = router.session;
        self.put(until, Happening::StaleGone(place, session));
    }

    /// A reload takes a router out of the configuration.
    pub fn router_taken_out(&mut self, place: usize, span: Millis) {
        let (now, far) = (self.now, self.router_delay());
        let Some(router) = self.routers.all.get_mut(place).filter(|router| router.listed) else { return };
        (router.listed, router.joined) = (false, false);
        if router.is_up() {
            router.gone_by = now + COMMITS + TOLD + far;
        }
        let session = router.session;
        self.book.trouble(now);
        self.tell_list(None);
        let delay = Draw::of(&[self.plan.seed, 8, now]).below(COMMITS);
        self.put(now + delay, Happening::Deconfigured(place, session));
        self.put(now + span, Happening::RouterAdded(place));
    }

    /// The speaker ends the session: the router is told so, and removes the routes.
    pub fn deconfigured(&mut self, place: usize, session: u64) {
        let router = &self.routers.all[place];
        if router.session == session && router.is_up() {
            self.routers.disconnect(place, self.plan.defect == Defect::LeftBehind);
            self.tell_lost(place);
        }
    }

    /// A reload adds a router.
    pub fn router_added(&mut self, place: usize) {
        let now = self.now;
        let router = &mut self.routers.all[place];
        router.listed = true;
        if let Some(daemon) = &mut self.daemon {
            daemon.last_id += 1;
            router.enforcer = EnforcerId(daemon.last_id);
            router.joins_at = daemon.last_routes;
        }
        self.book.trouble(now);
        self.tell_list(Some(place));
        self.expect_session(place);
    }

    /// The daemon hears of a configuration with other routers; `added`: this one is new.
    fn tell_list(&mut self, added: Option<usize>) {
        let packets = Listed { id: NFTABLES, spec: spec("nftables", EnforcerKind::Timed), joins: false };
        let routers = self.routers.all.iter().enumerate().filter(|(_, router)| router.listed);
        let routers = routers.map(|(place, router)| Listed {
            id: router.enforcer,
            spec: spec(&name(place), EnforcerKind::Route),
            joins: added == Some(place),
        });
        let enforcers = std::iter::once(packets).chain(routers).collect();
        let linger = Duration::from_millis(self.linger());
        self.tell_routers(event::Routers { enforcers, linger, exchange: None });
    }

    /// A router that was taken out has nothing open any more.
    pub fn look_at_former_routers(&mut self) {
        let is_late = |at: Millis| self.now > at + LOOK && self.now > self.woke + LOOK + TOLD;
        let late = self.routers.all.iter().filter(|router| !router.listed && is_late(router.gone_by));
        if let Some(route) = late.flat_map(|router| router.routes()).next() {
            let what = format!("{} is open at a router that was taken out", number(*route));
            self.violate(Promise::ClosedAfterTheLease, what);
        }
    }
}
