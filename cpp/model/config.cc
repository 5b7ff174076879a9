#include "model/config.h"

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>

#include "base/error.h"

namespace autoglm {
namespace {

// A reduction this long of int8 by int8 products still fits 32-bit sums.
constexpr int kMaxReduction = 131072;

template <typename Value>
[[noreturn]] void reject(const char* field, Value value, const std::string& wanted) {
  std::ostringstream message;
  message << "model configuration: " << field << " is " << value << ", must be " << wanted;
  throw Error(kConfigError, message.str());
}

void check_range(const char* field, int value, int low, int high) {
  if (value >= low && value <= high) return;
  reject(field, value, "from " + std::to_string(low) + " to " + std::to_string(high));
}

void check_positive(const char* field, float value) {
  if (!(value > 0.0f) || !std::isfinite(value)) reject(field, value, "positive and finite");
}

void check_heads(const ModelConfig& c) {
  check_range("num_heads", c.num_heads, 1, 1024);
  check_range("num_kv_heads", c.num_kv_heads, 1, c.num_heads);
  check_range("head_dim", c.head_dim, 2, kMaxHeadDim);
  if (c.num_heads % c.num_kv_heads != 0) {
    reject("num_heads", c.num_heads, "a multiple of num_kv_heads");
  }
  if (c.head_dim % 2 != 0) reject("head_dim", c.head_dim, "even");
  check_range("num_heads * head_dim", c.attention_cols(), 1, kMaxReduction);
}

void check_rope(const ModelConfig& c) {
  check_range("rotary_dim", c.rotary_dim, 2, c.head_dim);
  if (c.rotary_dim % 2 != 0) reject("rotary_dim", c.rotary_dim, "even");
  if (c.inv_freq.size() != static_cast<size_t>(c.rotary_dim / 2)) {
    reject("the number of inv_freq values", c.inv_freq.size(), "rotary_dim / 2");
  }
  for (const float value : c.inv_freq) {
    if (!std::isfinite(value) || value < 0.0f) reject("inv_freq", value, "finite, not negative");
  }
  check_positive("rope_scale", c.rope_scale);
}

void check_experts(const ModelConfig& c) {
  check_range("num_experts", c.num_experts, 0, 4096);
  if (c.num_experts == 0) return;
  check_range("moe_intermediate_size", c.moe_intermediate_size, 1, kMaxReduction);
  check_range("num_shared_experts", c.num_shared_experts, 0, 64);
  check_range("moe_intermediate_size * num_shared_experts",
              c.moe_intermediate_size * c.num_shared_experts, 0, kMaxReduction);
  check_range("first_k_dense", c.first_k_dense, 0, c.num_layers);
  check_range("n_group", c.n_group, 1, c.num_experts);
  check_range("topk_group", c.topk_group, 1, c.n_group);
  if (c.num_experts % c.n_group != 0) reject("num_experts", c.num_experts, "a multiple of n_group");
  check_range("num_experts_per_tok", c.num_experts_per_tok, 1,
              c.num_experts / c.n_group * c.topk_group);
  check_positive("routed_scaling_factor", c.routed_scaling_factor);
  if (c.sandwich_norms) reject("sandwich_norms", "set", "unset for a mixture of experts");
}

}  // namespace

void validate_config(const ModelConfig& c) {
  check_range("vocab_size", c.vocab_size, 1, 1 << 22);
  check_range("hidden_size", c.hidden_size, 1, kMaxReduction);
  check_range("num_layers", c.num_layers, 1, 512);
  check_heads(c);
  check_range("intermediate_size", c.intermediate_size, 1, kMaxReduction);
  if (!(c.rms_norm_eps >= 0.0f) || c.rms_norm_eps > 1.0f) {
    reject("rms_norm_eps", c.rms_norm_eps, "from 0 to 1");
  }
  check_rope(c);
  check_range("max_position", c.max_position, 1, 1 << 24);
  check_experts(c);
}

}  // namespace autoglm
