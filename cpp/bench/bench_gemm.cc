// Speed of the matrix kernels of every path: GB/s of weights for few rows, TOPS for many.
//
//   bench_gemm [threads] [rows] [cols] [path]    default 2 threads, a 12288 x 2048 matrix, every
//   path
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace autoglm {
namespace {

// A single thread is timed by its own clock, which leaves out what other programs take.
double now_seconds(bool is_single_thread) {
  timespec now{};
  clock_gettime(is_single_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Memory in small pages, as a mapped model file has.
std::byte* small_page_memory(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  return static_cast<std::byte*>(memory);
}

// Enough copies of a matrix that few-row products read from memory rather than from a cache.
struct Matrices {
  std::vector<PackedMatrix> views;
  size_t bytes = 0;  // of one copy
};

Matrices make_matrices(WeightType type, int rows, int cols, size_t total_bytes) {
  Matrices out;
  const auto specs = packed_parts(type, rows, cols);
  for (const PartSpec& spec : specs) out.bytes += spec.bytes;
  const size_t copies = std::max<size_t>(1, total_bytes / out.bytes);
  for (size_t i = 0; i < copies; ++i) {
    std::vector<const std::byte*> pointers;
    for (const PartSpec& spec : specs) {
      std::byte* part = small_page_memory(spec.bytes);  // until the program ends
      std::memset(part, spec.suffix == "scale" ? 0 : 1, spec.bytes);
      pointers.push_back(part);
    }
    out.views.push_back(packed_view(type, rows, cols, pointers));
  }
  return out;
}

double best_seconds(const Kernels& kernels, const Matrices& w, int num_tokens, bool is_precise,
                    ThreadPool& pool) {
  const PackedMatrix& first = w.views[0];
  PackedRows x = kernels.rows_format(first.type, num_tokens, first.padded_cols, is_precise);
  const size_t plane_rows = round_up(num_tokens * x.planes, 16);
  AlignedBuffer<std::byte> data(plane_rows * first.padded_cols * 4);
  AlignedBuffer<float> scale(num_tokens), y(static_cast<size_t>(num_tokens) * first.rows);
  AlignedBuffer<int32_t> group_sum(plane_rows * (first.padded_cols / kGroupSize + 1));
  AlignedBuffer<std::byte> scratch(kGemmScratchBytes * pool.num_threads());
  x.data = data.data();
  x.scale = scale.data();
  x.group_sum = group_sum.data();
  const GemmOutput out = {.data = y.data(), .stride = first.rows};
  const int64_t num_blocks = first.padded_rows / kRowBlock;
  double best = 1e9;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double start = now_seconds(pool.num_threads() == 1);
    for (const PackedMatrix& view : w.views) {
      pool.parallel_for(num_blocks, 32, [&](int64_t begin, int64_t end, int thread) {
        kernels.gemm(view, x, out, static_cast<int>(begin), static_cast<int>(end),
                     scratch.data() + thread * kGemmScratchBytes);
      });
    }
    best = std::min(
        best, (now_seconds(pool.num_threads() == 1) - start) / static_cast<double>(w.views.size()));
  }
  return best;
}

void bench(int threads, int rows, int cols, const std::vector<Isa>& isas) {
  ThreadPool pool(threads);
  std::printf("%d x %d, %d threads\n%-8s %-5s %7s %7s %9s %8s\n", rows, cols, threads, "path",
              "type", "tokens", "planes", "GB/s", "TOPS");
  for (const Isa isa : isas) {
    if (isa == Isa::kScalar && isas.size() > 1) continue;
    const Kernels& kernels = kernels_for(isa);
    for (const WeightType type :
         {WeightType::kF32, WeightType::kBF16, WeightType::kI8, WeightType::kI4, WeightType::kI3}) {
      for (const int num_tokens : {1, 2, 8, 16, 64, 256, 512}) {
        const bool is_many = num_tokens >= 64;
        const Matrices w = make_matrices(type, rows, cols, is_many ? 1 : size_t{256} << 20);
        for (const bool is_precise : {true, false}) {
          if (type == WeightType::kF32 && is_precise) continue;
          const double seconds = best_seconds(kernels, w, num_tokens, is_precise, pool);
          const double operations = 2.0 * rows * cols * num_tokens;
          std::printf("%-8s %-5s %7d %7d %9.1f %8.3f\n", std::string(isa_name(isa)).c_str(),
                      std::string(weight_type_name(type)).c_str(), num_tokens, is_precise ? 2 : 1,
                      static_cast<double>(w.bytes) / seconds * 1e-9, operations / seconds * 1e-12);
        }
      }
    }
  }
}

}  // namespace
}  // namespace autoglm

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int rows = argc > 2 ? std::atoi(argv[2]) : 12288;
  const int cols = argc > 3 ? std::atoi(argv[3]) : 2048;
  if (threads < 1 || rows < 1 || cols < 1) {
    std::fprintf(stderr, "usage: bench_gemm [threads] [rows] [cols] [path]\n");
    return 2;
  }
  const auto isas =
      argc > 4 ? std::vector{autoglm::select_isa(argv[4])} : autoglm::supported_isas();
  autoglm::bench(threads, rows, cols, isas);
  return 0;
}
