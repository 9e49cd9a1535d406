//! The mapping from the configuration, and plans against a speaker that plays the router on loopback.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::core::event::Change;
use crate::core::moment::Moment;

const LONG: Duration = Duration::from_secs(20);
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn config(bgp: &str) -> Config {
    let text = format!(
        "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[nftables]\nmode = \"off\"\n[addresses]\ninside = []\nopen = [\"10.88.0.0/16\", \"9.9.9.9\", \"2001:db8:88::/48\"]\n{bgp}"
    );
    match crate::check::parse(Path::new("test.toml"), &text) {
        Ok((config, ..)) => config,
        Err(report) => panic!("{report:?}"),
    }
}

const HEAD: &str = "[bgp]\nasn = 64512\nrouter_id = \"192.0.2.2\"\nnext_hop_ipv4 = \"192.0.2.1\"\n\
    communities = [\"64512:100\"]\n";

fn with_peer(more: &str) -> Config {
    config(&format!(
        "{HEAD}next_hop_ipv6 = \"2001:db8::1\"\n[[bgp.peer]]\nname = \"edge1\"\naddress = \"192.0.2.254\"\nasn = 64513\n{more}"
    ))
}

fn enforcer(config: &Config) -> BgpEnforcer {
    BgpEnforcer::new(config, EnforcerId(3), false).unwrap().unwrap()
}

#[test]
fn no_peer_no_speaker() {
    let config = Config {
        nftables: schema::Nftables { mode: schema::NftablesMode::Local, ..Default::default() },
        ..Config::default()
    };
    assert!(BgpEnforcer::new(&config, EnforcerId(0), false).unwrap().is_none());
}

#[test]
fn a_peer_is_an_enforcer_with_a_budget() {
    let enforcer = enforcer(&with_peer("max_routes = 100\n"));
    let spec = &enforcer.specs()[0];
    assert_eq!((spec.name.as_str(), spec.kind, spec.required), ("edge1", EnforcerKind::Route, true));
    assert_eq!((spec.ipv4, spec.ipv6), (true, true));
    assert_eq!(spec.max_addresses, 97, "the router counts the open prefixes too");
    assert_eq!(enforcer.ids, [Some(EnforcerId(3))]);
    assert_eq!(enforcer.config.communities, [(64512 << 16) | 100, 0xffff_ff01], "with NO_EXPORT");
    assert_eq!(enforcer.config.peers[0].settle, Duration::from_millis(75));
    assert_eq!(enforcer.config.mark, None, "no packet filter of ours asks for the mark");
    assert_eq!(enforcer.open.len(), 3);
}

#[tokio::test]
async fn bfd_is_mapped_shown_and_counted() {
    let plain = enforcer(&with_peer(""));
    assert_eq!(plain.config.peers[0].bfd, None);
    let near = with_peer("bfd = true\n");
    let expected = BfdConfig { interval: Duration::from_millis(300), multiplier: 3, multihop: false };
    assert_eq!(enforcer(&near).config.peers[0].bfd, Some(expected));
    assert_eq!(bfd_port(&near.bgp.peer[0]), 3784);
    let far = with_peer("multihop = 2\nbfd = true\nbfd_interval = \"1s\"\nbfd_multiplier = 5\nbfd_multihop = true\n");
    let expected = BfdConfig { interval: Duration::from_secs(1), multiplier: 5, multihop: true };
    assert_eq!(enforcer(&far).config.peers[0].bfd, Some(expected));
    assert_eq!(bfd_port(&far.bgp.peer[0]), 4784);

    let [.., high, low] = std::process::id().to_be_bytes();
    let mut enforcer = enforcer(&near);
    let peer = &mut enforcer.config.peers[0];
    // Addresses of this process alone, and nobody at the other one.
    peer.local_address = Some(IpAddr::from([127, high | 1, low, 98]));
    peer.address = IpAddr::from([127, high | 1, low, 99]);
    let running = enforcer.start(Clock::start(), std::sync::Arc::new(|_| true)).await.unwrap();
    let mut registry = crate::metrics::registry();
    metrics::register(&mut registry, running.status());
    let text = crate::metrics::encode(&registry).unwrap();
    for line in
        ["bfd_up{peer=\"edge1\"} 0", "bfd_failures_total{peer=\"edge1\"} 0", "bfd_discarded_packets_total{peer="]
    {
        assert!(text.contains(&format!("destguard_{line}")), "{text}");
    }
    let bfd = running.status().peers().remove(0).status.bfd.unwrap();
    assert_eq!((bfd.state.to_string().as_str(), bfd.detection_time), ("Down", Duration::ZERO));
}

#[test]
fn a_family_without_next_hop_can_not_be_held() {
    let config = config(&format!(
        "{HEAD}announce_open = false\nannounce_upstreams = true\n[[bgp.peer]]\nname = \"edge1\"\naddress = \"192.0.2.254\"\nasn = 64513\nfamilies = [\"ipv4\"]\nsettle = \"5ms\"\nconfirm = \"sent\"\n"
    ));
    let enforcer = enforcer(&config);
    let spec = &enforcer.specs()[0];
    assert_eq!((spec.ipv4, spec.ipv6), (true, false));
    assert_eq!(enforcer.open, ["192.0.2.53/32".parse::<IpNet>().unwrap()]);
    let peer = &enforcer.config.peers[0];
    assert_eq!((peer.settle, peer.confirm), (Duration::from_millis(5), Confirm::Sent));
}

#[test]
fn audit_announces_no_prefix_of_the_operators_either() {
    let mut config = with_peer("");
    assert!(enforcer(&config).enforce);
    config.bgp.enforce = false;
    assert!(!enforcer(&config).enforce);
    let mut config = with_peer("");
    config.mode = schema::Mode::Audit;
    assert!(!enforcer(&config).enforce);
}

/// What stands behind a reflector: an observed edge and a probed one, each with its own word.
#[test]
fn edges_are_enforcers_of_their_own() {
    let config = with_peer(
        "forwards = false\nobservers = [\"w1\"]\n[[bgp.peer]]\nname = \"w1\"\naddress = \"192.0.2.201\"\nasn = 64512\n\
         role = \"observer\"\nrequired = false\n[[bgp.edge]]\nname = \"e1\"\naddress = \"192.0.2.202\"\nfamilies = [\"ipv4\"]\n",
    );
    let enforcer = enforcer(&config);
    let specs: Vec<_> = enforcer.specs().iter().map(|spec| (spec.name.as_str(), spec.required, spec.ipv6)).collect();
    assert_eq!(specs, [("edge1", true, true), ("w1", false, true), ("e1", true, false)]);
    assert_eq!(enforcer.ids, [3, 4, 5].map(|id| Some(EnforcerId(id))));
    assert_eq!(enforcer.specs()[2].max_addresses, 50_000, "as many as the reflector may bring it");
    let [reflector, observer, edge] = enforcer.config.peers.as_slice() else { panic!("{:?}", enforcer.config.peers) };
    // Nothing is waited for, and nothing learnt, at a box that forwards nothing.
    assert_eq!((reflector.settle, reflector.learn, reflector.samples), (Duration::ZERO, false, false));
    assert!(observer.follows() && observer.role == Role::Observer && observer.confirm == Confirm::Reflect);
    assert_eq!((edge.role, edge.confirm, edge.families.ipv6), (Role::Edge, Confirm::Probe, false));
    assert!(enforcer.config.feeds(reflector) && !enforcer.config.feeds(edge));
    assert_eq!(enforcer.config.mark_of_guard(), Some([64512, 0x6467_7264, 0xc000_0202]));
    let plain = super::tests::enforcer(&with_peer("settle = \"5ms\"\n"));
    assert!(plain.config.peers[0].samples && plain.config.mark_of_guard().is_none());
}

#[test]
fn observers_are_no_enforcers() {
    let mut config = with_peer("");
    let watch = schema::Peer {
        name: "watch".to_owned(),
        address: IpAddr::from([192, 0, 2, 253]).into(),
        role: schema::Role::Observer,
        ..config.bgp.peer[0].clone()
    };
    config.bgp.peer.insert(0, watch);
    let enforcer = enforcer(&config);
    assert_eq!(enforcer.ids, [None, Some(EnforcerId(3))]);
    assert_eq!(enforcer.specs().len(), 1);
}

#[test]
fn a_password_file_holds_one_line() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut config = with_peer("");
    config.bgp.peer[0].password_file = Some(file.path().to_owned());
    assert!(matches!(BgpEnforcer::new(&config, EnforcerId(0), false), Err(BgpError::Password { .. })));
    file.write_all(b"secret\n").unwrap();
    let password = enforcer(&config).config.peers[0].password.clone().unwrap();
    assert_eq!(password.octets(), b"secret");
    assert!(!format!("{password:?}").contains("secret"));
}

/// A router played by a speaker, and the enforcer that talks to it.
struct World {
    commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Event>,
    status: BgpStatus,
    router: Option<Speaker>,
    seen: SpeakerHandle,
    running: tokio::task::JoinHandle<()>,
}

impl World {
    async fn up(families: Families) -> Self {
        let taken = std::net::TcpListener::bind((ROUTER, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        drop(taken);
        let mut config = with_peer(&format!("port = {port}\nsettle = \"0s\"\nlocal_address = \"127.0.0.1\"\n"));
        config.bgp.peer[0].address = ROUTER.into();
        let mut guard = PeerConfig::new("guard", IpAddr::from([127, 0, 0, 1]), 64512);
        guard.passive = true;
        guard.role = Role::Observer;
        guard.families = families;
        let speaker = SpeakerConfig {
            asn: 64513,
            router_id: Ipv4Addr::new(192, 0, 2, 254),
            listen: vec![SocketAddr::new(ROUTER, port)],
            peers: vec![guard],
            ..enforcer(&config).config
        };
        let (router, mut events) = Speaker::start(speaker).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let running = enforcer(&config).start(Clock::start(), std::sync::Arc::new(|_| true)).await.unwrap();
        let status = running.status();
        let (commands, receiver) = mpsc::channel(8);
        let (sender, reports) = mpsc::channel(8);
        let running = tokio::spawn(running.run(receiver, sender));
        commands.send(Command::Restored).await.unwrap();
        Self { commands, reports, status, seen: router.handle(), router: Some(router), running }
    }

    /// The next report but for those of what the session has negotiated.
    async fn report(&mut self) -> Event {
        loop {
            let next = tokio::time::timeout(LONG, self.reports.recv()).await;
            let event = next.expect("a report in time").expect("it runs");
            if !matches!(event, Event::Families { .. }) {
                return event;
            }
        }
    }

    async fn apply(&self, generation: u64, changes: &[(&str, bool)]) {
        let changes = changes.iter().map(|(address, open)| {
            let address = address.parse().unwrap();
            if *open { Change::Open { address, ends: Moment(1_000_000) } } else { Change::Close { address } }
        });
        let command = Command::Apply { generation: Generation(generation), changes: changes.collect() };
        self.commands.send(command).await.unwrap();
    }

    fn received(&self) -> (u64, u64) {
        let received = self.seen.status()[0].received;
        (received.announced, received.withdrawn)
    }
}

fn applied(event: &Event, wanted: u64) -> bool {
    matches!(event, Event::Applied { enforcer: EnforcerId(3), generation } if generation.0 == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_reaches_the_router_and_is_reported() {
    let mut world = World::up(Families::ALL).await;
    let first = world.report().await;
    assert!(applied(&first, 0), "{first:?}");
    world.apply(1, &[("203.0.113.1", true), ("2001:db8::5", true)]).await;
    let event = world.report().await;
    assert!(applied(&event, 1), "{event:?}");
    world.apply(2, &[("203.0.113.1", false)]).await;
    let event = world.report().await;
    assert!(applied(&event, 2), "{event:?}");
    let deadline = Instant::now() + LONG;
    // Three open prefixes and two leases; one lease withdrawn.
    while world.received() != (5, 1) {
        assert!(Instant::now() < deadline, "{:?}", world.received());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let peer = world.status.peers().remove(0).status;
    let words = (peer.name.as_str(), peer.state.to_string(), peer.confirm.to_string());
    assert_eq!(words, ("edge1", "Established".to_owned(), "acked".to_owned()));
    assert_eq!(peer.advertised, [2, 2]);

    let router = world.router.take().unwrap();
    router.stop(Stop::Shutdown("reboot".to_owned())).await;
    let event = world.report().await;
    let Event::Lost { enforcer: EnforcerId(3), reason } = event else { panic!("{event:?}") };
    assert_eq!(reason, "peer says: Cease, hard reset: Cease, administrative shutdown: \"reboot\"");
    drop(world.commands);
    tokio::time::timeout(LONG, world.running).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_replaces_what_was_there() {
    let mut world = World::up(Families::ALL).await;
    world.report().await;
    world.apply(1, &[("203.0.113.1", true), ("203.0.113.2", true)]).await;
    world.report().await;
    let leases = ["203.0.113.2", "203.0.113.3"].map(|address| (address.parse().unwrap(), Moment(5)));
    let command = Command::Sync { generation: Generation(2), leases: leases.to_vec(), pairs: Vec::new() };
    world.commands.send(command).await.unwrap();
    let event = world.report().await;
    assert!(applied(&event, 2), "{event:?}");
    let deadline = Instant::now() + LONG;
    while world.received() != (6, 1) {
        assert!(Instant::now() < deadline, "{:?}", world.received());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_router_does_not_take_is_refused_and_never_reported_as_applied() {
    let mut world = World::up(Families { ipv4: true, ipv6: false }).await;
    let first = world.report().await;
    assert!(applied(&first, 0), "{first:?}");
    world.apply(1, &[("203.0.113.1", true), ("2001:db8::5", true)]).await;
    let event = world.report().await;
    let Event::RefusedAddress { enforcer: EnforcerId(3), address, generation: Generation(1), reason } = event else {
        panic!("{event:?}")
    };
    assert_eq!(address, "2001:db8::5".parse::<IpAddr>().unwrap());
    assert_eq!(reason, "the peer did not negotiate ipv6");
    // The core answers a refusal by closing what the plan opened.
    world.apply(2, &[("203.0.113.1", false), ("2001:db8::5", false)]).await;
    let event = world.report().await;
    assert!(applied(&event, 2), "{event:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_withdraws_and_announces_the_operators_prefixes_on_the_running_session() {
    let mut world = World::up(Families::ALL).await;
    world.report().await;
    let deadline = Instant::now() + LONG;
    for (enforce, wanted) in [(false, (3, 3)), (true, (6, 3))] {
        let (done, heard) = tokio::sync::oneshot::channel();
        world.commands.send(Command::Enforce { enforce, done }).await.unwrap();
        heard.await.unwrap().unwrap();
        while world.received() != wanted {
            assert!(Instant::now() < deadline, "{:?}", world.received());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(world.status.peers()[0].status.established, 1);
}
