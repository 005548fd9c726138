// `nvme BDF SEED SECONDS`: drives an NVMe controller, whose driver has let go of it, as no driver would.
#include "pci.h"

enum { AQA = 0x24, ASQ = 0x28, ACQ = 0x30, CC = 0x14, CSTS = 0x1c, DOORBELLS = 0x1000 };

static volatile unsigned char *bar;
static uint64_t bar_size;

static void capability(int at, unsigned char *cap)
{
	(void)at;
	(void)cap;
}

static void out(uint32_t at, uint32_t value)
{
	if (at + 4 <= bar_size)
		*(volatile uint32_t *)(bar + at) = value;
}

static void out64(uint32_t at, uint64_t value)
{
	out(at, value);
	out(at + 4, value >> 32);
}

// Commands of all kinds, and lists of pages whose entries lead anywhere that nobody minds.
static void fill(void)
{
	static const uint8_t opcodes[] = { 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 0x14, 0x18, 0x7c, 0x80, 0x84 };
	for (int page = 0; page < PAGES; page++) {
		uint64_t *words = (uint64_t *)(memory + page * PAGE);
		for (int i = 0; i < PAGE / 8; i++)
			words[i] = below(16) ? address() & ~0xfffull : address();
		if (page >= PAGES / 2)
			continue;
		for (int i = 0; i < PAGE / 64; i++) {
			uint32_t *d = (uint32_t *)(memory + page * PAGE + i * 64);
			d[0] = (below(4) ? opcodes[below(sizeof opcodes)] : any() & 0xff) | (below(16) ? 0 : any() << 8 & 0xff00) | any() << 16;
			d[1] = below(4) ? below(3) : any();
			d[10] = below(2) ? below(4) | (below(64) << 16) : any();
			d[11] = below(2) ? 1 | (below(4) << 16) : any();
			d[12] = below(3) ? below(16) : any();
			d[13] = below(2) ? 0 : any();
		}
	}
}

int main(int argc, char **argv)
{
	time_t end = begin(argc, argv, capability);
	unsigned long rounds = 0, ready = 0;

	bar = map(0, &bar_size);
	for (; time(NULL) < end; rounds++) {
		out(CC, 0);
		fill();
		out(AQA, below(8) ? 63 << 16 | 63 : any());
		out64(ASQ, below(16) ? physical[below(PAGES / 2)] : address());
		out64(ACQ, below(16) ? physical[PAGES / 2 + below(PAGES / 2)] : address());
		out(CC, below(8) ? 4 << 20 | 6 << 16 | 1 : any() | 1);
		for (int i = 0; i < 1000 && !(bar[CSTS] & 3); i++)
			;
		ready += bar[CSTS] & 1;
		for (uint64_t n = below(32); n > 0; n--) {
			out(DOORBELLS + 4 * (below(2) ? 0 : below(16)), below(8) ? below(64) : any());
			switch (below(24)) {
			case 0: // Any register.
				out(below(16) * 4, any());
				break;
			case 1:
				out(4 * below(bar_size / 4 < 2048 ? bar_size / 4 : 2048), below(64));
				break;
			case 2: // Commands change while they are carried out.
				fill();
				break;
			case 3:
				scribble();
				break;
			case 4:
				out(CC, any());
				break;
			}
		}
	}
	restore();
	out(CC, 0);
	printf("hostile: %lu rounds, %lu ready\n", rounds, ready);
	return ready == 0;
}
