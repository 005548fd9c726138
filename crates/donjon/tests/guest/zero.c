// `zero FILE keep|unmap OFFSET LENGTH`: has a range of a block device read as zeroes, durably.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	int how = !strcmp(argv[2], "keep") ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
	int fd = open(argv[1], O_RDWR);

	if (fd < 0 || fallocate(fd, how | FALLOC_FL_KEEP_SIZE, atoll(argv[3]), atoll(argv[4])) || fsync(fd)) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
