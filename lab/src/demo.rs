//! The story that `./lab/demo` shows: what a client can reach before it asks, after it asked, and after the lease.
//!
//! Everything printed is seen, not expected; the first thing that is not as promised ends the demo with an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dns::{self, Answer, Forged, Record, Reply, Server};
use crate::error::Error;
use crate::lab::Lab;
use crate::node::Node;
use crate::routes::Monitor;
use crate::tcp;
use crate::wait::wait_for;

const GUARD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 3, 2)), 53);
const UPSTREAMS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53)), 53),
];
const CONFIG: &str = "/etc/destguard/destguard.toml";
const SITE4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80));
const SITE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0x80));
const SHOP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 81));
const STRAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66));
const FORGED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 67));
/// Below the second after which Linux sends a lost SYN again.
const FIRST_SYN: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(5);

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The lab could not be used.
    #[error(transparent)]
    Lab(#[from] Error),
    /// destguard did not keep a promise.
    #[error("this is not as promised: {0}")]
    Broken(String),
    /// A question got no answer.
    #[error("no answer: {0}")]
    Silent(#[from] std::io::Error),
}

/// Shows the story with this destguard binary.
///
/// # Errors
/// [`DemoError::Broken`] as soon as something seen is not as promised.
pub fn show(binary: &Path) -> Result<(), DemoError> {
    println!("Bringing up client, FRR router, guard and internet as network namespaces ...");
    let lab = Lab::builder("lab/frr/frr.clab.yml").destguard(binary).hold("guard").up()?;
    let result = story(&lab);
    if result.is_err() {
        eprintln!("{}", lab.logs());
    }
    let run = lab.id().to_owned();
    lab.down()?;
    println!("\nEverything of {run} is removed.");
    result
}

fn story(lab: &Lab) -> Result<(), DemoError> {
    let (client, router, guard) = (lab.node("client"), lab.node("router"), lab.node("guard"));
    let _echo = tcp::EchoServer::start(lab.node("internet"), 80)?;
    let upstream = Server::start(lab.node("internet"), &UPSTREAMS)?;
    script(&upstream);
    shorten_leases(guard)?;
    guard.start()?;
    println!(
        "Up. The router null-routes everything; the guard on {GUARD} is the client's resolver and speaks BGP to it.\n\
         Leases are made short for this demo: 4 s, and 2 s more for routes."
    );
    wait_for_session(guard)?;
    let routes = Monitor::start(router)?;

    println!("\n1. No name asked: no connection");
    for address in [SITE4, SITE6] {
        connect(client, address, false)?;
    }

    println!("\n2. A name asked: the route is on the router before the answer, and the connection succeeds at once");
    for (rtype, kind, address) in [(dns::A, "A", SITE4), (dns::AAAA, "AAAA", SITE6)] {
        ask_and_connect(client, &routes, rtype, kind, address)?;
    }

    println!("\n3. Addresses that do not belong to the question are neither passed on nor opened");
    println!("   The upstream's answer for shop.example.test also holds evil.test {STRAY},");
    println!("   and a forger's answer with {FORGED} arrives before it.");
    let answer = client.in_namespace(|| dns::ask(GUARD, "shop.example.test", dns::A, ANSWER))??;
    println!("   the client's answer: {}", list(&answer.addresses()));
    promise(answer.addresses() == [SHOP], "the answer holds shop.example.test's address and nothing else")?;
    connect(client, SHOP, true)?;
    for address in [STRAY, FORGED] {
        promise(routes.last(address, true).is_none(), &format!("no route for {address}"))?;
        connect(client, address, false)?;
    }

    println!("\n4. The lease ended: the route goes, and with it the connection");
    for address in [SITE4, SITE6] {
        let added = routes.last(address, true);
        let removed = wait_for(Duration::from_secs(30), || routes.last(address, false));
        let removed = removed.ok_or_else(|| DemoError::Broken(format!("the route for {address} stays")))?;
        let age = added.map(|added| removed.duration_since(added)).unwrap_or_default();
        println!("   router  route to {address} gone after {:.1} s", age.as_secs_f64());
        connect(client, address, false)?;
    }
    println!("\nAll as promised.");
    Ok(())
}

/// What the far side's DNS says.
fn script(upstream: &Server) {
    upstream.set_addresses("www.example.test", 2, &[SITE4, SITE6]);
    let name = "shop.example.test";
    upstream.set(
        name,
        dns::A,
        Reply {
            answers: vec![Record::address(name, 2, SHOP), Record::address("evil.test", 2, STRAY)],
            forged: vec![Forged { id_offset: 1, answers: vec![Record::address(name, 2, FORGED)], question: None }],
            delay: Duration::from_millis(5),
            ..Reply::default()
        },
    );
}

fn shorten_leases(guard: &Node) -> Result<(), DemoError> {
    let mut text = guard.file(CONFIG)?;
    for (from, to) in
        [("[lease]\n", "[lease]\nmin = \"3s\"\ngrace = \"1s\"\n"), ("linger = \"10m\"", "linger = \"2s\"")]
    {
        promise(text.contains(from), &format!("the lab's destguard.toml has {from:?}"))?;
        text = text.replace(from, to);
    }
    Ok(guard.write(CONFIG, &text)?)
}

/// Until the guard says that its session is Established.
fn wait_for_session(guard: &Node) -> Result<(), DemoError> {
    let binary = guard.program("destguard").unwrap_or_default();
    let up = wait_for(Duration::from_secs(30), || {
        let output = guard.run(&format!("{binary} peers --json")).ok()?;
        String::from_utf8_lossy(&output.stdout).contains("\"Established\"").then_some(())
    });
    up.ok_or_else(|| DemoError::Broken("the BGP session came up within 30 s".to_owned()))
}

fn ask_and_connect(client: &Node, routes: &Monitor, rtype: u16, kind: &str, address: IpAddr) -> Result<(), DemoError> {
    let (answer, connected) = client.in_namespace(|| -> std::io::Result<(Answer, _)> {
        let answer = dns::ask(GUARD, "www.example.test", rtype, ANSWER)?;
        let connected = tcp::connect(address, 80, FIRST_SYN).map(|_| Instant::now());
        Ok((answer, connected))
    })??;
    let since = |at: Instant| at.saturating_duration_since(answer.asked).as_secs_f64() * 1e3;
    println!("   {:>8.1} ms  client  asks www.example.test {kind}", 0.0);
    let route = wait_for(Duration::from_secs(5), || routes.last(address, true));
    let route = route.ok_or_else(|| DemoError::Broken(format!("no route for {address}")))?;
    println!("   {:>8.1} ms  router  route to {address} in the kernel", since(route));
    println!("   {:>8.1} ms  client  has the answer: {}", since(answer.seen), list(&answer.addresses()));
    match connected {
        Ok(at) => println!("   {:>8.1} ms  client  connected to {address}", since(at)),
        Err(error) => return Err(DemoError::Broken(format!("connecting to {address} succeeds at once ({error})"))),
    }
    promise(route <= answer.seen, "the route was there before the answer")
}

fn connect(client: &Node, address: IpAddr, expected: bool) -> Result<(), DemoError> {
    match client.in_namespace(|| tcp::connect(address, 80, FIRST_SYN))? {
        Ok(took) => println!("   client  connect {address}: connected in {:.1} ms", took.as_secs_f64() * 1e3),
        Err(error) if expected => return Err(DemoError::Broken(format!("{address} is reachable ({error})"))),
        Err(_) => {
            println!("   client  connect {address}: nothing comes back");
            return Ok(());
        }
    }
    promise(expected, &format!("{address} is unreachable"))
}

fn promise(kept: bool, what: &str) -> Result<(), DemoError> {
    if kept { Ok(()) } else { Err(DemoError::Broken(what.to_owned())) }
}

fn list(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "no address".to_owned();
    }
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}
