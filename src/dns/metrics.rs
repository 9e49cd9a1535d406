//! What the DNS side counts. Names are documented by their HELP text.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::metrics::labelled;

pub mod replies;

/// One label `reason`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    /// One of a fixed set of words.
    pub reason: &'static str,
}

/// One label `upstream`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Upstream {
    /// The upstream's URL, as configured.
    pub upstream: String,
}

/// One label `outcome`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    /// "secure", "insecure", "bogus" or "indeterminate".
    pub outcome: &'static str,
}

/// One label `group`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Group {
    /// The group's name, as configured.
    pub group: Arc<str>,
}

/// One label `transport`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Transport {
    /// "dot", "doh" or "doq".
    pub transport: &'static str,
}

/// All of them; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

/// See the HELP texts in [`Metrics::register`].
#[derive(Debug)]
pub struct Inner {
    /// By transport, type and rcode.
    pub replies: replies::Replies,
    /// By group; those of no group have none.
    pub group_questions: Family<Group, Counter>,
    /// Questions over UDP.
    pub udp_questions: Counter,
    /// Questions over TCP.
    pub tcp_questions: Counter,
    /// Questions that the cache answered.
    pub cache_hits: Counter,
    /// Hits that had to be admitted again.
    pub cache_readmitted: Counter,
    /// Asked for again before their end.
    pub cache_prefetches: Counter,
    /// Answers with data released.
    pub released: Counter,
    /// Denied by name or filtered by address.
    pub denied: Counter,
    /// Released without some of their addresses.
    pub filtered: Counter,
    /// Answered without asking anybody.
    pub local: Counter,
    /// Given beyond their end.
    pub stale: Counter,
    /// Not released by the gate.
    pub gate_refused: Counter,
    /// Of these, at the gate's deadline.
    pub gate_timeouts: Counter,
    /// Refused by reason.
    pub refused: Family<Reason, Counter>,
    /// In audit: would have been refused, by reason.
    pub would_refuse: Family<Reason, Counter>,
    /// All of these.
    pub would_refuse_all: Counter,
    /// In audit: answers that the gate was not asked about.
    pub audit_unjudged: Counter,
    /// Refused and not in the log.
    pub refusals_unnoted: Counter,
    /// Dropped by reason.
    pub dropped: Family<Reason, Counter>,
    /// Questions sent to an upstream.
    pub upstream_queries: Family<Upstream, Counter>,
    /// Attempts that failed.
    pub upstream_failures: Family<Upstream, Counter>,
    /// Datagrams that answered no query.
    pub upstream_mismatch: Counter,
    /// Queries that went over TCP because the reply was cut.
    pub upstream_tcp_retries: Counter,
    /// TLS and QUIC handshakes begun with an upstream.
    pub upstream_handshakes: Family<Upstream, Counter>,
    /// Questions over encrypted transports.
    pub encrypted_questions: Family<Transport, Counter>,
    /// Open encrypted connections.
    pub encrypted_connections: Family<Transport, Gauge>,
    /// Handshakes with clients that failed.
    pub handshake_failures: Family<Transport, Counter>,
    /// QUIC clients told to show first that they receive at their address.
    pub quic_retries: Counter,
    /// Certificates that were read anew while the guard ran.
    pub certificates: crate::tls::Reloads,
    /// Records the question doesn't reach.
    pub unrelated_records: Counter,
    /// Questions for the end of an alias that the upstream left off at.
    pub aliases_followed: Counter,
    /// Answers by what validation found.
    pub validated: Family<Outcome, Counter>,
    /// Queries for keys and their digests.
    pub validation_queries: Counter,
    /// Signatures that were checked, good and bad.
    pub validation_signatures: Counter,
    /// Of these, wrong.
    pub validation_wrong: Counter,
    /// Answers that cost too much to check.
    pub validation_limited: Counter,
    /// Checks that wait for a thread.
    pub validation_waiting: Gauge,
    /// Checks for which there was no room.
    pub validation_dropped: Counter,
    /// Questions asked again of one upstream alone, since what came before was bogus or could not be judged.
    pub validation_retries: Counter,
    /// Answers that were good then.
    pub validation_rescues: Counter,
    /// Zones and names in the validator's cache.
    pub validation_cache_entries: Gauge,
    /// Octets that the validator's cache takes.
    pub validation_cache_bytes: Gauge,
    /// Joined to a question in flight.
    pub coalesced: Counter,
    /// Questions that wait for an answer now.
    pub in_flight: Gauge,
    /// Open TCP connections.
    pub tcp_connections: Gauge,
    /// Idle connections closed because somebody else wanted the place.
    pub connections_displaced: Counter,
    /// Octets of long replies that wait for clients to take them.
    pub stream_backlog: Gauge,
    /// Connections that accept() failed to take.
    pub accept_errors: Counter,
    /// Seconds of a forwarded question, its wait at the gate included.
    pub forwarded_seconds: Histogram,
    /// Seconds at the gate.
    pub gate_seconds: Histogram,
}

impl std::ops::Deref for Metrics {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

fn latency() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])
}

impl Metrics {
    /// Takes away what is counted of one upstream alone.
    pub fn forget_upstream(&self, url: &str) {
        let label = Upstream { upstream: url.to_owned() };
        for family in [&self.upstream_queries, &self.upstream_failures, &self.upstream_handshakes] {
            family.remove(&label);
        }
    }

    /// New counters, registered.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let inner = Inner {
            replies: replies::Replies::default(),
            group_questions: Family::default(),
            udp_questions: Counter::default(),
            tcp_questions: Counter::default(),
            cache_hits: Counter::default(),
            cache_readmitted: Counter::default(),
            cache_prefetches: Counter::default(),
            released: Counter::default(),
            denied: Counter::default(),
            filtered: Counter::default(),
            local: Counter::default(),
            stale: Counter::default(),
            gate_refused: Counter::default(),
            gate_timeouts: Counter::default(),
            refused: Family::default(),
            would_refuse: Family::default(),
            would_refuse_all: Counter::default(),
            audit_unjudged: Counter::default(),
            dropped: Family::default(),
            upstream_queries: Family::default(),
            upstream_failures: Family::default(),
            upstream_mismatch: Counter::default(),
            upstream_tcp_retries: Counter::default(),
            upstream_handshakes: Family::default(),
            encrypted_questions: Family::default(),
            encrypted_connections: Family::default(),
            handshake_failures: Family::default(),
            quic_retries: Counter::default(),
            certificates: crate::tls::Reloads::default(),
            unrelated_records: Counter::default(),
            aliases_followed: Counter::default(),
            validated: Family::default(),
            validation_queries: Counter::default(),
            validation_signatures: Counter::default(),
            validation_wrong: Counter::default(),
            validation_limited: Counter::default(),
            validation_waiting: Gauge::default(),
            validation_dropped: Counter::default(),
            validation_retries: Counter::default(),
            validation_rescues: Counter::default(),
            validation_cache_entries: Gauge::default(),
            validation_cache_bytes: Gauge::default(),
            coalesced: Counter::default(),
            in_flight: Gauge::default(),
            tcp_connections: Gauge::default(),
            connections_displaced: Counter::default(),
            stream_backlog: Gauge::default(),
            refusals_unnoted: Counter::default(),
            accept_errors: Counter::default(),
            forwarded_seconds: latency(),
            gate_seconds: latency(),
        };
        let m = &inner;
        registry.register_collector(Box::new(m.replies.clone()));
        labelled(
            registry,
            "dns_group_questions",
            "Questions of clients in a [[policy.group]], by group",
            &m.group_questions,
        );
        let mut counter = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("dns_udp_questions", "Datagrams from clients", &m.udp_questions);
        counter("dns_tcp_questions", "Questions from clients over TCP", &m.tcp_questions);
        counter("dns_cache_hits", "Questions answered from the cache without asking the core", &m.cache_hits);
        counter(
            "dns_cache_readmitted",
            "Questions answered from the cache after their addresses were admitted again",
            &m.cache_readmitted,
        );
        counter("dns_cache_prefetches", "Entries asked for again shortly before their end", &m.cache_prefetches);
        counter("dns_answers_released", "Answers given to clients, from the cache or after the gate", &m.released);
        counter("dns_answers_denied", "Questions denied by name, or whose addresses were all filtered", &m.denied);
        counter(
            "dns_answers_filtered",
            "Answers given without some of their addresses, which may not be opened",
            &m.filtered,
        );
        counter("dns_answers_local", "Special-use names answered without asking an upstream", &m.local);
        counter("dns_answers_stale", "Answers given beyond their end since no upstream answered", &m.stale);
        counter("dns_answers_gate_refused", "Answers that the gate did not release", &m.gate_refused);
        counter("dns_gate_timeouts", "Answers not released since the gate's deadline passed", &m.gate_timeouts);
        counter(
            "dns_upstream_mismatches",
            "Upstream responses that fit no question in flight (late, forged, or in another case)",
            &m.upstream_mismatch,
        );
        counter("dns_upstream_tcp_retries", "Questions asked again over TCP", &m.upstream_tcp_retries);
        counter(
            "dns_unrelated_records",
            "Records of upstream answers that their question does not reach; removed",
            &m.unrelated_records,
        );
        counter(
            "dns_aliases_followed",
            "Questions asked for the end of an alias that an upstream had not followed itself",
            &m.aliases_followed,
        );
        counter("dns_coalesced_questions", "Questions that joined an identical one in flight", &m.coalesced);
        counter(
            "dns_refusals_unnoted",
            "Refusals counted but not noted one by one in the log of what was denied, since their client had too many in one second",
            &m.refusals_unnoted,
        );
        counter(
            "dns_audit_unjudged",
            "In audit: answers whose addresses the gate was not asked about, since too many were being asked about",
            &m.audit_unjudged,
        );
        counter("dns_accept_errors", "Failures to accept a TCP connection", &m.accept_errors);
        counter(
            "dns_quic_retries",
            "QUIC clients told to show first that they receive at their address (Retry)",
            &m.quic_retries,
        );
        counter("dns_certificate_reloads", "Certificates taken over from changed files", &m.certificates.done);
        counter("dns_certificate_errors", "Changed certificate files that can't be used", &m.certificates.failed);
        counter("dns_dnssec_queries", "Queries for the keys of zones and their digests", &m.validation_queries);
        counter("dns_dnssec_signatures", "Signatures checked", &m.validation_signatures);
        counter("dns_dnssec_signatures_wrong", "Signatures checked and found wrong", &m.validation_wrong);
        counter(
            "dns_dnssec_limited",
            "Answers refused since they cost too much to check (colliding keys, NSEC3)",
            &m.validation_limited,
        );
        counter(
            "dns_dnssec_checks_dropped",
            "Checks not done since too many waited; their questions got SERVFAIL",
            &m.validation_dropped,
        );
        counter(
            "dns_dnssec_retries",
            "Questions asked of another upstream after a bogus answer",
            &m.validation_retries,
        );
        counter("dns_dnssec_rescues", "Answers that were good at another upstream", &m.validation_rescues);
        registry.register(
            "dns_dnssec_checks_waiting",
            "Dear checks that wait for a thread now",
            m.validation_waiting.clone(),
        );
        labelled(registry, "dns_dnssec_answers", "Answers of upstreams, by what validation found", &m.validated);
        registry.register(
            "dns_dnssec_cache_entries",
            "Names in the cache of validated keys and delegations",
            m.validation_cache_entries.clone(),
        );
        registry.register(
            "dns_dnssec_cache_bytes",
            "Octets of the cache of validated keys and delegations",
            m.validation_cache_bytes.clone(),
        );
        labelled(
            registry,
            "dns_encrypted_questions",
            "Questions from clients over DoT, DoH and DoQ, by transport",
            &m.encrypted_questions,
        );
        labelled(
            registry,
            "dns_encrypted_connections",
            "Open encrypted connections of clients, by transport",
            &m.encrypted_connections,
        );
        labelled(
            registry,
            "dns_client_handshake_failures",
            "TLS and QUIC handshakes with clients that failed, by transport",
            &m.handshake_failures,
        );
        labelled(
            registry,
            "dns_upstream_handshakes",
            "TLS and QUIC handshakes begun, by upstream",
            &m.upstream_handshakes,
        );
        labelled(registry, "dns_refused_questions", "Questions answered with an error, by reason", &m.refused);
        labelled(
            registry,
            "dns_would_refuse_questions",
            "In audit: questions that would have been refused or answered in part, by reason",
            &m.would_refuse,
        );
        labelled(registry, "dns_dropped_packets", "Packets left without reply, by reason", &m.dropped);
        labelled(registry, "dns_upstream_queries", "Queries sent, by upstream", &m.upstream_queries);
        labelled(
            registry,
            "dns_upstream_failures",
            "Queries without usable response, by upstream",
            &m.upstream_failures,
        );
        registry.register("dns_questions_in_flight", "Questions that wait for an answer now", m.in_flight.clone());
        registry.register("dns_tcp_connections", "Open TCP connections of clients", m.tcp_connections.clone());
        registry.register(
            "dns_connections_displaced",
            "Idle connections closed because their client, or one who has fewer, wanted the place",
            m.connections_displaced.clone(),
        );
        registry.register(
            "dns_stream_backlog_bytes",
            "Octets of replies over 512 that wait for their clients to take them, over TCP, DoT, DoH and DoQ",
            m.stream_backlog.clone(),
        );
        registry.register(
            "dns_forwarded_seconds",
            "From the question's arrival to the reply, for questions that were forwarded",
            m.forwarded_seconds.clone(),
        );
        registry.register("dns_gate_seconds", "What the gate added to an answer", m.gate_seconds.clone());
        Self(Arc::new(inner))
    }

    /// Counts a question of a client in this group.
    pub fn note_group(&self, group: &Arc<str>) {
        self.group_questions.get_or_create(&Group { group: group.clone() }).inc();
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts what would be a refusal, were it not for the audit.
    pub fn would_refuse(&self, reason: &'static str) {
        self.would_refuse.get_or_create(&Reason { reason }).inc();
        self.would_refuse_all.inc();
    }

    /// Counts an idle connection that went because somebody else wanted its place.
    pub fn note_displaced(&self) {
        self.connections_displaced.inc();
    }

    /// Counts a packet without reply.
    pub fn drop_packet(&self, reason: &'static str) {
        self.dropped.get_or_create(&Reason { reason }).inc();
    }
}
