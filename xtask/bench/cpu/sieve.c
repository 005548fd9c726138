/* The sieve of Eratosthenes, a byte for each number: byte stores at growing strides. */
#include "row.h"
#include <string.h>

enum { SIEVE_LIMIT = 1 << 20 };

static uint8_t *sieve_composite;

static void sieve_prepare(void) {
    sieve_composite = allocate(SIEVE_LIMIT);
}

static uint64_t sieve_work(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        memset(sieve_composite, 0, SIEVE_LIMIT);
        uint64_t primes = 0;
        for (size_t n = 2; n < SIEVE_LIMIT; n++) {
            if (sieve_composite[n])
                continue;
            primes++;
            for (size_t multiple = n * n; multiple < SIEVE_LIMIT; multiple += n)
                sieve_composite[multiple] = 1;
        }
        sum = mix(sum, primes);
    }
    return sum;
}

const struct row sieve = {
    .name = "integer/sieve",
    .prepare = sieve_prepare,
    .work = sieve_work,
    .warm_up = 2,
    .times = 100,
};
