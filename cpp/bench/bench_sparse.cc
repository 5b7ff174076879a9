// Time of products with weights whose zeros are not stored against dense int8 of the same values,
// and with int3 against int4, by turns: one token and a few, as when text is generated, and 512 as
// for a prompt. Every product takes weights from memory, and writes and cuts its rows as the engine
// does.
//
//   bench_sparse [threads] [rows] [cols] [path] [format]
//
// By default one thread, a 4096 x 4096 matrix, every path and every format.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"
#include "model/rows.h"

namespace autoglm {
namespace {

constexpr size_t kTotalBytes = size_t{256} << 20;  // of copies, which no cache holds
constexpr int kRepeats = 11;

// A format, what it is compared with, and a matrix it takes.
struct Format {
  WeightType type, against;
  const char* zeros;
  std::vector<float> (*source)(int rows, int cols);
};

// Exactly `num_kept` values of each row at random places.
std::vector<float> unstructured(int rows, int cols, int num_kept) {
  std::mt19937 rng(1);
  std::vector<float> source(static_cast<size_t>(rows) * cols);
  for (size_t row = 0; row < source.size(); row += cols) {
    for (int k = 0; k < num_kept; ++k) source[row + k] = static_cast<float>(rng() >> 8) - 8e6f;
    std::shuffle(source.begin() + row, source.begin() + row + cols, rng);
  }
  return source;
}

std::vector<float> fifth(int rows, int cols) { return unstructured(rows, cols, cols / 5); }
std::vector<float> half(int rows, int cols) { return unstructured(rows, cols, cols / 2); }

std::vector<float> two_of_four(int rows, int cols) {
  std::mt19937 rng(1);
  std::vector<float> source(static_cast<size_t>(rows) * cols);
  for (size_t i = 0; i + 4 <= source.size(); i += 4) {
    const uint32_t first = rng() % 4;
    source[i + first] = static_cast<float>(rng() >> 8) - 8e6f;
    source[i + (first + 1 + rng() % 3) % 4] = static_cast<float>(rng() >> 8) - 8e6f;
  }
  return source;
}

// Half of the tiles of 64 columns of every 32 rows, at random.
std::vector<float> tiles(int rows, int cols) {
  std::mt19937 rng(2);
  std::vector<float> source = unstructured(rows, cols, cols);
  std::vector<int> order((cols + 63) / 64);
  std::iota(order.begin(), order.end(), 0);
  for (int first = 0; first < rows; first += 32) {
    std::shuffle(order.begin(), order.end(), rng);
    for (int row = first; row < std::min(rows, first + 32); ++row) {
      for (size_t i = 0; i < order.size() / 2; ++i) {
        const int end = std::min(cols, (order[i] + 1) * 64);
        std::fill(&source[static_cast<size_t>(row) * cols + order[i] * 64],
                  source.data() + static_cast<size_t>(row) * cols + end, 0.0f);
      }
    }
  }
  return source;
}

std::vector<float> all(int rows, int cols) { return unstructured(rows, cols, cols); }

constexpr Format kFormats[] = {{WeightType::kI3, WeightType::kI4, "none", all},
                               {WeightType::kS8, WeightType::kI8, "80 %", fifth},
                               {WeightType::kH8, WeightType::kI8, "50 %", half},
                               {WeightType::kH8, WeightType::kI8, "2:4", two_of_four},
                               {WeightType::kB8, WeightType::kI8, "50 % in tiles", tiles}};

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
    if (i == 0) {
      pack_rows(type, SourceType::kF32, reinterpret_cast<const std::byte*>(source.data()), rows,
                cols, to, pool);
    } else {
      for (size_t p = 0; p < specs.size(); ++p) {
        std::copy_n(out.buffers[p].data(), specs[p].bytes, to[p]);
      }
    }
    out.views.push_back(packed_view(type, rows, cols, {to.begin(), to.end()}));
  }
  return out;
}

// What a product asks for besides the weights.
class Product {
 public:
  Product(const Kernels& kernels, const Copies& w, int num_tokens, bool is_precise,
          ThreadPool& pool)
      : kernels_(kernels), w_(w), pool_(pool) {
    const PackedMatrix& first = w.views[0];
    x_ = kernels.rows_format(first.type, num_tokens, first.padded_cols, is_precise);
    const size_t plane_rows = round_up(num_tokens * x_.planes, 16);
    data_ = AlignedBuffer<std::byte>(plane_rows * first.padded_cols * 4);
    scale_ = AlignedBuffer<float>(num_tokens);
    y_ = Rows(num_tokens, first.rows);
    group_sum_ = AlignedBuffer<int32_t>(plane_rows * (first.padded_cols / kGroupSize + 1));
    scratch_ = AlignedBuffer<std::byte>(kGemmScratchBytes * pool.num_threads());
    x_.data = data_.data();
    x_.scale = scale_.data();
    x_.group_sum = group_sum_.data();
  }

  // Seconds of a product, the mean of `count` of them, each with the copy of the weights that was
  // used longest ago.
  double seconds(size_t count) {
    const GemmOutput out = {.data = y_[0], .stride = y_.stride};
    const bool is_single = pool_.num_threads() == 1;
    const int num_blocks = w_.views[0].padded_rows / kRowBlock;
    const int64_t grain = block_grain(num_blocks, pool_.num_threads(), x_.rows);
    const double start = now_seconds(is_single);
    for (size_t i = 0; i < count; ++i) {
      const PackedMatrix& view = w_.views[next_++ % w_.views.size()];
      pool_.parallel_for(num_blocks, grain, [&](int64_t begin, int64_t end, int thread) {
        kernels_.gemm(view, x_, out, static_cast<int>(begin), static_cast<int>(end),
                      scratch_.data() + thread * kGemmScratchBytes);
      });
    }
    return (now_seconds(is_single) - start) / static_cast<double>(count);
  }

 private:
  const Kernels& kernels_;
  const Copies& w_;
  ThreadPool& pool_;
  PackedRows x_;
  AlignedBuffer<std::byte> data_, scratch_;
  AlignedBuffer<float> scale_;
  AlignedBuffer<int32_t> group_sum_;
  Rows y_;
  size_t next_ = 0;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void compare(const Kernels& kernels, const Copies& dense, const Copies& sparse, int num_tokens,
             bool is_precise, ThreadPool& pool) {
  constexpr int kFewTokens = 16;
  const bool is_few = num_tokens <= kFewTokens;
  Product dense_product(kernels, dense, num_tokens, is_precise, pool);
  Product sparse_product(kernels, sparse, num_tokens, is_precise, pool);
  std::vector<double> dense_seconds, sparse_seconds;
  for (int i = 0; i < kRepeats; ++i) {
    dense_seconds.push_back(dense_product.seconds(is_few ? dense.views.size() : 1));
    sparse_seconds.push_back(sparse_product.seconds(is_few ? sparse.views.size() : 1));
  }
  const double before = median(dense_seconds), after = median(sparse_seconds);
  std::printf("  %-8s %6d %7d %10.1f %10.1f %7.2f\n", std::string(isa_name(kernels.isa)).c_str(),
              num_tokens, is_precise ? 2 : 1, before * 1e6, after * 1e6, before / after);
  std::fflush(stdout);
}

void bench(int threads, int rows, int cols, const std::string& path, const std::string& wanted) {
  ThreadPool pool(threads);
  for (const Format& format : kFormats) {
    const std::string name(weight_type_name(format.type));
    if (!wanted.empty() && wanted != name) continue;
    const std::vector<float> source = format.source(rows, cols);
    const Copies dense = make_copies(format.against, rows, cols, source, pool);
    const Copies sparse = make_copies(format.type, rows, cols, source, pool);
    const std::string against(weight_type_name(format.against));
    std::printf("%s, zeros %s, %d x %d, %d threads, MiB: %.1f, %s %.1f\n", name.c_str(),
                format.zeros, rows, cols, threads, static_cast<double>(sparse.bytes) / (1 << 20),
                against.c_str(), static_cast<double>(dense.bytes) / (1 << 20));
    std::printf("  %-8s %6s %7s %7s us %7s us %7s\n", "path", "tokens", "planes", against.c_str(),
                name.c_str(), "ratio");
    for (const Isa isa : supported_isas()) {
      if (isa == Isa::kScalar || (!path.empty() && path != isa_name(isa))) continue;
      for (const int num_tokens : {1, 4, 512}) {
        for (const bool is_precise : {true, false}) {
          compare(kernels_for(isa), dense, sparse, num_tokens, is_precise, pool);
        }
      }
    }
  }
}

}  // namespace
}  // namespace autoglm

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const int rows = argc > 2 ? std::atoi(argv[2]) : 4096;
  const int cols = argc > 3 ? std::atoi(argv[3]) : rows;
  if (threads < 1 || rows < 1 || cols < 1) {
    std::fprintf(stderr, "usage: bench_sparse [threads] [rows] [cols] [path] [format]\n");
    return 2;
  }
  autoglm::bench(threads, rows, cols, argc > 4 ? argv[4] : "", argc > 5 ? argv[5] : "");
  return 0;
}
