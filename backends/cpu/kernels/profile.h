// Time stamps of a profiled model: each thread adds up how long it takes from one stamp to the next.
#pragma once
#include <chrono>
#include "core.h"

namespace llmc {

// [threads][width] nanoseconds: when a thread's last stamp was, then the time of each span.
struct Stamps {
    int64_t* times;
    int64_t width;
};
static Stamps stamps;

inline int64_t stamp_now() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A thread that has a part of a step for itself is a team of one: so OpenMP is asked which it is.
inline int64_t* stamps_of_thread() { return stamps.times + omp_get_thread_num() * stamps.width; }

// The step, or a part of it, begins.
inline void stamp(Team) { *stamps_of_thread() = stamp_now(); }

// All since the last stamp was a span.
inline void stamp(Team, int64_t span) {
    int64_t* row = stamps_of_thread();
    const int64_t now = stamp_now();
    row[1 + span] += now - row[0];
    row[0] = now;
}

}  // namespace llmc

// Where the threads of the next step write. One step at a time.
extern "C" __attribute__((visibility("default"))) void llmc_profile(int64_t* times, int64_t width) {
    llmc::stamps = {times, width};
}
