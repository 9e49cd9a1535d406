// SPDX-License-Identifier: MIT OR Apache-2.0
// Judges where sockets of a cgroup connect to and send to: this host, own traffic, nothing cut, replies, no DNS elsewhere, open prefixes, leases that haven't
// ended; nothing else.
//
// Loader and tables: src/enforce/ebpf/. What is here and there in memory must be the same there: see layout.rs. The numbers of counts are those of program.rs.
#include "kernel.h"

// destguard::sys::MARK
#define GUARD_MARK 0x64670001
// How long the sender of a datagram may be answered.
#define ANSWERED_NS (180ULL * 1000000000ULL)

#define ALLOWED 0
#define REPLIES 1
#define DENIED 2
#define DNS_BYPASS 3
#define LOST 4
#define COUNTS 5

#define DENY_LEASE 1
#define DENY_DNS 2
#define IN_AUDIT 0x80

// An address; IPv4 as ::ffff:a.b.c.d.
struct address {
    u32 word[4];
};

struct prefix4 {
    u32 length;
    u32 address;
};

struct prefix6 {
    u32 length;
    struct address address;
};

// `to`: protocol and port (protocol << 16 | port, in the host's order), 0: all of the address.
struct lease4 {
    u32 address;
    u32 to;
};

struct lease6 {
    struct address address;
    u32 to;
};

struct own {
    struct address address;
    u32 to;
};

struct answer {
    u64 netns;
    struct address peer;
    u32 ports; // ours << 16 | theirs
    u32 pad;
};

struct settings {
    u32 enforce;
    u32 pad;
};

struct refusal {
    u64 time;
    u64 cgroup;
    struct address address;
    u32 pid;
    u32 uid;
    u16 port;
    u8 protocol;
    u8 why;
    u32 pad;
    char comm[16];
};

#define TABLE(name, kind, k, v, most, bits) \
    struct {                                \
        NUMBER(type, kind);                 \
        TYPE(key, k);                       \
        TYPE(value, v);                     \
        NUMBER(max_entries, most);          \
        NUMBER(map_flags, bits);            \
    } name SECTION(".maps")

// These outlive the daemon. The loader gives them their true size.
TABLE(lease4, MAP_HASH, struct lease4, u64, 1024, NO_PREALLOC);
TABLE(lease6, MAP_HASH, struct lease6, u64, 1024, NO_PREALLOC);
TABLE(cut, MAP_HASH, struct address, u64, 16384, NO_PREALLOC);
TABLE(answers, MAP_LRU_HASH, struct answer, u64, 65536, 0);
TABLE(counts, MAP_PERCPU_ARRAY, u32, u64, COUNTS, 0);
struct {
    NUMBER(type, MAP_RINGBUF);
    NUMBER(max_entries, 262144);
} refusals SECTION(".maps");

// These are made anew for every program, so that it never meets half of its rules.
TABLE(open4, MAP_LPM_TRIE, struct prefix4, u8, 16384, NO_PREALLOC);
TABLE(open6, MAP_LPM_TRIE, struct prefix6, u8, 16384, NO_PREALLOC);
TABLE(doh4, MAP_LPM_TRIE, struct prefix4, u8, 16384, NO_PREALLOC);
TABLE(doh6, MAP_LPM_TRIE, struct prefix6, u8, 16384, NO_PREALLOC);
TABLE(services, MAP_HASH, struct own, u8, 64, NO_PREALLOC);
TABLE(own, MAP_HASH, struct own, u8, 4096, NO_PREALLOC);
TABLE(listeners, MAP_HASH, u32, u8, 1024, NO_PREALLOC);
TABLE(here, MAP_HASH, struct address, u8, 4096, NO_PREALLOC);
TABLE(settings, MAP_ARRAY, u32, struct settings, 1, 0);

INLINE void count(u32 what)
{
    u64 *counter = map_lookup(&counts, &what);
    if (counter)
        *counter += 1;
}

INLINE u32 words_of_port(u8 protocol, u16 port)
{
    return (u32)protocol << 16 | port;
}

INLINE int is_mapped(const struct address *address)
{
    return !address->word[0] && !address->word[1] && address->word[2] == NET32(0xffff);
}

// The unspecified address is this host, as for connect(2).
INLINE int is_loopback(const struct address *address)
{
    if (is_mapped(address)) {
        u32 ipv4 = NET32(address->word[3]);
        return ipv4 == 0 || ipv4 >> 24 == 127;
    }
    return !address->word[0] && !address->word[1] && !address->word[2] && NET32(address->word[3]) <= 1;
}

INLINE int is_within(void *ipv4, void *ipv6, const struct address *address)
{
    if (is_mapped(address)) {
        struct prefix4 key = {.length = 32, .address = address->word[3]};
        return map_lookup(ipv4, &key) != 0;
    }
    struct prefix6 key = {.length = 128, .address = *address};
    return map_lookup(ipv6, &key) != 0;
}

INLINE int lasts(const u64 *ends)
{
    return ends && boot_time() < *ends;
}

INLINE int is_leased(const struct address *address, u32 to)
{
    if (is_mapped(address)) {
        struct lease4 key = {.address = address->word[3], .to = 0};
        if (lasts(map_lookup(&lease4, &key)))
            return 1;
        key.to = to;
        return to && lasts(map_lookup(&lease4, &key));
    }
    struct lease6 key = {.address = *address, .to = 0};
    if (lasts(map_lookup(&lease6, &key)))
        return 1;
    key.to = to;
    return to && lasts(map_lookup(&lease6, &key));
}

INLINE int refuse(const struct address *address, u16 port, u8 protocol, u8 why)
{
    u32 only = 0;
    struct settings *settings_now = map_lookup(&settings, &only);
    // Without its settings it refuses.
    int enforce = !settings_now || settings_now->enforce;
    count(DENIED);
    if (why == DENY_DNS)
        count(DNS_BYPASS);
    struct refusal *refusal = ring_reserve(&refusals, sizeof(*refusal), 0);
    if (refusal) {
        refusal->time = boot_time();
        refusal->cgroup = get_cgroup();
        refusal->address = *address;
        refusal->pid = get_pid_tgid() >> 32;
        refusal->uid = (u32)get_uid_gid();
        refusal->port = port;
        refusal->protocol = protocol;
        refusal->why = why | (enforce ? 0 : IN_AUDIT);
        refusal->pad = 0;
        get_comm(refusal->comm, sizeof(refusal->comm));
        ring_submit(refusal, 0);
    } else {
        count(LOST);
    }
    return !enforce;
}

INLINE void fill_answer(struct answer *answer, struct place *place, const struct address *peer, u16 port, u16 local)
{
    answer->netns = get_netns(place);
    answer->peer = *peer;
    answer->ports = (u32)local << 16 | port;
    answer->pad = 0;
}

INLINE int judge(struct place *place, const struct address *address)
{
    if (is_loopback(address) || map_lookup(&here, address))
        return 1;
    u16 port = NET16((u16)place->user_port);
    u32 kind = place->protocol;
    u8 protocol = kind == MPTCP ? TCP : (u8)kind;
    u32 to = words_of_port(protocol, port);
    u32 mark = 0, local = 0;
    struct sock *sk = place->sk;
    if (sk) {
        mark = sk->mark;
        local = sk->src_port;
    }
    if (mark == GUARD_MARK) {
        struct own key = {.address = *address, .to = to};
        u32 from = words_of_port(protocol, (u16)local);
        if (map_lookup(&own, &key) || (local && map_lookup(&listeners, &from)))
            return 1;
    }
    if (lasts(map_lookup(&cut, address)))
        return refuse(address, port, protocol, DENY_LEASE);
    if (protocol == UDP) {
        if (local) {
            struct answer key;
            fill_answer(&key, place, address, port, (u16)local);
            u64 *heard = map_lookup(&answers, &key);
            if (heard && boot_time() - *heard < ANSWERED_NS) {
                count(REPLIES);
                return 1;
            }
        }
        // The client of DHCP, towards its server.
        if (is_mapped(address) ? local == 68 && port == 67 : local == 546 && port == 547)
            return 1;
    }
    if ((protocol == TCP || protocol == UDP) && (port == 53 || port == 853))
        return refuse(address, port, protocol, DENY_DNS);
    if ((protocol == TCP || protocol == UDP) && port == 443 && is_within(&doh4, &doh6, address))
        return refuse(address, port, protocol, DENY_DNS);
    struct own service = {.address = *address, .to = to};
    if (is_within(&open4, &open6, address) || map_lookup(&services, &service))
        return 1;
    if (is_leased(address, to)) {
        count(ALLOWED);
        return 1;
    }
    return refuse(address, port, protocol, DENY_LEASE);
}

INLINE void address4(struct address *address, struct place *place)
{
    address->word[0] = 0;
    address->word[1] = 0;
    address->word[2] = NET32(0xffff);
    address->word[3] = place->user_ip4;
}

INLINE void address6(struct address *address, struct place *place)
{
    address->word[0] = place->user_ip6[0];
    address->word[1] = place->user_ip6[1];
    address->word[2] = place->user_ip6[2];
    address->word[3] = place->user_ip6[3];
}

// Who sent us a datagram may be answered.
INLINE int heard(struct place *place, const struct address *address)
{
    struct sock *sk = place->sk;
    if (!sk || is_loopback(address))
        return 1;
    u32 local = sk->src_port;
    if (!local)
        return 1;
    struct answer key;
    fill_answer(&key, place, address, NET16((u16)place->user_port), (u16)local);
    u64 now = boot_time();
    u64 *before = map_lookup(&answers, &key);
    // Written once a second at most: every datagram comes here.
    if (!before || now - *before > 1000000000ULL)
        map_update(&answers, &key, &now, 0);
    return 1;
}

#define PROGRAM(hook, family, does)                                 \
    SECTION("cgroup/" #hook #family) int hook##family(struct place *place) \
    {                                                               \
        struct address address;                                     \
        address##family(&address, place);                           \
        return does(place, &address);                               \
    }

PROGRAM(connect, 4, judge)
PROGRAM(connect, 6, judge)
PROGRAM(sendmsg, 4, judge)
PROGRAM(sendmsg, 6, judge)
PROGRAM(recvmsg, 4, heard)
PROGRAM(recvmsg, 6, heard)

char terms[] SECTION("license") = "MIT";
