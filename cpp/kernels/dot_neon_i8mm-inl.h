// Inner loops of integer dot products with smmla: 2 rows of codes by 2 columns by 8 bytes an
// instruction. A row alone takes sdot.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/dot_neon_sdot-inl.h"
#include "kernels/vec_neon.h"

namespace autoglm {
namespace {

constexpr int kMostRows = 4;

// Registers of four weight rows that so many rows of codes meet at a time.
constexpr int byte_quads(int) { return 4; }
constexpr int code_quads(int rows) { return rows > 2 ? 2 : 4; }

// Two rows by two columns: {row 0, row 0, row 1, row 1}, for columns 0 and 1, then 2 and 3.
struct PairDots {
  int32x4_t low, high;
};

template <int kPairs, int kQuads>
inline void clear(PairDots (&dots)[kPairs][kQuads]) {
  AUTOGLM_UNROLL
  for (int i = 0; i < kPairs * kQuads; ++i) {
    dots[i / kQuads][i % kQuads] = {vdupq_n_s32(0), vdupq_n_s32(0)};
  }
}

inline int32x4_t first_row(const PairDots& dots) {
  return vreinterpretq_s32_s64(
      vzip1q_s64(vreinterpretq_s64_s32(dots.low), vreinterpretq_s64_s32(dots.high)));
}

inline int32x4_t second_row(const PairDots& dots) {
  return vreinterpretq_s32_s64(
      vzip2q_s64(vreinterpretq_s64_s32(dots.low), vreinterpretq_s64_s32(dots.high)));
}

// a[half][p] holds 8 codes of row 2*p and 8 of the next; the halves make up 16 codes of each.
template <int kRows>
inline void load_code_pairs(const int8_t* const (&codes)[kRows], int at,
                            int8x16_t (&a)[2][kRows / 2]) {
  AUTOGLM_UNROLL
  for (int p = 0; p < kRows / 2; ++p) {
    const int64x2_t row = vreinterpretq_s64_s8(vld1q_s8(codes[2 * p] + at));
    const int64x2_t next = vreinterpretq_s64_s8(vld1q_s8(codes[2 * p + 1] + at));
    a[0][p] = vreinterpretq_s8_s64(vzip1q_s64(row, next));
    a[1][p] = vreinterpretq_s8_s64(vzip2q_s64(row, next));
  }
}

template <int kPairs, int kQuads>
inline void smmla_columns(const int8x16_t (&a)[kPairs], int8x16_t low, int8x16_t high, int quad,
                          PairDots (&dots)[kPairs][kQuads]) {
  AUTOGLM_UNROLL
  for (int p = 0; p < kPairs; ++p) {
    PairDots& dot = dots[p][quad];
    dot.low = vmmlaq_s32(dot.low, a[p], low);
    dot.high = vmmlaq_s32(dot.high, a[p], high);
  }
}

// 8 bytes of columns 0 and 1, or of columns 2 and 3, from two lines of groups of 4 bytes.
inline int8x16_t first_columns(int8x16_t line, int8x16_t next) {
  return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(line), vreinterpretq_s32_s8(next)));
}
inline int8x16_t last_columns(int8x16_t line, int8x16_t next) {
  return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(line), vreinterpretq_s32_s8(next)));
}

template <WeightType kType, bool kIsSpare>
inline CodeLine<kType, kIsSpare> first_columns(const CodeLine<kType, kIsSpare>& line,
                                               const CodeLine<kType, kIsSpare>& next) {
  CodeLine<kType, kIsSpare> out;
  for (int i = 0; i < (kIsSpare ? 3 : 1); ++i) {
    out.parts[i] = first_columns(line.parts[i], next.parts[i]);
  }
  return out;
}
template <WeightType kType, bool kIsSpare>
inline CodeLine<kType, kIsSpare> last_columns(const CodeLine<kType, kIsSpare>& line,
                                              const CodeLine<kType, kIsSpare>& next) {
  CodeLine<kType, kIsSpare> out;
  for (int i = 0; i < (kIsSpare ? 3 : 1); ++i) {
    out.parts[i] = last_columns(line.parts[i], next.parts[i]);
  }
  return out;
}

// sums[r][i] += dots of codes[r] with four columns of bytes; see sdot_columns.
template <int kRows, int kQuads>
inline void add_dots(const int8_t* bytes, size_t stride, int num_lines,
                     const int8_t* const (&codes)[kRows], int32x4_t (&sums)[kRows][kQuads]) {
  if constexpr (kRows == 1) {
    sdot_columns(bytes, stride, num_lines, codes, sums);
  } else {
    PairDots dots[kRows / 2][kQuads];
    clear(dots);
    for (int k = 0; k < num_lines; k += 4) {
      int8x16_t a[2][kRows / 2];
      load_code_pairs(codes, 4 * k, a);
      AUTOGLM_UNROLL
      for (int half = 0; half < 2; ++half, bytes += 2 * stride) {
        AUTOGLM_UNROLL
        for (int i = 0; i < kQuads; ++i) {
          const int8x16_t line = vld1q_s8(bytes + 16 * i);
          const int8x16_t next = vld1q_s8(bytes + stride + 16 * i);
          smmla_columns(a[half], first_columns(line, next), last_columns(line, next), i, dots);
        }
      }
    }
    AUTOGLM_UNROLL
    for (int i = 0; i < kRows / 2 * kQuads; ++i) {
      const int p = i / kQuads, q = i % kQuads;
      sums[2 * p][q] = vaddq_s32(sums[2 * p][q], first_row(dots[p][q]));
      sums[2 * p + 1][q] = vaddq_s32(sums[2 * p + 1][q], second_row(dots[p][q]));
    }
  }
}

// Dots of a pair of groups of int4 or int3 with the activations' codes of both.
template <WeightType kType, int kRows, int kQuads>
inline void dot_pair(const uint8_t* pair, const int8_t* const (&codes)[kRows],
                     int32x4_t (&low)[kRows][kQuads], int32x4_t (&high)[kRows][kQuads]) {
  if constexpr (kRows == 1) {
    sdot_pair<kType>(pair, codes, low, high);
  } else {
    PairDots low_dots[kRows / 2][kQuads], high_dots[kRows / 2][kQuads];
    clear(low_dots);
    clear(high_dots);
    for_lines<kType, 4>([&](int k, auto is_spare) {
      int8x16_t a0[2][kRows / 2], a1[2][kRows / 2];
      load_code_pairs(codes, 4 * k, a0);
      load_code_pairs(codes, kGroupSize + 4 * k, a1);
      AUTOGLM_UNROLL
      for (int half = 0; half < 2; ++half) {
        AUTOGLM_UNROLL
        for (int i = 0; i < kQuads; ++i) {
          const int at = k + 2 * half;
          const auto line = load_line<kType, is_spare.value>(pair + 16 * i, at);
          const auto next = load_line<kType, is_spare.value>(pair + 16 * i, at + 1);
          const auto first = first_columns(line, next), last = last_columns(line, next);
          smmla_columns(a0[half], low_codes(first), low_codes(last), i, low_dots);
          smmla_columns(a1[half], high_codes(first), high_codes(last), i, high_dots);
        }
      }
    });
    AUTOGLM_UNROLL
    for (int i = 0; i < kRows / 2 * kQuads; ++i) {
      const int p = i / kQuads, q = i % kQuads;
      low[2 * p][q] = first_row(low_dots[p][q]);
      low[2 * p + 1][q] = second_row(low_dots[p][q]);
      high[2 * p][q] = first_row(high_dots[p][q]);
      high[2 * p + 1][q] = second_row(high_dots[p][q]);
    }
  }
}

}  // namespace
}  // namespace autoglm
