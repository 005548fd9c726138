/* Fresh pages: faults, the kernel's zeroing, and the flush when they go. */
#include "row.h"
#include <sys/mman.h>

enum { PAGES_COUNT = 2048, PAGES_SIZE = 4096 };

static uint64_t pages_touch(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        uint8_t *pages = mmap(NULL, PAGES_COUNT * PAGES_SIZE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(pages != MAP_FAILED);
        /* Kernels differ in whether they would use huge ones. One that has none refuses, rightly. */
        madvise(pages, PAGES_COUNT * PAGES_SIZE, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < PAGES_COUNT; i++)
            pages[i * PAGES_SIZE] += i;
        sum = mix(sum, pages[(PAGES_COUNT - 1) * PAGES_SIZE]);
        REQUIRE(munmap(pages, PAGES_COUNT * PAGES_SIZE) == 0);
    }
    return sum;
}

const struct row page_touch = {
    .name = "kernel/page-touch",
    .work = pages_touch,
    .warm_up = 1,
    .times = 25,
};
