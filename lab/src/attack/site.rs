//! Where attacks happen: hosts on a bridge, the guard, and its scripted upstream.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::honest::{CROWD, question};
use super::{AnyError, Kind};
use crate::wait::wait_until;

/// The guard's addresses on the bridge.
pub const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// The guard's IPv6 address.
pub const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1));
/// The honest client's.
pub const HONEST4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
/// The honest clients' IPv6 address.
pub const HONEST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 2));
/// The attacker has so many addresses of either family. More than the kernel keeps neighbours for would be an attack on the kernel.
pub const ADDRESSES: u16 = 200;
/// The guard's name over TLS.
pub const NAME: &str = "guard.example";

const UPSTREAM: &str = "127.0.0.1:5300";
const START: Duration = Duration::from_secs(30);
const BIG: usize = 16_000;

const CONFIG: &str = r#"
[dns]
listen = ["10.77.0.1:53", "[2001:db8:77::1]:53"]
clients = ["10.0.0.0/8", "2001:db8::/32"]
[dns.tls]
certificate = "cert.pem"
key = "key.pem"
dot = ["10.77.0.1:853", "[2001:db8:77::1]:853"]
[[dns.upstream]]
url = "udp://127.0.0.1:5300"
[nftables]
mode = "gateway"
inside = ["br0"]
scope = "SCOPE"
[state]
dir = "state"
[lease]
MORE
"#;

/// Answers are validated where checking them is attacked; this costs the honest ones something as well.
const VALIDATING: &str = "[dns.dnssec]\nvalidate = true\ntrust_anchor = \"anchors\"\n";

/// A host: a network namespace that lives as long as this.
pub struct Host(File);

impl Host {
    /// On the bridge of the calling thread's namespace.
    fn new(name: &str, addresses: &[String]) -> Result<Self, AnyError> {
        let file = std::thread::spawn(|| {
            crate::sys::leave_network()?;
            File::open("/proc/thread-self/ns/net")
        });
        let host = Self(file.join().map_err(|_| "no namespace")??);
        let path = format!("/proc/{}/fd/{}", std::process::id(), host.0.as_raw_fd());
        run(&format!("ip link add {name} type veth peer name eth0 netns {path} && ip link set {name} master br0 up"))?;
        let lines: String = addresses.iter().map(|address| format!("addr add {address} dev eth0\n")).collect();
        let script = format!(
            "link set lo up\nlink set eth0 up\n{lines}route add default via {SERVER4}\n-6 route add default via {SERVER6}\n"
        );
        std::thread::scope(|scope| {
            scope.spawn(|| host.enter().and_then(|()| batch(&script))).join().map_err(|_| "it panicked")?
        })?;
        Ok(host)
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) -> Result<(), AnyError> {
        Ok(crate::sys::enter_network(&self.0)?)
    }
}

/// All of it. Ends with this.
pub struct Site {
    pub honest: Host,
    pub attacker: Host,
    /// The attacker's, from which it opens connections.
    pub own: Vec<IpAddr>,
    pub crowd: Vec<Host>,
    pub tls: Arc<rustls::ClientConfig>,
    guard: Mutex<Running>,
    dir: PathBuf,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("lab: ending the guard: {error}");
        }
    }
}

impl Site {
    /// In the calling thread's network namespace, which must be empty.
    pub fn up(binary: &Path, dir: &Path, kind: Kind) -> Result<Self, AnyError> {
        batch(&format!(
            "link set lo up\nlink add br0 type bridge\nlink set br0 up\naddr add {SERVER4}/16 dev br0\n\
             -6 addr add {SERVER6}/64 dev br0 nodad\n"
        ))?;
        let honest = Host::new("honest", &[format!("{HONEST4}/16"), format!("{HONEST6}/64 nodad")])?;
        let own: Vec<IpAddr> = (0..ADDRESSES)
            .flat_map(|number| {
                let [high, low] = number.to_be_bytes();
                let six = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 1, number);
                [IpAddr::from([10, 77, 100 + high, low]), six.into()]
            })
            .collect();
        let with_length = |address: &IpAddr| match address {
            IpAddr::V4(_) => format!("{address}/16"),
            IpAddr::V6(_) => format!("{address}/64 nodad"),
        };
        let attacker = Host::new("attacker", &own.iter().map(with_length).collect::<Vec<_>>())?;
        let crowd = if kind == Kind::Lan { CROWD } else { 0 };
        let crowd = (0..crowd)
            .map(|host| {
                let six = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 2, u16::from(host));
                Host::new(&format!("crowd{host}"), &[format!("10.77.1.{}/16", host + 1), format!("{six}/64 nodad")])
            })
            .collect::<Result<Vec<_>, _>>()?;
        if kind == Kind::Spoofed {
            // Whoever sends as somebody else gets no reply; here the kernel has somewhere to send them.
            run(&format!("ip route add {}.0.0/16 via 10.77.100.0", "10.66"))?;
            std::thread::scope(|scope| {
                let any = || attacker.enter().and_then(|()| run("ip route add local 10.66.0.0/16 dev lo"));
                scope.spawn(any).join().map_err(|_| "it panicked")?
            })?;
        }
        let udp = UdpSocket::bind(UPSTREAM)?;
        let tcp = TcpListener::bind(UPSTREAM)?;
        std::thread::spawn(move || upstream_udp(&udp));
        std::thread::spawn(move || upstream_tcp(&tcp));
        let tls = certificate(dir)?;
        let scope = if kind == Kind::Pairs { "client" } else { "shared" };
        super::signed::write_anchors(&dir.join("anchors"))?;
        let validating = if kind == Kind::Keytrap { VALIDATING } else { "" };
        let config = CONFIG.replace("SCOPE", scope).replace("MORE", kind.lease());
        std::fs::write(dir.join("config"), format!("{config}{validating}"))?;
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(dir.join("config")).arg("--socket").arg(dir.join("control")).arg("run");
        command
            .env("RUST_LOG", std::env::var("LAB_LOG").unwrap_or("warn".into()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let guard = Mutex::new(Running(command.spawn()?));
        let site = Self { honest, attacker, own, crowd, tls, guard, dir: dir.to_owned() };
        let answers = || {
            std::thread::scope(|scope| {
                let ask = || -> Result<bool, AnyError> {
                    site.honest.enter()?;
                    let socket = UdpSocket::bind("0.0.0.0:0")?;
                    socket.connect((SERVER4, 53))?;
                    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
                    socket.send(&question(1, "first.honest.example", 1))?;
                    let mut room = [0; 512];
                    Ok(socket.recv(&mut room).is_ok_and(|_| room[3] & 15 == 0))
                };
                matches!(scope.spawn(ask).join(), Ok(Ok(true)))
            })
        };
        if wait_until(START, answers) { Ok(site) } else { Err(format!("no answer\n{}", site.log()).into()) }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Whether the guard still runs.
    pub fn is_alive(&self) -> Result<(), AnyError> {
        let ended = self.guard.lock().unwrap_or_else(PoisonError::into_inner).0.try_wait()?;
        ended.map_or(Ok(()), |status| Err(format!("the guard ended: {status}\n{}", self.log()).into()))
    }
}

fn run(line: &str) -> Result<(), AnyError> {
    let output = Command::new("sh").args(["-c", line]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Lines for ip(8).
fn batch(lines: &str) -> Result<(), AnyError> {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    ip.stdin.take().ok_or("no stdin")?.write_all(lines.replace("-6 ", "").as_bytes())?;
    let output = ip.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Makes the guard's certificate, and what trusts it.
fn certificate(dir: &Path) -> Result<Arc<rustls::ClientConfig>, AnyError> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    std::fs::write(dir.join("cert.pem"), made.cert.pem())?;
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem())?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"dot".to_vec()];
    Ok(Arc::new(config))
}

fn upstream_udp(socket: &UdpSocket) {
    let mut room = [0; 2048];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut room) else { continue };
        if let Some(reply) = room.get(..length).and_then(|query| answer(query, false)) {
            // One that can't be sent is asked again.
            drop(socket.send_to(&reply, peer));
        }
    }
}

fn upstream_tcp(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        std::thread::spawn(move || -> std::io::Result<()> {
            loop {
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query)?;
                let reply = answer(&query, true).unwrap_or_default();
                stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat())?;
            }
        });
    }
}

/// Each name has addresses of its own, by its domain: `honest` one, `long` sixteen for a day, others four; `silent` gets no reply; `big` is text that needs a stream.
fn answer(query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut end = 12usize;
    loop {
        let length = usize::from(*query.get(end)?);
        if length == 0 {
            break;
        }
        labels.push(query.get(end + 1..end + 1 + length)?.to_ascii_lowercase());
        end += length + 1;
    }
    end += 5;
    let domain = labels.len().checked_sub(2).and_then(|at| labels.get(at))?.as_slice();
    let qtype = *query.get(end - 3)?;
    let (count, ttl) = match domain {
        b"silent" => return None,
        b"honest" => (1u8, 3600u32),
        b"long" => (16, 86_400),
        b"big" => (1, 3600),
        b"flood" => (0, 0),
        _ => (4, 300),
    };
    let mut reply = query.get(..end)?.to_vec();
    // DO, in the OPT behind the question.
    let signs = query.get(end + 7).is_some_and(|flags| flags & 0x80 != 0);
    if let Some((counts, records)) = super::signed::answer(&labels, u16::from(qtype)).filter(|_| signs) {
        reply.get_mut(2..4)?.copy_from_slice(&[0x81, if counts == [0, 0, 0, 2] { 0x83 } else { 0x80 }]);
        reply.get_mut(6..12)?.copy_from_slice(&[counts, [0; 4]].concat()[..6]);
        reply.extend(records);
        return Some(reply);
    }
    reply.get_mut(2..4)?.copy_from_slice(&[0x81, if count == 0 { 0x83 } else { 0x80 }]);
    reply.get_mut(6..12)?.copy_from_slice(&[0, count, 0, 0, 0, 0]);
    if domain == b"big" {
        if !tcp {
            *reply.get_mut(2)? |= 2;
            *reply.get_mut(7)? = 0;
            return Some(reply);
        }
        reply.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x0e\x10");
        reply.extend((BIG as u16).to_be_bytes());
        for _ in 0..BIG / 250 {
            reply.push(249);
            reply.extend([b'x'; 249]);
        }
        return Some(reply);
    }
    // FNV-1a: few share an address.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for octet in labels.concat() {
        hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    }
    for number in 0..u64::from(count) {
        reply.extend([0xc0, 12, 0, qtype, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        let own = hash.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match qtype {
            1 => {
                reply.extend([0, 4, 20]);
                reply.extend(own.to_be_bytes().get(..3)?);
            }
            _ => {
                reply.extend([0, 16, 0x2a, 0, 0, 0, 0, 0, 0, 0]);
                reply.extend(own.to_be_bytes());
            }
        }
    }
    if signs && domain == b"honest" {
        let data = reply.get(end + 12..)?.to_vec();
        reply.extend(super::signed::over_address(&labels, u16::from(qtype), ttl, &data)?);
        *reply.get_mut(7)? = 2;
    }
    Some(reply)
}
