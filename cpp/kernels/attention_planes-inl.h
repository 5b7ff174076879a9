// Codes of int8 attention as two planes of bytes, all rows of the high bytes, then all rows of the
// low: queries 254 * high + low, softmax weights 128 * high + low with unsigned bytes.
#pragma once

#include <immintrin.h>

#include "kernels/attention_i8_state.h"

namespace autoglm {
namespace {

constexpr float kWeightSteps = 32640.0f;  // largest code of a softmax weight: 128 * 255

inline void put_query_codes(const Int8AttentionState& state, int r, int d, F32x16 code) {
  const F32x16 high = round_even(code * splat(1.0f / kPlaneBase));
  int8_t* p = state.query_codes + r * state.key_dim + d;
  store_codes(p, high);
  store_codes(p + kAttentionRows * state.key_dim, fma(splat(-kPlaneBase), high, code));
}

// Four registers of 16-bit values to one of bytes, in order.
inline __m512i join_bytes(__m512i low_words, __m512i high_words) {
  // Packing works within lanes of 128 bits.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low_words, high_words));
}

inline void put_weight_codes(const Int8AttentionState& state, int r, int t,
                             const F32x16 (&codes)[4]) {
  __m512i words[2];
  for (int i = 0; i < 2; ++i) {
    words[i] = _mm512_packus_epi32(_mm512_cvtps_epi32(codes[2 * i].v),
                                   _mm512_cvtps_epi32(codes[2 * i + 1].v));
  }
  int8_t* p = state.weight_codes + r * kKeyBlock + t;
  const __m512i low_bits = _mm512_set1_epi16(127);
  _mm512_storeu_si512(p,
                      join_bytes(_mm512_srli_epi16(words[0], 7), _mm512_srli_epi16(words[1], 7)));
  _mm512_storeu_si512(
      p + kAttentionRows * kKeyBlock,
      join_bytes(_mm512_and_si512(words[0], low_bits), _mm512_and_si512(words[1], low_bits)));
}

inline __m512i combine_query_dots(__m512i high, __m512i low) {
  const __m512i twice = _mm512_add_epi32(high, high);
  return _mm512_add_epi32(_mm512_slli_epi32(high, 8), _mm512_sub_epi32(low, twice));
}

inline __m512i combine_weight_dots(__m512i high, __m512i low) {
  return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low);
}

}  // namespace
}  // namespace autoglm
