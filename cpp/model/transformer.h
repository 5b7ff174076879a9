// The forward pass of every supported family: one graph whose steps the configuration switches.
//
// Results are the same bits for any number of threads, any division of the tokens into chunks and
// whatever else a pass computes.
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
#include "model/pass.h"
#include "model/profile.h"
#include "model/rows.h"
#include "model/weights.h"
#include "model/window.h"

namespace autoglm {

class Transformer {
 public:
  // A pass has up to `max_tokens` rows. The references must outlive it.
  // Quantised activations and queries keep 16 bits when `is_precise`, else 8. Experts come from
  // `expert_cache` unless it is null.
  Transformer(const Model& model, const Kernels& kernels, ThreadPool& pool, int max_tokens,
              bool is_precise, const KvWindow& window, ExpertCache* expert_cache);

  // Runs the layers over chunks of different sequences: writes their keys and values, keeps their
  // hidden states, in rows one after the other, for head().
  // Throws Error(kModelFileError) when a value became NaN or infinite; none of these is ever
  // written to the cache, where it would spoil sequences that get the page later. The checkpoint is
  // called between layers and while experts are waited for.
  void forward(std::span<const Chunk> chunks, const Checkpoint& checkpoint);

  // Logits of rows [begin, end) of the last pass, row i at logits + (i - begin) * stride.
  void head(int begin, int end, float* logits, size_t stride);
  // Logits of any rows of the last pass, rows[i] at logits + i * stride.
  void head(std::span<const int> rows, float* logits, size_t stride);

  // sum [hidden_size] += the normed hidden states of the last pass, row by row.
  void add_hidden(float* sum);

  // Steps are recorded from now on, or no longer when null. The recorder must outlive its use.
  void set_recorder(StepRecorder* recorder) { recorder_ = recorder; }

 private:
  void embed();
  void check_hidden();
  void compute_rotations();
  void compute_rotation(int position, float* cos, float* sin) const;
  void attention_block(const LayerWeights& layer);
  void rotate_and_store(const LayerWeights& layer);
  void attend();
  // The current layer's keys and values of a chunk.
  KvLayer kv_layer(const Chunk& chunk) const;
  // What the tokens of a piece see.
  AttentionArgs attention_args(const Pass::Piece& piece);
  int num_hidden(int position) const { return pass_.window().num_hidden(position / kPageTokens); }
  void mlp_block(const LayerWeights& layer, int num_tokens, const Checkpoint& checkpoint);
  void moe_block(const MoeWeights& moe, int num_tokens, const Checkpoint& checkpoint);
  void expect_experts(int num_tokens);
  void dense_mlp(const Mlp& mlp, const PackedRows& x, const float* post_norm);

  // Row i of normed_ = RMSNorm of row row_of(i) of hidden_.
  template <typename RowOf>
  void normalize(Step step, const float* gain, int num_rows, const RowOf& row_of);
  template <typename RowOf>
  PackedRows normalize_and_pack(Step step, const float* gain, const Linear& linear, int num_rows,
                                const RowOf& row_of);
  template <typename RowOf>
  void compute_head(int num_rows, const RowOf& row_of, float* logits, size_t stride);
  PackedRows pack(const Linear& linear, Rows& rows, int num_rows);
  void pack_row(const Linear& linear, const PackedRows& x, int row, float* values);
  void gemm(const Linear& linear, const PackedRows& x, Rows& out, Epilogue epilogue);
  void gemm(const PackedMatrix& weight, const PackedRows& x, const GemmOutput& out);
  // Makes room for the linear layers of all layers.
  void reserve_inputs(int max_tokens);
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
  bool is_precise_;
  PackedActivations packed_;
  PackedActivations packed_sums_;
  ExpertRouter router_;
  ExpertRouter predictor_;  // of the next layer
  ExpertCache* expert_cache_;
  Rows hidden_;  // the residual stream
  Rows normed_;  // its norm; what a matrix reads
  Rows qkv_;
  Rows attended_;
  Rows activated_;  // after SwiGLU
  Rows projected_;  // before a sandwich norm
  Rows sums_;       // of groups of the last packed rows, for a matrix with an offset
  Rows offsets_;    // what that adds to its outputs, with the bias
  Rows predicted_;  // the input of the next layer's router, as far as it is known
  Rows cos_;        // [max_tokens][rotary_dim / 2]
  Rows sin_;
  Pass pass_;    // the last one
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
