// Pages that leave one cache and come back into another.
#include "engine/kv_transfer.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/check.h"

namespace autoglm {
namespace {

constexpr KvGeometry kGeometry{
    .type = KvType::kF32, .num_layers = 3, .num_kv_heads = 1, .head_dim = 4};

using Ids = std::vector<int32_t>;

Ids tokens(int count, int first = 0) {
  Ids ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

// Leaves reusable pages of `ids`, each byte of a page its number in the sequence plus `salt`.
void fill(KvCache& kv, const Ids& ids, int salt) {
  const int num_pages = static_cast<int>(ids.size()) / kPageTokens;
  std::vector<int32_t> pages;
  kv.acquire(num_pages, pages);
  KvCache::BlockId block = KvCache::kRootBlock;
  for (int i = 0; i < num_pages; ++i) {
    for (const std::span<std::byte> part : kv.page_parts(pages[i])) {
      std::ranges::fill(part, static_cast<std::byte>(salt + i));
    }
    block = kv.publish(pages[i], block, std::span(ids).subspan(i * kPageTokens, kPageTokens));
  }
  kv.release(pages);
}

std::span<const int32_t> leading(const Ids& ids, int num_pages) {
  return std::span(ids).first(static_cast<size_t>(num_pages) * kPageTokens);
}

void test_pages_come_back_with_their_content() {
  KvCache from(kGeometry, 8), to(kGeometry, 8);
  const Ids ids = tokens(192);
  fill(from, ids, 1);
  std::vector<std::byte> bytes(from.page_bytes());
  for (int i = 1; i <= 3; ++i) {
    CHECK(export_page(from, leading(ids, i), bytes));
    CHECK(std::ranges::all_of(bytes, [&](std::byte b) { return b == static_cast<std::byte>(i); }));
    CHECK(import_page(to, leading(ids, i), bytes));
    CHECK_EQ(num_cached_tokens(to, ids), 64 * i);
  }
  std::vector<std::byte> again(to.page_bytes());
  CHECK(export_page(to, leading(ids, 3), again));
  CHECK(bytes == again);
  CHECK_EQ(to.num_free_pages(), 8);
  KvSequence sequence(to);
  CHECK_EQ(sequence.attach(tokens(193), 0), 192);
}

void test_a_page_needs_those_before_it() {
  KvCache kv(kGeometry, 8);
  const Ids ids = tokens(128);
  std::vector<std::byte> bytes(kv.page_bytes());
  CHECK(!import_page(kv, leading(ids, 2), bytes));
  CHECK(!export_page(kv, leading(ids, 1), bytes));
  CHECK_EQ(kv.num_free_pages(), 8);
}

void test_a_page_that_is_there_stays() {
  KvCache kv(kGeometry, 2);
  const Ids ids = tokens(64);
  fill(kv, ids, 7);
  const std::vector<std::byte> other(kv.page_bytes());
  CHECK(import_page(kv, ids, other));
  std::vector<std::byte> bytes(kv.page_bytes());
  CHECK(export_page(kv, ids, bytes));
  CHECK(bytes[0] == static_cast<std::byte>(7));
}

void test_a_full_cache_takes_no_page() {
  KvCache kv(kGeometry, 1);
  KvSequence sequence(kv);
  sequence.reserve(1);
  const std::vector<std::byte> bytes(kv.page_bytes());
  CHECK(!import_page(kv, tokens(64), bytes));
}

void test_wrong_sizes_are_refused() {
  KvCache kv(kGeometry, 1);
  std::vector<std::byte> bytes(kv.page_bytes());
  CHECK_THROWS(kArgumentError, import_page(kv, tokens(63), bytes));
  CHECK_THROWS(kArgumentError, import_page(kv, {}, bytes));
  bytes.pop_back();
  CHECK_THROWS(kArgumentError, export_page(kv, tokens(64), bytes));
}

void test_prefixes_are_those_that_nothing_continues_latest_first() {
  KvCache kv(kGeometry, 8);
  Ids other = tokens(128);
  other[100] = -1;
  fill(kv, tokens(192), 0);
  fill(kv, tokens(64, 500), 0);
  fill(kv, other, 0);
  const auto prefixes = kv.prefixes();
  CHECK_EQ(prefixes.size(), 3u);
  CHECK(prefixes[0] == other);
  CHECK(prefixes[1] == tokens(64, 500));
  CHECK(prefixes[2] == tokens(192));
}

}  // namespace
}  // namespace autoglm

int main() {
  autoglm::test_pages_come_back_with_their_content();
  autoglm::test_a_page_needs_those_before_it();
  autoglm::test_a_page_that_is_there_stays();
  autoglm::test_a_full_cache_takes_no_page();
  autoglm::test_wrong_sizes_are_refused();
  autoglm::test_prefixes_are_those_that_nothing_continues_latest_first();
  return autoglm::test::finish_tests();
}
