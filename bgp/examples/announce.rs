//! A speaker by hand: sessions from the command line, routes from standard input.
//!
//! ```text
//! announce asn=64512 id=192.0.2.2 next4=192.0.2.1 next6=2001:db8::1 listen=0.0.0.0:179 \
//!     peer=192.0.2.254,as=64513,gtsm,password=secret,settle=75
//! + 203.0.113.1 2001:db8::5      announce, one generation a line
//! - 203.0.113.1                  withdraw
//! fill 100000                    announce that many from 198.18.0.0 on
//! status                         one line a peer
//! stop [TEXT]                    Cease with this text, then end; the end of input does the same
//! ```
//!
//! Events are printed with milliseconds since the start.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use destguard_bgp::config::{Confirm, PeerConfig, Role, Secret, SpeakerConfig};
use destguard_bgp::io::{Speaker, SpeakerHandle};
use destguard_bgp::session::Stop;
use destguard_bgp::wire::iana::Families;
use tokio::io::{AsyncBufReadExt, BufReader};

type Failure = Box<dyn std::error::Error>;

fn peer(text: &str, number: usize) -> Result<PeerConfig, Failure> {
    let mut parts = text.split(',');
    let address: IpAddr = parts.next().unwrap_or_default().parse()?;
    let mut peer = PeerConfig::new(format!("peer{number}"), address, 0);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "as" => peer.asn = value.parse()?,
            "port" => peer.port = value.parse()?,
            "local" => peer.local_address = Some(value.parse()?),
            "passive" => peer.passive = true,
            "password" => peer.password = Some(Secret::new(value)),
            "gtsm" => peer.ttl_security = true,
            "multihop" => peer.multihop = Some(value.parse()?),
            "hold" => peer.hold_time = Duration::from_secs(value.parse()?),
            "settle" => peer.settle = Duration::from_millis(value.parse()?),
            "sent" => peer.confirm = Confirm::Sent,
            "v4" => peer.families = Families { ipv4: true, ipv6: false },
            "v6" => peer.families = Families { ipv4: false, ipv6: true },
            "observer" => peer.role = Role::Observer,
            other => return Err(format!("{other}: not an option of a peer").into()),
        }
    }
    Ok(peer)
}

fn configuration() -> Result<SpeakerConfig, Failure> {
    let mut config = SpeakerConfig { no_export: false, ..SpeakerConfig::new(0, std::net::Ipv4Addr::UNSPECIFIED) };
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').unwrap_or((&argument, ""));
        match key {
            "asn" => config.asn = value.parse()?,
            "id" => config.router_id = value.parse()?,
            "next4" => config.next_hop_ipv4 = Some(value.parse()?),
            "next6" => config.next_hop_ipv6 = Some(value.parse()?),
            "listen" => config.listen.push(value.parse()?),
            "gr" => config.graceful_restart = Duration::from_secs(value.parse()?),
            "restarting" => config.restarting = true,
            "no-export" => config.no_export = true,
            "audit" => config.announce = false,
            "peer" => config.peers.push(peer(value, config.peers.len())?),
            other => return Err(format!("{other}: not an option").into()),
        }
    }
    Ok(config)
}

fn show(speaker: &SpeakerHandle) {
    for peer in speaker.status() {
        println!(
            "{} {} {} advertised {:?} received {:?} confirmed {:?} latency {:?} capabilities {:?} last error {:?}",
            peer.name,
            peer.address,
            peer.state,
            peer.advertised,
            peer.received,
            peer.confirmed,
            peer.latency.latest,
            peer.capabilities,
            peer.last_error.map(|(reason, _)| reason),
        );
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let start = Instant::now();
    let (speaker, mut events) = Speaker::start(configuration()?).await?;
    let handle = speaker.handle();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut generation = 0;
    let text = loop {
        tokio::select! {
            Some(event) = events.recv() => {
                println!("{:.3} peer{} {:?}", start.elapsed().as_secs_f64() * 1000.0, event.peer, event.what);
            }
            line = lines.next_line() => {
                let Some(line) = line? else { break String::new() };
                let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
                let addresses = || rest.split_whitespace().map(str::parse).collect::<Result<Vec<IpAddr>, _>>();
                generation += 1;
                match word {
                    "+" | "-" => handle.apply(generation, addresses()?.into_iter().map(|address| (address, word == "+"))),
                    "fill" => {
                        let count: u32 = rest.parse()?;
                        let base = u32::from_be_bytes([198, 18, 0, 0]);
                        let changes = (0..count).map(|n| (IpAddr::from((base + n).to_be_bytes()), true));
                        handle.apply(generation, changes);
                    }
                    "status" => show(&handle),
                    "stop" => break rest.to_owned(),
                    other => println!("{other}: not a command"),
                }
                println!("{:.3} generation {generation}", start.elapsed().as_secs_f64() * 1000.0);
            }
        }
    };
    show(&handle);
    speaker.stop(Stop::Shutdown(text)).await;
    Ok(())
}
