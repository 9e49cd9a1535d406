//! A BGP peer that takes everything in and only counts: the same one for every speaker that is measured.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Its own AS (RFC 5398: documentation).
pub const ASN: u16 = 64513;
const HEADER: usize = 19;
const BUFFER: usize = 1 << 20;
/// KEEPALIVEs go out this often; nobody is told a hold time near it.
const KEEPALIVE: Duration = Duration::from_secs(5);
const HOLD: u16 = 240;
/// How long a speaker may take to connect.
const CONNECT: Duration = Duration::from_secs(120);
/// Message types (RFC 4271 section 4.1, RFC 2918).
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
/// Host routes of this network are told one by one, with the time they came.
const FRESH: u8 = 198;

/// Waits for a speaker.
pub struct Sink {
    listener: TcpListener,
}

/// A speaker that connected and has not been answered.
pub struct Waiting {
    stream: TcpStream,
    number: u8,
}

/// A BGP session that takes routes and counts them.
pub struct Session {
    /// When the speaker was answered.
    pub began: Instant,
    /// When the announced routes became as many as were wanted.
    done: mpsc::Receiver<Instant>,
    fresh: mpsc::Receiver<(IpAddr, Instant)>,
    counters: Arc<Counters>,
    stream: TcpStream,
}

/// Counts of what came over a session.
#[derive(Default)]
struct Counters {
    announced: AtomicU64,
    updates: AtomicU64,
    octets: AtomicU64,
    ended: AtomicBool,
}

/// What came so far: routes announced, UPDATEs that announced them, their octets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub announced: u64,
    pub updates: u64,
    pub octets: u64,
}

impl Sink {
    /// # Errors
    /// The kernel's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// The next speaker that connects. It is not answered before [`Waiting::begin`]. `gone` says why there won't be any.
    ///
    /// # Errors
    /// When none came in time.
    pub fn accept(&self, number: u8, mut gone: impl FnMut() -> Option<String>) -> io::Result<Waiting> {
        let accepted = crate::wait::wait_for(CONNECT, || match self.listener.accept() {
            Ok((stream, _)) => Some(Ok(stream)),
            Err(_) => gone().map(Err),
        });
        let stream = accepted.ok_or_else(|| io::Error::other("nobody connects"))?.map_err(io::Error::other)?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Waiting { stream, number })
    }
}

impl Waiting {
    /// Says OPEN. `wanted`: routes after which [`Session::wait`] returns; `hungry`: all is asked for again whenever it came.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(self, wanted: u64, hungry: bool) -> io::Result<Session> {
        let Self { stream, number } = self;
        let counters = Arc::new(Counters::default());
        let (done_sender, done) = mpsc::channel();
        let (fresh_sender, fresh) = mpsc::channel();
        let mut writer = stream.try_clone()?;
        let began = Instant::now();
        writer.write_all(&open(number))?;
        let reader = Reader {
            stream: stream.try_clone()?,
            counters: Arc::clone(&counters),
            wanted,
            step: if hungry { Some(wanted) } else { None },
            done: done_sender,
            fresh: fresh_sender,
        };
        std::thread::spawn(move || reader.run());
        let (mut alive, ended) = (stream.try_clone()?, Arc::clone(&counters));
        std::thread::spawn(move || {
            while !ended.ended.load(Ordering::SeqCst) && alive.write_all(&message(4, &[])).is_ok() {
                std::thread::sleep(KEEPALIVE);
            }
        });
        Ok(Session { began, done, fresh, counters, stream })
    }
}

impl Session {
    /// How long it took until all wanted routes were there.
    ///
    /// # Errors
    /// When they weren't in time, or the session ended.
    pub fn wait(&self, deadline: Instant) -> io::Result<Duration> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.done.recv_timeout(left) {
            Ok(at) => Ok(at - self.began),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(io::Error::other(format!("only {} routes in time", self.counts().announced)))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(io::Error::other("the speaker ended the session")),
        }
    }

    /// When this fresh route came; `None`: not in time.
    #[must_use]
    pub fn arrival(&self, wanted: IpAddr, limit: Duration) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (address, at) = self.fresh.recv_timeout(left).ok()?;
            if address == wanted {
                return Some(at);
            }
        }
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let Counters { announced, updates, octets, .. } = &*self.counters;
        Counts { announced: of(announced), updates: of(updates), octets: of(octets) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.counters.ended.store(true, Ordering::SeqCst);
        // Closed already when the speaker was first.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

struct Reader {
    stream: TcpStream,
    counters: Arc<Counters>,
    wanted: u64,
    step: Option<u64>,
    done: mpsc::Sender<Instant>,
    fresh: mpsc::Sender<(IpAddr, Instant)>,
}

impl Reader {
    fn run(mut self) {
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..) {
            let Ok(count @ 1..) = self.stream.read(room) else { break };
            let now = Instant::now();
            filled += count;
            let Some(used) = self.messages(buffer.get(..filled).unwrap_or_default(), now) else { break };
            buffer.copy_within(used..filled, 0);
            filled -= used;
        }
        self.counters.ended.store(true, Ordering::SeqCst);
    }

    /// Takes whole messages; how many octets they were. `None`: the session is over.
    fn messages(&mut self, octets: &[u8], now: Instant) -> Option<usize> {
        let mut used = 0;
        while let Some(header) = octets.get(used..used + HEADER) {
            let length = usize::from(u16::from_be_bytes([*header.get(16)?, *header.get(17)?]));
            if length < HEADER {
                return None;
            }
            let Some(body) = octets.get(used + HEADER..used + length) else { break };
            used += length;
            match header.get(18) {
                Some(&UPDATE) => self.update(body, now)?,
                Some(&NOTIFICATION) => {
                    eprintln!("the speaker says NOTIFICATION {:?}", body.get(..2));
                    return None;
                }
                _ => {}
            }
        }
        Some(used)
    }

    fn update(&mut self, body: &[u8], now: Instant) -> Option<()> {
        let withdrawn = long(body, 0)?;
        let attributes = long(body, 2 + withdrawn)?;
        let mut rest = body.get(4 + withdrawn..4 + withdrawn + attributes)?;
        let mut count = self.hosts::<4>(body.get(4 + withdrawn + attributes..)?, now)?;
        while !rest.is_empty() {
            let (flags, kind) = (*rest.first()?, *rest.get(1)?);
            let (head, length) = if flags & 0x10 == 0 { (3, usize::from(*rest.get(2)?)) } else { (4, long(rest, 2)?) };
            let value = rest.get(head..head + length)?;
            rest = rest.get(head + length..)?;
            // MP_REACH_NLRI: AFI, SAFI, next hop with its length, one octet reserved, routes.
            if kind == 14 {
                let routes = value.get(5 + usize::from(*value.get(3)?)..)?;
                count += if value.get(1) == Some(&1) {
                    self.hosts::<4>(routes, now)?
                } else {
                    self.hosts::<16>(routes, now)?
                };
            }
        }
        if count == 0 {
            return Some(());
        }
        let add = |counter: &AtomicU64, more| counter.fetch_add(more, Ordering::SeqCst) + more;
        add(&self.counters.updates, 1);
        add(&self.counters.octets, u64::try_from(HEADER + body.len()).ok()?);
        if add(&self.counters.announced, count) >= self.wanted {
            // Nobody waits for a session that is dropped.
            self.done.send(now).ok()?;
            match self.step {
                Some(step) => {
                    self.wanted = self.counters.announced.load(Ordering::SeqCst) + step;
                    self.stream.write_all(&message(5, &[0, 1, 0, 1])).ok()?;
                }
                None => self.wanted = u64::MAX,
            }
        }
        Some(())
    }

    /// Counts prefixes; those that are fresh host routes are told.
    fn hosts<const SIZE: usize>(&self, mut octets: &[u8], now: Instant) -> Option<u64> {
        let mut count = 0;
        while let Some((bits, rest)) = octets.split_first() {
            let (prefix, rest) = rest.split_at_checked(usize::from(*bits).div_ceil(8))?;
            octets = rest;
            count += 1;
            if SIZE == 4 && prefix.first() == Some(&FRESH) {
                let address = Ipv4Addr::from(<[u8; 4]>::try_from(prefix).ok()?);
                self.fresh.send((address.into(), now)).ok()?;
            }
        }
        Some(count)
    }
}

fn long(octets: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?])))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend_from_slice(&u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX).to_be_bytes());
    octets.push(kind);
    octets.extend_from_slice(body);
    octets
}

/// OPEN with both families, route refresh and four-octet AS numbers; no longer messages, so that all speakers are compared at 4096 octets.
fn open(number: u8) -> Vec<u8> {
    let [high, low] = ASN.to_be_bytes();
    let capabilities = [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 65, 4, 0, 0, high, low];
    let mut body = vec![4, high, low];
    body.extend_from_slice(&HOLD.to_be_bytes());
    body.extend_from_slice(&[192, 0, 2, 100 + number]);
    let length = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
    body.extend_from_slice(&[length + 2, 2, length]);
    body.extend_from_slice(&capabilities);
    message(1, &body)
}

/// The table's route with this number, the same for every speaker: scattered as answers are, not in order.
#[must_use]
pub fn host(number: u32, ipv6: bool) -> IpAddr {
    let scattered = number.wrapping_mul(2_654_435_761);
    if ipv6 {
        IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(scattered)))
    } else {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | scattered & 0x00ff_ffff))
    }
}
