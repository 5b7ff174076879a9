// What int8 attention works on: rows of queries, a block of keys, and their scratch.
#pragma once

#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kNoScore = -1e30f;  // below every score, in powers of two
// Weights of scores up to here need no shift to stay within the range of floats, nor do their sums.
constexpr float kSmallScore = 64.0f;

// Pages of one KV head in a key block.
struct KeyBlock {
  int num_pages = 0;
  const int8_t* keys[kKeyBlock / kPageTokens];
  const int8_t* values[kKeyBlock / kPageTokens];
  const float* key_scale[kKeyBlock / kPageTokens];
  const float* value_scale[kKeyBlock / kPageTokens];
};

// Dots lie in tiles of 16 rows by 16 keys (or 16 columns of values). A path may keep the dots of
// two planes, the second after the first, and combine them when they are read. The odd line keeps a
// row's entries from meeting at the same offset of different 4 KiB pages, where loads wait for
// stores they have nothing to do with.
inline constexpr int kDotTileFloats = 2 * kAttentionRows * 16 + 16;

inline constexpr int kWeightStride = kKeyBlock + 16;  // an odd number of lines, for the same reason

struct Int8AttentionState {
  int num_rows;
  int query_planes;
  int key_dim;
  int value_dim;
  const float* q[kAttentionRows];
  const float* sink_q[kAttentionRows];  // of sinks, if any
  float* out[kAttentionRows];
  int num_keys[kAttentionRows];
  alignas(64) float query_scale[kAttentionRows];   // times the softmax scale and log2(e)
  alignas(64) float reach[kAttentionRows];         // largest score for keys of scale 1
  alignas(64) float weight_scale[kAttentionRows];  // of the codes of this block
  alignas(64) float shrink[kAttentionRows];        // what this block multiplies earlier sums by
  alignas(64) float largest[kAttentionRows];       // score so far, in powers of two
  alignas(64) float peak[kAttentionRows];          // largest weight of this block
  alignas(64) float total[kAttentionRows];
  float* dots;           // tiles of int32, by the keys of a page or the columns of values
  float* weights;        // [16][kWeightStride], first scores where these may be large
  float* sums;           // [16][value_dim]
  int8_t* query_codes;   // 2 bytes each, [16][key_dim] in the layout of the dots
  int8_t* weight_codes;  // 2 bytes each, [16][256] in the layout of the dots
};

// Where row r has the entry of key or column `at`; those of the same multiple of 16 follow.
inline float* dot_tile_row(float* tiles, int r, int at) {
  return tiles + at / 16 * kDotTileFloats + r * 16 + at % 16;
}

inline float* weight_row(const Int8AttentionState& state, int r) {
  return state.weights + r * kWeightStride;
}

}  // namespace
}  // namespace autoglm
