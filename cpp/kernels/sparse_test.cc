// Int8 weights without zeros: the same numbers as dense ones, and no read outside whatever the
// masks say.
#include "kernels/sparse.h"

#include <random>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/thread_pool.h"
#include "kernels/pack.h"

namespace autoglm {
namespace {

constexpr int kRows = 80;

struct Packed {
  PackedMatrix view;
  std::vector<AlignedBuffer<std::byte>> parts;
};

Packed pack(WeightType type, int cols, const std::vector<float>& source) {
  Packed packed;
  std::vector<std::byte*> to;
  std::vector<const std::byte*> from;
  for (const PartSpec& spec : packed_parts(type, kRows, cols)) {
    packed.parts.emplace_back(spec.bytes);
    to.push_back(packed.parts.back().data());
    from.push_back(to.back());
  }
  ThreadPool pool(2);
  pack_rows(type, SourceType::kF32, reinterpret_cast<const std::byte*>(source.data()), kRows, cols,
            to, pool);
  packed.view = packed_view(type, kRows, cols, from);
  return packed;
}

// `num_kept` values of each row, the others zero.
std::vector<float> sparse_rows(int cols, int num_kept) {
  std::mt19937 rng(cols);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(kRows) * cols);
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < num_kept; ++i) {
      values[static_cast<size_t>(row) * cols + rng() % cols] = normal(rng);
    }
  }
  return values;
}

// In pieces of `grain` blocks, which two threads share.
std::vector<float> product(const Kernels& kernels, const PackedMatrix& w, int num_tokens,
                           bool is_precise, int grain = kRows) {
  PackedRows x = kernels.rows_format(w.type, num_tokens, w.padded_cols, is_precise);
  const size_t plane_rows = round_up(num_tokens * x.planes, 16);
  AlignedBuffer<std::byte> data(plane_rows * w.padded_cols * 4);
  AlignedBuffer<float> scale(num_tokens);
  AlignedBuffer<int32_t> group_sum(plane_rows * (w.padded_cols / kGroupSize + 1));
  AlignedBuffer<std::byte> scratch(2 * kGemmScratchBytes);
  x.data = data.data();
  x.scale = scale.data();
  x.group_sum = group_sum.data();
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  for (int m = 0; m < num_tokens; ++m) {
    std::vector<float> row(w.cols);
    for (float& value : row) value = normal(rng);
    kernels.pack_row(x, w.type, m, row.data(), w.cols);
  }
  std::vector<float> y(static_cast<size_t>(num_tokens) * kRows);
  const GemmOutput out = {.data = y.data(), .stride = kRows};
  ThreadPool pool(2);
  pool.parallel_for(w.padded_rows / kRowBlock, grain, [&](int64_t begin, int64_t end, int thread) {
    kernels.gemm(w, x, out, static_cast<int>(begin), static_cast<int>(end),
                 scratch.data() + thread * kGemmScratchBytes);
  });
  return y;
}

// Every other tile of 32 rows and 64 columns.
std::vector<float> tiled_rows(int cols, int) {
  std::vector<float> values = sparse_rows(cols, cols);
  for (size_t i = 0; i < values.size(); ++i) {
    if ((i % cols / 64 + i / cols / 32) % 2 != 0) values[i] = 0.0f;
  }
  return values;
}

struct SparseType {
  WeightType type;
  int one_of;  // so many weights is stored
  std::vector<float> (*source)(int cols, int num_kept);
};
constexpr SparseType kSparseTypes[] = {{WeightType::kS8, 5, sparse_rows},
                                       {WeightType::kH8, 2, sparse_rows},
                                       {WeightType::kB8, 2, tiled_rows}};

void test_products_are_those_of_dense_codes() {
  for (const SparseType& format : kSparseTypes) {
    for (const int cols : {5, 64, 300, 4096}) {
      const auto source = format.source(cols, cols / format.one_of);
      const Packed dense = pack(WeightType::kI8, cols, source);
      const Packed sparse = pack(format.type, cols, source);
      for (const Isa isa : test::tested_isas()) {
        for (const int num_tokens : {1, 2, 3, 4, 5, 9, 33}) {
          for (const bool is_precise : {true, false}) {
            const Kernels& kernels = kernels_for(isa);
            CHECK(product(kernels, sparse.view, num_tokens, is_precise) ==
                  product(kernels, dense.view, num_tokens, is_precise));
          }
        }
      }
    }
  }
}

// As many rows and columns as paths cut into parts: tiles of 16 rows, 512 columns a piece, 1,024
// rows or a MiB of activations at once.
void test_prompts_are_those_of_dense_codes() {
  struct Shape {
    int cols;
    int num_tokens;
  };
  constexpr Shape kShapes[] = {{64, 1025}, {512, 127}, {576, 128}, {1088, 129}, {16384, 33}};
  for (const SparseType& format : kSparseTypes) {
    const int grain = format.type == WeightType::kB8 ? 2 : 1;
    for (const Shape& shape : kShapes) {
      const auto source = format.source(shape.cols, shape.cols / format.one_of);
      const Packed dense = pack(WeightType::kI8, shape.cols, source);
      const Packed sparse = pack(format.type, shape.cols, source);
      for (const Isa isa : test::tested_isas()) {
        for (const bool is_precise : {true, false}) {
          const Kernels& kernels = kernels_for(isa);
          const auto want = product(kernels, dense.view, shape.num_tokens, is_precise);
          CHECK(product(kernels, sparse.view, shape.num_tokens, is_precise) == want);
          CHECK(product(kernels, sparse.view, shape.num_tokens, is_precise, grain) == want);
        }
      }
    }
  }
}

// Of every path, for masks of a matrix and for masks that say more than is stored.
void test_expanding_is_the_same_everywhere() {
  const int cols = 256;
  for (const bool is_true : {true, false}) {
    Packed packed = pack(WeightType::kH8, cols, sparse_rows(cols, cols / 2));
    if (!is_true) std::fill_n(packed.parts[0].data(), packed.parts[0].size() / 2, std::byte{0xfd});
    for (int block = 0; block < kRows / kRowBlock; ++block) {
      std::vector<int8_t> want(kRowBlock * cols), found(want.size());
      sparse::Cursor start = sparse::first_unit(packed.view, block);
      sparse::expand_units(&start, cols / 4, want.data());
      for (const Isa isa : test::tested_isas()) {
        sparse::Cursor cursor = sparse::first_unit(packed.view, block);
        for (int unit = 0; unit < cols / 4; unit += 16) {
          sparse::methods(isa).expand(&cursor, 16, &found[unit * sparse::kUnit]);
        }
        CHECK(found == want);
        CHECK_EQ(cursor.at, start.at);
      }
    }
  }
}

void test_rows_that_are_not_sparse_are_refused() {
  for (const SparseType& format : kSparseTypes) {
    const std::vector<float> source(kRows * 128, 1.0f);
    CHECK_THROWS(kModelFileError, pack(format.type, 128, source));
  }
}

// Two of any four neighbours fill the blocks to the last code.
void test_a_block_may_be_full() {
  std::vector<float> source(kRows * 128);
  for (size_t i = 0; i < source.size(); ++i) {
    if (i % 4 == i / 4 % 2 || i % 4 == 3) source[i] = static_cast<float>(i % 7 + 1);
  }
  const Packed dense = pack(WeightType::kI8, 128, source);
  const Packed half = pack(WeightType::kH8, 128, source);
  for (const Isa isa : test::tested_isas()) {
    const Kernels& kernels = kernels_for(isa);
    CHECK(product(kernels, half.view, 1, true) == product(kernels, dense.view, 1, true));
  }
  source[2] = 1.0f;
  CHECK_THROWS(kModelFileError, pack(WeightType::kH8, 128, source));
}

// The buffers end where the matrix does, so a sanitizer sees a read outside.
void test_masks_that_lie_stay_inside() {
  const int cols = 256;
  for (const SparseType& format : kSparseTypes) {
    Packed sparse = pack(format.type, cols, format.source(cols, cols / format.one_of));
    std::fill_n(sparse.parts[0].data(), sparse.parts[0].size(), std::byte{0xff});
    for (const Isa isa : test::tested_isas()) {
      const Kernels& kernels = kernels_for(isa);
      CHECK_EQ(product(kernels, sparse.view, 1, true).size(), static_cast<size_t>(kRows));
      CHECK_EQ(product(kernels, sparse.view, 20, true).size(), static_cast<size_t>(kRows) * 20);
    }
  }
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_products_are_those_of_dense_codes();
  autoglm::test_prompts_are_those_of_dense_codes();
  autoglm::test_expanding_is_the_same_everywhere();
  autoglm::test_rows_that_are_not_sparse_are_refused();
  autoglm::test_a_block_may_be_full();
  autoglm::test_masks_that_lie_stay_inside();
  return autoglm::test::finish_tests();
}
