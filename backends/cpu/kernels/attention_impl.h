// Attention over the block cache. Keys are taken block by block of absolute positions, so that the order of every sum depends
// on positions alone.
#pragma once
#include "tiles.h"

namespace llmc {

// Where the blocks of the cache lie.
template <int G, int D, int DV>
struct CacheBlocks {
    const float *keys, *values;
    const Tokens& tokens;

    struct Row {
        const float *keys, *values;
        const int32_t* table;
        Block operator()(int32_t b) const {
            const int64_t at = int64_t(table[b]) * G;
            return {keys + at * D * BLOCK, BLOCK, values + at * BLOCK * DV, DV};
        }
    };
    Row of(int64_t t, int g) const { return {keys + g * D * BLOCK, values + g * BLOCK * DV, tokens.row(t)}; }
    int32_t end(int64_t) const { return INT32_MAX; }
};

template <int H, int G, int D, int DV, class F>
void attention(const float* q, int64_t stride, const float* keys, const float* values, const float* sinks, float scale,
               float* y, const Step& step, Team team) {
    attend<H, G, D, DV, true>(q, stride, CacheBlocks<G, D, DV>{keys, values, step.tokens}, sinks, scale, y, step, team, F{});
}

}  // namespace llmc
