// Driver of integer GEMV/GEMM with int8 activation planes. The including file defines, before it,
//   dot_rows<kRows, kBlocks>(w, x, block, first_row, sums): int32 dots of kRows plane rows with
//   kBlocks
//     row blocks straight from the packed matrix; sums is [kRows][kBlocks][16];
//   unpack_block(w, block, panel): one int4 or int3 block with a byte for each weight;
//   dot_unpacked<kRows, kBlocks>(w, block, panel, x, first_row, sums): the same dots from blocks of
//   bytes, unpacked codes or int8 as they are; kSparseIsa, whose methods are used for sparse codes;
//   kMostBlocks, kMostRows: blocking for many rows.
// All integer arithmetic is exact, so every path and every blocking gives the same outputs.
#pragma once

#include <algorithm>

#include "kernels/kernels.h"
#include "kernels/sparse.h"
#include "kernels/tiles.h"

namespace autoglm {
namespace {

constexpr int kFewRows = 8;  // plane rows that meet weights as they are stored

// Outputs of kRows plane rows (whole activation rows) for kBlocks row blocks.
template <int kRows, int kBlocks>
inline void write_integer_outputs(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y,
                                  int block, int first_row,
                                  const int32_t (&sums)[kRows][kBlocks][16]) {
  const int step = kBlocks > 1 && y.epilogue == Epilogue::kSwiGlu ? 2 : 1;
  const int planes = kRows == 1 ? 1 : x.planes;  // two planes never come as a single row
  for (int r = 0; r < kRows; r += planes) {
    const int row = (first_row + r) / planes;
    const F32x16 row_scale = splat(x.scale[row]);
    for (int b = 0; b < kBlocks; b += step) {
      F32x16 values[2];
      for (int i = 0; i < step; ++i) {
        const F32x16 scale = load(w.scale + (block + b + i) * kRowBlock) * row_scale;
        values[i] = combine_planes(sums[r][b + i], planes, kBlocks * 16) * scale;
      }
      write_outputs(w, y, row, block + b, values[0], values[step - 1]);
    }
  }
}

template <int kRows, int kBlocks>
void gemv_tile(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
               int first_row) {
  alignas(64) int32_t sums[kRows][kBlocks][16];
  dot_rows<kRows, kBlocks>(w, x, block, first_row, sums);
  write_integer_outputs<kRows, kBlocks>(w, x, y, block, first_row, sums);
}

// Few rows: weights are read straight from memory, several row blocks in parallel so that several
// streams are in flight.
template <int kBlocks>
void gemv_blocks(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block) {
  const int num_rows = x.rows * x.planes;
  int row = 0;
  for (; row + 4 <= num_rows; row += 4) gemv_tile<4, kBlocks>(w, x, y, block, row);
  if (row + 2 <= num_rows) {
    gemv_tile<2, kBlocks>(w, x, y, block, row);
    row += 2;
  }
  if (row < num_rows) gemv_tile<1, kBlocks>(w, x, y, block, row);
}

template <int kRows, int kBlocks>
void panel_tile(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                const int8_t* panel, int first_row) {
  alignas(64) int32_t sums[kRows][kBlocks][16];
  dot_unpacked<kRows, kBlocks>(w, block, panel, x, first_row, sums);
  write_integer_outputs<kRows, kBlocks>(w, x, y, block, first_row, sums);
}

// Many rows: int4 and int3 blocks are unpacked once for all of them.
template <int kBlocks>
void panel_blocks(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                  int8_t* scratch) {
  const size_t block_bytes = static_cast<size_t>(kRowBlock) * w.padded_cols;
  const int8_t* panel;
  if (w.type == WeightType::kI8) {
    panel = reinterpret_cast<const int8_t*>(w.weight) + block * block_bytes;
  } else {
    for (int b = 0; b < kBlocks; ++b) {
      int8_t* to = scratch + b * block_bytes;
      if (is_sparse(w.type)) {
        sparse::Cursor cursor = sparse::first_unit(w, block + b);
        sparse::methods(kSparseIsa).expand(&cursor, w.padded_cols / 4, to);
      } else {
        unpack_block(w, block + b, to);
      }
    }
    panel = scratch;
  }
  const int num_rows = x.rows * x.planes;
  int row = 0;
  for (; row + kMostRows <= num_rows; row += kMostRows) {
    panel_tile<kMostRows, kBlocks>(w, x, y, block, panel, row);
  }
  for (; row + 2 <= num_rows; row += 2) panel_tile<2, kBlocks>(w, x, y, block, panel, row);
  if (row < num_rows) panel_tile<1, kBlocks>(w, x, y, block, panel, row);
}

// Whether that many blocks, unpacked, fit the scratch.
template <int kBlocks>
bool is_panel_small(const PackedMatrix& w) {
  return static_cast<size_t>(kBlocks) * kRowBlock * w.padded_cols <= kGemmScratchBytes;
}

template <int kBlocks>
void integer_blocks(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                    std::byte* scratch) {
  const bool has_panel = w.type == WeightType::kI8 || is_panel_small<kBlocks>(w);
  if (x.rows * x.planes > kFewRows && has_panel) {
    panel_blocks<kBlocks>(w, x, y, block, reinterpret_cast<int8_t*>(scratch));
  } else {
    gemv_blocks<kBlocks>(w, x, y, block);
  }
}

template <int kRows, int kBlocks>
void sparse_tile(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                 int first_row) {
  alignas(64) int32_t sums[kRows][kBlocks][16];
  sparse::methods(kSparseIsa).dot(w, x, block, kBlocks, first_row, kRows, sums[0][0]);
  write_integer_outputs<kRows, kBlocks>(w, x, y, block, first_row, sums);
}

// Few rows meet the codes as they are stored where that is fast; else blocks are expanded.
template <int kBlocks>
void sparse_blocks(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                   std::byte* scratch) {
  const int num_rows = x.rows * x.planes;
  if (num_rows > kFewRows || sparse::methods(kSparseIsa).dot == nullptr) {
    panel_blocks<kBlocks>(w, x, y, block, reinterpret_cast<int8_t*>(scratch));
    return;
  }
  int row = 0;
  for (; row + 8 <= num_rows; row += 8) sparse_tile<8, kBlocks>(w, x, y, block, row);
  for (; row + 4 <= num_rows; row += 4) sparse_tile<4, kBlocks>(w, x, y, block, row);
  if (row + 2 <= num_rows) {
    sparse_tile<2, kBlocks>(w, x, y, block, row);
    row += 2;
  }
  if (row < num_rows) sparse_tile<1, kBlocks>(w, x, y, block, row);
}

void gemm_sparse(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                 int block_end, std::byte* scratch) {
  int block = block_begin;
  if (x.rows * x.planes > kFewRows && is_panel_small<kMostBlocks>(w)) {
    for (; block + kMostBlocks <= block_end; block += kMostBlocks) {
      panel_blocks<kMostBlocks>(w, x, y, block, reinterpret_cast<int8_t*>(scratch));
    }
  }
  for (; block + 2 <= block_end; block += 2) sparse_blocks<2>(w, x, y, block, scratch);
  if (block < block_end) sparse_blocks<1>(w, x, y, block, scratch);
}

// A few plane rows of activations with the columns of other tiles left out.
template <int kRows>
class StoredColumns {
 public:
  StoredColumns(const PackedRows& x, int capacity, std::byte* scratch)
      : from_(x), rows_{.rows = kRows, .padded_cols = capacity * tiles::kCols} {
    rows_.data = scratch;
    rows_.group_sum = reinterpret_cast<int32_t*>(scratch + kRows * rows_.padded_cols);
  }

  const PackedRows& take(const uint16_t* columns, int first_row) {
    const int capacity = rows_.padded_cols / tiles::kCols;
    const int num_groups = from_.padded_cols / kGroupSize;
    auto* to = static_cast<int8_t*>(rows_.data);
    int32_t* sums = rows_.group_sum;
    for (int r = 0; r < kRows; ++r) {
      const size_t row = static_cast<size_t>(first_row) + r;
      const auto* codes = static_cast<const int8_t*>(from_.data) + row * from_.padded_cols;
      for (int i = 0; i < capacity; ++i, to += tiles::kCols) {
        __builtin_memcpy(to, codes + columns[i] * tiles::kCols, tiles::kCols);
        *sums++ = from_.group_sum[row * num_groups + columns[i]];
      }
    }
    return rows_;
  }

 private:
  const PackedRows& from_;
  PackedRows rows_;
};

template <int kRows, int kBlocks>
void stored_tile(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                 const uint16_t* columns, int first_row, std::byte* scratch) {
  alignas(64) int32_t sums[kRows][kBlocks][16];
  StoredColumns<kRows> stored(x, tile_capacity(w.padded_cols), scratch);
  dot_unpacked<kRows, kBlocks>(w, block, tiles::stored_codes(w, block),
                               stored.take(columns, first_row), 0, sums);
  write_integer_outputs<kRows, kBlocks>(w, x, y, block, first_row, sums);
}

// Plane rows [row, row_end).
template <int kBlocks>
void stored_blocks(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                   int row, int row_end, std::byte* scratch) {
  uint16_t columns[tiles::kMostTiles];
  tiles::find_stored(w, block, columns);
  for (; row + kMostRows <= row_end; row += kMostRows) {
    stored_tile<kMostRows, kBlocks>(w, x, y, block, columns, row, scratch);
  }
  for (; row + 2 <= row_end; row += 2) {
    stored_tile<2, kBlocks>(w, x, y, block, columns, row, scratch);
  }
  if (row < row_end) stored_tile<1, kBlocks>(w, x, y, block, columns, row, scratch);
}

// As many rows at a time as stay in the second-level cache while their columns are picked.
void gemm_stored(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                 int block_end, std::byte* scratch) {
  constexpr int kRowsBytes = 512 * 1024;
  const int num_rows = x.rows * x.planes;
  const int step = round_up(std::max(kRowsBytes / x.padded_cols, 1), kMostRows);
  for (int row = 0; row < num_rows; row += step) {
    const int row_end = std::min(row + step, num_rows);
    int block = block_begin;
    for (; block + 2 <= block_end; block += 2) {
      stored_blocks<2>(w, x, y, block, row, row_end, scratch);
    }
    if (block < block_end) stored_blocks<1>(w, x, y, block, row, row_end, scratch);
  }
}

void gemm_integer(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                  int block_end, std::byte* scratch) {
  int block = block_begin;
  for (; block + kMostBlocks <= block_end; block += kMostBlocks) {
    integer_blocks<kMostBlocks>(w, x, y, block, scratch);
  }
  for (; block + 2 <= block_end; block += 2) integer_blocks<2>(w, x, y, block, scratch);
  if (block < block_end) integer_blocks<1>(w, x, y, block, scratch);
}

PackedRows rows_format(WeightType type, int rows, int padded_cols, bool is_precise) {
  const bool is_integer = type != WeightType::kF32 && type != WeightType::kBF16;
  PackedRows out;
  out.format = is_integer ? RowsFormat::kI8 : RowsFormat::kF32;
  out.rows = rows;
  out.padded_cols = padded_cols;
  out.planes = is_integer && is_precise ? 2 : 1;
  return out;
}

void pack_row(const PackedRows& out, WeightType, int row, const float* x, int cols) {
  if (out.format == RowsFormat::kF32) {
    pack_row_f32(out, row, x, cols);
  } else {
    pack_row_i8(out, row, x, cols);
  }
}

void gemm(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
          int block_end, std::byte* scratch) {
  if (w.type == WeightType::kF32 || w.type == WeightType::kBF16) {
    gemm_float<kMostBlocks>(w, x, y, block_begin, block_end);
  } else if (is_sparse(w.type)) {
    gemm_sparse(w, x, y, block_begin, block_end, scratch);
  } else if (w.type == WeightType::kB8) {
    gemm_stored(w, x, y, block_begin, block_end, scratch);
  } else {
    gemm_integer(w, x, y, block_begin, block_end, scratch);
  }
}

}  // namespace
}  // namespace autoglm
