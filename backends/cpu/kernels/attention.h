// What a step knows of its tokens, the cache that they write, and attention, which attention_impl.h defines. BLOCK comes from the
// file that includes this.
#pragma once
#include "core.h"
#include "norms.h"

namespace llmc {

constexpr int CHUNK = 4 * BLOCK;                   // positions that attention weighs at once
constexpr int TILE_ROWS = 32, TILE_HEADS = 16;     // of attention: rows that share keys, and of how many heads at most
// What a chunk gives a tile: for each row a sum of values of D, its weight, and the largest score.
constexpr int64_t partial_floats(int d) { return TILE_ROWS * ((d + LANES - 1) / LANES * LANES + 2); }

// How keys and values are kept in the cache: as they are, or in fewer bits (cache.h).
enum class Kept { float32, bfloat16, int8 };

// What a step knows of its tokens.
struct Tokens {
    int64_t count;
    const int32_t* position;
    const int32_t* table;      // row of `blocks` for each token
    const int32_t* blocks;     // [tables][width] cache blocks
    int64_t width;
    const int32_t* starts;     // [runs + 1] first token of each run, and the number of tokens
    int64_t runs;
    const int32_t* row(int64_t t) const { return blocks + table[t] * width; }
};

// What the generated step function is given.
struct Step {
    Tokens tokens;
    int64_t rows;
    const int32_t* out_rows;
    const void* const* inputs;
    void* const* outputs;
    float* const* caches;
    char* arena;
    int64_t most;   // tokens or rows, whichever are more
    float* partials;   // [threads][chunks] of what attention leaves for other threads
    int64_t chunks;    // at least as many as the longest sequence of the step has
    mutable Barrier meeting;
    void barrier(Team team) const { meeting.wait(team); }
    template <class T>
    T* at(int64_t offset) const { return reinterpret_cast<T*>(arena + offset * most); }
};

// SIZE elements of four keys that follow each other, x[4][stride], to four positions of a block: y[SIZE][BLOCK].
template <int SIZE>
inline void write_four(const float* x, int64_t stride, float* y) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    const auto row = [&](int r, int i) { return *reinterpret_cast<const Four*>(x + r * stride + i); };
    const auto put = [&](int i, Four v) { *reinterpret_cast<Four*>(y + i * BLOCK) = v; };
    int i = 0;
    for (; i + 4 <= SIZE; i += 4) {
        const Four a = row(0, i), b = row(1, i), c = row(2, i), d = row(3, i);
        const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        const Four below = __builtin_shufflevector(a, b, 2, 6, 3, 7), beside = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        put(i, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
        put(i + 1, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
        put(i + 2, __builtin_shufflevector(below, beside, 0, 1, 4, 5));
        put(i + 3, __builtin_shufflevector(below, beside, 2, 3, 6, 7));
    }
    for (; i < SIZE; i++)
        for (int r = 0; r < 4; r++) y[i * BLOCK + r] = x[r * stride + i];
}

// f(std::integral_constant<int, COUNT>, t, at) for a thread's tokens, one or four at a time: those from t on, whose keys of G heads
// of D belong at `at` of a cache [block][G][D][BLOCK], and the next positions: so a vector holds one element of many keys.
template <int G, int D, class F>
inline void by_positions(float* cache, const Tokens& tokens, Team team, F f) {
    for (int64_t t = team.start(tokens.count), stop = team.stop(tokens.count); t < stop;) {
        const int32_t p = tokens.position[t];
        float* const at = cache + int64_t(tokens.row(t)[p / BLOCK]) * G * D * BLOCK + p % BLOCK;
        if (t + 4 <= stop && p % BLOCK + 4 <= BLOCK && tokens.table[t + 3] == tokens.table[t] && tokens.position[t + 3] == p + 3) {
            f(std::integral_constant<int, 4>(), t, at);
            t += 4;
        } else {
            f(std::integral_constant<int, 1>(), t, at);
            t++;
        }
    }
}

// Keys of the step into the cache.
template <int G, int D>
void write_keys(const float* x, int64_t stride, float* cache, const Tokens& tokens, Team team) {
    by_positions<G, D>(cache, tokens, team, [&](auto count, int64_t t, float* at) {
        if constexpr (count() == 4) write_four<G * D>(x + t * stride, stride, at);
        else
            for (int i = 0; i < G * D; i++) at[i * BLOCK] = x[t * stride + i];
    });
}

// Keys that are turned on their way (rope): no copy of them is made.
template <int G, int D, int P, bool HALVES>
void write_turned_keys(const float* x, int64_t stride, const float* cos, int64_t cs, const float* sin, int64_t ss, float* cache,
                       const Tokens& tokens, Team team) {
    by_positions<G, D>(cache, tokens, team, [&](auto count, int64_t t, float* at) {
        float keys[count() * D];
        for (int g = 0; g < G; g++, at += D * BLOCK) {
            for (int r = 0; r < count(); r++)
                turn<D, P, HALVES>(x + (t + r) * stride + g * D, cos + (t + r) * cs, sin + (t + r) * ss, keys + r * D);
            if constexpr (count() == 4) write_four<D>(keys, D, at);
            else
                for (int i = 0; i < D; i++) at[i * BLOCK] = keys[i];
        }
    });
}

// Values of the step into the cache: [block][G][BLOCK][D].
template <int G, int D>
void write_values(const float* x, int64_t stride, float* cache, const Tokens& tokens, Team team) {
    for (int64_t t = team.start(tokens.count); t < team.stop(tokens.count); t++) {
        const int32_t p = tokens.position[t];
        float* block = cache + int64_t(tokens.row(t)[p / BLOCK]) * G * BLOCK * D;
        for (int g = 0; g < G; g++)
            std::memcpy(block + (g * BLOCK + p % BLOCK) * D, x + t * stride + g * D, D * sizeof(float));
    }
}

// F says what is done to a score and which keys are admitted; see Tile. Threads may wait for each other within.
template <Kept KEYS, Kept VALUES, int H, int G, int D, int DV, class F>
void attention(const float* q, int64_t stride, const float* keys, const float* values, const float* sinks, float scale,
               float* y, const Step& step, Team team);

}  // namespace llmc
