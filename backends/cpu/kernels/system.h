// What comes with the compiler. Every file includes this before anything else, so that the compiler reads it once and keeps it.
#ifndef LLMC_SYSTEM_H
#define LLMC_SYSTEM_H
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <omp.h>
#include <optional>
#include <sched.h>
#include <sys/mman.h>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#endif
