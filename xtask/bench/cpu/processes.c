/* Processes that come and go. */
#include "row.h"
#include "start.h"
#include <sys/wait.h>
#include <unistd.h>

static uint64_t processes_fork(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0)
            _exit(times % 100);
        int status;
        REQUIRE(waitpid(child, &status, 0) == child);
        sum = mix(sum, status);
    }
    return sum;
}

static uint64_t processes_exec(unsigned times) {
    uint64_t sum = 0;
    while (times--)
        sum = mix(sum, finish(start((const char *[]){"./nothing", NULL}, -1)));
    return sum;
}

const struct row fork_row = {
    .name = "kernel/fork",
    .work = processes_fork,
    .warm_up = 20,
    .times = 600,
};

const struct row exec_row = {
    .name = "kernel/exec",
    .work = processes_exec,
    .warm_up = 10,
    .times = 250,
};
