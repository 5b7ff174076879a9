// Page accounting, prefix reuse and eviction.
#include "engine/kv_cache.h"

#include <numeric>
#include <vector>

#include "base/check.h"

namespace autoglm {
namespace {

constexpr KvGeometry kGeometry{
    .type = KvType::kF32, .num_layers = 2, .num_kv_heads = 1, .head_dim = 4};

std::vector<int32_t> tokens(int count, int first = 0) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

// Computes `ids` in a sequence of its own and drops it, leaving reusable pages.
void cache(KvCache& kv, const std::vector<int32_t>& ids) {
  KvSequence sequence(kv);
  sequence.attach(ids, 0);
  sequence.reserve(static_cast<int>(ids.size()));
  sequence.publish(ids, static_cast<int>(ids.size()));
}

int num_reused(KvCache& kv, const std::vector<int32_t>& ids) {
  KvSequence sequence(kv);
  return sequence.attach(ids, 0);
}

void test_pages_are_counted_and_come_back() {
  KvCache kv(kGeometry, 4);
  {
    KvSequence sequence(kv);
    sequence.reserve(65);
    CHECK_EQ(kv.num_free_pages(), 2);
    sequence.reserve(128);
    CHECK_EQ(kv.num_free_pages(), 2);
  }
  CHECK_EQ(kv.num_free_pages(), 4);
}

void test_a_full_cache_gives_all_pages_or_none() {
  KvCache kv(kGeometry, 4);
  KvSequence first(kv), second(kv);
  first.reserve(129);
  CHECK_THROWS(kContextFullError, second.reserve(65));
  CHECK_EQ(kv.num_free_pages(), 1);
  second.reserve(64);
  CHECK_EQ(kv.num_free_pages(), 0);
}

void test_whole_pages_of_a_shared_prefix_are_reused() {
  KvCache kv(kGeometry, 8);
  cache(kv, tokens(200));
  std::vector<int32_t> other = tokens(200);
  CHECK_EQ(num_reused(kv, other), 192);
  other[130] = -1;
  CHECK_EQ(num_reused(kv, other), 128);
  other[0] = -1;
  CHECK_EQ(num_reused(kv, other), 0);
}

void test_the_last_token_is_never_reused() {
  KvCache kv(kGeometry, 8);
  cache(kv, tokens(128));
  CHECK_EQ(num_reused(kv, tokens(128)), 64);
  CHECK_EQ(num_reused(kv, tokens(129)), 128);
}

void test_equal_pages_after_different_ones_are_not_mixed_up() {
  KvCache kv(kGeometry, 8);
  std::vector<int32_t> first = tokens(64), second = tokens(64, 1000);
  const std::vector<int32_t> tail = tokens(65, 500);
  first.insert(first.end(), tail.begin(), tail.end());
  second.insert(second.end(), tail.begin(), tail.end());
  cache(kv, first);
  CHECK_EQ(num_reused(kv, second), 0);
  CHECK_EQ(num_reused(kv, tail), 0);
}

void test_two_sequences_hold_the_same_page() {
  KvCache kv(kGeometry, 4);
  const std::vector<int32_t> ids = tokens(65);
  cache(kv, ids);
  KvSequence first(kv), second(kv);
  CHECK_EQ(first.attach(ids, 0), 64);
  CHECK_EQ(second.attach(ids, 0), 64);
  CHECK_EQ(first.view().page_table[0], second.view().page_table[0]);
  CHECK_EQ(kv.num_free_pages(), 3);
}

void test_the_same_tokens_computed_twice_stay_reusable() {
  KvCache kv(kGeometry, 6);
  const std::vector<int32_t> ids = tokens(129);
  {
    KvSequence first(kv), second(kv);
    for (KvSequence* sequence : {&first, &second}) sequence->reserve(129);
    for (KvSequence* sequence : {&first, &second}) sequence->publish(ids, 129);
  }
  CHECK_EQ(kv.num_free_pages(), 6);
  CHECK_EQ(num_reused(kv, ids), 128);
}

void test_the_least_recently_used_prefix_is_evicted_from_its_end() {
  KvCache kv(kGeometry, 4);
  cache(kv, tokens(128));
  cache(kv, tokens(128, 1000));
  CHECK_EQ(num_reused(kv, tokens(129)), 128);  // now the newest
  KvSequence sequence(kv);
  sequence.reserve(64);
  CHECK_EQ(num_reused(kv, tokens(129)), 128);
  CHECK_EQ(num_reused(kv, tokens(129, 1000)), 64);
}

void test_a_held_page_is_never_evicted() {
  KvCache kv(kGeometry, 2);
  const std::vector<int32_t> ids = tokens(65);
  cache(kv, ids);
  KvSequence holder(kv), other(kv);
  CHECK_EQ(holder.attach(ids, 0), 64);
  CHECK_THROWS(kContextFullError, other.reserve(128));
  other.reserve(64);
  CHECK(holder.view().page_table[0] != other.view().page_table[0]);
}

void test_an_evicted_page_is_forgotten() {
  KvCache kv(kGeometry, 2);
  cache(kv, tokens(128));
  {
    KvSequence(kv).reserve(128);
  }
  CHECK_EQ(num_reused(kv, tokens(129)), 0);
  cache(kv, tokens(128, 7));
  CHECK_EQ(num_reused(kv, tokens(129, 7)), 128);
}

void test_a_window_gives_back_what_later_tokens_do_not_see() {
  KvCache kv(kGeometry, 8);
  const std::vector<int32_t> ids = tokens(8 * 64);
  {
    KvSequence sequence(kv, {.num_sink_pages = 1, .num_pages = 2});
    sequence.reserve(8 * 64);
    sequence.publish(ids, 6 * 64);
    sequence.slide(4 * 64 - 1);  // page 3 sees all before it
    CHECK_EQ(kv.num_free_pages(), 0);
    sequence.slide(6 * 64);  // page 6 sees 0, 4, 5 and itself
    CHECK_EQ(kv.num_free_pages(), 3);
  }
  CHECK_EQ(kv.num_free_pages(), 8);
  CHECK_EQ(num_reused(kv, ids), 6 * 64);
}

void test_pages_that_left_a_window_are_evicted_first_and_break_the_prefix() {
  KvCache kv(kGeometry, 6);
  cache(kv, tokens(64, 1000));
  const std::vector<int32_t> ids = tokens(5 * 64);
  KvSequence sequence(kv, {.num_sink_pages = 1, .num_pages = 1});
  sequence.reserve(5 * 64);
  sequence.publish(ids, 5 * 64);
  sequence.slide(4 * 64);
  {
    KvSequence(kv).reserve(64);
  }
  CHECK_EQ(num_reused(kv, tokens(65, 1000)), 64);
  CHECK_EQ(num_reused(kv, ids), 2 * 64);
}

void test_a_sequence_attaches_again_after_unused_pages() {
  KvCache kv(kGeometry, 8);
  const std::vector<int32_t> ids = tokens(193);
  cache(kv, ids);
  KvSequence sequence(kv);
  sequence.reserve(64);
  sequence.publish(ids, 64);
  sequence.reserve(300);  // given up by attach()
  CHECK_EQ(sequence.attach(ids, 64), 128);
  CHECK_EQ(sequence.attach(ids, 192), 0);
  sequence.reserve(193);
  CHECK_EQ(kv.num_free_pages(), 4);
}

void test_layers_and_pages_do_not_overlap() {
  KvCache kv(kGeometry, 3);
  const KvView view = kv.view(nullptr);
  CHECK_EQ(view.page_stride, size_t{2} * 4 * kPageTokens);
  CHECK_EQ(view.layer_bytes, 3 * view.page_stride * sizeof(float));
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_pages_are_counted_and_come_back();
  autoglm::test_a_full_cache_gives_all_pages_or_none();
  autoglm::test_whole_pages_of_a_shared_prefix_are_reused();
  autoglm::test_the_last_token_is_never_reused();
  autoglm::test_equal_pages_after_different_ones_are_not_mixed_up();
  autoglm::test_two_sequences_hold_the_same_page();
  autoglm::test_the_same_tokens_computed_twice_stay_reusable();
  autoglm::test_the_least_recently_used_prefix_is_evicted_from_its_end();
  autoglm::test_a_held_page_is_never_evicted();
  autoglm::test_an_evicted_page_is_forgotten();
  autoglm::test_a_sequence_attaches_again_after_unused_pages();
  autoglm::test_a_window_gives_back_what_later_tokens_do_not_see();
  autoglm::test_pages_that_left_a_window_are_evicted_first_and_break_the_prefix();
  autoglm::test_layers_and_pages_do_not_overlap();
  return autoglm::test::finish_tests();
}
