// Attention over the block cache. Keys are taken block by block of absolute positions, so that the order of every sum depends
// on positions alone.
#pragma once
#include "attention.h"
#include "tile.h"

namespace llmc {

template <int H, int G, int D, int DV, class F>
void attention(const float* q, int64_t stride, const float* keys, const float* values, const float* sinks, float scale,
               float* y, const Tokens& tokens, Team team) {
    using Rows = Tile<D, DV, F>;
    constexpr int share = H / G, most = share < Rows::HEADS ? share : Rows::HEADS;
    int turn = 0;  // units go around the team, as later ones have more keys
    for (int64_t t = 0, next; t < tokens.count; t = next) {
        const int64_t end = std::min(t + Rows::queries(most), tokens.count);
        for (next = t + 1; next < end && tokens.table[next] == tokens.table[t];) next++;
        const int32_t p = tokens.position[t], *blocks = tokens.row(t);
        for (int g = 0; g < G; g++)
            for (int h = 0; h < share; h += most) {
                if (turn++ % team.size != team.id) continue;
                const int heads = share - h < most ? share - h : most;
                Rows rows(q + t * stride, stride, sinks, scale, g * share + h, heads, int(next - t), p, INT32_MAX);
                for (int32_t b = rows.first_block(); b <= rows.last_block(); b++) {
                    const int64_t block = int64_t(blocks[b]) * G + g;
                    rows.add(b, keys + block * D * BLOCK, values + block * BLOCK * DV, DV);
                }
                rows.put(y + t * H * DV, H * DV);
            }
    }
}

}  // namespace llmc
