//! What routers confirm, and what is made of it: probes, reflections, refreshes and learnt settle times against real routers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "confirm/two_guards.rs"]
mod two_guards;
#[path = "confirm/words.rs"]
mod words;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use destguard_bgp::config::{Confirm, PeerConfig, Role, Secret, SpeakerConfig};
use destguard_bgp::confirm::learn;
use destguard_bgp::io::{PeerEvent, Speaker, SpeakerHandle, What};
use destguard_bgp::session::Stop;
use destguard_bgp::status::{PeerStatus, State};
use destguard_bgp::wire::iana::Families;
use ipnet::IpNet;
use lab::{Lab, Node, dns, wait_until};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(60);
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const GUARD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const WATCH: &str = "192.0.2.3";

fn config(confirm: Confirm) -> SpeakerConfig {
    let mut peer = PeerConfig::new("router", ROUTER, 64513);
    peer.local_address = Some(GUARD);
    peer.password = Some(Secret::new("s3cret"));
    peer.ttl_security = true;
    peer.confirm = confirm;
    SpeakerConfig {
        next_hop_ipv4: Some(Ipv4Addr::new(198, 51, 100, 2)),
        next_hop_ipv6: Some("2001:db8:2::2".parse().unwrap()),
        communities: vec![(64512 << 16) | 100],
        no_export: confirm != Confirm::Reflect,
        listen: vec![SocketAddr::new(GUARD, 179)],
        peers: vec![peer],
        ..SpeakerConfig::new(64512, Ipv4Addr::new(192, 0, 2, 2))
    }
}

/// With the session on which the router sends routes back.
fn reflected() -> SpeakerConfig {
    let mut config = config(Confirm::Reflect);
    let mut watch = PeerConfig::new("watch", ROUTER, 64513);
    watch.local_address = Some(address(WATCH));
    watch.role = Role::Observer;
    config.peers[0].observer = Some("watch".to_owned());
    config.peers.push(watch);
    config
}

const FRR: (&str, &str) = ("frr", "/etc/frr/frr.conf");
const BIRD: (&str, &str) = ("bird", "/etc/bird/bird.conf");

/// A lab whose router has `edits` made to its configuration: each text must be in it.
fn lab((name, file): (&str, &str), edits: &[(&str, &str)]) -> Lab {
    let lab = Lab::builder(format!("tests/interop/{name}.clab.yml")).hold("router").up().unwrap();
    start(lab.node("router"), file, edits);
    lab.node("guard").ok(&format!("ip addr add {WATCH}/24 dev eth1")).unwrap();
    lab
}

fn start(router: &Node, file: &str, edits: &[(&str, &str)]) {
    let mut text = router.file(file).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{from:?} is not in {file}");
        text = text.replace(from, to);
    }
    router.write(file, &text).unwrap();
    router.start().unwrap();
}

/// The lab's routers answer every probe; by default Linux answers six at once and then one a second.
fn answer_all(router: &Node) {
    router.ok("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0").unwrap();
}

fn in_guard<F: Future<Output = ()>>(lab: &Lab, work: impl FnOnce() -> F + Send) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(work());
    };
    lab.node("guard").in_namespace(run).unwrap();
}

struct Session {
    speaker: Speaker,
    handle: SpeakerHandle,
    events: mpsc::Receiver<PeerEvent>,
    /// Per peer: single addresses in force with the newest generation that was said of them, refused ones, and the last whole generation.
    held: [BTreeSet<(IpAddr, u64)>; 2],
    refused: [BTreeSet<IpAddr>; 2],
    confirmed: [Option<u64>; 2],
    /// What the router took back.
    missing: [BTreeSet<IpNet>; 2],
    unable: Option<String>,
    logs: String,
}

impl Session {
    async fn start(config: SpeakerConfig) -> Self {
        let (speaker, events) = Speaker::start(config).await.unwrap();
        Self {
            handle: speaker.handle(),
            speaker,
            events,
            held: Default::default(),
            refused: Default::default(),
            confirmed: [None; 2],
            missing: Default::default(),
            unable: None,
            logs: String::new(),
        }
    }

    /// Takes events in until `met` is.
    async fn until(&mut self, what: &str, mut met: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !met(self) {
            assert!(Instant::now() < deadline, "not in time: {what}; {:?}\n{}", self.handle.status(), self.logs);
            let Ok(event) = tokio::time::timeout(Duration::from_millis(20), self.events.recv()).await else { continue };
            let PeerEvent { peer, what, .. } = event.expect("the speaker runs");
            self.logs.push_str(&format!("{peer} {what:?}\n"));
            match what {
                What::Up { .. } | What::Told(_) => {}
                What::Held(addresses) => self.held[peer].extend(addresses),
                What::Refused { address, .. } => drop(self.refused[peer].insert(address)),
                What::Confirmed { generation, .. } => {
                    self.confirmed[peer] = Some(generation);
                    self.unable = None;
                }
                What::Missing { lost, .. } => {
                    self.missing[peer].extend(&lost);
                    self.held[peer].retain(|(address, _)| !lost.contains(&IpNet::from(*address)));
                }
                What::Unable(reason) => self.unable = Some(reason),
                What::Down(_) => {
                    self.held[peer].clear();
                    self.confirmed[peer] = None;
                }
            }
        }
    }

    /// In force at this peer as of this generation, alone or with everything.
    fn holds(&self, peer: usize, address: IpAddr, generation: u64) -> bool {
        self.confirmed[peer] >= Some(generation)
            || self.held[peer].range((address, generation)..=(address, u64::MAX)).next().is_some()
    }

    async fn first(&mut self) {
        self.until("the sessions", |session| {
            session.handle.status().iter().all(|status| status.state == State::Established)
                && session.confirmed[0].is_some()
        })
        .await;
    }

    fn status(&self) -> PeerStatus {
        self.handle.status().remove(0)
    }

    fn warning(&self) -> String {
        self.status().warning.unwrap_or_default()
    }

    async fn stop(self) {
        self.speaker.stop(Stop::Shutdown(String::new())).await;
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host(number: u32) -> IpAddr {
    IpAddr::from((0xc612_0000 + number).to_be_bytes())
}

/// Where the kernel of the router sends packets to an address; empty for the null route.
fn kernel(router: &Node, to: IpAddr) -> String {
    let family = if to.is_ipv6() { "-6" } else { "-4" };
    let all = router.ok(&format!("ip {family} route show {to}")).unwrap();
    all.lines().find(|line| line.contains(" via ")).unwrap_or_default().to_owned()
}

/// FRR acknowledges at once and forwards 51 to 61 ms later; the settle time must follow that, with the router's ICMP rate limit in place.
#[test]
fn the_settle_time_of_frr_is_learnt() {
    let lab = lab(FRR, &[("timers connect 2", "passive")]);
    in_guard(&lab, || async {
        let mut config = config(Confirm::Acked);
        config.peers[0].learn = true;
        config.peers[0].settle = learn::START;
        let mut session = Session::start(config).await;
        session.first().await;
        assert_eq!(session.status().settle, learn::START);
        let begun = Instant::now();
        let mut number = 0;
        // What is waited follows the samples with the next announcement.
        let status = loop {
            let status = session.status();
            let high = status.learnt.filter(|(samples, _)| *samples >= 5).and_then(|(_, shown)| shown);
            if high.is_some_and(|[_, high]| status.settle >= high) {
                break status;
            }
            number += 1;
            session.handle.apply(number.into(), [(host(number), true)]);
            session.until("a confirmation", |session| session.confirmed[0] >= Some(number.into())).await;
            assert!(begun.elapsed() < LONG, "{:?}", session.status());
        };
        let (samples, Some([median, high])) = status.learnt.unwrap() else { panic!("{status:?}") };
        eprintln!("FRR: {samples} samples, median {median:?}, 99% {high:?}, settle {:?}", status.settle);
        assert!(median >= Duration::from_millis(30), "FRR holds routes back for 51 ms and more: {median:?}");
        assert!(status.settle != learn::START && status.settle >= high, "{status:?}");
        assert_eq!(status.warning, None);
        session.stop().await;
    });
    lab.down().unwrap();
}

/// BIRD forwards when it answers: after sixteen samples almost nothing is waited any more.
#[test]
fn the_settle_time_of_bird_falls() {
    let lab = lab(BIRD, &[("ttl security on;", "ttl security on; passive on;")]);
    in_guard(&lab, || async {
        let mut config = config(Confirm::Refresh);
        config.peers[0].learn = true;
        config.peers[0].settle = learn::START;
        let mut session = Session::start(config).await;
        session.first().await;
        let mut number = 0;
        let begun = Instant::now();
        while session.status().settle >= learn::START {
            number += 1;
            session.handle.apply(number.into(), [(host(number), true)]);
            session.until("a confirmation", |session| session.confirmed[0] >= Some(number.into())).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(begun.elapsed() < LONG, "{:?}", session.status());
        }
        let status = session.status();
        eprintln!("BIRD: {:?}, settle {:?}", status.learnt, status.settle);
        assert!(status.learnt.is_some_and(|(samples, _)| samples >= 16), "{status:?}");
        session.stop().await;
    });
    lab.down().unwrap();
}

/// A next hop that only the null route covers: BIRD takes the route, acknowledges it, and drops the packets.
#[test]
fn a_router_that_acknowledges_and_does_not_forward_is_named() {
    let edits = [("ttl security on;", "ttl security on; passive on;"), ("gateway direct", "gateway recursive")];
    let lab = lab(BIRD, &edits);
    answer_all(lab.node("router"));
    in_guard(&lab, || async {
        for (rule, learn) in [(Confirm::Probe, false), (Confirm::Refresh, true)] {
            let mut config = config(rule);
            config.next_hop_ipv4 = Some(Ipv4Addr::new(10, 9, 9, 9));
            config.peers[0].learn = learn;
            config.peers[0].settle = if learn { learn::START } else { Duration::ZERO };
            let mut session = Session::start(config).await;
            session.first().await;
            let mut number = 0;
            session
                .until("the warning", |session| {
                    number += 1;
                    if number % 5 == 0 {
                        session.handle.apply(number, [(host(u32::try_from(number).unwrap()), true)]);
                    }
                    let refused = learn || session.refused[0].contains(&host(5));
                    refused && session.warning().starts_with("acknowledged but not forwarded")
                })
                .await;
            let warning = session.warning();
            assert!(warning.contains("does the next hop resolve through the null route"), "{warning}");
            assert_eq!(warning.contains("settle stays at 75ms"), learn, "{warning}");
            assert!(learn || session.held[0].is_empty(), "{}", session.logs);
            session.stop().await;
        }
    });
    lab.down().unwrap();
}

/// One address that the router refuses holds none of the others up, and is refused alone.
#[test]
fn an_address_that_is_not_forwarded_is_refused_alone() {
    let reject = "filter guard4_in { if net = 203.0.113.66/32 then reject; if net.len != 32 then";
    let edits =
        [("ttl security on;", "ttl security on; passive on;"), ("filter guard4_in { if net.len != 32 then", reject)];
    let lab = lab(BIRD, &edits);
    let router = lab.node("router");
    answer_all(router);
    in_guard(&lab, || async move {
        let mut session = Session::start(config(Confirm::Probe)).await;
        session.first().await;
        let bad = address("203.0.113.66");
        session.handle.apply(1, [(bad, true), (address("2001:db8:5::1"), true)]);
        let mut took = Vec::new();
        for generation in 2..=20 {
            let good = host(u32::try_from(generation).unwrap());
            let begun = Instant::now();
            session.handle.apply(generation, [(good, true)]);
            session.until("an address", |session| session.holds(0, good, generation)).await;
            took.push(begun.elapsed());
            assert_ne!(kernel(router, good), "");
        }
        took.sort_unstable();
        assert!(took[took.len() / 2] < Duration::from_millis(500), "they waited for another: {took:?}");
        session.until("the refusal", |session| session.refused[0].contains(&bad)).await;
        assert_eq!(session.refused[0].len(), 1, "{}", session.logs);
        assert!(session.holds(0, address("2001:db8:5::1"), 1));
        // The guard takes it back, and all is confirmed as a whole.
        session.handle.apply(21, [(bad, false)]);
        session.until("everything", |session| session.confirmed[0] == Some(21)).await;
        session.stop().await;
    });
    lab.down().unwrap();
}

/// After the router was gone nothing counts before it was seen to forward again, address by address, and who is waited for comes first.
#[test]
fn a_replayed_table_is_verified_one_by_one() {
    let lab = lab(BIRD, &[("ttl security on;", "ttl security on; passive on;")]);
    let router = lab.node("router");
    answer_all(router);
    in_guard(&lab, || async move {
        let mut session = Session::start(config(Confirm::Probe)).await;
        session.first().await;
        session.handle.apply(1, (1..=3000).map(|number| (host(number), true)));
        session.until("all", |session| session.confirmed[0] == Some(1)).await;
        router.stop();
        session.until("the router's end", |session| session.confirmed[0].is_none()).await;
        router.start().unwrap();
        session.until("the first", |session| !session.held[0].is_empty()).await;
        assert!(session.status().unverified > 500, "{}", session.status().unverified);
        // The last of the table would have to wait for about six seconds.
        session.handle.hurry(&[host(2999)]);
        session.until("who is waited for", |session| session.holds(0, host(2999), 1)).await;
        assert!(session.status().unverified > 200, "{}", session.status().unverified);
        session.handle.apply(2, [(host(4000), true)]);
        session.until("a new one", |session| session.holds(0, host(4000), 2)).await;
        assert!(session.confirmed[0].is_none(), "not all is verified");
        session.until("all", |session| session.confirmed[0] == Some(2)).await;
        assert_eq!((session.status().unverified, session.status().warning), (0, None));
        session.stop().await;
    });
    lab.down().unwrap();
}

/// The router answers when it does forward, but by default only six at once and then one a second.
#[test]
fn limited_answers_refuse_some_addresses_and_say_so() {
    let lab = lab(BIRD, &[("ttl security on;", "ttl security on; passive on;")]);
    in_guard(&lab, || async {
        let mut session = Session::start(config(Confirm::Probe)).await;
        session.first().await;
        session.handle.apply(1, (0..30).map(|number| (host(number), true)));
        session.until("some", |session| !session.held[0].is_empty() || session.confirmed[0] == Some(1)).await;
        session.until("refusals", |session| !session.refused[0].is_empty()).await;
        let warning = session.warning();
        assert!(warning.contains("does it answer no probes?"), "{warning}");
        session.stop().await;
    });
    lab.down().unwrap();
}

/// TTL 2 is answered by the hop behind the router.
#[test]
fn the_hop_behind_the_router_answers_a_ttl_of_two() {
    let lab = lab(BIRD, &[("ttl security on;", "ttl security on; passive on;")]);
    let internet = lab.node("internet");
    internet.ok("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").unwrap();
    internet.ok("ip route add default via 198.51.100.1 && ip -6 route add default via 2001:db8:2::1").unwrap();
    answer_all(internet);
    // The router itself stays silent.
    lab.node("router").ok("sysctl -qw net.ipv4.icmp_ratelimit=1000000000 net.ipv4.icmp_ratemask=2048").unwrap();
    in_guard(&lab, || async {
        let mut config = config(Confirm::Probe);
        config.peers[0].probe_ttl = 2;
        let mut session = Session::start(config).await;
        session.first().await;
        for generation in 1..=20 {
            let number = u32::try_from(generation).unwrap();
            let to = if number % 2 == 0 { host(number) } else { address(&format!("2001:db8:5::{number}")) };
            session.handle.apply(generation, [(to, true)]);
            session.until("an address", |session| session.holds(0, to, generation)).await;
        }
        assert!(session.refused[0].is_empty(), "{}", session.logs);
        session.stop().await;
    });
    lab.down().unwrap();
}

/// Both routers are on the guard's network: what one forwards says nothing of the other.
#[test]
fn each_router_on_a_shared_network_is_asked_by_itself() {
    let lab = Lab::builder("tests/interop/shared.clab.yml").hold("router").hold("router2").up().unwrap();
    let passive = ("ttl security on;", "ttl security on; passive on;");
    start(lab.node("router"), BIRD.1, &[passive]);
    let reject = "filter guard4_in { if net = 203.0.113.66/32 then reject; if net.len != 32 then";
    let edits = [passive, ("192.0.2.254", "192.0.2.253"), ("filter guard4_in { if net.len != 32 then", reject)];
    start(lab.node("router2"), BIRD.1, &edits);
    in_guard(&lab, || async {
        let mut config = config(Confirm::Probe);
        let mut second = config.peers[0].clone();
        second.name = "router2".to_owned();
        second.address = address("192.0.2.253");
        config.peers.push(second);
        let mut session = Session::start(config).await;
        session.first().await;
        session.until("both", |session| session.confirmed[1].is_some()).await;
        let (bad, good) = (address("203.0.113.66"), address("203.0.113.67"));
        session.handle.apply(1, [(bad, true), (good, true)]);
        session
            .until("the good one", |session| {
                [0, 1]
                    .iter()
                    .all(|peer| session.held[*peer].contains(&(good, 1)) || session.confirmed[*peer] == Some(1))
            })
            .await;
        session.until("both words", |session| session.holds(0, bad, 1) && session.refused[1].contains(&bad)).await;
        assert!(session.refused[0].is_empty() && !session.held[1].contains(&(bad, 1)), "{}", session.logs);
        session.stop().await;
    });
    lab.down().unwrap();
}

/// FRR sends a route on when zebra has it in the kernel; a withdrawal comes back as well, and an old reflection is none for a new route.
#[test]
fn frr_reflects_what_is_in_its_kernel() {
    let observer = "router bgp 64513\n bgp suppress-fib-pending\n neighbor 192.0.2.3 remote-as 64512\n \
                    neighbor 192.0.2.3 passive\n neighbor 192.0.2.3 advertisement-interval 0\n";
    let families = |family: &str| {
        format!(
            " address-family {family} unicast\n  neighbor 192.0.2.3 activate\n  neighbor 192.0.2.3 route-map DENY in\n  \
             neighbor 192.0.2.3 route-map ALL out\n  neighbor 192.0.2.2 activate\n"
        )
    };
    let (v4, v6) = (families("ipv4"), families("ipv6"));
    let edits = [
        ("timers connect 2", "passive"),
        ("route-map DENY deny 10\n", "route-map DENY deny 10\nroute-map ALL permit 10\n"),
        ("router bgp 64513\n", observer),
        (" address-family ipv4 unicast\n  neighbor 192.0.2.2 activate\n", v4.as_str()),
        (" address-family ipv6 unicast\n  neighbor 192.0.2.2 activate\n", v6.as_str()),
    ];
    let lab = lab(FRR, &edits);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut config = reflected();
        // FRR 8.4 sends on in steps of a second.
        config.peers[0].patience = Duration::from_secs(4);
        let mut session = Session::start(config).await;
        session.first().await;
        let mut generation = 0;
        for round in 0..4 {
            let to = host(round);
            generation += 1;
            session.handle.apply(generation, [(to, true)]);
            session.until("a reflection", |session| session.holds(0, to, generation)).await;
            assert_ne!(kernel(router, to), "", "{to} came before the kernel had it");
        }
        // Closed and at once opened again, at several moments of FRR's own steps.
        for round in 0..4u32 {
            let to = host(round);
            session.handle.apply(generation + 1, [(to, false)]);
            tokio::time::sleep(Duration::from_millis(40) * round * round).await;
            generation += 2;
            session.handle.apply(generation, [(to, true)]);
            session
                .until("a word", |session| session.holds(0, to, generation) || session.refused[0].contains(&to))
                .await;
            if session.refused[0].remove(&to) {
                // FRR 8.4 sometimes never sends on what went and came within its second; the guard is right to refuse it.
                let sent = router.ok("vtysh -c 'show bgp ipv4 unicast neighbors 192.0.2.3 advertised-routes'").unwrap();
                assert!(!sent.contains(&to.to_string()), "{sent}\n{}", session.logs);
                continue;
            }
            assert_ne!(kernel(router, to), "", "{to} was confirmed by an old reflection; {}", session.logs);
        }
        let closed = session.status().close_latency.count;
        assert!(closed > 0, "{:?}", session.status());
        session.handle.apply(generation + 1, (0..4).map(|number| (host(number), false)));
        session
            .until("the withdrawals", |session| {
                let status = session.status();
                status.advertised[0] == 0 && status.close_latency.count > closed && status.closing == 0
            })
            .await;
        // BGP withdraws before zebra has taken the route out of the kernel: 10 ms here.
        session.until("the kernel", |_| (0..4).all(|number| kernel(router, host(number)).is_empty())).await;
        let status = session.status();
        eprintln!("announced {:?}, withdrawn {:?}", status.latency.latest, status.close_latency.latest);
        assert!(session.refused[0].is_empty(), "{}", session.logs);
        session.stop().await;
    });
    lab.down().unwrap();
}

/// BIRD drops one of the routes that it had sent back, and would take it again: it is out of force meanwhile, and announced until BIRD has it.
#[test]
fn what_a_router_takes_back_is_announced_until_it_has_it_again() {
    let export = "import none; export where source = RTS_BGP;";
    let watch = format!(
        "protocol bgp watch {{ local 192.0.2.254 as 64513; neighbor {WATCH} as 64512; passive on; direct; \
         ipv4 {{ {export} }}; ipv6 {{ {export} }}; }}\nprotocol bgp guard {{"
    );
    let edits = [("ttl security on;", "ttl security on; passive on;"), ("protocol bgp guard {", watch.as_str())];
    let lab = lab(BIRD, &edits);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut session = Session::start(reflected()).await;
        session.first().await;
        session.handle.apply(1, (0..3).map(|number| (host(number), true)));
        session.until("all", |session| session.confirmed[0] == Some(1)).await;
        assert_eq!(session.missing[0], BTreeSet::new());
        let lost = host(1);
        let good = router.file(BIRD.1).unwrap();
        let filter = "filter guard4_in { if net.len != 32 then";
        let bad =
            good.replace(filter, &format!("filter guard4_in {{ if net = {lost}/32 then reject; if net.len != 32 then"));
        assert_ne!(good, bad);
        router.write(BIRD.1, &bad).unwrap();
        router.ok("birdc configure").unwrap();
        session.until("the loss", |session| !session.missing[0].is_empty()).await;
        assert_eq!(session.missing[0], BTreeSet::from([IpNet::from(lost)]), "{}", session.logs);
        // It holds up nothing else.
        session.handle.apply(2, [(host(7), true)]);
        session.until("another", |session| session.holds(0, host(7), 2)).await;
        assert_eq!((session.status().unverified, kernel(router, lost)), (1, String::new()));
        // The router would take it from now on, and doesn't ask for it.
        router.write(BIRD.1, &good).unwrap();
        router.ok("birdc configure soft").unwrap();
        session.until("the repair", |session| session.held[0].iter().any(|(address, _)| *address == lost)).await;
        assert_ne!(kernel(router, lost), "");
        session.until("everything", |session| session.confirmed[0] == Some(2)).await;
        assert!(session.refused[0].is_empty() && session.status().unverified == 0, "{}", session.logs);
        // The observer gets none of them any more: that is one thing, said once.
        session.missing[0].clear();
        let hidden = good.replace(export, "import none; export none;");
        assert_ne!(good, hidden);
        router.write(BIRD.1, &hidden).unwrap();
        router.ok("birdc configure").unwrap();
        session.until("all gone", |session| session.missing[0].len() == 4).await;
        session
            .until("the one reason", |session| {
                session.warning().starts_with("the router sends the observer none of our")
            })
            .await;
        assert!(session.status().is_failing);
        let told = session.logs.matches("Missing").count();
        session.handle.apply(3, [(host(8), true)]);
        session.until("a refusal", |session| session.refused[0].contains(&host(8))).await;
        assert_eq!(session.logs.matches("Missing").count(), told, "{}", session.logs);
        assert!(session.warning().starts_with("the router sends the observer none of our"), "{}", session.warning());
        router.write(BIRD.1, &good).unwrap();
        router.ok("birdc configure").unwrap();
        session
            .until("all again", |session| [0, 1, 2, 7].iter().all(|number| session.holds(0, host(*number), 1)))
            .await;
        session.until("no reason", |session| session.warning().is_empty()).await;
        session.stop().await;
    });
    lab.down().unwrap();
}

/// What a router that is only probed loses is found although nobody says so: out of its kernel, or by a filter that was changed. It is out of
/// force until the router forwards again, and nothing else is. A router that answers nothing any more has lost nothing.
#[test]
fn what_a_probed_router_loses_is_found_and_announced_until_it_has_it_again() {
    let lab = lab(BIRD, &[("ttl security on;", "ttl security on; passive on;")]);
    let router = lab.node("router");
    answer_all(router);
    in_guard(&lab, || async move {
        let mut session = Session::start(config(Confirm::Probe)).await;
        session.first().await;
        let v6 = address("2001:db8:5::1");
        let all: Vec<IpAddr> = (0..12).map(host).chain([v6]).collect();
        session.handle.apply(1, all.iter().map(|address| (*address, true)));
        session.until("all", |session| session.confirmed[0] == Some(1)).await;

        // BIRD's own table still has them, and the same once more would say nothing to it.
        for lost in [host(3), v6] {
            session.missing[0].clear();
            let family = if lost.is_ipv6() { "-6" } else { "-4" };
            router.ok(&format!("ip {family} route del {lost}")).unwrap();
            session.until("the loss", |session| !session.missing[0].is_empty()).await;
            session.until("the repair", |session| session.held[0].iter().any(|(address, _)| *address == lost)).await;
            assert_eq!(session.missing[0], BTreeSet::from([IpNet::from(lost)]), "{}", session.logs);
            assert_ne!(kernel(router, lost), "");
        }

        session.missing[0].clear();
        let lost = host(7);
        let good = router.file(BIRD.1).unwrap();
        let filter = "filter guard4_in { if net.len != 32 then";
        let bad =
            good.replace(filter, &format!("filter guard4_in {{ if net = {lost}/32 then reject; if net.len != 32 then"));
        assert_ne!(good, bad);
        router.write(BIRD.1, &bad).unwrap();
        router.ok("birdc configure").unwrap();
        // Somebody is about to use it: it is looked at at once.
        session
            .until("the loss", |session| {
                session.handle.hurry(&[lost]);
                !session.missing[0].is_empty()
            })
            .await;
        assert_eq!(session.missing[0], BTreeSet::from([IpNet::from(lost)]), "{}", session.logs);
        session.until("the warning", |session| session.warning().contains("took back 1 of the routes")).await;
        session.handle.apply(2, [(host(20), true)]);
        session.until("another", |session| session.holds(0, host(20), 2)).await;
        assert_eq!((session.status().unverified, kernel(router, lost)), (1, String::new()));
        router.write(BIRD.1, &good).unwrap();
        router.ok("birdc configure soft").unwrap();
        session.until("the repair", |session| session.held[0].iter().any(|(address, _)| *address == lost)).await;
        session.until("no warning", |session| session.warning().is_empty()).await;

        // All of them at once are one thing.
        session.missing[0].clear();
        let none = good.replace(filter, "filter guard4_in { reject; if net.len != 32 then");
        let none = none.replace("filter guard6_in { if", "filter guard6_in { reject; if");
        router.write(BIRD.1, &none).unwrap();
        router.ok("birdc configure").unwrap();
        session.until("all gone", |session| session.missing[0].len() == all.len() + 1).await;
        session
            .until("the warning", |session| {
                session.warning().starts_with("the router forwards to none of 14 addresses")
            })
            .await;
        assert!(session.status().is_failing);
        router.write(BIRD.1, &good).unwrap();
        router.ok("birdc configure").unwrap();
        session.until("all again", |session| all.iter().all(|address| session.holds(0, *address, 1))).await;
        session.until("no warning", |session| session.warning().is_empty()).await;

        // A router that is silent has lost nothing.
        session.missing[0].clear();
        router
            .ok("nft 'table inet silent { chain out { type filter hook output priority 0; icmp type time-exceeded drop; \
                 icmpv6 type time-exceeded drop; }; }'")
            .unwrap();
        session
            .until("the silence", |session| session.warning().starts_with("the router has answered no probe for"))
            .await;
        assert!(session.status().is_failing && session.missing[0].is_empty(), "{}", session.logs);
        router.ok("nft delete table inet silent").unwrap();
        session.until("an answer", |session| session.warning().is_empty()).await;
        assert!(session.missing[0].is_empty() && session.refused[0].is_empty(), "{}", session.logs);
        session.stop().await;
    });
    lab.down().unwrap();
}

/// A router that is known by its link-local address, with the name of the link: the session, its password and the probes.
#[test]
fn a_router_on_a_link_local_address_is_reached_by_the_name_of_the_link() {
    let local = "local fe80::254 as 64513; neighbor fe80::2%eth1 as 64512;";
    let edits = [
        ("ttl security on;", "ttl security on; passive on;"),
        ("local 192.0.2.254 as 64513; neighbor 192.0.2.2 as 64512;", local),
    ];
    let lab = Lab::builder("tests/interop/bird.clab.yml").hold("router").up().unwrap();
    let router = lab.node("router");
    router.ok("ip -6 addr add fe80::254/64 dev eth1 nodad").unwrap();
    lab.node("guard").ok("ip -6 addr add fe80::2/64 dev eth1 nodad").unwrap();
    start(router, BIRD.1, &edits);
    answer_all(router);
    in_guard(&lab, || async move {
        let mut config = config(Confirm::Probe);
        (config.peers[0].address, config.peers[0].zone) = (address("fe80::254"), Some("eth1".to_owned()));
        config.peers[0].local_address = Some(address("fe80::2"));
        config.listen = vec!["[::]:179".parse().unwrap()];
        let mut session = Session::start(config.clone()).await;
        session.first().await;
        session.handle.apply(1, [(host(1), true), (address("2001:db8:5::1"), true)]);
        session.until("both", |session| session.confirmed[0] == Some(1)).await;
        assert!(session.refused[0].is_empty() && !kernel(router, host(1)).is_empty(), "{}", session.logs);
        session.stop().await;
        config.peers[0].zone = Some("nosuch0".to_owned());
        let mut session = Session::start(config).await;
        let said = |session: &Session| session.status().last_error.map(|(why, _)| why).unwrap_or_default();
        session.until("the cause", |session| said(session).contains("there is no interface nosuch0 now")).await;
        session.stop().await;
    });
    lab.down().unwrap();
}

const BINARY: &str = env!("CARGO_BIN_EXE_destguard");
const CONFIG: &str = "/etc/destguard/destguard.toml";

/// What the guard's HTTP interface says.
fn metrics(guard: &Node) -> String {
    let get = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect("10.0.3.2:8080")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 10.0.3.2:8080\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    guard.in_namespace(get).unwrap().unwrap_or_default()
}

/// A guard without CAP_NET_RAW can't learn and says so; one that was told to probe doesn't start. What it knows is in `peers` and in the metrics.
#[test]
fn without_raw_sockets_the_settle_time_stays_and_that_is_said() {
    let lab = Lab::builder("lab/frr/frr.clab.yml").destguard(BINARY).hold("guard").up().unwrap();
    let guard = lab.node("guard");
    guard.ok("install -d -m 755 /run/destguard /var/lib/destguard").unwrap();
    let probing = guard.file(CONFIG).unwrap();
    let run = |text: &str| {
        guard.write(CONFIG, text).unwrap();
        let words = ["--bounding-set=-net_raw", "--inh-caps=-net_raw", BINARY, "run", "--config", CONFIG];
        guard.spawn("setpriv", &words).unwrap()
    };
    let mut process = run(&probing);
    let ended = process.wait(LONG).unwrap_or_else(|| panic!("it runs: {}", process.log()));
    assert!(!ended.success());
    assert!(process.log().contains("confirm = \"probe\" can't send probes: "), "{}", process.log());

    let learning =
        probing.replace("confirm = \"probe\"", "confirm = \"acked\"").replace("settle = \"0s\"", "settle = \"auto\"");
    let mut process = run(&format!("{learning}\n[http]\nlisten = [\"10.0.3.2:8080\"]\n"));
    let ask = |words: &[&str]| {
        let output = guard.command(BINARY).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = "settle stays at 75ms: no data-path probes: ";
    let shown = || ask(&["peers"]);
    assert!(
        wait_until(LONG, || shown().contains(said) && shown().contains("Established")),
        "{}{}",
        shown(),
        process.log()
    );
    let _upstream = dns::Server::start(
        lab.node("internet"),
        &["192.0.2.53:53", "[2001:db8:53::53]:53"].map(|at| at.parse().unwrap()),
    )
    .unwrap();
    // The first may be part of what the session starts with.
    for name in ["n1.many.test", "n2.many.test"] {
        let ask = || dns::ask("10.0.3.2:53".parse().unwrap(), name, dns::A, Duration::from_secs(5));
        let answer = lab.node("client").in_namespace(ask).unwrap().unwrap();
        assert_eq!(answer.addresses().len(), 1, "{:?}", answer.message);
    }
    let peers = shown();
    assert!(peers.contains("acked + 75ms") && peers.contains("settle 75ms, learnt from 0 probes"), "{peers}");
    let json: serde_json::Value = serde_json::from_str(&ask(&["peers", "--json"])).unwrap();
    let confirmations = &json["peers"][0]["confirmations"];
    assert!(confirmations["count"].as_u64() >= Some(1) && confirmations["p99_ms"].as_u64() >= Some(75), "{json}");
    let bounds = confirmations["histogram"].as_array().unwrap();
    assert!(
        !bounds.is_empty() && bounds.iter().all(|bound| bound[0].as_u64().is_none_or(|micros| micros > 75_000)),
        "{json}"
    );
    let text = metrics(guard);
    for line in [
        "destguard_bgp_confirm_seconds_count{peer=\"router\"} ",
        "destguard_bgp_confirm_seconds_bucket{",
        "destguard_bgp_settle_seconds{peer=\"router\"} 0.075",
        "destguard_bgp_confirm_warning{peer=\"router\"} 1",
        "destguard_bgp_unverified_routes{peer=\"router\"} 0",
        "destguard_bgp_closing_routes{peer=\"router\"} 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(process.ended().is_none(), "{}", process.log());
    process.kill();
    lab.down().unwrap();
}
