//! What must not flap: a BGP session and its routes, seen by a peer that only listens; the packet filter's table, read from the kernel.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::wait::wait_until;

/// KEEPALIVEs go out this often.
const KEEPALIVE: Duration = Duration::from_secs(5);
const HEADER: usize = 19;
/// How long the kernel may be asked for one set.
const READ: Duration = Duration::from_secs(20);
/// OPEN of AS 64513 with both families and a hold time of 240 s.
const OPEN: [u8; 26] = [4, 0xfc, 0x01, 0, 240, 192, 0, 2, 100, 16, 2, 14, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0];

/// What one route has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// Announced so often, with whatever attributes.
    pub announced: u64,
    /// Withdrawn so often.
    pub withdrawn: u64,
}

/// What the peer has seen.
#[derive(Debug, Default)]
pub struct Routes {
    /// Sessions that began.
    pub sessions: AtomicU64,
    stories: Mutex<HashMap<IpAddr, Story>>,
}

impl Routes {
    fn stories(&self) -> MutexGuard<'_, HashMap<IpAddr, Story>> {
        self.stories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of these, in order.
    pub fn of(&self, addresses: &[IpAddr]) -> Vec<Story> {
        let stories = self.stories();
        addresses.iter().map(|address| stories.get(address).copied().unwrap_or_default()).collect()
    }

    /// Whether all of these are announced.
    pub fn hold(&self, addresses: &[IpAddr]) -> bool {
        self.of(addresses).iter().all(|story| story.announced > story.withdrawn)
    }

    /// Takes sessions until the end.
    pub fn listen(&self, listener: &TcpListener, end: &AtomicBool) {
        std::thread::scope(|scope| {
            while !end.load(Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                scope.spawn(move || {
                    if let Err(error) = self.session(stream, end) {
                        eprintln!("lab: the peer's session ended: {error}");
                    }
                });
            }
        });
    }

    fn session(&self, mut stream: TcpStream, end: &AtomicBool) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        stream.write_all(&message(1, &OPEN))?;
        stream.write_all(&message(4, &[]))?;
        self.sessions.fetch_add(1, Relaxed);
        let (mut octets, mut alive) = (Vec::new(), std::time::Instant::now());
        let mut room = vec![0; 1 << 16];
        while !end.load(Relaxed) {
            if alive.elapsed() >= KEEPALIVE {
                stream.write_all(&message(4, &[]))?;
                alive = std::time::Instant::now();
            }
            match stream.read(&mut room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => octets.extend_from_slice(room.get(..count).unwrap_or_default()),
                Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
            while let Some(length) = long(&octets, 16).filter(|length| octets.len() >= *length && *length >= HEADER) {
                let message: Vec<u8> = octets.drain(..length).collect();
                match message.get(18) {
                    Some(2) => drop(self.update(message.get(HEADER..).unwrap_or_default())),
                    Some(3) => eprintln!("lab: the guard says NOTIFICATION {:?}", message.get(HEADER..HEADER + 2)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn update(&self, body: &[u8]) -> Option<()> {
        let withdrawn = long(body, 0)?;
        let attributes = long(body, 2 + withdrawn)?;
        self.note(body.get(2..2 + withdrawn)?, false, true);
        self.note(body.get(4 + withdrawn + attributes..)?, true, true);
        let mut rest = body.get(4 + withdrawn..4 + withdrawn + attributes)?;
        while !rest.is_empty() {
            let (flags, kind) = (*rest.first()?, *rest.get(1)?);
            let (head, length) = if flags & 0x10 == 0 { (3, usize::from(*rest.get(2)?)) } else { (4, long(rest, 2)?) };
            let value = rest.get(head..head + length)?;
            rest = rest.get(head + length..)?;
            let ipv4 = value.get(1) == Some(&1);
            match kind {
                // MP_REACH_NLRI: AFI, SAFI, next hop with its length, one octet reserved, routes.
                14 => self.note(value.get(5 + usize::from(*value.get(3)?)..)?, true, ipv4),
                15 => self.note(value.get(3..)?, false, ipv4),
                _ => {}
            }
        }
        Some(())
    }

    /// Host routes; prefixes are nobody's lease.
    fn note(&self, mut octets: &[u8], announced: bool, ipv4: bool) {
        let mut stories = self.stories();
        while let Some((bits, rest)) = octets.split_first() {
            let Some((prefix, rest)) = rest.split_at_checked(usize::from(*bits).div_ceil(8)) else { return };
            octets = rest;
            let address = match (<[u8; 4]>::try_from(prefix), <[u8; 16]>::try_from(prefix)) {
                (Ok(octets), _) if ipv4 => IpAddr::from(octets),
                (_, Ok(octets)) => IpAddr::from(octets),
                _ => continue,
            };
            let story = stories.entry(address).or_default();
            let count = if announced { &mut story.announced } else { &mut story.withdrawn };
            *count += 1;
        }
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

/// What of the table tells whether it was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Table and sets: they hold the leases.
    pub sets: Vec<String>,
    /// Chains and rules.
    pub rules: Vec<String>,
}

/// Reads it from the kernel.
///
/// # Errors
/// There is none.
pub fn table() -> Result<Table, Box<dyn std::error::Error>> {
    let output = Command::new("nft").args(["-j", "-t", "-a", "list", "table", "inet", "destguard"]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let (mut sets, mut rules) = (Vec::new(), Vec::new());
    for object in listed["nftables"].as_array().into_iter().flatten() {
        for (kind, what) in object.as_object().into_iter().flatten() {
            let line = format!("{kind} {} {}", what["name"], what["handle"]);
            match kind.as_str() {
                "table" | "set" if what["name"] == "destguard" || what["name"].as_str().is_some_and(holds_leases) => {
                    sets.push(line);
                }
                "chain" | "rule" => rules.push(line),
                _ => {}
            }
        }
    }
    Ok(Table { sets, rules })
}

fn holds_leases(set: &str) -> bool {
    set.starts_with("lease")
}

fn ask(set: &str, elements: &str) -> Result<(), String> {
    let got = Command::new("nft").args(["get", "element", "inet", "destguard", set, elements]).output();
    let got = got.map_err(|error| error.to_string())?;
    if got.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&got.stderr).into_owned()) }
}

/// Whether the kernel's sets have all of these.
///
/// # Errors
/// What they lack, in the kernel's words.
pub fn are_open(addresses: &[IpAddr]) -> Result<(), String> {
    for (set, ipv4) in [("lease4", true), ("lease6", false)] {
        let wanted: Vec<String> =
            addresses.iter().filter(|address| address.is_ipv4() == ipv4).map(ToString::to_string).collect();
        let elements = format!("{{ {} }}", wanted.join(", "));
        // The program gives up when somebody changes the ruleset meanwhile, as the guard does for each answer.
        let mut got = "not asked".to_owned();
        let done = wait_until(READ, || match ask(set, &elements) {
            Ok(()) => {
                got.clear();
                true
            }
            Err(words) => {
                let again = words.contains("Interrupted");
                got = words;
                !again
            }
        });
        if !done || !got.is_empty() {
            return Err(got);
        }
    }
    Ok(())
}
