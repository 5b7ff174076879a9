#include "engine/speculation.h"

#include <algorithm>
#include <cmath>

namespace autoglm {
namespace {

constexpr double kMemory = 0.9;       // of the moving averages
constexpr double kWorthwhile = 1.05;  // expected gain below which drafting is not tried
constexpr double kMostAcceptance = 0.99;
constexpr int kFirstPlain = 3;
constexpr int kPlainEvery = 128;
constexpr int kRarestProbe = 4096;
constexpr int kProbeTokens = 2;

void average(double& value, double sample) { value = kMemory * value + (1.0 - kMemory) * sample; }

// Tokens a step yields: the accepted ones and the one sampled after them.
double expected_tokens(double acceptance, int num_drafted) {
  return (1.0 - std::pow(acceptance, num_drafted + 1)) / (1.0 - acceptance);
}

}  // namespace

StepCosts StepTimer::costs() const {
  const std::lock_guard lock(mutex_);
  return costs_;
}

bool StepTimer::needs_plain() const {
  const std::lock_guard lock(mutex_);
  return num_plain_ < kFirstPlain || num_since_plain_ >= kPlainEvery;
}

void StepTimer::record(int num_drafted, double seconds) {
  const std::lock_guard lock(mutex_);
  StepCosts& c = costs_;
  if (num_drafted == 0) {
    num_since_plain_ = 0;
    // The first steps bring weights and code into caches: the fastest of them counts.
    if (num_plain_ == 0 || (num_plain_ < kFirstPlain && seconds < c.plain_seconds)) {
      c.plain_seconds = seconds;
    }
    if (num_plain_++ >= kFirstPlain) average(c.plain_seconds, seconds);
    return;
  }
  ++num_since_plain_;
  if (c.plain_seconds == 0.0) return;
  // The sample corrects both parts of the cost in proportion to what they explain.
  const double extra = std::max(0.0, seconds / c.plain_seconds - 1.0);
  const double expected = c.relative(num_drafted) - 1.0;
  const double ratio = std::clamp(extra / expected, 0.1, 10.0);
  average(c.extra_per_draft, std::max(0.01, c.extra_per_draft * ratio));
  average(c.extra_per_token, std::max(0.002, c.extra_per_token * ratio));
}

int DraftPolicy::draft_tokens(const StepCosts& costs, double token_cost, int most_tokens) {
  if (most_tokens < 1) return 0;
  const double acceptance = std::min(acceptance_, kMostAcceptance);
  int best = 0;
  double best_rate = kWorthwhile;
  for (int num = 1; num <= std::min({most_tokens, longest_, kMaxDraft}); ++num) {
    const double rate = expected_tokens(acceptance, num) / (costs.relative(num) + token_cost * num);
    if (rate <= best_rate) continue;
    best_rate = rate;
    best = num;
  }
  is_probe_ = best == 0 && ++num_refused_ >= probe_every_;
  if (is_probe_) best = std::min(kProbeTokens, most_tokens);
  if (best > 0) num_refused_ = 0;
  return best;
}

void DraftPolicy::record(int num_drafted, int num_accepted) {
  for (int i = 0; i < num_accepted; ++i) average(acceptance_, 1.0);
  if (num_accepted < num_drafted) average(acceptance_, 0.0);
  if (num_accepted == num_drafted)
    longest_ = std::min(std::max(longest_, 2 * num_drafted), kMaxDraft);
  if (!is_probe_) return;
  if (num_accepted == 0) probe_every_ = std::min(2 * probe_every_, kRarestProbe);
  if (num_accepted == num_drafted) num_refused_ = probe_every_ = kProbeEvery;  // try again at once
}

}  // namespace autoglm
