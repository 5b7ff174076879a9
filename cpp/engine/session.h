// One conversation: the tokens so far, their KV pages and the logits of the last token.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "engine/chooser.h"
#include "engine/draft_model.h"
#include "engine/drafter.h"
#include "engine/executor.h"
#include "engine/kv_cache.h"
#include "engine/logprob.h"

namespace autoglm {

// Calls on one session take turns; cancel() and num_tokens() may be called at any time. `poll` of
// the long calls runs between layers on the calling thread and may throw to abandon the call. After
// that, or any Error, the session holds the tokens computed so far and the next call works.
class Session {
 public:
  static constexpr double kNoLimit = std::numeric_limits<double>::infinity();

  // `draft_model` may be null. `clock` says what steps cost, and with it how far to draft.
  explicit Session(std::shared_ptr<Executor> executor,
                   std::shared_ptr<DraftModel> draft_model = nullptr, Clock clock = steady_seconds);

  // Appends and computes `ids`, at least one. Returns how many tokens' KV was found in the cache.
  // Throws Error(kArgumentError), Error(kContextFullError) or Error(kCancelledError).
  int prefill(std::span<const int32_t> ids, const Checkpoint& poll);

  // As prefill(), but computes nothing yet: later calls do.
  int append(std::span<const int32_t> ids);

  // From now on tokens are chosen that the judge allows; null: all. Returns the judge there was.
  std::shared_ptr<Judge> keep_to(std::shared_ptr<Judge> judge);

  // What was sampled since the last call, when the sampling asked for it.
  std::vector<TokenLogprob> take_logprobs();

  // Appends up to `n` sampled tokens and returns them: fewer after one of eos_ids (the last one
  // returned), when the context is full, or when one more step would take longer than `seconds` in
  // all; with a judge also when it lets nothing follow or does not know yet what may, and more by
  // what it forces. The last tokens are computed when a later call needs them. Throws
  // Error(kContextFullError) when not even one token fits, otherwise as prefill(), and the judge's.
  std::vector<int32_t> decode(int n, const Sampling& sampling, const Checkpoint& poll,
                              double seconds = kNoLimit);

  // As the executor's functions of these names, with this session's cancel().
  void logits(std::span<const int32_t> ids, float* out, const Checkpoint& poll);
  double score(std::span<const int32_t> ids, const Checkpoint& poll);
  std::vector<TokenLogprob> logprobs(std::span<const int32_t> ids, int num_top,
                                     const Checkpoint& poll);
  void embed(std::span<const int32_t> ids, float* out, const Checkpoint& poll);

  // Makes the running call, or else the next one, throw Error(kCancelledError).
  void cancel() { is_cancelled_.store(true); }

  int num_tokens() const { return num_tokens_.load(); }
  // Tokens drafted, and those of them that were right.
  int num_drafted() const { return num_drafted_.load(); }
  int num_accepted() const { return num_accepted_.load(); }
  const Executor& executor() const { return *executor_; }

 private:
  friend class SharedPass;

  int append_locked(std::span<const int32_t> ids);
  // Forgets the last tokens that were never computed, but none before `num_before`.
  void give_up_pending(size_t num_before);
  void check_interrupt(const Checkpoint& poll);
  void compute_pending(const Checkpoint& poll);
  void slide();
  // Chooses what follows tokens_ and appends it to tokens_ and `ids`; false when nothing may follow
  // it or nothing can be chosen yet.
  bool sample(std::span<const float> logits, const Sampling& sampling, std::vector<int32_t>& ids);
  // Step by step: draws, then asks the judge; the last one is kAgain when both are to be repeated.
  void draw(std::span<const float> logits, const Sampling& sampling) {
    chooser_.draw(logits, sampling, tokens_, num_prompt_);
  }
  Chooser::Step judge(std::span<const float> logits, const Sampling& sampling,
                      std::vector<int32_t>& ids);
  // Computes the last token and a draft of what follows it, and samples until the draft is wrong.
  // At most `most_tokens`; false as sample().
  bool decode_step(int most_tokens, const Sampling& sampling, std::vector<int32_t>& ids,
                   const Checkpoint& poll);
  // The first drafter's that has one; empty when none has.
  std::span<const int32_t> find_draft(int most_tokens, const Sampling& sampling,
                                      const Checkpoint& checkpoint);
  bool has_logits() const { return num_scored_ == tokens_.size(); }

  std::shared_ptr<Executor> executor_;
  Clock clock_;
  std::mutex mutex_;  // guards what follows, except the atomics
  KvSequence kv_;
  Chooser chooser_;
  std::vector<int32_t> tokens_;
  size_t num_computed_ = 0;            // leading tokens whose KV exists
  size_t num_prompt_ = 0;              // tokens up to the end of the last prefill
  size_t num_scored_ = 0;              // logits_ belong to the last of this many tokens; 0: to none
  AlignedBuffer<float> logits_;        // of the last token
  AlignedBuffer<float> draft_logits_;  // of a step, once there was a draft
  std::vector<int32_t> step_ids_;      // the last token and the draft
  bool is_over_ = false;               // nothing may follow the last token that was sampled
  std::vector<TokenLogprob> logprobs_;
  std::vector<std::unique_ptr<Drafter>> drafters_;  // the one to ask first first
  Drafter* drafter_ = nullptr;                      // of the last draft
  std::atomic<int> num_tokens_{0};
  std::atomic<int> num_drafted_{0};
  std::atomic<int> num_accepted_{0};
  std::atomic<bool> is_cancelled_{false};
};

}  // namespace autoglm
