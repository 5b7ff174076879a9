// Integer matrices at their limits, on every path: exact dots, the largest codes over the longest
// rows, every code and group scale, denormal and broken activations.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr int kLongestRow = 131072;  // the widest layer a configuration may have

// A packed matrix with scales of 1 and the codes of a function, written as kernels.h describes.
struct CodeMatrix {
  PackedMatrix view;
  AlignedBuffer<std::byte> weight;
  AlignedBuffer<float> scale;
  AlignedBuffer<uint8_t> group_scale;
  std::vector<int64_t> values;  // code, times group scale; [rows][cols]
};

using CodeAt = std::function<int(int row, int col)>;

constexpr WeightType kTypes[] = {WeightType::kI8, WeightType::kI4, WeightType::kI3};
// The smallest and the largest code.
constexpr int lowest(WeightType type) {
  return type == WeightType::kI8 ? -127 : type == WeightType::kI4 ? -8 : -4;
}
constexpr int highest(WeightType type) { return type == WeightType::kI8 ? 127 : -lowest(type) - 1; }

void set_bits(std::byte* byte, int first, int count, int value) {
  const int mask = ((1 << count) - 1) << first;
  *byte = static_cast<std::byte>((static_cast<int>(*byte) & ~mask) | (value << first & mask));
}

// Writes a code of a pair of groups of 64 columns; `k` is its column of the 128.
void set_code(WeightType type, std::byte* pair, int lane, int k, int value) {
  const int group = k / kGroupSize, within = k % kGroupSize;
  const int line = within / 4, byte = 4 * lane + within % 4;
  if (type == WeightType::kI4) {
    set_bits(pair + line * 64 + byte, 4 * group, 4, value + 8);
  } else if (within < 48) {
    set_bits(pair + line * 64 + byte, 2 + 3 * group, 3, value + 4);
  } else {
    std::byte* spare = pair + (line - 12) * 3 * 64 + byte;
    set_bits(spare + 64 * group, 0, 2, value + 4);
    set_bits(spare + 128, group, 1, (value + 4) >> 2);
  }
}

CodeMatrix make_matrix(WeightType type, int rows, int cols, const CodeAt& code,
                       const CodeAt& group_scale) {
  CodeMatrix m;
  m.view = {.type = type,
            .rows = rows,
            .cols = cols,
            .padded_rows = round_up(rows, kRowBlock),
            .padded_cols = round_up(cols, k_align(type))};
  const int padded_cols = m.view.padded_cols, num_groups = padded_cols / kGroupSize;
  const size_t block_bytes = row_block_bytes(type, padded_cols);
  const size_t pair_bytes = row_block_bytes(type, 2 * kGroupSize);
  m.weight = AlignedBuffer<std::byte>(block_bytes * (m.view.padded_rows / kRowBlock));
  m.scale = AlignedBuffer<float>(m.view.padded_rows);
  m.group_scale = AlignedBuffer<uint8_t>(static_cast<size_t>(m.view.padded_rows) * num_groups);
  std::fill(m.group_scale.data(), m.group_scale.data() + m.group_scale.size(), uint8_t{1});
  for (int k = 0; type != WeightType::kI8 && k < padded_cols * kRowBlock; ++k) {
    const int column = k / kRowBlock;
    for (int b = 0; b < m.view.padded_rows / kRowBlock; ++b) {
      std::byte* pair = m.weight.data() + b * block_bytes + column / 128 * pair_bytes;
      set_code(type, pair, k % kRowBlock, column % 128, 0);
    }
  }
  m.values.resize(static_cast<size_t>(rows) * cols);
  for (int r = 0; r < rows; ++r) {
    m.scale[r] = 1.0f;
    std::byte* block = m.weight.data() + r / kRowBlock * block_bytes;
    const int lane = r % kRowBlock;
    for (int k = 0; k < cols; ++k) {
      int64_t& value = m.values[static_cast<size_t>(r) * cols + k];
      value = code(r, k);
      if (type == WeightType::kI8) {
        block[(k / 4 * kRowBlock + lane) * 4 + k % 4] = static_cast<std::byte>(value);
        continue;
      }
      const int group = k / kGroupSize;
      set_code(type, block + group / 2 * pair_bytes, lane, k % 128, static_cast<int>(value));
      const int scale = group_scale(r, group);
      m.group_scale[(static_cast<size_t>(r / kRowBlock) * num_groups + group) * kRowBlock + lane] =
          static_cast<uint8_t>(scale);
      value *= scale;
    }
  }
  m.view.weight = m.weight.data();
  m.view.scale = m.scale.data();
  if (type != WeightType::kI8) m.view.group_scale = m.group_scale.data();
  return m;
}

// y = x W^T for [num_rows][cols] activations.
std::vector<float> product(const Kernels& kernels, const CodeMatrix& m, const std::vector<float>& x,
                           int num_rows, bool is_precise, float least_range = 0.0f) {
  const PackedMatrix& w = m.view;
  PackedRows rows = kernels.rows_format(w.type, num_rows, w.padded_cols, is_precise);
  rows.least_range = least_range;
  const size_t plane_rows = round_up(num_rows * rows.planes, 16);
  AlignedBuffer<std::byte> data(plane_rows * w.padded_cols * 4);
  AlignedBuffer<float> scale(num_rows);
  AlignedBuffer<int32_t> group_sum(plane_rows * (w.padded_cols / kGroupSize + 1));
  rows.data = data.data();
  rows.scale = scale.data();
  rows.group_sum = group_sum.data();
  for (int i = 0; i < num_rows; ++i) {
    kernels.pack_row(rows, w.type, i, &x[static_cast<size_t>(i) * w.cols], w.cols);
  }
  std::vector<float> y(static_cast<size_t>(num_rows) * w.rows);
  AlignedBuffer<std::byte> scratch(kGemmScratchBytes);
  kernels.gemm(w, rows, {.data = y.data(), .stride = w.rows}, 0, w.padded_rows / kRowBlock,
               scratch.data());
  return y;
}

std::vector<double> exact_product(const CodeMatrix& m, const std::vector<float>& x, int num_rows) {
  std::vector<double> y;
  for (int i = 0; i < num_rows; ++i) {
    for (int r = 0; r < m.view.rows; ++r) {
      double sum = 0.0;  // of integers below 2^53
      for (int k = 0; k < m.view.cols; ++k) {
        sum += static_cast<double>(m.values[static_cast<size_t>(r) * m.view.cols + k]) *
               x[static_cast<size_t>(i) * m.view.cols + k];
      }
      y.push_back(sum);
    }
  }
  return y;
}

std::string describe(Isa isa, WeightType type, int rows, int cols, int num_rows, bool is_precise) {
  return std::string(isa_name(isa)) + " int" +
         (type == WeightType::kI8   ? "8 "
          : type == WeightType::kI4 ? "4 "
                                    : "3 ") +
         std::to_string(rows) + "x" + std::to_string(cols) + " tokens " + std::to_string(num_rows) +
         " precise " + std::to_string(is_precise);
}

// Activations that are their own codes, because the largest is that of the format or the range is
// fixed there, and sums that a float holds: the product is the integer itself.
void test_dots_are_exact() {
  std::mt19937 rng(1);
  const auto draw = [&rng](int low, int high) {
    return low + static_cast<int>(rng() % static_cast<uint32_t>(high - low + 1));
  };
  const int shapes[][3] = {{16, 64, 1},  {1, 1, 1},    {17, 3, 2},    {33, 63, 5},  {48, 65, 6},
                           {31, 127, 8}, {40, 129, 9}, {64, 191, 16}, {96, 70, 33}, {16, 200, 17}};
  for (const auto& [rows, cols, num_rows] : shapes) {
    for (const WeightType type : kTypes) {
      const CodeMatrix m = make_matrix(
          type, rows, cols, [&](int, int) { return draw(lowest(type), highest(type)); },
          [](int r, int g) { return 1 + (7 * r + 5 * g) % 16; });
      for (const bool is_precise : {true, false}) {
        const int largest = is_precise ? 32384 : 127;
        // With two planes a few large values keep the sums below 2^24.
        std::vector<float> x(static_cast<size_t>(num_rows) * cols);
        for (float& value : x) value = static_cast<float>(draw(-127, 127) / (is_precise ? 16 : 1));
        for (const float range : {static_cast<float>(largest), 0.0f}) {
          if (range == 0.0f) {
            for (int i = 0; i < num_rows; ++i) x[i * cols + draw(0, cols - 1)] = -largest;
          }
          const std::vector<double> want = exact_product(m, x, num_rows);
          for (const Isa isa : supported_isas()) {
            const auto y = product(kernels_for(isa), m, x, num_rows, is_precise, range);
            test::record(std::equal(y.begin(), y.end(), want.begin()), __FILE__, __LINE__,
                         describe(isa, type, rows, cols, num_rows, is_precise) + " range " +
                             std::to_string(range));
          }
        }
      }
    }
  }
}

// No int32 or int16 sum may wrap or saturate: all products at their largest and of one sign.
void test_the_largest_codes_over_the_longest_row() {
  for (const WeightType type : kTypes) {
    for (const int code : {lowest(type), highest(type)}) {
      const CodeMatrix m = make_matrix(
          type, 16, kLongestRow, [&](int, int) { return code; }, [](int, int) { return 16; });
      for (const float x_value : {1.0f, -1.0f}) {
        for (const int num_rows : {1, 6}) {
          const std::vector<float> x(static_cast<size_t>(num_rows) * kLongestRow, x_value);
          const double group_scale = type == WeightType::kI8 ? 1.0 : 16.0;
          const double want = kLongestRow * group_scale * code * x_value;
          for (const Isa isa : supported_isas()) {
            for (const bool is_precise : {true, false}) {
              const auto y = product(kernels_for(isa), m, x, num_rows, is_precise);
              const bool is_close = std::all_of(y.begin(), y.end(), [&](float value) {
                return std::fabs(value - want) <= 1e-6 * std::fabs(want);  // a few roundings
              });
              test::record(is_close, __FILE__, __LINE__,
                           describe(isa, type, 16, kLongestRow, num_rows, is_precise) + ": " +
                               std::to_string(y[0]) + " for " + std::to_string(want));
            }
          }
        }
      }
    }
  }
}

// Rows of denormals are as good as rows of zeros; beside them ordinary rows keep their values.
void test_denormal_activations() {
  const int rows = 48, cols = 200, num_rows = 9;
  for (const WeightType type : kTypes) {
    const CodeMatrix m = make_matrix(
        type, rows, cols, [](int r, int k) { return (r + k) % 7 - 3; },
        [](int r, int g) { return 1 + (r + g) % 16; });
    for (const float tiny : {1e-45f, 1e-40f, 1e-38f, 1e-33f}) {
      std::vector<float> x(static_cast<size_t>(num_rows) * cols, tiny);
      std::fill_n(x.begin() + cols, cols, 1.0f);
      std::vector<float> ordinary = x;
      std::replace(ordinary.begin(), ordinary.end(), tiny, 0.0f);
      const std::vector<double> want = exact_product(m, ordinary, num_rows);
      for (const Isa isa : supported_isas()) {
        for (const bool is_precise : {true, false}) {
          const auto y = product(kernels_for(isa), m, x, num_rows, is_precise);
          bool is_close = true;
          for (size_t i = 0; i < y.size(); ++i) {
            is_close = is_close && std::fabs(y[i] - want[i]) <= 1e-25 + 1e-6 * std::fabs(want[i]);
          }
          test::record(is_close, __FILE__, __LINE__,
                       describe(isa, type, rows, cols, num_rows, is_precise) + " of " +
                           std::to_string(tiny));
        }
      }
    }
  }
}

// One value that is not finite makes its row NaN, wherever it stands, and no other row.
void test_broken_activations_reach_every_product() {
  const int rows = 33, cols = 150, num_rows = 7;
  for (const WeightType type : kTypes) {
    const CodeMatrix m = make_matrix(
        type, rows, cols, [](int r, int k) { return (r * k) % 7 - 3; }, [](int, int) { return 3; });
    for (const int place : {0, 15, 16, 77, cols - 1}) {
      for (const float value : {NAN, -NAN, INFINITY, -INFINITY}) {
        std::vector<float> x(static_cast<size_t>(num_rows) * cols, 1.0f);
        x[3 * cols + place] = value;
        for (const Isa isa : supported_isas()) {
          for (const bool is_precise : {true, false}) {
            const auto y = product(kernels_for(isa), m, x, num_rows, is_precise, 2.0f);
            for (size_t i = 0; i < y.size(); ++i) {
              if (std::isnan(y[i]) == (i / rows == 3)) continue;
              test::record(false, __FILE__, __LINE__,
                           describe(isa, type, rows, cols, num_rows, is_precise) + " place " +
                               std::to_string(place));
              break;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_dots_are_exact();
  autoglm::test_the_largest_codes_over_the_longest_row();
  autoglm::test_denormal_activations();
  autoglm::test_broken_activations_reach_every_product();
  return autoglm::test::finish_tests();
}
