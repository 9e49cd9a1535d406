use super::*;

fn enforcer(name: &str, state: EnforcerState) -> EnforcerView {
    EnforcerView {
        name: name.to_owned(),
        required: true,
        state,
        since_seconds: 1,
        acknowledged: None,
        behind: false,
        behind_seconds: 0,
        budget_used: None,
        installed: 0,
        max_addresses: 1,
        last_error: Some("it broke".to_owned()),
        repairs: std::collections::BTreeMap::new(),
        would_announce: None,
    }
}

fn optional(name: &str, state: EnforcerState) -> EnforcerView {
    EnforcerView { required: false, ..enforcer(name, state) }
}

fn peer(name: &str, state: &str, since: u64, confirm: &str) -> Peer {
    let text = format!(
        r#"{{"name":"{name}","address":"192.0.2.1","asn":1,"state":"{state}","since_seconds":{since},
           "advertised":{{"ipv4":0,"ipv6":0}},"confirm":"{confirm}","capabilities":[],"last_error":null}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn of(enforcers: &[EnforcerView], peers: &[Peer]) -> (State, Found) {
    judge(enforcers, peers, Found::default(), Vec::new())
}

#[test]
fn the_worst_decides_and_every_reason_is_told() {
    let fine = enforcer("nftables", EnforcerState::InForce);
    let late = enforcer("edge1", EnforcerState::Starting);
    let lost = enforcer("edge2", EnforcerState::Lost);
    let audit = || vec!["bgp.enforce is false".to_owned()];
    assert_eq!(of(std::slice::from_ref(&fine), &[]), (State::Enforcing, Found::default()));
    let with_audit = |enforcers: &[EnforcerView]| judge(enforcers, &[], Found::default(), audit());
    assert_eq!(with_audit(std::slice::from_ref(&fine)).0, State::Audit);
    assert_eq!(with_audit(&[fine.clone(), late.clone()]).0, State::Starting);
    let (state, found) = with_audit(&[fine, late, lost]);
    assert_eq!(state, State::Degraded);
    assert_eq!(
        found.reasons,
        [
            "edge2 is lost: it broke, so answers with new addresses are refused",
            "edge1 has not reported yet",
            "bgp.enforce is false"
        ]
    );
}

#[test]
fn in_audit_a_lost_packet_filter_is_told_by_what_is_not_counted() {
    let lost = enforcer("nftables", EnforcerState::Lost);
    let found = Found { audits: true, ..Found::default() };
    let (state, found) = judge(&[lost], &[], found, vec!["mode = \"audit\"".to_owned()]);
    assert_eq!(state, State::Degraded);
    assert_eq!(
        found.reasons,
        ["nftables is lost: it broke, so packets that enforcing would refuse are not counted", "mode = \"audit\""]
    );
}

#[test]
fn what_is_not_required_is_told_and_decides_nothing() {
    let fine = enforcer("edge1", EnforcerState::InForce);
    for (state, words) in [
        (EnforcerState::Starting, "spare has not come up yet: Active (not required)"),
        (EnforcerState::Lost, "spare is lost: it broke (not required)"),
        (EnforcerState::Partial, "spare has confirmed 0 of its addresses (not required)"),
    ] {
        let peers = [peer("spare", "Active", 60, "acked")];
        let (word, found) = of(&[fine.clone(), optional("spare", state)], &peers);
        assert_eq!((word, found.reasons), (State::Enforcing, vec![]), "{state:?}");
        assert_eq!(found.warnings, [words]);
    }
    let behind = EnforcerView { behind_seconds: 60, ..optional("spare", EnforcerState::InForce) };
    assert_eq!(of(&[fine, behind], &[]).0, State::Enforcing);
}

#[test]
fn a_router_that_is_up_and_confirms_nothing_is_named_with_the_cause() {
    let starting = enforcer("edge1", EnforcerState::Starting);
    for (confirm, cause) in [
        ("refresh", "does not answer ROUTE-REFRESH"),
        ("reflect + 75ms", "the observer's session"),
        ("probe", "no probe is answered"),
        ("acked + 75ms", "its TCP acknowledges nothing"),
    ] {
        let early = [peer("edge1", "Established", CONFIRMS_WITHIN - 1, confirm)];
        assert_eq!(of(std::slice::from_ref(&starting), &early).0, State::Starting, "{confirm}");
        let late = [peer("edge1", "Established", CONFIRMS_WITHIN, confirm)];
        let (state, found) = of(std::slice::from_ref(&starting), &late);
        assert_eq!(state, State::Degraded, "{confirm}");
        assert!(found.reasons[0].contains("has confirmed nothing") && found.reasons[0].contains(cause), "{found:?}");
    }
    // It did once, and does no more.
    let stuck = EnforcerView { behind_seconds: CONFIRMS_WITHIN, ..enforcer("edge1", EnforcerState::InForce) };
    let up = [peer("edge1", "Established", 900, "refresh")];
    let (state, found) = of(&[stuck], &up);
    assert_eq!(state, State::Degraded);
    assert!(found.reasons[0].starts_with("edge1 has confirmed nothing for 3 s"), "{found:?}");
    // Whose observer is away can't be seen to hold anything.
    let mut watched = peer("edge1", "Established", 900, "reflect + 75ms");
    watched.observer = Some("watch".to_owned());
    for (observer, expected) in [("Established", State::Enforcing), ("Active", State::Degraded)] {
        let peers = [watched.clone(), peer("watch", observer, 60, "observer")];
        assert_eq!(of(&[enforcer("edge1", EnforcerState::InForce)], &peers).0, expected, "{observer}");
    }
    // The session itself knows why.
    let mut knows = peer("edge1", "Established", 900, "probe");
    knows.unconfirmed = Some("acknowledged but not forwarded".to_owned());
    for state in [EnforcerState::InForce, EnforcerState::Partial, EnforcerState::Starting, EnforcerState::Lost] {
        let (word, found) = of(&[enforcer("edge1", state)], std::slice::from_ref(&knows));
        assert_eq!(word, State::Degraded, "{state:?}");
        assert!(found.reasons[0].contains("acknowledged but not forwarded"), "{found:?}");
    }
}

#[test]
fn what_is_nearly_full_is_a_warning_and_what_is_full_a_reason() {
    let full = |counts: Counts| {
        let mut found = Found::default();
        found.tables(&Counts { capacity: 10, ..counts });
        found
    };
    assert_eq!(full(Counts { ipv4: 7, ..Counts::default() }), Found::default());
    let nearly = full(Counts { ipv4: 4, ipv6: 3, lingering: 1, ..Counts::default() });
    assert_eq!(nearly.warnings, ["the lease table is 80 % full: 8 of 10 (lease.capacity)"]);
    assert_eq!(nearly.reasons, Vec::<String>::new());
    let over = full(Counts { ipv4: 9, lingering: 1, pairs: 10, ..Counts::default() });
    assert!(over.reasons[0].starts_with("the lease table is full: 10 of 10"), "{over:?}");
    assert!(over.reasons[1].starts_with("the table of clients' leases is full"), "{over:?}");
    // A budget bounds all routers, required or not.
    for (used, state) in [(79, State::Enforcing), (80, State::Enforcing), (100, State::Degraded)] {
        let of_router = |view: EnforcerView| EnforcerView { budget_used: Some(used), max_addresses: 100, ..view };
        for view in [enforcer("edge1", EnforcerState::InForce), optional("edge1", EnforcerState::InForce)] {
            let (word, found) = of(&[of_router(view)], &[]);
            assert_eq!((word, found.warnings.len()), (state, usize::from(used == 80)), "{used}: {found:?}");
        }
    }
}

#[test]
fn an_upstream_that_never_replied_is_not_called_well_and_stops_nothing() {
    let upstream = |state: &str, failed| Upstream { state: state.to_owned(), failed, ..Upstream::default() };
    let told = |upstreams: &[Upstream]| {
        let mut found = Found::default();
        found.upstreams(upstreams);
        (found.reasons.len(), found.warnings.len())
    };
    assert_eq!(told(&[]), (0, 0));
    assert_eq!(told(&[upstream("unknown", 0)]), (0, 0), "nobody asked yet");
    assert_eq!(told(&[upstream("unknown", 1)]), (0, 1));
    assert_eq!(told(&[upstream("broken", 9), upstream("broken", 9)]), (1, 0));
    assert_eq!(told(&[upstream("broken", 9), upstream("healthy", 0)]), (0, 1));
}
