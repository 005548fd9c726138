/* 80-bit floating point: sums, products, quotients and roots. None of the functions in which CPUs differ. */
#include "row.h"

static uint64_t x87_work(unsigned times) {
    long double sum = 0, population = 0.3L;
    while (times--)
        for (int n = 1; n <= 1000; n++) {
            population *= 3.9L * (1 - population);
            sum += __builtin_sqrtl(population + n) / (n + population);
        }
    /* The other bytes are padding. */
    return mix_bytes(mix_bytes(0, &sum, 10), &population, 10);
}

const struct row x87 = {
    .name = "x87/mixed",
    .work = x87_work,
    .warm_up = 100,
    .times = 20000,
};
