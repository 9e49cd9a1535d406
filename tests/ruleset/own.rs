//! The guard's own packets pass where nothing is tracked; nobody else's do.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use destguard::enforce::nftables::sockets::{self, State};
use lab::dns;

use super::namespace::alone;
use super::*;

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    directory: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// With a configuration in which DIR is its directory.
    fn start(config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let file = path.join("destguard.toml");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["guard.example".to_owned()])
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        std::fs::write(path.join("own.pem"), certificate.pem()).expect("written");
        std::fs::write(path.join("own.key"), key.serialize_pem()).expect("written");
        std::fs::write(&file, config.replace("DIR", &path.display().to_string())).expect("written");
        let child = Command::new(DESTGUARD)
            .arg("--socket")
            .arg(path.join("control.sock"))
            .args(["run", "--config"])
            .arg(&file)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("started");
        let daemon = Self { directory, child };
        let began = Instant::now();
        while !daemon.ask(&["status"]).status.success() {
            assert!(began.elapsed() < PATIENCE, "the daemon can't be reached");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn ask(&self, words: &[&str]) -> std::process::Output {
        let socket = self.directory.path().join("control.sock");
        Command::new(DESTGUARD).arg("--socket").arg(socket).args(words).output().expect("destguard")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const EVERYTHING: &str = r#"
[dns]
listen = ["0.0.0.0:53", "[2001:db8:1::1]:53"]
clients = ["10.0.0.0/8", "2001:db8::/32"]
[dns.tls]
certificate = "DIR/own.pem"
key = "DIR/own.key"
dot = ["0.0.0.0:853", "[::]:853"]
doh = ["0.0.0.0:443"]
doq = ["0.0.0.0:8853", "[::]:8853"]
[[dns.upstream]]
url = "udp://10.9.1.5:53"
[policy]
deny = ["denied.test"]
[nftables]
mode = "local"
[http]
listen = ["10.9.1.1:8053"]
[bgp]
asn = 64512
router_id = "192.0.2.2"
next_hop_ipv4 = "192.0.2.1"
listen = ["10.9.1.1:179"]
[[bgp.peer]]
name = "passive"
address = "10.9.1.2"
asn = 64512
passive = true
families = ["ipv4"]
[[bgp.peer]]
name = "active"
address = "10.9.1.3"
asn = 64512
families = ["ipv4"]
bfd = true
[addresses]
inside = []
[state]
dir = "DIR/state"
"#;

#[test]
fn the_guards_own_packets_pass_where_nothing_is_tracked() {
    alone(|| {
        let peer = host_and_peer();
        run("nft add table inet raw; nft add chain inet raw p '{ type filter hook prerouting priority raw; }'; \
             nft add chain inet raw o '{ type filter hook output priority raw; }'; \
             nft add rule inet raw p notrack; nft add rule inet raw o notrack");
        let routers = peer.within(|| {
            let bfd = UdpSocket::bind("10.9.1.3:3784").expect("BFD's port");
            bfd.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            (std::net::TcpListener::bind("10.9.1.3:179").expect("BGP's port"), bfd)
        });
        let _daemon = Daemon::start(EVERYTHING);
        let ask = |at: &str| {
            let answer = peer.within(|| dns::ask(at.parse().expect("address"), "denied.test", dns::A, PATIENCE));
            assert_eq!(answer.unwrap_or_else(|error| panic!("{at}: {error}")).rcode(), dns::NXDOMAIN, "{at}");
        };
        ask("10.9.1.1:53");
        ask("[2001:db8:1::1]:53");
        for port in [53, 853] {
            for address in both(1, 1) {
                assert_eq!(peer.within(|| connect(&address, port)), Met::Connected, "{address} {port}");
            }
        }
        for port in [443, 8053, 179] {
            assert_eq!(peer.within(|| connect("10.9.1.1", port)), Met::Connected, "{port}");
        }
        let over_tcp = dns::Transport::Tcp;
        let answer = peer.within(|| {
            dns::ask_over(over_tcp, "10.9.1.1:53".parse().expect("address"), "denied.test", dns::A, PATIENCE)
        });
        assert_eq!(answer.expect("an answer over TCP").rcode(), dns::NXDOMAIN);
        // What it connects to itself.
        routers.0.accept().expect("the BGP session is asked for");
        routers.1.recv(&mut [0u8; 64]).expect("a BFD packet");
        // Every socket that it waits on, QUIC's too, answers with the mark.
        let listening: Vec<_> = sockets::all()
            .expect("sockets")
            .into_iter()
            .filter(|socket| {
                socket.state == State::Listening && [53, 853, 8853, 443, 8053, 179].contains(&socket.local.port())
            })
            .collect();
        assert!(listening.len() >= 10, "{listening:?}");
        for socket in listening {
            assert_eq!(socket.mark, Some(destguard::sys::MARK), "{socket:?}");
        }
        // Nobody else has that way: not another server, not one at another address with the same port, not from another port.
        serve(&[8080]);
        assert_ne!(peer.within(|| connect("10.9.1.1", 8080)), Met::Connected, "another program's replies");
        let stranger = UdpSocket::bind("10.9.1.1:443").expect("a port that the guard has over TCP alone");
        stranger.connect("10.9.1.2:80").expect("connected");
        stranger.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
        assert!(!comes_to_echo(&stranger), "a port like the guard's, without the mark");
        socket2::SockRef::from(&stranger).set_mark(destguard::sys::MARK).expect("CAP_NET_ADMIN");
        assert!(!comes_to_echo(&stranger), "the mark, over another protocol");
        let marked = flow_udp(8081, "10.9.1.2:80");
        socket2::SockRef::from(&marked).set_mark(destguard::sys::MARK).expect("CAP_NET_ADMIN");
        assert!(!comes_to_echo(&marked), "the mark with another port");
    });
}
