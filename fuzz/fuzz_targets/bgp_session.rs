//! Two session machines and a hostile wire between them: every octet of the input is an operation, among them the damage
//! of a message on its way. Nothing panics, Up and Down alternate, nothing is sent on a closed connection, and a session that
//! is wanted always has something under way.
#![no_main]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use destguard_bgp::session::{ConnectionId, Output, Session, SessionConfig, Stop};
use destguard_bgp::status::State;

/// One end, and what it holds the driver to.
struct End {
    session: Session,
    passive: bool,
    wanted: bool,
    connecting: bool,
    /// Live connections: ours, and the number that both ends know it by.
    connections: Vec<(ConnectionId, usize)>,
    up: bool,
}

impl End {
    fn new(config: SessionConfig, now: Instant) -> Self {
        let passive = config.passive;
        let session = Session::new(config, now);
        Self { session, passive, wanted: false, connecting: false, connections: Vec::new(), up: false }
    }

    fn wire(&self, id: ConnectionId) -> Option<usize> {
        self.connections.iter().find(|(own, _)| *own == id).map(|(_, wire)| *wire)
    }
}

struct World {
    ends: [End; 2],
    now: Instant,
    /// Octets on their way: (wire, to which end, octets).
    way: VecDeque<(usize, usize, Bytes)>,
    wires: usize,
}

impl World {
    fn drain(&mut self) {
        // An end learns that a wire is gone only after it said what it had to say.
        let mut gone = self.drain_once();
        while !gone.is_empty() {
            for (wire, which) in gone {
                self.hang_up(wire, which);
            }
            gone = self.drain_once();
        }
    }

    fn drain_once(&mut self) -> Vec<(usize, usize)> {
        let mut gone = Vec::new();
        for which in 0..2 {
            while let Some(output) = self.ends[which].session.poll_output() {
                let end = &mut self.ends[which];
                match output {
                    Output::Connect => {
                        assert!(!end.connecting && !end.passive);
                        end.connecting = true;
                    }
                    Output::CancelConnect => {
                        assert!(end.connecting);
                        end.connecting = false;
                    }
                    Output::Send(id, octets) => {
                        let wire = end.wire(id).expect("sent on a closed connection");
                        assert!(!octets.is_empty());
                        if self.way.len() < 64 {
                            self.way.push_back((wire, 1 - which, octets));
                        }
                    }
                    Output::Close(id) => {
                        let wire = end.wire(id).expect("closed twice");
                        end.connections.retain(|(own, _)| *own != id);
                        gone.push((wire, 1 - which));
                    }
                    Output::Up(..) => {
                        assert!(!end.up);
                        end.up = true;
                    }
                    Output::Down(why) => {
                        assert!(end.up && !why.is_empty() && !why.contains('\n'));
                        end.up = false;
                    }
                    #[allow(unreachable_patterns)]
                    _ => assert!(end.up),
                }
            }
        }
        gone
    }

    /// The other end of a wire learns that it is gone.
    fn hang_up(&mut self, wire: usize, which: usize) {
        let end = &mut self.ends[which];
        if let Some(place) = end.connections.iter().position(|(_, other)| *other == wire) {
            let (id, _) = end.connections.remove(place);
            end.session.closed(id, None, self.now);
        }
    }

    fn connect(&mut self, from: usize) {
        if !self.ends[from].connecting {
            return;
        }
        self.ends[from].connecting = false;
        self.wires += 1;
        for which in [from, 1 - from] {
            let end = &mut self.ends[which];
            if let Some(id) = end.session.connected(which == from, self.now) {
                end.connections.push((id, self.wires));
            }
        }
    }

    fn deliver(&mut self, damage: Option<(u8, u8)>) {
        let Some((wire, to, octets)) = self.way.pop_front() else { return };
        let mut octets = octets.to_vec();
        if let Some((place, value)) = damage {
            let place = usize::from(place) % octets.len();
            octets[place] ^= value;
        }
        let end = &mut self.ends[to];
        if let Some((id, _)) = end.connections.iter().find(|(_, other)| *other == wire).copied() {
            end.session.received(id, &octets, self.now);
        }
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        for _ in 0..200 {
            let next = self.ends.iter().filter_map(|end| end.session.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            for end in &mut self.ends {
                end.session.handle_timeout(self.now);
            }
            self.drain();
        }
        self.now = until;
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let now = Instant::now();
    let [first, ops @ ..] = input else { return };
    let end = |asn, peer_asn, id, passive| End::new(destguard_fuzz::session(asn, peer_asn, id, passive), now);
    let one = Ipv4Addr::new(192, 0, 2, 1);
    let two = Ipv4Addr::new(192, 0, 2, if first & 1 == 0 { 2 } else { 1 });
    let mut world = World {
        ends: [end(64512, 64513, one, first & 2 != 0), end(64513, 64512 + u32::from(first >> 7), two, first & 4 != 0)],
        now,
        way: VecDeque::new(),
        wires: 0,
    };
    let mut ops = ops.iter().copied();
    while let Some(op) = ops.next() {
        let which = usize::from(op >> 7);
        match op & 0x7f {
            0 => {
                world.ends[which].wanted = true;
                world.ends[which].session.start(world.now);
            }
            1 | 2 => {
                let how = if op & 1 == 0 { Stop::Restart } else { Stop::Shutdown("bye".to_owned()) };
                world.ends[which].wanted = false;
                world.ends[which].session.stop(&how, world.now);
            }
            3 | 4 => world.connect(which),
            5 => {
                let end = &mut world.ends[which];
                if std::mem::take(&mut end.connecting) {
                    end.session.connect_failed("refused", world.now);
                }
            }
            6 => {
                if let Some((_, wire)) = world.ends[which].connections.first().copied() {
                    world.hang_up(wire, which);
                    world.hang_up(wire, 1 - which);
                }
            }
            7 => {
                let damage = (ops.next().unwrap_or(0), ops.next().unwrap_or(1));
                world.deliver(Some(damage));
            }
            8 => {
                let octets: Vec<u8> = ops.by_ref().take(24).collect();
                if let Some((id, _)) = world.ends[which].connections.first().copied() {
                    let now = world.now;
                    world.ends[which].session.received(id, &octets, now);
                }
            }
            9..=40 => world.deliver(None),
            more => world.pass(u64::from(more - 40) * u64::from(more - 40) * 50),
        }
        world.drain();
        for end in &world.ends {
            assert_eq!(end.up, end.session.state().0 == State::Established);
            let alive = end.connecting || !end.connections.is_empty() || end.session.poll_timeout().is_some();
            assert!(!end.wanted || end.passive || alive, "nothing will ever happen again");
        }
    }
});
