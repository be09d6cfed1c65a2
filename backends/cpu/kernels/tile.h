// The inner loops of attention: rows that share blocks of keys and values. Positions are taken by chunks that begin at multiples
// of CHUNK, each weighed under its own largest score, and put together in their order (Milakov and Gimelshein 2018; Dao et al.
// 2023, "Flash-Decoding"): so who computes a chunk, and with what other rows, changes no bit. BLOCK comes from the file that
// includes this.
#pragma once
#include "attention.h"
#include "multiply.h"

namespace llmc {

// Where a block of one head's keys [D][key_stride] and values [BLOCK][value_stride] lies, as they are kept, and in int8 what they
// are multiples of [BLOCK]. Read are BLOCK elements of each row of keys, and of values up to LANES - 1 beyond the last.
struct Block {
    const char* keys;
    int64_t key_stride;
    const char* values;
    int64_t value_stride;
    const float *key_scale, *value_scale;
};

// Queries of one run that follow each other, times heads that share a group of keys: each block of keys and values is read once
// for all of these rows. No row's result depends on which others there are.
// F says what is done to a score (score; plain: nothing), which keys are admitted (admits; everything: all from the first to the
// last), and the first and the last that can be in a sequence that ends at `end` (first, last).
template <int D, int DV, class F>
class Tile {
    static constexpr int ROWS = TILE_ROWS, WIDE = (DV + LANES - 1) / LANES * LANES;
    static constexpr bool TOGETHER = MOST_ROWS > 4;   // blocks of values: sums stay in registers, and no rows wait for memory
    alignas(64) float query[ROWS * D], s[ROWS * CHUNK], part[partial_floats(DV)], sofar[partial_floats(DV)];
    alignas(64) int32_t in[ROWS * CHUNK];
    float base[ROWS], mine[ROWS], other[ROWS];
    int32_t position[ROWS], last[ROWS];
    const int first_head, heads, rows;
    bool fresh;   // nothing is in `sofar`, not even sinks
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
        : first_head(first_head), heads(heads), rows(count * heads), fresh(!sinks), f(f) {
        for (int t = 0, r = 0; t < count; t++)
            for (int h = first_head; h < first_head + heads; h++, r++) {
                for (int i = 0; i < D; i++) query[r * D + i] = q[t * stride + h * D + i] * scale;
                position[r] = p + t;
                last[r] = int32_t(f.last(position[r], end));
                tops(sofar)[r] = sinks ? sinks[h] : -INFINITY;
                weights(sofar)[r] = sinks ? 1.0f : 0.0f;
            }
        if (sinks) std::memset(sofar, 0, rows * WIDE * sizeof(float));
        const int filled = std::min((rows + AT_ONCE - 1) / AT_ONCE * AT_ONCE, ROWS), spare = rows > 4 ? filled - rows : 0;
        std::memset(query + rows * D, 0, spare * D * sizeof(float));  // of rows that are multiplied besides
    }

    // What chunk c gives, with its blocks from `blocks`, into `partial`.
    template <class Blocks>
    void weigh(int32_t c, const Blocks& blocks, float* partial) {
        const int32_t k0 = c * CHUNK, first = std::max(k0, f.first(position[0])) / BLOCK;
        const int count = std::min(k0 + CHUNK - 1, last[rows - 1]) / BLOCK - first + 1;  // of blocks
        const auto [from, to] = having(c);
        const int begin = f.first(position[0]) / BLOCK, next = first + count, final = last[rows - 1] / BLOCK + 1;
        Block block[CHUNK / BLOCK];
        for (int b = 0; b < count; b++) block[b] = blocks(first + b);
        constexpr Kept kept_keys = Blocks::kept_keys, kept_values = Blocks::kept_values;
        constexpr int widest = std::max(kept_keys == Kept::float32 ? 0 : D, kept_values == Kept::float32 ? 0 : DV);
        alignas(64) float room[BLOCK * widest + LANES];
        const auto keys_of = [&](int b) { return std::min(last[to - 1] - (first + b) * BLOCK + 1, BLOCK); };
        for (int b = 0; b < count; b++) {
            const Block& now = block[b];
            if (TOGETHER && kept_keys == Kept::float32 && keys_of(b) <= LANES && !are_few(from, to))
                multiply_rows<Kept::float32, LANES, false, false, true, D, CHUNK>(
                    from, to, query, in, {&now.keys, now.key_stride, D, nullptr}, D, true, s + b * BLOCK);
            else
                multiply_block<kept_keys, D * BLOCK, BLOCK, false, D, CHUNK>(from, to, query, in, now.keys, now.key_stride, D,
                                                                             now.values, true, room, s + b * BLOCK);
            if (kept_keys == Kept::int8) rescale(from, to, b * BLOCK, now.key_scale);
        }
        int common[CHUNK / BLOCK];   // of half a block the other scores are anything, and not chosen
        for (int b = 0; b < count; b++) common[b] = score(from, to, (first + b) * BLOCK, b * BLOCK);
        exponentials(from, to, std::min(count * BLOCK, last[to - 1] - first * BLOCK + 1), partial);
        bool none = true;   // of values
        for (int b = 0, stop; b < count; b = stop) {
            const Block& now = block[b];
            stop = b + 1;
            int begun = 0;   // positions of block b that are done
            if (TOGETHER && kept_values == Kept::float32 && common[b] > 0 && !are_few(from, to)) {
                const char* values[CHUNK / BLOCK] = {now.values};
                int n = std::min(common[b], keys_of(b));
                for (; common[stop - 1] == BLOCK && stop < count && common[stop] > 0; stop++) {
                    values[stop - b] = block[stop].values;
                    n += std::min(common[stop], keys_of(stop));
                }
                multiply_rows<Kept::float32, DV, false, true, true, CHUNK, WIDE>(
                    from, to, s + b * BLOCK, in, {values, now.value_stride, BLOCK, nullptr}, n, none, partial);
                none = false;
                b = stop - 1;
                begun = std::min(common[b], keys_of(b));
                if (begun == keys_of(b)) continue;
            }
            const Block& here = block[b];
            const char* ahead = next + b < final ? blocks(next + b).keys : blocks(begin + b).keys + D * BLOCK * kept_bytes(kept_keys);
            if (kept_values == Kept::int8) rescale(from, to, b * BLOCK, here.value_scale);
            constexpr int elements = DV * BLOCK;
            const auto add = common[b] == BLOCK ? multiply_block<kept_values, elements, DV, false, CHUNK, WIDE>
                                                : multiply_block<kept_values, elements, DV, true, CHUNK, WIDE>;
            const int at = b * BLOCK + begun;
            add(from, to, s + at, in + at, here.values + begun * here.value_stride * kept_bytes(kept_values), here.value_stride,
                keys_of(b) - begun, ahead, none, room, partial);
            none = false;
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
        if (fresh && having(c) == std::pair(0, rows)) {   // folding into nothing changes no bit
            weigh(c, blocks, sofar);
        } else {
            if (fresh) std::memset(sofar, 0, rows * WIDE * sizeof(float));
            weigh(c, blocks, part);
            fold(c, part);
        }
        fresh = false;
    }

    // y: all heads of the queries, [stride] apart.
    void put(float* y, int64_t stride) const {
        for (int r = 0; r < rows; y += stride)
            for (int h = first_head; h < first_head + heads; h++, r++) {
                const float inverse = 1.0f / weights(sofar)[r];
                for (int i = 0; i < DV; i++) y[h * DV + i] = sofar[r * WIDE + i] * inverse;
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

    // The scores of rows with a block that begins at k0 from their products, -infinity for keys that are left out; how many keys
    // all rows admit, from the first on. BLOCK: all up to the last that any row admits.
    int score(int from, int to, int32_t k0, int at) {
        const bool begun = F::everything && f.first(position[to - 1]) <= k0, inside = begun && k0 + BLOCK - 1 <= last[from];
        if (inside && F::plain) return BLOCK;
        if (begun && last[from] == last[to - 1]) {   // as in a whole sequence
            const int keys = last[from] - k0 + 1;
            for (int r = from; r < to; r++) {
                float* row = s + r * CHUNK + at;
                for (int j = 0; j < BLOCK; j++) {
                    const float value = f.score(row[j], first_head + r % heads, position[r], k0 + j);
                    row[j] = j < keys ? value : -INFINITY;
                }
            }
            return BLOCK;
        }
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
        return every ? BLOCK : begun ? std::max(last[from] - k0 + 1, 0) : 0;
    }

    // The scores with so many keys, and those that fill their last vector, to weights under the largest of the chunk. Where all are
    // -infinity there is nothing to subtract.
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
