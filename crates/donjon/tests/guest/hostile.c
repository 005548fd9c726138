// `hostile BDF SEED SECONDS`: drives a virtio device, whose driver has let go of it, as no driver would.
//
// What the device may write to is kept to memory of this program's, and to addresses where no RAM is, so that the
// guest itself lives on.
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

enum { PAGES = 64, PAGE = 4096, COMMON = 1, NOTIFY = 2, ISR = 3, DEVICE = 4 };

static uint64_t state;
static unsigned char *memory;
static uint64_t physical[PAGES];
static int config;
static volatile unsigned char *area[6];
static uint32_t area_length[6];

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
		0, 1, 0xffffffff, 0x100000000, ~0ull, ~0xfffull, ~15ull, 1ull << 63, 0xfee00000, 0xfec00000, 0xe0000000,
		0xfffff000, 1ull << 52, 0x7fffffffffffffff,
	};
	// Low memory is RAM: descriptors there may be read but not written, so only for rings that are read.
	if (below(4))
		return physical[below(PAGES)] + (below(2) ? 0 : below(PAGE));
	return nowhere[2 + below(sizeof nowhere / sizeof *nowhere - 2)];
}

static void out(int which, uint32_t at, int size, uint64_t value)
{
	if (at + size > area_length[which])
		return;
	volatile unsigned char *p = area[which] + at;
	if (size == 1)
		*p = value;
	else if (size == 2 && at % 2 == 0)
		*(volatile uint16_t *)p = value;
	else if (size == 4 && at % 4 == 0)
		*(volatile uint32_t *)p = value;
	else if (size == 8 && at % 8 == 0)
		*(volatile uint64_t *)p = value;
}

static void out64(uint32_t at, uint64_t value)
{
	out(COMMON, at, 4, value);
	out(COMMON, at + 4, 4, value >> 32);
}

static void status(uint8_t value)
{
	out(COMMON, 20, 1, value);
}

static void features(void)
{
	for (int half = 0; half < 2; half++) {
		out(COMMON, 0, 4, half);
		uint32_t offered = *(volatile uint32_t *)(area[COMMON] + 4);
		out(COMMON, 8, 4, half);
		uint32_t accepted = below(8) ? offered & (below(2) ? ~0u : any()) : any();
		out(COMMON, 12, 4, half ? accepted | 1 : accepted);
	}
}

// A ring full of traps. The three parts are anywhere in this program's pages.
static void ring(unsigned char *d)
{
	static const uint32_t lengths[] = { 0, 1, 16, 17, 511, 512, 4096, 65536, 0x7fffffff, 0x80000000, 0xffffffff };
	for (int i = 0; i < PAGE / 16; i++, d += 16) {
		uint64_t a = address();
		uint32_t l = lengths[below(sizeof lengths / sizeof *lengths)];
		uint16_t f = below(3) ? below(4) : any(), n = below(4) ? below(256) : any();
		// More than a page would be somebody else's: no RAM is behind what such a buffer may be written to.
		if (l > PAGE && a < 1ull << 31)
			a = 0xffffffff00000000;
		else if (a < 1ull << 31)
			l = l > PAGE - a % PAGE ? PAGE - a % PAGE : l;
		memcpy(d, &a, 8);
		memcpy(d + 8, &l, 4);
		memcpy(d + 12, &f, 2);
		memcpy(d + 14, &n, 2);
	}
}

static void fill(void)
{
	for (int i = 0; i < PAGES; i++) {
		unsigned char *p = memory + i * PAGE;
		if (below(2)) {
			ring(p);
		} else {
			// As an available ring: flags, index, heads. As a request: nonsense.
			uint16_t *words = (uint16_t *)p;
			for (int w = 0; w < PAGE / 2; w++)
				words[w] = below(8) ? below(256) : any();
			words[0] = below(2);
			words[1] = below(4) ? below(300) : any();
			uint32_t kind = below(16);
			memcpy(p + 2048, &kind, 4);
		}
	}
}

static void queues(void)
{
	uint16_t count = *(volatile uint16_t *)(area[COMMON] + 18);
	for (int n = 0; n < count + 1; n++) {
		out(COMMON, 22, 2, below(8) ? (uint64_t)n : any());
		if (!below(3))
			out(COMMON, 24, 2, below(2) ? 1u << below(16) : any());
		out(COMMON, 26, 2, below(4) ? 0xffff : any());
		uint64_t same = address();
		for (int part = 32; part <= 48; part += 8)
			out64(part, below(8) ? address() & ~15ull : same);
		out(COMMON, 28, 2, below(8) ? 1 : any());
	}
}

static void notify(void)
{
	for (uint64_t n = below(20); n > 0; n--)
		out(NOTIFY, 4 * below(area_length[NOTIFY] / 4), below(2) ? 2 : 4, below(4) ? below(4) : any());
}

static void map(int at)
{
	unsigned char cap[16];
	if (pread(config, cap, 16, at) != 16 || cap[0] != 9)
		return;
	uint32_t offset, length;
	memcpy(&offset, cap + 8, 4);
	memcpy(&length, cap + 12, 4);
	if (cap[3] < COMMON || cap[3] > DEVICE || area[cap[3]])
		return;
	char name[32];
	snprintf(name, sizeof name, "resource%u", cap[4]);
	int fd = open(name, O_RDWR);
	struct stat s;
	if (fd < 0 || fstat(fd, &s))
		die(name);
	unsigned char *bar = mmap(NULL, s.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bar == MAP_FAILED)
		die(name);
	area[cap[3]] = bar + offset;
	area_length[cap[3]] = length;
}

int main(int argc, char **argv)
{
	if (argc != 4 || chdir("/sys/bus/pci/devices") || chdir(argv[1]))
		die("usage");
	state = strtoull(argv[2], NULL, 10) * 2654435761 + 1;
	config = open("config", O_RDWR);
	int enable = open("enable", O_WRONLY);
	if (config < 0 || enable < 0 || write(enable, "1", 1) != 1)
		die("config");
	uint16_t command = 6 | 1 << 10; // Memory, bus master, no INTx.
	pwrite(config, &command, 2, 4);
	unsigned char next = 0;
	for (pread(config, &next, 1, 0x34); next; pread(config, &next, 1, next + 1))
		map(next);
	if (!area[COMMON] || !area[NOTIFY])
		die("capabilities");
	unsigned char saved[64];
	pread(config, saved, sizeof saved, 0);

	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED || mlock(memory, PAGES * PAGE))
		die("memory");
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	for (int i = 0; i < PAGES; i++) {
		uint64_t entry = 0;
		pread(pagemap, &entry, 8, ((uintptr_t)memory / PAGE + i) * 8);
		physical[i] = (entry & ((1ull << 55) - 1)) * PAGE;
		if (!physical[i])
			die("pagemap");
	}

	unsigned long rounds = 0, started = 0;
	for (time_t end = time(NULL) + atoi(argv[3]); time(NULL) < end; rounds++) {
		if (below(4))
			status(0);
		status(1);
		status(3);
		features();
		status(below(16) ? 11 : any());
		fill();
		queues();
		status(below(16) ? 15 : any());
		started += (*(volatile unsigned char *)(area[COMMON] + 20) & 0x44) == 4;
		for (uint64_t n = below(8); n > 0; n--) {
			notify();
			switch (below(6)) {
			case 0: // Any register, also in the middle of one.
				out(COMMON + below(4), below(64), 1 << below(4), any());
				break;
			case 1:
				out(COMMON, 20, 1, below(3) ? 0 : any());
				break;
			case 2: // The rings change while they are used.
				fill();
				break;
			case 3: { // Configuration space: BARs that move, no bus master, capabilities.
				uint32_t value = any();
				int size = 1 << below(3);
				pwrite(config, &value, size, below(64) * 4 / size * size);
				pwrite(config, saved + 16, 24, 16);
				pwrite(config, &command, 2, 4);
				break;
			}
			case 4: // Its reads have effects too.
				for (int i = 0; i < 64; i += 4)
					(void)*(volatile uint32_t *)(area[COMMON + below(4)] + below(4) * 4);
				break;
			}
		}
	}
	status(0);
	printf("hostile: %lu rounds, %lu started\n", rounds, started);
	return started == 0;
}
