// Causal attention over the int8 KV cache, written once over F32x16 and exact integer dot products.
//
// Softmax weights enter the dots with 15 bits or more, queries too or with 8, so that only the
// rounding of the cache costs quality. Keys are weighed in blocks of 256 from the start of the
// sequence, so that a row's arithmetic does not depend on which rows are beside it. The dots of a
// page of keys become weights before those of the next are made, while they are in the first-level
// cache. The including file defines, before it,
//   put_query_codes, put_weight_codes: store 16 and 64 codes of a row in the layout its dots read;
//   kWeightSteps: the largest code of a softmax weight;
//   dot_keys, dot_values: dots of all rows with a page of keys or a block of values;
//   load_key_dots<kPlanes>, load_value_dots: 16 of these dots as floats;
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
  const float steps = state.query_planes == 2 ? kTwoPlaneSteps : kOnePlaneSteps;
  const F32x16 inverse = splat(largest > 0.0f ? steps / largest : 0.0f);
  F32x16 sum = splat(0.0f);
  for (int d = 0; d < state.key_dim; d += 16) {
    const F32x16 codes = round_even(load_padded(q, d, dim) * inverse);
    put_query_codes(state, r, d, codes);
    sum = sum + abs(codes);
  }
  state.query_scale[r] = largest / steps * args.scale * kLog2E;
  state.reach[r] = 127.0f * reduce_add(sum) * state.query_scale[r];
}

// Calls body(at, num) for the first `num_keys` keys of a page: `num` keys, 16 but at the end, from
// key `at` on.
template <typename Body>
inline void for_page_keys(int num_keys, const Body& body) {
  if (num_keys >= kPageTokens) {
    AUTOGLM_UNROLL
    for (int at = 0; at < kPageTokens; at += 16) body(at, 16);
  } else {
    for (int at = 0; at < num_keys; at += 16) body(at, std::min(num_keys - at, 16));
  }
}

// A few rows wait for memory: the next block of keys comes while this one is weighed. Its pages are
// fetched side by side, some lines of each after every piece of work: each is a stream of its own
// to the hardware prefetcher, which then runs ahead in all of them.
class BlockFetch {
 public:
  BlockFetch() = default;
  // `num_steps` calls of step() fetch all of the block.
  BlockFetch(const Int8AttentionState& state, const KeyBlock& block, int num_steps)
      : block_(block),
        num_key_lines_(state.key_dim * kPageTokens / 64),
        num_value_lines_(state.value_dim * kPageTokens / 64),
        num_lines_(std::max(num_key_lines_, num_value_lines_)),
        pages_at_once_((num_lines_ * block.num_pages + num_steps - 1) / num_steps) {}

  void step() {
    for (int i = 0; i < pages_at_once_ && line_ < num_lines_; ++i) {
      if (line_ < num_key_lines_) __builtin_prefetch(block_.keys[page_] + line_ * 64, 0, 2);
      if (line_ < num_value_lines_) __builtin_prefetch(block_.values[page_] + line_ * 64, 0, 2);
      if (++page_ < block_.num_pages) continue;
      page_ = 0;
      ++line_;
    }
  }

 private:
  KeyBlock block_;
  int num_key_lines_ = 0;
  int num_value_lines_ = 0;
  int num_lines_ = 0;
  int pages_at_once_ = 0;
  int page_ = 0;
  int line_ = 0;
};

// What a block of keys adds up to in each row, 16 keys at a time.
struct BlockSums {
  int num_keys[kAttentionRows];  // that the row sees
  bool is_small[kAttentionRows];
  F32x16 total[kAttentionRows];  // of the weights
  F32x16 most[kAttentionRows];   // the largest score, then the largest weight
};

// Where a page of keys has its scales.
struct PageScales {
  const float* key;
  const float* value;
};

// Scores of one row with a page from their dots, without the scale of the query.
template <int kPlanes>
void score_page(const Int8AttentionState& state, const PageScales& scales, int r, int num_keys,
                float* scores, F32x16& most) {
  const F32x16 lowest = splat(-INFINITY);
  for_page_keys(num_keys, [&](int at, int num) {
    const F32x16 dots = load_key_dots<kPlanes>(dot_tile_row(state.dots, r, at));
    const F32x16 score = keep_first(dots * load(scales.key + at), num, lowest);
    store(scores + at, score);
    most = max(most, score);
  });
}

// Softmax weights times the scales of the values, from score(at). If kIsSmall, they are at least
// 2^-64.
template <bool kIsSmall, typename Score>
inline void weigh_page(const Int8AttentionState& state, const PageScales& scales, int r,
                       int num_keys, float* weights, BlockSums& sums, const Score& score) {
  const F32x16 query_scale = splat(state.query_scale[r]), shift = splat(-state.largest[r]);
  const F32x16 zero = splat(0.0f);
  F32x16 total = sums.total[r], most = sums.most[r];
  for_page_keys(num_keys, [&](int at, int num) {
    const F32x16 power = fma(score(at), query_scale, shift);
    const F32x16 any = kIsSmall ? exp2_within(power) : exp2_not_large(power);
    const F32x16 weight = keep_first(any, num, zero);
    const F32x16 scaled = keep_first(weight * load(scales.value + at), num, zero);
    total = total + weight;
    store(weights + at, scaled);
    most = max(most, scaled);
  });
  sums.total[r] = total;
  sums.most[r] = most;
}

// No score of a row is further from zero than its reach times the largest scale of the keys.
float largest_key_scale(const KeyBlock& block, int num_keys) {
  F32x16 largest = splat(0.0f);
  for (int key = 0; key < num_keys; key += 16) {
    const F32x16 scale = load(block.key_scale[key / kPageTokens] + key % kPageTokens);
    largest = max(largest, keep_first(scale, std::min(num_keys - key, 16), splat(0.0f)));
  }
  return reduce_max(largest);
}

// Shifts the weights of each row so that those of its `scores`, in powers of two, fit.
void raise_largest(Int8AttentionState& state, F32x16 scores) {
  const F32x16 before = load(state.largest);
  const F32x16 now = max(before, scores);
  const F32x16 shrink = exp2_not_large(before - now);
  store(state.largest, now);
  store(state.shrink, load(state.shrink) * shrink);
  store(state.total, load(state.total) * shrink);
}

void begin_block(Int8AttentionState& state, const KeyBlock& block, int first_key, int end,
                 BlockSums& sums) {
  int num_scaled = -1;  // keys that key_scale is the largest of; all heads of a token see the same
  float key_scale = 0.0f;
  alignas(64) float scores[kAttentionRows] = {};
  for (int r = 0; r < state.num_rows; ++r) {
    const int num_keys = std::max(std::min(state.num_keys[r], end) - first_key, 0);
    if (num_keys != num_scaled) key_scale = largest_key_scale(block, num_keys);
    num_scaled = num_keys;
    sums.num_keys[r] = num_keys;
    sums.is_small[r] = state.reach[r] * key_scale <= kSmallScore;
    sums.total[r] = splat(0.0f);
    sums.most[r] = splat(sums.is_small[r] ? 0.0f : -INFINITY);
    scores[r] = sums.is_small[r] ? 0.0f : kNoScore;
  }
  std::fill_n(state.shrink, kAttentionRows, 1.0f);
  raise_largest(state, load(scores));
}

// Turns the dots of a page into weights in rows of small scores, into scores in the others.
template <int kPlanes>
void take_page(const Int8AttentionState& state, const KeyBlock& block, int page, BlockSums& sums,
               BlockFetch& fetch) {
  const PageScales scales{block.key_scale[page], block.value_scale[page]};
  for (int r = 0; r < state.num_rows; ++r) {
    const int num_keys = sums.num_keys[r] - page * kPageTokens;
    float* entries = weight_row(state, r) + page * kPageTokens;
    const auto score = [&](int at) {
      return load_key_dots<kPlanes>(dot_tile_row(state.dots, r, at)) * load(scales.key + at);
    };
    if (sums.is_small[r] && state.largest[r] <= 0.0f) {
      weigh_page<true>(state, scales, r, num_keys, entries, sums, score);
    } else if (sums.is_small[r]) {
      weigh_page<false>(state, scales, r, num_keys, entries, sums, score);
    } else {
      score_page<kPlanes>(state, scales, r, num_keys, entries, sums.most[r]);
    }
    fetch.step();
  }
}

// Turns the scores of a whole block into weights.
void weigh_scores(const Int8AttentionState& state, const KeyBlock& block, int r, BlockSums& sums) {
  sums.most[r] = splat(0.0f);
  for (int page = 0; page < block.num_pages; ++page) {
    float* entries = weight_row(state, r) + page * kPageTokens;
    weigh_page<false>(state, {block.key_scale[page], block.value_scale[page]}, r,
                      sums.num_keys[r] - page * kPageTokens, entries, sums,
                      [&](int at) { return load(entries + at); });
  }
}

// The weights of one row as codes, zeros after the first `num_keys`.
void put_row_codes(Int8AttentionState& state, int r, int num_keys, int num_pages) {
  const F32x16 steps = splat(state.peak[r] > 0.0f ? kWeightSteps / state.peak[r] : 0.0f);
  for (int page = 0; page < num_pages; ++page) {
    const int rest = num_keys - page * kPageTokens;
    const float* weights = weight_row(state, r) + page * kPageTokens;
    F32x16 codes[kPageTokens / 16];
    AUTOGLM_UNROLL
    for (int i = 0; i < kPageTokens / 16; ++i) {
      codes[i] = rest > 16 * i ? load(weights + 16 * i) * steps : splat(0.0f);
    }
    put_weight_codes(state, r, page * kPageTokens, codes);
  }
  state.weight_scale[r] = state.peak[r] / kWeightSteps;
}

// Finds the weights of the rows whose scores may be large, now that all scores are there.
void weigh_large_scores(Int8AttentionState& state, const KeyBlock& block, BlockSums& sums) {
  alignas(64) float scores[kAttentionRows];
  bool has_any = false;
  for (int r = 0; r < kAttentionRows; ++r) {
    const bool is_large = r < state.num_rows && !sums.is_small[r] && sums.num_keys[r] > 0;
    scores[r] = is_large ? reduce_max(sums.most[r]) * state.query_scale[r] : kNoScore;
    has_any = has_any || is_large;
  }
  if (!has_any) return;
  raise_largest(state, load(scores));
  for (int r = 0; r < state.num_rows; ++r) {
    if (!sums.is_small[r]) weigh_scores(state, block, r, sums);
  }
}

// Softmax weights of all rows as codes. Rows whose scores are known to be small need no shift, and
// a page becomes weights at once; elsewhere the largest score of the block comes first.
template <int kPlanes>
void weigh_block(Int8AttentionState& state, const KeyBlock& block, int first_key, int end,
                 BlockFetch& fetch) {
  BlockSums sums;
  begin_block(state, block, first_key, end, sums);
  for (int page = 0; page < block.num_pages; ++page) {
    dot_keys(state, block.keys[page]);
    take_page<kPlanes>(state, block, page, sums, fetch);
  }
  weigh_large_scores(state, block, sums);
  for (int r = 0; r < state.num_rows; ++r) {
    state.total[r] += reduce_add(sums.total[r]);
    state.peak[r] = reduce_max(sums.most[r]);
  }
  for (int r = 0; r < state.num_rows; ++r) {
    put_row_codes(state, r, sums.num_keys[r], block.num_pages);
    fetch.step();
  }
}

void add_block_values(const Int8AttentionState& state, int r) {
  float* sums = state.sums + r * state.value_dim;
  const F32x16 shrink = splat(state.shrink[r]), scale = splat(state.weight_scale[r]);
  for (int d = 0; d < state.value_dim; d += 16) {
    const F32x16 dots = load_value_dots(dot_tile_row(state.dots, r, d));
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

// Keys [begin, end), with the queries as quantised last.
void attend_keys_i8(const AttentionArgs& args, Int8AttentionState& state, int kv_head, int begin,
                    int end) {
  for (int first_key = begin; first_key < end; first_key += kKeyBlock) {
    const int next_key = std::min(first_key + kKeyBlock, end);
    const KeyBlock block = key_block(args, kv_head, first_key, next_key);
    BlockFetch fetch;
    if (state.num_rows < kAttentionRows && next_key < end) {
      fetch =
          BlockFetch(state, key_block(args, kv_head, next_key, std::min(next_key + kKeyBlock, end)),
                     (block.num_pages + 1) * state.num_rows);
    }
    if (state.query_planes == 1) {
      weigh_block<1>(state, block, first_key, next_key, fetch);
    } else {
      weigh_block<2>(state, block, first_key, next_key, fetch);
    }
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
  state.query_planes = args.query_planes;
  state.dots = scratch;
  state.weights = scratch + std::max(kPageTokens, state.value_dim) / 16 * kDotTileFloats;
  state.sums = state.weights + kAttentionRows * kWeightStride;
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
