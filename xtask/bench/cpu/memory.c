/* The C library's copies and fills of more than caches hold. */
#include "row.h"
#include <string.h>

enum { MEMORY_SIZE = 16 << 20 };

static uint8_t *memory_from, *memory_to;

static void memory_prepare(void) {
    memory_from = allocate(MEMORY_SIZE);
    memory_to = allocate(MEMORY_SIZE);
    memset(memory_to, 1, MEMORY_SIZE);
    uint64_t state = 6;
    for (size_t i = 0; i < MEMORY_SIZE; i += 8) {
        uint64_t value = next_random(&state);
        memcpy(memory_from + i, &value, 8);
    }
}

/* A byte of every other page. */
static uint64_t memory_sample(uint64_t sum) {
    for (size_t i = 0; i < MEMORY_SIZE; i += 8191)
        sum = mix(sum, memory_to[i]);
    return sum;
}

static uint64_t memory_copy(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        memory_from[times * 8191 % MEMORY_SIZE]++;
        memcpy(memory_to, memory_from, MEMORY_SIZE);
        sum = memory_sample(sum);
    }
    return sum;
}

static uint64_t memory_fill(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        memset(memory_to, times, MEMORY_SIZE);
        sum = memory_sample(sum);
    }
    return sum;
}

const struct row memory_memcpy = {
    .name = "memory/memcpy",
    .prepare = memory_prepare,
    .work = memory_copy,
    .warm_up = 2,
    .times = 240,
};

const struct row memory_memset = {
    .name = "memory/memset",
    .prepare = memory_prepare,
    .work = memory_fill,
    .warm_up = 2,
    .times = 320,
};
