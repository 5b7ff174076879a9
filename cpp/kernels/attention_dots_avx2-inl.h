// Integer dots of attention with AVX2: codes are 16-bit, keys and values are widened to meet them.
#pragma once

#include <immintrin.h>

#include "kernels/attention_i8_state.h"

namespace autoglm {
namespace {

constexpr float kWeightSteps = 32640.0f;  // largest code of a softmax weight

struct DotScope {};

inline F32x16 load_value_dots(const float* dots) {
  return from_int32(reinterpret_cast<const int32_t*>(dots));
}
// Codes of one plane are small codes of two.
template <int kPlanes>
inline F32x16 load_key_dots(const float* dots) {
  return load_value_dots(dots);
}

inline void store_code_words(int16_t* p, F32x16 code) {
  const __m256i words =
      _mm256_packs_epi32(_mm256_cvtps_epi32(code.low), _mm256_cvtps_epi32(code.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
}

inline int16_t* query_words(const Int8AttentionState& state, int r) {
  return reinterpret_cast<int16_t*>(state.query_codes) + r * state.key_dim;
}

inline int16_t* weight_words(const Int8AttentionState& state, int r) {
  return reinterpret_cast<int16_t*>(state.weight_codes) + r * kKeyBlock;
}

inline void put_query_codes(const Int8AttentionState& state, int r, int d, F32x16 code) {
  store_code_words(query_words(state, r) + d, code);
}

inline void put_weight_codes(const Int8AttentionState& state, int r, int t,
                             const F32x16 (&codes)[4]) {
  for (int i = 0; i < 4; ++i) store_code_words(weight_words(state, r) + t + 16 * i, codes[i]);
}

// Adds the dots of `num_quads` groups of 4 codes with 16 columns of bytes, `stride` bytes between
// groups. Each accumulator holds 4 columns, two sums a column.
inline void add_dots(const int8_t* bytes, size_t stride, const int16_t* codes, int num_quads,
                     __m256i (&sums)[4]) {
  for (int i = 0; i < num_quads; ++i, bytes += stride) {
    int64_t quad;
    __builtin_memcpy(&quad, codes + 4 * i, 8);
    const __m256i code = _mm256_set1_epi64x(quad);
    for (int c = 0; c < 4; ++c) {
      const __m256i wide =
          _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 16 * c)));
      sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(wide, code));
    }
  }
}

inline void store_dots(const __m256i (&sums)[4], void* out) {
  auto* to = static_cast<__m256i*>(out);
  for (int c = 0; c < 2; ++c) {
    const __m256i pairs = _mm256_hadd_epi32(sums[2 * c], sums[2 * c + 1]);
    _mm256_storeu_si256(to + c, _mm256_permute4x64_epi64(pairs, 0xd8));
  }
}

void dot_keys(const Int8AttentionState& state, const int8_t* keys) {
  for (int r = 0; r < state.num_rows; ++r) {
    for (int t = 0; t < kPageTokens; t += 16) {
      __m256i sums[4] = {};
      add_dots(keys + 4 * t, 4 * kPageTokens, query_words(state, r), state.key_dim / 4, sums);
      store_dots(sums, dot_tile_row(state.dots, r, t));
    }
  }
}

void dot_values(const Int8AttentionState& state, const KeyBlock& block) {
  const size_t stride = 4 * static_cast<size_t>(state.value_dim);
  for (int r = 0; r < state.num_rows; ++r) {
    for (int d = 0; d < state.value_dim; d += 16) {
      __m256i sums[4] = {};
      for (int page = 0; page < block.num_pages; ++page) {
        add_dots(block.values[page] + 4 * d, stride, weight_words(state, r) + page * kPageTokens,
                 kPageTokens / 4, sums);
      }
      store_dots(sums, dot_tile_row(state.dots, r, d));
    }
  }
}

}  // namespace
}  // namespace autoglm
