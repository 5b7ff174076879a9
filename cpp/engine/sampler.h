// Chooses the next token from logits.
//
// Order: logit bias, repetition penalty, presence and frequency penalties, then either the largest
// logit (temperature 0) or temperature, top-k, top-p, min-p and a draw. Equal logits: the lowest id
// first.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace autoglm {

struct Sampling {
  float temperature = 0.0f;         // 0: greedy
  int top_k = 0;                    // 0: all
  float top_p = 1.0f;               // smallest set of tokens that holds this probability
  float min_p = 0.0f;               // least probability relative to the most likely token
  float repetition_penalty = 1.0f;  // of every token so far, prompt included (arXiv 1909.05858)
  float presence_penalty = 0.0f;    // once for a token generated before
  float frequency_penalty = 0.0f;   // for each time it was generated
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  std::vector<int32_t> eos_ids = {};
  bool ignore_eos = false;
  bool prompt_lookup = true;  // verify drafts from the text so far; changes speed, never a token
  int num_logprobs = -1;      // likeliest tokens to report beside the one chosen; -1: report none
};

// Throws Error(kArgumentError) naming the parameter that is out of range.
void validate_sampling(const Sampling& sampling, int vocab_size);

// Whether the likeliest token is chosen.
bool is_greedy(const Sampling& sampling);
// Whether unlikely tokens are left out; which ones then depends on all that may come.
bool is_filtered(const Sampling& sampling);

// A number in [0, 1) that depends on its arguments alone, on every platform.
double uniform_at(uint64_t seed, uint64_t position);

class Sampler {
 public:
  explicit Sampler(int vocab_size) : vocab_size_(vocab_size) {}

  // The token after `tokens`, of which those from `num_prompt` on were generated. The draw depends
  // on the seed and the number of tokens only. Unless `allowed` is empty, only tokens whose bit is
  // set in it are chosen: bit id % 32 of word id / 32. Throws Error(kModelFileError) when a logit
  // is not finite, Error(kArgumentError) when no token is allowed.
  int32_t sample(std::span<const float> logits, const Sampling& sampling,
                 std::span<const int32_t> tokens, size_t num_prompt,
                 std::span<const uint32_t> allowed = {});

  // Further draws after the last call, a sample() of the same arguments that allowed all, drew a
  // token that must not come. They have numbers of their own, by `attempt` from 1 on.
  //
  // Unless is_filtered(), all attempts together have the distribution of one draw among `allowed`,
  // p(x) / a with a = p(allowed): each of k free ones gives x with probability p(x) if all before
  // it were refused, the one among `allowed` with p(x) / a, and
  // p(x) (1 + (1 - a) + ... + (1 - a)^(k - 1)) + (1 - a)^k p(x) / a = p(x) / a.
  int32_t redraw(const Sampling& sampling, std::span<const int32_t> tokens, int attempt) const;
  int32_t redraw(std::span<const float> logits, const Sampling& sampling,
                 std::span<const int32_t> tokens, size_t num_prompt, int attempt,
                 std::span<const uint32_t> allowed);

 private:
  struct Candidate {
    float logit;
    int32_t id;
    double weight;  // probability relative to the most likely token's
  };

  static bool is_better(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  }
  std::span<const float> adjust(std::span<const float> logits, const Sampling& sampling,
                                std::span<const int32_t> tokens, size_t num_prompt,
                                std::span<const uint32_t> allowed);
  void forbid(std::span<const uint32_t> allowed);
  void penalize(const Sampling& sampling, std::span<const int32_t> tokens, size_t num_prompt);
  int32_t draw(std::span<const float> logits, float largest, const Sampling& sampling, double u);
  void keep_top_p(float top_p);
  // The candidate at which the sum of weights exceeds `weight`.
  int32_t pick(double weight) const;
  double total_weight() const;

  int vocab_size_;
  std::vector<float> adjusted_;         // [vocab_size] once needed, as the others
  std::vector<int32_t> num_generated_;  // zero between calls
  std::vector<uint8_t> is_counted_;     // zero between calls
  std::vector<Candidate> candidates_;
  double total_ = 0.0;  // weight of candidates_
};

}  // namespace autoglm
