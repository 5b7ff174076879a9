// Drafts by prompt lookup: what followed the last time the end of a text stood in it before
// (Saxena, "Prompt lookup decoding", 2023).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace autoglm {

struct Draft {
  std::span<const int32_t> ids;  // into the text searched
  int match_length = 0;          // tokens of the end that stood before them too, at most kMaxMatch
};

// An index of the pairs of neighbouring tokens of one growing text. Memory is taken when the text
// grows.
class PromptLookup {
 public:
  static constexpr int kMinMatch = 2;
  static constexpr int kMaxMatch = 16;

  // Finds the longest match of the end of `text` and what follows it, at most `most_tokens`. `text`
  // must be the one of the last call, longer or cut somewhere and continued.
  Draft find(std::span<const int32_t> text, int most_tokens);

 private:
  void update(std::span<const int32_t> text);
  size_t bucket(int32_t first, int32_t second) const;
  int match_length(std::span<const int32_t> text, size_t end) const;

  std::vector<int32_t> indexed_;   // the text as indexed
  std::vector<int32_t> newest_;    // by hash of a pair: position of its second token; -1: none
  std::vector<int32_t> previous_;  // by position: the one before with the same hash
};

}  // namespace autoglm
