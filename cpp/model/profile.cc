#include "model/profile.h"

#include <array>

namespace autoglm {
namespace {

constexpr uint64_t kFloat = sizeof(float);

// Four multiplications and two additions rotate two values.
constexpr int kRotationOperations = 3;

uint64_t kv_token_bytes(const KvLayer& kv) {
  const uint64_t elements = kv_page_elements(kv.type, kv.num_kv_heads, kv.head_dim);
  return elements * kv_element_bytes(kv.type) / kPageTokens;
}

uint64_t weight_bytes(const PackedMatrix& weight) {
  uint64_t bytes = row_block_bytes(weight.type, weight.padded_cols);
  bytes *= static_cast<uint64_t>(weight.padded_rows / kRowBlock);
  if (weight.scale != nullptr) bytes += kFloat * weight.padded_rows;
  if (weight.group_scale != nullptr) {
    bytes += static_cast<uint64_t>(weight.padded_rows) * (weight.padded_cols / kGroupSize);
  }
  if (is_sparse(weight.type)) {
    bytes += static_cast<uint64_t>(weight.padded_rows) * weight.padded_cols / 8;
  }
  return bytes;
}

// Tiles that are not stored are not multiplied.
uint64_t multiplied_cols(const PackedMatrix& weight) {
  const bool is_tiled = weight.type == WeightType::kB8;
  return is_tiled ? tile_capacity(weight.padded_cols) * 64 : weight.cols;
}

}  // namespace

std::string_view step_name(Step step) {
  static constexpr std::array<std::string_view, 14> kNames = {
      "embed",    "angles", "input_norm", "qkv",     "rope_store", "attention",  "output",
      "mlp_norm", "router", "experts",    "gate_up", "down",       "final_norm", "head"};
  return kNames[static_cast<size_t>(step)];
}

StepCost rows_cost(int num_rows, int cols, int operations_per_value) {
  const uint64_t values = static_cast<uint64_t>(num_rows) * cols;
  return {.bytes = 2 * kFloat * values, .operations = values * operations_per_value};
}

StepCost embedding_cost(const PackedMatrix& weight, int num_rows) {
  const uint64_t row_bytes = weight_bytes(weight) / weight.padded_rows + kFloat * weight.cols;
  return {.bytes = row_bytes * num_rows};
}

StepCost matrix_cost(const PackedMatrix& weight, int num_rows, int num_outputs) {
  const uint64_t rows = num_rows;
  return {.bytes = weight_bytes(weight) + kFloat * rows * (weight.cols + num_outputs),
          .operations = 2 * rows * weight.rows * multiplied_cols(weight)};
}

StepCost linear_cost(const Linear& linear, int num_rows) {
  return matrix_cost(linear.matrix, num_rows, linear.matrix.rows);
}

StepCost mlp_cost(const Mlp& mlp, int num_rows) {
  StepCost cost = matrix_cost(mlp.gate_up.matrix, num_rows, mlp.down.matrix.cols);
  cost += linear_cost(mlp.down, num_rows);
  return cost;
}

StepCost router_cost(const ModelConfig& config, int num_rows) {
  const uint64_t weights = static_cast<uint64_t>(config.num_experts) * config.hidden_size;
  const uint64_t values = static_cast<uint64_t>(num_rows) * config.hidden_size;
  return {.bytes = kFloat * (weights + values), .operations = 2 * weights * num_rows};
}

StepCost rope_store_cost(const ModelConfig& config, const KvLayer& kv, int num_tokens) {
  const uint64_t tokens = num_tokens;
  const uint64_t num_rotated = tokens * (config.num_heads + config.num_kv_heads);
  const uint64_t kv_bytes = tokens * kv_token_bytes(kv);
  return {.bytes = 2 * kFloat * tokens * config.qkv_rows() + kv_bytes,
          .operations = kRotationOperations * num_rotated * config.rotary_dim,
          .kv_bytes = kv_bytes};
}

StepCost attention_cost(const ModelConfig& config, const KvLayer& kv, int first_position,
                        int num_tokens) {
  const uint64_t tokens = num_tokens;
  const uint64_t num_keys = first_position + tokens;
  const uint64_t num_pairs = tokens * first_position + tokens * (tokens + 1) / 2;
  const uint64_t kv_bytes = num_keys * kv_token_bytes(kv);
  // A query and a key, a weight and a value: two products of head_dim terms.
  return {.bytes = 2 * kFloat * tokens * config.attention_cols() + kv_bytes,
          .operations = 4 * num_pairs * config.attention_cols(),
          .kv_bytes = kv_bytes};
}

}  // namespace autoglm
