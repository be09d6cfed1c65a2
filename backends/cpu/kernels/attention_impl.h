// Attention over the block cache. Keys are taken block by block of absolute positions, so that the order of every sum depends
// on positions alone.
#pragma once
#include "cache.h"
#include "tiles.h"

namespace llmc {

// Where the blocks of the cache lie.
template <Kept KEYS, Kept VALUES, int G, int D, int DV>
struct CacheBlocks {
    const float *keys, *values;
    const Tokens& tokens;

    struct Row {
        static constexpr Kept kept_keys = KEYS, kept_values = VALUES;
        const float *keys, *values;
        const int32_t* table;
        int group;
        Block operator()(int32_t b) const {
            const float* key = keys + table[b] * block_floats<KEYS, G, D>();
            const float* value = values + table[b] * block_floats<VALUES, G, DV>();
            return {kept_head<KEYS, G, D>(key, group), BLOCK, kept_head<VALUES, G, DV>(value, group), DV,
                    kept_scales<G, D>(key, group), kept_scales<G, DV>(value, group)};
        }
    };
    Row of(int64_t t, int g) const { return {keys, values, tokens.row(t), g}; }
    int32_t end(int64_t) const { return INT32_MAX; }
};

template <Kept KEYS, Kept VALUES, int H, int G, int D, int DV, class F>
void attention(const float* q, int64_t stride, const float* keys, const float* values, const float* sinks, float scale,
               float* y, const Step& step, Team team) {
    const CacheBlocks<KEYS, VALUES, G, D, DV> blocks{keys, values, step.tokens};
    attend<H, G, D, DV, true>(q, stride, blocks, sinks, scale, y, step, team, F{});
}

}  // namespace llmc
