// How many drafted tokens are worth verifying: learns acceptance and cost while decoding, and stops
// drafting where it does not pay.
//
// Owns only numbers; results never depend on its choices, because accepted tokens are those that
// would have been sampled anyway.
#pragma once

#include <array>

namespace autoglm {

class Speculation {
 public:
  static constexpr int kMaxDraft = 15;

  // The draft length of highest expected tokens per second after a match this long; 0: do not
  // draft.
  int draft_tokens(int match_length);

  // What a step of `num_drafted` tokens brought and took.
  void record(int match_length, int num_drafted, int num_accepted, double seconds);

 private:
  static constexpr int kMatchClasses = 4;
  static int match_class(int match_length);
  double cost(int num_drafted) const;  // relative to a step without a draft

  // Share of drafted tokens accepted given that those before them were.
  std::array<double, kMatchClasses> acceptance_ = {0.3, 0.5, 0.7, 0.85};
  double plain_seconds_ = 0.0;     // of a step without a draft; 0: not measured
  double extra_per_token_ = 0.05;  // relative cost of one more drafted token
  double extra_per_draft_ = 0.10;  // relative cost of drafting at all
  int num_refused_ = 0;            // in a row
};

}  // namespace autoglm
