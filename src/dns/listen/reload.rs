//! Other listeners in a running guard. All that can fail is done first: sockets are bound beside those that serve, the certificate is read. Then new ones are served, and
//! those that go answer what has come to them. What stays the same isn't touched.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::late::{Absent, State, Wanted, wanted};
use super::phase::Mode;
use super::{Bound, Listeners};
use crate::config::Config;
use crate::dns::resolver::ddr::Designated;
use crate::dns::transport::Transport;
use crate::dns::{DnsError, own_upstream};
use crate::sys::endpoint;
use crate::tls::people::Believed;
use crate::tls::server::{Identity, Loaded, load};

/// After so long nothing is left of a listener that was let go.
const GONE: Duration = Duration::from_secs(30);

/// What encrypted listeners show from now on.
enum Shown {
    /// The same as before, or nothing.
    AsBefore,
    /// The first that there is.
    First(Arc<Identity>),
    /// Of other files.
    Other(Loaded),
}

/// Listeners that are bound and not served yet. Dropped, all is as before.
pub struct Prepared {
    config: Box<Config>,
    all: Vec<Wanted>,
    bound: Vec<Bound>,
    absent: Vec<Absent>,
    shown: Shown,
    believed: Believed,
}

impl Prepared {
    /// Whether there is anything to be done.
    fn is_change(&self, state: &State) -> bool {
        self.all != state.all || !matches!(self.shown, Shown::AsBefore)
    }
}

/// Ports over TCP, and over UDP.
pub type Ports = (Vec<u16>, Vec<u16>);

fn ports(all: impl Iterator<Item = (Option<Transport>, u16)>) -> Ports {
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for (transport, port) in all {
        if transport != Some(Transport::Quic) {
            tcp.push(port);
        }
        if matches!(transport, None | Some(Transport::Quic)) {
            udp.push(port);
        }
    }
    (tcp, udp)
}

impl Prepared {
    /// The ports of those that are new.
    #[must_use]
    pub fn ports(&self) -> Ports {
        let bound = self.bound.iter().map(|bound| (bound.wanted.transport, bound.actual.port()));
        ports(bound.chain(self.absent.iter().map(|absent| (absent.wanted.transport, absent.wanted.address.port()))))
    }
}

/// Whether two listeners meet on an address: the kernel lets them only as members of one group.
fn meet(one: &Wanted, other: &Wanted) -> bool {
    let streams = |wanted: &Wanted| wanted.transport != Some(Transport::Quic);
    let datagrams = |wanted: &Wanted| matches!(wanted.transport, None | Some(Transport::Quic));
    let kinds = streams(one) && streams(other) || datagrams(one) && datagrams(other);
    let (a, b): (SocketAddr, SocketAddr) = (*one.address, *other.address);
    let ips = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    kinds && ips && a.port() == b.port() && a.port() != 0
}

impl Listeners {
    /// Binds what this configuration has and the one before had not, and reads its certificate.
    ///
    /// # Errors
    /// [`DnsError`], with the key; nothing has changed then.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, DnsError> {
        let state = self.state();
        let all = wanted(config);
        let goes: Vec<&Wanted> = state.all.iter().filter(|old| !all.contains(old)).collect();
        let (mut bound, mut absent) = (Vec::new(), Vec::new());
        for new in all.iter().filter(|new| !state.all.contains(new)) {
            let wait = |why: String| Absent { wanted: *new, why };
            if new.address.zone().is_some() {
                absent.push(wait(String::new()));
                continue;
            }
            let beside = goes.iter().any(|old| meet(old, new)) || state.left.iter().any(|(old, _, _)| meet(old, new));
            match new.bind(beside, &self.store) {
                Ok(one) => {
                    one.mark(super::mark(config)).map_err(DnsError::Mark)?;
                    bound.push(one);
                }
                Err((_, error)) if endpoint::is_absent(&error) => absent.push(wait(error.to_string())),
                Err((transport, error)) => return Err(new.refused(transport, error)),
            }
        }
        let stays = state.addresses().filter(|(wanted, _)| all.contains(wanted)).map(|(_, address)| address);
        let listening: Vec<SocketAddr> = stays.chain(bound.iter().map(|bound| bound.actual)).collect();
        if let Some(own) = own_upstream(config, &listening) {
            return Err(DnsError::Loop(own));
        }
        let shown = shown(config, state.identity.as_deref())?;
        let believed = Believed::read(config).map_err(|error| DnsError::Tls(error.to_string()))?;
        Ok(Prepared { config: Box::new(config.clone()), all, bound, absent, shown, believed })
    }

    /// Serves what was prepared, and lets go what the configuration has no longer. Must be called on the runtime.
    ///
    /// # Errors
    /// A thread can't be started: the kernel is short of something, and what is missing is tried again all the time.
    pub fn switch(&self, prepared: Prepared) -> Result<(), DnsError> {
        let (mut state, trust) = (self.state(), self.connections.trust());
        if !prepared.is_change(&state) {
            trust.put(prepared.believed);
            return Ok(());
        }
        trust.put(prepared.believed);
        match prepared.shown {
            Shown::AsBefore => {}
            Shown::First(identity) => {
                let reloads = self.resolver.metrics.certificates.clone();
                tokio::spawn(identity.clone().follow(reloads, self.stopped.clone()));
                state.identity = Some(identity);
            }
            Shown::Other(loaded) => {
                let tls = &prepared.config.dns.tls;
                if let (Some(identity), Some(certificate), Some(key)) = (&state.identity, &tls.certificate, &tls.key) {
                    identity.show(certificate, key, loaded);
                }
            }
        }
        state.mark = super::mark(&prepared.config);
        state.all = prepared.all;
        let (stays, goes) =
            std::mem::take(&mut state.served).into_iter().partition(|one| state.all.contains(&one.wanted));
        state.served = stays;
        let mut absent = std::mem::take(&mut state.absent);
        absent.retain(|one| state.all.contains(&one.wanted));
        absent.extend(prepared.absent);
        state.absent = absent;
        let goes: Vec<_> = goes;
        for one in &goes {
            self.store.let_go(&one.name);
        }
        let now = Instant::now();
        // Who is connected holds the phase, beside us.
        state.left.retain(|(_, at, phase)| now.duration_since(*at) < GONE || Arc::strong_count(phase) > 1);
        state.left.extend(goes.iter().map(|one| (one.wanted, now, one.phase.clone())));
        let mut outcome = Ok(());
        for bound in prepared.bound {
            let (wanted, address) = (bound.wanted, bound.actual);
            match self.serve(bound, &mut state) {
                Ok(()) => tracing::info!(%address, "{}: served from now on", wanted.key()),
                Err(error) => {
                    state.absent.push(Absent { wanted, why: error.to_string() });
                    outcome = Err(error);
                }
            }
        }
        for mut one in goes {
            tracing::info!(address = %one.wanted.address, "{}: served no longer", one.wanted.key());
            one.phase.enter(Mode::Leave);
            let goes_on = |new: &Wanted| new.transport == one.wanted.transport && meet(new, &one.wanted);
            if !state.all.iter().any(goes_on) {
                one.phase.close();
            }
            state.leaving.append(&mut one.workers);
        }
        let encrypted: Vec<(Transport, SocketAddr)> =
            state.addresses().filter_map(|(wanted, address)| Some((wanted.transport?, address))).collect();
        let identity = state.identity.clone().filter(|_| !encrypted.is_empty());
        let designated = identity.map(|identity| Arc::new(Designated::new(identity, &encrypted)));
        self.resolver.designated.store(designated);
        drop(state);
        self.look();
        outcome
    }

    /// Every port that clients reach the guard at: over TCP, and over UDP.
    #[must_use]
    pub fn ports(&self) -> Ports {
        let state = self.state();
        ports(state.addresses().map(|(wanted, address)| (wanted.transport, address.port())))
    }
}

impl State {
    /// Where each is reached, or will be.
    fn addresses(&self) -> impl Iterator<Item = (Wanted, SocketAddr)> {
        let served = self.served.iter().map(|one| (one.wanted, one.actual));
        served.chain(self.absent.iter().map(|one| (one.wanted, *one.wanted.address)))
    }
}

fn shown(config: &Config, before: Option<&Identity>) -> Result<Shown, DnsError> {
    let tls = &config.dns.tls;
    if tls.dot.is_empty() && tls.doh.is_empty() && tls.doq.is_empty() {
        return Ok(Shown::AsBefore);
    }
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Err(DnsError::Tls("certificate and key are missing".to_owned()));
    };
    let wrong = |error: crate::tls::TlsError| DnsError::Tls(error.to_string());
    match before {
        None => Identity::open("dns.tls", certificate, key).map(Shown::First).map_err(wrong),
        Some(identity) if identity.is_of(certificate, key) => Ok(Shown::AsBefore),
        Some(_) => load(certificate, key).map(Shown::Other).map_err(wrong),
    }
}
