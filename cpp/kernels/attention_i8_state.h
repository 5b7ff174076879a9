// What int8 attention works on: rows of queries, a block of keys, and their scratch.
#pragma once

#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kNoScore = -1e30f;  // below every score, in powers of two

// Pages of one KV head in a key block.
struct KeyBlock {
  int num_pages = 0;
  const int8_t* keys[kKeyBlock / kPageTokens];
  const int8_t* values[kKeyBlock / kPageTokens];
  const float* key_scale[kKeyBlock / kPageTokens];
  const float* value_scale[kKeyBlock / kPageTokens];
};

// Dots, scores and weights lie in tiles of 16 rows by 16 keys (or 16 columns of values). A path may
// keep the dots of two planes, the second after the first, and combine them when they are read.
// The odd line keeps a row's entries from meeting at the same offset of different 4 KiB pages,
// where loads wait for stores they have nothing to do with.
inline constexpr int kDotTileFloats = 2 * kAttentionRows * 16 + 16;

struct Int8AttentionState {
  int num_rows;
  int key_dim;
  int value_dim;
  const float* q[kAttentionRows];
  const float* sink_q[kAttentionRows];  // of sinks, if any
  float* out[kAttentionRows];
  int num_keys[kAttentionRows];
  alignas(64) float query_scale[kAttentionRows];   // times the softmax scale and log2(e)
  alignas(64) float weight_scale[kAttentionRows];  // of the codes of this block
  alignas(64) float shrink[kAttentionRows];        // what this block multiplies earlier sums by
  alignas(64) float largest[kAttentionRows];       // score so far, in powers of two
  alignas(64) float peak[kAttentionRows];          // of this block: the largest score, then weight
  alignas(64) float total[kAttentionRows];
  float* scores;         // tiles of int32 dots, then scores, then weights, by keys
  float* value_dots;     // tiles of int32 dots, by columns
  float* sums;           // [16][value_dim]
  int8_t* query_codes;   // 2 bytes each, [16][key_dim] in the layout of the dots
  int8_t* weight_codes;  // 2 bytes each, [16][256] in the layout of the dots
};

// Where row r has the entry of key or column `at`; those of the same multiple of 16 follow.
inline float* dot_tile_row(float* tiles, int r, int at) {
  return tiles + at / 16 * kDotTileFloats + r * 16 + at % 16;
}

}  // namespace
}  // namespace autoglm
