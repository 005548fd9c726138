// What programs that drive PCI devices on purpose as no driver would have in common: random numbers, configuration
// space, and memory whose physical addresses are known.
//
// What a device may write to is kept to memory of the program's, and to addresses where no RAM is, so that the guest
// itself lives on.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 64, PAGE = 4096 };

static uint64_t state;
static unsigned char *memory;
static uint64_t physical[PAGES];
static int config, power;
static unsigned char saved[64];

static uint64_t any(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1d >> 16;
}

static uint64_t below(uint64_t n)
{
	return any() % n;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

// An address for the device: this program's, or nobody's.
static uint64_t address(void)
{
	static const uint64_t nowhere[] = {
		0xffffffff, 0x100000000, ~0ull, ~0xfffull, ~15ull, 1ull << 63, 0xfee00000, 0xfec00000, 0xe0000000,
		0xfffff000, 1ull << 52, 0x7fffffffffffffff,
	};
	if (below(4))
		return physical[below(PAGES)] + (below(2) ? 0 : below(PAGE));
	return nowhere[below(sizeof nowhere / sizeof *nowhere)];
}

// What configuration space needs to have for the device to be reached, whatever was written to it.
static void restore(void)
{
	uint16_t on = 0, command = 6 | 1 << 10; // D0; memory, bus master, no INTx.
	if (power)
		pwrite(config, &on, 2, power + 4);
	pwrite(config, saved + 16, 48, 16);
	pwrite(config, &command, 2, 4);
}

// Configuration space: BARs that move, no bus master, capabilities.
static void scribble(void)
{
	uint32_t value = any();
	int size = 1 << below(3);
	pwrite(config, &value, size, below(64) * 4 / size * size);
	restore();
}

static unsigned char *map(int bar, uint64_t *size)
{
	char name[32];
	snprintf(name, sizeof name, "resource%d", bar);
	int fd = open(name, O_RDWR);
	struct stat s;
	if (fd < 0 || fstat(fd, &s))
		die(name);
	unsigned char *mapped = mmap(NULL, s.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED)
		die(name);
	*size = s.st_size;
	return mapped;
}

// PROGRAM BDF SEED SECONDS; when it is to end. `found` is called with each capability.
static time_t begin(int argc, char **argv, void (*found)(int at, unsigned char *capability))
{
	if (argc != 4 || chdir("/sys/bus/pci/devices") || chdir(argv[1]))
		die("usage");
	state = strtoull(argv[2], NULL, 10) * 2654435761 + 1;
	config = open("config", O_RDWR);
	int enable = open("enable", O_WRONLY);
	if (config < 0 || enable < 0 || write(enable, "1", 1) != 1)
		die("config");
	pread(config, saved, sizeof saved, 0);
	unsigned char next = 0, capability[16];
	for (pread(config, &next, 1, 0x34); next; pread(config, &next, 1, next + 1)) {
		if (pread(config, capability, 16, next) != 16)
			die("capability");
		if (capability[0] == 1)
			power = next;
		found(next, capability);
	}
	restore();

	// One large page, so that what runs over the end of a small one stays inside.
	int pages = open("/proc/sys/vm/nr_hugepages", O_WRONLY);
	if (pages < 0 || write(pages, "2", 1) != 1)
		die("nr_hugepages");
	int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_HUGETLB;
	memory = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, how, -1, 0);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;
	if (memory == MAP_FAILED || pread(pagemap, &entry, 8, (uintptr_t)memory / PAGE * 8) != 8 || !(entry << 9))
		die("memory");
	for (int i = 0; i < PAGES; i++)
		physical[i] = ((entry & ((1ull << 55) - 1)) + i) * PAGE;
	return time(NULL) + atoi(argv[3]);
}
