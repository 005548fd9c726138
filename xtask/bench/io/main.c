/* Runs the rows whose names contain one of the comma-separated words in $BENCH_ROWS, or all, on the targets
   given as arguments NAME=WHAT, and prints
     begin
     start NAME
     row NAME NUMBER UNIT | skip NAME WHY | fail NAME WHY
     end SECONDS
   where the last is the time since `begin`. Rows of the comma-separated targets in $BENCH_WITHOUT are skipped
   without a reason. With the argument `list` it prints names only. */
#include "row.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { KIB = 1 << 10 };

static const struct work
    seq_read = {"seq-read", "MiB/s", disk_queue, 128 * KIB, 8, .order = SEQUENTIAL},
    seq_write = {"seq-write", "MiB/s", disk_queue, 128 * KIB, 8, .write = true, .order = SEQUENTIAL},
    rand_read = {"rand-read", "us", disk_alone, 4 * KIB, 1, .order = RANDOM},
    rand_write = {"rand-write", "us", disk_alone, 4 * KIB, 1, .write = true, .order = RANDOM},
    rand_read_32 = {"rand-read-32", "IOPS", disk_queue, 4 * KIB, 32, .order = RANDOM},
    rand_write_32 = {"rand-write-32", "IOPS", disk_queue, 4 * KIB, 32, .write = true, .order = RANDOM},
    write_flush = {"write-flush", "us", disk_alone, 4 * KIB, 1, .write = true, .flush = true, .order = RANDOM},
    /* Where nothing is yet, so that these allocate. */
    new_seq_write = {"seq-write", "MiB/s", disk_queue, 128 * KIB, 8, .write = true, .order = FIRST_HALF},
    new_rand_write = {"rand-write-32", "IOPS", disk_queue, 4 * KIB, 32, .write = true, .order = SECOND_HALF},
    directory_read = {"seq-read", "MiB/s", .run = fs_read},
    directory_write = {"seq-write", "MiB/s", .run = fs_write},
    directory_create = {"create", "/s", .run = fs_create},
    tcp_send = {"tcp-send", "MiB/s", .run = net_tcp_send},
    tcp_receive = {"tcp-receive", "MiB/s", .run = net_tcp_receive},
    tcp_echo = {"tcp-echo", "us", .run = net_tcp_echo},
    tcp_connect = {"tcp-connect", "/s", .run = net_tcp_connect},
    udp_send = {"udp-send", "packets/s", .run = net_udp_send},
    udp_receive = {"udp-receive", "packets/s", .run = net_udp_receive};

static const struct row {
    const char *target;
    const struct work *work;
} rows[] = {
    {"blk-raw", &seq_read}, {"blk-raw", &seq_write}, {"blk-raw", &rand_read}, {"blk-raw", &rand_write},
    {"blk-raw", &rand_read_32}, {"blk-raw", &rand_write_32}, {"blk-raw", &write_flush},
    {"blk-qcow2", &seq_read}, {"blk-qcow2", &seq_write}, {"blk-qcow2", &rand_read},
    {"blk-qcow2", &rand_read_32}, {"blk-qcow2", &rand_write_32}, {"blk-qcow2", &write_flush},
    {"blk-new-qcow2", &new_seq_write}, {"blk-new-qcow2", &new_rand_write},
    /* In this order: what was written is no longer the backing file's. */
    {"blk-overlay", &rand_read_32}, {"blk-overlay", &new_rand_write},
    {"nvme-raw", &seq_read}, {"nvme-raw", &seq_write}, {"nvme-raw", &rand_read}, {"nvme-raw", &rand_write},
    {"nvme-raw", &rand_read_32}, {"nvme-raw", &rand_write_32}, {"nvme-raw", &write_flush},
    {"net", &tcp_send}, {"net", &tcp_receive}, {"net", &tcp_echo}, {"net", &tcp_connect},
    {"net", &udp_send}, {"net", &udp_receive},
    {"fs", &directory_read}, {"fs", &directory_write}, {"fs", &directory_create},
    {"user", &tcp_send}, {"user", &tcp_receive}, {"user", &tcp_echo}, {"user", &tcp_connect},
    {"user", &udp_send},
};
enum { ROWS = sizeof rows / sizeof *rows };

static char running[64];

_Noreturn void row_failed(const char *file, int line, const char *what) {
    const char *error = errno ? strerror(errno) : "";
    printf("fail %s %s:%d: expected %s %s\n", running, file, line, what, error);
    fflush(stdout);
    _exit(1);
}

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Whether the name contains, or is if `whole`, one of the words. */
static bool among(const char *name, const char *words, bool whole) {
    while (words && *words) {
        size_t length = strcspn(words, ",");
        if (whole ? length == strlen(name) && !memcmp(name, words, length)
                  : length && memmem(name, strlen(name), words, length))
            return true;
        words += length + (words[length] == ',');
    }
    return false;
}

static const char *find(const char *target, char **arguments) {
    size_t length = strlen(target);
    for (; *arguments; arguments++)
        if (!strncmp(*arguments, target, length) && (*arguments)[length] == '=')
            return *arguments + length + 1;
    return NULL;
}

static void run(const struct row *row, char **arguments) {
    const char *target = find(row->target, arguments);
    if (!target)
        printf("fail %s there is no %s\n", running, row->target);
    else if (!strncmp(row->target, "nvme", 4) && strncmp(target, "/dev/nvme", 9))
        printf("skip %s %s is no NVMe namespace\n", running, target);
    else
        printf("row %s %.6f %s\n", running, row->work->run(row->work, target), row->work->unit);
}

/* In a process of its own: it takes its memory with it, and a crash ends only this row. */
static void run_alone(const struct row *row, char **arguments) {
    printf("start %s\n", running);
    fflush(stdout);
    /* The console's interrupts belong to no row. */
    tcdrain(STDOUT_FILENO);
    pid_t child = fork();
    if (child == 0) {
        errno = 0;
        run(row, arguments);
        fflush(stdout);
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        printf("fail %s it has no process: %m\n", running);
    else if (WIFSIGNALED(status))
        printf("fail %s signal %d (%s)\n", running, WTERMSIG(status), strsignal(WTERMSIG(status)));
}

int main(int, char **arguments) {
    arguments++;
    bool list = *arguments && !strcmp(*arguments, "list");
    const char *words = getenv("BENCH_ROWS"), *without = getenv("BENCH_WITHOUT");
    double start = now();
    if (!list)
        /* Firmware may have left something on the line. */
        printf("\nbegin\n");
    for (int i = 0; i < ROWS; i++) {
        snprintf(running, sizeof running, "%s/%s", rows[i].target, rows[i].work->name);
        if (list)
            puts(running);
        else if (words && !among(running, words, false))
            continue;
        else if (among(rows[i].target, without, true))
            printf("start %s\nskip %s\n", running, running);
        else
            run_alone(&rows[i], arguments);
    }
    if (!list)
        printf("end %.6f\n", now() - start);
    fflush(stdout);
    tcdrain(STDOUT_FILENO);
    return 0;
}
