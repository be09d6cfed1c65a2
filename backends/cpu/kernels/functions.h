// Functions of one number, without branches so that loops over them become loops over vectors.
#pragma once
#include "core.h"

namespace llmc {

// e^r to 1e-7 relative for r between halves of the logarithm of two, either side of zero.
template <class V>
inline V powers(V r) {
    const V zero = {};  // what numbers are added to become vectors of themselves
    V p = madd(zero + 1.9875691e-4f, r, zero + 1.3981999e-3f);
    p = madd(p, r, zero + 8.3334519e-3f);
    p = madd(p, r, zero + 4.1665796e-2f);
    p = madd(p, r, zero + 1.6666665e-1f);
    p = madd(p, r, zero + 5.0000001e-1f);
    p = madd(p, r, zero + 1.0f);
    return madd(p, r, zero + 1.0f);
}

// e^x to 1e-7 relative for x of -104 to 89 (Cody and Waite's reduction, a polynomial of degree six). 2^n is applied in two halves:
// so large x give infinity, small x a denormal number or zero; NaN stays NaN.
// I, U: whole numbers with and without a sign, as wide as V. Of NaN the exponent is anything, which only U may shift out.
template <class V, class I, class U>
inline V exponential(V x) {
    const V zero = {};  // what numbers are added to become vectors of themselves
    V n = madd(x, zero + 1.44269504f, zero + 12582912.0f);  // rounds to the nearest whole number
    const I power = __builtin_bit_cast(I, n) - 0x4B400000, half = power >> 1;
    n -= 12582912.0f;
    const V r = madd(n, zero + 2.12194440e-4f, madd(n, zero - 0.693359375f, x));
    return powers(r) * __builtin_bit_cast(V, (U)(half + 127) << 23) * __builtin_bit_cast(V, (U)(power - half + 127) << 23);
}

// Not less than e^x can be told from zero for, and not more than is infinite.
template <class V>
inline V bounded(V x) {
    x = x < -104.0f ? -104.0f : x;
    return x > 89.0f ? 89.0f : x;
}

inline float exp_(float x) { return exponential<float, int32_t, uint32_t>(bounded(x)); }
inline Lanes exp_(const Lanes& x) {
    return each([&](int i) { return exponential<Part, Whole, Words>(bounded(x.part[i])); });
}

// tanh to 2e-7 relative: an odd polynomial near zero, beyond that by e^2x.
inline float tanh_(float x) {
    const float size = std::fabs(x), square = x * x;
    float p = -0.00571703678f;
    p = madd(p, square, 0.0206505787f);
    p = madd(p, square, -0.0537434965f);
    p = madd(p, square, 0.133314908f);
    p = madd(p, square, -0.333332837f);
    const float near = madd(x * square, p, x), far = std::copysign(1.0f - 2.0f / (exp_(2.0f * size) + 1.0f), x);
    return size < 0.625f ? near : far;
}

// The error function to 2e-7 relative: an odd polynomial near zero, beyond that 1 - e^p where p is fitted to the logarithm of
// its complement.
inline float erf_(float x) {
    const float size = std::fabs(x), square = x * x, most = size > 4.0f ? 4.0f : size;
    float a = 7.8891193e-05f;
    a = madd(a, square, -0.000802084105f);
    a = madd(a, square, 0.00518953521f);
    a = madd(a, square, -0.0268544443f);
    a = madd(a, square, 0.112836003f);
    a = madd(a, square, -0.37612626f);
    a = madd(a, square, 1.12837911f);
    float b = -2.16868502e-05f;
    b = madd(b, most, 0.000441336364f);
    b = madd(b, most, -0.00420456193f);
    b = madd(b, most, 0.0252082571f);
    b = madd(b, most, -0.108418576f);
    b = madd(b, most, -0.633219898f);
    b = madd(b, most, -1.12957847f);
    b = madd(b, most, 0.000188040227f);
    return size < 1.0f ? x * a : std::copysign(1.0f - exp_(b), x);
}

// The nearest bfloat16, of two as near the one whose last bit is zero; an infinity or NaN stays what it is.
inline float bfloat16_(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t near = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
    bits = (bits & 0x7F800000) == 0x7F800000 ? bits : near;
    std::memcpy(&x, &bits, 4);
    return x;
}

// What every number is at least, and at most, as large as.
template <class A, class Limits = std::numeric_limits<A>>
constexpr A lowest() { return Limits::has_infinity ? -Limits::infinity() : Limits::lowest(); }
template <class A, class Limits = std::numeric_limits<A>>
constexpr A highest() { return Limits::has_infinity ? Limits::infinity() : Limits::max(); }

inline float sigmoid_(float x) {
    const float least = -std::fabs(x), e = exponential<float, int32_t, uint32_t>(least < -104.0f ? -104.0f : least);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}
inline float silu_(float x) { return x * sigmoid_(x); }
template <class A>
inline A relu_(A x) { return x < 0 ? 0 : x; }  // so that NaN stays NaN, here and below
template <class A, class B>
inline auto maximum_(A a, B b) { return a > b || a != a ? a : b; }
template <class A, class B>
inline auto minimum_(A a, B b) { return a < b || a != a ? a : b; }

// x times the normal distribution's share below x, to 2e-7 relative for x of -1 and more, 2e-7 of |x| below: half of 2^p, fitted
// to the share below -|x|, and 2^p by its whole part and a polynomial of the rest. Below -5.7 it is zero.
inline float gelu_(float x) {
    const float size = std::fabs(x);
    float p = 2.53640572e-07f;
    p = madd(p, size, -5.78233463e-06f);
    p = madd(p, size, 5.28851908e-05f);
    p = madd(p, size, -0.000217541086f);
    p = madd(p, size, -9.7547311e-05f);
    p = madd(p, size, 0.00703700754f);
    p = madd(p, size, -0.0524875091f);
    p = madd(p, size, -0.459209313f);
    p = madd(p, size, -1.15110518f) * size;
    const float n = p + 12582911.0f, r = p - (n - 12582911.0f);   // rounds to the nearest whole number; its bits are one less
    float y = 0.000153533695f;
    y = madd(y, r, 0.00133988772f);
    y = madd(y, r, 0.00961843735f);
    y = madd(y, r, 0.0555033246f);
    y = madd(y, r, 0.240226479f);
    y = madd(y, r, 0.693147203f);
    y = madd(y, r, 1.0f);
    uint32_t power, bits;   // what numbers beyond become is not chosen
    std::memcpy(&power, &n, 4);
    std::memcpy(&bits, &y, 4);
    bits += power << 23;
    std::memcpy(&y, &bits, 4);
    const float below = size < 5.7f ? y : 0.0f;
    return x * (x < 0 ? below : 1.0f - below);
}
inline float gelu_tanh_(float x) {  // 0.5 (1 + tanh(u)) = sigmoid(2 u)
    return x * sigmoid_(1.59576912f * (x + 0.044715f * x * x * x));
}

// y = softmax of N numbers, which are one beside the other.
template <int N>
inline void softmax(const float* x, float* y) {
    float top = -INFINITY;
    for (int i = 0; i < N; i++) top = x[i] > top ? x[i] : top;
    for (int i = 0; i < N; i++) y[i] = exp_(x[i] - top);
    const float all = total<N>(y);
    for (int i = 0; i < N; i++) y[i] /= all;
}

}  // namespace llmc
