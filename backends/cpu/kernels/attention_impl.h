// Attention over the block cache. Keys are taken block by block of absolute positions, so that the order of every sum depends
// on positions alone.
#pragma once
#include "attention.h"
#include "tile.h"

namespace llmc {

// Where the blocks of the cache lie.
template <int G, int D, int DV>
struct CacheBlocks {
    const float *keys, *values;
    const Tokens& tokens;

    int32_t end(int64_t) const { return INT32_MAX; }
    template <class Rows>
    void add(Rows& rows, int64_t t, int g, int32_t b) const {
        const int64_t block = int64_t(tokens.row(t)[b]) * G + g;
        rows.add(b, keys + block * D * BLOCK, BLOCK, values + block * BLOCK * DV, DV);
    }
};

template <int H, int G, int D, int DV, class F>
void attention(const float* q, int64_t stride, const float* keys, const float* values, const float* sinks, float scale,
               float* y, const Tokens& tokens, Team team) {
    attend<H, G, D, DV>(q, stride, CacheBlocks<G, D, DV>{keys, values, tokens}, sinks, scale, y, tokens, team, F{});
}

}  // namespace llmc
