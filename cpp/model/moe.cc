#include "model/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace autoglm {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Independent sums that the compiler can keep in vector lanes.
float dot(const float* a, const float* b, int n) {
  constexpr int kLanes = 16;
  float sums[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (int j = 0; i + j < n; ++j) sums[j] += a[i + j] * b[i + j];
  float total = 0.0f;
  for (const float sum : sums) total += sum;
  return total;
}

// The first index of the largest value.
int take_largest(const float* values, int n) {
  return static_cast<int>(std::max_element(values, values + n) - values);
}

}  // namespace

ExpertRouter::ExpertRouter(const ModelConfig& config, int max_tokens) : config_(config) {
  const size_t tokens = max_tokens;
  scores_.resize(tokens * config.num_experts);
  choice_scores_.resize(tokens * config.num_experts);
  group_scores_.resize(tokens * config.n_group);
  choices_.resize(tokens * config.num_experts_per_tok);
  begin_.resize(config.num_experts + 1);
  next_.resize(config.num_experts);
  rows_.resize(tokens * config.num_experts_per_tok);
  used_.resize(config.num_experts);
}

void ExpertRouter::route(const MoeWeights& weights, const float* x, int stride, int num_tokens,
                         ThreadPool& pool) {
  pool.parallel_for(num_tokens, 4, [&](int64_t begin, int64_t end, int) {
    for (int t = static_cast<int>(begin); t < end; ++t) {
      score_token(weights, x + static_cast<size_t>(t) * stride, t);
      choose_experts(weights, t);
    }
  });
  group_by_expert(num_tokens);
}

void ExpertRouter::score_token(const MoeWeights& weights, const float* x, int token) {
  float* scores = scores_.data() + static_cast<size_t>(token) * config_.num_experts;
  for (int e = 0; e < config_.num_experts; ++e) {
    const float* row = weights.router + static_cast<size_t>(e) * config_.hidden_size;
    const float logit = dot(row, x, config_.hidden_size);
    // The sigmoid of infinity would look sound.
    scores[e] = std::isfinite(logit) ? 1.0f / (1.0f + std::exp(-logit)) : kNan;
  }
}

void ExpertRouter::choose_experts(const MoeWeights& weights, int token) {
  const int num = config_.num_experts;
  float* scores = scores_.data() + static_cast<size_t>(token) * num;
  float* choice_scores = choice_scores_.data() + static_cast<size_t>(token) * num;
  for (int e = 0; e < num; ++e) {
    choice_scores[e] = scores[e] + weights.router_bias[e];
    if (std::isfinite(choice_scores[e])) continue;
    // Broken weights. The expert is chosen, so that the logits show it, and like any other at most
    // once, so that no expert gets more rows than there are tokens.
    choice_scores[e] = std::numeric_limits<float>::max();
    scores[e] = kNan;
  }
  drop_groups(choice_scores, group_scores_.data() + static_cast<size_t>(token) * config_.n_group);

  Choice* choices = choices_.data() + static_cast<size_t>(token) * config_.num_experts_per_tok;
  float total = 0.0f;
  for (int i = 0; i < config_.num_experts_per_tok; ++i) {
    const int best = take_largest(choice_scores, num);
    choices[i] = {best, scores[best]};
    choice_scores[best] = kMinusInfinity;
    total += scores[best];
  }
  const float scale = config_.norm_topk_prob ? config_.routed_scaling_factor / (total + 1e-20f)
                                             : config_.routed_scaling_factor;
  for (int i = 0; i < config_.num_experts_per_tok; ++i) choices[i].weight *= scale;
}

// Keeps the topk_group groups whose two best experts sum highest; scores in the others become zero.
void ExpertRouter::drop_groups(float* choice_scores, float* group_scores) const {
  const int num_groups = config_.n_group;
  if (config_.topk_group == num_groups) return;
  const int size = config_.num_experts / num_groups;
  for (int g = 0; g < num_groups; ++g) {
    float best = kMinusInfinity, second = kMinusInfinity;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(best, choice_scores[e]));
      best = std::max(best, choice_scores[e]);
    }
    group_scores[g] = size > 1 ? best + second : best;
  }
  for (int i = 0; i < config_.topk_group; ++i) {
    group_scores[take_largest(group_scores, num_groups)] = kMinusInfinity;
  }
  for (int g = 0; g < num_groups; ++g) {
    if (group_scores[g] == kMinusInfinity) continue;
    std::fill(choice_scores + g * size, choice_scores + (g + 1) * size, 0.0f);
  }
}

void ExpertRouter::group_by_expert(int num_tokens) {
  const int per_token = config_.num_experts_per_tok;
  std::fill(begin_.begin(), begin_.end(), 0);
  for (int i = 0; i < num_tokens * per_token; ++i) ++begin_[choices_[i].expert + 1];
  for (int e = 0; e < config_.num_experts; ++e) begin_[e + 1] += begin_[e];
  std::copy(begin_.begin(), begin_.end() - 1, next_.begin());
  for (int i = 0; i < num_tokens * per_token; ++i) {
    rows_[next_[choices_[i].expert]++] = {i / per_token, choices_[i].weight};
  }
  num_used_ = 0;
  for (int e = 0; e < config_.num_experts; ++e) {
    const int num_rows = begin_[e + 1] - begin_[e];
    if (num_rows > 0) used_[num_used_++] = {e, num_rows};
  }
}

}  // namespace autoglm
