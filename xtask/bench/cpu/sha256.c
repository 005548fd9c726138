/* SHA-256 (FIPS 180-4), without the CPU's instructions for it: rotations and additions, few of them
   independent. */
#include "row.h"
#include <string.h>

enum { SHA256_SIZE = 64 << 10, SHA256_BLOCK = 64 };

static uint32_t sha256_start[8], sha256_constants[64];
static uint8_t *sha256_data;

/* The first 32 bits after the point of the root of this degree, 2 or 3. */
static uint32_t sha256_root_fraction(unsigned n, int degree) {
    unsigned __int128 scaled = (unsigned __int128)n << 32 * degree;
    uint64_t root = 0;
    for (int bit = 36; bit >= 0; bit--) {
        uint64_t tried = root | 1ull << bit;
        unsigned __int128 power = (unsigned __int128)tried * tried;
        if (degree == 3)
            power *= tried;
        if (power <= scaled)
            root = tried;
    }
    return root;
}

static void sha256_prepare(void) {
    for (unsigned n = 2, found = 0; found < 64; n++) {
        bool prime = true;
        for (unsigned d = 2; d * d <= n; d++)
            prime &= n % d != 0;
        if (!prime)
            continue;
        if (found < 8)
            sha256_start[found] = sha256_root_fraction(n, 2);
        sha256_constants[found++] = sha256_root_fraction(n, 3);
    }
    sha256_data = allocate(SHA256_SIZE);
    uint64_t state = 3;
    for (size_t i = 0; i < SHA256_SIZE; i++)
        sha256_data[i] = next_random(&state);
}

static inline uint32_t sha256_rotate(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

static void sha256_compress(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64];
    for (int t = 0; t < 16; t++) {
        uint32_t word;
        memcpy(&word, block + 4 * t, 4);
        w[t] = __builtin_bswap32(word);
    }
    for (int t = 16; t < 64; t++) {
        uint32_t x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + w[t - 7] + (sha256_rotate(x, 7) ^ sha256_rotate(x, 18) ^ x >> 3) +
               (sha256_rotate(y, 17) ^ sha256_rotate(y, 19) ^ y >> 10);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; t++) {
        uint32_t first = h + (sha256_rotate(e, 6) ^ sha256_rotate(e, 11) ^ sha256_rotate(e, 25)) +
                         ((e & f) ^ (~e & g)) + sha256_constants[t] + w[t];
        uint32_t second = (sha256_rotate(a, 2) ^ sha256_rotate(a, 13) ^ sha256_rotate(a, 22)) +
                          ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + first;
        d = c, c = b, b = a, a = first + second;
    }
    uint32_t sums[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++)
        state[i] += sums[i];
}

static uint64_t sha256_work(unsigned times) {
    uint32_t state[8];
    memcpy(state, sha256_start, sizeof state);
    while (times--)
        for (size_t at = 0; at < SHA256_SIZE; at += SHA256_BLOCK)
            sha256_compress(state, sha256_data + at);
    return mix_bytes(0, state, sizeof state);
}

const struct row sha256 = {
    .name = "integer/sha256",
    .prepare = sha256_prepare,
    .work = sha256_work,
    .warm_up = 16,
    .times = 600,
};
