// Causal attention over the int8 KV cache, written once over F32x16 and exact integer dot products.
//
// Queries and softmax weights enter the dots with 15 bits or more, so that only the rounding of the
// cache costs quality. Keys are weighed in blocks of 256 from the start of the sequence, so that a
// row's arithmetic does not depend on which rows are beside it. The including file defines, before
// it,
//   put_query_codes, put_weight_codes: store 16 and 64 codes of a row in the layout its dots read;
//   dot_keys, dot_values: int32 dots of all rows with a block of keys or values.
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

// Scores of one row from its dots, without the scale of its query; returns the largest.
float score_row(const Int8AttentionState& state, const KeyBlock& block, int r, int num_keys) {
  float* scores = state.scores + r * kKeyBlock;
  const F32x16 lowest = splat(-INFINITY);
  F32x16 largest = lowest;
  for (int t = 0; t < num_keys; t += 16) {
    const F32x16 scale = load(block.key_scale[t / kPageTokens] + t % kPageTokens);
    F32x16 score = from_int32(reinterpret_cast<const int32_t*>(scores + t)) * scale;
    if (num_keys - t < 16) score = keep_first(score, num_keys - t, lowest);
    store(scores + t, score);
    largest = max(largest, score);
  }
  return reduce_max(largest);
}

// Turns the scores of one row into softmax weights times the scales of the values and returns the
// largest of these. Adds the weights to the total.
float weigh_scores(Int8AttentionState& state, const KeyBlock& block, int r, int num_keys) {
  float* scores = state.scores + r * kKeyBlock;
  const F32x16 query_scale = splat(state.query_scale[r]), shift = splat(-state.largest[r]);
  F32x16 total = splat(0.0f), most = splat(0.0f);
  for (int t = 0; t < num_keys; t += 16) {
    const F32x16 value_scale = load(block.value_scale[t / kPageTokens] + t % kPageTokens);
    F32x16 weight = exp2_negative(fma(load(scores + t), query_scale, shift));
    F32x16 scaled = weight * value_scale;
    if (num_keys - t < 16) {
      weight = keep_first(weight, num_keys - t, splat(0.0f));
      scaled = keep_first(scaled, num_keys - t, splat(0.0f));
    }
    total = total + weight;
    store(scores + t, scaled);
    most = max(most, scaled);
  }
  state.total[r] += reduce_add(total);
  return reduce_max(most);
}

// Softmax weights of one row, times the scales of the values, as codes.
void weigh_row(Int8AttentionState& state, const KeyBlock& block, int r, int num_keys) {
  const float block_largest = score_row(state, block, r, num_keys) * state.query_scale[r];
  const float largest = std::max(state.largest[r], block_largest);
  state.shrink[r] = std::exp2(state.largest[r] - largest);
  state.largest[r] = largest;
  state.total[r] *= state.shrink[r];
  const float most = weigh_scores(state, block, r, num_keys);
  state.weight_scale[r] = most / kWeightSteps;
  float* scores = state.scores + r * kKeyBlock;
  const int whole = round_up(num_keys, 16);
  std::fill(scores + whole, scores + block.num_pages * kPageTokens, 0.0f);
  const F32x16 steps = splat(most > 0.0f ? kWeightSteps / most : 0.0f);
  for (int t = 0; t < block.num_pages * kPageTokens; t += 64) {
    F32x16 codes[4];
    AUTOGLM_UNROLL
    for (int i = 0; i < 4; ++i) codes[i] = load(scores + t + 16 * i) * steps;
    put_weight_codes(state, r, t, codes);
  }
}

void add_block_values(const Int8AttentionState& state, int r) {
  float* sums = state.sums + r * state.value_dim;
  const int32_t* dots = state.value_dots + r * state.value_dim;
  const F32x16 shrink = splat(state.shrink[r]), scale = splat(state.weight_scale[r]);
  for (int d = 0; d < state.value_dim; d += 16) {
    store(sums + d, fma(from_int32(dots + d), scale, load(sums + d) * shrink));
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
    for (int r = 0; r < state.num_rows; ++r) {
      const int num_keys = std::min(state.num_keys[r], next_key) - first_key;
      if (num_keys > 0) weigh_row(state, block, r, num_keys);
    }
    dot_values(state, block);
    for (int r = 0; r < state.num_rows; ++r) {
      if (state.num_keys[r] > first_key) add_block_values(state, r);
    }
  }
}

void attend_rows_i8(const AttentionArgs& args, Int8AttentionState& state, int kv_head) {
  for (int r = 0; r < state.num_rows; ++r) {
    state.largest[r] = -INFINITY;
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
  Int8AttentionState state;
  state.key_dim = kv_key_dim(dim);
  state.value_dim = kv_value_dim(dim);
  state.scores = scratch;
  state.weight_codes = reinterpret_cast<int8_t*>(state.scores + kAttentionRows * kKeyBlock);
  state.query_codes = state.weight_codes + 2 * kAttentionRows * kKeyBlock;
  state.sums = reinterpret_cast<float*>(state.query_codes + 2 * kAttentionRows * state.key_dim);
  state.value_dots = reinterpret_cast<int32_t*>(state.sums + kAttentionRows * state.value_dim);
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
