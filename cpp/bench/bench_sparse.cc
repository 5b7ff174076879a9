// Time of one token's product with sparse int8 weights, a fifth of which are not zero, against
// dense ones of the same shape, by turns, read from memory.
//
//   bench_sparse [threads] [rows] [cols]    default 2 threads, a 4096 x 4096 matrix
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace autoglm {
namespace {

constexpr size_t kTotalBytes = size_t{256} << 20;  // of copies, which no cache holds
constexpr int kRepeats = 9;

// A single thread is timed by its own clock, which leaves out what other programs take.
double now_seconds(bool is_single_thread) {
  timespec now{};
  clock_gettime(is_single_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Copies {
  std::vector<AlignedBuffer<std::byte>> buffers;
  std::vector<PackedMatrix> views;
  size_t bytes = 0;  // of one copy
};

Copies make_copies(WeightType type, int rows, int cols, const std::vector<float>& source,
                   ThreadPool& pool) {
  Copies out;
  const auto specs = packed_parts(type, rows, cols);
  for (const PartSpec& spec : specs) out.bytes += spec.bytes;
  const size_t count = std::max<size_t>(2, kTotalBytes / out.bytes);
  for (size_t i = 0; i < count; ++i) {
    std::vector<std::byte*> to;
    for (const PartSpec& spec : specs) {
      to.push_back(out.buffers.emplace_back(spec.bytes).data());
    }
    pack_rows(type, SourceType::kF32, reinterpret_cast<const std::byte*>(source.data()), rows, cols,
              to, pool);
    out.views.push_back(packed_view(type, rows, cols, {to.begin(), to.end()}));
  }
  return out;
}

double pass_seconds(const Kernels& kernels, const Copies& w, bool is_precise, ThreadPool& pool) {
  const PackedMatrix& first = w.views[0];
  PackedRows x = kernels.rows_format(first.type, 1, first.padded_cols, is_precise);
  AlignedBuffer<std::byte> data(static_cast<size_t>(16) * first.padded_cols * 4);
  AlignedBuffer<float> scale(1), y(first.rows);
  AlignedBuffer<int32_t> group_sum(16 * (first.padded_cols / kGroupSize + 1));
  AlignedBuffer<std::byte> scratch(kGemmScratchBytes * pool.num_threads());
  x.data = data.data();
  x.scale = scale.data();
  x.group_sum = group_sum.data();
  const GemmOutput out = {y.data(), first.rows, nullptr, Epilogue::kStore};
  const double start = now_seconds(pool.num_threads() == 1);
  for (const PackedMatrix& view : w.views) {
    pool.parallel_for(first.padded_rows / kRowBlock, 32, [&](int64_t begin, int64_t end, int id) {
      kernels.gemm(view, x, out, static_cast<int>(begin), static_cast<int>(end),
                   scratch.data() + id * kGemmScratchBytes);
    });
  }
  return (now_seconds(pool.num_threads() == 1) - start) / static_cast<double>(w.views.size());
}

void bench(int threads, int rows, int cols) {
  ThreadPool pool(threads);
  std::vector<float> source(static_cast<size_t>(rows) * cols);
  uint32_t state = 1;
  for (size_t i = 0; i < source.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    // One of each five neighbours, at a place of its own.
    if (i % 5 == (i / 5 * 2654435761u >> 7) % 5) source[i] = static_cast<float>(state >> 8) - 8e6f;
  }
  const Copies dense = make_copies(WeightType::kI8, rows, cols, source, pool);
  const Copies sparse = make_copies(WeightType::kS8, rows, cols, source, pool);
  std::printf("%d x %d, %d threads, MiB: dense %.1f, sparse %.1f\n%-8s %7s %9s %9s %7s\n", rows,
              cols, threads, static_cast<double>(dense.bytes) / (1 << 20),
              static_cast<double>(sparse.bytes) / (1 << 20), "path", "planes", "dense us",
              "sparse us", "ratio");
  for (const Isa isa : supported_isas()) {
    if (isa == Isa::kScalar) continue;
    for (const bool is_precise : {true, false}) {
      double best[2] = {1e9, 1e9};
      for (int i = 0; i < kRepeats; ++i) {
        best[0] = std::min(best[0], pass_seconds(kernels_for(isa), dense, is_precise, pool));
        best[1] = std::min(best[1], pass_seconds(kernels_for(isa), sparse, is_precise, pool));
      }
      std::printf("%-8s %7d %9.1f %9.1f %7.2f\n", std::string(isa_name(isa)).c_str(),
                  is_precise ? 2 : 1, best[0] * 1e6, best[1] * 1e6, best[0] / best[1]);
    }
  }
}

}  // namespace
}  // namespace autoglm

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int rows = argc > 2 ? std::atoi(argv[2]) : 4096;
  const int cols = argc > 3 ? std::atoi(argv[3]) : rows;
  if (threads < 1 || rows < 1 || cols < 1) {
    std::fprintf(stderr, "usage: bench_sparse [threads] [rows] [cols]\n");
    return 2;
  }
  autoglm::bench(threads, rows, cols);
  return 0;
}
