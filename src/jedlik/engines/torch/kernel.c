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

#define MAX_GROUP 64
#define MAX_DIM 512

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
    /* 2^(x log2 e): integer part into the exponent, a polynomial for the rest; about 2e-7 relative. */
    x = x < -87.0f ? -87.0f : x;
    float t = x * 1.44269504f, n = (float)(int32_t)(t - 0.5f), f = (t - n) * 0.69314718f;
    float p = 1.0f + f * (1.0f + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * (0.00833333333f + f *
              (0.00138888889f + f * 0.000198412698f))))));
    int32_t bits = ((int32_t)n + 127) << 23;
    float two_n;
    memcpy(&two_n, &bits, 4);
    return p * two_n;
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
#include __FILE__
#undef T
#undef NAME
#undef LOAD
#undef STORE
#define T uint16_t
#define NAME(x) x##_bf16
#define LOAD(x) widen_bf16(x)
#define STORE(x) narrow_bf16(x)
#include __FILE__

#else

static void NAME(row)(const Call *c, int64_t item) {
    const int64_t r = item / c->kv_heads, kvh = item % c->kv_heads, d = c->head_dim, group = c->heads / c->kv_heads;
    const int64_t length = c->length[r], t = c->row[r];
    const int64_t first = c->window > 0 && length > c->window ? length - c->window : 0, n = length - first;
    const int32_t *table = c->tables + c->lane[r] * c->table_stride;
    const T *k = (const T *)c->k + kvh * c->head_stride, *v = (const T *)c->v + kvh * c->head_stride;
    const float scale = (float)c->scale, cap = (float)c->softcap;
    float q[MAX_GROUP][MAX_DIM], acc[MAX_GROUP][MAX_DIM], x[MAX_DIM], top[MAX_GROUP], sum[MAX_GROUP];
    float *score = malloc(sizeof(float) * (size_t)(group * n));
    for (int64_t g = 0; g < group; g++) {
        const T *from = (const T *)c->q + t * c->q_row + (kvh * group + g) * c->q_head;
        for (int64_t i = 0; i < d; i++) { q[g][i] = LOAD(from[i]) * scale; acc[g][i] = 0; }
        top[g] = -3.0e38f;
        sum[g] = 0;
    }
    for (int64_t p = first; p < length; p++) {
        const T *from = k + table[p / c->block_size] * c->block_stride + (p % c->block_size) * c->token_stride;
        for (int64_t i = 0; i < d; i++) x[i] = LOAD(from[i]);
        for (int64_t g = 0; g < group; g++) {
            float s = 0;
            for (int64_t i = 0; i < d; i++) s += q[g][i] * x[i];
            if (cap > 0) s = cap * tanh_exact(s / cap);
            score[g * n + p - first] = s;
            top[g] = s > top[g] ? s : top[g];
        }
    }
    for (int64_t g = 0; g < group; g++) {
        float total = 0, high = top[g], *row = score + g * n;
        for (int64_t j = 0; j < n; j++) { row[j] = exp_fast(row[j] - high); total += row[j]; }
        sum[g] = total;
    }
    for (int64_t p = first; p < length; p++) {
        const T *from = v + table[p / c->block_size] * c->block_stride + (p % c->block_size) * c->token_stride;
        for (int64_t i = 0; i < d; i++) x[i] = LOAD(from[i]);
        for (int64_t g = 0; g < group; g++) {
            const float w = score[g * n + p - first];
            for (int64_t i = 0; i < d; i++) acc[g][i] += w * x[i];
        }
    }
    for (int64_t g = 0; g < group; g++) {
        T *to = (T *)c->out + (t * c->heads + kvh * group + g) * d;
        const float inverse = 1.0f / sum[g];
        for (int64_t i = 0; i < d; i++) to[i] = STORE(acc[g][i] * inverse);
    }
    free(score);
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
    for (int64_t item = 0; item < items; item++) NAME(row)(c, item);
}
#endif
