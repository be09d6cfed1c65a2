// Products with weights. Every output is summed in one order: over k in blocks of 256, each block from its start; so a row's
// result does not depend on how many rows there are, nor on the thread that computes it.
#pragma once
#include "linear.h"

namespace llmc {

constexpr int K_BLOCK = 256;

// ROWS rows by PANELS panels of sixteen outputs. w: [panel][K][16].
template <int ROWS, int PANELS, int K>
inline void tile_f32(const float* x, int64_t stride, const float* w, Lanes out[ROWS][PANELS]) {
    for (int k0 = 0; k0 < K; k0 += K_BLOCK) {
        const int k1 = k0 + K_BLOCK < K ? k0 + K_BLOCK : K;
        Lanes s[ROWS][PANELS] = {};
        for (int k = k0; k < k1; k++)
#pragma GCC unroll 8  // so that the sums stay in registers
            for (int p = 0; p < PANELS; p++) {
                const Lanes column = load(w + (int64_t(p) * K + k) * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) s[r][p] = madd(all(x[r * stride + k]), column, s[r][p]);
            }
        for (int r = 0; r < ROWS; r++)
            for (int p = 0; p < PANELS; p++) out[r][p] = k0 ? out[r][p] + s[r][p] : s[r][p];
    }
}

template <int ROWS, int PANELS, int N, int K>
inline void put_f32(const float* x, int64_t stride, const float* w, const float* bias, float* y, int64_t n) {
    Lanes out[ROWS][PANELS];
    tile_f32<ROWS, PANELS, K>(x, stride, w + n * K, out);
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PANELS; p++) {
            const int64_t first = n + p * LANES;
            float values[LANES];
            store(values, out[r][p]);
            const int64_t count = N - first < LANES ? N - first : LANES;
            for (int64_t i = 0; i < count; i++) y[r * N + first + i] = bias ? values[i] + bias[first + i] : values[i];
        }
}

// y[rows][N] = x[rows][K] w^T + bias; the panels of w are split over the team.
template <int N, int K>
void linear_f32(const float* x, int64_t stride, const float* w, const float* bias, float* y, int64_t rows, Team team) {
    constexpr int64_t panels = (N + LANES - 1) / LANES;
    const int64_t last = team.stop(panels);
    int64_t panel = team.start(panels);
    if (rows < 4) {
        for (; panel + 4 <= last; panel += 4)
            for (int64_t r = 0; r < rows; r++)
                put_f32<1, 4, N, K>(x + r * stride, stride, w, bias, y + r * N, panel * LANES);
    }
    for (; panel < last; panel++) {
        int64_t r = 0;
        for (; r + 6 <= rows; r += 6) put_f32<6, 1, N, K>(x + r * stride, stride, w, bias, y + r * N, panel * LANES);
        for (; r + 2 <= rows; r += 2) put_f32<2, 1, N, K>(x + r * stride, stride, w, bias, y + r * N, panel * LANES);
        for (; r < rows; r++) put_f32<1, 1, N, K>(x + r * stride, stride, w, bias, y + r * N, panel * LANES);
    }
}

// x . w over K whole numbers, of which the last are zeros up to padded(K): element k goes to partial sum k % 16.
template <int K>
inline float dot_w8(const float* x, const int8_t* w) {
    Lanes s = {};
    for (int k = 0; k < padded(K); k += LANES) {
        float tail[LANES] = {};
        if (k + LANES > K) std::memcpy(tail, x + k, (K > k ? K - k : 0) * sizeof(float));
        s = madd(load(k + LANES > K ? tail : x + k), load(w + k), s);
    }
    return sum(s);
}

// y = x (w * w_scale)^T + bias with x as it is.
template <int N, int K>
void linear_w8(const float* x, int64_t stride, const int8_t* w, const float* w_scale, const float* bias, float* y, int64_t rows,
               Team team) {
    for (int64_t n = team.start(N); n < team.stop(N); n++)
        for (int64_t r = 0; r < rows; r++) {
            const float value = dot_w8<K>(x + r * stride, w + n * padded(K)) * w_scale[n];
            y[r * N + n] = bias ? value + bias[n] : value;
        }
}

template <int ROWS, int K>
inline void dot_i8(const int16_t* x, const int8_t* w, int32_t* out) {
    int32_t s[ROWS] = {};
    for (int k = 0; k < padded(K); k++) {
        const int16_t weight = w[k];
        for (int r = 0; r < ROWS; r++) s[r] += int32_t(x[r * padded(K) + k]) * int32_t(weight);
    }
    for (int r = 0; r < ROWS; r++) out[r] = s[r];
}

template <int ROWS, int N, int K>
inline void put_i8(const int16_t* x, const float* scale, const int8_t* w, float ws, const float* bias, float* y, int64_t n) {
    int32_t s[ROWS];
    dot_i8<ROWS, K>(x, w + n * padded(K), s);
    for (int r = 0; r < ROWS; r++) {
        const float value = float(s[r]) * (scale[r] * ws);
        y[r * N + n] = bias ? value + bias[n] : value;
    }
}

// y = (q * scale) (w * w_scale)^T + bias, summed in whole numbers: no order to keep.
template <int N, int K>
void linear_i8(const int16_t* q, const float* scale, const int8_t* w, const float* w_scale, const float* bias, float* y,
               int64_t rows, Team team) {
    const int64_t first = team.start(N), last = team.stop(N);
    constexpr int64_t group = 32;  // rows of w kept in the first cache while rows of x pass
    for (int64_t n0 = first; n0 < last; n0 += group) {
        const int64_t n1 = n0 + group < last ? n0 + group : last;
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4)
            for (int64_t n = n0; n < n1; n++)
                put_i8<4, N, K>(q + r * padded(K), scale + r, w, w_scale[n], bias, y + r * N, n);
        for (; r < rows; r++)
            for (int64_t n = n0; n < n1; n++)
                put_i8<1, N, K>(q + r * padded(K), scale + r, w, w_scale[n], bias, y + r * N, n);
    }
}

}  // namespace llmc
