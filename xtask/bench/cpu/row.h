/* What the rows share. A row is defined beside its code and listed in main.c. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct row {
    /* GROUP/NAME. */
    const char *name;
    /* Why this CPU cannot run it, or null; may be absent. */
    const char *(*obstacle)(void);
    /* Before the clock starts; may be absent. */
    void (*prepare)(void);
    /* Does the work so many times; a checksum over all results, the same wherever it runs. */
    uint64_t (*work)(unsigned times);
    /* Untimed, so that caches are warm and code is translated. */
    unsigned warm_up;
    unsigned times;
};

/* Ends the row's process. */
#define REQUIRE(x) \
    do { \
        if (!(x)) \
            row_failed(__FILE__, __LINE__, #x); \
    } while (0)

_Noreturn void row_failed(const char *file, int line, const char *what);

/* A checksum that takes in a value. */
static inline uint64_t mix(uint64_t sum, uint64_t value) {
    sum = (sum ^ value) * 0x9e3779b97f4a7c15;
    return sum ^ sum >> 29;
}

static inline uint64_t mix_bytes(uint64_t sum, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        sum = mix(sum, ((const unsigned char *)bytes)[i]);
    return sum;
}

/* The next number of a xorshift sequence (Marsaglia 2003); the state must not be 0. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline void *allocate(size_t size) {
    void *memory = aligned_alloc(64, size);
    REQUIRE(memory);
    return memory;
}
