// How many operations a second a product with many rows does on one core, as it is cut (backends/cpu/tuning.py):
//
//   tune          prints a line for weights of 8 bits and of 4: name, rate
#include <chrono>
#include <cstdio>
#include <vector>

#include "linear_integer_impl.h"

namespace {

using namespace llmc;

constexpr int N = 512, K = 8192, ROWS = 512, GROUP = 32;   // rows of 4 MB, weights of 4 MB or 2 MB
constexpr int64_t PANELS = N / LANES;

template <class F>
void report(const char* name, F product) {
    product();   // the clock of the processor rises, and pages are touched
    int times = 0;
    double seconds = 0;
    const auto begin = std::chrono::steady_clock::now();
    for (; times < 3 || seconds < 0.05; times++) {
        product();
        seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    std::printf("%s %.6g\n", name, 2.0 * N * K * ROWS * times / seconds);
}

}  // namespace

int main() {
    const Team alone{0, 1};
    std::vector<int8_t> values(int64_t(ROWS) * K, 3);
    std::vector<int32_t> sums(int64_t(ROWS) * K / GROUP, 3 * GROUP);
    std::vector<uint8_t> codes(PANELS * LANES * K, 0x97);
    std::vector<uint16_t> halves(PANELS * LANES * K / GROUP, 0x3C00);   // 1
    std::vector<float> scale(PANELS * LANES, 1.0f), multiples(ROWS, 1.0f), y(int64_t(ROWS) * N);
    const Rounded x{values.data(), sums.data(), multiples.data()};
    report("int8", [&] { linear_w8a8<N, K>(x, codes.data(), scale.data(), nullptr, y.data(), ROWS, alone); });
    report("int4", [&] {
        linear_w4a8<N, K, GROUP, false>(x, codes.data(), halves.data(), nullptr, nullptr, y.data(), ROWS, alone);
    });
}
