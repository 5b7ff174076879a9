// Chooses the next token of one sequence, which may have to keep to what a judge says.
//
// Most tokens that a model draws are fine: the judge is asked about the one that was drawn. Where
// it refuses another one is drawn, and after some of them one under a mask. Answers are distributed
// as if all were drawn under masks, see Sampler::redraw().
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/judge.h"
#include "engine/sampler.h"

namespace autoglm {

class Chooser {
 public:
  enum class Step {
    kChosen,  // id() and forced() are the next tokens
    kAgain,   // draw() has to be called once more
    kLater,   // as kAgain, but nothing can be drawn before the judge knows more
  };

  explicit Chooser(int vocab_size) : sampler_(vocab_size) {}

  // Returns the judge there was; null: all tokens may come.
  std::shared_ptr<Judge> keep_to(std::shared_ptr<Judge> judge);
  bool has_judge() const { return judge_ != nullptr; }
  // Forgets what was drawn: the text goes on in another way.
  void reset();

  // Draws the token after `tokens` with the arguments of Sampler::sample(), if that is possible
  // without a mask or with the one there is. `sampling` and `tokens` are used by judge() too.
  void draw(std::span<const float> logits, const Sampling& sampling,
            std::span<const int32_t> tokens, size_t num_prompt);
  // Asks the judge what to do with what was drawn.
  Step judge();
  // Calls body(), in which judge() of several choosers is called.
  void ask(const std::function<void()>& body) { judge_->ask(body); }

  int32_t id() const { return drawn_; }
  std::span<const int32_t> forced() const { return verdict_.forced; }
  // Whether the grammar lets nothing follow.
  bool is_last() const { return verdict_.is_last; }

 private:
  static constexpr int32_t kNone = -1;
  static constexpr int kFreeDraws = 2;  // of one token, before a mask is made

  // Asks about free draws; whether one may come.
  bool take_free();

  Sampler sampler_;
  std::shared_ptr<Judge> judge_;
  Judge::Verdict verdict_;
  int32_t drawn_ = kNone;
  bool is_bound_ = false;    // nothing may be drawn without a mask
  bool is_refused_ = false;  // whatever was drawn freely
  const Sampling* sampling_ = nullptr;
  std::span<const int32_t> tokens_;
  std::vector<uint32_t> allowed_;  // of the next token; empty: not known
};

}  // namespace autoglm
