#include "model/activations.h"

namespace autoglm {
namespace {

constexpr int kTileRows = 16;

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

}  // namespace

PackedRows PackedActivations::format(WeightType type, int rows, int padded_cols) const {
  return kernels_.rows_format(type, rows, padded_cols, is_precise_);
}

void PackedActivations::reserve(WeightType type, int rows, int padded_cols) {
  const PackedRows layout = format(type, rows, padded_cols);
  const size_t num_rows = num_stored_rows(layout);
  data_.reserve(num_rows * row_bytes(layout, type));
  scale_.reserve(rows);
  group_sum_.reserve(num_rows * (padded_cols / kGroupSize + 1));
}

PackedRows PackedActivations::prepare(const PackedMatrix& weight, int rows) {
  PackedRows layout = format(weight.type, rows, weight.padded_cols);
  layout.data = data_.data();
  layout.scale = scale_.data();
  layout.group_sum = group_sum_.data();
  return layout;
}

}  // namespace autoglm
