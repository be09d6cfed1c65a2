// Norms and rotary positions, a row at a time.
#pragma once
#include "core.h"

namespace llmc {

// OUTER rows of D in each of `rows`, which are `stride` apart; weight and bias may be null.
template <int OUTER, int D>
ONCE void rms_norm(const float* x, int64_t stride, const float* weight, float eps, float* y, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int o = 0; o < OUTER; o++) {
            const float* in = x + r * stride + o * D;
            float* out = y + (r * OUTER + o) * D;
            const float scale = 1.0f / std::sqrt(dot<D>(in, in) / D + eps);
            if (weight)
                for (int i = 0; i < D; i++) out[i] = in[i] * scale * weight[i];
            else
                for (int i = 0; i < D; i++) out[i] = in[i] * scale;
        }
}

template <int OUTER, int D>
ONCE void layer_norm(const float* x, int64_t stride, const float* weight, const float* bias, float eps, float* y, int64_t rows,
                     Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int o = 0; o < OUTER; o++) {
            const float* in = x + r * stride + o * D;
            float* out = y + (r * OUTER + o) * D;
            const float mean = total<D>(in) / D;
            for (int i = 0; i < D; i++) out[i] = in[i] - mean;
            const float scale = 1.0f / std::sqrt(dot<D>(out, out) / D + eps);
            for (int i = 0; i < D; i++) {
                const float value = weight ? out[i] * scale * weight[i] : out[i] * scale;
                out[i] = bias ? value + bias[i] : value;
            }
        }
}

// A sum and its norm: OUTER rows of D in each of `rows`, whose sums are `sum_stride` apart and norms `y_stride`.
template <int OUTER, int D>
ONCE void add_rms_norm(const float* x, int64_t stride, const float* residual, int64_t residual_stride, const float* weight,
                       float eps, float* sum, int64_t sum_stride, float* y, int64_t y_stride, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++) {
        float* out = sum + r * sum_stride;
        for (int i = 0; i < OUTER * D; i++) out[i] = x[r * stride + i] + residual[r * residual_stride + i];
        rms_norm<OUTER, D>(out, 0, weight, eps, y + r * y_stride, 1, Team{0, 1});
    }
}

template <int OUTER, int D>
ONCE void add_layer_norm(const float* x, int64_t stride, const float* residual, int64_t residual_stride, const float* weight,
                         const float* bias, float eps, float* sum, int64_t sum_stride, float* y, int64_t y_stride, int64_t rows,
                         Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++) {
        float* out = sum + r * sum_stride;
        for (int i = 0; i < OUTER * D; i++) out[i] = x[r * stride + i] + residual[r * residual_stride + i];
        layer_norm<OUTER, D>(out, 0, weight, bias, eps, y + r * y_stride, 1, Team{0, 1});
    }
}

// The first 2 P elements of a head turn by (cos, sin)[P]; HALVES: element i with i + P, else 2 i with 2 i + 1. A function of its own: what
// g++ makes of pairs rounds once or twice, depending on what stands around them, and must be the same wherever heads are turned.
template <int D, int P, bool HALVES>
ONCE inline void turn(const float* in, const float* cos, const float* sin, float* out) {
    for (int i = 0; i < P; i++) {
        const int a = HALVES ? i : 2 * i, b = HALVES ? i + P : 2 * i + 1;
        const float low = in[a], high = in[b];
        out[a] = low * cos[i] - high * sin[i];
        out[b] = high * cos[i] + low * sin[i];
    }
    for (int i = 2 * P; i < D; i++) out[i] = in[i];
}

template <int H, int D, int P, bool HALVES>
void rope(const float* x, int64_t stride, const float* cos, int64_t cs, const float* sin, int64_t ss, float* y, int64_t rows,
          Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int h = 0; h < H; h++)
            turn<D, P, HALVES>(x + r * stride + h * D, cos + r * cs, sin + r * ss, y + (r * H + h) * D);
}

}  // namespace llmc
