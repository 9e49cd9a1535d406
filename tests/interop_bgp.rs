//! The BGP speaker against the routers that people run: sessions from both sides, internal and external, MD5 and GTSM, routes in the
//! kernel's table where the router has one, refreshes, withdrawals, restarts and refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use destguard_bgp::config::{BgpRole, Confirm, PeerConfig, Role, Secret, SpeakerConfig};
use destguard_bgp::io::{PeerEvent, Speaker, SpeakerHandle, What};
use destguard_bgp::session::Stop;
use destguard_bgp::status::{PeerStatus, State};
use lab::routes::Monitor;
use lab::{Lab, Node};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(60);
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const GUARD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const V4: &str = "203.0.113.1";
const V6: &str = "2001:db8:5::1";

/// Who opens the TCP connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Opens {
    Guard,
    Router,
    Both,
}

fn config(asn: u32, opens: Opens) -> SpeakerConfig {
    let mut peer = PeerConfig::new("router", ROUTER, 64513);
    peer.local_address = Some(GUARD);
    peer.password = Some(Secret::new("s3cret"));
    peer.ttl_security = true;
    peer.passive = opens == Opens::Router;
    SpeakerConfig {
        next_hop_ipv4: Some(Ipv4Addr::new(198, 51, 100, 2)),
        next_hop_ipv6: Some("2001:db8:2::2".parse().unwrap()),
        communities: vec![(64512 << 16) | 100],
        large_communities: vec![[64512, 1, 2]],
        listen: if opens == Opens::Guard { vec![] } else { vec![SocketAddr::new(GUARD, 179)] },
        peers: vec![peer],
        ..SpeakerConfig::new(asn, Ipv4Addr::new(192, 0, 2, 2))
    }
}

/// A lab whose router has `edits` made to its configuration: each text must be in it.
fn lab(name: &str, file: &str, edits: &[(&str, &str)]) -> Lab {
    let lab = Lab::builder(format!("tests/interop/{name}.clab.yml")).hold("router").up().unwrap();
    let router = lab.node("router");
    let mut text = router.file(file).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{from:?} is not in {file}");
        text = text.replace(from, to);
    }
    router.write(file, &text).unwrap();
    router.start().unwrap();
    lab
}

/// Runs `work` on a runtime whose sockets are the guard's.
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
    logs: String,
}

impl Session {
    async fn start(config: SpeakerConfig) -> Self {
        let (speaker, events) = Speaker::start(config).await.unwrap();
        Self { handle: speaker.handle(), speaker, events, logs: String::new() }
    }

    async fn wait(&mut self, what: &str, mut met: impl FnMut(&What) -> bool) {
        let search = async {
            loop {
                let PeerEvent { peer, what: event, .. } = self.events.recv().await.expect("the speaker runs");
                // An observer's own session says little.
                if peer != 0 {
                    continue;
                }
                self.logs.push_str(&format!("{event:?}\n"));
                if met(&event) {
                    return;
                }
            }
        };
        if tokio::time::timeout(LONG, search).await.is_err() {
            panic!("not in time: {what}; {:?}\n{}", self.status(), self.logs);
        }
    }

    async fn confirmed(&mut self, wanted: u64) {
        let is = |what: &What| matches!(what, What::Confirmed { generation, .. } if *generation >= wanted);
        self.wait(&format!("generation {wanted}"), is).await;
    }

    fn status(&self) -> PeerStatus {
        self.handle.status().remove(0)
    }

    fn error(&self) -> String {
        self.status().last_error.map_or_else(String::new, |(text, _)| text)
    }
}

async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !met() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hosts(count: u32, announce: bool) -> impl Iterator<Item = (IpAddr, bool)> {
    (0..count).map(move |n| (IpAddr::from((0xc612_0000 + n).to_be_bytes()), announce))
}

/// Where the kernel of the router sends packets to an address; empty for the null route.
fn kernel(router: &Node, to: &str) -> String {
    let family = if to.contains(':') { "-6" } else { "-4" };
    let all = router.ok(&format!("ip {family} route show {to}")).unwrap();
    all.lines().find(|line| line.contains(" via ")).unwrap_or_default().to_owned()
}

fn kernel_count(router: &Node, prefix: &str) -> usize {
    router.ok("ip -4 route show").unwrap().lines().filter(|line| line.starts_with(prefix)).count()
}

/// A router that has a kernel's table: all that a route goes through.
async fn full_life(router: &Node, asn: u32, opens: Opens, refresh: &str) {
    let mut session = Session::start(config(asn, opens)).await;
    session.wait("the session", |what| matches!(what, What::Up { .. })).await;
    session.confirmed(0).await;
    session.handle.apply(1, [(address(V4), true), (address(V6), true)]);
    session.confirmed(1).await;
    until("both routes", || {
        kernel(router, V4).contains("via 198.51.100.2") && kernel(router, V6).contains("via 2001:db8:2::2")
    })
    .await;

    let before = session.status().received.refreshes;
    router.ok(refresh).unwrap();
    until("a request for a replay", || session.status().received.refreshes >= before + 2).await;
    session.handle.apply(2, hosts(5000, true));
    session.confirmed(2).await;
    until("five thousand routes", || kernel_count(router, "198.18.") == 5000).await;
    assert!(!kernel(router, V4).is_empty(), "the replay took nothing away");

    session.handle.apply(3, hosts(4999, false).chain([(address(V4), false)]));
    session.confirmed(3).await;
    until("withdrawn", || kernel_count(router, "198.18.") == 1 && kernel(router, V4).is_empty()).await;
    assert!(!kernel(router, V6).is_empty());

    router.stop();
    session.wait("the router's end", |what| matches!(what, What::Down(_))).await;
    session.handle.apply(4, [(address(V4), true)]);
    router.start().unwrap();
    session.wait("the session again", |what| matches!(what, What::Up { .. })).await;
    session.confirmed(4).await;
    until("the table as it is now", || {
        !kernel(router, V4).is_empty() && !kernel(router, V6).is_empty() && kernel_count(router, "198.18.") == 1
    })
    .await;
    let status = session.status();
    assert_eq!((status.state, status.advertised), (State::Established, [2, 1]));
    assert_eq!(status.received.malformed, 0);
    session.speaker.stop(Stop::Shutdown("maintenance".to_owned())).await;
    until("all gone", || kernel(router, V4).is_empty() && kernel(router, V6).is_empty()).await;
}

const FRR: (&str, &str) = ("frr", "/etc/frr/frr.conf");
const FRR_REFRESH: &str = "vtysh -c 'clear bgp ipv4 192.0.2.2 soft in' -c 'clear bgp ipv6 192.0.2.2 soft in'";
const BIRD: (&str, &str) = ("bird", "/etc/bird/bird.conf");

#[test]
fn frr_external_the_guard_connects() {
    let lab = lab(FRR.0, FRR.1, &[("timers connect 2", "passive")]);
    in_guard(&lab, || full_life(lab.node("router"), 64512, Opens::Guard, FRR_REFRESH));
    lab.down().unwrap();
}

#[test]
fn frr_internal_both_connect() {
    let lab = lab(FRR.0, FRR.1, &[("remote-as 64512", "remote-as 64513")]);
    in_guard(&lab, || full_life(lab.node("router"), 64513, Opens::Both, FRR_REFRESH));
    lab.down().unwrap();
}

#[test]
fn bird_external_the_router_connects() {
    let lab = lab(BIRD.0, BIRD.1, &[]);
    in_guard(&lab, || full_life(lab.node("router"), 64512, Opens::Router, "birdc reload in guard"));
    lab.down().unwrap();
}

#[test]
fn bird_internal_the_guard_connects() {
    let lab = lab(BIRD.0, BIRD.1, &[("as 64512;", "as 64513;"), ("ttl security on;", "ttl security on; passive on;")]);
    in_guard(&lab, || full_life(lab.node("router"), 64513, Opens::Guard, "birdc reload in guard"));
    lab.down().unwrap();
}

/// BIRD sends a route on only once it is in the kernel: the observer's session shows that.
#[test]
fn bird_confirms_by_reflection_and_by_refresh() {
    let observer = "protocol bgp observer {\n  local 192.0.2.254 as 64513; neighbor 192.0.2.3 as 64512; direct; passive on;\n  \
                    ipv4 { import none; export where source = RTS_BGP; };\n  \
                    ipv6 { import none; export where source = RTS_BGP; };\n}\nprotocol bgp guard {";
    let edits = [("ttl security on;", "ttl security on; passive on;"), ("protocol bgp guard {", observer)];
    let lab = lab(BIRD.0, BIRD.1, &edits);
    lab.node("guard").ok("ip addr add 192.0.2.3/24 dev eth1").unwrap();
    let router = lab.node("router");
    in_guard(&lab, || async {
        for rule in [Confirm::Reflect, Confirm::Refresh] {
            let mut config = config(64512, Opens::Guard);
            config.no_export = false;
            config.peers[0].confirm = rule;
            let mut watch = PeerConfig::new("watch", ROUTER, 64513);
            watch.local_address = Some(address("192.0.2.3"));
            watch.role = Role::Observer;
            if rule == Confirm::Reflect {
                config.peers[0].observer = Some("watch".to_owned());
                config.peers.push(watch);
            }
            let mut session = Session::start(config).await;
            session.confirmed(0).await;
            if rule == Confirm::Reflect {
                let handle = session.handle.clone();
                until("the observer", || handle.status()[1].state == State::Established).await;
            }
            for number in 1..=50u8 {
                let route = format!("198.51.100.{}", number + 100);
                session.handle.apply(number.into(), [(address(&route), true)]);
                session.confirmed(number.into()).await;
                assert_ne!(kernel(router, &route), "", "{rule} came before the kernel had {route}");
            }
            assert_eq!(session.status().warning, None);
            let median = session.status().latency.quantile(0.5);
            eprintln!("{rule}: {median:?}");
            session.speaker.stop(Stop::Shutdown(String::new())).await;
        }
    });
    lab.down().unwrap();
}

/// The process ends without a word and another takes its routes over: the router's kernel must not lose one (RFC 4724), and must lose the one that
/// the new process doesn't announce.
async fn restart(router: &Node, opens: Opens) {
    let mut config = config(64512, opens);
    config.graceful_restart = Duration::from_secs(60);
    let mut session = Session::start(config.clone()).await;
    session.handle.apply(1, [(address(V4), true), (address(V6), true), (address("203.0.113.7"), true)]);
    session.confirmed(1).await;
    let here = |to: &str| !kernel(router, to).is_empty();
    until("the routes", || here(V4) && here(V6) && here("203.0.113.7")).await;
    let monitor = Monitor::start(router).unwrap();
    session.speaker.stop(Stop::Restart).await;

    config.restarting = true;
    let mut session = Session::start(config).await;
    session.handle.apply(1, [(address(V4), true), (address(V6), true)]);
    session.confirmed(1).await;
    session.handle.apply(2, [(address("203.0.113.99"), true)]);
    session.confirmed(2).await;
    until("what only the old one announced to go", || here("203.0.113.99") && !here("203.0.113.7")).await;
    for route in [V4, V6] {
        assert_eq!(monitor.last(address(route), false), None, "{route} was never gone");
        assert!(here(route));
    }
    session.speaker.stop(Stop::Shutdown(String::new())).await;
    until("all gone", || !here(V4) && !here(V6)).await;
}

#[test]
fn frr_keeps_routes_over_a_restart() {
    let lab = lab(FRR.0, FRR.1, &[("timers connect 2", "passive")]);
    in_guard(&lab, || restart(lab.node("router"), Opens::Guard));
    lab.down().unwrap();
}

#[test]
fn bird_keeps_routes_over_a_restart() {
    let lab = lab(BIRD.0, BIRD.1, &[("ttl security on;", "ttl security on; passive on;")]);
    in_guard(&lab, || restart(lab.node("router"), Opens::Guard));
    lab.down().unwrap();
}

/// RFC 8950: without an IPv4 next hop, IPv4 goes over the IPv6 one. (FRR 8.4 offers it on IPv6 sessions only.)
#[test]
fn bird_forwards_ipv4_over_an_ipv6_next_hop() {
    let edit = ("ipv4 { import filter guard4_in;", "ipv4 { extended next hop on; import filter guard4_in;");
    let lab = lab(BIRD.0, BIRD.1, &[edit]);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut config = config(64512, Opens::Both);
        config.next_hop_ipv4 = None;
        let mut session = Session::start(config).await;
        session.handle.apply(1, [(address(V4), true)]);
        session.wait("the session", |what| matches!(what, What::Up { missing } if missing.is_empty())).await;
        session.confirmed(1).await;
        until("the route", || kernel(router, V4).contains("via inet6 2001:db8:2::2")).await;
        assert!(session.status().capabilities.contains(&"extended-next-hop"));
        session.speaker.stop(Stop::Shutdown(String::new())).await;
        until("withdrawn", || kernel(router, V4).is_empty()).await;
    });
    lab.down().unwrap();
}

/// RFC 8326 and RFC 9234 on BIRD: a role that fits, and routes that say that they are about to go.
#[test]
fn bird_hears_of_the_role_and_of_the_end() {
    let lab = lab(BIRD.0, BIRD.1, &[("ttl security on;", "ttl security on; passive on; local role provider;")]);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut wrong = config(64512, Opens::Guard);
        wrong.peers[0].bgp_role = Some(BgpRole::Peer);
        let session = Session::start(wrong).await;
        until("the mismatch", || session.error().contains("role mismatch")).await;
        session.speaker.stop(Stop::Restart).await;

        let mut right = config(64512, Opens::Guard);
        right.peers[0].bgp_role = Some(BgpRole::Customer);
        let mut session = Session::start(right).await;
        session.handle.apply(1, [(address(V4), true)]);
        session.confirmed(1).await;
        let shown = || router.ok(&format!("birdc show route for {V4} all")).unwrap();
        until("the route", || !kernel(router, V4).is_empty()).await;
        assert!(!shown().contains("(65535,0)"), "{}", shown());
        session.handle.drain();
        until("GRACEFUL_SHUTDOWN", || shown().contains("(65535,0)")).await;
        assert!(!kernel(router, V4).is_empty(), "still forwarding");
        session.speaker.stop(Stop::Shutdown(String::new())).await;
        until("withdrawn", || kernel(router, V4).is_empty()).await;
    });
    lab.down().unwrap();
}

/// FRR, started with its lists behind "router bgp", denies what it hears in the first seconds and then asks again.
#[test]
fn frr_that_denied_at_first_gets_everything_again() {
    let lab = lab(FRR.0, FRR.1, &[("ip prefix-list HOST4 seq 10 permit 0.0.0.0/0 ge 32\n", "")]);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut session = Session::start(config(64512, Opens::Both)).await;
        session.handle.apply(1, [(address(V4), true)]);
        session.confirmed(1).await;
        let before = session.status().received.refreshes;
        router.ok("vtysh -c 'conf t' -c 'ip prefix-list HOST4 seq 10 permit 0.0.0.0/0 ge 32'").unwrap();
        router.ok("vtysh -c 'clear bgp ipv4 192.0.2.2 soft in'").unwrap();
        until("the route", || !kernel(router, V4).is_empty()).await;
        assert!(session.status().received.refreshes > before);
        session.speaker.stop(Stop::Restart).await;
    });
    lab.down().unwrap();
}

#[test]
fn frr_maximum_prefix_is_named_to_the_operator() {
    let lab = lab(FRR.0, FRR.1, &[("maximum-prefix 6000", "maximum-prefix 10")]);
    in_guard(&lab, || async {
        let mut session = Session::start(config(64512, Opens::Guard)).await;
        session.confirmed(0).await;
        // FRR looks at its count one UPDATE late.
        session.handle.apply(1, hosts(20, true));
        session.handle.apply(2, [(address(V4), true)]);
        session.wait("the router's refusal", |what| matches!(what, What::Down(_))).await;
        let cause = "peer says: Cease, maximum number of prefixes reached (IPv4, its limit is 10)";
        assert!(session.error().starts_with(cause), "{}", session.error());
        until("tries that fail", || session.error().contains("since then")).await;
        assert!(session.error().starts_with(cause), "{}", session.error());
    });
    lab.down().unwrap();
}

#[test]
fn wrong_password_and_wrong_as_are_named() {
    let lab = lab(BIRD.0, BIRD.1, &[("ttl security on;", "ttl security on; passive on;")]);
    in_guard(&lab, || async {
        let mut wrong = config(64512, Opens::Guard);
        wrong.peers[0].password = Some(Secret::new("other"));
        let session = Session::start(wrong).await;
        until("a hint", || session.error().contains("is the password the same")).await;
        session.speaker.stop(Stop::Restart).await;

        let mut wrong = config(64512, Opens::Guard);
        wrong.peers[0].asn = 64999;
        let session = Session::start(wrong).await;
        until("the AS", || {
            let error = session.error();
            error.contains("wrong AS: peer says 64513, configured 64999") || error.contains("bad peer AS")
        })
        .await;
        session.speaker.stop(Stop::Restart).await;
    });
    lab.down().unwrap();
}

#[test]
fn gobgp_takes_routes_of_both_families() {
    let lab = lab("gobgp", "/etc/gobgp/gobgpd.toml", &[]);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut session = Session::start(config(64512, Opens::Both)).await;
        session.handle.apply(1, hosts(2000, true).chain([(address(V4), true), (address(V6), true)]));
        session.confirmed(1).await;
        let v4 = || router.ok("gobgp global rib").unwrap();
        until("all routes", || v4().matches("/32").count() == 2001).await;
        assert!(v4().contains("64512:1:2") && v4().contains("no-export"), "{}", v4());
        until("the IPv6 route", || router.ok("gobgp global rib -a ipv6").unwrap().contains(V6)).await;
        session.handle.apply(2, hosts(2000, false));
        session.confirmed(2).await;
        until("withdrawn", || v4().matches("/32").count() == 1).await;
        session.speaker.stop(Stop::Shutdown(String::new())).await;
    });
    lab.down().unwrap();
}

/// OpenBGPD ends a session that sends anything of a family that was not negotiated.
#[test]
fn openbgpd_without_ipv6_gets_ipv4_alone() {
    let lab = lab("openbgpd", "/etc/bgpd.conf", &[]);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut session = Session::start(config(64512, Opens::Both)).await;
        session.handle.apply(1, [(address(V4), true)]);
        session.wait("the session", |what| matches!(what, What::Up { missing } if missing.ipv6)).await;
        session.confirmed(1).await;
        let rib = || router.ok("bgpctl show rib").unwrap();
        until("the route", || rib().contains(V4)).await;
        session.handle.apply(2, [(address(V6), true)]);
        session.handle.apply(3, [(address(V6), false), (address("203.0.113.2"), true)]);
        session.confirmed(3).await;
        until("the second route", || rib().contains("203.0.113.2")).await;
        router.ok("bgpctl neighbor 192.0.2.2 refresh").unwrap();
        until("a request for a replay", || session.status().received.refreshes > 0).await;
        session.handle.apply(4, [(address(V4), false)]);
        session.confirmed(4).await;
        until("withdrawn", || !rib().contains("203.0.113.1/32")).await;
        assert_eq!(session.status().established, 1, "one session all along: {}", session.error());
        session.speaker.stop(Stop::Shutdown(String::new())).await;
    });
    lab.down().unwrap();
}

/// In the order of "write memory" the filters stand behind "router bgp". FRR, freshly started, then denies everything at first and asks
/// again a few seconds later; a speaker that doesn't answer has lost its routes for good.
#[test]
fn frr_freshly_started_in_its_own_order_has_everything_in_the_end() {
    let lab = lab(FRR.0, FRR.1, &[]);
    let router = lab.node("router");
    router.stop();
    let text = router.file(FRR.1).unwrap();
    let (filters, rest) = text.split_once("ip prefix-list").unwrap();
    let (lists, rest) = rest.split_once("ip route 0.0.0.0/0").unwrap();
    router.write(FRR.1, &format!("{filters}ip route 0.0.0.0/0{rest}ip prefix-list{lists}")).unwrap();
    in_guard(&lab, || async move {
        let mut session = Session::start(config(64512, Opens::Both)).await;
        session.handle.apply(1, [(address(V4), true), (address(V6), true)]);
        router.start().unwrap();
        session.confirmed(1).await;
        until("both routes", || !kernel(router, V4).is_empty() && !kernel(router, V6).is_empty()).await;
        session.speaker.stop(Stop::Restart).await;
    });
    lab.down().unwrap();
}

/// A next hop that only the null route covers: the guard hears that its UPDATE arrived, but as configured the router makes no null route for the
/// host out of it, and a good next hop has its way at once.
async fn next_hop_of_the_null_route(router: &Node) {
    let mut wrong = config(64512, Opens::Both);
    wrong.next_hop_ipv4 = Some(Ipv4Addr::new(10, 9, 9, 9));
    wrong.next_hop_ipv6 = Some("2001:db8:99::9".parse().unwrap());
    let mut session = Session::start(wrong).await;
    session.handle.apply(1, [(address(V4), true), (address(V6), true)]);
    session.confirmed(1).await;
    let host = |to: &str| router.ok(&format!("ip -{} route show {to}", if to.contains(':') { 6 } else { 4 })).unwrap();
    session.speaker.stop(Stop::Shutdown(String::new())).await;
    assert_eq!((host(V4), host(V6)), (String::new(), String::new()), "no host route of any kind");

    let mut session = Session::start(config(64512, Opens::Both)).await;
    session.handle.apply(1, [(address(V4), true), (address(V6), true)]);
    session.confirmed(1).await;
    until("the good next hop", || !kernel(router, V4).is_empty() && !kernel(router, V6).is_empty()).await;
    session.speaker.stop(Stop::Restart).await;
}

#[test]
fn frr_makes_no_null_route_of_an_unknown_next_hop() {
    let lab = lab(FRR.0, FRR.1, &[]);
    in_guard(&lab, || next_hop_of_the_null_route(lab.node("router")));
    lab.down().unwrap();
}

#[test]
fn bird_makes_no_null_route_of_an_unknown_next_hop() {
    let lab = lab(BIRD.0, BIRD.1, &[]);
    in_guard(&lab, || next_hop_of_the_null_route(lab.node("router")));
    lab.down().unwrap();
}

/// Internal, announced to and withdrawn from a RIB, over a restart of the router.
async fn internal_rib(router: &Node, config: SpeakerConfig, rib: impl Fn() -> String) {
    let mut session = Session::start(config).await;
    session.handle.apply(1, hosts(1000, true).chain([(address(V4), true), (address(V6), true)]));
    session.confirmed(1).await;
    until("all routes", || rib().matches("198.18.").count() >= 1000 && rib().contains(V4) && rib().contains(V6)).await;
    router.stop();
    session.wait("the router's end", |what| matches!(what, What::Down(_))).await;
    session.handle.apply(2, hosts(999, false));
    router.start().unwrap();
    session.wait("the session again", |what| matches!(what, What::Up { missing } if missing.is_empty())).await;
    session.confirmed(2).await;
    until("the table as it is now", || {
        let rib = rib();
        rib.matches("198.18.").count() == 1 && rib.contains("198.51.100.2") && rib.contains(V4) && rib.contains(V6)
    })
    .await;
    session.speaker.stop(Stop::Shutdown(String::new())).await;
    until("all gone", || !rib().contains(V4) && !rib().contains(V6)).await;
}

#[test]
fn gobgp_internal_the_guard_connects() {
    let edits = [
        ("peer-as = 64512", "peer-as = 64513"),
        (
            "  [neighbors.timers.config]",
            "  [neighbors.transport.config]\n    passive-mode = true\n  [neighbors.timers.config]",
        ),
    ];
    let lab = lab("gobgp", "/etc/gobgp/gobgpd.toml", &edits);
    let router = lab.node("router");
    let rib = || router.ok("gobgp global rib; gobgp global rib -a ipv6").unwrap_or_default();
    in_guard(&lab, || internal_rib(router, config(64513, Opens::Guard), rib));
    lab.down().unwrap();
}

#[test]
fn openbgpd_internal_the_router_connects() {
    let edits = [
        ("remote-as 64512", "remote-as 64513"),
        (" announce IPv4 unicast\n", " announce IPv4 unicast\n announce IPv6 unicast\n"),
        ("inet prefixlen = 32", "inet prefixlen = 32\nallow from 192.0.2.2 inet6 prefixlen = 128"),
    ];
    let lab = lab("openbgpd", "/etc/bgpd.conf", &edits);
    let router = lab.node("router");
    let rib = || router.ok("bgpctl show rib").unwrap_or_default();
    // OpenBGPD has ttl-security for external sessions only, and ignores it here.
    let mut config = config(64513, Opens::Router);
    config.peers[0].ttl_security = false;
    in_guard(&lab, || internal_rib(router, config, rib));
    lab.down().unwrap();
}

/// RFC 9494 on GoBGP: beyond the restart time the routes stay as stale ones, and are fresh again when the speaker is back.
#[test]
fn gobgp_keeps_routes_beyond_the_restart_time_where_long_lived_restart_is_on() {
    let family = |name: &str| {
        format!(
            "      afi-safi-name = \"{name}-unicast\"\n    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n    \
             [neighbors.afi-safis.long-lived-graceful-restart.config]\n      enabled = true\n      restart-time = 100\n"
        )
    };
    let (ipv4, ipv6) = (family("ipv4"), family("ipv6"));
    let restart = "  [neighbors.graceful-restart.config]\n    enabled = true\n    restart-time = 5\n    long-lived-enabled = true\n  \
                   [neighbors.timers.config]";
    let edits = [
        ("  [neighbors.timers.config]", restart),
        ("      afi-safi-name = \"ipv4-unicast\"\n", &ipv4),
        ("      afi-safi-name = \"ipv6-unicast\"", ipv6.trim_end()),
    ];
    let lab = lab("gobgp", "/etc/gobgp/gobgpd.toml", &edits);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut config = config(64512, Opens::Both);
        config.graceful_restart = Duration::from_secs(2);
        config.long_lived = Duration::from_secs(60);
        let mut session = Session::start(config.clone()).await;
        session.handle.apply(1, [(address(V4), true), (address(V6), true)]);
        session.confirmed(1).await;
        let rib = || router.ok("gobgp global rib; gobgp global rib -a ipv6").unwrap_or_default();
        until("the routes", || rib().contains(V4) && rib().contains(V6)).await;
        assert!(session.status().capabilities.contains(&"long-lived-graceful-restart"), "{:?}", session.status());
        session.speaker.stop(Stop::Restart).await;
        let stale = || rib().matches("llgr-stale").count();
        until("both to be stale in the long-lived way", || stale() == 2).await;
        assert!(rib().contains(V4) && rib().contains(V6), "{}", rib());

        config.restarting = true;
        let mut session = Session::start(config).await;
        session.handle.apply(1, [(address(V4), true), (address(V6), true)]);
        session.confirmed(1).await;
        until("both to be fresh again", || stale() == 0 && rib().contains(V4) && rib().contains(V6)).await;
        session.speaker.stop(Stop::Shutdown(String::new())).await;
    });
    lab.down().unwrap();
}
