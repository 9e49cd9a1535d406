//! Clients that ask too much, or in somebody else's name.

use super::harness::*;

/// A query whose OPT bears a COOKIE option of these octets.
fn with_cookie(name: &str, cookie: &[u8]) -> Vec<u8> {
    let mut message = query(7, name, 1, EDNS);
    let end = message.len();
    message[end - 1] = (cookie.len() + 4) as u8;
    message.extend_from_slice(&[0, 10, 0, cookie.len() as u8]);
    message.extend_from_slice(cookie);
    message
}

/// The replies that come before the one to a sentinel (which is sent over TCP first, so that it stands in the cache).
fn replies(from: &str, to: std::net::SocketAddr, messages: &[Vec<u8>]) -> Vec<Seen> {
    let socket = client(from);
    for message in messages {
        socket.send_to(message, to).unwrap();
        // Nothing is lost on the way: what the guard leaves out, it leaves out by itself.
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    socket.set_read_timeout(Some(std::time::Duration::from_millis(400))).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 1500];
    while let Ok(len) = socket.recv(&mut buffer) {
        seen.push(read(&buffer[..len]));
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_rate_a_network_is_sent_to_tcp_and_cookies_are_let_through() {
    let upstream = Upstream::table(&[("name.example", 600, &["192.0.2.1"])]).await;
    let mut config = config(&[&upstream], "");
    // So slow that no reply more is allowed while the test runs.
    config.dns.rate_limit = Some("20/h".parse().unwrap());
    let world = World::with(config).await;
    let plain: Vec<Vec<u8>> = (0..100).map(|id| query(id, "name.example", 1, EDNS)).collect();
    let seen = replies("127.0.0.1:0", world.address, &plain);
    let (cut, whole): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|seen| seen.truncated());
    assert_eq!(whole.len(), 20);
    assert!(whole.iter().all(|seen| seen.addresses().len() == 1));
    assert!((40..=42).contains(&cut.len()), "every second of 80: {}", cut.len());
    let longest = cut.iter().map(|seen| seen.len).max().unwrap();
    assert!(longest <= plain[0].len() + 6, "no longer than the question but for the extended error: {longest}");
    assert_eq!(cut[0].ede.as_ref().map(|(code, _)| *code), Some(18));
    // Nonsense gets nothing at all from now on.
    let mut nonsense = query(1, "name.example", 1, EDNS);
    nonsense[5] = 2;
    assert!(replies("127.0.0.1:0", world.address, &[nonsense.clone(), nonsense]).is_empty());
    // Another network has its own rate, and over TCP there is none.
    assert_eq!(replies("127.0.1.1:0", world.address, &plain[..20]).iter().filter(|seen| !seen.truncated()).count(), 20);
    let seen = world.ask_tcp(&plain).await;
    assert!(seen.iter().all(|seen| seen.addresses().len() == 1));
    // A client with cookies learns one even now, and with it is served over UDP.
    let asks = [with_cookie("name.example", &[1; 8]), with_cookie("name.example", &[1; 8])];
    let bad = replies("127.0.0.1:0", world.address, &asks);
    assert_eq!(bad.len(), 1, "every second");
    assert_eq!((bad[0].rcode, bad[0].answers.len()), (23, 0));
    let cookie = bad[0].cookie.clone().unwrap();
    assert_eq!((cookie.len(), &cookie[..8]), (24, &[1; 8][..]));
    let known: Vec<Vec<u8>> = (0..50).map(|_| with_cookie("name.example", &cookie)).collect();
    let seen = replies("127.0.0.1:0", world.address, &known);
    assert_eq!(seen.iter().filter(|seen| seen.addresses().len() == 1).count(), 50);
    assert_eq!(seen[0].cookie.as_ref(), Some(&cookie), "it is fresh enough to stay");
    // But not from another address: the cookie is that of this one.
    let stolen = replies("127.0.0.2:0", world.address, &known[..2]);
    assert!(stolen.iter().all(|seen| seen.rcode == 23), "{stolen:?}");
    assert!(
        world.refused().iter().any(|(_, _, reason, _)| reason.starts_with("rate_limit: ")),
        "{:?}",
        world.refused()
    );
    assert!(world.label("dns_refused_questions_total", "rate_limit") >= 40);
    assert!(world.label("dns_dropped_packets_total", "rate_limit") >= 40);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_answered_with_or_without_a_limit() {
    let upstream = Upstream::table(&[("name.example", 600, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    // Forwarded, from the cache, an error: always with a server cookie, and only if there was a client's.
    for name in ["name.example", "name.example", "none.example"] {
        let seen = world.exchange(with_cookie(name, &[9; 8])).await.unwrap();
        assert_eq!(
            seen.cookie.as_ref().map(|cookie| (cookie.len(), cookie[..9].to_vec())),
            Some((24, vec![9, 9, 9, 9, 9, 9, 9, 9, 1]))
        );
    }
    assert_eq!(world.ask("name.example", 1).await.cookie, None);
    let first = world.exchange(with_cookie("name.example", &[9; 8])).await.unwrap().cookie.unwrap();
    // A wrong server cookie, or one of another make, is replaced.
    let mut wrong = first.clone();
    wrong[20] ^= 1;
    for other in [wrong, [&[9; 8][..], &[1; 8]].concat(), [&[9; 8][..], &[1; 32]].concat()] {
        let seen = world.exchange(with_cookie("name.example", &other)).await.unwrap();
        assert_eq!((seen.rcode, seen.addresses().len()), (0, 1));
        assert_ne!(seen.cookie.as_ref(), Some(&other));
        assert_eq!(seen.cookie.unwrap().len(), 24);
    }
    // RFC 7873 section 5.2.2.
    for len in [0, 7, 9, 15, 41] {
        assert_eq!(world.exchange(with_cookie("name.example", &vec![1; len])).await.unwrap().rcode, 1, "{len}");
    }
    // Also in front of a long answer: the cookie counts for its length.
    let seen = world.ask_tcp(&[with_cookie("name.example", &[9; 8])]).await;
    assert_eq!(seen[0].cookie.as_ref().map(Vec::len), Some(24));
}

/// A message without question; its OPT bears a COOKIE option of these octets.
fn cookie_alone(cookie: &[u8]) -> Vec<u8> {
    let mut message = with_cookie("", cookie);
    message[5] = 0;
    // The root's label, type and class.
    message.drain(12..17);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_can_be_asked_for_without_a_question() {
    let upstream = Upstream::table(&[]).await;
    let world = World::new(&[&upstream]).await;
    let first = world.exchange(cookie_alone(&[9; 8])).await.unwrap();
    let cookie = first.cookie.clone().unwrap();
    assert_eq!((first.rcode, first.question.len(), first.answers.len(), cookie.len()), (0, 0, 0, 24));
    // Still good; and not, by its octets or by its length: another comes.
    let again = world.exchange(cookie_alone(&cookie)).await.unwrap();
    assert_eq!((again.rcode, again.cookie), (0, Some(cookie.clone())));
    let mut wrong = cookie.clone();
    wrong[20] ^= 1;
    for wrong in [wrong, [&[9; 8][..], &[1; 8]].concat(), [&[9; 8][..], &[1; 32]].concat()] {
        let seen = world.exchange(cookie_alone(&wrong)).await.unwrap();
        let now = seen.cookie.unwrap();
        assert_eq!((seen.rcode, now.len(), &now[..8]), (23, 24, &[9; 8][..]));
        assert_ne!(now, wrong);
    }
    // Over TCP likewise.
    assert_eq!(world.ask_tcp(&[cookie_alone(&[9; 8])]).await[0].cookie.as_ref().map(Vec::len), Some(24));
    // Without a cookie, or with one that is none, it is an error; in EDNS, if the client speaks it.
    let mut plain = cookie_alone(&[]);
    plain.truncate(plain.len() - 4);
    let end = plain.len();
    plain[end - 1] = 0;
    for message in [plain, cookie_alone(&[1; 7])] {
        let seen = world.exchange(message).await.unwrap();
        assert_eq!((seen.rcode, seen.edns.is_some(), seen.cookie), (1, true, None));
    }
    let mut bare = query(7, "", 1, None);
    bare.truncate(12);
    bare[4..12].fill(0);
    let seen = world.exchange(bare).await.unwrap();
    assert_eq!((seen.rcode, seen.edns), (1, None));
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_replies_has_few_kept_for_it() {
    use tokio::io::AsyncWriteExt;
    // One record of 60,000 octets, which the upstream has over TCP only.
    let upstream = Upstream::new(|query, tcp| {
        let (name, _) = asked(query);
        let mut message = response(query, 0, &[]);
        if !tcp {
            message[2] |= 2;
            return Act::Send(vec![message]);
        }
        message = response(query, 0, &[rr(&name, 65_280, 60, &[7; 60_000])]);
        Act::Send(vec![message])
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let waiting = || world.metric("dns_stream_backlog_bytes") as usize;
    let mut greedy = Vec::new();
    for _ in 0..6 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(world.address).await.unwrap();
        let mut all = Vec::new();
        for id in 0..100 {
            let query = query(id, "big.example", 65_280, EDNS);
            all.extend_from_slice(&(query.len() as u16).to_be_bytes());
            all.extend_from_slice(&query);
        }
        stream.write_all(&all).await.unwrap();
        greedy.push(stream);
    }
    // 36 MB are asked for. What the kernel doesn't take waits, up to the bound.
    until("the bound is met", || world.label("dns_refused_questions_total", "backlog") > 0).await;
    let bound = crate::dns::resolver::unsent::PER_CLIENT;
    until("all are read", || world.metric("dns_tcp_questions_total") >= 600).await;
    assert!(waiting() <= bound, "{}", waiting());
    // Another client is served meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(world.address).await.unwrap();
    let message = query(7, "big.example", 65_280, EDNS);
    other.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await.unwrap();
    assert_eq!(next_tcp(&mut other).await.answers.len(), 1);
    // Whoever takes the replies after all gets one to each question, long or short.
    let (mut long, mut short) = (0, 0);
    for mut stream in greedy {
        for _ in 0..100 {
            let seen = next_tcp(&mut stream).await;
            match seen.rcode {
                0 => long += seen.answers.len(),
                _ => {
                    let ede = seen.ede.map(|(_, words)| words);
                    assert_eq!((seen.rcode, seen.edns.is_some(), seen.question.len()), (2, true, 17));
                    assert_eq!(ede.as_deref(), Some("too many replies wait for this client to take them"));
                    short += 1;
                }
            }
        }
    }
    assert!(long > 10 && short > 100 && long + short == 600, "{long} {short}");
    until("nothing waits", || waiting() == 0).await;
    let refused = world.refused();
    let told =
        refused.iter().any(|(_, what, reason, _)| what.contains("big.example") && reason.starts_with("backlog: "));
    assert!(told, "{refused:?}");
}
