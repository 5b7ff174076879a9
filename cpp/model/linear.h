// A linear layer: a packed matrix and what goes with it.
#pragma once

#include "kernels/kernels.h"

namespace autoglm {

struct Linear {
  PackedMatrix matrix;
  const float* bias = nullptr;  // [matrix.rows] or null
  // [matrix.cols] or null. The matrix meets its inputs times these, packed with 16 bits: its
  // columns were divided by them, so that large ones leave small ones their codes.
  const float* input_scale = nullptr;
  // Positive for a scale of quantised inputs that is known before, with values beyond cut off; 0
  // for one that every row gets by its largest value.
  float input_range = 0.0f;
  // [matrix.rows, num_groups()], without weights when there is none: what was taken from every
  // weight of a group of columns, so that its codes lie around zero. It meets the sums of groups.
  PackedMatrix offset = {};

  bool has_offset() const { return offset.weight != nullptr; }
  int num_groups() const { return (matrix.cols + kGroupSize - 1) / kGroupSize; }
};

}  // namespace autoglm
