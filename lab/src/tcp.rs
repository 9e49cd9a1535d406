//! TCP on the far side and probes from the near side.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::node::Node;

/// Accepts on every address of a node, both families, and sends back what it reads. Ends when dropped.
#[derive(Debug)]
pub struct EchoServer {
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Listens on a port of a node.
    ///
    /// # Errors
    /// [`Error::System`] when the port is taken.
    pub fn start(node: &Node, port: u16) -> Result<Self, Error> {
        let listener = node.in_namespace(|| listen(port))?.map_err(Error::system(format!("TCP in {}", node.name())))?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (accepted, stop) = (Arc::clone(&accepted), Arc::clone(&stop));
            std::thread::spawn(move || accept(&listener, &accepted, &stop))
        };
        Ok(Self { accepted, stop, thread: Some(thread) })
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("lab: the echo server panicked");
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([0_u16; 8], port)).into())?;
    socket.listen(1024)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(listener: &TcpListener, accepted: &AtomicUsize, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                accepted.fetch_add(1, Ordering::Relaxed);
                let stop = Arc::clone(stop);
                std::thread::spawn(move || {
                    // The client closing is how a connection ends.
                    drop(echo(stream, &stop));
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut room = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut room) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(room.get(..length).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Connects from the calling thread's network; how long it took. The first SYN must get through when `limit` is below
/// the one second after which Linux sends the next.
///
/// # Errors
/// The connection's; `TimedOut` when nothing came back.
pub fn connect(address: IpAddr, port: u16, limit: Duration) -> io::Result<Duration> {
    let begin = Instant::now();
    TcpStream::connect_timeout(&SocketAddr::new(address, port), limit)?;
    Ok(begin.elapsed())
}

/// Sends octets on an open connection and waits for their echo.
///
/// # Errors
/// The connection's; `WouldBlock` or `TimedOut` when no echo came in time.
pub fn ping(stream: &mut TcpStream, octets: &[u8], limit: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(octets)?;
    let mut back = vec![0; octets.len()];
    stream.read_exact(&mut back)?;
    if back == octets { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "not the octets sent")) }
}
