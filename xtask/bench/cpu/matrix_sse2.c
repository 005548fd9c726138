/* Matrix product with vectors of two doubles: what a compiler makes of loops for any x86-64. */
#include <emmintrin.h>

#define MATRIX_TARGET
#define MATRIX_LANES 2
#define MATRIX_VECTOR __m128d
#define MATRIX_LOAD _mm_load_pd
#define MATRIX_STORE _mm_store_pd
#define MATRIX_SPLAT _mm_set1_pd
#define MATRIX_ADD_PRODUCT(sum, x, y) _mm_add_pd(sum, _mm_mul_pd(x, y))
#include "matrix.h"

const struct row matrix_sse2 = {
    .name = "simd/matrix-sse2",
    .prepare = matrix_prepare,
    .work = matrix_work,
    .warm_up = 20,
    .times = 1000,
};
