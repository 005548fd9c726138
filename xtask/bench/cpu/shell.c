/* busybox's shell: an interpreter in the guest, and one that starts programs. */
#include "row.h"
#include "start.h"
#include <stdio.h>
#include <unistd.h>

/* Runs a script with the number as $0; a checksum of what it prints. */
static uint64_t shell_run(const char *script, unsigned times) {
    char number[16];
    snprintf(number, sizeof number, "%u", times);
    int output[2];
    REQUIRE(pipe(output) == 0);
    pid_t child = start((const char *[]){"./busybox", "sh", "-c", script, number, NULL}, output[1]);
    close(output[1]);
    uint64_t sum = 0;
    char printed[256];
    for (ssize_t size; (size = read(output[0], printed, sizeof printed)) > 0;)
        sum = mix_bytes(sum, printed, size);
    close(output[0]);
    REQUIRE(finish(child) == 0);
    return sum;
}

static uint64_t shell_loop(unsigned times) {
    return shell_run("i=0; while [ $i -lt $0 ]; do i=$((i+1)); done; echo $i", times);
}

static uint64_t shell_applets(unsigned times) {
    return shell_run("i=0; while [ $i -lt $0 ]; do"
                     "  ./busybox true; i=$(./busybox expr $i + 1); "
                     "done; echo $i",
                     times);
}

const struct row shell = {
    .name = "program/shell",
    .work = shell_loop,
    .warm_up = 2000,
    .times = 100000,
};

const struct row applets = {
    .name = "program/applets",
    .work = shell_applets,
    .warm_up = 4,
    .times = 100,
};
