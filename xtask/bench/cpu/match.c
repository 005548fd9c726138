/* What a compressor does first, finding earlier occurrences: hashes, compares, branches on data. */
#include "row.h"
#include <string.h>

enum { MATCH_SIZE = 512 << 10, MATCH_WORDS = 400, MATCH_HASH_BITS = 15, MATCH_MINIMUM = 5 };

static char *match_text;
static uint32_t match_seen[1 << MATCH_HASH_BITS];

/* Text of made-up words, the frequent ones much more frequent, as in a language. */
static void match_prepare(void) {
    static char words[MATCH_WORDS][12];
    uint64_t state = 4;
    for (int w = 0; w < MATCH_WORDS; w++)
        for (int i = 0, length = 2 + next_random(&state) % 9; i < length; i++)
            words[w][i] = 'a' + next_random(&state) % 26;
    match_text = allocate(MATCH_SIZE);
    for (size_t at = 0; at < MATCH_SIZE;) {
        uint64_t rank = next_random(&state) % MATCH_WORDS;
        rank = rank * (next_random(&state) % MATCH_WORDS) / MATCH_WORDS;
        for (const char *c = words[rank]; *c && at < MATCH_SIZE; c++)
            match_text[at++] = *c;
        if (at < MATCH_SIZE)
            match_text[at++] = next_random(&state) % 12 ? ' ' : '\n';
    }
}

static inline uint64_t match_load(size_t at) {
    uint64_t bytes;
    memcpy(&bytes, match_text + at, 8);
    return bytes;
}

static size_t match_length(size_t here, size_t there) {
    size_t length = 0;
    while (here + length + 8 <= MATCH_SIZE) {
        uint64_t difference = match_load(here + length) ^ match_load(there + length);
        if (difference)
            return length + __builtin_ctzll(difference) / 8;
        length += 8;
    }
    return length;
}

static uint64_t match_work(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        memset(match_seen, 0, sizeof match_seen);
        uint64_t literals = 0, copies = 0, distances = 0;
        for (size_t at = 1; at + 8 <= MATCH_SIZE;) {
            /* Five bytes decide. */
            size_t slot = (match_load(at) << 24) * 0x9e3779b97f4a7c15 >> (64 - MATCH_HASH_BITS);
            size_t there = match_seen[slot];
            match_seen[slot] = at;
            size_t length = there ? match_length(at, there) : 0;
            if (length < MATCH_MINIMUM) {
                literals++;
                at++;
            } else {
                copies++;
                distances += at - there;
                at += length;
            }
        }
        sum = mix(mix(mix(sum, literals), copies), distances);
    }
    return sum;
}

const struct row match = {
    .name = "integer/match",
    .prepare = match_prepare,
    .work = match_work,
    .warm_up = 2,
    .times = 192,
};
