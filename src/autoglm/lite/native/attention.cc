// Causal grouped-query attention with rotary embedding, forward and backward, heads of 64.
//
// One item is a sequence and a key-value head. Nothing of size [tokens, tokens] leaves the thread
// that made it; the backward pass recomputes probabilities from the kept log-sums, transposed, so
// that sums over keys and over queries both run along K of a tile product.
#include <algorithm>
#include <cmath>

#include "tiles.h"

namespace lite {
namespace {

constexpr int kHead = 64;
constexpr int kHeadTiles = kHead / kTileK;
constexpr float kQueryScale = 0.125f;  // 1 / sqrt(64), exact in bf16
constexpr long kPanel = kHeadTiles * kTileElements;

struct Shape {
  int tokens, heads, kv_heads, rotary;
  long stride() const { return static_cast<long>(heads + 2 * kv_heads) * kHead; }
  long width() const { return static_cast<long>(heads) * kHead; }
};

struct Workspace {
  Scratch<bf16> rows, keys, keys_transposed, values, queries, queries_paired, grads, grads_paired;
  Scratch<bf16> probabilities, slopes, slopes_paired;
  Scratch<float> scores, grad_keys, grad_values, delta, block;
};

thread_local Workspace workspace;

// Turns pairs (2i, 2i + 1) of the leading dimensions by the angle of the position, or back.
void turn_row(const bf16* in, const float* cos, const float* sin, int rotary, float sign,
              float scale, bf16* out) {
  const __m512 scales = _mm512_set1_ps(scale);
  for (int i = 0; i < kHead; i += 32) {
    const __m512i words = _mm512_loadu_si512(in + i);
    __m512 even = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), scales);
    __m512 odd = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(
                                   words, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))),
                               scales);
    const int left = std::clamp((rotary - i) / 2, 0, 16);
    if (left > 0) {
      const __mmask16 turned = static_cast<__mmask16>((1u << left) - 1);
      const __m512 c = _mm512_mask_loadu_ps(_mm512_set1_ps(1.0f), turned, cos + i / 2);
      const __m512 s =
          _mm512_mul_ps(_mm512_maskz_loadu_ps(turned, sin + i / 2), _mm512_set1_ps(sign));
      const __m512 new_even = _mm512_fmsub_ps(even, c, _mm512_mul_ps(odd, s));
      odd = _mm512_fmadd_ps(odd, c, _mm512_mul_ps(even, s));
      even = new_even;
    }
    _mm512_storeu_si512(out + i, pair_rows(narrow(even), narrow(odd)));
  }
}

struct Rotation {
  const float* cos;  // [tokens, rotary / 2]
  const float* sin;
  int rotary;

  void turn(const bf16* source, long stride, int tokens, float scale, bf16* out) const {
    for (int t = 0; t < tokens; ++t) {
      turn_row(source + t * stride, cos + t * rotary / 2, sin + t * rotary / 2, rotary, 1.0f, scale,
               out + t * kHead);
    }
  }

  // Undoes `turn` on fp32 gradients.
  void turn_back(const float* grad, int tokens, float scale, bf16* out, long stride) const {
    alignas(64) bf16 row[kHead];
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < kHead; i += 16)
        store_narrow(row + i, _mm512_loadu_ps(grad + t * kHead + i));
      turn_row(row, cos + t * rotary / 2, sin + t * rotary / 2, rotary, -1.0f, scale,
               out + t * stride);
    }
  }
};

// Left-hand tiles of rows [count, 64], or right-hand tiles of its transpose [64, count].
void pack_rows(const bf16* source, long stride, int count, bool is_transposed, bf16* packed) {
  for (int r = 0; r < count; r += kTileRows) {
    for (int k = 0; k < kHeadTiles; ++k) {
      tile_from_rows(source + r * stride + k * kTileK, stride, is_transposed,
                     packed + (r / kTileRows * kHeadTiles + k) * static_cast<long>(kTileElements));
    }
  }
}

// Right-hand tiles of rows [count, 64] summed over the rows, or left-hand tiles of the transpose.
void pack_columns(const bf16* source, long stride, int count, bool is_transposed, bf16* packed) {
  const int depth = count / kTileK;
  for (int d = 0; d < kHead; d += 16) {
    for (int k = 0; k < depth; ++k) {
      tile_from_columns(source + static_cast<long>(k) * kTileK * stride + d, stride, is_transposed,
                        packed + (d / 16 * depth + k) * static_cast<long>(kTileElements));
    }
  }
}

// Softmax of one row of scores over its first `count` keys, written as a row of left-hand tiles;
// the row is unnormalised. Returns the largest score and sets the sum.
float softmax_row(const float* scores, int count, int padded, bf16* tiles, float* sum) {
  __m512 top = _mm512_set1_ps(-3e38f);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 mask =
        count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
    top = _mm512_mask_max_ps(top, mask, top, _mm512_maskz_loadu_ps(mask, scores + i));
  }
  const float highest = _mm512_reduce_max_ps(top);
  const __m512 shift = _mm512_set1_ps(highest);
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < padded; i += 16) {
    const int left = std::clamp(count - i, 0, 16);
    const __mmask16 mask = static_cast<__mmask16>((1u << left) - 1);
    const __m512 value = _mm512_maskz_mov_ps(
        mask, exp512(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + i), shift)));
    total = _mm512_add_ps(total, value);
    store_narrow(tiles + i / kTileK * static_cast<long>(kTileElements) + i % kTileK, value);
  }
  *sum = _mm512_reduce_add_ps(total);
  return highest;
}

void forward_block(const Shape& shape, int first, const bf16* queries, const bf16* keys,
                   const bf16* values, Workspace& work, bf16* out, float* log_sums) {
  const int padded = first + kBlock;
  const int depth = padded / kTileK;
  float* scores = work.scores.get(static_cast<std::size_t>(kBlock) * shape.tokens);
  bf16* left = work.probabilities.get(static_cast<std::size_t>(kBlock) * shape.tokens);
  for (int key = 0; key < padded; key += kBlock) {
    multiply_block(queries + first / kTileRows * kPanel, kPanel, keys + key / kTileRows * kPanel,
                   kPanel, kHeadTiles, false, scores + key, padded);
  }
  float inverse[kBlock];
  for (int r = 0; r < kBlock; ++r) {
    float sum = 0.0f;
    bf16* tiles =
        left + static_cast<long>(r / kTileRows) * depth * kTileElements + r % kTileRows * kTileK;
    const float highest =
        softmax_row(scores + static_cast<long>(r) * padded, first + r + 1, padded, tiles, &sum);
    log_sums[first + r] = highest + std::log(sum);
    inverse[r] = 1.0f / sum;
  }
  float* block = work.block.get(static_cast<std::size_t>(kBlock) * kHead);
  const long value_panel = static_cast<long>(shape.tokens / kTileK) * kTileElements;
  for (int d = 0; d < kHead; d += kBlock) {
    multiply_block(left, static_cast<long>(depth) * kTileElements, values + d / 16 * value_panel,
                   value_panel, depth, false, block + d, kHead);
  }
  for (int r = 0; r < kBlock; ++r) {
    for (int i = 0; i < kHead; i += 16) {
      const __m512 value =
          _mm512_mul_ps(_mm512_loadu_ps(block + r * kHead + i), _mm512_set1_ps(inverse[r]));
      store_narrow(out + (first + r) * shape.width() + i, value);
    }
  }
}

void forward_item(const Shape& shape, const Rotation& rotation, const bf16* qkv, int kv, bf16* out,
                  float* log_sums) {
  Workspace& work = workspace;
  const TileScope tiles;
  const std::size_t size = static_cast<std::size_t>(shape.tokens) * kHead;
  bf16* rows = work.rows.get(size);
  bf16* keys = work.keys.get(size);
  bf16* values = work.values.get(size);
  bf16* queries = work.queries.get(size);
  const bf16* key_source = qkv + (shape.heads + kv) * static_cast<long>(kHead);
  rotation.turn(key_source, shape.stride(), shape.tokens, 1.0f, rows);
  pack_rows(rows, kHead, shape.tokens, true, keys);
  pack_columns(key_source + static_cast<long>(shape.kv_heads) * kHead, shape.stride(), shape.tokens,
               false, values);
  const int group = shape.heads / shape.kv_heads;
  for (int head = kv * group; head < (kv + 1) * group; ++head) {
    rotation.turn(qkv + static_cast<long>(head) * kHead, shape.stride(), shape.tokens, kQueryScale,
                  rows);
    pack_rows(rows, kHead, shape.tokens, false, queries);
    for (int first = 0; first < shape.tokens; first += kBlock) {
      forward_block(shape, first, queries, keys, values, work,
                    out + static_cast<long>(head) * kHead,
                    log_sums + static_cast<long>(head) * shape.tokens);
    }
  }
}

// Per query: the dot product of an output with its gradient.
void deltas(const Shape& shape, const bf16* out, const bf16* grad, float* delta) {
  for (int t = 0; t < shape.tokens; ++t) {
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < kHead; i += 16) {
      sum = _mm512_fmadd_ps(widen(out + t * shape.width() + i), widen(grad + t * shape.width() + i),
                            sum);
    }
    delta[t] = _mm512_reduce_add_ps(sum);
  }
}

struct HeadState {
  const bf16 *keys, *values;                                    // left-hand, [tokens, 64]
  const bf16 *queries, *queries_paired, *grads, *grads_paired;  // right-hand: [64, q] and [q, 64]
  const float *log_sums, *delta;
};

// Probabilities and their gradients of 32 keys by 32 queries, as left-hand tiles [key, query] and,
// of the gradients, as right-hand tiles [key, query] for sums over keys.
void slope_block(const float* scores, const float* grads, const HeadState& state, int key,
                 int query, bf16* probabilities, long panel, bf16* slopes, bf16* slopes_paired,
                 long paired_panel) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int half = 0; half < kBlock; half += 16) {
    const __m512 log_sum = _mm512_loadu_ps(state.log_sums + query + half);
    const __m512 delta = _mm512_loadu_ps(state.delta + query + half);
    const __m512i positions = _mm512_add_epi32(lanes, _mm512_set1_epi32(query + half));
    __m256i previous = _mm256_setzero_si256();
    for (int r = 0; r < kBlock; ++r) {
      const __mmask16 seen = _mm512_cmpge_epi32_mask(positions, _mm512_set1_epi32(key + r));
      const __m512 score = _mm512_load_ps(scores + r * kBlock + half);
      const __m512 p = _mm512_maskz_mov_ps(seen, exp512(_mm512_sub_ps(score, log_sum)));
      const __m512 slope =
          _mm512_mul_ps(p, _mm512_sub_ps(_mm512_load_ps(grads + r * kBlock + half), delta));
      const long at = r / kTileRows * panel + r % kTileRows * kTileK + half;
      store_narrow(probabilities + at, p);
      const __m256i low = narrow(slope);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(slopes + at), low);
      if (r % 2 == 1) {
        bf16* pair = slopes_paired + half / 16 * paired_panel + r / 2 * kTileK;
        _mm512_store_si512(pair, pair_rows(previous, low));
      }
      previous = low;
    }
  }
}

// All queries that see a block of keys: gradients of these keys and values, slopes for the queries.
void backward_keys(const Shape& shape, int key, const HeadState& state, Workspace& work,
                   bf16* slopes_paired) {
  const int depth = (shape.tokens - key) / kTileK;
  const long panel = static_cast<long>(depth) * kTileElements;
  const long paired_panel = static_cast<long>(shape.tokens / kTileK) * kTileElements;
  const std::size_t size = static_cast<std::size_t>(kBlock) * shape.tokens;
  bf16* probabilities = work.probabilities.get(size);
  bf16* slopes = work.slopes.get(size);
  float* scores = work.scores.get(std::max<std::size_t>(2 * kBlock * kBlock, size));
  float* grads = scores + kBlock * kBlock;
  for (int query = key; query < shape.tokens; query += kBlock) {
    const long at = query / kTileRows * kPanel;
    multiply_block(state.keys + key / kTileRows * kPanel, kPanel, state.queries + at, kPanel,
                   kHeadTiles, false, scores, kBlock);
    multiply_block(state.values + key / kTileRows * kPanel, kPanel, state.grads + at, kPanel,
                   kHeadTiles, false, grads, kBlock);
    const long tile = static_cast<long>((query - key) / kTileK) * kTileElements;
    slope_block(
        scores, grads, state, key, query, probabilities + tile, panel, slopes + tile,
        slopes_paired + query / 16 * paired_panel + static_cast<long>(key / kTileK) * kTileElements,
        paired_panel);
  }
  float* grad_keys = work.grad_keys.get(0) + static_cast<long>(key) * kHead;
  float* grad_values = work.grad_values.get(0) + static_cast<long>(key) * kHead;
  const long from = static_cast<long>(key / kTileK) * kTileElements;
  for (int d = 0; d < kHead; d += kBlock) {
    const long right = d / 16 * paired_panel + from;
    multiply_block(probabilities, panel, state.grads_paired + right, paired_panel, depth, true,
                   grad_values + d, kHead);
    multiply_block(slopes, panel, state.queries_paired + right, paired_panel, depth, true,
                   grad_keys + d, kHead);
  }
}

// Gradients of a block of queries: a [64, 32] product over the keys they see, turned round.
void backward_queries(const Shape& shape, int query, const bf16* keys_transposed,
                      const bf16* slopes_paired, float* grad) {
  alignas(64) float block[kBlock * kBlock];
  const long panel = static_cast<long>(shape.tokens / kTileK) * kTileElements;
  for (int d = 0; d < kHead; d += kBlock) {
    multiply_block(keys_transposed + d / 16 * panel, panel, slopes_paired + query / 16 * panel,
                   panel, (query + kBlock) / kTileK, false, block, kBlock);
    for (int r = 0; r < kBlock; ++r) {
      for (int q = 0; q < kBlock; ++q) grad[(query + q) * kHead + d + r] = block[r * kBlock + q];
    }
  }
}

void backward_head(const Shape& shape, const Rotation& rotation, const bf16* qkv, const bf16* out,
                   const bf16* grad_out, const bf16* keys_transposed, HeadState state,
                   Workspace& work, bf16* grad_query) {
  const std::size_t size = static_cast<std::size_t>(shape.tokens) * kHead;
  bf16* rows = work.rows.get(size);
  bf16* queries = work.queries.get(size);
  bf16* queries_paired = work.queries_paired.get(size);
  bf16* grads = work.grads.get(size);
  bf16* grads_paired = work.grads_paired.get(size);
  float* delta = work.delta.get(shape.tokens);
  rotation.turn(qkv, shape.stride(), shape.tokens, kQueryScale, rows);
  pack_rows(rows, kHead, shape.tokens, true, queries);
  pack_columns(rows, kHead, shape.tokens, false, queries_paired);
  pack_rows(grad_out, shape.width(), shape.tokens, true, grads);
  pack_columns(grad_out, shape.width(), shape.tokens, false, grads_paired);
  deltas(shape, out, grad_out, delta);
  state.queries = queries;
  state.queries_paired = queries_paired;
  state.grads = grads;
  state.grads_paired = grads_paired;
  state.delta = delta;
  bf16* slopes_paired =
      work.slopes_paired.get(static_cast<std::size_t>(shape.tokens) * shape.tokens);
  for (int key = 0; key < shape.tokens; key += kBlock)
    backward_keys(shape, key, state, work, slopes_paired);
  float* grad = work.scores.get(size);
  for (int query = 0; query < shape.tokens; query += kBlock) {
    backward_queries(shape, query, keys_transposed, slopes_paired, grad);
  }
  rotation.turn_back(grad, shape.tokens, kQueryScale, grad_query, shape.stride());
}

void backward_item(const Shape& shape, const Rotation& rotation, const bf16* qkv, const bf16* out,
                   const float* log_sums, const bf16* grad_out, int kv, bf16* grad_qkv) {
  Workspace& work = workspace;
  const TileScope tiles;
  const std::size_t size = static_cast<std::size_t>(shape.tokens) * kHead;
  bf16* rows = work.rows.get(size);
  bf16* keys = work.keys.get(size);
  bf16* keys_transposed = work.keys_transposed.get(size);
  bf16* values = work.values.get(size);
  const long key_at = (shape.heads + kv) * static_cast<long>(kHead);
  const long value_at = key_at + static_cast<long>(shape.kv_heads) * kHead;
  rotation.turn(qkv + key_at, shape.stride(), shape.tokens, 1.0f, rows);
  pack_rows(rows, kHead, shape.tokens, false, keys);
  pack_columns(rows, kHead, shape.tokens, true, keys_transposed);
  pack_rows(qkv + value_at, shape.stride(), shape.tokens, false, values);
  std::fill_n(work.grad_keys.get(size), size, 0.0f);
  std::fill_n(work.grad_values.get(size), size, 0.0f);
  const int group = shape.heads / shape.kv_heads;
  for (int head = kv * group; head < (kv + 1) * group; ++head) {
    const long at = static_cast<long>(head) * kHead;
    HeadState state{};
    state.keys = keys;
    state.values = values;
    state.log_sums = log_sums + static_cast<long>(head) * shape.tokens;
    backward_head(shape, rotation, qkv + at, out + at, grad_out + at, keys_transposed, state, work,
                  grad_qkv + at);
  }
  rotation.turn_back(work.grad_keys.get(size), shape.tokens, 1.0f, grad_qkv + key_at,
                     shape.stride());
  const float* grad_values = work.grad_values.get(size);
  for (int t = 0; t < shape.tokens; ++t) {
    for (int i = 0; i < kHead; i += 16) {
      store_narrow(grad_qkv + value_at + t * shape.stride() + i,
                   _mm512_loadu_ps(grad_values + t * kHead + i));
    }
  }
}

}  // namespace
}  // namespace lite

using namespace lite;

// qkv is [batch, tokens, heads + 2 kv heads, 64], out [batch, tokens, heads, 64], log_sums
// [batch, heads, tokens]; tokens is a multiple of 32, rotary of 2.
extern "C" void lite_attention(const bf16* qkv, const float* cos, const float* sin, long batch,
                               int tokens, int heads, int kv_heads, int rotary, bf16* out,
                               float* log_sums) {
  const Shape shape{tokens, heads, kv_heads, rotary};
  const Rotation rotation{cos, sin, rotary};
#pragma omp parallel for schedule(dynamic, 1)
  for (long item = 0; item < batch * kv_heads; ++item) {
    const long b = item / kv_heads;
    forward_item(shape, rotation, qkv + b * tokens * shape.stride(),
                 static_cast<int>(item % kv_heads), out + b * tokens * shape.width(),
                 log_sums + b * heads * tokens);
  }
}

extern "C" void lite_attention_backward(const bf16* qkv, const float* cos, const float* sin,
                                        long batch, int tokens, int heads, int kv_heads, int rotary,
                                        const bf16* out, const float* log_sums,
                                        const bf16* grad_out, bf16* grad_qkv) {
  const Shape shape{tokens, heads, kv_heads, rotary};
  const Rotation rotation{cos, sin, rotary};
#pragma omp parallel for schedule(dynamic, 1)
  for (long item = 0; item < batch * kv_heads; ++item) {
    const long b = item / kv_heads;
    backward_item(shape, rotation, qkv + b * tokens * shape.stride(),
                  out + b * tokens * shape.width(), log_sums + b * heads * tokens,
                  grad_out + b * tokens * shape.width(), static_cast<int>(item % kv_heads),
                  grad_qkv + b * tokens * shape.stride());
  }
}

// False where the processor or the system lacks AMX; asks the system for its registers.
extern "C" int lite_has_tiles() {
  constexpr int kRequestPermission = 0x1023;
  constexpr int kTileData = 18;
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("amx-bf16")) return 0;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(158L), "D"(static_cast<long>(kRequestPermission)),
                 "S"(static_cast<long>(kTileData))
               : "rcx", "r11", "memory");
  return result == 0 ? 1 : 0;
}
