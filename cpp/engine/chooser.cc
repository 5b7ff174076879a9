#include "engine/chooser.h"

#include "base/error.h"

namespace autoglm {

std::shared_ptr<Judge> Chooser::keep_to(std::shared_ptr<Judge> judge) {
  reset();
  verdict_ = {};
  is_bound_ = judge != nullptr;  // an answer begins with what is forced
  return std::exchange(judge_, std::move(judge));
}

void Chooser::reset() {
  drawn_ = kNone;
  is_refused_ = false;
  allowed_.clear();
}

void Chooser::draw(std::span<const float> logits, const Sampling& sampling,
                   std::span<const int32_t> tokens, size_t num_prompt) {
  drawn_ = kNone;
  const bool has_mask = !allowed_.empty();
  if (judge_ != nullptr && !has_mask && (is_bound_ || is_refused_ || is_filtered(sampling))) return;
  sampling_ = &sampling;
  tokens_ = tokens;
  drawn_ = is_refused_ ? sampler_.redraw(logits, sampling, tokens, num_prompt, kFreeDraws, allowed_)
                       : sampler_.sample(logits, sampling, tokens, num_prompt, allowed_);
}

bool Chooser::take_free() {
  for (int attempt = 1;; ++attempt) {
    verdict_ = judge_->take(drawn_);
    if (verdict_.is_allowed) return true;
    if (attempt == kFreeDraws || is_greedy(*sampling_)) return false;
    drawn_ = sampler_.redraw(*sampling_, tokens_, attempt);
  }
}

Chooser::Step Chooser::judge() {
  if (judge_ == nullptr) return Step::kChosen;
  if (drawn_ != kNone) {
    const bool has_mask = !allowed_.empty();
    if (has_mask) verdict_ = judge_->take(drawn_);
    if (has_mask ? verdict_.is_allowed : take_free()) {
      is_bound_ = verdict_.is_bound;
      is_refused_ = false;
      allowed_.clear();
      return Step::kChosen;
    }
    if (has_mask) {
      throw Error(kFormError, "the form of the answer refuses a token that it allows");
    }
    is_refused_ = true;
  }
  allowed_ = judge_->mask();
  return allowed_.empty() ? Step::kLater : Step::kAgain;
}

}  // namespace autoglm
