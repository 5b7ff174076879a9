// Paged KV cache: pages of 64 tokens, shared between sequences that begin alike.
//
// Owns the memory, the reference counts and the table of reusable pages; knows nothing about
// attention. Thread-safe: every call is short and holds one internal lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/pass.h"
#include "model/window.h"

namespace autoglm {

struct KvGeometry {
  KvType type = KvType::kF32;
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;

  // Elements of one page of one layer, keys and values.
  size_t page_elements() const { return kv_page_elements(type, num_kv_heads, head_dim); }
  size_t element_bytes() const { return kv_element_bytes(type); }
};

class KvCache {
 public:
  // Names the content of a published page: its tokens and all tokens before them. Never used twice.
  using BlockId = uint64_t;
  static constexpr BlockId kRootBlock = 0;  // before the first token

  struct Match {
    int32_t page = -1;  // -1: no such page
    BlockId block = kRootBlock;
  };

  // Reserves address space for `num_pages`; a page takes memory when first written. Throws
  // Error(kOutOfMemoryError).
  KvCache(const KvGeometry& geometry, int num_pages);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  KvView view(const int32_t* page_table) const;
  int num_pages() const { return static_cast<int>(pages_.size()); }
  // Memory of one page of all layers.
  size_t page_bytes() const { return arena_bytes_ / pages_.size(); }
  // Pages that no sequence holds, reusable ones included.
  int num_free_pages() const;

  // Appends `count` pages, all or none, for the caller alone. Pages without reusable content go
  // first, then the least recently used. Throws Error(kContextFullError).
  void acquire(int count, std::vector<int32_t>& pages);
  // As acquire(), but returns false when there are too few.
  bool try_acquire(int count, std::vector<int32_t>& pages);
  // Gives up one reference to each page. Published pages stay reusable, later ones evicted first.
  void release(std::span<const int32_t> pages);
  // As release() of one page, but it is the first to be evicted.
  void retire(int32_t page);

  // The page that holds these 64 tokens after `parent`, with one more reference.
  Match find(BlockId parent, std::span<const int32_t> ids);
  // Makes a page that holds these 64 tokens after `parent` reusable; returns what names its
  // content.
  BlockId publish(int32_t page, BlockId parent, std::span<const int32_t> ids);

  // The memory of a page, one part a layer. The caller holds the page.
  std::vector<std::span<std::byte>> page_parts(int32_t page);
  // The tokens that reusable pages stand for, from the first token on: one entry for each page that
  // no other continues, the latest used first.
  std::vector<std::vector<int32_t>> prefixes() const;

 private:
  static constexpr int32_t kNone = -1;

  struct Page {
    int num_references = 0;
    BlockId block = kRootBlock;  // kRootBlock: not published
    BlockId parent = kRootBlock;
    uint64_t hash = 0;
    int32_t next_in_bucket = kNone;
    int32_t older = kNone;  // neighbours in the list of reusable pages
    int32_t newer = kNone;
  };

  std::span<int32_t> tokens_of(int32_t page) {
    return {tokens_.data() + static_cast<size_t>(page) * kPageTokens, kPageTokens};
  }
  // Published pages that no published page continues, the latest used first.
  std::vector<int32_t> leaves() const;
  int32_t& bucket_of(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  int32_t lookup(uint64_t hash, BlockId parent, std::span<const int32_t> ids);
  int32_t take_page();
  void unpublish(int32_t page);
  void push_newest(int32_t page);
  void push_oldest(int32_t page);
  void unlink(int32_t page);

  const KvGeometry geometry_;
  std::byte* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  mutable std::mutex mutex_;
  std::vector<Page> pages_;
  std::vector<int32_t> tokens_;   // [num_pages][64], of published pages
  std::vector<int32_t> buckets_;  // a power of two, first page of each chain
  std::vector<int32_t> blank_;    // free pages without reusable content
  int32_t oldest_ = kNone;        // reusable pages nobody holds
  int32_t newest_ = kNone;
  int num_reusable_ = 0;
  BlockId last_block_ = kRootBlock;
};

// The pages of one growing token sequence; gives them back when destroyed. With a window it is a
// ring: pages that no later token sees go back to the cache while the sequence grows.
class KvSequence {
 public:
  explicit KvSequence(KvCache& cache, const KvWindow& window = {});
  ~KvSequence() { release_from(0); }
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  // Attaches reusable pages for whole pages of `ids` beyond its first `num_computed`, which must
  // all be published. Leaves at least one token. Returns the tokens gained.
  int attach(std::span<const int32_t> ids, int num_computed);
  // Makes room for `num_tokens` in all, or returns false and changes nothing.
  bool try_reserve(int num_tokens);
  // Makes room for `num_tokens` in all. Throws Error(kContextFullError) and changes nothing.
  void reserve(int num_tokens);
  // Publishes the pages that the first `num_computed` of `ids` fill.
  void publish(std::span<const int32_t> ids, int num_computed);
  // Gives back the pages that tokens from position `num_kept` on do not see; the sequence must not
  // be cut before that position any more.
  void slide(int num_kept);

  KvView view() const { return cache_.view(pages_.data()); }

 private:
  static constexpr int32_t kGone = -1;

  void release_from(int first);

  KvCache& cache_;
  KvWindow window_;
  std::vector<int32_t> pages_;  // kGone: given back
  int num_gone_ = 0;            // after the sinks
  int num_published_ = 0;       // leading pages that are published
  KvCache::BlockId last_block_ = KvCache::kRootBlock;
};

}  // namespace autoglm
