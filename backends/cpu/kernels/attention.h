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

// Keys of the step into the cache: [block][G][D][BLOCK], so that a vector holds one element of the keys of many positions.
template <int G, int D>
void write_keys(const float* x, int64_t stride, float* cache, const Tokens& tokens, Team team) {
    for (int64_t t = team.start(tokens.count); t < team.stop(tokens.count); t++) {
        const int32_t p = tokens.position[t];
        float* block = cache + int64_t(tokens.row(t)[p / BLOCK]) * G * D * BLOCK + p % BLOCK;
        for (int i = 0; i < G * D; i++) block[i * BLOCK] = x[t * stride + i];
    }
}

// Keys that are turned on their way (rope): no copy of them is made.
template <int G, int D, int P, bool HALVES>
void write_turned_keys(const float* x, int64_t stride, const float* cos, int64_t cs, const float* sin, int64_t ss, float* cache,
                       const Tokens& tokens, Team team) {
    for (int64_t t = team.start(tokens.count); t < team.stop(tokens.count); t++) {
        const int32_t p = tokens.position[t];
        float* block = cache + int64_t(tokens.row(t)[p / BLOCK]) * G * D * BLOCK + p % BLOCK;
        float key[D];
        for (int g = 0; g < G; g++) {
            turn<D, P, HALVES>(x + t * stride + g * D, cos + t * cs, sin + t * ss, key);
            for (int i = 0; i < D; i++) block[(g * D + i) * BLOCK] = key[i];
        }
    }
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
