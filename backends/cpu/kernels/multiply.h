// Rows of queries or of weights times a block of the cache, as it is kept.
#pragma once
#include "cache.h"
#include "functions.h"

namespace llmc {

constexpr int AT_ONCE = 8;   // rows that are multiplied at once, at most
constexpr int MOST_ROWS = std::min(SUMS * WIDTH / LANES, AT_ONCE);   // and here, where each has a vector of sums at least

// Rows of what is multiplied: blocks of `each` rows of elements as they are kept, `stride` of them apart; what lies at `ahead`, if
// that is not null, as the only block does is fetched meanwhile, as few rows wait for memory.
struct Multiplied {
    const char* const* blocks;
    int64_t stride;
    int each;
    const char* ahead;
};

// y[r] = y[r] + sum over i < n of x[r][i] w[i], in the order of i, for ROWS rows, which are XS apart in x and YS in y, and COLUMNS
// vectors of columns from `column` on. y is taken for zero if it is fresh. MASKED: only where in[r][i] is not 0, as what is left
// out may be no number.
template <Kept KEPT, int ROWS, int COLUMNS, bool MASKED, int XS, int YS>
inline void multiply(const float* x, const int32_t* in, const Multiplied& w, int column, int n, bool fresh, float* y) {
    constexpr int bytes = kept_bytes(KEPT);
    Lanes sum[ROWS][COLUMNS] = {};
    if (!fresh)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++) sum[r][c] = load(y + r * YS + column + c * LANES);
    const char *const *block = w.blocks, *ahead = w.ahead ? w.ahead + column * bytes : nullptr;
    for (int i = 0; i < n;) {
        const char* at = *block++ + column * bytes;
        for (const int stop = std::min(i + w.each, n); i < stop; i++, at += w.stride * bytes) {
            Lanes element[COLUMNS];
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++) {
                element[c] = load_kept<KEPT>(at + c * LANES * bytes);
                if (ROWS <= 4 && ahead && c * LANES * bytes % 64 == 0)
                    __builtin_prefetch(ahead + (i * w.stride + c * LANES) * bytes, 0, 2);
            }
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const Lanes factor = all(x[r * XS + i]);
#pragma GCC unroll 4
                for (int c = 0; c < COLUMNS; c++) {
                    const Lanes next = madd(factor, element[c], sum[r][c]);
                    sum[r][c] = MASKED ? choose(in[r * XS + i], next, sum[r][c]) : next;
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) store(y + r * YS + column + c * LANES, sum[r][c]);
}

// The same for N columns, in tiles of as many sums as there are registers for.
template <Kept KEPT, int N, bool MASKED, int ROWS, int XS, int YS>
inline void multiply_columns(const float* x, const int32_t* in, const Multiplied& w, int n, bool fresh, float* y) {
    constexpr int fit = SUMS * WIDTH / LANES / ROWS, vectors = (N + LANES - 1) / LANES, columns = std::min({fit, 4, vectors});
    int c = 0;
    for (; c + columns <= vectors; c += columns)
        multiply<KEPT, ROWS, columns, MASKED, XS, YS>(x, in, w, c * LANES, n, fresh, y);
    if constexpr (vectors % columns)
        for (; c < vectors; c++) multiply<KEPT, ROWS, 1, MASKED, XS, YS>(x, in, w, c * LANES, n, fresh, y);
}

// The same for rows from..to, and up to seven before and after them. Three and four heads are often all that share keys: so FEW
// are multiplied as they are, one kernel for each number. MANY: what goes beyond.
template <Kept KEPT, int N, bool MASKED, bool FEW, bool MANY, int XS, int YS>
inline void multiply_rows(int from, int to, const float* x, const int32_t* in, const Multiplied& w, int n, bool fresh, float* y) {
    constexpr int most = MOST_ROWS;
    const auto some = [&](auto count, int r) {
        constexpr int rows = count() < most ? count() : most;
        const int32_t* mask = MASKED ? in + r * XS : in;
        multiply_columns<KEPT, N, MASKED, rows, XS, YS>(x + r * XS, mask, w, n, fresh, y + r * YS);
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

// Whether rows from..to are so few that what they are multiplied with is widened in registers.
constexpr bool are_few(int from, int to) { return to - from / AT_ONCE * AT_ONCE <= 4; }

// The same with a block of COUNT elements as it is kept: for few rows widened in registers, for many once, in `room`.
template <Kept KEPT, int COUNT, int N, bool MASKED, int XS, int YS>
inline void multiply_block(int from, int to, const float* x, const int32_t* in, const char* w, int64_t ws, int n,
                           const char* ahead, bool fresh, float* room, float* y) {
    const Multiplied kept{&w, ws, n, ahead};
    if constexpr (KEPT == Kept::float32) {
        multiply_rows<KEPT, N, MASKED, true, true, XS, YS>(from, to, x, in, kept, n, fresh, y);
    } else if (are_few(from, to)) {
        multiply_rows<KEPT, N, MASKED, true, false, XS, YS>(from, to, x, in, kept, n, fresh, y);
    } else {
        widen<KEPT, COUNT>(w, room);
        const char* wide = reinterpret_cast<const char*>(room);
        multiply_rows<Kept::float32, N, MASKED, false, true, XS, YS>(from, to, x, in, {&wide, ws, n, wide}, n, fresh, y);
    }
}

// e^x for x of 0 or less, to 3e-7 relative: 0 below e^-87. By the bits of the exponent; no number stays none, whatever its bits.
inline Lanes decay(const Lanes& x) {
    return each([&](int i) {
        const Part zero = {}, at = x.part[i];
        Part n = madd(at, zero + 1.44269504f, zero + 12582912.0f);  // rounds to the nearest whole number
        [[maybe_unused]] const Words power = __builtin_bit_cast(Words, n) << 23;
        n -= 12582912.0f;
#if defined(__AVX512F__)
        const Part p = powers(madd(n, zero - 0.693147181f, at));
        return Part(_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(at, zero - 87.0f, _CMP_NLT_UQ), p, n));
#else
        const Part p = powers(madd(n, zero + 2.12194440e-4f, madd(n, zero - 0.693359375f, at)));
        const Part y = at < -87.0f ? zero : __builtin_bit_cast(Part, __builtin_bit_cast(Words, p) + power);
        return at != at ? at : y;
#endif
    });
}

}  // namespace llmc
