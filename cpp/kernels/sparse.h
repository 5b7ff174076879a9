// Sparse int8 weights: the non-zero codes of a block of 16 rows one after the other, and a bit for
// every code. Kernels see them as the I8 layout, expanded a piece or a register at a time.
//
// Masks and codes may come from a file that changes: no function reads outside a block's codes,
// whatever the masks say.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace autoglm::sparse {

// Columns of the widest matrix: two blocks of it, expanded, fit the scratch of a thread.
inline constexpr int kMostCols = 16384;

// Codes that share a mask, in the I8 layout: 16 rows of 4 columns.
inline constexpr int kUnit = 64;

// Writes the non-zero codes of one block in the I8 layout. Returns how many there are; when they
// are more than the block has room for, nothing is written.
int compress_block(WeightType type, const int8_t* dense, int padded_cols, uint64_t* masks,
                   int8_t* codes);

// Where a walk through the units of a block stands.
struct Cursor {
  const uint64_t* masks;  // of the block
  const int8_t* codes;
  int num_units;
  int last;  // codes behind it are not read
  int unit = 0;
  int at = 0;  // in the codes
};

Cursor first_unit(const PackedMatrix& w, int block);

// How to use the packed codes of one block.
struct Methods {
  // Writes the next units in the I8 layout, and fetches those behind them.
  void (*expand)(Cursor* cursor, int num_units, int8_t* out);
  // The same without fetching, for codes that have been fetched.
  void (*expand_near)(Cursor* cursor, int num_units, int8_t* out);
  // Dots of `num_rows` plane rows, 1, 2, 4 or 8, of activations with 1 or 2 blocks, straight from
  // the codes: sums [num_rows][num_blocks][16]. Null where that is not faster than expanding.
  void (*dot)(const PackedMatrix& w, const PackedRows& x, int block, int num_blocks, int first_row,
              int num_rows, int32_t* sums);
};

// The best methods that this processor has for a path.
const Methods& methods(Isa isa);

// On any processor.
void expand_units(Cursor* cursor, int num_units, int8_t* out);

// In sparse_avx2.cc and sparse_neon.cc.
void expand_units_avx2(Cursor* cursor, int num_units, int8_t* out);
void expand_units_neon(Cursor* cursor, int num_units, int8_t* out);

// With VBMI2 (sparse_vbmi2.cc), on processors that have it.
void expand_units_vbmi2(Cursor* cursor, int num_units, int8_t* out);
void expand_near_vbmi2(Cursor* cursor, int num_units, int8_t* out);
void dot_vbmi2(const PackedMatrix& w, const PackedRows& x, int block, int num_blocks, int first_row,
               int num_rows, int32_t* sums);

}  // namespace autoglm::sparse
