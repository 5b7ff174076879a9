// Sparse int8 weights: the non-zero codes of a block of 16 rows one after the other, and a bit for
// every code. Kernels see them as the I8 layout, expanded a block or a register at a time.
//
// Masks and codes may come from a file that changes: no function reads outside a block's codes,
// whatever the masks say.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace autoglm::sparse {

// Columns of the widest matrix: two blocks of it, expanded, fit the scratch of a thread.
inline constexpr int kMostCols = 16384;

// Writes the non-zero codes of one block in the I8 layout. Returns how many there are; when they
// are more than the block has room for, nothing is written.
int compress_block(const int8_t* dense, int padded_cols, uint64_t* masks, int8_t* codes);

// Takes the codes of one block, 64 at a time in the I8 layout: 16 rows of 4 columns.
class Units {
 public:
  Units(const PackedMatrix& w, int block);
  void next(int8_t* out);

 private:
  const uint64_t* masks_;
  const int8_t* codes_;
  int last_;
  int at_ = 0;
};

// How to use the packed codes of one block.
struct Methods {
  // Writes the block in the I8 layout.
  void (*expand)(const PackedMatrix& w, int block, int8_t* out);
  // Dots of `num_rows` plane rows, 1, 2 or 4, of activations with the block, straight from the
  // codes: sums[row * stride + lane]. Null where that is not faster than expanding.
  void (*dot)(const PackedMatrix& w, const PackedRows& x, int block, int first_row, int num_rows,
              int32_t* sums, int stride);
};

// The best methods of this processor, those of AVX-512 only when asked for.
const Methods& methods(bool may_use_avx512);

// With VBMI2 (sparse_vbmi2.cc), on processors that have it.
void expand_block_vbmi2(const PackedMatrix& w, int block, int8_t* out);
void dot_block_vbmi2(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                     int num_rows, int32_t* sums, int stride);

}  // namespace autoglm::sparse
