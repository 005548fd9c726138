/* Two processes on one CPU that take turns, through pipes and through a futex. */
#include "row.h"
#include "start.h"
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* On two CPUs it would be wake-ups that are measured. */
static void switches_prepare(void) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
}

static uint64_t switches_pipe(unsigned times) {
    int there[2], back[2];
    REQUIRE(pipe(there) == 0 && pipe(back) == 0);
    uint8_t byte = 0;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1) {
            byte += 3;
            if (write(back[1], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    uint64_t sum = 0;
    while (times--) {
        REQUIRE(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1);
        sum = mix(sum, byte);
    }
    for (int end = 0; end < 2; end++) {
        close(there[end]);
        close(back[end]);
    }
    REQUIRE(finish(child) == 0);
    return sum;
}

struct switches_turn {
    atomic_uint number;
};

/* Waits until the number is `wanted`, then passes on. */
static void switches_take(struct switches_turn *turn, unsigned wanted) {
    unsigned now;
    while ((now = atomic_load(&turn->number)) != wanted)
        syscall(SYS_futex, &turn->number, FUTEX_WAIT, now, NULL, NULL, 0);
    atomic_store(&turn->number, wanted + 1);
    syscall(SYS_futex, &turn->number, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static uint64_t switches_futex(unsigned times) {
    struct switches_turn *turn =
        mmap(NULL, sizeof *turn, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(turn != MAP_FAILED);
    pid_t child = fork();
    REQUIRE(child >= 0);
    for (unsigned n = 0; n < times; n++)
        switches_take(turn, 2 * n + (child == 0));
    if (child == 0)
        _exit(0);
    REQUIRE(finish(child) == 0);
    uint64_t turns = atomic_load(&turn->number);
    munmap(turn, sizeof *turn);
    return turns;
}

const struct row pipe_row = {
    .name = "kernel/pipe",
    .prepare = switches_prepare,
    .work = switches_pipe,
    .warm_up = 500,
    .times = 20000,
};

const struct row switch_row = {
    .name = "kernel/switch",
    .prepare = switches_prepare,
    .work = switches_futex,
    .warm_up = 500,
    .times = 20000,
};
