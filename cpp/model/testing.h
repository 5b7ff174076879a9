// Random models of a few thousand weights in a temporary file, for the native tests.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/pack.h"
#include "model/weights.h"

namespace autoglm::test {

// Glm4-like, with odd sizes.
inline ModelConfig tiny_config(WeightType weights = WeightType::kF32) {
  ModelConfig config;
  config.weights = weights;
  config.vocab_size = 67;
  config.hidden_size = 40;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 10;
  config.intermediate_size = 50;
  config.rotary_dim = 6;
  config.rope_interleaved = true;
  config.inv_freq = {1.0f, 0.1f, 0.01f};
  config.sandwich_norms = true;
  config.max_position = 512;
  return config;
}

// Every layer but the first a mixture of 6 experts, 2 of them chosen, in 2 groups.
inline ModelConfig tiny_moe_config(WeightType weights = WeightType::kF32) {
  ModelConfig config = tiny_config(weights);
  config.sandwich_norms = false;
  config.num_experts = 6;
  config.num_experts_per_tok = 2;
  config.num_shared_experts = 1;
  config.moe_intermediate_size = 18;
  config.first_k_dense = 1;
  config.n_group = 2;
  config.topk_group = 1;
  return config;
}

// The tensors of a random model and the file that holds them, removed at the end.
class TinyModel {
 public:
  explicit TinyModel(const ModelConfig& config) : config_(config), pool_(1) {
    write_model();
    std::string path = (std::filesystem::temp_directory_path() / "autoglm_XXXXXX").string();
    const int fd = mkstemp(path.data());
    std::fclose(fdopen(fd, "w"));
    path_ = path;
    std::ofstream(path_, std::ios::binary).write(data_.data(), static_cast<long>(data_.size()));
  }
  ~TinyModel() { std::filesystem::remove(path_); }
  TinyModel(const TinyModel&) = delete;
  TinyModel& operator=(const TinyModel&) = delete;

  std::shared_ptr<const Model> load() const { return load(table_); }
  std::shared_ptr<const Model> load(const std::vector<TensorEntry>& table) const {
    return std::make_shared<const Model>(config_, std::vector<std::string>{path_}, table);
  }
  const std::vector<TensorEntry>& table() const { return table_; }
  const std::string& path() const { return path_; }

 private:
  // Uniform in [-1, 1), the same on every platform.
  float random() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(state_ >> 40) * 0x1p-23f - 1.0f;
  }

  void write_model() {
    const ModelConfig& c = config_;
    matrix("model.embed_tokens", c.vocab_size, c.hidden_size, 0);
    for (int layer = 0; layer < c.num_layers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      norm(prefix + "input_norm.weight");
      matrix(prefix + "attn.qkv", c.qkv_rows(), c.hidden_size, 0);
      matrix(prefix + "attn.o", c.hidden_size, c.attention_cols(), 0);
      norm(prefix + "mlp.norm.weight");
      if (c.sandwich_norms) norm(prefix + "attn.post_norm.weight");
      if (c.sandwich_norms) norm(prefix + "mlp.post_norm.weight");
      if (c.is_moe_layer(layer)) {
        write_experts(prefix + "moe.");
      } else {
        mlp(prefix + "mlp.gate_up", prefix + "mlp.down", c.intermediate_size, 0);
      }
    }
    norm("model.norm.weight");
    matrix("lm_head", c.vocab_size, c.hidden_size, 0);
  }

  void write_experts(const std::string& prefix) {
    const ModelConfig& c = config_;
    floats(prefix + "router.weight", {c.num_experts, c.hidden_size}, 0.0f);
    floats(prefix + "router.bias", {c.num_experts}, 0.0f);
    mlp(prefix + "experts.gate_up", prefix + "experts.down", c.moe_intermediate_size,
        c.num_experts);
    mlp(prefix + "shared.gate_up", prefix + "shared.down",
        c.moe_intermediate_size * c.num_shared_experts, 0);
  }

  void mlp(const std::string& gate_up, const std::string& down, int width, int count) {
    matrix(gate_up, 2 * round_up(width, kRowBlock), config_.hidden_size, count);
    matrix(down, config_.hidden_size, width, count);
  }

  void norm(const std::string& name) { floats(name, {config_.hidden_size}, 1.0f); }

  void floats(const std::string& name, const std::vector<int64_t>& shape, float center) {
    size_t count = 1;
    for (const int64_t extent : shape) count *= static_cast<size_t>(extent);
    std::vector<float> values(count);
    for (float& value : values) value = center + 0.2f * random();
    append(name, "F32", shape, values.data(), count * sizeof(float));
  }

  // `count` matrices stacked, or one without a leading dimension when 0.
  void matrix(const std::string& name, int rows, int cols, int count) {
    std::vector<PartSpec> specs = packed_parts(config_.weights, rows, cols);
    std::vector<std::vector<char>> stacked(specs.size());
    std::vector<float> source(static_cast<size_t>(rows) * cols);
    for (int i = 0; i < std::max(count, 1); ++i) {
      for (float& value : source) value = 0.3f * random();
      std::vector<std::vector<std::byte>> parts;
      std::vector<std::byte*> pointers;
      for (const PartSpec& spec : specs) pointers.push_back(parts.emplace_back(spec.bytes).data());
      pack_rows(config_.weights, SourceType::kF32,
                reinterpret_cast<const std::byte*>(source.data()), rows, cols, pointers, pool_);
      for (size_t p = 0; p < specs.size(); ++p) {
        const auto* bytes = reinterpret_cast<const char*>(pointers[p]);
        stacked[p].insert(stacked[p].end(), bytes, bytes + specs[p].bytes);
      }
    }
    for (size_t p = 0; p < specs.size(); ++p) {
      if (count > 0) specs[p].shape.insert(specs[p].shape.begin(), count);
      append(name + "." + specs[p].suffix, specs[p].dtype, specs[p].shape, stacked[p].data(),
             stacked[p].size());
    }
  }

  void append(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
              const void* bytes, size_t num_bytes) {
    data_.resize((data_.size() + kCacheLine - 1) / kCacheLine * kCacheLine);
    table_.push_back({name, dtype, shape, 0, data_.size(), num_bytes});
    const auto* begin = static_cast<const char*>(bytes);
    data_.insert(data_.end(), begin, begin + num_bytes);
  }

  ModelConfig config_;
  ThreadPool pool_;
  std::string path_;
  std::vector<TensorEntry> table_;
  std::vector<char> data_;
  uint64_t state_ = 1;
};

}  // namespace autoglm::test
