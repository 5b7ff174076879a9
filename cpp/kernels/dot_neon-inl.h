// Integer dot products of packed matrices over NEON inner loops. The including file defines, before
// it, add_dots, dot_pair, byte_quads, code_quads and kMostRows. Codes of int4 and int3 enter the
// dots unsigned; their offset is taken off with the activations' sums.
#pragma once

#include <arm_neon.h>

#include "kernels/codes_neon.h"
#include "kernels/kernels.h"
#include "kernels/vec_neon.h"

namespace autoglm {
namespace {

constexpr Isa kSparseIsa = Isa::kNeon;
constexpr int kMostBlocks = 2;

template <int kRows>
inline void plane_rows(const PackedRows& x, int first_row, int column,
                       const int8_t* (&codes)[kRows]) {
  const auto* first = static_cast<const int8_t*>(x.data) + column;
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    codes[r] = first + static_cast<size_t>(first_row + r) * x.padded_cols;
  }
}

inline const int32_t* group_sums(const PackedRows& x, int row) {
  return x.group_sum + static_cast<size_t>(row) * (x.padded_cols / kGroupSize);
}

inline int32x4_t load_scales(const uint8_t* scales) {
  uint32_t bytes;
  __builtin_memcpy(&bytes, scales, sizeof(bytes));
  const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words)));
}

// totals[r][q..q+kQuads) += scaled dots of a pair of groups.
template <WeightType kType, int kRows, int kQuads>
inline void add_group_pair(const uint8_t* pair, const uint8_t* scales, const PackedRows& x,
                           int first_row, int g, int q, int32x4_t (&totals)[kRows][4]) {
  const int8_t* codes[kRows];
  plane_rows(x, first_row, g * kGroupSize, codes);
  int32x4_t low[kRows][kQuads], high[kRows][kQuads];
  dot_pair<kType>(pair + 16 * q, codes, low, high);
  AUTOGLM_UNROLL
  for (int i = 0; i < kQuads; ++i) {
    const int32x4_t low_scale = load_scales(scales + 4 * (q + i));
    const int32x4_t high_scale = load_scales(scales + kRowBlock + 4 * (q + i));
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int32_t* sums = group_sums(x, first_row + r) + g;
      int32x4_t& total = totals[r][q + i];
      total = vmlaq_s32(total, vsubq_s32(low[r][i], vdupq_n_s32(code_of_zero(kType) * sums[0])),
                        low_scale);
      total = vmlaq_s32(total, vsubq_s32(high[r][i], vdupq_n_s32(code_of_zero(kType) * sums[1])),
                        high_scale);
    }
  }
}

template <WeightType kType, int kRows, int kBlocks>
inline void dot_grouped(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                        int32_t (&sums)[kRows][kBlocks][16]) {
  constexpr int kQuads = code_quads(kRows);
  const int num_groups = w.padded_cols / kGroupSize;
  for (int b = 0; b < kBlocks; ++b) {
    const auto* weight = reinterpret_cast<const uint8_t*>(w.weight) +
                         (block + b) * row_block_bytes(kType, w.padded_cols);
    const uint8_t* scales = w.group_scale + static_cast<size_t>(block + b) * num_groups * kRowBlock;
    int32x4_t totals[kRows][4];
    AUTOGLM_UNROLL
    for (int i = 0; i < 4 * kRows; ++i) totals[i / 4][i % 4] = vdupq_n_s32(0);
    for (int g = 0; g < num_groups; g += 2, weight += row_block_bytes(kType, 2 * kGroupSize)) {
      AUTOGLM_UNROLL
      for (int q = 0; q < 4; q += kQuads) {
        add_group_pair<kType, kRows, kQuads>(weight, scales + g * kRowBlock, x, first_row, g, q,
                                             totals);
      }
    }
    AUTOGLM_UNROLL
    for (int i = 0; i < 4 * kRows; ++i) vst1q_s32(sums[i / 4][b] + i % 4 * 4, totals[i / 4][i % 4]);
  }
}

// kBlocks blocks in the I8 layout, contiguous.
template <int kRows, int kBlocks>
inline void dot_panel(const int8_t* panel, const PackedRows& x, int first_row,
                      int32_t (&sums)[kRows][kBlocks][16]) {
  constexpr int kQuads = byte_quads(kRows);
  const int8_t* codes[kRows];
  plane_rows(x, first_row, 0, codes);
  for (int b = 0; b < kBlocks; ++b, panel += static_cast<size_t>(kRowBlock) * x.padded_cols) {
    for (int q = 0; q < 4; q += kQuads) {
      int32x4_t totals[kRows][kQuads];
      AUTOGLM_UNROLL
      for (int i = 0; i < kRows * kQuads; ++i) totals[i / kQuads][i % kQuads] = vdupq_n_s32(0);
      add_dots(panel + 16 * q, 4 * kRowBlock, x.padded_cols / 4, codes, totals);
      AUTOGLM_UNROLL
      for (int i = 0; i < kRows * kQuads; ++i) {
        vst1q_s32(sums[i / kQuads][b] + 4 * (q + i % kQuads), totals[i / kQuads][i % kQuads]);
      }
    }
  }
}

// Int4 and int3 are unpacked to the I8 layout, scales included.
template <int kRows, int kBlocks>
inline void dot_unpacked(const PackedMatrix&, int, const int8_t* panel, const PackedRows& x,
                         int first_row, int32_t (&sums)[kRows][kBlocks][16]) {
  dot_panel<kRows, kBlocks>(panel, x, first_row, sums);
}

template <int kRows, int kBlocks>
inline void dot_rows(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                     int32_t (&sums)[kRows][kBlocks][16]) {
  if (w.type == WeightType::kI4) {
    dot_grouped<WeightType::kI4, kRows, kBlocks>(w, x, block, first_row, sums);
  } else if (w.type == WeightType::kI3) {
    dot_grouped<WeightType::kI3, kRows, kBlocks>(w, x, block, first_row, sums);
  } else {
    const auto* weight = reinterpret_cast<const int8_t*>(w.weight);
    dot_panel<kRows, kBlocks>(weight + static_cast<size_t>(block) * kRowBlock * w.padded_cols, x,
                              first_row, sums);
  }
}

// The scales of rows 4*quad..4*quad+3, each in four bytes.
inline int8x16_t spread_scales(const uint8_t* scales, int quad) {
  const uint32x4_t wide = vreinterpretq_u32_s32(load_scales(scales + 4 * quad));
  return vreinterpretq_s8_u32(vmulq_n_u32(wide, 0x01010101));
}

// Codes times scales of a pair of groups, for four rows, to the I8 layout; the second group lies
// 1 KiB after the first.
template <WeightType kType>
inline void unpack_quad(const uint8_t* pair, const uint8_t* scales, int quad, int8_t* out) {
  const int8x16_t offset = vdupq_n_s8(code_of_zero(kType));
  const int8x16_t low_scale = spread_scales(scales, quad);
  const int8x16_t high_scale = spread_scales(scales + kRowBlock, quad);
  for_lines<kType, 1>([&](int k, auto is_spare) {
    const auto line = load_line<kType, is_spare.value>(pair + 16 * quad, k);
    int8_t* to = out + 64 * k + 16 * quad;
    vst1q_s8(to, vmulq_s8(vsubq_s8(low_codes(line), offset), low_scale));
    vst1q_s8(to + 1024, vmulq_s8(vsubq_s8(high_codes(line), offset), high_scale));
  });
}

template <WeightType kType>
inline void unpack_pairs(const PackedMatrix& w, int block, int8_t* out) {
  const int num_groups = w.padded_cols / kGroupSize;
  const auto* pair =
      reinterpret_cast<const uint8_t*>(w.weight) + block * row_block_bytes(kType, w.padded_cols);
  const uint8_t* scales = w.group_scale + static_cast<size_t>(block) * num_groups * kRowBlock;
  for (int g = 0; g < num_groups; g += 2, out += 2048, scales += 2 * kRowBlock) {
    for (int q = 0; q < 4; ++q) unpack_quad<kType>(pair, scales, q, out);
    pair += row_block_bytes(kType, 2 * kGroupSize);
  }
}

inline void unpack_block(const PackedMatrix& w, int block, int8_t* out) {
  if (w.type == WeightType::kI3) {
    unpack_pairs<WeightType::kI3>(w, block, out);
  } else {
    unpack_pairs<WeightType::kI4>(w, block, out);
  }
}

}  // namespace
}  // namespace autoglm
