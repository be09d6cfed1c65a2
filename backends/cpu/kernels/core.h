// What every kernel needs: the team of threads, vectors of sixteen floats, fixed orders of summation.
#pragma once
#include "system.h"

namespace llmc {

constexpr int LANES = 16;   // outputs in a panel, partial sums in a reduction

// Sixteen floats in as many registers as they take: vectors longer than a register go through memory.
// SUMS: how many registers hold sums in the inner loops.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, SUMS = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8, SUMS = 8;
#elif defined(__aarch64__)
constexpr int WIDTH = 4, SUMS = 16;
#else
constexpr int WIDTH = 4, SUMS = 8;
#endif
typedef float Part __attribute__((vector_size(WIDTH * sizeof(float))));
typedef float LoosePart __attribute__((vector_size(WIDTH * sizeof(float)), aligned(4), may_alias));  // anywhere in memory
typedef int32_t Whole __attribute__((vector_size(WIDTH * sizeof(int32_t))));
struct Lanes {
    Part part[LANES / WIDTH];
};

// Of a function that is called for a row or less often, from many places of a model: compiled into each of them, it would make
// compiling the model a quarter longer, and no step shorter.
#define ONCE __attribute__((noinline))

// The threads of a step. Work is split by ranges that depend on nothing but the sizes and the number of threads;
// no result depends on where a range ends.
struct Team {
    int id, size;
    int64_t start(int64_t count) const { return count * id / size; }
    int64_t stop(int64_t count) const { return count * (id + 1) / size; }
};

// Where the threads of a step wait for each other: for a moment without sleeping, as most waits are short, and then giving
// way, as the one waited for may have no core (OpenMP's own barrier keeps the core and waits for its turn to end).
class Barrier {
    std::atomic<int> arrived{0}, round{0};

public:
    ONCE void wait(Team team) {
        const int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == team.size) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (int turn = 0; round.load(std::memory_order_acquire) == now; turn++) {
            if (turn >= 500) sched_yield();
#if defined(__x86_64__)
            else _mm_pause();
#elif defined(__aarch64__)
            else __asm__ volatile("yield");
#endif
        }
    }
};

// The Lanes whose parts are f(0), f(1), ...
template <class F>
inline Lanes each(F f) {
    Lanes y;
#pragma GCC unroll 4
    for (int i = 0; i < LANES / WIDTH; i++) y.part[i] = f(i);
    return y;
}

inline Lanes load(const float* p) {
    return each([=](int i) { return Part(reinterpret_cast<const LoosePart*>(p)[i]); });
}

inline void store(float* p, const Lanes& v) {
#pragma GCC unroll 4
    for (int i = 0; i < LANES / WIDTH; i++) reinterpret_cast<LoosePart*>(p)[i] = v.part[i];
}

inline Lanes operator+(const Lanes& a, const Lanes& b) {
    return each([&](int i) { return a.part[i] + b.part[i]; });
}
inline Lanes operator-(const Lanes& a, const Lanes& b) {
    return each([&](int i) { return a.part[i] - b.part[i]; });
}
inline Lanes operator*(const Lanes& a, const Lanes& b) {
    return each([&](int i) { return a.part[i] * b.part[i]; });
}
inline Lanes& operator+=(Lanes& a, const Lanes& b) { return a = a + b; }

// a b + c, rounded once where the processor can (the code is compiled without contraction: nothing else is fused).
inline float madd(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
inline Part madd(Part a, Part b, Part c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return Part(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#else
    return a * b + c;
#endif
}
inline Lanes madd(const Lanes& a, const Lanes& b, const Lanes& c) {
    return each([&](int i) { return madd(a.part[i], b.part[i], c.part[i]); });
}

inline Lanes all(float x) {
    return each([=](int) { return x - Part{}; });  // subtracting zero is nothing to do; adding it would turn -0 to 0
}

// a where a condition is not 0, else b.
inline Lanes choose(int32_t condition, const Lanes& a, const Lanes& b) {
    const Whole mask = condition - Whole{};
    return each([&](int i) { return mask != 0 ? a.part[i] : b.part[i]; });
}

// The larger of each two; b where one is no number.
inline Lanes larger(const Lanes& a, const Lanes& b) {
    return each([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}

// All sixteen by an operation, by halves: i with i + 8, then i + 4, i + 2, i + 1.
template <class F>
inline float fold(const Lanes& v, F f) {
    typedef float Four __attribute__((vector_size(16)));
#if defined(__AVX512F__)
    const auto y = f(__builtin_shufflevector(v.part[0], v.part[0], 0, 1, 2, 3, 4, 5, 6, 7),
                     __builtin_shufflevector(v.part[0], v.part[0], 8, 9, 10, 11, 12, 13, 14, 15));
    Four x = f(__builtin_shufflevector(y, y, 0, 1, 2, 3), __builtin_shufflevector(y, y, 4, 5, 6, 7));
#elif defined(__AVX__)
    const auto y = f(v.part[0], v.part[1]);
    Four x = f(__builtin_shufflevector(y, y, 0, 1, 2, 3), __builtin_shufflevector(y, y, 4, 5, 6, 7));
#else
    Four x = f(f(v.part[0], v.part[2]), f(v.part[1], v.part[3]));
#endif
    x = f(x, Four(__builtin_shufflevector(x, x, 2, 3, 0, 1)));
    return f(x[0], x[1]);
}

// Half precision (IEEE 754 binary16) as a float, exactly.
inline float half_(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = uint32_t(h & 0x7FFF) << 13;
    float x;
    std::memcpy(&x, &rest, 4);
    x *= 5.192296858534828e33f;  // 2^112: the exponents of both; right for denormal numbers too
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = (rest >= 0x0F800000 ? bits | 0x7F800000 : bits) | sign;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline Lanes load_half(const uint16_t* p) {
#if defined(__AVX512F__)
    return each([=](int) { return Part(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))); });
#elif defined(__F16C__)
    return each([=](int i) { return Part(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i))); });
#elif defined(__aarch64__)
    return each([=](int i) { return Part(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))); });
#else
    float y[LANES];
    for (int i = 0; i < LANES; i++) y[i] = half_(p[i]);
    return load(y);
#endif
}

// Sixteen words of memory, in registers as Lanes are.
typedef uint32_t Words __attribute__((vector_size(WIDTH * sizeof(uint32_t))));
typedef uint32_t LooseWords __attribute__((vector_size(WIDTH * sizeof(uint32_t)), aligned(4), may_alias));

// Codes of BITS bits from bit `shift` of each of sixteen words, plus `offset`, as floats.
template <int BITS>
inline Lanes code_lanes(const uint8_t* at, int shift, float offset) {
    return each([=](int i) {
        const Words words = reinterpret_cast<const LooseWords*>(at)[i] >> shift;
#if defined(__AVX512F__)
        if (BITS == 4) {
            const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + offset;
            return Part(_mm512_permutexvar_ps(__m512i(words), table));  // by the last four bits alone
        }
#endif
        typedef int32_t Numbers __attribute__((vector_size(WIDTH * sizeof(int32_t))));
        return __builtin_convertvector(Numbers(words & ((1u << BITS) - 1)), Part) + offset;
    });
}

// Sixteen pairs of bfloat16, the first of each in the low half of a word.
struct Pairs {
    Words part[LANES / WIDTH];
};

inline Pairs load_pairs(const uint8_t* at) {
    Pairs y;
    for (int i = 0; i < LANES / WIDTH; i++) y.part[i] = reinterpret_cast<const LooseWords*>(at)[i];
    return y;
}
inline Lanes firsts(const Pairs& x) {
    return each([&](int i) { return Part(x.part[i] << 16); });
}
inline Lanes seconds(const Pairs& x) {
    return each([&](int i) { return Part(x.part[i] & 0xFFFF0000u); });
}

// s plus the products of a pair of activations with each pair, where there is an instruction for it.
#if defined(__AVX512BF16__)
#define BFLOAT16_PAIRS
inline Lanes madd_pairs(int32_t x, const Pairs& y, const Lanes& s) {
    return each([&](int i) { return Part(_mm512_dpbf16_ps(s.part[i], __m512bh(_mm512_set1_epi32(x)), __m512bh(y.part[i]))); });
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define BFLOAT16_PAIRS
inline Lanes madd_pairs(int32_t x, const Pairs& y, const Lanes& s) {
    const auto numbers = [](const Words& words) { return vreinterpretq_bf16_u32(uint32x4_t(words)); };
    const bfloat16x8_t both = numbers(uint32_t(x) - Words{});
    return each([&](int i) { return Part(vbfdotq_f32(float32x4_t(s.part[i]), both, numbers(y.part[i]))); });
}
#endif

inline float sum(const Lanes& v) {
    return fold(v, [](auto a, auto b) { return a + b; });
}

inline float largest(const Lanes& v) {
    return fold(v, [](auto a, auto b) { return a > b ? a : b; });
}

// x . y over N elements: element i goes to partial sum i % 16.
template <int N>
inline float dot(const float* x, const float* y) {
    Lanes s = {};
    constexpr int whole = N / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) s = madd(load(x + i), load(y + i), s);
    if constexpr (whole < N) {
        float a[LANES] = {}, b[LANES] = {};
        std::memcpy(a, x + whole, (N - whole) * sizeof(float));
        std::memcpy(b, y + whole, (N - whole) * sizeof(float));
        s = madd(load(a), load(b), s);
    }
    return sum(s);
}

template <int N>
inline float total(const float* x) {
    Lanes s = {};
    constexpr int whole = N / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) s += load(x + i);
    if constexpr (whole < N) {
        float a[LANES] = {};
        std::memcpy(a, x + whole, (N - whole) * sizeof(float));
        s += load(a);
    }
    return sum(s);
}

}  // namespace llmc
