//! The attacks.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::honest::question;
use super::site::{SERVER4, SERVER6, Site};
use super::{AnyError, Stage};

/// Connections that are held.
const CONNECTIONS: usize = 6000;
/// Of these opened each second.
const PER_SECOND: u32 = 800;
const CONNECT: Duration = Duration::from_millis(200);

/// A kind of attack that clients make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One client with one domain whose names have sixteen addresses for a day each: all leases.
    Leases,
    /// The same addresses from many of one host's own addresses: all pairs of address and client.
    Pairs,
    /// Names of a domain that never answers, from one host: all places in flight.
    Silent,
    /// One host with hundreds of addresses opens TCP connections and asks nothing.
    Connections,
    /// The same on the port of DoT: handshakes that begin and never end.
    Handshakes,
    /// One host asks for long answers over TCP and reads none.
    Slow,
    /// Questions from forged addresses.
    Spoofed,
    /// Thirty questions a second whose answers are as dear to validate as can be: colliding keys, and NSEC3.
    Keytrap,
    /// No attack: twelve hosts of one /64 load pages.
    Lan,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Leases,
        Self::Pairs,
        Self::Silent,
        Self::Connections,
        Self::Handshakes,
        Self::Slow,
        Self::Spoofed,
        Self::Keytrap,
        Self::Lan,
    ];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leases => "leases",
            Self::Pairs => "pairs",
            Self::Silent => "silent",
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Slow => "slow",
            Self::Spoofed => "spoofed",
            Self::Keytrap => "keytrap",
            Self::Lan => "lan",
        }
    }

    /// By its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What stands in `[lease]`. Where a table is to be filled in seconds, it is small, and rates are no bound.
    pub(super) fn lease(self) -> &'static str {
        match self {
            Self::Leases | Self::Pairs => {
                "capacity = 6000\nburst_per_client = 100000\nnew_per_client = \"100000/s\"\n\
                 burst_per_domain = 100000\nnew_per_domain = \"100000/s\""
            }
            _ => "",
        }
    }
}

/// Attacks as long as the stage says. What it did, in words.
pub fn attack(kind: Kind, site: &Site, stage: &Stage) -> Result<String, AnyError> {
    site.attacker.enter()?;
    match kind {
        Kind::Leases => ask(site, stage, 1, 200, |number| format!("n{number}.long.example")),
        Kind::Pairs => ask(site, stage, 40, 400, |number| format!("n{}.long.example", number / 40)),
        Kind::Silent => ask(site, stage, 40, 5000, |number| format!("n{number}.silent.example")),
        Kind::Connections => connect(site, stage, 53, b""),
        Kind::Handshakes => connect(site, stage, 853, b"\x16\x03\x01\x02"),
        Kind::Slow => {
            let mut much = Vec::new();
            for id in 0..100 {
                let query = question(id, "text.big.example", 16);
                much.extend((query.len() as u16).to_be_bytes());
                much.extend(query);
            }
            connect(site, stage, 53, &much)
        }
        Kind::Spoofed => spoof(stage),
        Kind::Keytrap => ask(site, stage, 1, 30, |number| match number % 2 {
            0 => format!("n{number}.trap.example"),
            _ => format!("n{number}.{}trap.example", "a.".repeat(90)),
        }),
        Kind::Lan => Ok("nobody attacks: LAN is twelve hosts of one /64".to_owned()),
    }
}

/// Keeps a rate: so many are due.
struct Pace {
    begin: Instant,
    rate: f64,
    done: u64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { begin: Instant::now(), rate: f64::from(rate), done: 0 }
    }

    /// The numbers of those that are due; after a stall no more than a few.
    fn due(&mut self) -> std::ops::Range<u64> {
        std::thread::sleep(Duration::from_millis(2));
        let due = (self.begin.elapsed().as_secs_f64() * self.rate) as u64;
        let first = self.done;
        self.done = due.min(first + 200);
        first..self.done
    }
}

/// Questions over UDP from so many of the attacker's addresses, in turns.
fn ask(
    site: &Site,
    stage: &Stage,
    addresses: usize,
    rate: u32,
    name: impl Fn(u64) -> String,
) -> Result<String, AnyError> {
    let sockets = site.own.iter().take(addresses).map(|own| udp(*own)).collect::<Result<Vec<_>, _>>()?;
    let mut pace = Pace::new(rate);
    let (mut unsent, mut replies) = (0u32, 0u32);
    let mut room = [0; 2048];
    while stage.attacks() {
        for number in pace.due() {
            let Some(socket) = sockets.get(number as usize % sockets.len().max(1)) else { continue };
            unsent += u32::from(socket.send(&question(number as u16, &name(number), 1)).is_err());
            while socket.recv(&mut room).is_ok() {
                replies += 1;
            }
        }
    }
    Ok(format!("{} questions from {} addresses ({unsent} not sent, {replies} answered)", pace.done, sockets.len()))
}

fn udp(own: IpAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect((if own.is_ipv4() { SERVER4 } else { SERVER6 }, 53))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open(own: IpAddr, port: u16, octets: &[u8]) -> std::io::Result<TcpStream> {
    let server = if own.is_ipv4() { SERVER4 } else { SERVER6 };
    let socket = Socket::new(Domain::for_address(SocketAddr::new(own, 0)), Type::STREAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    socket.bind(&SocketAddr::new(own, 0).into())?;
    socket.connect_timeout(&SocketAddr::new(server, port).into(), CONNECT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(CONNECT))?;
    stream.write_all(octets)?;
    Ok(stream)
}

/// Connections from all of the attacker's addresses in turns, each of which brings these octets and nothing else.
fn connect(site: &Site, stage: &Stage, port: u16, octets: &[u8]) -> Result<String, AnyError> {
    let opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8usize)
            .map(|thread| {
                scope.spawn(move || -> Result<(u32, u32), AnyError> {
                    site.attacker.enter()?;
                    let (mut held, mut opened, mut failed) = (VecDeque::new(), 0, 0);
                    let mut pace = Pace::new(PER_SECOND / 8);
                    while stage.attacks() {
                        for number in pace.due() {
                            let at = (number as usize * 8 + thread) % site.own.len().max(1);
                            let Some(own) = site.own.get(at) else { continue };
                            match open(*own, port, octets) {
                                Ok(stream) => {
                                    opened += 1;
                                    held.push_back(stream);
                                }
                                Err(_) => failed += 1,
                            }
                            if held.len() > CONNECTIONS / 8 {
                                held.pop_front();
                            }
                        }
                    }
                    Ok((opened, failed))
                })
            })
            .collect();
        let mut sum = (0, 0);
        for thread in threads {
            let (opened, failed) = thread.join().map_err(|_| "an attacker panicked")??;
            sum = (sum.0 + opened, sum.1 + failed);
        }
        Ok::<_, AnyError>(sum)
    })?;
    Ok(format!("{} connections from {} addresses ({} failed)", opened.0, site.own.len(), opened.1))
}

/// Questions from addresses that aren't the attacker's, each for a name that doesn't exist.
fn spoof(stage: &Stage) -> Result<String, AnyError> {
    let forged = (0..=255u8).flat_map(|high| [1, 99].map(|low| IpAddr::from([10, 66, high, low])));
    let sockets = forged.map(udp).collect::<Result<Vec<_>, _>>()?;
    let mut pace = Pace::new(5000);
    while stage.attacks() {
        for number in pace.due() {
            let Some(socket) = sockets.get(number as usize % sockets.len().max(1)) else { continue };
            let name = format!("n{number}.flood.example");
            // What can't be sent is no attack.
            drop(socket.send(&question(number as u16, &name, 1)));
        }
    }
    Ok(format!("{} questions from {} forged addresses", pace.done, sockets.len()))
}
