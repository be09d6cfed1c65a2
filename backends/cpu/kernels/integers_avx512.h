// Sums of whole numbers with AVX-512 VNNI: four products of bytes a lane are added at once, BYTES as they are stored.
#pragma once
#include "integers.h"

namespace llmc {

struct Sums {
    __m512i part;
};
constexpr int TILE_PANELS = 2;
constexpr int tile_rows(Storage storage) { return storage == NIBBLES ? 6 : storage == CODES ? 7 : 8; }
constexpr int BYTES_ZERO = 128;

inline Sums all_sums(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Lanes floats(const Sums& s) { return each([&](int) { return Part(_mm512_cvtepi32_ps(s.part)); }); }

// codes of a group's zero points times minus the sum of its activations, which 16 bits hold
inline Sums zeros_times(const uint8_t* zero, int32_t minus_sum) {
    const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zero)));
    return {_mm512_madd_epi16(z, _mm512_set1_epi32(minus_sum))};
}

// s += four products of bytes a lane. Written out: of the intrinsic g++ 12 loads codes anew for every row and moves sums about.
inline void add_products(__m512i& s, __m512i codes, __m512i four) { __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(codes), "v"(four)); }

// s[r][p] += 32 activations of row r times those of panel p.
template <Storage STORAGE, int ROWS, int PANELS>
inline void multiply_step(const uint8_t* w, int64_t panel, const int8_t* x, int64_t row, Sums s[ROWS][PANELS]) {
    constexpr int halves = STORAGE == NIBBLES ? 2 : 1;
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 16
    for (int i = 0; i < 8 / halves; i++) {
        __m512i codes[PANELS][halves];
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; p++) {
            codes[p][0] = _mm512_loadu_si512(w + p * panel + 64 * i);
            if (halves == 2) {
                codes[p][halves - 1] = _mm512_and_si512(_mm512_srli_epi16(codes[p][0], 4), low);
                codes[p][0] = _mm512_and_si512(codes[p][0], low);
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < halves; h++)
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                const __m512i four_ = _mm512_set1_epi32(four(x + r * row + 4 * (halves * i + h)));
#pragma GCC unroll 4
                for (int p = 0; p < PANELS; p++) add_products(s[r][p].part, codes[p][h], four_);
            }
    }
}

}  // namespace llmc
