/* Into the kernel and back: a system call, and a signal. */
#include "row.h"
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t calls_getppid(unsigned times) {
    pid_t parent = getppid();
    uint64_t same = 0;
    while (times--)
        same += syscall(SYS_getppid) == parent;
    return same;
}

static volatile sig_atomic_t calls_signals;

static void calls_on_signal(int signal) {
    calls_signals += signal == SIGUSR1;
}

static void calls_prepare_signal(void) {
    struct sigaction action = {.sa_handler = calls_on_signal};
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
}

static uint64_t calls_signal(unsigned times) {
    pid_t self = getpid();
    calls_signals = 0;
    /* One sent to oneself has arrived when kill returns (POSIX). */
    while (times--)
        REQUIRE(kill(self, SIGUSR1) == 0);
    return calls_signals;
}

const struct row getppid_row = {
    .name = "kernel/getppid",
    .work = calls_getppid,
    .warm_up = 10000,
    .times = 500000,
};

const struct row signal_row = {
    .name = "kernel/signal",
    .prepare = calls_prepare_signal,
    .work = calls_signal,
    .warm_up = 1000,
    .times = 40000,
};
