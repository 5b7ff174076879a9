#include "engine/speculation.h"

#include <algorithm>
#include <cmath>

namespace autoglm {
namespace {

constexpr double kMemory = 0.9;       // of the moving averages
constexpr double kWorthwhile = 1.05;  // expected gain below which drafting is not tried
constexpr int kProbeEvery = 64;       // steps without drafts after which one is tried all the same
constexpr int kProbeTokens = 2;

void average(double& value, double sample) { value = kMemory * value + (1.0 - kMemory) * sample; }

// Tokens a step yields: the accepted ones and the one sampled after them.
double expected_tokens(double acceptance, int num_drafted) {
  return (1.0 - std::pow(acceptance, num_drafted + 1)) / (1.0 - acceptance);
}

}  // namespace

int Speculation::match_class(int match_length) {
  if (match_length < 3) return 0;
  if (match_length < 4) return 1;
  return match_length < 8 ? 2 : 3;
}

double Speculation::cost(int num_drafted) const {
  return num_drafted == 0 ? 1.0 : 1.0 + extra_per_draft_ + extra_per_token_ * num_drafted;
}

int Speculation::draft_tokens(int match_length) {
  const double acceptance = std::min(acceptance_[match_class(match_length)], 0.99);
  int best = 0;
  double best_rate = kWorthwhile;
  for (int num = 1; num <= kMaxDraft; ++num) {
    const double rate = expected_tokens(acceptance, num) / cost(num);
    if (rate <= best_rate) continue;
    best_rate = rate;
    best = num;
  }
  if (best > 0) {
    num_refused_ = 0;
    return best;
  }
  if (++num_refused_ < kProbeEvery) return 0;
  num_refused_ = 0;
  return kProbeTokens;
}

void Speculation::record(int match_length, int num_drafted, int num_accepted, double seconds) {
  if (num_drafted == 0) {
    if (plain_seconds_ == 0.0) plain_seconds_ = seconds;
    average(plain_seconds_, seconds);
    return;
  }
  double& acceptance = acceptance_[match_class(match_length)];
  for (int i = 0; i < num_accepted; ++i) average(acceptance, 1.0);
  if (num_accepted < num_drafted) average(acceptance, 0.0);
  if (plain_seconds_ == 0.0) return;
  // The sample corrects both parts of the cost in proportion to what they explain.
  const double extra = std::max(0.0, seconds / plain_seconds_ - 1.0);
  const double expected = extra_per_draft_ + extra_per_token_ * num_drafted;
  const double ratio = std::clamp(extra / expected, 0.1, 10.0);
  average(extra_per_draft_, std::max(0.01, extra_per_draft_ * ratio));
  average(extra_per_token_, std::max(0.002, extra_per_token_ * ratio));
}

}  // namespace autoglm
