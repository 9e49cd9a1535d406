//! Peers that mean harm, played with the speaker's own codec beside a router that works: only their counters change.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use destguard_bgp::wire::EncodeContext;
use destguard_bgp::wire::attribute::{AsPath, Attributes, Origin};
use destguard_bgp::wire::builder::{AttributeBlock, announce, end_of_rib};
use destguard_bgp::wire::capability::Capability;
use destguard_bgp::wire::iana::{Families, Family};
use destguard_bgp::wire::message::{Message, NextHop, Open, RefreshSubtype, RouteRefresh};
use lab::dns;
use lab::dns::server::many_v4;

use super::*;

const ASN: u32 = 64999;
/// Peers that mean harm, each with an address of its own: one that fails often is refused for a while.
const COUNT: u8 = 40;
/// What the daemon may have more of in memory afterwards: buffers of sockets and of the allocator, no tables.
const GROWTH_KB: u64 = 24 * 1024;

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 4, 100 + number)
}

fn context() -> EncodeContext {
    EncodeContext { families: Families::ALL, four_octet_as: true, ..EncodeContext::initial() }
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut octets = BytesMut::new();
    message.encode(&context(), &mut octets).unwrap();
    octets.to_vec()
}

fn open(number: u8) -> Vec<u8> {
    let capabilities = vec![
        Capability::Multiprotocol(Family::Ipv4.afi_safi()),
        Capability::Multiprotocol(Family::Ipv6.afi_safi()),
        Capability::RouteRefresh,
        Capability::FourOctetAs(ASN),
    ];
    encoded(&Message::Open(Open { asn: ASN, hold_time: 90, identifier: address(number), capabilities }))
}

fn block() -> AttributeBlock {
    let path = AsPath::sequence([ASN]);
    let attributes = Attributes { origin: Some(Origin::Igp), as_path: Some(path), ..Attributes::default() };
    AttributeBlock::new(&context(), Family::Ipv4, NextHop::Ipv4(address(0)), &attributes).unwrap()
}

/// 100,000 host routes and the default route.
fn flood() -> Vec<u8> {
    let (context, block) = (context(), block());
    let routes: Vec<Ipv4Addr> = (0..100_000_u32).map(|n| Ipv4Addr::from(0xc612_0000 + n)).collect();
    let (mut octets, mut rest) = (BytesMut::new(), routes.as_slice());
    while !rest.is_empty() {
        let fitted = announce(&context, &block, rest, &mut octets).unwrap();
        rest = &rest[fitted..];
    }
    let everything: ipnet::IpNet = "0.0.0.0/0".parse().unwrap();
    announce(&context, &block, &[everything], &mut octets).unwrap();
    end_of_rib(&context, Family::Ipv4, &mut octets).unwrap();
    octets.to_vec()
}

/// One message of each kind but OPEN.
fn valid() -> Vec<Vec<u8>> {
    let mut update = BytesMut::new();
    announce(&context(), &block(), &[Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 7)], &mut update)
        .unwrap();
    let mut end = BytesMut::new();
    end_of_rib(&context(), Family::Ipv6, &mut end).unwrap();
    let refresh = RouteRefresh { family: Family::Ipv6.afi_safi(), subtype: RefreshSubtype::Request };
    vec![update.to_vec(), end.to_vec(), encoded(&Message::RouteRefresh(refresh)), encoded(&Message::Keepalive)]
}

/// xorshift64: the same mutations each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }

    fn mutate(&mut self, octets: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(octets.len());
            match self.below(6) {
                0 => octets.truncate(at.max(1)),
                1 => octets.insert(at, 0xff),
                2 => octets[at] = 0,
                // Behind the marker: length, type and what follows.
                _ => {
                    let at = 16 + self.below(octets.len().max(17) - 16);
                    if let Some(octet) = octets.get_mut(at) {
                        *octet ^= 1 << self.below(8);
                    }
                }
            }
        }
    }
}

fn connect(number: u8) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address(number), 0)).into()).unwrap();
    let guard = SocketAddr::from(([10, 0, 3, 2], 179));
    socket.connect_timeout(&guard.into(), ANSWER).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.set_write_timeout(Some(ANSWER)).unwrap();
    Some(stream)
}

/// Writes it all and reads what comes until the guard ends it or says no more. That the guard closes first is as it should be.
fn say(mut stream: TcpStream, octets: &[u8]) {
    let mut room = [0; 65536];
    if stream.write_all(octets).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        while stream.read(&mut room).is_ok_and(|count| count > 0) {}
    }
}

fn world() -> World {
    let mut peers = String::new();
    for number in 0..COUNT {
        peers.push_str(&format!(
            "\n[[bgp.peer]]\nname = \"evil{number}\"\naddress = \"{}\"\nlocal_address = \"10.0.3.2\"\nasn = {ASN}\nmultihop = \
             2\npassive = true\nrequired = false\n",
            address(number)
        ));
    }
    let router = "[[bgp.peer]]\nname = \"router\"\n";
    let edits = [
        ("guard", CONFIG, "[bgp]\n", "[bgp]\nlisten = [\"10.0.3.2:179\"]\n"),
        ("guard", CONFIG, router, &format!("{peers}\n{router}")),
    ];
    let world = World::begin(BIRD, &["router"], &["guard"], &edits);
    for number in 0..COUNT {
        world.node("client2").ok(&format!("ip addr add {}/24 dev eth1", address(number))).unwrap();
    }
    world.until("the router's session", || world.established("guard", "router"));
    world
}

/// What the harmless see all along: every name gets its answer and its route.
fn serve(world: &World, numbers: std::ops::Range<u32>) {
    let answers = world.node("client").in_namespace(|| {
        let asker = Asker::new("10.0.3.2:53".parse().unwrap()).unwrap();
        for number in numbers {
            let answer = asker.ask(&format!("n{number}.many.test"), dns::A, ANSWER).unwrap();
            assert_eq!(answer.addresses(), [IpAddr::from(many_v4(number))], "{:?}", answer.message);
        }
    });
    answers.unwrap();
}

#[test]
fn hostile_peers_change_nothing_but_counters() {
    let world = world();
    serve(&world, 0..3);
    let error = world.error("guard", "router");
    let received = |name: &str, what: &str| world.peer("guard", name)["received"][what].as_u64().unwrap();
    let from_router = world.peer("guard", "router")["received"]["announced"].clone();
    let pid = world.node("guard").pid("destguard").unwrap();
    let table = || world.node("router").ok("birdc show route count").unwrap();
    let (before, routes) = (memory_kb(pid), table());

    // A hundred thousand routes and a default route, three times over.
    let evil = world.node("client2");
    let flood = flood();
    for number in 0..3 {
        evil.in_namespace(|| {
            let mut stream = connect(number).unwrap();
            stream.write_all(&[open(number), encoded(&Message::Keepalive)].concat()).unwrap();
            let name = format!("evil{number}");
            world.until("a session with it", || world.established("guard", &name));
            stream.write_all(&flood).unwrap();
            let told = world.peer("guard", &name);
            assert_eq!(told["state"], "Established", "{told}");
            world.until("all of it to be counted", || received(&name, "announced") == 100_001);
            assert_eq!((received(&name, "malformed"), received(&name, "withdrawn")), (0, 0));
            assert!(received(&name, "updates") >= 100_001 / 900 && world.established("guard", &name));
            assert_eq!(world.peer("guard", &name)["advertised"]["ipv4"], told["advertised"]["ipv4"]);
            say(stream, &[]);
            // It is read to its end: only then does the guard see that the connection closes.
            world.until("its end", || !world.established("guard", &name));
        })
        .unwrap();
        world.reads("guard", &format!("evil{number}"), "the peer closed the connection");
    }
    assert_eq!(table(), routes, "nothing of it is passed on");

    // OPENs without an end, and with a length that none may have; connections that say nothing.
    let mut held = Vec::new();
    for number in 3..8 {
        let stream = evil.in_namespace(|| {
            let mut stream = connect(number).unwrap();
            let mut endless = open(number);
            endless[16..18].copy_from_slice(&4096_u16.to_be_bytes());
            endless.resize(4000, 2);
            stream.write_all(&endless).unwrap();
            stream
        });
        held.push(stream.unwrap());
    }
    for number in 8..10 {
        evil.in_namespace(|| {
            let mut huge = open(number);
            huge[16..18].copy_from_slice(&u16::MAX.to_be_bytes());
            huge.resize(60_000, 2);
            say(connect(number).unwrap(), &huge);
        })
        .unwrap();
        world.reads("guard", &format!("evil{number}"), "the peer sent no BGP: bad length 65535");
    }
    for number in 3..8 {
        // An OPEN that never ends is no message.
        assert_eq!(received(&format!("evil{number}"), "messages"), 0);
    }
    for _ in 0..20 {
        held.push(evil.in_namespace(|| connect(10).unwrap()).unwrap());
    }

    // Mutated messages: before the session, and in it.
    let sessions = std::thread::scope(|scope| {
        let harmless = scope.spawn(|| serve(&world, 3..40));
        let harmful = scope.spawn(|| {
            evil.in_namespace(|| {
                let (mut random, mut sessions) = (Random(0x9e37_79b9_7f4a_7c15), 0);
                for round in 0..5 {
                    for number in 11..COUNT {
                        let Some(stream) = connect(number) else { continue };
                        let mut octets = open(number);
                        if round % 2 == 0 {
                            random.mutate(&mut octets);
                        }
                        octets.extend(encoded(&Message::Keepalive));
                        for mut message in valid() {
                            random.mutate(&mut message);
                            octets.extend(message);
                        }
                        say(stream, &octets);
                        sessions += 1;
                    }
                }
                sessions
            })
            .unwrap()
        });
        harmless.join().unwrap();
        harmful.join().unwrap()
    });
    assert!(sessions >= 100, "{sessions}");
    drop(held);

    assert_eq!(world.node("guard").pid("destguard"), Some(pid));
    assert!(world.established("guard", "router"));
    assert_eq!(world.error("guard", "router"), error, "one session with the router all along");
    assert_eq!(world.peer("guard", "router")["sessions"], 1);
    assert_eq!(world.peer("guard", "router")["received"]["announced"], from_router);
    let counted: u64 = (11..COUNT).map(|number| received(&format!("evil{number}"), "messages")).sum();
    assert!(counted >= sessions, "{counted} messages of {sessions} sessions");
    assert!(!world.lab.logs().contains("panicked"), "{}", world.lab.logs());
    serve(&world, 40..43);
    assert!(world.connects("client", many_v4(42).into()));
    assert_eq!(world.read("guard", "status")["leases"]["active"], 43);
    let after = memory_kb(pid);
    assert!(after < before + GROWTH_KB, "the daemon grew from {before} to {after} kB");
}
