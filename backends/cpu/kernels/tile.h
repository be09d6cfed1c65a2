// The inner loops of attention: rows that share blocks of keys and values, with a running maximum (Milakov and Gimelshein
// 2018; Dao et al. 2022). BLOCK comes from the file that includes this.
#pragma once
#include "attention.h"
#include "functions.h"

namespace llmc {

// y[r] = y[r] * factor[r] + sum over i < n of x[r][i] w[i], in the order of i, for ROWS rows and COLUMNS vectors of columns.
// y is taken for zero if factor is null. MASKED: only where in[r][i] is not 0, as what is left out may be no number.
template <int ROWS, int COLUMNS, bool MASKED>
inline void multiply(const float* x, int64_t xs, const int32_t* in, const float* w, int64_t ws, int n, const float* factor,
                     float* y, int64_t ys) {
    Lanes sum[ROWS][COLUMNS] = {};
    if (factor)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++) sum[r][c] = load(y + r * ys + c * LANES) * all(factor[r]);
    for (int i = 0; i < n; i++) {
        Lanes column[COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) column[c] = load(w + i * ws + c * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Lanes element = all(x[r * xs + i]);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++) {
                const Lanes next = madd(element, column[c], sum[r][c]);
                sum[r][c] = MASKED ? choose(in[r * BLOCK + i], next, sum[r][c]) : next;
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) store(y + r * ys + c * LANES, sum[r][c]);
}

// The same for rows from..to and N columns, in tiles of as many sums as there are registers for.
template <int N, bool MASKED, int ROWS = SUMS * WIDTH / LANES < 8 ? SUMS * WIDTH / LANES : 8>
inline void multiply_rows(int from, int to, const float* x, int64_t xs, const int32_t* in, const float* w, int64_t ws, int n,
                          const float* factor, float* y, int64_t ys) {
    constexpr int fit = SUMS * WIDTH / LANES / ROWS, vectors = (N + LANES - 1) / LANES;
    constexpr int columns = std::min({fit, 4, vectors});
    for (; to - from >= ROWS; from += ROWS) {
        const float* shrink = factor ? factor + from : nullptr;
        const int32_t* mask = in + from * BLOCK;
        const float* row = x + from * xs;
        float* out = y + from * ys;
        int c = 0;
        for (; c + columns <= vectors; c += columns)
            multiply<ROWS, columns, MASKED>(row, xs, mask, w + c * LANES, ws, n, shrink, out + c * LANES, ys);
        if constexpr (vectors % columns)
            for (; c < vectors; c++)
                multiply<ROWS, 1, MASKED>(row, xs, mask, w + c * LANES, ws, n, shrink, out + c * LANES, ys);
    }
    if constexpr (ROWS > 1)
        if (from < to) multiply_rows<N, MASKED, ROWS / 2>(from, to, x, xs, in, w, ws, n, factor, y, ys);
}

// Queries of one run that follow each other, times heads that share a group of keys: each block of keys and values is read once
// for all of these rows. No row's result depends on which others there are.
// F says what is done to a score (score), which keys are admitted (admits; everything: all from the first to the last), and the
// first and the last that can be in a sequence that ends at `end` (first, last).
template <int D, int DV, class F>
class Tile {
    static constexpr int ROWS = 32, WIDE = (DV + LANES - 1) / LANES * LANES;
    alignas(64) float query[ROWS * D], out[ROWS * WIDE], s[ROWS * BLOCK];
    alignas(64) int32_t in[ROWS * BLOCK];
    float weight[ROWS * LANES], top[ROWS], base[ROWS], shrink[ROWS];
    int32_t position[ROWS], last[ROWS];
    const int first_head, heads, rows;
    const float scale;
    const F f;

public:
    static constexpr int HEADS = 16;  // at most
    static constexpr int queries(int heads) { return ROWS / heads; }

    // Heads from first_head on of `count` queries q, [stride] apart, from position p on; sinks may be null.
    Tile(const float* q, int64_t stride, const float* sinks, float scale, int first_head, int heads, int count, int32_t p,
         int32_t end, F f)
        : first_head(first_head), heads(heads), rows(count * heads), scale(scale), f(f) {
        for (int r = 0; r < rows; r++) {
            const int h = first_head + r % heads;
            std::memcpy(query + r * D, q + r / heads * stride + h * D, D * sizeof(float));
            position[r] = p + r / heads;
            last[r] = int32_t(f.last(position[r], end));
            top[r] = sinks ? sinks[h] : -INFINITY;
        }
        std::memset(weight, 0, rows * LANES * sizeof(float));
        for (int r = 0; r < rows; r++) weight[r * LANES] = sinks ? 1.0f : 0.0f;
        std::memset(out, 0, rows * WIDE * sizeof(float));
    }

    int32_t first_block() const { return f.first(position[0]) / BLOCK; }
    int32_t last_block() const { return last[rows - 1] / BLOCK; }

    // Block b of positions, in order: k [D][ks], v [BLOCK][vs]. Read are BLOCK floats of k, and of v up to LANES - 1 beyond DV.
    void add(int32_t b, const float* k, int64_t ks, const float* v, int64_t vs) {
        const int32_t k0 = b * BLOCK;
        int from = 0, to = rows;  // those that the block has keys for
        while (from < to && last[from] < k0) from += heads;
        while (from < to && f.first(position[to - 1]) >= k0 + BLOCK) to -= heads;
        if (from == to) return;
        multiply_rows<BLOCK, false>(from, to, query, D, in, k, ks, D, nullptr, s, BLOCK);
        int32_t whole = -1;
        for (int r = from; r < to; r++) whole &= score(r, k0);
        weigh(from, to);
        const int count = std::min(last[to - 1] - k0 + 1, BLOCK);
        if (whole) multiply_rows<DV, false>(from, to, s, BLOCK, in, v, vs, count, shrink, out, WIDE);
        else multiply_rows<DV, true>(from, to, s, BLOCK, in, v, vs, count, shrink, out, WIDE);
    }

    // y: all heads of the queries, [stride] apart.
    void put(float* y, int64_t stride) const {
        for (int r = 0; r < rows; r++) {
            const float inverse = 1.0f / sum(load(weight + r * LANES));
            float* to = y + r / heads * stride + (first_head + r % heads) * DV;
            for (int i = 0; i < DV; i++) to[i] = out[r * WIDE + i] * inverse;
        }
    }

private:
    // The scores of a row from its products, -infinity for keys that are left out; whether (-1) none is.
    int32_t score(int r, int32_t k0) {
        const int h = first_head + r % heads;
        const int32_t p = position[r], first = f.first(p), end = last[r];
        float* row = s + r * BLOCK;
        int32_t *mask = in + r * BLOCK, whole = -1;
        if (F::everything && first <= k0 && k0 + BLOCK - 1 <= end) {
            for (int j = 0; j < BLOCK; j++) row[j] = f.score(row[j] * scale, h, p, k0 + j);
            for (int j = 0; j < BLOCK; j++) mask[j] = -1;
            return whole;
        }
        for (int j = 0; j < BLOCK; j++) mask[j] = -int32_t((k0 + j >= first) & (k0 + j <= end) & f.admits(h, p, k0 + j));
        for (int j = 0; j < BLOCK; j++) whole &= mask[j];
        for (int j = 0; j < BLOCK; j++) {
            const float value = f.score(row[j] * scale, h, p, k0 + j);
            row[j] = mask[j] ? value : -INFINITY;
        }
        return whole;
    }

    // Scores to weights under the largest so far. Where all are -infinity there is nothing to subtract.
    void weigh(int from, int to) {
        for (int r = from; r < to; r++) {
            const float* row = s + r * BLOCK;
            Lanes most = load(row);
            for (int j = LANES; j < BLOCK; j += LANES) most = larger(load(row + j), most);
            base[r] = largest(most);
        }
        for (int r = from; r < to; r++) {
            const float now = base[r] > top[r] ? base[r] : top[r];
            base[r] = now == -INFINITY ? 0 : now;
            shrink[r] = exp_(top[r] - base[r]);
            top[r] = now;
        }
        for (int r = from; r < to; r++) {
            float* row = s + r * BLOCK;
            Lanes sums = load(weight + r * LANES) * all(shrink[r]);
            for (int j = 0; j < BLOCK; j += LANES) {
                const Lanes e = exp_(load(row + j) - all(base[r]));
                store(row + j, e);
                sums += e;
            }
            store(weight + r * LANES, sums);
        }
    }
};

// All tiles of a step. Blocks says where a sequence ends (end), and adds one of its blocks to a tile (add).
template <int H, int G, int D, int DV, class F, class Blocks>
inline void attend(const float* q, int64_t stride, const Blocks& blocks, const float* sinks, float scale, float* y,
                   const Tokens& tokens, Team team, F f) {
    using Rows = Tile<D, DV, F>;
    constexpr int share = H / G, most = share < Rows::HEADS ? share : Rows::HEADS;
    int turn = 0;  // tiles go around the team, as later ones have more keys
    for (int64_t t = 0, next; t < tokens.count; t = next) {
        const int64_t end = std::min(t + Rows::queries(most), tokens.count);
        for (next = t + 1; next < end && tokens.table[next] == tokens.table[t];) next++;
        for (int g = 0; g < G; g++)
            for (int h = 0; h < share; h += most) {
                if (turn++ % team.size != team.id) continue;
                const int heads = share - h < most ? share - h : most;
                Rows rows(q + t * stride, stride, sinks, scale, g * share + h, heads, int(next - t), tokens.position[t],
                          blocks.end(t), f);
                for (int32_t b = rows.first_block(); b <= rows.last_block(); b++) blocks.add(rows, t, g, b);
                rows.put(y + t * H * DV, H * DV);
            }
    }
}

}  // namespace llmc
