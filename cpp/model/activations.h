// Storage for packed activations, sized once for the largest matrix it will meet.
#pragma once

#include <cstddef>

#include "base/aligned_buffer.h"
#include "kernels/kernels.h"
#include "model/linear.h"

namespace autoglm {

class PackedActivations {
 public:
  // Quantised activations keep 16 bits when `is_precise`, else 8.
  PackedActivations(const Kernels& kernels, bool is_precise)
      : kernels_(kernels), is_precise_(is_precise) {}

  // Makes room for `rows` rows of activations for matrices of this weight type and width, divided
  // among up to `num_matrices`.
  void reserve(WeightType type, int rows, int padded_cols, int num_matrices = 1);
  // The same for one linear layer.
  void reserve(const Linear& linear, int rows);

  // Ready for pack_row() of `rows` rows for `weight`; what was packed before is lost. The second
  // form packs as the linear layer asks for, with 16 bits where its inputs have scales.
  PackedRows prepare(const PackedMatrix& weight, int rows);
  PackedRows prepare(const Linear& linear, int rows);

  // As prepare(), beside what was packed since the last clear().
  void clear();
  PackedRows append(const PackedMatrix& weight, int rows);

 private:
  void reserve_for(WeightType type, const PackedRows& layout, int num_matrices);
  PackedRows append(WeightType type, PackedRows layout);

  const Kernels& kernels_;
  bool is_precise_;
  AlignedBuffer<std::byte> data_;
  AlignedBuffer<float> scale_;
  AlignedBuffer<int32_t> group_sum_;
  size_t num_bytes_ = 0;  // used of data_
  size_t num_rows_ = 0;   // used of scale_
  size_t num_sums_ = 0;   // used of group_sum_
};

// Copies one packed row to another place for the same type and width of weights: the bits that
// pack_row() would write there.
void copy_packed_row(WeightType type, const PackedRows& from, int from_row, const PackedRows& to,
                     int to_row);

}  // namespace autoglm
