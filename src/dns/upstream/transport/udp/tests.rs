use std::collections::HashSet;

use super::*;

const TOKEN: u64 = 2;

struct Bench {
    lines: UdpSockets,
    poll: Poll,
    upstream: UdpSocket,
    target: Target,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
        upstream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self {
            lines: UdpSockets::new(1),
            poll: Poll::new().unwrap(),
            target: Target { peer: upstream.local_addr().unwrap().into(), mark: None },
            upstream,
            now: Instant::now(),
        }
    }

    fn ask(&mut self, owner: u64) -> Claim {
        self.ask_again(owner, None)
    }

    fn ask_again(&mut self, owner: u64, lost: Option<Instant>) -> Claim {
        let query = Query {
            name: format!("n{owner}.name-with-letters.example").parse().unwrap(),
            qtype: 1,
            dnssec_ok: false,
            checking_disabled: false,
            plain: false,
            whose: crate::core::client::Claim::NOBODY,
        };
        let attempt = Attempt { owner, place: 0 };
        let ask = Ask { place: 0, server: 0, manner: Manner::USUAL, lost };
        self.lines.ask((&ask, self.target), &query, attempt, self.now, (&self.poll, TOKEN)).unwrap()
    }

    fn flush(&mut self) {
        let mut failed = Vec::new();
        self.lines.flush(self.now, (&self.poll, TOKEN), &mut failed);
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// What arrives at the upstream: the sender's port and the query.
    fn arrived(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = [0; 2048];
        let (len, from) = self.upstream.recv_from(&mut buffer).unwrap();
        (from, buffer[..len].to_vec())
    }

    /// Flights whose response comes in, until there is nothing more, and how many datagrams are none.
    fn answered(&mut self) -> (Vec<u64>, usize) {
        let (found, others, failed) = self.received();
        assert!(failed.is_empty(), "{failed:?}");
        (found, others)
    }

    fn received(&mut self) -> (Vec<u64>, usize, Vec<Failed>) {
        let (mut received, mut failed) = (Received::default(), Vec::new());
        let (mut found, mut others) = (Vec::new(), 0);
        for line in 0..self.lines.lines.len() {
            while self.lines.receive(line, &mut received, &mut failed) > 0 {
                for message in (0..).map_while(|place| received.get(place)) {
                    match self.lines.answers(line, message, self.now, &mut failed) {
                        Some((attempt, _)) => found.push(attempt.owner),
                        None => others += 1,
                    }
                }
            }
        }
        (found, others, failed)
    }
}

fn response(query: &[u8]) -> Vec<u8> {
    let mut response = query.to_vec();
    response[2] |= 0x80;
    response
}

#[test]
fn every_question_has_its_response_and_ports_change() {
    let mut bench = Bench::new();
    let (mut ports, mut ids) = (HashSet::new(), HashSet::new());
    for turn in 0..300u64 {
        bench.ask(2 * turn);
        bench.ask(2 * turn + 1);
        bench.flush();
        let mut of_turn = HashSet::new();
        for _ in 0..2 {
            let (from, query) = bench.arrived();
            of_turn.insert(from.port());
            ids.insert(u16::from_be_bytes([query[0], query[1]]));
            // A second one answers nothing any more.
            for _ in 0..2 {
                bench.upstream.send_to(&response(&query), from).unwrap();
            }
        }
        assert_eq!(of_turn.len(), 1, "one turn, one socket");
        ports.extend(of_turn);
        let (mut queries, others) = bench.answered();
        queries.sort_unstable();
        assert_eq!((queries, others), (vec![2 * turn, 2 * turn + 1], 2));
    }
    // 64 sockets, drawn at random: that one is never drawn in 300 turns happens less than once in a hundred; 32 of them never.
    assert!(ports.len() > 32, "{} ports", ports.len());
    assert!(ids.len() > 580, "{} ids", ids.len());
}

#[test]
fn a_worn_socket_is_replaced_and_closed_after_its_last_reply() {
    let mut bench = Bench::new();
    let slots = bench.lines.slots;
    for owner in 0..u64::try_from(slots).unwrap() * 40 {
        bench.ask(owner);
        bench.flush();
        let (from, query) = bench.arrived();
        bench.upstream.send_to(&response(&query), from).unwrap();
        assert_eq!(bench.answered(), (vec![owner], 0));
    }
    let open = |bench: &Bench| bench.lines.lines.iter().flatten().count();
    assert_eq!(open(&bench), slots, "all in use once");
    let claim = bench.ask(9_999);
    bench.flush();
    // Each is too old now; those in use are replaced, one still waits for its reply.
    bench.now += LIFE + Duration::from_millis(1);
    for owner in 10_000..10_000 + u64::try_from(slots).unwrap() * 40 {
        let claim = bench.ask(owner);
        bench.flush();
        bench.lines.give_up(claim, Attempt { owner, place: 0 });
    }
    assert_eq!(open(&bench), slots + 1);
    bench.lines.give_up(claim, Attempt { owner: 9_999, place: 0 });
    bench.flush();
    assert_eq!(open(&bench), slots);
    bench.now += IDLE + Duration::from_millis(1);
    bench.lines.tidy(bench.now);
    assert_eq!(open(&bench), 0, "what serves nobody is closed");
    assert!(bench.lines.pools.is_empty(), "and nothing stays of an upstream that isn't asked any more");
}

#[test]
fn a_closed_port_fails_those_who_wait_there() {
    let mut bench = Bench::new();
    let gone = std::mem::replace(&mut bench.upstream, UdpSocket::bind("127.0.0.1:0").unwrap());
    drop(gone);
    bench.ask(7);
    bench.flush();
    let (mut received, mut failed) = (Received::default(), Vec::new());
    let end = Instant::now() + Duration::from_secs(10);
    while failed.is_empty() {
        assert!(Instant::now() < end, "nobody is told");
        assert_eq!(bench.lines.receive(0, &mut received, &mut failed), 0);
    }
    assert_eq!(failed, [(Attempt { owner: 7, place: 0 }, Trouble::Theirs, io::ErrorKind::ConnectionRefused)]);
}

#[test]
fn after_three_near_misses_a_socket_takes_nothing_more() {
    let mut bench = Bench::new();
    let claim = bench.ask(1);
    bench.ask(2);
    bench.flush();
    let ((from, first), (_, second)) = (bench.arrived(), bench.arrived());
    // What comes twice, or late to a query that was given up, is no guess.
    bench.lines.give_up(claim, Attempt { owner: 1, place: 0 });
    for _ in 0..5 {
        bench.upstream.send_to(&response(&first), from).unwrap();
    }
    assert_eq!(bench.answered(), (vec![], 5));
    let mut wrong = response(&second);
    for guess in 0..3u8 {
        wrong[0] = second[0] ^ (guess + 1);
        bench.upstream.send_to(&wrong, from).unwrap();
    }
    bench.upstream.send_to(&response(&second), from).unwrap();
    let (found, others, failed) = bench.received();
    assert_eq!((found, others), (vec![], 4), "the true one comes too late");
    assert_eq!(failed, [(Attempt { owner: 2, place: 0 }, Trouble::Forged, io::ErrorKind::InvalidData)]);
    // Other questions go elsewhere.
    for owner in 3..60 {
        bench.ask(owner);
        bench.flush();
        let (other, query) = bench.arrived();
        assert_ne!(other.port(), from.port());
        bench.upstream.send_to(&response(&query), other).unwrap();
        assert_eq!(bench.answered(), (vec![owner], 0));
    }
}

#[test]
fn what_was_lost_is_asked_again_on_a_socket_that_is_younger_or_was_heard_since() {
    let mut bench = Bench::new();
    let lost = bench.now;
    let mut ports = HashSet::new();
    for owner in 0..400 {
        bench.ask(owner);
        bench.flush();
        ports.insert(bench.arrived().0.port());
    }
    bench.now += Duration::from_millis(50);
    for owner in 400..500 {
        bench.ask_again(owner, Some(lost));
        bench.flush();
        let (from, query) = bench.arrived();
        assert!(!ports.contains(&from.port()), "a socket on which a reply was lost");
        bench.upstream.send_to(&response(&query), from).unwrap();
        assert_eq!(bench.answered(), (vec![owner], 0));
    }
    let open = bench.lines.lines.iter().flatten().filter(|line| !line.retired).count();
    assert!(open <= bench.lines.pools[&0].slots.len(), "{open} in use");
}
