/* Quicksort of random numbers: branches that nobody can predict. */
#include "row.h"
#include <string.h>

enum { QUICKSORT_COUNT = 100000 };

static uint32_t *quicksort_given, *quicksort_sorted;

static void quicksort_prepare(void) {
    quicksort_given = allocate(QUICKSORT_COUNT * sizeof *quicksort_given);
    quicksort_sorted = allocate(QUICKSORT_COUNT * sizeof *quicksort_sorted);
    uint64_t state = 2;
    for (size_t i = 0; i < QUICKSORT_COUNT; i++)
        quicksort_given[i] = next_random(&state);
}

static void quicksort_range(uint32_t *first, uint32_t *last) {
    while (first < last) {
        uint32_t pivot = first[(last - first) / 2], *low = first, *high = last;
        while (low <= high) {
            while (*low < pivot)
                low++;
            while (*high > pivot)
                high--;
            if (low <= high) {
                uint32_t value = *low;
                *low++ = *high;
                *high-- = value;
            }
        }
        quicksort_range(first, high);
        first = low;
    }
}

static uint64_t quicksort_work(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        memcpy(quicksort_sorted, quicksort_given, QUICKSORT_COUNT * sizeof *quicksort_given);
        quicksort_range(quicksort_sorted, quicksort_sorted + QUICKSORT_COUNT - 1);
        for (size_t i = 1; i < QUICKSORT_COUNT; i++)
            REQUIRE(quicksort_sorted[i - 1] <= quicksort_sorted[i]);
        sum = mix(sum, quicksort_sorted[QUICKSORT_COUNT / 3]);
    }
    return sum;
}

const struct row quicksort = {
    .name = "integer/quicksort",
    .prepare = quicksort_prepare,
    .work = quicksort_work,
    .warm_up = 1,
    .times = 32,
};
