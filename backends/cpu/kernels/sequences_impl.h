// Attention over whole sequences, block by block of positions as in attention_impl.h.
#pragma once
#include "sequences.h"
#include "tiles.h"

namespace llmc {

// Where the blocks of packed keys, and of values, lie.
template <int G, int D, int DV>
struct PackedBlocks {
    const float *keys, *values;
    int64_t value_stride;
    const Tokens& tokens;

    struct Row {
        static constexpr Kept kept_keys = Kept::float32, kept_values = Kept::float32;
        const PackedBlocks& blocks;
        int64_t token;
        int group;
        Block operator()(int32_t b) const {
            const Among among(blocks.tokens, token, b);
            const float* keys = blocks.keys + (among.first * G + group * among.count) * D;
            const float* values = blocks.values + among.first * blocks.value_stride + group * DV;
            return {reinterpret_cast<const char*>(keys), among.count, reinterpret_cast<const char*>(values), blocks.value_stride,
                    nullptr, nullptr};
        }
    };
    Row of(int64_t t, int g) const { return {*this, t, g}; }
    int32_t end(int64_t t) const { return tokens.starts[tokens.table[t] + 1] - tokens.starts[tokens.table[t]]; }
};

template <class F>
struct Biased : F {
    static constexpr bool plain = false;
    Bias bias;
    float score(float s, int h, int q, int k) const { return F::score(s, h, q, k) + bias.at(h, k - q); }
};

template <int H, int G, int D, int DV, bool BIASED, class F>
void attention_whole(const float* q, int64_t stride, const float* keys, const float* values, int64_t value_stride,
                     const float* sinks, Bias bias, float scale, float* y, const Step& step, Team team) {
    const PackedBlocks<G, D, DV> blocks{keys, values, value_stride, step.tokens};
    if constexpr (BIASED)
        attend<H, G, D, DV, false>(q, stride, blocks, sinks, scale, y, step, team, Biased<F>{F{}, bias});
    else
        attend<H, G, D, DV, false>(q, stride, blocks, sinks, scale, y, step, team, F{});
}

}  // namespace llmc
