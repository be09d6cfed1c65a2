// Where the largest of some numbers is: what a greedy choice takes of a row of logits.
#pragma once
#include "core.h"

namespace llmc {

// The largest of a part of the numbers, where it is, and whether each of them is a number.
struct Largest {
    float value;
    int32_t at;
    int64_t numbers;
    // -1 if there is none to take: the largest is infinite, or something is no number.
    int64_t place() const { return numbers && std::abs(value) <= std::numeric_limits<float>::max() ? at : -1; }
};

// Of x[first] to x[stop - 1], the first of equal ones. A lane looks at every sixteenth number.
inline Largest largest_of(const float* x, int64_t first, int64_t stop) {
    typedef int32_t Places __attribute__((vector_size(LANES * sizeof(int32_t))));
    typedef float Values __attribute__((vector_size(LANES * sizeof(float))));
    Values top = Values{} - INFINITY;
    Places at = Places{} + int32_t(first), odd = {};
    const auto look = [&](const Values& v, int64_t i) {
        const Places above = v > top;
        top = above ? v : top;
        at = above ? Places{} + int32_t(i) : at;
        odd |= v != v;
    };
    int64_t i = first;
    Values v;
    for (; i + LANES <= stop; i += LANES) {
        std::memcpy(&v, x + i, sizeof v);
        look(v, i);
    }
    if (i < stop) {
        v = Values{} - INFINITY;
        std::memcpy(&v, x + i, (stop - i) * sizeof(float));
        look(v, i);
    }
    Largest found{-INFINITY, int32_t(first), 1};
    for (int lane = 0; lane < LANES; lane++) {
        const int32_t place = at[lane] + lane;
        if (top[lane] > found.value || (top[lane] == found.value && place < found.at)) found.value = top[lane], found.at = place;
        if (odd[lane]) found.numbers = 0;
    }
    return found;
}

// Of parts that follow each other.
inline Largest combined(const Largest* parts, int count) {
    Largest found = parts[0];
    for (int i = 1; i < count; i++) {
        if (parts[i].value > found.value) found.value = parts[i].value, found.at = parts[i].at;
        found.numbers &= parts[i].numbers;
    }
    return found;
}

}  // namespace llmc
