// Products with weights, which linear_impl.h defines, and what stands around them: rounding of rows, tables that are looked up.
#pragma once
#include "core.h"

namespace llmc {

// y[rows][N] = x[rows][K] w^T + bias.
template <int N, int K>
void linear_f32(const float* x, int64_t stride, const float* w, const float* bias, float* y, int64_t rows, Team team);

// y = x (w * w_scale)^T + bias with x as it is.
template <int N, int K>
void linear_w8(const float* x, int64_t stride, const int8_t* w, const float* w_scale, const float* bias, float* y, int64_t rows,
               Team team);

// y = (q * scale) (w * w_scale)^T + bias, summed in whole numbers: no order to keep.
template <int N, int K>
void linear_i8(const int16_t* q, const float* scale, const int8_t* w, const float* w_scale, const float* bias, float* y,
               int64_t rows, Team team);

constexpr int padded(int k) { return (k + 31) / 32 * 32; }

// x in float32, each element rounded to the nearest bfloat16, half to even; an infinity or NaN stays what it is.
template <int K>
void shorten_rows(const float* x, int64_t stride, float* y, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int k = 0; k < K; k++) {
            uint32_t bits;
            std::memcpy(&bits, x + r * stride + k, 4);
            const uint32_t near = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
            bits = (bits & 0x7F800000) == 0x7F800000 ? bits : near;
            std::memcpy(y + r * K + k, &bits, 4);
        }
}

// Each row of x as whole multiples of (its largest magnitude / 127), in 16 bits so that products need no widening. Magnitudes
// are compared as the integers of their bits, which has no order to keep. A row with an infinity or NaN has the scale NaN, as
// all that is computed from it must be.
template <int K>
void quantize_rows(const float* x, int64_t stride, int16_t* q, float* scale, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++) {
        const float* row = x + r * stride;
        int32_t bits = 0;
        for (int k = 0; k < K; k++) {
            int32_t magnitude;
            std::memcpy(&magnitude, row + k, 4);
            magnitude &= 0x7FFFFFFF;
            bits = magnitude > bits ? magnitude : bits;
        }
        float largest;
        std::memcpy(&largest, &bits, 4);
        const bool finite = bits < 0x7F800000;
        const float inverse = finite && largest > 0 ? 127.0f / largest : 0;
        int16_t* out = q + r * padded(K);
        for (int k = 0; k < K; k++) {
            const float value = row[k] * inverse + 12582912.0f - 12582912.0f;  // to the nearest, half to even
            out[k] = int16_t(finite ? value : 0.0f);
        }
        for (int k = K; k < padded(K); k++) out[k] = 0;
        scale[r] = finite ? largest / 127.0f : NAN;
    }
}

// Such rows as floats again, for weights that are no whole numbers.
template <int K>
void restore_rows(const int16_t* q, const float* scale, float* y, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int k = 0; k < K; k++) y[r * K + k] = float(q[r * padded(K) + k]) * scale[r];
}

// Rows of a table of V entries by id; entry(id, k) is element k. An id outside the table gives a row of NaN: nothing is read
// that is not there, and nobody takes the row for an answer.
template <int64_t V, int D, class F>
inline void look_up(const int64_t* ids, float* y, int64_t rows, Team team, F entry) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++) {
        const int64_t id = ids[r];
        if (id >= 0 && id < V)
            for (int k = 0; k < D; k++) y[r * D + k] = entry(id, k);
        else
            for (int k = 0; k < D; k++) y[r * D + k] = NAN;
    }
}

template <int64_t V, int D, class A>
void embedding(const int64_t* ids, const A* table, float* y, int64_t rows, Team team) {
    look_up<V, D>(ids, y, rows, team, [=](int64_t id, int k) { return float(table[id * D + k]); });
}

// The same where the table is packed for linear_f32.
template <int64_t V, int D>
void embedding_f32(const int64_t* ids, const float* w, float* y, int64_t rows, Team team) {
    look_up<V, D>(ids, y, rows, team, [=](int64_t id, int k) { return w[(id / LANES * D + k) * LANES + id % LANES]; });
}

// And for linear_i8.
template <int64_t V, int D>
void embedding_i8(const int64_t* ids, const int8_t* w, const float* scale, float* y, int64_t rows, Team team) {
    look_up<V, D>(ids, y, rows, team, [=](int64_t id, int k) { return float(w[id * padded(D) + k]) * scale[id]; });
}

}  // namespace llmc
