// Runs one model on this machine: owns the threads, the scratch and the KV cache that its sessions
// share.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "engine/kv_cache.h"
#include "engine/logprob.h"
#include "engine/speculation.h"
#include "kernels/kernels.h"
#include "model/expert_cache.h"
#include "model/limits.h"
#include "model/profile.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace autoglm {

struct Plan {
  int threads = 0;                      // 0: physical cores
  std::string isa = {};                 // "": $AUTOGLM_ISA, else the best
  std::optional<KvType> kv_dtype = {};  // unset: fp32 for fp32 weights, else fp16
  int activation_bits = 16;             // of quantised activations: 16, or 8 for faster prompts
  int prefill_chunk = 256;              // tokens of a forward pass
  int max_context = 0;  // tokens in the KV cache; 0: the longest sequence, or one window's share
  // Attention over the first `sink` and the latest `window` tokens, rounded up to pages of 64;
  // 0: over all. Sequences have any length, in the memory of what is seen.
  int window = 0;
  int sink = kPageTokens;
  int expert_memory_mib = 0;  // for experts read when needed; 0: mapped as all weights
};

// The most tokens' pages that a sequence of `num_tokens` holds at once. Throws
// Error(kArgumentError).
int held_tokens(const Plan& plan, int num_tokens);

class Executor {
 public:
  // Throws Error(kArgumentError) or Error(kOutOfMemoryError). With `threads_of` both executors use
  // the same threads, by turns.
  Executor(std::shared_ptr<const Model> model, const Plan& plan,
           const Executor* threads_of = nullptr);

  const Model& model() const { return *model_; }
  const std::shared_ptr<const Model>& shared_model() const { return model_; }
  Isa isa() const { return kernels_.isa; }
  int num_threads() const { return workers_->pool.num_threads(); }
  int prefill_chunk() const { return prefill_chunk_; }
  // Tokens of the longest sequence that can be computed.
  int max_tokens() const { return max_tokens_; }
  KvCache& kv_cache() { return kv_cache_; }
  const KvWindow& window() const { return window_; }
  StepTimer& step_timer() { return step_timer_; }
  const StepTimer& step_timer() const { return step_timer_; }

  // Throws Error(kArgumentError) unless every id is in the vocabulary.
  void check_ids(std::span<const int32_t> ids) const;

  // Computes a chunk of up to prefill_chunk() tokens; the logits of its last `num_logits` tokens go
  // to `logits` [num_logits][vocab_size]. Callers on several threads take turns. Throws
  // Error(kIoError) when the model's files changed, Error(kModelFileError) when values overflow.
  void forward(const Chunk& chunk, int num_logits, float* logits, const Checkpoint& checkpoint);

  // Computes chunks of different sequences, of up to prefill_chunk() tokens together, in one pass.
  // The logits of its rows `logit_rows`, where chunks follow each other, go to `logits`
  // [logit_rows.size()][vocab_size].
  void forward(std::span<const Chunk> chunks, std::span<const int> logit_rows, float* logits,
               const Checkpoint& checkpoint);

  // The pool of a pass, for work between passes. Callers on several threads take turns.
  template <typename Body>
  void parallel_for(int64_t count, const Body& body) {
    const std::lock_guard lock(workers_->mutex);
    workers_->pool.parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) body(static_cast<int>(i));
    });
  }

  // As ThreadPool::set_alert().
  void set_alert(bool is_alert) { workers_->pool.set_alert(is_alert); }

  // Logits of every token of a sequence of its own, [ids.size()][vocab_size]; nothing is reused or
  // kept.
  void logits(std::span<const int32_t> ids, float* out, const Checkpoint& checkpoint);

  // Sum over t >= 1 of -log p(ids[t] | ids[:t]).
  double score(std::span<const int32_t> ids, const Checkpoint& checkpoint);

  // What the model thought of each of ids[1..]: with the `num_top` likeliest tokens in its place.
  std::vector<TokenLogprob> logprobs(std::span<const int32_t> ids, int num_top,
                                     const Checkpoint& checkpoint);

  // The mean of the last hidden states, [hidden_size].
  void embed(std::span<const int32_t> ids, float* out, const Checkpoint& checkpoint);

  // Null when experts are mapped.
  const ExpertCache* expert_cache() const { return expert_cache_.get(); }

  // Records the steps of every forward pass until stop_profile() returns them.
  void start_profile();
  std::vector<StepEvent> stop_profile();

  // As limits.h: what the steps of this executor can reach at best.
  Limits measure_limits();

 private:
  struct Workers {
    explicit Workers(int num_threads) : pool(num_threads) {}
    ThreadPool pool;
    std::mutex mutex;  // one forward pass at a time
  };

  template <typename Body>
  void for_chunks(std::span<const int32_t> ids, const Checkpoint& checkpoint, const Body& body);
  // Calls body(t, logits of ids[t]) for every t >= 1, from several threads.
  template <typename Body>
  void for_predictions(std::span<const int32_t> ids, const Checkpoint& checkpoint,
                       const Body& body);

  std::shared_ptr<const Model> model_;
  const Kernels& kernels_;
  int prefill_chunk_;
  KvWindow window_;
  int num_pages_;
  int max_tokens_;
  std::shared_ptr<Workers> workers_;  // its mutex guards what follows the timer
  KvCache kv_cache_;
  std::unique_ptr<ExpertCache> expert_cache_;
  StepTimer step_timer_;
  Transformer transformer_;
  AlignedBuffer<float> score_logits_;     // once tokens are scored
  std::optional<StepRecorder> recorder_;  // while profiling
};

}  // namespace autoglm
