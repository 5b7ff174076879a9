// Causal attention over the int8 KV cache, written once over F32x16 and exact integer dot products.
//
// Queries and softmax weights enter the dots with 15 bits or more, so that only the rounding of the
// cache costs quality. Keys are weighed in blocks of 256 from the start of the sequence, so that a
// row's arithmetic does not depend on which rows are beside it. The including file defines, before
// it,
//   put_query_codes, put_weight_codes: store 16 and 64 codes of a row in the layout its dots read;
//   kWeightSteps: the largest code of a softmax weight;
//   dot_keys, dot_values: dots of all rows with a block of keys or values;
//   load_key_dots, load_value_dots: 16 of these dots as floats;
//   DotScope: what must live while dots are made.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/attention_i8_state.h"
#include "kernels/kernels.h"

namespace autoglm {
namespace {

void quantize_query(const AttentionArgs& args, Int8AttentionState& state, int r, const float* q) {
  const int dim = args.kv.head_dim;
  const float largest = max_abs(q, dim);
  const F32x16 inverse = splat(largest > 0.0f ? kTwoPlaneSteps / largest : 0.0f);
  for (int d = 0; d < state.key_dim; d += 16) {
    put_query_codes(state, r, d, round_even(load_padded(q, d, dim) * inverse));
  }
  state.query_scale[r] = largest / kTwoPlaneSteps * args.scale * kLog2E;
}

// Calls body(entries, page, at, num) for the first `num_keys` entries of row r: `num` entries, 16
// but at the end, from key `at` of a page on.
template <typename Body>
inline void for_row_keys(const Int8AttentionState& state, int r, int num_keys, const Body& body) {
  constexpr int kVectors = kPageTokens / 16;
  float* tile = dot_tile_row(state.scores, r, 0);
  for (int page = 0; page * kPageTokens < num_keys; ++page, tile += kVectors * kDotTileFloats) {
    const int rest = num_keys - page * kPageTokens;
    if (rest >= kPageTokens) {
      AUTOGLM_UNROLL
      for (int i = 0; i < kVectors; ++i) body(tile + i * kDotTileFloats, page, 16 * i, 16);
    } else {
      for (int i = 0; 16 * i < rest; ++i) {
        body(tile + i * kDotTileFloats, page, 16 * i, std::min(rest - 16 * i, 16));
      }
    }
  }
}

// Scores of one row from its dots, without the scale of its query; returns the largest.
float score_row(const Int8AttentionState& state, const KeyBlock& block, int r, int num_keys) {
  const F32x16 lowest = splat(-INFINITY);
  F32x16 largest = lowest;
  for_row_keys(state, r, num_keys, [&](float* entries, int page, int at, int num) {
    const F32x16 dots = load_key_dots(entries);
    const F32x16 score = keep_first(dots * load(block.key_scale[page] + at), num, lowest);
    store(entries, score);
    largest = max(largest, score);
  });
  return reduce_max(largest);
}

// Takes the largest scores of this block into account in all rows.
void raise_largest(Int8AttentionState& state) {
  const F32x16 before = load(state.largest);
  const F32x16 now = max(before, load(state.peak) * load(state.query_scale));
  const F32x16 shrink = exp2_negative(before - now);
  store(state.largest, now);
  store(state.shrink, shrink);
  store(state.total, load(state.total) * shrink);
}

// Turns the scores of one row into softmax weights times the scales of the values and returns the
// largest of these. Adds the weights to the total.
float weigh_row(Int8AttentionState& state, const KeyBlock& block, int r, int num_keys) {
  const F32x16 query_scale = splat(state.query_scale[r]), shift = splat(-state.largest[r]);
  const F32x16 zero = splat(0.0f);
  F32x16 total = zero, most = zero;
  for_row_keys(state, r, num_keys, [&](float* entries, int page, int at, int num) {
    const F32x16 weight =
        keep_first(exp2_negative(fma(load(entries), query_scale, shift)), num, zero);
    const F32x16 scaled = keep_first(weight * load(block.value_scale[page] + at), num, zero);
    total = total + weight;
    store(entries, scaled);
    most = max(most, scaled);
  });
  state.total[r] += reduce_add(total);
  return reduce_max(most);
}

// The weights of one row as codes, zeros after the first `num_keys`.
void put_row_codes(Int8AttentionState& state, int r, int num_keys, int num_pages) {
  const F32x16 steps = splat(state.peak[r] > 0.0f ? kWeightSteps / state.peak[r] : 0.0f);
  for (int page = 0; page < num_pages; ++page) {
    const int rest = num_keys - page * kPageTokens;
    const float* tile = dot_tile_row(state.scores, r, page * kPageTokens);
    F32x16 codes[kPageTokens / 16];
    AUTOGLM_UNROLL
    for (int i = 0; i < kPageTokens / 16; ++i) {
      codes[i] = rest > 16 * i ? load(tile + i * kDotTileFloats) * steps : splat(0.0f);
    }
    put_weight_codes(state, r, page * kPageTokens, codes);
  }
  state.weight_scale[r] = state.peak[r] / kWeightSteps;
}

// Softmax weights of all rows as codes. What a row needs from a whole block is found for all rows
// before it is used, so that they do not wait for each other.
void weigh_block(Int8AttentionState& state, const KeyBlock& block, int first_key, int end) {
  int num_keys[kAttentionRows];
  for (int r = 0; r < state.num_rows; ++r) {
    num_keys[r] = std::max(std::min(state.num_keys[r], end) - first_key, 0);
    state.peak[r] = score_row(state, block, r, num_keys[r]);
  }
  raise_largest(state);
  for (int r = 0; r < state.num_rows; ++r) {
    state.peak[r] = weigh_row(state, block, r, num_keys[r]);
  }
  for (int r = 0; r < state.num_rows; ++r) put_row_codes(state, r, num_keys[r], block.num_pages);
}

void add_block_values(const Int8AttentionState& state, int r) {
  float* sums = state.sums + r * state.value_dim;
  const F32x16 shrink = splat(state.shrink[r]), scale = splat(state.weight_scale[r]);
  for (int d = 0; d < state.value_dim; d += 16) {
    const F32x16 dots = load_value_dots(dot_tile_row(state.value_dots, r, d));
    store(sums + d, fma(dots, scale, load(sums + d) * shrink));
  }
}

KeyBlock key_block(const AttentionArgs& args, int kv_head, int first_key, int last_key) {
  const KvLayer& kv = args.kv;
  const size_t keys_bytes = static_cast<size_t>(kv_key_dim(kv.head_dim)) * kPageTokens;
  const size_t values_bytes = static_cast<size_t>(kv_value_dim(kv.head_dim)) * kPageTokens;
  KeyBlock block;
  for (int key = first_key; key < last_key; key += kPageTokens) {
    const int8_t* page =
        static_cast<const int8_t*>(kv.base) + kv.page_table[key / kPageTokens] * kv.page_stride;
    const int8_t* values = page + kv.num_kv_heads * keys_bytes;
    const auto* scales = reinterpret_cast<const float*>(values + kv.num_kv_heads * values_bytes);
    const int i = block.num_pages++;
    block.keys[i] = page + kv_head * keys_bytes;
    block.values[i] = values + kv_head * values_bytes;
    block.key_scale[i] = scales + kv_head * kPageTokens;
    block.value_scale[i] = scales + (kv.num_kv_heads + kv_head) * kPageTokens;
  }
  return block;
}

void prefetch(const int8_t* bytes, size_t count) {
  for (size_t i = 0; i < count; i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

// A token alone waits for memory: the next block of keys is on its way while this one is weighed.
void prefetch_block(const Int8AttentionState& state, const KeyBlock& block) {
  for (int page = 0; page < block.num_pages; ++page) {
    prefetch(block.keys[page], static_cast<size_t>(state.key_dim) * kPageTokens);
    prefetch(block.values[page], static_cast<size_t>(state.value_dim) * kPageTokens);
  }
}

// Keys [begin, end), with the queries as quantised last.
void attend_keys_i8(const AttentionArgs& args, Int8AttentionState& state, int kv_head, int begin,
                    int end) {
  for (int first_key = begin; first_key < end; first_key += kKeyBlock) {
    const int next_key = std::min(first_key + kKeyBlock, end);
    const KeyBlock block = key_block(args, kv_head, first_key, next_key);
    if (state.num_rows < kAttentionRows && next_key < end) {
      prefetch_block(state,
                     key_block(args, kv_head, next_key, std::min(next_key + kKeyBlock, end)));
    }
    dot_keys(state, block);
    weigh_block(state, block, first_key, next_key);
    dot_values(state, block);
    for (int r = 0; r < state.num_rows; ++r) add_block_values(state, r);
  }
}

void attend_rows_i8(const AttentionArgs& args, Int8AttentionState& state, int kv_head) {
  std::fill_n(state.largest, kAttentionRows, kNoScore);
  for (int r = 0; r < state.num_rows; ++r) {
    state.total[r] = 0.0f;
    std::fill_n(state.sums + r * state.value_dim, state.value_dim, 0.0f);
  }
  if (args.num_sink_keys > 0) {
    for (int r = 0; r < state.num_rows; ++r) quantize_query(args, state, r, state.sink_q[r]);
    attend_keys_i8(args, state, kv_head, 0, args.num_sink_keys);
  }
  const int most_keys = *std::max_element(state.num_keys, state.num_keys + state.num_rows);
  for (int r = 0; r < state.num_rows; ++r) quantize_query(args, state, r, state.q[r]);
  attend_keys_i8(args, state, kv_head, args.num_sink_keys, most_keys);
  for (int r = 0; r < state.num_rows; ++r) {
    const F32x16 inverse = splat(1.0f / state.total[r]);
    const float* sums = state.sums + r * state.value_dim;
    for (int d = 0; d < args.kv.head_dim; d += 16) {
      store_partial(state.out[r] + d, std::min(16, args.kv.head_dim - d), load(sums + d) * inverse);
    }
  }
}

void attention_i8(const AttentionArgs& args, int kv_head, int token_begin, int token_end,
                  float* scratch) {
  const int group = args.num_heads / args.kv.num_kv_heads;
  const int dim = args.kv.head_dim;
  [[maybe_unused]] const DotScope scope;
  Int8AttentionState state;
  state.key_dim = kv_key_dim(dim);
  state.value_dim = kv_value_dim(dim);
  state.scores = scratch;
  state.value_dots = scratch;  // the scores are codes by then
  state.sums = scratch + std::max(kKeyBlock, state.value_dim) / 16 * kDotTileFloats;
  state.weight_codes = reinterpret_cast<int8_t*>(state.sums + kAttentionRows * state.value_dim);
  state.query_codes = state.weight_codes + 2 * kAttentionRows * kKeyBlock;
  const int num_rows = (token_end - token_begin) * group;
  for (int first = 0; first < num_rows; first += kAttentionRows) {
    state.num_rows = std::min(kAttentionRows, num_rows - first);
    for (int r = 0; r < state.num_rows; ++r) {
      const int token = token_begin + (first + r) / group;
      const int head = kv_head * group + (first + r) % group;
      state.q[r] = args.q + static_cast<size_t>(token) * args.q_stride + head * dim;
      state.sink_q[r] =
          args.num_sink_keys > 0
              ? args.sink_q + static_cast<size_t>(token) * args.sink_q_stride + head * dim
              : nullptr;
      state.out[r] = args.out + static_cast<size_t>(token) * args.out_stride + head * dim;
      state.num_keys[r] = args.first_position + token + 1;
    }
    attend_rows_i8(args, state, kv_head);
  }
}

void attention(const AttentionArgs& args, int kv_head, int token_begin, int token_end,
               float* scratch) {
  if (args.kv.type == KvType::kI8) {
    attention_i8(args, kv_head, token_begin, token_end, scratch);
  } else {
    attention_float(args, kv_head, token_begin, token_end, scratch);
  }
}

}  // namespace
}  // namespace autoglm
