use std::collections::HashSet;

use super::*;
use crate::dns::metrics::Metrics;

const TOKEN: u64 = 2;

struct Bench {
    lines: Lines,
    poll: Poll,
    upstream: UdpSocket,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
        upstream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let text = format!("[[dns.upstream]]\nurl = \"udp://{}\"\n", upstream.local_addr().unwrap());
        let config: crate::config::Config = toml::from_str(&text).unwrap();
        let metrics = Metrics::register(&mut crate::metrics::registry());
        let upstreams = Upstreams::new(&config.dns.upstream, None, &metrics).unwrap();
        Self { lines: Lines::new(&upstreams, 1), poll: Poll::new().unwrap(), upstream, now: Instant::now() }
    }

    fn ask(&mut self, flight: u64) -> Claim {
        let query = Query {
            name: format!("n{flight}.name-with-letters.example").parse().unwrap(),
            qtype: 1,
            dnssec_ok: false,
            checking_disabled: false,
            plain: false,
        };
        let attempt = Attempt { flight, place: 0 };
        self.lines.ask(0, &query, attempt, self.now, &self.poll, TOKEN).unwrap()
    }

    /// What arrives at the upstream: the sender's port and the query.
    fn arrived(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = [0; 2048];
        let (len, from) = self.upstream.recv_from(&mut buffer).unwrap();
        (from, buffer[..len].to_vec())
    }

    /// Flights whose response comes in, until there is nothing more.
    fn answered(&mut self) -> Vec<Match> {
        let (mut received, mut failed, mut found) = (Received::default(), Vec::new(), Vec::new());
        for line in 0..self.lines.lines.len() {
            while self.lines.receive(line, &mut received, &mut failed) > 0 {
                let messages = (0..).map_while(|place| received.get(place));
                found.extend(messages.map(|message| self.lines.answers(line, message)));
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
        found
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
        bench.lines.flush(&mut Vec::new());
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
        let found = bench.answered();
        let mut flights: Vec<u64> = found
            .iter()
            .filter_map(|found| match found {
                Match::Response(attempt) => Some(attempt.flight),
                _ => None,
            })
            .collect();
        flights.sort_unstable();
        assert_eq!(flights, [2 * turn, 2 * turn + 1]);
        assert_eq!(found.iter().filter(|found| **found == Match::None).count(), 2);
    }
    // 64 sockets, drawn at random: that one is never drawn in 300 turns happens less than once in a hundred; 32 of them never.
    assert!(ports.len() > 32, "{} ports", ports.len());
    assert!(ids.len() > 580, "{} ids", ids.len());
}

#[test]
fn a_worn_socket_is_replaced_and_closed_after_its_last_reply() {
    let mut bench = Bench::new();
    let slots = bench.lines.pools[&0].slots.len();
    for flight in 0..u64::try_from(slots).unwrap() * 40 {
        bench.ask(flight);
        bench.lines.flush(&mut Vec::new());
        let (from, query) = bench.arrived();
        bench.upstream.send_to(&response(&query), from).unwrap();
        assert_eq!(bench.answered().len(), 1);
    }
    let open = |bench: &Bench| bench.lines.lines.iter().flatten().count();
    assert_eq!(open(&bench), slots, "all in use once");
    let claim = bench.ask(9_999);
    bench.lines.flush(&mut Vec::new());
    // Each is too old now; those in use are replaced, one still waits for its reply.
    bench.now += LIFE + Duration::from_millis(1);
    for flight in 10_000..10_000 + u64::try_from(slots).unwrap() * 40 {
        let claim = bench.ask(flight);
        bench.lines.flush(&mut Vec::new());
        bench.lines.give_up(claim, Attempt { flight, place: 0 });
    }
    assert_eq!(open(&bench), 2 * slots);
    bench.lines.tidy(bench.now);
    assert_eq!(open(&bench), slots + 1);
    bench.lines.give_up(claim, Attempt { flight: 9_999, place: 0 });
    bench.lines.tidy(bench.now);
    assert_eq!(open(&bench), slots);
    bench.now += IDLE + Duration::from_millis(1);
    bench.lines.tidy(bench.now);
    assert_eq!(open(&bench), 0, "what serves nobody is closed");
}

#[test]
fn a_closed_port_fails_those_who_wait_there() {
    let mut bench = Bench::new();
    let gone = std::mem::replace(&mut bench.upstream, UdpSocket::bind("127.0.0.1:0").unwrap());
    drop(gone);
    bench.ask(7);
    bench.lines.flush(&mut Vec::new());
    let (mut received, mut failed) = (Received::default(), Vec::new());
    let end = Instant::now() + Duration::from_secs(10);
    while failed.is_empty() {
        assert!(Instant::now() < end, "nobody is told");
        assert_eq!(bench.lines.receive(0, &mut received, &mut failed), 0);
    }
    assert_eq!(failed, [(Attempt { flight: 7, place: 0 }, io::ErrorKind::ConnectionRefused)]);
}
