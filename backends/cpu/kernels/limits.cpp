// What this machine can do at most, measured: bytes read from memory, and products of the widths that the kernels use.
//
//   limits TARGET THREADS     prints a line each: name, median of the rounds and the best of them, in units a second
//
// The products are inline assembly: of intrinsics in a loop, compilers make moves between registers that cost half the speed.
// Twelve independent sums hide the latency of an instruction (4 or 5 cycles at two a cycle).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif
#include <unistd.h>

namespace {

constexpr int ROUNDS = 7, SUMS = 12;
constexpr std::int64_t LOOPS = 3000000;                  // a few milliseconds
constexpr std::size_t LEAST = std::size_t(256) << 20;

std::uint64_t sink;

// Seconds that `work(thread)` takes on all threads at once, from when all have started.
double timed(int threads, const std::function<void(int)>& work) {
  std::atomic<int> waiting{threads};
  std::vector<std::thread> team;
  std::vector<std::chrono::steady_clock::time_point> begins(threads), ends(threads);
  for (int i = 0; i < threads; ++i)
    team.emplace_back([&, i] {
      --waiting;
      while (waiting.load() > 0) std::this_thread::yield();
      begins[i] = std::chrono::steady_clock::now();
      work(i);
      ends[i] = std::chrono::steady_clock::now();
    });
  for (auto& member : team) member.join();
  auto begin = *std::min_element(begins.begin(), begins.end()), end = *std::max_element(ends.begin(), ends.end());
  return std::chrono::duration<double>(end - begin).count();
}

void report(const char* name, int threads, double units_per_thread, const std::function<void(int)>& work) {
  std::vector<double> rates;
  work(0);  // the clock of the processor rises, and pages are touched
  for (int round = 0; round < ROUNDS; ++round) rates.push_back(threads * units_per_thread / timed(threads, work));
  std::sort(rates.begin(), rates.end());
  std::printf("%s %.6g %.6g\n", name, rates[ROUNDS / 2], rates.back());
}

// Two and a half times the last cache: an array that is read in turn leaves nothing in it for the next round.
std::size_t read_bytes() {
  long cache = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  cache = std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), 0L);
#endif
  return std::max(LEAST, std::size_t(cache) / 2 * 5) >> 21 << 21;
}

// Four streams a thread, in large pages where there are any: of one stream, or in pages of 4 KB, memory gives less than it can.
void read(int threads) {
  const std::size_t bytes = read_bytes();
  typedef std::uint64_t Vector __attribute__((vector_size(64)));
  const std::size_t part = bytes / threads / sizeof(Vector) / 16 * 4;   // vectors of a stream
  std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(std::size_t(2) << 20, bytes), &std::free);
  if (!memory) return;
#ifdef __linux__
  madvise(memory.get(), bytes, MADV_HUGEPAGE);
#endif
  std::memset(memory.get(), 1, bytes);
  const Vector* data = static_cast<const Vector*>(memory.get());
  report("read", threads, double(4 * part * sizeof(Vector)), [&](int thread) {
    Vector sums[4] = {};
    const Vector* from = data + thread * 4 * part;
    for (std::size_t i = 0; i < part; i += 4)
      for (int stream = 0; stream < 4; ++stream)
        for (int j = 0; j < 4; ++j) sums[j] |= from[stream * part + i + j];
    __atomic_fetch_or(&sink, (sums[0] | sums[1] | sums[2] | sums[3])[0], __ATOMIC_RELAXED);
  });
}

#if defined(__x86_64__)

// TWELVE(F) is F(0) ... F(11), a sum each.
#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define CLOBBERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
                 "xmm13", "xmm14", "xmm15", "cc"
#define LOOP(NAME, CLEAR, BODY)                                                                                   \
  void NAME(int) {  /* of zeros: a factor that is denormal by chance would take a hundred cycles */               \
    std::int64_t count = LOOPS;                                                                                   \
    __asm__ volatile(TWELVE(CLEAR) CLEAR(12) CLEAR(13) CLEAR(15) "1:\n\t" TWELVE(BODY) "dec %0\n\tjnz 1b\n\t" : "+r"(count)::CLOBBERS);          \
  }

#define CLEAR_Z(N) "vpxord %%zmm" #N ", %%zmm" #N ", %%zmm" #N "\n\t"
#define CLEAR_Y(N) "vpxor %%ymm" #N ", %%ymm" #N ", %%ymm" #N "\n\t"
#define CLEAR_X(N) "pxor %%xmm" #N ", %%xmm" #N "\n\t"

#define DOT_Z(N) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #N "\n\t"
#define FMA_Z(N) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #N "\n\t"
#define BF16_Z(N) "vdpbf16ps %%zmm12, %%zmm13, %%zmm" #N "\n\t"
LOOP(int8_avx512, CLEAR_Z, DOT_Z)
LOOP(float32_avx512, CLEAR_Z, FMA_Z)
LOOP(bfloat16_avx512, CLEAR_Z, BF16_Z)

// Without VNNI a product of bytes takes three instructions.
#define DOT_Y(N) "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n\tvpmaddwd %%ymm15, %%ymm14, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #N \
                 ", %%ymm" #N "\n\t"
#define FMA_Y(N) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #N "\n\t"
LOOP(int8_avx2, CLEAR_Y, DOT_Y)
LOOP(float32_avx2, CLEAR_Y, FMA_Y)
#define DOT_V(N) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" #N "\n\t"
LOOP(int8_avx2_vnni, CLEAR_Y, DOT_V)

// What every processor of this kind has: bytes widened to 16 bits, and products and sums apart.
#define DOT_X(N) "movdqa %%xmm12, %%xmm14\n\tpmaddwd %%xmm13, %%xmm14\n\tpaddd %%xmm14, %%xmm" #N "\n\t"
#define FMA_X(N) "movaps %%xmm12, %%xmm14\n\tmulps %%xmm13, %%xmm14\n\taddps %%xmm14, %%xmm" #N "\n\t"
LOOP(int8_portable, CLEAR_X, DOT_X)
LOOP(float32_portable, CLEAR_X, FMA_X)

void products(const std::string& target, int threads) {
  const double each = double(LOOPS) * SUMS * 2;  // a product and a sum
  if (target == "avx512" || target == "avx512-vnni") {
    report("int8", threads, each * 64, int8_avx512);
    report("float32", threads, each * 16, float32_avx512);
    if (target == "avx512") report("bfloat16", threads, each * 32, bfloat16_avx512);
  } else if (target == "avx2" || target == "avx2-vnni") {
    report("int8", threads, each * 32, target == "avx2" ? int8_avx2 : int8_avx2_vnni);
    report("float32", threads, each * 8, float32_avx2);
  } else {
    report("int8", threads, each * 8, int8_portable);
    report("float32", threads, each * 4, float32_portable);
  }
}

#elif defined(__aarch64__)

#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define CLEAR(N) "movi v" #N ".4s, #0\n\t"
#define LOOP(NAME, BODY)                                                                                                        \
  void NAME(int) {                                                                                                              \
    std::int64_t count = LOOPS;                                                                                                 \
    __asm__ volatile(".arch armv8.2-a+dotprod+i8mm+bf16\n\t" TWELVE(CLEAR) CLEAR(12) CLEAR(13) "1:\n\t" TWELVE(BODY)            \
                     "subs %0, %0, #1\n\tb.ne 1b\n\t" : "+r"(count) :: "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8",    \
                     "v9", "v10", "v11", "v12", "v13", "cc");                                                                   \
  }

#define DOT(N) "sdot v" #N ".4s, v12.16b, v13.16b\n\t"
#define MIXED_DOT(N) "usdot v" #N ".4s, v12.16b, v13.16b\n\t"
#define BF16_DOT(N) "bfdot v" #N ".4s, v12.8h, v13.8h\n\t"
#define FMA(N) "fmla v" #N ".4s, v12.4s, v13.4s\n\t"
#define WIDE(N) "smlal v" #N ".4s, v12.4h, v13.4h\n\t"   // bytes widened to 16 bits
LOOP(int8_neon, DOT)
LOOP(int8_i8mm, MIXED_DOT)
LOOP(bfloat16_i8mm, BF16_DOT)
LOOP(float32_arm, FMA)
LOOP(int8_portable, WIDE)

void products(const std::string& target, int threads) {
  const double each = double(LOOPS) * SUMS * 2;  // a product and a sum
  const bool i8mm = target == "neon-i8mm", neon = i8mm || target == "neon";
  report("int8", threads, each * (neon ? 16 : 4), i8mm ? int8_i8mm : neon ? int8_neon : int8_portable);
  report("float32", threads, each * 4, float32_arm);
  if (i8mm) report("bfloat16", threads, each * 8, bfloat16_i8mm);
}

#else

void products(const std::string&, int) {}

#endif

}  // namespace

int main(int count, char** words) {
  if (count != 3) return 2;
  const int threads = std::atoi(words[2]);
  if (threads < 1 || threads > 1024) return 2;
  read(threads);
  products(words[1], threads);
  return 0;
}
