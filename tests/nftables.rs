//! The nftables enforcer against the real kernel, each test in network namespaces of its own.

#[path = "nftables/namespace.rs"]
mod namespace;

use destguard::config::schema::{Nftables, NftablesMode, Scope};
use destguard::core::event::EnforcerId;
use destguard::enforce::nftables::{Enforcer, OwnTraffic, Transport};
use destguard::sys::clock::Clock;
use namespace::{alone, run};

fn config(mode: NftablesMode) -> Nftables {
    Nftables { mode, inside: vec!["in0".to_owned()], ..Nftables::default() }
}

fn enforcer(config: &Nftables) -> Enforcer {
    let open =
        ["10.88.0.0/16", "10.88.1.0/24", "192.0.2.9/32", "2001:db8:88::/48"].map(|net| net.parse().expect("net"));
    let own = [
        OwnTraffic { address: "10.9.1.53".parse().expect("address"), transport: Transport::Udp, port: 53 },
        OwnTraffic { address: "2001:db8:1::53".parse().expect("address"), transport: Transport::Tcp, port: 53 },
    ];
    Enforcer::new(config, &open, &own, 100, Clock::start(), EnforcerId(0)).expect("nft")
}

#[test]
fn every_mode_replaces_every_other_and_leaves_no_chain_behind() {
    alone(|| {
        let all = [NftablesMode::Local, NftablesMode::Both, NftablesMode::Gateway, NftablesMode::Local];
        for mode in all {
            for (enforce, scope, redirect_dns) in
                [(true, Scope::Shared, true), (false, Scope::Client, false), (true, Scope::Client, true)]
            {
                let config = Nftables { enforce, scope, redirect_dns, ..config(mode) };
                enforcer(&config).install().unwrap_or_else(|error| panic!("{mode:?} {enforce} {scope:?}: {error}"));
                let table = run("nft list table inet destguard");
                let hook = |name: &str| table.contains(&format!("hook {name}"));
                assert_eq!(hook("output"), matches!(mode, NftablesMode::Local | NftablesMode::Both), "{table}");
                assert_eq!(hook("forward"), matches!(mode, NftablesMode::Gateway | NftablesMode::Both), "{table}");
                assert_eq!(hook("prerouting"), mode != NftablesMode::Local && redirect_dns, "{table}");
                assert_eq!(table.contains("policy drop"), enforce, "{table}");
                assert_eq!(table.contains("set client_lease4"), scope == Scope::Client, "{table}");
            }
        }
        println!("{}", run("nft list table inet destguard"));
    });
}
