// Sums of whole numbers in C++ alone.
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

}  // namespace llmc
