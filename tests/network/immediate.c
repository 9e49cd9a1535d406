/* softflowd asks libpcap for packets once a whole block of its ring is full, which takes real traffic; a test has little. */
#define _GNU_SOURCE
#include <dlfcn.h>

int pcap_activate(void *handle)
{
	int (*immediate)(void *, int) = dlsym(RTLD_NEXT, "pcap_set_immediate_mode");
	int (*activate)(void *) = dlsym(RTLD_NEXT, "pcap_activate");

	immediate(handle, 1);
	return activate(handle);
}
