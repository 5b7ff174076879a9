// Inner loops of integer dot products with sdot: 4 rows of 4 bytes an instruction.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/codes_neon.h"
#include "kernels/kernels.h"
#include "kernels/vec_neon.h"

namespace autoglm {
namespace {

// sums[i] += the four groups of 4 bytes of w times group `kLane` of a row's 16 codes.
template <int kLane, int kRows, int kQuads>
inline void sdot_lines(const int8x16_t (&w)[kQuads], const int8x16_t (&a)[kRows],
                       int32x4_t (&sums)[kRows][kQuads]) {
  AUTOGLM_UNROLL
  for (int i = 0; i < kRows * kQuads; ++i) {
    int32x4_t& sum = sums[i / kQuads][i % kQuads];
    sum = vdotq_laneq_s32(sum, w[i % kQuads], a[i / kQuads], kLane);
  }
}

template <int kRows>
inline void load_codes(const int8_t* const (&codes)[kRows], int at, int8x16_t (&a)[kRows]) {
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) a[r] = vld1q_s8(codes[r] + at);
}

template <int kLane, int kRows, int kQuads>
inline void sdot_bytes(const int8_t* bytes, const int8x16_t (&a)[kRows],
                       int32x4_t (&sums)[kRows][kQuads]) {
  int8x16_t w[kQuads];
  AUTOGLM_UNROLL
  for (int i = 0; i < kQuads; ++i) w[i] = vld1q_s8(bytes + 16 * i);
  sdot_lines<kLane>(w, a, sums);
}

// sums[r][i] += dots of codes[r] with four columns of bytes: register i of a line holds groups of
// 4 bytes along K for 4 columns, the next line the next group. num_lines is a multiple of 4.
template <int kRows, int kQuads>
inline void sdot_columns(const int8_t* bytes, size_t stride, int num_lines,
                         const int8_t* const (&codes)[kRows], int32x4_t (&sums)[kRows][kQuads]) {
  for (int k = 0; k < num_lines; k += 4, bytes += 4 * stride) {
    int8x16_t a[kRows];
    load_codes(codes, 4 * k, a);
    sdot_bytes<0>(bytes, a, sums);
    sdot_bytes<1>(bytes + stride, a, sums);
    sdot_bytes<2>(bytes + 2 * stride, a, sums);
    sdot_bytes<3>(bytes + 3 * stride, a, sums);
  }
}

template <int kLane, WeightType kType, bool kIsSpare, int kRows, int kQuads>
inline void sdot_line(const uint8_t* pair, int line, const int8x16_t (&a0)[kRows],
                      const int8x16_t (&a1)[kRows], int32x4_t (&low)[kRows][kQuads],
                      int32x4_t (&high)[kRows][kQuads]) {
  int8x16_t w0[kQuads], w1[kQuads];
  AUTOGLM_UNROLL
  for (int i = 0; i < kQuads; ++i) {
    const auto codes = load_line<kType, kIsSpare>(pair + 16 * i, line + kLane);
    w0[i] = low_codes(codes);
    w1[i] = high_codes(codes);
  }
  sdot_lines<kLane>(w0, a0, low);
  sdot_lines<kLane>(w1, a1, high);
}

// Dots of a pair of groups of int4 or int3 with the activations' codes of both.
template <WeightType kType, int kRows, int kQuads>
inline void sdot_pair(const uint8_t* pair, const int8_t* const (&codes)[kRows],
                      int32x4_t (&low)[kRows][kQuads], int32x4_t (&high)[kRows][kQuads]) {
  AUTOGLM_UNROLL
  for (int i = 0; i < kRows * kQuads; ++i) {
    low[i / kQuads][i % kQuads] = high[i / kQuads][i % kQuads] = vdupq_n_s32(0);
  }
  for_lines<kType, 4>([&](int k, auto is_spare) {
    int8x16_t a0[kRows], a1[kRows];
    load_codes(codes, 4 * k, a0);
    load_codes(codes, kGroupSize + 4 * k, a1);
    sdot_line<0, kType, is_spare.value>(pair, k, a0, a1, low, high);
    sdot_line<1, kType, is_spare.value>(pair, k, a0, a1, low, high);
    sdot_line<2, kType, is_spare.value>(pair, k, a0, a1, low, high);
    sdot_line<3, kType, is_spare.value>(pair, k, a0, a1, low, high);
  });
}

}  // namespace
}  // namespace autoglm
