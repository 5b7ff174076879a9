// Integer dot products with AVX2. vpmaddubsw multiplies unsigned by signed bytes and saturates at
// 16 bits: int4 nibbles (at most 15) leave room for eight sums, int8 products of |w| <= 128 and |a|
// <= 127 just fit.
#pragma once

#include <immintrin.h>

#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr Isa kSparseIsa = Isa::kAvx2;
constexpr int kMostBlocks = 2;
constexpr int kMostRows = 2;

inline const int8_t* plane_row(const PackedRows& x, int row) {
  return static_cast<const int8_t*>(x.data) + static_cast<size_t>(row) * x.padded_cols;
}

inline __m256i splat_quad(const int8_t* a) {
  int32_t quad;
  __builtin_memcpy(&quad, a, 4);
  return _mm256_set1_epi32(quad);
}

inline __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

inline __m256i widen_pairs(__m256i words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }

// Sums of half a tile (8 rows, 64 columns) of nibbles with one plane row; `shift` picks the nibble.
inline __m256i dot_nibbles(const uint8_t* tile, const int8_t* a, int shift) {
  const __m256i nibble_mask = _mm256_set1_epi8(15);
  __m256i sum = _mm256_setzero_si256();
  for (int k = 0; k < 16; k += 8) {
    __m256i words = _mm256_setzero_si256();
    for (int i = 0; i < 8; ++i) {
      const __m256i bytes = _mm256_srli_epi16(load_bytes(tile + (k + i) * 64), shift);
      const __m256i nibbles = _mm256_and_si256(bytes, nibble_mask);
      words = _mm256_add_epi16(words, _mm256_maddubs_epi16(nibbles, splat_quad(a + 4 * (k + i))));
    }
    sum = _mm256_add_epi32(sum, widen_pairs(words));
  }
  return sum;
}

inline __m256i load_scales(const uint8_t* scales) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)));
}

template <int kRows, int kBlocks>
inline void dot_i4(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                   int32_t (&sums)[kRows][kBlocks][16]) {
  const int num_groups = w.padded_cols / kGroupSize;
  const size_t block_bytes = static_cast<size_t>(kRowBlock / 2) * w.padded_cols;
  AUTOGLM_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    const auto* weight = reinterpret_cast<const uint8_t*>(w.weight) + (block + b) * block_bytes;
    const uint8_t* scales = w.group_scale + static_cast<size_t>(block + b) * num_groups * kRowBlock;
    __m256i totals[kRows][2];
    AUTOGLM_UNROLL
    for (auto& row : totals) row[0] = row[1] = _mm256_setzero_si256();
    for (int g = 0; g < num_groups; ++g) {
      const uint8_t* tile = weight + static_cast<size_t>(g / 2) * 1024;
      const int shift = g % 2 == 0 ? 0 : 4;
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int8_t* a = plane_row(x, first_row + r) + g * kGroupSize;
        const __m256i offset =
            _mm256_set1_epi32(8 * x.group_sum[static_cast<size_t>(first_row + r) * num_groups + g]);
        for (int half = 0; half < 2; ++half) {
          const __m256i dot = _mm256_sub_epi32(dot_nibbles(tile + 32 * half, a, shift), offset);
          const __m256i scale = load_scales(scales + g * kRowBlock + 8 * half);
          totals[r][half] = _mm256_add_epi32(totals[r][half], _mm256_mullo_epi32(dot, scale));
        }
      }
    }
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      auto* out = reinterpret_cast<__m256i*>(sums[r][b]);
      _mm256_store_si256(out, totals[r][0]);
      _mm256_store_si256(out + 1, totals[r][1]);
    }
  }
}

// kBlocks blocks in the I8 layout, contiguous.
template <int kRows, int kBlocks>
inline void dot_panel(const int8_t* panel, const PackedRows& x, int first_row,
                      int32_t (&sums)[kRows][kBlocks][16]) {
  const size_t block_bytes = static_cast<size_t>(kRowBlock) * x.padded_cols;
  __m256i totals[kRows][2 * kBlocks];
  AUTOGLM_UNROLL
  for (auto& row : totals) {
    AUTOGLM_UNROLL
    for (__m256i& total : row) total = _mm256_setzero_si256();
  }
  for (int k = 0; k < x.padded_cols; k += 4) {
    __m256i quads[kRows];
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) quads[r] = splat_quad(plane_row(x, first_row + r) + k);
    AUTOGLM_UNROLL
    for (int h = 0; h < 2 * kBlocks; ++h) {
      const __m256i weight =
          load_bytes(panel + h / 2 * block_bytes + static_cast<size_t>(k) * kRowBlock + h % 2 * 32);
      const __m256i magnitude = _mm256_abs_epi8(weight);
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m256i words = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(quads[r], weight));
        totals[r][h] = _mm256_add_epi32(totals[r][h], widen_pairs(words));
      }
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int h = 0; h < 2 * kBlocks; ++h) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(sums[r][h / 2]) + h % 2, totals[r][h]);
    }
  }
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

// Half (8 rows) of the bytes of 64 columns of an unpacked block.
inline const int8_t* half_group(const int8_t* panel, size_t block_bytes, int g, int half) {
  return panel + half / 2 * block_bytes + static_cast<size_t>(g) * kGroupSize * kRowBlock +
         half % 2 * 32;
}

// Dots of 64 columns, before the offset and the scales of the group. Eight products of a nibble and
// a code fit 16 bits.
template <int kRows, int kHalves>
inline void dot_nibble_group(const int8_t* const (&weights)[kHalves],
                             const int8_t* const (&codes)[kRows], __m256i (&dots)[kRows][kHalves]) {
  constexpr int kRowBytes = 4 * kRowBlock;  // of 4 columns
  for (int k = 0; k < 16; k += 8) {
    __m256i words[kRows][kHalves];
    AUTOGLM_UNROLL
    for (auto& row : words) {
      AUTOGLM_UNROLL
      for (__m256i& word : row) word = _mm256_setzero_si256();
    }
    // Unrolled, gcc makes all products first and spills them.
#pragma GCC unroll 4
    for (int i = k; i < k + 8; ++i) {
      __m256i quads[kRows];
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) quads[r] = splat_quad(codes[r] + 4 * i);
      AUTOGLM_UNROLL
      for (int h = 0; h < kHalves; ++h) {
        const __m256i nibbles = load_bytes(weights[h] + i * kRowBytes);
        AUTOGLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          words[r][h] = _mm256_add_epi16(words[r][h], _mm256_maddubs_epi16(nibbles, quads[r]));
        }
      }
    }
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      AUTOGLM_UNROLL
      for (int h = 0; h < kHalves; ++h) {
        const __m256i sum = widen_pairs(words[r][h]);
        dots[r][h] = k == 0 ? sum : _mm256_add_epi32(dots[r][h], sum);
      }
    }
  }
}

// kBlocks blocks of int4 as unpacked nibbles.
template <int kRows, int kBlocks>
inline void dot_nibble_panel(const PackedMatrix& w, int block, const int8_t* panel,
                             const PackedRows& x, int first_row,
                             int32_t (&sums)[kRows][kBlocks][16]) {
  constexpr int kHalves = 2 * kBlocks;
  const int num_groups = w.padded_cols / kGroupSize;
  const size_t block_bytes = static_cast<size_t>(kRowBlock) * w.padded_cols;
  const size_t scale_bytes = static_cast<size_t>(num_groups) * kRowBlock;
  __m256i totals[kRows][kHalves] = {};
  for (int g = 0; g < num_groups; ++g) {
    const int8_t* weights[kHalves];
    const int8_t* codes[kRows];
    for (int h = 0; h < kHalves; ++h) weights[h] = half_group(panel, block_bytes, g, h);
    for (int r = 0; r < kRows; ++r) codes[r] = plane_row(x, first_row + r) + g * kGroupSize;
    __m256i dots[kRows][kHalves];
    dot_nibble_group<kRows, kHalves>(weights, codes, dots);
    AUTOGLM_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      const __m256i scale =
          load_scales(w.group_scale + (block + h / 2) * scale_bytes + g * kRowBlock + h % 2 * 8);
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int32_t sum = x.group_sum[static_cast<size_t>(first_row + r) * num_groups + g];
        const __m256i dot = _mm256_sub_epi32(dots[r][h], _mm256_set1_epi32(8 * sum));
        totals[r][h] = _mm256_add_epi32(totals[r][h], _mm256_mullo_epi32(dot, scale));
      }
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(sums[r][h / 2]) + h % 2, totals[r][h]);
    }
  }
}

template <int kRows, int kBlocks>
inline void dot_unpacked(const PackedMatrix& w, int block, const int8_t* panel, const PackedRows& x,
                         int first_row, int32_t (&sums)[kRows][kBlocks][16]) {
  if (w.type == WeightType::kI4) {
    dot_nibble_panel<kRows, kBlocks>(w, block, panel, x, first_row, sums);
  } else {
    dot_panel<kRows, kBlocks>(panel, x, first_row, sums);
  }
}

// The nibbles of a block as bytes in the I8 layout. Their scales come later: products of nibbles
// need no care for signs, and eight of them fit 16 bits.
inline void unpack_block(const PackedMatrix& w, int block, int8_t* out) {
  const __m256i nibble_mask = _mm256_set1_epi8(15);
  const size_t block_bytes = row_block_bytes(WeightType::kI4, w.padded_cols);
  const auto* weight = reinterpret_cast<const uint8_t*>(w.weight) + block * block_bytes;
  for (size_t at = 0; at < block_bytes; at += 1024) {
    for (size_t i = at; i < at + 1024; i += 32) {
      const __m256i bytes = load_bytes(weight + i);
      auto* low = reinterpret_cast<__m256i*>(out + at + i);
      _mm256_storeu_si256(low, _mm256_and_si256(bytes, nibble_mask));
      _mm256_storeu_si256(low + 32, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble_mask));
    }
  }
}

}  // namespace
}  // namespace autoglm
