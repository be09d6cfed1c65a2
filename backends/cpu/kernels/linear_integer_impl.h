// Products of weights and activations that both are whole numbers. Each output is the sum over groups, one after the other, of
// scale * (exact sum of products): the same for one row and for many, and for any number of threads. ROWS_BYTES and CODES_BYTES
// come from the file that includes this (backends/cpu/cuts.py).
#pragma once
#include "functions.h"
#include "integers.h"
#include "linear.h"
#include "split.h"

namespace llmc {

// Panels of four bits with a scale for each group, and of eight bits with one for all inputs. start: what sums begin at, from
// minus MIDDLE times the sum of the activations.
template <int GROUP_, bool ZEROS>
struct FourBits {
    static constexpr int GROUP = GROUP_;
    static constexpr Storage STORAGE = NIBBLES;
    const uint8_t* codes;
    const uint16_t* scale;
    const uint8_t* zero;
    Lanes scales(int64_t panel_group) const { return load_half(scale + panel_group * LANES); }
    void announce(int64_t panel_group, int groups) const {
        for (int i = 0; i < groups * LANES; i += 32) prefetch(scale + panel_group * LANES + i);
    }
    static constexpr int MIDDLE = ZEROS ? 1 : 8;
    Sums start(int64_t panel_group, int32_t minus) const {
        return ZEROS ? zeros_times(zero + panel_group * LANES, minus) : all_sums(minus);
    }
};

template <int GROUP_>
struct EightBits {
    static_assert(GROUP_ <= 65536, "sums of so many products of bytes fit in 32 bits");
    static constexpr int GROUP = GROUP_;
    static constexpr Storage STORAGE = BYTES;
    const uint8_t* codes;
    const float* scale;
    Lanes scales(int64_t panel) const { return load(scale + panel * LANES); }
    void announce(int64_t panel, int) const { prefetch(scale + panel * LANES); }
    static constexpr int MIDDLE = BYTES_ZERO;
    Sums start(int64_t, int32_t minus) const { return all_sums(minus); }
};

// Codes of 32 inputs of a panel, `steps` times, a byte each.
inline void unpack(const uint8_t* nibbles, int steps, uint8_t* codes) {
    for (int i = 0; i < steps * 4; i++)
        for (int j = 0; j < 64; j++) {
            codes[128 * i + j] = nibbles[64 * i + j] & 15;
            codes[128 * i + 64 + j] = nibbles[64 * i + j] >> 4;
        }
}

// Codes of a tile: of the first panel's first group, panels `panel_bytes` apart. scales: of CODES, as floats, those of a panel's
// groups together. next: what is announced meanwhile, so many lines of each panel for every 32 inputs. outputs: of many rows, where
// those of the next tile will be.
struct Codes {
    const uint8_t* codes;
    const float* scales;
    int64_t panel_bytes;
    const uint8_t* next;
    int64_t next_panel;
    int lines;
    const float* outputs;
};

// ROWS rows by PANELS panels, each APART after the last: groups first to last are added to acc. LINES: those announced where that
// is fixed, else -1. minus: of each row and group, minus MIDDLE times the sum.
// ROW: elements from row to row of the outputs; PUT: lines of a row that are written.
template <Storage STORAGE, int ROWS, int PANELS, int LINES, int GROUPS, int64_t APART, int ROW, int PUT, class W>
inline void tile(const W& w, const Codes& from, int64_t panel, const int8_t* x, const int32_t* minus, int first, int last,
                 Lanes acc[ROWS][PANELS]) {
    constexpr int steps = W::GROUP / STEP;
    constexpr bool MANY = STORAGE == CODES || LINES < 0;
    Lanes total[ROWS][PANELS];   // in registers: the compiler cannot know that acc is not among what is read
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; p++) total[r][p] = acc[r][p];
    const int lines = LINES < 0 ? from.lines : LINES;
    for (int g = first; g < last; g++) {
        Sums s[ROWS][PANELS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int p = 0; p < PANELS; p++) s[r][p] = w.start((panel + p * APART) * GROUPS + g, minus[r * GROUPS + g]);
        for (int i = 0; i < steps; i++) {
            const int64_t step = int64_t(g - first) * steps + i;
#pragma GCC unroll 4
            for (int p = 0; p < PANELS; p++) {
                const uint8_t* next = from.next + p * from.next_panel + step * lines * 64;
                if (LINES < 0)
#pragma GCC unroll 1
                    for (int line = 0; line < lines; line++) prefetch(next + line * 64);
#pragma GCC unroll 8
                for (int line = 0; line < LINES; line++) prefetch(next + line * 64);
            }
            if constexpr (MANY)
                if (step < ROWS * PUT) prefetch_write(from.outputs + step / PUT * ROW + step % PUT * LANES);
            multiply_step<STORAGE, ROWS, PANELS>(from.codes + step * step_bytes(STORAGE), from.panel_bytes,
                                                 x + g * W::GROUP + i * STEP, GROUPS * W::GROUP, s);
        }
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; p++) {
            const Lanes scale =
                STORAGE == CODES ? load(from.scales + (p * GROUPS + g) * LANES) : w.scales((panel + p * APART) * GROUPS + g);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) total[r][p] = madd(floats(s[r][p]), scale, total[r][p]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; p++) acc[r][p] = total[r][p];
}

constexpr int OWN_ROWS = 128;            // of a thread, which then takes all panels of them
constexpr int64_t OWN_BYTES = 8 << 20;   // of weights at most, as each thread reads them then

// GATE: of a feed-forward, whose outputs are gates and as many that are multiplied with GATE of them; null of any other.
template <class W, int N, int K, Function GATE>
struct IntegerProduct {
    static constexpr bool GATED = GATE != nullptr;
    static_assert(!GATED || N % (2 * LANES) == 0, "gates fill whole panels");
    static constexpr int ROW = GATED ? N / 2 : N;                                                // of a row of y
    static constexpr bool PAIRED = GATED && TILE_PANELS == 2;   // a tile holds gates and what is multiplied with them
    static constexpr int GROUPS = (K + W::GROUP - 1) / W::GROUP;
    static constexpr int64_t SIZE = int64_t(GROUPS) * W::GROUP, COUNT = (ROW + LANES - 1) / LANES;   // of a row; panels
    static constexpr int64_t APART = PAIRED ? COUNT : 1;   // panels of a tile
    static constexpr int TOGETHER = PAIRED ? 1 : TILE_PANELS;   // panels of y that a tile gives
    static constexpr int LINES = step_bytes(W::STORAGE) / 64;                                      // of 32 inputs of a panel
    static constexpr int64_t PANEL = SIZE / STEP * LINES * 64;
    static constexpr Storage UNPACKED = W::STORAGE == NIBBLES ? CODES : W::STORAGE;
    static constexpr int FEW = tile_rows(W::STORAGE), TILE = tile_rows(UNPACKED);   // rows
    static constexpr int MANY = std::max<int64_t>(ROWS_BYTES / SIZE, 8 * TILE) / TILE * TILE;     // rows of a block
    static constexpr int INPUTS = CODES_BYTES / (TILE_PANELS * LANES);
    static constexpr int CHUNK = std::min(GROUPS, std::max(INPUTS / W::GROUP, 1));   // groups whose codes are unpacked at once

    W w;
    Rounded x;
    const float* bias;
    float* y;
    const float* residual;

    template <int ROWS, int PANELS>
    void put(int64_t panel, int64_t r0, const Lanes acc[ROWS][PANELS]) const {
        const float *const scales = x.scale + r0, *const biases = bias;   // read once: what is stored could be where they are
        const float* const others = residual ? residual + r0 * ROW + panel * LANES : nullptr;
        const bool times = GATED && !PAIRED && panel >= COUNT;
        float* const to = y + r0 * ROW + (times ? panel - COUNT : panel) * LANES;
        if constexpr (N % LANES == 0) {
            Lanes added[PANELS];
            for (int p = 0; p < PANELS && biases; p++) added[p] = load(biases + (panel + p * APART) * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const Lanes scale = all(scales[r]);
                Lanes v[PANELS];
#pragma GCC unroll 4
                for (int p = 0; p < PANELS; p++) v[p] = biases ? acc[r][p] * scale + added[p] : acc[r][p] * scale;
                float* const at = to + r * ROW;
                if constexpr (PAIRED) {
                    store(at, gates(v[0]) * v[1]);
                } else {
#pragma GCC unroll 4
                    for (int p = 0; p < PANELS; p++) {
                        if (others) v[p] += load(others + r * ROW + p * LANES);
                        const Lanes before = times ? load(at + p * LANES) : Lanes();
                        store(at + p * LANES, GATED ? times ? v[p] * before : gates(v[p]) : v[p]);
                    }
                }
            }
        } else {
            for (int p = 0; p < PANELS; p++)
                for (int r = 0; r < ROWS; r++)
                    put_lanes<N>(acc[r][p] * all(scales[r]), biases, y + (r0 + r) * N, (panel + p) * LANES);
        }
    }

    static Lanes gates(const Lanes& v) {
        float x[LANES];
        store(x, v);
        if constexpr (GATED)
            for (int i = 0; i < LANES; i++) x[i] = GATE(x[i]);
        return load(x);
    }

    void prepare(int64_t r0, int rows, int32_t* minus) const {
        for (int i = 0; i < rows * GROUPS; i++) minus[i] = -W::MIDDLE * x.sums[r0 * GROUPS + i];
    }

    const uint8_t* codes(int64_t panel) const { return w.codes + panel * PANEL; }

    // f(std::integral_constant<int, PANELS>, panel, next) for all panels from p0 to p1, those of gates before what is multiplied
    // with them. next: those that follow; the last ones announce nothing new.
    template <class F>
    void walk(int64_t p0, int64_t p1, F f) const {
        constexpr bool after = GATED && !PAIRED;   // what is multiplied with gates
        const auto some = [&](auto panels, int64_t p, int64_t next) {
            if constexpr (after) f(panels, p, COUNT + p);
            f(panels, after ? COUNT + p : p, next);
        };
        int64_t p = p0;
        for (; p + TOGETHER <= p1; p += TOGETHER) {
            const int64_t last = after ? COUNT + p : p;
            some(std::integral_constant<int, TILE_PANELS>(), p, p + 2 * TOGETHER <= p1 ? p + TOGETHER : last);
        }
        if constexpr (COUNT % TOGETHER)
            for (; p < p1; p++) some(std::integral_constant<int, 1>(), p, after ? COUNT + p : p);
    }

    // Few rows: each weight is read once, and taken apart in registers. The panels that are next are announced meanwhile, each line
    // once: what is a fixed distance ahead of one panel would be in the other, which is being read.
    template <int ROWS, int PANELS>
    void few(int64_t panel, int64_t next, int64_t r0, const int32_t* minus) const {
        Lanes acc[ROWS][PANELS] = {};
        const Codes from{codes(panel), nullptr, APART * PANEL, codes(next), APART * PANEL, LINES, nullptr};
        tile<W::STORAGE, ROWS, PANELS, LINES, GROUPS, APART, ROW, 0>(w, from, panel, x.values + r0 * SIZE, minus, 0, GROUPS, acc);
        put<ROWS, PANELS>(panel, r0, acc);
    }

    template <int ROWS>
    void few_rows(int64_t p0, int64_t p1, int64_t r0) const {
        int32_t minus[ROWS * GROUPS];
        prepare(r0, ROWS, minus);
        walk(p0, p1, [&](auto panels, int64_t p, int64_t next) { few<ROWS, panels.value>(p, next, r0, minus); });
    }

    // A few more than a tile of nibbles: panels are still in the first cache when the second tile reads them.
    template <int PANELS>
    void twice(int64_t panel, int64_t next, int64_t r0, int64_t r1, const int32_t* minus) const {
        by_tiles<FEW / 2, FEW>(r0, r1, [&](auto rows, int64_t r) {
            few<rows.value, PANELS>(panel, r == r0 ? next : panel, r, minus + (r - r0) * GROUPS);
        });
    }

    void two_tiles(const Share<TOGETHER>& share) const {
        int32_t minus[2 * FEW * GROUPS];
        prepare(share.r0, int(share.r1 - share.r0), minus);
        walk(share.p0, share.p1, [&](auto panels, int64_t p, int64_t next) {
            twice<panels.value>(p, next, share.r0, share.r1, minus);
        });
    }

    // Many rows: codes are taken apart once, scales become floats, and those of the next panels are announced meanwhile.
    template <int PANELS>
    void many(int64_t panel, int64_t next, int64_t r0, int64_t r1, const int32_t* minus) const {
        Lanes acc[CHUNK < GROUPS ? MANY : 1][PANELS] = {};
        alignas(64) uint8_t unpacked[W::STORAGE == NIBBLES ? int64_t(PANELS) * CHUNK * W::GROUP * LANES : 1];
        alignas(64) float scales[W::STORAGE == NIBBLES ? PANELS * GROUPS * LANES : 1];
        if constexpr (W::STORAGE == NIBBLES)
            for (int p = 0; p < PANELS; p++)
                for (int g = 0; g < GROUPS; g++) store(scales + (p * GROUPS + g) * LANES, w.scales((panel + p * APART) * GROUPS + g));
        for (int g = 0; g < GROUPS; g += CHUNK) {
            const int stop = std::min(g + CHUNK, GROUPS), steps = (stop - g) * (W::GROUP / STEP);
            const int64_t before = int64_t(g) * (W::GROUP / STEP) * LINES * 64;
            const uint8_t* start = codes(panel) + before;
            const int tiles = int((r1 - r0 + TILE - 1) / TILE), lines = W::STORAGE == NIBBLES ? 1 : (LINES + tiles - 1) / tiles;
            Codes from{start, scales, APART * PANEL, codes(next) + before, APART * PANEL, lines, nullptr};
            if constexpr (W::STORAGE == NIBBLES) {
                for (int p = 0; p < PANELS; p++) unpack(start + p * APART * PANEL, steps, unpacked + p * (steps * step_bytes(CODES)));
                from.codes = unpacked, from.panel_bytes = steps * step_bytes(CODES);
            }
            if (g == 0)
                for (int p = 0; p < PANELS; p++) w.announce((next + p * APART) * GROUPS, GROUPS);
            int turn = 0;
            by_tiles<(TILE + 1) / 2, TILE>(r0, r1, [&](auto rows, int64_t r) {
                Codes part = from;
                part.next += int64_t(turn++ * lines % LINES) * steps * 64;
                part.outputs = y + (r + rows.value < r1 ? r + rows.value : r0) * ROW + panel % COUNT * LANES;
                block<rows.value, PANELS>(part, panel, r, g, stop, minus + (r - r0) * GROUPS, acc + (CHUNK < GROUPS ? r - r0 : 0));
            });
        }
    }

    // A function of its own: with others around it, g++ keeps sums in memory.
    template <int ROWS, int PANELS>
    __attribute__((noinline)) void block(const Codes& from, int64_t panel, int64_t r, int g, int stop, const int32_t* minus,
                                         Lanes acc[][PANELS]) const {
        constexpr int lines = W::STORAGE == NIBBLES ? 1 : -1, put_lines = PAIRED ? 1 : PANELS;
        const int8_t* values = x.values + r * SIZE;
        if constexpr (CHUNK < GROUPS) {
            tile<UNPACKED, ROWS, PANELS, lines, GROUPS, APART, ROW, put_lines>(w, from, panel, values, minus, g, stop, acc);
            if (stop == GROUPS) put<ROWS, PANELS>(panel, r, acc);
        } else {
            Lanes sums[ROWS][PANELS] = {};
            tile<UNPACKED, ROWS, PANELS, lines, GROUPS, APART, ROW, put_lines>(w, from, panel, values, minus, 0, GROUPS, sums);
            put<ROWS, PANELS>(panel, r, sums);
        }
    }

    void run(int64_t rows, Team team) const {
        const Share<TOGETHER> share(rows, COUNT, team, (N + LANES - 1) / LANES * PANEL > OWN_BYTES ? INT32_MAX : OWN_ROWS);
        if (share.r1 - share.r0 <= FEW) {
            by_tiles<1, FEW>(share.r0, share.r1,
                             [&](auto tile, int64_t r) { few_rows<tile.value>(share.p0, share.p1, r); });
            return;
        }
        if constexpr (W::STORAGE == NIBBLES)
            if (share.r1 - share.r0 <= 2 * FEW) return two_tiles(share);
        by_parts(share.r0, share.r1, MANY, [&](int64_t r, int64_t stop) {
            int32_t minus[MANY * GROUPS];
            prepare(r, int(stop - r), minus);
            walk(share.p0, share.p1, [&](auto panels, int64_t p, int64_t next) { many<panels.value>(p, next, r, stop, minus); });
        });
    }
};

template <int N, int K, int GROUP, bool ZEROS, Function GATE>
void linear_w4a8(const Rounded& x, const uint8_t* w, const uint16_t* scale, const uint8_t* zero, const float* bias, float* y,
                 int64_t rows, Team team, const float* residual) {
    typedef FourBits<GROUP, ZEROS> W;
    IntegerProduct<W, N, K, GATE>{W{w, scale, zero}, x, bias, y, residual}.run(rows, team);
}

template <int N, int K, Function GATE>
void linear_w8a8(const Rounded& x, const uint8_t* w, const float* scale, const float* bias, float* y, int64_t rows, Team team,
                 const float* residual) {
    typedef EightBits<padded(K)> W;
    IntegerProduct<W, N, K, GATE>{W{w, scale}, x, bias, y, residual}.run(rows, team);
}

}  // namespace llmc
