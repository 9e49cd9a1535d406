//! Routers that confirm by their word: what it is worth, and what is said when it comes late, never, or is wrong.

use super::*;

const PASSIVE: (&str, &str) = ("ttl security on;", "ttl security on; passive on;");

/// The session's warning starts with this within a minute, and says that nothing is confirmed; routes are announced meanwhile.
async fn warned(session: &mut Session, start: &str) -> String {
    let mut number = 1000;
    let mut last = Instant::now();
    session
        .until("the warning", |session| {
            if last.elapsed() > Duration::from_millis(300) {
                number += 1;
                last = Instant::now();
                session.handle.apply(number, [(host(u32::try_from(number).unwrap()), true)]);
            }
            session.warning().starts_with(start) && session.status().is_failing
        })
        .await;
    session.warning()
}

/// The router's import drops the routes, as it may for RPKI. It answers every ROUTE-REFRESH, and forwards none of them.
#[test]
fn routes_that_the_import_rejects_are_found_out_by_samples() {
    let filter = "filter guard4_in { if net.len != 32 then";
    let lab = lab(BIRD, &[PASSIVE, (filter, &format!("filter guard4_in {{ reject; {}", &filter[18..]))]);
    let router = lab.node("router");
    in_guard(&lab, || async move {
        let mut config = config(Confirm::Refresh);
        config.peers[0].samples = true;
        let mut session = Session::start(config).await;
        session.first().await;
        let warning =
            warned(&mut session, "acknowledged but not forwarded: packets to 3 sampled addresses in a row").await;
        assert!(warning.contains("does its import reject the routes"), "{warning}");
        assert!(session.refused[0].is_empty() && session.missing[0].is_empty(), "{}", session.logs);
        // As soon as one gets through the router is believed again.
        let good = router.file(BIRD.1).unwrap().replace("filter guard4_in { reject;", "filter guard4_in {");
        router.write(BIRD.1, &good).unwrap();
        router.ok("birdc configure").unwrap();
        let mut number = 5000;
        session
            .until("an answered sample", |session| {
                number += 1;
                if number % 20 == 0 {
                    session.handle.apply(number, [(host(u32::try_from(number).unwrap()), true)]);
                }
                !session.status().is_failing
            })
            .await;
        session.stop().await;
    });
    lab.down().unwrap();
}

/// A router that answers no ICMP is not suspected of anything.
#[test]
fn a_silent_router_is_not_suspected() {
    let filter = "filter guard4_in { if net.len != 32 then";
    let lab = lab(BIRD, &[PASSIVE, (filter, &format!("filter guard4_in {{ reject; {}", &filter[18..]))]);
    lab.node("router")
        .ok("nft 'table inet silent { chain out { type filter hook output priority 0; icmp type time-exceeded drop; }; }'")
        .unwrap();
    in_guard(&lab, || async {
        let mut config = config(Confirm::Refresh);
        config.peers[0].samples = true;
        let mut session = Session::start(config).await;
        session.first().await;
        let begun = Instant::now();
        let mut number = 0;
        // Longer than a trial and its control take.
        session
            .until("some trials", |session| {
                number += 1;
                if number % 20 == 0 {
                    session.handle.apply(number, [(host(u32::try_from(number).unwrap()), true)]);
                }
                begun.elapsed() > Duration::from_secs(9)
            })
            .await;
        assert_eq!(session.warning(), "", "{}", session.logs);
        session.stop().await;
    });
    lab.down().unwrap();
}

/// FRR that exports nothing sends EoRR with its next KEEPALIVE: too late for an answer, and that is said before anybody asks.
#[test]
fn a_router_whose_eorr_comes_late_is_said_to_be_late() {
    let lab = lab(FRR, &[("timers connect 2", "passive"), ("timers 3 9", "timers 20 60")]);
    in_guard(&lab, || async {
        let mut config = config(Confirm::Refresh);
        config.graceful_restart = Duration::from_secs(120);
        config.peers[0].hold_time = Duration::from_secs(60);
        let mut session = Session::start(config).await;
        session
            .until("the cause", |session| {
                let warning = session.warning();
                session.status().is_failing
                    && (warning.contains("only, and answers are given up before")
                        || warning.contains("doesn't answer ROUTE-REFRESH"))
            })
            .await;
        session.stop().await;
    });
    lab.down().unwrap();
}

/// Of a session on which not one address was confirmed the first that is given up says enough: nobody waits for more of them.
#[test]
fn a_router_that_forwards_nothing_is_said_to_with_the_first_address() {
    let filter = "filter guard4_in { if net.len != 32 then";
    let lab = lab(
        BIRD,
        &[
            PASSIVE,
            (filter, &format!("filter guard4_in {{ if net ~ [ 198.18.0.0/15+ ] then reject; {}", &filter[18..])),
        ],
    );
    answer_all(lab.node("router"));
    in_guard(&lab, || async {
        let mut session = Session::start(config(Confirm::Probe)).await;
        session.first().await;
        session.handle.apply(1, [(host(1), true)]);
        session.until("the refusal", |session| session.refused[0].contains(&host(1))).await;
        session.until("the cause", |session| session.status().is_failing).await;
        assert!(
            session.warning().starts_with("acknowledged but not forwarded: 1 routes in a row"),
            "{}",
            session.warning()
        );
        // Where others are confirmed one may be filtered on purpose.
        session.handle.apply(2, [(address("203.0.113.7"), true)]);
        session.until("another", |session| session.holds(0, address("203.0.113.7"), 2)).await;
        session.handle.apply(3, [(host(2), true)]);
        session.until("the second refusal", |session| session.refused[0].contains(&host(2))).await;
        assert!(!session.status().is_failing, "{}", session.warning());
        session.stop().await;
    });
    lab.down().unwrap();
}

/// Large packets are lost on the way, and no router says so: the session stays up on its KEEPALIVEs until the hold time is over.
#[test]
fn a_path_that_loses_large_packets_is_named() {
    let lab = lab(BIRD, &[PASSIVE]);
    lab.node("router")
        .ok("nft 'table inet small { chain in { type filter hook input priority 0; meta length > 600 drop; }; }'")
        .unwrap();
    in_guard(&lab, || async {
        let mut session = Session::start(config(Confirm::Acked)).await;
        session.first().await;
        session.handle.apply(1, (0..2000).map(|number| (host(number), true)));
        session
            .until("the cause", |session| {
                let warning = session.warning();
                warning.starts_with("its TCP has acknowledged nothing for") && warning.contains("path MTU")
            })
            .await;
        assert!(session.status().is_failing && session.confirmed[0] < Some(1), "{}", session.logs);
        session.stop().await;
    });
    lab.down().unwrap();
}

/// GoBGP has no RFC 7313: the prefix that it exports is the echo. With a full table instead of one prefix nothing is confirmed.
#[test]
fn gobgp_echoes_its_beacon_and_a_full_table_is_refused() {
    let lab = lab(("gobgp", "/etc/gobgp/gobgpd.toml"), &[]);
    let router = lab.node("router");
    let beacons = |verb: &str, all: std::ops::Range<u32>| {
        let lines = all.map(|number| format!("gobgp global rib {verb} 198.18.{number}.0/24"));
        router.ok(&lines.collect::<Vec<_>>().join(" && ")).unwrap();
    };
    in_guard(&lab, || async move {
        let mut session = Session::start(config(Confirm::Refresh)).await;
        session.handle.apply(1, [(address("203.0.113.1"), true)]);
        session.until("the reason", |session| session.unable.is_some()).await;
        assert!(session.unable.as_ref().unwrap().contains("exports no prefix to us that could be its echo"));
        assert!(session.warning().starts_with("nothing is confirmed: "), "{}", session.warning());
        beacons("add", 0..1);
        session.until("the echo", |session| session.confirmed[0] >= Some(1)).await;
        for generation in 2..=10 {
            session.handle.apply(generation, [(address(&format!("203.0.113.{generation}")), true)]);
            session.until("the echo", |session| session.confirmed[0] >= Some(generation)).await;
            assert!(router.ok("gobgp global rib").unwrap().contains(&format!("203.0.113.{generation}/32")));
        }
        beacons("add", 1..20);
        session.until("the refusal", |session| session.unable.is_some()).await;
        assert!(session.unable.as_ref().unwrap().contains("exports more than 16 routes to us"));
        session.handle.apply(11, [(address("203.0.113.200"), true)]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        session.until("nothing", |_| true).await;
        assert!(session.unable.is_some() && session.confirmed[0] < Some(11), "{}", session.logs);
        beacons("del", 1..20);
        session.until("the echo again", |session| session.confirmed[0] >= Some(11)).await;
        assert_eq!(session.status().warning, None);
        session.stop().await;
    });
    lab.down().unwrap();
}
