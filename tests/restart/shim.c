/* Clocks of a host that slept: what the file named in CLOCK_OFFSETS says, in seconds, is added to the boot clock and to the wall clock. The
   monotonic clock goes on as it is, and so do the kernel's timers. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offsets; /* boot clock, wall clock */

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSETS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *mapped = mmap(0, 2 * sizeof *offsets, PROT_READ, MAP_SHARED, file, 0);
        offsets = mapped == MAP_FAILED ? 0 : mapped;
    }
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, clock, time);
    if (!failed && offsets && clock == CLOCK_BOOTTIME)
        time->tv_sec += offsets[0];
    if (!failed && offsets && clock == CLOCK_REALTIME)
        time->tv_sec += offsets[1];
    return failed;
}
