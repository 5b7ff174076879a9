// How likely the model found a token: natural logarithms of the plain softmax of its logits, before
// temperature, penalties and bias.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace autoglm {

struct TokenLogprob {
  int32_t id = 0;
  double logprob = 0.0;
  std::vector<std::pair<int32_t, double>> top = {};  // the likeliest tokens, best first
};

// log(sum(exp(logits))), NaN when one of them is not finite.
double log_total(std::span<const float> logits);

TokenLogprob token_logprob(std::span<const float> logits, int32_t id, int num_top);

}  // namespace autoglm
