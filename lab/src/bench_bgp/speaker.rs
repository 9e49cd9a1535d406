//! The speakers that are measured: how each is configured and started, filled with the table, and told of one more route.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::inject::{Grpc, write_mrt};
use super::sink::host;
use crate::wait::{wait_for, wait_until};

type AnyError = Box<dyn std::error::Error>;

/// Where each peer listens.
pub const PORT: u16 = 1790;
/// Own address and AS of every speaker.
pub const LOCAL: &str = "127.0.0.1";
const ASN: u32 = 64512;
/// The community on every route, 64512:100.
const COMMUNITY: [u8; 4] = [0xfc, 0, 0, 100];
const GRPC: &str = "127.0.0.1:50051";
/// How long a speaker may take to start and to take its table in.
pub const START: Duration = Duration::from_secs(120);

/// Address of a peer, by number.
#[must_use]
pub fn peer(number: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 1, number], PORT))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Destguard,
    Bird,
    Gobgpd,
    Exabgp,
}

impl Kind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Destguard => "destguard",
            Self::Bird => "BIRD",
            Self::Gobgpd => "gobgpd",
            Self::Exabgp => "exabgp",
        }
    }

    /// How one more route gets in.
    #[must_use]
    pub const fn api(self) -> &'static str {
        match self {
            Self::Destguard => "enforcer command",
            Self::Bird => "kernel route, learned",
            Self::Gobgpd => "gRPC AddPath",
            Self::Exabgp => "API process",
        }
    }

    /// Its own word on its version, as short as it gets.
    #[must_use]
    pub fn version(self) -> String {
        let (program, flag) = match self {
            Self::Destguard => return "destguard of this tree".to_owned(),
            Self::Bird => ("bird", "--version"),
            Self::Gobgpd => ("gobgpd", "--version"),
            Self::Exabgp => ("exabgp", "--version"),
        };
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let digits = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
        let found = text.split_whitespace().find(digits).unwrap_or("of unknown version").to_owned();
        format!("{} {found}", self.name())
    }
}

/// What is to be started.
#[derive(Clone, Copy)]
pub struct Plan<'p> {
    pub kind: Kind,
    pub routes: u32,
    pub ipv6: bool,
    pub peers: u8,
    /// The program that is destguard's speaker.
    pub announcer: &'p Path,
    pub dir: &'p Path,
}

enum Api {
    Lines(ChildStdin),
    Ip { _process: Owned, input: ChildStdin },
    Grpc(Grpc),
    Fifo(File),
}

/// A process that ends with its owner.
pub struct Owned(Child);

impl Owned {
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &mut Command) -> Result<Self, AnyError> {
        Ok(Self(command.spawn().map_err(|error| format!("{command:?}: {error}"))?))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("lab: ending a speaker: {error}");
        }
    }
}

/// A speaker with its table, or about to have it.
pub struct Speaker {
    process: Owned,
    api: Api,
}

impl Speaker {
    /// Starts it and fills it; BIRD and exabgp have their table in the configuration.
    ///
    /// # Errors
    /// When it doesn't start or fill in time.
    pub fn start(plan: &Plan<'_>) -> Result<Self, AnyError> {
        let log = File::create(plan.dir.join("log"))?;
        let started = match plan.kind {
            Kind::Destguard => destguard(plan, &log),
            Kind::Bird => bird(plan, &log),
            Kind::Gobgpd => gobgpd(plan, &log),
            Kind::Exabgp => exabgp(plan, &log),
        };
        started.map_err(|error| {
            let log = std::fs::read_to_string(plan.dir.join("log")).unwrap_or_default();
            format!("{}: {error}\n{}", plan.kind.name(), crate::process::tail(&log, 10)).into()
        })
    }

    /// Announces one more IPv4 route.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&mut self, address: std::net::Ipv4Addr) -> Result<(), AnyError> {
        match &mut self.api {
            Api::Lines(input) => Ok(input.write_all(format!("open {address}\n").as_bytes())?),
            Api::Ip { input, .. } => Ok(input.write_all(format!("route add blackhole {address}/32\n").as_bytes())?),
            Api::Grpc(grpc) => Ok(grpc.add(address, COMMUNITY)?),
            Api::Fifo(file) => Ok(file.write_all(
                format!("announce route {address}/32 next-hop 192.0.2.1 community [64512:100]\n").as_bytes(),
            )?),
        }
    }

    /// The last that it had to say, once it is gone.
    pub fn last_words(&mut self, log: &Path) -> Option<String> {
        let status = self.process.0.try_wait().ok().flatten()?;
        let log = std::fs::read_to_string(log.join("log")).unwrap_or_default();
        Some(format!("it ended ({status}):\n{}", crate::process::tail(&log, 5)))
    }

    /// Octets of resident memory (proc(5) statm).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident(&self) -> Result<f64, AnyError> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.process.0.id()))?;
        let pages: f64 = text.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
        Ok(pages * 4096.0)
    }
}

fn command(program: impl AsRef<std::ffi::OsStr>, log: &File) -> Result<Command, AnyError> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    Ok(command)
}

fn stdin(process: &mut Owned) -> Result<ChildStdin, AnyError> {
    process.0.stdin.take().ok_or_else(|| "no standard input".into())
}

fn destguard(plan: &Plan<'_>, log: &File) -> Result<Speaker, AnyError> {
    let mut config = format!(
        "[[dns.upstream]]\nurl = \"udp://192.0.2.53\"\n[nftables]\nmode = \"off\"\n[addresses]\ninside = []\n[bgp]\nasn = {ASN}\nrouter_id = \"192.0.2.1\"\n\
         next_hop_ipv4 = \"192.0.2.1\"\nnext_hop_ipv6 = \"2001:db8:ffff::1\"\ncommunities = [\"64512:100\"]\nno_export = false\n\
         announce_open = false\nannounce_upstreams = false\n"
    );
    for number in 1..=plan.peers {
        let address = peer(number).ip();
        writeln!(
            config,
            "[[bgp.peer]]\nname = \"sink{number}\"\naddress = \"{address}\"\nport = {PORT}\nlocal_address = \"{LOCAL}\"\nasn = 64513\n\
             families = [\"{}\"]\nmax_routes = 4000000\nconfirm = \"acked\"\nsettle = \"0s\"\nhold_time = \"240s\"",
            if plan.ipv6 { "ipv6" } else { "ipv4" }
        )?;
    }
    let file = plan.dir.join("destguard.toml");
    std::fs::write(&file, config)?;
    let mut start = command(plan.announcer, log)?;
    let mut process = Owned::start(start.arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut input = stdin(&mut process)?;
    if plan.routes > 0 {
        writeln!(input, "fill {} {}", plan.routes, if plan.ipv6 { 6 } else { 4 })?;
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().ok_or("no standard output")?).read_line(&mut line)?;
        if line.trim() != "filled" {
            return Err(format!("it says {line:?}").into());
        }
    }
    Ok(Speaker { process, api: Api::Lines(input) })
}

/// A BIRD with the table as static routes. `bgp` ends the configuration.
fn bird_config(plan: &Plan<'_>, bgp: &str) -> Result<PathBuf, AnyError> {
    let family = if plan.ipv6 { "ipv6" } else { "ipv4" };
    let mut text = String::from("router id 192.0.2.1;\nprotocol device { scan time 600; }\n");
    if plan.routes > 0 {
        writeln!(text, "protocol static {{\n {family};")?;
        for number in 0..plan.routes {
            writeln!(text, " route {}/{} blackhole;", host(number, plan.ipv6), if plan.ipv6 { 128 } else { 32 })?;
        }
        text.push_str("}\n");
    }
    text.push_str(bgp);
    let file = plan.dir.join("bird.conf");
    std::fs::write(&file, text)?;
    Ok(file)
}

fn bird(plan: &Plan<'_>, log: &File) -> Result<Speaker, AnyError> {
    let (family, hop) = if plan.ipv6 { ("ipv6", "2001:db8:ffff::1") } else { ("ipv4", "192.0.2.1") };
    let mut bgp = String::from(
        "protocol kernel { learn; scan time 600; ipv4 { import where net ~ [198.18.0.0/15{32,32}]; export none; }; }\n",
    );
    for number in 1..=plan.peers {
        writeln!(
            bgp,
            "protocol bgp {{ local {LOCAL} as {ASN}; neighbor {} port {PORT} as 64513; multihop; hold time 240;\n \
             connect delay time 1; connect retry time 1; error wait time 1, 2;\n \
             {family} {{ import none; next hop address {hop}; export filter {{ bgp_community.add((64512,100)); accept; }}; }}; }}",
            peer(number).ip()
        )?;
    }
    let file = bird_config(plan, &bgp)?;
    let socket = plan.dir.join("bird.ctl");
    let mut start = command("bird", log)?;
    let process = Owned::start(start.arg("-f").arg("-c").arg(&file).arg("-s").arg(&socket))?;
    let wanted = format!("{} of ", plan.routes);
    let full = || ask_bird(&socket, "show route count").is_ok_and(|text| text.contains(&wanted));
    if !wait_until(START, full) {
        return Err("it doesn't take its table in".into());
    }
    let mut start = command("ip", log)?;
    let mut ip = Owned::start(start.args(["-batch", "-"]).stdin(Stdio::piped()))?;
    let input = stdin(&mut ip)?;
    Ok(Speaker { process, api: Api::Ip { _process: ip, input } })
}

/// Asks a BIRD by its control socket; what it says up to the end of its answer.
fn ask_bird(socket: &Path, question: &str) -> Result<String, AnyError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    // The greeting is 0001; continued lines have a dash behind their code, the last one a blank.
    let ended = |text: &[u8]| {
        String::from_utf8_lossy(text).lines().any(|line| {
            line.get(..5).is_some_and(|code| code.ends_with(' ') && code != "0001 " && !line.starts_with(' '))
        })
    };
    while !ended(&text) {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        text.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn gobgpd(plan: &Plan<'_>, log: &File) -> Result<Speaker, AnyError> {
    let mut config = format!("[global.config]\n as = {ASN}\n router-id = \"192.0.2.1\"\n port = -1\n");
    for number in 1..=plan.peers {
        writeln!(
            config,
            "[[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{}\"\n  peer-as = 64513\n [neighbors.transport.config]\n  \
             remote-port = {PORT}\n  local-address = \"{LOCAL}\"\n [neighbors.ebgp-multihop.config]\n  enabled = true\n  \
             multihop-ttl = 10\n [neighbors.timers.config]\n  hold-time = 240\n  keepalive-interval = 60\n  connect-retry = 5\n \
             [[neighbors.afi-safis]]\n  [neighbors.afi-safis.config]\n   afi-safi-name = \"{}-unicast\"",
            peer(number).ip(),
            if plan.ipv6 { "ipv6" } else { "ipv4" }
        )?;
    }
    let file = plan.dir.join("gobgpd.toml");
    std::fs::write(&file, config)?;
    let mut start = command("gobgpd", log)?;
    let process = Owned::start(start.arg("-f").arg(&file).args(["--api-hosts", GRPC, "--pprof-disable"]))?;
    let grpc = wait_for(START, || Grpc::connect(GRPC.parse().ok()?).ok()).ok_or("no gRPC")?;
    if plan.routes > 0 {
        let dump = plan.dir.join("table.mrt");
        write_mrt(&dump, plan.routes, plan.ipv6, COMMUNITY)?;
        let mut inject = command("gobgp", log)?;
        inject.args(["mrt", "inject", "global"]).arg(&dump);
        let mut inject = Owned::start(&mut inject)?;
        let ended = wait_for(START, || inject.0.try_wait().ok().flatten()).ok_or("the table takes too long")?;
        if !ended.success() {
            return Err("gobgp mrt inject fails".into());
        }
    }
    Ok(Speaker { process, api: Api::Grpc(grpc) })
}

fn exabgp(plan: &Plan<'_>, log: &File) -> Result<Speaker, AnyError> {
    let fifo = plan.dir.join("fresh");
    if !fifo.exists() && !Command::new("mkfifo").arg(&fifo).status()?.success() {
        return Err("mkfifo".into());
    }
    let (family, hop, bits) = if plan.ipv6 { ("ipv6", "2001:db8:ffff::1", 128) } else { ("ipv4", "192.0.2.1", 32) };
    let mut config =
        format!("process fresh {{ run /bin/cat {}; encoder text; }}\ntemplate {{ neighbor table {{\n", fifo.display());
    writeln!(config, " static {{")?;
    for number in 0..plan.routes {
        writeln!(config, "  route {}/{bits} next-hop {hop} community [64512:100];", host(number, plan.ipv6))?;
    }
    writeln!(config, " }}\n}} }}")?;
    for number in 1..=plan.peers {
        writeln!(
            config,
            "neighbor {} {{ inherit table; router-id 192.0.2.1; local-address {LOCAL}; local-as {ASN}; peer-as 64513; connect {PORT};\n \
             hold-time 240; adj-rib-out true; group-updates true; family {{ {family} unicast; }} capability {{ route-refresh enable; }}\n \
             api {{ processes [ fresh ]; }} }}",
            peer(number).ip()
        )?;
    }
    let file = plan.dir.join("exabgp.conf");
    std::fs::write(&file, config)?;
    let mut start = command("exabgp", log)?;
    let options = [
        ("exabgp.daemon.user", "root"),
        ("exabgp.api.cli", "false"),
        ("exabgp.log.level", "WARNING"),
        ("exabgp.bgp.openwait", "300"),
    ];
    let process = Owned::start(start.arg(&file).envs(options))?;
    // For both directions, so that opening it waits for nobody.
    let file = File::options().read(true).write(true).open(&fifo)?;
    Ok(Speaker { process, api: Api::Fifo(file) })
}

/// A real BIRD as the peer, with its own table and no other use.
pub struct BirdSink {
    _process: Owned,
    socket: PathBuf,
}

impl BirdSink {
    /// # Errors
    /// When it doesn't start.
    pub fn start(dir: &Path) -> Result<Self, AnyError> {
        let log = File::create(dir.join("log-sink"))?;
        let config = format!(
            "router id 192.0.2.9;\nprotocol device {{ scan time 600; }}\nprotocol bgp speaker {{ local {} port {PORT} as 64513;\n \
             neighbor {LOCAL} as {ASN}; passive; strict bind; multihop; hold time 240;\n \
             ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            peer(1).ip()
        );
        let (file, socket) = (dir.join("sink.conf"), dir.join("sink.ctl"));
        std::fs::write(&file, config)?;
        let mut start = command("bird", &log)?;
        let process = Owned::start(start.arg("-f").arg("-c").arg(&file).arg("-s").arg(&socket))?;
        if !wait_until(START, || ask_bird(&socket, "show status").is_ok()) {
            return Err("a BIRD as the peer doesn't start".into());
        }
        Ok(Self { _process: process, socket })
    }

    /// From the session's being up to this many routes in its table.
    ///
    /// # Errors
    /// When they weren't there in time.
    pub fn takes_in(&self, routes: u32, limit: Duration) -> Result<Duration, AnyError> {
        let show = || ask_bird(&self.socket, "show protocols all speaker").unwrap_or_default();
        if !wait_until(limit, || show().contains("Established")) {
            return Err("no session with a BIRD as the peer".into());
        }
        let begin = Instant::now();
        let wanted = format!("{routes} imported");
        if !wait_until(limit, || show().contains(&wanted)) {
            return Err(format!("a BIRD as the peer has not all routes in time:\n{}", show()).into());
        }
        Ok(begin.elapsed())
    }
}
