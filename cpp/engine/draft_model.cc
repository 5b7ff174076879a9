#include "engine/draft_model.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace autoglm {
namespace {

constexpr double kMemory = 0.9;  // of the measured cost

}  // namespace

DraftModel::DraftModel(std::shared_ptr<Executor> executor, std::shared_ptr<Executor> target,
                       Clock clock)
    : executor_(std::move(executor)), target_(std::move(target)), clock_(clock) {
  const int vocab_size = executor_->model().config().vocab_size;
  const int wanted = target_->model().config().vocab_size;
  if (vocab_size == wanted) return;
  throw Error(kArgumentError, "the draft model has a vocabulary of " + std::to_string(vocab_size) +
                                  ", the model one of " + std::to_string(wanted));
}

int DraftModel::draft_tokens(int most_tokens) {
  const StepCosts costs = target_->step_timer().costs();
  const std::lock_guard lock(mutex_);
  // Until it is measured, a token costs what its weights weigh.
  const double by_weight = static_cast<double>(executor_->model().weights_bytes()) /
                           static_cast<double>(target_->model().weights_bytes());
  const double token_cost = token_seconds_ ? *token_seconds_ / costs.plain_seconds : by_weight;
  return policy_.draft_tokens(costs, token_cost, most_tokens);
}

void DraftModel::record(int num_drafted, int num_accepted) {
  const std::lock_guard lock(mutex_);
  policy_.record(num_drafted, num_accepted);
}

void DraftModel::record_seconds(int num_drafted, double seconds) {
  const std::lock_guard lock(mutex_);
  const double sample = seconds / num_drafted;
  token_seconds_ = kMemory * token_seconds_.value_or(sample) + (1.0 - kMemory) * sample;
}

ModelDrafter::ModelDrafter(std::shared_ptr<DraftModel> model)
    : model_(std::move(model)),
      kv_(model_->executor().kv_cache(), model_->executor().window()),
      sampler_(model_->executor().model().config().vocab_size),
      logits_(model_->executor().model().config().vocab_size) {}

std::span<const int32_t> ModelDrafter::draft(const DraftRequest& request) {
  const size_t num_text = request.text.size();
  const int room = model_->executor().max_tokens() - static_cast<int>(num_text);
  const int num_drafted = model_->draft_tokens(std::min(request.most_tokens, room));
  if (num_drafted < 1) return {};
  const double start = model_->now_s();
  const size_t num_missing = num_text - std::min(num_computed_, num_text);
  if (!follow(request.text, num_drafted, request.checkpoint)) return {};
  const Sampling& sampling = request.sampling;
  for (int i = 0; i < num_drafted; ++i) {
    if (i > 0) compute(tokens_.size(), request.checkpoint);
    const int32_t id =
        sampler_.sample({logits_.data(), logits_.size()}, sampling, tokens_, request.num_prompt);
    tokens_.push_back(id);
    if (!sampling.ignore_eos && std::ranges::count(sampling.eos_ids, id) > 0) break;
  }
  num_drafted_ = static_cast<int>(tokens_.size() - num_text);
  // A text read for the first time says nothing about the cost of the next draft.
  if (num_missing <= kMaxDraft + 1) model_->record_seconds(num_drafted_, model_->now_s() - start);
  return std::span<const int32_t>(tokens_).subspan(num_text);
}

bool ModelDrafter::follow(std::span<const int32_t> text, int num_ahead,
                          const Checkpoint& checkpoint) {
  const size_t num_same = std::ranges::mismatch(tokens_, text).in1 - tokens_.begin();
  num_computed_ = std::min({num_computed_, num_same, text.size() - 1});
  tokens_.resize(num_same);
  tokens_.insert(tokens_.end(), text.begin() + num_same, text.end());
  num_computed_ += kv_.attach(text, static_cast<int>(num_computed_));
  // Drafted tokens may be cut off again, those of the text are not.
  const auto slide = [&] { kv_.slide(std::max(0, static_cast<int>(num_computed_) - 1)); };
  slide();
  while (num_computed_ < text.size()) {
    const size_t chunk = model_->executor().prefill_chunk();
    const size_t end = std::min(num_computed_ + chunk, text.size());
    if (!kv_.try_reserve(static_cast<int>(end) + (end == text.size() ? num_ahead : 0)))
      return false;
    compute(end, checkpoint);
    kv_.publish(text, static_cast<int>(num_computed_));
    slide();
  }
  return true;
}

void ModelDrafter::compute(size_t end, const Checkpoint& checkpoint) {
  const std::span<const int32_t> tokens(tokens_);
  model_->executor().forward({tokens.subspan(num_computed_, end - num_computed_),
                              static_cast<int>(num_computed_), kv_.view()},
                             1, logits_.data(), checkpoint);
  num_computed_ = end;
}

}  // namespace autoglm
