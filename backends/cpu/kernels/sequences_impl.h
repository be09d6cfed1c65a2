// Attention over whole sequences, block by block of positions as in attention_impl.h.
#pragma once
#include "sequences.h"
#include "tile.h"

namespace llmc {

// Where the blocks of packed keys and values lie.
template <int G, int D, int DV>
struct PackedBlocks {
    const float *keys, *values;
    const Tokens& tokens;

    int32_t end(int64_t t) const { return tokens.starts[tokens.table[t] + 1] - tokens.starts[tokens.table[t]]; }
    template <class Rows>
    void add(Rows& rows, int64_t t, int g, int32_t b) const {
        const Among block(tokens, t, b);
        const int64_t row = block.first * G + g * block.count;  // in rows of D, or DV
        rows.add(b, keys + row * D, block.count, values + row * DV, DV);
    }
};

template <class F>
struct Biased : F {
    Bias bias;
    float score(float s, int h, int q, int k) const { return F::score(s, h, q, k) + bias.at(h, k - q); }
};

template <int H, int G, int D, int DV, bool BIASED, class F>
void attention_whole(const float* q, int64_t stride, const float* keys, const float* values, const float* sinks, Bias bias,
                     float scale, float* y, const Tokens& tokens, Team team) {
    const PackedBlocks<G, D, DV> blocks{keys, values, tokens};
    if constexpr (BIASED)
        attend<H, G, D, DV>(q, stride, blocks, sinks, scale, y, tokens, team, Biased<F>{F{}, bias});
    else
        attend<H, G, D, DV>(q, stride, blocks, sinks, scale, y, tokens, team, F{});
}

}  // namespace llmc
