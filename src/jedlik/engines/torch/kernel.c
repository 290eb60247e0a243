/* Paged attention for single query rows on a CPU, and the write of new keys and values into the pool.
 *
 * Included twice by preprocessor: fp32 and bf16. One work item is (query row, kv head): all query heads of the group
 * share each K and V read. Keys are visited in order of position, so a row's result depends on that row alone, not on
 * its neighbours in the batch. Strides are in elements; head_dim is contiguous everywhere.
 */
#ifndef BODY
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TILE 16
#define ALWAYS_INLINE inline __attribute__((always_inline))

typedef struct {
    /* per step */
    const int32_t *tables, *row, *lane, *length; /* tables[lane][block]; length: keys visible, the row's own included */
    const int64_t *slot_block, *slot_offset;     /* where token t of the step is kept */
    int64_t table_stride, rows, tokens;
    /* per model */
    int64_t heads, kv_heads, head_dim, block_size, block_stride, token_stride, head_stride, threads;
    /* per layer */
    const void *q, *k_new, *v_new;
    void *k, *v, *out; /* k, v: this layer's in block 0 of the pool; out is [tokens, heads, head_dim] */
    int64_t q_row, q_head, kn_row, kn_head, vn_row, vn_head, window;
    double scale, softcap;
} Call;

static inline float exp_fast(float x) {
    /* 2^(x log2 e): integer part into the exponent, a polynomial for the rest; about 1e-6 relative. */
    x = x < -87.0f ? -87.0f : x;
    const float n = __builtin_rintf(x * 1.44269504f), y = x - n * 0.693147181f;
    const float p = 1.0f + y * (1.0f + y * (0.5f + y * (0.166666667f + y * (0.0416666667f + y * (0.00833333333f + y *
                    0.00138888889f)))));
    union { int32_t i; float f; } two_n = {((int32_t)n + 127) << 23};
    return p * two_n.f;
}
static inline float tanh_exact(float x) {
    float e = exp_fast(-2.0f * (x < 0 ? -x : x)), t = (1.0f - e) / (1.0f + e);
    return x < 0 ? -t : t;
}
static inline float widen_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint16_t narrow_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16); /* to nearest even */
}

#define BODY
#define T float
#define NAME(x) x##_f32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "kernel.c"
#undef T
#undef NAME
#undef LOAD
#undef STORE
#define T uint16_t
#define NAME(x) x##_bf16
#define LOAD(x) widen_bf16(x)
#define STORE(x) narrow_bf16(x)
#include "kernel.c"

#else

/* Up to TILE keys or values of one block, widened: positions p ... p + count - 1. */
static ALWAYS_INLINE int64_t NAME(tile)(const Call *c, const T *base, const int32_t *table, int64_t p, int64_t end,
                                        const int64_t d, float *x) {
    const int64_t in_block = p % c->block_size;
    int64_t count = c->block_size - in_block;
    count = count > TILE ? TILE : count;
    count = count > end - p ? end - p : count;
    const T *from = base + table[p / c->block_size] * c->block_stride + in_block * c->token_stride;
    /* One head's tokens lie apart, which hardware prefetch does not follow: ask for the next tile while at this one. */
    const int64_t next = p + count < end ? p + count : p;
    const T *ahead = base + table[next / c->block_size] * c->block_stride + (next % c->block_size) * c->token_stride;
    for (int64_t j = 0; j < count; j++) {
        for (int64_t i = 0; i < d; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(ahead + j * c->token_stride + i);
        for (int64_t i = 0; i < d; i++) x[j * d + i] = LOAD(from[j * c->token_stride + i]);
    }
    return count;
}

static ALWAYS_INLINE void NAME(row)(const Call *c, int64_t item, const int64_t d) {
    const int64_t r = item / c->kv_heads, kvh = item % c->kv_heads, group = c->heads / c->kv_heads;
    const int64_t end = c->length[r], t = c->row[r];
    const int64_t first = c->window > 0 && end > c->window ? end - c->window : 0, n = end - first;
    const int32_t *table = c->tables + c->lane[r] * c->table_stride;
    const T *k = (const T *)c->k + kvh * c->head_stride, *v = (const T *)c->v + kvh * c->head_stride;
    const float scale = (float)c->scale, cap = (float)c->softcap;
    float *memory = malloc(sizeof(float) * (size_t)(group * n + 2 * group * d + TILE * d));
    float *score = memory, *q = score + group * n, *acc = q + group * d, *x = acc + group * d;
    for (int64_t g = 0; g < group; g++) {
        const T *from = (const T *)c->q + t * c->q_row + (kvh * group + g) * c->q_head;
        for (int64_t i = 0; i < d; i++) q[g * d + i] = LOAD(from[i]) * scale;
        for (int64_t i = 0; i < d; i++) acc[g * d + i] = 0;
    }
    for (int64_t p = first, count; p < end; p += count) {
        count = NAME(tile)(c, k, table, p, end, d, x);
        for (int64_t g = 0; g < group; g++)
            for (int64_t j = 0; j < count; j++) {
                float s = 0;
                for (int64_t i = 0; i < d; i++) s += q[g * d + i] * x[j * d + i];
                score[g * n + p - first + j] = s;
            }
    }
    for (int64_t g = 0; g < group; g++) {
        float *of = score + g * n, high = -3.0e38f, total = 0;
        if (cap > 0)
            for (int64_t j = 0; j < n; j++) of[j] = cap * tanh_exact(of[j] / cap);
#pragma omp simd reduction(max : high)
        for (int64_t j = 0; j < n; j++) high = of[j] > high ? of[j] : high;
        for (int64_t j = 0; j < n; j++) { of[j] = exp_fast(of[j] - high); total += of[j]; }
        for (int64_t j = 0; j < n; j++) of[j] /= total;
    }
    for (int64_t p = first, count; p < end; p += count) {
        count = NAME(tile)(c, v, table, p, end, d, x);
        for (int64_t g = 0; g < group; g++) {
            const float *weight = score + g * n + p - first;
            /* A constant number of lanes at a time, so that they stay in registers over the tile's values. */
            int64_t i = 0;
            for (; i + 64 <= d; i += 64) {
                float sum[64];
                memcpy(sum, acc + g * d + i, sizeof sum);
                for (int64_t j = 0; j < count; j++)
                    for (int64_t l = 0; l < 64; l++) sum[l] += weight[j] * x[j * d + i + l];
                memcpy(acc + g * d + i, sum, sizeof sum);
            }
            for (int64_t j = 0; j < count; j++)
                for (int64_t l = i; l < d; l++) acc[g * d + l] += weight[j] * x[j * d + l];
        }
    }
    for (int64_t g = 0; g < group; g++) {
        T *to = (T *)c->out + (t * c->heads + kvh * group + g) * d;
        for (int64_t i = 0; i < d; i++) to[i] = STORE(acc[g * d + i]);
    }
    free(memory);
}

/* Constant dimensions let the compiler unroll; others go the general way. */
static void NAME(item)(const Call *c, int64_t item) {
    switch (c->head_dim) {
    case 64: NAME(row)(c, item, 64); return;
    case 128: NAME(row)(c, item, 128); return;
    case 256: NAME(row)(c, item, 256); return;
    default: NAME(row)(c, item, c->head_dim);
    }
}

void NAME(attend)(const Call *c) {
    const size_t bytes = sizeof(T) * (size_t)c->head_dim;
    for (int64_t t = 0; t < c->tokens; t++) {
        const int64_t at = c->slot_block[t] * c->block_stride + c->slot_offset[t] * c->token_stride;
        for (int64_t h = 0; h < c->kv_heads; h++) {
            memcpy((T *)c->k + at + h * c->head_stride, (const T *)c->k_new + t * c->kn_row + h * c->kn_head, bytes);
            memcpy((T *)c->v + at + h * c->head_stride, (const T *)c->v_new + t * c->vn_row + h * c->vn_head, bytes);
        }
    }
    const int64_t items = c->rows * c->kv_heads;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads((int)c->threads) if (c->threads > 1 && items > 1)
#endif
    for (int64_t item = 0; item < items; item++) NAME(item)(c, item);
}
#endif
