// The inner loops of attention: rows that share blocks of keys and values. Positions are taken by chunks that begin at multiples of
// CHUNK, each weighed under its own largest score, and put together in their order (Milakov and Gimelshein 2018; Dao et al. 2023,
// "Flash-Decoding"): so who computes a chunk, and with what other rows, changes no bit. BLOCK comes from the file that includes this.
#pragma once
#include "attention.h"
#include "cache.h"
#include "functions.h"

namespace llmc {

// y[r] = y[r] + sum over i < n of x[r][i] w[i], in the order of i, for ROWS rows and COLUMNS vectors of columns. y is taken for zero
// if it is fresh. MASKED: only where in[r][i] is not 0, as what is left out may be no number. What lies at `ahead` as w does is
// fetched: few rows wait for memory.
template <int ROWS, int COLUMNS, bool MASKED>
inline void multiply(const float* x, const int32_t* in, int64_t xs, const float* w, int64_t ws, int n, const float* ahead, bool fresh,
                     float* y, int64_t ys) {
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
            column[c] = load(w + i * ws + c * LANES);
            if (ROWS <= 4) __builtin_prefetch(ahead + i * ws + c * LANES, 0, 2);
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
template <int N, bool MASKED, int ROWS>
inline void multiply_columns(const float* x, const int32_t* in, int64_t xs, const float* w, int64_t ws, int n, const float* ahead,
                             bool fresh, float* y, int64_t ys) {
    constexpr int fit = SUMS * WIDTH / LANES / ROWS, vectors = (N + LANES - 1) / LANES, columns = std::min({fit, 4, vectors});
    int c = 0;
    for (; c + columns <= vectors; c += columns)
        multiply<ROWS, columns, MASKED>(x, in, xs, w + c * LANES, ws, n, ahead + c * LANES, fresh, y + c * LANES, ys);
    if constexpr (vectors % columns)
        for (; c < vectors; c++)
            multiply<ROWS, 1, MASKED>(x, in, xs, w + c * LANES, ws, n, ahead + c * LANES, fresh, y + c * LANES, ys);
}

// The same for rows from..to, and up to seven before and after them. Three and four heads are often all that share keys.
template <int N, bool MASKED>
inline void multiply_rows(int from, int to, const float* x, const int32_t* in, int64_t xs, const float* w, int64_t ws, int n,
                          const float* ahead, bool fresh, float* y, int64_t ys) {
    constexpr int most = SUMS * WIDTH / LANES < 8 ? SUMS * WIDTH / LANES : 8;
    const auto some = [&](auto count, int r) {
        constexpr int rows = count() < most ? count() : most;
        multiply_columns<N, MASKED, rows>(x + r * xs, MASKED ? in + r * xs : in, xs, w, ws, n, ahead, fresh, y + r * ys, ys);
    };
    for (int r = from / 8 * 8; r < to; r += most) {
        switch (to - r) {
            case 1: some(std::integral_constant<int, 1>(), r); break;
            case 2: some(std::integral_constant<int, 2>(), r); break;
            case 3: some(std::integral_constant<int, 3>(), r); break;
            case 4: some(std::integral_constant<int, 4>(), r); break;
            default: some(std::integral_constant<int, most>(), r);
        }
    }
}

// e^x for x of 0 or less: 0 below e^-87. As exponential, by the bits of the exponent.
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
        return at < -87.0f ? zero : __builtin_bit_cast(Part, __builtin_bit_cast(Words, p) + power);
    });
}

// Where a block of one head's keys [D][key_stride] and values [BLOCK][value_stride] lies, as they are kept, and in int8 what they are
// multiples of [BLOCK]. Read are BLOCK elements of each row of keys, and of values as floats up to LANES - 1 beyond the last.
struct Block {
    const char* keys;
    int64_t key_stride;
    const char* values;
    int64_t value_stride;
    const float *key_scale, *value_scale;
};

// COUNT elements of a block as floats: where they are, or in `room`.
template <Kept KEPT, int COUNT>
inline const float* as_floats(const char* from, const char* ahead, float* room) {
    if constexpr (KEPT == Kept::float32) return reinterpret_cast<const float*>(from);
    else widen<KEPT, COUNT>(from, ahead, room);
    return room;
}

// Queries of one run that follow each other, times heads that share a group of keys: each block of keys and values is read once
// for all of these rows. No row's result depends on which others there are.
// F says what is done to a score (score; plain: nothing), which keys are admitted (admits; everything: all from the first to the last), and the
// first and the last that can be in a sequence that ends at `end` (first, last).
template <int D, int DV, class F>
class Tile {
    static constexpr int ROWS = TILE_ROWS, WIDE = (DV + LANES - 1) / LANES * LANES;
    alignas(64) float query[ROWS * D], s[ROWS * CHUNK], part[partial_floats(DV)], sofar[partial_floats(DV)];
    alignas(64) int32_t in[ROWS * CHUNK];
    float base[ROWS], mine[ROWS], other[ROWS];
    int32_t position[ROWS], last[ROWS];
    const int first_head, heads, rows;
    const F f;

    // Of a chunk, or of all so far: sums [ROWS][WIDE], of weights [ROWS], and the largest scores [ROWS].
    static float* weights(float* partial) { return partial + ROWS * WIDE; }
    static float* tops(float* partial) { return partial + ROWS * (WIDE + 1); }
    static const float* weights(const float* partial) { return partial + ROWS * WIDE; }
    static const float* tops(const float* partial) { return partial + ROWS * (WIDE + 1); }

public:
    // Heads from first_head on of `count` queries q, [stride] apart, from position p on; sinks may be null.
    Tile(const float* q, int64_t stride, const float* sinks, float scale, int first_head, int heads, int count, int32_t p,
         int32_t end, F f)
        : first_head(first_head), heads(heads), rows(count * heads), f(f) {
        for (int r = 0; r < rows; r++) {
            const int h = first_head + r % heads;
            for (int i = 0; i < D; i++) query[r * D + i] = q[r / heads * stride + h * D + i] * scale;
            position[r] = p + r / heads;
            last[r] = int32_t(f.last(position[r], end));
            tops(sofar)[r] = sinks ? sinks[h] : -INFINITY;
            weights(sofar)[r] = sinks ? 1.0f : 0.0f;
        }
        std::memset(sofar, 0, rows * WIDE * sizeof(float));
        const int spare = std::min((rows + 7) / 8 * 8, ROWS) - rows;  // rows that are multiplied besides
        std::memset(query + rows * D, 0, spare * D * sizeof(float));
    }

    // What chunk c gives, with its blocks from `blocks`, into `partial`.
    template <class Blocks>
    void weigh(int32_t c, const Blocks& blocks, float* partial) {
        const int32_t k0 = c * CHUNK, first = std::max(k0, f.first(position[0])) / BLOCK;
        const int count = std::min(k0 + CHUNK - 1, last[rows - 1]) / BLOCK - first + 1;  // of blocks
        const auto [from, to] = having(c);
        const int next = first + count, final = last[rows - 1] / BLOCK + 1;
        Block block[CHUNK / BLOCK];
        for (int b = 0; b < count; b++) block[b] = blocks(first + b);
        alignas(64) float room[BLOCK * std::max(Blocks::kept_keys == Kept::float32 ? 0 : D, Blocks::kept_values == Kept::float32 ? 0 : DV) + LANES];
        for (int b = 0; b < count; b++) {
            const float* keys = as_floats<Blocks::kept_keys, D * BLOCK>(block[b].keys, block[b].values, room);
            const float* ahead = keys == room ? room : reinterpret_cast<const float*>(block[b].values);
            multiply_rows<BLOCK, false>(from, to, query, in, D, keys, block[b].key_stride, D, ahead, true, s + b * BLOCK, CHUNK);
            if (Blocks::kept_keys == Kept::int8) rescale(from, to, b * BLOCK, block[b].key_scale);
        }
        bool all_in[CHUNK / BLOCK];
        for (int b = 0; b < count; b++) all_in[b] = score(from, to, (first + b) * BLOCK, b * BLOCK);
        exponentials(from, to, count * BLOCK, partial);
        for (int b = 0; b < count; b++) {
            const Block& now = block[b];
            const char* later = next + b < final ? blocks(next + b).keys : now.values;
            const float* values = as_floats<Blocks::kept_values, DV * BLOCK>(now.values, later, room);
            const float *x = s + b * BLOCK, *ahead = values == room ? room : reinterpret_cast<const float*>(later);
            if (Blocks::kept_values == Kept::int8) rescale(from, to, b * BLOCK, now.value_scale);
            const int keys = std::min(last[to - 1] - (first + b) * BLOCK + 1, BLOCK);
            const auto add = all_in[b] ? multiply_rows<DV, false> : multiply_rows<DV, true>;
            add(from, to, x, in + b * BLOCK, CHUNK, values, now.value_stride, keys, ahead, b == 0, partial, WIDE);
        }
    }

    // Chunk c, the next in order, to all so far.
    void fold(int32_t c, const float* partial) {
        const auto [from, to] = having(c);
        for (int r = from; r < to; r++) {
            const float now = std::max(tops(partial)[r], tops(sofar)[r]);
            base[r] = now == -INFINITY ? 0 : now;
            mine[r] = exp_(tops(sofar)[r] - base[r]);
            other[r] = exp_(tops(partial)[r] - base[r]);
            tops(sofar)[r] = now;
        }
        for (int r = from; r < to; r++) {
            weights(sofar)[r] = madd(weights(partial)[r], other[r], weights(sofar)[r] * mine[r]);
            for (int i = r * WIDE; i < (r + 1) * WIDE; i += LANES)
                store(sofar + i, madd(load(partial + i), all(other[r]), load(sofar + i) * all(mine[r])));
        }
    }

    template <class Blocks>
    void add(int32_t c, const Blocks& blocks) {
        weigh(c, blocks, part);
        fold(c, part);
    }

    // y: all heads of the queries, [stride] apart.
    void put(float* y, int64_t stride) const {
        for (int r = 0; r < rows; r++) {
            const float inverse = 1.0f / weights(sofar)[r];
            float* to = y + r / heads * stride + (first_head + r % heads) * DV;
            for (int i = 0; i < DV; i++) to[i] = sofar[r * WIDE + i] * inverse;
        }
    }

private:
    // The rows that chunk c has keys for.
    std::pair<int, int> having(int32_t c) const {
        int from = 0, to = rows;
        while (from < to && last[from] < c * CHUNK) from += heads;
        while (from < to && f.first(position[to - 1]) >= (c + 1) * CHUNK) to -= heads;
        return {from, to};
    }

    // Each of a block's scores or weights times what the numbers of its position are multiples of.
    void rescale(int from, int to, int at, const float* multiple) {
        for (int r = from; r < to; r++)
            for (int j = 0; j < BLOCK; j += LANES) {
                float* x = s + r * CHUNK + at + j;
                store(x, load(x) * load(multiple + j));
            }
    }

    // The scores of rows with a block that begins at k0 from their products, -infinity for keys that are left out; whether none is.
    bool score(int from, int to, int32_t k0, int at) {
        const bool inside = F::everything && f.first(position[to - 1]) <= k0 && k0 + BLOCK - 1 <= last[from];
        if (inside && F::plain) return true;
        int32_t every = -1;
        for (int r = from; r < to; r++) {
            const int h = first_head + r % heads;
            const int32_t p = position[r], first = f.first(p), end = last[r];
            float* row = s + r * CHUNK + at;
            int32_t* mask = in + r * CHUNK + at;
            if (inside) {
                for (int j = 0; j < BLOCK; j++) row[j] = f.score(row[j], h, p, k0 + j);
                continue;
            }
            for (int j = 0; j < BLOCK; j++) mask[j] = -int32_t((k0 + j >= first) & (k0 + j <= end) & f.admits(h, p, k0 + j));
            for (int j = 0; j < BLOCK; j++) every &= mask[j];
            for (int j = 0; j < BLOCK; j++) {
                const float value = f.score(row[j], h, p, k0 + j);
                row[j] = mask[j] ? value : -INFINITY;
            }
        }
        return every;
    }

    // Scores to weights under the largest of the chunk. Where all are -infinity there is nothing to subtract.
    void exponentials(int from, int to, int keys, float* partial) {
        for (int r = from; r < to; r++) {
            const float* row = s + r * CHUNK;
            Lanes most = load(row);
            for (int j = LANES; j < keys; j += LANES) most = larger(load(row + j), most);
            tops(partial)[r] = largest(most);
            base[r] = tops(partial)[r] == -INFINITY ? 0 : tops(partial)[r];
        }
        for (int r = from; r < to; r++) {
            float* row = s + r * CHUNK;
            Lanes sums = {};
            for (int j = 0; j < keys; j += LANES) {
                const Lanes e = decay(load(row + j) - all(base[r]));
                store(row + j, e);
                sums += e;
            }
            weights(partial)[r] = sum(sums);
        }
    }
};

}  // namespace llmc
