//! A program of a control group that connects as it is told: it waits for its orders, so that no start of a program lies between an answer and a
//! connect.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;

use lab::Node;

use crate::group::Group;

const PROGRAM: &str = include_str!("client.py");

/// Killed when dropped.
pub struct Client(Mutex<Running>);

struct Running {
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Client {
    /// Starts it as one of the group.
    pub fn start(host: &Node, group: &Group) -> Self {
        host.write("/etc/client.py", PROGRAM).unwrap();
        let mut command = host.command("sh");
        command.args(["-c", &group.line("python3 /etc/client.py")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (orders, said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self(Mutex::new(Running { child, orders, said }))
    }

    /// Connects, and says what the kernel said: `ok`, `timeout`, or an error's name such as `EPERM`.
    pub fn connect(&self, to: SocketAddr) -> String {
        self.order(&format!("connect {} {}", to.ip(), to.port()))
    }

    /// Likewise, and keeps the connection in place of the one before.
    pub fn keep(&self, to: SocketAddr) -> String {
        self.order(&format!("keep {} {}", to.ip(), to.port()))
    }

    /// What it meets on the connection that it keeps: `ok` when octets came back.
    pub fn ping(&self) -> String {
        self.order("ping")
    }

    fn order(&self, line: &str) -> String {
        let mut running = self.0.lock().unwrap();
        writeln!(running.orders, "{line}").unwrap();
        let mut said = String::new();
        assert!(running.said.read_line(&mut said).unwrap() > 0, "the client has ended: {line}");
        said.trim().to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Ok(running) = self.0.get_mut() {
            drop(running.child.kill());
            drop(running.child.wait());
        }
    }
}
