// What a decoder-only transformer of the supported families looks like, as plain numbers and flags.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace autoglm {

struct ModelConfig {
  WeightType weights = WeightType::kF32;  // of most matrices
  int vocab_size = 0;
  int hidden_size = 0;
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int intermediate_size = 0;  // of the dense layers
  float rms_norm_eps = 1e-5f;
  int rotary_dim = 0;  // leading dimensions of a head that rotate
  bool rope_interleaved = false;
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  float rope_scale = 1.0f;      // multiplies cosines and sines
  bool sandwich_norms = false;  // Glm4: norms after attention and MLP, before the residual adds
  bool qk_norm = false;         // Qwen3: RMSNorm of every query and key head before rope
  bool tie_word_embeddings = false;
  int max_position = 0;

  // Mixture of experts (Glm4Moe); num_experts = 0 means dense.
  int num_experts = 0;
  int num_experts_per_tok = 0;
  int num_shared_experts = 0;
  int moe_intermediate_size = 0;
  int first_k_dense = 0;  // layers before this one are dense
  int n_group = 1;        // groups of experts, of which topk_group may be chosen from
  int topk_group = 1;
  float routed_scaling_factor = 1.0f;
  bool norm_topk_prob = true;

  bool is_moe_layer(int layer) const { return num_experts > 0 && layer >= first_k_dense; }
  int qkv_rows() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
  int attention_cols() const { return num_heads * head_dim; }
};

// Throws Error(kConfigError) naming the field that is out of bounds or contradicts another.
void validate_config(const ModelConfig& config);

}  // namespace autoglm
