/* A product of square matrices of doubles, with the vectors of whoever includes this: MATRIX_VECTOR of
   MATRIX_LANES, MATRIX_LOAD, MATRIX_STORE, MATRIX_SPLAT and MATRIX_ADD_PRODUCT(sum, x, y). */
#include "row.h"
#include <string.h>

enum { MATRIX_SIZE = 96 };

static double *matrix_left, *matrix_right, *matrix_product;

static void matrix_prepare(void) {
    size_t count = MATRIX_SIZE * MATRIX_SIZE, size = count * sizeof(double);
    matrix_left = allocate(size);
    matrix_right = allocate(size);
    matrix_product = allocate(size);
    uint64_t state = 5;
    for (size_t i = 0; i < count; i++) {
        matrix_left[i] = (double)(next_random(&state) >> 11) / (1ull << 53) - 0.5;
        matrix_right[i] = (double)(next_random(&state) >> 11) / (1ull << 53) - 0.5;
    }
}

MATRIX_TARGET static void matrix_multiply(void) {
    for (size_t row = 0; row < MATRIX_SIZE; row++)
        for (size_t column = 0; column < MATRIX_SIZE; column += 2 * MATRIX_LANES) {
            double *out = matrix_product + row * MATRIX_SIZE + column;
            MATRIX_VECTOR low = MATRIX_SPLAT(0), high = MATRIX_SPLAT(0);
            for (size_t i = 0; i < MATRIX_SIZE; i++) {
                MATRIX_VECTOR factor = MATRIX_SPLAT(matrix_left[row * MATRIX_SIZE + i]);
                const double *in = matrix_right + i * MATRIX_SIZE + column;
                low = MATRIX_ADD_PRODUCT(low, factor, MATRIX_LOAD(in));
                high = MATRIX_ADD_PRODUCT(high, factor, MATRIX_LOAD(in + MATRIX_LANES));
            }
            MATRIX_STORE(out, low);
            MATRIX_STORE(out + MATRIX_LANES, high);
        }
}

static uint64_t matrix_work(unsigned times) {
    uint64_t sum = 0;
    while (times--) {
        matrix_left[times % MATRIX_SIZE] = times;
        matrix_multiply();
        sum = mix_bytes(sum, matrix_product + times % MATRIX_SIZE, sizeof(double));
    }
    return mix_bytes(sum, matrix_product, MATRIX_SIZE * MATRIX_SIZE * sizeof(double));
}
