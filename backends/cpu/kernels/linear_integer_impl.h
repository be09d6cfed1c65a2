// Products of weights and activations that both are whole numbers. Each output is the sum over groups, one after the other, of
// scale * (exact sum of products): the same for one row and for many, and for any number of threads.
#pragma once
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

// ROWS rows by PANELS panels: groups first to last are added to acc. codes: of the first panel's first group, `panel_bytes` apart.
// minus: of each row, `minus_row` apart, from the first group on.
template <Storage STORAGE, int ROWS, int PANELS, int GROUPS, class W>
inline void tile(const W& w, const uint8_t* codes, int64_t panel_bytes, int64_t panel, const int8_t* x, const int32_t* minus,
                 int64_t minus_row, int first, int last, Lanes acc[ROWS][PANELS]) {
    constexpr int steps = W::GROUP / STEP;
    Lanes total[ROWS][PANELS];   // in registers: the compiler cannot know that acc is not among what is read
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PANELS; p++) total[r][p] = acc[r][p];
    for (int g = first; g < last; g++) {
        Sums s[ROWS][PANELS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int p = 0; p < PANELS; p++) s[r][p] = w.start((panel + p) * GROUPS + g, minus[r * minus_row + g - first]);
        for (int i = 0; i < steps; i++) {
            const uint8_t* at = codes + (int64_t(g - first) * steps + i) * step_bytes(STORAGE);
            if (STORAGE == W::STORAGE && ROWS <= TILE_ROWS / 2)
#pragma GCC unroll 4
                for (int p = 0; p < PANELS; p++)
                    for (int line = 0; line < step_bytes(STORAGE); line += 64) prefetch(at + p * panel_bytes + AHEAD + line);
            multiply_step<STORAGE, ROWS, PANELS>(at, panel_bytes, x + g * W::GROUP + i * STEP, GROUPS * W::GROUP, s);
        }
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; p++) {
            const Lanes scale = w.scales((panel + p) * GROUPS + g);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) total[r][p] = madd(floats(s[r][p]), scale, total[r][p]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int p = 0; p < PANELS; p++) acc[r][p] = total[r][p];
}

template <class W, int N, int K>
struct IntegerProduct {
    static constexpr int GROUPS = (K + W::GROUP - 1) / W::GROUP;
    static constexpr int64_t SIZE = int64_t(GROUPS) * W::GROUP, COUNT = (N + LANES - 1) / LANES;   // of a row; panels
    static constexpr int64_t PANEL = SIZE * LANES / (W::STORAGE == NIBBLES ? 2 : 1);
    static constexpr int CHUNK = W::GROUP >= 1024 ? 1 : 1024 / W::GROUP;   // groups whose codes are unpacked at once
    static constexpr int MANY = 8 * TILE_ROWS;                             // rows that an unpacked chunk serves

    W w;
    Rounded x;
    const float* bias;
    float* y;

    template <int ROWS, int PANELS>
    void put(int64_t panel, int64_t r0, const Lanes acc[ROWS][PANELS]) const {
        for (int p = 0; p < PANELS; p++)
            for (int r = 0; r < ROWS; r++)
                put_lanes<N>(acc[r][p] * all(x.scale[r0 + r]), bias, y + (r0 + r) * N, (panel + p) * LANES);
    }

    // Of rows r0 to r1 and groups first to last, minus MIDDLE times the sums.
    void prepare(int64_t r0, int64_t r1, int first, int last, int32_t* minus) const {
        for (int64_t r = r0; r < r1; r++)
            for (int g = first; g < last; g++) *minus++ = -W::MIDDLE * x.sums[r * GROUPS + g];
    }

    // Few rows: each weight is read once, and taken apart in registers.
    template <int ROWS, int PANELS>
    void few(int64_t panel, int64_t r0, const int32_t* minus) const {
        Lanes acc[ROWS][PANELS] = {};
        tile<W::STORAGE, ROWS, PANELS, GROUPS>(w, w.codes + panel * PANEL, PANEL, panel, x.values + r0 * SIZE, minus, GROUPS, 0,
                                               GROUPS, acc);
        put<ROWS, PANELS>(panel, r0, acc);
    }

    template <int ROWS>
    void few_rows(int64_t p0, int64_t p1, int64_t r0) const {
        int32_t minus[ROWS * GROUPS];
        prepare(r0, r0 + ROWS, 0, GROUPS, minus);
        int64_t p = p0;
        for (; p + TILE_PANELS <= p1; p += TILE_PANELS) few<ROWS, TILE_PANELS>(p, r0, minus);
        if constexpr (COUNT % TILE_PANELS)
            for (; p < p1; p++) few<ROWS, 1>(p, r0, minus);
    }

    // Many rows: codes of a chunk are taken apart once.
    template <int PANELS>
    void many_nibbles(int64_t panel, int64_t r0, int64_t r1) const {
        Lanes acc[MANY][PANELS] = {};
        int32_t minus[MANY * CHUNK];
        alignas(64) uint8_t codes[PANELS * CHUNK * W::GROUP * LANES];
        constexpr int64_t chunk_bytes = int64_t(CHUNK) * W::GROUP * LANES;
        for (int g = 0; g < GROUPS; g += CHUNK) {
            const int stop = g + CHUNK < GROUPS ? g + CHUNK : GROUPS;
            prepare(r0, r1, g, stop, minus);
            for (int p = 0; p < PANELS; p++)
                unpack(w.codes + (panel + p) * PANEL + g * (W::GROUP * LANES / 2), (stop - g) * (W::GROUP / STEP),
                       codes + p * chunk_bytes);
            by_tiles<(TILE_ROWS + 1) / 2, TILE_ROWS>(r0, r1, [&](auto rows, int64_t r) {
                tile<CODES, rows.value, PANELS, GROUPS>(w, codes, chunk_bytes, panel, x.values + r * SIZE,
                                                        minus + (r - r0) * (stop - g), stop - g, g, stop, acc + (r - r0));
            });
        }
        for (int64_t r = r0; r < r1; r++) put<1, PANELS>(panel, r, acc + (r - r0));
    }

    template <int PANELS>
    void many_bytes(int64_t panel, int64_t r0, int64_t r1) const {
        by_tiles<(TILE_ROWS + 1) / 2, TILE_ROWS>(r0, r1, [&](auto rows, int64_t r) {
            int32_t minus[rows.value * GROUPS];
            prepare(r, r + rows.value, 0, GROUPS, minus);
            few<rows.value, PANELS>(panel, r, minus);
        });
    }

    template <int PANELS>
    void panels(int64_t panel, int64_t r0, int64_t r1) const {
        if constexpr (W::STORAGE == NIBBLES)
            by_parts(r0, r1, MANY, [&](int64_t r, int64_t stop) { many_nibbles<PANELS>(panel, r, stop); });
        else
            many_bytes<PANELS>(panel, r0, r1);
    }

    void run(int64_t rows, Team team) const {
        const Share<TILE_PANELS> share(rows, COUNT, team);
        if (share.r1 - share.r0 <= TILE_ROWS) {
            by_tiles<1, TILE_ROWS>(share.r0, share.r1,
                                   [&](auto tile, int64_t r) { few_rows<tile.value>(share.p0, share.p1, r); });
            return;
        }
        int64_t p = share.p0;
        for (; p + TILE_PANELS <= share.p1; p += TILE_PANELS) panels<TILE_PANELS>(p, share.r0, share.r1);
        if constexpr (COUNT % TILE_PANELS)
            for (; p < share.p1; p++) panels<1>(p, share.r0, share.r1);
    }
};

template <int N, int K, int GROUP, bool ZEROS>
void linear_w4a8(const Rounded& x, const uint8_t* w, const uint16_t* scale, const uint8_t* zero, const float* bias, float* y,
                 int64_t rows, Team team) {
    typedef FourBits<GROUP, ZEROS> W;
    IntegerProduct<W, N, K>{W{w, scale, zero}, x, bias, y}.run(rows, team);
}

template <int N, int K>
void linear_w8a8(const Rounded& x, const uint8_t* w, const float* scale, const float* bias, float* y, int64_t rows, Team team) {
    typedef EightBits<padded(K)> W;
    IntegerProduct<W, N, K>{W{w, scale}, x, bias, y}.run(rows, team);
}

}  // namespace llmc
