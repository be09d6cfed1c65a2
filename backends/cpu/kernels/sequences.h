// Attention and pooling over whole sequences: keys and values are those of the step itself, and there is no cache.
// sequences_impl.h defines attention.
#pragma once
#include "attention.h"
#include "functions.h"

namespace llmc {

// What is added to scores for a key at each distance from its query: `most` either way, the outermost beyond.
struct Bias {
    const float* values;   // [H][2 most + 1], or null
    int most;
    float at(int h, int64_t distance) const {
        const int64_t near = distance < -most ? -most : distance > most ? most : distance;
        return values[h * (2 * most + 1) + near + most];
    }
};

// F says what is done to a score (score), which keys are admitted (admits), and the first and last that can be (first, last).
template <int H, int G, int D, int DV, class F>
void attention_whole(const float* q, int64_t q_stride, const float* keys, int64_t k_stride, const float* values, int64_t v_stride,
                     const float* sinks, Bias bias, float scale, float* y, const Tokens& tokens, Team team);

enum class Pooled { sum, mean, max };

// One row of W for each sequence from the rows of its tokens, in their order.
template <Pooled HOW, int W>
void pool(const float* x, int64_t stride, float* y, const Tokens& tokens, Team team) {
    for (int64_t s = team.start(tokens.runs); s < team.stop(tokens.runs); s++) {
        const int64_t from = tokens.starts[s], to = tokens.starts[s + 1];
        float* out = y + s * W;
        std::memcpy(out, x + from * stride, W * sizeof(float));
        for (int64_t t = from + 1; t < to; t++)
            for (int i = 0; i < W; i++) out[i] = HOW == Pooled::max ? maximum_(x[t * stride + i], out[i]) : out[i] + x[t * stride + i];
        if (HOW == Pooled::mean)
            for (int i = 0; i < W; i++) out[i] /= float(to - from);
    }
}

}  // namespace llmc
