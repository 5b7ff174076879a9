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

// Sums of half a tile (8 rows, 64 columns) of nibbles with one plane row; group 0 of the pair lies
// in the low nibbles.
inline __m256i dot_int4_group(const uint8_t* pair, int group, const int8_t* a) {
  const __m256i nibble_mask = _mm256_set1_epi8(15);
  const int shift = 4 * group;
  __m256i sum = _mm256_setzero_si256();
  for (int k = 0; k < 16; k += 8) {
    __m256i words = _mm256_setzero_si256();
    for (int i = 0; i < 8; ++i) {
      const __m256i bytes = _mm256_srli_epi16(load_bytes(pair + (k + i) * 64), shift);
      const __m256i nibbles = _mm256_and_si256(bytes, nibble_mask);
      words = _mm256_add_epi16(words, _mm256_maddubs_epi16(nibbles, splat_quad(a + 4 * (k + i))));
    }
    sum = _mm256_add_epi32(sum, widen_pairs(words));
  }
  return sum;
}

// 32 codes of a group from the bits that three lines of int3 have to spare.
inline __m256i spare_codes(const uint8_t* lines, int group) {
  const __m256i lower = _mm256_and_si256(load_bytes(lines + 64 * group), _mm256_set1_epi8(3));
  const __m256i shifted = _mm256_slli_epi16(load_bytes(lines + 128), 2 - group);
  return _mm256_or_si256(lower, _mm256_and_si256(shifted, _mm256_set1_epi8(4)));
}

// The same for int3. Sixteen sums of two products of at most 7 * 127 fit 16 bits.
inline __m256i dot_int3_group(const uint8_t* pair, int group, const int8_t* a) {
  const __m256i mask = _mm256_set1_epi8(7);
  const int shift = group == 0 ? 2 : 5;
  __m256i words = _mm256_setzero_si256();
  for (int i = 0; i < kInt3Lines; ++i) {
    const __m256i codes =
        _mm256_and_si256(_mm256_srli_epi16(load_bytes(pair + i * 64), shift), mask);
    words = _mm256_add_epi16(words, _mm256_maddubs_epi16(codes, splat_quad(a + 4 * i)));
  }
  for (int t = 0; t < kInt3Lines / 3; ++t) {
    const __m256i codes = spare_codes(pair + t * 192, group);
    const __m256i quad = splat_quad(a + 4 * (kInt3Lines + t));
    words = _mm256_add_epi16(words, _mm256_maddubs_epi16(codes, quad));
  }
  return widen_pairs(words);
}

inline __m256i load_scales(const uint8_t* scales) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)));
}

template <WeightType kType, int kRows, int kBlocks>
inline void dot_grouped(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                        int32_t (&sums)[kRows][kBlocks][16]) {
  const int num_groups = w.padded_cols / kGroupSize;
  const size_t block_bytes = row_block_bytes(kType, w.padded_cols);
  AUTOGLM_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    const auto* weight = reinterpret_cast<const uint8_t*>(w.weight) + (block + b) * block_bytes;
    const uint8_t* scales = w.group_scale + static_cast<size_t>(block + b) * num_groups * kRowBlock;
    __m256i totals[kRows][2];
    AUTOGLM_UNROLL
    for (auto& row : totals) row[0] = row[1] = _mm256_setzero_si256();
    for (int g = 0; g < num_groups; ++g) {
      const uint8_t* pair = weight + g / 2 * row_block_bytes(kType, 2 * kGroupSize);
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int8_t* a = plane_row(x, first_row + r) + g * kGroupSize;
        const int32_t sum = x.group_sum[static_cast<size_t>(first_row + r) * num_groups + g];
        const __m256i offset = _mm256_set1_epi32(code_of_zero(kType) * sum);
        for (int half = 0; half < 2; ++half) {
          const uint8_t* at = pair + 32 * half;
          const __m256i codes = kType == WeightType::kI3 ? dot_int3_group(at, g % 2, a)
                                                         : dot_int4_group(at, g % 2, a);
          const __m256i dot = _mm256_sub_epi32(codes, offset);
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
    dot_grouped<WeightType::kI4, kRows, kBlocks>(w, x, block, first_row, sums);
  } else if (w.type == WeightType::kI3) {
    dot_grouped<WeightType::kI3, kRows, kBlocks>(w, x, block, first_row, sums);
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
// a code of an activation fit 16 bits.
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

// kBlocks blocks of int4 or int3 as unpacked codes.
template <int kRows, int kBlocks>
inline void dot_code_panel(const PackedMatrix& w, int block, const int8_t* panel,
                           const PackedRows& x, int first_row,
                           int32_t (&sums)[kRows][kBlocks][16]) {
  constexpr int kHalves = 2 * kBlocks;
  const int num_groups = w.padded_cols / kGroupSize;
  const size_t block_bytes = static_cast<size_t>(kRowBlock) * w.padded_cols;
  const size_t scale_bytes = static_cast<size_t>(num_groups) * kRowBlock;
  const int zero = code_of_zero(w.type);
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
        const __m256i dot = _mm256_sub_epi32(dots[r][h], _mm256_set1_epi32(zero * sum));
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
  if (is_grouped(w.type)) {
    dot_code_panel<kRows, kBlocks>(w, block, panel, x, first_row, sums);
  } else {
    dot_panel<kRows, kBlocks>(panel, x, first_row, sums);
  }
}

// A pair of groups as bytes of codes in the I8 layout, the second group 1 KiB after the first.
inline void unpack_int4_pair(const uint8_t* pair, int8_t* out) {
  const __m256i nibble_mask = _mm256_set1_epi8(15);
  for (int i = 0; i < 1024; i += 32) {
    const __m256i bytes = load_bytes(pair + i);
    auto* low = reinterpret_cast<__m256i*>(out + i);
    _mm256_storeu_si256(low, _mm256_and_si256(bytes, nibble_mask));
    _mm256_storeu_si256(low + 32, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble_mask));
  }
}

inline void unpack_int3_pair(const uint8_t* pair, int8_t* out) {
  const __m256i mask = _mm256_set1_epi8(7);
  for (int i = 0; i < kInt3PairBytes; i += 32) {
    const __m256i bytes = load_bytes(pair + i);
    auto* low = reinterpret_cast<__m256i*>(out + i);
    _mm256_storeu_si256(low, _mm256_and_si256(_mm256_srli_epi16(bytes, 2), mask));
    _mm256_storeu_si256(low + 32, _mm256_and_si256(_mm256_srli_epi16(bytes, 5), mask));
  }
  for (int i = 0; i < kInt3PairBytes / 3; i += 32) {
    const uint8_t* lines = pair + i / 64 * 192 + i % 64;
    auto* low = reinterpret_cast<__m256i*>(out + kInt3PairBytes + i);
    _mm256_storeu_si256(low, spare_codes(lines, 0));
    _mm256_storeu_si256(low + 32, spare_codes(lines, 1));
  }
}

// The codes of a block as bytes in the I8 layout. Their scales come later: products of codes
// need no care for signs, and eight of them fit 16 bits.
inline void unpack_block(const PackedMatrix& w, int block, int8_t* out) {
  const auto* pair =
      reinterpret_cast<const uint8_t*>(w.weight) + block * row_block_bytes(w.type, w.padded_cols);
  for (int column = 0; column < w.padded_cols; column += 2 * kGroupSize, out += 2048) {
    (w.type == WeightType::kI3 ? unpack_int3_pair : unpack_int4_pair)(pair, out);
    pair += row_block_bytes(w.type, 2 * kGroupSize);
  }
}

}  // namespace
}  // namespace autoglm
