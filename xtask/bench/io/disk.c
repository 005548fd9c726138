/* Rows on a disk, past the page cache of the kernel they run on if it is a block device. Each block of 4 KiB
   begins with its own offset, which reads check and writes keep. */
#include "row.h"
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BLOCK = 4 << 10, CLUSTER = 64 << 10, MOST = 64 };

struct disk {
    const struct work *work;
    int file;
    /* Units that the order goes through, where the first is, how far apart, and how many it gave. */
    uint64_t units, first, distance, given;
    uint64_t random;
    bool once;
};

static struct disk disk_open(const struct work *work, const char *target) {
    struct stat status;
    REQUIRE(stat(target, &status) == 0);
    int flags = (work->write ? O_RDWR : O_RDONLY) | (S_ISBLK(status.st_mode) ? O_DIRECT : 0);
    struct disk disk = {.work = work, .file = open(target, flags), .random = 1, .distance = work->size};
    REQUIRE(disk.file >= 0);
    uint64_t size = lseek(disk.file, 0, SEEK_END);
    disk.once = work->order == FIRST_HALF || work->order == SECOND_HALF;
    if (work->order == SECOND_HALF) {
        disk.first = size / 2;
        disk.distance = CLUSTER;
    }
    disk.units = size / (disk.once ? 2 : 1) / disk.distance;
    REQUIRE(disk.units > 1);
    return disk;
}

/* The next place, or -1 if there is none. */
static int64_t disk_next(struct disk *disk) {
    if (disk->once && disk->given == disk->units)
        return -1;
    uint64_t unit = disk->given++ % disk->units;
    switch (disk->work->order) {
    case RANDOM:
        /* A xorshift sequence (Marsaglia 2003). */
        disk->random ^= disk->random << 13;
        disk->random ^= disk->random >> 7;
        disk->random ^= disk->random << 17;
        unit = disk->random % disk->units;
        break;
    case SECOND_HALF:
        /* Each once, in an order without neighbours: the factor is odd and the number of units a power of two. */
        unit = unit * 0x9e3779b1 % disk->units;
        break;
    default:
        break;
    }
    return disk->first + unit * disk->distance;
}

static char *disk_buffer(uint32_t size) {
    char *buffer = aligned_alloc(BLOCK, size);
    REQUIRE(buffer);
    /* Not zeroes, of which images need not keep anything. */
    memset(buffer, 0x5a, size);
    return buffer;
}

static void disk_stamp(const struct work *work, char *buffer, uint64_t at) {
    for (uint32_t block = 0; work->write && block < work->size; block += BLOCK)
        *(uint64_t *)(buffer + block) = at + block;
}

static void disk_check(const struct work *work, const char *buffer, uint64_t at) {
    for (uint32_t block = 0; !work->write && block < work->size; block += BLOCK)
        REQUIRE(*(const uint64_t *)(buffer + block) == at + block);
}

static double disk_result(const struct work *work, uint64_t done, double seconds) {
    REQUIRE(done > 0);
    if (!strcmp(work->unit, "us"))
        return seconds * 1e6 / done;
    return (strcmp(work->unit, "IOPS") ? work->size / 1048576.0 : 1) * done / seconds;
}

/* One request after the other. */
double disk_alone(const struct work *work, const char *target) {
    struct disk disk = disk_open(work, target);
    char *buffer = disk_buffer(work->size);
    double start = now(), end = start + WARM_UP;
    uint64_t done = 0;
    for (bool warm = false;;) {
        uint64_t at = disk_next(&disk);
        disk_stamp(work, buffer, at);
        ssize_t size = work->write ? pwrite(disk.file, buffer, work->size, at)
                                   : pread(disk.file, buffer, work->size, at);
        REQUIRE(size == work->size);
        disk_check(work, buffer, at);
        if (work->flush)
            REQUIRE(fdatasync(disk.file) == 0);
        done++;
        double time = now();
        if (time < end)
            continue;
        if (warm)
            return disk_result(work, done, time - start);
        warm = true;
        start = time;
        end = start + MEASURED;
        done = 0;
    }
}

/* As many requests at once as `depth` says, by Linux's asynchronous I/O. */
double disk_queue(const struct work *work, const char *target) {
    struct disk disk = disk_open(work, target);
    struct iocb requests[MOST], *list[MOST];
    struct io_event events[MOST];
    aio_context_t context = 0;
    REQUIRE(work->depth <= MOST && syscall(SYS_io_setup, work->depth, &context) == 0);
    for (unsigned i = 0; i < work->depth; i++) {
        requests[i] = (struct iocb){
            .aio_lio_opcode = work->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
            .aio_fildes = disk.file,
            .aio_buf = (uintptr_t)disk_buffer(work->size),
            .aio_nbytes = work->size,
        };
        list[i] = &requests[i];
    }
    /* Of what can be done only once, not much may pass before the clock starts. */
    bool warm = false, over = false;
    double start = now(), end = start + (disk.once ? WARM_UP / 20 : WARM_UP);
    uint64_t done = 0;
    for (unsigned idle = work->depth, under_way = 0;;) {
        unsigned count = 0;
        for (int64_t at; !over && count < idle && (at = disk_next(&disk)) >= 0; count++) {
            list[count]->aio_offset = at;
            disk_stamp(work, (char *)list[count]->aio_buf, at);
        }
        for (unsigned begun = 0; begun < count;) {
            long n = syscall(SYS_io_submit, context, count - begun, list + begun);
            REQUIRE(n > 0);
            begun += n;
        }
        under_way += count;
        if (under_way == 0)
            return disk_result(work, done, now() - start);
        long finished = syscall(SYS_io_getevents, context, 1, under_way, events, NULL);
        REQUIRE(finished > 0);
        idle = finished;
        under_way -= idle;
        for (unsigned i = 0; i < idle; i++) {
            list[i] = (struct iocb *)(uintptr_t)events[i].obj;
            REQUIRE(events[i].res == (int64_t)work->size);
            disk_check(work, (const char *)list[i]->aio_buf, list[i]->aio_offset);
        }
        done += idle;
        double time = now();
        if (time < end)
            continue;
        if (warm) {
            over = true;
        } else {
            warm = true;
            start = time;
            end = start + MEASURED;
            done = 0;
        }
    }
}
