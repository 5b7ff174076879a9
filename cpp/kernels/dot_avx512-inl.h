// Integer dot products with AVX-512 VNNI. vpdpbusd multiplies unsigned by signed bytes: int4
// weights enter as their unsigned nibbles, int8 weights shifted by 128; the shift is taken off with
// the activations' sums.
#pragma once

#include <immintrin.h>

#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr Isa kSparseIsa = Isa::kAvx512;
constexpr int kMostBlocks = 4;
constexpr int kMostRows = 6;

// A page ahead in each of the streams: the hardware prefetcher stops at page ends.
constexpr int kPrefetchBytes = 4096;

// Scales of a block are less than a page: fetched when those two groups of blocks before it are
// used.
constexpr int kScalesAhead = 2;

inline const int8_t* plane_row(const PackedRows& x, int row) {
  return static_cast<const int8_t*>(x.data) + static_cast<size_t>(row) * x.padded_cols;
}

inline __m512i splat_quad(const int8_t* a) {
  int32_t quad;
  __builtin_memcpy(&quad, a, 4);
  return _mm512_set1_epi32(quad);
}

inline const int32_t* group_sums(const PackedRows& x, int row) {
  return x.group_sum + static_cast<size_t>(row) * (x.padded_cols / kGroupSize);
}

// How far ahead of byte `at` of a block to fetch when kBlocks neighbours are walked in parallel: a
// page, or as far into the blocks that follow them.
template <int kBlocks>
inline size_t fetch_distance(size_t at, size_t block_bytes) {
  const bool is_inside = at + kPrefetchBytes < block_bytes;
  return is_inside ? kPrefetchBytes : kPrefetchBytes + (kBlocks - 1) * block_bytes;
}

template <int kRows, int kBlocks>
inline void dot_i4(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                   int32_t (&sums)[kRows][kBlocks][16]) {
  const int num_groups = w.padded_cols / kGroupSize;
  const size_t block_bytes = static_cast<size_t>(kRowBlock / 2) * w.padded_cols;
  const auto* weight = reinterpret_cast<const uint8_t*>(w.weight) + block * block_bytes;
  const uint8_t* scales = w.group_scale + static_cast<size_t>(block) * num_groups * kRowBlock;
  const size_t scale_stride = static_cast<size_t>(num_groups) * kRowBlock;
  const __m512i nibble_mask = _mm512_set1_epi8(15);
  __m512i totals[kRows][kBlocks];
  AUTOGLM_UNROLL
  for (auto& row : totals) {
    AUTOGLM_UNROLL
    for (__m512i& total : row) total = _mm512_setzero_si512();
  }
  for (int g = 0; g < num_groups; g += 2) {
    __m512i low[kRows][kBlocks], high[kRows][kBlocks];
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int32_t* offsets = group_sums(x, first_row + r) + g;
      AUTOGLM_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        low[r][b] = _mm512_set1_epi32(-8 * offsets[0]);
        high[r][b] = _mm512_set1_epi32(-8 * offsets[1]);
      }
    }
    const size_t at = static_cast<size_t>(g) * 512;
    const uint8_t* tile = weight + at;
    const size_t ahead = fetch_distance<kBlocks>(at, block_bytes);
    for (int k = 0; k < 16; ++k) {
      __m512i low_weight[kBlocks], high_weight[kBlocks];
      AUTOGLM_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        const uint8_t* p = tile + b * block_bytes + k * 64;
        const __m512i bytes = _mm512_loadu_si512(p);
        _mm_prefetch(reinterpret_cast<const char*>(p + ahead), _MM_HINT_T0);
        low_weight[b] = _mm512_and_si512(bytes, nibble_mask);
        high_weight[b] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble_mask);
      }
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int8_t* a = plane_row(x, first_row + r) + g * kGroupSize + 4 * k;
        const __m512i a_low = splat_quad(a), a_high = splat_quad(a + kGroupSize);
        AUTOGLM_UNROLL
        for (int b = 0; b < kBlocks; ++b) {
          low[r][b] = _mm512_dpbusd_epi32(low[r][b], low_weight[b], a_low);
          high[r][b] = _mm512_dpbusd_epi32(high[r][b], high_weight[b], a_high);
        }
      }
    }
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const uint8_t* p = scales + b * scale_stride + g * kRowBlock;
      _mm_prefetch(reinterpret_cast<const char*>(p + kScalesAhead * kBlocks * scale_stride),
                   _MM_HINT_T0);
      const auto* group_scale = reinterpret_cast<const __m128i*>(p);
      const __m512i low_scale = _mm512_cvtepu8_epi32(_mm_load_si128(group_scale));
      const __m512i high_scale = _mm512_cvtepu8_epi32(_mm_load_si128(group_scale + 1));
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m512i sum = _mm512_add_epi32(_mm512_mullo_epi32(low[r][b], low_scale),
                                             _mm512_mullo_epi32(high[r][b], high_scale));
        totals[r][b] = _mm512_add_epi32(totals[r][b], sum);
      }
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) _mm512_store_si512(sums[r][b], totals[r][b]);
  }
}

// kBlocks blocks in the I8 layout, contiguous.
template <int kRows, int kBlocks>
inline void dot_panel(const int8_t* panel, const PackedRows& x, int first_row,
                      int32_t (&sums)[kRows][kBlocks][16]) {
  const size_t block_bytes = static_cast<size_t>(kRowBlock) * x.padded_cols;
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i totals[kRows][kBlocks];
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int32_t* offsets = group_sums(x, first_row + r);
    int32_t sum = 0;
    for (int g = 0; g < x.padded_cols / kGroupSize; ++g) sum += offsets[g];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) totals[r][b] = _mm512_set1_epi32(-128 * sum);
  }
  for (int k = 0; k < x.padded_cols; k += 4) {
    __m512i weight[kBlocks];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const int8_t* p = panel + b * block_bytes + static_cast<size_t>(k) * kRowBlock;
      weight[b] = _mm512_xor_si512(_mm512_loadu_si512(p), sign);
      if constexpr (kRows <= 4) {
        _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes), _MM_HINT_T0);
      }
    }
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m512i a = splat_quad(plane_row(x, first_row + r) + k);
      AUTOGLM_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        totals[r][b] = _mm512_dpbusd_epi32(totals[r][b], weight[b], a);
      }
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) _mm512_store_si512(sums[r][b], totals[r][b]);
  }
}

// Int4 is unpacked to the I8 layout, scales included.
template <int kRows, int kBlocks>
inline void dot_unpacked(const PackedMatrix&, int, const int8_t* panel, const PackedRows& x,
                         int first_row, int32_t (&sums)[kRows][kBlocks][16]) {
  dot_panel<kRows, kBlocks>(panel, x, first_row, sums);
}

template <int kRows, int kBlocks>
inline void dot_rows(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                     int32_t (&sums)[kRows][kBlocks][16]) {
  if (w.type == WeightType::kI4) {
    dot_i4<kRows, kBlocks>(w, x, block, first_row, sums);
  } else {
    const auto* weight = reinterpret_cast<const int8_t*>(w.weight);
    dot_panel<kRows, kBlocks>(weight + static_cast<size_t>(block) * kRowBlock * w.padded_cols, x,
                              first_row, sums);
  }
}

// 16 group scales, each in both halves of its 32-bit lane.
inline __m512i widen_scales(const uint8_t* scales) {
  const __m512i wide =
      _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(scales)));
  return _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
}

// The low byte of each 16-bit lane in both of its bytes.
inline __m512i or_bytes(__m512i words) {
  return _mm512_or_si512(words, _mm512_slli_epi16(words, 8));
}

// Codes (nibble - 8) * scale of 64 bytes of nibbles. A 16-bit lane holds two nibbles of one row;
// with nibbles up to 15 and scales up to 16 the 16-bit product does not carry from one byte into
// the other.
inline __m512i scale_nibbles(__m512i nibbles, __m512i scale, __m512i offset) {
  return _mm512_sub_epi8(_mm512_mullo_epi16(nibbles, scale), offset);
}

// kRows rows of a pair of int4 tiles (128 columns) to the I8 layout; the second tile of the pair
// lies 1 KiB after the first.
template <int kRows>
inline void unpack_rows(const uint8_t* weight, const uint8_t* scales, int8_t* out) {
  const __m512i nibble_mask = _mm512_set1_epi8(15);
  const __m512i low_scale = widen_scales(scales), high_scale = widen_scales(scales + kRowBlock);
  const __m512i low_offset = _mm512_slli_epi16(or_bytes(low_scale), 3);
  const __m512i high_offset = _mm512_slli_epi16(or_bytes(high_scale), 3);
  for (int k = 0; k < kRows; ++k) {
    const __m512i bytes = _mm512_loadu_si512(weight + k * 64);
    const __m512i low = _mm512_and_si512(bytes, nibble_mask);
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble_mask);
    _mm512_storeu_si512(out + k * 64, scale_nibbles(low, low_scale, low_offset));
    _mm512_storeu_si512(out + 1024 + k * 64, scale_nibbles(high, high_scale, high_offset));
  }
}

inline void unpack_block(const PackedMatrix& w, int block, int8_t* out) {
  const int num_groups = w.padded_cols / kGroupSize;
  const auto* weight = reinterpret_cast<const uint8_t*>(w.weight) +
                       block * row_block_bytes(WeightType::kI4, w.padded_cols);
  const uint8_t* scales = w.group_scale + static_cast<size_t>(block) * num_groups * kRowBlock;
  for (int g = 0; g < num_groups; g += 2) {
    unpack_rows<16>(weight + static_cast<size_t>(g) * 512, scales + g * kRowBlock,
                    out + static_cast<size_t>(g) * 1024);
  }
}

}  // namespace
}  // namespace autoglm
