//! Two guards at one router: what the router has from one of them is no word on the other's path, and yet it forwards. A name that both hold is answered
//! at once by both; and when one goes, the other knows what that took with it.

use super::*;

const OTHER: &str = "192.0.2.4";
const OTHER_WATCH: &str = "192.0.2.5";
/// The router refuses it from the second guard alone.
const UNWANTED: &str = "203.0.113.66";
const REJECT: &str = "if net = 203.0.113.66/32 then reject;";

/// The second guard, with the first one's AS or another.
fn second(confirm: Confirm, asn: u32) -> SpeakerConfig {
    let mut config = if confirm == Confirm::Reflect { reflected() } else { config(confirm) };
    config.asn = asn;
    config.router_id = Ipv4Addr::new(192, 0, 2, 4);
    config.communities = vec![(asn << 16) | 200];
    config.no_export = false;
    config.listen = vec![SocketAddr::new(address(OTHER), 179)];
    for (peer, local) in config.peers.iter_mut().zip([OTHER, OTHER_WATCH]) {
        peer.local_address = Some(address(local));
    }
    config
}

fn first(confirm: Confirm) -> SpeakerConfig {
    let mut config = if confirm == Confirm::Reflect { reflected() } else { config(confirm) };
    config.no_export = false;
    config
}

/// BIRD with sessions for both guards and their observers.
fn bird(asn: u32, other: u32) -> Lab {
    let sessions = |guard: &str, at: &str, watch: &str, asn: u32| {
        let export = "import none; export where source = RTS_BGP;";
        format!(
            "protocol bgp {guard} {{ local 192.0.2.254 as 64513; neighbor {at} as {asn}; password \"s3cret\"; ttl security on; \
             passive on; direct; hold time 9; error wait time 1, 2;\n ipv4 {{ import filter {guard}4_in; export none; gateway direct; }}; }}\n\
             protocol bgp {guard}_watch {{ local 192.0.2.254 as 64513; neighbor {watch} as {asn}; passive on; direct; hold time 9; \
             error wait time 1, 2; ipv4 {{ {export} }}; }}\n"
        )
    };
    let text = std::fs::read_to_string("tests/interop/bird.conf").unwrap();
    let own = text.split("protocol bgp guard {").next().unwrap();
    let accept = "filter guard4_in { if net.len != 32 then reject \"not a host route: \", net; accept; }";
    assert!(own.contains(accept));
    let filters = format!("{accept}\nfilter second4_in {{ {REJECT} accept; }}");
    let text = own.replace(accept, &filters)
        + &sessions("guard", "192.0.2.2", WATCH, asn)
        + &sessions("second", OTHER, OTHER_WATCH, other);
    let lab = Lab::builder("tests/interop/bird.clab.yml").hold("router").up().unwrap();
    lab.node("router").write(BIRD.1, &text).unwrap();
    both_guards(lab)
}

/// FRR likewise; what it sends the observers is in its kernel.
fn frr(asn: u32, other: u32) -> Lab {
    let text = std::fs::read_to_string("tests/interop/frr.conf").unwrap();
    let (own, _) = text.split_once("router bgp").unwrap();
    let mut text = own.replace("route-map DENY deny 10\n", "route-map DENY deny 10\nroute-map ALL permit 10\n");
    text.push_str("ip prefix-list UNWANTED seq 5 permit 203.0.113.66/32\nroute-map OTHER4-IN deny 5\n match ip address prefix-list UNWANTED\n");
    text.push_str("route-map OTHER4-IN permit 10\n match ip address prefix-list HOST4\n");
    text.push_str(
        "router bgp 64513\n bgp router-id 192.0.2.254\n bgp suppress-fib-pending\n no bgp default ipv4-unicast\n",
    );
    for (guard, watch, asn) in [("192.0.2.2", WATCH, asn), (OTHER, OTHER_WATCH, other)] {
        text.push_str(&format!(
            " neighbor {guard} remote-as {asn}\n neighbor {guard} password s3cret\n neighbor {guard} ttl-security hops 1\n \
             neighbor {guard} timers 3 9\n neighbor {guard} passive\n neighbor {watch} remote-as {asn}\n neighbor {watch} timers 3 9\n \
             neighbor {watch} passive\n neighbor {watch} advertisement-interval 0\n"
        ));
    }
    text.push_str(" address-family ipv4 unicast\n");
    for (guard, watch, map) in [("192.0.2.2", WATCH, "GUARD4-IN"), (OTHER, OTHER_WATCH, "OTHER4-IN")] {
        text.push_str(&format!(
            "  neighbor {guard} activate\n  neighbor {guard} route-map {map} in\n  neighbor {guard} route-map DENY out\n  \
             neighbor {watch} activate\n  neighbor {watch} route-map DENY in\n  neighbor {watch} route-map ALL out\n"
        ));
    }
    text.push_str(" exit-address-family\n");
    let lab = Lab::builder("tests/interop/frr.clab.yml").hold("router").up().unwrap();
    lab.node("router").write(FRR.1, &text).unwrap();
    both_guards(lab)
}

fn both_guards(lab: Lab) -> Lab {
    lab.node("router").start().unwrap();
    answer_all(lab.node("router"));
    for address in [WATCH, OTHER, OTHER_WATCH] {
        lab.node("guard").ok(&format!("ip addr add {address}/24 dev eth1")).unwrap();
    }
    lab
}

/// Of IPv4 alone: the routers here have nothing else for the second guard.
fn ipv4_only(mut config: SpeakerConfig, patience: Duration) -> SpeakerConfig {
    config.next_hop_ipv6 = None;
    for peer in &mut config.peers {
        peer.families = Families { ipv4: true, ipv6: false };
        peer.patience = patience;
    }
    config
}

fn a_name_of_both_is_held_by_both(lab: Lab, confirm: Confirm, other: u32, patience: Duration) {
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut one = Session::start(ipv4_only(first(confirm), patience)).await;
        let mut two = Session::start(ipv4_only(second(confirm, other), patience)).await;
        one.first().await;
        two.first().await;
        let (shared, unwanted) = (host(1), address(UNWANTED));
        one.handle.apply(1, [(shared, true), (unwanted, true)]);
        one.until("the first guard's", |one| one.holds(0, shared, 1) && one.holds(0, unwanted, 1)).await;
        wait_for(|| !kernel(router, shared).is_empty() && !kernel(router, unwanted).is_empty()).await;

        // The second guard's path is none that anybody sees, and what it opens is open.
        let begun = Instant::now();
        two.handle.apply(1, [(shared, true), (unwanted, true)]);
        two.until("the second guard's", |two| two.holds(0, shared, 1) && two.holds(0, unwanted, 1)).await;
        eprintln!(
            "{confirm}: held by the second guard after {:?}, {} borrowed",
            begun.elapsed(),
            two.status().borrowed
        );
        assert!(two.refused[0].is_empty(), "{}", two.logs);
        let sees = matches!(confirm, Confirm::Reflect | Confirm::Probe);
        assert!(!sees || two.status().borrowed > 0, "{:?}", two.status());

        // It withdraws, and the router goes on by the first guard's: that is no withdrawal that failed.
        two.handle.apply(2, [(shared, false)]);
        two.until("the withdrawal", |two| two.confirmed[0] >= Some(2) && two.status().closing == 0).await;
        assert_eq!(two.warning(), "");
        two.handle.apply(3, [(shared, true)]);
        two.until("it again", |two| two.holds(0, shared, 3)).await;
        assert!(two.refused[0].is_empty() && !kernel(router, shared).is_empty(), "{}", two.logs);

        // The first guard dies: the router has the second one's path for one of them, and none for the other.
        two.missing[0].clear();
        one.speaker.stop(Stop::Shutdown(String::new())).await;
        wait_for(|| kernel(router, unwanted).is_empty()).await;
        if sees {
            two.until("what went with it", |two| two.missing[0].contains(&IpNet::from(unwanted))).await;
        }
        wait_for(|| !kernel(router, shared).is_empty()).await;
        two.until("what is left", |two| !two.missing[0].contains(&IpNet::from(shared)) || two.holds(0, shared, 3))
            .await;
        assert!(!sees || !two.holds(0, unwanted, 1) || two.confirmed[0].is_some(), "{}", two.logs);
        two.stop().await;
    });
    lab.down().unwrap();
}

async fn wait_for(mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !met() {
        assert!(Instant::now() < deadline, "not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const SHORT: Duration = Duration::from_millis(800);

#[test]
fn on_bird_that_reflects() {
    a_name_of_both_is_held_by_both(bird(64512, 64512), Confirm::Reflect, 64512, SHORT);
}

#[test]
fn on_bird_that_reflects_guards_of_two_systems() {
    a_name_of_both_is_held_by_both(bird(64512, 64514), Confirm::Reflect, 64514, SHORT);
}

#[test]
fn on_bird_that_is_probed() {
    a_name_of_both_is_held_by_both(bird(64512, 64512), Confirm::Probe, 64512, SHORT);
}

#[test]
fn on_bird_that_is_taken_by_its_word() {
    a_name_of_both_is_held_by_both(bird(64512, 64512), Confirm::Refresh, 64512, SHORT);
    a_name_of_both_is_held_by_both(bird(64512, 64514), Confirm::Acked, 64514, SHORT);
}

/// FRR 8.4 sends on once a second.
#[test]
fn on_frr_that_reflects() {
    a_name_of_both_is_held_by_both(frr(64512, 64512), Confirm::Reflect, 64512, Duration::from_secs(4));
}

#[test]
fn on_frr_that_is_probed() {
    a_name_of_both_is_held_by_both(frr(64512, 64514), Confirm::Probe, 64514, SHORT);
}

#[test]
fn on_frr_that_is_taken_by_its_word() {
    a_name_of_both_is_held_by_both(frr(64512, 64512), Confirm::Acked, 64512, SHORT);
}
