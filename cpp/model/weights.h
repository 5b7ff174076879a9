// A model's tensors as views into its mapped files, validated before anything reads them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/mmap_file.h"
#include "base/prefault.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/linear.h"

namespace autoglm {

// One entry of the tensor table that the file parser hands over.
struct TensorEntry {
  std::string name;
  std::string dtype;  // safetensors name, "F32"
  std::vector<int64_t> shape;
  int64_t file_index = 0;
  uint64_t offset = 0;  // from the start of the file
  uint64_t num_bytes = 0;
};

// A gated MLP. gate_up has 2 * round_up(n, 16) rows in the order of Epilogue::kSwiGlu for a down of
// n columns.
struct Mlp {
  Linear gate_up;
  Linear down;
};

// Where a file keeps one part (codes, scales) of all experts of a layer, one after another.
struct ExpertPart {
  size_t file = 0;  // index into Model::files()
  uint64_t offset = 0;
  uint64_t bytes = 0;  // of one expert
};

struct MoeWeights {
  const float* router = nullptr;       // [num_experts][hidden_size]
  const float* router_bias = nullptr;  // [num_experts], used to choose, not to weigh
  std::vector<Mlp> experts;
  std::vector<ExpertPart> gate_up_parts;  // in the order of packed_parts(), as down_parts
  std::vector<ExpertPart> down_parts;
  Mlp shared;  // present when num_shared_experts > 0
};

struct LayerWeights {
  const float* input_norm = nullptr;  // [hidden_size], as the other norms but q and k
  Linear qkv;
  const float* q_norm = nullptr;  // [head_dim], with qk_norm
  const float* k_norm = nullptr;
  Linear o;
  const float* attention_post_norm = nullptr;  // with sandwich_norms
  const float* mlp_norm = nullptr;
  Mlp mlp;                               // dense layers
  MoeWeights moe;                        // mixture layers
  const float* mlp_post_norm = nullptr;  // with sandwich_norms
};

// Read-only and shared by any number of executors.
class Model {
 public:
  // Maps `files` and checks the table against the configuration: every needed tensor present with
  // its exact type, shape and size, 64-byte aligned, inside its file, overlapping no other, and no
  // tensor left over. Throws Error(kConfigError), Error(kModelFileError) or Error(kIoError).
  Model(ModelConfig config, const std::vector<std::string>& files,
        const std::vector<TensorEntry>& tensors);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const { return config_; }
  const PackedMatrix& embedding() const { return embedding_; }  // [vocab_size, hidden_size]
  const PackedMatrix& head() const { return head_; }            // the embedding when tied
  const float* final_norm() const { return final_norm_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const std::vector<WeightType>& weight_types() const { return weight_types_; }  // of its matrices
  uint64_t weights_bytes() const { return weights_bytes_; }
  // Throws Error(kIoError) when a file changed since it was mapped. What was read counts only when
  // this passes afterwards; asked before as well, it spares most readers the missing pages.
  void check_files() const;
  // Maps the weights from now on, on a thread of its own. Models with experts are left alone: not
  // all of their pages are read, and they may not fit.
  void start_prefault();
  const std::vector<MmapFile>& files() const { return files_; }

 private:
  ModelConfig config_;
  std::vector<MmapFile> files_;
  PackedMatrix embedding_;
  PackedMatrix head_;
  const float* final_norm_ = nullptr;
  std::vector<LayerWeights> layers_;
  std::vector<WeightType> weight_types_;
  uint64_t weights_bytes_ = 0;
  std::optional<Prefault> prefault_;  // last: it reads the files
};

}  // namespace autoglm
