// How long drafts are after what was learned, and when there are none.
#include "engine/speculation.h"

#include <algorithm>

#include "base/check.h"

namespace autoglm {
namespace {

// Plain steps of ten milliseconds.
void measure_plain(StepTimer& timer) {
  for (int i = 0; i < 3; ++i) timer.record(0, 0.010);
}

int draft_tokens(DraftPolicy& policy, const StepTimer& timer, double token_cost = 0.0) {
  return policy.draft_tokens(timer.costs(), token_cost, kMaxDraft);
}

void test_useless_drafts_are_tried_ever_more_rarely() {
  StepTimer timer;
  measure_plain(timer);
  DraftPolicy policy(0.3, 2);
  int num_drafts = 0;
  for (int i = 0; i < 64 * (1 + 2 + 4 + 8) + 40; ++i) {
    const int num = draft_tokens(policy, timer);
    if (num == 0) continue;
    ++num_drafts;
    timer.record(num, 0.012);
    policy.record(num, 0);
  }
  CHECK(num_drafts >= 4);
  CHECK(num_drafts <= 10);
}

void test_a_probe_that_was_right_brings_drafts_back() {
  StepTimer timer;
  measure_plain(timer);
  DraftPolicy policy(0.05, 2);
  int num_steps = 0;
  while (draft_tokens(policy, timer) == 0) ++num_steps;
  CHECK_EQ(num_steps, 63);
  for (int i = 0; i < 12; ++i) {
    policy.record(2, 2);
    CHECK(draft_tokens(policy, timer) > 0);
  }
}

void test_accepted_drafts_grow() {
  StepTimer timer;
  measure_plain(timer);
  DraftPolicy policy(0.85, 2);
  CHECK_EQ(draft_tokens(policy, timer), 2);
  for (int i = 0; i < 50; ++i) {
    const int num = draft_tokens(policy, timer);
    timer.record(num, 0.011);
    policy.record(num, num);
  }
  CHECK_EQ(draft_tokens(policy, timer), kMaxDraft);
  CHECK_EQ(policy.draft_tokens(timer.costs(), 0.0, 5), 5);
}

void test_dear_verification_keeps_drafts_short() {
  StepTimer timer;
  measure_plain(timer);
  DraftPolicy policy(0.85, 8);
  for (int i = 0; i < 50; ++i) {
    const int num = draft_tokens(policy, timer);
    if (num == 0) continue;
    timer.record(num, 0.010 * (1 + num));
    policy.record(num, num / 2);
  }
  CHECK(draft_tokens(policy, timer) <= 2);
}

void test_drafts_as_dear_as_the_model_are_not_made() {
  StepTimer timer;
  measure_plain(timer);
  DraftPolicy policy(0.9, 8);
  CHECK_EQ(draft_tokens(policy, timer, 1.0), 0);
  CHECK(draft_tokens(policy, timer, 0.1) > 0);
}

void test_plain_steps_are_measured_first_and_now_and_then() {
  StepTimer timer;
  CHECK(timer.needs_plain());
  timer.record(0, 0.100);  // cold caches
  timer.record(0, 0.010);
  timer.record(0, 0.010);
  CHECK(!timer.needs_plain());
  for (int i = 0; i < 30; ++i) timer.record(0, 0.010);
  CHECK(timer.costs().plain_seconds < 0.02);
  for (int i = 0; i < 127; ++i) timer.record(4, 0.012);
  CHECK(!timer.needs_plain());
  timer.record(4, 0.012);
  CHECK(timer.needs_plain());
  const double relative = timer.costs().relative(4);
  CHECK(relative > 1.1 && relative < 1.3);
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_useless_drafts_are_tried_ever_more_rarely();
  autoglm::test_a_probe_that_was_right_brings_drafts_back();
  autoglm::test_accepted_drafts_grow();
  autoglm::test_dear_verification_keeps_drafts_short();
  autoglm::test_drafts_as_dear_as_the_model_are_not_made();
  autoglm::test_plain_steps_are_measured_first_and_now_and_then();
  return autoglm::test::finish_tests();
}
