// Guesses of what follows a text, for the model to verify in one step.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/lookup.h"
#include "engine/sampler.h"
#include "engine/speculation.h"
#include "model/transformer.h"

namespace autoglm {

// Seconds since some moment; an argument, so that tests decide what work costs.
using Clock = double (*)();

inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What is to be continued: the tokens so far, those from `num_prompt` on generated.
struct DraftRequest {
  std::span<const int32_t> text;
  size_t num_prompt;
  int most_tokens;
  const Sampling& sampling;
  const Checkpoint& checkpoint;  // may throw; the drafter can be asked again afterwards
};

// One sequence's drafts of one kind. Each decides for itself when drafting pays.
class Drafter {
 public:
  virtual ~Drafter() = default;

  // At most `most_tokens` tokens; none when there is no guess or it would not pay. Valid until the
  // next call.
  virtual std::span<const int32_t> draft(const DraftRequest& request) = 0;

  // How many tokens of the last draft were right.
  virtual void record(int num_accepted) = 0;
};

// Drafts by prompt lookup. The references must outlive it.
class LookupDrafter : public Drafter {
 public:
  explicit LookupDrafter(const StepTimer& timer) : timer_(timer) {}

  std::span<const int32_t> draft(const DraftRequest& request) override;
  void record(int num_accepted) override;

 private:
  const StepTimer& timer_;
  PromptLookup lookup_;
  // By the length of the match: the longer, the better the guess.
  std::vector<DraftPolicy> policies_ = {{0.3, 2}, {0.5, 2}, {0.7, 4}, {0.85, 8}};
  size_t last_policy_ = 0;
  int num_drafted_ = 0;
};

}  // namespace autoglm
