//! Lists, response policy zones and groups, as clients meet them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::encrypted::{address, front};
use super::encrypted_ends::*;
use super::harness::*;
use crate::core::event::Reload;
use crate::dns::Transport;

/// A list in a directory of its own, and the configuration that names it.
fn list(format: &str, text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("list");
    std::fs::write(&path, text).unwrap();
    let path = path.display();
    (directory, format!("[[policy.list]]\nname = \"l\"\npath = \"{path}\"\nformat = \"{format}\"\naction = \"deny\"\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_behind_an_alias_is_caught_by_a_list() {
    // Scenario: CNAME cloaking. The name asked is the site's own, the alias leads to the listed company.
    let upstream = Upstream::new(|query, _| {
        let records = [cname("metrics.shop.example", 60, "x.tracker.example"), a("x.tracker.example", 60, "192.0.2.1")];
        Act::Send(vec![response(query, 0, &records)])
    })
    .await;
    let (_directory, text) = list("adblock", "! trackers\n||tracker.example^\n");
    let world = World::with(config(&[&upstream], &text)).await;
    let seen = world.ask("metrics.shop.example", 1).await;
    assert_eq!((seen.rcode, seen.addresses()), (3, Vec::new()));
    let (code, words) = seen.ede.unwrap();
    assert_eq!(code, 15);
    assert!(words.contains("tracker.example") && words.contains("list:2"), "{words}");
    assert!(world.enforced.open.lock().unwrap().is_empty());
}

const ZONE: &str = "@ SOA a. b. 1 1 1 1 1\n\
    bad.example CNAME .\n\
    empty.example CNAME *.\n\
    silent.example CNAME rpz-drop.\n\
    slow.example CNAME rpz-tcp-only.\n\
    *.tree.example CNAME .\n\
    ok.tree.example CNAME rpz-passthru.\n\
    32.66.2.0.192.rpz-ip CNAME .\n\
    32.67.2.0.192.rpz-ip CNAME *.\n\
    32.2.0.0.127.rpz-client-ip CNAME .\n";

#[tokio::test(flavor = "multi_thread")]
async fn each_action_of_a_policy_zone_is_what_the_client_sees() {
    let names = ["bad", "empty", "silent", "slow", "x.tree", "ok.tree", "plain"].map(|name| format!("{name}.example"));
    let mut table: Vec<(&str, u32, &[&str])> =
        names.iter().map(|name| (name.as_str(), 60, &["192.0.2.1"][..])).collect();
    table.push(("trap.example", 60, &["192.0.2.5", "192.0.2.66"]));
    table.push(("hole.example", 60, &["192.0.2.67"]));
    let upstream = Upstream::table(&table).await;
    let (_directory, text) = list("rpz", ZONE);
    let world = World::with(config(&[&upstream], &text)).await;

    let seen = world.ask("bad.example", 1).await;
    assert_eq!((seen.rcode, seen.ede.map(|(code, _)| code)), (3, Some(15)));
    let seen = world.ask("empty.example", 1).await;
    assert_eq!((seen.rcode, seen.answers.len(), seen.ede.map(|(code, _)| code)), (0, 0, Some(15)));
    assert_eq!(world.ask("x.tree.example", 1).await.rcode, 3);
    assert_eq!(world.ask("ok.tree.example", 1).await.addresses().len(), 1);
    assert_eq!(world.ask("plain.example", 1).await.addresses().len(), 1);

    // By the answer's addresses: all of it is denied, nothing of it opened; twice, since the second comes from the cache.
    for _ in 0..2 {
        let seen = world.ask("trap.example", 1).await;
        assert_eq!((seen.rcode, seen.addresses()), (3, Vec::new()));
        let words = seen.ede.unwrap().1;
        assert!(words.contains("192.0.2.66/32") && words.contains("list:8"), "{words}");
        let seen = world.ask("hole.example", 1).await;
        assert_eq!((seen.rcode, seen.answers.len()), (0, 0));
    }
    assert!(!world.enforced.is_open("192.0.2.5") && !world.enforced.is_open("192.0.2.66"));

    // Over TCP only, also when TCP has just had the answer.
    for _ in 0..2 {
        let seen = world.ask("slow.example", 1).await;
        assert!(seen.truncated() && seen.answers.is_empty());
        let seen = world.ask_tcp(&[query(1, "slow.example", 1, EDNS)]).await;
        assert_eq!((seen[0].truncated(), seen[0].addresses().len()), (false, 1));
    }
    let told = world.refused().into_iter().filter(|(_, what, ..)| what.starts_with("slow.example")).collect::<Vec<_>>();
    assert!(
        matches!(told.as_slice(), [(_, what, why, 2)] if what == "slow.example A" && why.starts_with("tcp_only: over TCP only: ")),
        "{told:?}"
    );

    // No reply: the one to the question behind it comes first.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(1, "silent.example", 1, EDNS), world.address).await.unwrap();
    socket.send_to(&query(2, "bad.example", 1, EDNS), world.address).await.unwrap();
    let mut buffer = [0; 1500];
    let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(read(&buffer[..len]).id, 2);
    // Over TCP too, on the same connection; and more of them than may wait at once take nobody's place.
    use tokio::io::AsyncWriteExt;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let framed = |id, name| {
        let query = query(id, name, 1, EDNS);
        [&(query.len() as u16).to_be_bytes()[..], &query].concat()
    };
    let mut sent: Vec<u8> = (0..1000).flat_map(|id| framed(id, "silent.example")).collect();
    sent.extend(framed(1000, "plain.example"));
    stream.write_all(&sent).await.unwrap();
    let seen = next_tcp(&mut stream).await;
    assert_eq!((seen.id, seen.addresses().len()), (1000, 1));
    assert!(world.refused().iter().any(|(_, what, ..)| what == "silent.example A"), "{:?}", world.refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_dropped_has_no_reply_on_encrypted_transports_either() {
    let upstream = Upstream::table(&[("plain.example", 60, &["192.0.2.1"])]).await;
    let (_directory, text) = list("rpz", ZONE);
    let authority = Authority::new();
    let world = front(&upstream, &authority, &text).await;
    let (silent, plain) = (query(0, "silent.example", 1, EDNS), query(0, "plain.example", 1, EDNS));
    // The stream ends at once, and the next question on the same connection is answered.
    let mut https = connect_https(address(&world, Transport::Https), &authority).await;
    let mut post = async |query: &[u8]| {
        let request = hyper::Request::post("https://guard.example/dns-query")
            .header("content-type", "application/dns-message")
            .body(http_body_util::Full::new(hyper::body::Bytes::from(query.to_vec())))
            .unwrap();
        https.ready().await.unwrap();
        tokio::time::timeout(PATIENCE, https.send_request(request)).await.expect("no wait")
    };
    let error = post(&silent).await.expect_err("no response");
    let text = format!("{error:?}");
    assert!(text.contains("Reset") && text.contains("INTERNAL_ERROR"), "{text}");
    assert_eq!(post(&plain).await.unwrap().status(), 200);

    let (_endpoint, quic) = connect_quic(address(&world, Transport::Quic), &authority).await.unwrap();
    let put = async |query: &[u8]| {
        let (mut send, mut receive) = quic.open_bi().await.unwrap();
        send.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat()).await.unwrap();
        send.finish().unwrap();
        tokio::time::timeout(PATIENCE, receive.read_to_end(70_000)).await.expect("no wait")
    };
    let error = put(&silent).await.expect_err("no reply");
    assert!(
        matches!(error, quinn::ReadToEndError::Read(quinn::ReadError::Reset(code)) if u64::from(code) == 1),
        "{error}"
    );
    assert!(!put(&plain).await.unwrap().is_empty());

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tls = connect(Transport::Tls, address(&world, Transport::Tls), &authority).await.unwrap();
    for (id, query) in [(1, &silent), (2, &plain)] {
        tls.write_all(&[&(query.len() as u16).to_be_bytes()[..], &[0, id], &query[2..]].concat()).await.unwrap();
    }
    let mut head = [0; 4];
    tokio::time::timeout(PATIENCE, tls.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[2..], [0, 2], "the second one's reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_on_the_list_is_denied_what_others_have_in_the_cache() {
    let upstream = Upstream::table(&[("plain.example", 60, &["192.0.2.1"])]).await;
    let (_directory, text) = list("rpz", ZONE);
    let world = World::with(config(&[&upstream], &text)).await;
    assert_eq!(world.ask("plain.example", 1).await.rcode, 0);
    assert_eq!(ask_from("127.0.0.2", world.address, "plain.example").rcode, 3);
    assert_eq!(ask_from("127.0.0.3", world.address, "plain.example").rcode, 0);
    assert_eq!(upstream.count(), 1);
}

fn ask_from(client: &str, to: SocketAddr, name: &str) -> Seen {
    let socket = super::harness::client(&format!("{client}:0"));
    socket.send_to(&query(7, name, 1, EDNS), to).unwrap();
    let mut buffer = [0; 1500];
    let len = socket.recv(&mut buffer).unwrap();
    read(&buffer[..len])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_has_its_own_answers_cached_or_not() {
    let upstream = Upstream::table(&[
        ("game.example", 60, &["192.0.2.1"]),
        ("school.example", 60, &["192.0.2.2"]),
        ("listed.example", 60, &["192.0.2.3"]),
    ])
    .await;
    let (_directory, mut text) = list("domains", "listed.example\n");
    text.push_str(
        "[[policy.group]]\nname = \"children\"\nclients = [\"127.0.1.0/24\"]\ndefault = \"deny\"\n\
         allow = [\"school.example\"]\n\
         [[policy.group]]\nname = \"staff\"\nclients = [\"127.0.1.9\"]\nlists = []\n",
    );
    let world = World::with(config(&[&upstream], &text)).await;
    let denied = |client: &str| {
        ["game.example", "school.example", "listed.example"]
            .map(|name| ask_from(client, world.address, name).rcode == 3)
    };
    for _ in 0..2 {
        assert_eq!(denied("127.0.0.1"), [false, false, true]);
        assert_eq!(denied("127.0.1.1"), [true, false, true]);
        assert_eq!(denied("127.0.1.9"), [false, false, false]);
    }
    // Each view asks for itself and keeps what it was told: three names for staff, two for the others, one for children.
    assert_eq!(upstream.count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_given_while_running_count_for_the_next_answer() {
    let two: &[&str] = &["192.0.2.1", "192.0.2.2"];
    let upstream = Upstream::table(&[
        ("a.example", 60, two),
        ("b.example", 60, two),
        ("c.example", 60, two),
        ("d.same.example", 60, &["192.0.2.3"]),
        ("e.same.example", 60, &["192.0.2.4"]),
    ])
    .await;
    let world = World::with(config(&[&upstream], "per_answer = 1\n")).await;
    let one = [IpAddr::from([192, 0, 2, 1])];
    assert_eq!(world.ask("a.example", 1).await.addresses(), one);
    let mut lease = world.config.lease.clone();
    lease.per_answer = 2;
    let give = |lease| Reload { settings: Some((lease, world.config.gate.clone())), ..Reload::default() };
    world.core.reload(give(lease.clone())).await.unwrap();
    assert_eq!(world.ask("b.example", 1).await.addresses().len(), 2);
    lease.per_answer = 1;
    (lease.new_per_client, lease.burst_per_client) = ("1/h".parse().unwrap(), 1);
    world.core.reload(give(lease)).await.unwrap();
    assert_eq!(world.ask("c.example", 1).await.addresses(), one);
    assert_eq!(
        world.ask("d.same.example", 1).await.addresses().len(),
        1,
        "the one new address that the client may have"
    );
    assert_eq!(world.ask("e.same.example", 1).await.rcode, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_answers_with_its_own_data_under_the_same_guard() {
    let upstream = Upstream::table(&[
        ("garden.example", 300, &["192.0.2.9"]),
        ("own.example", 300, &["192.0.2.66"]),
        ("moved.example", 300, &["192.0.2.67"]),
    ])
    .await;
    let zone = "@ SOA a. b. 1 1 1 1 1\nown.example A 192.0.2.5\nown.example A 192.0.2.6\n\
                moved.example CNAME garden.example.\ncaught.example CNAME bad.example.\nbad.example CNAME .\n\
                inside.example A 10.0.0.1\nown.example TXT \"ask \" \"the operator\"\nown.example MX 5 mail.example.\n";
    let (_directory, text) = list("rpz", zone);
    let world = World::with(config(&[&upstream], &text)).await;
    for _ in 0..2 {
        let seen = world.ask("own.example", 1).await;
        assert_eq!((seen.rcode, seen.addresses().len(), seen.ede.map(|(code, _)| code)), (0, 2, Some(4)));
        assert!(world.enforced.is_open("192.0.2.5") && world.enforced.is_open("192.0.2.6"));
        let seen = world.ask("own.example", 28).await;
        assert_eq!((seen.rcode, seen.answers.len()), (0, 0), "a name with other data");
        let seen = world.ask("own.example", 16).await;
        assert_eq!(
            (seen.answers[0].3.as_slice(), seen.ede.map(|(code, _)| code)),
            (&b"\x04ask \x0cthe operator"[..], Some(4))
        );
        assert_eq!(world.ask("own.example", 15).await.answers[0].3, [&[0, 5][..], &wire("mail.example")].concat());
    }
    assert_eq!(upstream.count(), 0);
    let seen = world.ask("moved.example", 1).await;
    let owners: Vec<_> = seen.answers.iter().map(|(owner, kind, ..)| (owner.as_str(), *kind)).collect();
    assert_eq!(owners, [("moved.example.", 5), ("garden.example.", 1)]);
    assert!(world.enforced.is_open("192.0.2.9") && !world.enforced.is_open("192.0.2.67"));
    // What the data leads to is judged like any answer: by the other rules, and by the address filter.
    assert_eq!(world.ask("caught.example", 1).await.rcode, 3);
    let seen = world.ask("inside.example", 1).await;
    assert_eq!((seen.addresses().len(), seen.ede.map(|(code, _)| code)), (0, Some(17)));
    assert!(!world.enforced.is_open("10.0.0.1"));
}
