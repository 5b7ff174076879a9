#include "engine/session.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace autoglm {
namespace {

constexpr int kReservedTokens = 1 << 16;  // longer texts take memory as they grow

}  // namespace

Session::Session(std::shared_ptr<Executor> executor, std::shared_ptr<DraftModel> draft_model,
                 Clock clock)
    : executor_(std::move(executor)),
      clock_(clock),
      kv_(executor_->kv_cache(), executor_->window()),
      chooser_(executor_->model().config().vocab_size),
      logits_(executor_->model().config().vocab_size) {
  tokens_.reserve(std::min(executor_->max_tokens(), kReservedTokens) + 1);
  drafters_.push_back(std::make_unique<LookupDrafter>(executor_->step_timer()));
  if (draft_model == nullptr) return;
  if (&draft_model->target() != executor_.get()) {
    throw Error(kArgumentError, "the draft model was made for another executor");
  }
  drafters_.push_back(std::make_unique<ModelDrafter>(std::move(draft_model)));
}

int Session::prefill(std::span<const int32_t> ids, const Checkpoint& poll) {
  const std::lock_guard lock(mutex_);
  const size_t num_before = tokens_.size();
  const int num_reused = append_locked(ids);
  try {
    compute_pending(poll);
  } catch (...) {
    give_up_pending(num_before);
    throw;
  }
  num_tokens_ = static_cast<int>(tokens_.size());
  return num_reused;
}

int Session::append(std::span<const int32_t> ids) {
  const std::lock_guard lock(mutex_);
  const int num_reused = append_locked(ids);
  num_tokens_ = static_cast<int>(tokens_.size());
  return num_reused;
}

int Session::append_locked(std::span<const int32_t> ids) {
  if (ids.empty()) throw Error(kArgumentError, "prefill needs at least one token");
  executor_->check_ids(ids);
  const size_t num_before = tokens_.size();
  if (num_before + ids.size() > static_cast<size_t>(executor_->max_tokens())) {
    throw Error(kContextFullError, std::to_string(num_before) + " + " + std::to_string(ids.size()) +
                                       " tokens, the context holds " +
                                       std::to_string(executor_->max_tokens()));
  }
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  chooser_.reset();
  const int num_reused = kv_.attach(tokens_, static_cast<int>(num_computed_));
  num_computed_ += num_reused;
  num_prompt_ = tokens_.size();
  return num_reused;
}

void Session::give_up_pending(size_t num_before) {
  tokens_.resize(std::max(num_before, num_computed_));
  num_prompt_ = tokens_.size();
  num_tokens_ = static_cast<int>(tokens_.size());
}

std::shared_ptr<Judge> Session::keep_to(std::shared_ptr<Judge> judge) {
  const std::lock_guard lock(mutex_);
  return chooser_.keep_to(std::move(judge));
}

std::vector<TokenLogprob> Session::take_logprobs() {
  const std::lock_guard lock(mutex_);
  return std::exchange(logprobs_, {});
}

std::vector<int32_t> Session::decode(int n, const Sampling& sampling, const Checkpoint& poll,
                                     double seconds) {
  const std::lock_guard lock(mutex_);
  validate_sampling(sampling, executor_->model().config().vocab_size);
  if (n < 0) throw Error(kArgumentError, "cannot decode " + std::to_string(n) + " tokens");
  if (tokens_.empty()) throw Error(kArgumentError, "decode needs a prefill first");
  std::vector<int32_t> ids;
  ids.reserve(std::min(n, kReservedTokens));
  bool is_open = true;
  const double start = clock_();
  double last = start;
  while (is_open && static_cast<int>(ids.size()) < n) {
    const double now = clock_();
    if (!ids.empty() && now + (now - last) - start > seconds) break;
    last = now;
    check_interrupt(poll);
    try {
      is_open = decode_step(n - static_cast<int>(ids.size()), sampling, ids, poll);
    } catch (const Error& error) {
      if (error.code() == kContextFullError && !ids.empty()) break;
      throw;
    }
  }
  return ids;
}

bool Session::sample(std::span<const float> logits, const Sampling& sampling,
                     std::vector<int32_t>& ids) {
  Chooser::Step step = Chooser::Step::kAgain;
  while (step == Chooser::Step::kAgain) {
    draw(logits, sampling);
    step = judge(logits, sampling, ids);
  }
  return step == Chooser::Step::kChosen && !is_over_;
}

Chooser::Step Session::judge(std::span<const float> logits, const Sampling& sampling,
                             std::vector<int32_t>& ids) {
  const Chooser::Step step = chooser_.judge();
  is_over_ = false;
  if (step != Chooser::Step::kChosen) {
    if (step == Chooser::Step::kLater && logits.data() != logits_.data()) {
      std::ranges::copy(logits, logits_.data());
    }
    return step;
  }
  const int32_t id = chooser_.id();
  const std::span<const int32_t> forced = chooser_.forced();
  executor_->check_ids(forced);
  if (sampling.num_logprobs >= 0) {
    logprobs_.push_back(token_logprob(logits, id, sampling.num_logprobs));
  }
  for (std::vector<int32_t>* list : {&tokens_, &ids}) {
    list->push_back(id);
    list->insert(list->end(), forced.begin(), forced.end());
  }
  num_tokens_ = static_cast<int>(tokens_.size());
  is_over_ =
      chooser_.is_last() || (!sampling.ignore_eos && std::ranges::count(sampling.eos_ids, id) > 0);
  return step;
}

bool Session::decode_step(int most_tokens, const Sampling& sampling, std::vector<int32_t>& ids,
                          const Checkpoint& poll) {
  if (has_logits()) return sample({logits_.data(), logits_.size()}, sampling, ids);
  const Checkpoint checkpoint = [&] { check_interrupt(poll); };
  const std::span<const int32_t> draft = find_draft(most_tokens - 1, sampling, checkpoint);
  const int num_drafted = static_cast<int>(draft.size());
  const double start = clock_();
  if (num_drafted == 0) {
    const bool is_one_token = num_computed_ + 1 == tokens_.size();
    compute_pending(poll);
    if (is_one_token) executor_->step_timer().record(0, clock_() - start);
    return sample({logits_.data(), logits_.size()}, sampling, ids);
  }
  const size_t vocab_size = logits_.size();
  draft_logits_.reserve((num_drafted + 1) * vocab_size);
  step_ids_.assign(1, tokens_.back());
  step_ids_.insert(step_ids_.end(), draft.begin(), draft.end());
  executor_->forward({step_ids_, static_cast<int>(num_computed_), kv_.view()}, num_drafted + 1,
                     draft_logits_.data(), checkpoint);
  executor_->step_timer().record(num_drafted, clock_() - start);
  int num_accepted = -1;  // the first token needs no draft to be right
  bool is_open = true;
  do {
    ++num_accepted;
    ++num_computed_;
    is_open = sample({draft_logits_.data() + num_accepted * vocab_size, vocab_size}, sampling, ids);
  } while (is_open && num_accepted < num_drafted && num_computed_ + 1 == tokens_.size() &&
           tokens_.back() == step_ids_[num_accepted + 1]);
  if (num_computed_ == tokens_.size()) num_scored_ = num_computed_;  // the judge needs more time
  kv_.publish(tokens_, static_cast<int>(num_computed_));
  slide();
  drafter_->record(num_accepted);
  num_drafted_ += num_drafted;
  num_accepted_ += num_accepted;
  return is_open;
}

std::span<const int32_t> Session::find_draft(int most_tokens, const Sampling& sampling,
                                             const Checkpoint& checkpoint) {
  const int num_tokens = static_cast<int>(tokens_.size());
  const int room = std::min(executor_->max_tokens() - num_tokens, executor_->prefill_chunk() - 1);
  const int most = std::min({most_tokens, room, kMaxDraft});
  if (most < 1 || num_computed_ + 1 != tokens_.size()) return {};
  if (executor_->step_timer().needs_plain() || !kv_.try_reserve(num_tokens + most)) return {};
  const DraftRequest request{tokens_, num_prompt_, most, sampling, checkpoint};
  for (const std::unique_ptr<Drafter>& drafter : drafters_) {
    const std::span<const int32_t> ids = drafter->draft(request);
    if (ids.empty()) continue;
    drafter_ = drafter.get();
    return ids;
  }
  return {};
}

// The last token may be computed once more, when its logits are missing.
void Session::slide() { kv_.slide(std::max(0, static_cast<int>(num_computed_) - 1)); }

void Session::logits(std::span<const int32_t> ids, float* out, const Checkpoint& poll) {
  executor_->logits(ids, out, [&] { check_interrupt(poll); });
}

double Session::score(std::span<const int32_t> ids, const Checkpoint& poll) {
  return executor_->score(ids, [&] { check_interrupt(poll); });
}

std::vector<TokenLogprob> Session::logprobs(std::span<const int32_t> ids, int num_top,
                                            const Checkpoint& poll) {
  return executor_->logprobs(ids, num_top, [&] { check_interrupt(poll); });
}

void Session::embed(std::span<const int32_t> ids, float* out, const Checkpoint& poll) {
  executor_->embed(ids, out, [&] { check_interrupt(poll); });
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
  slide();
  const std::span<const int32_t> tokens(tokens_);
  const Checkpoint checkpoint = [&] { check_interrupt(poll); };
  while (num_computed_ < num_tokens) {
    const size_t count = std::min<size_t>(executor_->prefill_chunk(), num_tokens - num_computed_);
    const bool is_last = num_computed_ + count == num_tokens;
    // All at once, so that what does not fit fails before any work; a window needs no more than it
    // holds.
    kv_.reserve(static_cast<int>(executor_->window().is_on() ? num_computed_ + count : num_tokens));
    executor_->forward(
        {tokens.subspan(num_computed_, count), static_cast<int>(num_computed_), kv_.view()},
        is_last ? 1 : 0, logits_.data(), checkpoint);
    num_computed_ += count;
    kv_.publish(tokens, static_cast<int>(num_computed_));
    slide();
  }
  num_scored_ = num_tokens;
}

}  // namespace autoglm
