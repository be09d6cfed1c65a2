// Keys and values in the cache in fewer bits: how they are written, and read again as floats.
#pragma once
#include "attention.h"
#include "linear.h"

namespace llmc {

constexpr int kept_bytes(Kept kept) { return kept == Kept::int8 ? 1 : kept == Kept::bfloat16 ? 2 : 4; }

// Floats a block of the cache takes, of G heads of D elements for each of its positions.
template <Kept KEPT, int G, int D>
constexpr int64_t block_floats() {
    return G * D * BLOCK / 4 * kept_bytes(KEPT) + (KEPT == Kept::int8 ? G * BLOCK : 0);
}

// Of one head: its elements, as wide as they are kept, and in int8 what they are multiples of at each position.
template <Kept KEPT, int G, int D>
inline const char* kept_head(const float* block, int g) {
    return reinterpret_cast<const char*>(block) + g * D * BLOCK * kept_bytes(KEPT);
}
template <int G, int D>
inline const float* kept_scales(const float* block, int g) {
    return block + G * D * BLOCK / 4 + g * BLOCK;
}

// Keys (KEYS) or values of the step into the cache, in the order of floats, rounded by head and position.
template <Kept KEPT, bool KEYS, int G, int D>
void write_rounded(const float* x, int64_t stride, float* cache, const Tokens& tokens, Team team) {
    constexpr int step = KEYS ? BLOCK : 1;   // from element to element
    for (int64_t t = team.start(tokens.count); t < team.stop(tokens.count); t++) {
        const int32_t p = tokens.position[t] % BLOCK;
        float* block = cache + tokens.row(t)[tokens.position[t] / BLOCK] * block_floats<KEPT, G, D>();
        for (int g = 0; g < G; g++) {
            const float* row = x + t * stride + g * D;
            char* to = const_cast<char*>(kept_head<KEPT, G, D>(block, g));
            const int first = KEYS ? p : p * D;
            if (KEPT == Kept::int8) {
                int8_t codes[padded(D)];
                int32_t sums[padded(D) / 32];
                const_cast<float*>(kept_scales<G, D>(block, g))[p] = quantize_row<D, 32>(row, codes, sums);
                for (int i = 0; i < D; i++) to[first + i * step] = char(codes[i]);
            } else {
                for (int i = 0; i < D; i++) {
                    const uint16_t bits = uint16_t(bfloat16_bits(row[i]));
                    std::memcpy(to + 2 * (first + i * step), &bits, 2);
                }
            }
        }
    }
}

// Numbers as wide as they are kept, as floats.
inline Lanes load_codes(const char* at) {
#if defined(__AVX512F__)
    return {Part(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)))))};
#elif defined(__AVX2__)
    return each([=](int i) {
        return Part(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + 8 * i)))));
    });
#else
    float y[LANES];
    for (int i = 0; i < LANES; i++) y[i] = float(int8_t(at[i]));
    return load(y);
#endif
}

inline Lanes load_bfloat16(const char* at) {
#if defined(__AVX512F__)
    return {Part(_mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))), 16)))};
#elif defined(__AVX2__)
    return each([=](int i) {
        return Part(_mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at) + i)), 16)));
    });
#else
    uint16_t halves[LANES];
    std::memcpy(halves, at, sizeof halves);
    float y[LANES];
    for (int i = 0; i < LANES; i++) {
        const uint32_t bits = uint32_t(halves[i]) << 16;
        std::memcpy(y + i, &bits, 4);
    }
    return load(y);
#endif
}

template <Kept KEPT>
inline Lanes load_kept(const char* at) {
    if constexpr (KEPT == Kept::int8) return load_codes(at);
    else if constexpr (KEPT == Kept::bfloat16) return load_bfloat16(at);
    else return load(reinterpret_cast<const float*>(at));
}

// COUNT elements as floats, a multiple of LANES.
template <Kept KEPT, int COUNT>
inline void widen(const char* from, float* to) {
    for (int i = 0; i < COUNT; i += LANES) store(to + i, load_kept<KEPT>(from + i * kept_bytes(KEPT)));
}

}  // namespace llmc
