// Integer dot products with AVX-512 VNNI. vpdpbusd multiplies unsigned by signed bytes: int4
// and int3 weights enter as their unsigned codes, int8 weights shifted by 128; the shift is taken
// off with the activations' sums.
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

// Lines of 64 bytes of one pair of groups in each of kBlocks row blocks.
struct PairLines {
  const uint8_t* first;
  size_t block_bytes;
  size_t ahead;  // bytes to what is fetched meanwhile

  const uint8_t* at(int block, int line) const { return first + block * block_bytes + line * 64; }
  __m512i load(int block, int line) const { return _mm512_loadu_si512(at(block, line)); }
  // Gcc takes a function that does nothing but fetch for one without effect, and drops its calls.
  __m512i load_and_fetch(int block, int line) const {
    _mm_prefetch(reinterpret_cast<const char*>(at(block, line) + ahead), _MM_HINT_T0);
    return load(block, line);
  }
};

// Sums of kRows plane rows and kBlocks row blocks.
template <int kRows, int kBlocks>
using Sums = __m512i[kRows][kBlocks];

// low and high += codes of kBlocks blocks times the four columns of the plane rows that begin at
// column `at` and 64 columns further.
template <int kRows, int kBlocks>
[[gnu::always_inline]] inline void add_quads(const PackedRows& x, int first_row, int at,
                                             const __m512i (&low_codes)[kBlocks],
                                             const __m512i (&high_codes)[kBlocks],
                                             Sums<kRows, kBlocks>& low,
                                             Sums<kRows, kBlocks>& high) {
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int8_t* a = plane_row(x, first_row + r) + at;
    const __m512i a_low = splat_quad(a), a_high = splat_quad(a + kGroupSize);
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      low[r][b] = _mm512_dpbusd_epi32(low[r][b], low_codes[b], a_low);
      high[r][b] = _mm512_dpbusd_epi32(high[r][b], high_codes[b], a_high);
    }
  }
}

template <int kRows, int kBlocks>
[[gnu::always_inline]] inline void add_int4_pair(const PairLines& lines, const PackedRows& x,
                                                 int first_row, int column,
                                                 Sums<kRows, kBlocks>& low,
                                                 Sums<kRows, kBlocks>& high) {
  const __m512i nibble_mask = _mm512_set1_epi8(15);
  for (int k = 0; k < 16; ++k) {
    __m512i low_codes[kBlocks], high_codes[kBlocks];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const __m512i bytes = lines.load_and_fetch(b, k);
      low_codes[b] = _mm512_and_si512(bytes, nibble_mask);
      high_codes[b] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble_mask);
    }
    add_quads<kRows, kBlocks>(x, first_row, column + 4 * k, low_codes, high_codes, low, high);
  }
}

// Codes of both groups from the bits that three lines of int3 have to spare.
struct SpareCodes {
  __m512i low, high;
};

inline SpareCodes spare_codes(__m512i line0, __m512i line1, __m512i line2) {
  constexpr int kChoose = 0xca;  // bits of the second where the first has ones, else of the third
  const __m512i two = _mm512_set1_epi8(3), three = _mm512_set1_epi8(7);
  const __m512i low = _mm512_ternarylogic_epi32(two, line0, _mm512_slli_epi16(line2, 2), kChoose);
  const __m512i high = _mm512_ternarylogic_epi32(two, line1, _mm512_slli_epi16(line2, 1), kChoose);
  return {_mm512_and_si512(low, three), _mm512_and_si512(high, three)};
}

// Codes stay where they are in their bytes: 4 and 32 times themselves, which the sums make up for.
template <int kRows, int kBlocks>
[[gnu::always_inline]] inline void add_int3_pair(const PairLines& lines, const PackedRows& x,
                                                 int first_row, int column,
                                                 Sums<kRows, kBlocks>& low,
                                                 Sums<kRows, kBlocks>& high) {
  const __m512i low_mask = _mm512_set1_epi8(7 << 2);
  const __m512i high_mask = _mm512_set1_epi8(static_cast<char>(7 << 5));
  for (int i = 0; i < kInt3Lines; ++i) {
    __m512i low_codes[kBlocks], high_codes[kBlocks];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const __m512i bytes = lines.load_and_fetch(b, i);
      low_codes[b] = _mm512_and_si512(bytes, low_mask);
      high_codes[b] = _mm512_and_si512(bytes, high_mask);
    }
    add_quads<kRows, kBlocks>(x, first_row, column + 4 * i, low_codes, high_codes, low, high);
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      low[r][b] = _mm512_srai_epi32(low[r][b], 2);
      high[r][b] = _mm512_srai_epi32(high[r][b], 5);
    }
  }
  for (int t = 0; t < kInt3Lines / 3; ++t) {
    __m512i low_codes[kBlocks], high_codes[kBlocks];
    AUTOGLM_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const SpareCodes codes =
          spare_codes(lines.load(b, 3 * t), lines.load(b, 3 * t + 1), lines.load(b, 3 * t + 2));
      low_codes[b] = codes.low;
      high_codes[b] = codes.high;
    }
    add_quads<kRows, kBlocks>(x, first_row, column + 4 * (kInt3Lines + t), low_codes, high_codes,
                              low, high);
  }
}

template <WeightType kType, int kRows, int kBlocks>
inline void dot_grouped(const PackedMatrix& w, const PackedRows& x, int block, int first_row,
                        int32_t (&sums)[kRows][kBlocks][16]) {
  constexpr bool kIsInt3 = kType == WeightType::kI3;
  constexpr int kLowOffset = kIsInt3 ? -4 * 4 : -8, kHighOffset = kIsInt3 ? -4 * 32 : -8;
  const int num_groups = w.padded_cols / kGroupSize;
  const size_t block_bytes = row_block_bytes(kType, w.padded_cols);
  const auto* weight = reinterpret_cast<const uint8_t*>(w.weight) + block * block_bytes;
  const uint8_t* scales = w.group_scale + static_cast<size_t>(block) * num_groups * kRowBlock;
  const size_t scale_stride = static_cast<size_t>(num_groups) * kRowBlock;
  Sums<kRows, kBlocks> totals;
  AUTOGLM_UNROLL
  for (auto& row : totals) {
    AUTOGLM_UNROLL
    for (__m512i& total : row) total = _mm512_setzero_si512();
  }
  for (int g = 0; g < num_groups; g += 2) {
    Sums<kRows, kBlocks> low, high;
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int32_t* offsets = group_sums(x, first_row + r) + g;
      AUTOGLM_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        low[r][b] = _mm512_set1_epi32(kLowOffset * offsets[0]);
        high[r][b] = _mm512_set1_epi32(kHighOffset * offsets[1]);
      }
    }
    const size_t at = static_cast<size_t>(g / 2) * row_block_bytes(kType, 2 * kGroupSize);
    const PairLines lines = {weight + at, block_bytes, fetch_distance<kBlocks>(at, block_bytes)};
    if constexpr (kIsInt3) {
      add_int3_pair<kRows, kBlocks>(lines, x, first_row, g * kGroupSize, low, high);
    } else {
      add_int4_pair<kRows, kBlocks>(lines, x, first_row, g * kGroupSize, low, high);
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

// Scales of both groups of a pair in a row block, and what they make of a zero.
struct PairScales {
  __m512i scale[2], offset[2];
};

template <WeightType kType>
inline PairScales load_pair_scales(const uint8_t* scales) {
  constexpr int kZeroBits = kType == WeightType::kI3 ? 2 : 3;
  PairScales out;
  AUTOGLM_UNROLL
  for (int g = 0; g < 2; ++g) {
    out.scale[g] = widen_scales(scales + g * kRowBlock);
    out.offset[g] = _mm512_slli_epi16(or_bytes(out.scale[g]), kZeroBits);
  }
  return out;
}

// Writes (code - zero) * scale of 64 bytes of codes of both groups, the second 1 KiB after the
// first. A 16-bit lane holds two codes of one row; with codes up to 15 and scales up to 16 the
// 16-bit product does not carry from one byte into the other.
inline void store_scaled(__m512i low, __m512i high, const PairScales& scales, int8_t* out) {
  _mm512_storeu_si512(out,
                      _mm512_sub_epi8(_mm512_mullo_epi16(low, scales.scale[0]), scales.offset[0]));
  _mm512_storeu_si512(out + 1024,
                      _mm512_sub_epi8(_mm512_mullo_epi16(high, scales.scale[1]), scales.offset[1]));
}

// 4 columns of both groups of a pair to the I8 layout.
inline void unpack_int4_line(const uint8_t* line, const PairScales& scales, int8_t* out) {
  const __m512i nibble_mask = _mm512_set1_epi8(15);
  const __m512i bytes = _mm512_loadu_si512(line);
  store_scaled(_mm512_and_si512(bytes, nibble_mask),
               _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble_mask), scales, out);
}

// Three lines of int3, the first of them line 3*t: 16 columns of both groups of the pair at `out`.
inline void unpack_int3_lines(const uint8_t* lines, int t, const PairScales& scales, int8_t* out) {
  const __m512i mask = _mm512_set1_epi8(7);
  __m512i bytes[3];
  AUTOGLM_UNROLL
  for (int i = 0; i < 3; ++i) {
    bytes[i] = _mm512_loadu_si512(lines + i * 64);
    store_scaled(_mm512_and_si512(_mm512_srli_epi16(bytes[i], 2), mask),
                 _mm512_and_si512(_mm512_srli_epi16(bytes[i], 5), mask), scales,
                 out + (3 * t + i) * 64);
  }
  const SpareCodes spare = spare_codes(bytes[0], bytes[1], bytes[2]);
  store_scaled(spare.low, spare.high, scales, out + (kInt3Lines + t) * 64);
}

// A pair of groups (128 columns) to the I8 layout; the second group lies 1 KiB after the first.
template <WeightType kType>
inline void unpack_pair(const uint8_t* weight, const uint8_t* scales, int8_t* out) {
  const PairScales pair = load_pair_scales<kType>(scales);
  if constexpr (kType == WeightType::kI3) {
    for (int t = 0; t < kInt3Lines / 3; ++t) unpack_int3_lines(weight + t * 192, t, pair, out);
  } else {
    for (int k = 0; k < 16; ++k) unpack_int4_line(weight + k * 64, pair, out + k * 64);
  }
}

template <WeightType kType>
inline void unpack_pairs(const PackedMatrix& w, int block, int8_t* out) {
  const int num_groups = w.padded_cols / kGroupSize;
  const auto* weight =
      reinterpret_cast<const uint8_t*>(w.weight) + block * row_block_bytes(kType, w.padded_cols);
  const uint8_t* scales = w.group_scale + static_cast<size_t>(block) * num_groups * kRowBlock;
  for (int g = 0; g < num_groups; g += 2) {
    unpack_pair<kType>(weight, scales + g * kRowBlock, out + static_cast<size_t>(g) * 1024);
    weight += row_block_bytes(kType, 2 * kGroupSize);
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
