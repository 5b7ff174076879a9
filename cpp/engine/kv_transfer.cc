#include "engine/kv_transfer.h"

#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"

namespace autoglm {
namespace {

// The reusable pages of leading tokens, held until destroyed.
class HeldPages {
 public:
  HeldPages(KvCache& cache, std::span<const int32_t> ids) : cache_(cache) {
    const size_t num_whole = ids.size() / kPageTokens;
    while (pages_.size() < num_whole) {
      const auto match =
          cache.find(last_block_, ids.subspan(pages_.size() * kPageTokens, kPageTokens));
      if (match.page < 0) break;
      pages_.push_back(match.page);
      last_block_ = match.block;
    }
  }
  ~HeldPages() { cache_.release(pages_); }
  HeldPages(const HeldPages&) = delete;
  HeldPages& operator=(const HeldPages&) = delete;

  size_t count() const { return pages_.size(); }
  int32_t last() const { return pages_.back(); }
  KvCache::BlockId last_block() const { return last_block_; }
  void add(int32_t page) { pages_.push_back(page); }

 private:
  KvCache& cache_;
  std::vector<int32_t> pages_;
  KvCache::BlockId last_block_ = KvCache::kRootBlock;
};

size_t check_sizes(const KvCache& cache, std::span<const int32_t> ids, size_t num_bytes) {
  if (ids.empty() || ids.size() % kPageTokens != 0) {
    throw Error(kArgumentError, "got " + std::to_string(ids.size()) +
                                    " tokens; expected whole pages of " +
                                    std::to_string(kPageTokens));
  }
  if (num_bytes != cache.page_bytes()) {
    throw Error(kArgumentError, "got " + std::to_string(num_bytes) + " bytes; a page has " +
                                    std::to_string(cache.page_bytes()));
  }
  return ids.size() / kPageTokens;
}

}  // namespace

int num_cached_tokens(KvCache& cache, std::span<const int32_t> ids) {
  return static_cast<int>(HeldPages(cache, ids).count()) * kPageTokens;
}

bool export_page(KvCache& cache, std::span<const int32_t> ids, std::span<std::byte> out) {
  const size_t num_pages = check_sizes(cache, ids, out.size());
  const HeldPages held(cache, ids);
  if (held.count() < num_pages) return false;
  for (const std::span<const std::byte> layer : cache.page_parts(held.last())) {
    std::memcpy(out.data(), layer.data(), layer.size());
    out = out.subspan(layer.size());
  }
  return true;
}

bool import_page(KvCache& cache, std::span<const int32_t> ids, std::span<const std::byte> bytes) {
  const size_t num_pages = check_sizes(cache, ids, bytes.size());
  HeldPages held(cache, ids);
  if (held.count() == num_pages) return true;
  std::vector<int32_t> page;
  if (held.count() + 1 < num_pages || !cache.try_acquire(1, page)) return false;
  held.add(page[0]);
  for (const std::span<std::byte> layer : cache.page_parts(page[0])) {
    std::memcpy(layer.data(), bytes.data(), layer.size());
    bytes = bytes.subspan(layer.size());
  }
  cache.publish(page[0], held.last_block(), ids.last(kPageTokens));
  return true;
}

}  // namespace autoglm
