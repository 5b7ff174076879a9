// Integer dots of attention with NEON, over the inner loops of the matrices (add_dots). Codes are
// two planes of signed bytes, all rows of the high bytes, then all rows of the low: queries 254 *
// high + low, softmax weights 256 * high + low.
#pragma once

#include <arm_neon.h>

#include "kernels/attention_i8_state.h"

namespace autoglm {
namespace {

constexpr float kWeightSteps = 32512.0f;  // largest code of a softmax weight: 256 * 127

struct DotScope {};

inline F32x16 load_value_dots(const float* dots) {
  return from_int32(reinterpret_cast<const int32_t*>(dots));
}
// Codes of one plane are small codes of two.
template <int kPlanes>
inline F32x16 load_key_dots(const float* dots) {
  return load_value_dots(dots);
}

inline void put_query_codes(const Int8AttentionState& state, int r, int d, F32x16 code) {
  const F32x16 high = round_even(code * splat(1.0f / kPlaneBase));
  int8_t* p = state.query_codes + r * state.key_dim + d;
  store_codes(p, high);
  store_codes(p + kAttentionRows * state.key_dim, fma(splat(-kPlaneBase), high, code));
}

inline void put_weight_codes(const Int8AttentionState& state, int r, int t,
                             const F32x16 (&codes)[4]) {
  for (const F32x16& code : codes) {
    const int32x4_t bits[4] = {vcvtnq_s32_f32(code.q0), vcvtnq_s32_f32(code.q1),
                               vcvtnq_s32_f32(code.q2), vcvtnq_s32_f32(code.q3)};
    int32x4_t high[4], low[4];
    AUTOGLM_UNROLL
    for (int i = 0; i < 4; ++i) {
      high[i] = vrshrq_n_s32(bits[i], 8);
      low[i] = vsubq_s32(bits[i], vshlq_n_s32(high[i], 8));
    }
    int8_t* p = state.weight_codes + r * kKeyBlock + t;
    store_low_bytes(p, high[0], high[1], high[2], high[3]);
    store_low_bytes(p + kAttentionRows * kKeyBlock, low[0], low[1], low[2], low[3]);
    t += 16;
  }
}

// High and low plane of kRows rows in turn.
template <int kRows>
inline void row_planes(const int8_t* planes, int row_bytes, int first,
                       const int8_t* (&codes)[2 * kRows]) {
  AUTOGLM_UNROLL
  for (int i = 0; i < 2 * kRows; ++i) {
    codes[i] = planes + (i % 2 * kAttentionRows + first + i / 2) * row_bytes;
  }
}

template <int kRows>
void dot_keys_rows(const Int8AttentionState& state, const int8_t* page, int first) {
  constexpr int kQuads = byte_quads(2 * kRows);
  const int8_t* codes[2 * kRows];
  row_planes<kRows>(state.query_codes, state.key_dim, first, codes);
  const int32x4_t zero = vdupq_n_s32(0);
  for (int t = 0; t < kPageTokens; t += 4 * kQuads) {
    int32x4_t sums[2 * kRows][kQuads];
    AUTOGLM_UNROLL
    for (int i = 0; i < 2 * kRows * kQuads; ++i) sums[i / kQuads][i % kQuads] = zero;
    add_dots(page + 4 * t, 4 * kPageTokens, state.key_dim / 4, codes, sums);
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      AUTOGLM_UNROLL
      for (int i = 0; i < kQuads; ++i) {
        const int base = static_cast<int>(kPlaneBase);
        float* out = dot_tile_row(state.dots, first + r, t + 4 * i);
        vst1q_s32(reinterpret_cast<int32_t*>(out),
                  vmlaq_n_s32(sums[2 * r + 1][i], sums[2 * r][i], base));
      }
    }
  }
}

void dot_keys(const Int8AttentionState& state, const int8_t* page) {
  int r = 0;
  for (; r + 2 <= state.num_rows; r += 2) dot_keys_rows<2>(state, page, r);
  if (r < state.num_rows) dot_keys_rows<1>(state, page, r);
}

template <int kRows>
void dot_values_rows(const Int8AttentionState& state, const KeyBlock& block, int first) {
  constexpr int kQuads = byte_quads(2 * kRows);
  const size_t stride = 4 * static_cast<size_t>(state.value_dim);
  const int32x4_t zero = vdupq_n_s32(0);
  for (int d = 0; d < state.value_dim; d += 4 * kQuads) {
    int32x4_t sums[2 * kRows][kQuads];
    AUTOGLM_UNROLL
    for (int i = 0; i < 2 * kRows * kQuads; ++i) sums[i / kQuads][i % kQuads] = zero;
    for (int page = 0; page < block.num_pages; ++page) {
      const int8_t* codes[2 * kRows];
      row_planes<kRows>(state.weight_codes + page * kPageTokens, kKeyBlock, first, codes);
      add_dots(block.values[page] + 4 * d, stride, kPageTokens / 4, codes, sums);
    }
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      AUTOGLM_UNROLL
      for (int i = 0; i < kQuads; ++i) {
        float* out = dot_tile_row(state.dots, first + r, d + 4 * i);
        vst1q_s32(reinterpret_cast<int32_t*>(out),
                  vaddq_s32(vshlq_n_s32(sums[2 * r][i], 8), sums[2 * r + 1][i]));
      }
    }
  }
}

void dot_values(const Int8AttentionState& state, const KeyBlock& block) {
  int r = 0;
  for (; r + 2 <= state.num_rows; r += 2) dot_values_rows<2>(state, block, r);
  if (r < state.num_rows) dot_values_rows<1>(state, block, r);
}

}  // namespace
}  // namespace autoglm
