//! The whole daemon in a namespace of its own, on clocks that can be moved, with an upstream beside it.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lab::dns::{self, Server};
use serde_json::Value;

use super::PATIENCE;
use super::namespace::run;

const DESTGUARD: &str = env!("CARGO_BIN_EXE_destguard");
const UPSTREAM: &str = "127.0.0.1:5300";
const LISTEN: &str = "127.0.0.1:5353";
const HTTP: &str = "127.0.0.1:9153";
const SECOND: Duration = Duration::from_secs(1);

/// A host: its disk, its clocks and what others serve it; the daemon comes and goes.
pub struct Host {
    pub directory: tempfile::TempDir,
    pub upstream: Server,
    notified: UnixDatagram,
    boot: u32,
    child: Option<Child>,
}

impl Host {
    /// With a daemon that runs. `more` is added to its configuration.
    pub fn up(more: &str) -> Self {
        let mut host = Self::off(more);
        host.start();
        host
    }

    /// Without a daemon.
    pub fn off(more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let text = format!(
            "[dns]\nlisten = [\"{LISTEN}\"]\n[[dns.upstream]]\nurl = \"udp://{UPSTREAM}\"\n\
             [[policy.private]]\ndomain = \"test\"\nprefixes = [\"203.0.113.0/24\", \"198.18.0.0/15\"]\n\
             [nftables]\nmode = \"local\"\n[http]\nlisten = [\"{HTTP}\"]\n[state]\ndir = \"{}\"\n{more}",
            directory.path().join("state").display()
        );
        std::fs::write(directory.path().join("destguard.toml"), text).expect("written");
        let upstream = Server::start_here(&[UPSTREAM.parse().expect("an address")]).expect("an upstream");
        let notified = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        notified.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let host = Self { directory, upstream, notified, boot: 1, child: None };
        host.set_clocks(0, 0);
        // A boot of its own, seen by the calling thread and the daemons that it starts.
        own_mounts();
        host.write_boot_id();
        run(&format!("mount --bind {} /proc/sys/kernel/random/boot_id", host.path("boot_id").display()));
        host
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn journal(&self) -> PathBuf {
        self.state().join("leases.journal")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_boot_id(&self) {
        let text = format!("00000000-0000-4000-8000-{:012}\n", self.boot);
        std::fs::write(self.path("boot_id"), text).expect("written");
    }

    /// Moves the boot clock and the wall clock to so many seconds beside the real ones.
    pub fn set_clocks(&self, boot: i64, wall: i64) {
        use std::os::unix::fs::FileExt as _;
        let octets = [boot.to_ne_bytes(), wall.to_ne_bytes()].concat();
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(self.path("clocks")).expect("a file");
        // In place: whoever has mapped it sees it.
        file.write_all_at(&octets, 0).expect("written");
    }

    /// Starts the daemon and waits until it tells systemd that it is ready.
    pub fn start(&mut self) {
        self.launch();
        self.wait_until_ready();
    }

    /// Starts the daemon.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.write_boot_id();
        let child = Command::new(DESTGUARD)
            .arg("--socket")
            .arg(self.path("control.sock"))
            .args(["run", "--config"])
            .arg(self.path("destguard.toml"))
            .env("LD_PRELOAD", shim())
            .env("CLOCK_OFFSETS", self.path("clocks"))
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("RUST_LOG", "info")
            .stderr(std::fs::File::options().append(true).create(true).open(self.path("log")).expect("a log"))
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        self.child = Some(child);
    }

    pub fn wait_until_ready(&mut self) {
        let mut said = [0; 256];
        loop {
            let length = self.notified.recv(&mut said).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
            if said[..length].starts_with(b"READY=1") {
                return;
            }
        }
    }

    /// Like a power failure, but for what the kernel hasn't put on the disk.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("gone");
    }

    /// What a reboot takes away: the daemon, the kernel's tables, the time since the boot.
    pub fn reboot(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        run("nft flush ruleset");
        self.boot += 1;
    }

    /// Puts a file system of its own where the state is; seen by the calling thread and the daemons that it starts.
    pub fn mount(&self, options: &str) {
        std::fs::create_dir_all(self.state()).expect("a directory");
        run(&format!("mount -t tmpfs -o {options} none {}", self.state().display()));
    }

    pub fn remount(&self, options: &str) {
        run(&format!("mount -o remount,{options} {}", self.state().display()));
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(HTTP).expect("connected");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The addresses of the answer; none when there is no answer, or one without.
    pub fn ask(&self, name: &str) -> Vec<IpAddr> {
        self.try_ask(name, PATIENCE).map(|answer| answer.addresses()).unwrap_or_default()
    }

    pub fn try_ask(&self, name: &str, limit: Duration) -> std::io::Result<dns::Answer> {
        let server: SocketAddr = LISTEN.parse().expect("an address");
        dns::ask(server, name, dns::A, limit)
    }

    /// Asks until the answer is this one, as clients do.
    pub fn ask_until(&self, name: &str, wanted: IpAddr) {
        let began = Instant::now();
        while self.try_ask(name, SECOND).map(|answer| answer.addresses()).unwrap_or_default() != [wanted] {
            assert!(began.elapsed() < PATIENCE, "{name} is not answered: {}", self.log());
        }
    }

    pub fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(DESTGUARD);
        command.arg("--socket").arg(self.path("control.sock")).args(words).output().expect("destguard")
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.command(&["status", "--json"]).stdout).unwrap_or_default()
    }

    pub fn reasons(&self) -> String {
        self.status()["reasons"].to_string()
    }

    pub fn leased(&self) -> Vec<IpAddr> {
        let said: Value = serde_json::from_slice(&self.command(&["leases", "--json"]).stdout).unwrap_or_default();
        let leases = said["leases"].as_array().cloned().unwrap_or_default();
        leases.iter().filter_map(|lease| lease["address"].as_str()?.parse().ok()).collect()
    }

    /// Waits for what must happen.
    pub fn wait(&self, what: &str, mut happened: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !happened(self) {
            assert!(
                began.elapsed() < PATIENCE,
                "{what}: never; kernel {:?}, {}\n{}",
                elements(),
                self.status(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The addresses that the kernel lets through, and the seconds until it won't.
pub fn elements() -> BTreeMap<IpAddr, u64> {
    let output = Command::new("nft").args(["-j", "list", "set", "inet", "destguard", "lease4"]).output().expect("nft");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let empty = Vec::new();
    let items = json["nftables"].as_array().unwrap_or(&empty).iter();
    let all = items.filter_map(|item| item["set"]["elem"].as_array()).flatten();
    all.filter_map(|item| Some((item["elem"]["val"].as_str()?.parse().ok()?, item["elem"]["expires"].as_u64()?)))
        .collect()
}

/// Mounts of the calling thread's own: what it mounts from now on, it and its children alone see.
fn own_mounts() {
    // SAFETY: no pointers; only the calling thread changes its namespace.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(done, 0, "these tests need root: {}", std::io::Error::last_os_error());
    run("mount --make-rprivate /");
}

/// Built once for all tests of this program.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clocks-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/restart/shim.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        let built = built.expect("cc");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        library
    })
}
