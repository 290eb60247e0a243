/* y = x W^T + b for bfloat16 on CPUs with AVX512-BF16: sums in float32, rounded once.
 *
 * W is packed in panels of 32 outputs: [panel][input pair][32 outputs][2], so that one instruction multiplies a pair of
 * inputs with 16 outputs, and a small batch reads the weights once, in order. A row's sums are taken in the same order
 * whatever the batch. Rows are taken ROWS at a time: 2 * ROWS sums stay in registers.
 */
#if defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <stdint.h>

#define ROWS 12

static inline void store(uint16_t *to, __m512 sum, __mmask16 mask) {
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(sum));
}

#define TILE(R)                                                                                                        \
    static void tile_##R(const uint16_t *x, int64_t x_row, const uint16_t *w, const float *bias, uint16_t *out,        \
                         int64_t outputs, int64_t pairs, __mmask32 mask) {                                             \
        __m512 low[R], high[R];                                                                                        \
        for (int r = 0; r < R; r++) low[r] = _mm512_loadu_ps(bias), high[r] = _mm512_loadu_ps(bias + 16);              \
        for (int64_t k = 0; k < pairs; k++, w += 64) {                                                                 \
            const __m512bh a = (__m512bh)_mm512_loadu_si512(w), b = (__m512bh)_mm512_loadu_si512(w + 32);              \
            _mm_prefetch((const char *)(w + 1024), _MM_HINT_T0);                                                       \
            _mm_prefetch((const char *)(w + 1056), _MM_HINT_T0);                                                       \
            for (int r = 0; r < R; r++) {                                                                              \
                int32_t pair;                                                                                          \
                __builtin_memcpy(&pair, x + r * x_row + 2 * k, 4);                                                     \
                const __m512bh in = (__m512bh)_mm512_set1_epi32(pair);                                                 \
                low[r] = _mm512_dpbf16_ps(low[r], a, in);                                                              \
                high[r] = _mm512_dpbf16_ps(high[r], b, in);                                                            \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < R; r++) {                                                                                  \
            store(out + r * outputs, low[r], (__mmask16)mask);                                                         \
            store(out + r * outputs + 16, high[r], (__mmask16)(mask >> 16));                                           \
        }                                                                                                              \
    }

TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)

typedef void (*Tile)(const uint16_t *, int64_t, const uint16_t *, const float *, uint16_t *, int64_t, int64_t, __mmask32);
static const Tile TILES[] = {0,      tile_1, tile_2, tile_3,  tile_4,  tile_5, tile_6,
                             tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};

/* x [rows, 2 * pairs] with row stride x_row, w packed, bias [panels * 32], out [rows, outputs] contiguous. */
void linear_bf16(const uint16_t *x, int64_t x_row, const uint16_t *w, const float *bias, uint16_t *out, int64_t rows,
                 int64_t outputs, int64_t pairs, int64_t threads) {
    const int64_t panels = (outputs + 31) / 32;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t p = 0; p < panels; p++) {
        const int64_t left = outputs - p * 32;
        const __mmask32 mask = left >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << left) - 1;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int64_t count = rows - r < ROWS ? rows - r : ROWS;
            TILES[count](x + r * x_row, x_row, w + p * pairs * 64, bias + p * 32, out + r * outputs + p * 32, outputs,
                         pairs, mask);
        }
    }
}
#endif
