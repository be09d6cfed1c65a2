// Attention over the block cache. Keys are taken block by block of absolute positions with a running maximum (Milakov and
// Gimelshein 2018; Dao et al. 2022), so that the order of every sum depends on positions alone.
#pragma once
#include "attention.h"

namespace llmc {

template <int H, int G, int D, int DV, class F>
void attention(const float* q, int64_t stride, const float* keys, const float* values, const float* sinks, float scale, float* y,
               const Tokens& tokens, Team team) {
    const int64_t units = tokens.count * G;
    for (int64_t u = team.start(units); u < team.stop(units); u++) {
        const int64_t t = u / G, g = u % G;
        const int32_t p = tokens.position[t], *blocks = tokens.row(t);
        for (int h = int(g) * (H / G); h < int(g + 1) * (H / G); h++) {
            const float* query = q + t * stride + h * D;
            float* out = y + (t * H + h) * DV;
            float largest = sinks ? sinks[h] : -INFINITY, weight = sinks ? 1.0f : 0.0f;
            for (int i = 0; i < DV; i++) out[i] = 0;
            const int32_t first = F::first(p);
            for (int32_t b = first / BLOCK; b <= p / BLOCK; b++) {
                const float* k = keys + (int64_t(blocks[b]) * G + g) * BLOCK * D;
                const float* v = values + (int64_t(blocks[b]) * G + g) * BLOCK * DV;
                const int from = first > b * BLOCK ? first - b * BLOCK : 0;
                const int to = p - b * BLOCK < BLOCK - 1 ? p - b * BLOCK + 1 : BLOCK;
                float s[BLOCK], top = largest;
                for (int j = from; j < to; j++) {
                    const bool in = F::admits(h, p, b * BLOCK + j);
                    s[j] = in ? F::score(dot<D>(query, k + j * D) * scale, h, p, b * BLOCK + j) : -INFINITY;
                    top = s[j] > top || s[j] != s[j] ? s[j] : top;  // NaN stays
                }
                if (top == -INFINITY) continue;
                const float shrink = largest == -INFINITY ? 0 : exp_(largest - top);
                weight *= shrink;
                for (int i = 0; i < DV; i++) out[i] *= shrink;
                for (int j = from; j < to; j++) {
                    if (s[j] == -INFINITY) continue;
                    const float e = exp_(s[j] - top);
                    weight += e;
                    for (int i = 0; i < DV; i++) out[i] += e * v[j * DV + i];
                }
                largest = top;
            }
            const float inverse = 1.0f / weight;
            for (int i = 0; i < DV; i++) out[i] *= inverse;
        }
    }
}

}  // namespace llmc
