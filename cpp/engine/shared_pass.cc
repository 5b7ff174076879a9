#include "engine/shared_pass.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace autoglm {

SharedPass::SharedPass(Executor& executor, std::span<const PassItem> items, Clock clock)
    : executor_(executor), items_(items), clock_(clock), outcomes_(items.size()) {
  int num_tokens = 0;
  std::vector<const Session*> sessions;
  for (const PassItem& item : items) {
    if (&item.session->executor() != &executor) {
      throw Error(kArgumentError, "a session belongs to another executor");
    }
    if (item.most_tokens < 1 || item.most_ids < 0) {
      throw Error(kArgumentError, "a session needs at least one token of a pass");
    }
    validate_sampling(item.sampling, executor.model().config().vocab_size);
    sessions.push_back(item.session);
    num_tokens += std::min(item.most_tokens, executor.prefill_chunk());
  }
  std::ranges::sort(sessions);
  if (std::ranges::adjacent_find(sessions) != sessions.end()) {
    throw Error(kArgumentError, "a session takes part twice");
  }
  if (num_tokens > executor.prefill_chunk()) {
    throw Error(kArgumentError, std::to_string(num_tokens) + " tokens in a pass of at most " +
                                    std::to_string(executor.prefill_chunk()));
  }
}

std::vector<PassOutcome> SharedPass::run(double seconds, const Checkpoint& poll) {
  if (items_.size() == 1) {
    run_alone(seconds, poll);
  } else if (!items_.empty()) {
    run_together(seconds, [&] {
      if (poll) poll();
    });
  }
  for (size_t i = 0; i < items_.size(); ++i) {
    Session& session = *items_[i].session;
    const std::lock_guard lock(session.mutex_);
    outcomes_[i].num_pending = session.num_tokens() - static_cast<int>(session.num_computed_);
  }
  return std::move(outcomes_);
}

// A session that decodes alone verifies drafts.
void SharedPass::run_alone(double seconds, const Checkpoint& poll) {
  const PassItem& item = items_[0];
  Session& session = *item.session;
  const size_t num_pending = session.tokens_.size() - session.num_computed_;
  if (num_pending > static_cast<size_t>(item.most_tokens) || item.most_ids == 0) {
    const Checkpoint checkpoint = [&] { session.check_interrupt(poll); };
    guard(0, [&] { run_together(seconds, checkpoint); });
    return;
  }
  guard(0, [&] {
    outcomes_[0].ids = session.decode(item.most_ids, item.sampling, poll, seconds);
    outcomes_[0].is_ended = !item.sampling.ignore_eos && !outcomes_[0].ids.empty() &&
                            std::ranges::count(item.sampling.eos_ids, outcomes_[0].ids.back()) > 0;
  });
}

void SharedPass::run_together(double seconds, const Checkpoint& poll) {
  std::vector<Session*> sessions;
  for (const PassItem& item : items_) sessions.push_back(item.session);
  std::ranges::sort(sessions);
  std::vector<std::unique_lock<std::mutex>> locks;
  for (Session* session : sessions) locks.emplace_back(session->mutex_);
  const double start = clock_();
  double last = start;
  do {
    last = clock_();
    plan();
    advance(parts_, poll);
  } while (may_go_on() && 2 * clock_() - last - start <= seconds);
}

template <typename Body>
bool SharedPass::guard(int item, const Body& body) {
  try {
    body();
    return true;
  } catch (const Error& error) {
    outcomes_[item].error = error;
    return false;
  }
}

void SharedPass::plan() {
  parts_.clear();
  for (int i = 0; i < static_cast<int>(items_.size()); ++i) {
    const PassItem& item = items_[i];
    Session& session = *item.session;
    guard(i, [&] {
      session.check_interrupt({});
      if (session.tokens_.empty()) throw Error(kArgumentError, "decode needs a prefill first");
      // The last token is computed again when its logits are gone.
      const size_t num_all = session.tokens_.size();
      if (!session.has_logits())
        session.num_computed_ = std::min(session.num_computed_, num_all - 1);
      const int num_pending = static_cast<int>(num_all - session.num_computed_);
      const int count = std::min({num_pending, item.most_tokens, executor_.prefill_chunk()});
      if (num_all > static_cast<size_t>(executor_.max_tokens())) {
        throw Error(kContextFullError,
                    "the context of " + std::to_string(executor_.max_tokens()) + " tokens is full");
      }
      session.slide();
      session.kv_.reserve(static_cast<int>(session.num_computed_) + count);
      parts_.push_back({.item = i, .num_tokens = count, .is_last = count == num_pending});
    });
  }
}

// A value that is not finite fails the whole pass: the others must not suffer for it.
void SharedPass::advance(std::span<const Part> parts, const Checkpoint& poll) {
  try {
    compute(parts, poll);
  } catch (const Error& error) {
    if (error.code() != kModelFileError) throw;
    if (parts.size() == 1) {
      outcomes_[parts[0].item].error = error;
      return;
    }
    for (const Part& part : parts) advance({&part, 1}, poll);
    return;
  }
  sample(parts);
}

void SharedPass::compute(std::span<const Part> parts, const Checkpoint& poll) {
  chunks_.clear();
  logit_rows_.clear();
  int num_rows = 0;
  for (const Part& part : parts) {
    const Session& session = *items_[part.item].session;
    num_rows += part.num_tokens;
    if (part.num_tokens > 0) {
      chunks_.push_back({std::span<const int32_t>(session.tokens_)
                             .subspan(session.num_computed_, part.num_tokens),
                         static_cast<int>(session.num_computed_), session.kv_.view()});
      if (part.is_last) logit_rows_.push_back(num_rows - 1);
    }
  }
  if (chunks_.empty()) return;
  logits_.resize(logit_rows_.size() * executor_.model().config().vocab_size);
  executor_.forward(chunks_, logit_rows_, logits_.data(), poll);
  complete(parts);
}

void SharedPass::complete(std::span<const Part> parts) {
  for (const Part& part : parts) {
    Session& session = *items_[part.item].session;
    session.num_computed_ += part.num_tokens;
    session.kv_.publish(session.tokens_, static_cast<int>(session.num_computed_));
    session.slide();
  }
}

void SharedPass::sample(std::span<const Part> parts) {
  std::vector<std::pair<int, const float*>> last;  // item and logits
  const size_t vocab_size = executor_.model().config().vocab_size;
  const float* next = logits_.data();
  for (const Part& part : parts) {
    if (!part.is_last) continue;
    const Session& session = *items_[part.item].session;
    last.emplace_back(part.item, part.num_tokens > 0 ? next : session.logits_.data());
    if (part.num_tokens > 0) next += vocab_size;
  }
  executor_.parallel_for(static_cast<int64_t>(last.size()), [&](int i) {
    const auto [index, logits] = last[i];
    const PassItem& item = items_[index];
    Session& session = *item.session;
    PassOutcome& outcome = outcomes_[index];
    if (logits != session.logits_.data() && item.most_ids == 0) {
      std::copy_n(logits, vocab_size, session.logits_.data());
    }
    session.num_scored_ = session.tokens_.size();
    if (static_cast<int>(outcome.ids.size()) == item.most_ids) return;
    guard(index, [&] {
      outcome.is_ended = !session.sample({logits, vocab_size}, item.sampling, outcome.ids);
    });
    if (outcome.error) session.num_scored_ = 0;
  });
}

bool SharedPass::may_go_on() const {
  for (size_t i = 0; i < items_.size(); ++i) {
    const PassOutcome& outcome = outcomes_[i];
    const Session& session = *items_[i].session;
    if (outcome.error || outcome.is_ended || session.tokens_.size() - session.num_computed_ > 1 ||
        static_cast<int>(outcome.ids.size()) >= items_[i].most_ids) {
      return false;
    }
  }
  return true;
}

}  // namespace autoglm
