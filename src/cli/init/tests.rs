//! What `init` writes is a configuration, and says what the host is like.

use super::*;
use crate::config::schema::{Mode, NftablesMode};

fn wanted(purpose: Use) -> Wanted {
    Wanted {
        purpose: Some(purpose),
        upstream: vec!["udp://192.0.2.53".to_owned()],
        server_name: None,
        inside: vec!["198.51.100.0/24".parse().unwrap()],
        interface: vec!["lan0".to_owned()],
        clients: vec!["198.51.100.0/24".parse().unwrap()],
        router: vec!["192.0.2.1".parse().unwrap()],
        asn: Some(64_512),
        next_hop: vec!["192.0.2.254".parse().unwrap()],
        force: false,
        print: false,
    }
}

fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, host::Found) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let found = host::look(root.path());
    (root, found)
}

#[test]
fn each_use_gives_a_configuration_in_audit() {
    for purpose in [Use::Server, Use::Gateway, Use::Network] {
        for found in [host::Found::default(), host::Found { ipv6_off: true, ..host::Found::default() }] {
            let text = wanted(purpose).text(&found);
            let parsed = check::parse(Path::new("destguard.toml"), &text);
            let (config, ..) = parsed.unwrap_or_else(|report| panic!("{purpose:?}: {report}\n{text}"));
            assert_eq!(config.mode, Mode::Audit);
            assert_eq!(config.addresses.inside.len(), 1, "{purpose:?}");
            assert_eq!(config.nftables.mode == NftablesMode::Off, purpose == Use::Network);
            assert_eq!(config.bgp.peer.len(), usize::from(purpose == Use::Network));
            assert!(
                !found.ipv6_off || config.dns.listen.iter().all(|address| address.to_string().starts_with(['0', '1']))
            );
        }
    }
}

#[test]
fn the_host_is_looked_at() {
    let (_root, found) = host(&[
        ("etc/resolv.conf", "search example.test\nnameserver 127.0.0.53\n"),
        ("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"),
        ("etc/systemd/timesyncd.conf", "[Time]\nNTP=192.0.2.123 ntp.example.test\n"),
        ("etc/chrony/chrony.conf", "server 192.0.2.123 iburst\n# server 192.0.2.9\npool pool.example.test iburst\n"),
        ("sys/class/net/docker0/type", "1"),
        ("proc/net/if_inet6", ""),
    ]);
    assert_eq!(found.resolvers, ["192.0.2.53", "2001:db8::53"].map(|text| text.parse::<IpAddr>().unwrap()));
    assert_eq!(found.time_servers, ["192.0.2.123".parse::<IpAddr>().unwrap()]);
    assert!(found.ipv6_off);
    let notes = found.notes(Some(Use::Server)).join("\n");
    for said in ["ntp.example.test", "pool.example.test", "systemd-resolved", "docker0", "IPv6 is off", "resolv.conf"] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    let text = wanted(Use::Server).text(&found);
    assert!(text.contains("open = [\"192.0.2.123\"]"), "{text}");
    let (_root, plain) = host(&[("etc/resolv.conf", "nameserver 192.0.2.54\n"), ("proc/net/if_inet6", "x")]);
    assert_eq!(plain.resolvers, ["192.0.2.54".parse::<IpAddr>().unwrap()]);
    assert!(!plain.ipv6_off);
}

#[test]
fn what_is_missing_is_named_and_nothing_is_written_over() {
    let found = host::Found::default();
    let mut nothing = Wanted { purpose: None, upstream: vec![], ..wanted(Use::Server) };
    // The tests' standard input is no terminal.
    assert!(nothing.complete(&found).unwrap_err().to_string().contains("--use"));
    let mut no_upstream = Wanted { upstream: vec![], ..wanted(Use::Server) };
    assert!(no_upstream.complete(&found).unwrap_err().to_string().contains("--upstream"));
    let known = host::Found { resolvers: vec!["2001:db8::53".parse().unwrap()], ..found.clone() };
    no_upstream.complete(&known).unwrap();
    assert_eq!(no_upstream.upstream, ["udp://[2001:db8::53]"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etc/destguard.toml");
    assert_eq!(init(&path, wanted(Use::Server)), Exit::Done);
    let before = std::fs::read_to_string(&path).unwrap();
    assert_eq!(init(&path, wanted(Use::Gateway)), Exit::Failed);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    assert_eq!(init(&path, Wanted { force: true, ..wanted(Use::Gateway) }), Exit::Done);
    assert_ne!(std::fs::read_to_string(&path).unwrap(), before);
    assert_eq!(
        init(&path, Wanted { upstream: vec!["resolver.example".to_owned()], ..wanted(Use::Server) }),
        Exit::Usage
    );
}
