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
    float at(int h, int distance) const {
        const int near = distance < -most ? -most : distance > most ? most : distance;
        return values[h * (2 * most + 1) + near + most];
    }
};

// The BLOCK positions of its sequence that a token is among: the first one's token, and how many the sequence has.
struct Among {
    int64_t first;
    int count;
    Among(const Tokens& tokens, int64_t t, int32_t block) {
        const int32_t run = tokens.table[t];
        first = tokens.starts[run] + int64_t(block) * BLOCK;
        count = int(std::min<int64_t>(BLOCK, tokens.starts[run + 1] - first));
    }
};

// Of two rows the elements whose place has bit S: the first's stay, the second's go S places up (HIGH: the first's down, the
// second's stay).
template <int S, bool HIGH, int... I>
inline Part mixed(Part a, Part b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (HIGH ? (I & S ? WIDTH + I : I + S) : (I & S ? WIDTH + I - S : I))...);
}

// Rows to columns: WIDTH rows of as many elements.
template <int S = 1>
inline void transpose(Part rows[WIDTH]) {
    if constexpr (S < WIDTH) {
        constexpr std::make_integer_sequence<int, WIDTH> places;
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++)
            if (!(i & S)) {
                const Part low = mixed<S, false>(rows[i], rows[i + S], places);
                rows[i + S] = mixed<S, true>(rows[i], rows[i + S], places);
                rows[i] = low;
            }
        transpose<2 * S>(rows);
    }
}

// Keys of the step by blocks of positions, [G][D][count] each; after the last, BLOCK floats more may be read.
template <int G, int D>
void pack_keys(const float* x, int64_t stride, float* packed, const Tokens& tokens, Team team) {
    for (int64_t t = team.start(tokens.count); t < team.stop(tokens.count);) {
        const Among block(tokens, t, tokens.position[t] / BLOCK);
        const int64_t stop = std::min(block.first + block.count, team.stop(tokens.count));
        float* to = packed + block.first * G * D - block.first;
        for (; t + WIDTH <= stop; t += WIDTH) {
            int i = 0;
            for (; i + WIDTH <= G * D; i += WIDTH) {
                Part rows[WIDTH];
                for (int r = 0; r < WIDTH; r++) rows[r] = *reinterpret_cast<const LoosePart*>(x + (t + r) * stride + i);
                transpose(rows);
                for (int r = 0; r < WIDTH; r++) *reinterpret_cast<LoosePart*>(to + (i + r) * block.count + t) = rows[r];
            }
            for (; i < G * D; i++)
                for (int r = 0; r < WIDTH; r++) to[i * block.count + t + r] = x[(t + r) * stride + i];
        }
        for (; t < stop; t++)
            for (int i = 0; i < G * D; i++) to[i * block.count + t] = x[t * stride + i];
    }
}

// Over packed keys, and values [G][DV] of each token, `value_stride` apart; of the last one, what fills its last vector may be
// read. BIASED: with a bias. F: see Tile.
template <int H, int G, int D, int DV, bool BIASED, class F>
void attention_whole(const float* q, int64_t stride, const float* keys, const float* values, int64_t value_stride,
                     const float* sinks, Bias bias, float scale, float* y, const Step& step, Team team);

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
