// When drafts pay: what verifying costs and how often drafts are right, learned while decoding.
//
// Owns only numbers; results never depend on its choices, because accepted tokens are those that
// would have been sampled anyway.
#pragma once

#include <mutex>

namespace autoglm {

inline constexpr int kMaxDraft = 15;  // tokens verified in one step

// Seconds of a step, by the number of drafted tokens that it verifies.
struct StepCosts {
  double plain_seconds = 0.0;     // without a draft; 0: not measured
  double extra_per_token = 0.05;  // of one more drafted token, relative to a plain step
  double extra_per_draft = 0.10;  // of drafting at all

  double relative(int num_drafted) const {
    return num_drafted == 0 ? 1.0 : 1.0 + extra_per_draft + extra_per_token * num_drafted;
  }
};

// What the steps of one executor take. Thread-safe.
class StepTimer {
 public:
  StepCosts costs() const;
  // Whether the next step should be plain, to know what drafts are compared with.
  bool needs_plain() const;
  void record(int num_drafted, double seconds);

 private:
  mutable std::mutex mutex_;
  StepCosts costs_;
  int num_plain_ = 0;
  int num_since_plain_ = 0;  // steps with drafts
};

// How far ahead to draft with one kind of drafts: as far as it brings the most tokens a second.
class DraftPolicy {
 public:
  // `acceptance` is a first guess, `first_tokens` the longest draft until some were right.
  DraftPolicy(double acceptance, int first_tokens)
      : acceptance_(acceptance), longest_(first_tokens) {}

  // 0: do not draft. `token_cost` is what drafting a token takes, relative to a plain step.
  int draft_tokens(const StepCosts& costs, double token_cost, int most_tokens);

  // How the last draft fared.
  void record(int num_drafted, int num_accepted);

 private:
  static constexpr int kProbeEvery = 64;

  double acceptance_;  // share of drafted tokens accepted given that those before them were
  int longest_;
  int num_refused_ = 0;            // in a row
  int probe_every_ = kProbeEvery;  // refusals after which a draft is tried all the same
  bool is_probe_ = false;          // the last draft
};

}  // namespace autoglm
