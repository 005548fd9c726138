/* Fibonacci numbers by their definition: calls and returns. */
#include "row.h"

/* gcc would turn most of the calls into a loop. */
#define FIBONACCI_CALLED __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls")))

FIBONACCI_CALLED static unsigned fibonacci_of(unsigned n) {
    return n < 2 ? n : fibonacci_of(n - 1) + fibonacci_of(n - 2);
}

static uint64_t fibonacci_work(unsigned times) {
    uint64_t sum = 0;
    while (times--)
        sum = mix(sum, fibonacci_of(27 + times % 2));
    return sum;
}

const struct row fibonacci = {
    .name = "integer/fibonacci",
    .work = fibonacci_work,
    .warm_up = 4,
    .times = 180,
};
