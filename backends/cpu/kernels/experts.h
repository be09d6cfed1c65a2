// Mixtures of experts: the largest of some numbers, and the rows of a step put in the order of their experts, so that each
// expert's product is one over rows that follow each other.
#pragma once
#include "core.h"

namespace llmc {

// The COUNT largest of SIZE, largest first and NaN before all; of equal ones the first comes first. take(row, place, index).
template <int OUTER, int SIZE, int COUNT, class F>
inline void top(const float* x, int64_t stride, int64_t rows, Team team, F take) {
    for (int64_t r = team.start(rows); r < team.stop(rows); r++)
        for (int o = 0; o < OUTER; o++) {
            const float* in = x + r * stride + o * SIZE;
            bool taken[SIZE] = {};
            for (int place = 0; place < COUNT; place++) {
                int best = -1;
                for (int i = 0; i < SIZE; i++)
                    if (!taken[i] && (best < 0 || in[i] > in[best] || (in[i] != in[i] && in[best] == in[best]))) best = i;
                taken[best] = true;
                take(r * OUTER + o, place, in, best);
            }
        }
}

template <int OUTER, int SIZE, int COUNT>
void top_k(const float* x, int64_t stride, float* y, int64_t rows, Team team) {
    top<OUTER, SIZE, COUNT>(x, stride, rows, team, [=](int64_t row, int place, const float* in, int index) {
        y[row * COUNT + place] = in[index];
    });
}

template <int OUTER, int SIZE, int COUNT>
void top_k_indices(const float* x, int64_t stride, int64_t* y, int64_t rows, Team team) {
    top<OUTER, SIZE, COUNT>(x, stride, rows, team, [=](int64_t row, int place, const float*, int index) {
        y[row * COUNT + place] = index;
    });
}

// Choices in the order of their experts: order[place] is a choice, those of expert e are at first[e] to first[e + 1]. Choices of
// nobody come last. order: [choices]; first: [EXPERTS + 1].
template <int EXPERTS>
void sort_choices(const int64_t* chosen, int64_t* order, int64_t* first, int64_t choices, Team team) {
    if (team.id) return;
    for (int e = 0; e <= EXPERTS; e++) first[e] = 0;
    for (int64_t i = 0; i < choices; i++)
        if (chosen[i] >= 0 && chosen[i] < EXPERTS) first[chosen[i] + 1]++;
    for (int e = 0; e < EXPERTS; e++) first[e + 1] += first[e];
    int64_t next[EXPERTS], nobody = first[EXPERTS];
    std::memcpy(next, first, sizeof next);
    for (int64_t i = 0; i < choices; i++) order[chosen[i] >= 0 && chosen[i] < EXPERTS ? next[chosen[i]]++ : nobody++] = i;
}

// Rows of x for the choices in order; `each` choices share a row.
template <int K>
void gather_rows(const float* x, int64_t stride, int each, const int64_t* order, float* y, int64_t choices, Team team) {
    for (int64_t i = team.start(choices); i < team.stop(choices); i++)
        std::memcpy(y + i * K, x + order[i] / each * stride, K * sizeof(float));
}

// And what became of them back to where they belong; NaN for what is nobody's.
template <int EXPERTS, int N>
void scatter_rows(const float* x, const int64_t* order, const int64_t* first, float* y, int64_t choices, Team team) {
    for (int64_t i = team.start(choices); i < team.stop(choices); i++) {
        float* out = y + order[i] * N;
        if (i < first[EXPERTS])
            std::memcpy(out, x + i * N, N * sizeof(float));
        else
            for (int n = 0; n < N; n++) out[n] = NAN;
    }
}

}  // namespace llmc
