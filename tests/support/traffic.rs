//! Servers and clients of the tests: echo over TCP, and what a connection attempt meets.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// What a connection attempt met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Connected,
    Refused,
    TimedOut,
    Other(ErrorKind),
}

/// Serves TCP echo on these ports of every address of the calling thread's namespace, until the process ends.
pub fn serve(ports: &[u16]) {
    for port in ports {
        let listener = TcpListener::bind(("::", *port)).expect("a port");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0u8; 512];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Tries to connect from the calling thread's namespace.
pub fn connect(address: &str, port: u16) -> Met {
    match open(address, port) {
        Ok(_) => Met::Connected,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Met::Refused,
            ErrorKind::TimedOut => Met::TimedOut,
            kind => Met::Other(kind),
        },
    }
}

/// A connection that fails rather than hangs.
pub fn open(address: &str, port: u16) -> std::io::Result<TcpStream> {
    let address: IpAddr = address.parse().expect("an address");
    let stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether one echo comes back on a connection.
pub fn alive(stream: &mut TcpStream) -> bool {
    let mut buffer = [0u8; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && &buffer == b"ping"
}

/// Whether the kernel lets one UDP datagram out: in the output hook a refusal is seen by the sender.
pub fn datagram_leaves(from: u16, to: &str) -> bool {
    let to: SocketAddr = to.parse().expect("address and port");
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, from)).expect("a port");
    socket.set_broadcast(true).expect("broadcast");
    socket.send_to(b"x", to).is_ok()
}
