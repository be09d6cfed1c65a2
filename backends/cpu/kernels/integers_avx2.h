// Sums of whole numbers with AVX2, in two halves of a panel: with VNNI by one instruction, else by products that are added in
// pairs to 16 bits.
#pragma once
#include "integers.h"

namespace llmc {

struct Sums {
    __m256i part[2];
};

inline Sums all_sums(int32_t x) {
    const __m256i all = _mm256_set1_epi32(x);
    return {{all, all}};
}

inline Lanes floats(const Sums& s) {
    return each([&](int i) { return Part(_mm256_cvtepi32_ps(s.part[i])); });
}

// codes of a group's zero points times minus the sum of its activations, which 16 bits hold
inline Sums zeros_times(const uint8_t* zero, int32_t minus_sum) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(zero));
    const __m256i minus = _mm256_set1_epi32(minus_sum);
    return {{_mm256_madd_epi16(_mm256_cvtepu8_epi32(bytes), minus),
             _mm256_madd_epi16(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), minus)}};
}

// Codes of a half of a panel, those of the words that NIBBLES hold together.
template <Storage STORAGE>
inline void load_codes(const uint8_t* at, __m256i codes[STORAGE == NIBBLES ? 2 : 1]) {
    codes[0] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    if constexpr (STORAGE == NIBBLES) {
        const __m256i low = _mm256_set1_epi8(15);
        codes[1] = _mm256_and_si256(_mm256_srli_epi16(codes[0], 4), low);
        codes[0] = _mm256_and_si256(codes[0], low);
    }
}

#if defined(__AVXVNNI__)

constexpr int TILE_PANELS = 1;
constexpr int tile_rows(Storage) { return 6; }   // 12 sums, of 16 registers
constexpr int BYTES_ZERO = 128;

// s[r][p] += 32 activations of row r times those of panel p.
template <Storage STORAGE, int ROWS, int PANELS>
inline void multiply_step(const uint8_t* w, int64_t, const int8_t* x, int64_t row, Sums s[ROWS][PANELS]) {
    static_assert(PANELS == 1, "two halves of a panel fill the registers");
    constexpr int halves = STORAGE == NIBBLES ? 2 : 1;
#pragma GCC unroll 8
    for (int i = 0; i < 8 / halves; i++) {
        __m256i left[halves], right[halves];
        load_codes<STORAGE>(w + 64 * i, left);
        load_codes<STORAGE>(w + 64 * i + 32, right);
#pragma GCC unroll 2
        for (int h = 0; h < halves; h++)
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const __m256i four_ = _mm256_set1_epi32(four(x + r * row + 4 * (halves * i + h)));
                s[r][0].part[0] = _mm256_dpbusd_avx_epi32(s[r][0].part[0], left[h], four_);
                s[r][0].part[1] = _mm256_dpbusd_avx_epi32(s[r][0].part[1], right[h], four_);
            }
    }
}

#else

constexpr int TILE_PANELS = 1;
constexpr int tile_rows(Storage) { return 6; }   // sums of a half of a panel
constexpr int BYTES_ZERO = 0;

// 16 pairs of products of codes below 16 fit in 16 bits. Of BYTES not even two do, so those are taken as magnitudes of numbers with
// sign, and the sign is given to the activations.
template <Storage STORAGE, int ROWS, int PANELS>
inline void multiply_step(const uint8_t* w, int64_t, const int8_t* x, int64_t row, Sums s[ROWS][PANELS]) {
    static_assert(PANELS == 1, "a half of a panel at a time");
    constexpr int halves = STORAGE == NIBBLES ? 2 : 1;
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
    for (int side = 0; side < 2; side++) {
        __asm__ volatile("" ::: "memory");   // activations are read again: kept for the other side, they would fill the registers
        __m256i sum[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) sum[r] = STORAGE == BYTES ? s[r][0].part[side] : _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int i = 0; i < 8 / halves; i++) {
            __m256i codes[halves];
            load_codes<STORAGE>(w + 64 * i + 32 * side, codes);
            if constexpr (STORAGE == BYTES) {
                const __m256i number = _mm256_xor_si256(codes[0], _mm256_set1_epi8(char(0x80))), magnitude = _mm256_abs_epi8(number);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) {
                    const __m256i four_ = _mm256_set1_epi32(four(x + r * row + 4 * i));
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(four_, number));
                    sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, ones));
                }
            } else {
#pragma GCC unroll 2
                for (int h = 0; h < halves; h++)
#pragma GCC unroll 8
                    for (int r = 0; r < ROWS; r++) {
                        const __m256i four_ = _mm256_set1_epi32(four(x + r * row + 4 * (halves * i + h)));
                        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(codes[h], four_));
                    }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            __m256i& lanes = s[r][0].part[side];
            lanes = STORAGE == BYTES ? sum[r] : _mm256_add_epi32(lanes, _mm256_madd_epi16(sum[r], ones));
        }
    }
}

#endif

}  // namespace llmc
