#include "model/activations.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace autoglm {
namespace {

constexpr int kTileRows = 16;
constexpr size_t kChunkBytes = 64;  // of a row that lie together in every format

size_t row_bytes(const PackedRows& rows, WeightType type) {
  const size_t cols = rows.padded_cols;
  switch (rows.format) {
    case RowsFormat::kF32:
      return cols * sizeof(float);
    case RowsFormat::kI8:
      return cols;
    default:
      return type == WeightType::kBF16 ? cols * sizeof(bf16_t) : cols;
  }
}

size_t num_stored_rows(const PackedRows& rows) {
  const int num = rows.rows * rows.planes;
  return rows.format == RowsFormat::kTile ? round_up(num, kTileRows) : num;
}

// The chunks of one plane row.
struct Chunks {
  std::byte* first = nullptr;
  size_t step = 0;  // bytes from one to the next
};

Chunks chunks_of(const PackedRows& rows, WeightType type, int plane_row) {
  auto* data = static_cast<std::byte*>(rows.data);
  const size_t row = plane_row, num_bytes = row_bytes(rows, type);
  if (rows.format != RowsFormat::kTile) return {data + row * num_bytes, kChunkBytes};
  return {data + row / kTileRows * kTileRows * num_bytes + row % kTileRows * kChunkBytes,
          kTileRows * kChunkBytes};
}

// Tile rows come without the sums that other kernels need.
void sum_groups(const PackedRows& rows, int row) {
  const int num_groups = rows.padded_cols / kGroupSize * rows.planes;
  const size_t first = static_cast<size_t>(row) * num_groups;
  const auto* codes = static_cast<const int8_t*>(rows.data) + first * kGroupSize;
  for (int g = 0; g < num_groups; ++g, codes += kGroupSize) {
    rows.group_sum[first + g] = std::accumulate(codes, codes + kGroupSize, 0);
  }
}

}  // namespace

void PackedActivations::reserve(WeightType type, int rows, int padded_cols, int num_matrices) {
  reserve_for(type, kernels_.rows_format(type, rows, padded_cols, is_precise_), num_matrices);
}

void PackedActivations::reserve(const Linear& linear, int rows) {
  const PackedMatrix& weight = linear.matrix;
  const bool is_precise = is_precise_ || linear.input_scale != nullptr;
  reserve_for(weight.type, kernels_.rows_format(weight.type, rows, weight.padded_cols, is_precise),
              1);
}

void PackedActivations::reserve_for(WeightType type, const PackedRows& layout, int num_matrices) {
  const int rows = layout.rows, padded_cols = layout.padded_cols;
  const int num_pads = std::min(num_matrices, rows) - 1;
  const size_t num_rows = num_stored_rows(layout) + static_cast<size_t>(num_pads) * kTileRows;
  data_.reserve(num_rows * row_bytes(layout, type));
  scale_.reserve(rows);
  group_sum_.reserve(num_rows * (padded_cols / kGroupSize + 1));
}

PackedRows PackedActivations::prepare(const PackedMatrix& weight, int rows) {
  clear();
  return append(weight, rows);
}

PackedRows PackedActivations::prepare(const Linear& linear, int rows) {
  clear();
  const PackedMatrix& weight = linear.matrix;
  const bool is_precise = is_precise_ || linear.input_scale != nullptr;
  PackedRows layout = kernels_.rows_format(weight.type, rows, weight.padded_cols, is_precise);
  layout.least_range = linear.input_range;
  return append(weight.type, layout);
}

void PackedActivations::clear() {
  num_bytes_ = 0;
  num_rows_ = 0;
  num_sums_ = 0;
}

PackedRows PackedActivations::append(const PackedMatrix& weight, int rows) {
  return append(weight.type,
                kernels_.rows_format(weight.type, rows, weight.padded_cols, is_precise_));
}

PackedRows PackedActivations::append(WeightType type, PackedRows layout) {
  layout.data = data_.data() + num_bytes_;
  layout.scale = scale_.data() + num_rows_;
  layout.group_sum = group_sum_.data() + num_sums_;
  num_bytes_ += num_stored_rows(layout) * row_bytes(layout, type);
  num_rows_ += layout.rows;
  num_sums_ += static_cast<size_t>(layout.rows) * layout.planes * (layout.padded_cols / kGroupSize);
  return layout;
}

void copy_packed_row(WeightType type, const PackedRows& from, int from_row, const PackedRows& to,
                     int to_row) {
  const size_t num_bytes = row_bytes(from, type);
  for (int plane = 0; plane < from.planes; ++plane) {
    const Chunks source = chunks_of(from, type, from_row * from.planes + plane);
    const Chunks target = chunks_of(to, type, to_row * to.planes + plane);
    for (size_t i = 0; i < num_bytes / kChunkBytes; ++i) {
      std::memcpy(target.first + i * target.step, source.first + i * source.step, kChunkBytes);
    }
  }
  if (from.format == RowsFormat::kF32 || type == WeightType::kBF16) return;
  to.scale[to_row] = from.scale[from_row];
  if (to.format == RowsFormat::kI8) sum_groups(to, to_row);
}

}  // namespace autoglm
