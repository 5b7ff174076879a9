// Writes one token's keys and values to the KV cache, written once over F32x16.
#pragma once

#include <cstring>

#include "kernels/kernels.h"

namespace autoglm {
namespace {

inline void store_codes_of_head(const float* x, int dim, float* scale, int8_t* codes) {
  const float largest = max_abs(x, dim);
  const F32x16 inverse = splat(largest > 0.0f ? 127.0f / largest : 0.0f);
  for (int d = 0; d < dim; d += 16) {
    store_codes(codes + d, round_even(load_padded(x, d, dim) * inverse));
  }
  *scale = largest / 127.0f;
}

void store_kv_i8(const KvLayer& kv, int8_t* page, int token, const float* k, const float* v) {
  const int dim = kv.head_dim, value_dim = kv_value_dim(dim);
  const size_t keys_bytes = static_cast<size_t>(kv_key_dim(dim)) * kPageTokens;
  const size_t values_bytes = static_cast<size_t>(value_dim) * kPageTokens;
  int8_t* values = page + kv.num_kv_heads * keys_bytes;
  auto* scales = reinterpret_cast<float*>(values + kv.num_kv_heads * values_bytes) + token;
  alignas(64) int8_t codes[kMaxHeadDim];
  for (int h = 0; h < kv.num_kv_heads; ++h) {
    store_codes_of_head(k + h * dim, dim, scales + h * kPageTokens, codes);
    int8_t* keys = page + h * keys_bytes + token * 4;
    for (int d = 0; d < dim; d += 4) std::memcpy(keys + d * kPageTokens, codes + d, 4);
    store_codes_of_head(v + h * dim, dim, scales + (kv.num_kv_heads + h) * kPageTokens, codes);
    int8_t* to = values + h * values_bytes + token / 4 * 4 * value_dim + token % 4;
    for (int d = 0; d < dim; ++d) to[4 * d] = codes[d];
  }
}

template <typename Element>
void store_head(Element* keys, Element* values, int dim, const Element* k, const Element* v) {
  for (int d = 0; d < dim; ++d) keys[d * kPageTokens] = k[d];
  std::memcpy(values, v, sizeof(Element) * dim);
}

template <typename Element>
void store_kv_float(const KvLayer& kv, Element* page, int token, const float* k, const float* v) {
  const int dim = kv.head_dim;
  const size_t head_elements = static_cast<size_t>(dim) * kPageTokens;
  for (int h = 0; h < kv.num_kv_heads; ++h, k += dim, v += dim) {
    Element* keys = page + h * head_elements + token;
    Element* values =
        page + (kv.num_kv_heads + h) * head_elements + static_cast<size_t>(token) * dim;
    if constexpr (sizeof(Element) == sizeof(float)) {
      store_head(keys, values, dim, k, v);
    } else {
      alignas(64) half_t k_halves[kMaxHeadDim], v_halves[kMaxHeadDim];
      for (int d = 0; d < dim; d += 16) {
        store_halves(k_halves + d, load_padded(k, d, dim));
        store_halves(v_halves + d, load_padded(v, d, dim));
      }
      store_head(keys, values, dim, k_halves, v_halves);
    }
  }
}

void store_kv(const KvLayer& kv, int position, const float* k, const float* v) {
  const size_t page = kv.page_table[position / kPageTokens] * kv.page_stride;
  const int token = position % kPageTokens;
  switch (kv.type) {
    case KvType::kF32:
      return store_kv_float(kv, static_cast<float*>(kv.base) + page, token, k, v);
    case KvType::kF16:
      return store_kv_float(kv, static_cast<half_t*>(kv.base) + page, token, k, v);
    default:
      return store_kv_i8(kv, static_cast<int8_t*>(kv.base) + page, token, k, v);
  }
}

}  // namespace
}  // namespace autoglm
