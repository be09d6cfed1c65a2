// Products with weights, which linear_float_impl.h and linear_integer_impl.h define, and what stands around them: rounding of rows,
// tables that are looked up. Weights lie in panels of 16 outputs (backends/cpu/pack.py).
#pragma once
#include "core.h"

namespace llmc {

constexpr int padded(int k, int group = 32) { return (k + group - 1) / group * group; }
constexpr int pairs(int k) { return (k + 1) / 2; }

// Rows of whole numbers: values[rows][padded K], their sums over each group, and a scale for each row.
struct Rounded {
    const int8_t* values;
    const int32_t* sums;
    const float* scale;
};

// y[rows][N] = x[rows][K] w^T + bias, with x as it is. w: float32, bfloat16, 8 bits with a scale for each output, 4 bits with a
// scale (and zero point) for each output and GROUP inputs.
template <int N, int K>
void linear_f32(const float* x, int64_t stride, const float* w, const float* bias, float* y, int64_t rows, Team team);
template <int N, int K>
void linear_wbf16(const float* x, int64_t stride, const uint16_t* w, const float* bias, float* y, int64_t rows, Team team);
template <int N, int K>
void linear_w8(const float* x, int64_t stride, const uint8_t* w, const float* scale, const float* bias, float* y, int64_t rows,
               Team team);
template <int N, int K, int GROUP, bool ZEROS>
void linear_w4(const float* x, int64_t stride, const uint8_t* w, const uint16_t* scale, const uint8_t* zero, const float* bias,
               float* y, int64_t rows, Team team);

// The same with x in bfloat16, two in a word and the last filled up, and with x rounded to whole numbers. GATE: y[rows][N / 2] is
// GATE of the first half of a row, element by element times the second. residual: what is added to y, as large as it is, or null;
// N is a multiple of LANES where it is given.
typedef float (*Function)(float);
template <int N, int K>
void linear_bf16(const uint16_t* x, const uint16_t* w, const float* bias, float* y, int64_t rows, Team team);
template <int N, int K, Function GATE = nullptr>
void linear_w8a8(const Rounded& x, const uint8_t* w, const float* scale, const float* bias, float* y, int64_t rows, Team team,
                 const float* residual = nullptr);
template <int N, int K, int GROUP, bool ZEROS, Function GATE = nullptr>
void linear_w4a8(const Rounded& x, const uint8_t* w, const uint16_t* scale, const uint8_t* zero, const float* bias, float* y,
                 int64_t rows, Team team, const float* residual = nullptr);

#if defined(__AVX512F__)
// GROUP numbers times `inverse` to the nearest whole numbers, half to even, and their sums over 16 lanes.
template <int GROUP>
inline __m512i round_group(const float* x, __m512 inverse, int8_t* q) {
    __m512i sums = {};
    for (int k = 0; k < GROUP; k += LANES) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k), inverse));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + k), _mm512_cvtepi32_epi8(whole));
        sums = _mm512_add_epi32(sums, whole);
    }
    return sums;
}

// Such groups one after the other, four at a time: lanes of one are added up as lanes of the other are.
template <int GROUP>
inline void round_groups(const float* x, float inverse, int8_t* q, int32_t* sums, int groups) {
    const __m512 all = _mm512_set1_ps(inverse);
    const auto both = [](__m512i a, __m512i b) {
        return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    };
    int g = 0;
    for (; g + 4 <= groups; g += 4) {
        __m512i s[4];
        for (int j = 0; j < 4; j++) s[j] = round_group<GROUP>(x + (g + j) * GROUP, all, q + (g + j) * GROUP);
        const __m512i even = both(s[0], s[1]), odd = both(s[2], s[3]);
        const __m512i four = _mm512_add_epi32(_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd));
        const __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + g),
                         _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
    }
    for (; g < groups; g++) sums[g] = _mm512_reduce_add_epi32(round_group<GROUP>(x + g * GROUP, all, q + g * GROUP));
}
#endif

// A row as whole multiples of (its largest magnitude / 127), filled up with zeros, and the sum of each GROUP of them; returns what
// they are multiples of. Magnitudes are compared as the integers of their bits, which has no order to keep. A row with an infinity
// or NaN has the scale NaN, as all that is computed from it must be; one so small that its inverse is infinite becomes zeros.
template <int K, int GROUP>
ONCE float quantize_row(const float* x, int8_t* q, int32_t* sums) {
    int32_t bits = 0;
    for (int k = 0; k < K; k++) {
        int32_t magnitude;
        std::memcpy(&magnitude, x + k, 4);
        magnitude &= 0x7FFFFFFF;
        bits = magnitude > bits ? magnitude : bits;
    }
    float largest;
    std::memcpy(&largest, &bits, 4);
    const bool finite = bits < 0x7F800000;
    const float steep = 127.0f / largest, inverse = finite && steep <= 3.4028235e38f ? steep : 0;
    // Of a number that this is added to, the last bits are the nearest whole number, half to even.
    constexpr float middle = 12582912.0f;
    const auto whole = [&](int k) {
        return __builtin_bit_cast(uint32_t, (finite ? x[k] * inverse : 0.0f) + middle) - __builtin_bit_cast(uint32_t, middle);
    };
    const auto round_some = [&](int g, int count) {
        uint32_t sum = 0;
        for (int k = g * GROUP; k < g * GROUP + count; k++) q[k] = int8_t(whole(k)), sum += whole(k);
        sums[g] = int32_t(sum);
    };
    int begun = 0;   // groups that are done
#if defined(__AVX512F__)
    if (finite) round_groups<GROUP>(x, inverse, q, sums, begun = K / GROUP);
#endif
    for (int g = begun; g < K / GROUP; g++) round_some(g, GROUP);
    if constexpr (K % GROUP) round_some(K / GROUP, K % GROUP);
    for (int k = K; k < padded(K, GROUP); k++) q[k] = 0;
    return finite ? largest / 127.0f : NAN;
}

template <int K, int GROUP>
void quantize_rows(const float* x, int64_t stride, int8_t* q, int32_t* sums, float* scale, int64_t rows, Team team) {
    constexpr int size = padded(K, GROUP);
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        scale[r] = quantize_row<K, GROUP>(x + r * stride, q + r * size, sums + r * (size / GROUP));
}

// Such rows as floats again, for weights that are no whole numbers.
template <int K, int GROUP>
void restore_rows(const int8_t* q, const float* scale, float* y, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int k = 0; k < K; k++) y[r * K + k] = float(q[r * padded(K, GROUP) + k]) * scale[r];
}

// The nearest bfloat16, half to even: the high half of a float.
inline uint32_t bfloat16_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return x != x ? bits >> 16 | 64 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

// Rows in bfloat16, filled up to whole pairs.
template <int K>
void bfloat16_rows(const float* x, int64_t stride, uint16_t* y, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++) {
        for (int k = 0; k < K; k++) y[r * 2 * pairs(K) + k] = uint16_t(bfloat16_bits(x[r * stride + k]));
        if (K % 2) y[r * 2 * pairs(K) + K] = 0;
    }
}

// The same numbers as floats, for weights that are no bfloat16.
template <int K>
void shorten_rows(const float* x, int64_t stride, float* y, int64_t rows, Team team) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int k = 0; k < K; k++) {
            const uint32_t bits = bfloat16_bits(x[r * stride + k]) << 16;
            std::memcpy(y + r * K + k, &bits, 4);
        }
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

// The same where the table is packed for products.
template <int64_t V, int D>
void embedding_f32(const int64_t* ids, const float* w, float* y, int64_t rows, Team team) {
    look_up<V, D>(ids, y, rows, team, [=](int64_t id, int k) { return w[(id / LANES * D + k) * LANES + id % LANES]; });
}

template <int64_t V, int D>
void embedding_wbf16(const int64_t* ids, const uint16_t* w, float* y, int64_t rows, Team team) {
    look_up<V, D>(ids, y, rows, team, [=](int64_t id, int k) {
        const uint32_t bits = uint32_t(w[((id / LANES * pairs(D) + k / 2) * LANES + id % LANES) * 2 + k % 2]) << 16;
        float x;
        std::memcpy(&x, &bits, 4);
        return x;
    });
}

template <int64_t V, int D>
void embedding_w8(const int64_t* ids, const uint8_t* w, const float* scale, float* y, int64_t rows, Team team) {
    look_up<V, D>(ids, y, rows, team, [=](int64_t id, int k) {
        const int code = w[((id / LANES * (padded(D) / 4) + k / 4) * LANES + id % LANES) * 4 + k % 4];
        return float(code - 128) * scale[id];
    });
}

template <int64_t V, int D, int GROUP, bool ZEROS>
void embedding_w4(const int64_t* ids, const uint8_t* w, const uint16_t* scale, const uint8_t* zero, float* y, int64_t rows,
                  Team team) {
    constexpr int64_t groups = padded(D, GROUP) / GROUP;
    look_up<V, D>(ids, y, rows, team, [=](int64_t id, int k) {
        const int byte = w[((id / LANES * (groups * GROUP / 8) + k / 8) * LANES + id % LANES) * 4 + k % 4];
        const int64_t group = (id / LANES * groups + k / GROUP) * LANES + id % LANES;
        return float((k / 4 % 2 ? byte >> 4 : byte & 15) - (ZEROS ? zero[group] : 8)) * half_(scale[group]);
    });
}

}  // namespace llmc
