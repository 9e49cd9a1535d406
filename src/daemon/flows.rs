//! Live flows keep routes (`[flows]`): datagrams of exporters and this host's own connections become events of the core.
//!
//! ```text
//!   exporters --UDP--> a reader for each socket --ends of flows--> table of exporters --once a second--> core
//!   conntrack ------------------------------------- every 20 s -----------------------------------------> core
//! ```
//!
//! Everything is bounded: exporters by the configuration, datagrams a second and ends of flows a second of each by constants here, octets and templates in
//! [`crate::flows`]. What doesn't fit is left out and counted: a flow that lives is reported again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::config::Config;
use crate::config::endpoint::Endpoint;
use crate::config::schema::{Exporter, ExporterKind, Flows};
use crate::core::event::Event;
use crate::core::flows::{FlowsSeen, INTERVALS};
use crate::core_task::{CoreHandle, Stopped};
use crate::enforce::nftables::conntrack;
use crate::flows::{DATAGRAM, Decoder, Unread};
use crate::metrics::labelled;

/// How often the core is told.
const TICK: Duration = Duration::from_secs(1);
/// Most datagrams of an exporter in that time, and most different ends of flows.
const DATAGRAMS: u32 = 4000;
const ENDS: usize = 8192;
/// Of one event, so that the core is never busy for long.
const AT_ONCE: usize = 256;
/// How often this host's own connections are looked at, and how many of their ends at most.
const CONNTRACK: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 65_536;
/// Under which name they go: nobody else's address.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// Between two tries to listen at an address.
const RETRY: Duration = Duration::from_secs(5);
/// Octets that may wait to be read.
const BUFFER: usize = 4 << 20;

type Label = [(&'static str, String); 1];

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct FlowMetrics {
    datagrams: Family<[(&'static str, String); 2], Counter>,
    silent: Family<Label, Gauge>,
}

impl FlowMetrics {
    /// Registers the metrics of reported flows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Datagrams of flow exporters by fate: read, without_template, malformed, overload (too many at once) or stranger (nobody named)";
        labelled(registry, "flow_datagrams", help, &metrics.datagrams);
        let help = "1 while a flow exporter has sent nothing for three of its intervals, so that it keeps no route";
        labelled(registry, "flow_exporter_silent", help, &metrics.silent);
        metrics
    }

    fn count(&self, exporter: &str, fate: &'static str) {
        self.datagrams.get_or_create(&[("exporter", exporter.to_owned()), ("fate", fate.to_owned())]).inc();
    }
}

/// What the rest of the daemon tells it and sees of it.
#[derive(Debug)]
pub struct FlowState {
    wanted: watch::Sender<Flows>,
    table: Mutex<Table>,
    metrics: FlowMetrics,
}

/// Who is believed, and what it said lately.
#[derive(Debug, Default)]
struct Table {
    exporters: BTreeMap<IpAddr, Source>,
    /// Where nothing can be received, and why.
    deaf: BTreeMap<String, String>,
}

/// A router that reports flows, and when it did last.
#[derive(Debug)]
struct Source {
    name: String,
    kind: Option<ExporterKind>,
    interval: Duration,
    decoder: Option<Decoder>,
    /// Since when it is listened to, or when it was last heard.
    heard: Instant,
    silent: bool,
    /// Datagrams that it may still send before the next tick.
    left: u32,
    ends: BTreeSet<(IpAddr, IpAddr)>,
}

impl Source {
    fn new(exporter: &Exporter, now: Instant) -> Self {
        Self {
            name: exporter.address.to_string(),
            kind: Some(exporter.kind),
            interval: exporter.interval.0,
            decoder: Decoder::new(exporter.kind),
            heard: now,
            silent: false,
            left: DATAGRAMS,
            ends: BTreeSet::new(),
        }
    }

    fn here(now: Instant) -> Self {
        Self {
            name: "conntrack".to_owned(),
            kind: None,
            interval: CONNTRACK,
            decoder: None,
            heard: now,
            silent: false,
            left: 0,
            ends: BTreeSet::new(),
        }
    }

    /// Takes a datagram; what became of it.
    fn take(&mut self, datagram: &[u8], now: Instant) -> &'static str {
        let Some(left) = self.left.checked_sub(1) else { return "overload" };
        self.left = left;
        let Some(decoder) = &mut self.decoder else { return "malformed" };
        let (ends, mut full) = (&mut self.ends, false);
        let read = decoder.read(datagram, |from, to| {
            if ends.len() < ENDS {
                ends.insert((from, to));
            } else {
                full = true;
            }
        });
        // What can't be read is no sign of an exporter that is well.
        if read == Err(Unread::Malformed) {
            return "malformed";
        }
        self.heard = now;
        match read {
            Err(_) => "without_template",
            Ok(()) if full => "overload",
            Ok(()) => "read",
        }
    }

    /// Whether it has just become silent, or is heard again.
    fn look(&mut self, now: Instant) -> Option<bool> {
        let silent = now.saturating_duration_since(self.heard) >= self.interval.saturating_mul(INTERVALS);
        (std::mem::replace(&mut self.silent, silent) != silent).then_some(silent)
    }
}

impl Table {
    /// These are believed from now on; what is known of those who stay is kept.
    fn set(&mut self, flows: &Flows, now: Instant) {
        let mut before = std::mem::take(&mut self.exporters);
        for exporter in &flows.exporter {
            let known = before.remove(&exporter.address).filter(|known| known.kind == Some(exporter.kind));
            let mut source = known.unwrap_or_else(|| Source::new(exporter, now));
            source.interval = exporter.interval.0;
            self.exporters.insert(exporter.address, source);
        }
        if flows.conntrack {
            self.exporters.insert(HERE, before.remove(&HERE).unwrap_or_else(|| Source::here(now)));
        }
        let still = |place: &String| flows.listen.iter().any(|at| at.to_string() == *place);
        self.deaf.retain(|place, _| still(place));
    }
}

impl FlowState {
    /// The state for the exporters of this configuration.
    #[must_use]
    pub fn new(config: &Config, registry: &mut Registry) -> Self {
        Self {
            wanted: watch::Sender::new(config.flows.clone()),
            table: Mutex::default(),
            metrics: FlowMetrics::register(registry),
        }
    }

    /// Another configuration is in force.
    pub fn set(&self, config: &Config) {
        self.wanted.send_if_modified(|flows| {
            let differs = *flows != config.flows;
            if differs {
                flows.clone_from(&config.flows);
            }
            differs
        });
    }

    /// What is not well.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (table, now) = (self.table(), Instant::now());
        let deaf = table.deaf.iter().map(|(at, why)| format!("flows can't be received at {at}: {why}"));
        let silent = table.exporters.values().filter(|source| source.silent).map(|source| {
            let seconds = now.saturating_duration_since(source.heard).as_secs();
            format!(
                "the flow exporter {} is silent for {seconds} s: live flows that it alone sees keep no route",
                source.name
            )
        });
        deaf.chain(silent).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self, from: IpAddr, datagram: &[u8]) {
        let mut table = self.table();
        match table.exporters.get_mut(&from).filter(|source| source.kind.is_some()) {
            Some(source) => {
                let fate = source.take(datagram, Instant::now());
                self.metrics.count(&source.name, fate);
            }
            None => self.metrics.count("none", "stranger"),
        }
    }

    /// What was seen since the last time; says who has become silent, and who is heard again.
    fn tick(&self, now: Instant) -> Vec<FlowsSeen> {
        let mut seen = Vec::new();
        let mut table = self.table();
        for (address, source) in &mut table.exporters {
            if source.kind.is_some() {
                source.left = DATAGRAMS;
            }
            let seconds = source.interval.saturating_mul(INTERVALS).as_secs();
            match source.look(now) {
                Some(true) => {
                    tracing::warn!(exporter = %source.name, "a flow exporter is silent for {seconds} s: live flows that it alone sees keep no route any more");
                }
                Some(false) => tracing::info!(exporter = %source.name, "a flow exporter is heard again"),
                None => {}
            }
            self.metrics.silent.get_or_create(&[("exporter", source.name.clone())]).set(i64::from(source.silent));
            let ends: Vec<_> = std::mem::take(&mut source.ends).into_iter().collect();
            seen.extend(ends.chunks(AT_ONCE).map(|some| FlowsSeen {
                source: *address,
                interval: source.interval,
                ends: some.to_vec(),
            }));
        }
        seen
    }

    fn deaf(&self, at: &Endpoint, why: Option<String>) {
        let mut table = self.table();
        match why {
            None => drop(table.deaf.remove(&at.to_string())),
            Some(why) => {
                if table.deaf.insert(at.to_string(), why.clone()).is_none() {
                    tracing::warn!("flows can't be received at {at}: {why}; trying again");
                }
            }
        }
    }
}

/// Until the core has stopped.
pub async fn follow(state: Arc<FlowState>, core: CoreHandle) {
    let mut wanted = state.wanted.subscribe();
    loop {
        let flows = wanted.borrow_and_update().clone();
        state.table().set(&flows, Instant::now());
        let max = if flows.is_on() { flows.max.0 } else { Duration::ZERO };
        if core.tell(Event::FlowLimit(max)).await.is_err() {
            return;
        }
        // They end with it.
        let mut readers = tokio::task::JoinSet::new();
        for at in flows.listen.clone() {
            readers.spawn(listen(state.clone(), at));
        }
        if flows.conntrack {
            readers.spawn(connections(state.clone(), core.clone()));
        }
        tokio::select! {
            stopped = tell(&state, &core, flows.is_on()) => {
                if stopped.is_err() {
                    return;
                }
            }
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        // Their sockets are closed before others are opened at the same address.
        readers.shutdown().await;
    }
}

/// Once a second, where there is something to tell.
async fn tell(state: &FlowState, core: &CoreHandle, on: bool) -> Result<(), Stopped> {
    if !on {
        std::future::pending::<()>().await;
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let seen = state.tick(Instant::now());
        tell_all(core, seen).await?;
    }
}

async fn tell_all(core: &CoreHandle, seen: Vec<FlowsSeen>) -> Result<(), Stopped> {
    for seen in seen {
        core.tell(Event::FlowsSeen(seen)).await?;
    }
    Ok(())
}

/// Until it is dropped. What is wrong is said, and tried again.
async fn listen(state: Arc<FlowState>, at: Endpoint) {
    let mut buffer = vec![0; DATAGRAM.saturating_add(1)];
    loop {
        let error = match bind(&at) {
            Ok(socket) => {
                state.deaf(&at, None);
                loop {
                    match socket.recv_from(&mut buffer).await {
                        Ok((octets, from)) => {
                            let datagram = buffer.get(..octets).unwrap_or_default();
                            state.received(from.ip().to_canonical(), datagram);
                        }
                        Err(error) => break error,
                    }
                }
            }
            Err(error) => error,
        };
        state.deaf(&at, Some(error.to_string()));
        tokio::time::sleep(RETRY).await;
    }
}

fn bind(at: &Endpoint) -> io::Result<UdpSocket> {
    let address = crate::sys::endpoint::now(at)?;
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    if let Err(error) = socket.set_recv_buffer_size(BUFFER) {
        tracing::debug!(%error, "the receive buffer for flows stays small");
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// This host's own connections, every now and then, until it is dropped.
async fn connections(state: Arc<FlowState>, core: CoreHandle) {
    let mut ticks = tokio::time::interval(CONNTRACK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said = false;
    loop {
        ticks.tick().await;
        let listed = tokio::task::spawn_blocking(|| {
            let mut ends = BTreeSet::new();
            let each = |from, to| {
                if ends.len() < CONNECTIONS {
                    ends.insert((from, to));
                }
            };
            conntrack::living(each).map(|()| ends)
        });
        match listed.await {
            Ok(Ok(ends)) => {
                said = false;
                let all: Vec<_> = ends.into_iter().collect();
                if let Some(source) = state.table().exporters.get_mut(&HERE) {
                    source.heard = Instant::now();
                }
                let seen = |some: &[_]| FlowsSeen { source: HERE, interval: CONNTRACK, ends: some.to_vec() };
                if tell_all(&core, all.chunks(AT_ONCE).map(seen).collect()).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) if !said => {
                said = true;
                tracing::warn!(%error, "this host's connections can't be listed (flows.conntrack); trying again");
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::warn!(%error, "listing this host's connections failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));

    fn state(kind: &str) -> FlowState {
        let text = format!(
            "listen = [\"127.0.0.1:2055\"]\n[[exporter]]\naddress = \"{EXPORTER}\"\nkind = \"{kind}\"\ninterval = \"1s\"\n"
        );
        let flows = toml::from_str(&text).unwrap();
        let state = FlowState::new(&Config { flows, ..Config::default() }, &mut Registry::default());
        state.table().set(&state.wanted.borrow(), Instant::now());
        state
    }

    /// NetFlow 5 with one flow to this address.
    fn netflow5(to: [u8; 4], flags: u8) -> Vec<u8> {
        let mut datagram = vec![0, 5, 0, 1];
        datagram.extend([0; 20]);
        datagram.extend([10, 0, 0, 1]);
        datagram.extend(to);
        datagram.extend([0; 40]);
        datagram[24 + 37] = flags;
        datagram[24 + 38] = 6;
        datagram
    }

    fn fate(state: &FlowState, exporter: &str, fate: &str) -> u64 {
        let labels = [("exporter", exporter.to_owned()), ("fate", fate.to_owned())];
        state.metrics.datagrams.get_or_create(&labels).get()
    }

    #[test]
    fn only_the_named_are_believed_and_only_so_much() {
        let state = state("netflow5");
        let to = [203, 0, 113, 9];
        state.received("192.0.2.1".parse().unwrap(), &netflow5(to, 0x10));
        state.received(HERE, &netflow5(to, 0x10));
        assert_eq!((state.tick(Instant::now()), fate(&state, "none", "stranger")), (vec![], 2));
        state.received(EXPORTER, &netflow5(to, 0x11));
        state.received(EXPORTER, &[0, 9, 0, 0]);
        state.received(EXPORTER, &vec![0; DATAGRAM + 1]);
        assert_eq!(state.tick(Instant::now()), [], "over, or malformed");
        assert_eq!(fate(&state, "192.0.2.254", "malformed"), 2);
        for n in 0..2 * DATAGRAMS {
            let [.., a, b] = n.to_be_bytes();
            state.received(EXPORTER, &netflow5([203, 0, a, b], 0x10));
        }
        let seen = state.tick(Instant::now());
        assert_eq!(seen.iter().map(|seen| seen.ends.len()).sum::<usize>(), DATAGRAMS as usize);
        assert!(seen.iter().all(|seen| seen.source == EXPORTER && seen.ends.len() <= AT_ONCE));
        assert_eq!(fate(&state, "192.0.2.254", "overload"), u64::from(DATAGRAMS));
    }

    #[test]
    fn an_exporter_is_silent_after_three_intervals_and_malformed_datagrams_are_no_word() {
        let state = state("netflow5");
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!((state.tick(at(2)), state.warnings().len()), (vec![], 0));
        state.received(EXPORTER, &[1, 2, 3]);
        state.tick(at(4));
        assert!(state.warnings()[0].contains("the flow exporter 192.0.2.254 is silent"), "{:?}", state.warnings());
        assert_eq!(state.metrics.silent.get_or_create(&[("exporter", EXPORTER.to_string())]).get(), 1);
        state.received(EXPORTER, &netflow5([203, 0, 113, 9], 0x10));
        state.tick(Instant::now());
        assert_eq!(state.warnings(), Vec::<String>::new());
        let flows = Flows { conntrack: true, ..state.wanted.borrow().clone() };
        state.table().set(&flows, Instant::now());
        assert_eq!(state.table().exporters.len(), 2);
        state.table().set(&Flows::default(), Instant::now());
        assert!(state.table().exporters.is_empty(), "nobody is named any more");
    }
}
