//! Every key of the configuration: what is changed about it while the guard runs, or why it isn't.
//!
//! `tests/reload_soak.rs` compares the list with the schema, so that no key comes without an entry here.

/// What a change may touch of what was there before, so that it isn't called a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touches {
    /// Rules of the packet filter are made anew; leases stay in it.
    pub packets: bool,
    /// Routes of leases go or come with it, or are announced again.
    pub routes: bool,
    /// Sets grow, which older kernels can't do in place.
    pub sets: bool,
    /// Sessions begin anew.
    pub sessions: bool,
}

/// A key and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As in the schema.
    pub key: &'static str,
    /// What is tried.
    pub trial: Trial,
}

/// What is tried with a key.
#[derive(Clone, Copy, Debug)]
pub enum Trial {
    /// A reload applies it: the line of the file, and its values beside that of [`BASE`].
    Applies(&'static str, &'static [&'static str], Touches),
    /// It waits for a restart and keeps no other key from being applied: the line, another value.
    Waits(&'static str, &'static str),
    /// As `Applies`, where the kernel can do it. Elsewhere the reload is refused with these words, and nothing is another.
    IfKernel(&'static str, &'static [&'static str], Touches, &'static str),
    /// It names which one of several, or means something only together with another key, and is changed with that one.
    With(&'static str),
}

use Trial::{Applies, IfKernel, Waits, With};

const NOTHING: Touches = Touches { packets: false, routes: false, sets: false, sessions: false };
const PACKETS: Touches = Touches { packets: true, ..NOTHING };
const ROUTES: Touches = Touches { routes: true, ..NOTHING };
const BOTH: Touches = Touches { routes: true, ..PACKETS };
const SETS: Touches = Touches { sets: true, ..PACKETS };
const SESSIONS: Touches = Touches { sessions: true, ..BOTH };

/// The file at first, a line each. `DIR` is the directory, `DEADLINE` the gate's.
pub const BASE: &[(&str, &str)] = &[
    ("dns.listen", r#"["127.0.0.1:5301"]"#),
    ("dns.clients", r#"["127.0.0.0/8"]"#),
    ("dns.upstream", r#"[{ url = "udp://127.0.0.1:5300" }]"#),
    ("policy.allow", r#"["soak.example"]"#),
    ("policy.private", r#"[{ domain = "soak.example", prefixes = ["10.0.0.0/8", "2001:db8::/32"] }]"#),
    ("addresses.inside", "[]"),
    ("lease.min", r#""5s""#),
    ("lease.grace", r#""1s""#),
    ("lease.capacity", "200000"),
    ("lease.new_per_client", r#""1000000/s""#),
    ("lease.new_per_domain", r#""1000000/s""#),
    ("gate.deadline", r#""DEADLINE""#),
    ("nftables", r#"{ mode = "local" }"#),
    ("bgp.asn", "64512"),
    ("bgp.router_id", r#""192.0.2.2""#),
    ("bgp.next_hop_ipv4", r#""192.0.2.1""#),
    ("bgp.next_hop_ipv6", r#""2001:db8:ffff::1""#),
    ("bgp.linger", r#""2s""#),
    ("bgp.listen", r#"["127.0.0.1:1791"]"#),
    ("bgp.peer", r#"[{ name = "watch", address = "127.0.0.2", port = 1790, asn = 64513, settle = "0s" }]"#),
    ("state.dir", r#""DIR/state""#),
];

macro_rules! beside {
    ($more:literal) => {
        concat!(r#"[{ url = "udp://127.0.0.1:5300" }, { domains = ["other.example"], "#, $more, " }]")
    };
}

macro_rules! exporter {
    ($exporter:literal) => {
        concat!(r#"{ listen = ["127.0.0.1:2055"], exporter = [{ "#, $exporter, " }] }")
    };
}

macro_rules! peers {
    ($more:literal) => {
        concat!(
            r#"[{ name = "watch", address = "127.0.0.2", port = 1790, asn = 64513, settle = "0s" }, "#,
            r#"{ name = "other", address = "127.0.0.3", asn = 64514, passive = true, required = false"#,
            $more,
            " }]"
        )
    };
}

macro_rules! observed {
    ($more:literal) => {
        concat!(
            r#"[{ name = "watch", address = "127.0.0.2", port = 1790, asn = 64513, settle = "0s" }, "#,
            r#"{ name = "other", address = "127.0.0.3", asn = 64512, passive = true, required = false"#,
            $more,
            r#" }, { name = "third", address = "127.0.0.4", asn = 64512, passive = true, required = false, role = "observer" }]"#
        )
    };
}

macro_rules! tls {
    ($listeners:literal) => {
        concat!(r#"{ certificate = "DIR/cert.pem", key = "DIR/key.pem", "#, $listeners, " }")
    };
}

macro_rules! http {
    ($more:literal) => {
        concat!(
            r#"{ listen = ["127.0.0.1:5380"], certificate = "DIR/cert.pem", key = "DIR/key.pem", token_file = "DIR/token", "#,
            $more,
            " }"
        )
    };
}

macro_rules! edge {
    ($name:literal, $more:literal) => {
        concat!(
            "[{ name = ",
            $name,
            r#", address = "198.51.100.9", local_address = "198.51.100.8", families = ["ipv4"], required = false"#,
            $more,
            " }]"
        )
    };
}

macro_rules! service {
    ($more:literal) => {
        concat!(
            r#"{ peer = [{ name = "anycast", address = "127.0.0.3", port = 1794, asn = 64513, "#,
            r#"local_address = "127.0.0.5""#,
            $more,
            " }] }"
        )
    };
}

macro_rules! group {
    ($more:literal) => {
        concat!(r#"[{ name = "some", clients = ["127.0.1.3/32"], allow = ["soak.example"]"#, $more, " }]")
    };
}

macro_rules! list {
    ($more:literal) => {
        concat!(r#"[{ path = "DIR/list", "#, $more, " }]")
    };
}

macro_rules! zone {
    ($more:literal) => {
        concat!(r#"[{ name = "zone.example", "#, $more, " }]")
    };
}

const fn applies(key: &'static str, values: &'static [&'static str]) -> Key {
    Key { key, trial: Applies(key, values, NOTHING) }
}

const fn part(key: &'static str, line: &'static str, values: &'static [&'static str]) -> Key {
    Key { key, trial: Applies(line, values, NOTHING) }
}

const fn touching(key: &'static str, line: &'static str, values: &'static [&'static str], touches: Touches) -> Key {
    Key { key, trial: Applies(line, values, touches) }
}

const fn peer(key: &'static str, values: &'static [&'static str]) -> Key {
    touching(key, "bgp.peer", values, PACKETS)
}

const fn tcp_ao(key: &'static str, values: &'static [&'static str]) -> Key {
    Key { key, trial: IfKernel("bgp.peer", values, PACKETS, "this kernel has no TCP-AO") }
}

const fn service(key: &'static str, values: &'static [&'static str]) -> Key {
    touching(key, "bgp.service", values, PACKETS)
}

const fn waits(key: &'static str, line: &'static str, value: &'static str) -> Key {
    Key { key, trial: Waits(line, value) }
}

const fn with(key: &'static str, other: &'static str) -> Key {
    Key { key, trial: With(other) }
}

/// All of them; those that touch nothing first.
pub const KEYS: &[Key] = &[
    applies("dns.clients", &[r#"["127.0.0.0/8", "192.0.2.0/24"]"#]),
    applies("dns.virtual_addresses", &[r#"["127.0.0.1"]"#]),
    applies("dns.local_names", &["false"]),
    applies("dns.rate_limit", &[r#""100000/s""#, r#""200000/s""#]),
    applies("dns.cache.size", &[r#""1MiB""#, r#""128MiB""#]),
    applies("dns.cache.prefetch", &["false"]),
    applies("dns.cache.serve_stale", &[r#""1h""#]),
    part("dns.dnssec.validate", "dns.dnssec", &[r#"{ validate = true, insecure = ["soak.example"] }"#]),
    part(
        "dns.dnssec.insecure",
        "dns.dnssec",
        &[
            r#"{ validate = true, insecure = ["soak.example"] }"#,
            r#"{ validate = true, insecure = ["soak.example", "other.example"] }"#,
        ],
    ),
    part(
        "dns.dnssec.trust_anchor",
        "dns.dnssec",
        &[
            r#"{ validate = true, insecure = ["soak.example"], trust_anchor = ". IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16" }"#,
        ],
    ),
    part("dns.zone.name", "dns.zone", &[zone!(r#"records = ["a A 10.9.9.9"]"#)]),
    part("dns.zone.file", "dns.zone", &[zone!(r#"file = "DIR/zone""#)]),
    part("dns.zone.hosts", "dns.zone", &[zone!(r#"hosts = "DIR/hosts""#)]),
    part(
        "dns.zone.records",
        "dns.zone",
        &[zone!(r#"records = ["a A 10.9.9.9"]"#), zone!(r#"records = ["b A 10.9.9.9"]"#)],
    ),
    part("dns.zone.ttl", "dns.zone", &[zone!(r#"ttl = "1m", records = ["a A 10.9.9.9"]"#)]),
    applies("policy.default", &[r#""deny""#]),
    applies("policy.allow", &[r#"["soak.example", "more.example"]"#]),
    applies("policy.deny", &[r#"["denied.example"]"#, r#"["denied.example", "=other.example"]"#]),
    part("policy.list.path", "policy.list", &[list!(r#"format = "domains", action = "deny""#)]),
    part(
        "policy.list.url",
        "policy.list",
        &[r#"[{ url = "https://127.0.0.1:9/soak", format = "domains", action = "deny" }]"#],
    ),
    part(
        "policy.list.refresh",
        "policy.list",
        &[r#"[{ url = "https://127.0.0.1:9/soak", refresh = "12h", format = "domains", action = "deny" }]"#],
    ),
    part(
        "policy.list.max_size",
        "policy.list",
        &[r#"[{ url = "https://127.0.0.1:9/soak", max_size = "1MiB", format = "domains", action = "deny" }]"#],
    ),
    part(
        "policy.list.ca",
        "policy.list",
        &[r#"[{ url = "https://127.0.0.1:9/soak", ca = "DIR/cert.pem", format = "domains", action = "deny" }]"#],
    ),
    part(
        "policy.list.format",
        "policy.list",
        &[list!(r#"format = "domains", action = "deny""#), list!(r#"format = "adblock", action = "deny""#)],
    ),
    part(
        "policy.list.action",
        "policy.list",
        &[list!(r#"format = "domains", action = "deny""#), list!(r#"format = "domains", action = "allow""#)],
    ),
    part("policy.list.name", "policy.list", &[list!(r#"name = "bad", format = "domains", action = "deny""#)]),
    part(
        "policy.list.everybody",
        "policy.list",
        &[list!(r#"name = "bad", everybody = true, format = "domains", action = "deny""#)],
    ),
    applies("policy.timezone", &[r#""Europe/Berlin""#]),
    part("policy.list.schedule", "policy.list", &[list!(r#"format = "domains", action = "deny", schedule = ["mon"]"#)]),
    part("policy.group.schedule", "policy.group", &[group!(r#", schedule = ["mon-fri 08:00-17:00"]"#)]),
    part("policy.group.name", "policy.group", &[group!("")]),
    part(
        "policy.group.clients",
        "policy.group",
        &[r#"[{ name = "some", clients = ["127.0.1.4/32", "127.0.1.5/32"] }]"#],
    ),
    part(
        "policy.group.certificate",
        "policy.group",
        &[
            group!(r#", certificate = ["sha256:0101010101010101010101010101010101010101010101010101010101010101"]"#),
            group!(r#", certificate = ["sha256:0202020202020202020202020202020202020202020202020202020202020202"]"#),
        ],
    ),
    part("policy.group.doh_path", "policy.group", &[group!(r#", doh_path = "/a""#), group!(r#", doh_path = "/b""#)]),
    part("policy.group.default", "policy.group", &[group!(r#", default = "deny""#)]),
    part(
        "policy.group.allow",
        "policy.group",
        &[r#"[{ name = "some", clients = ["127.0.1.3/32"], allow = ["a.example", "soak.example"] }]"#],
    ),
    part("policy.group.deny", "policy.group", &[group!(r#", deny = ["denied.example"]"#)]),
    part("policy.group.lists", "policy.group", &[group!(""), group!(", lists = []")]),
    part("policy.group.communities", "policy.group", &[group!(r#", communities = ["64512:7"]"#)]),
    part("policy.group.share", "policy.group", &[group!(", share = 9")]),
    part("policy.rule.names", "policy.rule", &[r#"[{ names = ["rule.example", "=other.example"] }]"#]),
    part(
        "policy.rule.clients",
        "policy.rule",
        &[concat!(
            r#"[{ names = ["rule.example"], clients = ["soak"] }]"#,
            "\n",
            r#"policy.group = [{ name = "soak", clients = ["10.0.0.0/8"] }]"#
        )],
    ),
    touching(
        "policy.rule.ports",
        "policy.rule",
        &[r#"[{ names = ["rule.example"], ports = ["443/tcp+udp"] }]"#],
        PACKETS,
    ),
    part(
        "policy.private.domain",
        "policy.private",
        &[
            r#"[{ domain = "soak.example", prefixes = ["10.0.0.0/8", "2001:db8::/32"] }, { domain = "corp.example", prefixes = ["10.0.0.0/8"] }]"#,
        ],
    ),
    part(
        "policy.private.prefixes",
        "policy.private",
        &[r#"[{ domain = "soak.example", prefixes = ["10.0.0.0/8", "172.16.0.0/12", "2001:db8::/32"] }]"#],
    ),
    applies("addresses.never", &[r#"["198.51.100.0/24"]"#]),
    applies("addresses.inside", &[r#"["198.51.100.0/24"]"#]),
    applies("addresses.on_link", &[r#""ignore""#]),
    applies("addresses.public_resolvers", &[r#""allow""#]),
    applies("addresses.nat64", &[r#""2001:db8:64::/96""#]),
    applies("lease.min", &[r#""6s""#, r#""4s""#]),
    applies("lease.max", &[r#""12h""#]),
    applies("lease.grace", &[r#""2s""#]),
    applies("lease.per_answer", &["8"]),
    applies("lease.new_per_client", &[r#""900000/s""#]),
    applies("lease.burst_per_client", &["1000"]),
    applies("lease.new_per_domain", &[r#""900000/s""#]),
    applies("lease.burst_per_domain", &["2000"]),
    applies("lease.preload", &[r#"["soak.example"]"#]),
    applies("lease.revalidate", &["true"]),
    applies("gate.deadline", &[r#""9s""#]),
    applies("gate.on_deadline", &[r#""answer""#]),
    applies("log.queries", &["5000", "0"]),
    applies("log.file", &[r#""queries.jsonl""#, r#""others.jsonl""#]),
    applies("log.file_size", &[r#""1MiB""#]),
    applies("log.file_keep", &["0"]),
    with("flows.listen", "flows.exporter.address"),
    applies("flows.max", &[r#""1h""#]),
    // It needs a gateway, which the base isn't.
    with("flows.conntrack", "nftables.mode"),
    part("flows.exporter.address", "flows", &[exporter!(r#"address = "127.0.0.9", kind = "ipfix""#)]),
    part("flows.exporter.kind", "flows", &[exporter!(r#"address = "127.0.0.9", kind = "sflow""#)]),
    part("flows.exporter.interval", "flows", &[exporter!(r#"address = "127.0.0.9", kind = "ipfix", interval = "1s""#)]),
    touching("log.syslog", "log.syslog", &[r#""udp:127.0.0.1:5514""#, r#""unix:/dev/log""#], PACKETS),
    touching("log.dnstap", "log.dnstap", &[r#""tcp:127.0.0.1:6000""#, r#""unix:/run/dnstap.sock""#], PACKETS),
    applies("log.hide", &[r#"["clients"]"#, r#"["clients", "names"]"#]),
    // What needs a restart is named, and nothing else is kept from being applied.
    touching(
        "dns.listen",
        "dns.listen",
        &[r#"["127.0.0.1:5301", "127.0.0.1:5302"]"#, r#"["0.0.0.0:5301"]"#, r#"["[::]:5301"]"#],
        PACKETS,
    ),
    applies("dns.workers", &["1", "3"]),
    touching("dns.tls.dot", "dns.tls", &[tls!(r#"dot = ["127.0.0.1:5853"]"#)], PACKETS),
    touching("dns.tls.doh", "dns.tls", &[tls!(r#"doh = ["127.0.0.1:5443"]"#)], PACKETS),
    touching("dns.tls.doq", "dns.tls", &[tls!(r#"doq = ["127.0.0.1:5853"]"#)], PACKETS),
    with("dns.tls.certificate", "dns.tls.dot"),
    with("dns.tls.key", "dns.tls.dot"),
    touching(
        "dns.tls.client_ca",
        "dns.tls",
        &[tls!(r#"dot = ["127.0.0.1:5853"], client_ca = "DIR/cert.pem""#), tls!(r#"dot = ["127.0.0.1:5853"]"#)],
        PACKETS,
    ),
    touching(
        "dns.tls.client_crl",
        "dns.tls",
        &[tls!(r#"dot = ["127.0.0.1:5853"], client_ca = "DIR/cert.pem", client_crl = "DIR/revoked.crl""#)],
        PACKETS,
    ),
    touching(
        "dns.tls.require_client_certificate",
        "dns.tls",
        &[tls!(r#"dot = ["127.0.0.1:5853"], client_ca = "DIR/cert.pem", require_client_certificate = true"#)],
        PACKETS,
    ),
    touching(
        "http.listen",
        "http",
        &[
            r#"{ listen = ["127.0.0.1:5380"] }"#,
            http!(r#"names = ["guard.example"]"#),
            http!("metrics_need_token = true"),
        ],
        PACKETS,
    ),
    with("http.names", "http.listen"),
    with("http.certificate", "http.listen"),
    with("http.key", "http.listen"),
    with("http.token_file", "http.listen"),
    with("http.metrics_need_token", "http.listen"),
    touching(
        "nftables.client_ipv6_prefix",
        "nftables",
        &[r#"{ mode = "local", client_ipv6_prefix = 64 }"#, r#"{ mode = "local", client_ipv6_prefix = 56 }"#],
        PACKETS,
    ),
    waits("nftables.scope", "nftables", r#"{ mode = "both", inside = ["eth7"], scope = "client" }"#),
    with("nftables.application.unit", "nftables.application.name"),
    with("nftables.application.user", "nftables.application.name"),
    with("nftables.application.cgroup", "nftables.application.name"),
    with("nftables.application.names", "nftables.application.name"),
    waits("confine", "confine", "false"),
    // There is one value.
    with("enforcer", "nftables.mode"),
    applies("ebpf.cgroup", &[r#""/sys/fs/cgroup/other""#]),
    waits("state.dir", "state.dir", r#""DIR/other""#),
    // Behind these the packet filter's rules, or the routes, are others.
    // What every route bears is announced again.
    touching("bgp.next_hop_ipv4", "bgp.next_hop_ipv4", &[r#""192.0.2.4""#], ROUTES),
    touching("bgp.next_hop_ipv6", "bgp.next_hop_ipv6", &[r#""2001:db8:ffff::2""#], ROUTES),
    touching("bgp.communities", "bgp.communities", &[r#"["64512:100"]"#], ROUTES),
    touching("bgp.large_communities", "bgp.large_communities", &[r#"["64512:1:2"]"#], ROUTES),
    touching("bgp.no_export", "bgp.no_export", &["false"], ROUTES),
    touching("bgp.local_pref", "bgp.local_pref", &["200"], ROUTES),
    applies("bgp.service.up_after", &[r#""2s""#]),
    applies("bgp.service.down_after", &[r#""2s""#]),
    applies("bgp.service.drain", &[r#""2s""#]),
    applies("bgp.service.communities", &[r#"["64512:53"]"#]),
    applies("bgp.service.large_communities", &[r#"["64512:1:53"]"#]),
    applies("bgp.service.no_export", &["false"]),
    applies("bgp.exclude_announced", &["true"]),
    applies("bgp.linger", &[r#""3s""#]),
    applies("bgp.shutdown_drain", &[r#""1s""#]),
    touching("bgp.listen", "bgp.listen", &[r#"["127.0.0.1:1791", "127.0.0.1:1793"]"#], PACKETS),
    touching("bgp.announce_open", "bgp.announce_open", &["false"], ROUTES),
    touching("bgp.announce_upstreams", "bgp.announce_upstreams", &["true"], ROUTES),
    touching("bgp.enforce", "bgp.enforce", &["false"], ROUTES),
    touching("addresses.doh", "addresses.doh", &[r#"["192.0.2.77"]"#, r#"["192.0.2.0/24"]"#], PACKETS),
    touching("addresses.local_discovery", "addresses.local_discovery", &["true"], PACKETS),
    touching(
        "nftables.bridges",
        "nftables",
        &[r#"{ mode = "local", bridges = ["br-*"] }"#, r#"{ mode = "local", bridges = ["br-*", "virbr*"] }"#],
        PACKETS,
    ),
    touching("addresses.open", "addresses.open", &[r#"["192.0.2.77"]"#, r#"["192.0.2.0/24"]"#], PACKETS),
    // The table goes and comes, with all leases in it.
    touching(
        "nftables.mode",
        "nftables",
        &[r#"{ mode = "off" }"#, r#"{ mode = "both", inside = ["eth7"] }"#, r#"{ mode = "off" }"#],
        SETS,
    ),
    touching(
        "nftables.inside",
        "nftables",
        &[r#"{ mode = "both", inside = ["eth7"] }"#, r#"{ mode = "both", inside = ["eth7", "eth8"] }"#],
        PACKETS,
    ),
    touching(
        "nftables.redirect_dns",
        "nftables",
        &[r#"{ mode = "both", inside = ["eth7"], redirect_dns = true }"#],
        PACKETS,
    ),
    touching(
        "nftables.application.name",
        "nftables",
        &[
            r#"{ mode = "local", application = [{ name = "a", user = "4711", names = ["bound.example"] }] }"#,
            r#"{ mode = "local", application = [{ name = "b", cgroup = "/none", names = ["bound.example:443"] }] }"#,
        ],
        SETS,
    ),
    touching("nftables.on_stop", "nftables", &[r#"{ mode = "local", on_stop = "remove" }"#], PACKETS),
    // Another router; the first one notices nothing.
    peer("bgp.peer.name", &[peers!("")]),
    peer("bgp.peer.address", &[peers!("")]),
    peer("bgp.peer.asn", &[peers!("")]),
    peer("bgp.peer.passive", &[peers!("")]),
    peer("bgp.peer.required", &[peers!("")]),
    peer("bgp.peer.port", &[peers!(""), peers!(", port = 1792")]),
    peer("bgp.peer.local_address", &[peers!(""), peers!(r#", local_address = "127.0.0.1""#)]),
    peer("bgp.peer.password", &[peers!(""), peers!(r#", password = "secret""#)]),
    peer("bgp.peer.password_file", &[peers!(""), peers!(r#", password_file = "DIR/secret""#)]),
    peer("bgp.peer.ttl_security", &[peers!(""), peers!(", ttl_security = true")]),
    peer("bgp.peer.multihop", &[peers!(""), peers!(", multihop = 3")]),
    peer("bgp.peer.hold_time", &[peers!(""), peers!(r#", hold_time = "60s""#)]),
    peer("bgp.peer.send_hold_time", &[peers!(""), peers!(r#", send_hold_time = "300s""#)]),
    peer("bgp.peer.families", &[peers!(""), peers!(r#", families = ["ipv4"]"#)]),
    peer("bgp.peer.max_routes", &[peers!(""), peers!(", max_routes = 40000")]),
    peer("bgp.peer.confirm", &[peers!(""), peers!(r#", confirm = "sent""#)]),
    peer("bgp.peer.settle", &[peers!(""), peers!(r#", settle = "20ms""#)]),
    // With an observer every route bears the guard's own mark.
    touching(
        "bgp.peer.observer",
        "bgp.peer",
        &[observed!(""), observed!(r#", confirm = "reflect", observer = "third""#)],
        BOTH,
    ),
    touching("bgp.peer.role", "bgp.peer", &[observed!(r#", forwards = false, observers = ["third"]"#)], BOTH),
    touching(
        "bgp.peer.forwards",
        "bgp.peer",
        &[observed!(""), observed!(r#", forwards = false, observers = ["third"]"#)],
        BOTH,
    ),
    touching(
        "bgp.peer.observers",
        "bgp.peer",
        &[observed!(""), observed!(r#", forwards = false, observers = ["third"]"#)],
        BOTH,
    ),
    peer("bgp.peer.probe_ttl", &[peers!(""), peers!(", probe_ttl = 2")]),
    peer("bgp.peer.bgp_role", &[peers!(""), peers!(r#", bgp_role = "provider""#)]),
    peer("bgp.peer.bfd", &[peers!(""), peers!(", bfd = true")]),
    peer("bgp.peer.bfd_interval", &[peers!(", bfd = true"), peers!(r#", bfd = true, bfd_interval = "500ms""#)]),
    peer("bgp.peer.bfd_multiplier", &[peers!(", bfd = true"), peers!(", bfd = true, bfd_multiplier = 5")]),
    peer("bgp.peer.bfd_multihop", &[peers!(", bfd = true"), peers!(", bfd = true, bfd_multihop = true")]),
    tcp_ao("bgp.peer.tcp_ao", &[peers!(r#", password = "secret", tcp_ao = "hmac-sha-1-96""#)]),
    tcp_ao(
        "bgp.peer.tcp_ao_send_id",
        &[peers!(r#", password = "secret", tcp_ao = "hmac-sha-1-96", tcp_ao_send_id = 7"#)],
    ),
    tcp_ao(
        "bgp.peer.tcp_ao_recv_id",
        &[peers!(r#", password = "secret", tcp_ao = "aes-128-cmac-96", tcp_ao_recv_id = 8"#)],
    ),
    with("bgp.service.addresses", "bgp.service.peer.name"),
    service("bgp.service.peer.name", &[service!("")]),
    service("bgp.service.peer.address", &[service!("")]),
    service("bgp.service.peer.asn", &[service!("")]),
    service("bgp.service.peer.local_address", &[service!("")]),
    service("bgp.service.peer.port", &[service!("")]),
    service("bgp.service.peer.password", &[service!(r#", password = "secret""#)]),
    service("bgp.service.peer.password_file", &[service!(r#", password_file = "DIR/secret""#)]),
    service("bgp.service.peer.ttl_security", &[service!(", ttl_security = true")]),
    service("bgp.service.peer.multihop", &[service!(", multihop = 3")]),
    service("bgp.service.peer.hold_time", &[service!(r#", hold_time = "60s""#)]),
    service("bgp.service.peer.bfd", &[service!(", bfd = false")]),
    service("bgp.service.peer.bfd_interval", &[service!(r#", bfd_interval = "500ms""#)]),
    service("bgp.service.peer.bfd_multiplier", &[service!(", bfd_multiplier = 5")]),
    service("bgp.service.peer.bfd_multihop", &[service!(", bfd_multihop = true")]),
    with("bgp.service.peer.tcp_ao", "bgp.service.peer.password"),
    with("bgp.service.peer.tcp_ao_send_id", "bgp.service.peer.password"),
    with("bgp.service.peer.tcp_ao_recv_id", "bgp.service.peer.password"),
    touching("bgp.edge.name", "bgp.edge", &[edge!(r#""edge""#, "")], PACKETS),
    touching("bgp.edge.address", "bgp.edge", &[edge!(r#""edge""#, "")], PACKETS),
    touching("bgp.edge.local_address", "bgp.edge", &[edge!(r#""edge""#, "")], PACKETS),
    touching("bgp.edge.families", "bgp.edge", &[edge!(r#""edge""#, "")], PACKETS),
    touching("bgp.edge.required", "bgp.edge", &[edge!(r#""edge""#, "")], PACKETS),
    touching(
        "bgp.edge.probe_ttl",
        "bgp.edge",
        &[edge!(r#""edge""#, ""), edge!(r#""edge""#, ", probe_ttl = 2")],
        PACKETS,
    ),
    touching("dns.upstream.domains", "dns.upstream", &[beside!(r#"url = "udp://127.0.0.1:5310""#)], PACKETS),
    touching(
        "dns.upstream.url",
        "dns.upstream",
        &[r#"[{ url = "udp://127.0.0.1:5310" }]"#, r#"[{ url = "tcp://127.0.0.1:5300" }]"#],
        PACKETS,
    ),
    touching(
        "dns.upstream.server_name",
        "dns.upstream",
        &[beside!(r#"url = "tls://127.0.0.1:5390", server_name = "a.example""#)],
        PACKETS,
    ),
    touching(
        "dns.upstream.ca",
        "dns.upstream",
        &[beside!(r#"url = "tls://127.0.0.1:5390", ca = "DIR/cert.pem""#)],
        PACKETS,
    ),
    touching(
        "dns.upstream.pins",
        "dns.upstream",
        &[beside!(r#"url = "tls://127.0.0.1:5390", pins = ["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]"#)],
        PACKETS,
    ),
    touching(
        "dns.upstream.client_certificate",
        "dns.upstream",
        &[beside!(r#"url = "tls://127.0.0.1:5390", client_certificate = "DIR/cert.pem", client_key = "DIR/key.pem""#)],
        PACKETS,
    ),
    with("dns.upstream.client_key", "dns.upstream.client_certificate"),
    touching("nftables.enforce", "nftables", &[r#"{ mode = "local", enforce = false }"#], PACKETS),
    touching("mode", "mode", &[r#""audit""#], BOTH),
    touching("lease.capacity", "lease.capacity", &["300000"], SETS),
    touching("bgp.graceful_restart", "bgp.graceful_restart", &[r#""60s""#], SESSIONS),
    touching("bgp.long_lived_graceful_restart", "bgp.long_lived_graceful_restart", &[r#""1h""#], SESSIONS),
    touching("bgp.router_id", "bgp.router_id", &[r#""192.0.2.3""#], SESSIONS),
    touching("bgp.asn", "bgp.asn", &["64999"], SESSIONS),
];
