// Sixteen sums of products of whole numbers: codes of weights without sign, activations with. Every product of 32 inputs is exact,
// so nothing here has an order to keep.
#pragma once
#include "core.h"

namespace llmc {

constexpr int STEP = 32;   // inputs that are multiplied at once; what groups and padded rows are multiples of

#if defined(__AVX512VNNI__)
struct Sums {
    __m512i part;
};
constexpr int TILE_ROWS = 6, TILE_PANELS = 2;   // sums of a tile, as many as registers hold beside what they are added to
#else
struct Sums {
    int32_t lane[LANES] __attribute__((aligned(64)));
};
constexpr int TILE_ROWS = 4, TILE_PANELS = 1;
#endif

// Four activations, which every lane multiplies with four codes of its own.
inline int32_t four(const int8_t* x) {
    int32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    return bits;
}

// How a panel stores 32 inputs of its 16 outputs: NIBBLES, 256 bytes: byte 64 i + 4 lane + j holds input 8 i + j in its low half
// and 8 i + 4 + j in its high half. CODES and BYTES, 512 bytes: byte 64 i + 4 lane + j is input 4 i + j; CODES are below 16.
enum Storage { NIBBLES, CODES, BYTES };
constexpr int step_bytes(Storage storage) { return storage == NIBBLES ? 256 : 512; }

#if defined(__AVX512VNNI__)

inline Sums all_sums(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Lanes floats(const Sums& s) { return each([&](int) { return Part(_mm512_cvtepi32_ps(s.part)); }); }

// codes of a group's zero points times minus the sum of its activations, which 16 bits hold
inline Sums zeros_times(const uint8_t* zero, int32_t minus_sum) {
    const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zero)));
    return {_mm512_madd_epi16(z, _mm512_set1_epi32(minus_sum))};
}

// s[r][p] += 32 activations of row r times those of panel p.
template <Storage STORAGE, int ROWS, int PANELS>
inline void multiply_step(const uint8_t* w, int64_t panel, const int8_t* x, int64_t row, Sums s[ROWS][PANELS]) {
    constexpr int halves = STORAGE == NIBBLES ? 2 : 1;
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int i = 0; i < 8 / halves; i++) {
        __m512i codes[PANELS][halves];
#pragma GCC unroll 2
        for (int p = 0; p < PANELS; p++) {
            codes[p][0] = _mm512_loadu_si512(w + p * panel + 64 * i);
            if (halves == 2) {
                codes[p][halves - 1] = _mm512_and_si512(_mm512_srli_epi16(codes[p][0], 4), low);
                codes[p][0] = _mm512_and_si512(codes[p][0], low);
            }
        }
#pragma GCC unroll 2
        for (int h = 0; h < halves; h++)
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const __m512i four_ = _mm512_set1_epi32(four(x + r * row + 4 * (halves * i + h)));
#pragma GCC unroll 2
                for (int p = 0; p < PANELS; p++) s[r][p].part = _mm512_dpbusd_epi32(s[r][p].part, codes[p][h], four_);
            }
    }
}

#else

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

#if defined(__AVX2__)

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

#else

template <Storage STORAGE, int ROWS, int PANELS>
inline void multiply_step(const uint8_t* w, int64_t, const int8_t* x, int64_t row, Sums s[ROWS][PANELS]) {
    constexpr int halves = STORAGE == NIBBLES ? 2 : 1, offset = STORAGE == BYTES ? 128 : 0;
    for (int i = 0; i < 8 / halves; i++)
        for (int h = 0; h < halves; h++) {
            int16_t codes[4][LANES];
            for (int j = 0; j < 4; j++)
                for (int lane = 0; lane < LANES; lane++) {
                    const uint8_t byte = w[64 * i + 4 * lane + j];
                    codes[j][lane] = int16_t((halves == 1 ? byte : h ? byte >> 4 : byte & 15) - offset);
                }
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 4; j++) {
                    const int16_t factor = x[r * row + 4 * (halves * i + h) + j];
                    for (int lane = 0; lane < LANES; lane++) s[r][0].lane[lane] += int32_t(codes[j][lane]) * factor;
                }
        }
}

#endif
#endif

#if defined(__AVX512VNNI__)
constexpr int BYTES_ZERO = 128;   // BYTES are multiplied as they are stored, 128 too large
#else
constexpr int BYTES_ZERO = 0;
#endif

}  // namespace llmc
