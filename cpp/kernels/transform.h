// What conversion does to the rows of a matrix before they are packed.
//
// A rotation is x -> x D H: random signs D, then the normalised Hadamard transform H of blocks of
// the largest power of two that divides the width (QuaRot, arXiv 2404.00456). It is orthogonal, so
// RMSNorm without a gain commutes with it.
#pragma once

#include <span>

namespace autoglm {

// Either span may be empty; otherwise it has one value a column.
struct RowTransform {
  std::span<const float> column_scale;
  std::span<const float> signs;  // of a rotation, 1 or -1

  bool is_identity() const { return column_scale.empty() && signs.empty(); }
};

// row = rotation(row * column_scale), in place.
void transform_row(const RowTransform& transform, float* row, int cols);

// Rotates every column of a row-major matrix; `signs` has one value a row.
void rotate_columns(float* matrix, int rows, int cols, std::span<const float> signs);

}  // namespace autoglm
