// Integer dots of attention with AVX-512 VNNI.
#pragma once

#include <immintrin.h>

#include "kernels/attention_i8_state.h"

namespace autoglm {
namespace {

struct DotScope {};

inline F32x16 load_value_dots(const float* dots) {
  return from_int32(reinterpret_cast<const int32_t*>(dots));
}
// Codes of one plane are small codes of two.
template <int kPlanes>
inline F32x16 load_key_dots(const float* dots) {
  return load_value_dots(dots);
}

inline __m512i splat_code_quad(const int8_t* codes) {
  int32_t quad;
  __builtin_memcpy(&quad, codes, 4);
  return _mm512_set1_epi32(quad);
}

// vpdpbusd takes keys shifted by 128; this takes the shift off again.
inline __m512i key_offset(const int8_t* codes, int key_dim) {
  __m512i sum = _mm512_setzero_si512();
  for (int d = 0; d < key_dim; d += 64) {
    sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_loadu_si512(codes + d));
  }
  return _mm512_set1_epi32(-128 * _mm512_reduce_add_epi32(sum));
}

template <int kRows>
void dot_keys_rows(const Int8AttentionState& state, const int8_t* page, int first) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  const int8_t* codes[2 * kRows];  // high and low plane of each row
  __m512i offsets[2 * kRows];
  AUTOGLM_UNROLL
  for (int i = 0; i < 2 * kRows; ++i) {
    codes[i] = state.query_codes + (i % 2 * kAttentionRows + first + i / 2) * state.key_dim;
    offsets[i] = key_offset(codes[i], state.key_dim);
  }
  for (int t = 0; t < kPageTokens; t += 32) {
    const int8_t* keys = page + t * 4;
    __m512i sums[2 * kRows][2];
    AUTOGLM_UNROLL
    for (int i = 0; i < 2 * kRows; ++i) sums[i][0] = sums[i][1] = offsets[i];
    for (int d = 0; d < state.key_dim; d += 4, keys += 4 * kPageTokens) {
      const __m512i k0 = _mm512_xor_si512(_mm512_loadu_si512(keys), sign);
      const __m512i k1 = _mm512_xor_si512(_mm512_loadu_si512(keys + 64), sign);
      AUTOGLM_UNROLL
      for (int i = 0; i < 2 * kRows; ++i) {
        const __m512i q = splat_code_quad(codes[i] + d);
        sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], k0, q);
        sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], k1, q);
      }
    }
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      for (int half = 0; half < 2; ++half) {
        const __m512i dots = combine_query_dots(sums[2 * r][half], sums[2 * r + 1][half]);
        _mm512_storeu_si512(dot_tile_row(state.dots, first + r, t + 16 * half), dots);
      }
    }
  }
}

void dot_keys(const Int8AttentionState& state, const int8_t* page) {
  int r = 0;
  for (; r + 4 <= state.num_rows; r += 4) dot_keys_rows<4>(state, page, r);
  for (; r < state.num_rows; ++r) dot_keys_rows<1>(state, page, r);
}

template <int kRows>
void dot_values_rows(const Int8AttentionState& state, const KeyBlock& block, int first, int d) {
  __m512i sums[2 * kRows];
  AUTOGLM_UNROLL
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (int page = 0; page < block.num_pages; ++page) {
    const int8_t* values = block.values[page] + d * 4;
    const int8_t* codes = state.weight_codes + first * kKeyBlock + page * kPageTokens;
    for (int t = 0; t < kPageTokens; t += 4, values += 4 * state.value_dim) {
      const __m512i value = _mm512_loadu_si512(values);
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int8_t* quad = codes + r * kKeyBlock + t;
        sums[2 * r] = _mm512_dpbusd_epi32(sums[2 * r], splat_code_quad(quad), value);
        sums[2 * r + 1] = _mm512_dpbusd_epi32(
            sums[2 * r + 1], splat_code_quad(quad + kAttentionRows * kKeyBlock), value);
      }
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_si512(dot_tile_row(state.dots, first + r, d),
                        combine_weight_dots(sums[2 * r], sums[2 * r + 1]));
  }
}

void dot_values(const Int8AttentionState& state, const KeyBlock& block) {
  for (int d = 0; d < state.value_dim; d += 16) {
    int r = 0;
    for (; r + 4 <= state.num_rows; r += 4) dot_values_rows<4>(state, block, r, d);
    for (; r < state.num_rows; ++r) dot_values_rows<1>(state, block, r, d);
  }
}

}  // namespace
}  // namespace autoglm
