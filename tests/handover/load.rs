//! Clients that ask all the time and never repeat a question.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Questions a second over UDP.
const RATE: u32 = 400;
/// Sources: each is another member of a group of sockets.
const SOURCES: usize = 32;
const NAMES: usize = 300;
/// As long as a client waits (glibc).
const LIMIT: Duration = Duration::from_secs(5);

/// What became of the questions.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub asked: usize,
    pub lost: usize,
    pub refused: usize,
    pub slowest: Duration,
    pub over_tcp: usize,
    pub tcp_failed: usize,
    pub words: Vec<String>,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(server: SocketAddr) -> Self {
        let (stop, answered, seen): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Seen>>) = Default::default();
        let udp = {
            let (stop, answered, seen) = (stop.clone(), answered.clone(), seen.clone());
            std::thread::spawn(move || over_udp(server, &stop, &answered, &seen))
        };
        let tcp = {
            let (stop, seen) = (stop.clone(), seen.clone());
            std::thread::spawn(move || over_tcp(server, &stop, &seen))
        };
        Self { stop, answered, seen, threads: vec![udp, tcp] }
    }

    /// Until all names have been asked for.
    pub fn warm(&self) {
        self.wait(NAMES);
    }

    /// Until so many more are answered.
    pub fn wait(&self, more: usize) {
        let (begun, before) = (Instant::now(), self.answered.load(Ordering::Relaxed));
        while self.answered.load(Ordering::Relaxed) < before + more {
            assert!(begun.elapsed() < super::PATIENCE, "no answers: {:?}", self.seen.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What became of all; waits for those that are on their way.
    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.seen.lock().unwrap().clone()
    }
}

pub fn question(number: usize) -> Vec<u8> {
    let id = u16::try_from(number % 65_536).unwrap();
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [&format!("n{}", number % NAMES), "many", "test"] {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 1, 0, 1]);
    out
}

fn over_udp(server: SocketAddr, stop: &AtomicBool, answered: &AtomicUsize, seen: &Mutex<Seen>) {
    let sockets: Vec<UdpSocket> = (0..SOURCES).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    sockets.iter().for_each(|socket| {
        socket.connect(server).unwrap();
        socket.set_nonblocking(true).unwrap();
    });
    let mut waiting: HashMap<(usize, u16), Instant> = HashMap::new();
    let (begun, mut number) = (Instant::now(), 0usize);
    let mut buffer = [0; 1500];
    loop {
        let stopped = stop.load(Ordering::Relaxed);
        if stopped && waiting.is_empty() {
            return;
        }
        while !stopped && begun.elapsed() * RATE >= Duration::from_secs(1) * u32::try_from(number).unwrap() {
            let source = number % SOURCES;
            let sent = sockets[source].send(&question(number));
            waiting.insert((source, u16::try_from(number % 65_536).unwrap()), Instant::now());
            let mut seen = seen.lock().unwrap();
            seen.asked += 1;
            if let Err(error) = sent {
                seen.words.push(format!("send: {error}"));
            }
            number += 1;
        }
        for (source, socket) in sockets.iter().enumerate() {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        assert!(length >= 12);
                        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                        let Some(at) = waiting.remove(&(source, id)) else { continue };
                        let mut seen = seen.lock().unwrap();
                        seen.slowest = seen.slowest.max(at.elapsed());
                        if buffer[3] & 15 != 0 || buffer[7] == 0 {
                            seen.refused += 1;
                            seen.words.push(format!("code {}, {} answers", buffer[3] & 15, buffer[7]));
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    // Nobody listened: a client that asks again would, this one doesn't.
                    Err(error) => seen.lock().unwrap().words.push(format!("receive: {error}")),
                }
            }
        }
        let before = waiting.len();
        waiting.retain(|_, at| at.elapsed() < LIMIT);
        seen.lock().unwrap().lost += before - waiting.len();
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn over_tcp(server: SocketAddr, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let outcome = ask_over_tcp(server, number);
        let mut seen = seen.lock().unwrap();
        seen.over_tcp += 1;
        if let Err(error) = outcome {
            seen.tcp_failed += 1;
            seen.words.push(format!("over TCP: {error}"));
        }
        drop(seen);
        number += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ask_over_tcp(server: SocketAddr, number: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let question = question(number);
    let length = u16::try_from(question.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], &question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    let (code, answers) = (reply[3] & 15, reply[7]);
    if code != 0 || answers == 0 {
        return Err(std::io::Error::other(format!("code {code}, {answers} answers")));
    }
    Ok(())
}
