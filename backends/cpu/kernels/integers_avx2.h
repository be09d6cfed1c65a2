// Sums of whole numbers with AVX2, in two halves of a panel.
#pragma once
#include "integers.h"

namespace llmc {

struct Sums {
    int32_t lane[LANES] __attribute__((aligned(64)));
};
constexpr int TILE_PANELS = 1;
constexpr int tile_rows(Storage) { return 4; }
constexpr int BYTES_ZERO = 0;

inline Sums all_sums(int32_t x) {
    Sums s;
    for (int i = 0; i < LANES; i++) s.lane[i] = x;
    return s;
}

inline Lanes floats(const Sums& s) {
    float y[LANES];
    for (int i = 0; i < LANES; i++) y[i] = float(s.lane[i]);
    return load(y);
}

inline Sums zeros_times(const uint8_t* zero, int32_t minus_sum) {
    Sums s;
    for (int i = 0; i < LANES; i++) s.lane[i] = int32_t(zero[i]) * minus_sum;
    return s;
}

// Products of bytes are added in pairs to 16 bits: 16 pairs of codes below 16 fit; of BYTES not even two do, so those are taken as
// magnitudes of numbers with sign, and the sign is given to the activations.
template <Storage STORAGE, int ROWS, int PANELS>
inline void multiply_step(const uint8_t* w, int64_t, const int8_t* x, int64_t row, Sums s[ROWS][PANELS]) {
    static_assert(PANELS == 1, "two halves of a panel fill the registers");
    constexpr int halves = STORAGE == NIBBLES ? 2 : 1;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1), sign = _mm256_set1_epi8(char(0x80));
#pragma GCC unroll 2
    for (int side = 0; side < 2; side++) {
        __m256i sum[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) sum[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int i = 0; i < 8 / halves; i++) {
            __m256i codes[halves];
            codes[0] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 64 * i + 32 * side));
            if (halves == 2) {
                codes[halves - 1] = _mm256_and_si256(_mm256_srli_epi16(codes[0], 4), low);
                codes[0] = _mm256_and_si256(codes[0], low);
            }
#pragma GCC unroll 2
            for (int h = 0; h < halves; h++)
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) {
                    const __m256i four_ = _mm256_set1_epi32(four(x + r * row + 4 * (halves * i + h)));
                    if (STORAGE == BYTES) {
                        const __m256i number = _mm256_xor_si256(codes[h], sign);
                        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(number), _mm256_sign_epi8(four_, number));
                        sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, ones));
                    } else {
                        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(codes[h], four_));
                    }
                }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            __m256i* lanes = reinterpret_cast<__m256i*>(s[r][0].lane + 8 * side);
            *lanes = _mm256_add_epi32(*lanes, STORAGE == BYTES ? sum[r] : _mm256_madd_epi16(sum[r], ones));
        }
    }
}

}  // namespace llmc
