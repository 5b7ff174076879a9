// What int8 attention works on: rows of queries, a block of keys, and their scratch.
#pragma once

#include "kernels/kernels.h"

namespace autoglm {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kWeightSteps = 32640.0f;  // largest code of a softmax weight: 128 * 255

// Pages of one KV head in a key block.
struct KeyBlock {
  int num_pages = 0;
  const int8_t* keys[kKeyBlock / kPageTokens];
  const int8_t* values[kKeyBlock / kPageTokens];
  const float* key_scale[kKeyBlock / kPageTokens];
  const float* value_scale[kKeyBlock / kPageTokens];
};

struct Int8AttentionState {
  int num_rows;
  int key_dim;
  int value_dim;
  const float* q[kAttentionRows];
  const float* sink_q[kAttentionRows];
  float* out[kAttentionRows];
  int num_keys[kAttentionRows];
  float query_scale[kAttentionRows];   // times the softmax scale and log2(e)
  float weight_scale[kAttentionRows];  // of the codes of this block
  float shrink[kAttentionRows];        // what this block multiplies earlier sums by
  float largest[kAttentionRows];       // score so far, in powers of two
  float total[kAttentionRows];
  float* scores;         // [16][256]: int32 dots, then scores, then weights
  int32_t* value_dots;   // [16][value_dim]
  float* sums;           // [16][value_dim]
  int8_t* query_codes;   // 2 bytes each, [16][key_dim] in the layout of the dots
  int8_t* weight_codes;  // 2 bytes each, [16][256] in the layout of the dots
};

}  // namespace
}  // namespace autoglm
