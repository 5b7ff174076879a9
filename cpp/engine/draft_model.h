// Drafts by a smaller model with the same vocabulary (Leviathan et al., arXiv 2211.17192).
//
// It draws its tokens as the verifying model will, from the same random numbers, so that agreement
// is as likely with a temperature as it can be and accepted tokens need no correction.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/drafter.h"
#include "engine/executor.h"
#include "engine/kv_cache.h"

namespace autoglm {

// A model that drafts for sessions of another, and what they learned about it. Thread-safe.
class DraftModel {
 public:
  // Throws Error(kArgumentError) when the vocabularies differ.
  DraftModel(std::shared_ptr<Executor> executor, std::shared_ptr<Executor> target,
             Clock clock = steady_seconds);

  Executor& executor() const { return *executor_; }
  const Executor& target() const { return *target_; }

  // As DraftPolicy, with the measured cost of drafting.
  int draft_tokens(int most_tokens);
  void record(int num_drafted, int num_accepted);
  double now_s() const { return clock_(); }
  void record_seconds(int num_drafted, double seconds);

 private:
  std::shared_ptr<Executor> executor_;
  std::shared_ptr<Executor> target_;
  Clock clock_;
  std::mutex mutex_;  // guards what follows
  DraftPolicy policy_{0.7, 2};
  std::optional<double> token_seconds_;  // of a drafted token, once measured
};

// The draft model's view of one sequence.
class ModelDrafter : public Drafter {
 public:
  explicit ModelDrafter(std::shared_ptr<DraftModel> model);

  std::span<const int32_t> draft(const DraftRequest& request) override;
  void record(int num_accepted) override { model_->record(num_drafted_, num_accepted); }

 private:
  // Computes what is missing of `text`, and the logits of its last token; false when there is no
  // room.
  bool follow(std::span<const int32_t> text, int num_ahead, const Checkpoint& checkpoint);
  void compute(size_t end, const Checkpoint& checkpoint);

  std::shared_ptr<DraftModel> model_;
  KvSequence kv_;
  Sampler sampler_;
  std::vector<int32_t> tokens_;  // the text as last seen and what was drafted after it
  size_t num_computed_ = 0;      // leading tokens whose KV exists
  AlignedBuffer<float> logits_;  // of the last computed token
  int num_drafted_ = 0;
};

}  // namespace autoglm
