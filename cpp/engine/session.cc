#include "engine/session.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace autoglm {

Session::Session(std::shared_ptr<Executor> executor)
    : executor_(std::move(executor)),
      kv_(executor_->kv_cache()),
      sampler_(executor_->model().config().vocab_size),
      logits_(executor_->model().config().vocab_size) {
  tokens_.reserve(executor_->max_tokens() + 1);
}

int Session::prefill(std::span<const int32_t> ids, const Checkpoint& poll) {
  const std::lock_guard lock(mutex_);
  if (ids.empty()) throw Error(kArgumentError, "prefill needs at least one token");
  executor_->check_ids(ids);
  const size_t num_before = tokens_.size();
  if (num_before + ids.size() > static_cast<size_t>(executor_->max_tokens())) {
    throw Error(kContextFullError, std::to_string(num_before) + " + " + std::to_string(ids.size()) +
                                       " tokens, the context holds " +
                                       std::to_string(executor_->max_tokens()));
  }
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  int num_reused = 0;
  try {
    num_reused = kv_.attach(tokens_, static_cast<int>(num_computed_));
    num_computed_ += num_reused;
    compute_pending(poll);
  } catch (...) {
    tokens_.resize(std::max(num_before, num_computed_));
    num_prompt_ = tokens_.size();
    num_tokens_ = static_cast<int>(tokens_.size());
    throw;
  }
  num_prompt_ = tokens_.size();
  num_tokens_ = static_cast<int>(tokens_.size());
  return num_reused;
}

std::vector<int32_t> Session::decode(int n, const Sampling& sampling, const Checkpoint& poll) {
  const std::lock_guard lock(mutex_);
  validate_sampling(sampling, executor_->model().config().vocab_size);
  if (n < 0) throw Error(kArgumentError, "cannot decode " + std::to_string(n) + " tokens");
  if (tokens_.empty()) throw Error(kArgumentError, "decode needs a prefill first");
  std::vector<int32_t> ids;
  ids.reserve(std::min(n, executor_->max_tokens()));
  while (static_cast<int>(ids.size()) < n) {
    check_interrupt(poll);
    try {
      if (!has_logits()) compute_pending(poll);
    } catch (const Error& error) {
      if (error.code() == kContextFullError && !ids.empty()) break;
      throw;
    }
    const int32_t id =
        sampler_.sample({logits_.data(), logits_.size()}, sampling, tokens_, num_prompt_);
    tokens_.push_back(id);
    ids.push_back(id);
    num_tokens_ = static_cast<int>(tokens_.size());
    if (!sampling.ignore_eos && std::ranges::find(sampling.eos_ids, id) != sampling.eos_ids.end()) {
      break;
    }
  }
  return ids;
}

void Session::logits(std::span<const int32_t> ids, float* out, const Checkpoint& poll) {
  executor_->logits(ids, out, [&] { check_interrupt(poll); });
}

double Session::score(std::span<const int32_t> ids, const Checkpoint& poll) {
  return executor_->score(ids, [&] { check_interrupt(poll); });
}

void Session::check_interrupt(const Checkpoint& poll) {
  if (is_cancelled_.load(std::memory_order_relaxed) && is_cancelled_.exchange(false)) {
    throw Error(kCancelledError, "cancelled");
  }
  if (poll) poll();
}

// Computes the tokens that have no KV yet, at least the last one, and the logits of the last.
void Session::compute_pending(const Checkpoint& poll) {
  const size_t num_tokens = tokens_.size();
  if (num_tokens > static_cast<size_t>(executor_->max_tokens())) {
    throw Error(kContextFullError,
                "the context of " + std::to_string(executor_->max_tokens()) + " tokens is full");
  }
  num_computed_ = std::min(num_computed_, num_tokens - 1);
  kv_.reserve(static_cast<int>(num_tokens));
  const std::span<const int32_t> tokens(tokens_);
  const Checkpoint checkpoint = [&] { check_interrupt(poll); };
  while (num_computed_ < num_tokens) {
    const size_t count = std::min<size_t>(executor_->prefill_chunk(), num_tokens - num_computed_);
    const bool is_last = num_computed_ + count == num_tokens;
    executor_->forward(
        {tokens.subspan(num_computed_, count), static_cast<int>(num_computed_), kv_.view()},
        is_last ? logits_.data() : nullptr, checkpoint);
    num_computed_ += count;
    kv_.publish(tokens, static_cast<int>(num_computed_));
  }
  num_scored_ = num_tokens;
}

}  // namespace autoglm
