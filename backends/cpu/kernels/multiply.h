// Rows of queries or of weights times a block of the cache, as it is kept.
#pragma once
#include "cache.h"
#include "functions.h"

namespace llmc {

constexpr int AT_ONCE = 8;   // rows that are multiplied at once, at most

// y[r] = y[r] + sum over i < n of x[r][i] w[i], in the order of i, for ROWS rows and COLUMNS vectors of columns; w as it is kept,
// ws elements from row to row. y is taken for zero if it is fresh. MASKED: only where in[r][i] is not 0, as what is left out may be
// no number. What lies at `ahead` as w does is fetched: few rows wait for memory.
template <Kept KEPT, int ROWS, int COLUMNS, bool MASKED>
inline void multiply(const float* x, const int32_t* in, int64_t xs, const char* w, int64_t ws, int n, const char* ahead,
                     bool fresh, float* y, int64_t ys) {
    constexpr int bytes = kept_bytes(KEPT);
    Lanes sum[ROWS][COLUMNS] = {};
    if (!fresh)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++) sum[r][c] = load(y + r * ys + c * LANES);
    for (int i = 0; i < n; i++) {
        Lanes column[COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) {
            const int64_t at = (i * ws + c * LANES) * bytes;
            column[c] = load_kept<KEPT>(w + at);
            if (ROWS <= 4 && c * LANES * bytes % 64 == 0) __builtin_prefetch(ahead + at, 0, 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Lanes element = all(x[r * xs + i]);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++) {
                const Lanes next = madd(element, column[c], sum[r][c]);
                sum[r][c] = MASKED ? choose(in[r * xs + i], next, sum[r][c]) : next;
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) store(y + r * ys + c * LANES, sum[r][c]);
}

// The same for N columns, in tiles of as many sums as there are registers for.
template <Kept KEPT, int N, bool MASKED, int ROWS>
inline void multiply_columns(const float* x, const int32_t* in, int64_t xs, const char* w, int64_t ws, int n, const char* ahead,
                             bool fresh, float* y, int64_t ys) {
    constexpr int fit = SUMS * WIDTH / LANES / ROWS, vectors = (N + LANES - 1) / LANES, columns = std::min({fit, 4, vectors});
    constexpr int bytes = LANES * kept_bytes(KEPT);
    int c = 0;
    for (; c + columns <= vectors; c += columns)
        multiply<KEPT, ROWS, columns, MASKED>(x, in, xs, w + c * bytes, ws, n, ahead + c * bytes, fresh, y + c * LANES, ys);
    if constexpr (vectors % columns)
        for (; c < vectors; c++)
            multiply<KEPT, ROWS, 1, MASKED>(x, in, xs, w + c * bytes, ws, n, ahead + c * bytes, fresh, y + c * LANES, ys);
}

// The same for rows from..to, and up to seven before and after them. Three and four heads are often all that share keys: so FEW
// are multiplied as they are, one kernel for each number. MANY: what goes beyond.
template <Kept KEPT, int N, bool MASKED, bool FEW, bool MANY>
inline void multiply_rows(int from, int to, const float* x, const int32_t* in, int64_t xs, const char* w, int64_t ws, int n,
                          const char* ahead, bool fresh, float* y, int64_t ys) {
    constexpr int most = std::min(SUMS * WIDTH / LANES, AT_ONCE);
    const auto some = [&](auto count, int r) {
        constexpr int rows = count() < most ? count() : most;
        const int32_t* mask = MASKED ? in + r * xs : in;
        multiply_columns<KEPT, N, MASKED, rows>(x + r * xs, mask, xs, w, ws, n, ahead, fresh, y + r * ys, ys);
    };
    for (int r = from / AT_ONCE * AT_ONCE; r < to; r += most) {
        const int left = to - r;
        if constexpr (FEW) {
            if (left == 1) some(std::integral_constant<int, 1>(), r);
            else if (left == 2) some(std::integral_constant<int, 2>(), r);
            else if (left == 3) some(std::integral_constant<int, 3>(), r);
            else if (left == 4) some(std::integral_constant<int, 4>(), r);
        }
        if constexpr (MANY)
            if (!FEW || left > 4) some(std::integral_constant<int, most>(), r);
    }
}

// The same with a block of COUNT elements as it is kept: for few rows widened in registers, for many once, in `room`.
template <Kept KEPT, int COUNT, int N, bool MASKED>
inline void multiply_block(int from, int to, const float* x, const int32_t* in, int64_t xs, const char* w, int64_t ws, int n,
                           const char* ahead, bool fresh, float* room, float* y, int64_t ys) {
    if constexpr (KEPT == Kept::float32) {
        multiply_rows<KEPT, N, MASKED, true, true>(from, to, x, in, xs, w, ws, n, ahead, fresh, y, ys);
    } else if (to - from / AT_ONCE * AT_ONCE <= 4) {
        multiply_rows<KEPT, N, MASKED, true, false>(from, to, x, in, xs, w, ws, n, ahead, fresh, y, ys);
    } else {
        widen<KEPT, COUNT>(w, room);
        const char* wide = reinterpret_cast<const char*>(room);
        multiply_rows<Kept::float32, N, MASKED, false, true>(from, to, x, in, xs, wide, ws, n, wide, fresh, y, ys);
    }
}

// e^x for x of 0 or less: 0 below e^-87. As exponential, by the bits of the exponent; no number stays none, whatever its bits.
inline Lanes decay(const Lanes& x) {
    return each([&](int i) {
        const Part zero = {}, at = x.part[i];
        Part n = madd(at, zero + 1.44269504f, zero + 12582912.0f);  // rounds to the nearest whole number
        const Words power = __builtin_bit_cast(Words, n) << 23;
        n -= 12582912.0f;
        const Part r = madd(n, zero + 2.12194440e-4f, madd(n, zero - 0.693359375f, at));
        Part p = madd(zero + 1.9875691e-4f, r, zero + 1.3981999e-3f);
        p = madd(p, r, zero + 8.3334519e-3f);
        p = madd(p, r, zero + 4.1665796e-2f);
        p = madd(p, r, zero + 1.6666665e-1f);
        p = madd(p, r, zero + 5.0000001e-1f);
        p = madd(p * r, r, r) + 1.0f;
        const Part y = at < -87.0f ? zero : __builtin_bit_cast(Part, __builtin_bit_cast(Words, p) + power);
        return at != at ? at : y;
    });
}

}  // namespace llmc
