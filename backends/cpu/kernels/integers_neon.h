// Sums of whole numbers with the dot products of Armv8.2: each multiplies four words of codes by one word of activations, which
// is taken from a register that holds four of them.
#pragma once
#include "integers.h"

namespace llmc {

struct Sums {
    int32x4_t part[LANES / 4];
};
constexpr int TILE_PANELS = 1;
constexpr int tile_rows(Storage) { return 4; }   // 16 sums, 4 registers of codes and 4 of activations, of 32

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int BYTES_ZERO = 128;   // codes are taken as they are, without sign
#else
constexpr int BYTES_ZERO = 0;
#endif

inline Sums all_sums(int32_t x) {
    const int32x4_t all = vdupq_n_s32(x);
    return {{all, all, all, all}};
}

inline Lanes floats(const Sums& s) {
    return each([&](int i) { return Part(vcvtq_f32_s32(s.part[i])); });
}

inline Sums zeros_times(const uint8_t* zero, int32_t minus_sum) {
    const uint8x16_t bytes = vld1q_u8(zero);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    const auto times = [=](uint16x4_t z) { return vmulq_n_s32(vreinterpretq_s32_u32(vmovl_u16(z)), minus_sum); };
    return {{times(vget_low_u16(low)), times(vget_high_u16(low)), times(vget_low_u16(high)), times(vget_high_u16(high))}};
}

// sum + the four products of each word of codes and word WORD of activations.
template <Storage STORAGE, int WORD>
inline int32x4_t dot_word(int32x4_t sum, uint8x16_t codes, int8x16_t x) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vusdotq_laneq_s32(sum, codes, x, WORD);
#else
    return vdotq_laneq_s32(sum, vreinterpretq_s8_u8(STORAGE == BYTES ? veorq_u8(codes, vdupq_n_u8(128)) : codes), x, WORD);
#endif
}

// The codes of word `word` of 32 inputs for outputs 4 i to 4 i + 3.
template <Storage STORAGE>
inline uint8x16_t load_codes(const uint8_t* w, int word, int i) {
    if (STORAGE != NIBBLES) return vld1q_u8(w + 64 * word + 16 * i);
    const uint8x16_t both = vld1q_u8(w + 64 * (word / 2) + 16 * i);
    return word % 2 ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15));
}

// Word WORD of the four that x holds of each row, which is word `first` + WORD of the 32 inputs.
template <int WORD, Storage STORAGE, int ROWS, int PANELS>
inline void multiply_word(const uint8_t* w, int64_t panel, int first, const int8x16_t x[ROWS], Sums s[ROWS][PANELS]) {
#pragma GCC unroll 2
    for (int p = 0; p < PANELS; p++) {
        uint8x16_t codes[LANES / 4];
#pragma GCC unroll 4
        for (int i = 0; i < LANES / 4; i++) codes[i] = load_codes<STORAGE>(w + p * panel, first + WORD, i);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int i = 0; i < LANES / 4; i++)
                s[r][p].part[i] = dot_word<STORAGE, WORD>(s[r][p].part[i], codes[i], x[r]);
    }
}

// s[r][p] += 32 activations of row r times those of panel p.
template <Storage STORAGE, int ROWS, int PANELS>
inline void multiply_step(const uint8_t* w, int64_t panel, const int8_t* x, int64_t row, Sums s[ROWS][PANELS]) {
#pragma GCC unroll 2
    for (int first = 0; first < 8; first += 4) {
        int8x16_t four_words[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) four_words[r] = vld1q_s8(x + r * row + 4 * first);
        multiply_word<0, STORAGE, ROWS, PANELS>(w, panel, first, four_words, s);
        multiply_word<1, STORAGE, ROWS, PANELS>(w, panel, first, four_words, s);
        multiply_word<2, STORAGE, ROWS, PANELS>(w, panel, first, four_words, s);
        multiply_word<3, STORAGE, ROWS, PANELS>(w, panel, first, four_words, s);
    }
}

}  // namespace llmc
