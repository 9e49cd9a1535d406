//! Sockets, sizes, TCP, and what happens when descriptors run out.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::*;
use crate::dns::{DnsError, bind};

/// `count` TXT records of 100 octets.
async fn big(count: usize) -> Upstream {
    Upstream::new(move |query, tcp| {
        let (name, _) = asked(query);
        let text = [&[98u8][..], &[b'x'; 98]].concat();
        let records: Vec<Rr> =
            (0..count).map(|n| rr(&name, 16, 60, &[&[2, (n >> 8) as u8, n as u8], &text[..]].concat())).collect();
        let whole = response(query, 0, &records);
        if whole.len() <= 1232 || tcp {
            return Act::Send(vec![whole]);
        }
        let mut cut = response(query, 0, &[]);
        cut[2] |= 2;
        Act::Send(vec![cut])
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_no_longer_than_the_client_takes_and_1232() {
    for (count, fits_512, fits_1232) in [(3, true, true), (8, false, true), (20, false, false)] {
        let upstream = big(count).await;
        let world = World::new(&[&upstream]).await;
        for (edns, fits) in [
            (None, fits_512),
            (Some((100, false)), fits_512),
            (Some((1232, false)), fits_1232),
            (Some((65535, false)), fits_1232),
        ] {
            let seen = world.exchange(query(1, "big.example", 16, edns)).await.unwrap();
            assert_eq!((seen.rcode, seen.truncated()), (0, !fits), "{count} {edns:?}");
            assert_eq!(seen.answers.len(), if fits { count } else { 0 });
            assert_eq!(seen.edns.is_some(), edns.is_some(), "OPT only for those who sent one");
            assert!(seen.len <= 1232);
        }
        let seen = world.ask_tcp(&[query(1, "big.example", 16, None)]).await;
        assert_eq!((seen[0].answers.len(), seen[0].truncated()), (count, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_thousand_octets_pass_over_tcp() {
    let upstream = big(500).await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask_tcp(&[query(1, "big.example", 16, None)]).await;
    assert_eq!(seen[0].answers.len(), 500);
    assert!(seen[0].len > 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_answers_overtake_a_slow_one_on_a_connection() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        let message = response(query, 0, &[a(&name, 60, "192.0.2.1")]);
        if name == "slow.example" { Act::Later(Duration::from_millis(700), message) } else { Act::Send(vec![message]) }
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let queries =
        [query(1, "slow.example", 1, None), query(2, "fast.example", 1, None), query(3, "quick.example", 1, None)];
    let mut ids: Vec<u16> = world.ask_tcp(&queries).await.iter().map(|seen| seen.id).collect();
    assert_eq!(ids.pop(), Some(1));
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_side_still_gets_its_replies() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        Act::Later(Duration::from_millis(200), response(query, 0, &[a(&name, 60, "192.0.2.1")]))
    })
    .await;
    let world = World::new(&[&upstream]).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let message = query(5, "name.example", 1, None);
    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(next_tcp(&mut stream).await.id, 5);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "then the guard closes too");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_questions_on_one_connection_are_all_answered() {
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        Act::Later(Duration::from_millis(5), response(query, 0, &[a(&name, 60, "192.0.2.1")]))
    })
    .await;
    let world = World::new(&[&upstream]).await;
    // More than may be in flight: the guard stops reading for a while and loses none.
    let queries: Vec<_> = (0..1000u16).map(|n| query(n, &format!("n{n}.example"), 1, None)).collect();
    let mut ids: Vec<u16> = world.ask_tcp(&queries).await.iter().map(|seen| seen.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..1000).collect::<Vec<u16>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_over_tcp_ends_the_connection() {
    let upstream = Upstream::table(&[]).await;
    let world = World::new(&[&upstream]).await;
    for nonsense in [&[0, 0][..], &[0, 3, 1, 2, 3], b"GET / HTTP/1.1\r\nHost: name.example\r\n\r\n"] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // A reset is an end as well.
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it ends");
        assert!(ended.is_err() || rest.is_empty() || rest.len() > 2);
    }
    assert_eq!(world.ask("none.example", 1).await.rcode, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_reset_before_or_after_they_are_accepted_cost_nothing() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    for number in 0..300 {
        let stream = TcpStream::connect(world.address).await.unwrap();
        stream.set_zero_linger().unwrap();
        if number % 3 == 0 {
            // Half a question, so that the guard is in the midst of reading.
            stream.try_write(&[0, 30, 1]).unwrap();
        }
        drop(stream);
    }
    assert_eq!(world.ask_tcp(&[query(2, "name.example", 1, None)]).await[0].rcode, 0);
    until("all ended", || world.metric("dns_tcp_connections") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_so_is_one_that_sends_half_a_question() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    let mut half = TcpStream::connect(world.address).await.unwrap();
    half.write_all(&[0, 30, 1]).await.unwrap();
    let message = query(5, "name.example", 1, None);
    idle.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await.unwrap();
    assert_eq!(next_tcp(&mut idle).await.id, 5);
    for stream in [&mut idle, &mut half] {
        let end = tokio::time::timeout(2 * PATIENCE, stream.read(&mut [0; 1])).await.expect("closed");
        assert!(matches!(end, Ok(0) | Err(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_a_bounded_number_of_connections() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    let mut open = Vec::new();
    for _ in 0..crate::dns::listen::tcp::CONNECTIONS_PER_CLIENT {
        open.push(TcpStream::connect(world.address).await.unwrap());
    }
    until("accepted", || world.metric("dns_tcp_connections") == 64).await;
    let message = query(5, "name.example", 1, None);
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    open[0].write_all(&framed).await.unwrap();
    assert_eq!(next_tcp(&mut open[0]).await.id, 5);
    // One more is served; the one that has been idle for longest goes for it.
    let mut one_more = TcpStream::connect(world.address).await.unwrap();
    one_more.write_all(&framed).await.unwrap();
    assert_eq!(next_tcp(&mut one_more).await.id, 5);
    let ended = tokio::time::timeout(PATIENCE, open[1].read(&mut [0; 1])).await.expect("closed");
    assert!(matches!(ended, Ok(0) | Err(_)));
    until("one has ended", || world.metric("dns_tcp_connections") == 64).await;
    assert_eq!(world.metric("dns_connections_displaced_total"), 1);
    // The others are served, and so is somebody else.
    open[0].write_all(&framed).await.unwrap();
    assert_eq!(next_tcp(&mut open[0]).await.id, 5);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(world.address).await.unwrap();
    other.write_all(&framed).await.unwrap();
    assert_eq!(next_tcp(&mut other).await.id, 5);
    drop((open, one_more));
    until("given back", || world.metric("dns_tcp_connections") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listen_address_is_served_and_replies_come_from_it() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let mut config = config(&[&upstream], "");
    config.dns.listen = ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"].iter().map(|a| a.parse().unwrap()).collect();
    let world = World::with(config).await;
    let ports: Vec<u16> = world.running.addresses().iter().map(|address| address.port()).collect();
    let cases = [
        (format!("127.0.0.1:{}", ports[0]), "127.0.0.1:0"),
        (format!("[::1]:{}", ports[1]), "[::1]:0"),
        // Wildcards: a connected client takes a reply only from the address that it asked.
        (format!("127.0.0.53:{}", ports[2]), "127.0.0.1:0"),
        (format!("[::1]:{}", ports[3]), "[::1]:0"),
        (format!("127.0.0.54:{}", ports[3]), "127.0.0.1:0"),
    ];
    for (to, from) in cases {
        let result = tokio::task::spawn_blocking(move || {
            let socket = client(from);
            socket.connect(&to).unwrap();
            socket.send(&query(3, "name.example", 1, EDNS)).unwrap();
            let mut buffer = [0; 1500];
            let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{to}: {error}"));
            read(&buffer[..len])
        });
        assert_eq!(result.await.unwrap().addresses().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_an_error_even_between_two_guards() {
    let upstream = Upstream::table(&[]).await;
    let world = World::new(&[&upstream]).await;
    let mut config = config(&[&upstream], "");
    config.dns.listen = vec![world.address.into()];
    let error = bind(&config).unwrap_err();
    assert!(matches!(error, DnsError::Bind { .. }), "{error}");
    assert!(error.to_string().contains(&world.address.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_stop_nothing_answers_and_the_port_is_free() {
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    world.ask("name.example", 1).await;
    let World { running, address, config, .. } = world;
    let mut config = config;
    config.dns.listen = vec![address.into()];
    running.stop();
    let end = Instant::now() + PATIENCE;
    while bind(&config).is_err() {
        assert!(Instant::now() < end, "the port stays taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Set for a test that runs in a process of its own.
const CHILD: &str = "DESTGUARD_TEST_CHILD";

/// Whether this process has the limit of open files that the test is about. If not, the test runs once more in a process that has it,
/// and this one only passes its result on.
fn has_open_files(limit: u32, test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let command = format!("ulimit -n {limit}; exec {} --exact --nocapture {test}", program.display());
    let output = Command::new("bash").arg("-c").arg(command).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_4000_names_against_a_slow_upstream_is_answered_at_1024_open_files() {
    let this = "dns::tests::transport::a_burst_of_4000_names_against_a_slow_upstream_is_answered_at_1024_open_files";
    if !has_open_files(1024, this) {
        return;
    }
    let upstream = Upstream::new(|query, _| {
        let (name, _) = asked(query);
        // Where this machine is busy for seconds, the guard asks as well whether its upstream is there.
        let Some(number) = name.split('.').next().and_then(|label| label.get(1..)?.parse::<u32>().ok()) else {
            return Act::Send(vec![response(query, 0, &[])]);
        };
        let address = std::net::Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(number));
        Act::Later(Duration::from_secs(1), response(query, 0, &[a(&name, 60, &address.to_string())]))
    })
    .await;
    let mut config = config(&[&upstream], "");
    config.gate.deadline = "5s".parse().unwrap();
    let world = World::with(config).await;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    crate::sys::udp::want_receive_buffer(std::os::fd::AsFd::as_fd(&socket), 16 << 20).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let socket: Arc<std::net::UdpSocket> = Arc::new(socket.into());
    let (sender, address) = (socket.clone(), world.address);
    let thread = std::thread::spawn(move || {
        for number in 0..4000u32 {
            sender.send_to(&query(number as u16, &format!("n{number}.example"), 28, EDNS), address).unwrap();
            if number % 100 == 99 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let answered = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 1500];
        let mut answered = std::collections::HashSet::new();
        while answered.len() < 4000 {
            let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{} answered: {error}", answered.len()));
            let seen = read(&buffer[..len]);
            assert_eq!((seen.rcode, seen.addresses().len()), (0, 1), "{seen:?}");
            answered.insert(seen.id);
        }
        answered.len()
    });
    assert_eq!(answered.await.unwrap(), 4000);
    thread.join().unwrap();
    assert_eq!(world.enforced.open.lock().unwrap().len(), 4000);
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_descriptors_the_listener_waits_without_spinning_and_goes_on() {
    let this = "dns::tests::transport::out_of_descriptors_the_listener_waits_without_spinning_and_goes_on";
    if !has_open_files(60, this) {
        return;
    }
    let upstream = Upstream::table(&[("name.example", 60, &["192.0.2.1"])]).await;
    let world = World::new(&[&upstream]).await;
    assert_eq!(world.ask("name.example", 1).await.rcode, 0);
    let stat = std::fs::File::open("/proc/self/stat").unwrap();
    let mut open = Vec::new();
    // Until this process can't open another, client's and server's ends taken together.
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(world.address)).await
    {
        open.push(stream);
    }
    until("accept fails", || world.metric("dns_accept_errors_total") > 0).await;
    let before = (world.metric("dns_accept_errors_total"), cpu(&stat));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (errors, busy) = (world.metric("dns_accept_errors_total") - before.0, cpu(&stat) - before.1);
    assert!(errors < 60 && busy < Duration::from_millis(700), "{errors} errors, {busy:?} of CPU in 1.5 s");
    // The way over UDP works meanwhile, and TCP again as soon as there is room.
    // Few stay: what waited to be accepted while all were taken may be these.
    drop(open.split_off(5));
    let seen = world.ask_tcp(&[query(2, "name.example", 1, None)]).await;
    assert_eq!(seen[0].rcode, 0);
}

/// CPU time of this process so far; `stat` is /proc/self/stat, opened while there were descriptors.
fn cpu(stat: &std::fs::File) -> Duration {
    use std::os::unix::fs::FileExt;
    let mut buffer = [0; 1024];
    let len = stat.read_at(&mut buffer, 0).unwrap();
    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
