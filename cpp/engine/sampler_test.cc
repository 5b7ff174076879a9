// The sampler against a plain reference, and its distribution.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "base/check.h"

namespace autoglm {
namespace {

constexpr int kVocabSize = 50;

std::vector<float> random_logits(uint64_t seed) {
  std::vector<float> logits(kVocabSize);
  for (int i = 0; i < kVocabSize; ++i) {
    logits[i] = static_cast<float>(8.0 * uniform_at(seed, i) - 4.0);
  }
  return logits;
}

int32_t sample(const std::vector<float>& logits, const Sampling& sampling,
               const std::vector<int32_t>& tokens = {1}, size_t num_prompt = 1) {
  return Sampler(kVocabSize).sample(logits, sampling, tokens, num_prompt);
}

// The tokens that may be drawn and their probabilities: every filter spelled out over a full sort.
std::vector<std::pair<int32_t, double>> distribution(const std::vector<float>& logits,
                                                     const Sampling& s) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return logits[a] > logits[b]; });
  if (s.top_k > 0) order.resize(std::min<size_t>(order.size(), s.top_k));
  std::vector<std::pair<int32_t, double>> kept;
  double total = 0.0;
  for (const int32_t id : order) total += std::exp((logits[id] - logits[order[0]]) / s.temperature);
  double cumulative = 0.0;
  for (const int32_t id : order) {
    const double p = std::exp((logits[id] - logits[order[0]]) / s.temperature) / total;
    const bool is_within = cumulative < s.top_p && p * total >= s.min_p;
    cumulative += p;
    if (is_within) kept.emplace_back(id, p);
  }
  double sum = 0.0;
  for (const auto& [id, p] : kept) sum += p;
  for (auto& [id, p] : kept) p /= sum;
  return kept;
}

void test_greedy_takes_the_largest_and_the_lowest_id_of_equals() {
  std::vector<float> logits(kVocabSize, 0.0f);
  logits[7] = logits[9] = 2.0f;
  CHECK_EQ(sample(logits, {}), 7);
  logits[9] = 3.0f;
  CHECK_EQ(sample(logits, {}), 9);
}

void test_draws_follow_the_filtered_distribution() {
  constexpr int kDraws = 20000;
  const std::vector<Sampling> samplings = {
      {.temperature = 1.0f},
      {.temperature = 0.7f, .top_k = 5},
      {.temperature = 1.3f, .top_p = 0.8f},
      {.temperature = 1.0f, .min_p = 0.2f},
      {.temperature = 1.5f, .top_k = 20, .top_p = 0.9f, .min_p = 0.05f},
  };
  for (const Sampling& sampling : samplings) {
    const std::vector<float> logits = random_logits(3);
    const auto expected = distribution(logits, sampling);
    std::vector<int> counts(kVocabSize);
    Sampler sampler(kVocabSize);
    std::vector<int32_t> tokens(kDraws + 1, 0);
    for (int i = 1; i <= kDraws; ++i) {
      ++counts[sampler.sample(logits, sampling, {tokens.data(), static_cast<size_t>(i)}, i)];
    }
    int num_expected = 0;
    for (const auto& [id, p] : expected) {
      // Five standard deviations of a binomial count, and one for its discreteness.
      CHECK(std::fabs(counts[id] - kDraws * p) <= 5.0 * std::sqrt(kDraws * p * (1.0 - p)) + 1.0);
      num_expected += counts[id];
    }
    CHECK_EQ(num_expected, kDraws);
  }
}

// Free draws, and where all are refused one under a mask, against the distribution of masked draws.
void test_draws_that_are_refused_and_repeated_follow_the_masked_distribution() {
  constexpr int kDraws = 20000;
  const std::vector<float> logits = random_logits(3);
  std::vector<uint32_t> most(2), few(2);
  for (int id = 0; id < kVocabSize; ++id) {
    if (id % 5 != 0) most[id / 32] |= uint32_t{1} << (id % 32);
    if (id % 17 == 3) few[id / 32] |= uint32_t{1} << (id % 32);
  }
  const std::vector<Sampling> samplings = {
      {.temperature = 1.0f},
      {.temperature = 2.0f, .logit_bias = {{3, 1.5f}, {10, 4.0f}}},
      {.temperature = 0.02f},  // the weights of all that may come are too small to be used again
  };
  for (const Sampling& sampling : samplings) {
    for (const std::vector<uint32_t>& allowed : {most, few}) {
      const auto may_come = [&](int id) { return (allowed[id / 32] >> (id % 32) & 1) != 0; };
      std::vector<float> biased = logits;
      for (const auto& [id, bias] : sampling.logit_bias) biased[id] += bias;
      for (int id = 0; id < kVocabSize; ++id) {
        if (!may_come(id)) biased[id] = -1e30f;
      }
      std::vector<int> counts(kVocabSize);
      Sampler sampler(kVocabSize);
      const std::vector<int32_t> tokens(kDraws + 1, 0);
      for (int i = 1; i <= kDraws; ++i) {
        const std::span<const int32_t> text(tokens.data(), static_cast<size_t>(i));
        int32_t id = sampler.sample(logits, sampling, text, i);
        for (int attempt = 1; attempt < 3 && !may_come(id); ++attempt) {
          id = sampler.redraw(sampling, text, attempt);
        }
        if (!may_come(id)) id = sampler.redraw(logits, sampling, text, i, 3, allowed);
        ++counts[id];
      }
      for (const auto& [id, p] : distribution(biased, sampling)) {
        // As above.
        CHECK(std::fabs(counts[id] - kDraws * p) <= 5.0 * std::sqrt(kDraws * p * (1 - p)) + 1.0);
        CHECK(may_come(id) || counts[id] == 0);
      }
    }
  }
}

void test_a_repeated_greedy_draw_is_the_likeliest_that_may_come() {
  Sampler sampler(kVocabSize);
  const std::vector<float> logits = random_logits(8);
  const std::vector<int32_t> tokens = {1};
  const int32_t best = sampler.sample(logits, {}, tokens, 1);
  std::vector<uint32_t> allowed(2, ~uint32_t{0});
  allowed[best / 32] &= ~(uint32_t{1} << (best % 32));
  const int32_t second = sampler.redraw(logits, {}, tokens, 1, 1, allowed);
  CHECK_EQ(second, sampler.sample(logits, {}, tokens, 1, allowed));
  CHECK(second != best);
}

void test_draws_depend_on_seed_and_position_only() {
  const Sampling first{.temperature = 2.0f, .seed = 1}, second{.temperature = 2.0f, .seed = 2};
  const std::vector<float> logits = random_logits(4);
  const std::vector<int32_t> tokens = {3, 1, 2}, others = {9, 9, 9};
  CHECK_EQ(sample(logits, first, tokens), sample(logits, first, others));
  int num_equal = 0;
  for (int i = 1; i <= 200; ++i) {
    const std::vector<int32_t> prefix(i, 0);
    num_equal += sample(logits, first, prefix) == sample(logits, second, prefix);
  }
  CHECK(num_equal < 100);
}

void test_uniform_numbers_are_fixed_for_all_platforms() {
  CHECK_EQ(uniform_at(0, 0), uniform_at(0, 0));
  CHECK(uniform_at(0, 0) != uniform_at(0, 1));
  double sum = 0.0;
  for (int i = 0; i < 10000; ++i) sum += uniform_at(42, i);
  CHECK(std::fabs(sum / 10000 - 0.5) < 0.02);
}

void test_penalties_follow_their_definitions() {
  std::vector<float> logits(kVocabSize, -100.0f);
  logits[1] = 4.0f;
  logits[2] = 3.0f;
  logits[3] = -1.0f;
  const std::vector<int32_t> tokens = {1, 3, 1, 2, 2};  // the last two generated
  // Positive logits are divided, so token 1 falls to 2 and token 2 to 1.5.
  CHECK_EQ(sample(logits, {.repetition_penalty = 2.0f}, tokens, 3), 1);
  CHECK_EQ(sample(logits, {.repetition_penalty = 2.0f, .logit_bias = {{0, 101.9f}}}, tokens, 3), 1);
  CHECK_EQ(sample(logits, {.repetition_penalty = 2.0f, .logit_bias = {{0, 102.1f}}}, tokens, 3), 0);
  // Presence and frequency count generated tokens only: token 1 keeps its logit.
  CHECK_EQ(sample(logits, {.presence_penalty = 50.0f}, tokens, 3), 1);
  CHECK_EQ(sample(logits, {.presence_penalty = -1.5f}, tokens, 3), 2);
  CHECK_EQ(sample(logits, {.frequency_penalty = -0.6f}, tokens, 3), 2);
  CHECK_EQ(sample(logits, {.frequency_penalty = -0.4f}, tokens, 3), 1);
  // A negative logit is multiplied.
  std::vector<float> negative(kVocabSize, -3.0f);
  negative[3] = -2.0f;
  CHECK_EQ(sample(negative, {.repetition_penalty = 1.4f}, {3}, 1), 3);
  CHECK_EQ(sample(negative, {.repetition_penalty = 1.6f}, {3}, 1), 0);
}

void test_penalties_leave_no_trace_for_the_next_call() {
  Sampler sampler(kVocabSize);
  const std::vector<float> logits = random_logits(5);
  const Sampling sampling{.presence_penalty = 100.0f};
  const std::vector<int32_t> tokens = {1};
  const int32_t best = sampler.sample(logits, sampling, tokens, 1);
  const std::vector<int32_t> with_best = {1, best};
  CHECK(sampler.sample(logits, sampling, with_best, 1) != best);
  CHECK_EQ(sampler.sample(logits, sampling, tokens, 1), best);
}

void test_logits_that_are_not_finite_raise() {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const int at : {0, 17, kVocabSize - 1}) {
      std::vector<float> logits = random_logits(6);
      logits[at] = bad;
      CHECK_THROWS(kModelFileError, sample(logits, {}));
      CHECK_THROWS(kModelFileError, sample(logits, {.temperature = 1.0f}));
    }
  }
}

void test_extreme_settings_still_give_a_token() {
  const std::vector<float> logits = random_logits(7);
  const int32_t best = sample(logits, {});
  CHECK_EQ(sample(logits, {.temperature = 1e-6f}), best);
  CHECK_EQ(sample(logits, {.temperature = 1.0f, .top_p = 1e-9f}), best);
  CHECK_EQ(sample(logits, {.temperature = 5.0f, .min_p = 1.0f}), best);
  CHECK_EQ(sample(logits, {.temperature = 5.0f, .top_k = 1}), best);
  const int32_t any = sample(logits, {.temperature = 1.0f, .top_k = 1000});
  CHECK(any >= 0 && any < kVocabSize);
}

void test_sampling_out_of_range_is_refused() {
  const std::vector<Sampling> samplings = {
      {.temperature = -1.0f},
      {.temperature = NAN},
      {.top_k = -1},
      {.top_p = 0.0f},
      {.top_p = 1.1f},
      {.min_p = -0.1f},
      {.repetition_penalty = 0.0f},
      {.presence_penalty = NAN},
      {.frequency_penalty = 2e4f},
      {.logit_bias = {{-1, 0.0f}}},
      {.logit_bias = {{kVocabSize, 0.0f}}},
      {.logit_bias = {{0, NAN}}},
  };
  for (const Sampling& sampling : samplings) {
    CHECK_THROWS(kArgumentError, validate_sampling(sampling, kVocabSize));
  }
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_greedy_takes_the_largest_and_the_lowest_id_of_equals();
  autoglm::test_draws_follow_the_filtered_distribution();
  autoglm::test_draws_that_are_refused_and_repeated_follow_the_masked_distribution();
  autoglm::test_a_repeated_greedy_draw_is_the_likeliest_that_may_come();
  autoglm::test_draws_depend_on_seed_and_position_only();
  autoglm::test_uniform_numbers_are_fixed_for_all_platforms();
  autoglm::test_penalties_follow_their_definitions();
  autoglm::test_penalties_leave_no_trace_for_the_next_call();
  autoglm::test_logits_that_are_not_finite_raise();
  autoglm::test_extreme_settings_still_give_a_token();
  autoglm::test_sampling_out_of_range_is_refused();
  return autoglm::test::finish_tests();
}
