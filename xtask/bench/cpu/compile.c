/* gcc's compiler and assembler on the file unit.i, with the dynamic linker and the libraries beside them. */
#include "row.h"
#include "start.h"
#include <fcntl.h>
#include <unistd.h>

#define COMPILE_LINKED "./ld.so", "--library-path", "."

static const char *const compile_cc1[] = {
    COMPILE_LINKED, "./cc1", "-quiet", "-fpreprocessed", "-O2",
    /* How often it collects its garbage would depend on the machine's memory. */
    "--param=ggc-min-expand=30", "--param=ggc-min-heapsize=4096",
    "unit.i", "-o", "unit.s", NULL,
};

static const char *const compile_as[] = {
    COMPILE_LINKED, "./as", "--64", "unit.s", "-o", "unit.o", NULL,
};

static uint64_t compile_unit(void) {
    REQUIRE(finish(start(compile_cc1, -1)) == 0);
    REQUIRE(finish(start(compile_as, -1)) == 0);
    int object = open("unit.o", O_RDONLY);
    REQUIRE(object >= 0);
    uint64_t sum = 0;
    char bytes[4096];
    for (ssize_t size; (size = read(object, bytes, sizeof bytes)) > 0;)
        sum = mix_bytes(sum, bytes, size);
    close(object);
    return sum;
}

static uint64_t compile_work(unsigned times) {
    uint64_t sum = 0;
    while (times--)
        sum = mix(sum, compile_unit());
    return sum;
}

/* No warm-up: it is run once for most files, and translating its code belongs to that. */
const struct row gcc_first = {
    .name = "program/gcc-first",
    .work = compile_work,
    .times = 1,
};

const struct row gcc_again = {
    .name = "program/gcc-again",
    .work = compile_work,
    .warm_up = 1,
    .times = 1,
};
