#include "engine/lookup.h"

#include <algorithm>
#include <bit>

namespace autoglm {
namespace {

constexpr int kMostCandidates = 32;
constexpr size_t kFewestBuckets = 1024;

}  // namespace

size_t PromptLookup::bucket(int32_t first, int32_t second) const {
  const uint64_t pair =
      (static_cast<uint64_t>(static_cast<uint32_t>(first)) << 32) | static_cast<uint32_t>(second);
  return (pair * 0x9e3779b97f4a7c15u >> 32) & (newest_.size() - 1);
}

void PromptLookup::update(std::span<const int32_t> text) {
  const size_t same = std::ranges::mismatch(indexed_, text).in1 - indexed_.begin();
  const size_t num_buckets = std::max(kFewestBuckets, std::bit_ceil(text.size() * 2));
  if (same < indexed_.size() || newest_.size() < num_buckets) {
    indexed_.clear();
    newest_.assign(std::max(num_buckets, newest_.size()), -1);
  }
  const size_t begin = indexed_.size();
  indexed_.insert(indexed_.end(), text.begin() + begin, text.end());
  previous_.resize(text.size());
  for (size_t i = std::max<size_t>(begin, 1); i < text.size(); ++i) {
    int32_t& newest = newest_[bucket(text[i - 1], text[i])];
    previous_[i] = newest;
    newest = static_cast<int32_t>(i);
  }
}

// How many tokens up to and with `end` equal the end of the text.
int PromptLookup::match_length(std::span<const int32_t> text, size_t end) const {
  const size_t most = std::min<size_t>(kMaxMatch, end + 1);
  size_t length = 0;
  while (length < most && text[end - length] == text[text.size() - 1 - length]) ++length;
  return static_cast<int>(length);
}

Draft PromptLookup::find(std::span<const int32_t> text, int most_tokens) {
  update(text);
  if (text.size() < kMinMatch + 1 || most_tokens <= 0) return {};
  int best = kMinMatch - 1;
  size_t best_end = 0;
  int32_t end = previous_[text.size() - 1];
  for (int i = 0; i < kMostCandidates && end >= 0 && best < kMaxMatch; ++i, end = previous_[end]) {
    const int length = match_length(text, end);
    if (length <= best) continue;
    best = length;
    best_end = end;
  }
  if (best < kMinMatch) return {};
  const size_t num = std::min<size_t>(most_tokens, text.size() - 1 - best_end);
  return {text.subspan(best_end + 1, num), best};
}

}  // namespace autoglm
