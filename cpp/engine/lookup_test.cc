#include "engine/lookup.h"

#include <vector>

#include "base/check.h"

namespace autoglm {
namespace {

std::vector<int32_t> found(PromptLookup& lookup, const std::vector<int32_t>& text, int most) {
  const Draft draft = lookup.find(text, most);
  return {draft.ids.begin(), draft.ids.end()};
}

void test_what_followed_the_longest_match_is_drafted() {
  PromptLookup lookup;
  // "2 3" stood twice before; "1 2 3" only where 4 followed.
  const std::vector<int32_t> text = {1, 2, 3, 4, 5, 9, 2, 3, 7, 8, 1, 2, 3};
  CHECK_EQ(lookup.find(text, 2).match_length, 3);
  CHECK(found(lookup, text, 2) == std::vector<int32_t>({4, 5}));
}

void test_the_latest_of_equal_matches_wins() {
  PromptLookup lookup;
  CHECK(found(lookup, {1, 2, 7, 1, 2, 8, 1, 2}, 1) == std::vector<int32_t>({8}));
}

void test_a_draft_ends_with_the_text() {
  PromptLookup lookup;
  CHECK(found(lookup, {5, 5, 5}, 9) == std::vector<int32_t>({5}));
  CHECK(found(lookup, {1, 2, 3}, 9).empty());
  CHECK(found(lookup, {1}, 9).empty());
  CHECK(found(lookup, {}, 9).empty());
}

void test_a_text_may_be_cut_and_continued() {
  PromptLookup lookup;
  CHECK(found(lookup, {1, 2, 3, 1, 2}, 1) == std::vector<int32_t>({3}));
  CHECK(found(lookup, {1, 2, 4, 1, 2}, 1) == std::vector<int32_t>({4}));
  CHECK(found(lookup, {1, 2, 4, 1, 2, 4, 6, 4, 1}, 2) == std::vector<int32_t>({2, 4}));
}

void test_a_long_text_grows_the_index() {
  PromptLookup lookup;
  std::vector<int32_t> text;
  for (int i = 0; i < 5000; ++i) text.push_back(i);
  CHECK(found(lookup, text, 4).empty());
  text.push_back(17);
  text.push_back(18);
  CHECK(found(lookup, text, 3) == std::vector<int32_t>({19, 20, 21}));
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_what_followed_the_longest_match_is_drafted();
  autoglm::test_the_latest_of_equal_matches_wins();
  autoglm::test_a_draft_ends_with_the_text();
  autoglm::test_a_text_may_be_cut_and_continued();
  autoglm::test_a_long_text_grows_the_index();
  return autoglm::test::finish_tests();
}
