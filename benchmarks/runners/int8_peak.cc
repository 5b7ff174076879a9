// Prints how many int8 multiplications and additions a second the processor does at most, from
// registers alone: what shares of the peak are shares of. Usage: int8_peak THREADS
//
// Compiled for the processor it runs on: AMX, else AVX-512 VNNI, else AVX2.
#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int kRepeats = 1000;
constexpr double kSeconds = 0.5;

#if defined(__AMX_INT8__)

// Four sums in turn, so that none waits for itself: 16 x 16 sums of 64 products each.
constexpr double kOperations = 4.0 * 2 * 16 * 16 * 64;

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void prepare() {
  constexpr int kRequestPermission = 0x1023;  // arch_prctl(2): ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) std::exit(1);
}

void work() {
  const TileConfig config;
  asm volatile("" ::"r"(&config) : "memory");  // gcc 12 drops stores that only the load reads
  _tile_loadconfig(&config);
  for (int i = 0; i < kRepeats; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}

#elif defined(__AVX512VNNI__)

constexpr int kSums = 12;
constexpr double kOperations = kSums * 2.0 * 64;

void prepare() {}

void work() {
  __m512i sums[kSums] = {};
  __m512i factor = _mm512_set1_epi8(1);
  for (int i = 0; i < kRepeats; ++i) {
#pragma GCC unroll 16
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, factor, factor);
    asm volatile("" : "+v"(factor));
  }
  for (__m512i& sum : sums) asm volatile("" ::"v"(sum));
}

#else

constexpr int kSums = 8;
constexpr double kOperations = kSums * 2.0 * 32;

void prepare() {}

void work() {
  __m256i sums[kSums] = {};
  __m256i factor = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int i = 0; i < kRepeats; ++i) {
#pragma GCC unroll 16
    for (__m256i& sum : sums) {
      const __m256i pairs = _mm256_maddubs_epi16(factor, factor);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
      asm volatile("" : "+x"(factor));
    }
  }
  for (__m256i& sum : sums) asm volatile("" ::"x"(sum));
}

#endif

double processor_seconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// In processor time, so that other programs matter little.
double measure() {
  const double start = processor_seconds();
  double taken = 0;
  int64_t calls = 0;
  for (; taken < kSeconds; taken = processor_seconds() - start) {
    work();
    ++calls;
  }
  return static_cast<double>(calls) * kRepeats * kOperations / taken;
}

}  // namespace

int main(int argc, char** argv) {
  const int num_threads = argc == 2 ? std::atoi(argv[1]) : 0;
  if (num_threads < 1) return 2;
  prepare();
  std::vector<double> rates(num_threads);
  std::vector<std::thread> threads;
  for (double& rate : rates) threads.emplace_back([&rate] { rate = measure(); });
  for (std::thread& thread : threads) thread.join();
  std::printf("%.0f\n", std::accumulate(rates.begin(), rates.end(), 0.0));
}
