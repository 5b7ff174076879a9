// Inner loops of integer dot products with plain NEON (ARMv8.0): products of bytes are summed in
// 16-bit lanes as long as they fit, then added in pairs to 32-bit lanes.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/codes_neon.h"
#include "kernels/kernels.h"
#include "kernels/vec_neon.h"

namespace autoglm {
namespace {

constexpr int kMostRows = 4;

// Registers of four weight rows that so many rows of codes meet at a time.
constexpr int byte_quads(int rows) { return rows > 2 ? 2 : 4; }
constexpr int code_quads(int rows) { return 4 / rows; }

inline int8x8_t splat_quad(const int8_t* codes) {
  int32_t quad;
  __builtin_memcpy(&quad, codes, sizeof(quad));
  return vreinterpret_s8_s32(vdup_n_s32(quad));
}

// sums[r][i] += dots of codes[r] with four columns of bytes: register i of a line holds groups of
// 4 bytes along K for 4 columns, the next line the next group. num_lines is a multiple of 4. Both
// sides lie in -128..127 and not both at -128, so that two products fit 16 bits.
template <int kRows, int kQuads>
inline void add_dots(const int8_t* bytes, size_t stride, int num_lines,
                     const int8_t* const (&codes)[kRows], int32x4_t (&sums)[kRows][kQuads]) {
  int32x4_t low[kRows][kQuads], high[kRows][kQuads];  // two partial sums a column
  AUTOGLM_UNROLL
  for (int i = 0; i < kRows * kQuads; ++i) {
    low[i / kQuads][i % kQuads] = high[i / kQuads][i % kQuads] = vdupq_n_s32(0);
  }
  for (int k = 0; k < num_lines; k += 2, bytes += 2 * stride) {
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int8x8_t a0 = splat_quad(codes[r] + 4 * k), a1 = splat_quad(codes[r] + 4 * k + 4);
      AUTOGLM_UNROLL
      for (int i = 0; i < kQuads; ++i) {
        const int8x16_t b0 = vld1q_s8(bytes + 16 * i), b1 = vld1q_s8(bytes + stride + 16 * i);
        const int16x8_t first = vmlal_s8(vmull_s8(vget_low_s8(b0), a0), vget_low_s8(b1), a1);
        const int16x8_t second = vmlal_s8(vmull_s8(vget_high_s8(b0), a0), vget_high_s8(b1), a1);
        low[r][i] = vpadalq_s16(low[r][i], first);
        high[r][i] = vpadalq_s16(high[r][i], second);
      }
    }
  }
  AUTOGLM_UNROLL
  for (int i = 0; i < kRows * kQuads; ++i) {
    int32x4_t& sum = sums[i / kQuads][i % kQuads];
    sum = vaddq_s32(sum, vpaddq_s32(low[i / kQuads][i % kQuads], high[i / kQuads][i % kQuads]));
  }
}

// Dots of a pair of groups of int4 or int3 with the activations' codes of both. Sixteen products of
// at most 15 * 127 fit 16 bits.
template <WeightType kType, int kRows, int kQuads>
inline void dot_pair(const uint8_t* pair, const int8_t* const (&codes)[kRows],
                     int32x4_t (&low)[kRows][kQuads], int32x4_t (&high)[kRows][kQuads]) {
  int16x8_t words[kRows][kQuads][4];
  AUTOGLM_UNROLL
  for (int i = 0; i < kRows * kQuads * 4; ++i) {
    words[i / 4 / kQuads][i / 4 % kQuads][i % 4] = vdupq_n_s16(0);
  }
  for_lines<kType, 1>([&](int k, auto is_spare) {
    AUTOGLM_UNROLL
    for (int i = 0; i < kQuads; ++i) {
      const auto line = load_line<kType, is_spare.value>(pair + 16 * i, k);
      const int8x16_t w0 = low_codes(line), w1 = high_codes(line);
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int8x8_t a0 = splat_quad(codes[r] + 4 * k);
        const int8x8_t a1 = splat_quad(codes[r] + kGroupSize + 4 * k);
        int16x8_t(&sum)[4] = words[r][i];
        sum[0] = vmlal_s8(sum[0], vget_low_s8(w0), a0);
        sum[1] = vmlal_s8(sum[1], vget_high_s8(w0), a0);
        sum[2] = vmlal_s8(sum[2], vget_low_s8(w1), a1);
        sum[3] = vmlal_s8(sum[3], vget_high_s8(w1), a1);
      }
    }
  });
  AUTOGLM_UNROLL
  for (int i = 0; i < kRows * kQuads; ++i) {
    const int16x8_t(&sum)[4] = words[i / kQuads][i % kQuads];
    low[i / kQuads][i % kQuads] = vpaddq_s32(vpaddlq_s16(sum[0]), vpaddlq_s16(sum[1]));
    high[i / kQuads][i % kQuads] = vpaddq_s32(vpaddlq_s16(sum[2]), vpaddlq_s16(sum[3]));
  }
}

}  // namespace
}  // namespace autoglm
