#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <sstream>
#include <string>

#include "base/error.h"
#include "base/finite.h"

namespace autoglm {
namespace {

constexpr float kForbidden = -3e38f;
constexpr size_t kWordBits = 32;
constexpr std::array<uint32_t, kWordBits> kBits = [] {
  std::array<uint32_t, kWordBits> bits = {};
  for (size_t i = 0; i < kWordBits; ++i) bits[i] = uint32_t{1} << i;
  return bits;
}();

void check(bool is_valid, const char* name, double value, const char* wanted) {
  if (is_valid) return;
  std::ostringstream message;
  message << name << " is " << value << ", must be " << wanted;
  throw Error(kArgumentError, message.str());
}

bool is_within(float value, float low, float high) { return value >= low && value <= high; }

bool has_penalty(const Sampling& s) {
  return s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f;
}

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The lowest id with the largest logit. Adding x * 0 finds NaN and infinity without a branch an
// element; sums and maxima in several chains do not wait for each other.
int32_t find_largest(std::span<const float> logits) {
  constexpr size_t kNumChains = 8;
  float largest[kNumChains];
  float poison[kNumChains] = {};
  std::ranges::fill(largest, logits[0]);
  size_t id = 0;
  for (; id + kNumChains <= logits.size(); id += kNumChains) {
    for (size_t i = 0; i < kNumChains; ++i) {
      const float logit = logits[id + i];
      poison[i] += logit * 0.0f;
      largest[i] = logit > largest[i] ? logit : largest[i];
    }
  }
  for (; id < logits.size(); ++id) {
    poison[0] += logits[id] * 0.0f;
    largest[0] = std::max(largest[0], logits[id]);
  }
  if (!(std::accumulate(poison, poison + kNumChains, 0.0f) == 0.0f)) throw_not_finite();
  const float best = *std::ranges::max_element(largest);
  return static_cast<int32_t>(std::ranges::find(logits, best) - logits.begin());
}

bool is_set(std::span<const uint32_t> bits, size_t id) {
  return id / kWordBits < bits.size() && (bits[id / kWordBits] & kBits[id % kWordBits]) != 0;
}

double uniform_of_attempt(uint64_t seed, uint64_t position, int attempt) {
  return uniform_at(seed ^ (static_cast<uint64_t>(attempt) * 0xd1342543de82ef95u), position);
}

// Forbids those of kWordBits logits whose bit is not set. Integers, which compilers vectorise.
void select(uint32_t word, float* logits) {
  for (size_t i = 0; i < kWordBits; ++i) {
    const auto kept = std::bit_cast<uint32_t>(logits[i]);
    const auto forbidden = std::bit_cast<uint32_t>(logits[i] * 0.0f + kForbidden);
    const uint32_t mask = 0u - static_cast<uint32_t>((word & kBits[i]) != 0);
    logits[i] = std::bit_cast<float>((kept & mask) | (forbidden & ~mask));
  }
}

}  // namespace

void validate_sampling(const Sampling& s, int vocab_size) {
  constexpr float kLargest = 1e4f;
  check(is_within(s.temperature, 0.0f, kLargest), "temperature", s.temperature, "from 0 to 10000");
  check(s.top_k >= 0, "top_k", s.top_k, "0 (off) or more");
  check(s.top_p > 0.0f && s.top_p <= 1.0f, "top_p", s.top_p, "above 0, at most 1");
  check(is_within(s.min_p, 0.0f, 1.0f), "min_p", s.min_p, "from 0 to 1");
  check(s.repetition_penalty > 0.0f && s.repetition_penalty <= kLargest, "repetition_penalty",
        s.repetition_penalty, "above 0, at most 10000");
  check(is_within(s.presence_penalty, -kLargest, kLargest), "presence_penalty", s.presence_penalty,
        "from -10000 to 10000");
  check(is_within(s.frequency_penalty, -kLargest, kLargest), "frequency_penalty",
        s.frequency_penalty, "from -10000 to 10000");
  for (const auto& [id, bias] : s.logit_bias) {
    check(id >= 0 && id < vocab_size, "a logit_bias id", id, "a token of the vocabulary");
    check(is_within(bias, -kLargest, kLargest), "a logit_bias", bias, "from -10000 to 10000");
  }
  check(s.num_logprobs >= -1 && s.num_logprobs <= vocab_size, "num_logprobs", s.num_logprobs,
        "-1 (off) or a number of tokens");
}

bool is_greedy(const Sampling& s) { return s.temperature == 0.0f || s.top_k == 1; }

bool is_filtered(const Sampling& s) {
  return !is_greedy(s) && (s.top_k > 0 || s.top_p < 1.0f || s.min_p > 0.0f);
}

double uniform_at(uint64_t seed, uint64_t position) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const uint64_t bits = mix(mix(seed + kGolden) ^ ((position + 1) * kGolden));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

int32_t Sampler::sample(std::span<const float> logits, const Sampling& sampling,
                        std::span<const int32_t> tokens, size_t num_prompt,
                        std::span<const uint32_t> allowed) {
  const std::span<const float> adjusted = adjust(logits, sampling, tokens, num_prompt, allowed);
  const int32_t best = find_largest(adjusted);
  if (is_greedy(sampling)) return best;
  return draw(adjusted, adjusted[best], sampling, uniform_at(sampling.seed, tokens.size()));
}

int32_t Sampler::redraw(const Sampling& sampling, std::span<const int32_t> tokens,
                        int attempt) const {
  return pick(uniform_of_attempt(sampling.seed, tokens.size(), attempt) * total_);
}

// The weights of the first draw serve again, unless those of all that may come were too small.
int32_t Sampler::redraw(std::span<const float> logits, const Sampling& sampling,
                        std::span<const int32_t> tokens, size_t num_prompt, int attempt,
                        std::span<const uint32_t> allowed) {
  constexpr double kLeastWeight = 1e-200;
  if (is_greedy(sampling)) return sample(logits, sampling, tokens, num_prompt, allowed);
  const double u = uniform_of_attempt(sampling.seed, tokens.size(), attempt);
  std::erase_if(candidates_, [&](const Candidate& one) { return !is_set(allowed, one.id); });
  total_ = total_weight();
  if (total_ < kLeastWeight) {
    const std::span<const float> adjusted = adjust(logits, sampling, tokens, num_prompt, allowed);
    return draw(adjusted, adjusted[find_largest(adjusted)], sampling, u);
  }
  return pick(u * total_);
}

std::span<const float> Sampler::adjust(std::span<const float> logits, const Sampling& sampling,
                                       std::span<const int32_t> tokens, size_t num_prompt,
                                       std::span<const uint32_t> allowed) {
  if (sampling.logit_bias.empty() && !has_penalty(sampling) && allowed.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [id, bias] : sampling.logit_bias) adjusted_[id] += bias;
  if (has_penalty(sampling)) penalize(sampling, tokens, num_prompt);
  if (!allowed.empty()) forbid(allowed);
  return adjusted_;
}

// After the penalties, which would make it infinite, and finite, so that NaN is still found.
void Sampler::forbid(std::span<const uint32_t> allowed) {
  const size_t size = adjusted_.size();
  // Whole words, of which the last may reach beyond the vocabulary.
  adjusted_.resize((size + kWordBits - 1) / kWordBits * kWordBits, 0.0f);
  bool has_choice = false;
  for (size_t first = 0; first < size; first += kWordBits) {
    uint32_t word = first / kWordBits < allowed.size() ? allowed[first / kWordBits] : 0;
    if (size - first < kWordBits) word &= (uint32_t{1} << (size - first)) - 1;
    has_choice = has_choice || word != 0;
    if (word != ~uint32_t{0}) select(word, adjusted_.data() + first);
  }
  adjusted_.resize(size);
  if (!has_choice) throw Error(kArgumentError, "no token is allowed");
}

void Sampler::penalize(const Sampling& sampling, std::span<const int32_t> tokens,
                       size_t num_prompt) {
  num_generated_.resize(vocab_size_);
  is_counted_.resize(vocab_size_);
  for (const int32_t id : tokens.subspan(num_prompt)) ++num_generated_[id];
  for (const int32_t id : tokens) {
    if (is_counted_[id]) continue;
    is_counted_[id] = 1;
    float& logit = adjusted_[id];
    logit =
        logit > 0.0f ? logit / sampling.repetition_penalty : logit * sampling.repetition_penalty;
    if (num_generated_[id] == 0) continue;
    logit -= sampling.presence_penalty +
             sampling.frequency_penalty * static_cast<float>(num_generated_[id]);
  }
  for (const int32_t id : tokens) is_counted_[id] = 0;
  for (const int32_t id : tokens) num_generated_[id] = 0;
}

int32_t Sampler::draw(std::span<const float> logits, float largest, const Sampling& sampling,
                      double u) {
  candidates_.clear();
  candidates_.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == kForbidden) continue;
    candidates_.push_back({logits[i], static_cast<int32_t>(i), 0.0});
  }
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < candidates_.size()) {
    const auto end = candidates_.begin() + sampling.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(), is_better);
    candidates_.erase(end, candidates_.end());
  }
  for (Candidate& candidate : candidates_) {
    candidate.weight =
        std::exp((static_cast<double>(candidate.logit) - largest) / sampling.temperature);
  }
  if (sampling.top_p < 1.0f) keep_top_p(sampling.top_p);
  // The most likely token has weight 1.
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    return candidate.weight < sampling.min_p || candidate.weight == 0.0;
  });
  total_ = total_weight();
  return pick(u * total_);
}

int32_t Sampler::pick(double weight) const {
  for (const Candidate& candidate : candidates_) {
    weight -= candidate.weight;
    if (weight < 0.0) return candidate.id;
  }
  return candidates_.back().id;
}

// Pops the best from a heap until they hold the share: most of a vocabulary is never sorted.
void Sampler::keep_top_p(float top_p) {
  const auto is_worse = [](const Candidate& a, const Candidate& b) { return is_better(b, a); };
  const double wanted = top_p * total_weight();
  std::make_heap(candidates_.begin(), candidates_.end(), is_worse);
  auto rest = candidates_.end();
  for (double held = 0.0; held < wanted && rest != candidates_.begin(); held += rest->weight) {
    std::pop_heap(candidates_.begin(), rest, is_worse);
    --rest;
  }
  candidates_.erase(candidates_.begin(), rest);
  std::reverse(candidates_.begin(), candidates_.end());
}

double Sampler::total_weight() const {
  double total = 0.0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return total;
}

}  // namespace autoglm
