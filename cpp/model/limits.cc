#include "model/limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/pack.h"
#include "model/activations.h"

namespace autoglm {
namespace {

constexpr size_t kReadBytes = size_t{256} << 20;  // more than the caches hold
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kReadPiece = size_t{1} << 20;
constexpr int kNumTries = 5;  // the best counts: other programs only slow a try down

// Operands of 256 KiB each in bytes: they stay in a second-level cache.
constexpr int kPeakTokens = 256;
constexpr int kPeakRows = 256;
constexpr int kPeakCols = 1024;
constexpr double kTrySeconds = 0.03;

template <typename Body>
double seconds_of(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

uint64_t sum(const uint64_t* words, size_t count) {
  constexpr size_t kLanes = 32;
  uint64_t lanes[kLanes] = {};
  for (size_t i = 0; i < count; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += words[i + j];
  }
  uint64_t total = 0;
  for (const uint64_t lane : lanes) total += lane;
  return total;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Memory in huge pages where the system has them: small ones hide a part of the bandwidth.
std::unique_ptr<uint64_t[], Free> read_buffer() {
  void* memory = std::aligned_alloc(kHugePageBytes, kReadBytes);
  if (memory == nullptr) throw std::bad_alloc();
  madvise(memory, kReadBytes, MADV_HUGEPAGE);
  std::memset(memory, 0, kReadBytes);
  return std::unique_ptr<uint64_t[], Free>(static_cast<uint64_t*>(memory));
}

double measure_read_bandwidth(ThreadPool& pool) {
  const std::unique_ptr<uint64_t[], Free> buffer = read_buffer();
  constexpr size_t kWords = kReadPiece / sizeof(uint64_t);
  std::atomic<uint64_t> total{0};  // keeps the compiler from dropping the loads
  double best = 0.0;
  for (int i = 0; i < kNumTries; ++i) {
    const double seconds = seconds_of([&] {
      pool.parallel_for(kReadBytes / kReadPiece, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t piece = begin; piece < end; ++piece) {
          total += sum(buffer.get() + piece * kWords, kWords);
        }
      });
    });
    best = std::max(best, kReadBytes / seconds);
  }
  return best;
}

double measure_peak(const Kernels& kernels, WeightType type, ThreadPool& pool) {
  const std::vector<PartSpec> specs = packed_parts(type, kPeakRows, kPeakCols);
  std::vector<AlignedBuffer<std::byte>> parts;
  std::vector<const std::byte*> pointers;
  for (const PartSpec& spec : specs) pointers.push_back(parts.emplace_back(spec.bytes).data());
  const PackedMatrix weight = packed_view(type, kPeakRows, kPeakCols, pointers);
  PackedActivations activations(kernels, false);
  activations.reserve(type, kPeakTokens, weight.padded_cols);
  const PackedRows x = activations.prepare(weight, kPeakTokens);
  constexpr size_t kOutputs = size_t{kPeakTokens} * kPeakRows;
  AlignedBuffer<float> out(kOutputs * pool.num_threads());
  AlignedBuffer<std::byte> scratch(kGemmScratchBytes * pool.num_threads());

  // Rounds of one product each; every thread writes an output of its own.
  const auto run = [&](int num_rounds) {
    return seconds_of([&] {
      pool.parallel_for(num_rounds * pool.num_threads(), std::max(1, num_rounds / 8),
                        [&](int64_t begin, int64_t end, int thread) {
                          const GemmOutput y{.data = out.data() + thread * kOutputs,
                                             .stride = kPeakRows};
                          for (int64_t i = begin; i < end; ++i) {
                            kernels.gemm(weight, x, y, 0, kPeakRows / kRowBlock,
                                         scratch.data() + thread * kGemmScratchBytes);
                          }
                        });
    });
  };
  int num_rounds = 1;
  double seconds = run(num_rounds);
  while (seconds < kTrySeconds) {
    num_rounds *= 2;
    seconds = run(num_rounds);
  }
  for (int i = 1; i < kNumTries; ++i) seconds = std::min(seconds, run(num_rounds));
  const double operations = 2.0 * kPeakTokens * kPeakRows * kPeakCols;
  return operations * num_rounds * pool.num_threads() / seconds;
}

}  // namespace

Limits measure_limits(const Kernels& kernels, WeightType weights, ThreadPool& pool) {
  const WeightType computed = is_grouped(weights) ? WeightType::kI8 : weights;
  return {.read_bytes_per_s = measure_read_bandwidth(pool),
          .operations_per_s = measure_peak(kernels, computed, pool)};
}

}  // namespace autoglm
