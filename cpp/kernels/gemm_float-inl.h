// x W^T for float and bf16 weights with float activations, written once over F32x16.
//
// Each output is one chain of fused multiply-adds in the order of K, whatever the blocking.
#pragma once

#include "kernels/kernels.h"

namespace autoglm {
namespace {

template <int kRows, int kBlocks>
inline void dot_f32(const float* w, size_t block_stride, const float* a, int padded_cols,
                    F32x16 (&sums)[kRows][kBlocks]) {
  for (int k = 0; k < padded_cols; ++k) {
    F32x16 weight[kBlocks];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) weight[b] = load(w + b * block_stride + k * kRowBlock);
    AUTOGLM_UNROLL
    for (int m = 0; m < kRows; ++m) {
      const F32x16 x = splat(a[static_cast<size_t>(m) * padded_cols + k]);
      AUTOGLM_UNROLL
      for (int b = 0; b < kBlocks; ++b) sums[m][b] = fma(weight[b], x, sums[m][b]);
    }
  }
}

template <int kRows, int kBlocks>
inline void dot_bf16(const bf16_t* w, size_t block_stride, const float* a, int padded_cols,
                     F32x16 (&sums)[kRows][kBlocks]) {
  for (int k = 0; k < padded_cols; k += 2) {
    F32x16 even[kBlocks], odd[kBlocks];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      load_bf16_pairs(w + b * block_stride + k * kRowBlock, &even[b], &odd[b]);
    }
    AUTOGLM_UNROLL
    for (int m = 0; m < kRows; ++m) {
      const float* row = a + static_cast<size_t>(m) * padded_cols + k;
      const F32x16 x0 = splat(row[0]), x1 = splat(row[1]);
      AUTOGLM_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        sums[m][b] = fma(odd[b], x1, fma(even[b], x0, sums[m][b]));
      }
    }
  }
}

template <int kRows, int kBlocks>
void gemm_float_tile(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block,
                     int first) {
  F32x16 sums[kRows][kBlocks];
  AUTOGLM_UNROLL
  for (auto& row : sums) {
    AUTOGLM_UNROLL
    for (F32x16& sum : row) sum = splat(0.0f);
  }
  const float* a = static_cast<const float*>(x.data) + static_cast<size_t>(first) * x.padded_cols;
  const std::byte* weight = w.weight + block * row_block_bytes(w.type, w.padded_cols);
  const size_t stride = static_cast<size_t>(kRowBlock) * w.padded_cols;
  if (w.type == WeightType::kF32) {
    dot_f32<kRows, kBlocks>(reinterpret_cast<const float*>(weight), stride, a, w.padded_cols, sums);
  } else {
    dot_bf16<kRows, kBlocks>(reinterpret_cast<const bf16_t*>(weight), stride, a, w.padded_cols,
                             sums);
  }
  const int step = kBlocks > 1 && y.epilogue == Epilogue::kSwiGlu ? 2 : 1;
  AUTOGLM_UNROLL
  for (int m = 0; m < kRows; ++m) {
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; b += step) {
      write_outputs(w, y, first + m, block + b, sums[m][b], sums[m][b + step - 1]);
    }
  }
}

template <int kBlocks>
void gemm_float_blocks(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block) {
  constexpr int kRows = kAccumulators / kBlocks < 4 ? kAccumulators / kBlocks : 4;
  int first = 0;
  for (; first + kRows <= x.rows; first += kRows) {
    gemm_float_tile<kRows, kBlocks>(w, x, y, block, first);
  }
  switch (x.rows - first) {
    case 3:
      return gemm_float_tile<3, kBlocks>(w, x, y, block, first);
    case 2:
      return gemm_float_tile<2, kBlocks>(w, x, y, block, first);
    case 1:
      return gemm_float_tile<1, kBlocks>(w, x, y, block, first);
    default:
      return;
  }
}

template <int kMostBlocks>
void gemm_float(const PackedMatrix& w, const PackedRows& x, const GemmOutput& y, int block_begin,
                int block_end) {
  int block = block_begin;
  for (; block + kMostBlocks <= block_end; block += kMostBlocks) {
    gemm_float_blocks<kMostBlocks>(w, x, y, block);
  }
  for (; block + 2 <= block_end; block += 2) gemm_float_blocks<2>(w, x, y, block);
  if (block < block_end) gemm_float_blocks<1>(w, x, y, block);
}

}  // namespace
}  // namespace autoglm
