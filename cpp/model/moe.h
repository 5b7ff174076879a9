// Chooses the experts of each token and groups the tokens by expert (Glm4Moe: sigmoid scores, a
// bias that steers the choice only, group-limited top-k; DeepSeek-V3, arXiv 2412.19437).
#pragma once

#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "model/config.h"
#include "model/weights.h"

namespace autoglm {

// One token's share of one expert.
struct ExpertRow {
  int token = 0;
  float weight = 0.0f;
};

// An expert that some tokens chose, and how many.
struct ExpertUse {
  int expert = 0;
  int num_rows = 0;
};

class ExpertRouter {
 public:
  ExpertRouter(const ModelConfig& config, int max_tokens);

  // Routes hidden rows x [num_tokens][stride] through one layer's router.
  void route(const MoeWeights& weights, const float* x, int stride, int num_tokens,
             ThreadPool& pool);

  // Rows of an expert after route(), in order of tokens.
  std::span<const ExpertRow> rows(int expert) const {
    return {rows_.data() + begin_[expert], rows_.data() + begin_[expert + 1]};
  }
  // The experts that have rows, in ascending order.
  std::span<const ExpertUse> used() const { return {used_.data(), num_used_}; }

 private:
  struct Choice {
    int expert = 0;
    float weight = 0.0f;
  };

  void score_token(const MoeWeights& weights, const float* x, int token);
  void choose_experts(const MoeWeights& weights, int token);
  void drop_groups(float* choice_scores, float* group_scores) const;
  void group_by_expert(int num_tokens);

  const ModelConfig& config_;
  std::vector<float> scores_;         // [max_tokens][num_experts], sigmoid
  std::vector<float> choice_scores_;  // [max_tokens][num_experts], biased
  std::vector<float> group_scores_;   // [max_tokens][n_group]
  std::vector<Choice> choices_;       // [max_tokens][num_experts_per_tok]
  std::vector<int> begin_;            // [num_experts + 1]
  std::vector<int> next_;             // [num_experts]
  std::vector<ExpertRow> rows_;       // [max_tokens * num_experts_per_tok]
  std::vector<ExpertUse> used_;       // [num_experts]
  size_t num_used_ = 0;
};

}  // namespace autoglm
