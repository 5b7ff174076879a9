#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "kernels/pack.h"

namespace autoglm {
namespace {

constexpr WeightType kWeightTypes[] = {WeightType::kF32, WeightType::kBF16, WeightType::kI8,
                                       WeightType::kI4,  WeightType::kI3,   WeightType::kS8,
                                       WeightType::kH8,  WeightType::kB8};

[[noreturn]] void reject(const std::string& tensor, const std::string& what) {
  throw Error(kModelFileError, "tensor '" + tensor + "' " + what);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text + "]";
}

// The tensor table, checked against the files on construction and against the model on look-up.
class TensorTable {
 public:
  TensorTable(const std::vector<MmapFile>& files, const std::vector<TensorEntry>& entries)
      : files_(files) {
    for (const TensorEntry& entry : entries) {
      check_range(entry);
      if (!entries_.emplace(entry.name, Slot{&entry, false}).second) {
        reject(entry.name, "appears twice");
      }
    }
    check_overlap(entries);
  }

  // Null when there is no such tensor.
  const std::byte* find(const std::string& name, std::string_view dtype,
                        const std::vector<int64_t>& shape, uint64_t num_bytes) {
    const auto slot = entries_.find(name);
    if (slot == entries_.end()) return nullptr;
    const TensorEntry& entry = *slot->second.entry;
    if (entry.dtype != dtype) {
      reject(name, "has type " + entry.dtype + ", the configuration needs " + std::string(dtype));
    }
    if (entry.shape != shape) {
      reject(name, "has shape " + shape_text(entry.shape) + ", the configuration needs " +
                       shape_text(shape));
    }
    if (entry.num_bytes != num_bytes) {
      reject(name, "has " + std::to_string(entry.num_bytes) + " bytes, its shape needs " +
                       std::to_string(num_bytes));
    }
    slot->second.is_used = true;
    return files_[entry.file_index].data() + entry.offset;
  }

  const std::byte* get(const std::string& name, std::string_view dtype,
                       const std::vector<int64_t>& shape, uint64_t num_bytes) {
    const std::byte* data = find(name, dtype, shape, num_bytes);
    if (data == nullptr) reject(name, "is missing");
    return data;
  }

  const float* get_floats(const std::string& name, const std::vector<int64_t>& shape) {
    return reinterpret_cast<const float*>(get(name, "F32", shape, num_float_bytes(shape)));
  }

  const float* find_floats(const std::string& name, const std::vector<int64_t>& shape) {
    return reinterpret_cast<const float*>(find(name, "F32", shape, num_float_bytes(shape)));
  }

  bool has(const std::string& name) const { return entries_.contains(name); }

  // The type a matrix is stored in, by that of its codes; `usual` when there is no such matrix.
  WeightType weight_type(const std::string& matrix, WeightType usual) const {
    const auto slot = entries_.find(matrix + ".weight");
    if (slot == entries_.end()) return usual;
    for (const WeightType type : kWeightTypes) {
      if (packed_parts(type, 1, 1)[0].dtype == slot->second.entry->dtype) return type;
    }
    return usual;
  }

  // Where a tensor that get() returned begins.
  ExpertPart place(const std::string& name, uint64_t expert_bytes) const {
    const TensorEntry& entry = *entries_.at(name).entry;
    return {static_cast<size_t>(entry.file_index), entry.offset, expert_bytes};
  }

  void check_all_used() const {
    for (const auto& [name, slot] : entries_) {
      if (!slot.is_used) reject(name, "belongs to no part of this model");
    }
  }

 private:
  struct Slot {
    const TensorEntry* entry;
    bool is_used;
  };

  static uint64_t num_float_bytes(const std::vector<int64_t>& shape) {
    uint64_t bytes = sizeof(float);
    for (const int64_t extent : shape) bytes *= static_cast<uint64_t>(extent);
    return bytes;
  }

  void check_range(const TensorEntry& entry) const {
    if (entry.file_index < 0 || static_cast<uint64_t>(entry.file_index) >= files_.size()) {
      reject(entry.name, "lies in file " + std::to_string(entry.file_index) + " of " +
                             std::to_string(files_.size()));
    }
    const uint64_t size = files_[entry.file_index].size();
    if (entry.offset > size || entry.num_bytes > size - entry.offset) {
      reject(entry.name, "has " + std::to_string(entry.num_bytes) + " bytes at byte " +
                             std::to_string(entry.offset) + ", the file has " +
                             std::to_string(size));
    }
    if (entry.offset % kCacheLine != 0) {
      reject(entry.name, "begins at byte " + std::to_string(entry.offset) +
                             ", which is not a multiple of " + std::to_string(kCacheLine));
    }
  }

  static void check_overlap(const std::vector<TensorEntry>& entries) {
    std::vector<const TensorEntry*> sorted;
    for (const TensorEntry& entry : entries) sorted.push_back(&entry);
    std::sort(sorted.begin(), sorted.end(), [](const TensorEntry* a, const TensorEntry* b) {
      return std::pair(a->file_index, a->offset) < std::pair(b->file_index, b->offset);
    });
    for (size_t i = 1; i < sorted.size(); ++i) {
      const TensorEntry& before = *sorted[i - 1];
      if (before.file_index == sorted[i]->file_index &&
          before.offset + before.num_bytes > sorted[i]->offset) {
        reject(sorted[i]->name, "overlaps tensor '" + before.name + "'");
      }
    }
  }

  const std::vector<MmapFile>& files_;
  std::unordered_map<std::string, Slot> entries_;
};

// Looks up the matrices of a model.
class WeightReader {
 public:
  WeightReader(TensorTable& table, const ModelConfig& config) : table_(table), config_(config) {}

  PackedMatrix matrix(const std::string& name, int rows, int cols) {
    return matrices(name, rows, cols, 0)[0];
  }

  // `count` matrices stacked in one tensor along a leading dimension.
  std::vector<PackedMatrix> stack(const std::string& name, int rows, int cols, int count) {
    return matrices(name, rows, cols, count);
  }

  Linear linear(const std::string& name, int rows, int cols) {
    Linear result{.matrix = matrix(name, rows, cols),
                  .bias = table_.find_floats(name + ".bias", {rows}),
                  .input_scale = table_.find_floats(name + ".input_scale", {cols})};
    const std::string range = name + ".input_range";
    if (const float* value = table_.find_floats(range, {1})) {
      if (!(*value > 0.0f) || !std::isfinite(*value)) reject(range, "is not positive and finite");
      result.input_range = *value;
    }
    if (table_.has(name + ".offset.weight")) {
      result.offset = matrix(name + ".offset", rows, result.num_groups());
    }
    return result;
  }

  Mlp mlp(const std::string& gate_up, const std::string& down, int intermediate_size) {
    return {linear(gate_up, 2 * round_up(intermediate_size, kRowBlock), config_.hidden_size),
            linear(down, config_.hidden_size, intermediate_size)};
  }

  const float* norm(const std::string& name, int size) {
    return table_.get_floats(name + ".weight", {size});
  }

  MoeWeights moe(const std::string& prefix) {
    const int count = config_.num_experts;
    const int hidden = config_.hidden_size;
    const int inner = config_.moe_intermediate_size;
    MoeWeights moe;
    moe.router = table_.get_floats(prefix + "router.weight", {count, hidden});
    moe.router_bias = table_.get_floats(prefix + "router.bias", {count});
    const int gate_up_rows = 2 * round_up(inner, kRowBlock);
    const auto gate_up = stack(prefix + "experts.gate_up", gate_up_rows, hidden, count);
    const auto down = stack(prefix + "experts.down", hidden, inner, count);
    moe.gate_up_parts = places(prefix + "experts.gate_up", gate_up[0]);
    moe.down_parts = places(prefix + "experts.down", down[0]);
    for (int e = 0; e < count; ++e) moe.experts.push_back({{gate_up[e]}, {down[e]}});
    if (config_.num_shared_experts > 0) {
      moe.shared = mlp(prefix + "shared.gate_up", prefix + "shared.down",
                       inner * config_.num_shared_experts);
    }
    return moe;
  }

  // The types of all matrices so far.
  const std::set<WeightType>& types() const { return types_; }

 private:
  std::vector<PackedMatrix> matrices(const std::string& name, int rows, int cols, int stacked) {
    const WeightType type = table_.weight_type(name, config_.weights);
    std::vector<PartSpec> specs = packed_parts(type, rows, cols);
    std::vector<const std::byte*> parts;
    types_.insert(type);
    const int count = std::max(stacked, 1);
    for (PartSpec& spec : specs) {
      if (stacked > 0) spec.shape.insert(spec.shape.begin(), stacked);
      parts.push_back(
          table_.get(name + "." + spec.suffix, spec.dtype, spec.shape, spec.bytes * count));
    }
    std::vector<PackedMatrix> views;
    for (int i = 0; i < count; ++i) {
      views.push_back(packed_view(type, rows, cols, parts));
      for (size_t p = 0; p < parts.size(); ++p) parts[p] += specs[p].bytes;
    }
    return views;
  }

  std::vector<ExpertPart> places(const std::string& name, const PackedMatrix& first) {
    std::vector<ExpertPart> parts;
    for (const PartSpec& spec : packed_parts(first.type, first.rows, first.cols)) {
      parts.push_back(table_.place(name + "." + spec.suffix, spec.bytes));
    }
    return parts;
  }

  TensorTable& table_;
  const ModelConfig& config_;
  std::set<WeightType> types_;
};

LayerWeights read_layer(WeightReader& reader, const ModelConfig& config, int layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const int hidden = config.hidden_size;
  LayerWeights w;
  w.input_norm = reader.norm(prefix + "input_norm", hidden);
  w.qkv = reader.linear(prefix + "attn.qkv", config.qkv_rows(), hidden);
  if (config.qk_norm) {
    w.q_norm = reader.norm(prefix + "attn.q_norm", config.head_dim);
    w.k_norm = reader.norm(prefix + "attn.k_norm", config.head_dim);
  }
  w.o = reader.linear(prefix + "attn.o", hidden, config.attention_cols());
  w.mlp_norm = reader.norm(prefix + "mlp.norm", hidden);
  if (config.sandwich_norms) {
    w.attention_post_norm = reader.norm(prefix + "attn.post_norm", hidden);
    w.mlp_post_norm = reader.norm(prefix + "mlp.post_norm", hidden);
  }
  if (config.is_moe_layer(layer)) {
    w.moe = reader.moe(prefix + "moe.");
  } else {
    w.mlp = reader.mlp(prefix + "mlp.gate_up", prefix + "mlp.down", config.intermediate_size);
  }
  return w;
}

}  // namespace

Model::Model(ModelConfig config, const std::vector<std::string>& files,
             const std::vector<TensorEntry>& tensors)
    : config_(std::move(config)) {
  validate_config(config_);
  files_.reserve(files.size());
  for (const std::string& path : files) files_.emplace_back(path);
  // Of many experts only some are read.
  if (config_.num_experts == 0) {
    for (const MmapFile& file : files_) file.prefer_large_pages();
  }
  TensorTable table(files_, tensors);
  WeightReader reader(table, config_);
  embedding_ = reader.matrix("model.embed_tokens", config_.vocab_size, config_.hidden_size);
  for (int i = 0; i < config_.num_layers; ++i) layers_.push_back(read_layer(reader, config_, i));
  final_norm_ = reader.norm("model.norm", config_.hidden_size);
  head_ = config_.tie_word_embeddings
              ? embedding_
              : reader.matrix("lm_head", config_.vocab_size, config_.hidden_size);
  table.check_all_used();
  weight_types_.assign(reader.types().begin(), reader.types().end());
  for (const TensorEntry& entry : tensors) weights_bytes_ += entry.num_bytes;
}

void Model::check_files() const {
  for (const MmapFile& file : files_) file.check_intact();
}

void Model::start_prefault() {
  if (prefault_ || config_.num_experts > 0) return;
  std::vector<std::span<const std::byte>> ranges;
  for (const MmapFile& file : files_) ranges.emplace_back(file.data(), file.size());
  prefault_.emplace(std::move(ranges));
}

}  // namespace autoglm
