// Sixteen sums of products of whole numbers: codes of weights without sign, activations with. Every product of 32 inputs is exact,
// so nothing here has an order to keep. What an instruction set does its own way is in a header of its name.
#pragma once
#include "core.h"

namespace llmc {

constexpr int STEP = 32;   // inputs that are multiplied at once; what groups and padded rows are multiples of

// Four activations, which every lane multiplies with four codes of its own.
inline int32_t four(const int8_t* x) {
    int32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    return bits;
}

// How a panel stores 32 inputs of its 16 outputs: NIBBLES, 256 bytes: byte 64 i + 4 lane + j holds input 8 i + j in its low half
// and 8 i + 4 + j in its high half. CODES and BYTES, 512 bytes: byte 64 i + 4 lane + j is input 4 i + j; CODES are below 16.
enum Storage { NIBBLES, CODES, BYTES };
constexpr int step_bytes(Storage storage) { return storage == NIBBLES ? 256 : 512; }

}  // namespace llmc

// Each defines: Sums, and what they begin at (all_sums, zeros_times); floats of them; multiply_step, which adds to them;
// tile_rows by TILE_PANELS, as many as registers hold beside what they are added to; BYTES_ZERO, what BYTES are too large by
// when they are multiplied.
#if defined(__AVX512VNNI__)
#include "integers_avx512.h"
#elif defined(__AVX2__)
#include "integers_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "integers_neon.h"
#else
#include "integers_portable.h"
#endif
