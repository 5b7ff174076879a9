#include "engine/logprob.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace autoglm {

double log_total(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0.0;
  for (const float logit : logits) total += std::exp(logit - largest) + logit * 0.0f;
  return largest + std::log(total);
}

TokenLogprob token_logprob(std::span<const float> logits, int32_t id, int num_top) {
  const double total = log_total(logits);
  TokenLogprob result{.id = id, .logprob = logits[id] - total};
  if (num_top == 0) return result;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const size_t count = std::min(ids.size(), static_cast<size_t>(num_top));
  std::partial_sort(ids.begin(), ids.begin() + static_cast<long>(count), ids.end(),
                    [&](int32_t a, int32_t b) {
                      return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
                    });
  for (const int32_t top : std::span(ids).first(count)) {
    result.top.emplace_back(top, logits[top] - total);
  }
  return result;
}

}  // namespace autoglm
