// SPDX-License-Identifier: MIT OR Apache-2.0
// What the program uses of the kernel's interface to BPF programs, by the numbers that never change. So the build needs clang and no headers.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// enum bpf_map_type
#define MAP_HASH 1
#define MAP_ARRAY 2
#define MAP_PERCPU_ARRAY 6
#define MAP_LRU_HASH 9
#define MAP_LPM_TRIE 11
#define MAP_RINGBUF 27

// Memory is taken when an element comes.
#define NO_PREALLOC 1

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define TCP 6
#define UDP 17
#define MPTCP 262

// struct bpf_sock, as far as it is read.
struct sock {
    u32 bound_dev_if;
    u32 family;
    u32 type;
    u32 protocol;
    u32 mark;
    u32 priority;
    u32 src_ip4;
    u32 src_ip6[4];
    u32 src_port; // in the host's order
};

// struct bpf_sock_addr
struct place {
    u32 user_family;
    u32 user_ip4;    // in the network's order
    u32 user_ip6[4]; // in the network's order
    u32 user_port;   // in the network's order
    u32 family;
    u32 type;
    u32 protocol;
    u32 msg_src_ip4;
    u32 msg_src_ip6[4];
    struct sock *sk __attribute__((aligned(8)));
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*const get_pid_tgid)(void) = (void *)14;
static u64 (*const get_uid_gid)(void) = (void *)15;
static long (*const get_comm)(void *buffer, u32 size) = (void *)16;
static u64 (*const get_cgroup)(void) = (void *)80;
static u64 (*const get_netns)(void *context) = (void *)122;
static u64 (*const boot_time)(void) = (void *)125;
static void *(*const ring_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*const ring_submit)(void *data, u64 flags) = (void *)132;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
// How the type information of a map says numbers and types.
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, of) of *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(number) ((u16)__builtin_bswap16(number))
#define NET32(number) ((u32)__builtin_bswap32(number))
#else
#define NET16(number) ((u16)(number))
#define NET32(number) ((u32)(number))
#endif
