// Causal attention over the paged KV cache, written once over F32x16.
//
// Query rows that share a KV head (the heads of its group, neighbouring tokens) are attended
// together, so that keys and values are read once for all of them. Softmax runs online, page by
// page (Milakov and Gimelshein, arXiv 1805.02867); a row's arithmetic does not depend on which rows
// are beside it.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"

namespace autoglm {
namespace {

// Rows that share what is loaded of a page, and vectors of values a row takes at a time.
constexpr int kSharedRows = kAccumulators / 2 < 4 ? kAccumulators / 2 : 4;
constexpr int kValueVectors = kAccumulators / kSharedRows;

struct AttentionRow {
  const float* q;
  const float* sink_q;
  float* out;
  int num_keys;
};

struct AttentionState {
  int num_rows;
  int padded_dim;  // head_dim rounded up to 16
  AttentionRow rows[kAttentionRows];
  float largest[kAttentionRows];  // of the scores so far
  float total[kAttentionRows];    // sum of exp(score - largest)
  float* scores;                  // [num_rows][64], then the softmax weights
  float* sums;                    // [num_rows][padded_dim]
};

// scores[r][0..63] = scale * q_r . k_t, for kRows rows.
template <int kRows, typename Element>
void score_page(const AttentionArgs& args, const Element* keys, const AttentionState& state,
                int first, bool is_sink) {
  const float* queries[kRows];
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const AttentionRow& row = state.rows[first + r];
    queries[r] = is_sink ? row.sink_q : row.q;
  }
  for (int t = 0; t < kPageTokens; t += 32) {
    F32x16 sums[kRows][2];
    AUTOGLM_UNROLL
    for (auto& row : sums) row[0] = row[1] = splat(0.0f);
    const Element* k = keys + t;
    for (int d = 0; d < args.kv.head_dim; ++d, k += kPageTokens) {
      const F32x16 k0 = load(k), k1 = load(k + 16);
      AUTOGLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F32x16 q = splat(queries[r][d]);
        sums[r][0] = fma(k0, q, sums[r][0]);
        sums[r][1] = fma(k1, q, sums[r][1]);
      }
    }
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float* out = state.scores + (first + r) * kPageTokens + t;
      store(out, sums[r][0] * splat(args.scale));
      store(out + 16, sums[r][1] * splat(args.scale));
    }
  }
}

// Turns a row's scores of a page into softmax weights and rescales what was summed before.
void update_softmax(AttentionState& state, int r, int num_keys) {
  constexpr int kVectors = kPageTokens / 16;
  float* scores = state.scores + r * kPageTokens;
  const F32x16 lowest = splat(-INFINITY);
  F32x16 values[kVectors], page_largest = lowest;
  AUTOGLM_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int num = std::clamp(num_keys - 16 * i, 0, 16);
    values[i] = keep_first(load(scores + 16 * i), num, lowest);
    page_largest = max(page_largest, values[i]);
  }
  const float largest = std::max(state.largest[r], reduce_max(page_largest));
  const float shrink = std::exp(state.largest[r] - largest);
  F32x16 total = splat(0.0f);
  AUTOGLM_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const F32x16 weight = exp(values[i] - splat(largest));
    store(scores + 16 * i, weight);
    total = total + weight;
  }
  state.largest[r] = largest;
  state.total[r] = state.total[r] * shrink + reduce_add(total);
  float* sums = state.sums + r * state.padded_dim;
  for (int d = 0; d < state.padded_dim; d += 16) store(sums + d, load(sums + d) * splat(shrink));
}

// Sixteen values, or the first of them where a head ends.
template <typename Element>
inline F32x16 load_values(const Element* v, int num) {
  if (num >= 16) return load(v);
  Element padded[16] = {};
  for (int i = 0; i < num; ++i) padded[i] = v[i];
  return load(padded);
}

// sums[r][d..d+16*kVectors) += weights[r][t] * v[t], tokens in order.
template <int kRows, int kVectors, typename Element>
void add_values(const AttentionArgs& args, const Element* values, const AttentionState& state,
                int first, int d, int num_tokens) {
  const int dim = args.kv.head_dim;
  F32x16 sums[kRows][kVectors];
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = load(state.sums + (first + r) * state.padded_dim + d + 16 * i);
    }
  }
  const float* weights = state.scores + first * kPageTokens;
  const Element* v = values + d;
  for (int t = 0; t < num_tokens; ++t, v += dim) {
    F32x16 value[kVectors];
    AUTOGLM_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      value[i] = kVectors > 1 ? load(v + 16 * i) : load_values(v, dim - d);
    }
    AUTOGLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32x16 weight = splat(weights[r * kPageTokens + t]);
      AUTOGLM_UNROLL
      for (int i = 0; i < kVectors; ++i) sums[r][i] = fma(value[i], weight, sums[r][i]);
    }
  }
  AUTOGLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    AUTOGLM_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      store(state.sums + (first + r) * state.padded_dim + d + 16 * i, sums[r][i]);
    }
  }
}

template <int kRows, typename Element>
void attend_page(const AttentionArgs& args, AttentionState& state, const Element* keys,
                 const Element* values, int first, int first_key) {
  score_page<kRows>(args, keys, state, first, first_key < args.num_sink_keys);
  int num_tokens = 0;
  AUTOGLM_UNROLL
  for (int r = first; r < first + kRows; ++r) {
    const int num_keys = std::min(state.rows[r].num_keys - first_key, kPageTokens);
    update_softmax(state, r, num_keys);
    num_tokens = std::max(num_tokens, num_keys);
  }
  int d = 0;
  for (; d + 16 * kValueVectors <= args.kv.head_dim; d += 16 * kValueVectors) {
    add_values<kRows, kValueVectors>(args, values, state, first, d, num_tokens);
  }
  for (; d < args.kv.head_dim; d += 16) {
    add_values<kRows, 1>(args, values, state, first, d, num_tokens);
  }
}

template <typename Element>
void attend_rows(const AttentionArgs& args, AttentionState& state, int kv_head) {
  const KvLayer& kv = args.kv;
  const size_t head_elements = static_cast<size_t>(kv.head_dim) * kPageTokens;
  int most_keys = 0;
  for (int r = 0; r < state.num_rows; ++r) most_keys = std::max(most_keys, state.rows[r].num_keys);
  for (int first_key = 0; first_key < most_keys; first_key += kPageTokens) {
    const Element* page = static_cast<const Element*>(kv.base) +
                          kv.page_table[first_key / kPageTokens] * kv.page_stride;
    const Element* keys = page + kv_head * head_elements;
    const Element* values = page + (kv.num_kv_heads + kv_head) * head_elements;
    int r = 0;
    while (r < state.num_rows && state.rows[r].num_keys <= first_key)
      ++r;  // rows are in token order
    for (; r + kSharedRows <= state.num_rows; r += kSharedRows) {
      attend_page<kSharedRows>(args, state, keys, values, r, first_key);
    }
    for (; r < state.num_rows; ++r) attend_page<1>(args, state, keys, values, r, first_key);
  }
}

void finish_rows(const AttentionState& state, int head_dim) {
  for (int r = 0; r < state.num_rows; ++r) {
    const F32x16 inverse = splat(1.0f / state.total[r]);
    const float* sums = state.sums + r * state.padded_dim;
    for (int d = 0; d < head_dim; d += 16) {
      const int num = std::min(16, head_dim - d);
      store_partial(state.rows[r].out + d, num, load(sums + d) * inverse);
    }
  }
}

void attention_float(const AttentionArgs& args, int kv_head, int token_begin, int token_end,
                     float* scratch) {
  const int group = args.num_heads / args.kv.num_kv_heads;
  const int dim = args.kv.head_dim;
  AttentionState state;
  state.padded_dim = round_up(dim, 16);
  state.scores = scratch;
  state.sums = scratch + kAttentionRows * kPageTokens;
  const int num_rows = (token_end - token_begin) * group;
  for (int first = 0; first < num_rows; first += kAttentionRows) {
    state.num_rows = std::min(kAttentionRows, num_rows - first);
    for (int r = 0; r < state.num_rows; ++r) {
      const int token = token_begin + (first + r) / group;
      const int head = kv_head * group + (first + r) % group;
      state.rows[r] = {
          args.q + static_cast<size_t>(token) * args.q_stride + head * dim,
          args.num_sink_keys > 0
              ? args.sink_q + static_cast<size_t>(token) * args.sink_q_stride + head * dim
              : nullptr,
          args.out + static_cast<size_t>(token) * args.out_stride + head * dim,
          args.first_position + token + 1};
      state.largest[r] = -INFINITY;
      state.total[r] = 0.0f;
    }
    std::fill(state.sums, state.sums + state.num_rows * state.padded_dim, 0.0f);
    if (args.kv.type == KvType::kF32) {
      attend_rows<float>(args, state, kv_head);
    } else {
      attend_rows<half_t>(args, state, kv_head);
    }
    finish_rows(state, dim);
  }
}

}  // namespace
}  // namespace autoglm
