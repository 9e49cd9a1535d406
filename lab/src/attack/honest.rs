//! Honest clients: what they ask, and what they got.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::site::{HONEST4, HONEST6, SERVER4, SERVER6, Site};
use super::{AnyError, Kind, Stage};

/// A stub resolver's patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// And when it asks again over UDP.
const AGAIN: Duration = Duration::from_secs(1);
/// Names that are asked for again and again.
const HOT: u32 = 50;
/// Hosts of the crowd.
pub const CROWD: u8 = 12;
/// Names of a page, each asked for with both types.
const PAGE: u32 = 20;
/// Between two pages of one host.
const READING: Duration = Duration::from_secs(8);

/// How is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Udp,
    Tcp,
    Tls,
    /// Over UDP, by the hosts of the crowd: pages, all names at once.
    Crowd,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "DoT",
            Self::Crowd => "LAN",
        }
    }
}

/// What was got.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub asked: u64,
    pub lost: u64,
    /// Questions without an answer, by the reason that was seen.
    pub reasons: BTreeMap<String, u32>,
    millis: Vec<f64>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.lost += other.lost;
        self.millis.extend(other.millis);
        for (why, count) in other.reasons {
            *self.reasons.entry(why).or_default() += count;
        }
    }

    fn note(&mut self, took: Duration, result: Result<(), String>) {
        self.asked += 1;
        match result {
            Ok(()) => self.millis.push(took.as_secs_f64() * 1000.0),
            Err(why) => {
                self.lost += 1;
                *self.reasons.entry(why).or_default() += 1;
            }
        }
    }

    /// In milliseconds, of those that were answered.
    pub fn percentile(&self, part: usize) -> f64 {
        let mut all = self.millis.clone();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() * part / 100).copied().unwrap_or(0.0)
    }
}

/// One thread of questions.
pub struct Asking {
    pub way: Way,
    /// Between two questions.
    every: Duration,
    /// Whose, within the crowd.
    host: u8,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Asking {
    /// Those beside an attack.
    pub fn all(kind: Kind) -> Vec<Self> {
        let of = |way, millis| Self { way, every: Duration::from_millis(millis), host: 0 };
        let mut all = vec![of(Way::Udp, 60), of(Way::Udp, 60), of(Way::Udp, 60), of(Way::Tcp, 80), of(Way::Tls, 100)];
        if kind == Kind::Lan {
            all.extend((0..CROWD).map(|host| Self { way: Way::Crowd, every: READING, host }));
        }
        all
    }

    /// Asks until the stage says to end.
    pub fn go_on(&self, site: &Site, stage: &Stage) -> Result<[Tally; 3], AnyError> {
        let host = if self.way == Way::Crowd { site.crowd.get(usize::from(self.host)) } else { Some(&site.honest) };
        host.ok_or("no such host")?.enter()?;
        let mut tallies: [Tally; 3] = Default::default();
        let mut due = Instant::now() + self.every.mul_f64(f64::from(self.host) / f64::from(CROWD));
        while stage.asks() {
            if let Some(left) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(left.min(Duration::from_millis(50)));
                continue;
            }
            due = (due + self.every).max(Instant::now());
            let number = NEXT.fetch_add(1, Relaxed);
            let server: IpAddr = if number % 4 < 2 { SERVER4 } else { SERVER6 };
            let name = match number % 2 {
                0 => format!("h{}.honest.example", number / 2 % HOT),
                _ => format!("u{number}.honest.example"),
            };
            let (begin, phase) = (Instant::now(), stage.phase());
            let Some(tally) = tallies.get_mut(phase) else { continue };
            match self.way {
                Way::Udp => {
                    let own = if server.is_ipv4() { HONEST4 } else { HONEST6 };
                    let result = udp(own, server, &name);
                    tally.note(begin.elapsed(), result);
                }
                Way::Tcp => {
                    let result = tcp(server, &name);
                    tally.note(begin.elapsed(), result);
                }
                Way::Tls => {
                    let result = tls(server, &name, &site.tls);
                    tally.note(begin.elapsed(), result);
                }
                Way::Crowd => page(number, tally)?,
            }
        }
        Ok(tallies)
    }
}

/// The octets of a query with one question.
pub fn question(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    crate::dns::message::put_name(&mut out, name);
    out.extend(qtype.to_be_bytes());
    out.extend([0, 1]);
    out
}

/// Where leases are for single clients, these can be reached from where it is asked.
fn type_of(server: IpAddr) -> u16 {
    if server.is_ipv4() { 1 } else { 28 }
}

fn judge(reply: &[u8]) -> Result<(), String> {
    match (reply.get(3).map(|flags| flags & 15), reply.get(7)) {
        (Some(0), Some(1..)) => Ok(()),
        (Some(0), _) => Err("no address".to_owned()),
        (Some(code), _) => Err(format!("code {code}")),
        _ => Err("cut".to_owned()),
    }
}

fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => "no reply".to_owned(),
        kind => kind.to_string(),
    }
}

fn udp(own: IpAddr, server: IpAddr, name: &str) -> Result<(), String> {
    let asked = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((own, 0))?;
        socket.connect((server, 53))?;
        let query = question(7, name, type_of(server));
        let mut room = [0; 2048];
        for wait in [AGAIN, PATIENCE - AGAIN] {
            socket.send(&query)?;
            socket.set_read_timeout(Some(wait))?;
            match socket.recv(&mut room) {
                Ok(length) => return Ok(room.get(..length).unwrap_or_default().to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Err(std::io::ErrorKind::WouldBlock.into())
    };
    asked().map_err(|error| words(&error)).and_then(|reply| judge(&reply))
}

fn connect(server: IpAddr, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(server, port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn over(stream: &mut (impl Read + Write), name: &str, server: IpAddr) -> std::io::Result<Vec<u8>> {
    let query = question(7, name, type_of(server));
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

fn tcp(server: IpAddr, name: &str) -> Result<(), String> {
    let asked = || over(&mut connect(server, 53)?, name, server);
    asked().map_err(|error| words(&error)).and_then(|reply| judge(&reply))
}

fn tls(server: IpAddr, name: &str, config: &std::sync::Arc<rustls::ClientConfig>) -> Result<(), String> {
    let asked = || -> std::io::Result<Vec<u8>> {
        let mut socket = connect(server, 853)?;
        let name_of = rustls::pki_types::ServerName::try_from(super::site::NAME).map_err(std::io::Error::other)?;
        let mut session = rustls::ClientConnection::new(config.clone(), name_of).map_err(std::io::Error::other)?;
        over(&mut rustls::Stream::new(&mut session, &mut socket), name, server)
    };
    asked().map_err(|error| words(&error)).and_then(|reply| judge(&reply))
}

/// All names of a page at once, each with both types, over IPv6; once again those without reply.
fn page(number: u32, tally: &mut Tally) -> Result<(), AnyError> {
    let socket = UdpSocket::bind("[::]:0")?;
    socket.connect((SERVER6, 53))?;
    let begin = Instant::now();
    let all: Vec<Vec<u8>> = (0..PAGE * 2)
        .map(|at| {
            // Of five sites.
            let name = format!("p{at}-{number}.site{}-{number}.example", at / 2 % 5);
            question(at as u16, &name, if at % 2 == 0 { 1 } else { 28 })
        })
        .collect();
    let mut got = vec![false; all.len()];
    let mut room = [0; 2048];
    for wait in [AGAIN, PATIENCE - AGAIN] {
        for (query, _) in all.iter().zip(&got).filter(|(_, got)| !**got) {
            socket.send(query)?;
        }
        let end = Instant::now() + wait;
        while got.contains(&false) {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            socket.set_read_timeout(Some(left))?;
            let Ok(length) = socket.recv(&mut room) else { continue };
            let reply = room.get(..length).unwrap_or_default();
            let id = reply.first_chunk().map_or(usize::MAX, |id| usize::from(u16::from_be_bytes(*id)));
            if let Some(got) = got.get_mut(id).filter(|got| !**got) {
                *got = true;
                tally.note(begin.elapsed(), judge(reply));
            }
        }
    }
    for _ in got.iter().filter(|got| !**got) {
        tally.note(PATIENCE, Err("no reply".to_owned()));
    }
    Ok(())
}
