// Products with activations that are floats, or pairs of bfloat16. Each output is summed over parts of K, one after the other, of 256 inputs (of a group,
// where weights have groups), each part from its start: the same for one row and for many, and for any number of threads.
#pragma once
#include "linear.h"
#include "split.h"

namespace llmc {

constexpr int PART = 256;

#if defined(__AVX512F__)
constexpr int FLOAT_ROWS = 8, FLOAT_PANELS = 2;
#else
constexpr int FLOAT_ROWS = 4, FLOAT_PANELS = 1;
#endif

// A kind of weights. A panel stores UNIT columns together, in UNIT_BYTES; `columns` gives them. `add` multiplies one with an
// activation, an X made of what is Stored. `finish` adds the sum of a part of K (of PART_ inputs) to those before it, `scaled`
// ends the row.

template <int UNIT_, int PART__>
struct Panels {
    static constexpr int UNIT = UNIT_, UNIT_BYTES = 64, PART_ = PART__;
    typedef float X, Stored;
    typedef Lanes Column;
    const uint8_t* w;
    Lanes zeros(int64_t, int) const { return Lanes{}; }
    static Lanes add(float x, const Lanes& column, const Lanes& s) { return madd(all(x), column, s); }
    Lanes finish(const Lanes& acc, const Lanes& s, int64_t, int part) const { return part ? acc + s : s; }
    Lanes scaled(const Lanes& acc, int64_t) const { return acc; }
};

struct FloatPanels : Panels<1, PART> {
    void columns(const uint8_t* at, const Lanes&, Lanes y[UNIT]) const { y[0] = load(reinterpret_cast<const float*>(at)); }
};

struct Bfloat16Panels : Panels<2, PART> {
    void columns(const uint8_t* at, const Lanes&, Lanes y[UNIT]) const {
        const Pairs pairs = load_pairs(at);
        y[0] = firsts(pairs), y[1] = seconds(pairs);
    }
};

// Both weights and activations in bfloat16: two inputs at once, or activations made floats a part at a time.
#ifdef BFLOAT16_PAIRS
struct PairPanels : Panels<1, PART / 2> {
    typedef int32_t X, Stored;
    typedef Pairs Column;
    void columns(const uint8_t* at, const Lanes&, Pairs y[UNIT]) const { y[0] = load_pairs(at); }
    static Lanes add(int32_t x, const Pairs& column, const Lanes& s) { return madd_pairs(x, column, s); }
};
#else
struct WidenedPanels : Bfloat16Panels {
    typedef uint16_t Stored;
};
#endif

struct BytePanels : Panels<4, PART> {
    const float* scale;
    void columns(const uint8_t* at, const Lanes&, Lanes y[UNIT]) const {
#pragma GCC unroll 4
        for (int j = 0; j < UNIT; j++) y[j] = code_lanes<8>(at, 8 * j, -128);
    }
    Lanes scaled(const Lanes& acc, int64_t panel) const { return acc * load(scale + panel * LANES); }
};

// The zero point is taken off each column: taken off the sum, it would leave what cancelling leaves.
template <int GROUP, int GROUPS, bool ZEROS>
struct NibblePanels : Panels<8, GROUP> {
    const uint16_t* scale;
    const uint8_t* zero;
    Lanes zeros(int64_t panel, int part) const {
        float z[LANES] = {};
        for (int i = 0; ZEROS && i < LANES; i++) z[i] = 8 - float(zero[(panel * GROUPS + part) * LANES + i]);
        return load(z);
    }
    void columns(const uint8_t* at, const Lanes& zeros, Lanes y[8]) const {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            y[j] = code_lanes<4>(at, 8 * (j % 4) + 4 * (j / 4), -8);
            if (ZEROS) y[j] = y[j] + zeros;
        }
    }
    Lanes finish(const Lanes& acc, const Lanes& s, int64_t panel, int part) const {
        return madd(s, load_half(scale + (panel * GROUPS + part) * LANES), acc);
    }
};

template <class W, int N, int K>
struct FloatProduct {
    typedef typename W::X X;
    typedef typename W::Stored Stored;
    typedef typename W::Column Column;
    static constexpr int UNIT = W::UNIT, PART_ = W::PART_;
    static constexpr int MANY = 8 * FLOAT_ROWS;   // rows that columns are made once for

    W w;
    int64_t panel_bytes;
    const Stored* x;
    int64_t stride;
    const float* bias;
    float* y;

    // A part of ROWS rows as activations: where they are, or made in its own memory.
    template <int ROWS>
    struct Rows {
        static constexpr bool MADE = !std::is_same_v<X, Stored>;
        X room[MADE ? ROWS * PART_ : 1];
        const X* from;
        int64_t stride;
        Rows(const Stored* x, int64_t distance, int count) : stride(MADE ? PART_ : distance) {
            if constexpr (MADE) {
                for (int r = 0; r < ROWS; r++)
                    for (int k = 0; k < count; k++) {
                        const uint32_t bits = uint32_t(x[r * distance + k]) << 16;
                        std::memcpy(room + r * PART_ + k, &bits, 4);
                    }
                from = room;
            } else {
                from = x;
            }
        }
        const X& at(int r, int k) const { return from[r * stride + k]; }
    };

    const uint8_t* at(int64_t panel, int k) const { return w.w + panel * panel_bytes + int64_t(k / UNIT) * W::UNIT_BYTES; }

    template <int ROWS, int PANELS>
    void few(int64_t panel, int64_t r0) const {
        Lanes acc[ROWS][PANELS] = {};
        for (int k0 = 0, part = 0; k0 < K; k0 += PART_, part++) {
            const int k1 = k0 + PART_ < K ? k0 + PART_ : K;
            const Rows<ROWS> row(x + r0 * stride + k0, stride, k1 - k0);
            Lanes s[ROWS][PANELS] = {}, zeros[PANELS];
            for (int p = 0; p < PANELS; p++) zeros[p] = w.zeros(panel + p, part);
            int k = k0;
            for (; k + UNIT <= k1; k += UNIT)
#pragma GCC unroll 4
                for (int p = 0; p < PANELS; p++) {
                    Column column[UNIT];
                    prefetch(at(panel + p, k) + AHEAD);
                    w.columns(at(panel + p, k), zeros[p], column);
#pragma GCC unroll 8
                    for (int j = 0; j < UNIT; j++)
#pragma GCC unroll 8
                        for (int r = 0; r < ROWS; r++) s[r][p] = W::add(row.at(r, k + j - k0), column[j], s[r][p]);
                }
            if (K % UNIT && k < k1)
                for (int p = 0; p < PANELS; p++) {
                    Column column[UNIT];
                    w.columns(at(panel + p, k), zeros[p], column);
                    for (int j = 0; k + j < k1; j++)
                        for (int r = 0; r < ROWS; r++) s[r][p] = W::add(row.at(r, k + j - k0), column[j], s[r][p]);
                }
            for (int r = 0; r < ROWS; r++)
                for (int p = 0; p < PANELS; p++) acc[r][p] = w.finish(acc[r][p], s[r][p], panel + p, part);
        }
        for (int r = 0; r < ROWS; r++)
            for (int p = 0; p < PANELS; p++)
                put_lanes<N>(w.scaled(acc[r][p], panel + p), bias, y + (r0 + r) * N, (panel + p) * LANES);
    }

    // Enough sums at once that each is not waited for.
    template <int ROWS>
    void few_rows(int64_t p0, int64_t p1, int64_t r0) const {
        constexpr int PANELS = ROWS == 1 ? 4 : ROWS <= 3 ? 2 : 1;
        int64_t p = p0;
        for (; p + PANELS <= p1; p += PANELS) few<ROWS, PANELS>(p, r0);
        if (PANELS > 1)
            for (; p < p1; p++) few<ROWS, 1>(p, r0);
    }

    template <int PANELS>
    void many(int64_t panel, int64_t r0, int64_t r1) const {
        Lanes acc[MANY][PANELS] = {};
        Column made[PANELS][PART_ + UNIT];
        for (int k0 = 0, part = 0; k0 < K; k0 += PART_, part++) {
            const int k1 = k0 + PART_ < K ? k0 + PART_ : K;
            for (int p = 0; p < PANELS; p++) {
                const Lanes zeros = w.zeros(panel + p, part);
                for (int k = k0; k < k1; k += UNIT) w.columns(at(panel + p, k), zeros, made[p] + (k - k0));
            }
            by_tiles<(FLOAT_ROWS + 1) / 2, FLOAT_ROWS>(r0, r1, [&](auto rows, int64_t r) {
                constexpr int ROWS = rows.value;
                const Rows<ROWS> row(x + r * stride + k0, stride, k1 - k0);
                Lanes s[ROWS][PANELS] = {};
#pragma GCC unroll 2
                for (int k = k0; k < k1; k++)
#pragma GCC unroll 8
                    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                        for (int p = 0; p < PANELS; p++) s[i][p] = W::add(row.at(i, k - k0), made[p][k - k0], s[i][p]);
                for (int i = 0; i < ROWS; i++)
                    for (int p = 0; p < PANELS; p++)
                        acc[r - r0 + i][p] = w.finish(acc[r - r0 + i][p], s[i][p], panel + p, part);
            });
        }
        for (int64_t r = r0; r < r1; r++)
            for (int p = 0; p < PANELS; p++)
                put_lanes<N>(w.scaled(acc[r - r0][p], panel + p), bias, y + r * N, (panel + p) * LANES);
    }

    void run(int64_t rows, Team team) const {
        const Share<> share(rows, (N + LANES - 1) / LANES, team);
        if (share.r1 - share.r0 <= FLOAT_ROWS) {
            by_tiles<1, FLOAT_ROWS>(share.r0, share.r1,
                                    [&](auto tile, int64_t r) { few_rows<tile.value>(share.p0, share.p1, r); });
            return;
        }
        int64_t p = share.p0;
        for (; p + FLOAT_PANELS <= share.p1; p += FLOAT_PANELS)
            by_parts(share.r0, share.r1, MANY, [&](int64_t r, int64_t stop) { many<FLOAT_PANELS>(p, r, stop); });
        if (FLOAT_PANELS > 1)
            for (; p < share.p1; p++)
                by_parts(share.r0, share.r1, MANY, [&](int64_t r, int64_t stop) { many<1>(p, r, stop); });
    }
};

template <int N, int K>
void linear_f32(const float* x, int64_t stride, const float* w, const float* bias, float* y, int64_t rows, Team team) {
    FloatPanels panels;
    panels.w = reinterpret_cast<const uint8_t*>(w);
    FloatProduct<FloatPanels, N, K>{panels, int64_t(K) * 64, x, stride, bias, y}.run(rows, team);
}

template <int N, int K>
void linear_wbf16(const float* x, int64_t stride, const uint16_t* w, const float* bias, float* y, int64_t rows, Team team) {
    Bfloat16Panels panels;
    panels.w = reinterpret_cast<const uint8_t*>(w);
    FloatProduct<Bfloat16Panels, N, K>{panels, pairs(K) * 64, x, stride, bias, y}.run(rows, team);
}

template <int N, int K>
void linear_bf16(const uint16_t* x, const uint16_t* w, const float* bias, float* y, int64_t rows, Team team) {
#ifdef BFLOAT16_PAIRS
    PairPanels panels;
    panels.w = reinterpret_cast<const uint8_t*>(w);
    const int32_t* row = reinterpret_cast<const int32_t*>(x);
    FloatProduct<PairPanels, N, pairs(K)>{panels, pairs(K) * 64, row, pairs(K), bias, y}.run(rows, team);
#else
    WidenedPanels panels;
    panels.w = reinterpret_cast<const uint8_t*>(w);
    FloatProduct<WidenedPanels, N, K>{panels, pairs(K) * 64, x, 2 * pairs(K), bias, y}.run(rows, team);
#endif
}

template <int N, int K>
void linear_w8(const float* x, int64_t stride, const uint8_t* w, const float* scale, const float* bias, float* y, int64_t rows,
               Team team) {
    BytePanels panels;
    panels.w = w, panels.scale = scale;
    FloatProduct<BytePanels, N, K>{panels, int64_t(padded(K)) * LANES, x, stride, bias, y}.run(rows, team);
}

template <int N, int K, int GROUP, bool ZEROS>
void linear_w4(const float* x, int64_t stride, const uint8_t* w, const uint16_t* scale, const uint8_t* zero, const float* bias,
               float* y, int64_t rows, Team team) {
    constexpr int GROUPS = (K + GROUP - 1) / GROUP;
    NibblePanels<GROUP, GROUPS, ZEROS> panels;
    panels.w = w, panels.scale = scale, panels.zero = zero;
    FloatProduct<NibblePanels<GROUP, GROUPS, ZEROS>, N, K>{panels, int64_t(GROUPS) * GROUP * LANES / 2, x, stride, bias, y}.run(
        rows, team);
}

}  // namespace llmc
