#include "engine/shared_pass.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace autoglm {
namespace {

// Keeps workers awake while judges are asked between passes.
class Alert {
 public:
  Alert(Executor& executor, bool is_alert) : executor_(executor) { executor_.set_alert(is_alert); }
  ~Alert() { executor_.set_alert(false); }
  Alert(const Alert&) = delete;
  Alert& operator=(const Alert&) = delete;

 private:
  Executor& executor_;
};

}  // namespace

SharedPass::SharedPass(Executor& executor, std::span<const PassItem> items, Clock clock)
    : executor_(executor), items_(items), clock_(clock), outcomes_(items.size()) {
  int num_tokens = 0;
  std::vector<const Session*> sessions;
  for (const PassItem& item : items) {
    if (&item.session->executor() != &executor) {
      throw Error(kArgumentError, "a session belongs to another executor");
    }
    if (item.most_tokens < 1 || item.most_ids < 1) {
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
  const Alert alert(executor_, std::ranges::any_of(items_, [](const PassItem& item) {
                      const std::lock_guard lock(item.session->mutex_);
                      return item.session->chooser_.has_judge();
                    }));
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
  if (num_pending > static_cast<size_t>(item.most_tokens)) {
    const Checkpoint checkpoint = [&] { session.check_interrupt(poll); };
    guard(0, [&] { run_together(seconds, checkpoint); });
    return;
  }
  guard(0, [&] {
    outcomes_[0].ids = session.decode(item.most_ids, item.sampling, poll, seconds);
    outcomes_[0].is_ended = session.is_over_;
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
  rows_.clear();
  const size_t vocab_size = executor_.model().config().vocab_size;
  const float* next = logits_.data();
  for (const Part& part : parts) {
    if (!part.is_last) continue;
    Session& session = *items_[part.item].session;
    const float* logits = part.num_tokens > 0 ? next : session.logits_.data();
    rows_.push_back({part.item, {logits, vocab_size}});
    if (part.num_tokens > 0) next += vocab_size;
    session.num_scored_ = session.tokens_.size();
  }
  while (!rows_.empty()) choose();
}

// Draws are shared between the threads; judges are asked by this one.
void SharedPass::choose() {
  executor_.parallel_for(static_cast<int64_t>(rows_.size()), [&](int i) {
    const PassItem& item = items_[rows_[i].item];
    guard(rows_[i].item, [&] { item.session->draw(rows_[i].logits, item.sampling); });
  });
  const auto judge = [&] {
    for (Row& row : rows_) {
      const PassItem& item = items_[row.item];
      PassOutcome& outcome = outcomes_[row.item];
      row.step = Chooser::Step::kChosen;
      if (!outcome.error) {
        guard(row.item, [&] {
          row.step = item.session->judge(row.logits, item.sampling, outcome.ids);
          outcome.is_ended = item.session->is_over_;
        });
      }
      if (outcome.error) item.session->num_scored_ = 0;
    }
  };
  const auto bound = std::ranges::find_if(
      rows_, [&](const Row& row) { return items_[row.item].session->chooser_.has_judge(); });
  if (bound == rows_.end()) {
    judge();
  } else {
    items_[bound->item].session->chooser_.ask(judge);
  }
  std::erase_if(rows_, [](const Row& row) { return row.step != Chooser::Step::kAgain; });
}

bool SharedPass::may_go_on() const {
  constexpr size_t kMostForced = 4;  // tokens that a decoding session computes at once
  for (size_t i = 0; i < items_.size(); ++i) {
    const PassOutcome& outcome = outcomes_[i];
    const Session& session = *items_[i].session;
    const size_t num_pending = session.tokens_.size() - session.num_computed_;
    if (outcome.error || outcome.is_ended || num_pending == 0 ||
        num_pending > std::min<size_t>(items_[i].most_tokens, kMostForced) ||
        static_cast<int>(outcome.ids.size()) >= items_[i].most_ids) {
      return false;
    }
  }
  return true;
}

}  // namespace autoglm
