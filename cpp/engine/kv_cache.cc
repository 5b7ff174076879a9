#include "engine/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"

namespace autoglm {
namespace {

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t hash_block(KvCache::BlockId parent, std::span<const int32_t> ids) {
  uint64_t hash = mix(parent + 0x9e3779b97f4a7c15u);
  for (const int32_t id : ids) hash = mix(hash ^ static_cast<uint32_t>(id)) + 0x9e3779b97f4a7c15u;
  return hash;
}

int pages_for(int num_tokens) { return (num_tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

KvCache::KvCache(const KvGeometry& geometry, int num_pages)
    : geometry_(geometry),
      arena_bytes_(geometry.page_elements() * geometry.element_bytes() * geometry.num_layers *
                   num_pages),
      pages_(num_pages),
      tokens_(static_cast<size_t>(num_pages) * kPageTokens),
      buckets_(std::bit_ceil(static_cast<size_t>(num_pages)), kNone),
      blank_(num_pages) {
  void* memory = mmap(nullptr, arena_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(kOutOfMemoryError, "cannot reserve " + std::to_string(arena_bytes_ >> 20) +
                                       " MiB of address space for the KV cache");
  }
  arena_ = static_cast<std::byte*>(memory);
  std::iota(blank_.rbegin(), blank_.rend(), 0);  // page 0 is taken first
}

KvCache::~KvCache() { munmap(arena_, arena_bytes_); }

KvView KvCache::view(const int32_t* page_table) const {
  return {.type = geometry_.type,
          .base = arena_,
          .layer_bytes = arena_bytes_ / geometry_.num_layers,
          .page_stride = geometry_.page_elements(),
          .page_table = page_table};
}

int KvCache::num_free_pages() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(blank_.size()) + num_reusable_;
}

void KvCache::acquire(int count, std::vector<int32_t>& pages) {
  if (try_acquire(count, pages)) return;
  throw Error(kContextFullError, "the KV cache is full: " + std::to_string(count) + " pages of " +
                                     std::to_string(kPageTokens) + " tokens needed, " +
                                     std::to_string(num_free_pages()) + " of " +
                                     std::to_string(pages_.size()) + " free");
}

bool KvCache::try_acquire(int count, std::vector<int32_t>& pages) {
  const std::lock_guard lock(mutex_);
  if (count > static_cast<int>(blank_.size()) + num_reusable_) return false;
  for (int i = 0; i < count; ++i) pages.push_back(take_page());
  return true;
}

void KvCache::release(std::span<const int32_t> pages) {
  const std::lock_guard lock(mutex_);
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
    Page& state = pages_[*page];
    if (--state.num_references > 0) continue;
    if (state.block == kRootBlock) {
      blank_.push_back(*page);
    } else {
      push_newest(*page);
    }
  }
}

void KvCache::retire(int32_t page) {
  const std::lock_guard lock(mutex_);
  Page& state = pages_[page];
  if (--state.num_references > 0) return;
  if (state.block == kRootBlock) {
    blank_.push_back(page);
  } else {
    push_oldest(page);
  }
}

KvCache::Match KvCache::find(BlockId parent, std::span<const int32_t> ids) {
  const std::lock_guard lock(mutex_);
  const int32_t page = lookup(hash_block(parent, ids), parent, ids);
  if (page == kNone) return {};
  if (pages_[page].num_references++ == 0) unlink(page);
  return {page, pages_[page].block};
}

KvCache::BlockId KvCache::publish(int32_t page, BlockId parent, std::span<const int32_t> ids) {
  const std::lock_guard lock(mutex_);
  const uint64_t hash = hash_block(parent, ids);
  // Another sequence may have computed the same tokens meanwhile: its page names the content.
  if (const int32_t twin = lookup(hash, parent, ids); twin != kNone) return pages_[twin].block;
  Page& state = pages_[page];
  state.block = ++last_block_;
  state.parent = parent;
  state.hash = hash;
  std::copy(ids.begin(), ids.end(), tokens_of(page).begin());
  state.next_in_bucket = bucket_of(hash);
  bucket_of(hash) = page;
  return state.block;
}

std::vector<std::span<std::byte>> KvCache::page_parts(int32_t page) {
  const size_t part_bytes = geometry_.page_elements() * geometry_.element_bytes();
  const size_t layer_bytes = arena_bytes_ / geometry_.num_layers;
  std::vector<std::span<std::byte>> parts;
  for (int layer = 0; layer < geometry_.num_layers; ++layer) {
    parts.emplace_back(arena_ + layer * layer_bytes + page * part_bytes, part_bytes);
  }
  return parts;
}

std::vector<std::vector<int32_t>> KvCache::prefixes() const {
  const std::lock_guard lock(mutex_);
  std::unordered_map<BlockId, int32_t> page_of;
  for (int32_t page = 0; page < num_pages(); ++page) {
    if (pages_[page].block != kRootBlock) page_of[pages_[page].block] = page;
  }
  std::vector<std::vector<int32_t>> prefixes;
  for (const int32_t leaf : leaves()) {
    std::vector<int32_t> chain;  // last page first
    BlockId block = pages_[leaf].block;
    for (auto found = page_of.find(block); found != page_of.end(); found = page_of.find(block)) {
      chain.push_back(found->second);
      block = pages_[found->second].parent;
    }
    if (block != kRootBlock) continue;  // an earlier page was evicted
    std::vector<int32_t>& ids = prefixes.emplace_back();
    for (auto page = chain.rbegin(); page != chain.rend(); ++page) {
      const auto first = tokens_.begin() + static_cast<ptrdiff_t>(*page) * kPageTokens;
      ids.insert(ids.end(), first, first + kPageTokens);
    }
  }
  return prefixes;
}

std::vector<int32_t> KvCache::leaves() const {
  std::unordered_set<BlockId> parents;
  for (const Page& page : pages_) {
    if (page.block != kRootBlock) parents.insert(page.parent);
  }
  const auto is_leaf = [&](const Page& page) {
    return page.block != kRootBlock && !parents.contains(page.block);
  };
  std::vector<int32_t> leaves;
  for (int32_t page = 0; page < num_pages(); ++page) {
    if (pages_[page].num_references > 0 && is_leaf(pages_[page])) leaves.push_back(page);
  }
  for (int32_t page = newest_; page != kNone; page = pages_[page].older) {
    if (is_leaf(pages_[page])) leaves.push_back(page);
  }
  return leaves;
}

// Compares tokens and parent, so that equal hashes never make different content the same.
int32_t KvCache::lookup(uint64_t hash, BlockId parent, std::span<const int32_t> ids) {
  for (int32_t page = bucket_of(hash); page != kNone; page = pages_[page].next_in_bucket) {
    const Page& state = pages_[page];
    if (state.hash == hash && state.parent == parent && std::ranges::equal(tokens_of(page), ids)) {
      return page;
    }
  }
  return kNone;
}

int32_t KvCache::take_page() {
  int32_t page = oldest_;
  if (!blank_.empty()) {
    page = blank_.back();
    blank_.pop_back();
  } else {
    unlink(page);
    unpublish(page);
  }
  pages_[page].num_references = 1;
  return page;
}

void KvCache::unpublish(int32_t page) {
  Page& state = pages_[page];
  int32_t* link = &bucket_of(state.hash);
  while (*link != page) link = &pages_[*link].next_in_bucket;
  *link = state.next_in_bucket;
  state.block = kRootBlock;
}

void KvCache::push_newest(int32_t page) {
  pages_[page].older = newest_;
  pages_[page].newer = kNone;
  (newest_ == kNone ? oldest_ : pages_[newest_].newer) = page;
  newest_ = page;
  ++num_reusable_;
}

void KvCache::push_oldest(int32_t page) {
  pages_[page].older = kNone;
  pages_[page].newer = oldest_;
  (oldest_ == kNone ? newest_ : pages_[oldest_].older) = page;
  oldest_ = page;
  ++num_reusable_;
}

void KvCache::unlink(int32_t page) {
  const Page& state = pages_[page];
  (state.older == kNone ? oldest_ : pages_[state.older].newer) = state.newer;
  (state.newer == kNone ? newest_ : pages_[state.newer].older) = state.older;
  --num_reusable_;
}

KvSequence::KvSequence(KvCache& cache, const KvWindow& window) : cache_(cache), window_(window) {
  pages_.reserve(cache.num_pages());
}

int KvSequence::attach(std::span<const int32_t> ids, int num_computed) {
  if (num_computed != num_published_ * kPageTokens) return 0;
  release_from(num_published_);  // reserved, but never filled
  const int num_whole = (static_cast<int>(ids.size()) - 1) / kPageTokens;
  while (num_published_ < num_whole) {
    const auto block = ids.subspan(static_cast<size_t>(num_published_) * kPageTokens, kPageTokens);
    const KvCache::Match match = cache_.find(last_block_, block);
    if (match.page < 0) break;
    pages_.push_back(match.page);
    last_block_ = match.block;
    ++num_published_;
  }
  return num_published_ * kPageTokens - num_computed;
}

void KvSequence::reserve(int num_tokens) {
  const int missing = pages_for(num_tokens) - static_cast<int>(pages_.size());
  if (missing > 0) cache_.acquire(missing, pages_);
}

bool KvSequence::try_reserve(int num_tokens) {
  const int missing = pages_for(num_tokens) - static_cast<int>(pages_.size());
  return missing <= 0 || cache_.try_acquire(missing, pages_);
}

void KvSequence::publish(std::span<const int32_t> ids, int num_computed) {
  while ((num_published_ + 1) * kPageTokens <= num_computed) {
    const auto block = ids.subspan(static_cast<size_t>(num_published_) * kPageTokens, kPageTokens);
    last_block_ = cache_.publish(pages_[num_published_], last_block_, block);
    ++num_published_;
  }
}

void KvSequence::slide(int num_kept) {
  const int num_hidden = window_.num_hidden(num_kept / kPageTokens);
  for (; num_gone_ < num_hidden; ++num_gone_) {
    int32_t& page = pages_[window_.num_sink_pages + num_gone_];
    cache_.retire(page);
    page = kGone;
  }
}

// Later pages first, so that what is kept longest is a beginning.
void KvSequence::release_from(int first) {
  const std::span<const int32_t> pages(pages_);
  const int num_sinks = num_gone_ > 0 ? window_.num_sink_pages : 0;
  const int first_kept = std::max(first, num_sinks + num_gone_);
  cache_.release(pages.subspan(first_kept));
  if (first < num_sinks) cache_.release(pages.subspan(first, num_sinks - first));
  pages_.resize(first);
}

}  // namespace autoglm
