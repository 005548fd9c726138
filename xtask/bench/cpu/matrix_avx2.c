/* Matrix product with vectors of four doubles and fused multiply-add: x86-64-v3. */
#include <immintrin.h>

#define MATRIX_TARGET __attribute__((target("avx2,fma")))
#define MATRIX_LANES 4
#define MATRIX_VECTOR __m256d
#define MATRIX_LOAD _mm256_load_pd
#define MATRIX_STORE _mm256_store_pd
#define MATRIX_SPLAT _mm256_set1_pd
#define MATRIX_ADD_PRODUCT(sum, x, y) _mm256_fmadd_pd(x, y, sum)
#include "matrix.h"

static const char *matrix_obstacle(void) {
    bool able = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return able ? NULL : "the CPU lacks AVX2 or FMA";
}

const struct row matrix_avx2 = {
    .name = "simd/matrix-avx2",
    .obstacle = matrix_obstacle,
    .prepare = matrix_prepare,
    .work = matrix_work,
    .warm_up = 40,
    .times = 1400,
};
