//! How the C library's allocator takes memory from the kernel.
#![allow(unsafe_code)]

/// What is asked of the kernel at once: 4 MiB. As much stays free before it goes back.
#[cfg(target_env = "gnu")]
const STEP: libc::c_int = 4 << 20;
/// So many cores share a heap.
#[cfg(target_env = "gnu")]
const CORES: usize = 4;

/// Few heaps, the first of which grows in large steps. An answer and its leases are made by two threads and live long; with a heap for each thread, which is
/// what glibc does unasked, the kernel is asked for each of their pages alone. Called once, before there are threads.
///
/// Returns whether the allocator took it; without it the guard works, but a new address costs more.
#[must_use]
pub fn few_heaps() -> bool {
    #[cfg(target_env = "gnu")]
    {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let heaps = libc::c_int::try_from(cores.div_ceil(CORES)).unwrap_or(1);
        let set = |name, value| {
            // SAFETY: two numbers go in, nothing else is touched.
            unsafe { libc::mallopt(name, value) == 1 }
        };
        set(libc::M_ARENA_MAX, heaps)
            && set(libc::M_TOP_PAD, STEP)
            && set(libc::M_TRIM_THRESHOLD, 2 * STEP)
            && set(libc::M_MMAP_THRESHOLD, STEP)
    }
    #[cfg(not(target_env = "gnu"))]
    true
}
