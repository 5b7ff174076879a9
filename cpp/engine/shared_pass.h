// Forward passes that several sessions share: the weights are read once for all of them.
//
// Owns the order of the steps; who takes part, and with how much, is the caller's choice. A session
// gets the same tokens whoever else takes part.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "engine/session.h"

namespace autoglm {

// A session's part of a pass.
struct PassItem {
  Session* session = nullptr;
  Sampling sampling = {};
  int most_tokens = 1;  // of those that have no KV yet, to compute in one pass
  int most_ids = 1;     // to sample; what a judge forces comes on top
};

struct PassOutcome {
  std::vector<int32_t> ids = {};    // sampled
  int num_pending = 0;              // tokens without KV
  bool is_ended = false;            // by one of eos_ids or the judge
  std::optional<Error> error = {};  // of this session alone
};

class SharedPass {
 public:
  // The sessions must be different ones of this executor, and their most_tokens together at most
  // its prefill_chunk().
  SharedPass(Executor& executor, std::span<const PassItem> items, Clock clock = steady_seconds);

  // One pass, and more of them as long as every session only decodes, none of them has ended, has
  // its most_ids or waits for its judge, and one more would not take longer than `seconds` in all.
  // `poll` may throw to abandon a pass. Throws Error(kArgumentError), and what concerns all
  // sessions alike.
  std::vector<PassOutcome> run(double seconds, const Checkpoint& poll);

 private:
  // What is computed for an item in the current pass.
  struct Part {
    int item = 0;
    int num_tokens = 0;
    bool is_last = false;  // no token is pending afterwards
  };

  // What follows a part is chosen from these logits.
  struct Row {
    int item = 0;
    std::span<const float> logits = {};
    Chooser::Step step = Chooser::Step::kAgain;
  };

  void run_alone(double seconds, const Checkpoint& poll);
  void run_together(double seconds, const Checkpoint& poll);
  // The parts of the next pass. Sessions that cannot take part get an error.
  void plan();
  void advance(std::span<const Part> parts, const Checkpoint& poll);
  void compute(std::span<const Part> parts, const Checkpoint& poll);
  void complete(std::span<const Part> parts);
  // Chooses what follows the parts that are last.
  void sample(std::span<const Part> parts);
  // One step of choosing for all of `rows_`; keeps those that need another one.
  void choose();
  bool may_go_on() const;
  // Calls body(); what it throws becomes the item's error.
  template <typename Body>
  bool guard(int item, const Body& body);

  Executor& executor_;
  std::span<const PassItem> items_;
  Clock clock_;
  std::vector<PassOutcome> outcomes_;
  std::vector<Part> parts_;
  std::vector<Chunk> chunks_;
  std::vector<int> logit_rows_;
  std::vector<Row> rows_;
  std::vector<float> logits_;  // [logit_rows_.size()][vocab_size]
};

}  // namespace autoglm
