// Exercises a file system and checks what it says against memory.
//
// `fsx file PATH SEED STEPS`: one file, written, read, mapped, cut, punched, copied and opened again at random; at the
// end "file SIZE HASH" (FNV-1a) says what is in it.
// `fsx tree DIRECTORY SEED STEPS THREADS`: names made, replaced, linked, moved, listed and removed at random, each
// thread in a directory of its own.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 400000, SLOTS = 24, PIECE = 60000 };

static uint64_t step;

static uint64_t next(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1d >> 32;
}

static void fail(const char *what)
{
	printf("E step %lu, %s: %s\n", step, what, strerror(errno));
	exit(1);
}

static void must(int good, const char *what)
{
	if (!good)
		fail(what);
}

static uint8_t model[MOST], buffer[MOST];
static size_t size;

static void same(const uint8_t *seen, size_t at, size_t len, const char *what)
{
	for (size_t i = 0; i < len; i++)
		if (seen[i] != model[at + i]) {
			printf("E step %lu, %s: byte %zu of %zu is %d, not %d\n", step, what, at + i, size,
			       seen[i], model[at + i]);
			exit(1);
		}
}

static void grow(size_t to)
{
	if (to > size)
		memset(model + size, 0, to - size), size = to;
}

static void file(const char *path, uint64_t seed, uint64_t steps)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	must(fd >= 0, "open");
	for (step = 0; step < steps; step++) {
		size_t at = next(&seed) % (MOST - PIECE), len = 1 + next(&seed) % PIECE;
		size_t there = at >= size ? 0 : at + len > size ? size - at : len;
		uint64_t what = next(&seed) % 12;
		uint8_t *map;

		if (what < 3 || what == 11) {
			for (size_t i = 0; i < len; i++)
				buffer[i] = next(&seed);
		}
		switch (what) {
		case 0: case 1:
			must(pwrite(fd, buffer, len, at) == (ssize_t)len, "pwrite");
			grow(at + len);
			memcpy(model + at, buffer, len);
			break;
		case 2:
			if (!there)
				break;
			map = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			must(map != MAP_FAILED, "mmap");
			memcpy(map + at, buffer, there);
			memcpy(model + at, buffer, there);
			if (next(&seed) & 1)
				must(!msync(map, size, MS_SYNC), "msync");
			must(!munmap(map, size), "munmap");
			break;
		case 3: case 4:
			must(pread(fd, buffer, len, at) == (ssize_t)there, "pread");
			same(buffer, at, there, "read");
			break;
		case 5:
			if (!size)
				break;
			map = mmap(0, size, PROT_READ, MAP_SHARED, fd, 0);
			must(map != MAP_FAILED, "mmap");
			same(map, 0, size, "map");
			must(!munmap(map, size), "munmap");
			break;
		case 6:
			must(!ftruncate(fd, at), "ftruncate");
			grow(at);
			size = at;
			break;
		case 7:
			must(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len), "punch");
			memset(model + at, 0, there);
			break;
		case 8:
			must(!fsync(fd) && !close(fd), "fsync");
			fd = open(path, O_RDWR);
			must(fd >= 0, "open again");
			break;
		case 9: {
			off_t from = at, to = MOST / 2 + at / 2;
			size_t most = MOST - to < len ? MOST - to : len;
			if (from + (off_t)most > to)
				break;
			ssize_t n = copy_file_range(fd, &from, fd, &to, most, 0);
			must(n >= 0, "copy_file_range");
			grow(n ? to : size);
			memmove(model + to - n, model + at, n);
			break;
		}
		case 10: {
			struct stat st;
			must(!fstat(fd, &st), "fstat");
			must((size_t)st.st_size == size, "size");
			break;
		}
		case 11: {
			if (size + len > MOST)
				break;
			int end = open(path, O_WRONLY | O_APPEND);
			must(end >= 0, "open to append");
			must(write(end, buffer, len) == (ssize_t)len && !close(end), "append");
			memcpy(model + size, buffer, len);
			size += len;
			break;
		}
		}
	}
	uint64_t hash = 0xcbf29ce484222325;
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ model[i]) * 0x100000001b3;
	must(!close(fd), "close");
	printf("file %zu %016lx\n", size, hash);
}

static const char *top;
static uint64_t seeds, all;

// What a name is: 0 nothing, 1 a file, 2 a link, 3 a directory; and its number or its content's.
struct slot { int kind; uint64_t value; };

static void check(const char *name, struct slot *slot)
{
	struct stat st;
	char text[64] = "";
	int found = lstat(name, &st);

	switch (slot->kind) {
	case 0:
		must(found < 0 && errno == ENOENT, "a name that is not there");
		return;
	case 1: {
		int fd = open(name, O_RDONLY);
		uint64_t value = 0;
		must(!found && S_ISREG(st.st_mode) && fd >= 0, "a file");
		must(read(fd, &value, 8) == 8 && value == slot->value && !close(fd), "a file's content");
		return;
	}
	case 2:
		must(!found && S_ISLNK(st.st_mode) && readlink(name, text, 63) > 0, "a link");
		must(strtoull(text, 0, 10) == slot->value, "a link's target");
		return;
	case 3:
		must(!found && S_ISDIR(st.st_mode), "a directory");
	}
}

static void list(const char *directory, struct slot *slots)
{
	int expected = 2, seen = 0;
	DIR *d = opendir(directory);

	must(!!d, "opendir");
	for (int i = 0; i < SLOTS; i++)
		expected += slots[i].kind != 0;
	while (readdir(d))
		seen++;
	must(seen == expected && !closedir(d), "names in a directory");
}

static void *tree(void *number)
{
	uint64_t seed = seeds * 1000 + (uintptr_t)number + 1;
	struct slot slots[SLOTS] = { 0 };
	char directory[200], names[SLOTS][256];

	snprintf(directory, sizeof directory, "%s/%d", top, (int)(uintptr_t)number);
	must(!mkdir(directory, 0755), "mkdir");
	for (int i = 0; i < SLOTS; i++)
		snprintf(names[i], sizeof names[i], "%s/name-%d", directory, i);
	for (uint64_t n = 0; n < all; n++) {
		int i = next(&seed) % SLOTS, j = next(&seed) % SLOTS;
		struct slot *a = slots + i, *b = slots + j;
		uint64_t value = next(&seed);
		char text[32];
		int fd;

		switch (next(&seed) % 8) {
		case 0: case 1:
			fd = open(names[i], O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0644);
			if (a->kind) {
				must(fd < 0 && errno == EEXIST, "making what is there");
				break;
			}
			must(fd >= 0 && write(fd, &value, 8) == 8 && !close(fd), "making a file");
			*a = (struct slot){ 1, value };
			break;
		case 2:
			snprintf(text, sizeof text, "%lu", value);
			must((symlink(text, names[i]) == 0) == !a->kind, "making a link");
			if (!a->kind)
				*a = (struct slot){ 2, value };
			break;
		case 3:
			must((mkdir(names[i], 0755) == 0) == !a->kind, "making a directory");
			if (!a->kind)
				*a = (struct slot){ 3, 0 };
			break;
		case 4:
			if (a->kind == 3)
				must(!rmdir(names[i]), "rmdir");
			else
				must((unlink(names[i]) == 0) == !!a->kind, "unlink");
			a->kind = 0;
			break;
		case 5: {
			int can = a->kind && (i == j || !b->kind || (a->kind == 3) == (b->kind == 3));
			must((rename(names[i], names[j]) == 0) == can, "rename");
			if (can && i != j)
				*b = *a, a->kind = 0;
			break;
		}
		case 6:
			if (a->kind != 1 || b->kind)
				break;
			// A file and its copy are told apart by nothing but being two.
			must(!link(names[i], names[j]) && !unlink(names[i]), "link");
			*b = *a, a->kind = 0;
			break;
		case 7:
			check(names[i], a);
			if (value % 8 == 0)
				list(directory, slots);
		}
	}
	for (int i = 0; i < SLOTS; i++)
		check(names[i], slots + i);
	list(directory, slots);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "file")) {
		file(argv[2], strtoull(argv[3], 0, 10) | 1, strtoull(argv[4], 0, 10));
		return 0;
	}
	if (argc != 6)
		return 2;
	pthread_t threads[16];
	int count = atoi(argv[5]);

	top = argv[2], seeds = strtoull(argv[3], 0, 10), all = strtoull(argv[4], 0, 10);
	for (int i = 0; i < count && i < 16; i++)
		must(!pthread_create(threads + i, 0, tree, (void *)(uintptr_t)i), "thread");
	for (int i = 0; i < count && i < 16; i++)
		pthread_join(threads[i], 0);
	printf("tree %d\n", count);
	return 0;
}
