// The forward pass of every supported family: one graph whose steps the configuration switches.
//
// Results are the same bits for any number of threads and any division of the tokens into chunks.
// Owns its scratch; the KV cache and the choice of tokens belong to the caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "base/checkpoint.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/activations.h"
#include "model/expert_cache.h"
#include "model/experts.h"
#include "model/moe.h"
#include "model/profile.h"
#include "model/rows.h"
#include "model/weights.h"
#include "model/window.h"

namespace autoglm {

// Where the keys and values of one token sequence lie: page p of layer l begins at
// base + l * layer_bytes + page_table[p] * page_stride elements.
struct KvView {
  KvType type = KvType::kF32;
  std::byte* base = nullptr;
  size_t layer_bytes = 0;
  size_t page_stride = 0;
  const int32_t* page_table = nullptr;
};

// Consecutive tokens of one sequence; the pages up to their last position exist.
struct Chunk {
  std::span<const int32_t> ids;  // each in [0, vocab_size)
  int first_position = 0;
  KvView kv;
};

class Transformer {
 public:
  // Takes chunks of up to `max_tokens`. The references must outlive it.
  // Quantised activations keep 16 bits when `is_precise`, else 8. Experts come from `expert_cache`
  // unless it is null.
  Transformer(const Model& model, const Kernels& kernels, ThreadPool& pool, int max_tokens,
              bool is_precise, const KvWindow& window, ExpertCache* expert_cache);

  // Runs the layers over a chunk: writes its keys and values, keeps its hidden states for head().
  // Throws Error(kModelFileError) when a value became NaN or infinite; none of these is ever
  // written to the cache, where it would spoil sequences that get the page later. The checkpoint is
  // called between layers and while experts are waited for.
  void forward(const Chunk& chunk, const Checkpoint& checkpoint);

  // Logits of rows [begin, end) of the last chunk, row i at logits + (i - begin) * stride.
  void head(int begin, int end, float* logits, size_t stride);

  // Steps are recorded from now on, or no longer when null. The recorder must outlive its use.
  void set_recorder(StepRecorder* recorder) { recorder_ = recorder; }

 private:
  void embed(const Chunk& chunk);
  void check_hidden(int num_tokens);
  void compute_rotations(const Chunk& chunk);
  void compute_rotation(int position, float* cos, float* sin) const;
  void attention_block(const LayerWeights& layer, const KvLayer& kv, const Chunk& chunk);
  void rotate_and_store(const LayerWeights& layer, const KvLayer& kv, const Chunk& chunk);
  void attend(const KvLayer& kv, const Chunk& chunk);
  // What the tokens of the page that `token` of the chunk lies in see.
  AttentionArgs attention_args(const KvLayer& kv, const Chunk& chunk, int token);
  void mlp_block(const LayerWeights& layer, int num_tokens, const Checkpoint& checkpoint);
  void moe_block(const MoeWeights& moe, int num_tokens, const Checkpoint& checkpoint);
  void expect_experts(int num_tokens);
  void dense_mlp(const Mlp& mlp, int num_tokens, const float* post_norm);

  // normed_ = RMSNorm of hidden_ rows [begin, end).
  void normalize(Step step, const float* gain, int begin, int end);
  PackedRows pack(const PackedMatrix& weight, Rows& rows, int num_rows);
  void gemm(const Linear& linear, const PackedRows& x, Rows& out, Epilogue epilogue);
  void gemm(const PackedMatrix& weight, const PackedRows& x, const GemmOutput& out);
  // hidden_ += linear(x), through a norm when `post_norm` is not null.
  void add_to_residual(const Linear& linear, const PackedRows& x, const float* post_norm);
  // Times the block that holds the result as a step of the current layer.
  template <typename CostFunction>
  StepScope time_step(Step step, int num_tokens, const CostFunction& cost) const {
    return StepScope(recorder_, step, layer_, num_tokens, cost);
  }

  const Model& model_;
  const ModelConfig& config_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  PackedActivations packed_;
  ExpertRouter router_;
  ExpertRouter predictor_;  // of the next layer
  ExpertCache* expert_cache_;
  Rows hidden_;  // the residual stream
  Rows normed_;  // its norm; what a matrix reads
  Rows qkv_;
  Rows attended_;
  Rows activated_;  // after SwiGLU
  Rows projected_;  // before a sandwich norm
  Rows predicted_;  // the input of the next layer's router, as far as it is known
  Rows cos_;        // [max_tokens][rotary_dim / 2]
  Rows sin_;
  WindowTables window_;
  Rows sink_q_;  // queries as the sinks meet them
  Rows sink_cos_;
  Rows sink_sin_;
  Rows attention_scratch_;                 // one row a thread
  AlignedBuffer<std::byte> gemm_scratch_;  // kGemmScratchBytes a thread
  RoutedExperts experts_;
  StepRecorder* recorder_ = nullptr;
  int layer_ = kNoLayer;                 // the one that runs
  std::atomic<bool> is_broken_ = false;  // a value of this pass is not finite
};

}  // namespace autoglm
