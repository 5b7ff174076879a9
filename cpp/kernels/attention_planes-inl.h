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

inline void store_low_bytes(int8_t* p, __m512i lanes) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(lanes));
}

inline void put_weight_codes(const Int8AttentionState& state, int r, int t, F32x16 code) {
  const __m512i bits = _mm512_cvtps_epi32(code.v);
  int8_t* p = state.weight_codes + r * kKeyBlock + t;
  store_low_bytes(p, _mm512_srli_epi32(bits, 7));
  store_low_bytes(p + kAttentionRows * kKeyBlock, _mm512_and_si512(bits, _mm512_set1_epi32(127)));
}

inline __m512i combine_query_dots(__m512i high, __m512i low) {
  return _mm512_add_epi32(_mm512_mullo_epi32(high, _mm512_set1_epi32(254)), low);
}

inline __m512i combine_weight_dots(__m512i high, __m512i low) {
  return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low);
}

}  // namespace
}  // namespace autoglm
