// A checked write load: `load FILE SEED SECTORS THREADS device|file`.
//
// Each thread owns every THREADSth region of the disk and writes to them at places that its random numbers say;
// tests/crash/replay.rs makes the same numbers. Every sector says who wrote it and when, and is filled so that no other
// content passes for it. When a flush has returned, "D THREAD SEQUENCE" says that everything up to there is durable.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { SECTOR = 512, WORDS = SECTOR / 8, REGION = 200 };

static int fd, device;
static uint64_t seed, sectors, threads;

static uint64_t next(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1d >> 32;
}

static void fill(uint64_t *words, uint64_t thread, uint64_t sequence, uint64_t sector)
{
	uint64_t s = (seed << 40 ^ thread << 56 ^ sequence << 20 ^ sector) | 1ull << 63;
	words[0] = sector;
	words[1] = thread << 48 | sequence;
	for (int i = 2; i < WORDS; i++)
		words[i] = next(&s);
}

static void fail(const char *what)
{
	printf("E %s: %s\n", what, strerror(errno));
	exit(1);
}

static void change(uint64_t kind, uint64_t start, uint64_t length, uint64_t *buffer)
{
	uint64_t range[2] = { start * SECTOR, length * SECTOR };
	int zero = FALLOC_FL_KEEP_SIZE | (kind == 0 ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);

	if (!device || kind > 2) {
		if (pwrite(fd, buffer, range[1], range[0]) != (ssize_t)range[1])
			fail("write");
	} else if (kind == 2) {
		if (ioctl(fd, BLKDISCARD, range))
			fail("discard");
	} else if (fallocate(fd, zero, range[0], range[1])) {
		fail("fallocate");
	}
}

static void *work(void *argument)
{
	uint64_t thread = (uintptr_t)argument;
	uint64_t s = seed * 1000003 + thread + 1;
	uint64_t regions = sectors / REGION / threads;
	uint64_t *buffer = aligned_alloc(4096, (REGION * SECTOR + 4095) & ~4095);

	for (uint64_t sequence = 1;; sequence++) {
		uint64_t kind = next(&s) % 24;
		uint64_t region = next(&s) % regions * threads + thread;
		uint64_t start = next(&s) % REGION;
		uint64_t most = next(&s) % 4 && REGION - start > 16 ? 16 : REGION - start;
		uint64_t length = 1 + next(&s) % most;
		uint64_t flush = next(&s) % 8 == 0;

		start += region * REGION;
		for (uint64_t i = 0; i < length; i++)
			fill(buffer + i * WORDS, thread, sequence, start + i);
		change(kind, start, length, buffer);
		if (flush) {
			char line[64];
			if (sequence & 1 ? fsync(fd) : fdatasync(fd))
				fail("flush");
			int n = sprintf(line, "D %u %llu\n", (unsigned)thread, (unsigned long long)sequence);
			if (write(1, line, n) != n)
				exit(1);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 6)
		return 2;
	seed = strtoull(argv[2], NULL, 10);
	sectors = strtoull(argv[3], NULL, 10);
	threads = strtoull(argv[4], NULL, 10);
	device = !strcmp(argv[5], "device");
	fd = open(argv[1], device ? O_RDWR | O_DIRECT : O_RDWR | O_CREAT, 0600);
	if (fd < 0)
		fail("open");
	for (uint64_t t = 1; t < threads; t++) {
		pthread_t id;
		if (pthread_create(&id, NULL, work, (void *)(uintptr_t)t))
			fail("pthread_create");
	}
	work(0);
}
