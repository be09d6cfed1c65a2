// How products are cut: panels or rows over threads, rows into tiles that registers hold.
#pragma once
#include "core.h"

namespace llmc {

constexpr int AHEAD = 2048;   // bytes by which reading of weights is announced

inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
inline void prefetch_write(const void* p) { __builtin_prefetch(p, 1, 3); }

// A thread's part: panels p0 to p1 of rows r0 to r1. Panels are split, so that each is read by one thread, but rows where they are
// many and panels too few, and where each thread has `own`: what is read and written of these is in its cache already, as other
// statements split rows. What begins in the middle of the panels begins at a multiple of TOGETHER.
template <int TOGETHER = 1>
struct Share {
    int64_t p0, p1, r0, r1;
    Share(int64_t rows, int64_t panels, Team team, int64_t own = INT32_MAX) {
        const bool by_rows = rows >= (panels < 4 * team.size ? 4 : own) * team.size;
        const Team all{0, 1}, of_panels = by_rows ? all : team, of_rows = by_rows ? team : all;
        const int64_t sets = (panels + TOGETHER - 1) / TOGETHER;
        p0 = of_panels.start(sets) * TOGETHER, p1 = std::min(of_panels.stop(sets) * TOGETHER, panels);
        r0 = of_rows.start(rows), r1 = of_rows.stop(rows);
    }
};

// f(start, stop) for parts of r0 to r1 of at most `most`, as equal as can be.
template <class F>
inline void by_parts(int64_t r0, int64_t r1, int most, F f) {
    for (int64_t r = r0; r < r1;) {
        const int64_t parts = (r1 - r + most - 1) / most, stop = r + (r1 - r + parts - 1) / parts;
        f(r, stop);
        r = stop;
    }
}

// f(std::integral_constant<int, ROWS>, r) for such parts; LEAST: of a part, which follows from the least r1 - r0 there is.
template <int LEAST, int MOST, class F>
inline void by_tiles(int64_t r0, int64_t r1, F f) {
    static_assert(LEAST >= 1 && MOST - LEAST < 8, "a case for each size");
    by_parts(r0, r1, MOST, [&](int64_t r, int64_t stop) {
        switch (MOST - int(stop - r)) {
            case 0: return f(std::integral_constant<int, MOST>(), r);
            case 1: if constexpr (MOST - 1 >= LEAST) return f(std::integral_constant<int, MOST - 1>(), r); break;
            case 2: if constexpr (MOST - 2 >= LEAST) return f(std::integral_constant<int, MOST - 2>(), r); break;
            case 3: if constexpr (MOST - 3 >= LEAST) return f(std::integral_constant<int, MOST - 3>(), r); break;
            case 4: if constexpr (MOST - 4 >= LEAST) return f(std::integral_constant<int, MOST - 4>(), r); break;
            case 5: if constexpr (MOST - 5 >= LEAST) return f(std::integral_constant<int, MOST - 5>(), r); break;
            case 6: if constexpr (MOST - 6 >= LEAST) return f(std::integral_constant<int, MOST - 6>(), r); break;
            case 7: if constexpr (MOST - 7 >= LEAST) return f(std::integral_constant<int, MOST - 7>(), r); break;
        }
    });
}

// The first `count` of sixteen outputs, with their biases. A function of its own, called for the last panel alone: in each tile
// again, it would be a fifth of what compiling takes.
ONCE inline void put_some(const Lanes& v, const float* bias, float* y, int count) {
    float values[LANES];
    store(values, v);
    for (int i = 0; i < count; i++) y[i] = bias ? values[i] + bias[i] : values[i];
}

// Sixteen outputs of a row, or what is left of N, with their biases.
template <int N>
inline void put_lanes(const Lanes& v, const float* bias, float* y, int64_t first) {
    if (N % LANES == 0 || first + LANES <= N)
        store(y + first, bias ? v + load(bias + first) : v);
    else
        put_some(v, bias ? bias + first : nullptr, y + first, N % LANES);
}

}  // namespace llmc
