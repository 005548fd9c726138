// `hostile BDF SEED SECONDS`: drives a virtio device, whose driver has let go of it, as no driver would.
#include "pci.h"

enum { COMMON = 1, NOTIFY, ISR, DEVICE };

static volatile unsigned char *area[6];
static uint32_t area_length[6];

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

static void capability(int at, unsigned char *cap)
{
	(void)at;
	if (cap[0] != 9 || cap[3] < COMMON || cap[3] > DEVICE || area[cap[3]])
		return;
	uint32_t offset;
	uint64_t size;
	memcpy(&offset, cap + 8, 4);
	memcpy(&area_length[cap[3]], cap + 12, 4);
	area[cap[3]] = map(cap[4], &size) + offset;
}

int main(int argc, char **argv)
{
	time_t end = begin(argc, argv, capability);
	if (!area[COMMON] || !area[NOTIFY])
		die("capabilities");

	unsigned long rounds = 0, started = 0;
	for (; time(NULL) < end; rounds++) {
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
			case 3:
				scribble();
				break;
			case 4: // Its reads have effects too.
				for (int i = 0; i < 64; i += 4)
					(void)*(volatile uint32_t *)(area[COMMON + below(4)] + below(4) * 4);
				break;
			}
		}
	}
	restore();
	status(0);
	printf("hostile: %lu rounds, %lu started\n", rounds, started);
	return started == 0;
}
