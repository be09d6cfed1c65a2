// Attention over whole sequences. Keys are taken by BLOCK from the start of the sequence with a running maximum, as in
// attention_impl.h, so that the order of every sum depends on positions alone.
#pragma once
#include "sequences.h"

namespace llmc {

template <int H, int G, int D, int DV, class F>
void attention_whole(const float* q, int64_t q_stride, const float* keys, int64_t k_stride, const float* values, int64_t v_stride,
                     const float* sinks, Bias bias, float scale, float* y, const Tokens& tokens, Team team) {
    const int64_t units = tokens.count * H;
    for (int64_t u = team.start(units); u < team.stop(units); u++) {
        const int64_t t = u / H, start = tokens.starts[tokens.table[t]], length = tokens.starts[tokens.table[t] + 1] - start;
        const int h = int(u % H), g = h / (H / G);
        const int64_t p = t - start, first = F::first(p), last = F::last(p, length);
        const float* query = q + t * q_stride + h * D;
        float* out = y + u * DV;
        float largest = sinks ? sinks[h] : -INFINITY, weight = sinks ? 1.0f : 0.0f;
        for (int i = 0; i < DV; i++) out[i] = 0;
        for (int64_t b = first / BLOCK * BLOCK; b <= last; b += BLOCK) {
            const float* k = keys + (start + b) * k_stride + g * D;
            const float* v = values + (start + b) * v_stride + g * DV;
            const int from = first > b ? int(first - b) : 0, to = last - b < BLOCK - 1 ? int(last - b) + 1 : BLOCK;
            float s[BLOCK], top = largest;
            for (int j = from; j < to; j++) {
                const bool in = F::admits(h, p, b + j);
                s[j] = in ? F::score(dot<D>(query, k + j * k_stride) * scale, h, p, b + j) : -INFINITY;
                if (in && bias.values) s[j] += bias.at(h, b + j - p);
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
                for (int i = 0; i < DV; i++) out[i] += e * v[j * v_stride + i];
            }
            largest = top;
        }
        const float inverse = 1.0f / weight;
        for (int i = 0; i < DV; i++) out[i] *= inverse;
    }
}

}  // namespace llmc
