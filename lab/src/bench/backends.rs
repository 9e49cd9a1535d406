//! What opening addresses and connecting to them costs with each enforcer of a host's own packets: nftables, ipset and iptables, eBPF, and nobody.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::lab::Lab;
use crate::node::Node;

type Failure = Box<dyn std::error::Error>;

/// Name on the table, and what the enforcer is called.
const BACKENDS: [(&str, &str); 4] =
    [("nobody", "none"), ("nftables", "nftables"), ("ipset", "iptables"), ("eBPF", "ebpf")];
/// The far side has this /15.
const FIRST: &str = "198.18.0.0";
const PORT: u16 = 80;
/// Leases that there is room for.
const ROOM: u32 = 120_000;
/// Connects that are measured each time.
const CONNECTS: u32 = 5000;
/// Where the tree of control groups is mounted, in the node alone.
const TREE: &str = "/run/cgroup";

/// Prints the table. `enforcer`: the example of that name, with every backend.
///
/// # Errors
/// When a lab does not come up, or an enforcer can't do what it is told.
pub fn run(enforcer: &Path) -> Result<(), Failure> {
    println!("Opening addresses, in ms until they are in force (median), and connect(2) to one of them, in us");
    println!(
        "{:<12}{:>10}{:>10}{:>10} |{:>22} |{:>22}",
        "", "1", "100", "10,000", "10,000 leases p50/p99", "100,000 leases p50/p99"
    );
    for (what, name) in BACKENDS {
        let lab = Lab::builder("lab/single/single.clab.yml").hold("laptop").up()?;
        let far = lab.node("internet").in_namespace(|| TcpListener::bind(("0.0.0.0", PORT)))??;
        // It ends with this program.
        std::thread::spawn(move || far.incoming().for_each(drop));
        let mut subject = Subject::start(lab.node("laptop"), enforcer, name)?;
        let one = subject.order("put 1 200")?;
        let hundred = subject.order("put 100 50")?;
        subject.order("put 4800 1")?;
        // The first connects find neighbours and routes.
        subject.order(&format!("connect {PORT} 500"))?;
        let few = subject.order(&format!("connect {PORT} {CONNECTS}"))?;
        let many = subject.order("put 10000 9")?;
        let all = subject.order(&format!("connect {PORT} {CONNECTS}"))?;
        let opened = |(median, _): (f64, f64)| {
            if name == "none" { "-".to_owned() } else { format!("{:.3}", median / 1e3) }
        };
        let connected = |(median, last): (f64, f64)| format!("{median:.1} / {last:.1}");
        println!(
            "{what:<12}{:>10}{:>10}{:>10} |{:>22} |{:>22}",
            opened(one),
            opened(hundred),
            opened(many),
            connected(few),
            connected(all)
        );
        subject.end()?;
        lab.down()?;
    }
    Ok(())
}

/// An enforcer that runs, in a control group of its own.
struct Subject {
    child: Child,
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    host: Node,
    group: String,
}

impl Subject {
    fn start(host: &Node, enforcer: &Path, name: &str) -> Result<Self, Failure> {
        let group = format!("{TREE}/destguard-bench-{}", std::process::id());
        host.ok(&format!(
            "mount -t bpf bpf /sys/fs/bpf && mkdir {TREE} && mount -t cgroup2 none {TREE} && mkdir -p {group}"
        ))?;
        let line =
            format!("echo $$ > {group}/cgroup.procs && exec {} {name} {FIRST} {ROOM} {group}", enforcer.display());
        let mut command = host.command("sh");
        let mut child = command.args(["-c", &line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take();
        let said = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { child, orders, said, host: host.clone(), group })
    }

    /// Median and 99th percentile, in microseconds.
    fn order(&mut self, line: &str) -> Result<(f64, f64), Failure> {
        let orders = self.orders.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        writeln!(orders, "{line}")?;
        let mut said = String::new();
        self.said.read_line(&mut said)?;
        let (median, last) = said.trim().split_once(' ').ok_or_else(|| format!("no answer to `{line}`"))?;
        Ok((median.parse()?, last.parse()?))
    }

    /// It ends with its input.
    fn end(mut self) -> Result<(), Failure> {
        self.orders = None;
        let ended = self.child.wait()?;
        if ended.success() { Ok(()) } else { Err(format!("the enforcer ended with {ended}").into()) }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        if self.child.kill().is_ok() && self.child.wait().is_err() {
            eprintln!("lab: an enforcer can't be waited for");
        }
        match self.host.run(&format!("rmdir {}", self.group)) {
            Ok(done) if done.status.success() => {}
            other => eprintln!("lab: {} is left: {other:?}", self.group),
        }
    }
}
